package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"pgregory.net/rapid"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/signing"
)

// TestDeliveriesKeepTheirPromises does at random, on real databases, what
// publishers, processes and operators can do to deliveries, and what can happen
// to processes, and compares the database after every step with what the
// promises say:
//
//   - no event is lost: it waits in the outbox, or has one delivery for each
//     endpoint that was subscribed when it was routed;
//   - no delivery is lost: it keeps its id and its body, changes its state only
//     as the step allows, and is final, due, in the hands of a process, or held
//     behind another; in the end all of them get final;
//   - those about one person go to an endpoint one at a time and in order, and
//     none says that somebody left who has come back.
//
// More of it: go test ./internal/store -run Promises -rapid.checks 5000
//
// It is one goroutine, so the race detector, which makes it slow, has little to
// find here.
func TestDeliveriesKeepTheirPromises(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{"checks": checks, "steps": "60", "nofailfile": "true"} {
		f := flag.Lookup("rapid." + name)
		if _, set := os.LookupEnv("RAPID_" + strings.ToUpper(name)); !set && f.Value.String() == f.DefValue {
			if err := f.Value.Set(value); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := func(t *testing.T, c Config) {
		now := time.Now().Truncate(time.Microsecond)
		c.Now = func() time.Time { return now }
		s := open(t, c)
		if !s.postgres() {
			// The test is not about power cuts.
			if _, err := s.write.ExecContext(t.Context(), `PRAGMA synchronous = OFF`); err != nil {
				t.Fatal(err)
			}
		}
		rapid.Check(t, func(rt *rapid.T) {
			m := newModel(t.Context(), rt, s, &now)
			rt.Repeat(map[string]func(*rapid.T){
				"": m.check,
				// What happens often is here several times.
				"publish": m.publish, "relay": m.relay, "route": m.route, "route 2": m.route, "claim": m.claim, "claim 2": m.claim,
				"send": m.send, "send 2": m.send, "send 3": m.send, "answer": m.answer, "answer 2": m.answer, "wait": m.wait,
				"lapse": m.lapse, "retire": m.retire, "retry": m.retry,
				"fault": oneOf(m.publishAgain, m.flushStream, m.putBack, m.reconcile, m.crash, m.renew),
				"order": oneOf(m.cancel, m.replay, m.continueReplay, m.continueReplay, m.disable, m.enable, m.enable, m.cancelOf),
			})
			m.drain(rt)
		})
	}
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		run(t, Config{Dir: t.TempDir()})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		run(t, Config{URL: testenv.Postgres(t)})
	})
}

// model is what has to be true of a store.
type model struct {
	s         *Store
	ctx       context.Context //nolint:containedctx // that of the test, for all its steps
	now       *time.Time
	apps      []*Endpoint
	facts     []*fact // in the order of their numbers
	published []*Acceptance
	processes []*process
	starts    int
	replays   []string // running
	stream    []Arrival
	attempts  map[string]int // recorded, by delivery

	step   string // the last one, and what more it has to have done
	expect func(after map[string]row) error
	before map[string]row
}

// fact is a recorded event.
type fact struct {
	events.Event
	seq      int64
	appended bool // by a program, past the store
	routed   bool
	due      map[string]bool // endpoints that were subscribed when it was routed
}

// process is a worker with what it has in memory.
type process struct {
	Worker
	waiting []Claimed
	flying  []Claimed // sent, and not recorded yet
}

// row is a delivery as the database has it.
type row struct {
	id       string
	seq      int64
	endpoint string
	key      string
	state    State
	due      int64
	owner    string
	attempts int
	recorded int // rows of attempts
}

func (r row) group() group { return group{r.endpoint, r.key} }

func newModel(ctx context.Context, t *rapid.T, s *Store, now *time.Time) *model {
	m := &model{s: s, ctx: ctx, now: now, attempts: make(map[string]int)}
	for _, table := range []string{"handover_outbox", "handover_events", "deliveries", "attempts", "workers", "replays", "endpoint_keys", "endpoints"} {
		_, err := s.write.ExecContext(ctx, `DELETE FROM `+table)
		m.must(t, err)
	}
	for _, e := range []Endpoint{
		{Name: "all", EventTypes: []string{"*"}},
		{Name: "some", EventTypes: []string{events.MembershipRemoved.Name, "app.note"}, OrganizationIDs: []string{"org_1"}},
	} {
		e.URL = "https://app.example.com"
		created, err := s.CreateEndpoint(ctx, e, signing.NewKey())
		m.must(t, err)
		m.apps = append(m.apps, &created)
	}
	for i := range 2 {
		m.processes = append(m.processes, m.start(t, fmt.Sprint("node", i)))
	}
	return m
}

func (m *model) must(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) did(t *rapid.T, step, format string, args ...any) {
	m.step = step
	t.Logf("%s "+format, append([]any{step}, args...)...)
}

// The way in.

func (m *model) publish(t *rapid.T) {
	a := &Acceptance{}
	for range rapid.IntRange(1, 3).Draw(t, "events") {
		typ := rapid.SampledFrom([]string{events.MembershipRemoved.Name, events.MembershipCreated.Name, "app.note"}).Draw(t, "type")
		data := `"user":{"id":"` + rapid.SampledFrom([]string{"usr_1", "usr_2"}).Draw(t, "user") + `"},`
		if typ == "app.note" && rapid.IntRange(0, 3).Draw(t, "about nobody") == 0 {
			data = ""
		}
		organization := rapid.SampledFrom([]string{"org_1", "org_2"}).Draw(t, "organization")
		ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_%d_%d","type":%q,"environment_id":"env_1","data":{%s"organization":{"id":%q}}}`,
			len(m.published), len(a.Events), typ, data, organization), events.Defaults{Now: func() time.Time { return *m.now }})
		m.must(t, err)
		a.Events = append(a.Events, ev)
	}
	appended := rapid.IntRange(0, 3).Draw(t, "appended by a program in a transaction of its own") == 3
	if appended {
		m.must(t, m.s.Tx(m.ctx, func(tx *sql.Tx) (err error) {
			a.Records, err = outbox.Append(m.ctx, tx, a.Events...)
			return err
		}))
	} else {
		m.must(t, m.s.Accept(m.ctx, nil, []*Acceptance{a}))
	}
	m.published = append(m.published, a)
	for i, ev := range a.Events {
		if a.Records[i].Status != outbox.Added {
			t.Fatalf("event %s: status %d", ev.ID, a.Records[i].Status)
		}
		m.facts = append(m.facts, &fact{Event: ev, seq: a.Records[i].Seq, appended: appended})
		m.did(t, "publish", "%d: %s of %s in %s, appended %v", a.Records[i].Seq, ev.Type, ev.Subject(), ev.OrganizationID, appended)
	}
}

// What cannot be done now is skipped: to rapid that means another step, and not
// that a test is left out.

// publishAgain is a publisher that did not hear that its events were recorded.
func (m *model) publishAgain(t *rapid.T) {
	if len(m.published) == 0 {
		t.Skip()
	}
	a := &Acceptance{Events: rapid.SampledFrom(m.published).Draw(t, "acceptance").Events}
	m.must(t, m.s.Accept(m.ctx, nil, []*Acceptance{a}))
	for i, r := range a.Records {
		if r.Status != outbox.Duplicate {
			t.Fatalf("event %s again: status %d", a.Events[i].ID, r.Status)
		}
	}
	m.did(t, "publish again", "%s", a.Events[0].ID)
}

// The way to the router. The stream loses, repeats and turns round.

type toStream struct {
	*model
	fail string
}

func (p toStream) Publish(_ string, msgs ...*message.Message) error {
	if p.fail == "before" {
		return errors.New("down")
	}
	for _, msg := range msgs {
		var seq int64
		_, _ = fmt.Sscan(msg.Metadata.Get(outbox.MetadataSeq), &seq)
		p.stream = append(p.stream, Arrival{
			Seq: seq, Type: msg.Metadata.Get(outbox.MetadataType),
			OrganizationID: msg.Metadata.Get(outbox.MetadataOrganization), Subject: msg.Metadata.Get(outbox.MetadataSubject),
		})
	}
	if p.fail == "after" {
		return errors.New("no answer")
	}
	return nil
}

func (toStream) Close() error { return nil }

func (m *model) relay(t *rapid.T) {
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	fail := rapid.SampledFrom([]string{"", "", "", "before", "after"}).Draw(t, "fail")
	n, err := m.flush(p.Owner, 5, fail)
	if (err != nil) != (fail != "" && n > 0) {
		t.Fatalf("relay %d: %v", n, err)
	}
	m.did(t, "relay", "%d by %s, fail %q", n, p.Owner, fail)
}

func (m *model) flush(owner string, batch int, fail string) (int, error) {
	r := outbox.Relay{
		DB: m.s.DB(), Dialect: m.s.Dialect(), Publisher: toStream{m, fail}, KeepUntilRouted: true, Owner: owner, Batch: batch, Window: 1,
		Now: func() time.Time { return *m.now },
	}
	return r.Flush(m.ctx)
}

func (m *model) flushStream(t *rapid.T) {
	if len(m.stream) == 0 {
		t.Skip()
	}
	m.stream = nil
	if rapid.Bool().Draw(t, "noticed") {
		_, err := outbox.Rewind(m.ctx, m.s.DB(), *m.now)
		m.must(t, err)
	}
	m.did(t, "flush stream", "")
}

func (m *model) route(t *rapid.T) {
	if len(m.stream) == 0 {
		t.Skip()
	}
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	var arrivals []Arrival
	for range rapid.IntRange(1, 3).Draw(t, "messages") {
		i := rapid.IntRange(0, len(m.stream)-1).Draw(t, "message")
		arrivals = append(arrivals, m.stream[i])
		if rapid.Bool().Draw(t, "acknowledged") && len(m.stream) > 1 {
			m.stream = slices.Delete(m.stream, i, i+1)
		}
	}
	room := rapid.Bool().Draw(t, "room")
	atOnce := rapid.SampledFrom([]int{9, 9, 9, 1}).Draw(t, "events at once")
	switch rapid.SampledFrom([]string{"", "", "", "rollback", "forgotten"}).Draw(t, "end") {
	case "rollback":
		refused := errors.New("refused")
		_, _, err := m.s.Route(m.ctx, p.Owner, arrivals, func(int64, []Unrouted) (Plan, error) { return Plan{}, refused })
		if err != nil && !errors.Is(err, refused) {
			t.Fatal(err)
		}
		m.did(t, "route", "%v by %s, rolled back", arrivals, p.Owner)
	case "forgotten":
		m.routeBy(t, p, arrivals, room, atOnce)
		m.did(t, "route", "%v by %s, forgotten", arrivals, p.Owner)
	default:
		p.waiting = append(p.waiting, m.routeBy(t, p, arrivals, room, atOnce)...)
		m.did(t, "route", "%v by %s, at once %d, room %v", arrivals, p.Owner, atOnce, room)
	}
}

// routeBy plays the router and returns what was put into its hands.
func (m *model) routeBy(t *rapid.T, p *process, arrivals []Arrival, room bool, atOnce int) []Claimed {
	made, _, err := m.s.Route(m.ctx, p.Owner, arrivals, func(_ int64, evs []Unrouted) (Plan, error) {
		plan := Plan{Events: min(len(evs), atOnce)}
		for _, ev := range evs[:plan.Events] {
			f := m.fact(ev.Seq)
			if f == nil || ev.Type != f.Type || ev.OrganizationID != f.OrganizationID || ev.Subject != f.Subject() {
				return Plan{}, fmt.Errorf("%+v is none of the events", ev)
			}
			for _, e := range m.apps {
				if !e.Wants(ev.Type, ev.OrganizationID) {
					continue
				}
				d := NewDelivery{ID: m.s.NewID("msg_"), EventSeq: ev.Seq, EndpointID: e.ID, OrderKey: ev.Subject, Claim: room}
				d.OrderKey = cmp.Or(d.OrderKey, d.ID)
				plan.Deliveries = append(plan.Deliveries, d)
			}
		}
		return plan, nil
	})
	m.must(t, err)
	var claimed []Claimed
	for _, d := range made {
		if d.State == Sending {
			f := m.fact(d.EventSeq)
			claimed = append(claimed, Claimed{ID: d.ID, EventSeq: f.seq, EventID: f.ID, EventType: f.Type, EndpointID: d.EndpointID, OrderKey: d.OrderKey, Body: f.Body()})
		}
	}
	return claimed
}

// The way out.

func (m *model) claim(t *rapid.T) {
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	var wants []Want
	for _, e := range m.apps {
		wants = append(wants, Want{EndpointID: e.ID, N: rapid.IntRange(1, 3).Draw(t, "room")})
	}
	claimed, err := m.s.Claim(m.ctx, p.Owner, wants)
	m.must(t, err)
	forgotten := rapid.IntRange(0, 4).Draw(t, "forgotten") == 4
	if !forgotten {
		p.waiting = append(p.waiting, claimed...)
	}
	m.did(t, "claim", "%d by %s, forgotten %v", len(claimed), p.Owner, forgotten)
}

// send is what an endpoint gets to see.
func (m *model) send(t *rapid.T) {
	p := m.having(t, func(p *process) []Claimed { return p.waiting })
	c := take(t, &p.waiting)
	mine, err := m.s.Mine(m.ctx, p.Owner, c.ID)
	m.must(t, err)
	m.did(t, "send", "%d to %s by %s, its own: %v", c.EventSeq, c.EndpointID, p.Owner, len(mine) == 1)
	if len(mine) == 0 {
		return
	}
	p.flying = append(p.flying, c)
	r, f := m.before[c.ID], m.fact(c.EventSeq)
	if r.seq != c.EventSeq || r.endpoint != c.EndpointID || r.key != c.OrderKey {
		t.Fatalf("sent %+v for %+v", c, r)
	}
	if c.EventID != f.ID || c.EventType != f.Type || !bytes.Equal(c.Body, f.Body()) {
		t.Fatalf("sent %s %s %s for %s", c.EventType, c.EventID, c.Body, f.Body())
	}
	if m.readded(f, true) {
		t.Fatalf("sent removal %d after the person came back", f.seq)
	}
}

func (m *model) answer(t *rapid.T) {
	p := m.having(t, func(p *process) []Claimed { return p.flying })
	var results []Result
	var again []Claimed
	want := make(map[string]State)
	for range rapid.IntRange(1, 2).Draw(t, "answers") {
		if len(p.flying) == 0 {
			break
		}
		c := take(t, &p.flying)
		if _, twice := want[c.ID]; twice {
			again = append(again, c)
			continue
		}
		state := rapid.SampledFrom([]State{Succeeded, Pending, Pending, Failed, Canceled}).Draw(t, "state")
		results = append(results, Result{
			Attempt:    Attempt{DeliveryID: c.ID, Number: c.Attempts + 1, StartedAt: *m.now, Status: 200, Class: "ok"},
			EndpointID: c.EndpointID, OrderKey: c.OrderKey, State: state, DueAt: m.now.Add(5 * time.Minute), Tries: c.Tries + 1,
		})
		want[c.ID] = -1
		if r := m.before[c.ID]; r.state == Sending && r.owner == p.Owner {
			want[c.ID] = state
		}
		if rapid.IntRange(0, 4).Draw(t, "forgotten") == 4 {
			again = append(again, c) // it will be recorded once more
		}
		t.Logf("%d at %s: %s", c.EventSeq, c.EndpointID, state)
	}
	p.flying = append(p.flying, again...)
	_, err := m.s.Record(m.ctx, p.Owner, results)
	m.must(t, err)
	for _, r := range results {
		m.attempts[r.DeliveryID]++
	}
	m.did(t, "answer", "by %s", p.Owner)
	m.expect = func(after map[string]row) error {
		for id, state := range want {
			is := after[id].state
			was := m.before[id]
			if state == -1 && is != was.state && (was.state != Held || is != Pending) || state != -1 && is != state {
				return fmt.Errorf("delivery of %d was %s of %q and is %s, recorded by %q as state %d", was.seq, was.state, was.owner, is, p.Owner, state)
			}
		}
		return nil
	}
}

func (m *model) putBack(t *rapid.T) {
	p := m.having(t, func(p *process) []Claimed { return p.waiting })
	c := take(t, &p.waiting)
	m.must(t, m.s.PutBack(m.ctx, p.Owner, []string{c.ID}, m.now.Add(time.Second)))
	m.did(t, "put back", "%d to %s by %s", c.EventSeq, c.EndpointID, p.Owner)
	m.expect = m.onlyOf(p.Owner)
}

// reconcile puts back what a process does not know that it has.
func (m *model) reconcile(t *rapid.T) {
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	mine, err := m.s.Mine(m.ctx, p.Owner)
	m.must(t, err)
	known := func(id string) bool {
		return slices.ContainsFunc(slices.Concat(p.waiting, p.flying), func(c Claimed) bool { return c.ID == id })
	}
	mine = slices.DeleteFunc(mine, known)
	m.must(t, m.s.PutBack(m.ctx, p.Owner, mine, *m.now))
	m.did(t, "reconcile", "%d of %s", len(mine), p.Owner)
	m.expect = m.onlyOf(p.Owner)
}

// onlyOf: what others have to send stays in their hands.
func (m *model) onlyOf(owners ...string) func(map[string]row) error {
	return func(after map[string]row) error {
		for id, was := range m.before {
			if was.state == Sending && !slices.Contains(owners, was.owner) && after[id].state != Sending {
				return fmt.Errorf("delivery of %d was taken from %q", was.seq, was.owner)
			}
		}
		return nil
	}
}

// Processes.

// start starts a process, which takes over what earlier ones of its name had.
func (m *model) start(t *rapid.T, name string) *process {
	m.starts++
	p := &process{Worker: Worker{Owner: fmt.Sprintf("%s.%d", name, m.starts), Name: name, Lease: 1000 * time.Hour}}
	m.must(t, m.s.Enlist(m.ctx, p.Worker))
	return p
}

// crash ends a process; it is started again under its name, or another one
// notices sooner or later.
func (m *model) crash(t *rapid.T) {
	i := rapid.IntRange(0, len(m.processes)-1).Draw(t, "process")
	p := m.processes[i]
	if rapid.Bool().Draw(t, "restart") {
		m.processes[i] = m.start(t, p.Name)
	} else {
		m.processes[i] = m.start(t, fmt.Sprint("node", m.starts))
		m.expire(t, p)
	}
	m.did(t, "crash", "%s, now %s", p.Owner, m.processes[i].Owner)
	m.expect = m.onlyOf(p.Owner)
}

// lapse ends the lease of a process that goes on all the same.
func (m *model) lapse(t *rapid.T) {
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	m.expire(t, p)
	m.did(t, "lapse", "%s", p.Owner)
}

func (m *model) expire(t *rapid.T, p *process) {
	w := p.Worker
	w.Lease = -time.Hour
	m.must(t, m.s.Renew(m.ctx, w))
}

func (m *model) renew(t *rapid.T) {
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	m.must(t, m.s.Renew(m.ctx, p.Worker))
	m.did(t, "renew", "%s", p.Owner)
}

func (m *model) retire(t *rapid.T) {
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	owners, err := m.s.RetireExpired(m.ctx, p.Owner)
	m.must(t, err)
	m.did(t, "retire", "%v by %s", owners, p.Owner)
	m.expect = m.onlyOf(owners...)
}

func (m *model) wait(t *rapid.T) {
	d := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour}).Draw(t, "duration")
	*m.now = m.now.Add(d)
	m.did(t, "wait", "%s", d)
}

// Operators.

func (m *model) any(t *rapid.T) row {
	if len(m.before) == 0 {
		t.Skip()
	}
	rows := slices.SortedFunc(maps.Values(m.before), func(a, b row) int { return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.endpoint, b.endpoint)) })
	return rapid.SampledFrom(rows).Draw(t, "delivery")
}

func (m *model) retry(t *rapid.T) {
	r := m.any(t)
	_, err := m.s.RetryDelivery(m.ctx, r.id)
	back, enabled := m.readded(m.fact(r.seq), false), m.app(r.endpoint).State == EndpointEnabled
	m.did(t, "retry", "%d at %s: %v", r.seq, r.endpoint, err)
	var want error
	switch {
	case back:
		want = ErrSuperseded
	case r.state == Sending:
		want = ErrSending
	case !enabled:
		want = ErrEndpointNotReady
	}
	if !errors.Is(err, want) {
		t.Fatalf("retry of %d, which is %s, endpoint enabled %v, person back %v: %v", r.seq, r.state, enabled, back, err)
	}
	m.expect = func(after map[string]row) error {
		if is := after[r.id].state; err == nil && is != Pending && is != Held {
			return fmt.Errorf("delivery of %d was sent again and is %s", r.seq, is)
		}
		return nil
	}
}

func (m *model) cancel(t *rapid.T) {
	r := m.any(t)
	_, err := m.s.CancelDelivery(m.ctx, r.id)
	m.did(t, "cancel", "%d at %s: %v", r.seq, r.endpoint, err)
	if open := r.state < Succeeded; open != (err == nil) || !open && !errors.Is(err, ErrFinal) {
		t.Fatalf("cancel of %d, which is %s: %v", r.seq, r.state, err)
	}
	m.expect = func(after map[string]row) error {
		if is := after[r.id].state; err == nil && is != Canceled {
			return fmt.Errorf("delivery of %d was canceled and is %s", r.seq, is)
		}
		return nil
	}
}

func (m *model) replay(t *rapid.T) {
	e := rapid.SampledFrom(m.apps).Draw(t, "endpoint")
	sel := rapid.SampledFrom([]Selection{
		{EndpointID: e.ID}, {State: "failed"}, {UserID: "usr_1"}, {EndpointID: e.ID, Missing: true}, {EndpointID: e.ID, Missing: true},
	}).Draw(t, "selection")
	r, err := m.s.CreateReplay(m.ctx, sel, 0)
	if err == nil {
		m.replays = append(m.replays, r.ID)
	} else if !errors.Is(err, ErrConflict) {
		t.Fatal(err)
	}
	m.did(t, "create replay", "%+v: %d, %v", sel, r.Total, err)
}

func (m *model) continueReplay(t *rapid.T) {
	if len(m.replays) == 0 {
		t.Skip()
	}
	p := rapid.SampledFrom(m.processes).Draw(t, "process")
	m.continueReplays(t, p.Owner, rapid.IntRange(1, 3).Draw(t, "limit"))
}

func (m *model) continueReplays(t *rapid.T, owner string, limit int) {
	claimed, err := m.s.ClaimReplays(m.ctx, owner)
	m.must(t, err)
	for _, r := range claimed {
		page, err := m.s.ContinueReplay(m.ctx, owner, r.ID, limit)
		m.must(t, err)
		m.did(t, "replay", "%+v by %s: %+v", r.Selection, owner, page)
		if page.State != ReplayRunning {
			m.replays = slices.DeleteFunc(m.replays, func(id string) bool { return id == r.ID })
		}
		m.check(t)
	}
}

func (m *model) disable(t *rapid.T) {
	e := rapid.SampledFrom(m.apps).Draw(t, "endpoint")
	m.must(t, m.s.DisableEndpoint(m.ctx, e.ID, "test"))
	e.State = EndpointDisabled
	m.did(t, "disable", "%s", e.ID)
	m.expect = func(after map[string]row) error {
		for _, r := range after {
			if r.endpoint == e.ID && r.state < Succeeded {
				return fmt.Errorf("delivery of %d is %s at a disabled endpoint", r.seq, r.state)
			}
		}
		return nil
	}
}

func (m *model) enable(t *rapid.T) {
	e := rapid.SampledFrom(m.apps).Draw(t, "endpoint")
	m.must(t, m.s.EnableEndpoint(m.ctx, e.ID))
	e.State = EndpointEnabled
	m.did(t, "enable", "%s", e.ID)
}

func (m *model) cancelOf(t *rapid.T) {
	e := rapid.SampledFrom(m.apps).Draw(t, "endpoint")
	_, err := m.s.CancelOf(m.ctx, e.ID, CauseEndpointDisabled)
	m.must(t, err)
	if e.State == EndpointEnabled {
		m.did(t, "cancel of enabled", "%s", e.ID) // it does nothing
	} else {
		m.did(t, "disable", "%s", e.ID)
	}
}

// Small words.

func oneOf(steps ...func(*rapid.T)) func(*rapid.T) {
	return func(t *rapid.T) { rapid.SampledFrom(steps).Draw(t, "step")(t) }
}

func (m *model) fact(seq int64) *fact {
	i, ok := slices.BinarySearchFunc(m.facts, seq, func(f *fact, seq int64) int { return cmp.Compare(f.seq, seq) })
	if !ok {
		return nil
	}
	return m.facts[i]
}

func (m *model) app(id string) *Endpoint {
	return m.apps[slices.IndexFunc(m.apps, func(e *Endpoint) bool { return e.ID == id })]
}

// readded tells whether f is a removal of somebody who came back. What a program
// appended takes effect when it is routed.
func (m *model) readded(f *fact, inEffect bool) bool {
	return f.Type == events.MembershipRemoved.Name && slices.ContainsFunc(m.facts, func(g *fact) bool {
		return (!inEffect || !g.appended || g.routed) && g.Type == events.MembershipCreated.Name && g.seq > f.seq && g.UserID() == f.UserID() && g.OrganizationID == f.OrganizationID
	})
}

// having draws a process that has some of what it is asked for.
func (m *model) having(t *rapid.T, some func(*process) []Claimed) *process {
	var able []*process
	for _, p := range m.processes {
		if len(some(p)) > 0 {
			able = append(able, p)
		}
	}
	if len(able) == 0 {
		t.Skip()
	}
	return rapid.SampledFrom(able).Draw(t, "process")
}

func take(t *rapid.T, from *[]Claimed) Claimed {
	i := rapid.IntRange(0, len(*from)-1).Draw(t, "which")
	c := (*from)[i]
	*from = slices.Delete(*from, i, i+1)
	return c
}

// What has to be true.

type move struct{ from, to State }

var (
	superseding = []move{{Pending, Superseded}, {Sending, Superseded}, {Held, Superseded}, {Held, Pending}}
	takingBack  = []move{{Sending, Pending}}
	again       = []move{{Succeeded, Pending}, {Failed, Pending}, {Canceled, Pending}, {Succeeded, Held}, {Failed, Held}, {Canceled, Held}, {existed, Pending}, {existed, Held}}
	ending      = []move{{Pending, Canceled}, {Sending, Canceled}, {Held, Canceled}}
)

// moves says what a step may do to states; a new delivery comes from existed.
var moves = map[string][]move{
	"publish":   append(superseding[:4:4], move{existed, Superseded}),
	"route":     append(superseding[:4:4], move{existed, Pending}, move{existed, Sending}, move{existed, Held}, move{existed, Superseded}),
	"claim":     {{Pending, Sending}},
	"answer":    {{Sending, Pending}, {Sending, Succeeded}, {Sending, Failed}, {Sending, Canceled}, {Held, Pending}},
	"put back":  takingBack,
	"reconcile": takingBack,
	"crash":     takingBack,
	"retire":    takingBack,
	"retry":     again,
	"replay":    again,
	"cancel":    append(ending[:3:3], move{Held, Pending}),
	"disable":   ending,
}

func (m *model) check(t *rapid.T) {
	after, inOutbox := m.read(t)
	m.checkEvents(t, after, inOutbox)
	m.checkDeliveries(t, after)
	m.checkOrder(t, after, inOutbox)
	if m.expect != nil {
		if err := m.expect(after); err != nil {
			t.Fatal(err)
		}
	}
	m.step, m.expect, m.before = "", nil, after
}

func (m *model) read(t *rapid.T) (rows map[string]row, inOutbox map[int64]bool) {
	all, err := query(m.ctx, m.s.write, "deliveries", func(r *row, scan func(...any) error) error {
		return scan(&r.id, &r.seq, &r.endpoint, &r.key, &r.state, &r.due, &r.owner, &r.attempts, &r.recorded)
	}, `SELECT id, event_seq, endpoint_id, order_key, state, due_at, owner, attempts,
  (SELECT count(*) FROM attempts a WHERE a.delivery_id = d.id) FROM deliveries d`)
	m.must(t, err)
	rows = make(map[string]row, len(all))
	for _, r := range all {
		rows[r.id] = r
	}
	waiting, err := query(m.ctx, m.s.write, "outbox", func(seq *int64, scan func(...any) error) error { return scan(seq) },
		`SELECT event_seq FROM handover_outbox`)
	m.must(t, err)
	inOutbox = make(map[int64]bool, len(waiting))
	for _, seq := range waiting {
		inOutbox[seq] = true
	}
	return rows, inOutbox
}

// checkEvents: what was recorded is there, and on its way or routed to all who
// were subscribed.
func (m *model) checkEvents(t *rapid.T, after map[string]row, inOutbox map[int64]bool) {
	type event struct {
		seq  int64
		id   string
		body []byte
	}
	recorded, err := query(m.ctx, m.s.write, "events", func(e *event, scan func(...any) error) error {
		return scan(&e.seq, &e.id, &e.body)
	}, `SELECT seq, id, body FROM handover_events ORDER BY seq`)
	m.must(t, err)
	if len(recorded) != len(m.facts) {
		t.Fatalf("%d events for %d that were published", len(recorded), len(m.facts))
	}
	strange := maps.Clone(inOutbox)
	to := make(map[int64]map[string]bool)
	for _, r := range after {
		if to[r.seq] == nil {
			to[r.seq] = make(map[string]bool)
		}
		if to[r.seq][r.endpoint] {
			t.Fatalf("two deliveries of %d to %s", r.seq, r.endpoint)
		}
		to[r.seq][r.endpoint] = true
	}
	for i, f := range m.facts {
		if e := recorded[i]; e.seq != f.seq || e.id != f.ID || !bytes.Equal(e.body, f.Body()) {
			t.Fatalf("event %d is not as it was published: %s", e.seq, e.body)
		}
		waits := inOutbox[f.seq]
		delete(strange, f.seq)
		switch {
		case waits && (f.routed || len(to[f.seq]) > 0):
			t.Fatalf("event %d is in the outbox and has been routed, to %v", f.seq, to[f.seq])
		case !waits && !f.routed:
			if m.step != "route" && m.step != "publish" {
				t.Fatalf("event %d left the outbox in step %q", f.seq, m.step)
			}
			f.routed, f.due = true, make(map[string]bool)
			for _, e := range m.apps {
				if e.Wants(f.Type, f.OrganizationID) {
					f.due[e.ID] = true
				}
			}
			if !maps.Equal(to[f.seq], f.due) && len(to[f.seq])+len(f.due) > 0 {
				t.Fatalf("event %d was routed to %v, subscribed are %v", f.seq, to[f.seq], f.due)
			}
		}
		for id := range f.due {
			if !to[f.seq][id] {
				t.Fatalf("the delivery of %d to %s is gone", f.seq, id)
			}
		}
		delete(to, f.seq)
	}
	if len(strange)+len(to) > 0 {
		t.Fatalf("in the outbox %v, deliveries %v, of no event", strange, to)
	}
}

// checkDeliveries: each is what it was, changed as the step allows, and not stuck.
func (m *model) checkDeliveries(t *rapid.T, after map[string]row) {
	active := make(map[group]bool)
	for _, r := range after {
		if r.state < Held {
			if active[r.group()] {
				t.Fatalf("two active deliveries about %s at %s", r.key, r.endpoint)
			}
			active[r.group()] = true
		}
	}
	for id := range m.before {
		if _, ok := after[id]; !ok {
			t.Fatalf("delivery %s is gone", id)
		}
	}
	for id, r := range after {
		was, ok := m.before[id]
		if !ok {
			was = row{id: id, seq: r.seq, endpoint: r.endpoint, key: cmp.Or(m.fact(r.seq).Subject(), id), state: existed}
		}
		if r.seq != was.seq || r.endpoint != was.endpoint || r.key != was.key {
			t.Fatalf("delivery %+v became %+v", was, r)
		}
		if r.state != was.state && !slices.Contains(moves[m.step], move{was.state, r.state}) {
			t.Fatalf("step %q took the delivery of %d to %s from state %d to %d", m.step, r.seq, r.endpoint, was.state, r.state)
		}
		if r.attempts != m.attempts[id] || r.recorded != m.attempts[id] {
			t.Fatalf("delivery of %d to %s: %d attempts counted, %d recorded, of %d", r.seq, r.endpoint, r.attempts, r.recorded, m.attempts[id])
		}
		switch r.state {
		case Pending:
			if r.owner != "" || r.due > m.now.Add(5*time.Minute).UnixMicro() {
				t.Fatalf("%+v is not due", r)
			}
		case Sending:
			if r.owner == "" || was.state == Sending && r.owner != was.owner {
				t.Fatalf("%+v is in nobody's hands, or in others than before", r)
			}
			if was.state == Pending && was.due > m.now.UnixMicro() {
				t.Fatalf("%+v was claimed before it was due", r)
			}
		case Held:
			if !active[r.group()] {
				t.Fatalf("%+v is held behind none", r)
			}
		default:
			if r.owner != "" {
				t.Fatalf("%+v is final and in the hands of %q", r, r.owner)
			}
		}
	}
}

// checkOrder: none becomes active before an earlier one about the same person,
// and removals of people who came back are not open.
func (m *model) checkOrder(t *rapid.T, after map[string]row, inOutbox map[int64]bool) {
	for id, r := range after {
		f := m.fact(r.seq)
		if m.readded(f, true) && r.state < Succeeded {
			t.Fatalf("removal %d is %s after the person came back", r.seq, r.state)
		} else if r.state == Superseded && !m.readded(f, false) {
			t.Fatalf("event %d is superseded by none", r.seq)
		}
		if was, ok := m.before[id]; r.state >= Held || ok && was.state < Held {
			continue
		}
		for _, other := range after {
			if other.group() == r.group() && other.state < Succeeded && other.seq < r.seq {
				t.Fatalf("delivery of %d to %s overtakes that of %d, which is %s", r.seq, r.endpoint, other.seq, other.state)
			}
		}
		for _, g := range m.facts {
			if inOutbox[g.seq] && g.seq < r.seq && g.Subject() != "" && g.Subject() == f.Subject() {
				t.Fatalf("delivery of %d to %s overtakes event %d, which is not routed", r.seq, r.endpoint, g.seq)
			}
		}
	}
}

// drain lets all processes crash, and another one finish what they left.
func (m *model) drain(t *rapid.T) {
	for _, p := range m.processes {
		m.expire(t, p)
	}
	m.stream = nil
	p := m.start(t, "last")
	_, err := m.s.RetireExpired(m.ctx, p.Owner)
	m.must(t, err)
	m.did(t, "retire", "all")
	m.check(t)
	for round := 0; ; round++ {
		for len(m.replays) > 0 {
			m.continueReplays(t, p.Owner, 100)
		}
		*m.now = m.now.Add(time.Hour)
		_, err = m.flush(p.Owner, 1000, "")
		m.must(t, err)
		if len(m.stream) > 0 {
			p.waiting = append(p.waiting, m.routeBy(t, p, m.stream, true, 1000)...)
			m.stream = nil
			m.did(t, "route", "the rest")
			m.check(t)
		}
		var wants []Want
		for _, e := range m.apps {
			wants = append(wants, Want{e.ID, 1000})
		}
		claimed, err := m.s.Claim(m.ctx, p.Owner, wants)
		m.must(t, err)
		m.did(t, "claim", "the rest")
		m.check(t)
		p.waiting = append(p.waiting, claimed...)
		if len(p.waiting) == 0 {
			break
		}
		var results []Result
		for _, c := range p.waiting {
			results = append(results, Result{
				Attempt:    Attempt{DeliveryID: c.ID, Number: c.Attempts + 1, StartedAt: *m.now, Status: 200, Class: "ok"},
				EndpointID: c.EndpointID, OrderKey: c.OrderKey, State: Succeeded, DueAt: *m.now, Tries: c.Tries + 1,
			})
			m.attempts[c.ID]++
		}
		p.waiting = nil
		_, err = m.s.Record(m.ctx, p.Owner, results)
		m.must(t, err)
		m.did(t, "answer", "the rest")
		m.check(t)
		if round > len(m.facts)+100 {
			t.Fatal("it does not come to an end")
		}
	}
	for _, r := range m.before {
		if r.state < Succeeded {
			t.Errorf("%+v did not get final", r)
		}
	}
	for _, f := range m.facts {
		if !f.routed {
			t.Errorf("event %d stayed in the outbox", f.seq)
		}
	}
}
