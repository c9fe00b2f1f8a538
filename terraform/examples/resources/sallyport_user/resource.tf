resource "sallyport_user" "ada" {
  name  = "Ada"
  email = "ada@example.com"
}
