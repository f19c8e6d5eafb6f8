package app

import (
	"context"
	"time"
)

// DefaultRetention is for how long events are kept unless the configuration says
// otherwise.
const DefaultRetention = 90 * 24 * time.Hour

const (
	sweepEvery = time.Hour
	sweepAgain = time.Minute // after one that failed

	// A batch is short, and the database has ten times as long for others before
	// the next one.
	sweepBatch = 200
	sweepShare = 10
	sweepPause = 50 * time.Millisecond
)

// retain deletes what is older than the retention, at the start and every hour.
func (s *service) retain(ctx context.Context) error {
	for {
		next := sweepEvery
		switch mine, err := s.sweep(ctx, s.Now().Add(-s.Retention)); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			s.Log.WarnContext(ctx, "could not delete what is older than the retention", "error", err)
			next = sweepAgain
		case !mine:
			next = workerLease // the one who does it may be gone by then
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(next):
		}
	}
}

// sweep deletes what nobody needs of what is older than a time. Of several
// processes on one database only the oldest does so; for the others it is not
// theirs.
func (s *service) sweep(ctx context.Context, before time.Time) (mine bool, err error) {
	workers, err := s.store.Workers(ctx)
	if err != nil {
		return false, err
	}
	if len(workers) == 0 || workers[0].Owner != s.worker.Owner {
		return false, nil
	}
	var events int
	var webhooks, replays int64
	defer func() {
		if events > 0 || webhooks > 0 || replays > 0 {
			s.Log.InfoContext(ctx, "deleted what is older than the retention", "events", events, "webhook_ids", webhooks, "replays", replays)
		}
	}()
	var seq int64
	err = inBatches(ctx, func() (done bool, err error) {
		var n int
		seq, n, done, err = s.store.Expire(ctx, before, seq, sweepBatch)
		events += n
		s.metrics.expired.Add(float64(n))
		return done, err
	})
	for _, forget := range []struct {
		what  func(ctx context.Context, before time.Time, limit int) (int64, error)
		total *int64
	}{{s.store.ForgetWebhooks, &webhooks}, {s.store.ForgetReplays, &replays}} {
		if err != nil {
			break
		}
		err = inBatches(ctx, func() (done bool, err error) {
			n, err := forget.what(ctx, before, sweepBatch)
			*forget.total += n
			return n < sweepBatch, err
		})
	}
	return true, err
}

// inBatches repeats a batch until all is done, with pauses that leave the
// database to others.
func inBatches(ctx context.Context, batch func() (done bool, err error)) error {
	for {
		began := time.Now()
		done, err := batch()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(sweepShare*time.Since(began), sweepPause)):
		}
	}
}
