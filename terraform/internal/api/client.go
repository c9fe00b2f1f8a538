// Package api asks the control plane's GraphQL API, by a client generated from its schema.
package api

import (
	"context"
	"crypto/rand"
	"sync"

	"github.com/Khan/genqlient/graphql"
	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

// Client runs the generated operations, and joins what comes close together into one request: Terraform works on as
// many objects at once as its -parallelism says.
type Client struct {
	graphql.Client

	readGrants   *batch[string, *GrantFields]
	snapshot     grantSnapshot
	createGrants [2]*batch[NewGrantInput, Grant]
	updateGrants [2]*batch[GrantChangeInput, Grant]
	deleteGrants [2]*batch[GrantReferenceInput, Grant]

	mutex   sync.Mutex
	members map[membersKey]any
}

// Grant is a grant with the difference in access that a dry run told.
type Grant struct {
	GrantFields
	AccessChanges []AccessDifference
}

// New returns a client; nothing is sent before it is used.
func New(config Config) (*Client, error) {
	transport, err := newTransport(config)
	if err != nil {
		return nil, err
	}
	return newClient(transport), nil
}

func newClient(transport graphql.Client) *Client {
	c := &Client{Client: transport, members: map[membersKey]any{}}
	c.readGrants = newBatch(readItemsMax, c.findGrants)
	for index, dryRun := range []bool{false, true} {
		c.createGrants[index] = newBatch(itemsMaxOf(dryRun), func(ctx context.Context, items []NewGrantInput) ([]Grant, error) {
			answer, err := CreateGrants(ctx, c, CreateGrantsInput{Items: items, IdempotencyKey: IdempotencyKey(), DryRun: dryRun})
			return mapped(answer.CreateGrants, func(one CreateGrantsCreateGrantsGrant) Grant {
				return Grant{one.GrantFields, one.AccessChanges}
			}), err
		})
		c.updateGrants[index] = newBatch(itemsMaxOf(dryRun), func(ctx context.Context, items []GrantChangeInput) ([]Grant, error) {
			answer, err := UpdateGrants(ctx, c, UpdateGrantsInput{Items: items, DryRun: dryRun})
			return mapped(answer.UpdateGrants, func(one UpdateGrantsUpdateGrantsGrant) Grant {
				return Grant{one.GrantFields, one.AccessChanges}
			}), err
		})
		c.deleteGrants[index] = newBatch(itemsMaxOf(dryRun), func(ctx context.Context, items []GrantReferenceInput) ([]Grant, error) {
			answer, err := DeleteGrants(ctx, c, DeleteGrantsInput{Items: items, DryRun: dryRun})
			return mapped(answer.DeleteGrants, func(one DeleteGrantsDeleteGrantsGrant) Grant {
				return Grant{one.GrantFields, one.AccessChanges}
			}), err
		})
	}
	return c
}

const (
	// changeItemsMax is what the API takes in one mutation.
	changeItemsMax = 500
	// tryItemsMax keeps the differences of one answer few.
	tryItemsMax = 50
	// readItemsMax is the largest page of the API.
	readItemsMax = 200
)

func itemsMaxOf(dryRun bool) int {
	if dryRun {
		return tryItemsMax
	}
	return changeItemsMax
}

func either[T any](both [2]T, dryRun bool) T {
	if dryRun {
		return both[1]
	}
	return both[0]
}

// IdempotencyKey makes a create repeatable: the same key finds what was made the first time.
func IdempotencyKey() optional.Value[string] { return optional.Of("terraform-" + rand.Text()) }

// ReadGrant reads a grant, together with others that are read at the same time.
func (c *Client) ReadGrant(ctx context.Context, id string) (GrantFields, error) {
	found, err := c.readGrants.do(ctx, id)
	if err != nil {
		return GrantFields{}, err
	}
	if found == nil {
		return GrantFields{}, NotFound()
	}
	return *found, nil
}

func (c *Client) findGrants(ctx context.Context, ids []string) ([]*GrantFields, error) {
	known, err := c.snapshot.of(ctx, c, len(ids))
	if err != nil {
		return nil, err
	}
	byID := map[string]*GrantFields{}
	var missing []string
	for _, id := range ids {
		if grant, ok := known[id]; ok {
			byID[id] = &grant
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 {
		answer, err := ReadGrants(ctx, c, missing)
		if err != nil {
			return nil, err
		}
		for _, edge := range answer.Grants.Edges {
			byID[edge.Node.Id] = &edge.Node
		}
	}
	return mapped(ids, func(id string) *GrantFields { return byID[id] }), nil
}

// CreateGrant makes a grant, or tries to, together with others that are made at the same time.
func (c *Client) CreateGrant(ctx context.Context, input NewGrantInput, dryRun bool) (Grant, error) {
	return either(c.createGrants, dryRun).do(ctx, input)
}

// UpdateGrant changes a grant, or tries to, together with others that are changed at the same time.
func (c *Client) UpdateGrant(ctx context.Context, input GrantChangeInput, dryRun bool) (Grant, error) {
	c.snapshot.forgetUnless(dryRun)
	return either(c.updateGrants, dryRun).do(ctx, input)
}

// DeleteGrant deletes a grant, or tries to, together with others that are deleted at the same time.
func (c *Client) DeleteGrant(ctx context.Context, input GrantReferenceInput, dryRun bool) (Grant, error) {
	c.snapshot.forgetUnless(dryRun)
	return either(c.deleteGrants, dryRun).do(ctx, input)
}

func mapped[From, To any](items []From, convert func(From) To) []To {
	results := make([]To, len(items))
	for index, item := range items {
		results[index] = convert(item)
	}
	return results
}
