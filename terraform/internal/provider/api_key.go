package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

const apiKeyPrefix = "sp_"

type apiKeyModel struct {
	base
	brought
	PrincipalID types.String `tfsdk:"principal_id"`
	Name        types.String `tfsdk:"name"`
	Scopes      types.Set    `tfsdk:"scopes"`
	ExpiresAt   types.String `tfsdk:"expires_at"`
	Hint        types.String `tfsdk:"hint"`
}

const scopesText = "What it opens: `mcp` (granted tools, through nodes), `api` (the control plane, with the roles of its holder), " +
	"or both."

var apiKeyKind = kind[apiKeyModel]{
	name: "api_key",
	schema: schema.Schema{
		MarkdownDescription: "An API key whose secret the configuration brings along, in a write-only attribute: it is in no state " +
			"and no plan. Needs Terraform 1.11. For a key that lives only as long as a run, use the ephemeral resource of the same " +
			"name. Keys cannot be changed: any change makes another one; with `create_before_destroy` nothing is interrupted. " +
			"Destroying it revokes the key.",
		Attributes: broughtAttributes(apiKeyPrefix, map[string]schema.Attribute{
			"principal_id": required("Id of the user or service account it identifies."),
			"name":         required("What its holder calls it: 1 to 128 characters."),
			"scopes": schema.SetAttribute{
				MarkdownDescription: scopesText,
				ElementType:         types.StringType,
				Required:            true,
				Validators: []validator.Set{
					setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(oneOf(lowered(api.AllApiKeyScope)...)),
				},
			},
			"expires_at": requiredInstant("It is refused from then on; at most one year away."),
			"hint":       told("The first characters of the key, to recognize it by."),
		}),
	},
	fixed:      []string{"principal_id", "name", "scopes", "expires_at", "secret_wo_version"},
	standIns:   []string{"principal_id", "secret_wo"},
	violations: map[string]string{"secret": "secret_wo"},
	carry:      func(config apiKeyModel, m *apiKeyModel) { m.SecretWO = config.SecretWO },
	locate:     locateAPIKey,
	read: func(ctx context.Context, c *api.Client, m *apiKeyModel) (int, error) {
		answer, err := api.ReadApiKey(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		if _, isRevoked := answer.ApiKey.RevokedAt.Get(); isRevoked {
			return 0, api.NotFound()
		}
		m.fill(answer.ApiKey)
		return answer.ApiKey.Revision, nil
	},
	create: func(ctx context.Context, c *api.Client, m *apiKeyModel, by change) (outcome, error) {
		secret, err := m.secret()
		if err != nil {
			return outcome{}, err
		}
		answer, err := api.CreateApiKey(ctx, c, api.CreateApiKeyInput{
			PrincipalId:    idOr(m.PrincipalID),
			Name:           m.Name.ValueString(),
			Scopes:         scopesOf(m.Scopes),
			ExpiresAt:      m.ExpiresAt.ValueString(),
			Secret:         secret,
			DryRun:         by.dryRun,
			IdempotencyKey: api.IdempotencyKey(),
		})
		if err == nil && !by.dryRun {
			m.fill(answer.CreateApiKey.ApiKey)
		}
		return outcome{revision: answer.CreateApiKey.ApiKey.Revision}, err
	},
	remove: func(ctx context.Context, c *api.Client, m apiKeyModel, by change) (outcome, error) {
		_, err := api.RevokeApiKey(ctx, c, api.RevokeApiKeyInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func scopesOf(set types.Set) []api.ApiKeyScope {
	var scopes []api.ApiKeyScope
	for _, text := range stringsOf(set) {
		scopes = append(scopes, api.ApiKeyScope(strings.ToUpper(text)))
	}
	return scopes
}

func (m *apiKeyModel) fill(key api.ApiKeyFields) {
	m.ID = types.StringValue(key.Id)
	m.PrincipalID = types.StringValue(key.Principal.Id)
	m.Name = types.StringValue(key.Name)
	m.Scopes = setOf(lowered(key.Scopes))
	m.ExpiresAt = instantFrom(m.ExpiresAt, key.ExpiresAt)
	m.Hint = types.StringValue(key.Hint)
	m.adopt()
}

// locateAPIKey takes an id or PRINCIPAL/NAME, the principal by id or name; revoked keys do not count.
func locateAPIKey(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	if isID(key) {
		return byID(key), nil
	}
	holder, name, ok := strings.Cut(key, "/")
	if !ok {
		return nil, fmt.Errorf("import an API key by id or by PRINCIPAL/NAME")
	}
	principal, err := locatePrincipal(ctx, c, holder)
	if err != nil {
		return nil, fmt.Errorf("principal %q: %w", holder, err)
	}
	found, err := c.AllAPIKeys(ctx, optional.Of(principal["id"]))
	if err != nil {
		return nil, err
	}
	return theOne(key, found, func(one api.ApiKeyFields) bool {
		_, isRevoked := one.RevokedAt.Get()
		return one.Name == name && !isRevoked
	}, func(one api.ApiKeyFields) string { return one.Id })
}
