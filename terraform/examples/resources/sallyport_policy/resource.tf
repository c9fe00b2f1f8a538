# Secrets never leave with a call, whatever the server and whoever calls.
resource "sallyport_policy" "secrets" {
  name     = "no secrets leave"
  mode     = "enforce"
  position = 100
  match    = { directions = ["request"] }
  rules = [
    { detector = "secret", action = "block" },
  ]
}

# Tried out first: the audit tells what it would have replaced.
resource "sallyport_policy" "personal_data" {
  name        = "personal data of issues"
  description = "Analysts see what an issue is about, not whose it is"
  match = {
    directions = ["response"]
    server_ids = [sallyport_server.jira.id]
    group_ids  = [sallyport_group.analysts.id]
    tools      = ["get_*", "search*"]
  }
  rules = [
    { detector = "personal_data", action = "redact", severity_min = "medium" },
    { detector = "injection", action = "label" },
  ]
}

# Only keeps messages for auditors, who alone may read them.
resource "sallyport_policy" "payments" {
  name    = "payments are kept"
  mode    = "enforce"
  match   = { server_ids = [sallyport_server.jira.id], tools = ["pay_*"] }
  rules   = []
  capture = { directions = ["request", "response"], bytes_max = 131072, retention_days = 90 }
}
