package store

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"sync/atomic"
)

// SQLite has one writer and each commit waits for the disk. What wants to be
// written at the same time, whatever it is, therefore shares a transaction; each
// has a savepoint, so that one that fails takes nothing with it.

// shared is the queue for SQLite's one writer.
type shared struct {
	mu      sync.Mutex
	waiting []*work
	turn    chan struct{} // held by the one who writes
	written atomic.Bool   // something was, since the last checkpoint
}

// work is a function that wants a transaction.
type work struct {
	ctx  context.Context //nolint:containedctx // of the one who waits
	f    func(tx *sql.Tx) error
	done chan error
}

const maxShared = 8

// share runs f in a transaction, alone or with what others want to write.
func (s *Store) share(ctx context.Context, f func(tx *sql.Tx) error) error {
	w := &work{ctx, f, make(chan error, 1)}
	q := &s.shared
	q.mu.Lock()
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	for ctxDone := ctx.Done(); ; {
		select {
		case err := <-w.done:
			return err
		case q.turn <- struct{}{}:
			q.mu.Lock()
			n := min(len(q.waiting), maxShared)
			together := slices.Clone(q.waiting[:n])
			q.waiting = slices.Delete(q.waiting, 0, n)
			q.mu.Unlock()
			s.writeTogether(together)
			<-q.turn
		case <-ctxDone:
			q.mu.Lock()
			i := slices.Index(q.waiting, w)
			if i >= 0 {
				q.waiting = slices.Delete(q.waiting, i, i+1)
			}
			q.mu.Unlock()
			if i >= 0 {
				return ctx.Err()
			}
			ctxDone = nil // it is being written, and ends by itself
		}
	}
}

// writeTogether writes what shares one transaction, and tells each what came of it.
func (s *Store) writeTogether(together []*work) {
	defer s.shared.written.Store(true)
	if len(together) > 1 {
		if errs, ok := s.tryShared(together); ok {
			for i, w := range together {
				w.done <- errs[i]
			}
			s.prepare(context.Background())
			return
		}
	}
	for _, w := range together {
		w.done <- s.tryTx(w.ctx, w.f)
		s.prepare(context.Background())
	}
}

// tryShared reports ok false when nothing was written, because one of them ended
// the transaction for all; each has to be written alone then.
func (s *Store) tryShared(together []*work) (errs []error, ok bool) {
	ctx := context.Background()
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return nil, false
	}
	defer func() {
		if !ok {
			_ = tx.Rollback() // what was wrong shows when each is written alone
		}
	}()
	exec := preparedTx{s, tx}.Exec
	errs = make([]error, len(together))
	for i, w := range together {
		if err := exec(ctx, `SAVEPOINT work`); err != nil {
			return nil, false
		}
		if errs[i] = w.ctx.Err(); errs[i] == nil {
			errs[i] = w.f(tx)
		}
		if errs[i] != nil {
			// Fails when the whole transaction was rolled back, by a full disk or an
			// interrupted statement.
			if err := exec(ctx, `ROLLBACK TO work`); err != nil {
				return nil, false
			}
		}
		if err := exec(ctx, `RELEASE work`); err != nil {
			return nil, false
		}
	}
	return errs, tx.Commit() == nil
}
