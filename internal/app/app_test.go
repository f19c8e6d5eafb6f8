package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

func (p *process) get(path string) (int, string) {
	p.t.Helper()
	resp, err := http.Get("http://" + p.addr + path) //nolint:noctx // bounded by the test
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (p *process) mustCall(method, path string, body any, want int) map[string]any {
	p.t.Helper()
	status, answer, err := p.call(p.t.Context(), method, path, body)
	if err != nil || status != want {
		p.t.Fatalf("%s %s: %d %s %v, want %d", method, path, status, answer, err, want)
	}
	var decoded map[string]any
	if len(answer) > 0 {
		if err := json.Unmarshal(answer, &decoded); err != nil {
			p.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return decoded
}

func (r *receiver) await(t *testing.T, eventIDs ...string) {
	t.Helper()
	testenv.Eventually(t, 60*time.Second, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, id := range eventIDs {
			if r.byEvent[id] == nil {
				return fmt.Errorf("event %s has not arrived", id)
			}
		}
		return nil
	})
}

// Each combination of database and stream carries a signed webhook and a
// published event to the app, replays, and stops when it is told to.
func TestEachCombination(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]func(t *testing.T) []string{
		"sqlite, in process": func(*testing.T) []string { return nil },
		"sqlite, redis": func(t *testing.T) []string {
			return []string{"--redis-url", testenv.RedisServer(t, testenv.RedisOptions{}).URL()}
		},
		"postgres, in process": func(t *testing.T) []string { return []string{"--database-url", testenv.Postgres(t)} },
		"postgres, redis": func(t *testing.T) []string {
			return []string{"--database-url", testenv.Postgres(t), "--redis-url", testenv.RedisServer(t, testenv.RedisOptions{}).URL()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newProcess(t, append(args(t), "--data-dir", t.TempDir())...)
			p.start()
			r := newReceiver(t)
			endpoint := r.subscribe(t, p, "app")
			id, ev := removal(1)
			p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
			r.await(t, id)

			secret := signing.NewKey()
			p.mustCall(http.MethodPost, "/v1/sources", map[string]any{
				"name": "idp", "environment_id": "env_118200000000000001", "secret": secret.Secret(),
			}, http.StatusCreated)
			body, _ := events.Fixture("user.organization_membership_deleted")
			for _, want := range []int{http.StatusCreated, http.StatusOK} {
				if status := p.webhook("idp", secret, "msg_1", body); status != want {
					t.Errorf("webhook: %d, want %d", status, want)
				}
			}
			r.await(t, "evt_118200000000009001")

			// What is just being sent is not replayed.
			testenv.Eventually(t, 60*time.Second, func() error {
				if _, metrics := p.get("/metrics"); !strings.Contains(metrics, `handover_attempts_total{class="ok"} 2`+"\n") {
					return errors.New("the first two attempts are not recorded")
				}
				return nil
			})
			replay := p.mustCall(http.MethodPost, "/v1/replays", map[string]any{"endpoint_id": endpoint}, http.StatusAccepted)
			testenv.Eventually(t, 60*time.Second, func() error {
				got := p.mustCall(http.MethodGet, "/v1/replays/"+replay["id"].(string), nil, http.StatusOK)
				r.mu.Lock()
				defer r.mu.Unlock()
				if n := r.byEvent[id].times; got["state"] != "done" || n != 2 {
					return fmt.Errorf("replay %v, %d times received", got, n)
				}
				return nil
			})
			for _, w := range r.wrong {
				t.Error(w)
			}
			testenv.Eventually(t, 60*time.Second, func() error {
				_, metrics := p.get("/metrics")
				for _, want := range []string{
					"handover_events_accepted_total 2", `handover_attempts_total{class="ok"} 4`, `handover_backlog{stage="outbox"} 0`,
					`handover_backlog{stage="dead_letters"} 0`, "handover_delivery_latency_seconds_count 4", "handover_events_routed_total 2",
				} {
					if !strings.Contains(metrics, want+"\n") {
						return fmt.Errorf("/metrics lacks %s", want)
					}
				}
				return nil
			})
			if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := p.cmd.Wait(); err != nil {
				t.Errorf("SIGTERM: %v, want exit 0\n%s", err, p.log.tail(4000))
			}
			p.cmd = nil
		})
	}
}

func (p *process) webhook(source string, key signing.Key, id string, body []byte) int {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, "http://"+p.addr+"/webhooks/"+source, strings.NewReader(string(body)))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(req.Header, id, time.Now(), body); err != nil {
		p.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

// While Redis is away events are taken and wait; /readyz says so; when it is
// back, empty, everything is delivered.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	server := testenv.RedisServer(t, testenv.RedisOptions{})
	p := newProcess(t, "--data-dir", t.TempDir(), "--redis-url", server.URL())
	p.start()
	r := newReceiver(t)
	r.subscribe(t, p, "app")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for n := range 50 {
		id, ev := removal(n)
		p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
		ids = append(ids, id)
	}
	if status, body := p.get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, `"stream":"does not`) || !strings.Contains(body, `"database":"ok"`) {
		t.Errorf("/readyz: %d %s", status, body)
	}
	if status, _ := p.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d", status)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	r.await(t, ids...)
	testenv.Eventually(t, 60*time.Second, func() error {
		if status, body := p.get("/readyz"); status != http.StatusOK {
			return fmt.Errorf("/readyz: %d %s", status, body)
		}
		return nil
	})
}

func TestTwoProcessesShareTheWork(t *testing.T) {
	t.Parallel()
	args := []string{"--database-url", testenv.Postgres(t), "--redis-url", testenv.RedisServer(t, testenv.RedisOptions{}).URL(), "--data-dir", t.TempDir()}
	a, b := newProcess(t, args...), newProcess(t, args...)
	a.start()
	b.start()
	// An endpoint that one process created counts for events that the other takes,
	// from the moment it was answered.
	var all []*receiver
	for round := range 10 {
		r := newReceiver(t)
		r.subscribe(t, a, fmt.Sprint("app ", round))
		all = append(all, r)
		id, ev := removal(round)
		b.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
		for _, r := range all {
			r.await(t, id)
		}
	}
	a.kill()
	id, ev := removal(100)
	b.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
	for _, r := range all {
		r.await(t, id)
	}
}

func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	running := newProcess(t, "--data-dir", dir)
	running.start()
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "master.key"), []byte("not a key"), 0o600); err != nil {
		t.Fatal(err)
	}
	lost := t.TempDir()
	earlier := newProcess(t, "--data-dir", lost)
	earlier.start()
	earlier.kill()
	if err := os.Remove(filepath.Join(lost, "master.key")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		args       []string
	}{
		{"a lost master key", "put the right one into " + filepath.Join(lost, "master.key"), []string{"--addr", "127.0.0.1:0", "--data-dir", lost}},
		{"a data directory in use", "another handover is using", []string{"--addr", "127.0.0.1:0", "--data-dir", dir}},
		{"an address in use", "address already in use", []string{"--addr", running.addr, "--data-dir", t.TempDir()}},
		{"a broken master key", "32 bytes in base64", []string{"--addr", "127.0.0.1:0", "--data-dir", broken}},
		{"a bad redis URL", "must be a URL that starts with redis://", []string{"--addr", "127.0.0.1:0", "--data-dir", t.TempDir(), "--redis-url", "http://secret@x"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, path, append([]string{"serve"}, test.args...)...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), test.want) || strings.Contains(string(out), "secret@") {
				t.Errorf("%v\n%s\nwant %q", err, out, test.want)
			}
		})
	}
}

// The receiving app of the README, in Node, takes a real delivery.
func TestReadmeNodeApp(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("Node is not installed; this test is about the README's example for it")
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile("(?s)```js\n(.*?)```").FindSubmatch(readme)
	if code == nil {
		t.Fatal("the README has no example in JavaScript")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.mjs"), code[1], 0o600); err != nil {
		t.Fatal(err)
	}
	npm := exec.CommandContext(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--silent", "standardwebhooks")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	p := newProcess(t, "--data-dir", t.TempDir())
	p.start()
	port := freePort(t)
	key := signing.NewKey()
	created := p.mustCall(http.MethodPost, "/v1/endpoints", map[string]any{
		"name": "node", "url": "http://127.0.0.1:" + port, "event_types": []string{"*"}, "secret": key.Secret(),
	}, http.StatusCreated)
	app := exec.CommandContext(t.Context(), node, "app.mjs")
	app.Dir = dir
	app.Env = append(os.Environ(), "PORT="+port, "HANDOVER_SECRET="+key.Secret())
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Process.Kill(); _ = app.Wait() })
	testenv.Eventually(t, 60*time.Second, func() error {
		resp, err := http.Get("http://127.0.0.1:" + port) //nolint:noctx // polled
		if err == nil {
			_ = resp.Body.Close()
		}
		return err
	})
	_, ev := removal(1)
	p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
	testenv.Eventually(t, 60*time.Second, func() error {
		list := p.mustCall(http.MethodGet, "/v1/deliveries?endpoint_id="+created["id"].(string), nil, http.StatusOK)
		data, _ := list["data"].([]any)
		if len(data) != 1 {
			return fmt.Errorf("%v", list)
		}
		if d := data[0].(map[string]any); d["state"] != "succeeded" || d["outcome"] != "deleted" {
			return fmt.Errorf("%v", d)
		}
		return nil
	})
}
