package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type roleBindingModel struct {
	base
	RoleID       types.String `tfsdk:"role_id"`
	PrincipalID  types.String `tfsdk:"principal_id"`
	GroupID      types.String `tfsdk:"group_id"`
	ServerLabels types.Map    `tfsdk:"server_labels"`
}

var roleBindingKind = kind[roleBindingModel]{
	name: "role_binding",
	schema: schema.Schema{
		MarkdownDescription: "That a principal, or all members of a group, hold a role on the control plane. The roles `owner` and " +
			"`auditor` are given by two people once there is more than one owner, and then not by Terraform. Any change makes " +
			"another binding.",
		Attributes: map[string]schema.Attribute{
			"role_id": required("`admin`, `editor`, `viewer`, `member`, `auditor` or `owner`, or the id of a custom role."),
			"principal_id": schema.StringAttribute{
				MarkdownDescription: "Id of the user or service account. Either this or `group_id`.",
				Optional:            true,
				Validators: []validator.String{
					stringvalidator.ExactlyOneOf(path.MatchRoot("principal_id"), path.MatchRoot("group_id")),
				},
			},
			"group_id": optionalText("Id of the group, whose members hold the role as long as they belong."),
			"server_labels": schema.MapAttribute{
				MarkdownDescription: "Limits the role to servers that carry all of these labels, now and later; everywhere if absent. A " +
					"limited role gives the permissions about servers alone.",
				ElementType: types.StringType,
				Optional:    true,
				Validators:  []validator.Map{mapvalidator.SizeAtLeast(1)},
			},
		},
	},
	fixed:      []string{"role_id", "principal_id", "group_id", "server_labels"},
	violations: map[string]string{"role": "role_id", "roleId": "role_id"},
	locate:     locateRoleBinding,
	read: func(ctx context.Context, c *api.Client, m *roleBindingModel) (int, error) {
		found, err := c.AllRoleBindings(ctx, filterBy(m.RoleID), filterBy(m.PrincipalID), filterBy(m.GroupID))
		if err != nil {
			return 0, err
		}
		for _, binding := range found {
			if binding.Id == m.ID.ValueString() {
				m.fill(binding)
				return 0, nil
			}
		}
		return 0, api.NotFound()
	},
	review: reviewRoleBinding,
	create: func(ctx context.Context, c *api.Client, m *roleBindingModel, by change) (outcome, error) {
		answer, err := api.AssignRole(ctx, c, m.input(by))
		if err == nil && !by.dryRun {
			m.fill(answer.AssignRole)
		}
		return outcome{}, err
	},
	remove: func(ctx context.Context, c *api.Client, m roleBindingModel, by change) (outcome, error) {
		_, err := api.RemoveRole(ctx, c, m.input(by))
		return outcome{}, err
	},
}

// filterBy asks for all where nothing is said, as right after an import by id.
func filterBy(text types.String) optional.Value[string] {
	if text.ValueString() == "" {
		return optional.Value[string]{}
	}
	return optional.Of(text.ValueString())
}

func (m *roleBindingModel) fill(binding api.RoleBindingFields) {
	m.ID = types.StringValue(binding.Id)
	m.RoleID = types.StringValue(binding.RoleId)
	m.PrincipalID, m.GroupID = stringFrom(binding.PrincipalId), stringFrom(binding.GroupId)
	m.ServerLabels = types.MapNull(types.StringType)
	if len(binding.ServerLabels) > 0 {
		m.ServerLabels = mapOf(binding.ServerLabels)
	}
}

func (m *roleBindingModel) input(by change) api.RoleInput {
	input := api.RoleInput{
		RoleId:      optional.Of(m.RoleID.ValueString()),
		PrincipalId: filterBy(m.PrincipalID),
		GroupId:     filterBy(m.GroupID),
		DryRun:      by.dryRun,
	}
	if !m.ServerLabels.IsNull() {
		input.ServerLabels = labelsOf(m.ServerLabels)
	}
	return input
}

// locateRoleBinding takes an id or HOLDER/ROLE: the id or name of a principal, or group:NAME, and of a role.
func locateRoleBinding(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	if isID(key) {
		return byID(key), nil
	}
	holder, role, ok := strings.Cut(key, "/")
	if !ok {
		return nil, fmt.Errorf("import a role binding by id, by PRINCIPAL/ROLE or by group:GROUP/ROLE, each an id or a name")
	}
	roleID, err := roleNamed(ctx, c, role)
	if err != nil {
		return nil, err
	}
	var principalID, groupID optional.Value[string]
	if group, isGroup := strings.CutPrefix(holder, "group:"); isGroup {
		found, err := groupKind.locate(ctx, c, group)
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", group, err)
		}
		groupID = optional.Of(found["id"])
	} else {
		found, err := locatePrincipal(ctx, c, holder)
		if err != nil {
			return nil, fmt.Errorf("principal %q: %w", holder, err)
		}
		principalID = optional.Of(found["id"])
	}
	bindings, err := c.AllRoleBindings(ctx, optional.Of(roleID), principalID, groupID)
	if err != nil {
		return nil, err
	}
	return theOne(key, bindings, func(api.RoleBindingFields) bool { return true },
		func(binding api.RoleBindingFields) string { return binding.Id })
}

// roleNamed finds a role's id by id or name; the id of a built-in one is its name.
func roleNamed(ctx context.Context, c *api.Client, key string) (string, error) {
	answer, err := api.ListRoles(ctx, c)
	if err != nil {
		return "", err
	}
	for _, role := range answer.Roles {
		if role.Id == key || role.Name == key {
			return role.Id, nil
		}
	}
	return "", fmt.Errorf("there is no role %q", key)
}

// reviewRoleBinding tells what the holder may do on the control plane by the binding, or may not do without it.
func reviewRoleBinding(ctx context.Context, c *api.Client, before, after *roleBindingModel) ([]note, error) {
	binding, verb := after, "gets"
	if after == nil {
		binding, verb = before, "loses"
	}
	answer, err := api.ReadRole(ctx, c, binding.RoleID.ValueString())
	if err != nil {
		return nil, err
	}
	where := "everywhere"
	if keys := sortedKeys(binding.ServerLabels); len(keys) > 0 {
		var texts []string
		for _, label := range labelsOf(binding.ServerLabels) {
			texts = append(texts, label.Key+"="+label.Value)
		}
		where = "on servers with " + strings.Join(texts, ", ")
	}
	who, err := holderOf(ctx, c, binding)
	if err != nil {
		return nil, err
	}
	return []note{{
		summary: fmt.Sprintf("%s %s the role %s %s", who, verb, answer.Role.Name, where),
		detail:  "It permits on the control plane: " + strings.Join(answer.Role.Permissions, ", ") + ".",
	}}, nil
}

func holderOf(ctx context.Context, c *api.Client, binding *roleBindingModel) (string, error) {
	if id := binding.GroupID.ValueString(); id != "" {
		answer, err := api.ReadGroup(ctx, c, id)
		return "group " + answer.Group.Name, err
	}
	id := binding.PrincipalID.ValueString()
	user, err := api.ReadUser(ctx, c, id)
	if err == nil || !api.IsNotFound(err) {
		return "user " + user.User.Name, err
	}
	account, err := api.ReadServiceAccount(ctx, c, id)
	return "service account " + account.ServiceAccount.Name, err
}
