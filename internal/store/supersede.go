package store

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/handover-dev/handover/events"
)

// Once a person is a member again, no app is to be told any more that they left.
//
// The transaction that records a MembershipCreated event supersedes what is open
// of the person's earlier removals from that organization: those recorded before
// it that also occurred before it, since news can arrive in any order. Those that are not
// routed yet it routes itself, as superseded: a removal that the router has just
// in hand is locked in the outbox, so either it is taken from the router or its
// deliveries can be seen. Route supersedes once more for the MembershipCreated
// events that it takes, because of removals that were committed while the other
// transaction ran, and of events that a program appended in one of its own.
//
// What is final stays as it is, and is not sent again: whoever is about to asks
// with [readded], and holds up the recording of MembershipCreated events
// meanwhile.

// CauseReadded is why deliveries are superseded.
const CauseReadded = "readded"

// readded is whether the event e is a removal after which the person was added
// to the organization again. So written, the index of the organizations, whose
// histories are long, does not tempt.
var readded = fmt.Sprintf(`(e.type = '%s' AND EXISTS (SELECT 1 FROM handover_events r
  WHERE r.user_id <> '' AND r.user_id = e.user_id AND r.seq > e.seq AND r.type = '%s' AND r.occurred_at >= e.occurred_at
    AND r.organization_id || '' = e.organization_id AND r.environment_id || '' = e.environment_id))`,
	events.MembershipRemoved.Name, events.MembershipCreated.Name)

// supersedes tells whether events of that kind supersede earlier ones.
func supersedes(eventType, userID string) bool {
	return eventType == events.MembershipCreated.Name && userID != ""
}

// supersede ends what is open of the removals before these MembershipCreated
// events.
func (s *Store) supersede(ctx context.Context, tx *sql.Tx, readds []int64) error {
	if len(readds) == 0 {
		return nil
	}
	if err := s.lockReadds(ctx, tx, "_shared"); err != nil {
		return err
	}
	removals, err := query(ctx, tx, "earlier removals", func(ev *Unrouted, scan func(...any) error) error {
		return scan(&ev.Seq, &ev.Type, &ev.OrganizationID, &ev.Subject)
	}, `SELECT e.seq, e.type, e.organization_id, e.subject FROM handover_events r CROSS JOIN handover_events e
WHERE r.seq `+s.in("$1", "bigint")+` AND e.user_id <> '' AND e.user_id = r.user_id AND e.seq < r.seq AND e.type = $2
  AND e.occurred_at <= r.occurred_at
  AND e.organization_id || '' = r.organization_id AND e.environment_id || '' = r.environment_id`,
		list(s.dialect, readds), events.MembershipRemoved.Name)
	if err != nil {
		return err
	}
	return s.endRemovals(ctx, tx, removals)
}

// supersedeRemovals ends what is open of these removals.
func (s *Store) supersedeRemovals(ctx context.Context, tx *sql.Tx, seqs []int64) error {
	if len(seqs) == 0 {
		return nil
	}
	if err := s.lockReadds(ctx, tx, "_shared"); err != nil {
		return err
	}
	removals, err := query(ctx, tx, "removals", func(ev *Unrouted, scan func(...any) error) error {
		return scan(&ev.Seq, &ev.Type, &ev.OrganizationID, &ev.Subject)
	}, `SELECT seq, type, organization_id, subject FROM handover_events WHERE seq `+s.in("$1", "bigint"), list(s.dialect, seqs))
	if err != nil {
		return err
	}
	return s.endRemovals(ctx, tx, removals)
}

func (s *Store) endRemovals(ctx context.Context, tx *sql.Tx, removals []Unrouted) error {
	if len(removals) == 0 {
		return nil
	}
	if err := s.routeSuperseded(ctx, tx, removals); err != nil {
		return err
	}
	seqs := make([]int64, len(removals))
	for i, ev := range removals {
		seqs[i] = ev.Seq
	}
	of := func(placeholder string) string { return `event_seq ` + s.in(placeholder, "bigint") }
	groups, err := query(ctx, tx, "deliveries to supersede", func(g *group, scan func(...any) error) error {
		return scan(&g.endpointID, &g.orderKey)
	}, `SELECT endpoint_id, order_key FROM deliveries WHERE state < 3 AND `+of("$1"), list(s.dialect, seqs))
	if err != nil || len(groups) == 0 {
		return err
	}
	// The active ones are locked first, as when one is canceled.
	if _, err := s.active(ctx, tx, groups); err != nil {
		return err
	}
	_, _, err = s.finish(ctx, tx, Superseded, CauseReadded, of("$4"), list(s.dialect, seqs))
	return err
}

// routeSuperseded takes those events out of the outbox that are in it, and makes
// their deliveries superseded ones.
func (s *Store) routeSuperseded(ctx context.Context, tx *sql.Tx, evs []Unrouted) error {
	bySeq := make(map[int64]Unrouted, len(evs))
	seqs := make([]int64, len(evs))
	for i, ev := range evs {
		bySeq[ev.Seq], seqs[i] = ev, ev.Seq
	}
	taken, err := query(ctx, tx, "unrouted removals", func(seq *int64, scan func(...any) error) error { return scan(seq) },
		`DELETE FROM handover_outbox WHERE event_seq IN (SELECT event_seq FROM handover_outbox WHERE event_seq `+s.in("$1", "bigint")+`
  ORDER BY event_seq`+s.forUpdate("UPDATE")+`) RETURNING event_seq`, list(s.dialect, seqs))
	if err != nil || len(taken) == 0 {
		return err
	}
	endpoints, err := query(ctx, tx, "endpoints", scanEndpoint, `SELECT `+endpointColumns+` FROM endpoints WHERE state = 'enabled'`)
	if err != nil {
		return err
	}
	var made []NewDelivery
	for _, seq := range taken {
		ev := bySeq[seq]
		for i := range endpoints {
			if e := &endpoints[i]; e.Wants(ev.Type, ev.OrganizationID) {
				made = append(made, NewDelivery{ID: s.NewID("msg_"), EventSeq: seq, EndpointID: e.ID, OrderKey: ev.Subject, State: Superseded})
			}
		}
	}
	return s.insertDeliveries(ctx, tx, "", made)
}

// markReadded finds the deliveries of removals that one of the MembershipCreated
// events in the same batch supersedes.
func (s *Store) markReadded(ctx context.Context, tx *sql.Tx, ds []NewDelivery) error {
	seqs := make([]int64, len(ds))
	for i, d := range ds {
		seqs[i] = d.EventSeq
	}
	found, err := query(ctx, tx, "superseded events", func(seq *int64, scan func(...any) error) error { return scan(seq) },
		`SELECT e.seq FROM handover_events e WHERE e.seq `+s.in("$1", "bigint")+` AND `+readded, list(s.dialect, seqs))
	if err != nil || len(found) == 0 {
		return err
	}
	gone := make(map[int64]bool, len(found))
	for _, seq := range found {
		gone[seq] = true
	}
	for i := range ds {
		if gone[ds[i].EventSeq] {
			ds[i].State = Superseded
		}
	}
	return nil
}

// lockReadds makes those who record MembershipCreated events, who share the
// lock, and those who send again, who do not, wait for each other until the
// transaction ends. SQLite has one writer anyway.
func (s *Store) lockReadds(ctx context.Context, tx *sql.Tx, shared string) error {
	if !s.postgres() {
		return nil
	}
	if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock`+shared+`(724110392)`); err != nil {
		return fmt.Errorf("lock out additions of members: %w", err)
	}
	return nil
}
