package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Ahead tells whether the last event was recorded later than now, by more than
// the clocks of several machines differ: then the clock was set back.
func (s *Store) Ahead(ctx context.Context, tolerance time.Duration) (bool, error) {
	var at int64
	err := s.read.QueryRowContext(ctx, `SELECT recorded_at FROM handover_events ORDER BY seq DESC LIMIT 1`).Scan(&at)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read last event: %w", err)
	}
	return at > s.now().Add(tolerance).UnixMicro(), nil
}

// SetBack makes deliveries wait no longer for a clock that was set back than they
// would have without it: those that were last changed, or tried, later than now
// get the rest of their wait from now on. It may be repeated.
func (s *Store) SetBack(ctx context.Context, tolerance time.Duration) (int64, error) {
	const tried = `(SELECT a.started_at FROM attempts a WHERE a.delivery_id = deliveries.id AND a.number = deliveries.attempts)`
	now := s.now()
	res, err := s.write.ExecContext(ctx, `UPDATE deliveries SET updated_at = $1, due_at = $1 + CASE
  WHEN updated_at <= $2 THEN due_at - `+tried+`
  WHEN due_at > updated_at THEN due_at - updated_at
  ELSE 0 END
WHERE state = 0 AND due_at > $1 AND (updated_at > $2 OR `+tried+` BETWEEN $2 AND due_at)`, now.UnixMicro(), now.Add(tolerance).UnixMicro())
	if err != nil {
		return 0, fmt.Errorf("follow the clock: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("follow the clock: %w", err)
	}
	return n, nil
}
