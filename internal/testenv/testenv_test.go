package testenv_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/testenv"
)

func client(t *testing.T, url string) *redis.Client {
	t.Helper()
	opts, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

func TestRedisPrefixIsEmptiedAfterTheTest(t *testing.T) {
	t.Parallel()
	c := client(t, testenv.Redis(t))
	var prefix string
	t.Run("inner", func(t *testing.T) {
		prefix = testenv.Prefix(t)
		if err := c.Set(t.Context(), prefix+"k", 1, 0).Err(); err != nil {
			t.Fatal(err)
		}
	})
	if n := c.Exists(t.Context(), prefix+"k").Val(); n != 0 {
		t.Errorf("key of a finished test is still there")
	}
}

func TestRedisServerKeepsAppendOnlyDataAcrossRestart(t *testing.T) {
	t.Parallel()
	for _, appendOnly := range []bool{false, true} {
		s := testenv.RedisServer(t, testenv.RedisOptions{AppendOnly: appendOnly})
		addr := s.Addr()
		c := client(t, s.URL())
		if err := c.Set(t.Context(), "k", "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
		if s.Addr() != addr {
			t.Errorf("address changed from %s to %s", addr, s.Addr())
		}
		if got := c.Exists(t.Context(), "k").Val() == 1; got != appendOnly {
			t.Errorf("append only %v: key kept: %v", appendOnly, got)
		}
	}
}

func TestRedisServerKillAndRespawn(t *testing.T) {
	t.Parallel()
	s := testenv.RedisServer(t, testenv.RedisOptions{Respawn: true})
	c := client(t, s.URL())
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := c.Ping(t.Context()).Err(); err == nil {
		t.Fatal("a killed server answers")
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	id := c.InfoMap(t.Context(), "server").Item("Server", "run_id")
	_ = c.Shutdown(t.Context()).Err()
	testenv.Until(t, 60*time.Second, "another run of the server", func() bool {
		now := c.InfoMap(t.Context(), "server").Item("Server", "run_id")
		return now != "" && now != id
	})
}

func TestPostgresGivesEachCallItsOwnDatabase(t *testing.T) {
	t.Parallel()
	var url string
	t.Run("inner", func(t *testing.T) {
		url = testenv.Postgres(t)
		a, b := connect(t, url), connect(t, testenv.Postgres(t))
		for _, c := range []*pgx.Conn{a, b} {
			if _, err := c.Exec(t.Context(), "CREATE TABLE x (id int)"); err != nil {
				t.Error(err)
			}
		}
	})
	if c, err := pgx.Connect(t.Context(), url); err == nil {
		_ = c.Close(t.Context())
		t.Error("database of a finished test is still there")
	}
}

func TestPostgresServerKeepsCommittedDataAcrossKillAndRestart(t *testing.T) {
	t.Parallel()
	p := testenv.PostgresServer(t)
	if _, err := connect(t, p.URL()).Exec(t.Context(), "CREATE TABLE x (id int)"); err != nil {
		t.Fatal(err)
	}
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if c, err := pgx.Connect(t.Context(), p.URL()); err == nil {
		_ = c.Close(t.Context())
		t.Fatal("a killed server answers")
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, p.URL()).Exec(t.Context(), "SELECT id FROM x"); err != nil {
		t.Error(err)
	}
}

// The child below starts both servers and waits; killed, it must leave nothing.
func TestServersEndWithTheirProcess(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestServersChild$")
	cmd.Env = append(os.Environ(), "TESTENV_CHILD=1", testenv.RedisURL+"=", testenv.PostgresURL+"=")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var urls []string
	for len(urls) < 2 && lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), "url "); ok {
			urls = append(urls, url)
		}
	}
	if len(urls) != 2 {
		t.Fatalf("child says %q", urls)
	}
	postgres := connect(t, urls[1])
	var dir string
	if err := postgres.QueryRow(t.Context(), "SHOW data_directory").Scan(&dir); err != nil {
		t.Fatal(err)
	}
	if err := client(t, urls[0]).Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	testenv.Eventually(t, 20*time.Second, func() error {
		if client(t, urls[0]).Ping(t.Context()).Err() == nil {
			return errors.New("redis answers")
		}
		if c, err := pgx.Connect(t.Context(), urls[1]); err == nil {
			_ = c.Close(t.Context())
			return errors.New("postgres answers")
		}
		if _, err := os.Stat(dir); err == nil {
			return fmt.Errorf("%s is still there", dir)
		}
		return nil
	})
}

func TestServersChild(t *testing.T) {
	if os.Getenv("TESTENV_CHILD") == "" {
		return // only the child of the test above has something to do
	}
	fmt.Println("url", testenv.Redis(t))
	fmt.Println("url", testenv.Postgres(t))
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func TestMissingProgramSaysWhatToRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(testenv.RedisURL, "")
	_, err := testenv.StartRedis(testenv.RedisOptions{})
	var missing *testenv.MissingError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "apt-get install -y --no-install-recommends redis-server") {
		t.Errorf("error is %v", err)
	}
	if all := testenv.Missing(); len(all) == 0 || all[0].Program != "redis-server" {
		t.Errorf("missing: %v", all)
	}
	t.Setenv(testenv.RedisURL, "redis://localhost")
	for _, m := range testenv.Missing() {
		if m.Program == "redis-server" {
			t.Error("redis-server is not missing when another server is named")
		}
	}
}

func TestServersCommand(t *testing.T) {
	t.Parallel()
	bin := t.TempDir() + "/servers"
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, "./cmd/servers").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), bin, "--", "sh", "-c", `echo "$TEST_REDIS_URL $TEST_POSTGRES_URL"; exit 7`)
	cmd.Env = append(os.Environ(), testenv.RedisURL+"=", testenv.PostgresURL+"=")
	out, err := cmd.Output()
	if cmd.ProcessState.ExitCode() != 7 {
		t.Errorf("exit code %d (%v), want the command's 7", cmd.ProcessState.ExitCode(), err)
	}
	var redisURL, postgresURL string
	if _, err := fmt.Sscan(string(out), &redisURL, &postgresURL); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	if err := client(t, redisURL).Ping(t.Context()).Err(); err == nil {
		t.Error("redis outlives the command")
	}
	if c, err := pgx.Connect(t.Context(), postgresURL); err == nil {
		_ = c.Close(t.Context())
		t.Error("postgres outlives the command")
	}
}
