# By its client_id, or by what people call it.
terraform import sallyport_oauth_client.desktop "desktop agent"
