resource "sallyport_role" "registrar" {
  name        = "registrar"
  description = "Registers servers and changes them"
  permissions = ["server:read", "server:write"]
}
