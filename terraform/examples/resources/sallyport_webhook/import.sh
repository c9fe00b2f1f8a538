# By id, or by a name that no other webhook has.
terraform import sallyport_webhook.dlp "data loss prevention"
