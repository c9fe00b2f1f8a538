# Reading is open to the group, on every server of the team, for tools that an administrator labelled so.
resource "sallyport_grant" "read" {
  name          = "analysts read what the platform team has"
  subject       = { kind = "group", id = sallyport_group.analysts.id }
  server_labels = { team = "platform" }
  effect        = "allow"
  tools         = ["*"]
  limits        = { read_only = true, risk_max = "medium" }
}

# Writing needs arguments within bounds, until the end of the quarter.
resource "sallyport_grant" "write" {
  name           = "triage agent files issues"
  subject        = { kind = "service_account", id = sallyport_service_account.triage.id }
  server_id      = sallyport_server.jira.id
  effect         = "allow"
  tools          = ["create_issue", "update_issue"]
  when           = "client.address.inNetwork(\"10.0.0.0/8\")"
  when_arguments = "arguments.project == \"OPS\""
  not_after      = "2027-03-31T00:00:00Z"
  reason         = "Agreed with the platform team"
}

# A deny wins over every allow.
resource "sallyport_grant" "never" {
  name      = "nobody deletes"
  subject   = { kind = "everyone" }
  server_id = sallyport_server.jira.id
  effect    = "deny"
  tools     = ["delete_*"]
}
