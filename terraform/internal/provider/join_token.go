package provider

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

const joinTokenPrefix = "spjoin_"

type joinTokenModel struct {
	base
	brought
	Name      types.String `tfsdk:"name"`
	Labels    types.Map    `tfsdk:"labels"`
	UsesMax   types.Int64  `tfsdk:"uses_max"`
	ExpiresAt types.String `tfsdk:"expires_at"`
	Hint      types.String `tfsdk:"hint"`
}

var joinTokenKind = kind[joinTokenModel]{
	name: "join_token",
	schema: schema.Schema{
		MarkdownDescription: "A secret by which new nodes join the fleet, brought along by the configuration in a write-only " +
			"attribute: it is in no state and no plan. Needs Terraform 1.11. For a token that lives only as long as a run, use the " +
			"ephemeral resource of the same name. Any change makes another one. Destroying it revokes the token; nodes that joined " +
			"by it stay.",
		Attributes: broughtAttributes(joinTokenPrefix, map[string]schema.Attribute{
			"name":   required("What people will call it: 1 to 128 characters."),
			"labels": labels("Labels a node must carry to join by it, at most 32."),
			"uses_max": schema.Int64Attribute{
				MarkdownDescription: "How many nodes may join by it; no limit if absent.",
				Optional:            true,
				Validators:          []validator.Int64{int64validator.Between(1, 10_000)},
			},
			"expires_at": requiredInstant("Nobody joins by it from then on; at most 366 days away."),
			"hint":       told("The first characters of the token, to recognize it by."),
		}),
	},
	fixed:      []string{"name", "labels", "uses_max", "expires_at", "secret_wo_version"},
	standIns:   []string{"secret_wo"},
	violations: map[string]string{"secret": "secret_wo"},
	carry:      func(config joinTokenModel, m *joinTokenModel) { m.SecretWO = config.SecretWO },
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.JoinTokenFields, error) { return c.AllJoinTokens(ctx) },
			func(token api.JoinTokenFields) bool {
				_, isRevoked := token.RevokedAt.Get()
				return token.Name == key && !isRevoked
			}, func(token api.JoinTokenFields) string { return token.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *joinTokenModel) (int, error) {
		found, err := c.AllJoinTokens(ctx)
		if err != nil {
			return 0, err
		}
		for _, token := range found {
			if _, isRevoked := token.RevokedAt.Get(); token.Id == m.ID.ValueString() && !isRevoked {
				return token.Revision, m.fill(token)
			}
		}
		return 0, api.NotFound()
	},
	create: func(ctx context.Context, c *api.Client, m *joinTokenModel, by change) (outcome, error) {
		secret, err := m.secret()
		if err != nil {
			return outcome{}, err
		}
		input := joinTokenInput(m.Name, m.Labels, m.UsesMax, m.ExpiresAt.ValueString())
		input.Secret, input.DryRun = secret, by.dryRun
		answer, err := api.CreateJoinToken(ctx, c, input)
		if err == nil && !by.dryRun {
			err = m.fill(answer.CreateJoinToken.JoinToken)
		}
		return outcome{revision: answer.CreateJoinToken.JoinToken.Revision}, m.explained(err)
	},
	remove: func(ctx context.Context, c *api.Client, m joinTokenModel, by change) (outcome, error) {
		// Every node that joins raises the revision, which is no reason not to revoke.
		_, err := api.RevokeJoinToken(ctx, c, api.RevokeJoinTokenInput{Id: m.ID.ValueString(), DryRun: by.dryRun})
		return outcome{}, err
	},
}

func joinTokenInput(name types.String, labels types.Map, usesMax types.Int64, expiresAt string) api.CreateJoinTokenInput {
	texts := map[string]string{}
	for _, label := range labelsOf(labels) {
		texts[label.Key] = label.Value
	}
	encoded, _ := json.Marshal(texts)
	input := api.CreateJoinTokenInput{
		Name:           name.ValueString(),
		Labels:         optional.Of[json.RawMessage](encoded),
		ExpiresAt:      expiresAt,
		IdempotencyKey: api.IdempotencyKey(),
	}
	if !usesMax.IsNull() {
		input.UsesMax = optional.Of(int(usesMax.ValueInt64()))
	}
	return input
}

func (m *joinTokenModel) fill(token api.JoinTokenFields) error {
	var texts map[string]string
	if err := json.Unmarshal(token.Labels, &texts); err != nil {
		return err
	}
	var fields []api.LabelFields
	for key, value := range texts {
		fields = append(fields, api.LabelFields{Key: key, Value: value})
	}
	m.ID = types.StringValue(token.Id)
	m.Name = types.StringValue(token.Name)
	m.Labels = mapOf(fields)
	m.UsesMax = intFrom(token.UsesMax)
	m.ExpiresAt = instantFrom(m.ExpiresAt, token.ExpiresAt)
	m.Hint = types.StringValue(token.Hint)
	m.adopt()
	return nil
}
