resource "sallyport_group" "analysts" {
  name        = "analysts"
  description = "Look into what happened"
}
