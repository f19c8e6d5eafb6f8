package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// RedisOptions configures a Redis server.
type RedisOptions struct {
	// AppendOnly keeps the data across Stop and Start, fsync every second.
	AppendOnly bool
	// Respawn starts the server again whenever it ends by itself, as a
	// supervisor would.
	Respawn bool
	// Args are added to the command line.
	Args []string
}

// Server is a Redis server of one's own. Its address stays the same across
// restarts. Methods may be called from several goroutines.
type Server struct {
	opts   RedisOptions
	dir    string
	remove func() error

	mu   sync.Mutex
	port int
	run  *process // nil while stopped
}

var sharedRedis = sync.OnceValues(func() (*Server, error) { return StartRedis(RedisOptions{}) })

// Redis returns the URL of a Redis server that tests share: the one of
// TEST_REDIS_URL, else one that is started at the first call in a process.
// Keep to keys below Prefix and never flush it; a test that wants to has
// RedisServer.
func Redis(tb testing.TB) string {
	tb.Helper()
	if url := os.Getenv(RedisURL); url != "" {
		return url
	}
	s, err := sharedRedis()
	if err != nil {
		tb.Fatal(err)
	}
	return s.URL()
}

// Prefix returns a key prefix of the test's own, ending in a colon. Keys of the
// server of Redis that begin with it are deleted at the end of the test.
func Prefix(tb testing.TB) string {
	tb.Helper()
	opts, err := redis.ParseURL(Redis(tb))
	if err != nil {
		tb.Fatal(err)
	}
	prefix := "t-" + random(12) + ":"
	tb.Cleanup(func() {
		ctx := context.Background() // the test's own has ended
		c := redis.NewClient(opts)
		defer c.Close()
		keys := c.Scan(ctx, 0, prefix+"*", 1000).Iterator()
		for keys.Next(ctx) {
			c.Unlink(ctx, keys.Val())
		}
	})
	return prefix
}

// RedisServer starts a Redis server for this test alone; it is gone when the
// test has ended.
func RedisServer(tb testing.TB, opts RedisOptions) *Server {
	tb.Helper()
	s, err := StartRedis(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// StartRedis starts a Redis server that lives until Close, at the longest as
// long as this process.
func StartRedis(opts RedisOptions) (*Server, error) {
	if _, err := redisProgram(); err != nil {
		return nil, err
	}
	dir, remove, err := scratch("redis")
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, dir: dir, remove: remove}
	for range 5 { // another process may take the port before the server does
		if s.port, err = freePort(); err != nil {
			break
		}
		if err = s.Start(); err == nil {
			return s, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("start redis: %w", err), remove())
}

// Addr returns host and port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// URL returns a redis:// URL.
func (s *Server) URL() string { return "redis://" + s.Addr() }

// PID returns the server's process id, 0 while it is stopped.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run.pid()
}

// Start starts the server unless it runs, and returns when it answers.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.start()
}

func (s *Server) start() error {
	if s.run != nil {
		return nil
	}
	program, err := redisProgram()
	if err != nil {
		return err
	}
	appendOnly := "no"
	if s.opts.AppendOnly {
		appendOnly = "yes"
	}
	args := append([]string{
		"--bind", "127.0.0.1", "--port", strconv.Itoa(s.port), "--dir", s.dir,
		"--save", "", "--appendonly", appendOnly, "--daemonize", "no",
	}, s.opts.Args...)
	p, err := launch(exec.Command(program, args...), s.dir, syscall.SIGKILL) //nolint:noctx // it outlives contexts; arguments are the test's
	if err != nil {
		return err
	}
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), MaxRetries: -1, DialerRetries: 1, DialTimeout: time.Second})
	defer c.Close()
	err = p.ready(func() error {
		ctx := context.Background()
		if err := c.Ping(ctx).Err(); err != nil {
			return err
		}
		info, err := c.Info(ctx, "server").Result()
		if err != nil {
			return err
		}
		if !strings.Contains(info, fmt.Sprintf("process_id:%d\r", p.cmd.Process.Pid)) {
			return errors.New("another server has the port")
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, p.end(syscall.SIGKILL))
	}
	s.run = p
	if s.opts.Respawn {
		go s.respawn(p)
	}
	return nil
}

func (s *Server) respawn(p *process) {
	<-p.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == p {
		s.run = nil
		for range 5 { // a client may repeat the SHUTDOWN that ended the last one
			if s.start() == nil {
				return
			}
		}
	}
}

// Stop ends the server as an operator would: with AppendOnly nothing that was
// acknowledged is lost.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM) }

// Kill ends the server at once.
func (s *Server) Kill() error { return s.end(syscall.SIGKILL) }

func (s *Server) end(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return nil
	}
	p := s.run
	s.run = nil
	return p.end(sig)
}

// Restart stops the server and starts it again.
func (s *Server) Restart() error {
	return errors.Join(s.Stop(), s.Start())
}

// Pause freezes the server: connections stay open and nothing answers.
func (s *Server) Pause() error { return s.signal(syscall.SIGSTOP) }

// Resume ends Pause.
func (s *Server) Resume() error { return s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return errors.New("redis is stopped")
	}
	return s.run.cmd.Process.Signal(sig)
}

// Close kills the server and deletes its files.
func (s *Server) Close() error {
	return errors.Join(s.Kill(), s.remove())
}
