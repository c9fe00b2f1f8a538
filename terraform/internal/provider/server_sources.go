package provider

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type serverSourceModel struct {
	ID               types.String `tfsdk:"id"`
	Slug             types.String `tfsdk:"slug"`
	Title            types.String `tfsdk:"title"`
	Description      types.String `tfsdk:"description"`
	URL              types.String `tfsdk:"url"`
	Labels           types.Map    `tfsdk:"labels"`
	AuditMode        types.String `tfsdk:"audit_mode"`
	LifecycleState   types.String `tfsdk:"lifecycle_state"`
	OwnerGroupID     types.String `tfsdk:"owner_group_id"`
	ProtocolRevision types.Set    `tfsdk:"protocol_revisions"`
	DiscoveredAt     types.String `tfsdk:"discovered_at"`
	DiscoveryProblem types.String `tfsdk:"discovery_problem"`
}

func serverAttributes() map[string]schema.Attribute {
	made := shown(map[string]string{
		"title":             "What people call it.",
		"description":       "What it is for.",
		"url":               "Streamable HTTP endpoint of the upstream.",
		"audit_mode":        "`buffered` or `strict`.",
		"lifecycle_state":   "`draft`, `pending`, `approved`, `deprecated` or `disabled`.",
		"owner_group_id":    "Id of the group whose members own it.",
		"discovered_at":     "When it was discovered last with success.",
		"discovery_problem": "Why the last discovery failed; null when it succeeded, or none was tried.",
	})
	made["labels"] = shownLabels("Its labels.")
	made["protocol_revisions"] = shownTexts("Protocol revisions it was observed to speak.")
	return made
}

func (m *serverSourceModel) fill(server api.ServerFields) {
	m.ID, m.Slug = types.StringValue(server.Id), types.StringValue(server.Slug)
	m.Title, m.Description = types.StringValue(server.Title), types.StringValue(server.Description)
	m.URL = types.StringValue(server.Url)
	m.Labels = mapOf(server.Labels)
	m.AuditMode, m.LifecycleState = types.StringValue(lower(server.AuditMode)), types.StringValue(lower(server.Lifecycle))
	m.OwnerGroupID = stringFrom(server.OwnerGroupId)
	m.ProtocolRevision = setOf(server.ProtocolRevisions)
	m.DiscoveredAt = stringFrom(server.DiscoveredAt)
	m.DiscoveryProblem = types.StringNull()
	if problem, ok := server.DiscoveryProblem.Get(); ok {
		m.DiscoveryProblem = types.StringValue(problem.Message + " (" + problem.Code + ")")
	}
}

var serverSource = source[serverSourceModel]{
	name: "server",
	schema: schema.Schema{
		MarkdownDescription: "A registered MCP server.",
		Attributes:          keyed("slug", "Names its endpoint on every node, `/mcp/<slug>`.", serverAttributes()),
	},
	read: func(ctx context.Context, c *api.Client, m *serverSourceModel) error {
		id, err := idOf(ctx, c, m.ID, m.Slug, serverKind.locate)
		if err != nil {
			return err
		}
		answer, err := api.ReadServer(ctx, c, id)
		if err == nil {
			m.fill(answer.Server)
		}
		return err
	},
}

type serversSourceModel struct {
	LifecycleState types.String        `tfsdk:"lifecycle_state"`
	Servers        []serverSourceModel `tfsdk:"servers"`
}

var serversSource = source[serversSourceModel]{
	name: "servers",
	schema: schema.Schema{
		MarkdownDescription: "The registered MCP servers, oldest first.",
		Attributes: map[string]schema.Attribute{
			"lifecycle_state": schema.StringAttribute{
				MarkdownDescription: "Only servers in this state.",
				Optional:            true,
				Validators:          []validator.String{oneOf(lowered(api.AllLifecycle)...)},
			},
			"servers": list("The servers.", with(serverAttributes(), shown(map[string]string{
				"id": "Unique and permanent.", "slug": "Names its endpoint on every node.",
			}))),
		},
	},
	read: func(ctx context.Context, c *api.Client, m *serversSourceModel) error {
		var lifecycle optional.Value[api.Lifecycle]
		if !m.LifecycleState.IsNull() {
			lifecycle = optional.Of(upper[api.Lifecycle](m.LifecycleState))
		}
		found, err := c.AllServers(ctx, optional.Value[string]{}, lifecycle)
		m.Servers = []serverSourceModel{}
		for _, server := range found {
			var one serverSourceModel
			one.fill(server)
			m.Servers = append(m.Servers, one)
		}
		return err
	},
}

func with(attributes, others map[string]schema.Attribute) map[string]schema.Attribute {
	for name, attribute := range others {
		attributes[name] = attribute
	}
	return attributes
}

type serverToolsSourceModel struct {
	ServerID types.String      `tfsdk:"server_id"`
	Kind     types.String      `tfsdk:"kind"`
	Tools    []toolSourceModel `tfsdk:"tools"`
}

type toolSourceModel struct {
	ID              types.String          `tfsdk:"id"`
	Kind            types.String          `tfsdk:"kind"`
	Name            types.String          `tfsdk:"name"`
	Description     types.String          `tfsdk:"description"`
	State           types.String          `tfsdk:"state"`
	Digests         types.Set             `tfsdk:"digests"`
	ApprovedDigests types.Set             `tfsdk:"approved_digests"`
	Annotations     *toolAnnotationsModel `tfsdk:"annotations"`
	Labels          *toolLabelsShown      `tfsdk:"labels"`
	Definition      types.String          `tfsdk:"definition"`
}

type toolAnnotationsModel struct {
	ReadOnlyHint    types.Bool `tfsdk:"read_only_hint"`
	DestructiveHint types.Bool `tfsdk:"destructive_hint"`
	IdempotentHint  types.Bool `tfsdk:"idempotent_hint"`
	OpenWorldHint   types.Bool `tfsdk:"open_world_hint"`
}

type toolLabelsShown struct {
	Risk        types.String `tfsdk:"risk"`
	ReadOnly    types.Bool   `tfsdk:"read_only"`
	Destructive types.Bool   `tfsdk:"destructive"`
	Idempotent  types.Bool   `tfsdk:"idempotent"`
	OpenWorld   types.Bool   `tfsdk:"open_world"`
}

func toolAttributes() map[string]schema.Attribute {
	made := shown(map[string]string{
		"id":          "Unique and permanent.",
		"kind":        "`tool`, `prompt`, `resource` or `resource_template`.",
		"name":        "Name of a tool or prompt, URI of a resource or its template.",
		"description": "What the server says it is for; not to be trusted.",
		"state": "`approved`; `pending`: nobody has approved it yet; `drifted`: the server sends something other than what was " +
			"approved; `quarantined`.",
		"definition": "What the server sends, as JSON: the newest wording, for review.",
	})
	made["digests"] = shownTexts("Digests of what the server sends: what `sallyport_tool_approval` pins.")
	made["approved_digests"] = shownTexts("Digests that may be served.")
	made["annotations"] = schema.SingleNestedAttribute{
		MarkdownDescription: "What the server says of itself; it decides nothing. Null where it says nothing.",
		Computed:            true,
		Attributes: map[string]schema.Attribute{
			"read_only_hint":   shownFlag("Whether it says to change nothing."),
			"destructive_hint": shownFlag("Whether it says to destroy."),
			"idempotent_hint":  shownFlag("Whether it says that calling it again changes nothing more."),
			"open_world_hint":  shownFlag("Whether it says to reach beyond the organization."),
		},
	}
	made["labels"] = schema.SingleNestedAttribute{
		MarkdownDescription: "What an administrator says of it; null where nobody has judged.",
		Computed:            true,
		Attributes: map[string]schema.Attribute{
			"risk":        schema.StringAttribute{MarkdownDescription: "`low`, `medium`, `high` or `critical`.", Computed: true},
			"read_only":   shownFlag("Whether it changes nothing."),
			"destructive": shownFlag("Whether it can destroy something."),
			"idempotent":  shownFlag("Whether calling it again changes nothing more."),
			"open_world":  shownFlag("Whether it reaches beyond the organization."),
		},
	}
	return made
}

var serverToolsSource = source[serverToolsSourceModel]{
	name: "server_tools",
	schema: schema.Schema{
		MarkdownDescription: "What a server defines, with the digests to pin and what is said of each.",
		Attributes: map[string]schema.Attribute{
			"server_id": schema.StringAttribute{MarkdownDescription: "Id of the server.", Required: true},
			"kind": schema.StringAttribute{
				MarkdownDescription: "`tool`, `prompt`, `resource` or `resource_template`; `tool` if absent.",
				Optional:            true,
				Validators:          []validator.String{oneOf(lowered(api.AllDefinitionKind)...)},
			},
			"tools": list("The definitions, in the order they were first seen.", toolAttributes()),
		},
	},
	read: func(ctx context.Context, c *api.Client, m *serverToolsSourceModel) error {
		kind := api.DefinitionKindTool
		if !m.Kind.IsNull() {
			kind = upper[api.DefinitionKind](m.Kind)
		}
		found, err := c.AllDefinitions(ctx, m.ServerID.ValueString(), optional.Of(kind))
		m.Tools = []toolSourceModel{}
		for _, definition := range found {
			m.Tools = append(m.Tools, toolFrom(definition))
		}
		return err
	},
}

func toolFrom(definition api.DefinitionListed) toolSourceModel {
	tool := toolSourceModel{
		ID:              types.StringValue(definition.Id),
		Kind:            types.StringValue(lower(definition.Kind)),
		Name:            types.StringValue(definition.Name),
		State:           types.StringValue(lower(definition.State)),
		Digests:         setOf(definition.Digests),
		ApprovedDigests: setOf(definition.ApprovedDigests),
		Labels: &toolLabelsShown{
			Risk:        enumFrom(definition.Labels.Risk),
			ReadOnly:    types.BoolPointerValue(definition.Labels.ReadOnly.Pointer()),
			Destructive: types.BoolPointerValue(definition.Labels.Destructive.Pointer()),
			Idempotent:  types.BoolPointerValue(definition.Labels.Idempotent.Pointer()),
			OpenWorld:   types.BoolPointerValue(definition.Labels.OpenWorld.Pointer()),
		},
	}
	if len(definition.Seen) == 0 {
		return tool
	}
	raw := definition.Seen[0].Raw
	tool.Definition = types.StringValue(string(raw))
	var said struct {
		Description *string `json:"description"`
		Annotations *struct {
			ReadOnlyHint    *bool `json:"readOnlyHint"`
			DestructiveHint *bool `json:"destructiveHint"`
			IdempotentHint  *bool `json:"idempotentHint"`
			OpenWorldHint   *bool `json:"openWorldHint"`
		} `json:"annotations"`
	}
	// What a server sends has any form; what does not fit tells nothing.
	if err := json.Unmarshal(raw, &said); err != nil {
		return tool
	}
	tool.Description = types.StringPointerValue(said.Description)
	if hints := said.Annotations; hints != nil {
		tool.Annotations = &toolAnnotationsModel{
			ReadOnlyHint:    types.BoolPointerValue(hints.ReadOnlyHint),
			DestructiveHint: types.BoolPointerValue(hints.DestructiveHint),
			IdempotentHint:  types.BoolPointerValue(hints.IdempotentHint),
			OpenWorldHint:   types.BoolPointerValue(hints.OpenWorldHint),
		}
	}
	return tool
}
