resource "sallyport_tool_labels" "delete_issue" {
  server_id   = sallyport_server.jira.id
  name        = "delete_issue"
  risk        = "high"
  destructive = true
  read_only   = false
}
