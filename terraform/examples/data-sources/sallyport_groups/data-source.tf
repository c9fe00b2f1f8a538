data "sallyport_groups" "all" {}
