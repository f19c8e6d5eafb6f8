package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

// Of two processes the older one deletes; the other does when that one is gone.
func TestTheOldestSweeps(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]func() store.Config{
		"sqlite":   func() store.Config { return store.Config{Dir: t.TempDir()} },
		"postgres": func() store.Config { return store.Config{URL: testenv.Postgres(t)} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config()
			c.MasterKey = store.NewMasterKey()
			db, err := store.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			e, err := db.CreateEndpoint(t.Context(), store.Endpoint{Name: "app", URL: "https://app.example.com", EventTypes: []string{"*"}}, signing.NewKey())
			if err != nil {
				t.Fatal(err)
			}
			const n = sweepBatch + 10
			for range n {
				ev, err := events.Complete([]byte(`{"type":"x","object":"X","data":{}}`), events.Defaults{EnvironmentID: "env_1"})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := db.InsertTestDelivery(t.Context(), e.ID, ev); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := db.DB().ExecContext(t.Context(), `UPDATE deliveries SET state = 3, updated_at = 1`); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			s := &service{Config: Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, store: db, metrics: newMetrics(prometheus.NewRegistry(), "v")}
			now := time.Now()
			for i, owner := range []string{"younger", "older"} {
				s.worker = store.Worker{Owner: owner, Name: owner, StartedAt: now.Add(-time.Duration(i) * time.Minute), Lease: time.Hour}
				if err := db.Enlist(t.Context(), s.worker); err != nil {
					t.Fatal(err)
				}
			}
			left := func() (n int) {
				t.Helper()
				if err := db.DB().QueryRowContext(t.Context(), `SELECT count(*) FROM handover_events`).Scan(&n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			s.worker.Owner = "younger"
			if mine, err := s.sweep(t.Context(), now.Add(time.Hour)); mine || err != nil || left() != n {
				t.Errorf("the younger one: %v, %v, %d events left", mine, err, left())
			}
			if err := db.Retire(t.Context(), "older"); err != nil {
				t.Fatal(err)
			}
			if mine, err := s.sweep(t.Context(), now.Add(-time.Hour)); !mine || err != nil || left() != n || log.Len() > 0 {
				t.Errorf("nothing is so old: %v, %v, %d events left, said %s", mine, err, left(), &log)
			}
			if mine, err := s.sweep(t.Context(), now.Add(time.Hour)); !mine || err != nil || left() != 0 {
				t.Errorf("the last one: %v, %v, %d events left", mine, err, left())
			}
			if !strings.Contains(log.String(), "events=210 webhook_ids=0 replays=0") || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("it said %s", &log)
			}
		})
	}
}

// Deleting takes at most a tenth of the database's time, and no pause outlasts
// the process.
func TestBatchesLeaveTimeToOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		takes := []time.Duration{time.Millisecond, 20 * time.Millisecond, time.Second}
		var starts []time.Duration
		err := inBatches(t.Context(), func() (bool, error) {
			starts = append(starts, time.Since(began))
			time.Sleep(takes[len(starts)-1])
			return len(starts) == len(takes), nil
		})
		want := []time.Duration{0, 51 * time.Millisecond, 271 * time.Millisecond}
		for i := range want {
			if err != nil || len(starts) != len(want) || starts[i] != want[i] {
				t.Fatalf("batches at %v, %v; want %v", starts, err, want)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Millisecond)
		defer cancel()
		began = time.Now()
		err = inBatches(ctx, func() (bool, error) { return false, nil })
		if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took != 70*time.Millisecond {
			t.Errorf("it ended after %s: %v", took, err)
		}
	})
}
