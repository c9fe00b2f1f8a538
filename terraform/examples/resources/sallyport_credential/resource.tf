variable "jira_token" {
  description = "What Jira knows the gateway by."
  type        = string
  sensitive   = true
  ephemeral   = true
}

# One header for everybody; its value is in no state and no plan.
resource "sallyport_credential" "jira" {
  server_id         = sallyport_server.jira.id
  static_headers_wo = { Authorization = "Bearer ${var.jira_token}" }
  secret_wo_version = 1
}
