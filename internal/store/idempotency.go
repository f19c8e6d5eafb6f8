package store

import (
	"context"
	"fmt"
	"time"
)

// ForgetRequests forgets idempotency keys that were used before a time, at most
// limit of them, and tells how many.
func (s *Store) ForgetRequests(ctx context.Context, before time.Time, limit int) (int64, error) {
	res, err := s.write.ExecContext(ctx, `DELETE FROM idempotency_keys WHERE (api_key_id, key) IN (
  SELECT api_key_id, key FROM idempotency_keys WHERE created_at < $1 ORDER BY created_at LIMIT $2)`, before.UnixMicro(), limit)
	if err != nil {
		return 0, fmt.Errorf("forget requests: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return 0, fmt.Errorf("forget requests: %w", err)
	}
	return n, nil
}
