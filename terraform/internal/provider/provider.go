// Package provider is the Terraform provider of Sallyport: who may use which MCP servers and tools, as code.
package provider

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

const (
	endpointVariable = "SALLYPORT_ENDPOINT"
	apiKeyVariable   = "SALLYPORT_API_KEY"
	retriesMaxMax    = 20
)

type sallyport struct{ version string }

var _ provider.ProviderWithEphemeralResources = &sallyport{}

// New returns the provider of a release; "dev" for a build that is none.
func New(version string) func() provider.Provider {
	return func() provider.Provider { return &sallyport{version: version} }
}

type providerModel struct {
	Endpoint   types.String `tfsdk:"endpoint"`
	APIKey     types.String `tfsdk:"api_key"`
	RetriesMax types.Int64  `tfsdk:"retries_max"`
	PlanDryRun types.Bool   `tfsdk:"plan_dry_run"`
}

func (p *sallyport) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName = "sallyport"
	resp.Version = p.version
}

func (p *sallyport) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Governs which MCP clients may use which servers, tools, prompts and resources of an " +
			"organization through [Sallyport](https://github.com/sallyport/sallyport). Every planned change is tried with " +
			"the API's own rules, and the plan tells who gains and loses which tools.",
		Attributes: map[string]schema.Attribute{
			"endpoint": schema.StringAttribute{
				MarkdownDescription: "URL of the control plane, such as `https://sallyport.example.com`; `http` for an address of " +
					"this machine alone. From `" + endpointVariable + "` if absent.",
				Optional: true,
			},
			"api_key": schema.StringAttribute{
				MarkdownDescription: "API key with the scope `api`. From `" + apiKeyVariable + "` if absent.",
				Optional:            true,
				Sensitive:           true,
			},
			"retries_max": schema.Int64Attribute{
				MarkdownDescription: fmt.Sprintf("How often a request is sent again after 429 or 503, which alone are ever "+
					"repeated: 0 to %d; %d if absent.", retriesMaxMax, api.RetriesMaxDefault),
				Optional:   true,
				Validators: []validator.Int64{int64validator.Between(0, retriesMaxMax)},
			},
			"plan_dry_run": schema.BoolAttribute{
				MarkdownDescription: "Whether planned changes are tried with the API, which then refuses at plan time what it would " +
					"refuse at apply time and tells whose access changes. `true` if absent.",
				Optional: true,
			},
		},
	}
}

func (p *sallyport) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var m providerModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &m)...)
	// What is not known yet is known at the apply; until then nothing can be asked.
	if resp.Diagnostics.HasError() || m.Endpoint.IsUnknown() || m.APIKey.IsUnknown() {
		return
	}
	config := api.Config{
		Endpoint:   settingOr(m.Endpoint, endpointVariable),
		Key:        settingOr(m.APIKey, apiKeyVariable),
		UserAgent:  "terraform-provider-sallyport/" + p.version,
		RetriesMax: api.RetriesMaxDefault,
	}
	if !m.RetriesMax.IsNull() {
		config.RetriesMax = int(m.RetriesMax.ValueInt64())
	}
	if config.Key == "" {
		resp.Diagnostics.AddAttributeError(path.Root("api_key"), "No API key",
			"Set api_key, or the environment variable "+apiKeyVariable+", to an API key with the scope api.")
	}
	client, err := api.New(config)
	if err != nil {
		resp.Diagnostics.AddAttributeError(path.Root("endpoint"), "No usable endpoint",
			err.Error()+". Set endpoint, or the environment variable "+endpointVariable+".")
	}
	if resp.Diagnostics.HasError() {
		return
	}
	both := &shared{
		client:       client,
		triesChanges: m.PlanDryRun.IsNull() || m.PlanDryRun.ValueBool(),
		managedIDs:   &sync.Map{},
	}
	resp.ResourceData, resp.DataSourceData, resp.EphemeralResourceData = both, both, both
}

func settingOr(value types.String, variable string) string {
	if text := value.ValueString(); text != "" {
		return text
	}
	return os.Getenv(variable)
}

// configured is nil before the provider is configured, as while Terraform only validates.
func configured(data any, diags *diag.Diagnostics) *shared {
	if data == nil {
		return nil
	}
	both, ok := data.(*shared)
	if !ok {
		diags.AddError("The provider handed on what it should not", fmt.Sprintf("It is a %T.", data))
	}
	return both
}

func (p *sallyport) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{
		newManaged[apiKeyModel](apiKeyKind),
		newManaged[authorizationServerModel](authorizationServerKind),
		newManaged[credentialModel](credentialKind),
		newManaged[grantModel](grantKind),
		newManaged[groupMembershipModel](groupMembershipKind),
		newManaged[groupModel](groupKind),
		newManaged[identityProviderModel](identityProviderKind),
		newManaged[joinTokenModel](joinTokenKind),
		newManaged[oauthClientModel](oauthClientKind),
		newManaged[policyModel](policyKind),
		newManaged[roleBindingModel](roleBindingKind),
		newManaged[roleModel](roleKind),
		newManaged[scimDirectoryModel](scimDirectoryKind),
		newManaged[scimTokenModel](scimTokenKind),
		newManaged[serverModel](serverKind),
		newManaged[serviceAccountModel](serviceAccountKind),
		newManaged[toolApprovalModel](toolApprovalKind),
		newManaged[toolLabelsModel](toolLabelsKind),
		newManaged[userModel](userKind),
		newManaged[webhookModel](webhookKind),
	}
}

func (p *sallyport) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{
		newSource(effectiveAccessSource),
		newSource(groupSource),
		newSource(groupsSource),
		newSource(nodeSource),
		newSource(nodesSource),
		newSource(rolesSource),
		newSource(serverSource),
		newSource(serversSource),
		newSource(serverToolsSource),
		newSource(serviceAccountSource),
		newSource(userSource),
	}
}

func (p *sallyport) EphemeralResources(context.Context) []func() ephemeral.EphemeralResource {
	return []func() ephemeral.EphemeralResource{newEphemeralAPIKey, newEphemeralJoinToken}
}
