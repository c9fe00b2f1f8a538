resource "sallyport_server" "jira" {
  slug            = "jira"
  url             = "https://mcp.jira.example.com/mcp"
  title           = "Jira"
  description     = "Issues of all teams"
  labels          = { team = "platform", tier = "1" }
  lifecycle_state = "approved"
}

# It may ask people, and send them to its login page to do so; nothing else.
resource "sallyport_server" "calendar" {
  slug            = "calendar"
  url             = "https://mcp.calendar.example.com/mcp"
  lifecycle_state = "approved"
  asks = {
    elicitation       = true
    elicitation_hosts = ["login.example.com"]
  }
}
