package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/internal/testenv"
)

// What shares a transaction fails alone, also when it ends the transaction for
// all, as a full disk does.
func TestSharedTransactions(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	for _, test := range []struct {
		name string
		fail func(ctx context.Context, tx *sql.Tx) error
	}{
		{"refused", func(context.Context, *sql.Tx) error { return refused }},
		{"rolled back", func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, `ROLLBACK`)
			return errors.Join(refused, err)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := open(t, Config{Dir: t.TempDir(), MasterKey: NewMasterKey()})
			const n = 12
			errs := make([]error, n)
			var wg sync.WaitGroup
			s.shared.turn <- struct{}{} // so that they wait together
			for i := range n {
				wg.Go(func() {
					errs[i] = s.Tx(t.Context(), func(tx *sql.Tx) error {
						if _, err := tx.ExecContext(t.Context(), `INSERT INTO api_keys (id, name, prefix, hash, created_at) VALUES ($1, '', '', $1, 0)`,
							fmt.Sprint(i)); err != nil {
							return err
						}
						if i%3 == 1 {
							return test.fail(t.Context(), tx)
						}
						return nil
					})
				})
			}
			waiting := func() int {
				s.shared.mu.Lock()
				defer s.shared.mu.Unlock()
				return len(s.shared.waiting)
			}
			testenv.Until(t, time.Minute, "all to wait", func() bool { return waiting() == n })
			<-s.shared.turn
			wg.Wait()
			for i, err := range errs {
				var found int
				if err := s.read.QueryRowContext(t.Context(), `SELECT count(*) FROM api_keys WHERE id = $1`, fmt.Sprint(i)).Scan(&found); err != nil {
					t.Fatal(err)
				}
				if fails := i%3 == 1; errors.Is(err, refused) != fails || (found == 0) != fails {
					t.Errorf("%d: %v, %d rows", i, err, found)
				}
			}
		})
	}
}

// Who no longer wants to wait for the writer has written nothing.
func TestSharedTransactionGivenUp(t *testing.T) {
	t.Parallel()
	s := open(t, Config{Dir: t.TempDir(), MasterKey: NewMasterKey()})
	s.shared.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Tx(ctx, func(*sql.Tx) error { t.Error("it was run"); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	<-s.shared.turn
	if err := s.Tx(t.Context(), func(*sql.Tx) error { return nil }); err != nil {
		t.Errorf("the next: %v", err)
	}
}
