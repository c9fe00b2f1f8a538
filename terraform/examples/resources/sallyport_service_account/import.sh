# By id, or by what people call it.
terraform import sallyport_service_account.triage "triage agent"
