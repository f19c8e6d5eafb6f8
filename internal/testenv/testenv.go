// Package testenv gives tests the real servers they need: a Redis and a
// PostgreSQL, started on demand, thrown away afterwards.
//
// Redis and Postgres share one server each per test process and isolate
// tests inside it: every test uses its own key prefix (Prefix) and gets its own
// database. RedisServer and PostgresServer start a server of the test's own,
// to be stopped, killed, paused, flushed and restarted at will.
//
// TEST_REDIS_URL and TEST_POSTGRES_URL, when set, name servers to use in place
// of the shared ones. They are never flushed; databases created there are
// dropped again. The command in cmd/servers sets both around another command,
// so that the packages of one run share their servers.
//
// A missing server program fails the test and names the command that installs
// it. Nothing is skipped: a skipped suite looks green.
//
// Servers listen on loopback only and end with the process that started them,
// however it ends; so do their files.
package testenv

import (
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Names of the environment variables that point at servers to use.
const (
	RedisURL    = "TEST_REDIS_URL"
	PostgresURL = "TEST_POSTGRES_URL"
)

// MissingError says that a server program is not installed.
type MissingError struct {
	Program string // e.g. "redis-server"
	Package string // the Debian package that has it
}

// Error names the program and the command that installs it.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed; run: apt-get install -y --no-install-recommends %s (or: make test)", e.Program, e.Package)
}

// Missing reports which server programs have to be installed before tests can
// run: none for a server that the environment names.
func Missing() []*MissingError {
	var all []*MissingError
	add := func(variable string, err error) {
		var missing *MissingError
		if os.Getenv(variable) == "" && errors.As(err, &missing) {
			all = append(all, missing)
		}
	}
	_, err := redisProgram()
	add(RedisURL, err)
	_, err = postgresProgram("postgres")
	add(PostgresURL, err)
	return all
}

func redisProgram() (string, error) {
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return "", &MissingError{Program: "redis-server", Package: "redis-server"}
	}
	return path, nil
}

// postgresProgram looks beside PATH too: Debian keeps the server's programs
// off it.
func postgresProgram(name string) (string, error) {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", &MissingError{Program: name, Package: "postgresql"}
}

// version returns the 15 of /usr/lib/postgresql/15/bin.
func version(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

// Eventually calls cond until it returns nil and fails the test with its last
// error when timeout has passed.
func Eventually(tb testing.TB, timeout time.Duration, cond func() error) {
	tb.Helper()
	deadline := time.After(timeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := cond()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			tb.Fatalf("not within %v: %v", timeout, err)
		case <-time.After(pause):
		}
	}
}

// Until calls cond until it returns true and fails the test when timeout has
// passed; what says what was waited for.
func Until(tb testing.TB, timeout time.Duration, what string, cond func() bool) {
	tb.Helper()
	Eventually(tb, timeout, func() error {
		if cond() {
			return nil
		}
		return errors.New(what)
	})
}

// freePort returns a loopback port that nothing listens on. It lies below the
// range from which systems take ports of outgoing connections, so that a server
// finds it free again after a restart.
func freePort() (int, error) {
	const low, high = 20000, 32000
	var last error
	for range 50 {
		n, err := rand.Int(rand.Reader, big.NewInt(high-low))
		if err != nil {
			return 0, err
		}
		port := low + int(n.Int64())
		l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			last = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("find free port: %w", last)
}

// scratch makes a directory that goes away by remove, or else with this
// process: a shell that waits for the end of its input outlives us to do it.
func scratch(name string) (dir string, remove func() error, err error) {
	dir, err = os.MkdirTemp("", "testenv-"+name+"-")
	if err != nil {
		return "", nil, err
	}
	const reap = `while read -r _; do :; done
n=0; until rm -rf -- "$1" 2>/dev/null || [ $n -ge 100 ]; do n=$((n+1)); sleep 0.1; done`
	reaper := exec.Command("/bin/sh", "-c", reap, "reap", dir) //nolint:noctx // it must outlive every context of this process
	reaper.Dir = "/"
	reaper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // out of reach of a terminal's Ctrl-C
	in, err := reaper.StdinPipe()
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := reaper.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() error {
		return errors.Join(in.Close(), reaper.Wait())
	}, nil
}

func random(n int) string {
	return strings.ToLower(rand.Text()[:n])
}
