# There is one.
terraform import sallyport_authorization_server.this authorization_server
