package outbox

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
)

// ErrConflict says that an event of the same id and environment is recorded
// already, with another body.
var ErrConflict = errors.New("an event with this id and another body is recorded")

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
// *sql.Tx; the package outbox/pgxoutbox of a pgx.Tx.
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
	conflict := false
	for start := 0; start < len(evs); start += maxRows {
		end := min(start+maxRows, len(evs))
		clash, err := appendRows(ctx, tx, h, recorded, evs[start:end], records[start:end])
		if err != nil {
			return nil, err
		}
		conflict = conflict || clash
	}
	if h != nil {
		h.add(evs, records)
	}
	if conflict {
		return records, ErrConflict
	}
	return records, nil
}

// maxRows keeps the parameters of one statement under the limits of both databases.
const maxRows = 128

type eventKey struct{ id, environment string }

func appendRows(ctx context.Context, tx Tx, h *Handoff, recorded time.Time, evs []events.Event, records []Record) (conflict bool, err error) {
	args := make([]any, 0, len(evs)*9)
	for _, ev := range evs {
		args = append(args, ev.ID, ev.EnvironmentID, ev.Type, ev.OrganizationID, ev.UserID(), ev.Subject(),
			ev.OccurredAt.UnixNano(), recorded.UnixMicro(), ev.Body())
	}
	added := make(map[eventKey]int64, len(evs))
	err = tx.Query(ctx, func(scan func(...any) error) error {
		var k eventKey
		var seq int64
		if err := scan(&seq, &k.id, &k.environment); err != nil {
			return err
		}
		added[k] = seq
		return nil
	}, insertText(insertEvents, 9, len(evs), onConflictReturning), args...)
	if err != nil {
		return false, fmt.Errorf("insert events: %w", err)
	}

	state, owner, due := pending, "", recorded
	if h != nil {
		state, owner, due = relayed, h.relay.Owner, recorded.Add(h.relay.lease())
	}
	args = args[:0]
	var known []int
	for i, ev := range evs {
		k := eventKey{ev.ID, ev.EnvironmentID}
		seq, ok := added[k]
		if !ok {
			known = append(known, i)
			continue
		}
		delete(added, k) // a second copy in the same call is a duplicate of the first
		records[i] = Record{Status: Added, Seq: seq, RecordedAt: recorded}
		args = append(args, seq, ev.Subject(), state, due.UnixMicro(), owner)
	}
	if n := len(args) / 5; n > 0 {
		if err := tx.Exec(ctx, insertText(insertOutbox, 5, n, ""), args...); err != nil {
			return false, fmt.Errorf("insert outbox rows: %w", err)
		}
	}
	for _, i := range known {
		if records[i], err = compare(ctx, tx, evs[i]); err != nil {
			return false, err
		}
		conflict = conflict || records[i].Status == Conflict
	}
	return conflict, nil
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

const (
	insertEvents        = `INSERT INTO handover_events (id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at, body) VALUES `
	onConflictReturning = ` ON CONFLICT (id, environment_id) DO NOTHING RETURNING seq, id, environment_id`
	insertOutbox        = `INSERT INTO handover_outbox (event_seq, subject, state, due_at, owner) VALUES `
)

// insertText writes an INSERT of several rows.
func insertText(head string, columns, rows int, tail string) string {
	var b strings.Builder
	b.Grow(len(head) + rows*columns*6 + len(tail))
	b.WriteString(head)
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
	b.WriteString(tail)
	return b.String()
}

// SQL makes a [Tx] of a database/sql transaction.
func SQL(tx *sql.Tx) Tx { return sqlTx{tx} }

type sqlTx struct{ tx *sql.Tx }

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
