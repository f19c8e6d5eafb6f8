package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// settled is for how long a delivery has been at rest before it may be deleted:
// what came of an attempt that was under way when somebody decided otherwise may
// still arrive, and who sent an old event again wants to see what came of it.
const settled = time.Hour

// Expire deletes events that were recorded before a time and that nobody needs
// any more, with their deliveries and attempts: it looks at most at limit events
// after afterSeq, in one short transaction, and tells where to go on and whether
// there is no more to look at. An event is kept as a whole while it is in the
// outbox or a delivery of it is open or failed, for what was not handed over must
// not vanish before somebody decided so.
//
// It waits for nobody: what another transaction holds is left for the next time.
// Several may expire at once.
func (s *Store) Expire(ctx context.Context, before time.Time, afterSeq int64, limit int) (next int64, deleted int, done bool, err error) {
	seqs, done, err := s.eventsBefore(ctx, before, afterSeq, limit)
	if err != nil || len(seqs) == 0 {
		return afterSeq, 0, done, err
	}
	// Most of what is kept is recognized without a transaction.
	next, found, err := s.unneeded(ctx, s.read, afterSeq, seqs, limit)
	if err != nil {
		return afterSeq, 0, false, err
	}
	if len(found) > 0 {
		err = s.Tx(ctx, func(tx *sql.Tx) error {
			deleted, err = s.expire(s.unwatched(ctx), tx, afterSeq, found, limit)
			return err
		})
	}
	if err != nil {
		return afterSeq, 0, false, fmt.Errorf("expire events: %w", err)
	}
	return next, deleted, done && next == seqs[len(seqs)-1], nil
}

// eventsBefore returns the next events recorded before a time. Their numbers grow
// with time, so the first that is not so old is the end.
func (s *Store) eventsBefore(ctx context.Context, before time.Time, after int64, limit int) (seqs []int64, done bool, err error) {
	rows, err := s.read.QueryContext(ctx, nextEvents, after, limit)
	if err != nil {
		return nil, false, fmt.Errorf("find old events: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var seq, at int64
		if err := rows.Scan(&seq, &at); err != nil {
			return nil, false, fmt.Errorf("find old events: %w", err)
		}
		if at >= before.UnixMicro() {
			return seqs, true, nil
		}
		seqs = append(seqs, seq)
	}
	if err := rows.Err(); err != nil {
		return nil, false, fmt.Errorf("find old events: %w", err)
	}
	return seqs, len(seqs) < limit, nil
}

// Each reads a span of a primary key or unique index, or the rows it names.
const (
	nextEvents       = `SELECT seq, recorded_at FROM handover_events WHERE seq > $1 ORDER BY seq LIMIT $2`
	outboxBetween    = `SELECT event_seq FROM handover_outbox WHERE event_seq > $1 AND event_seq <= $2`
	deliveriesOf     = `SELECT event_seq, id, state, updated_at FROM deliveries WHERE event_seq > $1 AND event_seq <= $2 ORDER BY event_seq`
	lockEvents       = `SELECT seq FROM handover_events WHERE seq = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED`
	lockDeliveries   = `SELECT id FROM deliveries WHERE event_seq = ANY($1::bigint[]) FOR UPDATE SKIP LOCKED`
	deleteAttempts   = `DELETE FROM attempts WHERE delivery_id `
	deleteDeliveries = `DELETE FROM deliveries WHERE id `
	deleteEvents     = `DELETE FROM handover_events WHERE seq `
)

// A leftover is an event that may be deleted with its deliveries.
type leftover struct {
	seq        int64
	deliveries []string
}

// unneeded returns which of the events, whose numbers follow after, may be
// deleted. It ends early, at end, when they have more deliveries than limit.
func (s *Store) unneeded(ctx context.Context, q querier, after int64, seqs []int64, limit int) (end int64, found []leftover, err error) {
	end = seqs[len(seqs)-1]
	// The outbox comes first: an event that leaves it now is seen there, or its
	// deliveries are seen.
	outbox, err := query(ctx, q, "outbox", func(seq *int64, scan func(...any) error) error { return scan(seq) }, outboxBetween, after, end)
	if err != nil {
		return 0, nil, err
	}
	needed := make(map[int64]bool)
	for _, seq := range outbox {
		needed[seq] = true
	}
	text, args := deliveriesOf, []any{after, end}
	if s.postgres() {
		// SQLite reads no further than it is asked to.
		text, args = text+` FETCH FIRST ($3::bigint) ROWS WITH TIES`, append(args, limit)
	}
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return 0, nil, fmt.Errorf("read deliveries of old events: %w", err)
	}
	defer rows.Close()
	rest := s.now().Add(-settled).UnixMicro()
	deliveries := make(map[int64][]string)
	n, last := 0, after
	for ; rows.Next(); n++ {
		var seq, updated int64
		var id string
		var state State
		if err := rows.Scan(&seq, &id, &state, &updated); err != nil {
			return 0, nil, fmt.Errorf("read deliveries of old events: %w", err)
		}
		if n >= limit && seq != last {
			break
		}
		last = seq
		deliveries[seq] = append(deliveries[seq], id)
		if state < Succeeded || state == Failed || updated > rest {
			needed[seq] = true
		}
	}
	if err := rows.Err(); err != nil {
		return 0, nil, fmt.Errorf("read deliveries of old events: %w", err)
	}
	if n >= limit {
		end = last
	}
	for _, seq := range seqs {
		if seq <= end && !needed[seq] {
			found = append(found, leftover{seq, deliveries[seq]})
		}
	}
	return end, found, nil
}

// expire deletes those of the events that are still unneeded, and tells how many.
func (s *Store) expire(ctx context.Context, tx *sql.Tx, after int64, evs []leftover, limit int) (int, error) {
	seqs := make([]int64, len(evs))
	for i, ev := range evs {
		seqs[i] = ev.seq
	}
	// With the events locked nobody adds deliveries of them; with the deliveries
	// locked nobody sends them again.
	locked := make(map[string]bool)
	if s.postgres() {
		var err error
		if seqs, err = query(ctx, tx, "old events", func(seq *int64, scan func(...any) error) error { return scan(seq) }, lockEvents, seqs); err != nil {
			return 0, err
		}
		ids, err := query(ctx, tx, "deliveries of old events", func(id *string, scan func(...any) error) error { return scan(id) }, lockDeliveries, seqs)
		if err != nil {
			return 0, err
		}
		for _, id := range ids {
			locked[id] = true
		}
		slices.Sort(seqs)
	}
	if len(seqs) == 0 {
		return 0, nil
	}
	_, evs, err := s.unneeded(ctx, tx, after, seqs, limit)
	if err != nil {
		return 0, err
	}
	seqs = seqs[:0]
	var ids []string
	for _, ev := range evs {
		if s.postgres() && slices.ContainsFunc(ev.deliveries, func(id string) bool { return !locked[id] }) {
			continue
		}
		seqs, ids = append(seqs, ev.seq), append(ids, ev.deliveries...)
	}
	for _, d := range []struct {
		text, pgType string
		keys         any
	}{
		{deleteAttempts, "text", list(s.dialect, ids)},
		{deleteDeliveries, "text", list(s.dialect, ids)},
		{deleteEvents, "bigint", list(s.dialect, seqs)},
	} {
		if _, err := tx.ExecContext(ctx, d.text+s.in("$1", d.pgType), d.keys); err != nil {
			return 0, err
		}
	}
	return len(seqs), nil
}

// ForgetWebhooks forgets webhook-ids that came before a time, at most limit of
// them, and tells how many.
func (s *Store) ForgetWebhooks(ctx context.Context, before time.Time, limit int) (int64, error) {
	n, err := s.deleteSome(ctx, s.forgetWebhooks(), before.UnixMicro(), limit)
	if err != nil {
		return 0, fmt.Errorf("forget webhooks: %w", err)
	}
	return n, nil
}

func (s *Store) forgetWebhooks() string {
	const oldest = ` FROM inbox WHERE received_at < $1 ORDER BY received_at LIMIT $2)`
	if s.postgres() {
		return `DELETE FROM inbox WHERE ctid = ANY(ARRAY(SELECT ctid` + oldest + `)`
	}
	return `DELETE FROM inbox WHERE rowid IN (SELECT rowid` + oldest
}

// ForgetReplays forgets replays that ended before a time, at most limit of them,
// and tells how many.
func (s *Store) ForgetReplays(ctx context.Context, before time.Time, limit int) (int64, error) {
	n, err := s.deleteSome(ctx, `DELETE FROM replays WHERE state <> 'running' AND id IN (
  SELECT id FROM replays WHERE state <> 'running' AND updated_at < $1 ORDER BY id LIMIT $2)`, before.UnixMicro(), limit)
	if err != nil {
		return 0, fmt.Errorf("forget replays: %w", err)
	}
	return n, nil
}

func (s *Store) deleteSome(ctx context.Context, text string, args ...any) (n int64, err error) {
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		res, err := tx.ExecContext(s.unwatched(ctx), text, args...)
		if err != nil {
			return err
		}
		n, err = res.RowsAffected()
		return err
	})
	return n, err
}
