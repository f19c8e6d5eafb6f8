// Package ingest is the one way in: whatever records an event, an inbound
// webhook or a call of the API, comes through a Recorder, which commits what
// arrives at the same time in one transaction and hands it to the relay.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/groupcommit"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/outbox"
)

// Errors of Record. After any of them nothing of the request was recorded.
var (
	ErrEventConflict       = store.ErrEventConflict
	ErrWebhookConflict     = store.ErrWebhookConflict
	ErrIdempotencyConflict = store.ErrIdempotencyConflict
	// ErrUnavailable means that the database could not be reached, or not be
	// written. The same request may be sent again.
	ErrUnavailable = errors.New("nothing can be recorded now")
)

// A Request is what one caller wants recorded: all of it or nothing.
type Request struct {
	Events      []events.Event
	Inbox       *Inbox       // for an inbound webhook
	Idempotency *Idempotency // for a request that its caller named
}

// Inbox is what makes an inbound webhook known.
type Inbox struct {
	SourceID, WebhookID string
	BodyHash            [32]byte
}

// Idempotency is the name that a caller gave to a request.
type Idempotency struct {
	APIKeyID, Key string
	RequestHash   [32]byte
}

// A Result tells what became of a request's events, in their order. For a
// repeated request the IDs are those of the first time.
type Result struct {
	IDs        []string
	Duplicates []bool
}

// A Recorder records requests. Run must be running.
type Recorder struct {
	Store *store.Store
	Relay *outbox.Relay
	Now   func() time.Time // nil: time.Now
	// OnAccept is told how many events were recorded; default none.
	OnAccept func(events int)
	// Observe is told of every commit whether it could be made; default none. That
	// something was refused for what it is, is nil to it.
	Observe func(error)

	group  groupcommit.Group[*store.Acceptance]
	unsure atomic.Bool // a commit failed that may have happened
}

// NewRecorder returns a Recorder over a store and the relay of this process.
func NewRecorder(s *store.Store, relay *outbox.Relay) *Recorder {
	r := &Recorder{Store: s, Relay: relay}
	r.group.Commit = r.commit
	r.group.Max = 256
	r.group.Transient = s.Transient
	return r
}

// Run commits until ctx ends.
func (r *Recorder) Run(ctx context.Context) error { return r.group.Run(ctx) }

// Record returns when the request is committed, or certainly is not.
func (r *Recorder) Record(ctx context.Context, req Request) (Result, error) {
	a := &store.Acceptance{Events: req.Events}
	if req.Inbox != nil {
		a.SourceID, a.WebhookID, a.BodyHash = req.Inbox.SourceID, req.Inbox.WebhookID, req.Inbox.BodyHash
	}
	if req.Idempotency != nil {
		a.APIKeyID, a.IdempotencyKey, a.RequestHash = req.Idempotency.APIKeyID, req.Idempotency.Key, req.Idempotency.RequestHash
	}
	if err := r.group.Do(ctx, a); err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if a.Err != nil {
		return Result{}, a.Err
	}
	if a.Repeated {
		res := Result{IDs: a.IDs, Duplicates: make([]bool, len(a.IDs))}
		for i := range res.Duplicates {
			res.Duplicates[i] = true
		}
		return res, nil
	}
	res := Result{IDs: make([]string, len(a.Records)), Duplicates: make([]bool, len(a.Records))}
	for i, rec := range a.Records {
		res.IDs[i], res.Duplicates[i] = req.Events[i].ID, rec.Status == outbox.Duplicate
	}
	return res, nil
}

func (r *Recorder) commit(ctx context.Context, as []*store.Acceptance) error {
	n := 0
	for _, a := range as {
		n += len(a.Events)
	}
	return r.Hand(ctx, n, func(ctx context.Context, h *outbox.Handoff) (int, error) {
		err := r.Store.Accept(ctx, h, as)
		return added(as), err
	})
}

// Hand lets write commit a transaction in which it appends events, about n, to
// the handoff, and hands them to the relay. write returns how many they were.
func (r *Recorder) Hand(ctx context.Context, n int, write func(context.Context, *outbox.Handoff) (int, error)) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	h := r.Relay.Reserve(n)
	appended, err := write(ctx, h)
	transient := err != nil && r.Store.Transient(err)
	if r.Observe != nil {
		if transient {
			r.Observe(err)
		} else {
			r.Observe(nil)
		}
	}
	if err != nil {
		h.Cancel()
		if h != nil && transient {
			r.unsure.Store(true)
		}
		return err
	}
	h.Commit()
	if r.unsure.Swap(false) {
		r.makeSure(ctx)
	}
	if h == nil {
		r.Relay.Wake()
	}
	if r.OnAccept != nil {
		r.OnAccept(appended)
	}
	return nil
}

// makeSure lets the relay look for what was committed without our knowing: it is
// claimed for this process, which does not have it. What else the process claimed
// is relayed once more with it.
func (r *Recorder) makeSure(ctx context.Context) {
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	if _, err := outbox.Release(ctx, r.Store.DB(), r.Relay.Owner, now()); err != nil {
		r.unsure.Store(true)
		return
	}
	r.Relay.Wake()
}

// added counts the events that were not known before.
func added(as []*store.Acceptance) (n int) {
	for _, a := range as {
		if a.Err != nil {
			continue
		}
		for _, rec := range a.Records {
			if rec.Status == outbox.Added {
				n++
			}
		}
	}
	return n
}
