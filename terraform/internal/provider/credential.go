package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type credentialModel struct {
	base
	brought
	ServerID          types.String        `tfsdk:"server_id"`
	StaticHeadersWO   types.Map           `tfsdk:"static_headers_wo"`
	HeaderNames       types.Set           `tfsdk:"header_names"`
	ClientCredentials *clientModel        `tfsdk:"client_credentials"`
	UserOAuth         *userOAuthModel     `tfsdk:"user_oauth"`
	TokenExchange     *tokenExchangeModel `tfsdk:"token_exchange"`
	IdentityAssertion *clientModel        `tfsdk:"identity_assertion"`
	IdentityToken     *identityTokenModel `tfsdk:"identity_token"`
}

// clientModel is the gateway as a client of an authorization server.
type clientModel struct {
	Issuer         types.String `tfsdk:"issuer"`
	ClientID       types.String `tfsdk:"client_id"`
	Authentication types.String `tfsdk:"authentication"`
	Scopes         types.Set    `tfsdk:"scopes"`
}

type userOAuthModel struct {
	clientModel
	AuthorizationHosts types.Set  `tfsdk:"authorization_hosts"`
	RequiredAtLogin    types.Bool `tfsdk:"required_at_login"`
}

type tokenExchangeModel struct {
	clientModel
	Audience   types.String `tfsdk:"audience"`
	NamesActor types.Bool   `tfsdk:"names_actor"`
}

type identityTokenModel struct {
	Audience        types.String `tfsdk:"audience"`
	LifetimeSeconds types.Int64  `tfsdk:"lifetime_seconds"`
	Claims          types.Set    `tfsdk:"claims"`
}

// standInSecret takes the place of a secret that is not known before the apply.
const standInSecret = "unknown"

const authenticationText = "How the gateway proves itself there: `client_secret_basic`, `client_secret_post`, `private_key_jwt` " +
	"(the secret is a private key as JWK; without one the gateway signs with its own)%s; by default with the secret in the header, where one is given."

func authentication(text string, values []string) schema.StringAttribute {
	return schema.StringAttribute{
		MarkdownDescription: text, Optional: true, Computed: true, Validators: []validator.String{oneOf(values...)},
	}
}

// registeredClient are the attributes of a mode with a client that is registered, besides its others.
func registeredClient(others map[string]schema.Attribute) map[string]schema.Attribute {
	others["issuer"] = required("The authorization server.")
	others["client_id"] = required("Id of the client there.")
	others["authentication"] = authentication(fmt.Sprintf(authenticationText, ""),
		[]string{"client_secret_basic", "client_secret_post", "private_key_jwt"})
	others["scopes"] = texts("What to ask for.")
	return others
}

// discoveredClient are those of a mode in which the server may name the authorization server; otherwise is what the
// gateway does without a client id.
func discoveredClient(otherwise string, others map[string]schema.Attribute) map[string]schema.Attribute {
	others["issuer"] = optionalText("The authorization server; if absent, the one that the server names.")
	others["client_id"] = optionalText("Id of a client registered there; if absent, the gateway " + otherwise + ".")
	others["authentication"] = authentication(fmt.Sprintf(authenticationText, " or `none`"),
		lowered(api.AllUpstreamClientAuthentication))
	others["scopes"] = texts("What to ask for; what the server names if absent.")
	return others
}

var credentialSchema = schema.Schema{
	MarkdownDescription: "What a server is called with, of one of six modes: `static_headers_wo`, `client_credentials`, " +
		"`user_oauth`, `token_exchange`, `identity_assertion` or `identity_token`. Secrets are write-only: they are in no state and no plan, the control plane seals them and never returns " +
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
					path.MatchRoot("user_oauth"), path.MatchRoot("token_exchange"), path.MatchRoot("identity_assertion"),
					path.MatchRoot("identity_token")),
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
			Optional:   true,
			Attributes: registeredClient(map[string]schema.Attribute{}),
		},
		"user_oauth": schema.SingleNestedAttribute{
			MarkdownDescription: "By access tokens of the very user who calls, who connected his account. `{}` for what the server " +
				"names itself (RFC 9728), with the gateway registering itself.",
			Optional: true,
			Attributes: discoveredClient("registers itself", map[string]schema.Attribute{
				"authorization_hosts": texts("Hosts on which the authorization endpoint may be, besides the issuer's own."),
				"required_at_login": flag("Whether users are asked to connect their account when they log in; `false` if absent.",
					false),
			}),
		},
		"token_exchange": schema.SingleNestedAttribute{
			MarkdownDescription: "By access tokens for the user who calls, exchanged for a token that the control plane signs " +
				"(RFC 8693). Needs `secret_wo`, but for `private_key_jwt` with the gateway's own key.",
			Optional: true,
			Attributes: registeredClient(map[string]schema.Attribute{
				"audience":    optionalText("Name of the server at the authorization server, where its URL (`resource`) does not tell."),
				"names_actor": flag("Whether the gateway names itself as the one who acts for the user; `false` if absent.", false),
			}),
		},
		"identity_assertion": schema.SingleNestedAttribute{
			MarkdownDescription: "By access tokens for the user who calls, had by an assertion of the identity provider that he logged " +
				"in with (ID-JAG, enterprise-managed authorization). `{}` for what the server names itself (RFC 9728), with the gateway " +
				"known by its document.",
			Optional:   true,
			Attributes: discoveredClient("is known by its document", map[string]schema.Attribute{}),
		},
		"identity_token": schema.SingleNestedAttribute{
			MarkdownDescription: "By a short token that says who calls, signed by the control plane, for servers of one's own.",
			Optional:            true,
			Attributes: map[string]schema.Attribute{
				"audience":         optionalText("`aud` of the token; the server's URL if absent."),
				"lifetime_seconds": defaultedNumber("How long a token is good, in seconds: 30 to 300; `120` if absent.", 120),
				"claims": schema.SetAttribute{
					MarkdownDescription: "What a token says besides who calls: `name`, `email`, `groups`.",
					ElementType:         types.StringType,
					Optional:            true,
					Computed:            true,
					Default:             setdefault.StaticValue(setOf(nil)),
					Validators:          []validator.Set{setvalidator.ValueStringsAre(oneOf(lowered(api.AllIdentityClaim)...))},
				},
			},
		},
		"secret_wo": schema.StringAttribute{
			MarkdownDescription: "The client's secret, or its private key as JWK; for the modes with a client.",
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
		"staticHeaders.headers":    "static_headers_wo",
		"clientCredentials.secret": "secret_wo",
		"userOAuth.secret":         "secret_wo",
		"tokenExchange.secret":     "secret_wo",
		"identityAssertion.secret": "secret_wo",
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
		if client := m.client(); client != nil && config.client().Authentication.IsNull() {
			client.Authentication = defaultAuthentication(config.SecretWO)
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

// client is that of its mode, if it has one.
func (m *credentialModel) client() *clientModel {
	switch {
	case m.ClientCredentials != nil:
		return m.ClientCredentials
	case m.UserOAuth != nil:
		return &m.UserOAuth.clientModel
	case m.TokenExchange != nil:
		return &m.TokenExchange.clientModel
	default:
		return m.IdentityAssertion
	}
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
			RequiredAtLogin:    optional.Of(m.UserOAuth.RequiredAtLogin.ValueBool()),
			Secret:             optionalSecret(m.SecretWO),
		})
	case m.TokenExchange != nil:
		input.TokenExchange = optional.Of(api.TokenExchangeInput{
			Issuer:         m.TokenExchange.Issuer.ValueString(),
			ClientId:       m.TokenExchange.ClientID.ValueString(),
			Authentication: enumOrNull[api.UpstreamClientAuthentication](m.TokenExchange.Authentication),
			Scopes:         stringsOf(m.TokenExchange.Scopes),
			Audience:       nullable(m.TokenExchange.Audience),
			NamesActor:     optional.Of(m.TokenExchange.NamesActor.ValueBool()),
			Secret:         optionalSecret(m.SecretWO),
		})
	case m.IdentityAssertion != nil:
		input.IdentityAssertion = optional.Of(api.IdentityAssertionInput{
			Issuer:         nullable(m.IdentityAssertion.Issuer),
			ClientId:       nullable(m.IdentityAssertion.ClientID),
			Authentication: enumOrNull[api.UpstreamClientAuthentication](m.IdentityAssertion.Authentication),
			Scopes:         stringsOf(m.IdentityAssertion.Scopes),
			Secret:         optionalSecret(m.SecretWO),
		})
	case m.IdentityToken != nil:
		input.IdentityToken = optional.Of(api.IdentityTokenInput{
			Audience:        nullable(m.IdentityToken.Audience),
			LifetimeSeconds: optional.Of(int(m.IdentityToken.LifetimeSeconds.ValueInt64())),
			Claims:          uppers[api.IdentityClaim](m.IdentityToken.Claims),
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
	m.TokenExchange, m.IdentityAssertion, m.IdentityToken = nil, nil, nil
	client := clientModel{
		Issuer:         stringFrom(credential.Issuer),
		ClientID:       stringFrom(credential.ClientId),
		Authentication: enumFrom(credential.Authentication),
		Scopes:         setOf(credential.Scopes),
	}
	switch {
	// What was destroyed when the server moved is shown as empty, so that the plan sets it anew.
	case !credential.IsComplete:
		m.HeaderNames = setOf(nil)
	case credential.Mode == api.CredentialModeClientCredentials:
		m.ClientCredentials = &client
	case credential.Mode == api.CredentialModeUserOauth:
		m.UserOAuth = &userOAuthModel{
			clientModel:        client,
			AuthorizationHosts: setOf(credential.AuthorizationHosts),
			RequiredAtLogin:    types.BoolValue(credential.RequiredAtLogin),
		}
	case credential.Mode == api.CredentialModeTokenExchange:
		m.TokenExchange = &tokenExchangeModel{
			clientModel: client,
			Audience:    stringFrom(credential.Audience),
			NamesActor:  types.BoolPointerValue(credential.NamesActor.Pointer()),
		}
	case credential.Mode == api.CredentialModeIdentityAssertion:
		m.IdentityAssertion = &client
	case credential.Mode == api.CredentialModeIdentityToken:
		m.IdentityToken = &identityTokenModel{
			Audience:        stringFrom(credential.Audience),
			LifetimeSeconds: intFrom(credential.LifetimeSeconds),
			Claims:          setOf(lowered(credential.Claims)),
		}
	}
	m.adopt()
}
