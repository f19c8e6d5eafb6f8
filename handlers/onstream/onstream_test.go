package onstream_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/handlers/onstream"
	"github.com/handover-dev/handover/internal/testenv"
)

var errBoom = errors.New("boom")

func body(tb testing.TB, typ string) []byte {
	tb.Helper()
	b, ok := events.Fixture(typ)
	if !ok {
		tb.Fatalf("no fixture of type %s", typ)
	}
	return b
}

// run carries messages through a Watermill Router to the handler, until the
// test ends. The returned function publishes.
func run(t *testing.T, h onstream.Handler) func(payloads ...[]byte) {
	t.Helper()
	pubsub := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	router.AddConsumerHandler("app", "events", pubsub, h.Handle)
	ended := make(chan error)
	go func() { ended <- router.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-ended; err != nil { // t.Context has ended by now
			t.Error(err)
		}
		if err := pubsub.Close(); err != nil {
			t.Error(err)
		}
	})
	<-router.Running()
	return func(payloads ...[]byte) {
		for _, p := range payloads {
			if err := pubsub.Publish("events", message.NewMessage(watermill.NewUUID(), p)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestRouterRunsTheFunctions(t *testing.T) {
	t.Parallel()
	r := &handlers.Receiver{}
	var created, attempts, removals atomic.Int32
	handlers.On(r, events.MembershipRemoved, func(_ context.Context, ev events.Event, _ events.Membership) (handlers.Outcome, error) {
		if attempts.Add(1) < 3 {
			return handlers.Outcome{}, errBoom // nacked, so that it comes again
		}
		if ev.UserID() != "usr_118200000000001001" {
			t.Errorf("event about %q", ev.UserID())
		}
		removals.Add(1)
		return handlers.Deleted("draft", 1), nil
	})
	handlers.On(r, events.MembershipCreated, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		created.Add(1)
		return handlers.Outcome{}, nil
	})
	publish := run(t, onstream.Handler{Receiver: r, Dead: func(_ context.Context, _ *message.Message, reason error) error {
		t.Errorf("dead: %v", reason)
		return nil
	}})
	removed := body(t, "user.organization_membership_deleted")
	publish(removed, removed, body(t, "user.logout"), body(t, "user.organization_membership_created"))
	testenv.Eventually(t, 10*time.Second, func() error {
		if removals.Load() != 1 || created.Load() != 1 {
			return fmt.Errorf("%d removals, %d created", removals.Load(), created.Load())
		}
		return nil
	})
	if n := attempts.Load(); n != 3 {
		t.Errorf("%d attempts, want 3", n)
	}
}

func TestDeadMessagesAreAcked(t *testing.T) {
	t.Parallel()
	removed := body(t, "user.organization_membership_deleted")
	var undone *onstream.UndoneError
	for _, c := range []struct {
		name    string
		payload []byte
		outcome handlers.Outcome
		err     error
		dead    func(reason error) bool
	}{
		{"no event", []byte(`{`), handlers.Outcome{}, nil, func(reason error) bool { return errors.Is(reason, events.ErrInvalid) }},
		{"permanent", removed, handlers.Outcome{}, handlers.Permanent(errBoom), func(reason error) bool { return errors.Is(reason, errBoom) }},
		{"blocked", removed, handlers.Blocked("who?"), nil, func(reason error) bool { return errors.As(reason, &undone) && reason.Error() == "blocked: who?" }},
		{"done", removed, handlers.NothingToDo(), nil, nil},
	} {
		r := &handlers.Receiver{}
		handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
			return c.outcome, c.err
		})
		var got error
		h := onstream.Handler{Receiver: r, Dead: func(_ context.Context, _ *message.Message, reason error) error { got = reason; return nil }}
		if err := h.Handle(message.NewMessage("1", c.payload)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.dead == nil && got != nil || c.dead != nil && !c.dead(got) {
			t.Errorf("%s: dead with %v", c.name, got)
		}
		h.Dead = nil
		if err := h.Handle(message.NewMessage("1", c.payload)); err != nil {
			t.Errorf("%s, without Dead: %v", c.name, err)
		}
	}
}

func TestOtherMessagesAreNacked(t *testing.T) {
	t.Parallel()
	r := &handlers.Receiver{}
	var fail error
	handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.Outcome{}, fail
	})
	h := onstream.Handler{Receiver: r, Dead: func(context.Context, *message.Message, error) error { return errBoom }}
	removed := body(t, "user.organization_membership_deleted")
	for _, fail = range []error{errors.New("no database"), handlers.RetryAfter(nil, time.Hour), handlers.Permanent(errors.New("Dead fails"))} {
		if err := h.Handle(message.NewMessage("1", removed)); err == nil {
			t.Errorf("%v: acked", fail)
		}
	}
}

func TestEventOfAnotherBodyIsDead(t *testing.T) {
	t.Parallel()
	r := &handlers.Receiver{}
	handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.NothingToDo(), nil
	})
	var reason error
	h := onstream.Handler{Receiver: r, Dead: func(_ context.Context, _ *message.Message, err error) error { reason = err; return nil }}
	removed := body(t, "user.organization_membership_deleted")
	for _, payload := range [][]byte{removed, append([]byte(" "), removed...)} {
		if err := h.Handle(message.NewMessage("1", payload)); err != nil {
			t.Error(err)
		}
	}
	if !errors.Is(reason, handlers.ErrConflict) {
		t.Errorf("dead with %v", reason)
	}
}
