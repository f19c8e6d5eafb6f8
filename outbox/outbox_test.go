package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/outbox/pgxoutbox"
)

type database struct {
	name outbox.Dialect
	url  string
	*sql.DB
}

// onEach runs a test on every database.
func onEach(t *testing.T, test func(t *testing.T, db database)) {
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "o.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
		if err != nil {
			t.Fatal(err)
		}
		db.SetMaxOpenConns(1)
		test(t, ready(t, database{outbox.SQLite, "", db}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := testenv.Postgres(t)
		db, err := sql.Open("pgx", url)
		if err != nil {
			t.Fatal(err)
		}
		test(t, ready(t, database{outbox.Postgres, url, db}))
	})
}

func ready(t *testing.T, db database) database {
	t.Helper()
	t.Cleanup(func() { _ = db.Close() })
	for range 2 { // twice does no harm
		if err := outbox.Migrate(t.Context(), db.DB, db.name); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func event(t *testing.T, id string) events.Event {
	t.Helper()
	return eventOf(t, id, "usr_118200000000001001")
}

func eventOf(t *testing.T, id, user string) events.Event {
	t.Helper()
	ev, err := events.Complete(fmt.Appendf(nil, `{"id":%q,"type":"user.organization_membership_deleted","object":"OrgMembership","occurred_at":"2026-06-12T09:30:01Z",
"environment_id":"env_1","data":{"organization":{"id":"org_118200000000000202"},"user":{"id":%q}}}`, id, user), events.Defaults{})
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func eventID(n int) string { return fmt.Sprintf("evt_%018d", n) }

func inTx(t *testing.T, db database, f func(tx *sql.Tx) error) error {
	t.Helper()
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback()
		return err
	}
	return tx.Commit()
}

func appendAll(t *testing.T, db database, evs ...events.Event) []outbox.Record {
	t.Helper()
	var records []outbox.Record
	if err := inTx(t, db, func(tx *sql.Tx) (err error) {
		records, err = outbox.Append(t.Context(), tx, evs...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return records
}

func count(t *testing.T, db database, query string, args ...any) int {
	t.Helper()
	var n int
	if err := db.QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// collector is a publisher that remembers, and can fail before or after taking
// effect.
type collector struct {
	mu     sync.Mutex
	msgs   []*message.Message
	before func() error
	after  func() error
}

func (c *collector) Publish(_ string, msgs ...*message.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.before != nil {
		if err := c.before(); err != nil {
			return err
		}
	}
	c.msgs = append(c.msgs, msgs...)
	if c.after != nil {
		return c.after()
	}
	return nil
}

func (c *collector) Close() error { return nil }

func (c *collector) ids() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	for _, m := range c.msgs {
		ids = append(ids, m.UUID)
	}
	return ids
}

func TestAppendIsPartOfTheTransaction(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		gaveUp := errors.New("gave up")
		err := inTx(t, db, func(tx *sql.Tx) error {
			if _, err := outbox.Append(t.Context(), tx, event(t, eventID(1))); err != nil {
				return err
			}
			return gaveUp
		})
		if !errors.Is(err, gaveUp) {
			t.Fatal(err)
		}
		if n := count(t, db, `SELECT (SELECT count(*) FROM handover_events) + (SELECT count(*) FROM handover_outbox)`); n != 0 {
			t.Errorf("%d rows survived the rollback", n)
		}
	})
}

func TestAppendManyAndAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		var evs []events.Event
		for i := range 333 {
			evs = append(evs, event(t, eventID(i)))
		}
		first := appendAll(t, db, append(evs, evs[7])...)
		for i, r := range first[:333] {
			if r.Status != outbox.Added {
				t.Fatalf("event %d: status %d", i, r.Status)
			}
		}
		if r := first[333]; r.Status != outbox.Duplicate || r.Seq != first[7].Seq {
			t.Errorf("the second copy in one call: %+v, the first %+v", r, first[7])
		}
		again := appendAll(t, db, append(evs, event(t, eventID(999)))...)
		for i, r := range again[:333] {
			if r.Status != outbox.Duplicate || r.Seq != first[i].Seq || !r.RecordedAt.Equal(first[i].RecordedAt) {
				t.Fatalf("event %d again: %+v, at first %+v", i, r, first[i])
			}
		}
		if again[333].Status != outbox.Added {
			t.Error("a new event among known ones was not added")
		}
		if n := count(t, db, `SELECT count(*) FROM handover_outbox`); n != 334 {
			t.Errorf("%d outbox rows for 334 events", n)
		}
		var body []byte
		if err := db.QueryRowContext(t.Context(), `SELECT body FROM handover_events WHERE id = $1`, evs[5].ID).Scan(&body); err != nil {
			t.Fatal(err)
		}
		if string(body) != string(evs[5].Body()) {
			t.Errorf("stored body %s, appended %s", body, evs[5].Body())
		}
	})
}

func TestAppendConflictLeavesTheTransactionUsable(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		appendAll(t, db, event(t, eventID(1)))
		other := eventOf(t, eventID(1), "usr_118200000000001002")
		err := inTx(t, db, func(tx *sql.Tx) error {
			records, err := outbox.Append(t.Context(), tx, event(t, eventID(2)), other)
			if !errors.Is(err, outbox.ErrConflict) {
				t.Errorf("err = %v, want ErrConflict", err)
			}
			if records[0].Status != outbox.Added || records[1].Status != outbox.Conflict {
				t.Errorf("records = %+v", records)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := count(t, db, `SELECT count(*) FROM handover_events`); n != 2 {
			t.Errorf("%d events, want 2", n)
		}
	})
}

func TestSameIDInAnotherEnvironmentIsAnotherEvent(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		raw := `{"id":"evt_1","type":"app.thing","object":"Thing","occurred_at":"2026-06-12T09:30:01Z","environment_id":%q,"data":{}}`
		for _, env := range []string{"env_1", "env_2"} {
			ev, err := events.Complete(fmt.Appendf(nil, raw, env), events.Defaults{})
			if err != nil {
				t.Fatal(err)
			}
			if r := appendAll(t, db, ev); r[0].Status != outbox.Added {
				t.Errorf("%s: status %d", env, r[0].Status)
			}
		}
	})
}

func TestConcurrentCopiesAreRecordedOnce(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		ev := event(t, eventID(1))
		statuses := make([]outbox.Status, 16)
		var wg sync.WaitGroup
		for i := range statuses {
			wg.Go(func() {
				err := inTx(t, db, func(tx *sql.Tx) error {
					r, err := outbox.Append(t.Context(), tx, ev)
					if err == nil {
						statuses[i] = r[0].Status
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		added := 0
		for _, s := range statuses {
			if s == outbox.Added {
				added++
			}
		}
		if added != 1 {
			t.Errorf("added %d times", added)
		}
	})
}

func TestPgxTransaction(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	d := ready(t, database{outbox.Postgres, url, db})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	for _, want := range []outbox.Status{outbox.Added, outbox.Duplicate} {
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			records, err := pgxoutbox.Append(t.Context(), tx, event(t, eventID(1)), event(t, eventID(2)))
			if err == nil && (records[0].Status != want || records[1].Status != want) {
				t.Errorf("records = %+v, want status %d", records, want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, d, `SELECT count(*) FROM handover_outbox`); n != 2 {
		t.Errorf("%d outbox rows", n)
	}
}

func TestRelayPublishesAndForgets(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		pub := &collector{}
		relay := &outbox.Relay{DB: db.DB, Dialect: db.name, Publisher: pub, Batch: 2}
		records := appendAll(t, db, event(t, eventID(1)), event(t, eventID(2)), event(t, eventID(3)))
		for _, want := range []int{2, 1, 0} {
			if n, err := relay.Flush(t.Context()); err != nil || n != want {
				t.Fatalf("Flush = %d, %v, want %d", n, err, want)
			}
		}
		if got := pub.ids(); !slices.Equal(got, []string{eventID(1), eventID(2), eventID(3)}) {
			t.Errorf("published %v", got)
		}
		m := pub.msgs[0]
		if string(m.Payload) != string(event(t, eventID(1)).Body()) {
			t.Errorf("payload %s", m.Payload)
		}
		if m.Metadata.Get(outbox.MetadataSeq) != fmt.Sprint(records[0].Seq) || m.Metadata.Get(outbox.MetadataSubject) != "usr_118200000000001001" {
			t.Errorf("metadata %v", m.Metadata)
		}
		if n := count(t, db, `SELECT count(*) FROM handover_outbox`); n != 0 {
			t.Errorf("%d rows left", n)
		}
	})
}

// A publisher that fails, whether the messages got through or not, costs
// repeats and never an event.
func TestRelaySurvivesItsPublisher(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	for name, fail := range map[string]func(*collector, func() error){
		"before": func(c *collector, f func() error) { c.before = f },
		"after":  func(c *collector, f func() error) { c.after = f },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, db database) {
				pub := &collector{}
				failures := 2
				fail(pub, func() error {
					if failures--; failures >= 0 {
						return down
					}
					return nil
				})
				relay := &outbox.Relay{DB: db.DB, Dialect: db.name, Publisher: pub}
				appendAll(t, db, event(t, eventID(1)))
				for range 2 {
					if _, err := relay.Flush(t.Context()); !errors.Is(err, down) {
						t.Fatalf("err = %v", err)
					}
				}
				if n, err := relay.Flush(t.Context()); n != 1 || err != nil {
					t.Fatalf("Flush = %d, %v", n, err)
				}
				if ids := pub.ids(); ids[len(ids)-1] != eventID(1) {
					t.Errorf("published %v", ids)
				}
			})
		})
	}
}

// A relay that died holding rows needs no cleaning up after: they fall due.
func TestLeaseOfADeadRelayEnds(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		now := time.Now()
		clock := func() time.Time { return now }
		lost := &collector{}
		relay := &outbox.Relay{DB: db.DB, Dialect: db.name, Publisher: lost, KeepUntilRouted: true, Lease: time.Minute, Now: clock, Owner: "a"}
		records := appendAll(t, db, event(t, eventID(1)), event(t, eventID(2)))
		now = now.Add(time.Second)
		if n, err := relay.Flush(t.Context()); n != 2 || err != nil {
			t.Fatalf("Flush = %d, %v", n, err)
		}
		now = now.Add(59 * time.Second)
		if n, err := relay.Flush(t.Context()); n != 0 || err != nil {
			t.Fatalf("within the lease: Flush = %d, %v", n, err)
		}
		if err := inTx(t, db, func(tx *sql.Tx) error { return outbox.Routed(t.Context(), tx, db.name, records[0].Seq) }); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Second)
		if n, err := relay.Flush(t.Context()); n != 1 || err != nil {
			t.Fatalf("after the lease: Flush = %d, %v", n, err)
		}
		if got := lost.ids(); got[len(got)-1] != eventID(2) {
			t.Errorf("published %v", got)
		}
		if n, err := outbox.Release(t.Context(), db.DB, "b", now); n != 0 || err != nil {
			t.Errorf("released %d of somebody else, %v", n, err)
		}
		if n, err := outbox.Release(t.Context(), db.DB, "a", now); n != 1 || err != nil {
			t.Errorf("Release = %d, %v", n, err)
		}
		if n, err := relay.Flush(t.Context()); n != 1 || err != nil {
			t.Errorf("after the release: Flush = %d, %v", n, err)
		}
		if n, err := outbox.Rewind(t.Context(), db.DB, now); n != 1 || err != nil {
			t.Errorf("Rewind = %d, %v", n, err)
		}
	})
}

// What is never routed is relayed again and again, each time twice as long after
// the time before, and at last 64 leases.
func TestRepeatsBecomeRare(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		now := time.Now()
		pub := &collector{}
		relay := &outbox.Relay{DB: db.DB, Dialect: db.name, Publisher: pub, KeepUntilRouted: true, Now: func() time.Time { return now }}
		appendAll(t, db, event(t, eventID(1)))
		now = now.Add(time.Second)
		for i := range 10 {
			if n, err := relay.Flush(t.Context()); n != 1 || err != nil {
				t.Fatalf("repeat %d: Flush = %d, %v", i, n, err)
			}
			now = now.Add(time.Minute<<min(i, 6) - time.Second)
			if n, err := relay.Flush(t.Context()); n != 0 || err != nil {
				t.Fatalf("a second before repeat %d: Flush = %d, %v", i+1, n, err)
			}
			now = now.Add(time.Second)
		}
	})
}

// An event whose transaction commits after a later-numbered one is not skipped.
func TestLateCommitIsNotSkipped(t *testing.T) {
	t.Parallel()
	url := testenv.Postgres(t)
	db, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	d := ready(t, database{outbox.Postgres, url, db})
	pub := &collector{}
	relay := &outbox.Relay{DB: db, Dialect: outbox.Postgres, Publisher: pub, KeepUntilRouted: true}
	slow, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := outbox.Append(t.Context(), slow, event(t, eventID(1))); err != nil {
		t.Fatal(err)
	}
	appendAll(t, d, event(t, eventID(2)))
	if n, err := relay.Flush(t.Context()); n != 1 || err != nil {
		t.Fatalf("Flush = %d, %v", n, err)
	}
	if err := slow.Commit(); err != nil {
		t.Fatal(err)
	}
	if n, err := relay.Flush(t.Context()); n != 1 || err != nil {
		t.Fatalf("after the late commit: Flush = %d, %v", n, err)
	}
	if got := pub.ids(); !slices.Equal(got, []string{eventID(2), eventID(1)}) {
		t.Errorf("published %v", got)
	}
}

// Several relays share the rows, and a handoff spares them the search.
func TestRelaysShareAndHandoffsAreQuick(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, db database) {
		pub := &collector{}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		relays := make([]*outbox.Relay, 3)
		for i := range relays {
			relays[i] = &outbox.Relay{DB: db.DB, Dialect: db.name, Publisher: pub, Batch: 7, Poll: 5 * time.Millisecond, Owner: fmt.Sprint(i)}
			wg.Go(func() {
				if err := relays[i].Run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		const n = 300
		for i := range n {
			h := relays[i%3].Reserve(1)
			if i%4 == 0 {
				h.Cancel()
				h = nil
			}
			err := inTx(t, db, func(tx *sql.Tx) error {
				_, err := outbox.AppendReserved(ctx, outbox.SQL(tx), h, event(t, eventID(i)))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			h.Commit()
		}
		testenv.Eventually(t, 30*time.Second, func() error {
			if left := count(t, db, `SELECT count(*) FROM handover_outbox`); left > 0 {
				return fmt.Errorf("%d rows left", left)
			}
			return nil
		})
		stop()
		wg.Wait()
		ids := pub.ids()
		slices.Sort(ids)
		if len(ids) != n || len(slices.Compact(ids)) != n {
			t.Errorf("published %d messages for %d events", len(ids), n)
		}
	})
}

func TestReserveIsBoundedAndReturned(t *testing.T) {
	t.Parallel()
	relay := &outbox.Relay{Window: 10}
	a := relay.Reserve(6)
	if a == nil {
		t.Fatal("no room in an empty window")
	}
	if relay.Reserve(5) != nil {
		t.Error("the window was exceeded")
	}
	a.Cancel()
	if b := relay.Reserve(10); b == nil {
		t.Error("room was not given back")
	}
	if relay.Reserve(11) != nil {
		t.Error("more than the window at once")
	}
}
