package api

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// batchWindow is how long a request waits for one more call to share it.
	batchWindow = 10 * time.Millisecond
	// batchWindowsMax bounds the waiting while calls keep coming.
	batchWindowsMax = 20
)

// batch joins calls that come close together into one request, of which one at a time is under way: what comes
// meanwhile goes into the next, and so do the calls that its callers make once they have their answers. Terraform has only
// as many calls open as its -parallelism says, so a request that did not wait for those would hold half of them. Where the API refuses the whole of a request, each call is made alone, so that an error
// reaches the call that it is about and no other.
type batch[In, Out any] struct {
	window   time.Duration
	itemsMax int
	run      func(ctx context.Context, items []In) ([]Out, error)

	mutex   sync.Mutex
	waiting []*round[In, Out]
	isBusy  bool
}

// round is what goes into one request.
type round[In, Out any] struct {
	ctx     context.Context
	cancel  context.CancelFunc
	items   []In
	callers int
	done    chan struct{}
	results []result[Out]
}

type result[Out any] struct {
	out Out
	err error
}

func newBatch[In, Out any](itemsMax int, run func(ctx context.Context, items []In) ([]Out, error)) *batch[In, Out] {
	return &batch[In, Out]{window: batchWindow, itemsMax: itemsMax, run: run}
}

// do returns when the request that the item went into has been answered, or the caller gives up. The request is given
// up only when all its callers have.
func (b *batch[In, Out]) do(ctx context.Context, item In) (Out, error) {
	current, index := b.join(ctx, item)
	select {
	case <-current.done:
		return current.results[index].out, current.results[index].err
	case <-ctx.Done():
		b.leave(current)
		var none Out
		return none, ctx.Err()
	}
}

func (b *batch[In, Out]) join(ctx context.Context, item In) (*round[In, Out], int) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if last := len(b.waiting) - 1; last < 0 || len(b.waiting[last].items) == b.itemsMax {
		detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
		b.waiting = append(b.waiting, &round[In, Out]{ctx: detached, cancel: cancel, done: make(chan struct{})})
	}
	if !b.isBusy {
		b.isBusy = true
		go b.work()
	}
	current := b.waiting[len(b.waiting)-1]
	current.items = append(current.items, item)
	current.callers++
	return current, len(current.items) - 1
}

func (b *batch[In, Out]) leave(current *round[In, Out]) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	current.callers--
	if current.callers == 0 {
		current.cancel()
	}
}

// work sends one round after the other until none waits.
func (b *batch[In, Out]) work() {
	for {
		b.gather()
		b.mutex.Lock()
		if len(b.waiting) == 0 {
			b.isBusy = false
			b.mutex.Unlock()
			return
		}
		current := b.waiting[0]
		b.waiting = b.waiting[1:]
		b.mutex.Unlock()
		b.finish(current)
	}
}

// gather returns when a round is full, or no call came for a while.
func (b *batch[In, Out]) gather() {
	for before, windows := -1, 0; windows < batchWindowsMax; windows++ {
		now := b.firstItems()
		if now == before || now == b.itemsMax {
			return
		}
		before = now
		time.Sleep(b.window)
	}
}

// firstItems is how many items the next round holds.
func (b *batch[In, Out]) firstItems() int {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if len(b.waiting) == 0 {
		return 0
	}
	return len(b.waiting[0].items)
}

func (b *batch[In, Out]) finish(current *round[In, Out]) {
	defer current.cancel()
	defer close(current.done)
	results, err := b.together(current.ctx, current.items)
	var refused *Error
	if len(current.items) > 1 && errors.As(err, &refused) && !refused.mayRetry() {
		for index, item := range current.items {
			alone, _ := b.together(current.ctx, []In{item})
			results[index] = alone[0]
		}
	}
	current.results = results
}

func (b *batch[In, Out]) together(ctx context.Context, items []In) ([]result[Out], error) {
	outs, err := b.run(ctx, items)
	if err == nil && len(outs) != len(items) {
		err = fmt.Errorf("the API answered %d of %d changes", len(outs), len(items))
	}
	results := make([]result[Out], len(items))
	for index := range results {
		if err != nil {
			results[index].err = err
		} else {
			results[index].out = outs[index]
		}
	}
	return results, err
}
