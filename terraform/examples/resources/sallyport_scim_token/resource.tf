ephemeral "random_password" "scim" {
  length  = 43
  special = false
}

resource "sallyport_scim_token" "push" {
  directory_id = sallyport_scim_directory.corp.id
  name         = "push"
  expires_at   = "2027-06-30T00:00:00Z"
  secret_wo    = "spscim_${ephemeral.random_password.scim.result}"
}
