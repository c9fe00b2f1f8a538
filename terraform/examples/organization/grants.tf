# Who may what, one line each: group, server, patterns of tools, and what else narrows it.
locals {
  allowed = {
    "analysts search tickets"  = { group = "analysts", server = "tickets", tools = ["search*", "get_*"] }
    "analysts read the wiki"   = { group = "analysts", server = "wiki", tools = ["search*", "get_*"] }
    "analysts see payments"    = { group = "analysts", server = "bank", tools = ["get_*"] }
    "analysts list tickets"    = { group = "analysts", server = "tickets", tools = ["list_*"] }
    "analysts list pages"      = { group = "analysts", server = "wiki", tools = ["list_*"] }
    "analysts list payments"   = { group = "analysts", server = "bank", tools = ["list_*"] }
    "engineers search tickets" = { group = "engineers", server = "tickets", tools = ["search*", "get_*"] }
    "engineers write tickets"  = { group = "engineers", server = "tickets", tools = ["create_*", "update_*"] }
    "engineers close tickets"  = { group = "engineers", server = "tickets", tools = ["close_*"] }
    "engineers read the wiki"  = { group = "engineers", server = "wiki", tools = ["search*", "get_*"] }
    "engineers write the wiki" = { group = "engineers", server = "wiki", tools = ["create_*", "update_*"] }
    "engineers test tools"     = { group = "engineers", server = "tickets", tools = ["test_*"] }
    "finance search tickets"   = { group = "finance", server = "tickets", tools = ["search*", "get_*"] }
    "finance read the wiki"    = { group = "finance", server = "wiki", tools = ["search*", "get_*"] }
    "finance see payments"     = { group = "finance", server = "bank", tools = ["get_*", "list_*"] }
    "finance prepare payments" = { group = "finance", server = "bank", tools = ["prepare_*"] }
    "finance search payments"  = { group = "finance", server = "bank", tools = ["search*"] }
    "finance write the wiki"   = { group = "finance", server = "wiki", tools = ["create_*"] }
    "agents search tickets"    = { group = "agents", server = "tickets", tools = ["search*", "get_*"] }
    "agents answer tickets"    = { group = "agents", server = "tickets", tools = ["comment_*", "test_simple_text"] }
    "agents read the wiki"     = { group = "agents", server = "wiki", tools = ["search*", "get_*"] }
    "agents list pages"        = { group = "agents", server = "wiki", tools = ["list_*"] }
  }
}

resource "sallyport_grant" "allowed" {
  for_each = local.allowed

  name      = each.key
  subject   = { kind = "group", id = sallyport_group.all[each.value.group].id }
  server_id = sallyport_server.all[each.value.server].id
  effect    = "allow"
  tools     = each.value.tools
}

# Everybody's, on whatever server carries the label, now or later.
resource "sallyport_grant" "everyone_reads" {
  name          = "everyone reads what is everyone's"
  subject       = { kind = "everyone" }
  server_labels = { team = "everyone" }
  effect        = "allow"
  tools         = ["*"]
  limits        = { read_only = true, risk_max = "low" }
}

resource "sallyport_grant" "prompts" {
  name      = "engineers use the prompts of tickets"
  subject   = { kind = "group", id = sallyport_group.all["engineers"].id }
  server_id = sallyport_server.all["tickets"].id
  effect    = "allow"
  prompts   = ["*"]
}

resource "sallyport_grant" "pages" {
  name      = "analysts read the pages of the wiki"
  subject   = { kind = "group", id = sallyport_group.all["analysts"].id }
  server_id = sallyport_server.all["wiki"].id
  effect    = "allow"
  resources = ["*"]
}

# Small payments from the office; anything larger needs an approval each time.
resource "sallyport_grant" "small_payments" {
  name                    = "finance pays small sums from the office"
  subject                 = { kind = "group", id = sallyport_group.all["finance"].id }
  server_id               = sallyport_server.all["bank"].id
  effect                  = "allow"
  tools                   = ["pay"]
  when                    = "client.address.inNetwork(\"10.0.0.0/8\")"
  when_arguments          = "arguments.amount <= 100"
  config_staleness_max_ms = 60000
}

resource "sallyport_grant" "large_payments" {
  name      = "finance asks before it pays"
  subject   = { kind = "group", id = sallyport_group.all["finance"].id }
  server_id = sallyport_server.all["bank"].id
  effect    = "require_approval"
  tools     = ["pay"]
}

# One person, for a while.
resource "sallyport_grant" "project" {
  name       = "Joan imports tickets until the migration is done"
  subject    = { kind = "user", id = sallyport_user.all["joan"].id }
  server_id  = sallyport_server.all["tickets"].id
  effect     = "allow"
  tools      = ["import_*"]
  not_before = "2026-01-01T00:00:00Z"
  not_after  = "2027-12-31T00:00:00Z"
  reason     = "Migration from the old tracker"
}

# A deny wins over every allow.
resource "sallyport_grant" "agents_delete_nothing" {
  name      = "agents delete nothing"
  subject   = { kind = "group", id = sallyport_group.all["agents"].id }
  server_id = sallyport_server.all["tickets"].id
  effect    = "deny"
  tools     = ["delete_*", "close_*"]
}

# Tried out first: the audit tells whom it would have stopped.
resource "sallyport_grant" "no_exports" {
  name          = "nobody exports from finance"
  subject       = { kind = "everyone" }
  server_labels = { team = "finance" }
  effect        = "deny"
  mode          = "shadow"
  tools         = ["export_*"]
}
