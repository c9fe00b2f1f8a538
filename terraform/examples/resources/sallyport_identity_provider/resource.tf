variable "login_client_secret" {
  description = "Sallyport's client secret at the identity provider."
  type        = string
  sensitive   = true
  ephemeral   = true
}

resource "sallyport_identity_provider" "corp" {
  name                     = "Corp"
  issuer                   = "https://login.example.com"
  client_id                = "sallyport"
  client_secret_wo         = var.login_client_secret
  client_secret_wo_version = 1
  groups_claim             = "groups"
  group_rules = [
    { value = "Analysts", group_id = sallyport_group.analysts.id },
  ]
}
