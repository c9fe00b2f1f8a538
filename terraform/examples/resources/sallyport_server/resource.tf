resource "sallyport_server" "jira" {
  slug            = "jira"
  url             = "https://mcp.jira.example.com/mcp"
  title           = "Jira"
  description     = "Issues of all teams"
  labels          = { team = "platform", tier = "1" }
  lifecycle_state = "approved"
}
