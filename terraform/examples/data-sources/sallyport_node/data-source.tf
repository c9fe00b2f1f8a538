data "sallyport_node" "west" {
  name = "west-1"
}
