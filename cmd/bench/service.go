package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	"github.com/redis/go-redis/v9"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/handover-dev/handover/internal/testenv"
)

const debugAddr = "127.0.0.1:18999"

const apiKey = "hk_bench_0123456789abcdefghijklmnopqrstuvwxyz"

// bench owns what all scenarios use.
type bench struct {
	options
	dir      string
	binary   string
	self     string
	postgres *testenv.PostgresInstance
	redis    *testenv.Server
}

func newBench(o options) (*bench, error) {
	b := &bench{options: o, binary: o.Binary}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "handover-bench-"); err != nil {
		return nil, err
	}
	if b.binary == "" {
		b.binary = filepath.Join(b.dir, "handover")
		build := exec.Command("go", "build", "-o", b.binary, "github.com/handover-dev/handover/cmd/handover") //nolint:noctx // it ends
		build.Stderr = os.Stderr
		if err := build.Run(); err != nil {
			return nil, fmt.Errorf("build handover: %w", err)
		}
	}
	if b.Store == "postgres" && b.DatabaseURL == "" {
		if b.postgres, err = testenv.StartDurablePostgres(); err != nil {
			return nil, err
		}
		b.DatabaseURL = b.postgres.URL()
		if b.redis, err = testenv.StartRedis(testenv.RedisOptions{}); err != nil {
			return nil, err
		}
		b.RedisURL = b.redis.URL()
	}
	return b, nil
}

func (b *bench) close() {
	if b.redis != nil {
		_ = b.redis.Close()
	}
	if b.postgres != nil {
		_ = b.postgres.Close()
	}
	_ = os.RemoveAll(b.dir)
}

// child is a process of ours with something to say on its first line.
type child struct {
	cmd  *exec.Cmd
	line string
}

func (b *bench) spawn(ctx context.Context, args ...string) (*child, error) {
	c := &child{cmd: exec.CommandContext(ctx, b.self, args...)}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s said nothing: %w", args[0], err), c.cmd.Wait())
	}
	c.line = strings.TrimSpace(line)
	return c, nil
}

func (c *child) stop() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// generate runs a load and returns what came of it.
func (b *bench) generate(ctx context.Context, l load) (sent, error) {
	l.Key, l.Until = apiKey, cmp.Or(l.Until, 5*time.Minute)
	in, err := json.Marshal(l)
	if err != nil {
		return sent{}, err
	}
	cmd := exec.CommandContext(ctx, b.self, "generator")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return sent{}, fmt.Errorf("generate load: %w", err)
	}
	var s sent
	if err := json.Unmarshal(out, &s); err != nil {
		return sent{}, fmt.Errorf("generate load: %w", err)
	}
	return s, nil
}

// service is one run of handover.
type service struct {
	b    *bench
	cmd  *exec.Cmd
	addr string
	dir  string
	log  bytes.Buffer
	last sample0
}

// sample0 is what a process had used when it ended, so that a kill does not
// lose it.
type sample0 struct {
	cpu  time.Duration
	peak float64
}

// fresh starts the service on an empty database.
func (b *bench) fresh(ctx context.Context) (*service, error) {
	if b.Store == "postgres" {
		if err := b.dropTables(ctx); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(b.dir, "data-")
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		return nil, err
	}
	s := &service{b: b, addr: l.Addr().String(), dir: dir}
	_ = l.Close()
	return s, s.start(ctx)
}

func (b *bench) dropTables(ctx context.Context) error {
	db, err := sql.Open("pgx", b.DatabaseURL)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, `DROP SCHEMA public CASCADE; CREATE SCHEMA public`); err != nil {
		return fmt.Errorf("empty database: %w", err)
	}
	opts, err := redis.ParseURL(b.RedisURL)
	if err != nil {
		return errors.New("the Redis URL cannot be read")
	}
	c := redis.NewClient(opts)
	defer c.Close()
	return c.Del(ctx, "handover.events", "handover.events.dead").Err()
}

func (s *service) start(ctx context.Context) error {
	args := []string{
		"serve", "--addr", s.addr, "--data-dir", s.dir, "--allow-network", "127.0.0.0/8", "--log-level", "warn",
		"--client-rate", "1000000", // one client stands for many
	}
	if s.b.Store == "postgres" {
		args = append(args, "--database-url", s.b.DatabaseURL, "--redis-url", s.b.RedisURL)
	}
	if s.b.Profile != "" {
		args = append(args, "--debug-addr", debugAddr)
	}
	s.cmd = exec.Command(s.b.binary, args...) //nolint:noctx // it is ended by a signal
	s.cmd.Env = append(os.Environ(), "HANDOVER_API_KEY="+apiKey)
	s.cmd.Stderr = &s.log
	if s.b.Verbose {
		s.cmd.Stderr = os.Stderr
	}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if status, _, err := s.call(ctx, http.MethodGet, "/readyz", nil); err == nil && status == http.StatusOK {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("the service does not get ready: %s", s.log.String())
}

// note keeps what the process has used so far.
func (s *service) note() {
	if s.cmd != nil {
		s.last.peak = max(s.last.peak, peakRSS(s.cmd.Process.Pid))
	}
}

func (s *service) cpu() time.Duration {
	if s.cmd == nil {
		return s.last.cpu
	}
	return s.last.cpu + cpuOf(s.cmd.Process.Pid)
}

func (s *service) kill() {
	s.note()
	s.last.cpu += cpuOf(s.cmd.Process.Pid)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

func (s *service) stop() {
	if s.cmd != nil {
		s.note()
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
	_ = os.RemoveAll(s.dir)
}

func (s *service) call(ctx context.Context, method, path string, body any) (int, []byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+s.addr+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+apiKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// subscribe creates an endpoint for all events, or those of some types, and
// returns its id.
func (s *service) subscribe(ctx context.Context, url string, types ...string) (string, error) {
	if len(types) == 0 {
		types = []string{"*"}
	}
	status, answer, err := s.call(ctx, http.MethodPost, "/v1/endpoints", map[string]any{"name": "app", "url": url, "event_types": types})
	if err != nil || status != http.StatusCreated {
		return "", fmt.Errorf("create endpoint: %d %s %w", status, answer, err)
	}
	var e struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(answer, &e); err != nil {
		return "", err
	}
	return e.ID, nil
}

// order pauses or resumes an endpoint.
func (s *service) order(ctx context.Context, id, verb string) error {
	status, answer, err := s.call(ctx, http.MethodPost, "/v1/endpoints/"+id+"/"+verb, nil)
	if err == nil && status >= 300 {
		err = fmt.Errorf("%d %s", status, answer)
	}
	if err != nil {
		return fmt.Errorf("%s endpoint: %w", verb, err)
	}
	return nil
}

// expired tells how many events the service has deleted for their age.
func (s *service) expired(ctx context.Context) (int, error) {
	const name = "\nhandover_expired_events_total "
	_, metrics, err := s.call(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return 0, err
	}
	_, value, _ := strings.Cut(string(metrics), name)
	value, _, _ = strings.Cut(value, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, fmt.Errorf("read%s: %w", name, err)
	}
	return int(n), nil
}

// database opens the service's database.
func (s *service) database() (*sql.DB, error) {
	if s.b.Store == "postgres" {
		return sql.Open("pgx", s.b.DatabaseURL)
	}
	return sql.Open("sqlite", "file:"+filepath.Join(s.dir, "handover.db")+"?_pragma=busy_timeout(60000)")
}
