# By id, or by name.
terraform import sallyport_scim_directory.corp corp
