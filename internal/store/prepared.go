package store

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// prepared keeps SQLite's statements: preparing one takes it as long as running
// it. PostgreSQL's driver does so by itself.
type prepared struct {
	mu     sync.Mutex
	byText map[string]*sql.Stmt
	wanted []string // to be prepared when no transaction has the connection
}

const maxPrepared = 64

// statement is one that is prepared for a transaction, and closed with it.
type statement struct{ of *sql.Stmt }

func (st statement) exec(ctx context.Context, args ...any) (sql.Result, error) {
	return st.of.ExecContext(ctx, args...)
}

func (st statement) query(ctx context.Context, args ...any) (*sql.Rows, error) {
	return st.of.QueryContext(ctx, args...)
}

// stmt is a statement that is prepared once and for all.
func (s *Store) stmt(ctx context.Context, tx *sql.Tx, text string) (statement, error) {
	s.prepared.mu.Lock()
	kept := s.prepared.byText[text]
	if kept == nil && len(s.prepared.byText)+len(s.prepared.wanted) < maxPrepared {
		s.prepared.wanted = append(s.prepared.wanted, text)
	}
	s.prepared.mu.Unlock()
	if kept != nil {
		return statement{tx.StmtContext(ctx, kept)}, nil
	}
	of, err := tx.PrepareContext(ctx, text)
	return statement{of}, err
}

// query runs one of the statements that every event passes through.
func (s *Store) query(ctx context.Context, tx *sql.Tx, text string, args ...any) (*sql.Rows, error) {
	if s.postgres() {
		return tx.QueryContext(ctx, text, args...)
	}
	stmt, err := s.stmt(ctx, tx, text)
	if err != nil {
		return nil, err
	}
	return stmt.query(ctx, args...)
}

// prepare prepares what transactions wanted and did not find. What cannot be is
// wanted again.
func (s *Store) prepare(ctx context.Context) {
	s.prepared.mu.Lock()
	wanted := s.prepared.wanted
	s.prepared.wanted = nil
	s.prepared.mu.Unlock()
	for _, text := range wanted {
		stmt, err := s.write.PrepareContext(ctx, text) //nolint:sqlclosecheck // it is kept
		if err != nil {
			return
		}
		s.prepared.mu.Lock()
		if s.prepared.byText[text] == nil {
			s.prepared.byText[text], stmt = stmt, nil
		}
		s.prepared.mu.Unlock()
		if stmt != nil {
			_ = stmt.Close() // another one was quicker
		}
	}
}

// unwatched is for SQLite's short statements within a transaction: its driver
// starts a goroutine for each to see whether the context ends.
func (s *Store) unwatched(ctx context.Context) context.Context {
	if s.postgres() {
		return ctx
	}
	return context.WithoutCancel(ctx)
}

func (s *Store) closePrepared() (err error) {
	s.prepared.mu.Lock()
	defer s.prepared.mu.Unlock()
	for _, stmt := range s.prepared.byText {
		err = errors.Join(err, stmt.Close())
	}
	clear(s.prepared.byText)
	return err
}

// preparedTx is an outbox.Tx whose statements are kept.
type preparedTx struct {
	s  *Store
	tx *sql.Tx
}

func (t preparedTx) Exec(ctx context.Context, text string, args ...any) error {
	stmt, err := t.s.stmt(ctx, t.tx, text)
	if err == nil {
		_, err = stmt.exec(ctx, args...)
	}
	return err
}

func (t preparedTx) Query(ctx context.Context, each func(scan func(...any) error) error, text string, args ...any) error {
	rows, err := t.s.query(ctx, t.tx, text, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
