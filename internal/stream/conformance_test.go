package stream_test

import (
	"context"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/stream"
	"github.com/handover-dev/handover/internal/testenv"
)

// open returns a client with room for the many subscriptions of these tests.
func open(t *testing.T, url string) *redis.Client {
	t.Helper()
	c, err := stream.Open(url)
	if err != nil {
		t.Fatal(err)
	}
	opts := *c.Options()
	_ = c.Close()
	opts.PoolSize = 300
	c = redis.NewClient(&opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func publisher(t *testing.T, c redis.UniversalClient) *stream.Publisher {
	t.Helper()
	p, err := stream.NewPublisher(stream.PublisherConfig{Client: c})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func subscriber(t *testing.T, cfg stream.SubscriberConfig) *stream.Subscriber {
	t.Helper()
	s, err := stream.NewSubscriber(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func conformance(t *testing.T, url string, features tests.Features, window int) {
	t.Helper()
	c := open(t, url)
	prefix := "conformance:"
	if len(features.RestartServiceCommand) == 0 {
		prefix = testenv.Prefix(t)
	}
	features.ConsumerGroups = true
	features.Persistent = true
	features.NewSubscriberReceivesOldMessages = true
	features.GenerateTopicFunc = func(tctx tests.TestContext) string { return prefix + string(tctx.TestID) }
	construct := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		return publisher(t, c), subscriber(t, stream.SubscriberConfig{
			Client: c, Group: group, MaxInFlight: window, Block: 100 * time.Millisecond,
			MinIdle: 3 * time.Second, NackDelay: time.Millisecond, MaxDeliveries: -1, Grace: 100 * time.Millisecond,
		})
	}
	tests.TestPubSub(t, features, func(t *testing.T) (message.Publisher, message.Subscriber) {
		if strings.Contains(t.Name(), "NewSubscriberReceivesOldMessages") { // of another group, that is
			return construct(t, string(tests.NewTestID()))
		}
		pub, sub := construct(t, t.Name())
		if strings.Contains(t.Name(), "/TestReconnect/") {
			sub = lastHeld{sub, 10_000}
		}
		return pub, sub
	}, construct)
}

// lastHeld holds back the last of n messages until the suite's TestReconnect has
// noted what it published: it compares the two lists as soon as it has received
// the last one, and its own goroutine may not have written that one down yet.
type lastHeld struct {
	message.Subscriber
	n int
}

func (s lastHeld) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	in, err := s.Subscriber.Subscribe(ctx, topic)
	if err != nil {
		return nil, err
	}
	out := make(chan *message.Message)
	go func() {
		defer close(out)
		seen := map[string]bool{}
		for msg := range in {
			if again := seen[msg.UUID]; !again && len(seen) == s.n-1 {
				for deadline := time.Now().Add(time.Minute); !noted() && time.Now().Before(deadline); {
					time.Sleep(10 * time.Millisecond)
				}
			}
			seen[msg.UUID] = true
			out <- msg
		}
	}()
	return out, nil
}

// noted says whether the publishers of TestReconnect have ended and the goroutine
// that notes what they published waits for more.
func noted() bool {
	const name = "pubsub/tests.TestReconnect.func"
	stacks := make([]byte, 16<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	waits := false
	for g := range strings.SplitSeq(string(stacks), "\n\n") {
		switch {
		case strings.Contains(g, name+"3("):
			return false
		case strings.Contains(g, name+"2("):
			state, _, _ := strings.Cut(g, ":")
			waits = strings.Contains(state, "chan receive")
		}
	}
	return waits
}

func TestConformance(t *testing.T) {
	t.Parallel()
	s := testenv.RedisServer(t, testenv.RedisOptions{AppendOnly: true, Respawn: true})
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	// Ends when another run of the server answers.
	const restart = `cli="redis-cli -h $0 -p $1"
old=$($cli info server | grep ^run_id)
$cli shutdown
until new=$($cli info server 2>/dev/null | grep ^run_id) && [ "$new" != "$old" ]; do sleep 0.02; done`
	var features tests.Features
	if !raceEnabled {
		features.RestartServiceCommand = []string{"sh", "-c", restart, host, port}
	}
	conformance(t, s.URL(), features, 0)
}

func TestConformanceInOrder(t *testing.T) {
	t.Parallel()
	conformance(t, testenv.Redis(t), tests.Features{
		GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true,
	}, 1)
}

func TestConformanceInProcess(t *testing.T) {
	t.Parallel()
	s := stream.NewInProcess(stream.InProcessConfig{Capacity: 20_000, NackDelay: time.Millisecond, Grace: time.Second})
	construct := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		sub := s.Subscriber(group)
		t.Cleanup(func() { _ = sub.Close() })
		return s.Publisher(), sub
	}
	tests.TestPubSub(t, tests.Features{
		ConsumerGroups: true, RequireSingleInstance: true,
	}, func(t *testing.T) (message.Publisher, message.Subscriber) { return construct(t, "one") }, construct)
}
