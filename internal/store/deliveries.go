package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// An Arrival is an event that came off the stream, with what the message says
// of it.
type Arrival = Unrouted

// An Unrouted event is one whose deliveries are about to be created.
type Unrouted struct {
	Seq            int64
	Type           string
	OrganizationID string
	Subject        string
}

// A NewDelivery is a delivery that the router wants to exist.
type NewDelivery struct {
	ID         string
	EventSeq   int64
	EndpointID string
	OrderKey   string
	// Claim asks for it to be born in its owner's hands.
	Claim bool
	// State is set by Route: Sending, Pending, Held or Superseded; -1 when the
	// delivery existed.
	State State
}

// existed marks a delivery that Route found already there.
const existed State = -1

// A Plan is what a router wants of events.
type Plan struct {
	Deliveries []NewDelivery
	// Events is how many of the events, from the first, the deliveries are of. A
	// plan may leave the last ones for later, to keep its transaction short.
	Events int
}

// Route turns events from the stream into deliveries and takes them out of the
// outbox, in one transaction. plan says which deliveries the events lead to; it
// gets the version of the endpoints that this transaction sees, and is called
// again when the transaction has to be repeated.
//
// Events of the same people that are still in the outbox are routed along, in
// the order in which they were recorded, so that no later event of a person can
// be delivered before an earlier one. An arrival that is routed already does
// nothing. When there is more than fits into one transaction, the arrivals that
// did not are due for the relay again, and left is true.
func (s *Store) Route(ctx context.Context, owner string, arrivals []Arrival,
	plan func(endpointsVersion int64, evs []Unrouted) (Plan, error),
) (made []NewDelivery, left bool, err error) {
	if s.postgres() {
		if made, err = s.routePipelined(ctx, owner, arrivals, plan); !errors.Is(err, errUncommon) {
			return made, false, err
		}
	}
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		ctx := s.unwatched(ctx)
		made, left = nil, false
		version, evs, err := s.takeUnrouted(ctx, tx, arrivals)
		if err != nil || len(evs) == 0 {
			return err
		}
		var readds []int64
		for _, ev := range evs {
			if supersedes(ev.Type, ev.Subject) {
				readds = append(readds, ev.Seq)
			}
		}
		if err := s.supersede(ctx, tx, readds); err != nil {
			return err
		}
		p, err := plan(version, evs)
		if err != nil {
			return err
		}
		made = p.Deliveries
		if len(readds) > 0 {
			if err := s.markReadded(ctx, tx, made); err != nil {
				return err
			}
		}
		if err := s.insertDeliveries(ctx, tx, owner, made); err != nil {
			return err
		}
		left, err = s.leave(ctx, tx, arrivals, evs, p.Events)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("route events: %w", err)
	}
	return made, left, nil
}

// routePipelined is the short way of Route, for events about people of whom
// nothing else is under way. It plans with the endpoints as they were last seen.
func (s *Store) routePipelined(ctx context.Context, owner string, arrivals []Arrival,
	plan func(endpointsVersion int64, evs []Unrouted) (Plan, error),
) ([]NewDelivery, error) {
	version := s.endpointsSeen.Load()
	if version == 0 || len(arrivals) > routeAtOnce {
		return nil, errUncommon
	}
	evs := slices.SortedFunc(slices.Values(arrivals), func(a, b Unrouted) int { return cmp.Compare(a.Seq, b.Seq) })
	seqs, subjects := make([]int64, len(evs)), make([]string, 0, len(evs))
	people := make(map[string]bool, len(evs))
	for i, ev := range evs {
		if i > 0 && ev.Seq == seqs[i-1] || people[ev.Subject] || supersedes(ev.Type, ev.Subject) {
			return nil, errUncommon
		}
		if seqs[i] = ev.Seq; ev.Subject != "" {
			people[ev.Subject] = true
			subjects = append(subjects, ev.Subject)
		}
	}
	p, err := plan(version, evs)
	if err != nil {
		return nil, err
	}
	if p.Events < len(evs) {
		return nil, errUncommon
	}
	made, n := p.Deliveries, len(p.Deliveries)
	ids, events, endpoints, keys := make([]string, n), make([]int64, n), make([]string, n), make([]string, n)
	states, owners := make([]int16, n), make([]string, n)
	for i := range made {
		d := &made[i]
		if d.State = Pending; d.Claim {
			d.State, owners[i] = Sending, owner
		}
		ids[i], events[i], endpoints[i], keys[i], states[i] = d.ID, d.EventSeq, d.EndpointID, d.OrderKey, int16(d.State)
	}
	var common bool
	var taken []int64
	var b pgx.Batch
	b.Queue(routeText, seqs, subjects, version, ids, events, endpoints, keys, states, owners, s.now().UnixMicro()).QueryRow(func(row pgx.Row) error {
		return row.Scan(&common, &taken)
	})
	err = s.pipeline(ctx, &b)
	switch {
	case s.collided(err), err == nil && !common:
		return nil, errUncommon
	case err != nil:
		return nil, fmt.Errorf("route events: %w", err)
	case len(taken) == len(evs):
		return made, nil
	}
	for i := range made { // some were routed before
		if !slices.Contains(taken, made[i].EventSeq) {
			made[i].State = existed
		}
	}
	return made, nil
}

const routeText = `WITH u AS MATERIALIZED (SELECT * FROM unnest($4::text[], $5::bigint[], $6::text[], $7::text[], $8::smallint[], $9::text[])
  AS u(id, event_seq, endpoint_id, order_key, state, owner)),
common AS MATERIALIZED (SELECT (SELECT endpoints_version FROM control WHERE id = 1) = $3::bigint
  AND NOT EXISTS (SELECT 1 FROM unnest($2::text[]) AS p(subject) CROSS JOIN LATERAL
    (SELECT 1 FROM handover_outbox o WHERE o.subject <> '' AND o.subject = p.subject AND o.event_seq <> ALL($1::bigint[]) LIMIT 1) o)
  AND NOT EXISTS (SELECT 1 FROM u CROSS JOIN LATERAL
    (SELECT 1 FROM deliveries a WHERE a.endpoint_id = u.endpoint_id AND a.order_key = u.order_key AND a.state < 2 LIMIT 1) a) AS yes),
taken AS (DELETE FROM handover_outbox WHERE event_seq = ANY($1::bigint[]) AND (SELECT yes FROM common) RETURNING event_seq),
made AS (INSERT INTO deliveries (id, event_seq, endpoint_id, order_key, state, owner, due_at, created_at, updated_at)
  SELECT u.id, u.event_seq, u.endpoint_id, u.order_key, u.state, u.owner, $10::bigint, $10::bigint, $10::bigint
  FROM u JOIN taken ON taken.event_seq = u.event_seq)
SELECT (SELECT yes FROM common), ARRAY(SELECT event_seq FROM taken)`

// routeAtOnce bounds the events of one transaction: one person's backlog may be
// long, and all of it would come along.
const routeAtOnce = 1024

// takeUnrouted takes the arrivals, and what else the outbox has about the same
// people, out of the outbox: the first of them, if there are many.
func (s *Store) takeUnrouted(ctx context.Context, tx *sql.Tx, arrivals []Arrival) (version int64, evs []Unrouted, err error) {
	bySeq := make(map[int64]Arrival, len(arrivals))
	seqs := make([]int64, 0, len(arrivals))
	subjects := make([]string, 0, len(arrivals))
	for _, a := range arrivals {
		bySeq[a.Seq] = a
		seqs = append(seqs, a.Seq)
		if a.Subject != "" {
			subjects = append(subjects, a.Subject)
		}
	}
	rows, err := s.query(ctx, tx, `DELETE FROM handover_outbox WHERE event_seq IN (
  SELECT o.event_seq FROM (SELECT event_seq FROM handover_outbox WHERE event_seq `+s.in("$1", "bigint")+`
    UNION SELECT event_seq FROM handover_outbox WHERE subject <> '' AND subject `+s.in("$2", "text")+`) due
  JOIN handover_outbox o ON o.event_seq = due.event_seq ORDER BY o.event_seq LIMIT $3`+s.forUpdate("UPDATE OF o")+`)
RETURNING event_seq, subject, (SELECT endpoints_version FROM control WHERE id = 1)`, list(s.dialect, seqs), list(s.dialect, subjects), routeAtOnce)
	if err != nil {
		return 0, nil, fmt.Errorf("take events from the outbox: %w", err)
	}
	defer rows.Close()
	var along []int64
	for rows.Next() {
		var ev Unrouted
		if err := rows.Scan(&ev.Seq, &ev.Subject, &version); err != nil {
			return 0, nil, fmt.Errorf("take events from the outbox: %w", err)
		}
		if a, ok := bySeq[ev.Seq]; ok {
			ev = a
		} else {
			along = append(along, ev.Seq)
		}
		evs = append(evs, ev)
	}
	if err := rows.Err(); err != nil {
		return 0, nil, fmt.Errorf("take events from the outbox: %w", err)
	}
	if len(evs) > 0 {
		s.endpointsSeen.Store(version)
	}
	slices.SortFunc(evs, func(a, b Unrouted) int { return cmp.Compare(a.Seq, b.Seq) })
	return version, evs, s.describe(ctx, tx, evs, along)
}

// describe reads what the router must know of events that no message brought.
func (s *Store) describe(ctx context.Context, tx *sql.Tx, evs []Unrouted, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT seq, type, organization_id FROM handover_events WHERE seq `+s.in("$1", "bigint"), list(s.dialect, seqs))
	if err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq int64
		var typ, organization string
		if err := rows.Scan(&seq, &typ, &organization); err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		i, _ := slices.BinarySearchFunc(evs, seq, func(ev Unrouted, seq int64) int { return cmp.Compare(ev.Seq, seq) })
		evs[i].Type, evs[i].OrganizationID = typ, organization
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	return nil
}

// leave returns to the outbox what was taken and not planned, and makes the
// relay bring again what was not taken.
func (s *Store) leave(ctx context.Context, tx *sql.Tx, arrivals []Arrival, evs []Unrouted, planned int) (left bool, err error) {
	if len(evs) < routeAtOnce && planned == len(evs) {
		return false, nil
	}
	now := s.now().UnixMicro()
	for _, ev := range evs[planned:] {
		if _, err := tx.ExecContext(ctx, `INSERT INTO handover_outbox (event_seq, subject, due_at) VALUES ($1, $2, $3)`, ev.Seq, ev.Subject, now); err != nil {
			return false, fmt.Errorf("leave events in the outbox: %w", err)
		}
	}
	taken := make(map[int64]bool, len(evs))
	for _, ev := range evs {
		taken[ev.Seq] = true
	}
	var rest []int64
	for _, a := range arrivals {
		if !taken[a.Seq] {
			rest = append(rest, a.Seq)
		}
	}
	if len(rest) > 0 {
		_, err = tx.ExecContext(ctx, `UPDATE handover_outbox SET state = 0, owner = '', due_at = $1 WHERE event_seq `+s.in("$2", "bigint"), now, list(s.dialect, rest))
	}
	return true, err
}

// group is whom a delivery must not overtake.
type group struct{ endpointID, orderKey string }

// insertDeliveries creates deliveries and sets their State, unless it is
// Superseded already. Of one person's at one endpoint only the first may be
// active; the others are held. In one call they must come in the order of their
// events.
//
// Most are about somebody of whom nothing is under way there: those are simply
// inserted, and the index of the active ones says which were not so.
func (s *Store) insertDeliveries(ctx context.Context, tx *sql.Tx, owner string, ds []NewDelivery) error {
	if len(ds) == 0 {
		return nil
	}
	now := s.now().UnixMicro()
	busy := make(map[group]bool, len(ds))
	first := make([]*NewDelivery, 0, len(ds))
	var later, superseded []*NewDelivery
	for i := range ds {
		d := &ds[i]
		if d.State == Superseded {
			superseded = append(superseded, d)
		} else if g := (group{d.EndpointID, d.OrderKey}); busy[g] {
			later = append(later, d)
		} else {
			busy[g] = true
			d.State = Pending
			if d.Claim {
				d.State = Sending
			}
			first = append(first, d)
		}
	}
	refused, err := s.insertRows(ctx, tx, owner, first, now, "")
	if err != nil {
		return fmt.Errorf("insert deliveries: %w", err)
	}
	if len(superseded) > 0 {
		exist, err := s.insertRows(ctx, tx, owner, superseded, now, "(event_seq, endpoint_id)")
		if err != nil {
			return fmt.Errorf("insert superseded deliveries: %w", err)
		}
		for _, d := range exist {
			d.State = existed
		}
	}
	if len(refused)+len(later) == 0 {
		return nil
	}
	// They were refused because they exist, or because something is under way.
	rest := append(refused, later...)
	slices.SortStableFunc(rest, func(a, b *NewDelivery) int { return cmp.Compare(a.EventSeq, b.EventSeq) })
	groups := make([]group, len(rest))
	for i, d := range rest {
		groups[i] = group{d.EndpointID, d.OrderKey}
	}
	if busy, err = s.active(ctx, tx, groups); err != nil {
		return err
	}
	for i, d := range rest {
		switch {
		case busy[groups[i]]:
			d.State = Held
		case d.Claim:
			d.State = Sending
		default:
			d.State = Pending
		}
		busy[groups[i]] = true
	}
	// Only what exists is passed over now: should another transaction have made one
	// of that person's active meanwhile, this one fails and is repeated.
	exist, err := s.insertRows(ctx, tx, owner, rest, now, "(event_seq, endpoint_id)")
	if err != nil {
		return fmt.Errorf("insert deliveries: %w", err)
	}
	for _, d := range exist {
		d.State = existed
	}
	return nil
}

// insertRows inserts what does not conflict, on these columns or on any, with a
// row that is there, and returns the others.
func (s *Store) insertRows(ctx context.Context, tx *sql.Tx, owner string, ds []*NewDelivery, now int64, on string) (refused []*NewDelivery, err error) {
	const columns = `INSERT INTO deliveries (id, event_seq, endpoint_id, order_key, state, owner, due_at, created_at, updated_at) `
	ownerOf := func(d *NewDelivery) string {
		if d.State == Sending {
			return owner
		}
		return ""
	}
	if !s.postgres() {
		stmt, err := s.stmt(ctx, tx, columns+`VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $7) ON CONFLICT `+on+` DO NOTHING`)
		if err != nil {
			return nil, err
		}
		for _, d := range ds {
			res, err := stmt.exec(ctx, d.ID, d.EventSeq, d.EndpointID, d.OrderKey, d.State, ownerOf(d), now)
			if err != nil {
				return nil, err
			}
			if n, err := res.RowsAffected(); err != nil {
				return nil, err
			} else if n == 0 {
				refused = append(refused, d)
			}
		}
		return refused, nil
	}
	ids, seqs, endpoints, keys := make([]string, len(ds)), make([]int64, len(ds)), make([]string, len(ds)), make([]string, len(ds))
	states, owners := make([]int16, len(ds)), make([]string, len(ds))
	for i, d := range ds {
		ids[i], seqs[i], endpoints[i], keys[i], states[i], owners[i] = d.ID, d.EventSeq, d.EndpointID, d.OrderKey, int16(d.State), ownerOf(d)
	}
	res, err := tx.ExecContext(ctx, columns+`SELECT *, $7::bigint, $7::bigint, $7::bigint
FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::smallint[], $6::text[]) ON CONFLICT `+on+` DO NOTHING`,
		ids, seqs, endpoints, keys, states, owners, now)
	if err != nil {
		return nil, err
	}
	if n, err := res.RowsAffected(); err != nil || n == int64(len(ds)) {
		return nil, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT id FROM deliveries WHERE id = ANY($1::text[])`, ids)
	inserted, err := appendStrings(nil, rows, err)
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(inserted))
	for _, id := range inserted {
		known[id] = true
	}
	for _, d := range ds {
		if !known[d.ID] {
			refused = append(refused, d)
		}
	}
	return refused, nil
}

// active tells which groups have an active delivery, and keeps those deliveries
// from becoming final until this transaction ends: otherwise one could be
// finished, and look for held ones to release, just before this transaction's
// held rows can be seen.
func (s *Store) active(ctx context.Context, tx *sql.Tx, groups []group) (map[group]bool, error) {
	busy := make(map[group]bool)
	add := func(rows *sql.Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var g group
			if err := rows.Scan(&g.endpointID, &g.orderKey); err != nil {
				return err
			}
			busy[g] = true
		}
		return rows.Err()
	}
	var err error
	if s.postgres() {
		endpoints, keys := groupColumns(groups)
		err = add(tx.QueryContext(ctx, `SELECT d.endpoint_id, d.order_key
FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::text[]) AS u(endpoint_id, order_key) ORDER BY 1, 2) g
CROSS JOIN LATERAL (SELECT id, endpoint_id, order_key FROM deliveries a
  WHERE a.endpoint_id = g.endpoint_id AND a.order_key = g.order_key AND a.state < 2 FOR SHARE) d`, endpoints, keys))
	} else {
		var stmt statement
		stmt, err = s.stmt(ctx, tx, `SELECT endpoint_id, order_key FROM deliveries WHERE endpoint_id = $1 AND order_key = $2 AND state < 2`)
		if err == nil {
			for _, g := range groups {
				if err = add(stmt.query(ctx, g.endpointID, g.orderKey)); err != nil {
					break
				}
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("find active deliveries: %w", err)
	}
	return busy, nil
}

func groupColumns(groups []group) (endpoints, keys []string) {
	endpoints, keys = make([]string, len(groups)), make([]string, len(groups))
	for i, g := range groups {
		endpoints[i], keys[i] = g.endpointID, g.orderKey
	}
	return endpoints, keys
}

var (
	releaseOne = releaseThose + `state = 2 AND id IN (` + nextHeld("$2", "$3") + `) RETURNING endpoint_id`
	// Mostly nothing is held at all, which is found out first. An array and a state
	// that is no column, so that the ids are looked up whatever PostgreSQL believes
	// of how much is held: as a join it went over all of that for each of them.
	releaseText = releaseThose + `state + 0 = 2 AND id = ANY (ARRAY(SELECT n.id FROM (SELECT DISTINCT * FROM unnest($2::text[], $3::text[]) AS u(endpoint_id, order_key)) g
CROSS JOIN LATERAL (` + nextHeld("g.endpoint_id", "g.order_key") + `) n WHERE EXISTS (SELECT 1 FROM deliveries WHERE state = 2))) RETURNING endpoint_id`
)

const releaseThose = `UPDATE deliveries SET state = 0, owner = '', due_at = $1, updated_at = $1 WHERE `

// nextHeld is the one that is to be released of a group.
func nextHeld(endpointID, orderKey string) string {
	return fmt.Sprintf(`SELECT h.id FROM deliveries h
  WHERE h.endpoint_id = %[1]s AND h.order_key = %[2]s AND h.state = 2
    AND NOT EXISTS (SELECT 1 FROM deliveries a WHERE a.endpoint_id = %[1]s AND a.order_key = %[2]s AND a.state < 2)
  ORDER BY h.event_seq LIMIT 1`, endpointID, orderKey)
}

// release makes the earliest held delivery of each group pending, unless the
// group has an active one. It returns the endpoints that have something to do.
func (s *Store) release(ctx context.Context, tx *sql.Tx, groups []group) ([]string, error) {
	if len(groups) == 0 {
		return nil, nil
	}
	now := s.now().UnixMicro()
	var released []string
	add := func(rows *sql.Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var endpoint string
			if err := rows.Scan(&endpoint); err != nil {
				return err
			}
			released = append(released, endpoint)
		}
		return rows.Err()
	}
	var err error
	if s.postgres() {
		endpoints, keys := groupColumns(groups)
		err = add(tx.QueryContext(ctx, releaseText, now, endpoints, keys))
	} else {
		rows, err := s.query(ctx, tx, `SELECT id FROM deliveries WHERE state = 2 LIMIT 1`)
		if held, err := appendStrings(nil, rows, err); err != nil {
			return nil, fmt.Errorf("look for held deliveries: %w", err)
		} else if len(held) == 0 {
			return nil, nil
		}
		var stmt statement
		stmt, err = s.stmt(ctx, tx, releaseOne)
		if err == nil {
			for _, g := range groups {
				if err = add(stmt.query(ctx, now, g.endpointID, g.orderKey)); err != nil {
					break
				}
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("release held deliveries: %w", err)
	}
	return released, nil
}

// requeue sends deliveries again from the start of their schedule: each becomes
// pending now, or held when another one about the same person is active at its
// endpoint. Skipped are those in somebody's hands, superseded ones, and others
// of removals after which the person came back. It returns the endpoints that
// have something to do.
func (s *Store) requeue(ctx context.Context, tx *sql.Tx, ids []string, now time.Time) (moved, skipped int, endpointIDs []string, err error) {
	if err := s.lockReadds(ctx, tx, ""); err != nil {
		return 0, 0, nil, err
	}
	rows, err := tx.QueryContext(ctx, `SELECT d.id, d.endpoint_id, d.order_key, d.state, `+readded+`
FROM deliveries d JOIN handover_events e ON e.seq = d.event_seq WHERE d.id `+s.in("$1", "text")+`
ORDER BY d.endpoint_id, d.order_key, d.event_seq`+s.forUpdate("UPDATE OF d"), list(s.dialect, ids))
	if err != nil {
		return 0, 0, nil, fmt.Errorf("lock deliveries: %w", err)
	}
	defer rows.Close()
	type row struct {
		id string
		group
		state   State
		readded bool
	}
	var found []row
	var groups []group
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.id, &r.endpointID, &r.orderKey, &r.state, &r.readded); err != nil {
			return 0, 0, nil, fmt.Errorf("lock deliveries: %w", err)
		}
		found = append(found, r)
		groups = append(groups, r.group)
	}
	if err := rows.Err(); err != nil {
		return 0, 0, nil, fmt.Errorf("lock deliveries: %w", err)
	}
	busy, err := s.active(ctx, tx, groups)
	if err != nil {
		return 0, 0, nil, err
	}
	var toPending, toHeld []string
	touched := make(map[string]bool)
	for _, r := range found {
		switch {
		case r.state == Superseded, r.state == Sending, r.readded:
			continue
		case r.state == Held:
			moved++ // it goes as soon as its turn comes
			continue
		case r.state == Pending, !busy[r.group]:
			toPending = append(toPending, r.id)
			busy[r.group] = true
			touched[r.endpointID] = true
		default:
			toHeld = append(toHeld, r.id)
		}
		moved++
	}
	for _, to := range []struct {
		state State
		ids   []string
	}{{Pending, toPending}, {Held, toHeld}} {
		if len(to.ids) == 0 {
			continue
		}
		if _, err := tx.ExecContext(ctx, `UPDATE deliveries SET state = $1, owner = '', tries = 0, due_at = $2, updated_at = $2 WHERE id `+s.in("$3", "text"),
			to.state, now.UnixMicro(), list(s.dialect, to.ids)); err != nil {
			return 0, 0, nil, fmt.Errorf("requeue deliveries: %w", err)
		}
	}
	for id := range touched {
		endpointIDs = append(endpointIDs, id)
	}
	return moved, len(ids) - moved, endpointIDs, nil
}

// finish gives open deliveries a final state and releases what they held back.
// One in somebody's hands is finished too: what comes of its request is still
// recorded. It tells how many were finished and which endpoints have something
// to do.
func (s *Store) finish(ctx context.Context, tx *sql.Tx, state State, cause, where string, args ...any) (n int, endpointIDs []string, err error) {
	now := s.now().UnixMicro()
	args = append([]any{state, cause, now}, args...)
	rows, err := tx.QueryContext(ctx, `UPDATE deliveries SET state = $1, last_error = $2, owner = '', updated_at = $3
WHERE state < 3 AND `+where+` RETURNING endpoint_id, order_key`, args...)
	if err != nil {
		return 0, nil, fmt.Errorf("finish deliveries: %w", err)
	}
	defer rows.Close()
	var groups []group
	for rows.Next() {
		var g group
		if err := rows.Scan(&g.endpointID, &g.orderKey); err != nil {
			return 0, nil, fmt.Errorf("finish deliveries: %w", err)
		}
		groups = append(groups, g)
	}
	if err := rows.Err(); err != nil {
		return 0, nil, fmt.Errorf("finish deliveries: %w", err)
	}
	endpointIDs, err = s.release(ctx, tx, groups)
	return len(groups), endpointIDs, err
}

// CancelOf cancels the open deliveries of an endpoint, unless it is enabled, and
// tells how many there were.
func (s *Store) CancelOf(ctx context.Context, endpointID, cause string) (n int, err error) {
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		n, err = s.cancelOpen(ctx, tx, endpointID, cause)
		return err
	})
	return n, err
}

// cancelOpen cancels the open deliveries of an endpoint, unless it is enabled.
// The active ones go first: a transaction that is just adding a held one has
// locked the active one before it, so the held one can be seen once we have it.
func (s *Store) cancelOpen(ctx context.Context, tx *sql.Tx, endpointID, cause string) (n int, err error) {
	now := s.now().UnixMicro()
	// Each statement is for a partial index, so that none reads what is done; that
	// no order_key is empty is said so that SQLite sees that these fit best.
	for _, open := range []string{"state < 2", "state = 2"} {
		res, err := tx.ExecContext(ctx, `UPDATE deliveries SET state = 6, last_error = $1, owner = '', updated_at = $2
WHERE endpoint_id = $3 AND order_key > '' AND `+open+` AND NOT EXISTS (SELECT 1 FROM endpoints e WHERE e.id = $3 AND e.state = 'enabled')`, cause, now, endpointID)
		if err != nil {
			return 0, fmt.Errorf("cancel deliveries: %w", err)
		}
		m, err := res.RowsAffected()
		if err != nil {
			return 0, fmt.Errorf("cancel deliveries: %w", err)
		}
		n += int(m)
	}
	return n, nil
}

// A Claimed delivery is in its owner's hands, with what is needed to send it.
type Claimed struct {
	ID         string
	EventSeq   int64
	EventID    string
	EventType  string
	EndpointID string
	OrderKey   string
	Attempts   int
	Tries      int
	RecordedAt time.Time
	Body       []byte
}

// A Want is how many deliveries to claim for an endpoint.
type Want struct {
	EndpointID string
	N          int
}

// Claim takes due deliveries into the owner's hands.
func (s *Store) Claim(ctx context.Context, owner string, wants []Want) ([]Claimed, error) {
	var claimed []Claimed
	var err error
	if s.postgres() {
		claimed, err = s.claimPostgres(ctx, owner, wants)
	} else {
		err = s.Tx(ctx, func(tx *sql.Tx) error {
			claimed, err = s.claimSQLite(ctx, tx, owner, wants)
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("claim deliveries: %w", err)
	}
	return claimed, nil
}

func (s *Store) claimPostgres(ctx context.Context, owner string, wants []Want) ([]Claimed, error) {
	endpoints, ns := make([]string, len(wants)), make([]int64, len(wants))
	for i, w := range wants {
		endpoints[i], ns[i] = w.EndpointID, int64(w.N)
	}
	// An array, so that they are looked up by their ids: of a join PostgreSQL
	// believes that it may bring a tenth of the backlog, and reads all of that.
	rows, err := s.write.QueryContext(ctx, `UPDATE deliveries d SET state = 1, owner = $4 FROM handover_events e
WHERE d.id = ANY (ARRAY(SELECT c.id FROM unnest($1::text[], $2::bigint[]) AS w(endpoint_id, n)
  CROSS JOIN LATERAL (SELECT id FROM deliveries
    WHERE state = 0 AND endpoint_id = w.endpoint_id AND due_at <= $3 ORDER BY due_at, id LIMIT w.n FOR UPDATE SKIP LOCKED) c))
  AND e.seq = d.event_seq
RETURNING d.id, d.event_seq, e.id, e.type, d.endpoint_id, d.order_key, d.attempts, d.tries, e.recorded_at, e.body`,
		endpoints, ns, s.now().UnixMicro(), owner)
	return scanClaimed(rows, err)
}

func (s *Store) claimSQLite(ctx context.Context, tx *sql.Tx, owner string, wants []Want) ([]Claimed, error) {
	now := s.now().UnixMicro()
	var ids []string
	for _, w := range wants {
		rows, err := s.query(ctx, tx, `UPDATE deliveries SET state = 1, owner = $1
WHERE id IN (SELECT id FROM deliveries WHERE state = 0 AND endpoint_id = $2 AND due_at <= $3 ORDER BY due_at, id LIMIT $4) RETURNING id`,
			owner, w.EndpointID, now, w.N)
		if ids, err = appendStrings(ids, rows, err); err != nil {
			return nil, err
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := s.query(ctx, tx, `SELECT d.id, d.event_seq, e.id, e.type, d.endpoint_id, d.order_key, d.attempts, d.tries, e.recorded_at, e.body
FROM deliveries d JOIN handover_events e ON e.seq = d.event_seq WHERE d.id `+s.in("$1", "text"), list(s.dialect, ids))
	return scanClaimed(rows, err)
}

func appendStrings(to []string, rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var v string
		if err := rows.Scan(&v); err != nil {
			return nil, err
		}
		to = append(to, v)
	}
	return to, rows.Err()
}

func scanClaimed(rows *sql.Rows, err error) ([]Claimed, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []Claimed
	for rows.Next() {
		var c Claimed
		var at int64
		if err := rows.Scan(&c.ID, &c.EventSeq, &c.EventID, &c.EventType, &c.EndpointID, &c.OrderKey, &c.Attempts, &c.Tries, &at, &c.Body); err != nil {
			return nil, err
		}
		c.RecordedAt = time.UnixMicro(at)
		out = append(out, c)
	}
	return out, rows.Err()
}

// NextDue tells, for each endpoint with pending deliveries, when the earliest is
// due. Its cost grows with the number of such endpoints, not of deliveries.
func (s *Store) NextDue(ctx context.Context) (map[string]time.Time, error) {
	first, after := `SELECT min(endpoint_id) AS id FROM deliveries WHERE state = 0`,
		`SELECT (SELECT min(d.endpoint_id) FROM deliveries d WHERE d.state = 0 AND d.endpoint_id > e.id) FROM e WHERE e.id IS NOT NULL`
	rows, err := s.read.QueryContext(ctx, `WITH RECURSIVE e AS (`+first+` UNION ALL `+after+`)
SELECT e.id, (SELECT d.due_at FROM deliveries d WHERE d.state = 0 AND d.endpoint_id = e.id ORDER BY d.due_at LIMIT 1) FROM e WHERE e.id IS NOT NULL`)
	if err != nil {
		return nil, fmt.Errorf("find due deliveries: %w", err)
	}
	defer rows.Close()
	due := make(map[string]time.Time)
	for rows.Next() {
		var id string
		var at sql.NullInt64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, fmt.Errorf("find due deliveries: %w", err)
		}
		if at.Valid {
			due[id] = time.UnixMicro(at.Int64)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("find due deliveries: %w", err)
	}
	return due, nil
}

// TakeBack makes pending what owners hold that are gone.
func (s *Store) TakeBack(ctx context.Context, owners ...string) (int64, error) {
	res, err := s.write.ExecContext(ctx, `UPDATE deliveries SET state = 0, owner = '', due_at = $1, updated_at = $1 WHERE state = 1 AND owner `+s.in("$2", "text"),
		s.now().UnixMicro(), list(s.dialect, owners))
	if err != nil {
		return 0, fmt.Errorf("take deliveries back: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("take deliveries back: %w", err)
	}
	return n, nil
}

// Mine returns which of the deliveries are in the owner's hands; of all there
// are, when none are named.
func (s *Store) Mine(ctx context.Context, owner string, ids ...string) ([]string, error) {
	query, args := `SELECT id FROM deliveries WHERE state = 1 AND owner = $1`, []any{owner}
	if len(ids) > 0 {
		// Not along all that the owner is sending, which may be much.
		query, args = `SELECT id FROM deliveries WHERE state + 0 = 1 AND owner || '' = $1 AND id `+s.in("$2", "text"), append(args, list(s.dialect, ids))
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	mine, err := appendStrings(nil, rows, err)
	if err != nil {
		return nil, fmt.Errorf("find own deliveries: %w", err)
	}
	return mine, nil
}

// PutBack makes single deliveries pending again that their owner will not send
// now.
func (s *Store) PutBack(ctx context.Context, owner string, ids []string, dueAt time.Time) error {
	_, err := s.write.ExecContext(ctx, `UPDATE deliveries SET state = 0, owner = '', due_at = $1, updated_at = $4 WHERE state + 0 = 1 AND owner || '' = $2 AND id `+s.in("$3", "text"),
		dueAt.UnixMicro(), owner, list(s.dialect, ids), s.now().UnixMicro())
	if err != nil {
		return fmt.Errorf("put deliveries back: %w", err)
	}
	return nil
}

// A Backlog is what waits at one stage of the line.
type Backlog struct {
	Stage string
	// Count stops at 100,000.
	Count  int64
	Oldest time.Time // zero when there is none
}

// Backlogs tells what waits at each stage.
func (s *Store) Backlogs(ctx context.Context) ([]Backlog, error) {
	stages := []struct{ name, count, oldest string }{
		{
			"outbox", `handover_outbox`,
			`SELECT e.recorded_at FROM handover_outbox o JOIN handover_events e ON e.seq = o.event_seq ORDER BY o.event_seq LIMIT 1`,
		},
		{"pending", `deliveries WHERE state = 0`, `SELECT min(created_at) FROM (SELECT created_at FROM deliveries WHERE state = 0 ORDER BY endpoint_id, due_at LIMIT 1000) p`},
		{"sending", `deliveries WHERE state = 1`, `SELECT min(created_at) FROM (SELECT created_at FROM deliveries WHERE state = 1 LIMIT 1000) p`},
		{"held", `deliveries WHERE state = 2`, `SELECT min(created_at) FROM (SELECT created_at FROM deliveries WHERE state = 2 LIMIT 1000) p`},
		{"dead_letters", `deliveries WHERE state = 4`, `SELECT created_at FROM deliveries WHERE state = 4 ORDER BY id LIMIT 1`},
	}
	var out []Backlog
	for _, st := range stages {
		b := Backlog{Stage: st.name}
		if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM `+st.count+` LIMIT 100000) c`).Scan(&b.Count); err != nil {
			return nil, fmt.Errorf("count %s: %w", st.name, err)
		}
		var at sql.NullInt64
		if err := s.read.QueryRowContext(ctx, st.oldest).Scan(&at); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, fmt.Errorf("find oldest of %s: %w", st.name, err)
		}
		if at.Valid {
			b.Oldest = time.UnixMicro(at.Int64)
		}
		out = append(out, b)
	}
	return out, nil
}
