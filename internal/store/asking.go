package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// asking collects statements of a transaction that need no answers of each other,
// and sends them together where the database takes that: see pipeline.go.
type asking struct {
	s      *Store
	tx     *sql.Tx
	conn   *sql.Conn // that of tx, on PostgreSQL
	queued []statementAsked
}

// statementAsked is a statement and what to do with its rows.
type statementAsked struct {
	what string
	text string
	args []any
	each func(scan func(...any) error) error // nil: there are none
}

func (a *asking) ask(q statementAsked) { a.queued = append(a.queued, q) }

// send runs what was asked, in order, up to the first error.
func (a *asking) send(ctx context.Context) error {
	queued := a.queued
	a.queued = nil
	if len(queued) == 0 {
		return nil
	}
	if a.s.postgres() {
		return a.sendTogether(ctx, queued)
	}
	for _, q := range queued {
		if err := a.sendAlone(ctx, q); err != nil {
			return fmt.Errorf("%s: %w", q.what, err)
		}
	}
	return nil
}

func (a *asking) sendTogether(ctx context.Context, queued []statementAsked) error {
	var b pgx.Batch
	for _, q := range queued {
		item := b.Queue(q.text, q.args...)
		if q.each == nil {
			continue
		}
		item.Query(func(rows pgx.Rows) error {
			for rows.Next() {
				if err := q.each(rows.Scan); err != nil {
					return fmt.Errorf("%s: %w", q.what, err)
				}
			}
			return rows.Err()
		})
	}
	return sendBatch(ctx, a.conn, &b)
}

func (a *asking) sendAlone(ctx context.Context, q statementAsked) (err error) {
	if q.each == nil {
		return preparedTx{a.s, a.tx}.Exec(ctx, q.text, q.args...)
	}
	rows, err := a.s.query(ctx, a.tx, q.text, q.args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := q.each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// ask queues a query whose rows are of a type.
func ask[T any](a *asking, what, text string, scan func(*T, func(...any) error) error, each func(*T), args ...any) {
	a.ask(statementAsked{what: what, text: text, args: args, each: func(row func(...any) error) error {
		v := new(T)
		if err := scan(v, row); err != nil {
			return err
		}
		each(v)
		return nil
	}})
}

// askingTx runs f in a transaction in which statements can be sent together.
func (s *Store) askingTx(ctx context.Context, f func(a *asking) error) error {
	if !s.postgres() {
		return s.share(ctx, func(tx *sql.Tx) error { return f(&asking{s: s, tx: tx}) })
	}
	return s.again(ctx, func() (err error) {
		conn, err := s.write.Conn(ctx)
		if err != nil {
			return fmt.Errorf("connect: %w", err)
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		tx, err := conn.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		if err := f(&asking{s: s, tx: tx, conn: conn}); err != nil {
			_ = tx.Rollback() // the first error counts
			return err
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("commit: %w: %w", ErrUnsure, err)
		}
		return nil
	})
}
