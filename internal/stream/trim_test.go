package stream_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/stream"
	"github.com/handover-dev/handover/internal/testenv"
)

func TestTrimRemovesOnlyWhatEveryGroupHasFinished(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := t.Context()
	if _, err := stream.EnsureGroup(ctx, b.c, b.stream, "late"); err != nil {
		t.Fatal(err)
	}
	trim := &stream.Trimmer{Client: b.c, Stream: b.stream}
	const total = 25_000 // more than one XTRIM removes
	for i := range total / 1000 {
		b.publish(numbered(fmt.Sprintf("%d-", i), 1000)...)
	}
	first := b.c.XRangeN(ctx, b.stream, "-", "+", 1).Val()[0].ID

	read := func(group string, count int64) []redis.XMessage {
		t.Helper()
		res, err := b.c.XReadGroup(ctx, &redis.XReadGroupArgs{Group: group, Consumer: "c", Streams: []string{b.stream, ">"}, Count: count}).Result()
		if err != nil {
			t.Fatal(err)
		}
		return res[0].Messages
	}
	ack := func(group string, msgs []redis.XMessage) {
		t.Helper()
		for len(msgs) > 0 {
			n := min(len(msgs), 5000)
			var ids []string
			for _, m := range msgs[:n] {
				ids = append(ids, m.ID)
			}
			if err := b.c.XAck(ctx, b.stream, group, ids...).Err(); err != nil {
				t.Fatal(err)
			}
			msgs = msgs[n:]
		}
	}
	expect := func(want int64, what string) {
		t.Helper()
		if _, err := trim.Trim(ctx); err != nil {
			t.Fatal(err)
		}
		if got := b.c.XLen(ctx, b.stream).Val(); got < want || got > want+101 {
			t.Errorf("%s: %d entries left, want about %d", what, got, want)
		}
	}

	expect(total, "nothing read")
	all := read(group, total)
	expect(total, "all pending in one group")
	ack(group, all)
	expect(total, "one group has read nothing")
	late := read("late", 10_000)
	ack("late", late[1:])
	expect(total, "the first is pending")
	if id := b.c.XRangeN(ctx, b.stream, "-", "+", 1).Val()[0].ID; id != first {
		t.Errorf("first entry is %s, want %s", id, first)
	}
	ack("late", late[:1])
	expect(total-10_000, "10,000 finished by both")
	ack("late", read("late", total))
	expect(0, "all finished")
}

func TestTrimmerFollowsTheTraffic(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	trim := &stream.Trimmer{Client: b.c, Stream: b.stream, Every: 5 * time.Millisecond}
	go func() { _ = trim.Run(t.Context()) }()
	_, msgs := b.subscribe(stream.SubscriberConfig{})
	got := collect(msgs)
	var ids []string
	for i := range 50 {
		part := numbered(fmt.Sprintf("%d-", i), 100)
		b.publish(part...)
		ids = append(ids, part...)
	}
	got.wait(t, ids)
	got.once(t)
	testenv.Eventually(t, soon, func() error {
		if n := b.c.XLen(t.Context(), b.stream).Val(); n > 101 {
			return fmt.Errorf("stream keeps %d entries", n)
		}
		return nil
	})
}

func TestTrimOfNothing(t *testing.T) {
	t.Parallel()
	c := open(t, testenv.Redis(t))
	prefix := testenv.Prefix(t)
	trim := &stream.Trimmer{Client: c, Stream: prefix + "absent"}
	if n, err := trim.Trim(t.Context()); n != 0 || err != nil {
		t.Errorf("absent stream: %d, %v", n, err)
	}
	trim.Stream = prefix + "no-groups"
	for range 300 {
		c.XAdd(t.Context(), &redis.XAddArgs{Stream: trim.Stream, Values: []any{"u", "1", "p", "1"}})
	}
	if n, err := trim.Trim(t.Context()); n != 0 || err != nil {
		t.Errorf("stream without groups: %d, %v", n, err)
	}
}

func TestBacklog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	backlog := func() int64 {
		t.Helper()
		n, err := stream.Backlog(t.Context(), b.c, b.stream, group)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := backlog(); n != 0 {
		t.Errorf("empty: %d", n)
	}
	b.publish(numbered("m", 10)...)
	if n := backlog(); n != 10 {
		t.Errorf("10 unread: %d", n)
	}
	res, err := b.c.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: group, Consumer: "c", Streams: []string{b.stream, ">"}, Count: 4}).Result()
	if err != nil {
		t.Fatal(err)
	}
	b.c.XAck(t.Context(), b.stream, group, res[0].Messages[0].ID)
	if n := backlog(); n != 9 {
		t.Errorf("one of 10 finished: %d", n)
	}
	// A deletion in the middle of what is unread: Redis cannot tell any more.
	last := b.c.XRevRangeN(t.Context(), b.stream, "+", "-", 3).Val()
	b.c.XDel(t.Context(), b.stream, last[1].ID)
	if n := backlog(); n < 8 {
		t.Errorf("with a deletion: %d, too few", n)
	}
	if _, err := stream.Backlog(t.Context(), b.c, b.stream, "nobody"); err == nil {
		t.Error("a group that does not exist has a backlog")
	}
}
