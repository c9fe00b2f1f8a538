package provider

import (
	"context"
	"encoding/json"
	"reflect"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

const clientSecretPrefix = "sps_"

type oauthClientModel struct {
	base
	brought
	Name             types.String `tfsdk:"name"`
	Authentication   types.String `tfsdk:"authentication"`
	RedirectURIs     types.Set    `tfsdk:"redirect_uris"`
	ServiceAccountID types.String `tfsdk:"service_account_id"`
	JWKS             types.String `tfsdk:"jwks"`
}

var oauthClientKind = kind[oauthClientModel]{
	name: "oauth_client",
	schema: schema.Schema{
		MarkdownDescription: "A client of Sallyport's authorization server: an application that people log in with, or a program " +
			"that acts by itself as a service account. Its id is its `client_id`. A client cannot be changed: any change makes " +
			"another one. Destroying it ends every token it got.",
		Attributes: broughtAttributes(clientSecretPrefix, map[string]schema.Attribute{
			"name": required(nameText),
			"authentication": required("How it proves who it is: `none` (a public client, with PKCE), `private_key_jwt`, `secret` "+
				"(HTTP Basic) or `secret_post`. The last two need `secret_wo`.", oneOf(lowered(api.AllOAuthClientAuthentication)...)),
			"redirect_uris": texts("Where codes for users may be sent, at most 20: https, http on loopback, or a scheme of its own."),
			"service_account_id": optionalText("Id of the service account it acts as by itself (grant type client_credentials); one " +
				"of this and `redirect_uris` at least."),
			"jwks": schema.StringAttribute{
				MarkdownDescription: "Public keys as a JSON Web Key Set (RFC 7517); for `private_key_jwt` alone.",
				Optional:            true,
				Validators:          []validator.String{jsonText{}},
				PlanModifiers:       []planmodifier.String{jsonText{}},
			},
		}),
	},
	fixed:      []string{"name", "authentication", "redirect_uris", "service_account_id", "jwks", "secret_wo_version"},
	standIns:   []string{"service_account_id", "secret_wo"},
	violations: map[string]string{"secret": "secret_wo", "redirectUris": "redirect_uris"},
	carry:      func(config oauthClientModel, m *oauthClientModel) { m.SecretWO = config.SecretWO },
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.OAuthClientFields, error) { return c.AllOAuthClients(ctx) },
			func(client api.OAuthClientFields) bool { return client.Name == key },
			func(client api.OAuthClientFields) string { return client.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *oauthClientModel) (int, error) {
		answer, err := api.ReadOAuthClient(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.OauthClient)
		return answer.OauthClient.Revision, nil
	},
	create: createOAuthClient,
	remove: func(ctx context.Context, c *api.Client, m oauthClientModel, by change) (outcome, error) {
		_, err := api.DeleteOAuthClient(ctx, c, api.DeleteOAuthClientInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func createOAuthClient(ctx context.Context, c *api.Client, m *oauthClientModel, by change) (outcome, error) {
	input := api.CreateOAuthClientInput{
		Name:           m.Name.ValueString(),
		Authentication: upper[api.OAuthClientAuthentication](m.Authentication),
		RedirectUris:   stringsOf(m.RedirectURIs),
		Jwks:           nullable(m.JWKS),
		DryRun:         by.dryRun,
		IdempotencyKey: api.IdempotencyKey(),
	}
	if !m.ServiceAccountID.IsNull() {
		input.ServiceAccountId = optional.Of(idOr(m.ServiceAccountID))
	}
	needsSecret := input.Authentication == api.OAuthClientAuthenticationSecret ||
		input.Authentication == api.OAuthClientAuthenticationSecretPost
	if needsSecret || !m.SecretWO.IsNull() {
		secret, err := m.secret()
		if err != nil {
			return outcome{}, err
		}
		input.Secret = secret
	}
	answer, err := api.CreateOAuthClient(ctx, c, input)
	if err == nil && !by.dryRun {
		m.fill(answer.CreateOAuthClient.Client)
	}
	return outcome{revision: answer.CreateOAuthClient.Client.Revision}, err
}

func (m *oauthClientModel) fill(client api.OAuthClientFields) {
	m.ID = types.StringValue(client.Id)
	m.Name = types.StringValue(client.Name)
	m.Authentication = types.StringValue(lower(client.Authentication))
	m.RedirectURIs = setOf(client.RedirectUris)
	m.ServiceAccountID = stringFrom(client.ServiceAccountId)
	told, hasKeys := client.Jwks.Get()
	if !hasKeys {
		m.JWKS = types.StringNull()
	} else if !sameJSON(m.JWKS.ValueString(), string(told)) {
		m.JWKS = types.StringValue(string(told))
	}
	m.adopt()
}

func sameJSON(a, b string) bool {
	var first, second any
	return json.Unmarshal([]byte(a), &first) == nil && json.Unmarshal([]byte(b), &second) == nil &&
		reflect.DeepEqual(first, second)
}

// jsonText validates and plans a text that is JSON.
type jsonText struct{}

func (jsonText) Description(context.Context) string               { return "a text that is JSON" }
func (j jsonText) MarkdownDescription(ctx context.Context) string { return j.Description(ctx) }

func (jsonText) ValidateString(_ context.Context, req validator.StringRequest, resp *validator.StringResponse) {
	if req.ConfigValue.IsNull() || req.ConfigValue.IsUnknown() || json.Valid([]byte(req.ConfigValue.ValueString())) {
		return
	}
	resp.Diagnostics.AddAttributeError(req.Path, "Not JSON", req.Path.String()+" must be JSON, such as jsonencode makes.")
}

// PlanModifyString plans no change where only the writing differs.
func (jsonText) PlanModifyString(_ context.Context, req planmodifier.StringRequest, resp *planmodifier.StringResponse) {
	if sameJSON(req.StateValue.ValueString(), req.PlanValue.ValueString()) {
		resp.PlanValue = req.StateValue
	}
}
