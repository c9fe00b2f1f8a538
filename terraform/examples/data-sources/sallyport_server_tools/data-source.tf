data "sallyport_server" "jira" {
  slug = "jira"
}

data "sallyport_server_tools" "jira" {
  server_id = data.sallyport_server.jira.id
}

# What waits for a review.
output "to_review" {
  value = {
    for tool in data.sallyport_server_tools.jira.tools : tool.name => {
      digests    = tool.digests
      definition = jsondecode(tool.definition)
    } if tool.state != "approved"
  }
}
