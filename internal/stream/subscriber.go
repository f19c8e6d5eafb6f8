package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"
)

// SubscriberConfig configures a Subscriber.
type SubscriberConfig struct {
	// Client is the Redis to read from. It remains the caller's.
	Client redis.UniversalClient

	// Group is the consumer group: each group gets every message, its consumers
	// share them.
	Group string

	// Consumer begins the consumers' names, for people to see; each
	// subscription adds something of its own. "": the host's name.
	Consumer string

	// MaxInFlight is how many messages of one subscription may be unfinished.
	// 0: 512.
	MaxInFlight int

	// ReadCount is how many messages one read asks for. 0: 256.
	ReadCount int

	// Block is how long a read waits for messages, and so how long the end of a
	// subscription may wait for a read. 0: 250 ms.
	Block time.Duration

	// MinIdle is how long a consumer may be silent before others take its
	// messages. 0: 30 s.
	MinIdle time.Duration

	// NackDelay is the time from a message's first nack to its next delivery; it
	// grows by as much with each nack, up to ten times. 0: 1 s.
	NackDelay time.Duration

	// MaxDeliveries is how often a message is delivered before it goes to the
	// dead letter stream. 0: 100, which takes a quarter of an hour with the default
	// NackDelay; negative: no limit.
	MaxDeliveries int

	// MaxDead bounds the dead letter stream, about: the oldest are dropped.
	// 0: 10,000.
	MaxDead int64

	// Grace is how long handlers may still work after the end of their
	// subscription; then their messages' contexts end. 0: 10 s.
	Grace time.Duration

	// OnLost is called after the group had to be created, before it is read: on
	// first use, and after Redis lost it and all that was in the stream.
	// Publish again what was published and has left no trace. It must not block.
	OnLost func()

	// OnDead is called for every entry that went to the dead letter stream. It must
	// not block.
	OnDead func(Dead)

	// Log gets outages and dead letters, never contents. nil: discard.
	Log *slog.Logger
}

// Dead tells of an entry that was moved to the dead letter stream.
type Dead struct {
	Stream string // where it came from
	ID     string // of the entry there
	Reason string
}

// Subscriber reads Redis streams in a consumer group.
type Subscriber struct {
	cfg  SubscriberConfig
	log  *slog.Logger
	subs *subscriptions

	read, redelivered, acked, dead atomic.Uint64
}

// NewSubscriber returns a Subscriber; Close it when done.
func NewSubscriber(cfg SubscriberConfig) (*Subscriber, error) {
	if cfg.Client == nil || cfg.Group == "" {
		return nil, errors.New("new subscriber: client and group are needed")
	}
	if cfg.Consumer == "" {
		cfg.Consumer, _ = os.Hostname()
	}
	cfg.MaxInFlight = cmp.Or(cfg.MaxInFlight, 512)
	cfg.ReadCount = cmp.Or(cfg.ReadCount, 256)
	cfg.Block = cmp.Or(cfg.Block, 250*time.Millisecond)
	cfg.MinIdle = cmp.Or(cfg.MinIdle, 30*time.Second)
	cfg.NackDelay = cmp.Or(cfg.NackDelay, time.Second)
	cfg.MaxDeliveries = cmp.Or(cfg.MaxDeliveries, 100)
	cfg.MaxDead = cmp.Or(cfg.MaxDead, 10_000)
	cfg.Grace = cmp.Or(cfg.Grace, 10*time.Second)
	return &Subscriber{cfg: cfg, log: logger(cfg.Log), subs: newSubscriptions()}, nil
}

// SubscribeInitialize creates the consumer group of topic.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	_, err := EnsureGroup(ctx, s.cfg.Client, topic, s.cfg.Group)
	return err
}

// Subscribe delivers the messages of topic until ctx ends or Close. A Redis that
// is away is not an error: messages come when it is back. The contexts of
// messages have ctx's values but outlive it by up to Grace, so that handlers
// can finish; they end with the message's ack or nack.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	s.ensureGroup(ctx, topic) // so that, normally, the group is there on return
	var out <-chan *message.Message
	err := s.subs.start(ctx, func(ctx context.Context) func() {
		x := newSession(ctx, s, topic)
		out = x.out
		return x.run
	})
	return out, err
}

// Backlog returns how many entries of topic the group has not finished.
func (s *Subscriber) Backlog(ctx context.Context, topic string) (int64, error) {
	return Backlog(ctx, s.cfg.Client, topic, s.cfg.Group)
}

// Stats returns counts since the start.
func (s *Subscriber) Stats() Stats {
	return Stats{Read: s.read.Load(), Redelivered: s.redelivered.Load(), Acked: s.acked.Load(), Dead: s.dead.Load()}
}

// Close ends all subscriptions and waits for their handlers, up to Grace. The
// client stays open. Close may be called again.
func (s *Subscriber) Close() error {
	s.subs.close()
	return nil
}

var (
	_ message.Subscriber           = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// ensureGroup reports whether the group exists now.
func (s *Subscriber) ensureGroup(ctx context.Context, stream string) bool {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	created, err := EnsureGroup(ctx, s.cfg.Client, stream, s.cfg.Group)
	if err != nil {
		return false
	}
	if created {
		s.log.WarnContext(ctx, "consumer group created", "stream", stream, "group", s.cfg.Group)
		if s.cfg.OnLost != nil {
			s.cfg.OnLost()
		}
	}
	return true
}

// bury moves an entry to the dead letter stream. A crash before its ack leaves a
// second copy there.
func (s *Subscriber) bury(stream string, d *delivery, reason string) error {
	e, _ := d.origin.(entry)
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	err := s.cfg.Client.XAdd(ctx, &redis.XAddArgs{
		Stream: stream + ".dead", MaxLen: s.cfg.MaxDead, Approx: true, Values: e.fields(),
	}).Err()
	if err != nil {
		return fmt.Errorf("move to dead letters: %w", err)
	}
	s.dead.Add(1)
	s.log.Error("entry moved to dead letters", "stream", stream, "entry", d.id, "reason", reason, "deliveries", d.tries)
	if s.cfg.OnDead != nil {
		s.cfg.OnDead(Dead{Stream: stream, ID: d.id, Reason: reason})
	}
	return nil
}

// lostGroup reports whether err says that the group, or its stream, is gone.
func lostGroup(err error) bool {
	return redis.HasErrorPrefix(err, "NOGROUP") || strings.HasPrefix(err.Error(), "UNBLOCKED")
}
