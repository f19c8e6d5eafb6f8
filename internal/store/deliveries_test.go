package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/signing"
)

// eachDatabase runs a test on SQLite and PostgreSQL.
func eachDatabase(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, Config{Dir: t.TempDir()}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, open(t, Config{URL: testenv.Postgres(t)}))
	})
}

func open(t *testing.T, c Config) *Store {
	t.Helper()
	if c.MasterKey == nil {
		c.MasterKey = NewMasterKey()
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// line is a store with some endpoints, and the router's part played by hand.
type testLine struct {
	*Store
	t         *testing.T
	endpoints []string
	n         int
}

func newLine(t *testing.T, s *Store, endpoints int) *testLine {
	t.Helper()
	l := &testLine{Store: s, t: t}
	for i := range endpoints {
		e := Endpoint{Name: fmt.Sprint("app ", i), URL: "https://app.example.com", EventTypes: []string{"*"}}
		created, err := s.CreateEndpoint(t.Context(), e, signing.NewKey())
		if err != nil {
			t.Fatal(err)
		}
		l.endpoints = append(l.endpoints, created.ID)
	}
	return l
}

// publish records one event about each person and returns its arrivals.
func (l *testLine) publish(people ...string) []Arrival {
	l.t.Helper()
	var evs []events.Event
	for _, p := range people {
		l.n++
		ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_%d","type":"user.organization_membership_deleted","environment_id":"env_1",
"data":{"organization":{"id":"org_1"},"user":{"id":"usr_%s"}}}`, l.n, p), events.Defaults{})
		if err != nil {
			l.t.Fatal(err)
		}
		evs = append(evs, ev)
	}
	a := &Acceptance{Events: evs}
	if err := l.Accept(l.t.Context(), nil, []*Acceptance{a}); err != nil {
		l.t.Fatal(err)
	}
	var arrivals []Arrival
	for i, r := range a.Records {
		arrivals = append(arrivals, Arrival{Seq: r.Seq, Subject: evs[i].Subject(), Type: evs[i].Type, OrganizationID: evs[i].OrganizationID})
	}
	return arrivals
}

// route routes to all endpoints, claimed at birth by owner if it is named.
func (l *testLine) route(owner string, arrivals ...Arrival) []NewDelivery {
	l.t.Helper()
	made, _, err := l.Route(l.t.Context(), owner, arrivals, func(_ int64, evs []Unrouted) (Plan, error) {
		var out []NewDelivery
		for _, ev := range evs {
			for _, id := range l.endpoints {
				out = append(out, NewDelivery{ID: l.NewID("msg_"), EventSeq: ev.Seq, EndpointID: id, OrderKey: ev.Subject, Claim: owner != ""})
			}
		}
		return Plan{out, len(evs)}, nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return made
}

func (l *testLine) claim(owner string, n int) []Claimed {
	l.t.Helper()
	var wants []Want
	for _, id := range l.endpoints {
		wants = append(wants, Want{EndpointID: id, N: n})
	}
	claimed, err := l.Claim(l.t.Context(), owner, wants)
	if err != nil {
		l.t.Fatal(err)
	}
	return claimed
}

func (l *testLine) finish1(owner string, c Claimed, state State) []string {
	l.t.Helper()
	due, err := l.Record(l.t.Context(), owner, []Result{{
		Attempt:    Attempt{DeliveryID: c.ID, Number: c.Attempts + 1, StartedAt: time.Now(), Status: 200, Class: "ok"},
		EndpointID: c.EndpointID, OrderKey: c.OrderKey, State: state, DueAt: time.Now(), Tries: c.Tries + 1,
	}})
	if err != nil {
		l.t.Fatal(err)
	}
	return due
}

func (l *testLine) states() string {
	l.t.Helper()
	rows, err := l.read.QueryContext(l.t.Context(), `SELECT d.state FROM deliveries d ORDER BY d.event_seq, d.endpoint_id`)
	if err != nil {
		l.t.Fatal(err)
	}
	defer rows.Close()
	var words []string
	for rows.Next() {
		var s State
		if err := rows.Scan(&s); err != nil {
			l.t.Fatal(err)
		}
		words = append(words, s.String())
	}
	return strings.Join(words, " ")
}

func (l *testLine) count(query string) int {
	l.t.Helper()
	var n int
	if err := l.read.QueryRowContext(l.t.Context(), query).Scan(&n); err != nil {
		l.t.Fatal(err)
	}
	return n
}

func TestRouteIsOnceAndEmptiesTheOutbox(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 3)
		arrivals := l.publish("a", "b")
		if made := l.route("", arrivals...); len(made) != 6 {
			t.Fatalf("%d deliveries for 2 events and 3 endpoints", len(made))
		}
		if made := l.route("", arrivals...); len(made) != 0 {
			t.Errorf("routed again: %d deliveries", len(made))
		}
		if n := l.count(`SELECT count(*) FROM handover_outbox`); n != 0 {
			t.Errorf("%d rows left in the outbox", n)
		}
		if n := l.count(`SELECT count(*) FROM deliveries`); n != 6 {
			t.Errorf("%d deliveries", n)
		}
	})
}

// A long backlog about one person is routed piece by piece; what did not fit is
// relayed again.
func TestRouteInPieces(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		people := make([]string, routeAtOnce+100)
		for i := range people {
			people[i] = "a"
		}
		arrivals := l.publish(people...)
		last := arrivals[len(arrivals)-1]
		for _, want := range []int{routeAtOnce, 100} {
			made, left, err := l.Route(t.Context(), "", []Arrival{last}, func(_ int64, evs []Unrouted) (Plan, error) {
				p := Plan{Events: len(evs)}
				for _, ev := range evs {
					p.Deliveries = append(p.Deliveries, NewDelivery{ID: l.NewID("msg_"), EventSeq: ev.Seq, EndpointID: l.endpoints[0], OrderKey: ev.Subject})
				}
				return p, nil
			})
			if err != nil || len(made) != want || left != (want == routeAtOnce) {
				t.Fatalf("%d deliveries, left %v, %v; want %d", len(made), left, err, want)
			}
		}
		if n := l.count(`SELECT count(*) FROM deliveries WHERE state = 0`); n != 1 {
			t.Errorf("%d active deliveries about one person", n)
		}
	})
}

func TestRouteFailsAsAWhole(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		arrivals := l.publish("a")
		refused := errors.New("refused")
		_, _, err := l.Route(t.Context(), "", arrivals, func(int64, []Unrouted) (Plan, error) { return Plan{}, refused })
		if !errors.Is(err, refused) {
			t.Fatal(err)
		}
		if n := l.count(`SELECT count(*) FROM handover_outbox`); n != 1 {
			t.Errorf("%d rows in the outbox", n)
		}
	})
}

// One person's deliveries go to one endpoint one at a time, in the order of the
// events, whatever order the stream brought them in.
func TestOnePersonInOrder(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		first := l.publish("a")
		later := l.publish("a", "b", "a")
		l.route("", later[2]) // the last one first: the others of that person come along
		l.route("", later[1])
		l.route("", first[0], later[0])
		if got, want := l.states(), "pending held pending held"; got != want {
			t.Fatalf("states %s, want %s", got, want)
		}
		var order []int64
		for range 3 {
			claimed := l.claim("me", 10)
			if len(claimed) == 0 {
				t.Fatalf("nothing to claim; states %s", l.states())
			}
			if again := l.claim("other", 10); len(again) != 0 {
				t.Errorf("claimed twice: %v", again)
			}
			for _, c := range claimed {
				if len(c.Body) == 0 || c.EventID == "" {
					t.Errorf("claimed without its event: %+v", c)
				}
				if c.OrderKey == "usr_a" {
					order = append(order, c.EventSeq)
				}
				due := l.finish1("me", c, Succeeded)
				if c.OrderKey == "usr_a" && len(order) < 3 && !slices.Equal(due, l.endpoints) {
					t.Errorf("finishing one released %v", due)
				}
			}
		}
		if want := []int64{first[0].Seq, later[0].Seq, later[2].Seq}; !slices.Equal(order, want) {
			t.Errorf("sent in the order %v, want %v", order, want)
		}
	})
}

func TestFailingOneHoldsBackOnlyThatPerson(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 2)
		l.route("me", l.publish("a", "a", "b")...)
		if got, want := l.states(), "sending sending held held sending sending"; got != want {
			t.Fatalf("states %s, want %s", got, want)
		}
		var a Claimed
		if err := s.read.QueryRowContext(t.Context(), `SELECT id, endpoint_id, order_key FROM deliveries WHERE order_key = 'usr_a' AND state = 1 ORDER BY endpoint_id LIMIT 1`).
			Scan(&a.ID, &a.EndpointID, &a.OrderKey); err != nil {
			t.Fatal(err)
		}
		l.finish1("me", a, Pending) // another try follows
		if got, want := l.states(), "pending sending held held sending sending"; got != want {
			t.Errorf("after a failure: %s, want %s", got, want)
		}
		// An operator skips it.
		err := s.Tx(t.Context(), func(tx *sql.Tx) error {
			n, due, err := s.finish(t.Context(), tx, Canceled, "skipped", "id = $4", a.ID)
			if n != 1 || !slices.Equal(due, []string{a.EndpointID}) {
				t.Errorf("finish = %d, %v", n, due)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := l.states(), "canceled sending pending held sending sending"; got != want {
			t.Errorf("after the skip: %s, want %s", got, want)
		}
	})
}

// What an owner reports that no longer holds the delivery does not change its
// state, but is recorded.
func TestLateResultIsFencedOff(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		l.route("", l.publish("a")...)
		old := l.claim("dead", 1)
		if n, err := s.TakeBack(t.Context(), "dead"); n != 1 || err != nil {
			t.Fatalf("TakeBack = %d, %v", n, err)
		}
		if got := l.claim("living", 1); len(got) != 1 || got[0].ID != old[0].ID {
			t.Fatalf("claimed %v", got)
		}
		l.finish1("dead", old[0], Failed)
		if got := l.states(); got != "sending" {
			t.Errorf("the dead owner changed the state to %s", got)
		}
		if n := l.count(`SELECT count(*) FROM attempts`); n != 1 {
			t.Errorf("%d attempts recorded", n)
		}
		c := old[0]
		c.Attempts = 1
		l.finish1("living", c, Succeeded)
		if got := l.states(); got != "succeeded" {
			t.Errorf("state %s", got)
		}
		if n := l.count(`SELECT count(*) FROM attempts`); n != 2 {
			t.Errorf("%d attempts recorded", n)
		}
	})
}

func TestRequeue(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		made := l.route("me", l.publish("a", "b")...)
		later := l.route("me", l.publish("a", "a")...)
		for _, d := range made {
			l.finish1("me", Claimed{ID: d.ID, EndpointID: d.EndpointID, OrderKey: d.OrderKey}, Failed)
		}
		if got, want := l.states(), "failed failed pending held"; got != want {
			t.Fatalf("states %s, want %s", got, want)
		}
		var moved, skipped int
		var due []string
		requeue := func(ids ...string) {
			t.Helper()
			if err := s.Tx(t.Context(), func(tx *sql.Tx) (err error) {
				moved, skipped, due, err = s.requeue(t.Context(), tx, ids, time.Now())
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		requeue(made[0].ID, made[1].ID, "msg_unknown")
		if moved != 2 || skipped != 1 || !slices.Equal(due, l.endpoints) {
			t.Errorf("requeue = %d, %d, %v", moved, skipped, due)
		}
		// The person's later delivery was active already: the old one waits for it.
		if got, want := l.states(), "held pending pending held"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		claimed := l.claim("me", 10)
		requeue(claimed[0].ID)
		if moved != 0 || skipped != 1 {
			t.Errorf("requeue of one being sent = %d, %d", moved, skipped)
		}
		for _, c := range claimed {
			l.finish1("me", c, Succeeded)
		}
		if got, want := l.states(), "pending succeeded succeeded held"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		_ = later
	})
}

// Many routers, many dispatchers, one person: never two at a time, nothing lost,
// nothing stuck.
func TestOrderHoldsUnderConcurrency(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 2)
		const n = 60
		var arrivals []Arrival
		for i := range n {
			arrivals = append(arrivals, l.publish(fmt.Sprint(i%3))...)
		}
		var wg sync.WaitGroup
		for r := range 3 {
			wg.Go(func() {
				for i := r; i < n; i += 3 {
					l.route("", arrivals[i])
					l.route("", arrivals[(i*7)%n])
				}
			})
		}
		type sent struct {
			group
			seq int64
		}
		var mu sync.Mutex
		busy := make(map[group]bool)
		var order []sent
		done := make(chan struct{})
		for d := range 3 {
			owner := fmt.Sprint("d", d)
			wg.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					for _, c := range l.claim(owner, 4) {
						g := group{c.EndpointID, c.OrderKey}
						mu.Lock()
						if busy[g] {
							t.Errorf("two deliveries about %s at once", c.OrderKey)
						}
						busy[g] = true
						order = append(order, sent{g, c.EventSeq})
						mu.Unlock()
						mu.Lock()
						busy[g] = false
						if len(order) == 2*n {
							close(done)
						}
						mu.Unlock()
						l.finish1(owner, c, Succeeded)
					}
				}
			})
		}
		finished := make(chan struct{})
		go func() { wg.Wait(); close(finished) }()
		select {
		case <-finished:
		case <-time.After(60 * time.Second):
			t.Fatalf("stuck after %d of %d: %s", len(order), 2*n, l.states())
		}
		last := make(map[group]int64)
		for _, o := range order {
			if o.seq <= last[o.group] {
				t.Errorf("event %d about %s came after %d", o.seq, o.orderKey, last[o.group])
			}
			last[o.group] = o.seq
		}
	})
}

func TestNextDueNamesEachEndpoint(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 3)
		l.route("", l.publish("a", "b")...)
		soon := time.Now().Add(time.Hour).Truncate(time.Microsecond)
		var put []string
		for _, c := range l.claim("me", 10) {
			if c.EndpointID == l.endpoints[1] {
				put = append(put, c.ID)
			}
		}
		if err := s.PutBack(t.Context(), "me", put, soon); err != nil {
			t.Fatal(err)
		}
		due, err := s.NextDue(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(due) != 1 || !due[l.endpoints[1]].Equal(soon) {
			t.Errorf("due %v, want %s at %s", due, l.endpoints[1], soon)
		}
	})
}

func TestWorkersThatDieAreRetired(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		now := time.Now()
		enlist := func(owner, name string, lease time.Duration) {
			t.Helper()
			if err := s.Enlist(t.Context(), Worker{Owner: owner, Name: name, Version: "v", StartedAt: now, Lease: lease}); err != nil {
				t.Fatal(err)
			}
		}
		enlist("a1", "a", time.Hour)
		enlist("b1", "b", -time.Second)
		enlist("c1", "c", time.Hour)
		l.route("a1", l.publish("1")...)
		l.route("b1", l.publish("2")...)
		l.route("c1", l.publish("3")...)
		l.route("ghost", l.publish("4")...)
		gone, err := s.RetireExpired(t.Context(), "a1")
		slices.Sort(gone)
		if err != nil || !slices.Equal(gone, []string{"b1", "ghost"}) {
			t.Fatalf("retired %v, %v", gone, err)
		}
		enlist("a2", "a", time.Hour) // a restart takes its own back at once
		if got, want := l.states(), "pending pending sending pending"; got != want {
			t.Errorf("states %s, want %s", got, want)
		}
		workers, err := s.Workers(t.Context())
		if err != nil || len(workers) != 2 {
			t.Errorf("workers %v, %v", workers, err)
		}
	})
}

func TestAcceptRemembersWebhooksAndRequests(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 0)
		event := func(id string) []events.Event {
			ev, err := events.Complete(fmt.Appendf(nil, `{"id":%q,"type":"app.thing","object":"Thing","environment_id":"env_1","occurred_at":"2026-06-12T09:30:01Z","data":{}}`, id), events.Defaults{})
			if err != nil {
				t.Fatal(err)
			}
			return []events.Event{ev}
		}
		accept := func(as ...*Acceptance) error {
			if err := s.Accept(t.Context(), nil, as); err != nil {
				return err
			}
			return as[0].Err
		}
		hook := func(webhookID, eventID string, hash byte) *Acceptance {
			return &Acceptance{Events: event(eventID), SourceID: "src", WebhookID: webhookID, BodyHash: [32]byte{hash}}
		}
		named := func(key, eventID string, hash byte) *Acceptance {
			return &Acceptance{Events: event(eventID), APIKeyID: "key", IdempotencyKey: key, RequestHash: [32]byte{hash}}
		}
		a, b := hook("w1", "evt_1", 1), hook("w1", "evt_1", 1)
		if err := accept(a, b); err != nil {
			t.Fatal(err)
		}
		if a.Repeated || !b.Repeated || b.IDs[0] != "evt_1" {
			t.Errorf("two copies at once: %v, %v", a.Repeated, b.Repeated)
		}
		again := hook("w1", "evt_1", 1)
		if err := accept(again); err != nil || !again.Repeated {
			t.Errorf("the same again: %v, %v", again.Repeated, err)
		}
		if err := accept(hook("w1", "evt_2", 2)); !errors.Is(err, ErrWebhookConflict) {
			t.Errorf("another body under the same webhook-id: %v", err)
		}
		other := hook("w2", "evt_1", 1)
		if err := accept(other); err != nil || other.Repeated || other.Records[0].Status != outbox.Duplicate {
			t.Errorf("the same event under another webhook-id: %+v, %v", other, err)
		}
		n1 := named("k", "evt_3", 1)
		if err := accept(n1); err != nil || n1.Repeated {
			t.Fatal(err)
		}
		n2 := named("k", "evt_4", 1) // a generated id differs; the answer is the first one's
		if err := accept(n2); err != nil || !n2.Repeated || n2.IDs[0] != "evt_3" {
			t.Errorf("the same request again: %+v, %v", n2, err)
		}
		if err := accept(named("k", "evt_5", 2)); !errors.Is(err, ErrIdempotencyConflict) {
			t.Errorf("the same key for another request: %v", err)
		}
		if n := l.count(`SELECT count(*) FROM handover_events`); n != 2 {
			t.Errorf("%d events recorded, want evt_1 and evt_3", n)
		}

		// What contradicts takes nothing else with it.
		other = &Acceptance{Events: event("evt_1")}
		other.Events[0], _ = events.Parse([]byte(strings.Replace(string(other.Events[0].Body()), `"data":{}`, `"data":{"a":1}`, 1)))
		mixed := []*Acceptance{hook("w1", "evt_6", 9), named("k", "evt_7", 9), other, {Events: event("evt_8")}, hook("w9", "evt_9", 1), {Events: event("evt_3")}}
		if err := accept(mixed...); !errors.Is(err, ErrWebhookConflict) || !errors.Is(mixed[1].Err, ErrIdempotencyConflict) || !errors.Is(other.Err, ErrEventConflict) {
			t.Errorf("contradictions: %v, %v, %v", err, mixed[1].Err, other.Err)
		}
		for _, a := range mixed[3:] {
			want := outbox.Added
			if a.Events[0].ID == "evt_3" {
				want = outbox.Duplicate
			}
			if a.Err != nil || a.Repeated || len(a.Records) != 1 || a.Records[0].Status != want {
				t.Errorf("%s beside them: %+v", a.Events[0].ID, a)
			}
		}
		if n := l.count(`SELECT count(*) FROM handover_events`); n != 4 {
			t.Errorf("%d events recorded, want evt_8 and evt_9 too", n)
		}
	})
}

func TestOpenRefusesWhatItCannotServe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := NewMasterKey()
	s := open(t, Config{Dir: dir, MasterKey: key})
	if _, err := s.write.ExecContext(t.Context(), `UPDATE goose_db_version SET version_id = 999 WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir, MasterKey: key}); !errors.Is(err, ErrNewerSchema) {
		t.Errorf("a newer schema: %v", err)
	}
	dir = t.TempDir()
	open(t, Config{Dir: dir, MasterKey: key})
	if _, err := Open(t.Context(), Config{Dir: dir, MasterKey: NewMasterKey()}); !errors.Is(err, ErrWrongKey) {
		t.Errorf("another master key: %v", err)
	}
	if _, err := Open(t.Context(), Config{Dir: dir, MasterKey: []byte("short")}); err == nil {
		t.Error("a short master key was taken")
	}
}

// Processes that start together migrate one after the other.
func TestOpenTogether(t *testing.T) {
	t.Parallel()
	url, key := testenv.Postgres(t), NewMasterKey()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := Open(context.WithoutCancel(t.Context()), Config{URL: url, MasterKey: key})
			if err != nil {
				t.Error(err)
				return
			}
			_ = s.Close()
		})
	}
	wg.Wait()
}
