package app_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/testenv"
)

// underLoad starts the program with two apps and publishers that go on all
// through what the test does. The function it returns ends them, and checks that
// nothing was lost.
func underLoad(t *testing.T, l *load, args ...string) (p *process, survived func()) {
	t.Helper()
	return underLoadWith(t, l, 0, args...)
}

// underLoadWith is underLoad with so many file descriptors.
func underLoadWith(t *testing.T, l *load, files int, args ...string) (p *process, survived func()) {
	t.Helper()
	p = newProcess(t, append(args, "--data-dir", t.TempDir())...)
	p.files = files
	p.start()
	receivers := []*receiver{newReceiver(t), newReceiver(t)}
	for i, r := range receivers {
		r.Config.SetKeepAlivesEnabled(i > 0) // the first is dialed for each delivery
		r.subscribe(t, p, fmt.Sprint("app ", i))
	}
	l.process = p
	l.start()
	l.accepts(50)
	return p, func() {
		t.Helper()
		awaitReady(p)
		l.accepts(50)
		l.stop()
		l.arrivesAt(receivers...)
		checkInvariants(t, p)
		if n := count(t, p, `SELECT count(*) FROM deliveries WHERE state <> 3`); n > 0 {
			t.Errorf("%d deliveries did not succeed", n)
		}
	}
}

// While PostgreSQL is away publishers are told to come later, and /readyz says
// why. When it is back everything goes on.
func TestPostgresAway(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testenv.PostgresInstance) error{
		"restarted": (*testenv.PostgresInstance).Stop,
		"killed":    (*testenv.PostgresInstance).Crash,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.PostgresServer(t)
			l := &load{}
			p, survived := underLoad(t, l, "--database-url", server.URL(), "--redis-url", testenv.RedisServer(t, testenv.RedisOptions{}).URL())
			for range 3 {
				if err := end(server); err != nil {
					t.Fatal(err)
				}
				l.isRefused(10)
				awaitNotReady(p, "database")
				if err := server.Start(); err != nil {
					t.Fatal(err)
				}
				awaitReady(p)
				l.accepts(50)
			}
			survived()
		})
	}
}

// Whatever Redis does, events are taken and nothing is lost: what was recorded
// waits in the database.
func TestRedisInTrouble(t *testing.T) {
	t.Parallel()
	trouble := map[string]func(t *testing.T, server *testenv.Server, p *process, l *load){
		"restarted": func(t *testing.T, server *testenv.Server, p *process, l *load) {
			for i, end := range []func() error{server.Stop, server.Kill, server.Stop} {
				if err := end(); err != nil {
					t.Fatal(err)
				}
				awaitNotReady(p, "stream")
				l.accepts(50)
				if i == 0 { // for longer, so that the same events are tried often
					l.rest(true)
					testenv.Until(t, patience, "an event that was relayed seven times in vain", func() bool {
						return count(t, p, `SELECT coalesce(max(attempts), 0) FROM handover_outbox`) >= 7
					})
					l.rest(false)
				}
				if err := server.Start(); err != nil {
					t.Fatal(err)
				}
				awaitReady(p)
			}
		},
		"flushed": func(t *testing.T, server *testenv.Server, _ *process, l *load) {
			client := redis.NewClient(&redis.Options{Addr: server.Addr()})
			defer client.Close()
			for range 10 {
				l.accepts(30)
				if err := client.FlushAll(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			}
		},
		"paused": func(t *testing.T, server *testenv.Server, p *process, l *load) {
			if err := server.Pause(); err != nil {
				t.Fatal(err)
			}
			over := time.After(20 * time.Second) // longer than any command to Redis may take
			for {
				select {
				case <-over:
					if err := server.Resume(); err != nil {
						t.Fatal(err)
					}
					return
				default:
				}
				l.accepts(10)
				awaitNotReady(p, "stream")
				if status, body := p.get("/healthz"); status != http.StatusOK {
					t.Fatalf("/healthz: %d %s", status, body)
				}
			}
		},
	}
	for name, happen := range trouble {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := testenv.RedisServer(t, testenv.RedisOptions{})
			l := &load{every: 30 * time.Millisecond}
			p, survived := underLoad(t, l, "--database-url", testenv.Postgres(t), "--redis-url", server.URL())
			happen(t, server, p, l)
			survived()
			if n := l.refusals(); n > 0 {
				t.Errorf("%d events were refused, which could be recorded", n)
			}
		})
	}
}

// When the disk is full publishers are told to come later, and /readyz says that
// nothing can be written. With room again everything goes on.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	l := &load{}
	p, survived := underLoad(t, l)
	for range 3 {
		if err := testenv.LimitFileSize(p.cmd.Process.Pid, sizeOf(t, filepath.Join(p.dataDir(), "handover.db-wal"))); err != nil {
			t.Fatal(err)
		}
		l.isRefused(30)
		awaitNotReady(p, "database")
		if err := testenv.LimitFileSize(p.cmd.Process.Pid, -1); err != nil {
			t.Fatal(err)
		}
		awaitReady(p)
		l.accepts(50)
	}
	survived()
}

// sizeOf is the size of a file.
func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Clients that hold more connections than there are descriptors keep nobody out,
// if they ask nothing; if they do, publishers are told to come later.
func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]string{
		"idle": "",
		"busy": "POST /v1/events HTTP/1.1\r\nHost: handover\r\nAuthorization: Bearer " + testAPIKey +
			"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &load{dial: true}
			p, survived := underLoadWith(t, l, 120)
			release := hold(t, p.addr, 300, say)
			if say == "" {
				l.accepts(100)
				awaitReady(p)
			} else {
				l.isRefused(30)
			}
			release()
			survived()
		})
	}
}

// hold keeps connections open until release is called. Those on which something
// is said are made anew when they are closed.
func hold(t *testing.T, addr string, connections int, say string) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var held sync.WaitGroup
	for range connections {
		held.Go(func() {
			for again := true; again && ctx.Err() == nil; again = say != "" {
				c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				if err == nil {
					done := context.AfterFunc(ctx, func() { _ = c.Close() })
					_, _ = io.WriteString(c, say)
					_, _ = io.Copy(io.Discard, c)
					done()
					_ = c.Close()
				}
				pause(ctx, 2*time.Second)
			}
		})
	}
	release = sync.OnceFunc(func() { cancel(); held.Wait() })
	t.Cleanup(release)
	return release
}

// When nothing can be opened any more, those who are connected are served,
// deliveries wait without being counted against their endpoints, and /readyz says
// why.
func TestOutOfDescriptors(t *testing.T) {
	t.Parallel()
	l := &load{}
	p, survived := underLoad(t, l)
	awaitReady(p) // which leaves a connection
	for range 3 {
		if err := testenv.LimitFiles(p.cmd.Process.Pid, 0); err != nil {
			t.Fatal(err)
		}
		awaitNotReady(p, "process")
		l.accepts(100)
		if err := testenv.LimitFiles(p.cmd.Process.Pid, -1); err != nil {
			t.Fatal(err)
		}
		awaitReady(p)
		l.accepts(50)
	}
	survived()
	if n := count(t, p, `SELECT count(*) FROM attempts WHERE class <> 'ok'`); n > 0 {
		t.Errorf("%d attempts failed, which could not be made", n)
	}
}
