data "sallyport_user" "ada" {
  key = "ada@example.com"
}
