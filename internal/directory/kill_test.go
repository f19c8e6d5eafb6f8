package directory_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
)

// A process that removes and adds people is killed again and again. After each
// time every removal has its event and every event its removal.
func TestKilledAtAnyMomentNoChangeIsWithoutItsEvent(t *testing.T) {
	if os.Getenv(victimDir) != "" || os.Getenv(victimURL) != "" {
		victim(t)
		return
	}
	t.Parallel()
	for _, db := range []string{"sqlite", "postgres"} {
		t.Run(db, func(t *testing.T) {
			t.Parallel()
			c := store.Config{Dir: t.TempDir(), MasterKey: make([]byte, 32)}
			if db == "postgres" {
				c.URL = testenv.Postgres(t)
			}
			removals := 0
			for kill := range 15 {
				killVictim(t, c, kill)
				n := checkPairs(t, c)
				if n < removals {
					t.Fatalf("%d removals after kill %d, there were %d before", n, kill, removals)
				}
				removals = n
			}
			if removals < 15 {
				t.Fatalf("only %d removals: nothing was killed in the middle", removals)
			}
		})
	}
}

const (
	victimDir = "HANDOVER_TEST_VICTIM_DIR"
	victimURL = "HANDOVER_TEST_VICTIM_URL"
)

// victim removes and adds the same people for ever, and says each removal.
func victim(t *testing.T) {
	c := store.Config{Dir: os.Getenv(victimDir), URL: os.Getenv(victimURL), MasterKey: make([]byte, 32)}
	s, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := run(s)
	o, err := d.CreateOrganization(t.Context(), env, directory.NewOrganization{DisplayName: "One"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		go func() {
			for n := 0; ; n++ {
				u, err := d.CreateUser(context.Background(), env, o.ID, directory.NewUser{Email: fmt.Sprintf("u%d.%d.%d@example.com", os.Getpid(), i, n)})
				if err != nil {
					continue
				}
				if _, err := d.CreateSession(context.Background(), directory.Session{EnvironmentID: env, UserID: u.ID, OrganizationID: o.ID}); err != nil {
					continue
				}
				if _, err := d.RemoveMember(context.Background(), env, o.ID, directory.Ref{ID: u.ID}, directory.How{}); err == nil {
					fmt.Println("removed")
				}
			}
		}()
	}
	select {}
}

// killVictim lets a process remove some people, and kills it.
func killVictim(t *testing.T, c store.Config, kill int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledAtAnyMomentNoChangeIsWithoutItsEvent$")
	cmd.Env = append(os.Environ(), victimDir+"="+c.Dir, victimURL+"="+c.URL)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if strings.Contains(lines.Text(), "removed") {
			said++
		}
		if said > 3+7*kill {
			break
		}
	}
	// Each time at another moment after an answer.
	deadline := time.Now().Add(time.Duration(kill) * 137 * time.Microsecond)
	for time.Now().Before(deadline) {
		continue
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if said <= 3+7*kill {
		t.Fatalf("the process ended by itself after %d removals", said)
	}
}

// checkPairs compares what is kept with what was announced.
func checkPairs(t *testing.T, c store.Config) (removals int) {
	t.Helper()
	s, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	count := func(what, query string) int {
		var n int
		if err := s.DB().QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return n
	}
	for what, query := range map[string]string{
		"removed memberships without event": `SELECT count(*) FROM memberships m WHERE status = 0 AND NOT EXISTS
(SELECT 1 FROM handover_events e WHERE e.seq = m.removal_seq AND e.type = '` + removed + `' AND e.user_id = m.user_id)`,
		"events without removal": `SELECT count(*) FROM handover_events e WHERE type = '` + removed + `' AND NOT EXISTS
(SELECT 1 FROM memberships m WHERE m.user_id = e.user_id AND m.status = 0 AND m.removal_seq = e.seq)`,
		"deleted accounts without event": `SELECT count(*) FROM users u WHERE deleted_at > 0 AND NOT EXISTS
(SELECT 1 FROM handover_events e WHERE e.type = '` + deleted + `' AND e.user_id = u.id)`,
		"accounts without membership": `SELECT count(*) FROM users u WHERE deleted_at = 0 AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = u.id AND m.status > 0)`,
		"sessions that outlived":      `SELECT count(*) FROM sessions s JOIN users u ON u.id = s.user_id WHERE s.status = 'active' AND u.deleted_at > 0`,
		"events that are nowhere":     `SELECT count(*) FROM handover_events e WHERE NOT EXISTS (SELECT 1 FROM handover_outbox o WHERE o.event_seq = e.seq)`,
	} {
		if n := count(what, query); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	return count("removals", `SELECT count(*) FROM memberships WHERE status = 0`)
}
