package provider

import (
	"context"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/ephemeral"
	"github.com/hashicorp/terraform-plugin-framework/providerserver"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

func TestEverySchemaIsOneThatTerraformTakes(t *testing.T) {
	server, err := providerserver.NewProtocol6WithError(New("test")())()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := server.GetProviderSchema(context.Background(), &tfprotov6.GetProviderSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range answer.Diagnostics {
		t.Errorf("%s: %s", problem.Summary, problem.Detail)
	}
	described := func(name string, schema *tfprotov6.Schema) {
		for _, attribute := range schema.Block.Attributes {
			if attribute.Description == "" && attribute.Name != "timeouts" {
				t.Errorf("%s.%s has no description", name, attribute.Name)
			}
		}
	}
	for name, schema := range answer.ResourceSchemas {
		described(name, schema)
	}
	for name, schema := range answer.DataSourceSchemas {
		described(name, schema)
	}
	for name, schema := range answer.EphemeralResourceSchemas {
		described(name, schema)
	}
}

func TestEverySchemaHoldsToTheRulesOfTheFramework(t *testing.T) {
	ctx := context.Background()
	made := New("test")().(*sallyport)
	for _, one := range made.Resources(ctx) {
		var resp resource.SchemaResponse
		one().Schema(ctx, resource.SchemaRequest{}, &resp)
		if diags := resp.Schema.ValidateImplementation(ctx); diags.HasError() {
			t.Errorf("%v", diags)
		}
	}
	for _, one := range made.DataSources(ctx) {
		var resp datasource.SchemaResponse
		one().Schema(ctx, datasource.SchemaRequest{}, &resp)
		if diags := resp.Schema.ValidateImplementation(ctx); diags.HasError() {
			t.Errorf("%v", diags)
		}
	}
	for _, one := range made.EphemeralResources(ctx) {
		var resp ephemeral.SchemaResponse
		one().Schema(ctx, ephemeral.SchemaRequest{}, &resp)
		if diags := resp.Schema.ValidateImplementation(ctx); diags.HasError() {
			t.Errorf("%v", diags)
		}
	}
}

// fixedAttributes must exist, or a change of one would be tried in place.
func TestFixedAttributesAndStandInsExist(t *testing.T) {
	for name, one := range map[string]struct {
		fixed, standIns []string
		attributes      func(string) bool
	}{
		"grant":        {grantKind.fixed, grantKind.standIns, hasAttribute(grantKind)},
		"server":       {serverKind.fixed, serverKind.standIns, hasAttribute(serverKind)},
		"api_key":      {apiKeyKind.fixed, apiKeyKind.standIns, hasAttribute(apiKeyKind)},
		"join_token":   {joinTokenKind.fixed, joinTokenKind.standIns, hasAttribute(joinTokenKind)},
		"role_binding": {roleBindingKind.fixed, roleBindingKind.standIns, hasAttribute(roleBindingKind)},
		"membership":   {groupMembershipKind.fixed, groupMembershipKind.standIns, hasAttribute(groupMembershipKind)},
		"approval":     {toolApprovalKind.fixed, toolApprovalKind.standIns, hasAttribute(toolApprovalKind)},
		"labels":       {toolLabelsKind.fixed, toolLabelsKind.standIns, hasAttribute(toolLabelsKind)},
	} {
		for _, attribute := range slices.Concat(one.fixed, one.standIns) {
			if !one.attributes(attribute) {
				t.Errorf("%s has no attribute %s", name, attribute)
			}
		}
	}
}

func hasAttribute[M any](k kind[M]) func(string) bool {
	return func(name string) bool {
		_, ok := k.schema.Attributes[k.tokens("input." + name)[0]]
		return ok
	}
}

func TestAViolationIsReportedOnItsAttribute(t *testing.T) {
	for path, want := range map[string]string{
		"input.name":                      "name",
		"input.items[12].subject.id":      "subject.id",
		"input.items[0].tools[3]":         "tools",
		"input.limits.riskMax":            "limits.risk_max",
		"input.whenArguments":             "when_arguments",
		"input.configStalenessMaxMs":      "config_staleness_max_ms",
		"input.serverLabels[1].key":       "server_labels.key",
		"input.items[4].expectedRevision": "expected_revision",
	} {
		if got := grantKind.dottedPath(path); got != want {
			t.Errorf("%s is reported on %s, not %s", path, got, want)
		}
	}
	for path, want := range map[string]string{
		"input.staticHeaders.headers[0].name":   "static_headers_wo",
		"input.userOAuth.clientId":              "user_oauth.client_id",
		"input.userOAuth.authorizationHosts[1]": "user_oauth.authorization_hosts",
		"input.identityAssertion":               "identity_assertion",
		"input.identityToken.lifetimeSeconds":   "identity_token.lifetime_seconds",
		"input.tokenExchange.secret":            "secret_wo",
	} {
		if got := credentialKind.dottedPath(path); got != want {
			t.Errorf("%s of a credential is reported on %s, not %s", path, got, want)
		}
	}
	if got := groupMembershipKind.dottedPath("input.principalIds[0]"); got != "principal_id" {
		t.Errorf("a principal is reported on %s", got)
	}
}

func TestNoWayThroughTheLifecycleServesWhatIsNotToBeServed(t *testing.T) {
	for _, from := range api.AllLifecycle {
		for _, to := range api.AllLifecycle {
			way, err := lifecyclePath(from, to)
			if isServed(to) && err != nil {
				t.Errorf("%s to %s: %v", from, to, err)
			}
			at := from
			for _, next := range way {
				if !slices.Contains(transitions[at], next) {
					t.Errorf("%s to %s goes from %s to %s", from, to, at, next)
				}
				if isServed(next) && !isServed(from) && !isServed(to) {
					t.Errorf("%s to %s puts the server into service", from, to)
				}
				at = next
			}
			if err == nil && at != to {
				t.Errorf("%s to %s ends at %s", from, to, at)
			}
		}
	}
}

func TestAnInstantKeepsItsWriting(t *testing.T) {
	for _, one := range []struct{ has, told, want string }{
		{"2027-01-01T00:00:00Z", "2027-01-01T00:00:00.000Z", "2027-01-01T00:00:00Z"},
		{"2027-01-01T01:00:00+01:00", "2027-01-01T00:00:00.000Z", "2027-01-01T01:00:00+01:00"},
		{"2027-01-01T00:00:00.1234567Z", "2027-01-01T00:00:00.123Z", "2027-01-01T00:00:00.1234567Z"},
		{"", "2027-01-01T00:00:00.000Z", "2027-01-01T00:00:00Z"},
		{"2027-01-01T00:00:00Z", "2027-01-02T00:00:00.500Z", "2027-01-02T00:00:00.5Z"},
	} {
		if got := instantFrom(types.StringValue(one.has), one.told).ValueString(); got != one.want {
			t.Errorf("%s told as %s became %s", one.has, one.told, got)
		}
	}
}

func TestADifferenceInAccessNamesWhatIsGainedAndLost(t *testing.T) {
	tool := func(name string) api.AccessItemFields {
		return api.AccessItemFields{Kind: api.DefinitionKindTool, Name: name, Effect: api.EffectAllow}
	}
	template := api.AccessItemFields{Kind: api.DefinitionKindResourceTemplate, Name: "file:///{path}", IsConditional: true}
	approved := api.AccessItemFields{Kind: api.DefinitionKindTool, Name: "wipe", Effect: api.EffectRequireApproval}
	text := describeDifference(api.AccessDifference{
		Slug: "jira", Gained: []api.AccessItemFields{tool("search"), template}, Lost: []api.AccessItemFields{approved},
	})
	want := "Gains on jira: search, resource template file:///{path} (on a condition).\n" +
		"Loses on jira: wipe (each call needs an approval)."
	if text != want {
		t.Errorf("got %s", text)
	}
}
