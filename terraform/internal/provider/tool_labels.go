package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type toolLabelsModel struct {
	base
	ServerID    types.String `tfsdk:"server_id"`
	Name        types.String `tfsdk:"name"`
	Risk        types.String `tfsdk:"risk"`
	ReadOnly    types.Bool   `tfsdk:"read_only"`
	Destructive types.Bool   `tfsdk:"destructive"`
	Idempotent  types.Bool   `tfsdk:"idempotent"`
	OpenWorld   types.Bool   `tfsdk:"open_world"`
}

func judged(description string) schema.BoolAttribute {
	return schema.BoolAttribute{MarkdownDescription: description + " Not judged if absent.", Optional: true}
}

var toolLabelsKind = kind[toolLabelsModel]{
	name: "tool_labels",
	schema: schema.Schema{
		MarkdownDescription: "What an administrator says of a tool, for the limits of grants. What the server says of itself " +
			"decides nothing. Destroying it takes the labels away, so that grants with limits do not open the tool any more.",
		Attributes: map[string]schema.Attribute{
			"server_id": required("Id of the server. Another one makes other labels."),
			"name":      required("Name of the tool. Another one makes other labels."),
			"risk": schema.StringAttribute{
				MarkdownDescription: "How much harm it can do: `low`, `medium`, `high` or `critical`. Not judged if absent.",
				Optional:            true,
				Validators:          []validator.String{oneOf(risks...)},
			},
			"read_only":   judged("Whether it changes nothing."),
			"destructive": judged("Whether it can destroy something."),
			"idempotent":  judged("Whether calling it again with the same arguments changes nothing more."),
			"open_world":  judged("Whether it reaches beyond the organization."),
		},
	},
	fixed:      []string{"server_id", "name"},
	violations: map[string]string{"id": "server_id", "definitionIds": "name"},
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		found, err := locateDefinition(ctx, c, key)
		if err == nil && found["kind"] != "tool" {
			err = fmt.Errorf("only tools have labels; import by SERVER/TOOL")
		}
		delete(found, "kind")
		return found, err
	},
	read: func(ctx context.Context, c *api.Client, m *toolLabelsModel) (int, error) {
		_, definition, err := findDefinition(ctx, c, m.ServerID, toolText, m.Name)
		if err != nil {
			return 0, err
		}
		if definition == nil {
			return 0, api.NotFound()
		}
		m.fill(*definition)
		return 0, nil
	},
	create: func(ctx context.Context, c *api.Client, m *toolLabelsModel, by change) (outcome, error) {
		return m.label(ctx, c, m.input(), by)
	},
	update: func(ctx context.Context, c *api.Client, _ toolLabelsModel, m *toolLabelsModel, by change) (outcome, error) {
		return m.label(ctx, c, m.input(), by)
	},
	remove: func(ctx context.Context, c *api.Client, m toolLabelsModel, by change) (outcome, error) {
		_, definition, err := findDefinition(ctx, c, m.ServerID, toolText, m.Name)
		if err != nil || definition == nil {
			return outcome{}, err
		}
		return m.label(ctx, c, (&toolLabelsModel{}).input(), by)
	},
}

var toolText = types.StringValue("tool")

func (m *toolLabelsModel) fill(definition api.DefinitionFields) {
	m.ID = types.StringValue(definitionKey(m.ServerID, toolText, m.Name))
	m.Risk = enumFrom(definition.Labels.Risk)
	m.ReadOnly = types.BoolPointerValue(definition.Labels.ReadOnly.Pointer())
	m.Destructive = types.BoolPointerValue(definition.Labels.Destructive.Pointer())
	m.Idempotent = types.BoolPointerValue(definition.Labels.Idempotent.Pointer())
	m.OpenWorld = types.BoolPointerValue(definition.Labels.OpenWorld.Pointer())
}

func (m *toolLabelsModel) input() api.ToolLabelsInput {
	return api.ToolLabelsInput{
		Risk:        enumOrNull[api.ToolRisk](m.Risk),
		ReadOnly:    optional.FromPointer(m.ReadOnly.ValueBoolPointer()),
		Destructive: optional.FromPointer(m.Destructive.ValueBoolPointer()),
		Idempotent:  optional.FromPointer(m.Idempotent.ValueBoolPointer()),
		OpenWorld:   optional.FromPointer(m.OpenWorld.ValueBoolPointer()),
	}
}

func (m *toolLabelsModel) label(
	ctx context.Context, c *api.Client, labels api.ToolLabelsInput, by change,
) (outcome, error) {
	_, definition, err := awaitDefinition(ctx, c, m.ServerID, toolText, m.Name, by)
	if err != nil {
		return outcome{}, err
	}
	answer, err := api.LabelDefinitions(ctx, c, api.LabelDefinitionsInput{
		Id: m.ServerID.ValueString(), DefinitionIds: []string{definition.Id}, Labels: labels, DryRun: by.dryRun,
	})
	if err != nil || len(answer.LabelDefinitions) == 0 {
		return outcome{}, err
	}
	labelled := answer.LabelDefinitions[0]
	if !by.dryRun {
		m.fill(labelled.DefinitionFields)
	}
	return outcome{access: labelled.AccessChanges}, nil
}
