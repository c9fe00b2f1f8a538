# A whole organization: three servers, four groups, their people and programs, and thirty grants.
terraform {
  required_providers {
    sallyport = {
      source = "sallyport/sallyport"
    }
  }
}

variable "server_urls" {
  description = "Endpoints of the MCP servers, by slug."
  type        = map(string)
  default = {
    tickets = "https://mcp.tickets.example.com/mcp"
    wiki    = "https://mcp.wiki.example.com/mcp"
    bank    = "https://mcp.bank.example.com/mcp"
  }
}

locals {
  servers = {
    tickets = { title = "Tickets", team = "support", audit_mode = "buffered" }
    wiki    = { title = "Wiki", team = "everyone", audit_mode = "buffered" }
    bank    = { title = "Payments", team = "finance", audit_mode = "strict" }
  }
}

resource "sallyport_server" "all" {
  for_each = local.servers

  slug            = each.key
  url             = var.server_urls[each.key]
  title           = each.value.title
  labels          = { team = each.value.team }
  audit_mode      = each.value.audit_mode
  owner_group_id  = sallyport_group.all["engineers"].id
  lifecycle_state = "approved"
}
