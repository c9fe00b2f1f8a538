package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type credentialModel struct {
	base
	brought
	ServerID          types.String            `tfsdk:"server_id"`
	StaticHeadersWO   types.Map               `tfsdk:"static_headers_wo"`
	HeaderNames       types.Set               `tfsdk:"header_names"`
	ClientCredentials *clientCredentialsModel `tfsdk:"client_credentials"`
	UserOAuth         *userOAuthModel         `tfsdk:"user_oauth"`
}

type clientCredentialsModel struct {
	Issuer         types.String `tfsdk:"issuer"`
	ClientID       types.String `tfsdk:"client_id"`
	Authentication types.String `tfsdk:"authentication"`
	Scopes         types.Set    `tfsdk:"scopes"`
}

type userOAuthModel struct {
	Issuer             types.String `tfsdk:"issuer"`
	ClientID           types.String `tfsdk:"client_id"`
	Authentication     types.String `tfsdk:"authentication"`
	Scopes             types.Set    `tfsdk:"scopes"`
	AuthorizationHosts types.Set    `tfsdk:"authorization_hosts"`
}

// standInSecret takes the place of a secret that is not known before the apply.
const standInSecret = "unknown"

const authenticationText = "How the gateway proves itself there: `client_secret_basic`, `client_secret_post`, `private_key_jwt` " +
	"(the secret is a private key as JWK; without one the gateway signs with its own)%s; by default with the secret in the header, where one is given."

var credentialSchema = schema.Schema{
	MarkdownDescription: "What a server is called with, of one of three modes: `static_headers_wo`, `client_credentials` or " +
		"`user_oauth`. Secrets are write-only: they are in no state and no plan, the control plane seals them and never returns " +
		"them. Needs Terraform 1.11. A server without one is called without any credential. Destroying it destroys what is stored, " +
		"and ends what users connected.",
	Attributes: map[string]schema.Attribute{
		"server_id": required("Id of the server; it has one credential at most. Another server makes another credential."),
		"static_headers_wo": schema.MapAttribute{
			MarkdownDescription: "Headers that are the same for everybody, by name, 1 to 16; their values are the secret.",
			ElementType:         types.StringType,
			Optional:            true,
			WriteOnly:           true,
			Sensitive:           true,
			Validators: []validator.Map{
				mapvalidator.SizeAtLeast(1),
				mapvalidator.ExactlyOneOf(path.MatchRoot("static_headers_wo"), path.MatchRoot("client_credentials"),
					path.MatchRoot("user_oauth")),
			},
		},
		"header_names": schema.SetAttribute{
			MarkdownDescription: "Names of the static headers.",
			ElementType:         types.StringType,
			Computed:            true,
			PlanModifiers:       []planmodifier.Set{setplanmodifier.UseStateForUnknown()},
		},
		"client_credentials": schema.SingleNestedAttribute{
			MarkdownDescription: "By access tokens that the gateway gets for itself (OAuth 2.1, client credentials). Needs " +
				"`secret_wo`, but for `private_key_jwt` with the gateway's own key.",
			Optional: true,
			Attributes: map[string]schema.Attribute{
				"issuer":    required("The authorization server."),
				"client_id": required("Id of the client there."),
				"authentication": schema.StringAttribute{
					MarkdownDescription: fmt.Sprintf(authenticationText, ""),
					Optional:            true,
					Computed:            true,
					Validators:          []validator.String{oneOf("client_secret_basic", "client_secret_post", "private_key_jwt")},
				},
				"scopes": texts("What to ask for."),
			},
		},
		"user_oauth": schema.SingleNestedAttribute{
			MarkdownDescription: "By access tokens of the very user who calls, who connected his account. `{}` for what the server " +
				"names itself (RFC 9728), with the gateway registering itself.",
			Optional: true,
			Attributes: map[string]schema.Attribute{
				"issuer":    optionalText("The authorization server; if absent, the one that the server names."),
				"client_id": optionalText("Id of a client registered there; if absent, the gateway registers itself."),
				"authentication": schema.StringAttribute{
					MarkdownDescription: fmt.Sprintf(authenticationText, " or `none`"),
					Optional:            true,
					Computed:            true,
					Validators:          []validator.String{oneOf(lowered(api.AllUpstreamClientAuthentication)...)},
				},
				"scopes":              texts("What to ask for; what the server names if absent."),
				"authorization_hosts": texts("Hosts on which the authorization endpoint may be, besides the issuer's own."),
			},
		},
		"secret_wo": schema.StringAttribute{
			MarkdownDescription: "The client's secret, or its private key as JWK; for `client_credentials` and `user_oauth`.",
			Optional:            true,
			WriteOnly:           true,
			Sensitive:           true,
		},
		"secret_wo_version": raised("Raise it to store `secret_wo` or `static_headers_wo` anew: Terraform cannot see that a " +
			"write-only value changed. `1` if absent."),
	},
}

var credentialKind = kind[credentialModel]{
	name:     "credential",
	schema:   credentialSchema,
	fixed:    []string{"server_id"},
	standIns: []string{"server_id", "secret_wo", "static_headers_wo", "static_headers_wo.*"},
	violations: map[string]string{
		"staticHeaders.headers":        "static_headers_wo",
		"clientCredentials.secret":     "secret_wo",
		"userOAuth.secret":             "secret_wo",
		"userOAuth.issuer":             "user_oauth.issuer",
		"userOAuth.clientId":           "user_oauth.client_id",
		"userOAuth.authentication":     "user_oauth.authentication",
		"userOAuth.scopes":             "user_oauth.scopes",
		"userOAuth.authorizationHosts": "user_oauth.authorization_hosts",
	},
	carry: func(config credentialModel, m *credentialModel) {
		m.SecretWO, m.StaticHeadersWO = config.SecretWO, config.StaticHeadersWO
		if m.StaticHeadersWO.IsNull() {
			m.StaticHeadersWO = types.MapNull(types.StringType)
		}
	},
	complete: func(config credentialModel, m *credentialModel) {
		if !config.StaticHeadersWO.IsUnknown() {
			m.HeaderNames = setOf(sortedKeys(config.StaticHeadersWO))
		}
		if m.ClientCredentials != nil && config.ClientCredentials.Authentication.IsNull() {
			m.ClientCredentials.Authentication = defaultAuthentication(config.SecretWO)
		}
		if m.UserOAuth != nil && config.UserOAuth.Authentication.IsNull() {
			m.UserOAuth.Authentication = defaultAuthentication(config.SecretWO)
		}
	},
	locate: serverKind.locate,
	read:   readCredential,
	create: func(ctx context.Context, c *api.Client, m *credentialModel, by change) (outcome, error) {
		answer, err := api.ReadServerCredential(ctx, c, idOr(m.ServerID))
		if err != nil {
			return outcome{}, err
		}
		if answer.ServerCredential.Mode != api.CredentialModeNone {
			return outcome{}, invalid("input.serverId", "has a credential already: import it, so that nothing is replaced unseen")
		}
		return m.put(ctx, c, by)
	},
	update: func(ctx context.Context, c *api.Client, _ credentialModel, m *credentialModel, by change) (outcome, error) {
		return m.put(ctx, c, by)
	},
	remove: func(ctx context.Context, c *api.Client, m credentialModel, by change) (outcome, error) {
		_, err := api.DeleteServerCredential(ctx, c, api.DeleteServerCredentialInput{
			ServerId: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

// defaultAuthentication is the API's own, which goes by whether there is a secret.
func defaultAuthentication(secret types.String) types.String {
	switch {
	case secret.IsUnknown():
		return types.StringUnknown()
	case secret.IsNull():
		return types.StringValue(lower(api.UpstreamClientAuthenticationNone))
	default:
		return types.StringValue(lower(api.UpstreamClientAuthenticationClientSecretBasic))
	}
}

func readCredential(ctx context.Context, c *api.Client, m *credentialModel) (int, error) {
	answer, err := api.ReadServerCredential(ctx, c, m.ID.ValueString())
	if err != nil {
		return 0, err
	}
	if answer.ServerCredential.Mode == api.CredentialModeNone {
		return 0, api.NotFound()
	}
	m.fill(answer.ServerCredential)
	return answer.ServerCredential.Revision, nil
}

// put sets the whole credential, secret and all.
func (m *credentialModel) put(ctx context.Context, c *api.Client, by change) (outcome, error) {
	// Without even the names of its headers there is nothing to try.
	if by.dryRun && m.StaticHeadersWO.IsUnknown() {
		return outcome{}, nil
	}
	input := api.SetServerCredentialInput{
		ServerId:         idOr(m.ServerID),
		ExpectedRevision: atRevision(by),
		DryRun:           by.dryRun,
		IdempotencyKey:   api.IdempotencyKey(),
	}
	switch {
	case m.ClientCredentials != nil:
		input.ClientCredentials = optional.Of(api.ClientCredentialsInput{
			Issuer:         m.ClientCredentials.Issuer.ValueString(),
			ClientId:       m.ClientCredentials.ClientID.ValueString(),
			Authentication: enumOrNull[api.UpstreamClientAuthentication](m.ClientCredentials.Authentication),
			Scopes:         stringsOf(m.ClientCredentials.Scopes),
			Secret:         optionalSecret(m.SecretWO),
		})
	case m.UserOAuth != nil:
		input.UserOAuth = optional.Of(api.UserOAuthInput{
			Issuer:             nullable(m.UserOAuth.Issuer),
			ClientId:           nullable(m.UserOAuth.ClientID),
			Authentication:     enumOrNull[api.UpstreamClientAuthentication](m.UserOAuth.Authentication),
			Scopes:             stringsOf(m.UserOAuth.Scopes),
			AuthorizationHosts: stringsOf(m.UserOAuth.AuthorizationHosts),
			Secret:             optionalSecret(m.SecretWO),
		})
	default:
		input.StaticHeaders = optional.Of(api.StaticHeadersInput{Headers: headersOf(m.StaticHeadersWO)})
	}
	answer, err := api.SetServerCredential(ctx, c, input)
	if err == nil && !by.dryRun {
		m.fill(answer.SetServerCredential)
	}
	return outcome{revision: answer.SetServerCredential.Revision}, err
}

func headersOf(headers types.Map) []api.CredentialHeaderInput {
	inputs := []api.CredentialHeaderInput{}
	for _, name := range sortedKeys(headers) {
		if value, ok := headers.Elements()[name].(types.String); ok {
			inputs = append(inputs, api.CredentialHeaderInput{Name: name, Value: secretOr(value)})
		}
	}
	return inputs
}

func secretOr(secret types.String) string {
	if secret.IsUnknown() {
		return standInSecret
	}
	return secret.ValueString()
}

func optionalSecret(secret types.String) optional.Value[string] {
	if secret.IsNull() {
		return optional.Null[string]()
	}
	return optional.Of(secretOr(secret))
}

func (m *credentialModel) fill(credential api.ServerCredentialFields) {
	m.ID, m.ServerID = types.StringValue(credential.ServerId), types.StringValue(credential.ServerId)
	m.HeaderNames = setOf(credential.HeaderNames)
	m.ClientCredentials, m.UserOAuth = nil, nil
	switch {
	// What was destroyed when the server moved is shown as empty, so that the plan sets it anew.
	case !credential.IsComplete:
		m.HeaderNames = setOf(nil)
	case credential.Mode == api.CredentialModeClientCredentials:
		m.ClientCredentials = &clientCredentialsModel{
			Issuer:         stringFrom(credential.Issuer),
			ClientID:       stringFrom(credential.ClientId),
			Authentication: enumFrom(credential.Authentication),
			Scopes:         setOf(credential.Scopes),
		}
	case credential.Mode == api.CredentialModeUserOauth:
		m.UserOAuth = &userOAuthModel{
			Issuer:             stringFrom(credential.Issuer),
			ClientID:           stringFrom(credential.ClientId),
			Authentication:     enumFrom(credential.Authentication),
			Scopes:             setOf(credential.Scopes),
			AuthorizationHosts: setOf(credential.AuthorizationHosts),
		}
	}
	m.adopt()
}
