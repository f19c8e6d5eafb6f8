package handlers_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/internal/testenv"
)

// The child of the tests below takes one message with a function that does its
// work, says so, and hangs before the answer.
const childEnv = "HANDLERS_TEST_CHILD"

func TestChild(t *testing.T) {
	how, rest, ok := strings.Cut(os.Getenv(childEnv), " ")
	if !ok {
		return // only a child has something to do
	}
	driver, url, _ := strings.Cut(rest, " ")
	db := open(t, driver, url)
	hang := func() (handlers.Outcome, error) {
		fmt.Println("working")
		select {}
	}
	var r *handlers.Receiver
	if how == "tx" {
		r = newTxReceiver(db, transferMember, func(context.Context, *sql.Tx, events.Event, events.Membership) (handlers.Outcome, error) {
			return hang()
		})
	} else {
		r = &handlers.Receiver{Seen: &handlers.Table{DB: db}}
		handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
			return hang()
		})
	}
	_, err := r.Handle(t.Context(), "msg_1", event(t, fixture(t, removed)))
	t.Fatal(err)
}

// killAtWork starts a child and kills it in the middle of its work.
func killAtWork(t *testing.T, how, driver, url string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+how+" "+driver+" "+url)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "working\n" {
		t.Errorf("child says %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestKilledAtWork(t *testing.T) {
	t.Parallel()
	ev := event(t, fixture(t, removed))
	for driver, makeURL := range map[string]func(testing.TB) string{
		"sqlite": func(tb testing.TB) string { return sqliteURL(tb.TempDir() + "/app.db") },
		"pgx":    testenv.Postgres,
	} {
		t.Run(driver+" in a transaction", func(t *testing.T) {
			t.Parallel()
			url := makeURL(t)
			db := open(t, driver, url)
			app(t, db)
			killAtWork(t, "tx", driver, url)
			if n := count(t, db, `SELECT count(*) FROM journal`); n != 0 {
				t.Fatalf("%d effects of what was killed", n)
			}
			for range 2 {
				got, err := newTxReceiver(db, transferMember).Handle(t.Context(), "msg_1", ev)
				if err != nil || got.Resources[0].Transferred != 3 {
					t.Errorf("receipt %+v, error %v", got, err)
				}
			}
			if n := count(t, db, `SELECT count(*) FROM journal`); n != 1 {
				t.Errorf("%d effects", n)
			}
		})
		t.Run(driver, func(t *testing.T) {
			t.Parallel()
			url := makeURL(t)
			db := open(t, driver, url)
			app(t, db)
			killAtWork(t, "plain", driver, url)
			var after time.Duration
			r := &handlers.Receiver{Seen: &handlers.Table{DB: db, Now: func() time.Time { return time.Now().Add(after) }}}
			handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
				return handlers.Deleted("draft", 1), nil
			})
			if _, err := r.Handle(t.Context(), "msg_1", ev); !errors.Is(err, handlers.ErrBusy) {
				t.Errorf("at once: %v", err)
			}
			after = 71 * time.Second
			if got, err := r.Handle(t.Context(), "msg_1", ev); err != nil || got.Outcome() != "deleted" {
				t.Errorf("when the claim has run out: %+v, %v", got, err)
			}
		})
	}
}

// The database goes away in the middle of the work: nothing is left of it, and
// the next copy of the message does it.
func TestConnectionLostAtWork(t *testing.T) {
	t.Parallel()
	db := open(t, "pgx", testenv.Postgres(t))
	app(t, db)
	ev := event(t, fixture(t, removed))
	r := newTxReceiver(db, transferMember, func(ctx context.Context, tx *sql.Tx, _ events.Event, _ events.Membership) (handlers.Outcome, error) {
		var pid int
		if err := tx.QueryRowContext(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
			return handlers.Outcome{}, err
		}
		_, err := db.ExecContext(ctx, `SELECT pg_terminate_backend($1)`, pid)
		return handlers.Outcome{}, err
	})
	if got, err := r.Handle(t.Context(), "msg_1", ev); err == nil {
		t.Errorf("receipt %+v over a lost connection", got)
	}
	if n := count(t, db, `SELECT count(*) FROM journal`); n != 0 {
		t.Errorf("%d effects", n)
	}
	if got, err := newTxReceiver(db, transferMember).Handle(t.Context(), "msg_1", ev); err != nil || got.Outcome() != "transferred" {
		t.Errorf("receipt %+v, error %v", got, err)
	}
}
