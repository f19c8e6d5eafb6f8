package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/handover-dev/handover/internal/groupcommit"
	"github.com/handover-dev/handover/internal/store"
)

// A Report tells of one attempt and what followed.
type Report struct {
	Delivery store.Claimed
	Endpoint string // its name
	Number   int
	Answer   Answer
	State    store.State
	DueAt    time.Time
	// Latency is from the commit of the event to the end of the attempt.
	Latency time.Duration
}

// record is one result on its way through a transaction.
type record struct {
	store.Result
	claimed store.Claimed
	target  *target
	answer  Answer
	due     []string // set for the first of a batch: endpoints at which something became due
}

// fresh is how old a claim may be to be sent without asking whether it is still
// ours: what waits for a slow endpoint may be canceled meanwhile, or taken over.
const fresh = 100 * time.Millisecond

// confirmation asks whether a delivery is still ours.
type confirmation struct {
	id   string
	mine bool
}

func (d *Dispatcher) confirm(ctx context.Context, cs []*confirmation) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ids := make([]string, len(cs))
	for i, c := range cs {
		ids[i] = c.id
	}
	mine, err := d.Store.Mine(ctx, d.Owner, ids...)
	if err != nil {
		return err
	}
	ours := make(map[string]bool, len(mine))
	for _, id := range mine {
		ours[id] = true
	}
	for _, c := range cs {
		c.mine = ours[c.id]
	}
	return nil
}

// attempt makes one attempt. There is nothing to record of one that was not made.
func (d *Dispatcher) attempt(w waiting) (*record, pace) {
	d.mu.Lock()
	ctx := d.work
	d.mu.Unlock()
	c := w.Claimed
	if d.now().Sub(w.since) > fresh {
		asked := &confirmation{id: c.ID}
		switch err := d.confirms.Do(ctx, asked); {
		case err != nil:
			d.log().WarnContext(ctx, "could not confirm delivery", "error", err, "delivery", c.ID)
			d.putBack(ctx, c.ID)
			return nil, pace{}
		case !asked.mine:
			return nil, pace{}
		}
	}
	t, err := d.targets.find(ctx, d.Store, c.EndpointID)
	if err != nil {
		d.log().WarnContext(ctx, "could not read endpoint", "error", err, "endpoint", c.EndpointID)
		d.putBack(ctx, c.ID)
		return nil, pace{}
	}
	if t == nil {
		d.cancel(ctx, c)
		return nil, pace{}
	}
	if t.Paused {
		d.putBack(ctx, c.ID)
		return nil, pace{}
	}
	started := d.now()
	answer := d.Client.Do(ctx, Request{
		URL: t.URL, ID: c.ID, Body: c.Body, Signer: t.signer(started), Timeout: t.Timeout, Now: started,
	})
	if answer.Verdict() == Aborted {
		d.putBackUntil(ctx, d.now().Add(answer.RetryAfter), c.ID)
		return nil, pace{}
	}
	r := &record{Result: decide(c, t, answer, started, d.now()), claimed: c, target: t, answer: answer}
	switch answer.Verdict() {
	case Success:
		return r, pace{faster: true}
	case SlowDown:
		return r, pace{slower: true, wait: answer.RetryAfter}
	default:
		return r, pace{}
	}
}

// conclude sees a result recorded and does what follows from it.
func (d *Dispatcher) conclude(r *record) {
	d.mu.Lock()
	ctx := d.work
	d.mu.Unlock()
	if !d.record(ctx, r) {
		return
	}
	if r.answer.Verdict() == Gone {
		d.disable(ctx, r.target)
	}
	d.report(ctx, r)
	if len(r.due) > 0 {
		d.Wake(r.due...)
	}
}

// record sees a result committed. While the database does not answer it keeps
// trying. It gives up when the dispatcher has to end; the delivery is then sent once more
// by whoever takes it over.
func (d *Dispatcher) record(ctx context.Context, r *record) bool {
	wait := 50 * time.Millisecond
	for {
		err := d.recorder.Do(context.WithoutCancel(ctx), r)
		if err == nil {
			return true
		}
		d.log().WarnContext(ctx, "could not record attempt", "error", err, "delivery", r.DeliveryID, "retry_in", wait)
		if errors.Is(err, groupcommit.ErrClosed) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (d *Dispatcher) commit(ctx context.Context, rs []*record) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	results := make([]store.Result, len(rs))
	for i, r := range rs {
		results[i] = r.Result
	}
	due, err := d.Store.Record(ctx, d.Owner, results)
	if err != nil {
		return err
	}
	rs[0].due = due
	return nil
}

// decide says what follows from an answer.
func decide(c store.Claimed, t *target, a Answer, started, now time.Time) store.Result {
	r := store.Result{
		Attempt: store.Attempt{
			DeliveryID: c.ID, Number: c.Attempts + 1, StartedAt: started, Duration: a.Duration, Status: a.Status,
			Class: string(a.Class), Error: a.Words(), Answer: a.Body, Address: a.RemoteAddr,
		},
		EndpointID: c.EndpointID, OrderKey: c.OrderKey, DueAt: now, Tries: c.Tries + 1,
	}
	r.Outcome, r.Receipt, r.ReceiptError = outcome(a)
	switch a.Verdict() {
	case Success:
		r.State, r.Error = store.Succeeded, ""
	case Permanent:
		r.State = store.Failed
	case Gone:
		r.State = store.Canceled
	default:
		wait, ok := Next(t.policy, c.ID, c.Tries+2, a.RetryAfter)
		if ok {
			r.State, r.DueAt = store.Pending, now.Add(wait)
		} else {
			r.State = store.Failed
		}
	}
	return r
}

// putBack makes deliveries pending that were not sent. What cannot be put back
// now is found by reconcile.
func (d *Dispatcher) putBack(ctx context.Context, ids ...string) {
	d.putBackUntil(ctx, d.now(), ids...)
}

func (d *Dispatcher) putBackUntil(ctx context.Context, due time.Time, ids ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := d.Store.PutBack(ctx, d.Owner, ids, due); err != nil {
		d.log().WarnContext(ctx, "could not put deliveries back", "error", err, "deliveries", len(ids))
	}
}

// cancel ends the deliveries of an endpoint that is not there any more; if it is
// there again, they wait for the next look.
func (d *Dispatcher) cancel(ctx context.Context, c store.Claimed) {
	d.mu.Lock()
	ids := append(d.empty(d.lane(c.EndpointID)), c.ID)
	d.mu.Unlock()
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	n, err := d.Store.CancelOf(ctx, c.EndpointID, store.CauseEndpointDisabled)
	if err != nil {
		d.log().WarnContext(ctx, "could not cancel deliveries", "error", err, "endpoint", c.EndpointID)
	}
	if n == 0 {
		d.putBack(ctx, ids...)
	}
}

func (d *Dispatcher) disable(ctx context.Context, t *target) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := d.Store.DisableGone(ctx, t.ID, t.URL, "it answered 410 Gone"); err != nil {
		d.log().WarnContext(ctx, "could not disable endpoint", "error", err, "endpoint", t.ID)
		return
	}
	d.targets.forget()
}

func (d *Dispatcher) report(ctx context.Context, r *record) {
	c, t, a := r.claimed, r.target, r.answer
	latency := d.now().Sub(c.RecordedAt)
	if d.OnAttempt != nil {
		d.OnAttempt(Report{Delivery: c, Endpoint: t.Name, Number: r.Number, Answer: a, State: r.State, DueAt: r.DueAt, Latency: latency})
	}
	log := d.log()
	if !log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("delivery", c.ID), slog.String("event", c.EventID), slog.String("type", c.EventType),
		slog.String("endpoint", c.EndpointID), slog.Int("attempt", r.Number), slog.Int("status", a.Status),
		slog.String("class", string(a.Class)), slog.Duration("duration", a.Duration), slog.Duration("latency", latency),
		slog.String("state", r.State.String()), slog.String("outcome", r.Outcome),
	}
	if r.State == store.Pending {
		attrs = append(attrs, slog.Time("due_at", r.DueAt))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "attempt", attrs...)
}
