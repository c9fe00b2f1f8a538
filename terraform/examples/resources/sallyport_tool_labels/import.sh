# By id, or by what people call it.
terraform import sallyport_tool_labels.delete_issue jira/delete_issue
