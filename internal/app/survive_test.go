package app_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/testenv"
)

// The real program is killed at random moments under load, twenty times. Every
// event that it accepted arrives at every endpoint, each time under the same
// webhook-id and with the same bytes.
func TestKillLosesNothing(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		survive(t, newProcess(t, "--data-dir", t.TempDir()), nil)
	})
	t.Run("postgres and redis", func(t *testing.T) {
		t.Parallel()
		server := testenv.RedisServer(t, testenv.RedisOptions{})
		client := redis.NewClient(&redis.Options{Addr: server.Addr()})
		defer client.Close()
		p := newProcess(t, "--data-dir", t.TempDir(), "--database-url", testenv.Postgres(t), "--redis-url", server.URL())
		survive(t, p, func(round int) {
			if round%3 == 1 {
				if err := client.FlushAll(t.Context()).Err(); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

func survive(t *testing.T, p *process, disturb func(round int)) {
	t.Helper()
	receivers := []*receiver{newReceiver(t), newReceiver(t), newReceiver(t)}
	p.start()
	for i, r := range receivers {
		r.subscribe(t, p, fmt.Sprint("app ", i))
	}
	l := &load{process: p, publishers: 4, every: time.Millisecond, killed: true}
	l.start()
	for round := range 20 {
		pause(t.Context(), time.Duration(20+rand.IntN(300))*time.Millisecond)
		if disturb != nil {
			disturb(round)
		}
		pause(t.Context(), time.Duration(rand.IntN(50))*time.Millisecond)
		p.kill()
		p.start()
	}
	l.stop()
	l.arrivesAt(receivers...)
	checkInvariants(t, p)
	if n := l.count(); n < 100 {
		t.Errorf("only %d events were accepted: that is no load", n)
	}
}

// One endpoint of ten hangs; everything to the nine others is delivered while
// it does.
func TestHangingEndpointDelaysNobody(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "--data-dir", t.TempDir())
	p.start()
	release := make(chan struct{})
	defer close(release)
	const events = 300
	var receivers []*receiver
	for i := range 10 {
		r := newReceiver(t)
		r.subscribe(t, p, fmt.Sprint("app ", i))
		receivers = append(receivers, r)
	}
	receivers[3].mu.Lock()
	receivers[3].hang = func(r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	receivers[3].mu.Unlock()
	for n := range events {
		_, ev := removal(1000 + n)
		if status, body, err := p.call(t.Context(), http.MethodPost, "/v1/events", ev); err != nil || status != http.StatusAccepted {
			t.Fatalf("publish: %d %s %v", status, body, err)
		}
	}
	for i, r := range receivers {
		if i == 3 {
			continue
		}
		testenv.Eventually(t, 60*time.Second, func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.byEvent) < events {
				return fmt.Errorf("app %d has %d of %d events", i, len(r.byEvent), events)
			}
			return nil
		})
	}
	receivers[3].mu.Lock()
	defer receivers[3].mu.Unlock()
	if n := len(receivers[3].byEvent); n != 0 {
		t.Errorf("the hanging app took %d events: it did not hang", n)
	}
}
