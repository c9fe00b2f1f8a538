data "sallyport_server" "jira" {
  slug = "jira"
}
