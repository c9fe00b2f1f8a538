package api

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
)

// calls runs a call for each item at the same time.
func calls(b *batch[int, string], items []int) ([]string, []error) {
	texts, problems := make([]string, len(items)), make([]error, len(items))
	var group sync.WaitGroup
	for index, item := range items {
		group.Go(func() { texts[index], problems[index] = b.do(context.Background(), item) })
	}
	group.Wait()
	return texts, problems
}

func upTo(count int) []int {
	var items []int
	for item := range count {
		items = append(items, item)
	}
	return items
}

func TestCallsThatComeTogetherShareRequestsAndEachGetsItsOwnAnswer(t *testing.T) {
	var requests, underWay atomic.Int32
	b := newBatch(40, func(_ context.Context, items []int) ([]string, error) {
		requests.Add(1)
		if underWay.Add(1) > 1 {
			t.Error("two requests are under way at once")
		}
		defer underWay.Add(-1)
		if len(items) > 40 {
			t.Errorf("a request has %d items", len(items))
		}
		return mapped(items, func(item int) string { return fmt.Sprint(item) }), nil
	})
	texts, problems := calls(b, upTo(100))
	for index, text := range texts {
		if text != fmt.Sprint(index) || problems[index] != nil {
			t.Errorf("call %d got %q, %v", index, text, problems[index])
		}
	}
	if sent := requests.Load(); sent >= 100 {
		t.Errorf("100 calls made %d requests", sent)
	}
}

func TestARefusalOfSeveralReachesTheOneThatItIsAbout(t *testing.T) {
	b := newBatch(500, func(_ context.Context, items []int) ([]string, error) {
		if slices.Contains(items, 3) {
			return nil, &Error{Code: codeInvalidInput, Message: "3 is wrong"}
		}
		return mapped(items, func(item int) string { return fmt.Sprint(item) }), nil
	})
	texts, problems := calls(b, upTo(10))
	for index := range texts {
		if isWrong := index == 3; isWrong != (problems[index] != nil) || (!isWrong && texts[index] != fmt.Sprint(index)) {
			t.Errorf("call %d got %q, %v", index, texts[index], problems[index])
		}
	}
}

func TestARequestIsGivenUpWhenAllItsCallersHave(t *testing.T) {
	given := make(chan error, 1)
	b := newBatch(500, func(ctx context.Context, _ []int) ([]string, error) {
		<-ctx.Done()
		given <- ctx.Err()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for item := range 2 {
		group.Go(func() {
			if _, err := b.do(ctx, item); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
	cancel()
	group.Wait()
	if err := <-given; !errors.Is(err, context.Canceled) {
		t.Errorf("the request ended with %v", err)
	}
}

func TestCallsThatFollowOneAnotherKeepSharingRequests(t *testing.T) {
	const callers, each = 10, 20
	var requests atomic.Int32
	b := newBatch(500, func(_ context.Context, items []int) ([]string, error) {
		requests.Add(1)
		return mapped(items, func(item int) string { return fmt.Sprint(item) }), nil
	})
	// As Terraform works: so many at once, each of which goes on when it has its answer.
	var group sync.WaitGroup
	for range callers {
		group.Go(func() {
			for item := range each {
				if text, err := b.do(context.Background(), item); err != nil || text != fmt.Sprint(item) {
					t.Errorf("call %d got %q, %v", item, text, err)
				}
			}
		})
	}
	group.Wait()
	// A machine that is held up may part some of them.
	if sent := requests.Load(); sent > callers*each/4 {
		t.Errorf("%d calls, %d at once, made %d requests", callers*each, callers, sent)
	}
}
