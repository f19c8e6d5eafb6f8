package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/dispatch"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

// clock runs with the real one, and can be set ahead.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

// app is an endpoint: it records what it gets and answers as it is told.
type app struct {
	*httptest.Server
	id  string
	key signing.Key

	mu     sync.Mutex
	got    []string // webhook-ids
	bodies []string
	wrong  []error
	answer func(w http.ResponseWriter, r *http.Request, n int)
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	a.mu.Lock()
	if err := (signing.Verifier{Keys: []signing.Key{a.key}, Tolerance: -1}).Verify(r.Header, body); err != nil {
		a.wrong = append(a.wrong, err)
	}
	a.got = append(a.got, r.Header.Get(signing.HeaderID))
	a.bodies = append(a.bodies, string(body))
	n := len(a.got)
	a.mu.Unlock()
	if a.answer != nil {
		a.answer(w, r, n)
	}
}

func (a *app) received() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}

func status(codes ...int) func(http.ResponseWriter, *http.Request, int) {
	return func(w http.ResponseWriter, _ *http.Request, n int) { w.WriteHeader(codes[min(n, len(codes))-1]) }
}

// bench is a store, a dispatcher and its apps.
type bench struct {
	t     *testing.T
	store *store.Store
	clock *clock
	apps  []*app
	d     *dispatch.Dispatcher
	n     int
	stop  func()
}

func eachStore(t *testing.T, test func(t *testing.T, b *bench)) {
	t.Helper()
	for name, config := range map[string]func(t *testing.T) store.Config{
		"sqlite":   func(t *testing.T) store.Config { return store.Config{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) store.Config { return store.Config{URL: testenv.Postgres(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := &bench{t: t, clock: &clock{}}
			c := config(t)
			c.MasterKey, c.Now = store.NewMasterKey(), b.clock.now
			s, err := store.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			b.store = s
			b.d = &dispatch.Dispatcher{
				Store: s, Client: newClient(t, &dispatch.Client{Guard: loopback, Timeout: 5 * time.Second}), Owner: "me",
				Poll: 5 * time.Millisecond, Grace: 5 * time.Second, Now: b.clock.now,
			}
			t.Cleanup(func() {
				if b.stop != nil {
					b.stop()
				}
				_ = s.Close()
				for _, a := range b.apps {
					for _, err := range a.wrong {
						t.Errorf("a request did not verify: %v", err)
					}
				}
			})
			test(t, b)
		})
	}
}

func (b *bench) app(answer func(http.ResponseWriter, *http.Request, int), schedule ...time.Duration) *app {
	b.t.Helper()
	a := &app{answer: answer, key: signing.NewKey()}
	a.Server = httptest.NewServer(a)
	b.t.Cleanup(a.Close)
	e, err := b.store.CreateEndpoint(b.t.Context(), store.Endpoint{Name: "app", URL: a.URL, EventTypes: []string{"*"}, Schedule: schedule}, a.key)
	if err != nil {
		b.t.Fatal(err)
	}
	a.id = e.ID
	b.apps = append(b.apps, a)
	return a
}

// run starts the dispatcher; it ends with the test or with b.stop.
func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- b.d.Run(ctx) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

// publish routes one event about each person to all apps and returns the
// deliveries, those of one event together.
func (b *bench) publish(people ...string) []store.NewDelivery {
	b.t.Helper()
	a := &store.Acceptance{}
	for _, p := range people {
		b.n++
		ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_%d","type":"user.organization_membership_deleted","environment_id":"env_1",
"data":{"organization":{"id":"org_1"},"user":{"id":"usr_%s"}}}`, b.n, p), events.Defaults{})
		if err != nil {
			b.t.Fatal(err)
		}
		a.Events = append(a.Events, ev)
	}
	if err := b.store.Accept(b.t.Context(), nil, []*store.Acceptance{a}); err != nil {
		b.t.Fatal(err)
	}
	var arrivals []store.Arrival
	for i, r := range a.Records {
		arrivals = append(arrivals, store.Arrival{Seq: r.Seq, Subject: a.Events[i].Subject(), Type: a.Events[i].Type, OrganizationID: a.Events[i].OrganizationID})
	}
	made, _, err := b.store.Route(b.t.Context(), "me", arrivals, func(_ int64, evs []store.Unrouted) (store.Plan, error) {
		var out []store.NewDelivery
		for _, ev := range evs {
			for _, app := range b.apps {
				out = append(out, store.NewDelivery{ID: b.store.NewID("msg_"), EventSeq: ev.Seq, EndpointID: app.id, OrderKey: ev.Subject})
			}
		}
		return store.Plan{Deliveries: out, Events: len(evs)}, nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return made
}

func (b *bench) delivery(id string) store.Delivery {
	b.t.Helper()
	d, err := b.store.Delivery(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return d
}

func (b *bench) await(id string, want store.State) store.Delivery {
	b.t.Helper()
	var d store.Delivery
	testenv.Eventually(b.t, 30*time.Second, func() error {
		if d = b.delivery(id); d.State != want {
			return fmt.Errorf("delivery is %s after %d attempts (%s), want %s", d.State, d.Attempts, d.LastError, want)
		}
		return nil
	})
	return d
}

func (b *bench) attempts(id string) []store.Attempt {
	b.t.Helper()
	as, err := b.store.Attempts(b.t.Context(), id, 100)
	if err != nil {
		b.t.Fatal(err)
	}
	return as
}

// The schedule is followed to its end, with the same id and bytes each time; then
// the delivery is a dead letter.
func TestScheduleToTheDeadLetter(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		a := b.app(status(500))
		d := b.publish("a")[0]
		b.run()
		schedule := dispatch.DefaultSchedule()
		var total time.Duration
		for n := 1; n < len(schedule); n++ {
			testenv.Eventually(t, 30*time.Second, func() error {
				if got := b.delivery(d.ID); got.Attempts != n || got.State != store.Pending {
					return fmt.Errorf("%d attempts, %s; want %d, pending", got.Attempts, got.State, n)
				}
				return nil
			})
			got := b.delivery(d.ID)
			wait := got.DueAt.Sub(got.UpdatedAt)
			if low, high := schedule[n]*8/10-time.Second, schedule[n]*12/10+time.Second; wait < low || wait > high {
				t.Errorf("attempt %d follows after %s, want %s ±20 %%", n+1, wait, schedule[n])
			}
			total += wait
			b.clock.advance(wait)
		}
		got := b.await(d.ID, store.Failed)
		if got.Attempts != 10 || got.LastStatus != 500 {
			t.Errorf("%+v", got)
		}
		if total < 60*time.Hour || total > 90*time.Hour {
			t.Errorf("the schedule took %s in all", total)
		}
		ids := a.received()
		if len(ids) != 10 || len(slices.Compact(ids)) != 1 || ids[0] != d.ID {
			t.Errorf("received %v", ids)
		}
		if len(slices.Compact(slices.Clone(a.bodies))) != 1 {
			t.Error("the body changed between attempts")
		}
		if as := b.attempts(d.ID); len(as) != 10 || as[0].Class != "http_5xx" || as[0].Error == "" {
			t.Errorf("attempts %+v", as)
		}
	})
}

func TestReceiptsAreKept(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		answers := []string{
			`{"type":"receipt","status":"completed","resources":[{"type":"document","found":2,"transferred":2,"to":"usr_9"}]}`,
			`{"received":true}`,
			`{"type":"receipt","status":"completed","resources":[{"type":"document","found":3,"transferred":2,"to":"usr_9"}]}`,
			`not JSON`,
		}
		b.app(func(w http.ResponseWriter, _ *http.Request, n int) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, answers[n-1])
		})
		b.run()
		for i, want := range []struct{ outcome, problem string }{{"transferred", ""}, {"unattested", ""}, {"unattested", "found"}, {"unattested", ""}} {
			d := b.publish(fmt.Sprint(i))[0]
			b.d.Wake(d.EndpointID)
			got := b.await(d.ID, store.Succeeded)
			if got.Outcome != want.outcome || !strings.Contains(got.ReceiptError, want.problem) || want.problem == "" && got.ReceiptError != "" {
				t.Errorf("answer %s: outcome %q, problem %q", answers[i], got.Outcome, got.ReceiptError)
			}
			if as := b.attempts(d.ID); string(as[0].Answer) != answers[i] {
				t.Errorf("answer kept: %s", as[0].Answer)
			}
		}
	})
}

// 422 with a receipt that says blocked is for an operator: no retry.
func TestBlockedIsNotRetried(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.app(func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnprocessableEntity)
			_, _ = io.WriteString(w, `{"type":"receipt","status":"blocked","message":"two owners claim it"}`)
		})
		d := b.publish("a")[0]
		b.run()
		if got := b.await(d.ID, store.Failed); got.Attempts != 1 || got.Outcome != "blocked" {
			t.Errorf("%+v", got)
		}
	})
}

func TestGoneDisablesTheEndpoint(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.PerEndpoint = 1
		a, other := b.app(status(410)), b.app(nil)
		ds := b.publish("a", "b", "c")
		b.run()
		for _, d := range ds {
			want := store.Canceled
			if d.EndpointID == other.id {
				want = store.Succeeded
			}
			b.await(d.ID, want)
		}
		e, err := b.store.Endpoint(t.Context(), a.id)
		if err != nil || e.State != store.EndpointDisabled || e.DisabledReason == "" {
			t.Errorf("endpoint %+v, %v", e, err)
		}
	})
}

// An endpoint that asks for a pause gets one, and what waits for it does not
// occupy memory.
func TestRetryAfterPausesTheEndpoint(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.PerEndpoint = 1
		a := b.app(func(w http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				w.Header().Set("Retry-After", "120")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		ds := b.publish("a", "b", "c", "d")
		b.run()
		testenv.Eventually(t, 30*time.Second, func() error {
			if sending, held := b.d.Busy(); len(a.received()) == 0 || sending+held > 0 {
				return fmt.Errorf("%d received, %d being sent, %d in memory", len(a.received()), sending, held)
			}
			return nil
		})
		if n := len(a.received()); n != 1 {
			t.Errorf("%d requests although the first answer asked for a pause", n)
		}
		if wait := b.delivery(ds[0].ID).DueAt.Sub(b.clock.now()); wait < 110*time.Second {
			t.Errorf("the first is tried again in %s, not after the pause", wait)
		}
		b.clock.advance(125 * time.Second)
		for _, d := range ds {
			b.await(d.ID, store.Succeeded)
		}
	})
}

func TestOrderOfOnePersonAcrossRetries(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		var failing atomic.Bool
		failing.Store(true)
		a := b.app(func(w http.ResponseWriter, r *http.Request, _ int) {
			if failing.Load() && r.Header.Get(signing.HeaderID) == b.apps[0].received()[0] {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}, 0, time.Millisecond, time.Hour)
		first := b.publish("p")[0]
		b.run()
		testenv.Eventually(t, 30*time.Second, func() error {
			if n := b.delivery(first.ID).Attempts; n < 2 {
				return fmt.Errorf("%d attempts", n)
			}
			return nil
		})
		later := b.publish("p", "q", "p")
		b.d.Wake(a.id)
		b.await(later[1].ID, store.Succeeded) // somebody else's is not held back
		if got := b.delivery(later[0].ID).State; got != store.Held {
			t.Errorf("a later delivery about the same person is %s, want held", got)
		}
		failing.Store(false)
		b.clock.advance(2 * time.Hour)
		for _, d := range []store.NewDelivery{first, later[0], later[2]} {
			b.await(d.ID, store.Succeeded)
		}
		ids := a.received()
		if i, j := slices.Index(ids, later[0].ID), slices.Index(ids, later[2].ID); i < 0 || j < i {
			t.Errorf("order %v", ids)
		}
	})
}

// Endpoints that hang leave room for the others, however many they are.
func TestHangingEndpointsLeaveRoom(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.Concurrency, b.d.PerEndpoint = 8, 4
		release := make(chan struct{})
		hang := func(_ http.ResponseWriter, r *http.Request, _ int) {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		for range 6 {
			b.app(hang)
		}
		good := b.app(nil)
		people := make([]string, 30)
		for i := range people {
			people[i] = fmt.Sprint(i)
		}
		ds := b.publish(people...)
		b.run()
		for _, d := range ds {
			if d.EndpointID == good.id {
				b.await(d.ID, store.Succeeded)
			}
		}
		close(release)
		b.stop()
	})
}

// At the end nothing is left in the dispatcher's hands, and what was under way is
// finished.
func TestStopFinishesAndPutsBack(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.PerEndpoint = 1
		arrived, release := make(chan struct{}, 10), make(chan struct{})
		b.app(func(_ http.ResponseWriter, _ *http.Request, _ int) {
			arrived <- struct{}{}
			<-release
		})
		ds := b.publish("a", "b", "c")
		b.run()
		<-arrived
		stopped := make(chan struct{})
		go func() { b.stop(); close(stopped) }()
		testenv.Eventually(t, 30*time.Second, func() error {
			if _, held := b.d.Busy(); held > 1 {
				return fmt.Errorf("%d in memory", held)
			}
			return nil
		})
		close(release)
		<-stopped
		var states []store.State
		for _, d := range ds {
			states = append(states, b.delivery(d.ID).State)
		}
		slices.Sort(states)
		if want := []store.State{store.Pending, store.Pending, store.Succeeded}; !slices.Equal(states, want) {
			t.Errorf("states %v, want %v", states, want)
		}
	})
}

// A request that is broken off by the end of the grace time is no attempt: it
// is made again.
func TestStopBreaksOffWhatHangs(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.Grace = time.Millisecond
		arrived := make(chan struct{}, 10)
		b.app(func(_ http.ResponseWriter, r *http.Request, _ int) {
			arrived <- struct{}{}
			<-r.Context().Done()
		})
		d := b.publish("a")[0]
		b.run()
		<-arrived
		b.stop()
		if got := b.delivery(d.ID); got.State != store.Pending || got.Attempts != 0 {
			t.Errorf("%s after %d attempts, want pending after none", got.State, got.Attempts)
		}
	})
}

// A backlog larger than what fits in memory is worked off without holding it.
func TestBacklogStaysInTheDatabase(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.PerEndpoint, b.d.Queue = 4, 16
		var most atomic.Int64
		a := b.app(func(_ http.ResponseWriter, _ *http.Request, _ int) {
			_, held := b.d.Busy()
			for {
				old := most.Load()
				if int64(held) <= old || most.CompareAndSwap(old, int64(held)) {
					return
				}
			}
		})
		people := make([]string, 400)
		for i := range people {
			people[i] = fmt.Sprint(i)
		}
		ds := b.publish(people...)
		b.run()
		for _, d := range ds {
			b.await(d.ID, store.Succeeded)
		}
		if n := most.Load(); n > 16 {
			t.Errorf("%d deliveries were in memory, the limit is 16", n)
		}
		if ids := a.received(); len(ids) != 400 {
			t.Errorf("%d requests for 400 deliveries", len(ids))
		}
	})
}

func TestReserveGivesWayToTheBacklog(t *testing.T) {
	t.Parallel()
	d := &dispatch.Dispatcher{Queue: 2}
	for range 2 {
		if !d.Reserve("ep") {
			t.Fatal("no room in an empty queue")
		}
	}
	if d.Reserve("ep") {
		t.Error("more than the queue")
	}
	d.Release("ep")
	if !d.Reserve("ep") {
		t.Error("released room was not given again")
	}
	d.Wake("other")
	if d.Reserve("other") {
		t.Error("a new delivery would overtake those that wait in the database")
	}
}

func TestRunWaitsForTheDatabase(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		a := b.app(nil)
		b.publish("a")
		_ = b.store.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if err := b.d.Run(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Run ended with %v", err)
		}
		if len(a.received()) != 0 {
			t.Error("sent without a database")
		}
	})
}

// Being woken all the time does not keep the dispatcher from looking for retries.
func TestRetriesAreFoundWhileBusy(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.app(status(500, 200), 0, 50*time.Millisecond)
		d := b.publish("a")[0]
		b.run()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go func() {
			for ctx.Err() == nil {
				b.d.Wake("other")
				select {
				case <-ctx.Done():
				case <-time.After(2 * time.Millisecond):
				}
			}
		}()
		b.await(d.ID, store.Succeeded)
	})
}

// What was canceled while it waited in memory is not sent.
func TestCanceledWhileWaitingIsNotSent(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.PerEndpoint = 1
		release := make(chan struct{})
		a := b.app(func(_ http.ResponseWriter, _ *http.Request, n int) {
			if n == 1 {
				<-release
			}
		})
		ds := b.publish("a", "b")
		b.run()
		testenv.Eventually(t, 30*time.Second, func() error {
			if got := b.delivery(ds[1].ID).State; got != store.Sending || len(a.received()) != 1 {
				return fmt.Errorf("the second is %s after %d requests", got, len(a.received()))
			}
			return nil
		})
		other := ds[1].ID
		if a.received()[0] == other {
			other = ds[0].ID
		}
		if _, err := b.store.CancelDelivery(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		b.clock.advance(2 * time.Second) // it waited for longer than is taken on trust
		close(release)
		last := b.publish("c")[0]
		b.d.Wake(a.id)
		b.await(last.ID, store.Succeeded)
		if slices.Contains(a.received(), other) {
			t.Error("it was sent although it had been canceled")
		}
	})
}

func TestConcurrencyOfAnEndpoint(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		var now, most atomic.Int64
		a := b.app(func(_ http.ResponseWriter, _ *http.Request, _ int) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			<-time.After(time.Millisecond) // some work
			now.Add(-1)
		})
		if _, err := b.store.UpdateEndpoint(t.Context(), a.id, func(e *store.Endpoint) error { e.Concurrency = 1; return nil }); err != nil {
			t.Fatal(err)
		}
		people := make([]string, 30)
		for i := range people {
			people[i] = fmt.Sprint(i)
		}
		ds := b.publish(people...)
		b.run()
		for _, d := range ds {
			b.await(d.ID, store.Succeeded)
		}
		if most.Load() != 1 {
			t.Errorf("%d attempts at once", most.Load())
		}
	})
}

// Large events for one endpoint that hangs leave memory for the others.
func TestMemoryIsShared(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		b.d.Memory, b.d.PerEndpoint = 1000, 1
		release := make(chan struct{})
		hog := b.app(func(http.ResponseWriter, *http.Request, int) { <-release })
		defer close(release)
		b.run()
		n := 0
		for ; n < 10 && b.d.Reserve(hog.id); n++ {
			b.d.Send([]store.Claimed{{ID: fmt.Sprint("msg_", n), EndpointID: hog.id, Body: make([]byte, 400)}})
		}
		if n == 10 {
			t.Error("memory has no bound")
		}
		if !b.d.Reserve("other") {
			t.Errorf("one endpoint took all the memory, with %d events", n)
		}
	})
}

// What is marked as ours in the database, and is not in memory, is found.
func TestLostClaimsAreFound(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		a := b.app(nil)
		d := b.publish("a")[0]
		if claimed, err := b.store.Claim(t.Context(), "me", []store.Want{{EndpointID: a.id, N: 1}}); err != nil || len(claimed) != 1 {
			t.Fatalf("claimed %d, %v", len(claimed), err)
		}
		b.run()
		b.await(d.ID, store.Succeeded)
	})
}

// A paused endpoint's deliveries wait, lose no attempt, and go on when it is
// resumed.
func TestPause(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, b *bench) {
		a := b.app(nil)
		pause := func(paused bool) {
			t.Helper()
			if err := b.store.PauseEndpoint(t.Context(), a.id, paused); err != nil {
				t.Fatal(err)
			}
			b.d.EndpointsChanged()
		}
		b.run()
		first := b.publish("a")[0]
		b.d.Wake(a.id)
		b.await(first.ID, store.Succeeded)
		pause(true)
		testenv.Eventually(t, 30*time.Second, func() error {
			if b.d.Reserve(a.id) {
				b.d.Release(a.id)
				return errors.New("it takes deliveries")
			}
			return nil
		})
		waiting := b.publish("b")[0]
		b.d.Wake(a.id)
		other := b.app(nil) // while this one is served
		last := b.publish("c")
		b.d.Wake(a.id, other.id)
		b.await(last[1].ID, store.Succeeded)
		if got := b.delivery(waiting.ID); got.State != store.Pending || got.Attempts != 0 {
			t.Errorf("%s after %d attempts, want pending after none", got.State, got.Attempts)
		}
		pause(false)
		b.await(waiting.ID, store.Succeeded)
		b.await(last[0].ID, store.Succeeded)
	})
}
