package stream_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/internal/stream"
)

// One Publish that Redis refuses does not fail those that share its pipeline.
func TestPublishErrorIsTheMessagesOwn(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	bad := b.stream + "-not-a-stream"
	if err := b.c.Set(t.Context(), bad, "x", 0).Err(); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, b.c)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			topic := b.stream
			if i%10 == 0 {
				topic = bad
			}
			err := p.Publish(topic, message.NewMessage("m", nil), message.NewMessage("n", nil))
			var failed *stream.PublishError
			switch {
			case topic == b.stream && err != nil:
				t.Errorf("good message: %v", err)
			case topic == bad && (!errors.As(err, &failed) || len(failed.Errs) != 2 || failed.Errs[0] == nil || failed.Errs[1] == nil):
				t.Errorf("bad messages: %v", err)
			case topic == bad && !strings.Contains(err.Error(), "WRONGTYPE"):
				t.Errorf("bad messages: %v", err)
			}
		})
	}
	wg.Wait()
	if n := b.c.XLen(t.Context(), b.stream).Val(); n != 360 {
		t.Errorf("%d entries, want 360", n)
	}
	if n := p.Stats().Published; n != 360 {
		t.Errorf("%d counted as published, want 360", n)
	}
}

// Large calls are split over pipelines and keep their order.
func TestPublishKeepsTheOrderOfACall(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var msgs []*message.Message
	for _, id := range numbered("m", 1000) {
		msgs = append(msgs, message.NewMessage(id, make([]byte, 10_000)))
	}
	if err := publisher(t, b.c).Publish(b.stream, msgs...); err != nil {
		t.Fatal(err)
	}
	entries := b.c.XRange(t.Context(), b.stream, "-", "+").Val()
	if len(entries) != len(msgs) {
		t.Fatalf("%d entries, want %d", len(entries), len(msgs))
	}
	for i, e := range entries {
		if e.Values["u"] != msgs[i].UUID {
			t.Fatalf("entry %d is %v", i, e.Values["u"])
		}
	}
}
