package api

import (
	"context"
	"sync"
	"time"

	"github.com/sallyport/terraform-provider-sallyport/internal/optional"
)

const (
	// snapshotReadsMin is how many grants are read by their ids before it pays to read all that Terraform made.
	snapshotReadsMin = 30
	// snapshotPagesMax bounds what is read of an organization that has far more grants than this configuration.
	snapshotPagesMax = 10
	// snapshotAgeMax is how old an answer from a snapshot may be.
	snapshotAgeMax = 15 * time.Second
)

// grantSnapshot is what a refresh of many grants reads from: Terraform asks for a few at a time, and a page of the API
// holds 200. It does not outlive a change of a grant by this client, so that what is read after a conflict is new.
type grantSnapshot struct {
	mutex   sync.Mutex
	reads   int
	changes int
	takenAt time.Time
	grants  map[string]GrantFields
}

// forgetUnless is called before a grant is changed, in earnest or not.
func (s *grantSnapshot) forgetUnless(dryRun bool) {
	if dryRun {
		return
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.reads, s.grants = 0, nil
	s.changes++
}

// of returns grants by their ids as they are or were a moment ago; empty while too few are read to be worth it.
func (s *grantSnapshot) of(ctx context.Context, c *Client, reads int) (map[string]GrantFields, error) {
	s.mutex.Lock()
	s.reads += reads
	isWorthIt, isFresh := s.reads > snapshotReadsMin, time.Since(s.takenAt) < snapshotAgeMax
	grants, changes := s.grants, s.changes
	s.mutex.Unlock()
	if !isWorthIt || (grants != nil && isFresh) {
		return grants, nil
	}
	takenAt := time.Now()
	grants, err := grantsOfTerraform(ctx, c)
	if err != nil {
		return nil, err
	}
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.changes == changes {
		s.takenAt, s.grants = takenAt, grants
	}
	return grants, nil
}

func grantsOfTerraform(ctx context.Context, c *Client) (map[string]GrantFields, error) {
	grants := map[string]GrantFields{}
	after := optional.Value[string]{}
	for range snapshotPagesMax {
		answer, err := ListTerraformGrants(ctx, c, after)
		if err != nil {
			return nil, err
		}
		for _, edge := range answer.Grants.Edges {
			grants[edge.Node.Id] = edge.Node
		}
		if !answer.Grants.PageInfo.HasNextPage {
			break
		}
		after = answer.Grants.PageInfo.EndCursor
	}
	return grants, nil
}
