// Package replay sends selections of deliveries again, in the background.
//
// A replay is a row: what is selected, how far it came, how much of it is done.
// Each step moves a page of deliveries and the row's position in one
// transaction, so that a replay goes on after a restart where it was, and in
// another process when its own is gone.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/handover-dev/handover/internal/store"
)

// A Runner runs the replays that are its owner's.
type Runner struct {
	Store *store.Store
	// Owner is the worker whose life tells whether the replays it has are cared
	// for.
	Owner string
	// OnDue is told the endpoints at which deliveries became due; nil: nobody.
	OnDue func(endpointIDs ...string)
	Poll  time.Duration    // how often to look for replays that nobody announced; 0 = 500 ms
	Now   func() time.Time // nil = time.Now
	Log   *slog.Logger     // nil = none

	once   sync.Once
	wake   chan struct{}
	resume map[string]time.Time // when the next page of a replay with a rate may go
}

// maxPage is how many deliveries one transaction moves at most: it should not
// hold up those of the deliveries that are under way.
const maxPage = 200

const maxStep = time.Minute

// pagesPerSecond is how smoothly a replay with a rate goes.
const pagesPerSecond = 10

func (r *Runner) init() {
	r.once.Do(func() {
		r.wake = make(chan struct{}, 1)
		r.resume = make(map[string]time.Time)
		if r.Poll == 0 {
			r.Poll = 500 * time.Millisecond
		}
		if r.Now == nil {
			r.Now = time.Now
		}
		if r.Log == nil {
			r.Log = slog.New(slog.DiscardHandler)
		}
	})
}

// Wake tells that a replay was created.
func (r *Runner) Wake() {
	r.init()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs replays until ctx ends. A page that was begun is finished.
func (r *Runner) Run(ctx context.Context) error {
	r.init()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-timer.C:
		}
		next, err := r.stepBeyond(ctx)
		if err != nil {
			r.Log.WarnContext(ctx, "a replay could not go on; it is tried again", "error", err)
			next = r.Poll
		}
		timer.Reset(next)
	}
}

// stepBeyond finishes its step when ctx ends, but not for ever.
func (r *Runner) stepBeyond(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxStep)
	defer cancel()
	return r.Step(ctx)
}

// Step does one page of every replay that may go on now, and tells after what
// time there may be more to do.
func (r *Runner) Step(ctx context.Context) (next time.Duration, err error) {
	r.init()
	running, err := r.Store.ClaimReplays(ctx, r.Owner)
	if err != nil {
		return 0, err
	}
	mine := make(map[string]bool, len(running))
	for _, replay := range running {
		mine[replay.ID] = true
	}
	for id := range r.resume {
		if !mine[id] {
			delete(r.resume, id)
		}
	}
	next = r.Poll
	for _, replay := range running {
		now := r.Now()
		if wait := r.resume[replay.ID].Sub(now); wait > 0 {
			next = min(next, wait)
			continue
		}
		size, pause := pace(replay.Rate)
		page, failed := r.Store.ContinueReplay(ctx, r.Owner, replay.ID, size)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("replay %s: %w", replay.ID, failed)) // the others go on
			continue
		}
		if r.OnDue != nil && len(page.EndpointIDs) > 0 {
			r.OnDue(page.EndpointIDs...)
		}
		if page.State != store.ReplayRunning {
			r.Log.InfoContext(ctx, "replay ended", "replay", replay.ID, "state", page.State)
			continue
		}
		// What is skipped costs an endpoint nothing, so only what was moved counts.
		wait := pause * time.Duration(page.Moved) / time.Duration(size)
		r.resume[replay.ID] = now.Add(wait)
		next = min(next, wait)
	}
	return next, err
}

// pace tells how large a page may be at so many deliveries a second, and how
// long a full one lasts.
func pace(rate int) (size int, pause time.Duration) {
	if rate <= 0 {
		return maxPage, 0
	}
	size = min(max(rate/pagesPerSecond, 1), maxPage)
	return size, time.Duration(size) * time.Second / time.Duration(rate)
}
