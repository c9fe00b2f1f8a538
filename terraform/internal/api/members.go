package api

import "context"

type membersWork uint8

const (
	findMembers membersWork = iota
	addMembers
	tryToAddMembers
	removeMembers
	tryToRemoveMembers
)

// membersItemsMax is what the API takes and tells at most of one group in one request.
const membersItemsMax = 50

// membersKey names what one request can hold: one kind of work on the members of one group.
type membersKey struct {
	groupID string
	work    membersWork
}

// IsMember tells whether a principal belongs to a group.
func (c *Client) IsMember(ctx context.Context, groupID, principalID string) (bool, error) {
	return membersBatch(c, membersKey{groupID, findMembers}, func(ctx context.Context, ids []string) ([]bool, error) {
		answer, err := FindGroupMembers(ctx, c, groupID, ids)
		if err != nil {
			return nil, err
		}
		belongs := map[string]bool{}
		for _, edge := range answer.Group.Members.Edges {
			belongs[edge.Node.Id] = true
		}
		return mapped(ids, func(id string) bool { return belongs[id] }), nil
	}).do(ctx, principalID)
}

// AddMember puts a principal into a group, or tries to, and tells what it gains and loses by that.
func (c *Client) AddMember(ctx context.Context, groupID, principalID string, dryRun bool) ([]AccessDifference, error) {
	key := membersKey{groupID, addMembers}
	if dryRun {
		key.work = tryToAddMembers
	}
	return membersBatch(c, key, func(ctx context.Context, ids []string) ([][]AccessDifference, error) {
		input := GroupMembersInput{Id: groupID, PrincipalIds: ids, DryRun: dryRun}
		answer, err := AddGroupMembers(ctx, c, input)
		return differencesOf(ids, answer.AddGroupMembers.AccessChanges), err
	}).do(ctx, principalID)
}

// RemoveMember takes a principal out of a group, or tries to, and tells what it gains and loses by that.
func (c *Client) RemoveMember(ctx context.Context, groupID, principalID string, dryRun bool) ([]AccessDifference, error) {
	key := membersKey{groupID, removeMembers}
	if dryRun {
		key.work = tryToRemoveMembers
	}
	return membersBatch(c, key, func(ctx context.Context, ids []string) ([][]AccessDifference, error) {
		input := GroupMembersInput{Id: groupID, PrincipalIds: ids, DryRun: dryRun}
		answer, err := RemoveGroupMembers(ctx, c, input)
		return differencesOf(ids, answer.RemoveGroupMembers.AccessChanges), err
	}).do(ctx, principalID)
}

func membersBatch[Out any](
	c *Client, key membersKey, run func(ctx context.Context, ids []string) ([]Out, error),
) *batch[string, Out] {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	found, ok := c.members[key].(*batch[string, Out])
	if !ok {
		found = newBatch(membersItemsMax, run)
		c.members[key] = found
	}
	return found
}

// differencesOf returns those of each principal.
func differencesOf(ids []string, differences []AccessDifference) [][]AccessDifference {
	return mapped(ids, func(id string) []AccessDifference {
		var own []AccessDifference
		for _, difference := range differences {
			if of, _ := difference.Subject.Id.Get(); of == id {
				own = append(own, difference)
			}
		}
		return own
	})
}
