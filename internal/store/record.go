package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Result is what came of one attempt and what follows from it. The attempt's
// Number is what its owner believes; Record counts itself.
type Result struct {
	Attempt
	EndpointID string
	OrderKey   string

	State        State // Succeeded, Failed, Canceled, or Pending for another try
	DueAt        time.Time
	Tries        int
	Outcome      string
	Receipt      string // JSON
	ReceiptError string
}

// Record writes attempts, the deliveries' new states and next due times, and
// releases the deliveries that waited for those now final: one transaction. It
// returns the endpoints at which something became due.
//
// A delivery that is no longer in the owner's hands keeps its state, because
// someone decided otherwise meanwhile; its attempt is recorded all the same.
func (s *Store) Record(ctx context.Context, owner string, results []Result) (endpointIDs []string, err error) {
	// Rows are locked in the order of persons, as the router does.
	slices.SortFunc(results, func(a, b Result) int {
		return cmp.Or(cmp.Compare(a.EndpointID, b.EndpointID), cmp.Compare(a.OrderKey, b.OrderKey))
	})
	if s.postgres() {
		err = s.again(ctx, func() error {
			endpointIDs, err = s.recordPostgres(ctx, owner, results)
			return err
		})
		return endpointIDs, err
	}
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		ctx, now := s.unwatched(ctx), s.now().UnixMicro()
		kept, err := s.recordSQLite(ctx, tx, owner, results, now)
		if err == nil {
			err = s.recordLate(ctx, tx, results, kept, now)
		}
		if err != nil {
			return fmt.Errorf("record attempts: %w", err)
		}
		var groups []group
		for i, r := range results {
			if kept[i] && r.State >= Succeeded {
				groups = append(groups, group{r.EndpointID, r.OrderKey})
			}
		}
		endpointIDs, err = s.release(ctx, tx, groups)
		return err
	})
	return endpointIDs, err
}

// Attempts are numbered as they are recorded: while one was made, the result of
// an earlier one may have been recorded late, by an owner that has lost the
// delivery, or a second time, because its commit's answer got lost.
const (
	insertAttempt = `INSERT INTO attempts (delivery_id, number, started_at, duration_us, status, class, error, answer, address) `
	insertValues  = insertAttempt + `VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
	lateUpdate    = `UPDATE deliveries SET attempts = attempts + 1, last_status = $1, updated_at = $2 WHERE id = $3 RETURNING attempts`
)

// recordPostgres records in one round trip. Attempts whose delivery somebody
// decided about meanwhile follow in a transaction of their own.
func (s *Store) recordPostgres(ctx context.Context, owner string, results []Result) (released []string, err error) {
	var groups []group
	index := make(map[string]int, len(results))
	for i, r := range results {
		index[r.DeliveryID] = i
		if r.State >= Succeeded {
			groups = append(groups, group{r.EndpointID, r.OrderKey})
		}
	}
	kept := make([]bool, len(results))
	now := s.now().UnixMicro()
	var b pgx.Batch
	b.Queue(recordText, recordArgs(owner, results, now)...).Query(func(rows pgx.Rows) error {
		var id string
		for rows.Next() {
			if err := rows.Scan(&id); err != nil {
				return err
			}
			kept[index[id]] = true
		}
		return rows.Err()
	})
	if len(groups) > 0 {
		endpoints, keys := groupColumns(groups)
		// One whose delivery was decided about is looked at in vain.
		b.Queue(releaseText, now, endpoints, keys).Query(func(rows pgx.Rows) error {
			var endpoint string
			for rows.Next() {
				if err := rows.Scan(&endpoint); err != nil {
					return err
				}
				released = append(released, endpoint)
			}
			return rows.Err()
		})
	}
	if err := s.pipeline(ctx, &b); err != nil {
		return nil, fmt.Errorf("record attempts: %w", err)
	}
	if !slices.Contains(kept, false) {
		return released, nil
	}
	if err := s.Tx(ctx, func(tx *sql.Tx) error { return s.recordLate(ctx, tx, results, kept, now) }); err != nil {
		return nil, fmt.Errorf("record attempts: %w", err)
	}
	return released, nil
}

// recordLate writes the attempts whose delivery was no longer in the owner's
// hands.
func (s *Store) recordLate(ctx context.Context, tx *sql.Tx, results []Result, kept []bool, now int64) error {
	for i, r := range results {
		if kept[i] {
			continue
		}
		var number int
		err := tx.QueryRowContext(ctx, lateUpdate, r.Status, now, r.DeliveryID).Scan(&number)
		if errors.Is(err, sql.ErrNoRows) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, insertValues, r.DeliveryID, number, r.StartedAt.UnixMicro(), r.Duration.Microseconds(), r.Status, r.Class,
			r.Error, bytesOf(r.Answer), r.Address); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) recordSQLite(ctx context.Context, tx *sql.Tx, owner string, results []Result, now int64) ([]bool, error) {
	kept := make([]bool, len(results))
	insert, err := s.stmt(ctx, tx, insertAttempt+`SELECT id, attempts, $2, $3, $4, $5, $6, $7, $8 FROM deliveries WHERE id = $1`)
	if err != nil {
		return nil, err
	}
	update, err := s.stmt(ctx, tx, `UPDATE deliveries SET state = $1, due_at = $2, owner = '', attempts = attempts + 1, tries = $3, last_status = $4,
  last_error = $5, outcome = $6, receipt = $7, receipt_error = $8, updated_at = $9 WHERE id = $10 AND state = 1 AND owner = $11`)
	if err != nil {
		return nil, err
	}
	for i, r := range results {
		res, err := update.exec(ctx, r.State, r.DueAt.UnixMicro(), r.Tries, r.Status,
			errorClass(r), r.Outcome, r.Receipt, r.ReceiptError, now, r.DeliveryID, owner)
		if err != nil {
			return nil, err
		}
		n, err := res.RowsAffected()
		if err != nil {
			return nil, err
		}
		if kept[i] = n == 1; !kept[i] {
			continue
		}
		if _, err := insert.exec(ctx, r.DeliveryID, r.StartedAt.UnixMicro(), r.Duration.Microseconds(), r.Status, r.Class,
			r.Error, bytesOf(r.Answer), r.Address); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

const recordText = `WITH u AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[],
    $7::text[], $8::bytea[], $9::text[], $10::smallint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[], $16::text[])
  AS u(id, started_at, duration_us, status, class, error, answer, address, state, due_at, tries, last_error, outcome, receipt, receipt_error)),
d AS (UPDATE deliveries d SET state = u.state, due_at = u.due_at, owner = '', attempts = d.attempts + 1, tries = u.tries, last_status = u.status,
    last_error = u.last_error, outcome = u.outcome, receipt = u.receipt, receipt_error = u.receipt_error, updated_at = $1
  FROM u WHERE d.id = u.id AND d.state = 1 AND d.owner = $17 RETURNING d.id, d.attempts),
a AS (` + insertAttempt + `SELECT u.id, d.attempts, started_at, duration_us, status, class, error, answer, address FROM u JOIN d ON d.id = u.id)
SELECT id FROM d`

func recordArgs(owner string, results []Result, now int64) []any {
	n := len(results)
	ids, started, took := make([]string, n), make([]int64, n), make([]int64, n)
	status, class, errs, answers, addresses := make([]int64, n), make([]string, n), make([]string, n), make([][]byte, n), make([]string, n)
	states, due, tries, lastErrors := make([]int16, n), make([]int64, n), make([]int64, n), make([]string, n)
	outcomes, receipts, receiptErrors := make([]string, n), make([]string, n), make([]string, n)
	for i, r := range results {
		ids[i], started[i], took[i] = r.DeliveryID, r.StartedAt.UnixMicro(), r.Duration.Microseconds()
		status[i], class[i], errs[i], answers[i], addresses[i] = int64(r.Status), r.Class, r.Error, bytesOf(r.Answer), r.Address
		states[i], due[i], tries[i], lastErrors[i] = int16(r.State), r.DueAt.UnixMicro(), int64(r.Tries), errorClass(r)
		outcomes[i], receipts[i], receiptErrors[i] = r.Outcome, r.Receipt, r.ReceiptError
	}
	return []any{now, ids, started, took, status, class, errs, answers, addresses, states, due, tries, lastErrors, outcomes, receipts, receiptErrors, owner}
}

func errorClass(r Result) string {
	if r.State == Succeeded {
		return ""
	}
	return r.Class
}

// bytesOf keeps an empty answer from becoming NULL.
func bytesOf(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}
