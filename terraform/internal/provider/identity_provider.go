package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setdefault"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type identityProviderModel struct {
	base
	Name                  types.String     `tfsdk:"name"`
	Issuer                types.String     `tfsdk:"issuer"`
	ClientID              types.String     `tfsdk:"client_id"`
	ClientSecretWO        types.String     `tfsdk:"client_secret_wo"`
	ClientSecretWOVersion types.Int64      `tfsdk:"client_secret_wo_version"`
	Enabled               types.Bool       `tfsdk:"enabled"`
	CreatesUsers          types.Bool       `tfsdk:"creates_users"`
	AcceptsAssertions     types.Bool       `tfsdk:"accepts_assertions"`
	Scopes                types.Set        `tfsdk:"scopes"`
	SubjectClaim          types.String     `tfsdk:"subject_claim"`
	GroupsClaim           types.String     `tfsdk:"groups_claim"`
	GroupsURL             types.String     `tfsdk:"groups_url"`
	GroupsURLScope        types.String     `tfsdk:"groups_url_scope"`
	GroupRules            []groupRuleModel `tfsdk:"group_rules"`
	RequiredClaims        types.Map        `tfsdk:"required_claims"`
	ACRValues             types.Set        `tfsdk:"acr_values"`
	RedirectURI           types.String     `tfsdk:"redirect_uri"`
	BackChannelLogoutURI  types.String     `tfsdk:"back_channel_logout_uri"`
}

type groupRuleModel struct {
	Value   types.String `tfsdk:"value"`
	GroupID types.String `tfsdk:"group_id"`
}

var identityProviderSchema = schema.Schema{
	MarkdownDescription: "An OpenID provider that users log in with, such as Entra ID or Okta. Its client secret is write-only: in " +
		"no state and no plan. Needs Terraform 1.11.",
	Attributes: map[string]schema.Attribute{
		"name": required("What people call it, on the button of the login page; unique, 1 to 128 characters."),
		"issuer": required("Its issuer, exactly as its metadata names it. Its users are keyed by it: another issuer makes another " +
			"provider."),
		"client_id": required("Sallyport's client id there."),
		"client_secret_wo": schema.StringAttribute{
			MarkdownDescription: "Sallyport's client secret there; absent for a public client, with PKCE.",
			Optional:            true,
			WriteOnly:           true,
			Sensitive:           true,
		},
		"client_secret_wo_version": raised("Raise it to store `client_secret_wo` anew, or to remove it where it is absent: " +
			"Terraform cannot see that a write-only value changed. `1` if absent."),
		"enabled":            flag("Whether users can log in with it; `true` if absent.", true),
		"creates_users":      flag("Whether a user who logs in for the first time is made; `true` if absent.", true),
		"accepts_assertions": flag("Whether its identity assertions (ID-JAG) give access tokens; `false` if absent.", false),
		"scopes": schema.SetAttribute{
			MarkdownDescription: "Scopes to ask for; `openid`, `profile` and `email` if absent.",
			ElementType:         types.StringType,
			Optional:            true,
			Computed:            true,
			Default:             setdefault.StaticValue(setOf([]string{"openid", "profile", "email"})),
		},
		"subject_claim": defaulted("The claim that identifies a user for good: `sub`, or `oid` at Entra. `sub` if absent.", "sub"),
		"groups_claim":  optionalText("The claim that holds groups or app roles; none is looked at if absent."),
		"groups_url": optionalText("Where groups are read when a token does not hold them all (Entra above 200); `{subject}` stands " +
			"for the user."),
		"groups_url_scope": optionalText("Scope of the token that opens `groups_url`."),
		"group_rules": schema.SetNestedAttribute{
			MarkdownDescription: "Which groups its users belong to, at most 500. A group is emptied, and filled at logins from then on.",
			Optional:            true,
			NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
				"value":    required("What the groups claim holds: an object id at Entra, a name at Okta. Compared to the letter."),
				"group_id": required("Id of the group."),
			}},
		},
		"required_claims": labels("Claims that a token must have, and their values."),
		"acr_values":      texts("A login must be of one of these authentication contexts (step-up); of any if absent."),
		"redirect_uri":    told("The redirect URI to register there; null without a public URL of the control plane."),
		"back_channel_logout_uri": told("The back-channel logout URI to register there; null without a public URL of the control " +
			"plane."),
	},
}

var identityProviderKind = kind[identityProviderModel]{
	name:       "identity_provider",
	schema:     identityProviderSchema,
	fixed:      []string{"issuer"},
	natural:    "name",
	standIns:   []string{"client_secret_wo", "group_rules.*.group_id"},
	violations: map[string]string{"clientSecret": "client_secret_wo"},
	carry:      func(config identityProviderModel, m *identityProviderModel) { m.ClientSecretWO = config.ClientSecretWO },
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.IdentityProviderFields, error) { return c.AllIdentityProviders(ctx) },
			func(one api.IdentityProviderFields) bool { return one.Name == key },
			func(one api.IdentityProviderFields) string { return one.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *identityProviderModel) (int, error) {
		answer, err := api.ReadIdentityProvider(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		made, _ := m.outcome(answer.IdentityProvider, change{}, nil)
		return made.revision, nil
	},
	create: createIdentityProvider,
	update: updateIdentityProvider,
	remove: func(ctx context.Context, c *api.Client, m identityProviderModel, by change) (outcome, error) {
		_, err := api.DeleteIdentityProvider(ctx, c, api.DeleteIdentityProviderInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func createIdentityProvider(
	ctx context.Context, c *api.Client, m *identityProviderModel, by change,
) (outcome, error) {
	answer, err := api.CreateIdentityProvider(ctx, c, api.CreateIdentityProviderInput{
		Name:              m.Name.ValueString(),
		Issuer:            m.Issuer.ValueString(),
		ClientId:          m.ClientID.ValueString(),
		ClientSecret:      optionalSecret(m.ClientSecretWO),
		Enabled:           optional.Of(m.Enabled.ValueBool()),
		CreatesUsers:      optional.Of(m.CreatesUsers.ValueBool()),
		AcceptsAssertions: optional.Of(m.AcceptsAssertions.ValueBool()),
		Scopes:            stringsOf(m.Scopes),
		SubjectClaim:      nullable(m.SubjectClaim),
		GroupsClaim:       nullable(m.GroupsClaim),
		GroupsUrl:         nullable(m.GroupsURL),
		GroupsUrlScope:    nullable(m.GroupsURLScope),
		GroupRules:        m.groupRules(),
		RequiredClaims:    m.requiredClaims(),
		AcrValues:         stringsOf(m.ACRValues),
		DryRun:            by.dryRun,
		IdempotencyKey:    api.IdempotencyKey(),
	})
	return m.outcome(answer.CreateIdentityProvider, by, err)
}

func updateIdentityProvider(
	ctx context.Context, c *api.Client, before identityProviderModel, m *identityProviderModel, by change,
) (outcome, error) {
	input := api.UpdateIdentityProviderInput{
		Id:                m.ID.ValueString(),
		ExpectedRevision:  atRevision(by),
		Name:              optional.Of(m.Name.ValueString()),
		ClientId:          optional.Of(m.ClientID.ValueString()),
		Enabled:           optional.Of(m.Enabled.ValueBool()),
		CreatesUsers:      optional.Of(m.CreatesUsers.ValueBool()),
		AcceptsAssertions: optional.Of(m.AcceptsAssertions.ValueBool()),
		Scopes:            stringsOf(m.Scopes),
		SubjectClaim:      nullable(m.SubjectClaim),
		GroupsClaim:       nullable(m.GroupsClaim),
		GroupsUrl:         nullable(m.GroupsURL),
		GroupsUrlScope:    nullable(m.GroupsURLScope),
		GroupRules:        m.groupRules(),
		RequiredClaims:    m.requiredClaims(),
		AcrValues:         stringsOf(m.ACRValues),
		DryRun:            by.dryRun,
	}
	if !m.ClientSecretWOVersion.Equal(before.ClientSecretWOVersion) {
		input.ClientSecret = optionalSecret(m.ClientSecretWO)
	}
	answer, err := api.UpdateIdentityProvider(ctx, c, input)
	return m.outcome(answer.UpdateIdentityProvider, by, err)
}

func (m *identityProviderModel) groupRules() []api.GroupMappingRuleInput {
	rules := []api.GroupMappingRuleInput{}
	for _, rule := range m.GroupRules {
		rules = append(rules, api.GroupMappingRuleInput{Value: rule.Value.ValueString(), GroupId: idOr(rule.GroupID)})
	}
	return rules
}

func (m *identityProviderModel) requiredClaims() []api.RequiredClaimInput {
	claims := []api.RequiredClaimInput{}
	for _, label := range labelsOf(m.RequiredClaims) {
		claims = append(claims, api.RequiredClaimInput{Name: label.Key, Value: label.Value})
	}
	return claims
}

func (m *identityProviderModel) outcome(one api.IdentityProviderFields, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.fill(one)
	}
	return outcome{revision: one.Revision}, err
}

func (m *identityProviderModel) fill(one api.IdentityProviderFields) {
	m.ID = types.StringValue(one.Id)
	m.Name, m.Issuer, m.ClientID = types.StringValue(one.Name), types.StringValue(one.Issuer), types.StringValue(one.ClientId)
	m.Enabled, m.CreatesUsers = types.BoolValue(one.Enabled), types.BoolValue(one.CreatesUsers)
	m.AcceptsAssertions = types.BoolValue(one.AcceptsAssertions)
	m.Scopes, m.ACRValues = setOf(one.Scopes), setOf(one.AcrValues)
	m.SubjectClaim = types.StringValue(one.SubjectClaim)
	m.GroupsClaim, m.GroupsURL = stringFrom(one.GroupsClaim), stringFrom(one.GroupsUrl)
	m.GroupsURLScope = stringFrom(one.GroupsUrlScope)
	m.RedirectURI, m.BackChannelLogoutURI = stringFrom(one.RedirectUri), stringFrom(one.BackChannelLogoutUri)
	// No rules are the same, left out or spelled out.
	if len(one.GroupRules) > 0 || len(m.GroupRules) > 0 {
		m.GroupRules = []groupRuleModel{}
	}
	for _, rule := range one.GroupRules {
		m.GroupRules = append(m.GroupRules, groupRuleModel{types.StringValue(rule.Value), types.StringValue(rule.GroupId)})
	}
	claims := map[string]attr.Value{}
	for _, claim := range one.RequiredClaims {
		claims[claim.Name] = types.StringValue(claim.Value)
	}
	m.RequiredClaims = types.MapValueMust(types.StringType, claims)
	if m.ClientSecretWOVersion.IsNull() {
		m.ClientSecretWOVersion = types.Int64Value(1)
	}
}
