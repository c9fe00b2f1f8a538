package provider

import (
	"context"
	"encoding/json"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

type nodeSourceModel struct {
	ID              types.String `tfsdk:"id"`
	Name            types.String `tfsdk:"name"`
	Build           types.String `tfsdk:"build"`
	Labels          types.Map    `tfsdk:"labels"`
	Status          types.String `tfsdk:"status"`
	AppliedRevision types.Int64  `tfsdk:"applied_revision"`
	LastContactAt   types.String `tfsdk:"last_contact_at"`
}

func nodeAttributes() map[string]schema.Attribute {
	return with(shown(map[string]string{
		"build": "Build it runs.",
		"status": "`live`: in contact, with the newest configuration; `unconverged`: out of contact, or with another one; `gone`: " +
			"unseen for 60 seconds, or it said goodbye.",
		"last_contact_at": "When it was heard last.",
	}), map[string]schema.Attribute{
		"labels":           shownLabels("Labels it carries."),
		"applied_revision": shownNumber("Revision of the configuration it runs; null for none."),
	})
}

func (m *nodeSourceModel) fill(node api.NodeFields) error {
	var labels map[string]string
	if err := json.Unmarshal(node.Labels, &labels); err != nil {
		return err
	}
	elements := map[string]attr.Value{}
	for key, value := range labels {
		elements[key] = types.StringValue(value)
	}
	m.ID, m.Name, m.Build = types.StringValue(node.Id), types.StringValue(node.Name), types.StringValue(node.Build)
	m.Labels = types.MapValueMust(types.StringType, elements)
	m.Status = types.StringValue(lower(node.Status))
	m.AppliedRevision = intFrom(node.AppliedRevision)
	m.LastContactAt = stringFrom(node.LastContactAt)
	return nil
}

func locateNode(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	found, err := c.AllNodes(ctx)
	if err != nil {
		return nil, err
	}
	return theOne(key, found, func(node api.NodeFields) bool { return node.Name == key && node.Status != api.NodeStatusGone },
		func(node api.NodeFields) string { return node.Id })
}

var nodeSource = source[nodeSourceModel]{
	name: "node",
	schema: schema.Schema{
		MarkdownDescription: "A node of the fleet. Nodes join by tokens and are not made by Terraform.",
		Attributes:          keyed("name", "What it calls itself; it must mean one node alone that is not gone.", nodeAttributes()),
	},
	read: func(ctx context.Context, c *api.Client, m *nodeSourceModel) error {
		id, err := idOf(ctx, c, m.ID, m.Name, locateNode)
		if err != nil {
			return err
		}
		answer, err := api.ReadNode(ctx, c, id)
		if err != nil {
			return err
		}
		return m.fill(answer.Node)
	},
}

type nodesSourceModel struct {
	Nodes []nodeSourceModel `tfsdk:"nodes"`
}

var nodesSource = source[nodesSourceModel]{
	name: "nodes",
	schema: schema.Schema{
		MarkdownDescription: "The nodes of the fleet, in the order in which they joined.",
		Attributes: map[string]schema.Attribute{
			"nodes": list("The nodes.", with(nodeAttributes(), shown(map[string]string{
				"id": "Unique and permanent.", "name": "What it calls itself.",
			}))),
		},
	},
	read: func(ctx context.Context, c *api.Client, m *nodesSourceModel) error {
		found, err := c.AllNodes(ctx)
		m.Nodes = []nodeSourceModel{}
		for _, node := range found {
			var one nodeSourceModel
			if err := one.fill(node); err != nil {
				return err
			}
			m.Nodes = append(m.Nodes, one)
		}
		return err
	},
}
