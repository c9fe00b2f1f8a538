package provider

import (
	"context"
	"encoding/json"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

// lifetimeDefault is how long a secret of a run may be used at most: a run that is killed revokes nothing.
const lifetimeDefault = time.Hour

const lifetimeText = "How long it may be used at most, such as `30m`; `1h` if absent. It is revoked when the run ends, and by then " +
	"at the latest where the run was killed."

// lasting is how long an ephemeral secret lasts, and the secret.
type lasting struct {
	ID        types.String `tfsdk:"id"`
	Lifetime  types.String `tfsdk:"lifetime"`
	ExpiresAt types.String `tfsdk:"expires_at"`
	Secret    types.String `tfsdk:"secret"`
}

func lastingAttributes(others map[string]schema.Attribute) map[string]schema.Attribute {
	others["id"] = schema.StringAttribute{MarkdownDescription: "Unique and permanent.", Computed: true}
	others["lifetime"] = schema.StringAttribute{MarkdownDescription: lifetimeText, Optional: true}
	others["expires_at"] = schema.StringAttribute{MarkdownDescription: "It is refused from then on.", Computed: true}
	others["secret"] = schema.StringAttribute{MarkdownDescription: "The secret.", Computed: true, Sensitive: true}
	return others
}

// end is the instant at which the secret ends by itself.
func (l *lasting) end(diags *diag.Diagnostics) time.Time {
	lifetime := lifetimeDefault
	if text := l.Lifetime.ValueString(); text != "" {
		parsed, err := time.ParseDuration(text)
		if err != nil || parsed <= 0 {
			diags.AddAttributeError(path.Root("lifetime"), "Not a duration", "lifetime must be a duration such as 30m or 8h.")
			return time.Time{}
		}
		lifetime = parsed
	}
	return time.Now().Add(lifetime).UTC().Truncate(time.Second)
}

// secretOfRun is an ephemeral resource: a secret that is made when a run needs it, and revoked when the run ends.
type secretOfRun[M any] struct {
	name   string
	schema schema.Schema
	open   func(ctx context.Context, c *api.Client, m *M, diags *diag.Diagnostics) (id string)
	revoke func(ctx context.Context, c *api.Client, id string) error
	*shared
}

var (
	_ ephemeral.EphemeralResourceWithConfigure = &secretOfRun[apiKeyOfRun]{}
	_ ephemeral.EphemeralResourceWithClose     = &secretOfRun[apiKeyOfRun]{}
)

const idKey = "id"

func (s *secretOfRun[M]) Metadata(_ context.Context, req ephemeral.MetadataRequest, resp *ephemeral.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + s.name
}

func (s *secretOfRun[M]) Schema(_ context.Context, _ ephemeral.SchemaRequest, resp *ephemeral.SchemaResponse) {
	resp.Schema = s.schema
}

func (s *secretOfRun[M]) Configure(
	_ context.Context, req ephemeral.ConfigureRequest, resp *ephemeral.ConfigureResponse,
) {
	s.shared = configured(req.ProviderData, &resp.Diagnostics)
}

func (s *secretOfRun[M]) Open(ctx context.Context, req ephemeral.OpenRequest, resp *ephemeral.OpenResponse) {
	m := new(M)
	resp.Diagnostics.Append(req.Config.Get(ctx, m)...)
	if s.shared == nil {
		resp.Diagnostics.AddError("The provider is not configured", "Its endpoint or API key is not known yet.")
	}
	if resp.Diagnostics.HasError() {
		return
	}
	id := s.open(ctx, s.client, m, &resp.Diagnostics)
	if id == "" {
		return
	}
	encoded, _ := json.Marshal(id)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, idKey, encoded)...)
	resp.Diagnostics.Append(resp.Result.Set(ctx, m)...)
}

func (s *secretOfRun[M]) Close(ctx context.Context, req ephemeral.CloseRequest, resp *ephemeral.CloseResponse) {
	encoded, diags := req.Private.GetKey(ctx, idKey)
	resp.Diagnostics.Append(diags...)
	var id string
	if err := json.Unmarshal(encoded, &id); err != nil {
		resp.Diagnostics.AddError("The secret of this run cannot be revoked: its id is not known", err.Error())
		return
	}
	if err := s.revoke(ctx, s.client, id); err != nil && !api.IsNotFound(err) {
		resp.Diagnostics.AddError("The secret of this run could not be revoked; revoke it by hand", id+": "+err.Error())
	}
}

type apiKeyOfRun struct {
	lasting
	PrincipalID types.String `tfsdk:"principal_id"`
	Name        types.String `tfsdk:"name"`
	Scopes      types.Set    `tfsdk:"scopes"`
}

func newEphemeralAPIKey() ephemeral.EphemeralResource {
	return &secretOfRun[apiKeyOfRun]{
		name: "api_key",
		schema: schema.Schema{
			MarkdownDescription: "An API key that lives only as long as the run: made when the run needs it, in plans too, and revoked " +
				"when the run ends. It is in no state and no plan.",
			Attributes: lastingAttributes(map[string]schema.Attribute{
				"principal_id": schema.StringAttribute{
					MarkdownDescription: "Id of the user or service account it identifies.", Required: true,
				},
				"name": schema.StringAttribute{MarkdownDescription: "What to call it: 1 to 128 characters.", Required: true},
				"scopes": schema.SetAttribute{
					MarkdownDescription: scopesText,
					ElementType:         types.StringType,
					Required:            true,
					Validators: []validator.Set{
						setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(oneOf(lowered(api.AllApiKeyScope)...)),
					},
				},
			}),
		},
		open: func(ctx context.Context, c *api.Client, m *apiKeyOfRun, diags *diag.Diagnostics) string {
			end := m.end(diags)
			if diags.HasError() {
				return ""
			}
			answer, err := api.CreateApiKey(ctx, c, api.CreateApiKeyInput{
				PrincipalId:    m.PrincipalID.ValueString(),
				Name:           m.Name.ValueString(),
				Scopes:         scopesOf(m.Scopes),
				ExpiresAt:      end.Format(time.RFC3339),
				IdempotencyKey: api.IdempotencyKey(),
			})
			if err != nil {
				diags.AddError("Cannot make the API key of this run", err.Error())
				return ""
			}
			issued := answer.CreateApiKey
			m.ID, m.ExpiresAt = types.StringValue(issued.ApiKey.Id), types.StringValue(issued.ApiKey.ExpiresAt)
			m.Secret = stringFrom(issued.Secret)
			return issued.ApiKey.Id
		},
		revoke: func(ctx context.Context, c *api.Client, id string) error {
			_, err := api.RevokeApiKey(ctx, c, api.RevokeApiKeyInput{Id: id})
			return err
		},
	}
}

type joinTokenOfRun struct {
	lasting
	Name    types.String `tfsdk:"name"`
	Labels  types.Map    `tfsdk:"labels"`
	UsesMax types.Int64  `tfsdk:"uses_max"`
}

func newEphemeralJoinToken() ephemeral.EphemeralResource {
	return &secretOfRun[joinTokenOfRun]{
		name: "join_token",
		schema: schema.Schema{
			MarkdownDescription: "A join token that lives only as long as the run, for nodes that the same run starts: made when the " +
				"run needs it, in plans too, and revoked when the run ends; nodes that joined by it stay. It is in no state and no " +
				"plan.",
			Attributes: lastingAttributes(map[string]schema.Attribute{
				"name": schema.StringAttribute{MarkdownDescription: "What to call it: 1 to 128 characters.", Required: true},
				"labels": schema.MapAttribute{
					MarkdownDescription: "Labels a node must carry to join by it, at most 32.",
					ElementType:         types.StringType,
					Optional:            true,
				},
				"uses_max": schema.Int64Attribute{
					MarkdownDescription: "How many nodes may join by it; no limit if absent.",
					Optional:            true,
					Validators:          []validator.Int64{int64validator.Between(1, 10_000)},
				},
			}),
		},
		open: func(ctx context.Context, c *api.Client, m *joinTokenOfRun, diags *diag.Diagnostics) string {
			end := m.end(diags)
			if diags.HasError() {
				return ""
			}
			answer, err := api.CreateJoinToken(ctx, c, joinTokenInput(m.Name, m.Labels, m.UsesMax, end.Format(time.RFC3339)))
			if err != nil {
				diags.AddError("Cannot make the join token of this run", err.Error())
				return ""
			}
			issued := answer.CreateJoinToken
			m.ID, m.ExpiresAt = types.StringValue(issued.JoinToken.Id), types.StringValue(issued.JoinToken.ExpiresAt)
			m.Secret = stringFrom(issued.Secret)
			return issued.JoinToken.Id
		},
		revoke: func(ctx context.Context, c *api.Client, id string) error {
			_, err := api.RevokeJoinToken(ctx, c, api.RevokeJoinTokenInput{Id: id})
			return err
		},
	}
}
