# What the server sends, to be reviewed: `terraform console` shows its definition and digests.
data "sallyport_server_tools" "jira" {
  server_id = sallyport_server.jira.id
}

# The wording that was reviewed. Another one is not served, and the plan refuses until it was reviewed too.
resource "sallyport_tool_approval" "create_issue" {
  server_id = sallyport_server.jira.id
  name      = "create_issue"
  digests   = ["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"]
}
