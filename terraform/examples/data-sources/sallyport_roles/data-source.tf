data "sallyport_roles" "all" {}

output "permissions" {
  value = { for role in data.sallyport_roles.all.roles : role.id => role.permissions }
}
