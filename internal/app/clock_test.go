package app_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handover-dev/handover/internal/app"
	"github.com/handover-dev/handover/internal/testenv"
)

// embedded is the service in this process, under a clock of its own: the machine's
// is not ours to set.
type embedded struct {
	t      *testing.T
	config app.Config
	offset atomic.Int64
	stop   func()
}

func newEmbedded(t *testing.T, c app.Config) *embedded {
	e := &embedded{t: t, config: c}
	e.config.Addr = "127.0.0.1:" + freePort(t)
	e.config.DataDir = t.TempDir()
	e.config.AllowNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	e.config.APIKey = testAPIKey
	e.config.Now = e.now
	return e
}

// now has no monotonic reading, so that nothing takes comfort in that.
func (e *embedded) now() time.Time { return time.Now().Round(0).Add(time.Duration(e.offset.Load())) }

func (e *embedded) step(d time.Duration) { e.offset.Add(int64(d)) }

func (e *embedded) test() *testing.T { return e.t }
func (e *embedded) base() string     { return "http://" + e.config.Addr }
func (e *embedded) database() (driver, name string) {
	return databaseOf(e.config.DatabaseURL, e.config.DataDir)
}

func (e *embedded) start() {
	e.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(e.t.Context()))
	ready, done := make(chan struct{}), make(chan error, 1)
	c := e.config
	c.OnReady = func(app.Ready) { close(ready) }
	go func() { done <- app.Run(ctx, c) }()
	e.stop = func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Errorf("it ended with %v", err)
		}
		e.stop = func() {}
	}
	e.t.Cleanup(func() { e.stop() })
	select {
	case <-ready:
	case err := <-done:
		done <- nil
		e.t.Fatal(err)
	}
}

func (e *embedded) post(path string) {
	e.t.Helper()
	if status, _, body, err := request(e.t.Context(), http.DefaultClient, http.MethodPost, e.base()+path, nil); err != nil || status != http.StatusOK {
		e.t.Fatalf("POST %s: %d %s %v", path, status, body, err)
	}
}

// A clock that is set an hour forth or back, under load or while the service is
// down, makes nothing wait for the time to come again. What waits just then are
// first attempts, to an endpoint that was paused, and retries.
func TestClockIsSet(t *testing.T) {
	t.Parallel()
	embeddedStores := map[string]func(t *testing.T) app.Config{
		"sqlite": func(*testing.T) app.Config { return app.Config{} },
		"postgres and redis": func(t *testing.T) app.Config {
			return app.Config{DatabaseURL: testenv.Postgres(t), RedisURL: testenv.RedisServer(t, testenv.RedisOptions{}).URL()}
		},
	}
	for name, steps := range map[string][]time.Duration{
		"forth":          {time.Hour},
		"back":           {-time.Hour},
		"forth and back": {time.Hour, -time.Hour},
	} {
		for store, config := range embeddedStores {
			for _, down := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, down %t", name, store, down), func(t *testing.T) {
					t.Parallel()
					setClock(t, newEmbedded(t, config(t)), down, steps...)
				})
			}
		}
	}
}

func setClock(t *testing.T, e *embedded, down bool, steps ...time.Duration) {
	t.Helper()
	receivers := []*receiver{newReceiver(t), newReceiver(t), newReceiver(t)}
	e.start()
	receivers[1].fail = func(times int) bool { return times == 0 }
	var endpoints []string
	for i, r := range receivers {
		r.now, r.lenient = e.now, 2*time.Hour // what is under way when the clock is set is off by one
		endpoints = append(endpoints, r.subscribe(t, e, fmt.Sprint("app ", i), 0, 1, 1, 1, 1, 1))
	}
	l := &load{process: e, every: 20 * time.Millisecond, killed: down}
	l.start()
	for _, step := range steps {
		e.post("/v1/endpoints/" + endpoints[2] + "/pause")
		l.accepts(30)
		if down {
			e.stop()
		}
		e.step(step)
		if down {
			e.start()
		}
		l.accepts(30)
		e.post("/v1/endpoints/" + endpoints[2] + "/resume")
		l.accepts(30)
	}
	awaitReady(e)
	l.stop()
	l.arrivesAt(receivers...)
	checkInvariants(t, e)
	if n := count(t, e, `SELECT count(*) FROM deliveries WHERE state <> 3`); n > 0 {
		t.Errorf("%d deliveries did not succeed", n)
	}
}
