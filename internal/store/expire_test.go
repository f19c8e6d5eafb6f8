package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
)

// age makes all that there is as old as that.
func (l *testLine) age(d time.Duration) {
	l.t.Helper()
	for _, text := range []string{
		`UPDATE handover_events SET recorded_at = $1`, `UPDATE deliveries SET created_at = $1, updated_at = $1`, `UPDATE inbox SET received_at = $1`,
	} {
		if _, err := l.write.ExecContext(l.t.Context(), text, l.now().Add(-d).UnixMicro()); err != nil {
			l.t.Fatal(err)
		}
	}
}

// send routes events of their own about each person and ends their deliveries.
func (l *testLine) send(state State, people ...string) []NewDelivery {
	l.t.Helper()
	made := l.route("me", l.publish(people...)...)
	for _, d := range made {
		l.finish1("me", Claimed{ID: d.ID, EndpointID: d.EndpointID, OrderKey: d.OrderKey}, state)
	}
	return made
}

// left tells which events are left, and checks that they are whole and the
// others are gone.
func (l *testLine) left() (ids []string) {
	l.t.Helper()
	for what, orphans := range map[string]string{
		"deliveries": `SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM handover_events e WHERE e.seq = d.event_seq)`,
		"attempts":   `SELECT count(*) FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.id = a.delivery_id)`,
		"events with some of their deliveries": fmt.Sprintf(`SELECT count(*) FROM handover_events e
WHERE (SELECT count(*) FROM deliveries d WHERE d.event_seq = e.seq) NOT IN (0, %d)`, len(l.endpoints)),
	} {
		if n := l.count(orphans); n != 0 {
			l.t.Errorf("%d %s are left over", n, what)
		}
	}
	rows, err := l.read.QueryContext(l.t.Context(), `SELECT id FROM handover_events ORDER BY seq`)
	if ids, err = appendStrings(nil, rows, err); err != nil {
		l.t.Fatal(err)
	}
	return ids
}

const month = 30 * 24 * time.Hour

func TestExpireDeletesWhatNobodyNeeds(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		withClock(s)
		l := newLine(t, s, 2)
		l.send(Succeeded, "1")
		l.send(Failed, "2")
		l.send(Canceled, "3")
		l.send(Superseded, "4")
		l.route("", l.publish("5")...) // pending
		l.route("me", l.publish("6")...)
		mixed := l.send(Succeeded, "7")
		l.route("", l.publish("6")...) // held
		l.publish("8")                 // in the outbox
		nowhere, _, err := s.Route(t.Context(), "", l.publish("9"), func(_ int64, evs []Unrouted) (Plan, error) { return Plan{Events: len(evs)}, nil })
		if err != nil || len(nowhere) != 0 {
			t.Fatal(nowhere, err)
		}
		touched := l.send(Succeeded, "10")
		l.age(month + time.Hour)
		for text, id := range map[string]string{
			`UPDATE deliveries SET state = 4 WHERE id = $1`:       mixed[1].ID,   // failed at one of two endpoints
			`UPDATE deliveries SET updated_at = $2 WHERE id = $1`: touched[1].ID, // canceled or sent again just now
		} {
			args := []any{id}
			if strings.Contains(text, "$2") {
				args = append(args, s.now().UnixMicro())
			}
			if _, err := s.write.ExecContext(t.Context(), text, args...); err != nil {
				t.Fatal(err)
			}
		}
		l.send(Succeeded, "11") // young
		want := []string{"evt_2", "evt_5", "evt_6", "evt_7", "evt_8", "evt_9", "evt_11", "evt_12"}

		if next, n, done, err := s.Expire(t.Context(), s.now().Add(-2*month), 0, 100); next != 0 || n != 0 || !done || err != nil {
			t.Errorf("nothing is so old: %d, %d, %v, %v", next, n, done, err)
		}
		next, n, done, err := s.Expire(t.Context(), s.now().Add(-month), 0, 100)
		if err != nil || n != 4 || !done {
			t.Errorf("Expire = %d, %d, %v, %v; want 4 deleted", next, n, done, err)
		}
		if diff := cmp.Diff(want, l.left()); diff != "" {
			t.Error(diff)
		}
		if n := l.count(`SELECT count(*) FROM attempts`); n != 8 { // of 2, 7, 10 and 11
			t.Errorf("%d attempts are left", n)
		}
		if _, n, done, err = s.Expire(t.Context(), s.now().Add(-month), 0, 100); err != nil || n != 0 || !done {
			t.Errorf("again: %d, %v, %v", n, done, err)
		}
	})
}

// A batch is bounded in events and in deliveries, and the next goes on after it.
func TestExpireInBatches(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		withClock(s)
		l := newLine(t, s, 3)
		for i := range 12 {
			l.send(map[bool]State{true: Failed, false: Succeeded}[i == 1 || i > 5 && i < 9], fmt.Sprint(i))
		}
		l.age(month)
		var seq int64
		var ends []int64
		total := 0
		for done := false; !done; {
			var n int
			var err error
			if seq, n, done, err = s.Expire(t.Context(), s.now(), seq, 7); err != nil {
				t.Fatal(err)
			}
			if total += n; n > 3 || len(ends) > 20 {
				t.Fatalf("%d events with 3 deliveries each in a batch of 7; ends %v", n, ends)
			}
			ends = append(ends, seq)
		}
		if diff := cmp.Diff([]string{"evt_2", "evt_7", "evt_8", "evt_9"}, l.left()); diff != "" || total != 8 {
			t.Errorf("deleted %d\n%s", total, diff)
		}
		if want := []int64{3, 6, 9, 12}; !slices.Equal(ends, want) {
			t.Errorf("batches ended at %v, want %v", ends, want)
		}
		// One event that has more deliveries than that is one batch.
		l.send(Succeeded, "a", "b")
		l.age(month)
		if next, n, done, err := s.Expire(t.Context(), s.now(), 12, 2); next != 13 || n != 1 || done || err != nil {
			t.Errorf("Expire = %d, %d, %v, %v", next, n, done, err)
		}
	})
}

// waiting waits until n others wait for what a transaction holds, or for it to
// end, or until one of them did not.
func (l *testLine) waiting(ended <-chan error) {
	l.t.Helper()
	testenv.Until(l.t, 60*time.Second, "nobody waits", func() bool {
		if len(ended) > 0 {
			return true
		}
		if l.postgres() {
			return l.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0
		}
		l.shared.mu.Lock()
		defer l.shared.mu.Unlock()
		return len(l.shared.waiting) > 0
	})
}

// What is sent again while old events are deleted is kept as a whole.
func TestExpireWhileItIsSentAgain(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		withClock(s)
		l := newLine(t, s, 2)
		made := l.send(Succeeded, "a", "b")
		l.age(month)
		expired := make(chan error, 1)
		err := s.Tx(t.Context(), func(tx *sql.Tx) error {
			if moved, _, _, err := s.requeue(t.Context(), tx, []string{made[1].ID}, s.now()); err != nil || moved != 1 {
				return fmt.Errorf("requeue: %d, %w", moved, err)
			}
			go func() {
				_, n, _, err := s.Expire(context.WithoutCancel(t.Context()), s.now(), 0, 100)
				if n != 1 {
					err = errors.Join(err, fmt.Errorf("%d events deleted, want 1", n))
				}
				expired <- err
			}()
			l.waiting(expired)
			if s.postgres() && len(expired) == 0 {
				return errors.New("it waits for others")
			}
			return nil
		})
		if err := errors.Join(err, <-expired); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"evt_1"}, l.left()); diff != "" {
			t.Error(diff)
		}
		if claimed := l.claim("me", 10); len(claimed) != 1 || claimed[0].ID != made[1].ID || len(claimed[0].Body) == 0 {
			t.Errorf("claimed %+v", claimed)
		}
	})
}

// What is being deleted is not sent again.
func TestSendingAgainWhileItExpires(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		withClock(s)
		l := newLine(t, s, 1)
		made := l.send(Succeeded, "a")
		l.age(month)
		retried := make(chan error, 1)
		if err := s.Tx(t.Context(), func(tx *sql.Tx) error {
			n, err := s.expire(t.Context(), tx, 0, []leftover{{made[0].EventSeq, []string{made[0].ID}}}, 100)
			if err != nil || n != 1 {
				return fmt.Errorf("%d deleted: %w", n, err)
			}
			go func() {
				_, err := s.RetryDelivery(context.WithoutCancel(t.Context()), made[0].ID)
				retried <- err
			}()
			l.waiting(retried)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := <-retried; !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrConflict) {
			t.Errorf("retry of what is gone: %v", err)
		}
		if left := l.left(); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	})
}

// A replay that makes deliveries for a new endpoint makes none of what is just
// deleted, and keeps what it made them of.
func TestExpireWhileMissingOnesAreReplayed(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		withClock(s)
		ctx := context.WithoutCancel(t.Context())
		l := newLine(t, s, 1)
		made := l.send(Succeeded, "a", "b", "c")
		l.age(month)
		l.endpoints = append(l.endpoints, newLine(t, s, 1).endpoints[0])
		sel := Selection{EndpointID: l.endpoints[1], Missing: true}
		replay := must(s.CreateReplay(ctx, sel, 0))(t)
		must(s.ClaimReplays(ctx, "me"))(t)
		// The first event is being deleted; then the second has just got its delivery.
		replayed, expired := make(chan error, 1), make(chan error, 1)
		if err := s.Tx(ctx, func(tx *sql.Tx) error {
			n, err := s.expire(ctx, tx, 0, []leftover{{made[0].EventSeq, []string{made[0].ID}}}, 100)
			if err != nil || n != 1 {
				return fmt.Errorf("%d deleted: %w", n, err)
			}
			go func() {
				_, err := s.ContinueReplay(ctx, "me", replay.ID, 1)
				replayed <- err
			}()
			l.waiting(replayed)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := <-replayed; err != nil {
			t.Fatal(err)
		}
		if got, want := l.states(), "succeeded pending succeeded"; got != want && got != "pending succeeded succeeded" {
			t.Errorf("states %s, want %s", got, want)
		}
		if err := s.Tx(ctx, func(tx *sql.Tx) error {
			var page ReplayPage
			if _, _, err := s.replayMissing(ctx, tx, sel, "", position{made[2].EventSeq, beyond}, 1, &page); err != nil || page.Moved != 1 {
				return fmt.Errorf("%+v: %w", page, err)
			}
			go func() {
				_, n, _, err := s.Expire(ctx, s.now(), 0, 100)
				if n != 0 {
					err = errors.Join(err, fmt.Errorf("%d events deleted", n))
				}
				expired <- err
			}()
			l.waiting(expired)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := <-expired; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]string{"evt_2", "evt_3"}, l.left()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestForgetWebhooksAndReplays(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		l := newLine(t, s, 1)
		hook := func(id string) *Acceptance {
			ev := must(events.Complete([]byte(`{"type":"x","object":"X","data":{}}`), events.Defaults{EnvironmentID: "env_1"}))(t)
			a := &Acceptance{Events: []events.Event{ev}, SourceID: "src", WebhookID: id}
			if err := s.Accept(ctx, nil, []*Acceptance{a}); err != nil {
				t.Fatal(err)
			}
			return a
		}
		replay := func() string { return must(s.CreateReplay(ctx, Selection{EndpointID: l.endpoints[0]}, 0))(t).ID }
		hook("1")
		c.add(time.Second)
		hook("2")
		hook("3")
		running, old := replay(), replay()
		must(s.CancelReplay(ctx, old))(t)
		c.add(month)
		hook("4")
		young := replay()
		must(s.CancelReplay(ctx, young))(t)

		before := c.now().Add(-time.Minute)
		for i, want := range []int64{2, 1, 0} {
			if n, err := s.ForgetWebhooks(ctx, before, 2); err != nil || n != want {
				t.Errorf("batch %d forgot %d, %v; want %d", i, n, err, want)
			}
		}
		if !hook("4").Repeated || hook("1").Repeated {
			t.Error("the wrong ones were forgotten")
		}
		for i, want := range []int64{1, 0} {
			if n, err := s.ForgetReplays(ctx, before, 2); err != nil || n != want {
				t.Errorf("batch %d forgot %d replays, %v; want %d", i, n, err, want)
			}
		}
		for id, want := range map[string]error{running: nil, young: nil, old: ErrNotFound} {
			if _, err := s.Replay(ctx, id); !errors.Is(err, want) {
				t.Errorf("replay %s: %v, want %v", id, err, want)
			}
		}
	})
}

// What a batch costs does not depend on how much there is.
func TestExpireReadsNoMoreThanItsBatch(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		series, digits := `generate_series(1, 20000) AS g(n)`, `lpad(g.n::text, 26, '0')`
		blob := `''::bytea`
		if !s.postgres() { // its plans do not depend on how much there is
			series = `(WITH RECURSIVE g(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 500) SELECT n FROM g) AS g`
			digits, blob = `printf('%026d', g.n)`, `x''`
		}
		if err := s.Tx(t.Context(), func(tx *sql.Tx) error {
			for _, text := range []string{
				`INSERT INTO handover_events (seq, id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at, body)
SELECT n, 'evt_' || ` + digits + `, 'env_1', 'x', '', '', '', n, n, ` + blob + ` FROM ` + series,
				`INSERT INTO deliveries (id, event_seq, endpoint_id, order_key, state, due_at, created_at, updated_at)
SELECT 'msg_' || ` + digits + `, n, 'ep_1', ` + digits + `, 3, n, n, n FROM ` + series,
				`INSERT INTO attempts (delivery_id, number, started_at, duration_us, status, class, error, answer, address)
SELECT 'msg_' || ` + digits + `, 1, n, 1, 200, 'ok', '', ` + blob + `, '' FROM ` + series,
				`INSERT INTO inbox (source_id, webhook_id, event_id, body_hash, received_at) SELECT 's', ` + digits + `, '', ` + blob + `, n FROM ` + series,
			} {
				if _, err := tx.ExecContext(t.Context(), text); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		e := &explainer{DB: s.read, prefix: "EXPLAIN QUERY PLAN "}
		if s.postgres() {
			if _, err := s.write.ExecContext(t.Context(), `ANALYZE`); err != nil {
				t.Fatal(err)
			}
			e.prefix = "EXPLAIN "
		}
		seqs := make([]int64, 50)
		ids := make([]string, len(seqs))
		for i := range seqs {
			seqs[i], ids[i] = int64(i+101), fmt.Sprintf("msg_%026d", i+101)
		}
		if _, found, err := s.unneeded(t.Context(), e, 100, seqs, len(seqs)); err != nil || len(found) != len(seqs) {
			t.Fatal(len(found), err)
		}
		e.note(t.Context(), nextEvents, []any{100, 50})
		for _, text := range []string{deleteAttempts, deleteDeliveries} {
			e.note(t.Context(), text+s.in("$1", "text"), []any{list(s.dialect, ids)})
		}
		e.note(t.Context(), deleteEvents+s.in("$1", "bigint"), []any{list(s.dialect, seqs)})
		e.note(t.Context(), s.forgetWebhooks(), []any{300, 50})
		indexes := []string{
			"handover_events_pkey", "handover_outbox", "deliveries_event_seq_endpoint_id_key", "attempts_pkey", "deliveries_pkey", "inbox_age", "Tid Scan on inbox",
		}
		if s.postgres() {
			e.note(t.Context(), lockEvents, []any{seqs})
			e.note(t.Context(), lockDeliveries, []any{seqs})
		} else {
			indexes = []string{
				"SEARCH handover_events USING INTEGER PRIMARY KEY (rowid>?)", "SEARCH handover_outbox USING INTEGER PRIMARY KEY",
				"SEARCH deliveries USING INDEX sqlite_autoindex_deliveries_2 (event_seq>? AND event_seq<?)", "SEARCH attempts USING", "SEARCH handover_events USING INTEGER PRIMARY KEY (rowid=?)",
				"SEARCH deliveries USING COVERING INDEX sqlite_autoindex_deliveries_1 (id=?)", "USING COVERING INDEX inbox_age",
			}
		}
		plan := e.plan.String()
		for _, index := range indexes {
			if !strings.Contains(plan, index) {
				t.Errorf("%s is not used", index)
			}
		}
		for line := range strings.Lines(plan) {
			reads := strings.Contains(line, "Seq Scan") && !strings.Contains(line, "handover_outbox") || strings.Contains(line, "SCAN ") && !strings.Contains(line, "json_each") ||
				strings.Contains(line, "SQL") || strings.Contains(line, "ERROR")
			if reads {
				t.Errorf("%s", line)
			}
		}
		if t.Failed() {
			t.Log(plan)
		}
	})
}
