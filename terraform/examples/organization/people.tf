locals {
  groups = {
    analysts  = "Look into what happened"
    engineers = "Build and run things"
    finance   = "Move money"
    agents    = "Programs that act by themselves"
  }

  people = {
    ada   = { name = "Ada", groups = ["engineers", "analysts"] }
    grace = { name = "Grace", groups = ["engineers"] }
    luca  = { name = "Luca", groups = ["finance"] }
    joan  = { name = "Joan", groups = ["analysts"] }
  }

  memberships = merge([
    for key, person in local.people : { for group in person.groups : "${key}/${group}" => { person = key, group = group } }
  ]...)
}

resource "sallyport_group" "all" {
  for_each = local.groups

  name        = each.key
  description = each.value
}

resource "sallyport_user" "all" {
  for_each = local.people

  name  = each.value.name
  email = "${each.key}@example.com"
}

resource "sallyport_group_membership" "people" {
  for_each = local.memberships

  group_id     = sallyport_group.all[each.value.group].id
  principal_id = sallyport_user.all[each.value.person].id
}

resource "sallyport_service_account" "triage" {
  name        = "triage"
  description = "Sorts what comes in"
  owner_id    = sallyport_user.all["ada"].id
  expires_at  = "2027-12-31T00:00:00Z"
}

resource "sallyport_group_membership" "triage" {
  group_id     = sallyport_group.all["agents"].id
  principal_id = sallyport_service_account.triage.id
}

# Engineers keep the register of servers; analysts may look at everything.
resource "sallyport_role_binding" "engineers" {
  role_id  = "editor"
  group_id = sallyport_group.all["engineers"].id
}

resource "sallyport_role_binding" "analysts" {
  role_id  = "viewer"
  group_id = sallyport_group.all["analysts"].id
}

output "triage_id" {
  value = sallyport_service_account.triage.id
}
