# By id, or by what people call it.
terraform import sallyport_api_key.triage "triage agent/triage"
