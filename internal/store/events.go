package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// An EventFilter says which events; what is empty does not restrict.
type EventFilter struct {
	Type           string
	OrganizationID string
	UserID         string
	Since, Until   time.Time // recorded at or after, and before
}

const eventColumns = `seq, id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at`

func scanEvent(e *Event, scan func(...any) error) error {
	return scanEventAnd(e, scan)
}

func scanEventBody(e *Event, scan func(...any) error) error {
	return scanEventAnd(e, scan, &e.Body)
}

func scanEventAnd(e *Event, scan func(...any) error, more ...any) error {
	var occurred, recorded int64
	if err := scan(append([]any{&e.Seq, &e.ID, &e.EnvironmentID, &e.Type, &e.OrganizationID, &e.UserID, &e.Subject, &occurred, &recorded}, more...)...); err != nil {
		return err
	}
	e.OccurredAt, e.RecordedAt = time.Unix(0, occurred), time.UnixMicro(recorded)
	return nil
}

// EventEnvironments names the environments that have an event of this id, at
// most limit of them.
func (s *Store) EventEnvironments(ctx context.Context, id string, limit int) ([]string, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT environment_id FROM handover_events WHERE id = $1 ORDER BY environment_id LIMIT $2`, id, limit)
	environments, err := appendStrings(nil, rows, err)
	if err != nil {
		return nil, fmt.Errorf("find environments of event: %w", err)
	}
	return environments, nil
}

// Event returns an event with its body; of several with that id in different
// environments the last one recorded, unless an environment is named.
func (s *Store) Event(ctx context.Context, id, environmentID string) (Event, error) {
	return one(ctx, s.read, "event", scanEventBody, `SELECT `+eventColumns+`, body FROM handover_events
WHERE id = $1 AND ($2 = '' OR environment_id = $2) ORDER BY seq DESC LIMIT 1`, id, environmentID)
}

// ListEvents lists events without their bodies, last recorded first. A page may
// be short and not be the last.
func (s *Store) ListEvents(ctx context.Context, f EventFilter, p Page) ([]Event, string, error) {
	from, err := p.number("ev")
	if err != nil {
		return nil, "", err
	}
	var base where // what an index serves
	switch {
	case f.UserID != "":
		base.and(`user_id <> '' AND user_id = ?`, f.UserID)
	case f.OrganizationID != "":
		base.and(`organization_id = ?`, f.OrganizationID)
	}
	low, high, err := s.seqsBetween(ctx, f.Since, f.Until)
	if err != nil {
		return nil, "", err
	}
	if from == 0 || from > high {
		from = high
	}
	base.and(`seq >= ?`, low)
	rest := base.with()
	if f.UserID != "" && f.OrganizationID != "" {
		rest.and(`organization_id || '' = ?`, f.OrganizationID) // so written, its index does not tempt
	}
	if f.Type != "" {
		rest.and(`type = ?`, f.Type)
	}
	if !f.Since.IsZero() {
		rest.and(`recorded_at >= ?`, f.Since.UnixMicro())
	}
	if !f.Until.IsZero() {
		rest.and(`recorded_at < ?`, f.Until.UnixMicro())
	}
	var found []Event
	end, done, err := walk(from, p.Limit+1,
		func(from int64, n int) (int64, bool, error) {
			w := base.with()
			w.and(`seq < ?`, from)
			return boundary[int64](ctx, s.read, `SELECT seq FROM handover_events`+w.String()+` ORDER BY seq DESC`, n, w.args)
		},
		func(from int64, to *int64, n int) (int, error) {
			w := rest.with()
			w.and(`seq < ?`, from)
			if to != nil {
				w.and(`seq >= ?`, *to)
			}
			w.args = append(w.args, n)
			rows, err := query(ctx, s.read, "events", scanEvent,
				fmt.Sprintf(`SELECT %s FROM handover_events%s ORDER BY seq DESC LIMIT $%d`, eventColumns, w, len(w.args)), w.args...)
			found = append(found, rows...)
			return len(rows), err
		})
	if err != nil {
		return nil, "", err
	}
	if len(found) > p.Limit || done {
		found, next := cut(found, p.Limit, "ev", func(e *Event) string { return strconv.FormatInt(e.Seq, 10) })
		return found, next, nil
	}
	return found, cursor("ev", strconv.FormatInt(end, 10)), nil
}

// boundary gives the n-th key of an ordered query.
func boundary[K any](ctx context.Context, q querier, ordered string, n int, args []any) (key K, ok bool, err error) {
	args = append(args[:len(args):len(args)], n-1)
	err = q.QueryRowContext(ctx, fmt.Sprintf(`%s LIMIT 1 OFFSET $%d`, ordered, len(args)), args...).Scan(&key)
	if errors.Is(err, sql.ErrNoRows) {
		return key, false, nil
	}
	if err != nil {
		return key, false, fmt.Errorf("find end of window: %w", err)
	}
	return key, true, nil
}

// clockSlack is by how much the clocks of processes on one database may differ.
const clockSlack = 10 * time.Minute

// seqsBetween gives the numbers between which all events lie that were recorded
// in a span of time: low <= seq < high.
func (s *Store) seqsBetween(ctx context.Context, since, until time.Time) (low, high int64, err error) {
	if err := s.read.QueryRowContext(ctx, `SELECT coalesce(max(seq), 0) + 1 FROM handover_events`).Scan(&high); err != nil {
		return 0, 0, fmt.Errorf("find last event: %w", err)
	}
	last := high
	low = 1
	if !since.IsZero() {
		if low, err = s.seqAt(ctx, since.Add(-clockSlack), last); err != nil {
			return 0, 0, err
		}
	}
	if !until.IsZero() {
		if high, err = s.seqAt(ctx, until.Add(clockSlack), last); err != nil {
			return 0, 0, err
		}
	}
	return low, high, nil
}

// seqAt finds by halving the first event recorded at or after a time: numbers
// grow with time, but for the difference between clocks. An index on the time
// would cost every event for what is rarely asked.
func (s *Store) seqAt(ctx context.Context, t time.Time, end int64) (int64, error) {
	low, high := int64(1), end
	for low < high {
		mid := low + (high-low)/2
		var seq, at int64
		err := s.read.QueryRowContext(ctx, `SELECT seq, recorded_at FROM handover_events WHERE seq >= $1 ORDER BY seq LIMIT 1`, mid).Scan(&seq, &at)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			high = mid
		case err != nil:
			return 0, fmt.Errorf("find event by time: %w", err)
		case at < t.UnixMicro():
			low = seq + 1
		default:
			high = mid
		}
	}
	return low, nil
}
