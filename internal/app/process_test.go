package app_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

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
	t     *testing.T
	addr  string
	args  []string
	files int // how many it may have open; 0: as many as we
	cmd   *exec.Cmd
	log   *transcript
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
	if p.files > 0 {
		limited := fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, p.files)
		p.cmd = exec.Command("/bin/sh", append([]string{"-c", limited, path}, p.args...)...) //nolint:noctx // it is ended by a signal
	}
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
	status, _, answer, err := request(ctx, http.DefaultClient, method, p.base()+path, body)
	return status, answer, err
}

// receiver is an app: it verifies and remembers what it gets.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	verifier signing.Verifier
	byEvent  map[string]*received
	wrong    []string
	hang     func(r *http.Request)
	fail     func(times int) bool // an event that came so often before; default never
	now      func() time.Time     // default time.Now
	lenient  time.Duration        // how old or new a message may be; default 5 min
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
	if r.fail != nil && r.fail(got.times-1) {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// subscribe creates an endpoint for the receiver.
func (r *receiver) subscribe(t *testing.T, p service, name string, schedule ...float64) string {
	t.Helper()
	endpoint := map[string]any{"name": name, "url": r.URL, "event_types": []string{"*"}}
	if len(schedule) > 0 {
		endpoint["retry_schedule"] = schedule
	}
	status, _, body, err := request(t.Context(), http.DefaultClient, http.MethodPost, p.base()+"/v1/endpoints", endpoint)
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
	r.verifier = signing.Verifier{Keys: []signing.Key{key}, Now: r.now, Tolerance: r.lenient}
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

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// service is what a load is put on: the real program, or the same parts in this
// process.
type service interface {
	test() *testing.T
	base() string // of its URLs
	database() (driver, name string)
}

func (p *process) test() *testing.T { return p.t }
func (p *process) base() string     { return "http://" + p.addr }

func (p *process) database() (driver, name string) {
	return databaseOf(p.flag("--database-url"), p.dataDir())
}

// databaseOf says how to open the database of a service.
func databaseOf(url, dir string) (driver, name string) {
	if url != "" {
		return "pgx", url
	}
	return "sqlite", "file:" + filepath.Join(dir, "handover.db") + "?_pragma=busy_timeout(10000)&_pragma=query_only(1)"
}

func (p *process) dataDir() string { return p.flag("--data-dir") }

// flag is what the program was started with.
func (p *process) flag(name string) string {
	if i := slices.Index(p.args, name); i >= 0 {
		return p.args[i+1]
	}
	return ""
}

// load is a number of apps that publish removals, each of which they send again
// until it is answered 202. Any other answer than a clear "later" is wrong, and
// so is none, unless the process is killed.
type load struct {
	process    service
	publishers int           // default 3
	every      time.Duration // between two events of one publisher; default 10 ms
	killed     bool          // the process is killed now and then
	dial       bool          // for each request

	client *http.Client
	ctx    context.Context
	end    context.CancelFunc
	ended  sync.WaitGroup

	mu       sync.Mutex
	quiet    bool
	sent     int
	accepted map[string]bool
	refused  int
	wrong    []string
}

func (l *load) start() {
	t := l.process.test()
	if l.every == 0 {
		l.every = 10 * time.Millisecond
	}
	if l.publishers == 0 {
		l.publishers = 3
	}
	l.accepted = make(map[string]bool)
	transport := &http.Transport{MaxIdleConnsPerHost: l.publishers, DisableKeepAlives: l.dial}
	l.client = &http.Client{Transport: transport, Timeout: 60 * time.Second}
	l.ctx, l.end = context.WithCancel(t.Context())
	for range l.publishers {
		l.ended.Go(l.publish)
	}
	t.Cleanup(func() {
		l.stop()
		transport.CloseIdleConnections()
	})
}

// stop ends the publishers, when what they have sent is answered. It may be called
// again.
func (l *load) stop() {
	l.end()
	l.ended.Wait()
}

func (l *load) publish() {
	for l.ctx.Err() == nil {
		l.mu.Lock()
		if l.quiet {
			l.mu.Unlock()
			pause(l.ctx, 10*time.Millisecond)
			continue
		}
		l.sent++
		id, ev := removal(l.sent)
		l.mu.Unlock()
		for l.ctx.Err() == nil {
			err := l.post(id, ev)
			if err == nil {
				break
			}
			pause(l.ctx, 5*time.Millisecond)
		}
		pause(l.ctx, l.every)
	}
}

var errLater = errors.New("later")

// post sends one event; on an error it has to be sent again.
func (l *load) post(id string, event map[string]any) error {
	ctx := l.process.test().Context() // not to be broken off by stop: it would leave open what becomes of it
	status, header, answer, err := request(ctx, l.client, http.MethodPost, l.process.base()+"/v1/events", event)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		if !l.killed {
			l.wrong = append(l.wrong, "no answer: "+err.Error())
		}
		return err
	case status == http.StatusAccepted:
		l.accepted[id] = true
		return nil
	}
	l.refused++
	var problem struct{ Status int }
	seconds, notNumber := strconv.Atoi(header.Get("Retry-After"))
	if status != http.StatusServiceUnavailable || notNumber != nil || seconds < 1 || header.Get("Content-Type") != "application/problem+json" ||
		json.Unmarshal(answer, &problem) != nil || problem.Status != status {
		l.wrong = append(l.wrong, fmt.Sprintf("answer %d, %v, %s", status, header, answer))
	}
	return errLater
}

// request sends JSON with the API key.
func request(ctx context.Context, client *http.Client, method, url string, body any) (int, http.Header, []byte, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(encoded))
	if err != nil {
		return 0, nil, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+testAPIKey)
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, answer, err
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

func (l *load) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// rest lets the publishers rest, or go on.
func (l *load) rest(quiet bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiet = quiet
}

// accepts waits until n more events were accepted.
func (l *load) accepts(n int) {
	l.process.test().Helper()
	before := l.count()
	testenv.Eventually(l.process.test(), patience, func() error {
		if now := l.count(); now < before+n {
			return fmt.Errorf("%d events were accepted, and then %d: want %d more", before, now-before, n)
		}
		return nil
	})
}

// isRefused waits until n more requests were answered with a refusal.
func (l *load) isRefused(n int) {
	l.process.test().Helper()
	before := l.refusals()
	testenv.Eventually(l.process.test(), patience, func() error {
		if now := l.refusals(); now < before+n {
			return fmt.Errorf("%d requests were refused, and then %d: want %d more", before, now-before, n)
		}
		return nil
	})
}

// patience is for what is quick unless the machine is busy.
const patience = 2 * time.Minute

// arrivesAt waits until everything that was accepted has arrived at every
// receiver, with the same bytes at each. The load must have been stopped.
func (l *load) arrivesAt(receivers ...*receiver) {
	t := l.process.test()
	t.Helper()
	again := 0
	for i, r := range receivers {
		testenv.Eventually(t, patience, func() error {
			r.mu.Lock()
			defer r.mu.Unlock()
			missing, example := 0, ""
			for id := range l.accepted {
				if r.byEvent[id] == nil {
					missing, example = missing+1, id
				}
			}
			if missing > 0 {
				return fmt.Errorf("app %d misses %d of %d events, such as %s", i, missing, len(l.accepted), example)
			}
			return nil
		})
	}
	for i, r := range receivers {
		r.mu.Lock()
		for id, got := range r.byEvent {
			again += got.times - 1
			if first := receivers[0].body(id, r); first != nil && !bytes.Equal(first, got.body) {
				t.Errorf("event %s is not the same at app 0 and at app %d", id, i)
			}
		}
		if len(r.wrong) > 0 {
			t.Errorf("app %d: %d things wrong, first: %s", i, len(r.wrong), r.wrong[0])
		}
		r.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) > 0 {
		t.Errorf("publishers were answered wrongly %d times, first: %s", len(l.wrong), l.wrong[0])
	}
	t.Logf("%d events accepted, %d requests refused; of %d deliveries %d came more than once",
		len(l.accepted), l.refused, len(receivers)*len(l.accepted), again)
}

// body is what an event came with. The one who asks holds its own lock.
func (r *receiver) body(id string, asker *receiver) []byte {
	if r == asker {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := r.byEvent[id]; got != nil {
		return got.body
	}
	return nil
}

// prober keeps its connections: those of the default client are closed whenever a
// test's server is.
var prober = &http.Client{Transport: &http.Transport{}, Timeout: 30 * time.Second}

// readiness asks /readyz.
func readiness(p service) (status int, parts map[string]string, err error) {
	status, _, body, err := request(p.test().Context(), prober, http.MethodGet, p.base()+"/readyz", nil)
	if err != nil {
		return 0, nil, err
	}
	var answer struct{ Parts map[string]string }
	err = json.Unmarshal(body, &answer)
	return status, answer.Parts, err
}

// awaitReady waits until /readyz says so.
func awaitReady(p service) {
	p.test().Helper()
	testenv.Eventually(p.test(), patience, func() error {
		status, parts, err := readiness(p)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/readyz: %d %v, want 200", status, parts)
		}
		return err
	})
}

// awaitNotReady waits until /readyz blames this part, and no other.
func awaitNotReady(p service, part string) {
	p.test().Helper()
	testenv.Eventually(p.test(), patience, func() error {
		status, parts, err := readiness(p)
		if err != nil {
			return err
		}
		if status != http.StatusServiceUnavailable || parts[part] == "ok" {
			return fmt.Errorf("/readyz: %d %v, want 503 because of %s", status, parts, part)
		}
		for name, says := range parts {
			if name != part && says != "ok" {
				return fmt.Errorf("/readyz: %d %v, want only %s to be blamed", status, parts, part)
			}
		}
		return nil
	})
}

// checkInvariants waits until nothing is left to do and asks the database of the
// service whether everything in it is as it has to be after any trouble. Every
// endpoint must have been there before the first event and take all.
func checkInvariants(t *testing.T, p service) {
	t.Helper()
	for _, left := range []struct{ what, query string }{
		{"events in the outbox", `SELECT count(*) FROM handover_outbox`},
		{"deliveries pending, sending or held", `SELECT count(*) FROM deliveries WHERE state < 3`},
	} {
		testenv.Eventually(t, patience, func() error {
			if n := count(t, p, left.query); n > 0 {
				return fmt.Errorf("%d %s, want none", n, left.what)
			}
			return nil
		})
	}
	for _, never := range []struct{ what, query string }{
		{"(event, endpoint) without a delivery", `SELECT count(*) FROM handover_events ev CROSS JOIN endpoints e
WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.event_seq = ev.seq AND d.endpoint_id = e.id)`},
		{"(event, endpoint) with several deliveries", `SELECT count(*) FROM (SELECT 1 FROM deliveries GROUP BY event_seq, endpoint_id HAVING count(*) > 1) twice`},
		{"deliveries of no event", `SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM handover_events ev WHERE ev.seq = d.event_seq)`},
		{"deliveries to no endpoint", `SELECT count(*) FROM deliveries d WHERE NOT EXISTS (SELECT 1 FROM endpoints e WHERE e.id = d.endpoint_id)`},
		{"attempts of no delivery", `SELECT count(*) FROM attempts a WHERE NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.id = a.delivery_id)`},
		{"deliveries that count their attempts wrongly", `SELECT count(*) FROM deliveries d WHERE d.attempts <> (SELECT count(*) FROM attempts a WHERE a.delivery_id = d.id)`},
		{"deliveries that succeeded without an attempt that did", `SELECT count(*) FROM deliveries d
WHERE d.state = 3 AND NOT EXISTS (SELECT 1 FROM attempts a WHERE a.delivery_id = d.id AND a.status BETWEEN 200 AND 299)`},
		{"finished deliveries in somebody's hands", `SELECT count(*) FROM deliveries WHERE owner <> ''`},
	} {
		if n := count(t, p, never.query); n > 0 {
			t.Errorf("%d %s, want none", n, never.what)
		}
	}
}

// count asks the database of the service.
func count(t *testing.T, p service, query string) (n int) {
	t.Helper()
	db, err := sql.Open(p.database())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
		t.Fatalf("%v in %s", err, query)
	}
	return n
}
