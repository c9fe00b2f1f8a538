# By id, or by what people call it.
terraform import sallyport_group_membership.ada analysts/Ada
