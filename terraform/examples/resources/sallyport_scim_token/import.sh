# By id, or by directory and what people call it.
terraform import sallyport_scim_token.push corp/push
