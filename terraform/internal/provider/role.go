package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type roleModel struct {
	base
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	Permissions types.Set    `tfsdk:"permissions"`
}

var roleKind = kind[roleModel]{
	name: "role",
	schema: schema.Schema{
		MarkdownDescription: "A custom set of permissions on the control plane. A role opens no tool: grants do that. The plan " +
			"tells which permissions its holders gain and lose.",
		Attributes: map[string]schema.Attribute{
			"name":        required("Unique among the roles: 1 to 128 characters."),
			"description": defaulted("What it is for, at most 2000 characters.", ""),
			"permissions": schema.SetAttribute{
				MarkdownDescription: "What it permits, as `noun:verb`, from the permissions of the built-in roles; without " +
					"`role:assign`. The data source `sallyport_roles` lists them.",
				ElementType: types.StringType,
				Required:    true,
				Validators:  []validator.Set{setvalidator.SizeAtLeast(1)},
			},
		},
	},
	natural: "name",
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		if isID(key) {
			return byID(key), nil
		}
		answer, err := api.ListRoles(ctx, c)
		if err != nil {
			return nil, err
		}
		return theOne(key, answer.Roles, func(role api.RoleFields) bool { return role.Name == key && isCustom(role) },
			func(role api.RoleFields) string { return role.Id })
	},
	read: func(ctx context.Context, c *api.Client, m *roleModel) (int, error) {
		answer, err := api.ReadRole(ctx, c, m.ID.ValueString())
		if err != nil {
			return 0, err
		}
		if !isCustom(answer.Role) {
			return 0, fmt.Errorf("%s is a built-in role and cannot be managed", answer.Role.Id)
		}
		made, _ := m.outcome(answer.Role, change{}, nil)
		return made.revision, nil
	},
	review: func(_ context.Context, _ *api.Client, before, after *roleModel) ([]note, error) {
		return reviewRole(before, after), nil
	},
	create: func(ctx context.Context, c *api.Client, m *roleModel, by change) (outcome, error) {
		answer, err := api.CreateRole(ctx, c, api.CreateRoleInput{
			Name:           m.Name.ValueString(),
			Description:    optional.Of(m.Description.ValueString()),
			Permissions:    stringsOf(m.Permissions),
			DryRun:         by.dryRun,
			IdempotencyKey: api.IdempotencyKey(),
		})
		return m.outcome(answer.CreateRole, by, err)
	},
	update: func(ctx context.Context, c *api.Client, _ roleModel, m *roleModel, by change) (outcome, error) {
		answer, err := api.UpdateRole(ctx, c, api.UpdateRoleInput{
			Id:               m.ID.ValueString(),
			ExpectedRevision: atRevision(by),
			Name:             optional.Of(m.Name.ValueString()),
			Description:      optional.Of(m.Description.ValueString()),
			Permissions:      stringsOf(m.Permissions),
			DryRun:           by.dryRun,
		})
		return m.outcome(answer.UpdateRole, by, err)
	},
	remove: func(ctx context.Context, c *api.Client, m roleModel, by change) (outcome, error) {
		_, err := api.DeleteRole(ctx, c, api.DeleteRoleInput{
			Id: m.ID.ValueString(), ExpectedRevision: atRevision(by), DryRun: by.dryRun,
		})
		return outcome{}, err
	},
}

func isCustom(role api.RoleFields) bool {
	_, isBuiltIn := role.Role.Get()
	return !isBuiltIn
}

func (m *roleModel) outcome(role api.RoleFields, by change, err error) (outcome, error) {
	if err == nil && !by.dryRun {
		m.ID = types.StringValue(role.Id)
		m.Name = types.StringValue(role.Name)
		m.Description = types.StringValue(role.Description)
		m.Permissions = setOf(role.Permissions)
	}
	revision, _ := role.Revision.Get()
	return outcome{revision: revision}, err
}

// reviewRole tells what the holders of a role gain and lose; of a new one and of one that goes there are none.
func reviewRole(before, after *roleModel) []note {
	if before == nil || after == nil {
		return nil
	}
	was, is := stringsOf(before.Permissions), stringsOf(after.Permissions)
	summary, detail := describePermissions("holders of the role "+after.Name.ValueString(), without(is, was), without(was, is))
	if summary == "" {
		return nil
	}
	return []note{{summary, detail}}
}

// describePermissions is empty where nothing is gained or lost.
func describePermissions(who string, gained, lost []string) (summary, detail string) {
	var parts, lines []string
	if len(gained) > 0 {
		parts = append(parts, "gain "+counted(len(gained), "permission"))
		lines = append(lines, "Gained: "+strings.Join(gained, ", ")+".")
	}
	if len(lost) > 0 {
		parts = append(parts, "lose "+counted(len(lost), "permission"))
		lines = append(lines, "Lost: "+strings.Join(lost, ", ")+".")
	}
	if len(parts) == 0 {
		return "", ""
	}
	return who + " " + strings.Join(parts, ", "), strings.Join(lines, "\n")
}

func without(texts, others []string) []string {
	return slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return slices.Contains(others, text) })
}

func counted(count int, noun string) string {
	if count == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", count, noun)
}
