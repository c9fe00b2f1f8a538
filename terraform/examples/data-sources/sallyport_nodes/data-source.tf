data "sallyport_nodes" "all" {}

# Holds an apply to a fleet that follows.
check "the_fleet_follows" {
  assert {
    condition     = alltrue([for node in data.sallyport_nodes.all.nodes : node.status != "unconverged"])
    error_message = "Some node does not run the newest configuration."
  }
}
