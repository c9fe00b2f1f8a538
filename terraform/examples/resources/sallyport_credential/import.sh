# By the id of its server, or by the server's slug.
terraform import sallyport_credential.jira jira
