package stream_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/internal/stream"
	"github.com/handover-dev/handover/internal/testenv"
)

// subscribeIn gives a group's subscription whose channel closes with ctx.
func subscribeIn(ctx context.Context, t *testing.T, s *stream.InProcess, group string) <-chan *message.Message {
	t.Helper()
	sub := s.Subscriber(group)
	t.Cleanup(func() { _ = sub.Close() })
	msgs, err := sub.Subscribe(ctx, "s")
	if err != nil {
		t.Fatal(err)
	}
	return msgs
}

func publishIn(t *testing.T, p *stream.InProcessPublisher, ids ...string) {
	t.Helper()
	for _, id := range ids {
		if err := p.Publish("s", message.NewMessage(id, []byte("x"))); err != nil {
			t.Error(err)
		}
	}
}

func TestInProcessBlocksPublishWhileFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := stream.NewInProcess(stream.InProcessConfig{Capacity: 3})
		msgs := subscribeIn(t.Context(), t, s, group)
		p := s.Publisher()
		publishIn(t, p, "0", "1", "2")
		published := make(chan error, 1)
		go func() { published <- p.Publish("s", message.NewMessage("3", nil)) }()
		first := <-msgs // a message with its handler still has its place
		synctest.Wait()
		select {
		case err := <-published:
			t.Fatalf("publish does not wait for a place: %v", err)
		default:
		}
		if n := s.Backlog("s", group); n != 3 {
			t.Errorf("backlog %d, want 3", n)
		}
		first.Ack()
		if err := <-published; err != nil {
			t.Fatal(err)
		}

		go func() { published <- p.Publish("s", message.NewMessage("4", nil)) }()
		synctest.Wait()
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-published; !errors.Is(err, stream.ErrClosed) {
			t.Errorf("publish that waits at Close: %v", err)
		}
		for range 3 {
			(<-msgs).Ack()
		}
		synctest.Wait()
		if n := s.Backlog("s", group); n != 0 {
			t.Errorf("backlog %d after all acks", n)
		}
	})
}

func TestInProcessNackDelaysOnlyItsOwnMessage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := stream.NewInProcess(stream.InProcessConfig{NackDelay: time.Minute})
		msgs := subscribeIn(t.Context(), t, s, group)
		publishIn(t, s.Publisher(), "bad", "1", "2")
		start := time.Now()
		for try := 1; try <= 3; try++ {
			m := <-msgs
			if m.UUID != "bad" {
				t.Fatalf("got %s", m.UUID)
			}
			m.Nack()
			if try == 1 {
				(<-msgs).Ack()
				(<-msgs).Ack()
				if waited := time.Since(start); waited > time.Second {
					t.Errorf("neighbours waited %v", waited)
				}
			}
		}
		(<-msgs).Ack()
		if waited := time.Since(start); waited < 6*time.Minute || waited > 6*time.Minute+time.Second {
			t.Errorf("three nacks took %v, want 1 + 2 + 3 minutes", waited)
		}
	})
}

// What a subscription leaves unfinished, read or not, goes to the group's next.
func TestInProcessUnfinishedMessagesGoBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := stream.NewInProcess(stream.InProcessConfig{Grace: time.Minute})
		ctx, cancel := context.WithCancel(t.Context())
		msgs := subscribeIn(ctx, t, s, group)
		publishIn(t, s.Publisher(), "0", "1", "2", "3")
		held, finished := <-msgs, <-msgs
		cancel()
		synctest.Wait()
		if _, ok := <-msgs; ok {
			t.Fatal("message after the end")
		}
		if held.Context().Err() != nil {
			t.Error("context of a handler at work has ended")
		}
		finished.Ack() // in time
		<-held.Context().Done()
		left := map[string]bool{}
		msgs = subscribeIn(t.Context(), t, s, group)
		for range 3 {
			m := <-msgs
			left[m.UUID] = true
			m.Ack()
		}
		synctest.Wait()
		if !left[held.UUID] || left[finished.UUID] || s.Backlog("s", group) != 0 {
			t.Errorf("delivered again: %v, backlog %d", left, s.Backlog("s", group))
		}
	})
}

func TestInProcessGroupsEachGetEverything(t *testing.T) {
	t.Parallel()
	s := stream.NewInProcess(stream.InProcessConfig{Capacity: 10})
	p := s.Publisher()
	if err := p.Publish("s", message.NewMessage("m", nil)); !errors.Is(err, stream.ErrNoGroup) {
		t.Errorf("publish to nobody: %v", err)
	}
	a1, a2 := subscribeIn(t.Context(), t, s, "a"), subscribeIn(t.Context(), t, s, "a")
	b := subscribeIn(t.Context(), t, s, "b")
	a, all := collect(a1, a2), collect(b)
	ids := numbered("m", 500)
	publishIn(t, p, ids...)
	a.wait(t, ids)
	all.wait(t, ids)
	a.once(t)
	all.once(t)
}

func TestInProcessThroughRouter(t *testing.T) {
	t.Parallel()
	s := stream.NewInProcess(stream.InProcessConfig{Capacity: 100, NackDelay: time.Millisecond})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	got := &seen{n: map[string]int{}}
	router.AddConsumerHandler("h", "s", s.Subscriber(group), func(m *message.Message) error {
		if got.add(m) < 2 {
			return fmt.Errorf("first try of %s", m.UUID)
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	<-router.Running()
	ids := numbered("m", 1000)
	publishIn(t, s.Publisher(), ids...)
	testenv.Until(t, soon, "an empty queue", func() bool { return s.Backlog("s", group) == 0 })
	got.wait(t, ids)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := s.Stats().Redelivered; n != 1000 {
		t.Errorf("%d redeliveries, want one each", n)
	}
}

func BenchmarkInProcess(b *testing.B) {
	s := stream.NewInProcess(stream.InProcessConfig{})
	sub := s.Subscriber(group)
	msgs, err := sub.Subscribe(b.Context(), "s")
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range b.N {
			(<-msgs).Ack()
		}
	}()
	p := s.Publisher()
	m := message.NewMessage("id", make([]byte, 512))
	m.Metadata.Set("type", "user.organization_membership_deleted")
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if err := p.Publish("s", m); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}
