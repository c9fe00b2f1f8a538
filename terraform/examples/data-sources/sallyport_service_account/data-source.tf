data "sallyport_service_account" "triage" {
  name = "triage agent"
}
