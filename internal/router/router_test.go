package router_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/router"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/stream"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/signing"
)

// sender plays the dispatcher: it has room for some, and remembers.
type sender struct {
	mu       sync.Mutex
	room     int
	reserved int
	sent     []store.Claimed
	woken    []string
}

func (s *sender) Reserve(string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reserved+len(s.sent) >= s.room {
		return false
	}
	s.reserved++
	return true
}

func (s *sender) Release(string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved--
}

func (s *sender) Send(ds []store.Claimed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= len(ds)
	s.sent = append(s.sent, ds...)
}

func (s *sender) Wake(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.woken = append(s.woken, ids...)
}

// Events go from the outbox through a stream to the endpoints that subscribed; a
// message that cannot be read stops nobody, and each reservation is returned.
func TestRoute(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]store.Config{"sqlite": {Dir: t.TempDir()}, "postgres": {URL: testenv.Postgres(t)}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config.MasterKey = store.NewMasterKey()
			s, err := store.Open(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			inside := stream.NewInProcess(stream.InProcessConfig{NackDelay: time.Millisecond})
			sub := inside.Subscriber("g")
			if err := sub.SubscribeInitialize("events"); err != nil {
				t.Fatal(err)
			}
			out := &sender{room: 3}
			relay := &outbox.Relay{DB: s.DB(), Dialect: s.Dialect(), Publisher: inside.Publisher(), Topic: "events", KeepUntilRouted: true, Poll: 5 * time.Millisecond}
			r := &router.Router{Store: s, Subscriber: sub, Topic: "events", Owner: "me", Sender: out, OnLeft: relay.Wake}
			ctx, stop := context.WithCancel(t.Context())
			var running sync.WaitGroup
			for _, run := range []func(context.Context) error{r.Run, relay.Run} {
				running.Go(func() {
					if err := run(ctx); err != nil {
						t.Error(err)
					}
				})
			}
			t.Cleanup(func() {
				stop()
				running.Wait()
				_ = s.Close()
			})
			if err := inside.Publisher().Publish("events", message.NewMessage("stranger", []byte("?"))); err != nil {
				t.Fatal(err)
			}
			publish := func(n int, user string) {
				t.Helper()
				ev, err := events.Complete(fmt.Appendf(nil, `{"id":"evt_%d","type":"user.deleted","environment_id":"env_1","data":{"user":{"id":%q}}}`, n, user), events.Defaults{})
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Accept(t.Context(), nil, []*store.Acceptance{{Events: []events.Event{ev}}}); err != nil {
					t.Fatal(err)
				}
			}
			await := func(want string) {
				t.Helper()
				testenv.Eventually(t, 30*time.Second, func() error {
					var deliveries, left int
					if err := s.DB().QueryRowContext(t.Context(), `SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM handover_outbox)`).Scan(&deliveries, &left); err != nil {
						return err
					}
					out.mu.Lock()
					defer out.mu.Unlock()
					if got := fmt.Sprintf("%d deliveries, %d sent, %d reserved, %d left", deliveries, len(out.sent), out.reserved, left); got != want {
						return fmt.Errorf("%s, want %s", got, want)
					}
					return nil
				})
			}
			publish(1, "usr_1")
			await("0 deliveries, 0 sent, 0 reserved, 0 left") // nobody subscribed
			for i, types := range [][]string{{"*"}, {"user.deleted", "user.deleted"}, {"role.created"}} {
				if _, err := s.CreateEndpoint(t.Context(), store.Endpoint{Name: fmt.Sprint(i), URL: "https://example.com", EventTypes: types}, signing.NewKey()); err != nil {
					t.Fatal(err)
				}
			}
			publish(2, "usr_2") // the endpoints are seen at once
			await("2 deliveries, 2 sent, 0 reserved, 0 left")
			publish(3, "usr_2") // about the same person: held
			await("4 deliveries, 2 sent, 0 reserved, 0 left")
			publish(4, "usr_4") // there is room for one
			await("6 deliveries, 3 sent, 0 reserved, 0 left")
			out.mu.Lock()
			defer out.mu.Unlock()
			if len(out.woken) != 1 {
				t.Errorf("woken %v, want the one endpoint there was no room for", out.woken)
			}
			if c := out.sent[0]; c.EventID != "evt_2" || string(c.Body) == "" || c.OrderKey != "usr_2" {
				t.Errorf("sent %+v", c)
			}
		})
	}
}
