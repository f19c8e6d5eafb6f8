package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// ErrNoGroup reports a publish to a topic that no group has asked for: the
// message would reach nobody.
var ErrNoGroup = errors.New("topic has no consumer group")

// InProcessConfig configures an InProcess.
type InProcessConfig struct {
	// Capacity is how many messages of a topic each group may leave unfinished,
	// waiting or with handlers; then Publish blocks. 0: 1024.
	Capacity int

	// NackDelay is the time from a message's first nack to its next delivery; it
	// grows by as much with each nack, up to ten times. 0: 1 s.
	NackDelay time.Duration

	// Grace is how long handlers may still work after the end of their
	// subscription. 0: 10 s.
	Grace time.Duration
}

// InProcess is a stream in memory with the contract of the one on Redis, apart
// from durability: each group of a topic has a bounded queue, which exists from
// the group's first Subscribe or SubscribeInitialize on and lives as long as the
// InProcess. There is no dead letter: a message is delivered until it is acked.
type InProcess struct {
	cfg InProcessConfig

	mu     sync.RWMutex
	topics map[string][]*queue // copied on change

	published, redelivered, acked, read atomic.Uint64
}

// queue holds a group's messages of one topic.
type queue struct {
	group  string
	places *window
	size   int
	ready  chan *delivery // never full: whoever puts in holds a place
}

// snapshot is a message as it was published.
type snapshot struct{ msg *message.Message }

func (s snapshot) message() *message.Message { return s.msg.Copy() }

// NewInProcess returns an empty stream.
func NewInProcess(cfg InProcessConfig) *InProcess {
	cfg.Capacity = cmp.Or(cfg.Capacity, 1024)
	cfg.NackDelay = cmp.Or(cfg.NackDelay, time.Second)
	cfg.Grace = cmp.Or(cfg.Grace, 10*time.Second)
	return &InProcess{cfg: cfg, topics: map[string][]*queue{}}
}

func (p *InProcess) queues(topic string) []*queue {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.topics[topic]
}

func (p *InProcess) queue(topic, group string) *queue {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.topics[topic]
	for _, q := range old {
		if q.group == group {
			return q
		}
	}
	q := &queue{group: group, places: newWindow(p.cfg.Capacity), size: p.cfg.Capacity, ready: make(chan *delivery, p.cfg.Capacity)}
	p.topics[topic] = append(old[:len(old):len(old)], q)
	return q
}

// Backlog returns how many messages of topic a group has not finished.
func (p *InProcess) Backlog(topic, group string) int64 {
	for _, q := range p.queues(topic) {
		if q.group == group {
			q.places.mu.Lock()
			defer q.places.mu.Unlock()
			return int64(q.size - q.places.free)
		}
	}
	return 0
}

// Stats returns counts since the start.
func (p *InProcess) Stats() Stats {
	return Stats{Published: p.published.Load(), Read: p.read.Load(), Redelivered: p.redelivered.Load(), Acked: p.acked.Load()}
}

// Publisher returns a publisher to this stream. Closing it closes nothing else.
func (p *InProcess) Publisher() *InProcessPublisher {
	return &InProcessPublisher{stream: p, closed: make(chan struct{})}
}

// Subscriber returns a subscriber in a group of this stream. Closing it closes
// nothing else: what it leaves unfinished goes to the group's next subscription.
func (p *InProcess) Subscriber(group string) *InProcessSubscriber {
	return &InProcessSubscriber{stream: p, group: group, subs: newSubscriptions()}
}

// InProcessPublisher is a Watermill publisher to an InProcess.
type InProcessPublisher struct {
	stream *InProcess
	once   sync.Once
	closed chan struct{}
}

// Publish queues msgs for every group of topic, in order, and blocks while one of
// the queues is full. An error (ErrClosed, ErrNoGroup) says that not every group
// got every message. The messages must not be changed afterwards.
func (p *InProcessPublisher) Publish(topic string, msgs ...*message.Message) error {
	select {
	case <-p.closed:
		return fmt.Errorf("publish: %w", ErrClosed)
	default:
	}
	queues := p.stream.queues(topic)
	if len(queues) == 0 {
		return fmt.Errorf("publish: %w: %s", ErrNoGroup, topic)
	}
	for _, q := range queues {
		for left := msgs; len(left) > 0; {
			n := q.places.take(len(left), p.closed)
			if n == 0 {
				return fmt.Errorf("publish: %w", ErrClosed)
			}
			for _, m := range left[:n] {
				q.ready <- &delivery{origin: snapshot{m}, tries: 1}
			}
			left = left[n:]
		}
	}
	p.stream.published.Add(uint64(len(msgs)))
	return nil
}

// Close ends calls of Publish that wait. It may be called again.
func (p *InProcessPublisher) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// InProcessSubscriber is a Watermill subscriber in one group of an InProcess.
type InProcessSubscriber struct {
	stream *InProcess
	group  string
	subs   *subscriptions
}

// SubscribeInitialize creates the group of topic, so that it gets what is
// published from now on.
func (s *InProcessSubscriber) SubscribeInitialize(topic string) error {
	s.stream.queue(topic, s.group)
	return nil
}

// Subscribe delivers the group's messages of topic until ctx ends or Close.
// Contexts of messages are as with Subscriber.Subscribe.
func (s *InProcessSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	var out <-chan *message.Message
	err := s.subs.start(ctx, func(ctx context.Context) func() {
		q := s.stream.queue(topic, s.group)
		x := newSubscription(ctx, q.size, s.stream.cfg.Grace, s.stream.cfg.NackDelay)
		x.acked = func(*delivery) {
			s.stream.acked.Add(1)
			q.places.give(1)
			x.inHand.Done()
		}
		x.nacked = func(d *delivery) bool {
			s.stream.redelivered.Add(1)
			d.handed = false
			time.AfterFunc(nackDelay(x.nackDelay, d.tries), func() {
				d.tries++
				q.ready <- d // for any subscription of the group
			})
			x.inHand.Done()
			return false
		}
		x.dropped = func(d *delivery) { q.ready <- d }
		x.offer = time.NewTimer(offerTime)
		out = x.out
		return func() {
			var loops sync.WaitGroup
			loops.Go(x.collect)
			loops.Go(func() { s.feed(x, q) })
			x.end()
			loops.Wait()
		}
	})
	return out, err
}

func (s *InProcessSubscriber) feed(x *subscription, q *queue) {
	for {
		select {
		case d := <-q.ready:
			s.stream.read.Add(1)
			x.deliver(d)
		case <-x.ctx.Done():
			return
		}
	}
}

// Close ends all subscriptions and waits for their handlers, up to Grace. It may
// be called again.
func (s *InProcessSubscriber) Close() error {
	s.subs.close()
	return nil
}

var (
	_ message.Publisher            = (*InProcessPublisher)(nil)
	_ message.Subscriber           = (*InProcessSubscriber)(nil)
	_ message.SubscribeInitializer = (*InProcessSubscriber)(nil)
)
