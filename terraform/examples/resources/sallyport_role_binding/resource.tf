resource "sallyport_role_binding" "registrars" {
  role_id       = sallyport_role.registrar.id
  group_id      = sallyport_group.analysts.id
  server_labels = { team = "platform" }
}

resource "sallyport_role_binding" "auditing_agent" {
  role_id      = "viewer"
  principal_id = sallyport_service_account.triage.id
}
