package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
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
	apiKeyLimits
}

// apiKeyLimits narrow what a key opens; null for what it is not limited to.
type apiKeyLimits struct {
	Permissions  types.Set `tfsdk:"permissions"`
	ServerIDs    types.Set `tfsdk:"server_ids"`
	ServerLabels types.Map `tfsdk:"server_labels"`
	Networks     types.Set `tfsdk:"networks"`
}

const scopesText = "What it opens: `mcp` (granted tools, through nodes), `api` (the control plane, with the roles of its holder), " +
	"or both."

var apiKeyKind = kind[apiKeyModel]{
	name: "api_key",
	schema: schema.Schema{
		MarkdownDescription: "An API key whose secret the configuration brings along, in a write-only attribute: it is in no state " +
			"and no plan. Needs Terraform 1.11. For a key that lives only as long as a run, use the ephemeral resource of the same " +
			"name. Keys cannot be changed: any change makes another one, with another secret; with `create_before_destroy` nothing is interrupted. " +
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
			"permissions": limit("At the API it opens these permissions alone, as `noun:verb`, as far as its holder has them; all if " +
				"absent."),
			"server_ids": limit("Through nodes it opens the servers of these ids alone, at most 200, as far as its holder may use " +
				"them; all if absent. For the scope `mcp` alone."),
			"server_labels": schema.MapAttribute{
				MarkdownDescription: "Through nodes it opens servers with all of these labels alone, as far as its holder may use them; " +
					"all if absent. For the scope `mcp` alone, and not with `server_ids`.",
				ElementType: types.StringType,
				Optional:    true,
				Validators:  []validator.Map{mapvalidator.SizeAtLeast(1)},
			},
			"networks": limit("CIDRs that it may be used from, at most 50, such as `10.0.0.0/8`; from anywhere if absent."),
			"hint":     told("The first characters of the key, to recognize it by."),
		}),
	},
	fixed: []string{
		"principal_id", "name", "scopes", "expires_at", "permissions", "server_ids", "server_labels", "networks",
		"secret_wo_version",
	},
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
		input := api.CreateApiKeyInput{
			PrincipalId:    idOr(m.PrincipalID),
			Name:           m.Name.ValueString(),
			Scopes:         scopesOf(m.Scopes),
			ExpiresAt:      m.ExpiresAt.ValueString(),
			Secret:         secret,
			DryRun:         by.dryRun,
			IdempotencyKey: api.IdempotencyKey(),
		}
		m.narrow(&input)
		answer, err := api.CreateApiKey(ctx, c, input)
		if err == nil && !by.dryRun {
			m.fill(answer.CreateApiKey.ApiKey)
		}
		return outcome{revision: answer.CreateApiKey.ApiKey.Revision}, m.explained(err)
	},
	remove: func(ctx context.Context, c *api.Client, m apiKeyModel, by change) (outcome, error) {
		_, err := api.RevokeApiKey(ctx, c, api.RevokeApiKeyInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func limit(description string) schema.SetAttribute {
	return schema.SetAttribute{
		MarkdownDescription: description,
		ElementType:         types.StringType,
		Optional:            true,
		Validators:          []validator.Set{setvalidator.SizeAtLeast(1)},
	}
}

// narrow leaves absent what limits nothing: an empty list would open nothing.
func (l *apiKeyLimits) narrow(input *api.CreateApiKeyInput) {
	for _, part := range []struct {
		from types.Set
		to   *[]string
	}{{l.Permissions, &input.Permissions}, {l.ServerIDs, &input.ServerIds}, {l.Networks, &input.Networks}} {
		if !part.from.IsNull() {
			*part.to = stringsOf(part.from)
		}
	}
	if !l.ServerLabels.IsNull() {
		input.ServerLabels = labelsOf(l.ServerLabels)
	}
}

func scopesOf(set types.Set) []api.ApiKeyScope { return uppers[api.ApiKeyScope](set) }

func (m *apiKeyModel) fill(key api.ApiKeyFields) {
	m.ID = types.StringValue(key.Id)
	m.PrincipalID = types.StringValue(key.Principal.Id)
	m.Name = types.StringValue(key.Name)
	m.Scopes = setOf(lowered(key.Scopes))
	m.ExpiresAt = instantFrom(m.ExpiresAt, key.ExpiresAt)
	m.Hint = types.StringValue(key.Hint)
	m.Permissions, m.ServerIDs, m.Networks = setOrNull(key.Permissions), setOrNull(key.ServerIds), setOrNull(key.Networks)
	m.ServerLabels = types.MapNull(types.StringType)
	if len(key.ServerLabels) > 0 {
		m.ServerLabels = mapOf(key.ServerLabels)
	}
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
