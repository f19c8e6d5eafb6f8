package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

const testAPIKey = "hk_test_0123456789abcdefghijklmnopqrstuvwxyz"

// binary builds the real program once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "handover-test-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "handover")
	out, err := exec.Command("go", "build", "-o", path, "github.com/handover-dev/handover/cmd/handover").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// process is the real program, to be started and killed.
type process struct {
	t    *testing.T
	addr string
	args []string
	cmd  *exec.Cmd
	log  *transcript
}

// transcript is what a process says, read while it is still speaking.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.Write(b)
}

// tail returns the last n bytes.
func (t *transcript) tail(n int) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf.Bytes()[max(0, t.buf.Len()-n):])
}

func newProcess(t *testing.T, args ...string) *process {
	t.Helper()
	addr := "127.0.0.1:" + freePort(t)
	p := &process{t: t, addr: addr, args: append([]string{"serve", "--addr", addr, "--allow-network", "127.0.0.0/8", "--log-level", "warn"}, args...)}
	t.Cleanup(func() {
		if p.cmd != nil {
			_ = p.cmd.Process.Kill()
			_ = p.cmd.Wait()
		}
		if t.Failed() && p.log != nil {
			t.Logf("the last process said:\n%s", p.log.tail(4000))
		}
	})
	return p
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed at once
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (p *process) start() {
	p.t.Helper()
	path, err := binary()
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(path, p.args...) //nolint:noctx // it is ended by a signal
	p.log = &transcript{}
	p.cmd.Stdout, p.cmd.Stderr = io.Discard, p.log
	p.cmd.Env = append(os.Environ(), "HANDOVER_API_KEY="+testAPIKey)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	testenv.Eventually(p.t, 30*time.Second, func() error {
		resp, err := http.Get("http://" + p.addr + "/readyz") //nolint:noctx // polled
		if err != nil {
			return fmt.Errorf("%w\n%s", err, p.log.tail(2000))
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			body, _ := io.ReadAll(resp.Body)
			return fmt.Errorf("not ready: %s", body)
		}
		return nil
	})
}

func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait()
	p.cmd = nil
}

// call sends JSON to the API.
func (p *process) call(ctx context.Context, method, path string, body any) (int, []byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+p.addr+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+testAPIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// receiver is an app: it verifies and remembers what it gets.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	verifier signing.Verifier
	byEvent  map[string]*received
	wrong    []string
	hang     func(r *http.Request)
}

type received struct {
	webhookID string
	body      []byte
	times     int
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{byEvent: make(map[string]*received)}
	r.Server = httptest.NewServer(http.HandlerFunc(r.receive))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) receive(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // cut off by a kill
	}
	r.mu.Lock()
	hang := r.hang
	r.mu.Unlock()
	if hang != nil {
		hang(req)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.verifier.Verify(req.Header, body); err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	var ev struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &ev); err != nil {
		r.wrong = append(r.wrong, err.Error())
	}
	id := req.Header.Get(signing.HeaderID)
	got := r.byEvent[ev.ID]
	if got == nil {
		got = &received{webhookID: id, body: body}
		r.byEvent[ev.ID] = got
	}
	if got.webhookID != id || !bytes.Equal(got.body, body) {
		r.wrong = append(r.wrong, fmt.Sprintf("event %s came as %s and as %s", ev.ID, got.webhookID, id))
	}
	got.times++
}

// subscribe creates an endpoint for the receiver.
func (r *receiver) subscribe(t *testing.T, p *process, name string) string {
	t.Helper()
	status, body, err := p.call(t.Context(), http.MethodPost, "/v1/endpoints", map[string]any{"name": name, "url": r.URL, "event_types": []string{"*"}})
	if err != nil || status != http.StatusCreated {
		t.Fatalf("create endpoint: %d %s %v", status, body, err)
	}
	var created struct{ ID, Secret string }
	if err := json.Unmarshal(body, &created); err != nil {
		t.Fatal(err)
	}
	key, err := signing.ParseKey(created.Secret)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	r.verifier = signing.Verifier{Keys: []signing.Key{key}}
	r.mu.Unlock()
	return created.ID
}

// removal is an event about one person, with an id of its own so that it can be
// sent again when the answer got lost.
func removal(n int) (id string, event map[string]any) {
	id = fmt.Sprintf("evt_%018d", n)
	return id, map[string]any{
		"id": id, "type": "user.organization_membership_deleted", "occurred_at": "2026-06-12T09:30:01Z",
		"organization_id": "org_118200000000000101",
		"data": map[string]any{
			"organization": map[string]any{"id": "org_118200000000000101"},
			"user":         map[string]any{"id": fmt.Sprintf("usr_%018d", n%500)},
		},
	}
}

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

	var mu sync.Mutex
	accepted := make(map[string]bool)
	sent := 0
	next := func() int {
		mu.Lock()
		defer mu.Unlock()
		sent++
		return sent
	}
	ctx, stop := context.WithCancel(t.Context())
	var publishers sync.WaitGroup
	for range 4 {
		publishers.Go(func() {
			for ctx.Err() == nil {
				id, ev := removal(next())
				for ctx.Err() == nil {
					status, _, err := p.call(ctx, http.MethodPost, "/v1/events", ev)
					if err != nil || status >= 500 {
						pause(ctx, 5*time.Millisecond) // killed, or starting
						continue
					}
					if status != http.StatusAccepted {
						t.Errorf("publish: %d", status)
						return
					}
					mu.Lock()
					accepted[id] = true
					mu.Unlock()
					break
				}
				pause(ctx, time.Millisecond)
			}
		})
	}
	for round := range 20 {
		pause(ctx, time.Duration(20+rand.IntN(300))*time.Millisecond)
		if disturb != nil {
			disturb(round)
		}
		pause(ctx, time.Duration(rand.IntN(50))*time.Millisecond)
		p.kill()
		p.start()
	}
	stop()
	publishers.Wait()

	duplicates := 0
	for i, r := range receivers {
		testenv.Eventually(t, 90*time.Second, func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			missing, example := 0, ""
			for id := range accepted {
				if r.byEvent[id] == nil {
					missing, example = missing+1, id
				}
			}
			if missing > 0 {
				return fmt.Errorf("app %d misses %d of %d events, such as %s", i, missing, len(accepted), example)
			}
			return nil
		})
		r.mu.Lock()
		for _, got := range r.byEvent {
			duplicates += got.times - 1
		}
		if len(r.wrong) > 0 {
			t.Errorf("app %d: %d things wrong, first: %s", i, len(r.wrong), r.wrong[0])
		}
		r.mu.Unlock()
	}
	t.Logf("killed 20 times: %d events accepted, delivered to 3 endpoints each, %d of %d deliveries came more than once",
		len(accepted), duplicates, 3*len(accepted))
	if len(accepted) < 100 {
		t.Errorf("only %d events were accepted: that is no load", len(accepted))
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
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
