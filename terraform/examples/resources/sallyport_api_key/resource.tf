# The secret is made in the run and handed to a store by its write-only attribute: it is in no state and no plan.
ephemeral "random_password" "triage" {
  length  = 43
  special = false
}

resource "sallyport_api_key" "triage" {
  principal_id      = sallyport_service_account.triage.id
  name              = "triage"
  scopes            = ["mcp"]
  expires_at        = "2027-06-30T00:00:00Z"
  server_labels     = { team = "platform" }
  networks          = ["10.0.0.0/8"]
  secret_wo         = "sp_${ephemeral.random_password.triage.result}"
  secret_wo_version = 1

  lifecycle {
    create_before_destroy = true
  }
}

resource "vault_kv_secret_v2" "triage" {
  mount                = "secret"
  name                 = "sallyport/triage"
  data_json_wo         = jsonencode({ key = "sp_${ephemeral.random_password.triage.result}" })
  data_json_wo_version = sallyport_api_key.triage.secret_wo_version
}
