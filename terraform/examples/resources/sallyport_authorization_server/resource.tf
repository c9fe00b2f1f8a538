resource "sallyport_authorization_server" "this" {
  client_domains = ["claude.ai", "*.example.com"]
  step_up = [
    { server_id = sallyport_server.jira.id, max_age_seconds = 3600 },
  ]
}
