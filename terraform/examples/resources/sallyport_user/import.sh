# By id, or by what people call it.
terraform import sallyport_user.ada ada@example.com
