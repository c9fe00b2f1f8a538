ephemeral "random_password" "dlp" {
  length = 48
}

# Tried out first: the audit tells what it would have stopped.
resource "sallyport_webhook" "dlp" {
  name          = "data loss prevention"
  url           = "https://dlp.example.com/sallyport"
  events        = ["request", "response"]
  content       = "redacted"
  mutable_paths = ["/params/arguments"]
  secret_wo     = "whsec_${base64encode(ephemeral.random_password.dlp.result)}"
}

# It is asked about what this policy is about.
resource "sallyport_policy" "payments" {
  name        = "payments are looked at"
  mode        = "enforce"
  match       = { server_labels = { data = "payments" } }
  rules       = [{ detector = "secret", action = "block" }]
  webhook_ids = [sallyport_webhook.dlp.id]
}
