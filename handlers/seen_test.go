package handlers_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
)

// do is Seen.Do, or DoTx without its transaction.
type do func(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context) ([]byte, error)) ([]byte, error)

// exerciseSeen holds any Seen against its contract. Each call of open returns
// what another process would have.
func exerciseSeen(t *testing.T, open func(tb testing.TB) func() do) {
	t.Helper()
	answer := func(s string) func(context.Context) ([]byte, error) {
		return func(context.Context) ([]byte, error) { return []byte(s), nil }
	}
	expect := func(t *testing.T, got []byte, err error, want string, wantErr error) {
		t.Helper()
		if string(got) != want || !errors.Is(err, wantErr) {
			t.Errorf("got %q and %v, want %q and %v", got, err, want, wantErr)
		}
	}

	t.Run("the first answer stays", func(t *testing.T) {
		t.Parallel()
		do := open(t)()
		got, err := do(t.Context(), "msg_1", bodyOne, answer("first"))
		expect(t, got, err, "first", nil)
		got, err = do(t.Context(), "msg_1", bodyOne, answer("second"))
		expect(t, got, err, "first", nil)
		got, err = do(t.Context(), "msg_2", bodyOne, answer("second"))
		expect(t, got, err, "second", nil)
	})
	t.Run("an empty answer is one", func(t *testing.T) {
		t.Parallel()
		do := open(t)()
		got, err := do(t.Context(), "msg_1", bodyOne, answer(""))
		expect(t, got, err, "", nil)
		got, err = do(t.Context(), "msg_1", bodyOne, answer("second"))
		expect(t, got, err, "", nil)
	})
	t.Run("another body is a conflict", func(t *testing.T) {
		t.Parallel()
		do := open(t)()
		got, err := do(t.Context(), "msg_1", bodyOne, answer("first"))
		expect(t, got, err, "first", nil)
		got, err = do(t.Context(), "msg_1", bodyTwo, answer("second"))
		expect(t, got, err, "", handlers.ErrConflict)
	})
	t.Run("a failure is not recorded", func(t *testing.T) {
		t.Parallel()
		do := open(t)()
		_, err := do(t.Context(), "msg_1", bodyOne, func(context.Context) ([]byte, error) { return nil, errBoom })
		expect(t, nil, err, "", errBoom)
		got, err := do(t.Context(), "msg_1", bodyOne, answer("second"))
		expect(t, got, err, "second", nil)
	})
	t.Run("a panic is not recorded", func(t *testing.T) {
		t.Parallel()
		do := open(t)()
		func() {
			defer func() { _ = recover() }()
			_, _ = do(t.Context(), "msg_1", bodyOne, func(context.Context) ([]byte, error) { panic("boom") })
		}()
		got, err := do(t.Context(), "msg_1", bodyOne, answer("second"))
		expect(t, got, err, "second", nil)
	})
	t.Run("of copies at once one runs", func(t *testing.T) {
		t.Parallel()
		connect := open(t)
		dos := []do{connect(), connect()}
		for round := range 10 {
			var running, runs, answered atomic.Int32
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					got, err := dos[i%2](t.Context(), fmt.Sprintf("msg_%d", round), bodyOne, func(context.Context) ([]byte, error) {
						if running.Add(1) > 1 {
							t.Error("two copies run at once")
						}
						defer running.Add(-1)
						return fmt.Appendf(nil, "run %d", runs.Add(1)), nil
					})
					switch {
					case err == nil && string(got) == "run 1":
						answered.Add(1)
					case !errors.Is(err, handlers.ErrBusy):
						t.Errorf("copy %d got %q and %v", i, got, err)
					}
				})
			}
			wg.Wait()
			if runs.Load() != 1 || answered.Load() == 0 {
				t.Errorf("%d runs, %d answers", runs.Load(), answered.Load())
			}
		}
	})
	t.Run("copies at once of one that fails", func(t *testing.T) {
		t.Parallel()
		connect := open(t)
		dos := []do{connect(), connect()}
		var running atomic.Int32
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				_, err := dos[i%2](t.Context(), "msg_1", bodyOne, func(context.Context) ([]byte, error) {
					if running.Add(1) > 1 {
						t.Error("two copies run at once")
					}
					defer running.Add(-1)
					return nil, errBoom
				})
				if !errors.Is(err, errBoom) && !errors.Is(err, handlers.ErrBusy) {
					t.Errorf("copy %d got %v", i, err)
				}
			})
		}
		wg.Wait()
		got, err := dos[0](t.Context(), "msg_1", bodyOne, answer("second"))
		expect(t, got, err, "second", nil)
	})
}

func TestSeen(t *testing.T) {
	t.Parallel()
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		exerciseSeen(t, func(testing.TB) func() do {
			var m handlers.Memory
			return func() do { return m.Do }
		})
	})
	for _, database := range databases {
		table := func(tb testing.TB) func() *handlers.Table {
			connect := database.make(tb)
			mustExec(tb, connect(), handlers.Schema)
			return func() *handlers.Table { return &handlers.Table{DB: connect()} }
		}
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			exerciseSeen(t, func(tb testing.TB) func() do {
				next := table(tb)
				return func() do { return next().Do }
			})
		})
		t.Run(database.name+" in a transaction", func(t *testing.T) {
			t.Parallel()
			exerciseSeen(t, func(tb testing.TB) func() do {
				next := table(tb)
				return func() do {
					t := next()
					return func(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context) ([]byte, error)) ([]byte, error) {
						return t.DoTx(ctx, id, body, func(ctx context.Context, _ *sql.Tx) ([]byte, error) { return run(ctx) })
					}
				}
			})
		})
	}
}

func TestMemoryKeepsTheMostRecentlyUsed(t *testing.T) {
	t.Parallel()
	m := handlers.Memory{Size: 3}
	runs := 0
	do := func(id string) string {
		got, err := m.Do(t.Context(), id, bodyOne, func(context.Context) ([]byte, error) {
			runs++
			return fmt.Appendf(nil, "run %d", runs), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	var got []string
	for id := range strings.SplitSeq("a b c a d a b", " ") { // d pushes b out, not a
		got = append(got, do(id))
	}
	if want := "run 1|run 2|run 3|run 1|run 4|run 1|run 5"; strings.Join(got, "|") != want {
		t.Errorf("got %q, want %q", strings.Join(got, "|"), want)
	}
}

func TestMemoryWaitingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	var m handlers.Memory
	ctx, cancel := context.WithCancel(t.Context())
	_, err := m.Do(t.Context(), "msg_1", bodyOne, func(context.Context) ([]byte, error) {
		cancel()
		_, err := m.Do(ctx, "msg_1", bodyOne, func(context.Context) ([]byte, error) { return nil, errBoom })
		return nil, err
	})
	if !errors.Is(err, handlers.ErrBusy) {
		t.Errorf("error %v", err)
	}
}

// A claim of a process that died is taken over when it has run out; one that
// comes back late cannot overwrite the answer.
func TestTableClaimRunsOut(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			connect := database.make(t)
			db := connect()
			mustExec(t, db, handlers.Schema)
			now := time.Now()
			late := &handlers.Table{DB: db, Now: func() time.Time { return now }}
			other := func(after time.Duration) *handlers.Table {
				return &handlers.Table{DB: connect(), Now: func() time.Time { return now.Add(after) }}
			}
			ctx, cancel := context.WithDeadline(t.Context(), now.Add(time.Minute))
			defer cancel()
			_, err := late.Do(ctx, "msg_1", bodyOne, func(context.Context) ([]byte, error) {
				second := func(context.Context) ([]byte, error) { return []byte("second"), nil }
				if _, err := other(70*time.Second).Do(t.Context(), "msg_1", bodyOne, second); !errors.Is(err, handlers.ErrBusy) {
					t.Errorf("before the claim has run out: %v", err)
				}
				if _, err := other(70*time.Second).DoTx(t.Context(), "msg_1", bodyOne, func(ctx context.Context, _ *sql.Tx) ([]byte, error) { return second(ctx) }); !errors.Is(err, handlers.ErrBusy) {
					t.Errorf("before the claim has run out, in a transaction: %v", err)
				}
				if got, err := other(71*time.Second).Do(t.Context(), "msg_1", bodyOne, second); err != nil || string(got) != "second" {
					t.Errorf("after the claim has run out: %q, %v", got, err)
				}
				return []byte("late"), nil
			})
			if !errors.Is(err, handlers.ErrBusy) {
				t.Errorf("the late one got %v", err)
			}
			if got, err := late.Do(ctx, "msg_1", bodyOne, nil); err != nil || string(got) != "second" {
				t.Errorf("the answer is %q, %v", got, err)
			}
		})
	}
}

func TestTableForgets(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			table := &handlers.Table{DB: database.make(t)(), Now: func() time.Time { return now }}
			mustExec(t, table.DB, handlers.Schema)
			mustExec(t, table.DB, handlers.Schema) // may be run again
			runs := 0
			do := func(id string) {
				if _, err := table.Do(t.Context(), id, bodyOne, func(context.Context) ([]byte, error) { runs++; return nil, nil }); err != nil {
					t.Fatal(err)
				}
			}
			do("old")
			now = now.Add(time.Hour)
			do("new")
			if n, err := table.Forget(t.Context(), now.Add(-time.Minute)); n != 1 || err != nil {
				t.Errorf("forgot %d, %v", n, err)
			}
			do("new")
			do("old")
			if runs != 3 {
				t.Errorf("%d runs, want 3", runs)
			}
		})
	}
}

func newTxReceiver(db *sql.DB, functions ...func(context.Context, *sql.Tx, events.Event, events.Membership) (handlers.Outcome, error)) *handlers.Receiver {
	r := &handlers.Receiver{Seen: &handlers.Table{DB: db}}
	handlers.OnTx(r, events.MembershipRemoved, functions...)
	return r
}

func transferMember(ctx context.Context, tx *sql.Tx, ev events.Event, _ events.Membership) (handlers.Outcome, error) {
	return transfer(ctx, tx, ev)
}

func TestWorkAndAnswerCommitTogether(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			db := database.make(t)()
			app(t, db)
			ev := event(t, fixture(t, removed))
			effects := func() int { return count(t, db, `SELECT count(*) FROM journal`) }
			recorded := func() int { return count(t, db, `SELECT count(*) FROM handover_seen`) }

			for name, last := range map[string]func() (handlers.Outcome, error){
				"error":          func() (handlers.Outcome, error) { return handlers.Outcome{}, errBoom },
				"panic":          func() (handlers.Outcome, error) { panic("boom") },
				"blocked":        func() (handlers.Outcome, error) { return handlers.Blocked("who?"), nil },
				"broken outcome": func() (handlers.Outcome, error) { return handlers.Deleted("Draft", 1), nil },
			} {
				r := newTxReceiver(db, transferMember, func(context.Context, *sql.Tx, events.Event, events.Membership) (handlers.Outcome, error) {
					return last()
				})
				receipt, err := r.Handle(t.Context(), "msg_1", ev)
				if name == "blocked" && receipt.Status != "blocked" || name != "blocked" && err == nil {
					t.Errorf("%s: receipt %+v, error %v", name, receipt, err)
				}
				if effects() != 0 || recorded() != 0 {
					t.Errorf("%s: %d effects, %d recorded", name, effects(), recorded())
				}
			}

			var want handlers.Receipt
			for i := range 3 {
				got, err := newTxReceiver(db, transferMember).Handle(t.Context(), "msg_1", ev) // after restarts
				if err != nil || len(got.Resources) != 1 || got.Resources[0].Transferred != 3 {
					t.Errorf("receipt %+v, error %v", got, err)
				}
				if i == 0 {
					want = got
				} else if got.Outcome() != want.Outcome() {
					t.Errorf("receipt %+v, at first %+v", got, want)
				}
			}
			if effects() != 1 || recorded() != 1 {
				t.Errorf("%d effects, %d recorded", effects(), recorded())
			}
		})
	}
}

func TestCopiesAtOnceHaveOneEffect(t *testing.T) {
	t.Parallel()
	for _, database := range databases {
		t.Run(database.name, func(t *testing.T) {
			t.Parallel()
			connect := database.make(t)
			first, second := connect(), connect()
			app(t, first)
			ev := event(t, fixture(t, removed))
			receivers := []*handlers.Receiver{newTxReceiver(first, transferMember), newTxReceiver(second, transferMember)}
			for round := range 10 {
				var wg sync.WaitGroup
				for i := range 8 {
					wg.Go(func() {
						got, err := receivers[i%2].Handle(t.Context(), fmt.Sprintf("msg_%d", round), ev)
						if errors.Is(err, handlers.ErrBusy) {
							return
						}
						if err != nil || len(got.Resources) != 1 || got.Resources[0].Type != "document" {
							t.Errorf("receipt %+v, error %v", got, err)
						}
					})
				}
				wg.Wait()
			}
			if n := count(t, first, `SELECT count(*) FROM journal`); n != 10 {
				t.Errorf("%d effects of 10 messages", n)
			}
		})
	}
}
