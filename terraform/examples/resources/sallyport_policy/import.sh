# By id, or by a name that no other policy has.
terraform import sallyport_policy.secrets "no secrets leave"
