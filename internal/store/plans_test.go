package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/signing"
)

// history is how many finished deliveries there are.
const history = 10000

// TestNothingReadsWhatIsDone does what events cost, and what is done again and
// again, beside a long history. PostgreSQL counts the rows that are read. In
// SQLite's file the history is destroyed, so that reading it is an error.
func TestNothingReadsWhatIsDone(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		c := Config{Dir: t.TempDir(), MasterKey: NewMasterKey()}
		s := open(t, c)
		recordHistory(t, s)
		pages := historyPages(t, s)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		destroy(t, filepath.Join(c.Dir, "handover.db"), pages)
		l := newPresent(t, open(t, c))
		var due int64
		if err := l.read.QueryRowContext(t.Context(), `SELECT max(due_at) FROM deliveries`).Scan(&due); err == nil {
			t.Fatal("the history can be read: the test shows nothing")
		}
		for _, op := range l.operations() {
			if err := op.do(t.Context()); err != nil {
				t.Errorf("%s: %v", op.name, err)
			}
		}
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		s := open(t, Config{URL: testenv.Postgres(t), MaxConns: 1}) // a session sees what it counted itself
		recordHistory(t, s)
		l := newPresent(t, s)
		for _, op := range l.operations() {
			before := rowsRead(t, s)
			if err := op.do(t.Context()); err != nil {
				t.Errorf("%s: %v", op.name, err)
			}
			if n := rowsRead(t, s) - before; n > history/5 {
				t.Errorf("%s read %d rows", op.name, n)
			}
		}
		before := rowsRead(t, s)
		if l.count(`SELECT count(due_at) FROM deliveries`); rowsRead(t, s)-before < history {
			t.Error("rows are not counted: the test shows nothing")
		}
	})
}

// recordHistory makes events about some people that were delivered to two
// endpoints long ago, so that in every index they come before what is made later.
func recordHistory(t *testing.T, s *Store) {
	t.Helper()
	const n = `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) `
	id := deliveryIDAt(time.Now().Add(-24 * time.Hour))[:4+10]
	id = `'` + id + `' || substr(CAST(10000000000000000 + i AS text), 2)`
	binary := "blob"
	if s.postgres() {
		binary = "bytea"
	}
	for _, text := range []string{
		n + `INSERT INTO handover_events (seq, id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at, body)
SELECT i, 'evt_0' || i, 'env_1', 'app.note', 'org_0' || (i % 3), 'usr_0' || (i % 5000), 'usr_0' || (i % 5000), i, i, CAST('{}' AS ` + binary + `) FROM n`,
		n + `INSERT INTO deliveries (id, event_seq, endpoint_id, order_key, state, due_at, attempts, tries, created_at, updated_at)
SELECT ` + id + `, i, 'ep_0' || (i % 2), 'usr_0' || (i % 5000), 3 + (CASE WHEN i % 100 = 0 THEN 3 ELSE 0 END), i, 1, 1, i, i FROM n`,
		n + `INSERT INTO attempts (delivery_id, number, started_at, duration_us, status, class, error, answer, address)
SELECT ` + id + `, 1, i, 1, 200, 'ok', '', CAST('' AS ` + binary + `), '' FROM n`,
	} {
		if _, err := s.write.ExecContext(t.Context(), text, history); err != nil {
			t.Fatal(err)
		}
	}
	if s.postgres() {
		for _, text := range []string{`SELECT setval(pg_get_serial_sequence('handover_events', 'seq'), 1000000)`, `VACUUM ANALYZE`} {
			if _, err := s.write.ExecContext(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// historyPages names the pages with the rows of tables and indexes, but for the
// last ones of each: what is made later comes there.
func historyPages(t *testing.T, s *Store) []int64 {
	t.Helper()
	const room = 8 // pages, for what is added and may move
	pages, err := query(t.Context(), s.write, "pages", func(page *int64, scan func(...any) error) error { return scan(page) },
		`SELECT pageno FROM (SELECT pageno, row_number() OVER (PARTITION BY name ORDER BY path DESC) AS from_end
  FROM dbstat WHERE pagetype = 'leaf') WHERE from_end > $1`, room)
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 500 {
		t.Fatalf("only %d pages of history", len(pages))
	}
	return pages
}

func destroy(t *testing.T, file string, pages []int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	const size = 4096
	for _, page := range pages {
		if _, err := f.WriteAt(make([]byte, size), (page-1)*size); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func rowsRead(t *testing.T, s *Store) (n int64) {
	t.Helper()
	if _, err := s.write.ExecContext(t.Context(), `SELECT pg_stat_force_next_flush()`); err != nil {
		t.Fatal(err)
	}
	if err := s.write.QueryRowContext(t.Context(), `SELECT (SELECT sum(seq_tup_read) FROM pg_stat_user_tables) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes)`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// present is a little that goes on now: a few people's events to two endpoints.
type present struct {
	*testLine
	dead []string // failed
}

func newPresent(t *testing.T, s *Store) *present {
	t.Helper()
	l := &present{testLine: newLine(t, s, 2)}
	l.n = 1000
	l.route("me", l.publish("91", "92", "93", "91", "92")...)
	l.route("", l.publish("94", "95", "94")...)
	l.route("gone", l.publish("96", "97", "96")...)
	for _, c := range l.inHands("me") {
		if c.OrderKey == "usr_93" {
			l.finish1("me", c, Failed)
			l.dead = append(l.dead, c.ID)
		}
	}
	l.publish("98", "98", "99")
	return l
}

// inHands returns what an owner has to send.
func (l *present) inHands(owner string) []Claimed {
	l.t.Helper()
	claimed, err := query(l.t.Context(), l.write, "own deliveries", func(c *Claimed, scan func(...any) error) error {
		return scan(&c.ID, &c.EndpointID, &c.OrderKey)
	}, `SELECT id, endpoint_id, order_key FROM deliveries WHERE state = 1 AND owner = $1`, owner)
	if err != nil {
		l.t.Fatal(err)
	}
	return claimed
}

type operation struct {
	name string
	do   func(context.Context) error
}

// operations are what the line does for each event, and from time to time.
func (l *present) operations() []operation {
	publish := func(ctx context.Context, typ, user string) error {
		l.n++
		ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_%d","type":%q,"environment_id":"env_1","data":{"organization":{"id":"org_02"},"user":{"id":"usr_%s"}}}`,
			l.n, typ, user), events.Defaults{})
		if err != nil {
			return err
		}
		h := [32]byte{1}
		return l.Accept(ctx, nil, []*Acceptance{
			{Events: []events.Event{ev}, APIKeyID: "key", IdempotencyKey: ev.ID, RequestHash: h},
		})
	}
	page := func(f DeliveryFilter) func(context.Context) error {
		return func(ctx context.Context) error {
			_, _, err := l.ListDeliveries(ctx, f, Page{Limit: 50})
			return err
		}
	}
	ignore := func(_ any, err error) error { return err }
	record := func(state State) func(context.Context) error {
		return func(ctx context.Context) error {
			var results []Result
			for _, c := range l.inHands("me") {
				results = append(results, Result{
					Attempt:    Attempt{DeliveryID: c.ID, Number: 1, StartedAt: time.Now(), Class: "ok"},
					EndpointID: c.EndpointID, OrderKey: c.OrderKey, State: state, DueAt: time.Now(),
				})
			}
			if len(results) == 0 {
				return fmt.Errorf("nothing to record")
			}
			_, err := l.Record(ctx, "me", results)
			return err
		}
	}
	claim := func(ctx context.Context) error {
		var wants []Want
		for _, id := range l.endpoints {
			wants = append(wants, Want{EndpointID: id, N: 10})
		}
		claimed, err := l.Claim(ctx, "me", wants)
		if err == nil && len(claimed) == 0 {
			err = fmt.Errorf("nothing to claim")
		}
		return err
	}
	relay := &outbox.Relay{DB: l.DB(), Dialect: l.Dialect(), Publisher: nowhere{}, KeepUntilRouted: true, Owner: "gone", Window: 1}
	return []operation{
		{"publish", func(ctx context.Context) error { return publish(ctx, events.MembershipRemoved.Name, "91") }},
		{"publish a return", func(ctx context.Context) error { return publish(ctx, events.MembershipCreated.Name, "91") }},
		{"relay", func(ctx context.Context) error { return ignore(relay.Flush(ctx)) }},
		{"rewind", func(ctx context.Context) error { return ignore(outbox.Rewind(ctx, l.DB(), time.Now())) }},
		{"route", func(context.Context) error { l.route("me", l.publish("91", "9a", "9b")...); return nil }},
		{"route along", func(context.Context) error { l.route("", l.publish("98")...); return nil }},
		{"route a return", func(ctx context.Context) error {
			if err := publish(ctx, events.MembershipCreated.Name, "9a"); err != nil {
				return err
			}
			l.route("", l.publish("9a")...)
			return nil
		}},
		{"claim", claim},
		{"next due", func(ctx context.Context) error { return ignore(l.NextDue(ctx)) }},
		{"mine", func(ctx context.Context) error { return ignore(l.Mine(ctx, "me")) }},
		{"confirm", func(ctx context.Context) error { return ignore(l.Mine(ctx, "me", l.dead...)) }},
		{"record and release", record(Succeeded)},
		{"claim again", claim},
		{"record a retry", record(Pending)},
		{"claim once more", claim},
		{"put back", func(ctx context.Context) error { return l.PutBack(ctx, "me", l.dead, time.Now()) }},
		{"backlogs", func(ctx context.Context) error { return ignore(l.Backlogs(ctx)) }},
		{"renew", func(ctx context.Context) error { return l.Renew(ctx, Worker{Owner: "me", Name: "me"}) }},
		{"retire the unknown", func(ctx context.Context) error { return ignore(l.RetireExpired(ctx, "me")) }},
		{"take back", func(ctx context.Context) error { return ignore(l.TakeBack(ctx, "me")) }},
		{"replays", func(ctx context.Context) error { return ignore(l.ClaimReplays(ctx, "me")) }},
		{"list dead letters", page(DeliveryFilter{State: "failed"})},
		{"list dead letters of one", page(DeliveryFilter{State: "failed", EndpointID: l.endpoints[0]})},
		{"list pending", page(DeliveryFilter{State: "pending"})},
		{"list sending", page(DeliveryFilter{State: "sending", EndpointID: l.endpoints[0]})},
		{"list held", page(DeliveryFilter{State: "held"})},
		{"retry", func(ctx context.Context) error { return ignore(l.RetryDelivery(ctx, l.dead[0])) }},
		{"cancel", func(ctx context.Context) error { return ignore(l.CancelDelivery(ctx, l.dead[0])) }},
		{"test", func(ctx context.Context) error {
			ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_9","type":%q,"environment_id":"env_1","organization_id":"org_02","data":{}}`, EventTypeTest), events.Defaults{})
			if err != nil {
				return err
			}
			return ignore(l.InsertTestDelivery(ctx, l.endpoints[0], ev))
		}},
		{"create endpoint", func(ctx context.Context) error {
			return ignore(l.CreateEndpoint(ctx, Endpoint{URL: "https://app.example.com", EventTypes: []string{"*"}}, signing.NewKey()))
		}},
		{"disable", func(ctx context.Context) error { return l.DisableEndpoint(ctx, l.endpoints[0], "") }},
		{"cancel of", func(ctx context.Context) error { return ignore(l.CancelOf(ctx, l.endpoints[0], CauseOperator)) }},
		{"delete", func(ctx context.Context) error { return l.DeleteEndpoint(ctx, l.endpoints[1]) }},
	}
}

type nowhere struct{}

func (nowhere) Publish(string, ...*message.Message) error { return nil }
func (nowhere) Close() error                              { return nil }
