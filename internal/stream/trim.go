package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Trimmer removes from a stream what every one of its groups has finished. Any
// number may run on the same stream.
type Trimmer struct {
	Client redis.UniversalClient
	Stream string
	Every  time.Duration // 0: 1 s
	Log    *slog.Logger  // nil: discard
}

// Run trims until ctx ends, and then returns nil.
func (t *Trimmer) Run(ctx context.Context) error {
	tick := time.NewTicker(cmp.Or(t.Every, time.Second))
	defer tick.Stop()
	trouble := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		_, err := t.Trim(ctx)
		if err != nil && !trouble && ctx.Err() == nil {
			logger(t.Log).WarnContext(ctx, "cannot trim stream", "stream", t.Stream, "error", err)
		}
		trouble = err != nil
	}
}

// Trim removes what can go now and returns how many entries that were. Redis
// drops whole nodes of the stream only, so that some finished entries (100, as
// Redis is configured by default) stay. A stream without groups is left alone.
func (t *Trimmer) Trim(ctx context.Context) (int64, error) {
	low, err := safeMinID(ctx, t.Client, t.Stream)
	if err != nil {
		return 0, fmt.Errorf("trim stream: %w", err)
	}
	if low == "" {
		return 0, nil
	}
	total := int64(0)
	for {
		// One call stops after 100 nodes, however many could go.
		n, err := t.Client.XTrimMinIDApprox(ctx, t.Stream, low, 0).Result()
		total += n
		if err != nil {
			return total, fmt.Errorf("trim stream: %w", err)
		}
		if n == 0 {
			return total, nil
		}
	}
}

// safeMinID returns the lowest id that a group still needs, "" when there is
// nothing to go by. For each group that is its lowest pending id, else the last
// delivered one. Both only rise, so that the answer stays safe while it travels.
func safeMinID(ctx context.Context, c redis.UniversalClient, stream string) (string, error) {
	groups, err := c.XInfoGroups(ctx, stream).Result()
	if err != nil {
		if redis.HasErrorPrefix(err, "no such key") {
			return "", nil
		}
		return "", err
	}
	low := ""
	for _, g := range groups {
		id := g.LastDeliveredID
		p, err := c.XPending(ctx, stream, g.Name).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return "", err
		}
		if p != nil && p.Count > 0 && idLess(p.Lower, id) {
			id = p.Lower
		}
		if low == "" || idLess(id, low) {
			low = id
		}
	}
	return low, nil
}

// idLess compares entry ids, <milliseconds>-<sequence>.
func idLess(a, b string) bool {
	am, as := splitID(a)
	bm, bs := splitID(b)
	return am < bm || am == bm && as < bs
}

func splitID(id string) (ms, seq uint64) {
	left, right, _ := strings.Cut(id, "-")
	ms, _ = strconv.ParseUint(left, 10, 64)
	seq, _ = strconv.ParseUint(right, 10, 64)
	return ms, seq
}
