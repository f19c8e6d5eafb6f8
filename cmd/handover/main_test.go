package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"handover": main})
}

// TestScripts runs testdata/script: the specification of the command line.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")) // else each command takes a second with -race
			env.Values["server"] = &server{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      exits,
			"eventually": eventually,
			"serve":      serve,
			"quit":       quit,
			"post":       post,
			"receiver":   receiver,
			"setenv":     setenv,
		},
	})
}

// exits CODE PROGRAM ARGS... runs a program that must end with this code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("run %v: %v", args[1:], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%v exited with %d, not %d", args[1:], got, want)
	}
}

// eventually PATTERN PROGRAM ARGS... runs a program until its stdout matches.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually pattern program [args...]")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := ts.Exec(args[1], args[2:]...)
		if pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%v did not print %s (last error: %v)", args[1:], args[0], err)
		}
	}
}

// setenv NAME PATTERN sets a variable to what the pattern's group, or all of
// it, matches in the last stdout.
func setenv(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: setenv name pattern")
	}
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	match := pattern.FindStringSubmatch(ts.ReadFile("stdout"))
	if match == nil {
		ts.Fatalf("no match for %s", args[1])
	}
	ts.Setenv(args[0], match[len(match)-1])
}

// A server is the handover serve of a script.
type server struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when its stdout ended
}

// serve FLAGS... starts the real service in the directory "data" and sets
// HANDOVER_URL, and HANDOVER_API_KEY when it created one. What it prints is in
// the files serve.out and serve.err.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	s := ts.Value("server").(*server)
	if neg || s.cmd != nil {
		ts.Fatalf("usage: serve [flags...], once until quit")
	}
	program, err := findIn(ts.Getenv("PATH"), "handover")
	ts.Check(err)
	s.cmd = exec.Command(program, append([]string{"serve", "--addr", "127.0.0.1:0", "--data-dir", "data"}, args...)...) //nolint:noctx // quit ends it
	s.cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "TZ", "GORACE", "HANDOVER_API_KEY", "HANDOVER_MASTER_KEY", "HANDOVER_ALLOW_NETWORK", "HANDOVER_LOG_FORMAT"} {
		s.cmd.Env = append(s.cmd.Env, name+"="+ts.Getenv(name))
	}
	logs, err := os.Create(ts.MkAbs("serve.err"))
	ts.Check(err)
	s.cmd.Stderr = logs
	stdout, err := s.cmd.StdoutPipe()
	ts.Check(err)
	copied, err := os.Create(ts.MkAbs("serve.out"))
	ts.Check(err)
	ts.Check(s.cmd.Start())
	process := s.cmd.Process
	ts.Defer(func() { _ = process.Kill() })

	lines := make(chan string)
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		defer close(lines)
		defer copied.Close()
		defer logs.Close()
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			fmt.Fprintln(copied, scanner.Text())
			lines <- scanner.Text()
		}
	}()
	url := ""
	for line := range lines {
		if _, rest, ok := strings.Cut(line, "handover listens on "); ok {
			url = rest
		}
		if _, rest, ok := strings.Cut(line, "HANDOVER_API_KEY="); ok {
			ts.Setenv("HANDOVER_API_KEY", rest)
		}
		if strings.HasPrefix(line, "  stream") {
			break
		}
	}
	if url == "" {
		ts.Fatalf("the service did not start:\n%s", ts.ReadFile("serve.err"))
	}
	ts.Setenv("HANDOVER_URL", url)
	go func() {
		for range lines { // until it ends
		}
	}()
}

// quit ends the service with SIGTERM; it must exit with 0.
func quit(ts *testscript.TestScript, _ bool, _ []string) {
	s := ts.Value("server").(*server)
	ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	<-s.done
	if err := s.cmd.Wait(); err != nil {
		ts.Fatalf("serve: %v\n%s", err, ts.ReadFile("serve.err"))
	}
	s.cmd = nil
}

func findIn(path, program string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, program)
		if info, err := os.Stat(file); err == nil && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("no %s in %s", program, path)
}

// receiver starts an app and sets RECEIVER to its URL. It answers /status/NNN
// with that status and anything else with 200. What it gets is in the file
// "received": a line with path, webhook-id, user-agent and body for each.
func receiver(ts *testscript.TestScript, _ bool, _ []string) {
	var mu sync.Mutex
	file := ts.MkAbs("received")
	ts.Check(os.WriteFile(file, nil, 0o600))
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		if f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintln(f, r.URL.Path, r.Header.Get("Webhook-Id"), r.Header.Get("User-Agent"), string(body))
			_ = f.Close()
		}
		mu.Unlock()
		if code, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/status/")); err == nil {
			w.WriteHeader(code)
		}
		_, _ = io.WriteString(w, "answered by the app")
	}))
	ts.Defer(app.Close)
	ts.Setenv("RECEIVER", app.URL)
}

// post STATUS URL BODY sends JSON that nobody signed; the answer must have this
// status.
func post(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: post status url body")
	}
	res, err := http.Post(args[1], "application/json", strings.NewReader(args[2])) //nolint:noctx // to this machine
	ts.Check(err)
	defer res.Body.Close()
	if fmt.Sprint(res.StatusCode) != args[0] {
		ts.Fatalf("answered %d, not %s", res.StatusCode, args[0])
	}
}
