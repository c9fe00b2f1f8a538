# By id, or by what people call it.
terraform import sallyport_join_token.west "nodes in the west"
