package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/sallyport/terraform-provider-sallyport/internal/api"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

type groupSourceModel struct {
	ID          types.String `tfsdk:"id"`
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	MemberIDs   types.Set    `tfsdk:"member_ids"`
}

var groupSource = source[groupSourceModel]{
	name: "group",
	schema: schema.Schema{
		MarkdownDescription: "A group and who belongs to it.",
		Attributes: keyed("name", "Unique among the groups.", map[string]schema.Attribute{
			"description": schema.StringAttribute{MarkdownDescription: "Free text.", Computed: true},
			"member_ids":  shownTexts("Ids of the users and service accounts that belong to it."),
		}),
	},
	read: func(ctx context.Context, c *api.Client, m *groupSourceModel) error {
		id, err := idOf(ctx, c, m.ID, m.Name, groupKind.locate)
		if err != nil {
			return err
		}
		answer, err := api.ReadGroup(ctx, c, id)
		if err != nil {
			return err
		}
		members, err := c.AllMembers(ctx, id)
		var ids []string
		for _, member := range members {
			ids = append(ids, member.Id)
		}
		group := answer.Group
		m.ID, m.Name = types.StringValue(group.Id), types.StringValue(group.Name)
		m.Description, m.MemberIDs = types.StringValue(group.Description), setOf(ids)
		return err
	},
}

type groupsSourceModel struct {
	Groups []groupListed `tfsdk:"groups"`
}

type groupListed struct {
	ID          types.String `tfsdk:"id"`
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
}

var groupsSource = source[groupsSourceModel]{
	name: "groups",
	schema: schema.Schema{
		MarkdownDescription: "All groups, oldest first.",
		Attributes: map[string]schema.Attribute{
			"groups": list("The groups.", shown(map[string]string{
				"id": "Unique and permanent.", "name": "Unique among the groups.", "description": "Free text.",
			})),
		},
	},
	read: func(ctx context.Context, c *api.Client, m *groupsSourceModel) error {
		found, err := c.AllGroups(ctx, optional.Value[string]{})
		m.Groups = []groupListed{}
		for _, group := range found {
			m.Groups = append(m.Groups, groupListed{
				ID: types.StringValue(group.Id), Name: types.StringValue(group.Name), Description: types.StringValue(group.Description),
			})
		}
		return err
	},
}

type userSourceModel struct {
	ID          types.String `tfsdk:"id"`
	Key         types.String `tfsdk:"key"`
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	Email       types.String `tfsdk:"email"`
	Status      types.String `tfsdk:"status"`
	Issuer      types.String `tfsdk:"issuer"`
	Subject     types.String `tfsdk:"subject"`
}

var userSource = source[userSourceModel]{
	name: "user",
	schema: schema.Schema{
		MarkdownDescription: "A person.",
		Attributes: keyed("key", "E-mail address, `issuer/subject` or name; it must mean one user alone.",
			shown(map[string]string{
				"name":        "What people call it.",
				"description": "Free text.",
				"email":       "Where to write to.",
				"status":      "`active` or `disabled`.",
				"issuer":      "Who vouches for the identity: `local`, or the issuer of an identity provider.",
				"subject":     "Identity at the issuer.",
			})),
	},
	read: func(ctx context.Context, c *api.Client, m *userSourceModel) error {
		id, err := idOf(ctx, c, m.ID, m.Key, locateUser)
		if err != nil {
			return err
		}
		answer, err := api.ReadUser(ctx, c, id)
		if err != nil {
			return err
		}
		user := answer.User
		m.ID, m.Name = types.StringValue(user.Id), types.StringValue(user.Name)
		m.Description, m.Email = types.StringValue(user.Description), stringFrom(user.Email)
		m.Status = types.StringValue(lower(user.Status))
		m.Issuer, m.Subject = types.StringValue(user.Issuer), types.StringValue(user.Subject)
		return nil
	},
}

type serviceAccountSourceModel struct {
	ID          types.String `tfsdk:"id"`
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	OwnerID     types.String `tfsdk:"owner_id"`
	ExpiresAt   types.String `tfsdk:"expires_at"`
	Status      types.String `tfsdk:"status"`
}

var serviceAccountSource = source[serviceAccountSourceModel]{
	name: "service_account",
	schema: schema.Schema{
		MarkdownDescription: "A program that acts.",
		Attributes: keyed("name", "What people call it; it must mean one service account alone.", shown(map[string]string{
			"description": "Free text.",
			"owner_id":    "Id of the user who answers for it.",
			"expires_at":  "It may do nothing from then on.",
			"status":      "`active` or `disabled`.",
		})),
	},
	read: func(ctx context.Context, c *api.Client, m *serviceAccountSourceModel) error {
		id, err := idOf(ctx, c, m.ID, m.Name, serviceAccountKind.locate)
		if err != nil {
			return err
		}
		answer, err := api.ReadServiceAccount(ctx, c, id)
		if err != nil {
			return err
		}
		account := answer.ServiceAccount
		m.ID, m.Name = types.StringValue(account.Id), types.StringValue(account.Name)
		m.Description, m.OwnerID = types.StringValue(account.Description), types.StringValue(account.OwnerId)
		m.ExpiresAt = instantFrom(types.StringNull(), account.ExpiresAt)
		m.Status = types.StringValue(lower(account.Status))
		return nil
	},
}

type rolesSourceModel struct {
	Roles []roleListed `tfsdk:"roles"`
}

type roleListed struct {
	ID          types.String `tfsdk:"id"`
	Name        types.String `tfsdk:"name"`
	Description types.String `tfsdk:"description"`
	IsBuiltIn   types.Bool   `tfsdk:"is_built_in"`
	Permissions types.Set    `tfsdk:"permissions"`
}

var rolesSource = source[rolesSourceModel]{
	name: "roles",
	schema: schema.Schema{
		MarkdownDescription: "All roles, built-in and custom ones, and what they permit.",
		Attributes: map[string]schema.Attribute{
			"roles": list("The roles.", with(shown(map[string]string{
				"id": "What `sallyport_role_binding` takes.", "name": "Unique among the roles.", "description": "What it is for.",
			}), map[string]schema.Attribute{
				"is_built_in": shownFlag("Whether it is one of Sallyport's own."),
				"permissions": shownTexts("What it permits, as `noun:verb`."),
			})),
		},
	},
	read: func(ctx context.Context, c *api.Client, m *rolesSourceModel) error {
		answer, err := api.ListRoles(ctx, c)
		m.Roles = []roleListed{}
		for _, role := range answer.Roles {
			m.Roles = append(m.Roles, roleListed{
				ID:          types.StringValue(role.Id),
				Name:        types.StringValue(role.Name),
				Description: types.StringValue(role.Description),
				IsBuiltIn:   types.BoolValue(!isCustom(role)),
				Permissions: setOf(role.Permissions),
			})
		}
		return err
	},
}

type effectiveAccessSourceModel struct {
	PrincipalID types.String   `tfsdk:"principal_id"`
	ServerID    types.String   `tfsdk:"server_id"`
	Targets     []usableTarget `tfsdk:"targets"`
}

type usableTarget struct {
	ServerID      types.String `tfsdk:"server_id"`
	Slug          types.String `tfsdk:"slug"`
	Kind          types.String `tfsdk:"kind"`
	Name          types.String `tfsdk:"name"`
	Effect        types.String `tfsdk:"effect"`
	IsConditional types.Bool   `tfsdk:"is_conditional"`
	GrantIDs      types.Set    `tfsdk:"grant_ids"`
}

var effectiveAccessSource = source[effectiveAccessSourceModel]{
	name: "effective_access",
	schema: schema.Schema{
		MarkdownDescription: "What a principal may use, over all its groups and grants: the tools, prompts and resources that are " +
			"known. For checks that hold a configuration to what it promises.",
		Attributes: map[string]schema.Attribute{
			"principal_id": schema.StringAttribute{
				MarkdownDescription: "Id of the user or service account.", Required: true,
			},
			"server_id": schema.StringAttribute{MarkdownDescription: "Only on this server.", Optional: true},
			"targets": list("What it may use, by server, kind and name.", with(shown(map[string]string{
				"server_id": "Id of the server.",
				"slug":      "Slug of the server.",
				"kind":      "`tool`, `prompt`, `resource` or `resource_template`.",
				"name":      "Its name, URI or URI template.",
				"effect":    "`allow`, or `require_approval`.",
			}), map[string]schema.Attribute{
				"is_conditional": shownFlag("Whether a condition has a say, so that not every call may."),
				"grant_ids":      shownTexts("Ids of the grants that decide."),
			})),
		},
	},
	read: func(ctx context.Context, c *api.Client, m *effectiveAccessSourceModel) error {
		found, err := c.AllEffectiveAccess(ctx, m.PrincipalID.ValueString(), filterBy(m.ServerID))
		m.Targets = []usableTarget{}
		for _, target := range found {
			m.Targets = append(m.Targets, usableTarget{
				ServerID:      types.StringValue(target.ServerId),
				Slug:          types.StringValue(target.Slug),
				Kind:          types.StringValue(lower(target.Kind)),
				Name:          types.StringValue(target.Name),
				Effect:        types.StringValue(lower(target.Effect)),
				IsConditional: types.BoolValue(target.IsConditional),
				GrantIDs:      setOf(target.GrantIds),
			})
		}
		return err
	},
}
