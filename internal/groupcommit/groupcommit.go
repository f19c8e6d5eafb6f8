// Package groupcommit commits the items of many callers together.
//
// Where a commit costs the same for one row as for a hundred (an fsync, a round
// trip), Group takes all that callers have queued while the last commit ran and
// commits it as one batch. It never waits for a batch to fill: a lone item is
// committed at once, and batches grow by themselves with the load.
package groupcommit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrClosed reports that Run has ended; the item was not committed.
	ErrClosed = errors.New("group is closed")

	// ErrWithdrawn reports that the caller's context ended while the item was
	// queued; the item was not and will not be committed. The error matches the
	// context's cause too.
	ErrWithdrawn = errors.New("withdrawn from queue")
)

// Group collects items and commits them in batches. Set its fields before the
// first use and do not copy it afterwards.
type Group[T any] struct {
	// Commit makes all items durable or none of them. Its context outlives the
	// one of Run, so that a batch in hand is finished; it has to bound itself.
	// It must not keep items. Called by up to Workers goroutines at once.
	Commit func(ctx context.Context, items []T) error

	// Transient reports errors that no item is to blame for, such as a lost
	// connection: then all items of the batch get the error. Context errors are
	// transient anyway. After any other error each item of the batch is
	// committed alone, so that one bad item does not fail its neighbours.
	Transient func(error) bool

	Max     int // items per batch; 0: 256
	Workers int // batches committed at the same time; 0: 1

	// Gather is how long to wait, at most, for those whom a large batch let go to
	// come back, when it is time for the next one and only few are there. Without
	// it the few who had to wait are a batch of their own, and cost as much as the
	// many. 0: never.
	Gather time.Duration
	Queue  int // items queued before Do blocks; 0: 1024

	once    sync.Once
	queue   chan *entry[T]
	closed  chan struct{}
	running atomic.Bool
	entries sync.Pool
}

// entry is one item on its way. Whoever moves state away from queued owns what
// happens next: a worker that took it, or the caller that withdrew it.
type entry[T any] struct {
	item  T
	state atomic.Int32
	done  chan error
}

const (
	queued int32 = iota
	taken
	withdrawn
)

func (g *Group[T]) init() {
	g.once.Do(func() {
		g.queue = make(chan *entry[T], cmp.Or(g.Queue, 1024))
		g.closed = make(chan struct{})
		g.entries.New = func() any { return &entry[T]{done: make(chan error, 1)} }
	})
}

// Do submits item and waits until the batch that holds it is committed. It
// blocks while the queue is full, and while Run has not been called.
//
// It returns nil when the item is committed. After ErrWithdrawn and ErrClosed
// the item is not committed. Any other error is Commit's; what it says about the
// item is for Commit to define: a connection lost during a commit leaves the
// outcome open. A context that ends after a worker has taken the item does not
// cut the wait short, so that the answer is never a guess.
func (g *Group[T]) Do(ctx context.Context, item T) error {
	g.init()
	e := g.entries.Get().(*entry[T])
	e.item = item
	e.state.Store(queued)

	select {
	case <-ctx.Done():
		g.recycle(e)
		return gone(ctx)
	case <-g.closed:
		g.recycle(e)
		return ErrClosed
	default:
	}
	select {
	case g.queue <- e:
	case <-ctx.Done():
		g.recycle(e)
		return gone(ctx)
	case <-g.closed:
		g.recycle(e)
		return ErrClosed
	}

	// An entry withdrawn here stays in the queue; the worker that meets it
	// recycles it.
	select {
	case err := <-e.done:
		g.recycle(e)
		return err
	case <-ctx.Done():
		if e.state.CompareAndSwap(queued, withdrawn) {
			return gone(ctx)
		}
	case <-g.closed:
		if e.state.CompareAndSwap(queued, withdrawn) {
			return ErrClosed
		}
	}
	err := <-e.done
	g.recycle(e)
	return err
}

func gone(ctx context.Context) error {
	return fmt.Errorf("%w: %w", ErrWithdrawn, context.Cause(ctx))
}

func (g *Group[T]) recycle(e *entry[T]) {
	var zero T
	e.item = zero // keep nothing of the caller's alive
	g.entries.Put(e)
}

// Run commits batches until ctx ends, then lets those in hand finish and
// returns nil. Items still queued get ErrClosed, and so does every later Do. A
// Group runs once.
func (g *Group[T]) Run(ctx context.Context) error {
	g.init()
	if g.running.Swap(true) {
		return errors.New("run group: it runs or has run")
	}
	context.AfterFunc(ctx, func() { close(g.closed) })
	var workers sync.WaitGroup
	for range cmp.Or(g.Workers, 1) {
		workers.Go(func() { g.work(context.WithoutCancel(ctx)) })
	}
	workers.Wait()
	return nil
}

func (g *Group[T]) work(ctx context.Context) {
	limit := cmp.Or(g.Max, 256)
	batch := make([]*entry[T], 0, limit)
	items := make([]T, 0, limit)
	for {
		last := len(batch)
		batch = g.take(batch[:0], limit)
		if batch == nil {
			return
		}
		if last >= many && len(batch) < last/2 && g.Gather > 0 {
			batch = g.gather(batch, min(last, limit))
		}
		items = items[:0]
		for _, e := range batch {
			items = append(items, e.item)
		}
		g.commit(ctx, batch, items)
		clear(batch)
		clear(items)
	}
}

// take waits for one entry and adds all that is queued, up to limit. It returns
// nil when the group is closed.
func (g *Group[T]) take(batch []*entry[T], limit int) []*entry[T] {
	for len(batch) == 0 {
		select {
		case <-g.closed:
			return nil
		case e := <-g.queue:
			select {
			case <-g.closed: // its caller learns so by itself
				return nil
			default:
			}
			batch = g.claim(batch, e)
		}
	}
	for len(batch) < limit {
		select {
		case e := <-g.queue:
			batch = g.claim(batch, e)
		default:
			return batch
		}
	}
	return batch
}

// many is how many a batch has to have been for its callers to be waited for.
const many = 16

// gather adds what comes to a batch, up to so many.
func (g *Group[T]) gather(batch []*entry[T], most int) []*entry[T] {
	over := time.NewTimer(g.Gather)
	defer over.Stop()
	for len(batch) < most {
		select {
		case e := <-g.queue:
			batch = g.claim(batch, e)
		case <-over.C:
			return batch
		case <-g.closed:
			return batch
		}
	}
	return batch
}

func (g *Group[T]) claim(batch []*entry[T], e *entry[T]) []*entry[T] {
	if e.state.CompareAndSwap(queued, taken) {
		return append(batch, e)
	}
	g.recycle(e)
	return batch
}

func (g *Group[T]) commit(ctx context.Context, batch []*entry[T], items []T) {
	err := g.Commit(ctx, items)
	if err == nil || len(batch) == 1 || g.transient(err) {
		settle(batch, err)
		return
	}
	for i := range batch {
		err := g.Commit(ctx, items[i:i+1:i+1])
		if err != nil && g.transient(err) {
			settle(batch[i:], err)
			return
		}
		settle(batch[i:i+1], err)
	}
}

func settle[T any](batch []*entry[T], err error) {
	for _, e := range batch {
		e.done <- err
	}
}

func (g *Group[T]) transient(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) ||
		(g.Transient != nil && g.Transient(err))
}
