package stream_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/stream"
	"github.com/handover-dev/handover/internal/testenv"
)

const (
	group = "g"
	soon  = 15 * time.Second
)

// bench is a stream of a test's own with a client.
type bench struct {
	t      *testing.T
	c      *redis.Client
	stream string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, c: open(t, testenv.Redis(t)), stream: testenv.Prefix(t) + "s"}
	if _, err := stream.EnsureGroup(t.Context(), b.c, b.stream, group); err != nil {
		t.Fatal(err)
	}
	return b
}

// subscribe completes cfg for quick tests and subscribes.
func (b *bench) subscribe(cfg stream.SubscriberConfig) (*stream.Subscriber, <-chan *message.Message) {
	b.t.Helper()
	cfg.Client, cfg.Group = b.c, group
	cfg.Block = 20 * time.Millisecond
	if cfg.MinIdle == 0 {
		cfg.MinIdle = time.Second
	}
	if cfg.NackDelay == 0 {
		cfg.NackDelay = time.Millisecond
	}
	if cfg.Grace == 0 {
		cfg.Grace = 50 * time.Millisecond
	}
	s := subscriber(b.t, cfg)
	msgs, err := s.Subscribe(b.t.Context(), b.stream)
	if err != nil {
		b.t.Fatal(err)
	}
	return s, msgs
}

func (b *bench) publish(ids ...string) {
	b.t.Helper()
	msgs := make([]*message.Message, len(ids))
	for i, id := range ids {
		msgs[i] = message.NewMessage(id, []byte("payload of "+id))
	}
	if err := publisher(b.t, b.c).Publish(b.stream, msgs...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) pending() int64 {
	p, err := b.c.XPending(b.t.Context(), b.stream, group).Result()
	if err != nil {
		b.t.Error(err)
		return -1
	}
	return p.Count
}

// finished waits until the group has finished everything.
func (b *bench) finished() {
	b.t.Helper()
	testenv.Eventually(b.t, soon, func() error {
		n, err := stream.Backlog(b.t.Context(), b.c, b.stream, group)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d entries not finished", n)
		}
		return err
	})
}

func receive(t *testing.T, msgs <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case m, ok := <-msgs:
		if !ok {
			t.Fatal("subscription ended")
		}
		return m
	case <-time.After(soon):
		t.Fatal("no message")
	}
	return nil
}

// seen counts deliveries by message id.
type seen struct {
	mu sync.Mutex
	n  map[string]int
}

// collect counts and acks what comes, until msgs is closed.
func collect(msgs ...<-chan *message.Message) *seen {
	s := &seen{n: map[string]int{}}
	for _, ch := range msgs {
		go func() {
			for m := range ch {
				s.add(m)
				m.Ack()
			}
		}()
	}
	return s
}

func (s *seen) add(m *message.Message) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n[m.UUID]++
	return s.n[m.UUID]
}

// missing returns those of ids that were never delivered.
func (s *seen) missing(ids []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return s.n[id] > 0 })
}

func (s *seen) wait(t *testing.T, ids []string) {
	t.Helper()
	testenv.Eventually(t, 2*soon, func() error {
		if left := s.missing(ids); len(left) > 0 {
			return fmt.Errorf("%d of %d messages missing, first %s", len(left), len(ids), left[0])
		}
		return nil
	})
}

// once fails the test for messages delivered more than once.
func (s *seen) once(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.n {
		if n != 1 {
			t.Errorf("%s delivered %d times", id, n)
		}
	}
}

func numbered(prefix string, n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("%s%d", prefix, i)
	}
	return ids
}
