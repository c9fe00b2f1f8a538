# By id, or by what people call it.
terraform import sallyport_grant.read "triage agent files issues"
