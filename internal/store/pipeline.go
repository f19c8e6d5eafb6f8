package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// A transaction of BEGIN, statement and COMMIT is three round trips to
// PostgreSQL, and on a busy machine each is two waits for a processor. What an
// event passes through is therefore written as statements that need no answer in
// between, sent in one.

// errUncommon says that a short way is not for this case; nothing was changed.
var errUncommon = errors.New("not the common case")

// pipeline sends statements to PostgreSQL in one round trip. They are one
// transaction, committed when it returns nil, and each sees what was committed
// before it began.
func (s *Store) pipeline(ctx context.Context, b *pgx.Batch) (err error) {
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	return sendBatch(ctx, conn, b)
}

// sendBatch sends statements on a connection, in its transaction if it has one.
func sendBatch(ctx context.Context, conn *sql.Conn, b *pgx.Batch) error {
	return conn.Raw(func(driver any) error {
		c, ok := driver.(*stdlib.Conn)
		if !ok {
			return fmt.Errorf("pipeline over %T", driver)
		}
		return c.Conn().SendBatch(ctx, b).Close()
	})
}

// pipelined is an outbox.Tx of a single statement that is committed with it.
type pipelined struct{ s *Store }

func (pipelined) Arrays() bool { return true }
func (pipelined) AllNew() bool { return true }

func (pipelined) Exec(context.Context, string, ...any) error { return errUncommon }

func (p pipelined) Query(ctx context.Context, each func(scan func(...any) error) error, query string, args ...any) error {
	var b pgx.Batch
	b.Queue(query, args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			if err := each(rows.Scan); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	return p.s.pipeline(ctx, &b)
}
