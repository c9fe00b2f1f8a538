resource "sallyport_scim_directory" "corp" {
  name   = "corp"
  issuer = "https://login.example.com"
}
