package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
)

type groupMembershipModel struct {
	base
	GroupID     types.String `tfsdk:"group_id"`
	PrincipalID types.String `tfsdk:"principal_id"`
}

var groupMembershipKind = kind[groupMembershipModel]{
	name: "group_membership",
	schema: schema.Schema{
		MarkdownDescription: "That a user or service account belongs to a group. The plan tells what it gains or loses by " +
			"that. Memberships of one group that change at the same time go to the API in one request.",
		Attributes: map[string]schema.Attribute{
			"group_id":     required("Id of the group. Another one makes another membership."),
			"principal_id": required("Id of the user or service account. Another one makes another membership."),
		},
	},
	fixed:      []string{"group_id", "principal_id"},
	violations: map[string]string{"id": "group_id", "principalIds": "principal_id"},
	locate: func(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
		group, principal, ok := strings.Cut(key, "/")
		if !ok {
			return nil, fmt.Errorf("import a membership by GROUP/PRINCIPAL, each an id or a name")
		}
		groupFound, err := groupKind.locate(ctx, c, group)
		if err != nil {
			return nil, fmt.Errorf("group %q: %w", group, err)
		}
		principalFound, err := locatePrincipal(ctx, c, principal)
		if err != nil {
			return nil, fmt.Errorf("principal %q: %w", principal, err)
		}
		return map[string]string{
			"id":           groupFound["id"] + "/" + principalFound["id"],
			"group_id":     groupFound["id"],
			"principal_id": principalFound["id"],
		}, nil
	},
	read: func(ctx context.Context, c *api.Client, m *groupMembershipModel) (int, error) {
		belongs, err := c.IsMember(ctx, m.GroupID.ValueString(), m.PrincipalID.ValueString())
		if err == nil && !belongs {
			err = api.NotFound()
		}
		return 0, err
	},
	create: func(ctx context.Context, c *api.Client, m *groupMembershipModel, by change) (outcome, error) {
		access, err := c.AddMember(ctx, m.GroupID.ValueString(), m.PrincipalID.ValueString(), by.dryRun)
		if err == nil && !by.dryRun {
			m.ID = types.StringValue(m.GroupID.ValueString() + "/" + m.PrincipalID.ValueString())
		}
		return outcome{access: access}, err
	},
	remove: func(ctx context.Context, c *api.Client, m groupMembershipModel, by change) (outcome, error) {
		access, err := c.RemoveMember(ctx, m.GroupID.ValueString(), m.PrincipalID.ValueString(), by.dryRun)
		return outcome{access: access}, err
	},
}

// locatePrincipal finds a user or service account by id, or by a name that only one of them has.
func locatePrincipal(ctx context.Context, c *api.Client, key string) (map[string]string, error) {
	if isID(key) {
		return byID(key), nil
	}
	users, err := c.AllUsers(ctx)
	if err != nil {
		return nil, err
	}
	accounts, err := c.AllServiceAccounts(ctx)
	if err != nil {
		return nil, err
	}
	type principal struct{ id, name string }
	var all []principal
	for _, user := range users {
		all = append(all, principal{user.Id, user.Name})
	}
	for _, account := range accounts {
		all = append(all, principal{account.Id, account.Name})
	}
	return theOne(key, all, func(one principal) bool { return one.name == key }, func(one principal) string { return one.id })
}
