package store

import (
	"database/sql"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
)

// membership is an event about a person in an organization.
func (l *testLine) membership(typ, user, organization string) events.Event {
	l.t.Helper()
	l.n++
	ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_%d","type":%q,"environment_id":"env_1","data":{"organization":{"id":%q},"user":{"id":%q}}}`,
		l.n, typ, organization, user), events.Defaults{})
	if err != nil {
		l.t.Fatal(err)
	}
	return ev
}

func (l *testLine) accept(ev events.Event) Arrival {
	l.t.Helper()
	a := &Acceptance{Events: []events.Event{ev}}
	if err := l.Accept(l.t.Context(), nil, []*Acceptance{a}); err != nil {
		l.t.Fatal(err)
	}
	return arrival(ev, a.Records[0])
}

func arrival(ev events.Event, r outbox.Record) Arrival {
	return Arrival{Seq: r.Seq, Type: ev.Type, OrganizationID: ev.OrganizationID, Subject: ev.Subject()}
}

// Once the person is back, no removal is open, none is sent again, and what
// waited behind one goes on.
func TestReaddSupersedes(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 1)
		removed, created := events.MembershipRemoved.Name, events.MembershipCreated.Name
		told := l.accept(l.membership(removed, "usr_1", "org_1"))
		l.route("me", told)
		l.finish1("me", Claimed{ID: l.deliveryOf(told), EndpointID: l.endpoints[0], OrderKey: "usr_1"}, Succeeded)
		failed := l.accept(l.membership(removed, "usr_1", "org_1"))
		l.route("me", failed)
		l.finish1("me", Claimed{ID: l.deliveryOf(failed), EndpointID: l.endpoints[0], OrderKey: "usr_1"}, Failed)
		under := l.accept(l.membership(removed, "usr_1", "org_1"))
		l.route("me", under)
		elsewhere := l.accept(l.membership(removed, "usr_1", "org_2"))
		held := l.accept(l.membership(removed, "usr_1", "org_1"))
		other := l.accept(l.membership(removed, "usr_2", "org_1"))
		l.route("", elsewhere, held, other)
		unrouted := l.accept(l.membership(removed, "usr_1", "org_1"))
		if diff := cmp.Diff("succeeded failed sending held held pending", l.states()); diff != "" {
			t.Fatal(diff)
		}
		back := l.accept(l.membership(created, "usr_1", "org_1"))
		if diff := cmp.Diff("succeeded failed superseded pending superseded pending superseded", l.states()); diff != "" {
			t.Fatal(diff)
		}
		l.route("", unrouted, back)
		again := l.accept(l.membership(removed, "usr_1", "org_1"))
		l.route("", again)
		if diff := cmp.Diff("succeeded failed superseded pending superseded pending superseded held held", l.states()); diff != "" {
			t.Fatal(diff)
		}
		// What was under way is recorded and changes nothing.
		l.finish1("me", Claimed{ID: l.deliveryOf(under), EndpointID: l.endpoints[0], OrderKey: "usr_1"}, Succeeded)
		d, err := s.Delivery(t.Context(), l.deliveryOf(under))
		if err != nil || d.State != Superseded || d.Attempts != 1 || d.LastError != CauseReadded {
			t.Errorf("%+v, %v", d, err)
		}
		for _, a := range []Arrival{told, failed, under, held, unrouted} {
			if _, err := s.RetryDelivery(t.Context(), l.deliveryOf(a)); !errors.Is(err, ErrSuperseded) {
				t.Errorf("retry of removal %d: %v", a.Seq, err)
			}
		}
		sel := Selection{OrganizationID: "org_1"}
		if total, skipped, err := s.CountReplay(t.Context(), sel); total != 8 || skipped != 5 || err != nil {
			t.Errorf("a replay would select %d and skip %d, %v", total, skipped, err)
		}
		if _, err := s.CreateReplay(t.Context(), sel, 0); err != nil {
			t.Fatal(err)
		}
		l.replayAll()
		if diff := cmp.Diff("succeeded failed superseded pending superseded pending superseded held held", l.states()); diff != "" {
			t.Error(diff)
		}
		// An endpoint that is added later gets those removals neither.
		late := newLine(t, s, 1)
		if _, err := s.CreateReplay(t.Context(), Selection{EndpointID: late.endpoints[0], Missing: true}, 0); err != nil {
			t.Fatal(err)
		}
		l.replayAll()
		if n := l.count(`SELECT count(*) FROM deliveries WHERE endpoint_id = '` + late.endpoints[0] + `'`); n != 4 {
			t.Errorf("the later endpoint got %d deliveries, want those of org_2 and usr_2, the return and the removal after it", n)
		}
	})
}

func (l *testLine) replayAll() {
	l.t.Helper()
	replays, err := l.ClaimReplays(l.t.Context(), "me")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, r := range replays {
		if page, err := l.ContinueReplay(l.t.Context(), "me", r.ID, 100); err != nil || page.State != ReplayDone {
			l.t.Fatalf("%+v, %v", page, err)
		}
	}
}

func (l *testLine) deliveryOf(a Arrival) string {
	l.t.Helper()
	var id string
	if err := l.write.QueryRowContext(l.t.Context(), `SELECT id FROM deliveries WHERE event_seq = $1 AND endpoint_id = $2`, a.Seq, l.endpoints[0]).Scan(&id); err != nil {
		l.t.Fatal(err)
	}
	return id
}

// A removal that the router has in hand just when the person comes back is
// superseded, whichever of the two comes first.
func TestReaddMeetsTheRouter(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"router", "publisher"} {
		t.Run(first, func(t *testing.T) {
			t.Parallel()
			s := open(t, Config{URL: testenv.Postgres(t)})
			l := newLine(t, s, 1)
			removed := l.accept(l.membership(events.MembershipRemoved.Name, "usr_1", "org_1"))
			back := l.membership(events.MembershipCreated.Name, "usr_1", "org_1")
			other := make(chan error, 1)
			route := func(meanwhile func()) error {
				_, _, err := s.Route(t.Context(), "me", []Arrival{removed}, func(_ int64, evs []Unrouted) (Plan, error) {
					meanwhile()
					p := Plan{Events: len(evs)}
					for _, ev := range evs {
						p.Deliveries = append(p.Deliveries, NewDelivery{ID: s.NewID("msg_"), EventSeq: ev.Seq, EndpointID: l.endpoints[0], OrderKey: ev.Subject, Claim: true})
					}
					return p, nil
				})
				return err
			}
			publish := func(meanwhile func()) error {
				return s.Tx(t.Context(), func(tx *sql.Tx) error {
					records, err := outbox.Append(t.Context(), tx, back)
					if err == nil {
						err = s.supersede(t.Context(), tx, []int64{records[0].Seq})
					}
					meanwhile()
					return err
				})
			}
			one, two := route, publish
			if first == "publisher" {
				one, two = publish, route
			}
			err := one(func() {
				go func() { other <- two(func() {}) }()
				testenv.Eventually(t, time.Minute, func() error {
					if l.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 && len(other) == 0 {
						return errors.New("the other one neither waits nor is done")
					}
					return nil
				})
			})
			if err := errors.Join(err, <-other); err != nil {
				t.Fatal(err)
			}
			if got := l.states(); got != "superseded" {
				t.Errorf("the removal is %s", got)
			}
		})
	}
}

// Sending again and coming back exclude each other too.
func TestReaddMeetsARetry(t *testing.T) {
	t.Parallel()
	s := open(t, Config{URL: testenv.Postgres(t)})
	l := newLine(t, s, 1)
	removed := l.accept(l.membership(events.MembershipRemoved.Name, "usr_1", "org_1"))
	l.route("me", removed)
	id := l.deliveryOf(removed)
	l.finish1("me", Claimed{ID: id, EndpointID: l.endpoints[0], OrderKey: "usr_1"}, Failed)
	back := &Acceptance{Events: []events.Event{l.membership(events.MembershipCreated.Name, "usr_1", "org_1")}}
	accepted := make(chan error, 1)
	err := s.Tx(t.Context(), func(tx *sql.Tx) error {
		_, _, _, err := s.requeue(t.Context(), tx, []string{id}, s.now())
		go func() { accepted <- l.Accept(t.Context(), nil, []*Acceptance{back}) }()
		testenv.Eventually(t, time.Minute, func() error {
			if l.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 0 && len(accepted) == 0 {
				return errors.New("it neither waits nor is done")
			}
			return nil
		})
		return err
	})
	if err := errors.Join(err, <-accepted); err != nil {
		t.Fatal(err)
	}
	if got := l.states(); got != "superseded" {
		t.Errorf("the removal is %s", got)
	}
}
