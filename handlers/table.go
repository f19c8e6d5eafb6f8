package handlers

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Schema creates the table of [Table], on PostgreSQL and SQLite alike. It
// leaves alone what is there already; on PostgreSQL, do not run it twice at the
// same time.
const Schema = `CREATE TABLE IF NOT EXISTS handover_seen (
  id        text   NOT NULL PRIMARY KEY,
  body_hash text   NOT NULL,
  answer    text,           -- NULL while the function runs
  at        bigint NOT NULL -- Unix microseconds: when it was answered, or until when a claim without answer holds
);
CREATE INDEX IF NOT EXISTS handover_seen_at ON handover_seen (at);
`

// Table is a [TxSeen] in a table of the app's own database, see [Schema]: it
// holds across restarts and for all processes that share the database.
// PostgreSQL 14 and SQLite 3.35 and later are tested; open SQLite with a
// busy_timeout.
//
// With [OnTx], the answer is recorded in the transaction of the app's work:
// both are there or neither is. With [On], the table holds a claim while the
// function runs, so that a copy of the message is turned away with [ErrBusy]
// meanwhile; if the process dies, the claim ends ten seconds after the context
// of the function would have, and the function runs again.
type Table struct {
	DB  *sql.DB
	Now func() time.Time // nil = time.Now
}

// grace is how long the record of an answer may take once the work is done.
const grace = 10 * time.Second

// Do implements [Seen]. It holds no transaction while run runs.
func (t *Table) Do(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context) ([]byte, error)) (answer []byte, err error) {
	until := t.now().Add(time.Minute)
	if deadline, ok := ctx.Deadline(); ok {
		until = deadline
	}
	c := claim{id, hex.EncodeToString(body[:]), until.Add(grace).UnixMicro()}
	answer, err = c.take(ctx, t.DB, t.now())
	if err != nil || answer != nil {
		return answer, err
	}
	done := false
	defer func() { // also when run panics
		// The work is done or not, whatever has become of ctx meanwhile.
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if done {
			err = c.answer(after, t.DB, answer, t.now())
		} else {
			_ = c.drop(after, t.DB) // else it runs out
		}
	}()
	answer, err = run(ctx)
	done = err == nil
	return answer, err
}

// DoTx implements [TxSeen]. Copies of the message wait for each other, on
// PostgreSQL at the row and on SQLite at the database.
func (t *Table) DoTx(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context, *sql.Tx) ([]byte, error)) ([]byte, error) {
	tx, err := t.DB.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing, and a broken connection rolls back by itself

	// The claim cannot be seen outside before its answer can.
	c := claim{id, hex.EncodeToString(body[:]), t.now().UnixMicro()}
	answer, err := c.take(ctx, tx, t.now())
	if err != nil || answer != nil {
		return answer, err
	}
	if answer, err = run(ctx, tx); err != nil {
		return nil, err
	}
	if err := c.answer(ctx, tx, answer, t.now()); err != nil {
		return nil, err
	}
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("commit transaction: %w", err)
	}
	return answer, nil
}

// Forget deletes what was answered before a time and returns how many rows
// that were. Call it now and then, with a time that lies further back than
// the sender can send again: Handover keeps events for 90 days.
func (t *Table) Forget(ctx context.Context, before time.Time) (int64, error) {
	n, err := exec(ctx, t.DB, `DELETE FROM handover_seen WHERE at < $1`, before.UnixMicro())
	if err != nil {
		return 0, fmt.Errorf("delete old answers: %w", err)
	}
	return n, nil
}

func (t *Table) now() time.Time {
	if t.Now != nil {
		return t.Now()
	}
	return time.Now()
}

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// claim is the right to handle a message, until a time. No two claims to one
// message end at the same time, so the time is also the proof of ownership.
type claim struct {
	id, hash string
	until    int64
}

// take returns the answer if there is one, and else makes the claim. The
// insert comes first: on PostgreSQL it waits for a concurrent transaction of the
// same id, on SQLite it takes the write lock before anything is read.
func (c claim) take(ctx context.Context, q querier, now time.Time) ([]byte, error) {
	n, err := exec(ctx, q, `INSERT INTO handover_seen (id, body_hash, at) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING`, c.id, c.hash, c.until)
	if err != nil {
		return nil, fmt.Errorf("claim message: %w", err)
	}
	if n == 1 {
		return nil, nil
	}
	var hash string
	var answer sql.NullString
	var at int64
	err = q.QueryRowContext(ctx, `SELECT body_hash, answer, at FROM handover_seen WHERE id = $1`, c.id).Scan(&hash, &answer, &at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, ErrBusy // it failed elsewhere between the two statements
	case err != nil:
		return nil, fmt.Errorf("look up message: %w", err)
	case hash != c.hash:
		return nil, ErrConflict
	case answer.Valid:
		return []byte(answer.String), nil
	case at >= now.UnixMicro():
		return nil, ErrBusy
	}
	n, err = exec(ctx, q, `UPDATE handover_seen SET at = $1 WHERE id = $2 AND at = $3 AND answer IS NULL`, c.until, c.id, at)
	if err != nil {
		return nil, fmt.Errorf("take over message: %w", err)
	}
	if n == 0 {
		return nil, ErrBusy
	}
	return nil, nil
}

func (c claim) answer(ctx context.Context, q querier, answer []byte, now time.Time) error {
	n, err := exec(ctx, q, `UPDATE handover_seen SET answer = $1, at = $2 WHERE id = $3 AND at = $4 AND answer IS NULL`,
		string(answer), now.UnixMicro(), c.id, c.until)
	if err != nil {
		return fmt.Errorf("record answer: %w", err)
	}
	if n == 0 {
		return ErrBusy // the claim had run out and another process has taken over
	}
	return nil
}

func (c claim) drop(ctx context.Context, q querier) error {
	_, err := exec(ctx, q, `DELETE FROM handover_seen WHERE id = $1 AND at = $2 AND answer IS NULL`, c.id, c.until)
	return err
}

func exec(ctx context.Context, q querier, query string, args ...any) (int64, error) {
	res, err := q.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
