ephemeral "random_password" "join" {
  length  = 43
  special = false
}

resource "sallyport_join_token" "west" {
  name       = "nodes in the west"
  labels     = { region = "west" }
  uses_max   = 20
  expires_at = "2027-06-30T00:00:00Z"
  secret_wo  = "spjoin_${ephemeral.random_password.join.result}"
}
