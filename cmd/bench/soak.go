package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// reading is what the service takes at one time of a soak.
type reading struct {
	events     int
	rss        float64 // MiB
	goroutines int
	files      int
	database   float64 // MiB
}

func (r reading) String() string {
	return fmt.Sprintf("%d events delivered: %.0f MiB of memory, %d goroutines, %d open files, database %.0f MiB, %.0f bytes an event",
		r.events, r.rss, r.goroutines, r.files, r.database, r.database*(1<<20)/float64(max(r.events, 1)))
}

// soak publishes at an even rate for a long time, reads every minute what the
// service takes, and asks the database at the end whether everything in it is as
// it has to be.
func soak(ctx context.Context, m *measurement) error {
	if _, err := m.service.subscribe(ctx, m.app("0")); err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	m.startClock()
	n := int(m.Rate * m.For.Seconds())
	ended := make(chan error, 1)
	go func() {
		_, err := m.load(ctx, load{URL: m.events(), Count: n, Workers: 64, Rate: m.Rate, Until: m.For + 5*time.Minute})
		ended <- err
	}()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for loading := true; loading; {
		select {
		case err := <-ended:
			if err != nil {
				return err
			}
			loading = false
		case <-minute.C:
		}
		r, err := m.read(ctx)
		if err != nil {
			return err
		}
		progress("soak: %s", r)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		a, err := m.arrivals(ctx, false)
		if err != nil {
			return err
		}
		m.result.Delivered, m.result.Lost = a.Unique, n-a.Unique
		m.result.Seconds = time.UnixMicro(a.Last).Sub(m.begin).Seconds()
		if a.Unique >= n || time.Now().After(deadline) {
			break
		}
	}
	m.result.Rate = float64(m.result.Delivered) / m.result.Seconds
	m.result.Ratio = m.result.Rate / m.result.Ceiling
	return m.invariants(ctx)
}

// read takes one reading.
func (m *measurement) read(ctx context.Context) (reading, error) {
	a, err := m.arrivals(ctx, false)
	if err != nil {
		return reading{}, err
	}
	pid := m.service.cmd.Process.Pid
	r := reading{events: a.Unique, rss: memoryOf(pid, "VmRSS:")}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return r, err
	}
	r.files = len(entries)
	_, metrics, err := m.service.call(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return r, err
	}
	_, value, _ := strings.Cut(string(metrics), "\ngo_goroutines ")
	value, _, _ = strings.Cut(value, "\n")
	if r.goroutines, err = strconv.Atoi(value); err != nil {
		return r, fmt.Errorf("read go_goroutines: %w", err)
	}
	db, err := m.service.database()
	if err != nil {
		return r, err
	}
	defer db.Close()
	size := `SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()`
	if m.Store == "postgres" {
		size = `SELECT pg_database_size(current_database())`
	}
	var bytes int64
	err = db.QueryRowContext(ctx, size).Scan(&bytes)
	r.database = float64(bytes) / (1 << 20)
	return r, err
}

// invariants says what is in the database that must never be.
func (m *measurement) invariants(ctx context.Context) error {
	db, err := m.service.database()
	if err != nil {
		return err
	}
	defer db.Close()
	var broken error
	for what, query := range map[string]string{
		"events in the outbox":              `SELECT count(*) FROM handover_outbox`,
		"deliveries that are open":          `SELECT count(*) FROM deliveries WHERE state < 3`,
		"deliveries in somebody's hands":    `SELECT count(*) FROM deliveries WHERE owner <> ''`,
		"events without a delivery":         `SELECT count(*) FROM handover_events e WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_seq = e.seq)`,
		"deliveries of no event":            `SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM handover_events e WHERE e.seq = d.event_seq)`,
		"events delivered twice to one app": `SELECT count(*) FROM (SELECT 1 FROM deliveries GROUP BY event_seq, endpoint_id HAVING count(*) > 1) twice`,
		"attempts of no delivery":           `SELECT count(*) FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.id = a.delivery_id)`,
		"successes without an attempt": `SELECT count(*) FROM deliveries d WHERE state = 3 AND NOT EXISTS
  (SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.status BETWEEN 200 AND 299)`,
	} {
		var n int
		if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil {
			return fmt.Errorf("count %s: %w", what, err)
		}
		if n > 0 {
			broken = errors.Join(broken, fmt.Errorf("%d %s, want none", n, what))
		}
	}
	return broken
}
