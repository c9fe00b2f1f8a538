// The Terraform provider of Sallyport.
package main

import (
	"context"
	"flag"
	"log"

	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/sallyport/terraform-provider-sallyport/internal/provider"
)

// version is set by the release.
var version = "dev"

func main() {
	debug := flag.Bool("debug", false, "wait for a debugger such as delve")
	flag.Parse()
	err := providerserver.Serve(context.Background(), provider.New(version), providerserver.ServeOpts{
		Address: "registry.terraform.io/sallyport/sallyport",
		Debug:   *debug,
	})
	if err != nil {
		log.Fatal(err)
	}
}
