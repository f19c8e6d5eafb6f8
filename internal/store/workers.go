package store

import (
	"context"
	"fmt"
	"time"

	"github.com/handover-dev/handover/outbox"
)

// clock is the database's clock in microseconds, so that leases do not compare
// the clocks of different machines. SQLite's is this machine's.
func (s *Store) clock() string {
	if s.postgres() {
		return "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
	}
	return fmt.Sprint(s.now().UnixMicro())
}

// A Worker is one start of a process that works on this database. What it
// claims carries its owner's name; while it lives it renews its lease, and when
// it does not, others take over what it held.
type Worker struct {
	Owner      string
	Name       string // the same after a restart
	Version    string
	StartedAt  time.Time
	Lease      time.Duration // from each renewal
	LeaseUntil time.Time     // as read
}

// Enlist registers a worker. Earlier starts of the same name are gone, so what
// they held is due at once.
func (s *Store) Enlist(ctx context.Context, w Worker) error {
	rows, err := s.write.QueryContext(ctx, `SELECT owner FROM workers WHERE name = $1 AND owner <> $2`, w.Name, w.Owner)
	earlier, err := appendStrings(nil, rows, err)
	if err != nil {
		return fmt.Errorf("find earlier starts: %w", err)
	}
	if _, err := s.write.ExecContext(ctx, `INSERT INTO workers (owner, name, version, started_at, lease_until) VALUES ($1, $2, $3, $4, `+s.clock()+` + $5)`,
		w.Owner, w.Name, w.Version, w.StartedAt.UnixMicro(), w.Lease.Microseconds()); err != nil {
		return fmt.Errorf("enlist worker: %w", err)
	}
	return s.Retire(ctx, earlier...)
}

// Renew extends a worker's lease. If its row is gone, others believed it dead
// and took its work; it is enlisted anew.
func (s *Store) Renew(ctx context.Context, w Worker) error {
	_, err := s.write.ExecContext(ctx, `INSERT INTO workers (owner, name, version, started_at, lease_until) VALUES ($1, $2, $3, $4, `+s.clock()+` + $5)
ON CONFLICT (owner) DO UPDATE SET lease_until = excluded.lease_until`,
		w.Owner, w.Name, w.Version, w.StartedAt.UnixMicro(), w.Lease.Microseconds())
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return nil
}

// Retire gives back all that workers hold who are gone, and forgets them.
func (s *Store) Retire(ctx context.Context, owners ...string) error {
	for _, owner := range owners {
		if _, err := outbox.Release(ctx, s.write, owner, s.now()); err != nil {
			return err
		}
		if _, err := s.TakeBack(ctx, owner); err != nil {
			return err
		}
		// Last, so that a worker that dies in here is not forgotten with work unreturned.
		if _, err := s.write.ExecContext(ctx, `DELETE FROM workers WHERE owner = $1`, owner); err != nil {
			return fmt.Errorf("forget worker: %w", err)
		}
	}
	return nil
}

// RetireExpired retires the workers, other than the one who asks, whose lease has
// ended, and those who hold work but are not known at all.
func (s *Store) RetireExpired(ctx context.Context, self string) (owners []string, err error) {
	rows, err := s.write.QueryContext(ctx, `SELECT owner FROM workers WHERE owner <> $1 AND lease_until < `+s.clock(), self)
	if owners, err = appendStrings(nil, rows, err); err != nil {
		return nil, fmt.Errorf("find expired workers: %w", err)
	}
	rows, err = s.write.QueryContext(ctx, `WITH RECURSIVE o AS (SELECT min(owner) AS owner FROM deliveries WHERE state = 1
  UNION ALL SELECT (SELECT min(d.owner) FROM deliveries d WHERE d.state = 1 AND d.owner > o.owner) FROM o WHERE o.owner IS NOT NULL)
SELECT owner FROM o WHERE owner IS NOT NULL AND owner <> $1 AND owner NOT IN (SELECT owner FROM workers)`, self)
	if owners, err = appendStrings(owners, rows, err); err != nil {
		return nil, fmt.Errorf("find unknown workers: %w", err)
	}
	return owners, s.Retire(ctx, owners...)
}

// Workers lists the living, oldest first.
func (s *Store) Workers(ctx context.Context) ([]Worker, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT owner, name, version, started_at, lease_until FROM workers ORDER BY started_at, owner`)
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	defer rows.Close()
	var out []Worker
	for rows.Next() {
		var w Worker
		var started, lease int64
		if err := rows.Scan(&w.Owner, &w.Name, &w.Version, &started, &lease); err != nil {
			return nil, fmt.Errorf("list workers: %w", err)
		}
		w.StartedAt, w.LeaseUntil = time.UnixMicro(started), time.UnixMicro(lease)
		out = append(out, w)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return out, nil
}
