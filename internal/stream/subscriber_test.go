package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/stream"
	"github.com/handover-dev/handover/internal/testenv"
)

func TestEntriesAreReadable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	m := message.NewMessage("id-1", []byte(`{"a":1}`))
	m.Metadata = message.Metadata{"b": "2", "a": "1"}
	if err := publisher(t, b.c).Publish(b.stream, m); err != nil {
		t.Fatal(err)
	}
	reply, err := b.c.Do(t.Context(), "XRANGE", b.stream, "-", "+").Slice()
	if err != nil {
		t.Fatal(err)
	}
	fields := reply[0].([]any)[1]
	want := []any{"u", "id-1", "p", `{"a":1}`, "m:a", "1", "m:b", "2"}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Error(diff)
	}
	_, msgs := b.subscribe(stream.SubscriberConfig{})
	if got := receive(t, msgs); !got.Equals(m) {
		t.Errorf("got %v %v %s", got.UUID, got.Metadata, got.Payload)
	}
}

func TestPoisonEntryMovesToDeadLetters(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id, err := b.c.XAdd(t.Context(), &redis.XAddArgs{Stream: b.stream, Values: []any{"x", "1", "p", "half"}}).Result()
	if err != nil {
		t.Fatal(err)
	}
	ids := numbered("m", 10)
	b.publish(ids...)
	dead := make(chan stream.Dead, 10)
	s, msgs := b.subscribe(stream.SubscriberConfig{OnDead: func(d stream.Dead) { dead <- d }})
	got := collect(msgs)
	got.wait(t, ids)
	b.finished()
	got.once(t)
	if d := <-dead; d.ID != id || d.Stream != b.stream || d.Reason == "" || len(dead) > 0 {
		t.Errorf("told of %+v and %d more", d, len(dead))
	}
	entries, err := b.c.XRange(t.Context(), b.stream+".dead", "-", "+").Result()
	if err != nil || len(entries) != 1 {
		t.Fatalf("dead letters %v, %v", entries, err)
	}
	if diff := cmp.Diff(map[string]any{"x": "1", "p": "half"}, entries[0].Values); diff != "" {
		t.Error(diff)
	}
	if s.Stats().Dead != 1 {
		t.Errorf("stats %+v", s.Stats())
	}
}

func TestDeadLettersAreBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pipe := b.c.Pipeline()
	for range 2000 {
		pipe.XAdd(t.Context(), &redis.XAddArgs{Stream: b.stream, Values: []any{"x", "1"}})
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, msgs := b.subscribe(stream.SubscriberConfig{MaxDead: 100})
	collect(msgs)
	b.finished()
	if n := b.c.XLen(t.Context(), b.stream+".dead").Val(); n < 100 || n > 300 {
		t.Errorf("%d dead letters kept, want about 100", n)
	}
}

// A handler that takes many times MinIdle keeps its message, from its own
// consumer's claims and from another's.
func TestSlowHandlerKeepsItsMessage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("slow")
	cfg := stream.SubscriberConfig{MinIdle: time.Second, Grace: soon}
	s1, msgs1 := b.subscribe(cfg)
	s2, msgs2 := b.subscribe(cfg)
	var m *message.Message
	select {
	case m = <-msgs1:
	case m = <-msgs2:
	}
	select {
	case <-msgs1:
		t.Fatal("delivered again")
	case <-msgs2:
		t.Fatal("delivered again")
	case <-time.After(3 * cfg.MinIdle):
	}
	m.Ack()
	b.finished()
	if n := s1.Stats().Redelivered + s2.Stats().Redelivered; n != 0 {
		t.Errorf("%d redeliveries", n)
	}
}

func TestNackDelaysOnlyItsOwnMessage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := numbered("m", 100)
	b.publish(append([]string{"bad"}, ids...)...)
	s, msgs := b.subscribe(stream.SubscriberConfig{NackDelay: time.Minute, MaxInFlight: 2})
	got := &seen{n: map[string]int{}}
	go func() {
		for m := range msgs {
			got.add(m)
			if m.UUID == "bad" {
				m.Nack()
			} else {
				m.Ack()
			}
		}
	}()
	got.wait(t, append(ids, "bad"))
	got.once(t)
	if n := s.Stats().Redelivered; n > 1 {
		t.Errorf("%d redeliveries within a minute's delay", n)
	}
}

func TestNackIsDeliveredAgainAsItWas(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	m := message.NewMessage("m", []byte("payload"))
	m.Metadata.Set("k", "v")
	if err := publisher(t, b.c).Publish(b.stream, m); err != nil {
		t.Fatal(err)
	}
	_, msgs := b.subscribe(stream.SubscriberConfig{})
	first := receive(t, msgs)
	first.Metadata.Set("k", "changed by a handler")
	first.Nack()
	<-first.Context().Done()
	second := receive(t, msgs)
	if !second.Equals(m) {
		t.Errorf("second delivery %v %s", second.Metadata, second.Payload)
	}
	second.Ack()
	b.finished()
}

// The limit counts deliveries by any consumer, nacks and claims alike.
func TestDeliveriesAreLimitedAcrossConsumers(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("bad", "good")
	dead := make(chan stream.Dead, 10)
	cfg := stream.SubscriberConfig{MaxDeliveries: 5, OnDead: func(d stream.Dead) { dead <- d }}
	total := 0
	handle := func(msgs <-chan *message.Message, most int) {
		for n := 0; n < most; {
			select {
			case m := <-msgs:
				if m.UUID == "good" {
					m.Ack()
					continue
				}
				n++
				total++
				m.Nack()
			case d := <-dead:
				dead <- d
				return
			case <-time.After(soon):
				t.Fatal("no message and no dead letter")
			}
		}
	}
	s, msgs := b.subscribe(cfg)
	handle(msgs, 2)
	testenv.Until(t, soon, "the second nack recorded", func() bool { return s.Stats().Redelivered == 2 })
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, msgs = b.subscribe(cfg)
	handle(msgs, 100)
	// A nack whose delay the end of the first consumer cut short counts as well.
	if total < 4 || total > 5 {
		t.Errorf("delivered %d times, limit 5", total)
	}
	b.finished()
	entries, err := b.c.XRange(t.Context(), b.stream+".dead", "-", "+").Result()
	if err != nil || len(entries) != 1 || entries[0].Values["u"] != "bad" || entries[0].Values["p"] != "payload of bad" {
		t.Errorf("dead letters %v, %v", entries, err)
	}
}

func TestCloseLeavesTheClientOpenAndMayBeRepeated(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	s, msgs := b.subscribe(stream.SubscriberConfig{})
	p := publisher(t, b.c)
	for range 2 {
		if err := errors.Join(p.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := <-msgs; ok {
		t.Error("message after Close")
	}
	if err := b.c.Ping(t.Context()).Err(); err != nil {
		t.Errorf("client: %v", err)
	}
	if err := p.Publish(b.stream, message.NewMessage("m", nil)); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("publish after Close: %v", err)
	}
	if _, err := s.Subscribe(t.Context(), b.stream); !errors.Is(err, stream.ErrClosed) {
		t.Errorf("subscribe after Close: %v", err)
	}
}

// A handler that finishes within Grace after Close, or after the end of its
// subscription, is acked, and its context lives until then.
func TestAcksAtTheEndAreKept(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*stream.Subscriber, context.CancelFunc){
		"close":   func(s *stream.Subscriber, _ context.CancelFunc) { go s.Close() },
		"context": func(_ *stream.Subscriber, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.publish(numbered("m", 3)...)
			s := subscriber(t, stream.SubscriberConfig{Client: b.c, Group: group, Block: 20 * time.Millisecond, Grace: soon})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			msgs, err := s.Subscribe(ctx, b.stream)
			if err != nil {
				t.Fatal(err)
			}
			held := []*message.Message{receive(t, msgs), receive(t, msgs), receive(t, msgs)}
			end(s, cancel)
			if _, ok := <-msgs; ok {
				t.Fatal("message after the end")
			}
			for _, m := range held {
				if err := m.Context().Err(); err != nil {
					t.Errorf("context of a handler at work: %v", err)
				}
				m.Ack()
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if n := b.pending(); n != 0 {
				t.Errorf("%d acks lost", n)
			}
			if consumers := b.c.XInfoConsumers(t.Context(), b.stream, group).Val(); len(consumers) != 0 {
				t.Errorf("left %d consumers behind", len(consumers))
			}
		})
	}
}

// What is unfinished at the end goes to another consumer at once, not after
// MinIdle, and the consumer that still has it pending is not deleted.
func TestUnfinishedMessagesGoBackAtTheEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := numbered("m", 20)
	b.publish(ids...)
	cfg := stream.SubscriberConfig{MinIdle: time.Hour}
	s, msgs := b.subscribe(cfg)
	held := receive(t, msgs)
	nacked := receive(t, msgs)
	nacked.Nack()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if held.Context().Err() == nil {
		t.Error("context outlives the grace period")
	}
	if n := b.pending(); n != int64(len(ids)) {
		t.Fatalf("%d pending after Close, want all", n)
	}
	_, msgs = b.subscribe(cfg)
	collect(msgs).wait(t, ids)
	b.finished()
}

func TestDeadConsumersMessagesAreTakenOver(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ids := numbered("m", 1000)
	b.publish(ids...)
	// A consumer that has read and is gone.
	err := b.c.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "dead", Streams: []string{b.stream, ">"}, Count: 300}).Err()
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.SubscriberConfig{MaxInFlight: 64}
	s1, msgs1 := b.subscribe(cfg)
	s2, msgs2 := b.subscribe(cfg)
	got := collect(msgs1, msgs2)
	got.wait(t, ids)
	b.finished()
	got.once(t)
	if s1.Stats().Read == 0 || s2.Stats().Read == 0 {
		t.Errorf("not shared: %+v %+v", s1.Stats(), s2.Stats())
	}
	if n := s1.Stats().Redelivered + s2.Stats().Redelivered; n != 300 {
		t.Errorf("%d taken over, want 300", n)
	}
}

// Entries that Redis has given to our own consumer and whose answer got lost are
// delivered after MinIdle: no heartbeat keeps them from it.
func TestLostAnswersAreClaimed(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("first")
	_, msgs := b.subscribe(stream.SubscriberConfig{MaxInFlight: 1})
	first := receive(t, msgs)
	b.publish("lost")
	consumer := b.c.XInfoConsumers(t.Context(), b.stream, group).Val()[0].Name
	err := b.c.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: consumer, Streams: []string{b.stream, ">"}}).Err()
	if err != nil {
		t.Fatal(err)
	}
	first.Ack()
	collect(msgs).wait(t, []string{"lost"})
	b.finished()
}

// What a read fetched whose answer came too late is there when the stream is
// back, not only when others would take it over.
func TestLateAnswersAreFetchedAgain(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t, testenv.RedisOptions{})
	c := open(t, server.URL())
	troubled := make(chan struct{})
	trouble := sync.OnceFunc(func() { close(troubled) })
	log := slog.New(slog.NewTextHandler(writerFunc(func(line []byte) (int, error) {
		if bytes.Contains(line, []byte("cannot read stream")) {
			trouble()
		}
		return len(line), nil
	}), nil))
	s := subscriber(t, stream.SubscriberConfig{Client: c, Group: group, Block: 20 * time.Millisecond, MinIdle: time.Hour, Log: log})
	msgs, err := s.Subscribe(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	other, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	say := func(command string) {
		if _, err := io.WriteString(other, command+"\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	say("XADD s * u first p x")
	receive(t, msgs).Ack()
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	<-troubled                 // the read that will get the message has been given up,
	say("XADD s * u late p x") // and Redis finds both when it wakes up
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, msgs); m.UUID != "late" {
		t.Errorf("got %s", m.UUID)
	} else {
		m.Ack()
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// Entries that an operator deleted while they were pending are let go.
func TestDeletedEntriesAreForgotten(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish(numbered("m", 10)...)
	res, err := b.c.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "dead", Streams: []string{b.stream, ">"}}).Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range res[0].Messages[:5] {
		b.c.XDel(t.Context(), b.stream, m.ID)
	}
	_, msgs := b.subscribe(stream.SubscriberConfig{})
	collect(msgs).wait(t, numbered("m", 10)[5:])
	testenv.Until(t, soon, "nothing pending", func() bool { return b.pending() == 0 })
}

func TestOldConsumersAreDeletedOnlyWithoutMessages(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish("m")
	ctx := t.Context()
	b.c.XGroupCreateConsumer(ctx, b.stream, group, "young")
	if err := b.c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: "busy", Streams: []string{b.stream, ">"}}).Err(); err != nil {
		t.Fatal(err)
	}
	b.publish("n")
	s, msgs := b.subscribe(stream.SubscriberConfig{MinIdle: time.Hour})
	m := receive(t, msgs)
	if n := len(b.c.XInfoConsumers(ctx, b.stream, group).Val()); n != 3 {
		t.Fatalf("%d consumers, want 3", n)
	}
	m.Ack()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range b.c.XInfoConsumers(ctx, b.stream, group).Val() {
		names = append(names, c.Name)
	}
	if diff := cmp.Diff([]string{"busy", "young"}, names); diff != "" {
		t.Error(diff)
	}
	if n := b.pending(); n != 1 {
		t.Errorf("%d pending, want 1", n)
	}
}

func TestInFlightIsBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publish(numbered("m", 50)...)
	_, msgs := b.subscribe(stream.SubscriberConfig{MaxInFlight: 7, ReadCount: 3})
	var held []*message.Message
	for range 7 {
		held = append(held, receive(t, msgs))
	}
	select {
	case <-msgs:
		t.Fatal("more in flight than allowed")
	case <-time.After(100 * time.Millisecond):
	}
	if n := b.pending(); n != 7 {
		t.Errorf("%d pending, want 7", n)
	}
	for _, m := range held {
		m.Ack()
	}
	collect(msgs)
	b.finished()
}

// Through Watermill's own Router: errors and panics are retried, the rest is
// handled once, and Run ends cleanly.
func TestRouter(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	got := &seen{n: map[string]int{}}
	s := subscriber(t, stream.SubscriberConfig{Client: b.c, Group: group, NackDelay: time.Millisecond})
	router.AddConsumerHandler("h", b.stream, s, func(m *message.Message) error {
		n := got.add(m)
		switch {
		case m.UUID == "m7" && n < 3:
			return errors.New("not yet")
		case m.UUID == "m8" && n < 3:
			panic("not yet")
		}
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- router.Run(ctx) }()
	ids := numbered("m", 2000)
	for i := range 20 {
		b.publish(ids[100*i : 100*i+100]...)
	}
	got.wait(t, ids)
	b.finished()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for id, n := range got.n {
		want := 1
		if id == "m7" || id == "m8" {
			want = 3
		}
		if n != want {
			t.Errorf("%s handled %d times, want %d", id, n, want)
		}
	}
	if err := b.c.Ping(t.Context()).Err(); err != nil {
		t.Errorf("client after the router's end: %v", err)
	}
}

// relay publishes ids one by one, each until it succeeds, as a relay with a
// record of its own would.
func relay(ctx context.Context, p *stream.Publisher, topic string, ids []string) {
	for _, id := range ids {
		for p.Publish(topic, message.NewMessage(id, []byte("x"))) != nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func TestFlushUnderLoad(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t, testenv.RedisOptions{})
	c := open(t, server.URL())
	var lost atomic.Int32
	s := subscriber(t, stream.SubscriberConfig{
		Client: c, Group: group, Block: 20 * time.Millisecond, MinIdle: time.Second,
		OnLost: func() { lost.Add(1) },
	})
	msgs, err := s.Subscribe(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if lost.Load() != 1 {
		t.Fatalf("first use told %d times", lost.Load())
	}
	got := collect(msgs)
	p := publisher(t, c)
	ids := numbered("m", 4000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		relay(t.Context(), p, "s", ids)
	}()
	for i := range 3 {
		half := ids[:(i+1)*len(ids)/4]
		testenv.Until(t, soon, "progress", func() bool { return len(got.missing(half)) < len(half)/8+10 })
		if err := c.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		testenv.Until(t, soon, "OnLost", func() bool { return int(lost.Load()) >= i+2 })
	}
	<-done
	// What was lost with the flushes is published again, as OnLost asks.
	relay(t.Context(), p, "s", got.missing(ids))
	got.wait(t, ids)
}

func TestRestartsAndOutagesUnderLoad(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t, testenv.RedisOptions{AppendOnly: true, Args: []string{"--appendfsync", "always"}})
	c := open(t, server.URL())
	s := subscriber(t, stream.SubscriberConfig{Client: c, Group: group, Block: 20 * time.Millisecond, MinIdle: time.Second})
	msgs, err := s.Subscribe(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	got := collect(msgs)
	p := publisher(t, c)
	ids := numbered("m", 3000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		relay(t.Context(), p, "s", ids)
	}()
	for i, stop := range []func() error{server.Stop, server.Kill} {
		part := ids[:(i+1)*len(ids)/3]
		testenv.Until(t, soon, "progress", func() bool { return len(got.missing(part)) == 0 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		testenv.Until(t, soon, "a failing publish", func() bool { return p.Publish("other", message.NewMessage("x", nil)) != nil })
		if err := server.Start(); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	got.wait(t, ids)
	testenv.Eventually(t, soon, func() error {
		n, err := stream.Backlog(t.Context(), c, "s", group)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d left", n)
		}
		return err
	})
}

// A subscription made while Redis is away works when it is back, and Close does
// not wait for a Redis that does not answer.
func TestSubscribeAndCloseWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t, testenv.RedisOptions{})
	c := open(t, server.URL())
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	s := subscriber(t, stream.SubscriberConfig{Client: c, Group: group, Block: 20 * time.Millisecond, Grace: 100 * time.Millisecond})
	msgs, err := s.Subscribe(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	if err := publisher(t, c).Publish("s", message.NewMessage("m", nil)); err != nil {
		t.Fatal(err)
	}
	receive(t, msgs).Ack()

	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_ = s.Close()
	}()
	select {
	case _, ok := <-msgs:
		if ok {
			t.Error("message from a paused server")
		}
	case <-time.After(soon):
		t.Error("channel stays open while Redis does not answer")
	}
	select {
	case <-closed:
	case <-time.After(2 * soon):
		t.Error("Close waits for a Redis that does not answer")
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
}
