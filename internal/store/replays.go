package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// EventTypeTest is the type of the events that InsertTestDelivery records. They
// are for one endpoint and never missing at another.
const EventTypeTest = "handover.test"

// States of a replay.
const (
	ReplayRunning  = "running"
	ReplayDone     = "done"
	ReplayCanceled = "canceled"
	ReplayFailed   = "failed"
)

// filter is a selection of deliveries.
func (sel Selection) filter() DeliveryFilter {
	return DeliveryFilter{
		IDs: sel.DeliveryIDs, EventIDs: sel.EventIDs, EndpointID: sel.EndpointID, EventType: sel.EventType,
		OrganizationID: sel.OrganizationID, UserID: sel.UserID, State: sel.State, Since: sel.Since, Until: sel.Until,
	}
}

const replayColumns = `id, selection, state, error, total, done, skipped, rate, created_at, updated_at`

func scanReplay(r *Replay, scan func(...any) error) error {
	var selection string
	var created, updated int64
	if err := scan(&r.ID, &selection, &r.State, &r.Error, &r.Total, &r.Done, &r.Skipped, &r.Rate, &created, &updated); err != nil {
		return err
	}
	r.CreatedAt, r.UpdatedAt = time.UnixMicro(created), time.UnixMicro(updated)
	if err := json.Unmarshal([]byte(selection), &r.Selection); err != nil {
		return fmt.Errorf("selection: %w", err)
	}
	return nil
}

// CreateReplay records a replay of what is selected now; what is created later
// is not part of it.
func (s *Store) CreateReplay(ctx context.Context, sel Selection, rate int) (Replay, error) {
	upper, err := s.replayEnd(ctx)
	if err != nil {
		return Replay{}, fmt.Errorf("create replay: %w", err)
	}
	total, _, err := s.count(ctx, sel, upper)
	if err != nil {
		return Replay{}, fmt.Errorf("create replay: %w", err)
	}
	encoded, err := json.Marshal(sel)
	if err != nil {
		return Replay{}, fmt.Errorf("create replay: %w", err)
	}
	now := s.now().Truncate(time.Microsecond)
	r := Replay{ID: s.NewID("rpl_"), Selection: sel, State: ReplayRunning, Total: total, Rate: rate, CreatedAt: now, UpdatedAt: now}
	if _, err := s.write.ExecContext(ctx, `INSERT INTO replays (id, selection, state, total, rate, upper, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`, r.ID, string(encoded), r.State, r.Total, r.Rate, upper.String(), now.UnixMicro()); err != nil {
		return Replay{}, fmt.Errorf("create replay: %w", err)
	}
	return r, nil
}

// CountReplay tells how many a replay would select, exactly, and how many of
// them it would skip as things are.
func (s *Store) CountReplay(ctx context.Context, sel Selection) (total, skipped int64, err error) {
	upper, err := s.replayEnd(ctx)
	if err == nil {
		total, skipped, err = s.count(ctx, sel, upper)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("count replay: %w", err)
	}
	return total, skipped, nil
}

// replayEnd is the last delivery and the last event there are.
func (s *Store) replayEnd(ctx context.Context) (position, error) {
	var p position
	err := s.read.QueryRowContext(ctx, `SELECT (SELECT coalesce(max(seq), 0) FROM handover_events), (SELECT coalesce(max(id), '') FROM deliveries)`).Scan(&p.seq, &p.id)
	return p, err
}

// end is where a walk along a way ends, of which what came after upper is no
// part.
func (w way) end(upper position) position {
	if w.bySeq {
		return position{upper.seq, beyond}
	}
	return upper
}

func (s *Store) count(ctx context.Context, sel Selection, upper position) (total, skipped int64, err error) {
	if sel.Missing {
		m, err := s.missing(ctx, s.read, sel)
		if err != nil {
			return 0, 0, err
		}
		m.rest.and(`e.seq <= ?`, upper.seq)
		err = s.read.QueryRowContext(ctx, `SELECT count(*) FROM handover_events e`+m.rest.String(), m.rest.args...).Scan(&total)
		return total, 0, err
	}
	w, err := s.way(ctx, sel.filter())
	if err != nil {
		return 0, 0, err
	}
	c := w.rest.with()
	c.and(`e.seq = d.event_seq`)
	tables := eventsOfDeliveries
	if w.bySeq {
		tables = deliveriesOfEvents
		c.and(`e.seq <= ?`, upper.seq)
	} else {
		c.and(`d.id <= ?`, upper.id)
	}
	var skip sql.NullInt64
	err = s.read.QueryRowContext(ctx, `SELECT count(*), sum(CASE WHEN d.state IN (1, 5) OR `+readded+`
  OR NOT EXISTS (SELECT 1 FROM endpoints p WHERE p.id = d.endpoint_id AND p.state = 'enabled') THEN 1 ELSE 0 END)`+tables+c.String(), c.args...).Scan(&total, &skip)
	return total, skip.Int64, err
}

// Replay returns a replay.
func (s *Store) Replay(ctx context.Context, id string) (Replay, error) {
	return one(ctx, s.read, "replay", scanReplay, `SELECT `+replayColumns+` FROM replays WHERE id = $1`, id)
}

// ListReplays lists replays, newest first.
func (s *Store) ListReplays(ctx context.Context, p Page) ([]Replay, string, error) {
	return listing[Replay]{"replays", replayColumns, "replays", "rpl", scanReplay, func(r *Replay) string { return r.ID }}.page(ctx, s.read, where{}, p)
}

// CancelReplay stops a replay; what it sent again already goes on. One that has
// ended otherwise is ErrConflict.
func (s *Store) CancelReplay(ctx context.Context, id string) (Replay, error) {
	if _, err := s.write.ExecContext(ctx, `UPDATE replays SET state = 'canceled', updated_at = $1 WHERE id = $2 AND state = 'running'`,
		s.now().UnixMicro(), id); err != nil {
		return Replay{}, fmt.Errorf("cancel replay: %w", err)
	}
	r, err := one(ctx, s.write, "replay", scanReplay, `SELECT `+replayColumns+` FROM replays WHERE id = $1`, id)
	if err == nil && r.State != ReplayCanceled {
		err = fmt.Errorf("%w: it has ended", ErrConflict)
	}
	if err != nil {
		return Replay{}, fmt.Errorf("cancel replay: %w", err)
	}
	return r, nil
}

// ClaimReplays returns the running replays that are this owner's: those it has,
// those nobody has, and those of workers that are gone.
func (s *Store) ClaimReplays(ctx context.Context, owner string) ([]Replay, error) {
	var running, mine int
	if err := s.read.QueryRowContext(ctx, `SELECT count(*), coalesce(sum(CASE WHEN owner = $1 THEN 1 ELSE 0 END), 0) FROM replays WHERE state = 'running'`,
		owner).Scan(&running, &mine); err != nil {
		return nil, fmt.Errorf("find running replays: %w", err)
	}
	if running > mine {
		if _, err := s.write.ExecContext(ctx, `UPDATE replays SET owner = $1 WHERE state = 'running' AND owner <> $1
  AND NOT EXISTS (SELECT 1 FROM workers w WHERE w.owner = replays.owner)`, owner); err != nil {
			return nil, fmt.Errorf("claim replays: %w", err)
		}
	}
	if running == 0 {
		return nil, nil
	}
	return query(ctx, s.read, "replays", scanReplay, `SELECT `+replayColumns+` FROM replays WHERE state = 'running' AND owner = $1 ORDER BY id`, owner)
}

// A ReplayPage is what one step of a replay did.
type ReplayPage struct {
	Moved       int // deliveries that are on their way again
	Skipped     int
	State       string   // of the replay now; "" when it is not this owner's any more
	EndpointIDs []string // at which something became due
}

// errNotOurs ends the transaction of a step that has nothing to do.
var errNotOurs = errors.New("the replay was canceled or taken over")

// ContinueReplay does the next step of a replay: at most limit deliveries and
// how far it came, in one transaction.
func (s *Store) ContinueReplay(ctx context.Context, owner, id string, limit int) (ReplayPage, error) {
	var page ReplayPage
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		page = ReplayPage{}
		var selection, at, upperText string
		var total, done, skipped int64
		err := tx.QueryRowContext(ctx, `SELECT selection, position, upper, total, done, skipped FROM replays
WHERE id = $1 AND state = 'running' AND owner = $2`+s.forUpdate("UPDATE"), id, owner).Scan(&selection, &at, &upperText, &total, &done, &skipped)
		if errors.Is(err, sql.ErrNoRows) {
			return errNotOurs
		}
		if err != nil {
			return err
		}
		var sel Selection
		if err := json.Unmarshal([]byte(selection), &sel); err != nil {
			return err
		}
		upper, ok := parsePosition(upperText)
		if !ok {
			return fmt.Errorf("position %q is none", upperText)
		}
		step, failure := s.replayDeliveries, ""
		if sel.Missing {
			step = s.replayMissing
		}
		end, last, err := step(ctx, tx, sel, at, upper, limit, &page)
		if errors.Is(err, ErrEndpointNotReady) || errors.Is(err, ErrNotFound) {
			failure = "the endpoint is not enabled"
		} else if err != nil {
			return err
		}
		done, skipped = done+int64(page.Moved), skipped+int64(page.Skipped)
		page.State = ReplayRunning
		switch {
		case failure != "":
			page.State = ReplayFailed
		case last:
			page.State = ReplayDone
			total = max(total, done+skipped)
			skipped = total - done // the others are gone or were sent by someone else
		}
		_, err = tx.ExecContext(ctx, `UPDATE replays SET position = $1, total = $2, done = $3, skipped = $4, state = $5, error = $6, updated_at = $7 WHERE id = $8`,
			end.String(), total, done, skipped, page.State, failure, s.now().UnixMicro(), id)
		return err
	})
	if errors.Is(err, errNotOurs) {
		return ReplayPage{}, nil
	}
	if err != nil {
		return ReplayPage{}, fmt.Errorf("continue replay: %w", err)
	}
	return page, nil
}

func (s *Store) replayDeliveries(ctx context.Context, tx *sql.Tx, sel Selection, at string, upper position, limit int, page *ReplayPage) (end position, last bool, err error) {
	w, err := s.way(ctx, sel.filter())
	if err != nil {
		return position{}, false, err
	}
	from := w.start(false)
	if at != "" {
		var ok bool
		if from, ok = parsePosition(at); !ok {
			return position{}, false, fmt.Errorf("position %q is none", at)
		}
	}
	found, end, last, err := s.walk(ctx, tx, w, from, w.end(upper), false, limit)
	if err != nil || len(found) == 0 {
		return end, last, err
	}
	var endpoints []string
	for _, d := range found {
		endpoints = append(endpoints, d.EndpointID)
	}
	rows, err := tx.QueryContext(ctx, `SELECT id FROM endpoints WHERE state = 'enabled' AND id `+s.in("$1", "text"), list(s.dialect, endpoints))
	enabled, err := appendStrings(nil, rows, err)
	if err != nil {
		return end, false, err
	}
	ready := make(map[string]bool, len(enabled))
	for _, id := range enabled {
		ready[id] = true
	}
	ids := make([]string, 0, len(found))
	for _, d := range found {
		if ready[d.EndpointID] {
			ids = append(ids, d.ID)
		}
	}
	page.Skipped = len(found) - len(ids)
	if len(ids) == 0 {
		return end, last, nil
	}
	moved, skipped, due, err := s.requeue(ctx, tx, ids, s.now())
	page.Moved, page.EndpointIDs = moved, due
	page.Skipped += skipped
	return end, last, err
}

// missing says how events are found that an endpoint never got.
func (s *Store) missing(ctx context.Context, q querier, sel Selection) (way, error) {
	e, err := one(ctx, q, "endpoint", scanEndpoint, `SELECT `+endpointColumns+` FROM endpoints WHERE id = $1 AND state <> 'deleted'`, sel.EndpointID)
	if err != nil {
		return way{}, err
	}
	if e.State != EndpointEnabled {
		return way{}, ErrEndpointNotReady
	}
	w := way{bySeq: true, base: new(where)}
	if w.low, w.high, err = s.seqsBetween(ctx, sel.Since, sel.Until); err != nil {
		return way{}, err
	}
	switch {
	case len(sel.EventIDs) > 0:
		w.base.and(`e.id `+s.in("?", "text"), list(s.dialect, sel.EventIDs))
	case sel.UserID != "":
		w.base.and(`e.user_id <> '' AND e.user_id = ?`, sel.UserID)
	case sel.OrganizationID != "":
		w.base.and(`e.organization_id = ?`, sel.OrganizationID)
	}
	w.rest = w.base.with()
	w.rest.and(`e.seq >= ? AND e.seq < ?`, w.low, w.high)
	w.rest.and(`e.type <> ?`, EventTypeTest)
	if !has(e.EventTypes, "*", "*") {
		w.rest.and(`e.type `+s.in("?", "text"), list(s.dialect, e.EventTypes))
	}
	if len(e.OrganizationIDs) > 0 {
		w.rest.and(`e.organization_id || '' `+s.in("?", "text"), list(s.dialect, e.OrganizationIDs))
	}
	for _, c := range []struct {
		cond, arg string
	}{{`e.type = ?`, sel.EventType}, {`e.user_id || '' = ?`, sel.UserID}, {`e.organization_id || '' = ?`, sel.OrganizationID}} {
		if c.arg != "" {
			w.rest.and(c.cond, c.arg)
		}
	}
	if !sel.Since.IsZero() {
		w.rest.and(`e.recorded_at >= ?`, sel.Since.UnixMicro())
	}
	if !sel.Until.IsZero() {
		w.rest.and(`e.recorded_at < ?`, sel.Until.UnixMicro())
	}
	w.rest.and(`NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_seq = e.seq AND d.endpoint_id = ?)`, e.ID)
	w.rest.and(`NOT ` + readded)
	// The router has yet to come to those in the outbox.
	w.rest.and(`NOT EXISTS (SELECT 1 FROM handover_outbox o WHERE o.event_seq = e.seq)`)
	return w, nil
}

func (s *Store) replayMissing(ctx context.Context, tx *sql.Tx, sel Selection, at string, upper position, limit int, page *ReplayPage) (end position, last bool, err error) {
	if err := s.lockReadds(ctx, tx, ""); err != nil {
		return position{}, false, err
	}
	w, err := s.missing(ctx, tx, sel)
	if err != nil {
		return position{}, false, err
	}
	from := w.low - 1
	if at != "" {
		p, ok := parsePosition(at)
		if !ok {
			return position{}, false, fmt.Errorf("position %q is none", at)
		}
		from = p.seq
	}
	var made []NewDelivery
	seq, last, err := walk(from, limit,
		func(from int64, n int) (int64, bool, error) {
			c := w.base.with()
			c.and(`e.seq > ?`, from)
			return boundary[int64](ctx, tx, `SELECT e.seq FROM handover_events e`+c.String()+` ORDER BY e.seq`, n, c.args)
		},
		func(from int64, to *int64, n int) (int, error) {
			c := w.rest.with()
			c.and(`e.seq > ? AND e.seq <= ?`, from, upper.seq)
			if to != nil {
				c.and(`e.seq <= ?`, *to)
			}
			c.args = append(c.args, n)
			// Locked, so that none is deleted for its age while it gets a delivery.
			rows, err := query(ctx, tx, "missing events", func(d *NewDelivery, scan func(...any) error) error {
				return scan(&d.EventSeq, &d.OrderKey)
			}, `SELECT e.seq, e.subject FROM handover_events e`+c.String()+` ORDER BY e.seq LIMIT $`+strconv.Itoa(len(c.args))+s.forUpdate("KEY SHARE OF e"), c.args...)
			made = append(made, rows...)
			return len(rows), err
		})
	if err != nil {
		return position{}, false, err
	}
	if len(made) >= limit {
		seq, last = made[len(made)-1].EventSeq, false
	}
	for i := range made {
		d := &made[i]
		d.ID, d.EndpointID = s.NewID("msg_"), sel.EndpointID
		if d.OrderKey == "" {
			d.OrderKey = d.ID
		}
	}
	if err := s.insertDeliveries(ctx, tx, "", made); err != nil {
		return position{}, false, err
	}
	for _, d := range made {
		switch d.State {
		case existed:
			page.Skipped++
		case Pending:
			page.EndpointIDs = []string{sel.EndpointID}
			fallthrough
		default:
			page.Moved++
		}
	}
	return position{seq: seq, id: beyond}, last, nil
}
