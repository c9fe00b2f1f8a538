resource "sallyport_service_account" "triage" {
  name        = "triage agent"
  description = "Sorts what comes in"
  owner_id    = sallyport_user.ada.id
  expires_at  = "2027-12-31T00:00:00Z"
}
