data "sallyport_service_account" "triage" {
  name = "triage agent"
}

data "sallyport_effective_access" "triage" {
  principal_id = data.sallyport_service_account.triage.id
}

# A promise that each plan holds the configuration to.
check "agents_delete_nothing" {
  assert {
    condition     = !anytrue([for target in data.sallyport_effective_access.triage.targets : startswith(target.name, "delete_")])
    error_message = "The triage agent may delete."
  }
}
