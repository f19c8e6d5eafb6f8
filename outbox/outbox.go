package outbox

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
)

// ErrConflict says that an event of the same id and environment is recorded
// already, with another body.
var ErrConflict = errors.New("an event with this id and another body is recorded")

// ErrKnown says that nothing was recorded since one of the events was before; see
// [Tx].
var ErrKnown = errors.New("an event is recorded already")

// Status says what [Append] did with an event.
type Status uint8

// What Append can do with an event.
const (
	Added     Status = iota // recorded now
	Duplicate               // was recorded before, byte for byte
	Conflict                // an event with this id and another body was recorded before; nothing was done
)

// A Record is the outcome of appending one event.
type Record struct {
	Status Status
	// Seq numbers the event in this database. Numbers are given at the insert and
	// become visible at the commit, so a later one can appear first: never
	// remember the last one seen as a cursor.
	Seq int64
	// RecordedAt is when it was appended, to the microsecond.
	RecordedAt time.Time
}

// Tx is the part of a transaction that Append needs. [SQL] makes one of a
// *sql.Tx; the package outbox/pgxoutbox of a pgx.Tx. One with a method
// Arrays() bool that returns true takes slices as PostgreSQL arrays. If it has a
// method AllNew() bool that returns true too, AppendTx makes exactly one call of
// Query, which records nothing and ends in [ErrKnown] unless all events are new:
// such a Tx may commit with its statement.
type Tx interface {
	Exec(ctx context.Context, query string, args ...any) error
	// Query calls each for every row, with the row's Scan.
	Query(ctx context.Context, each func(scan func(dest ...any) error) error, query string, args ...any) error
}

// Append records events in the caller's own transaction: they exist if and
// only if it commits, together with whatever else it changed. Nothing is sent
// before the commit.
//
// An event that was recorded before (same id and environment) is left as it is
// and reported as [Duplicate], so that the whole call may be repeated. If its
// body differs, Append records the other events, reports this one as
// [Conflict] and returns an error that matches [ErrConflict]; the transaction
// remains usable. After any other error, roll it back.
//
// The records are in the order of the events.
func Append(ctx context.Context, tx *sql.Tx, evs ...events.Event) ([]Record, error) {
	return AppendTx(ctx, SQL(tx), evs...)
}

// AppendTx is [Append] for any kind of transaction.
func AppendTx(ctx context.Context, tx Tx, evs ...events.Event) ([]Record, error) {
	return AppendReserved(ctx, tx, nil, evs...)
}

// AppendReserved is [AppendTx] for a process that runs the [Relay] itself and
// spares it the search for what was just committed: h is room that
// [Relay.Reserve] gave, or nil.
func AppendReserved(ctx context.Context, tx Tx, h *Handoff, evs ...events.Event) ([]Record, error) {
	now := time.Now()
	if h != nil {
		now = h.relay.now()
	}
	recorded := now.Truncate(time.Microsecond)
	records := make([]Record, len(evs))
	conflict, err := appendRows(ctx, tx, h, recorded, evs, records)
	if err != nil {
		return nil, err
	}
	if h != nil {
		h.add(evs, records)
	}
	if conflict {
		return records, ErrConflict
	}
	return records, nil
}

type eventKey struct{ id, environment string }

// batch is one group of events on its way into the tables.
type batch struct {
	evs      []events.Event
	recorded time.Time
	state    int16
	due      time.Time
	owner    string
}

func appendRows(ctx context.Context, tx Tx, h *Handoff, recorded time.Time, evs []events.Event, records []Record) (conflict bool, err error) {
	b := batch{evs: evs, recorded: recorded, due: recorded}
	if h != nil {
		b.state, b.owner, b.due = relayed, h.relay.Owner, recorded.Add(h.relay.lease())
	}
	insert := b.insertValues
	if a, ok := tx.(interface{ Arrays() bool }); ok && a.Arrays() {
		insert = b.insertArrays
	}
	if a, ok := tx.(interface{ AllNew() bool }); ok && a.AllNew() {
		if twice(evs) {
			return false, ErrKnown
		}
		insert = b.insertNew
	}
	added := make(map[eventKey]int64, len(evs))
	if err := insert(ctx, tx, added); err != nil {
		return false, fmt.Errorf("insert events: %w", err)
	}
	for i, ev := range evs {
		k := eventKey{ev.ID, ev.EnvironmentID}
		if seq, ok := added[k]; ok {
			delete(added, k) // a second copy in the same call is a duplicate of the first
			records[i] = Record{Status: Added, Seq: seq, RecordedAt: recorded}
			continue
		}
		if records[i], err = compare(ctx, tx, ev); err != nil {
			return false, err
		}
		conflict = conflict || records[i].Status == Conflict
	}
	return conflict, nil
}

const (
	eventColumns = `INSERT INTO handover_events (id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at, body) `
	returning    = ` RETURNING seq, id, environment_id`
	unlessKnown  = ` ON CONFLICT (id, environment_id) DO NOTHING` + returning
	rowColumns   = `INSERT INTO handover_outbox (event_seq, subject, state, due_at, owner) `
)

// insertValues works on any driver. Statements come in sizes of powers of two,
// so that there are few texts to prepare.
func (b *batch) insertValues(ctx context.Context, tx Tx, added map[eventKey]int64) error {
	args := make([]any, 0, maxRows*9)
	for part := range powersOfTwo(b.evs) {
		args = args[:0]
		for _, ev := range part {
			args = append(args, ev.ID, ev.EnvironmentID, ev.Type, ev.OrganizationID, ev.UserID(), ev.Subject(),
				ev.OccurredAt.UnixNano(), b.recorded.UnixMicro(), ev.Body())
		}
		if err := tx.Query(ctx, collect(added), eventColumns+values(9, len(part))+unlessKnown, args...); err != nil {
			return err
		}
	}
	type row struct {
		seq     int64
		subject string
	}
	rows := make([]row, 0, len(added))
	once := make(map[int64]bool, len(added))
	for _, ev := range b.evs {
		if seq, ok := added[eventKey{ev.ID, ev.EnvironmentID}]; ok && !once[seq] {
			once[seq] = true
			rows = append(rows, row{seq, ev.Subject()})
		}
	}
	for part := range powersOfTwo(rows) {
		args = args[:0]
		for _, r := range part {
			args = append(args, r.seq, r.subject, b.state, b.due.UnixMicro(), b.owner)
		}
		if err := tx.Exec(ctx, rowColumns+values(5, len(part)), args...); err != nil {
			return err
		}
	}
	return nil
}

// insertArrays is one round trip, where the driver passes arrays.
func (b *batch) insertArrays(ctx context.Context, tx Tx, added map[eventKey]int64) error {
	return b.insertUnnested(ctx, tx, added, "", unlessKnown)
}

// insertNew is insertArrays for events none of which may be known. Should one
// become so in between, the statement fails.
func (b *batch) insertNew(ctx context.Context, tx Tx, added map[eventKey]int64) error {
	const unlessAny = ` WHERE NOT EXISTS (SELECT 1 FROM u CROSS JOIN LATERAL
  (SELECT 1 FROM handover_events k WHERE k.id = u.id AND k.environment_id = u.environment_id LIMIT 1) k)`
	err := b.insertUnnested(ctx, tx, added, unlessAny, returning)
	if err == nil && len(added) < len(b.evs) {
		err = ErrKnown
	}
	return err
}

func twice(evs []events.Event) bool {
	seen := make(map[eventKey]bool, len(evs))
	for _, ev := range evs {
		seen[eventKey{ev.ID, ev.EnvironmentID}] = true
	}
	return len(seen) < len(evs)
}

func (b *batch) insertUnnested(ctx context.Context, tx Tx, added map[eventKey]int64, where, conflict string) error {
	n := len(b.evs)
	ids, environments, types, organizations := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	users, subjects, occurred, bodies := make([]string, n), make([]string, n), make([]int64, n), make([][]byte, n)
	for i, ev := range b.evs {
		ids[i], environments[i], types[i], organizations[i] = ev.ID, ev.EnvironmentID, ev.Type, ev.OrganizationID
		users[i], subjects[i], occurred[i], bodies[i] = ev.UserID(), ev.Subject(), ev.OccurredAt.UnixNano(), ev.Body()
	}
	return tx.Query(ctx, collect(added), `WITH u AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
    $8::bigint[], $9::bytea[]) AS u(id, environment_id, type, organization_id, user_id, subject, occurred_at, body)),
e AS (`+eventColumns+`
  SELECT u.id, u.environment_id, u.type, u.organization_id, u.user_id, u.subject, u.occurred_at, $1::bigint, u.body FROM u`+where+conflict+`, subject),
o AS (`+rowColumns+`SELECT seq, subject, $10::smallint, $11::bigint, $12::text FROM e)
SELECT seq, id, environment_id FROM e`,
		b.recorded.UnixMicro(), ids, environments, types, organizations, users, subjects, occurred, bodies,
		b.state, b.due.UnixMicro(), b.owner)
}

func collect(added map[eventKey]int64) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var k eventKey
		var seq int64
		if err := scan(&seq, &k.id, &k.environment); err != nil {
			return err
		}
		added[k] = seq
		return nil
	}
}

func compare(ctx context.Context, tx Tx, ev events.Event) (Record, error) {
	rec := Record{Status: Conflict}
	found := false
	err := tx.Query(ctx, func(scan func(...any) error) error {
		var at int64
		var body []byte
		if err := scan(&rec.Seq, &at, &body); err != nil {
			return err
		}
		found = true
		rec.RecordedAt = time.UnixMicro(at)
		if bytes.Equal(body, ev.Body()) {
			rec.Status = Duplicate
		}
		return nil
	}, `SELECT seq, recorded_at, body FROM handover_events WHERE id = $1 AND environment_id = $2`, ev.ID, ev.EnvironmentID)
	if err == nil && !found {
		err = errors.New("it was deleted meanwhile")
	}
	if err != nil {
		return Record{}, fmt.Errorf("compare with event %s: %w", ev.ID, err)
	}
	return rec, nil
}

// maxRows keeps the parameters of one statement under the limits of both databases.
const maxRows = 64

// powersOfTwo cuts a list into parts of 64, 32, … 1.
func powersOfTwo[T any](all []T) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		for size := maxRows; len(all) > 0; {
			if len(all) < size {
				size /= 2
				continue
			}
			if !yield(all[:size]) {
				return
			}
			all = all[size:]
		}
	}
}

// values writes VALUES ($1, $2), ($3, $4)…
func values(columns, rows int) string {
	var b strings.Builder
	b.Grow(rows * columns * 6)
	b.WriteString("VALUES ")
	for p := range rows * columns {
		switch {
		case p == 0:
			b.WriteString("($")
		case p%columns == 0:
			b.WriteString("), ($")
		default:
			b.WriteString(", $")
		}
		b.WriteString(strconv.Itoa(p + 1))
	}
	b.WriteString(")")
	return b.String()
}

// SQL makes a [Tx] of a database/sql transaction.
func SQL(tx *sql.Tx) Tx { return sqlTx{tx, false} }

// SQLArrays is [SQL] for a driver that passes slices as PostgreSQL arrays, as
// pgx's stdlib package does: one round trip, however many events.
func SQLArrays(tx *sql.Tx) Tx { return sqlTx{tx, true} }

type sqlTx struct {
	tx     *sql.Tx
	arrays bool
}

func (t sqlTx) Arrays() bool { return t.arrays }

func (t sqlTx) Exec(ctx context.Context, query string, args ...any) error {
	_, err := t.tx.ExecContext(ctx, query, args...)
	return err
}

func (t sqlTx) Query(ctx context.Context, each func(scan func(dest ...any) error) error, query string, args ...any) (err error) {
	rows, err := t.tx.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
