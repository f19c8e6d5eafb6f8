package replay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

func eachDatabase(t *testing.T, test func(t *testing.T, s *store.Store)) {
	t.Helper()
	for name, config := range map[string]func(t *testing.T) store.Config{
		"sqlite":   func(t *testing.T) store.Config { t.Helper(); return store.Config{Dir: t.TempDir()} },
		"postgres": func(t *testing.T) store.Config { t.Helper(); return store.Config{URL: testenv.Postgres(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config(t)
			c.MasterKey = store.NewMasterKey()
			s, err := store.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			test(t, s)
		})
	}
}

// failed makes n deliveries of n people at a new endpoint, all dead letters.
func failed(t *testing.T, s *store.Store, n int) (endpointID string) {
	t.Helper()
	ctx := t.Context()
	e, err := s.CreateEndpoint(ctx, store.Endpoint{Name: "a", URL: "https://a", EventTypes: []string{"*"}}, signing.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	var evs []events.Event
	for range n {
		ev, err := events.Complete(fmt.Appendf(nil, `{"type":"user.organization_membership_deleted","data":{"organization":{"id":"org_1"},"user":{"id":"usr_%d"}}}`, len(evs)),
			events.Defaults{EnvironmentID: "env_1"})
		if err != nil {
			t.Fatal(err)
		}
		evs = append(evs, ev)
	}
	a := &store.Acceptance{Events: evs}
	if err := s.Accept(ctx, nil, []*store.Acceptance{a}); err != nil {
		t.Fatal(err)
	}
	var arrivals []store.Arrival
	for i, r := range a.Records {
		arrivals = append(arrivals, store.Arrival{Seq: r.Seq, Subject: evs[i].Subject()})
	}
	if _, _, err := s.Route(ctx, "w", arrivals, func(_ int64, evs []store.Unrouted) (store.Plan, error) {
		p := store.Plan{Events: len(evs)}
		for _, ev := range evs {
			p.Deliveries = append(p.Deliveries, store.NewDelivery{ID: s.NewID("msg_"), EventSeq: ev.Seq, EndpointID: e.ID, OrderKey: ev.Subject})
		}
		return p, nil
	}); err != nil {
		t.Fatal(err)
	}
	claimed, err := s.Claim(ctx, "w", []store.Want{{EndpointID: e.ID, N: n}})
	if err != nil {
		t.Fatal(err)
	}
	var results []store.Result
	for _, c := range claimed {
		results = append(results, store.Result{
			Attempt:    store.Attempt{DeliveryID: c.ID, Number: 1, StartedAt: time.Now(), Status: 500, Class: "x"},
			EndpointID: c.EndpointID, OrderKey: c.OrderKey, State: store.Failed, DueAt: time.Now(), Tries: 10,
		})
	}
	if _, err := s.Record(ctx, "w", results); err != nil {
		t.Fatal(err)
	}
	return e.ID
}

func enlist(t *testing.T, s *store.Store, owner string) {
	t.Helper()
	if err := s.Enlist(t.Context(), store.Worker{Owner: owner, Name: owner, StartedAt: time.Now(), Lease: time.Hour}); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, s *store.Store, rate int) string {
	t.Helper()
	r, err := s.CreateReplay(t.Context(), store.Selection{State: "failed"}, rate)
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func get(t *testing.T, s *store.Store, id string) store.Replay {
	t.Helper()
	r, err := s.Replay(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRunReplaysWhatIsAnnounced(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *store.Store) {
		endpoint := failed(t, s, 3*maxPage/2)
		enlist(t, s, "w1")
		var mu sync.Mutex
		var due []string
		r := &Runner{Store: s, Owner: "w1", Poll: time.Hour, OnDue: func(ids ...string) {
			mu.Lock()
			due = append(due, ids...)
			mu.Unlock()
		}}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := r.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		id := create(t, s, 0)
		r.Wake()
		testenv.Eventually(t, 20*time.Second, func() error {
			if got := get(t, s, id); got.State != store.ReplayDone || got.Done != 3*maxPage/2 || got.Total != got.Done {
				return fmt.Errorf("it is %+v", got)
			}
			return nil
		})
		stop()
		running.Wait()
		if !slices.Equal(due, []string{endpoint, endpoint}) { // once a page
			t.Errorf("announced at %v", due)
		}
	})
}

func TestRateIsKept(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *store.Store) {
		failed(t, s, 100)
		enlist(t, s, "w1")
		now := time.Unix(1e9, 0)
		r := &Runner{Store: s, Owner: "w1", Now: func() time.Time { return now }}
		id := create(t, s, 20)
		for second := range 5 {
			for range 50 { // more often than it asks for
				if _, err := r.Step(t.Context()); err != nil {
					t.Fatal(err)
				}
				now = now.Add(time.Second / 50)
			}
			if got := get(t, s, id).Done; got != int64(20*(second+1)) {
				t.Fatalf("%d are done after %d s at 20 a second", got, second+1)
			}
		}
	})
}

func TestPace(t *testing.T) {
	t.Parallel()
	for _, rate := range []int{1, 2, 9, 10, 11, 99, 1000, 100000} {
		size, pause := pace(rate)
		perSecond := float64(size) / pause.Seconds()
		if size < 1 || size > maxPage || perSecond > float64(rate)*1.001 || perSecond < float64(rate)*0.999 {
			t.Errorf("at %d a second: %d in %v", rate, size, pause)
		}
	}
	if size, pause := pace(0); size != maxPage || pause != 0 {
		t.Errorf("unlimited: %d in %v", size, pause)
	}
}

func TestAnotherRunnerGoesOnWhereADeadOneWas(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *store.Store) {
		failed(t, s, 50)
		enlist(t, s, "w1")
		enlist(t, s, "w2")
		id := create(t, s, 100) // 10 a page
		now := time.Unix(1e9, 0)
		clock := func() time.Time { return now }
		first, second := &Runner{Store: s, Owner: "w1", Now: clock}, &Runner{Store: s, Owner: "w2", Now: clock}
		step := func(r *Runner) {
			t.Helper()
			if _, err := r.Step(t.Context()); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Second)
		}
		step(first)
		step(second)
		if got := get(t, s, id); got.Done != 10 || got.State != store.ReplayRunning {
			t.Fatalf("two runners at work on one replay: %+v", got)
		}
		if err := s.Retire(t.Context(), "w1"); err != nil {
			t.Fatal(err)
		}
		step(second)
		step(first) // it does not know yet that it is dead
		if got := get(t, s, id); got.Done != 20 {
			t.Fatalf("after a take-over: %+v", got)
		}
		for range 5 {
			step(second)
		}
		if got := get(t, s, id); got.Done != 50 || got.State != store.ReplayDone || got.Skipped != 0 {
			t.Errorf("at the end: %+v", got)
		}
	})
}

func TestCancelStopsBetweenPages(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *store.Store) {
		failed(t, s, 50)
		enlist(t, s, "w1")
		id := create(t, s, 100)
		now := time.Unix(1e9, 0)
		r := &Runner{Store: s, Owner: "w1", Now: func() time.Time { return now }}
		if _, err := r.Step(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CancelReplay(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		if next, err := r.Step(t.Context()); err != nil || next != r.Poll {
			t.Errorf("%v, %v", next, err)
		}
		if got := get(t, s, id); got.Done != 10 || got.State != store.ReplayCanceled {
			t.Errorf("%+v", got)
		}
	})
}
