package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
)

// cutter stands before a PostgreSQL server. When it is armed, it breaks the
// connection on which the lost event is recorded: after the commit, before the
// answer.
type cutter struct {
	net.Listener
	server string
	armed  atomic.Bool
}

func newCutter(t *testing.T, server string) *cutter {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, server: server}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			go c.pass(client)
		}
	}()
	return c
}

func (c *cutter) pass(client net.Conn) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", c.server)
	if err != nil {
		return
	}
	defer server.Close()
	var cut atomic.Bool
	go func() {
		defer client.Close()
		defer server.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if err != nil || cut.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte(lost)) && c.armed.Swap(false) {
			cut.Store(true)
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// lost is the event whose statement's answer gets lost.
const lost = "evt_118200000000009002"

// published remembers what a relay published.
type published struct {
	mu  sync.Mutex
	ids []string
}

func (p *published) Publish(_ string, msgs ...*message.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range msgs {
		p.ids = append(p.ids, m.UUID)
	}
	return nil
}

func (p *published) Close() error { return nil }

func (p *published) has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.ids, id)
}

// What was committed by a transaction whose answer got lost is relayed as soon as
// the database answers again, not when its claim ends.
func TestCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	u, err := url.Parse(testenv.Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	cut := newCutter(t, u.Host)
	u.Host = cut.Addr().String()
	s, err := store.Open(t.Context(), store.Config{URL: u.String(), MasterKey: store.NewMasterKey()})
	if err != nil {
		t.Fatal(err)
	}
	out := new(published)
	relay := &outbox.Relay{DB: s.DB(), Dialect: s.Dialect(), Publisher: out, KeepUntilRouted: true, Owner: "me", Lease: time.Hour}
	recorder := ingest.NewRecorder(s, relay)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var parts sync.WaitGroup
	for _, run := range []func(context.Context) error{relay.Run, recorder.Run} {
		parts.Go(func() {
			if err := run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(func() {
		stop()
		parts.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	record := func(id string) error {
		ev, err := events.Parse(fmt.Appendf(nil, `{"spec_version":"1","id":%q,"type":"a.b","object":"User","occurred_at":"2026-06-12T09:30:01Z",`+
			`"environment_id":"env_118200000000000001","organization_id":null,"display_name":"A","data":{}}`, id))
		if err != nil {
			t.Fatal(err)
		}
		_, err = recorder.Record(t.Context(), ingest.Request{Events: []events.Event{ev}})
		return err
	}
	const first, last = "evt_118200000000009001", "evt_118200000000009003"
	if err := record(first); err != nil {
		t.Fatal(err)
	}
	testenv.Until(t, time.Minute, "the first event", func() bool { return out.has(first) })
	cut.armed.Store(true)
	if err := record(lost); !errors.Is(err, ingest.ErrUnavailable) {
		t.Fatalf("the commit whose answer got lost: %v", err)
	}
	if err := record(last); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{last, lost} {
		testenv.Until(t, time.Minute, "event "+id, func() bool { return out.has(id) })
	}
}
