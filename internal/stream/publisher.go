package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/groupcommit"
)

// Bounds of one pipeline of XADDs.
const (
	pipelineMessages = 256
	pipelineBytes    = 4 << 20
)

// PublisherConfig configures a Publisher.
type PublisherConfig struct {
	// Client is the Redis to publish to. It remains the caller's.
	Client redis.UniversalClient

	// Timeout bounds one round trip, with the client's own tries in it; it takes
	// a client with ContextTimeoutEnabled. 0: 5 s.
	Timeout time.Duration
}

// Publisher appends messages to Redis streams. Calls of Publish at the same
// time share pipelines; a lone call is sent at once.
type Publisher struct {
	cfg       PublisherConfig
	group     groupcommit.Group[*publishing]
	stop      context.CancelFunc
	done      chan struct{}
	published atomic.Uint64
}

// publishing is one call of Publish.
type publishing struct {
	topic string
	msgs  []*message.Message
	errs  []error // one per message, once sent
}

// PublishError says which messages of a Publish were not published, or not for
// certain: a connection that broke leaves it open.
type PublishError struct {
	Errs []error // one for each message, nil when it was published
}

// Error counts the failures and gives the first.
func (e *PublishError) Error() string {
	n := 0
	var first error
	for _, err := range e.Errs {
		if err == nil {
			continue
		}
		if n++; n == 1 {
			first = err
		}
	}
	return fmt.Sprintf("publish: %d of %d messages failed: %v", n, len(e.Errs), first)
}

// Unwrap returns the errors that are not nil.
func (e *PublishError) Unwrap() []error {
	var all []error
	for _, err := range e.Errs {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

var errNoAnswer = errors.New("no answer")

// NewPublisher returns a Publisher; Close it when done.
func NewPublisher(cfg PublisherConfig) (*Publisher, error) {
	if cfg.Client == nil {
		return nil, errors.New("new publisher: no client")
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Second)
	p := &Publisher{cfg: cfg, done: make(chan struct{})}
	p.group.Commit = p.send
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	go func() {
		defer close(p.done)
		_ = p.group.Run(ctx)
	}()
	return p, nil
}

// Publish appends msgs to the stream topic and returns when Redis has answered.
// The error is a *PublishError when only some of them failed, or all; after
// ErrClosed none was published. The contexts of messages are not used: that of a
// consumed message ends with its ack. Publish is thread safe.
func (p *Publisher) Publish(topic string, msgs ...*message.Message) error {
	if len(msgs) == 0 {
		return nil
	}
	call := &publishing{topic: topic, msgs: msgs, errs: make([]error, len(msgs))}
	err := p.group.Do(context.Background(), call)
	if errors.Is(err, groupcommit.ErrClosed) {
		return fmt.Errorf("publish: %w", ErrClosed)
	}
	for _, err := range call.errs {
		if err != nil {
			return &PublishError{Errs: call.errs}
		}
	}
	return err
}

// send pipelines what has queued up. It never fails as a whole: each message
// carries its own error.
func (p *Publisher) send(_ context.Context, calls []*publishing) error {
	var (
		cmds  = make([]*redis.StringCmd, 0, pipelineMessages)
		errs  = make([]*error, 0, pipelineMessages)
		bytes int
		pipe  = p.cfg.Client.Pipeline()
	)
	flush := func() {
		if len(cmds) == 0 {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), p.cfg.Timeout)
		_, failed := pipe.Exec(ctx)
		cancel()
		ok := uint64(0)
		for i, cmd := range cmds {
			switch {
			case cmd.Err() != nil:
				*errs[i] = cmd.Err()
			case cmd.Val() == "": // never answered
				*errs[i] = errors.Join(errNoAnswer, failed)
			default:
				ok++
			}
		}
		p.published.Add(ok)
		cmds, errs, bytes = cmds[:0], errs[:0], 0
	}
	for _, call := range calls {
		for i, m := range call.msgs {
			if len(cmds) == pipelineMessages || bytes > 0 && bytes+len(m.Payload) > pipelineBytes {
				flush()
			}
			cmds = append(cmds, pipe.XAdd(context.Background(), &redis.XAddArgs{Stream: call.topic, Values: encode(m)}))
			errs = append(errs, &call.errs[i])
			bytes += len(m.Payload)
		}
	}
	flush()
	return nil
}

// Stats returns counts since the start; only Published counts.
func (p *Publisher) Stats() Stats { return Stats{Published: p.published.Load()} }

// Close waits for the pipeline under way; calls of Publish that are queued
// behind it get ErrClosed. The client stays open. Close may be called again.
func (p *Publisher) Close() error {
	p.stop()
	<-p.done
	return nil
}

var _ message.Publisher = (*Publisher)(nil)
