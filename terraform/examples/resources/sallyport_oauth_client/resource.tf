# An application that people log in with: public, with PKCE.
resource "sallyport_oauth_client" "desktop" {
  name           = "desktop agent"
  authentication = "none"
  redirect_uris  = ["http://127.0.0.1/callback"]
}

# A program that acts by itself; only the public half of its key is here.
resource "sallyport_oauth_client" "triage" {
  name               = "triage"
  authentication     = "private_key_jwt"
  service_account_id = sallyport_service_account.triage.id
  jwks = jsonencode({
    keys = [{
      kty = "EC"
      crv = "P-256"
      kid = "2027-01"
      x   = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"
      y   = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"
    }]
  })
}
