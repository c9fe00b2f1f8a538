package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// authorizationServerID is the id of the one there is, and what it is imported by.
const authorizationServerID = "authorization_server"

type authorizationServerModel struct {
	base
	DynamicRegistration types.Bool    `tfsdk:"dynamic_registration"`
	ClientDomains       types.Set     `tfsdk:"client_domains"`
	StepUp              []stepUpModel `tfsdk:"step_up"`
}

type stepUpModel struct {
	ServerID      types.String `tfsdk:"server_id"`
	ACRValues     types.Set    `tfsdk:"acr_values"`
	MaxAgeSeconds types.Int64  `tfsdk:"max_age_seconds"`
}

var authorizationServerKind = kind[authorizationServerModel]{
	name: "authorization_server",
	schema: schema.Schema{
		MarkdownDescription: "What the authorization server lets clients do. There is one, so at most one of these resources should " +
			"manage it; making it sets what is there. Destroying it turns registration off, and takes away the domains " +
			"and the step-up rules.",
		Attributes: map[string]schema.Attribute{
			"dynamic_registration": flag("Whether clients may register themselves (RFC 7591); `false` if absent.", false),
			"client_domains": texts("Domains of client metadata documents: a domain, `*.` and a domain for all below it, or `*` for " +
				"any; at most 200. None if absent."),
			"step_up": schema.SetNestedAttribute{
				MarkdownDescription: "Endpoints that need more than any login of a person, at most 500.",
				Optional:            true,
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"server_id":  required("Id of the server."),
					"acr_values": limit("The login must be of one of these authentication contexts (acr); of any if absent."),
					"max_age_seconds": schema.Int64Attribute{
						MarkdownDescription: "How long ago the login may be, in seconds: 60 to 2592000; any time if absent.",
						Optional:            true,
						Validators:          []validator.Int64{int64validator.Between(60, 2592000)},
					},
				}},
			},
		},
	},
	standIns: []string{"step_up.*.server_id"},
	locate: func(_ context.Context, _ *api.Client, key string) (map[string]string, error) {
		if key != authorizationServerID {
			return nil, fmt.Errorf("there is one; import it by %q", authorizationServerID)
		}
		return byID(key), nil
	},
	read: func(ctx context.Context, c *api.Client, m *authorizationServerModel) (int, error) {
		answer, err := api.ReadAuthorizationServer(ctx, c)
		if err == nil {
			m.fill(answer.AuthorizationServer)
		}
		return answer.AuthorizationServer.Revision, err
	},
	create: func(ctx context.Context, c *api.Client, m *authorizationServerModel, by change) (outcome, error) {
		return m.put(ctx, c, by)
	},
	update: func(
		ctx context.Context, c *api.Client, _ authorizationServerModel, m *authorizationServerModel, by change,
	) (outcome, error) {
		return m.put(ctx, c, by)
	},
	remove: func(ctx context.Context, c *api.Client, _ authorizationServerModel, by change) (outcome, error) {
		return (&authorizationServerModel{}).put(ctx, c, by)
	},
}

func (m *authorizationServerModel) put(ctx context.Context, c *api.Client, by change) (outcome, error) {
	rules := []api.StepUpRuleInput{}
	for _, rule := range m.StepUp {
		rules = append(rules, api.StepUpRuleInput{
			ServerId:      idOr(rule.ServerID),
			AcrValues:     stringsOf(rule.ACRValues),
			MaxAgeSeconds: nullableInt(rule.MaxAgeSeconds),
		})
	}
	answer, err := api.UpdateAuthorizationServer(ctx, c, api.UpdateAuthorizationServerInput{
		DynamicRegistration: optional.Of(m.DynamicRegistration.ValueBool()),
		ClientDomains:       stringsOf(m.ClientDomains),
		StepUp:              rules,
		ExpectedRevision:    atRevision(by),
		DryRun:              by.dryRun,
	})
	if err == nil && !by.dryRun {
		m.fill(answer.UpdateAuthorizationServer)
	}
	return outcome{revision: answer.UpdateAuthorizationServer.Revision}, err
}

func (m *authorizationServerModel) fill(told api.AuthorizationServerFields) {
	m.ID = types.StringValue(authorizationServerID)
	m.DynamicRegistration = types.BoolValue(told.DynamicRegistration)
	m.ClientDomains = setOf(told.ClientDomains)
	// No rules are the same, left out or spelled out.
	if len(told.StepUp) > 0 || len(m.StepUp) > 0 {
		m.StepUp = []stepUpModel{}
	}
	for _, rule := range told.StepUp {
		m.StepUp = append(m.StepUp, stepUpModel{
			types.StringValue(rule.ServerId), setOrNull(rule.AcrValues), intFrom(rule.MaxAgeSeconds),
		})
	}
}
