resource "sallyport_group_membership" "ada" {
  group_id     = sallyport_group.analysts.id
  principal_id = sallyport_user.ada.id
}
