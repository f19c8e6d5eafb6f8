package app_test

import (
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"github.com/handover-dev/handover/internal/testenv"
)

// The real program deletes an old event that was handed over and keeps a young
// one, an old one that was not handed over, and all when it is told to.
func TestOldEventsAreDeleted(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		expires(t, "sqlite", "file:"+filepath.Join(dir, "handover.db")+"?_pragma=busy_timeout(10000)", "--data-dir", dir)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		url := testenv.Postgres(t)
		expires(t, "pgx", url, "--data-dir", t.TempDir(), "--database-url", url)
	})
}

func expires(t *testing.T, driver, database string, args ...string) {
	t.Helper()
	p := newProcess(t, args...)
	p.start()
	r := newReceiver(t)
	r.subscribe(t, p, "app")
	const old, dead, young = "evt_000000000000000001", "evt_000000000000000002", "evt_000000000000000003"
	for n := 1; n <= 3; n++ {
		_, ev := removal(n)
		p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
	}
	r.await(t, old, dead, young)
	testenv.Eventually(t, 60*time.Second, func() error {
		if list := p.mustCall(http.MethodGet, "/v1/deliveries?state=succeeded", nil, http.StatusOK); len(list["data"].([]any)) != 3 {
			return fmt.Errorf("not all is recorded: %v", list)
		}
		return nil
	})
	p.kill()
	db, err := sql.Open(driver, database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	at := time.Now().Add(-91 * 24 * time.Hour).UnixMicro()
	for text, ids := range map[string][]any{
		`UPDATE handover_events SET recorded_at = $1 WHERE id IN ($2, $3)`:                                  {at, old, dead},
		`UPDATE deliveries SET updated_at = $1`:                                                             {at},
		`UPDATE deliveries SET state = 4 WHERE event_seq = (SELECT seq FROM handover_events WHERE id = $1)`: {dead},
	} {
		if _, err := db.ExecContext(t.Context(), text, ids...); err != nil {
			t.Fatal(err)
		}
	}

	p.args = append(p.args, "--retention", "forever")
	p.start()
	p.mustCall(http.MethodGet, "/v1/events/"+old, nil, http.StatusOK)
	p.kill()
	p.args = p.args[:len(p.args)-2] // 90 days
	p.start()
	testenv.Eventually(t, 60*time.Second, func() error {
		if _, metrics := p.get("/metrics"); !strings.Contains(metrics, "handover_expired_events_total 1\n") {
			return errors.New("nothing is deleted")
		}
		return nil
	})
	for id, want := range map[string]int{old: http.StatusNotFound, dead: http.StatusOK, young: http.StatusOK} {
		if status, answer, err := p.call(t.Context(), http.MethodGet, "/v1/events/"+id, nil); err != nil || status != want {
			t.Errorf("event %s: %d %s %v, want %d", id, status, answer, err, want)
		}
	}
	if list := p.mustCall(http.MethodGet, "/v1/deliveries", nil, http.StatusOK); len(list["data"].([]any)) != 2 {
		t.Errorf("deliveries left: %v", list)
	}
}
