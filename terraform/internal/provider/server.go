package provider

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/setplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// discoveryPollInterval is how often a server is looked at while its discovery goes on.
const discoveryPollInterval = 500 * time.Millisecond

type serverModel struct {
	base
	Slug                 types.String `tfsdk:"slug"`
	URL                  types.String `tfsdk:"url"`
	Title                types.String `tfsdk:"title"`
	Description          types.String `tfsdk:"description"`
	Labels               types.Map    `tfsdk:"labels"`
	AuditMode            types.String `tfsdk:"audit_mode"`
	AutoApproval         types.String `tfsdk:"auto_approval"`
	ConfigStalenessMaxMs types.Int64  `tfsdk:"config_staleness_max_ms"`
	DiscoveredBy         types.String `tfsdk:"discovered_by"`
	LifecycleState       types.String `tfsdk:"lifecycle_state"`
	OwnerGroupID         types.String `tfsdk:"owner_group_id"`
	Extensions           types.Set    `tfsdk:"extensions"`
	Asks                 *asksModel   `tfsdk:"asks"`
}

var serverSchema = schema.Schema{
	MarkdownDescription: "An MCP server that is reached over Streamable HTTP. It is served at `/mcp/<slug>` on every node, to " +
		"those whom grants let, once it is approved. Deleting a server deletes its grants.",
	Attributes: map[string]schema.Attribute{
		"slug": required("Names its endpoint on every node, `/mcp/<slug>`: lower-case letters, digits and inner hyphens, at most " +
			"64. Must not look like another server's. Another one makes another server."),
		"url": required("Streamable HTTP endpoint of the upstream, http or https."),
		"title": schema.StringAttribute{
			MarkdownDescription: "What people call it; the slug if absent.", Optional: true, Computed: true,
		},
		"description": defaulted("What it is for.", ""),
		"labels":      labels("Labels, at most 64. Grants can go by them."),
		"audit_mode": defaulted("`buffered`: calls are written before the first byte of the answer, and survive the end of the "+
			"process; `strict`: they are synced to disk before they are forwarded. `buffered` if absent.", "buffered",
			oneOf(lowered(api.AllAuditMode)...)),
		"auto_approval": defaulted("How far its definitions may drift and be approved by themselves: `none`; `minor`, white space, "+
			"titles and icons; `review`, all but what would be quarantined, new definitions of low risk too. What the scan finds "+
			"severe or somebody rejected never is. `none` if absent.", "none", oneOf(lowered(api.AllAutoApproval)...)),
		"config_staleness_max_ms": schema.Int64Attribute{
			MarkdownDescription: "Nodes out of contact with the control plane for longer, in milliseconds, refuse it; the fleet's " +
				"default if absent.",
			Optional:   true,
			Validators: []validator.Int64{int64validator.AtLeast(1)},
		},
		"discovered_by": defaulted("Who connects to it to learn what it defines: `control_plane`, or `node` where the control "+
			"plane has no way to it. `control_plane` if absent.", "control_plane", oneOf(lowered(api.AllDiscoverer)...)),
		"owner_group_id": optionalText("Id of the group whose members may write it, as far as their roles let them write their own " +
			"servers. Who may write only his own servers must name one of his groups."),
		"extensions": schema.SetAttribute{
			MarkdownDescription: "Extensions of the protocol that may be offered to its clients and to it, at most 64; every other is " +
				"taken out of what either declares. Tasks and MCP Apps if absent when it is made, and left as they are later.",
			ElementType:   types.StringType,
			Optional:      true,
			Computed:      true,
			PlanModifiers: []planmodifier.Set{setplanmodifier.UseStateForUnknown()},
		},
		"asks": asksAttribute,
		"lifecycle_state": defaulted("`draft`, `pending` (waiting for an approval), `approved` (in service), `deprecated` (in "+
			"service, on its way out) or `disabled`. `draft` if absent. Approving a server from `draft` or `pending` waits until it "+
			"is discovered, for at most the timeout, and approves the definitions found with it; pin them with "+
			"`sallyport_tool_approval`.", "draft", oneOf(lowered(api.AllLifecycle)...)),
	},
}

var serverKind = kind[serverModel]{
	name:     "server",
	schema:   serverSchema,
	fixed:    []string{"slug"},
	natural:  "slug",
	standIns: []string{"owner_group_id"},
	// The API takes these by a mutation of their own.
	violations: map[string]string{
		"sampling": "asks.sampling", "roots": "asks.roots", "elicitation": "asks.elicitation",
		"perExchangeMax": "asks.perExchangeMax", "samplingTokensMax": "asks.samplingTokensMax", "bytesMax": "asks.bytesMax",
		"elicitationHosts": "asks.elicitationHosts",
	},
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.ServerFields, error) {
			return c.AllServers(ctx, optional.Of(key), optional.Value[api.Lifecycle]{})
		}, func(server api.ServerFields) bool { return server.Slug == key },
			func(server api.ServerFields) string { return server.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *serverModel) (int, error) {
		answer, err := api.ReadServer(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.Server)
		return answer.Server.Revision, nil
	},
	complete: func(config serverModel, m *serverModel) {
		if config.Title.IsNull() {
			m.Title = m.Slug
		}
	},
	create: createServer,
	update: updateServer,
	remove: func(ctx context.Context, c *api.Client, m serverModel, by change) (outcome, error) {
		answer, err := api.DeleteServer(ctx, c, api.ServerInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{access: answer.DeleteServer.AccessChanges}, err
	},
}

func (m *serverModel) fill(server api.ServerFields) {
	m.ID = types.StringValue(server.Id)
	m.Slug = types.StringValue(server.Slug)
	m.URL = types.StringValue(server.Url)
	m.Title = types.StringValue(server.Title)
	m.Description = types.StringValue(server.Description)
	m.Labels = mapOf(server.Labels)
	m.AuditMode = types.StringValue(lower(server.AuditMode))
	m.AutoApproval = types.StringValue(lower(server.AutoApproval))
	m.ConfigStalenessMaxMs = intFrom(server.ConfigStalenessMaxMs)
	m.DiscoveredBy = types.StringValue(lower(server.DiscoveredBy))
	m.LifecycleState = types.StringValue(lower(server.Lifecycle))
	m.OwnerGroupID = stringFrom(server.OwnerGroupId)
	m.Extensions = setOf(server.Extensions)
	m.Asks = asksFrom(m.Asks, server.Asks)
}

func createServer(ctx context.Context, c *api.Client, m *serverModel, by change) (outcome, error) {
	wanted := upper[api.Lifecycle](m.LifecycleState)
	if _, err := lifecyclePath(api.LifecycleDraft, wanted); err != nil {
		return outcome{}, err
	}
	input := api.CreateServerInput{
		Slug:                 m.Slug.ValueString(),
		Url:                  m.URL.ValueString(),
		Title:                optional.FromPointer(m.Title.ValueStringPointer()),
		Description:          optional.Of(m.Description.ValueString()),
		Labels:               labelsOf(m.Labels),
		AuditMode:            optional.Of(upper[api.AuditMode](m.AuditMode)),
		AutoApproval:         optional.Of(upper[api.AutoApproval](m.AutoApproval)),
		ConfigStalenessMaxMs: nullableInt(m.ConfigStalenessMaxMs),
		DiscoveredBy:         optional.Of(upper[api.Discoverer](m.DiscoveredBy)),
		DryRun:               by.dryRun,
		IdempotencyKey:       api.IdempotencyKey(),
	}
	if !m.OwnerGroupID.IsNull() {
		input.OwnerGroupId = optional.Of(idOr(m.OwnerGroupID))
	}
	if !m.Extensions.IsUnknown() {
		input.Extensions = stringsOf(m.Extensions)
	}
	answer, err := api.CreateServer(ctx, c, input)
	if err != nil || by.dryRun {
		return outcome{}, err
	}
	asks := m.Asks
	m.fill(answer.CreateServer)
	// Before it is in service, so that it never asks what it may not.
	server, err := asks.change(ctx, c, answer.CreateServer, false)
	m.fill(server)
	if err != nil {
		return outcome{revision: server.Revision}, err
	}
	return m.bringTo(ctx, c, server, wanted)
}

func updateServer(ctx context.Context, c *api.Client, before serverModel, m *serverModel, by change) (outcome, error) {
	wanted := upper[api.Lifecycle](m.LifecycleState)
	steps, err := lifecyclePath(upper[api.Lifecycle](before.LifecycleState), wanted)
	if err != nil {
		return outcome{}, err
	}
	input := api.UpdateServerInput{
		Id:                   m.ID.ValueString(),
		ExpectedRevision:     atRevision(by),
		Url:                  optional.Of(m.URL.ValueString()),
		Title:                optional.Of(m.Title.ValueString()),
		Description:          optional.Of(m.Description.ValueString()),
		Labels:               labelsOf(m.Labels),
		AuditMode:            optional.Of(upper[api.AuditMode](m.AuditMode)),
		AutoApproval:         optional.Of(upper[api.AutoApproval](m.AutoApproval)),
		ConfigStalenessMaxMs: nullableInt(m.ConfigStalenessMaxMs),
		DiscoveredBy:         optional.Of(upper[api.Discoverer](m.DiscoveredBy)),
		OwnerGroupId:         optional.Null[string](),
		DryRun:               by.dryRun,
	}
	if !m.OwnerGroupID.IsNull() {
		input.OwnerGroupId = optional.Of(idOr(m.OwnerGroupID))
	}
	if !m.Extensions.IsUnknown() {
		input.Extensions = stringsOf(m.Extensions)
	}
	answer, err := api.UpdateServer(ctx, c, input)
	if err != nil {
		return outcome{}, err
	}
	server, err := m.Asks.change(ctx, c, answer.UpdateServer.ServerFields, by.dryRun)
	if err != nil {
		return outcome{}, err
	}
	if by.dryRun {
		tried, err := tryMove(ctx, c, m.ID.ValueString(), steps)
		tried.access = append(answer.UpdateServer.AccessChanges, tried.access...)
		return tried, err
	}
	m.fill(server)
	return m.bringTo(ctx, c, server, wanted)
}

// bringTo leads the server to a state of its lifecycle, step by step.
func (m *serverModel) bringTo(
	ctx context.Context, c *api.Client, server api.ServerFields, wanted api.Lifecycle,
) (outcome, error) {
	steps, err := lifecyclePath(server.Lifecycle, wanted)
	for index := 0; err == nil && index < len(steps); index++ {
		if steps[index] == api.LifecycleApproved {
			if server, err = discovered(ctx, c, server); err != nil {
				break
			}
		}
		// Not over a revision: a discovery may raise it meanwhile, and nobody has looked at what it found.
		var after moved
		if after, err = move(ctx, c, api.ServerInput{Id: server.Id}, steps[index]); err == nil {
			server = after.ServerFields
			m.fill(server)
		}
	}
	return outcome{revision: server.Revision}, err
}

// tryMove tells whose access the first step of a way through the lifecycle would change. What an approval waits for is
// waited for when it is applied.
func tryMove(ctx context.Context, c *api.Client, id string, steps []api.Lifecycle) (outcome, error) {
	if len(steps) == 0 {
		return outcome{}, nil
	}
	after, err := move(ctx, c, api.ServerInput{Id: id, DryRun: true}, steps[0])
	if steps[0] == api.LifecycleApproved && len(api.ViolationsOf(err)) > 0 {
		return outcome{notes: []note{{"The server could not be approved as things stand", err.Error()}}}, nil
	}
	return outcome{access: after.AccessChanges}, err
}

// moved is a server after a step, and whose access that changes or would change.
type moved struct {
	api.ServerFields
	AccessChanges []api.AccessDifference
}

func move(ctx context.Context, c *api.Client, input api.ServerInput, to api.Lifecycle) (moved, error) {
	switch to {
	case api.LifecyclePending:
		answer, err := api.SubmitServer(ctx, c, input)
		return moved(answer.SubmitServer), err
	case api.LifecycleDraft:
		answer, err := api.ReturnServerToDraft(ctx, c, input)
		return moved(answer.ReturnServerToDraft), err
	case api.LifecycleDeprecated:
		answer, err := api.DeprecateServer(ctx, c, input)
		return moved(answer.DeprecateServer), err
	case api.LifecycleDisabled:
		answer, err := api.DisableServer(ctx, c, input)
		return moved(answer.DisableServer), err
	default:
		answer, err := api.ApproveServer(ctx, c, input)
		return moved(answer.ApproveServer), err
	}
}

// transitions are where a server may go from each state; the API has the last word.
var transitions = map[api.Lifecycle][]api.Lifecycle{
	api.LifecycleDraft:      {api.LifecyclePending, api.LifecycleApproved},
	api.LifecyclePending:    {api.LifecycleDraft, api.LifecycleApproved},
	api.LifecycleApproved:   {api.LifecycleDeprecated, api.LifecycleDisabled},
	api.LifecycleDeprecated: {api.LifecycleApproved, api.LifecycleDisabled},
	api.LifecycleDisabled:   {api.LifecycleDraft, api.LifecycleApproved},
}

func isServed(state api.Lifecycle) bool {
	return state == api.LifecycleApproved || state == api.LifecycleDeprecated
}

// lifecyclePath is the shortest way between two states. It never puts a server into service on the way to a state in
// which it is not.
func lifecyclePath(from, to api.Lifecycle) ([]api.Lifecycle, error) {
	ways := [][]api.Lifecycle{{from}}
	seen := []api.Lifecycle{from}
	for len(ways) > 0 {
		way := ways[0]
		ways = ways[1:]
		at := way[len(way)-1]
		if at == to {
			return way[1:], nil
		}
		for _, next := range transitions[at] {
			entersService := isServed(next) && !isServed(at) && !isServed(to)
			if !entersService && !slices.Contains(seen, next) {
				seen = append(seen, next)
				ways = append(ways, append(slices.Clone(way), next))
			}
		}
	}
	return nil, invalid("input.lifecycleState", fmt.Sprintf(
		"cannot go from %s to %s without putting the server into service on the way", lower(from), lower(to)))
}

// discovered waits until a server was discovered with success; a first failure is tried again once, as the upstream may
// have come up at the same time.
func discovered(ctx context.Context, c *api.Client, server api.ServerFields) (api.ServerFields, error) {
	isRetried := false
	for {
		problem, hasFailed := server.DiscoveryProblem.Get()
		_, hasSucceeded := server.DiscoveredAt.Get()
		switch {
		case hasFailed && isRetried:
			return server, fmt.Errorf("the server %s cannot be approved, as it could not be discovered: %s (%s)",
				server.Slug, problem.Message, problem.Code)
		case hasFailed:
			isRetried = true
			answer, err := api.DiscoverServer(ctx, c, api.ServerInput{Id: server.Id})
			if err != nil {
				return server, err
			}
			server = answer.DiscoverServer
		case hasSucceeded:
			return server, nil
		default:
			select {
			case <-ctx.Done():
				return server, fmt.Errorf("the server %s was not discovered in time: %w", server.Slug, ctx.Err())
			case <-time.After(discoveryPollInterval):
			}
			answer, err := api.ReadServer(ctx, c, server.Id)
			if err != nil {
				return server, err
			}
			server = answer.Server
		}
	}
}
