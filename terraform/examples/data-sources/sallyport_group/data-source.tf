data "sallyport_group" "analysts" {
  name = "analysts"
}
