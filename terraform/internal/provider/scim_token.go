package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

const scimTokenPrefix = "spscim_"

type scimTokenModel struct {
	base
	brought
	DirectoryID types.String `tfsdk:"directory_id"`
	Name        types.String `tfsdk:"name"`
	ExpiresAt   types.String `tfsdk:"expires_at"`
	Hint        types.String `tfsdk:"hint"`
}

var scimTokenKind = kind[scimTokenModel]{
	name: "scim_token",
	schema: schema.Schema{
		MarkdownDescription: "A bearer token by which a directory pushes users and groups, brought along by the configuration in a " +
			"write-only attribute: it is in no state and no plan. Needs Terraform 1.11. It cannot be changed: any change makes " +
			"another one; with `create_before_destroy` both are good for a while. Destroying it revokes the token. One that has " +
			"expired is planned anew.",
		Attributes: broughtAttributes(scimTokenPrefix, map[string]schema.Attribute{
			"directory_id": required("Id of the directory it speaks for."),
			"name":         required("What people call it: 1 to 128 characters."),
			"expires_at":   requiredInstant("It is refused from then on; at most 366 days away."),
			"hint":         told("The first characters of the token, to recognize it by."),
		}),
	},
	fixed:      []string{"directory_id", "name", "expires_at", "secret_wo_version"},
	standIns:   []string{"directory_id", "secret_wo"},
	violations: map[string]string{"secret": "secret_wo"},
	carry:      func(config scimTokenModel, m *scimTokenModel) { m.SecretWO = config.SecretWO },
	locate:     locateScimToken,
	read: func(ctx context.Context, c *api.Client, m *scimTokenModel) (int, error) {
		found, err := c.AllScimTokens(ctx)
		if err != nil {
			return 0, err
		}
		for _, token := range found {
			if token.Id == m.ID.ValueString() {
				m.fill(token)
				return token.Revision, nil
			}
		}
		return 0, api.NotFound()
	},
	create: func(ctx context.Context, c *api.Client, m *scimTokenModel, by change) (outcome, error) {
		secret, err := m.secret()
		if err != nil {
			return outcome{}, err
		}
		answer, err := api.CreateScimToken(ctx, c, api.CreateScimTokenInput{
			DirectoryId:    idOr(m.DirectoryID),
			Name:           m.Name.ValueString(),
			ExpiresAt:      m.ExpiresAt.ValueString(),
			Secret:         secret,
			DryRun:         by.dryRun,
			IdempotencyKey: api.IdempotencyKey(),
		})
		if err == nil && !by.dryRun {
			m.fill(answer.CreateScimToken.ScimToken)
		}
		return outcome{revision: answer.CreateScimToken.ScimToken.Revision}, m.explained(err)
	},
	remove: func(ctx context.Context, c *api.Client, m scimTokenModel, by change) (outcome, error) {
		_, err := api.RevokeScimToken(ctx, c, api.RevokeScimTokenInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func (m *scimTokenModel) fill(token api.ScimTokenFields) {
	m.ID = types.StringValue(token.Id)
	m.DirectoryID = types.StringValue(token.DirectoryId)
	m.Name = types.StringValue(token.Name)
	m.ExpiresAt = instantFrom(m.ExpiresAt, token.ExpiresAt)
	m.Hint = types.StringValue(token.Hint)
	m.adopt()
}

// locateScimToken takes an id or DIRECTORY/NAME, the directory by id or name; tokens that ended do not count.
func locateScimToken(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	if isID(key) {
		return byID(key), nil
	}
	// The name of a token may hold a slash, as may that of a directory: what is before the last one is the directory.
	at := strings.LastIndex(key, "/")
	if at < 0 {
		return nil, fmt.Errorf("import a SCIM token by id or by DIRECTORY/NAME")
	}
	directory, err := scimDirectoryKind.locate(ctx, c, key[:at])
	if err != nil {
		return nil, fmt.Errorf("directory %q: %w", key[:at], err)
	}
	found, err := c.AllScimTokens(ctx)
	if err != nil {
		return nil, err
	}
	return theOne(key, found, func(token api.ScimTokenFields) bool {
		return token.DirectoryId == directory["id"] && token.Name == key[at+1:]
	}, func(token api.ScimTokenFields) string { return token.Id })
}
