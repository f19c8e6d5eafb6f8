// Package stream carries messages from publishers to consumer groups, as a
// Watermill message.Publisher and message.Subscriber: through Redis Streams
// (Publisher, Subscriber, Trimmer), or inside one process (InProcess).
//
// The stream is transport, not truth: whoever publishes keeps its own record
// until the message's work is recorded elsewhere, and publishes again what got
// lost with a Redis.
//
// # On Redis
//
// A topic is a stream, a message an entry with flat fields: u (UUID), p
// (payload) and one m:<key> per metadata key. All is there to see:
//
//	redis-cli XRANGE handover.events - + COUNT 1
//	redis-cli XINFO GROUPS handover.events
//	redis-cli XPENDING handover.events router
//	redis-cli XRANGE handover.events.dead - +
//
// Redis 6.2 is the oldest that will do. Clients are the caller's: nothing here
// closes them. Each subscription keeps a connection busy with blocked reads, so
// that PoolSize must exceed the number of subscriptions; Open sets what suits.
//
// # Guarantees
//
//   - At least once: a published message reaches every group of its topic until
//     a handler of that group acks it. Duplicates occur after network errors,
//     crashes and lost acks; consumers recognize them by the message's UUID.
//   - Publish returns after Redis has answered. What Redis answered is as durable
//     as Redis is configured to be, no more.
//   - Messages whose consumer died, or was cut off for MinIdle, go to another
//     consumer. A living consumer keeps its messages however long it works.
//   - A nack delays its own message only. A message that cannot be decoded, or
//     was delivered MaxDeliveries times, moves to the stream <topic>.dead with
//     its fields as they were.
//   - A subscription ends with its context or with Close, never by itself, and
//     outlasts restarts, flushes and outages of Redis. A group that vanished is
//     created anew at the start of the stream, and OnLost is told.
//   - No more than MaxInFlight messages of a subscription are unfinished at a
//     time. This also bounds the goroutines of a Watermill Router.
//   - Trimming removes only what every group has finished.
//   - Order is that of the stream with MaxInFlight 1 and one consumer; otherwise
//     messages overtake each other.
//   - At the end of a subscription its channel closes at once; handlers have
//     Grace to finish, and their acks count; the rest goes back to the group at
//     once.
package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// ErrClosed reports use of a closed publisher or subscriber.
var ErrClosed = errors.New("stream is closed")

// Stats counts what has happened since the start.
type Stats struct {
	Published   uint64 // messages accepted by Redis or by every queue
	Read        uint64 // messages taken from the stream for the first time
	Redelivered uint64 // deliveries after a nack or a consumer's death
	Acked       uint64 // messages finished
	Dead        uint64 // entries moved to the dead letter stream
}

// Open returns a client for a redis://, rediss:// or unix:// URL with what this
// package needs: contexts bound commands, and there are connections enough for
// blocked reads.
func Open(url string) (*redis.Client, error) {
	opts, err := redis.ParseURL(url)
	if err != nil {
		return nil, errors.New("open redis: not a redis URL") // the cause would print the password
	}
	opts.ContextTimeoutEnabled = true
	// Notices of a commercial edition's maintenance; asking a plain Redis for
	// them costs a command per connection and a line in the log.
	opts.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	opts.PoolSize = max(opts.PoolSize, 64)
	return redis.NewClient(opts), nil
}

// EnsureGroup creates the consumer group of a stream, and the stream, unless
// they exist, and reports whether it did. The group begins with the oldest entry
// that the stream still has. Create all groups before the first message is
// published: a Trimmer does not wait for groups to come.
func EnsureGroup(ctx context.Context, c redis.UniversalClient, stream, group string) (created bool, err error) {
	err = c.XGroupCreateMkStream(ctx, stream, group, "0").Err()
	switch {
	case err == nil:
		return true, nil
	case redis.HasErrorPrefix(err, "BUSYGROUP"):
		return false, nil
	}
	return false, fmt.Errorf("create consumer group: %w", err)
}

// Backlog returns how many entries of a stream a group has not finished: those
// not yet delivered and those delivered but not acked. Where Redis cannot tell
// (before 7.0, or after deletions in the stream), it counts all entries that the
// stream holds, which is never too few.
func Backlog(ctx context.Context, c redis.UniversalClient, stream, group string) (int64, error) {
	groups, err := c.XInfoGroups(ctx, stream).Result()
	if err != nil {
		return 0, fmt.Errorf("read backlog: %w", err)
	}
	for _, g := range groups {
		if g.Name != group {
			continue
		}
		if g.Lag > 0 {
			return g.Lag + g.Pending, nil
		}
		info, err := c.XInfoStream(ctx, stream).Result()
		if err != nil {
			return 0, fmt.Errorf("read backlog: %w", err)
		}
		if g.LastDeliveredID == info.LastGeneratedID {
			return g.Pending, nil
		}
		if g.Lag < 0 || g.EntriesRead == 0 { // unknown, or a server that does not count
			return max(info.Length, g.Pending), nil
		}
		return g.Pending, nil
	}
	return 0, fmt.Errorf("read backlog: no group %s", group)
}

func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// backoff paces tries against a Redis that does not answer.
type backoff struct{ next time.Duration }

const backoffLimit = 2 * time.Second

// wait sleeps a little longer each time and reports false when done is closed.
func (b *backoff) wait(done <-chan struct{}) bool {
	b.next = min(max(2*b.next, 20*time.Millisecond), backoffLimit)
	t := time.NewTimer(b.next)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}
