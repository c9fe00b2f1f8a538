terraform {
  required_providers {
    sallyport = {
      source = "sallyport/sallyport"
    }
  }
}

# The key comes from the environment variable SALLYPORT_API_KEY.
provider "sallyport" {
  endpoint = "https://sallyport.example.com"
}
