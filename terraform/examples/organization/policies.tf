# What is looked for in every message, whoever may send it.
resource "sallyport_policy" "secrets" {
  name     = "no secrets leave"
  mode     = "enforce"
  position = 100
  match    = { directions = ["request"] }
  rules    = [{ detector = "secret", action = "block" }]
}

# Agents read what strangers wrote.
resource "sallyport_policy" "injections" {
  name     = "agents are told nothing by tickets"
  mode     = "enforce"
  position = 200
  match = {
    directions = ["response"]
    server_ids = [sallyport_server.all["tickets"].id]
    group_ids  = [sallyport_group.all["agents"].id]
  }
  rules = [
    { detector = "injection", action = "block", severity_min = "high" },
    { detector = "hidden_text", action = "redact" },
    { detector = "injection", action = "label" },
  ]
}

# Tried out first: the audit tells what it would have replaced.
resource "sallyport_policy" "personal_data" {
  name  = "finance's tools tell no personal data"
  match = { directions = ["response"], server_labels = { team = "finance" } }
  rules = [{ detector = "personal_data", action = "redact" }]
}
