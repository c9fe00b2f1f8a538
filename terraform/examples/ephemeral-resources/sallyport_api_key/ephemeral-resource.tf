# A key for this run alone, such as for a smoke test through a node.
ephemeral "sallyport_api_key" "smoke_test" {
  principal_id = sallyport_service_account.triage.id
  name         = "smoke test"
  scopes       = ["mcp"]
  lifetime     = "15m"
}
