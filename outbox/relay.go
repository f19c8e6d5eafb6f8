package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
)

const (
	pending = 0
	relayed = 1
)

// The metadata of a relayed message. Its UUID is the event's id and its payload
// the event's body, byte for byte.
const (
	MetadataSeq          = "seq"         // the event's number in the outbox's database
	MetadataType         = "type"        // the event's type
	MetadataEnvironment  = "environment" // the event's environment id
	MetadataOrganization = "organization"
	MetadataSubject      = "subject"     // whom it is about
	MetadataRecordedAt   = "recorded_at" // Unix microseconds
)

// A Relay carries committed events out of the database to a Watermill
// publisher. Any number of relays, in any number of processes, may work on one
// database.
//
// A row is claimed by moving its due time a lease ahead, so a relay that dies
// needs no cleaning up after: what it held falls due again. Rows are claimed by
// their own state, never by "number greater than the last one", because
// transactions commit in another order than their rows were numbered.
type Relay struct {
	DB        *sql.DB
	Dialect   Dialect
	Publisher message.Publisher
	Topic     string // default "handover.events"

	// KeepUntilRouted leaves a published row in the outbox until [Routed] removes
	// it, and publishes it again when that has not happened within Lease. Use it
	// when the stream may lose what it was given. Otherwise a row is removed as
	// soon as the publisher took it.
	KeepUntilRouted bool

	Owner  string        // names this process in claimed rows; see [Release]
	Batch  int           // rows published at a time; default 256
	Window int           // rows that Reserve lets wait in memory; default 8192
	Poll   time.Duration // how often to look for rows that nobody announced; default 1 s
	Lease  time.Duration // how long a claimed row is left alone, doubled at each repeat up to 64 times; default 60 s

	Now     func() time.Time            // default time.Now
	Log     *slog.Logger                // default none
	Observe func(events int, err error) // told of every publish; default none

	once     sync.Once
	handoffs chan *Handoff
	wake     chan struct{}
	reserved atomic.Int64
	failing  atomic.Bool
}

func (r *Relay) init() {
	r.once.Do(func() {
		r.handoffs = make(chan *Handoff, r.window())
		r.wake = make(chan struct{}, 1)
	})
}

func (r *Relay) window() int { return cmp.Or(r.Window, 8192) }
func (r *Relay) batch() int  { return cmp.Or(r.Batch, 256) }

func (r *Relay) lease() time.Duration { return cmp.Or(r.Lease, time.Minute) }

func (r *Relay) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

func (r *Relay) log() *slog.Logger {
	if r.Log != nil {
		return r.Log
	}
	return slog.New(slog.DiscardHandler)
}

// Wake makes Run look for due rows at once. Call it after a commit.
func (r *Relay) Wake() {
	r.init()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run relays until ctx ends, and then returns nil. A database or publisher that
// fails is tried again, after 50 ms at first and 5 s at the most.
func (r *Relay) Run(ctx context.Context) error {
	r.init()
	poll := cmp.Or(r.Poll, time.Second)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var wait time.Duration
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case h := <-r.handoffs:
			err = r.publishHandoffs(ctx, h)
		case <-r.wake:
			err = r.drain(ctx)
		case <-timer.C:
			err = r.drain(ctx)
			timer.Reset(poll)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			wait = 0
			r.failing.Store(false)
			continue
		}
		r.failing.Store(true) // Reserve refuses now, so new rows wait in the database
		wait = min(max(2*wait, 50*time.Millisecond), 5*time.Second)
		r.log().WarnContext(ctx, "relay failed", "error", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
			r.Wake()
		}
	}
}

// drain flushes until a batch is not full; between two batches what was
// reserved goes first.
func (r *Relay) drain(ctx context.Context) error {
	for {
		n, err := r.Flush(ctx)
		if err != nil || n < r.batch() {
			return err
		}
		select {
		case h := <-r.handoffs:
			if err := r.publishHandoffs(ctx, h); err != nil {
				return err
			}
		default:
		}
	}
}

// Flush is one step of Run: it claims one batch of due rows and publishes them,
// and tells how many there were. On an error the rows are due again at once, or
// when their lease ends if the database cannot be reached either.
func (r *Relay) Flush(ctx context.Context) (int, error) {
	r.init()
	seqs, err := r.claim(ctx)
	if err != nil || len(seqs) == 0 {
		return 0, err
	}
	msgs, err := r.load(ctx, seqs)
	if err != nil {
		return len(seqs), errors.Join(err, r.giveBack(ctx, seqs))
	}
	return len(seqs), r.publish(ctx, msgs, seqs)
}

func (r *Relay) publish(ctx context.Context, msgs []*message.Message, seqs []int64) error {
	err := r.Publisher.Publish(cmp.Or(r.Topic, "handover.events"), msgs...)
	if r.Observe != nil {
		r.Observe(len(msgs), err)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("publish events: %w", err), r.giveBack(ctx, seqs))
	}
	if r.KeepUntilRouted {
		return nil
	}
	in, arg := list(r.Dialect, "$1", seqs)
	if _, err := r.DB.ExecContext(context.WithoutCancel(ctx), `DELETE FROM handover_outbox WHERE event_seq `+in, arg); err != nil {
		return fmt.Errorf("remove relayed rows: %w", err)
	}
	return nil
}

func (r *Relay) claim(ctx context.Context) ([]int64, error) {
	now := r.now()
	// Each repeat waits twice as long, so that a consumer that cannot keep up is
	// not sent its whole backlog again every minute.
	locking, least := "", "min"
	if r.Dialect == Postgres {
		locking, least = " FOR UPDATE SKIP LOCKED", "least"
	}
	rows, err := r.DB.QueryContext(ctx, `UPDATE handover_outbox SET state = 1, attempts = attempts + 1, due_at = $3 + CAST($1 AS bigint) * (1 << `+least+`(attempts, 6)), owner = $2
WHERE event_seq IN (SELECT event_seq FROM handover_outbox WHERE due_at <= $3 ORDER BY due_at, event_seq LIMIT $4`+locking+`)
RETURNING event_seq`, r.lease().Microseconds(), r.Owner, now.UnixMicro(), r.batch())
	if err != nil {
		return nil, fmt.Errorf("claim outbox rows: %w", err)
	}
	defer rows.Close()
	var seqs []int64
	for rows.Next() {
		var seq int64
		if err := rows.Scan(&seq); err != nil {
			return nil, fmt.Errorf("claim outbox rows: %w", err)
		}
		seqs = append(seqs, seq)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("claim outbox rows: %w", err)
	}
	return seqs, nil
}

func (r *Relay) load(ctx context.Context, seqs []int64) ([]*message.Message, error) {
	in, arg := list(r.Dialect, "$1", seqs)
	rows, err := r.DB.QueryContext(ctx, `SELECT seq, id, environment_id, type, organization_id, subject, recorded_at, body
FROM handover_events WHERE seq `+in+` ORDER BY seq`, arg)
	if err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	defer rows.Close()
	msgs := make([]*message.Message, 0, len(seqs))
	for rows.Next() {
		var seq, at int64
		var id, environment, typ, organization, subject string
		var body []byte
		if err := rows.Scan(&seq, &id, &environment, &typ, &organization, &subject, &at, &body); err != nil {
			return nil, fmt.Errorf("load events: %w", err)
		}
		msgs = append(msgs, newMessage(seq, id, environment, typ, organization, subject, at, body))
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	return msgs, nil
}

// giveBack makes claimed rows due at once.
func (r *Relay) giveBack(ctx context.Context, seqs []int64) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	in, arg := list(r.Dialect, "$2", seqs)
	if _, err := r.DB.ExecContext(ctx, `UPDATE handover_outbox SET state = 0, owner = '', due_at = $1 WHERE event_seq `+in,
		r.now().UnixMicro(), arg); err != nil {
		return fmt.Errorf("give back outbox rows: %w", err)
	}
	return nil
}

func newMessage(seq int64, id, environment, typ, organization, subject string, at int64, body []byte) *message.Message {
	m := message.NewMessage(id, body)
	m.Metadata = message.Metadata{
		MetadataSeq: strconv.FormatInt(seq, 10), MetadataEnvironment: environment, MetadataType: typ,
		MetadataOrganization: organization, MetadataSubject: subject, MetadataRecordedAt: strconv.FormatInt(at, 10),
	}
	return m
}

// A Handoff is room in a relay's memory for rows about to be committed. The
// relay publishes them from there instead of looking for them; if the process
// dies first, their lease ends and any relay finds them.
type Handoff struct {
	relay *Relay
	room  int
	msgs  []*message.Message
	seqs  []int64
}

// Reserve asks for room for n events, and gets nil when the relay is not
// keeping up or its publisher fails. Each Handoff ends with one call of Commit
// or Cancel.
func (r *Relay) Reserve(n int) *Handoff {
	r.init()
	if r.failing.Load() || n > r.window() {
		return nil
	}
	if r.reserved.Add(int64(n)) > int64(r.window()) {
		r.reserved.Add(-int64(n))
		return nil
	}
	return &Handoff{relay: r, room: n}
}

func (h *Handoff) add(evs []events.Event, records []Record) {
	for i, ev := range evs {
		if records[i].Status != Added {
			continue
		}
		h.seqs = append(h.seqs, records[i].Seq)
		h.msgs = append(h.msgs, newMessage(records[i].Seq, ev.ID, ev.EnvironmentID, ev.Type, ev.OrganizationID, ev.Subject(),
			records[i].RecordedAt.UnixMicro(), ev.Body()))
	}
}

// Reset forgets what was appended, when its transaction is repeated.
func (h *Handoff) Reset() {
	if h != nil {
		h.msgs, h.seqs = nil, nil
	}
}

// Commit hands the appended events to the relay. Call it once their transaction
// has committed. A nil Handoff may be committed.
func (h *Handoff) Commit() {
	if h == nil {
		return
	}
	if len(h.msgs) == 0 {
		h.Cancel()
		return
	}
	h.relay.handoffs <- h // never full: each holds a place of the window
}

// Cancel gives the room back, after a rollback.
func (h *Handoff) Cancel() {
	if h != nil {
		h.relay.reserved.Add(-int64(h.room))
	}
}

// publishHandoffs publishes first and all others that wait, up to a batch.
func (r *Relay) publishHandoffs(ctx context.Context, first *Handoff) error {
	msgs, seqs, room := first.msgs, first.seqs, first.room
more:
	for len(msgs) < r.batch() {
		select {
		case h := <-r.handoffs:
			msgs, seqs, room = append(msgs, h.msgs...), append(seqs, h.seqs...), room+h.room
		default:
			break more
		}
	}
	defer r.reserved.Add(-int64(room))
	return r.publish(ctx, msgs, seqs)
}

// Routed removes events from the outbox, in the caller's transaction: what they
// led to is committed with their removal. It is for those who set
// [Relay.KeepUntilRouted].
func Routed(ctx context.Context, tx *sql.Tx, d Dialect, seqs ...int64) error {
	in, arg := list(d, "$1", seqs)
	if _, err := tx.ExecContext(ctx, `DELETE FROM handover_outbox WHERE event_seq `+in, arg); err != nil {
		return fmt.Errorf("remove routed rows: %w", err)
	}
	return nil
}

// Release makes everything due that a process of that name had claimed. Call it
// for a process that is known to be gone.
func Release(ctx context.Context, db *sql.DB, owner string, now time.Time) (int64, error) {
	return due(ctx, db, now, `state = 1 AND owner = $2`, owner)
}

// Rewind makes everything due that is not routed. Call it when the stream is
// known to have lost what it held, or the clock was set back.
func Rewind(ctx context.Context, db *sql.DB, now time.Time) (int64, error) {
	return due(ctx, db, now, `due_at > $2`, now.UnixMicro())
}

func due(ctx context.Context, db *sql.DB, now time.Time, which string, arg any) (int64, error) {
	res, err := db.ExecContext(ctx, `UPDATE handover_outbox SET state = 0, owner = '', due_at = $1 WHERE `+which,
		now.UnixMicro(), arg)
	if err != nil {
		return 0, fmt.Errorf("make outbox rows due: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("make outbox rows due: %w", err)
	}
	return n, nil
}

// list is "IN (…)" over one parameter, for any number of values.
func list(d Dialect, placeholder string, seqs []int64) (text string, arg any) {
	if d == Postgres {
		return "= ANY(" + placeholder + "::bigint[])", pgArray(seqs)
	}
	encoded, _ := json.Marshal(seqs) // integers cannot fail
	return "IN (SELECT value FROM json_each(" + placeholder + "))", string(encoded)
}

// pgArray writes PostgreSQL's text form of an array, which every driver accepts.
func pgArray(seqs []int64) string {
	b := []byte{'{'}
	for i, s := range seqs {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, s, 10)
	}
	return string(append(b, '}'))
}
