# By id, or by what people call it.
terraform import sallyport_group.analysts analysts
