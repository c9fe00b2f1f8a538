# By id, or by what people call it.
terraform import sallyport_role_binding.registrars group:analysts/registrar
