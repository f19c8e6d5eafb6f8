package app

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/handover-dev/handover/outbox"
)

const (
	// clockTolerance is by how much clocks may differ, or one be set back, without
	// that anything has to be done.
	clockTolerance = 5 * time.Second
	// clockGrain is how exactly a clock knows what it has shown.
	clockGrain = 10 * time.Millisecond
)

// clock notices when the time goes back. It has to be read by all who write times
// down.
type clock struct {
	source  func() time.Time
	highest atomic.Int64 // Unix nanoseconds, about
	back    atomic.Bool  // it was set back
}

func (c *clock) now() time.Time {
	t := c.source()
	at := t.UnixNano()
	for {
		highest := c.highest.Load()
		switch {
		case at > highest+int64(clockGrain):
			if c.highest.CompareAndSwap(highest, at) {
				return t
			}
		case at < highest-int64(clockTolerance):
			if c.highest.CompareAndSwap(highest, at) {
				c.back.Store(true)
				return t
			}
		default:
			return t
		}
	}
}

// followClock is called at every beat. When the clock was set back it makes due
// what would wait for the time to come again: at once, at the next beat, and when
// every transaction has ended that began before.
func (s *service) followClock(ctx context.Context) error {
	if s.clock.back.Swap(false) {
		s.Log.WarnContext(ctx, "the clock was set back")
		s.beats = 0
	}
	const last = 30
	if s.beats > last {
		return nil
	}
	if s.beats == 0 || s.beats == 1 || s.beats == last {
		if _, err := s.store.SetBack(ctx, clockTolerance); err != nil {
			return err
		}
		if _, err := outbox.Rewind(ctx, s.store.DB(), s.Now()); err != nil {
			return err
		}
		s.relay.Wake()
	}
	s.beats++
	return nil
}
