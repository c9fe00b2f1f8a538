package api

import (
	"context"

	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// connection is a page of any list.
type connection[Edge any] interface {
	GetEdges() []Edge
	GetPageInfo() PageFields
}

// all reads a list to its end, page by page.
func all[Node, Edge any, Pointer interface {
	*Edge
	GetNode() Node
}](page func(after optional.Value[string]) (connection[Edge], error)) ([]Node, error) {
	var found []Node
	for after := (optional.Value[string]{}); ; {
		current, err := page(after)
		if err != nil {
			return nil, err
		}
		for _, edge := range current.GetEdges() {
			found = append(found, Pointer(&edge).GetNode())
		}
		info := current.GetPageInfo()
		if !info.HasNextPage {
			return found, nil
		}
		after = info.EndCursor
	}
}

// DefinitionListed is a definition with what the server sends of it.
type DefinitionListed = ListDefinitionsDefinitionsDefinitionConnectionEdgesDefinitionEdgeNodeDefinition

// AllGroups reads every group, or the one of a name.
func (c *Client) AllGroups(ctx context.Context, name optional.Value[string]) ([]GroupFields, error) {
	return all[GroupFields](func(after optional.Value[string]) (connection[ListGroupsGroupsGroupConnectionEdgesGroupEdge], error) {
		answer, err := ListGroups(ctx, c, after, name)
		return &answer.Groups, err
	})
}

// AllMembers reads the members of a group.
func (c *Client) AllMembers(ctx context.Context, groupID string) ([]PrincipalFields, error) {
	return all[PrincipalFields](func(after optional.Value[string]) (connection[ListGroupMembersGroupMembersPrincipalConnectionEdgesPrincipalEdge], error) {
		answer, err := ListGroupMembers(ctx, c, groupID, after)
		return &answer.Group.Members, err
	})
}

// AllUsers reads every user.
func (c *Client) AllUsers(ctx context.Context) ([]UserFields, error) {
	return all[UserFields](func(after optional.Value[string]) (connection[ListUsersUsersUserConnectionEdgesUserEdge], error) {
		answer, err := ListUsers(ctx, c, after)
		return &answer.Users, err
	})
}

// AllServiceAccounts reads every service account.
func (c *Client) AllServiceAccounts(ctx context.Context) ([]ServiceAccountFields, error) {
	return all[ServiceAccountFields](func(after optional.Value[string]) (connection[ListServiceAccountsServiceAccountsServiceAccountConnectionEdgesServiceAccountEdge], error) {
		answer, err := ListServiceAccounts(ctx, c, after)
		return &answer.ServiceAccounts, err
	})
}

// AllServers reads the servers that a filter lets through.
func (c *Client) AllServers(ctx context.Context, slug optional.Value[string], lifecycle optional.Value[Lifecycle]) ([]ServerFields, error) {
	return all[ServerFields](func(after optional.Value[string]) (connection[ListServersServersServerConnectionEdgesServerEdge], error) {
		answer, err := ListServers(ctx, c, after, slug, lifecycle)
		return &answer.Servers, err
	})
}

// AllGrants reads the grants that a search finds.
func (c *Client) AllGrants(ctx context.Context, search string) ([]GrantFields, error) {
	return all[GrantFields](func(after optional.Value[string]) (connection[ListGrantsGrantsGrantConnectionEdgesGrantEdge], error) {
		answer, err := ListGrants(ctx, c, after, optional.Of(search))
		return &answer.Grants, err
	})
}

// AllAPIKeys reads the keys of a principal, or all.
func (c *Client) AllAPIKeys(ctx context.Context, principalID optional.Value[string]) ([]ApiKeyFields, error) {
	return all[ApiKeyFields](func(after optional.Value[string]) (connection[ListApiKeysApiKeysApiKeyConnectionEdgesApiKeyEdge], error) {
		answer, err := ListApiKeys(ctx, c, after, principalID)
		return &answer.ApiKeys, err
	})
}

// AllRoleBindings reads the bindings of a role to a principal or a group.
func (c *Client) AllRoleBindings(
	ctx context.Context, roleID, principalID, groupID optional.Value[string],
) ([]RoleBindingFields, error) {
	return all[RoleBindingFields](func(after optional.Value[string]) (connection[ListRoleBindingsRoleBindingsRoleBindingConnectionEdgesRoleBindingEdge], error) {
		answer, err := ListRoleBindings(ctx, c, after, roleID, principalID, groupID)
		return &answer.RoleBindings, err
	})
}

// AllNodes reads the nodes of the fleet.
func (c *Client) AllNodes(ctx context.Context) ([]NodeFields, error) {
	return all[NodeFields](func(after optional.Value[string]) (connection[ListNodesNodesNodeConnectionEdgesNodeEdge], error) {
		answer, err := ListNodes(ctx, c, after)
		return &answer.Nodes, err
	})
}

// AllJoinTokens reads the join tokens, ended ones too.
func (c *Client) AllJoinTokens(ctx context.Context) ([]JoinTokenFields, error) {
	return all[JoinTokenFields](func(after optional.Value[string]) (connection[ListJoinTokensJoinTokensJoinTokenConnectionEdgesJoinTokenEdge], error) {
		answer, err := ListJoinTokens(ctx, c, after)
		return &answer.JoinTokens, err
	})
}

// AllDefinitions reads what a server defines.
func (c *Client) AllDefinitions(ctx context.Context, serverID string, kind optional.Value[DefinitionKind]) ([]DefinitionListed, error) {
	return all[DefinitionListed](func(after optional.Value[string]) (connection[ListDefinitionsDefinitionsDefinitionConnectionEdgesDefinitionEdge], error) {
		answer, err := ListDefinitions(ctx, c, serverID, kind, after)
		return &answer.Definitions, err
	})
}

// AllEffectiveAccess reads what a principal may use, everywhere or on one server.
func (c *Client) AllEffectiveAccess(ctx context.Context, principalID string, serverID optional.Value[string]) ([]UsableTargetFields, error) {
	return all[UsableTargetFields](func(after optional.Value[string]) (connection[ListEffectiveAccessEffectiveAccessUsableTargetConnectionEdgesUsableTargetEdge], error) {
		answer, err := ListEffectiveAccess(ctx, c, principalID, serverID, after)
		return &answer.EffectiveAccess, err
	})
}

// AllOAuthClients reads the registered OAuth clients.
func (c *Client) AllOAuthClients(ctx context.Context) ([]OAuthClientFields, error) {
	return all[OAuthClientFields](func(after optional.Value[string]) (connection[ListOAuthClientsOauthClientsOAuthClientConnectionEdgesOAuthClientEdge], error) {
		answer, err := ListOAuthClients(ctx, c, after)
		return &answer.OauthClients, err
	})
}

// AllPolicies reads every policy.
func (c *Client) AllPolicies(ctx context.Context) ([]PolicyFields, error) {
	return all[PolicyFields](func(after optional.Value[string]) (connection[ListPoliciesPoliciesPolicyConnectionEdgesPolicyEdge], error) {
		answer, err := ListPolicies(ctx, c, after)
		return &answer.Policies, err
	})
}

// AllScimDirectories reads every SCIM directory.
func (c *Client) AllScimDirectories(ctx context.Context) ([]ScimDirectoryFields, error) {
	return all[ScimDirectoryFields](func(after optional.Value[string]) (connection[ListScimDirectoriesScimDirectoriesScimDirectoryConnectionEdgesScimDirectoryEdge], error) {
		answer, err := ListScimDirectories(ctx, c, after)
		return &answer.ScimDirectories, err
	})
}

// AllIdentityProviders reads every identity provider.
func (c *Client) AllIdentityProviders(ctx context.Context) ([]IdentityProviderFields, error) {
	return all[IdentityProviderFields](func(after optional.Value[string]) (connection[ListIdentityProvidersIdentityProvidersIdentityProviderConnectionEdgesIdentityProviderEdge], error) {
		answer, err := ListIdentityProviders(ctx, c, after)
		return &answer.IdentityProviders, err
	})
}

// AllScimTokens reads the tokens of every directory that may still be used.
func (c *Client) AllScimTokens(ctx context.Context) ([]ScimTokenFields, error) {
	directories, err := all[DirectoryTokens](func(after optional.Value[string]) (connection[ListScimTokensScimDirectoriesScimDirectoryConnectionEdgesScimDirectoryEdge], error) {
		answer, err := ListScimTokens(ctx, c, after)
		return &answer.ScimDirectories, err
	})
	var found []ScimTokenFields
	for _, directory := range directories {
		found = append(found, directory.Tokens...)
	}
	return found, err
}

// AllWebhooks reads every webhook.
func (c *Client) AllWebhooks(ctx context.Context) ([]WebhookFields, error) {
	return all[WebhookFields](func(after optional.Value[string]) (connection[ListWebhooksWebhooksWebhookConnectionEdgesWebhookEdge], error) {
		answer, err := ListWebhooks(ctx, c, after)
		return &answer.Webhooks, err
	})
}
