//go:build generate

// Package tools pins the generators, apart from what the provider is built of.
package tools

import (
	_ "github.com/Khan/genqlient"
	_ "github.com/hashicorp/terraform-plugin-docs/cmd/tfplugindocs"
)
