# By id, or by what people call it.
terraform import sallyport_tool_approval.create_issue jira/create_issue
