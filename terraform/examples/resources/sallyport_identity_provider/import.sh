# By id, or by name.
terraform import sallyport_identity_provider.corp Corp
