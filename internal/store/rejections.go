package store

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"
)

// Kinds of what is counted by source.
const (
	CountReceived = "received" // webhooks that were taken; What is empty
	CountRejected = "rejected" // those that were not; What is the reason
	CountUnmapped = "unmapped" // those whose type means nothing here; What is the type
)

// Types that mean nothing are a stranger's words, so only so many of them are
// told apart for each source.
const (
	MaxUnmappedTypes = 50
	OtherTypes       = "other" // stands for the rest
)

// A SourceCount is how often something happened to a source's webhooks.
type SourceCount struct {
	SourceID string
	Kind     string
	What     string
	N        int64
	LastAt   time.Time
}

// AddSourceCounts adds to what was counted before, here and by other processes.
// Counts of sources that are gone are dropped.
func (s *Store) AddSourceCounts(ctx context.Context, counts []SourceCount) error {
	if len(counts) == 0 {
		return nil
	}
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		bounded, err := s.boundTypes(ctx, tx, counts)
		if err != nil {
			return err
		}
		for _, c := range bounded {
			_, err := tx.ExecContext(ctx, `INSERT INTO source_counts (source_id, kind, what, n, last_at)
SELECT id, CAST($2 AS text), CAST($3 AS text), CAST($4 AS bigint), CAST($5 AS bigint) FROM sources WHERE id = $1
ON CONFLICT (source_id, kind, what) DO UPDATE SET n = source_counts.n + excluded.n,
  last_at = CASE WHEN excluded.last_at > source_counts.last_at THEN excluded.last_at ELSE source_counts.last_at END`,
				c.SourceID, c.Kind, c.What, c.N, c.LastAt.UnixMicro())
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("count webhooks: %w", err)
	}
	return nil
}

// boundTypes counts as OtherTypes those types for which there is no room, and
// sorts: processes that count at the same time must not wait for each other in
// a circle.
func (s *Store) boundTypes(ctx context.Context, tx *sql.Tx, counts []SourceCount) ([]SourceCount, error) {
	type key struct{ source, kind, what string }
	var sources []string
	for _, c := range counts {
		if c.Kind == CountUnmapped {
			sources = append(sources, c.SourceID)
		}
	}
	known, used := make(map[key]bool), make(map[string]int)
	if len(sources) > 0 {
		all, err := s.sourceCounts(ctx, tx, sources, CountUnmapped)
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			if c.What != OtherTypes {
				known[key{c.SourceID, c.Kind, c.What}] = true
				used[c.SourceID]++
			}
		}
	}
	sums := make(map[key]SourceCount, len(counts))
	for _, c := range counts {
		k := key{c.SourceID, c.Kind, c.What}
		if c.Kind == CountUnmapped && c.What != OtherTypes && !known[k] {
			if used[c.SourceID] < MaxUnmappedTypes {
				known[k] = true
				used[c.SourceID]++
			} else {
				k.what = OtherTypes
			}
		}
		sum := sums[k]
		sum.SourceID, sum.Kind, sum.What, sum.N = k.source, k.kind, k.what, sum.N+c.N
		if c.LastAt.After(sum.LastAt) {
			sum.LastAt = c.LastAt
		}
		sums[k] = sum
	}
	out := make([]SourceCount, 0, len(sums))
	for _, sum := range sums {
		out = append(out, sum)
	}
	slices.SortFunc(out, func(a, b SourceCount) int {
		return cmp.Or(cmp.Compare(a.SourceID, b.SourceID), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.What, b.What))
	})
	return out, nil
}

// sourceCounts reads the counts of sources, of one kind or of all, the most
// frequent first.
func (s *Store) sourceCounts(ctx context.Context, q querier, ids []string, kind string) ([]SourceCount, error) {
	return query(ctx, q, "counts", func(c *SourceCount, scan func(...any) error) error {
		var last int64
		if err := scan(&c.SourceID, &c.Kind, &c.What, &c.N, &last); err != nil {
			return err
		}
		c.LastAt = time.UnixMicro(last)
		return nil
	}, `SELECT source_id, kind, what, n, last_at FROM source_counts
WHERE source_id `+s.in("$1", "text")+` AND (CAST($2 AS text) = '' OR kind = $2) ORDER BY n DESC, what`, list(s.dialect, ids), kind)
}

// addCounts sets what was counted of sources.
func (s *Store) addCounts(ctx context.Context, all []Source) error {
	if len(all) == 0 {
		return nil
	}
	index := make(map[string]*Source, len(all))
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
		index[ids[i]] = &all[i]
	}
	counts, err := s.sourceCounts(ctx, s.read, ids, "")
	if err != nil {
		return err
	}
	for _, c := range counts {
		src := index[c.SourceID]
		switch c.Kind {
		case CountReceived:
			src.Received, src.LastEventAt = c.N, c.LastAt
		case CountRejected:
			src.Rejections = append(src.Rejections, c)
		case CountUnmapped:
			src.Unmapped = append(src.Unmapped, c)
		}
	}
	return nil
}
