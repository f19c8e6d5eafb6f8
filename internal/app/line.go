package app

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/stream"
)

const (
	topic = "handover.events"
	group = "handover.router"
)

// line is the stream between the outbox and the router: Redis Streams, or a
// queue inside the process.
type line struct {
	name       string
	publisher  message.Publisher
	subscriber message.Subscriber

	client *redis.Client // nil without Redis
	trim   *stream.Trimmer
	lost   atomic.Pointer[func()]
}

func openLine(ctx context.Context, c Config) (*line, error) {
	l := &line{name: "in-process"}
	if c.RedisURL == "" {
		inside := stream.NewInProcess(stream.InProcessConfig{})
		sub := inside.Subscriber(group)
		if err := sub.SubscribeInitialize(topic); err != nil {
			return nil, fmt.Errorf("open stream: %w", err)
		}
		l.publisher, l.subscriber = inside.Publisher(), sub
		return l, nil
	}
	client, err := stream.Open(c.RedisURL)
	if err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	redis.SetLogger(quiet{}) // what fails comes back as an error, and is logged once
	l.name, l.client = "redis", client
	l.trim = &stream.Trimmer{Client: client, Stream: topic, Log: c.Log}
	l.publisher, err = stream.NewPublisher(stream.PublisherConfig{Client: client})
	if err == nil {
		err = l.subscribe(ctx, c)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open stream: %w", err), client.Close())
	}
	return l, nil
}

func (l *line) subscribe(ctx context.Context, c Config) error {
	sub, err := stream.NewSubscriber(stream.SubscriberConfig{
		Client: l.client, Group: group, Log: c.Log,
		OnLost: func() {
			if lost := l.lost.Load(); lost != nil {
				go (*lost)()
			}
		},
		OnDead: func(d stream.Dead) {
			// Its event is still in the outbox and is relayed again; see the log why it failed.
			c.Log.ErrorContext(ctx, "a message could not be routed and was set aside", "stream", d.Stream, "entry", d.ID, "reason", d.Reason)
		},
	})
	if err != nil {
		return err
	}
	l.subscriber = sub
	// Events can be taken without Redis; the group is created when it is there.
	if err := sub.SubscribeInitialize(topic); err != nil {
		c.Log.WarnContext(ctx, "redis does not answer; events are recorded and wait", "error", err)
	}
	return nil
}

// onLost says what to do when the stream lost what it held.
func (l *line) onLost(f func()) { l.lost.Store(&f) }

func (l *line) ping(ctx context.Context) error {
	if l.client == nil {
		return nil
	}
	if err := l.client.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("ask redis: %w", err)
	}
	return nil
}

// run keeps the stream short until ctx ends.
func (l *line) run(ctx context.Context) error {
	if l.trim == nil {
		<-ctx.Done()
		return nil
	}
	return l.trim.Run(ctx)
}

func (l *line) close() error {
	err := errors.Join(l.subscriber.Close(), l.publisher.Close())
	if l.client != nil {
		err = errors.Join(err, l.client.Close())
	}
	return err
}

// quiet keeps the client library from writing to stderr.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}
