# For nodes that this run starts.
ephemeral "sallyport_join_token" "new_nodes" {
  name     = "nodes of this run"
  uses_max = 3
  lifetime = "30m"
}
