package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type groupModel struct {
	base
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
}

var groupKind = kind[groupModel]{
	name: "group",
	schema: schema.Schema{
		MarkdownDescription: "A set of principals that grants can name. Who belongs to it is said by " +
			"`sallyport_group_membership`. Deleting a group deletes the grants that name it.",
		Attributes: map[string]schema.Attribute{
			"name":        required("Unique among the groups: 1 to 128 characters."),
			"description": defaulted(describedText, ""),
		},
	},
	natural: "name",
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		return locateOne(key, func() ([]api.GroupFields, error) { return c.AllGroups(ctx, optional.Of(key)) },
			func(group api.GroupFields) bool { return group.Name == key },
			func(group api.GroupFields) string { return group.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *groupModel) (int, error) {
		answer, err := api.ReadGroup(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		m.fill(answer.Group)
		return answer.Group.Revision, nil
	},
	create: func(ctx context.Context, c *api.Client, m *groupModel, by change) (outcome, error) {
		answer, err := api.CreateGroup(ctx, c, api.CreateGroupInput{
			Name:           m.Name.ValueString(),
			Description:    optional.Of(m.Description.ValueString()),
			DryRun:         by.dryRun,
			IdempotencyKey: api.IdempotencyKey(),
		})
		return m.outcome(answer.CreateGroup, by, err)
	},
	update: func(ctx context.Context, c *api.Client, _ groupModel, m *groupModel, by change) (outcome, error) {
		answer, err := api.UpdateGroup(ctx, c, api.UpdateGroupInput{
			Id:               m.ID.ValueString(),
			ExpectedRevision: atRevision(by),
			Name:             optional.Of(m.Name.ValueString()),
			Description:      optional.Of(m.Description.ValueString()),
			DryRun:           by.dryRun,
		})
		return m.outcome(answer.UpdateGroup, by, err)
	},
	remove: func(ctx context.Context, c *api.Client, m groupModel, by change) (outcome, error) {
		answer, err := api.DeleteGroup(ctx, c, api.DeleteGroupInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{access: answer.DeleteGroup.AccessChanges}, err
	},
}

func (m *groupModel) fill(group api.GroupFields) {
	m.ID = types.StringValue(group.Id)
	m.Name = types.StringValue(group.Name)
	m.Description = types.StringValue(group.Description)
}

func (m *groupModel) outcome(group api.GroupFields, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.fill(group)
	}
	return outcome{revision: group.Revision}, err
}
