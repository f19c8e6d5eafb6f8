package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// PostgresInstance is a PostgreSQL server of one's own. Its address stays the
// same across restarts. Methods may be called from several goroutines.
type PostgresInstance struct {
	dir    string
	remove func() error
	cred   *syscall.Credential // nil: our own user

	settings []string

	mu      sync.Mutex
	port    int
	run     *process // nil while stopped
	crashed bool     // the last run did
}

var sharedPostgres = sync.OnceValues(StartPostgres)

// Postgres returns the postgres:// URL of a new, empty database that is dropped
// at the end of the test. It lies on the server of TEST_POSTGRES_URL, else on
// one that is started at the first call in a process.
func Postgres(tb testing.TB) string {
	tb.Helper()
	server := os.Getenv(PostgresURL)
	if server == "" {
		p, err := sharedPostgres()
		if err != nil {
			tb.Fatal(err)
		}
		server = p.URL()
	}
	u, err := url.Parse(server)
	if err != nil {
		tb.Fatalf("%s is not a URL", PostgresURL) // the parse error would print the password
	}
	name := "t_" + random(16)
	if err := execOn(server, "CREATE DATABASE "+name); err != nil {
		tb.Fatalf("create database: %v", err)
	}
	tb.Cleanup(func() {
		if err := execOn(server, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("drop database: %v", err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

// PostgresServer starts a PostgreSQL server for this test alone; it is gone
// when the test has ended. It keeps what it has committed when it is killed,
// though not when the machine is.
func PostgresServer(tb testing.TB) *PostgresInstance {
	tb.Helper()
	p, err := startPostgres("-F", "-c", "shared_buffers=64MB")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := p.Close(); err != nil {
			tb.Error(err)
		}
	})
	return p
}

// StartPostgres starts a PostgreSQL server that lives until Close, at the
// longest as long as this process. PostgreSQL refuses to run as root: started
// by root it runs as nobody. It is fast rather than durable.
func StartPostgres() (*PostgresInstance, error) {
	return startPostgres("-F", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "shared_buffers=64MB")
}

// StartDurablePostgres is StartPostgres with what makes commits durable left on,
// as in production, and some settings of a server that is used: for measuring.
func StartDurablePostgres() (*PostgresInstance, error) {
	return startPostgres("-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB", "-c", "checkpoint_timeout=15min")
}

func startPostgres(settings ...string) (*PostgresInstance, error) {
	initdb, err := postgresProgram("initdb")
	if err != nil {
		return nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, remove, err := scratch("postgres")
	if err != nil {
		return nil, err
	}
	p := &PostgresInstance{dir: dir, remove: remove, cred: cred, settings: settings}
	if err := p.create(initdb); err != nil {
		return nil, errors.Join(err, remove())
	}
	for range 5 { // another process may take the port before the server does
		if p.port, err = freePort(); err != nil {
			break
		}
		if err = p.Start(); err == nil {
			return p, nil
		}
	}
	return nil, errors.Join(fmt.Errorf("start postgres: %w", err), remove())
}

func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("run postgres as root: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

func (p *PostgresInstance) data() string { return filepath.Join(p.dir, "data") }

func (p *PostgresInstance) create(initdb string) error {
	if p.cred != nil {
		if err := os.Chown(p.dir, int(p.cred.Uid), int(p.cred.Gid)); err != nil {
			return err
		}
	}
	cmd := exec.Command(initdb, "-D", p.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync") //nolint:noctx,gosec // bounded by itself; our own arguments
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	return nil
}

// URL returns a postgres:// URL of the server's database "postgres".
func (p *PostgresInstance) URL() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

// PID returns the id of the server's first process, 0 while it is stopped.
func (p *PostgresInstance) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.run.pid()
}

// Start starts the server unless it runs, and returns when it answers.
func (p *PostgresInstance) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run != nil {
		return nil
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := p.start()
		if err == nil || !p.crashed || time.Now().After(deadline) {
			p.crashed = p.crashed && err != nil
			return err
		}
		// The sessions of the server that crashed are about to notice and end.
	}
}

func (p *PostgresInstance) start() error {
	program, err := postgresProgram("postgres")
	if err != nil {
		return err
	}
	args := append([]string{
		"-D", p.data(), "-p", strconv.Itoa(p.port),
		"-c", "max_connections=200", "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
	}, p.settings...)
	cmd := exec.Command(program, args...) //nolint:noctx // it outlives contexts; our own arguments
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.cred}
	run, err := launch(cmd, p.dir, syscall.SIGQUIT)
	if err != nil {
		return err
	}
	err = run.ready(func() error {
		var dir string
		if err := queryOn(p.URL(), "SHOW data_directory", &dir); err != nil {
			return err
		}
		if dir != p.data() {
			return errors.New("another server has the port")
		}
		return nil
	})
	if err != nil {
		return errors.Join(err, run.end(syscall.SIGQUIT))
	}
	p.run = run
	return nil
}

// Stop ends the server as an operator would who does not wait for sessions.
func (p *PostgresInstance) Stop() error { return p.end(syscall.SIGINT) }

// Kill ends the server at once: sessions break off, nothing is written out,
// and the next Start recovers as after a crash.
func (p *PostgresInstance) Kill() error { return p.end(syscall.SIGQUIT) }

// Crash is SIGKILL to the server's first process: it cannot even tell its
// sessions, which end when they notice.
func (p *PostgresInstance) Crash() error { return p.end(syscall.SIGKILL) }

func (p *PostgresInstance) end(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.run == nil {
		return nil
	}
	run := p.run
	p.run, p.crashed = nil, sig == syscall.SIGKILL
	return run.end(sig)
}

// Restart stops the server and starts it again.
func (p *PostgresInstance) Restart() error {
	return errors.Join(p.Stop(), p.Start())
}

// Close kills the server and deletes its files.
func (p *PostgresInstance) Close() error {
	return errors.Join(p.Kill(), p.remove())
}

func execOn(url, sql string) error {
	return onPostgres(url, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql)
		return err
	})
}

func queryOn(url, sql string, dest any) error {
	return onPostgres(url, func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, sql).Scan(dest)
	})
}

func onPostgres(url string, do func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	return do(ctx, c)
}
