data "sallyport_servers" "in_service" {
  lifecycle_state = "approved"
}
