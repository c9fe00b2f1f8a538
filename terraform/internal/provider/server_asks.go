package provider

import (
	"context"
	"regexp"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// asksModel is what a server may ask of clients; nil is nothing.
type asksModel struct {
	Sampling          types.Bool  `tfsdk:"sampling"`
	Roots             types.Bool  `tfsdk:"roots"`
	Elicitation       types.Bool  `tfsdk:"elicitation"`
	ElicitationHosts  types.Set   `tfsdk:"elicitation_hosts"`
	PerExchangeMax    types.Int64 `tfsdk:"per_exchange_max"`
	SamplingTokensMax types.Int64 `tfsdk:"sampling_tokens_max"`
	BytesMax          types.Int64 `tfsdk:"bytes_max"`
}

// hostPattern is the API's.
var hostPattern = regexp.MustCompile(`^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)

// What the API has where nobody said anything.
const (
	perExchangeDefault    = 8
	samplingTokensDefault = 4096
	askBytesDefault       = 65_536
)

func elicitationHosts() schema.SetAttribute {
	attribute := texts("Hosts to which it may send people, besides its own, by https alone: at most 64, in lower case and " +
		"without a port.")
	attribute.Validators = []validator.Set{
		setvalidator.SizeAtMost(64),
		setvalidator.ValueStringsAre(stringvalidator.RegexMatches(hostPattern, "must be a host name in lower case, such as login.example.com")),
	}
	return attribute
}

// The numbers are checked here, as the API can try no asks of a server that is yet to be made.
var asksAttribute = schema.SingleNestedAttribute{
	MarkdownDescription: "What it may ask of clients and of the people who use them. Absent, it may ask nothing: what is not " +
		"allowed is refused, and the server is not told that clients offer it. Needs the permission to approve servers.",
	Optional: true,
	Attributes: map[string]schema.Attribute{
		"sampling":          flag("Whether it may have the client's model answer (`sampling/createMessage`). `false` if absent.", false),
		"roots":             flag("Whether it may ask for the client's folders (`roots/list`). `false` if absent.", false),
		"elicitation":       flag("Whether it may ask the client's user (`elicitation/create`). `false` if absent.", false),
		"elicitation_hosts": elicitationHosts(),
		"per_exchange_max":  boundedNumber("Most questions of one exchange, 1 to 64; 8 if absent.", perExchangeDefault, 1, 64),
		"sampling_tokens_max": boundedNumber("Most `maxTokens` of one sampling request, 1 to 1000000; 4096 if absent.",
			samplingTokensDefault, 1, 1_000_000),
		"bytes_max": boundedNumber("Size of one question in bytes, 1 to 1048576; 65536 if absent.", askBytesDefault, 1, 1_048_576),
	},
}

// asksFrom is nil where the configuration says nothing and the server may ask nothing.
func asksFrom(has *asksModel, told api.AskFields) *asksModel {
	if has == nil && (*asksModel)(nil).equals(told) {
		return nil
	}
	return &asksModel{
		Sampling:          types.BoolValue(told.Sampling),
		Roots:             types.BoolValue(told.Roots),
		Elicitation:       types.BoolValue(told.Elicitation),
		ElicitationHosts:  setOf(told.ElicitationHosts),
		PerExchangeMax:    types.Int64Value(int64(told.PerExchangeMax)),
		SamplingTokensMax: types.Int64Value(int64(told.SamplingTokensMax)),
		BytesMax:          types.Int64Value(int64(told.BytesMax)),
	}
}

// fields are what the API is to have.
func (a *asksModel) fields() api.AskFields {
	if a == nil {
		return api.AskFields{
			ElicitationHosts:  []string{},
			PerExchangeMax:    perExchangeDefault,
			SamplingTokensMax: samplingTokensDefault,
			BytesMax:          askBytesDefault,
		}
	}
	return api.AskFields{
		Sampling:          a.Sampling.ValueBool(),
		Roots:             a.Roots.ValueBool(),
		Elicitation:       a.Elicitation.ValueBool(),
		ElicitationHosts:  stringsOf(a.ElicitationHosts),
		PerExchangeMax:    int(a.PerExchangeMax.ValueInt64()),
		SamplingTokensMax: int(a.SamplingTokensMax.ValueInt64()),
		BytesMax:          int(a.BytesMax.ValueInt64()),
	}
}

func (a *asksModel) equals(told api.AskFields) bool {
	wanted := a.fields()
	hosts := slices.Clone(told.ElicitationHosts)
	slices.Sort(hosts)
	return wanted.Sampling == told.Sampling && wanted.Roots == told.Roots && wanted.Elicitation == told.Elicitation &&
		wanted.PerExchangeMax == told.PerExchangeMax && wanted.SamplingTokensMax == told.SamplingTokensMax &&
		wanted.BytesMax == told.BytesMax && slices.Equal(wanted.ElicitationHosts, hosts)
}

// change brings the server's asks to these, or tries to, and returns the server after it. Who may not approve servers can
// manage one as long as they stay. Not over a revision: the change of the server before it was.
func (a *asksModel) change(
	ctx context.Context, c *api.Client, server api.ServerFields, dryRun bool,
) (api.ServerFields, error) {
	if a.equals(server.Asks) {
		return server, nil
	}
	wanted := a.fields()
	answer, err := api.UpdateServerAsks(ctx, c, api.UpdateServerAsksInput{
		Id:                server.Id,
		DryRun:            dryRun,
		Sampling:          optional.Of(wanted.Sampling),
		Roots:             optional.Of(wanted.Roots),
		Elicitation:       optional.Of(wanted.Elicitation),
		ElicitationHosts:  wanted.ElicitationHosts,
		PerExchangeMax:    optional.Of(wanted.PerExchangeMax),
		SamplingTokensMax: optional.Of(wanted.SamplingTokensMax),
		BytesMax:          optional.Of(wanted.BytesMax),
	})
	if err != nil {
		return server, err
	}
	return answer.UpdateServerAsks, nil
}
