package app_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/testenv"
)

// newCluster returns n processes, not started, on one PostgreSQL and one Redis.
func newCluster(t *testing.T, n int, args ...string) []*process {
	t.Helper()
	args = append([]string{
		"--database-url", testenv.Postgres(t), "--redis-url", testenv.RedisServer(t, testenv.RedisOptions{}).URL(), "--data-dir", t.TempDir(),
	}, args...)
	processes := make([]*process, n)
	for i := range processes {
		processes[i] = newSteady(t, args...)
	}
	return processes
}

// newSteady returns a process that finds its address free again after a
// restart, while others connect.
func newSteady(t *testing.T, args ...string) *process {
	t.Helper()
	addr := lowAddress(t)
	p := newProcess(t, append(slices.Clone(args), "--addr", addr)...)
	p.addr = addr
	return p
}

// lowAddress is a free one below the range of outgoing connections.
func lowAddress(t *testing.T) string {
	t.Helper()
	for range 50 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(12000+rand.IntN(8000)))
		if l, err := net.Listen("tcp", addr); err == nil { //nolint:noctx // closed at once
			_ = l.Close()
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

func (p *process) client() *api.Client {
	return &api.Client{BaseURL: "http://" + p.addr, Key: testAPIKey}
}

// metric adds up the samples whose names begin so.
func (p *process) metric(prefix string) float64 {
	p.t.Helper()
	status, text := p.get("/metrics")
	if status != http.StatusOK {
		p.t.Fatalf("/metrics: %d %s", status, text)
	}
	sum := 0.0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, prefix) {
			continue
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			p.t.Fatalf("/metrics: %s: %v", line, err)
		}
		sum += n
	}
	return sum
}

// settled waits until nothing is on its way any more, and everything went well.
func (p *process) settled() {
	p.t.Helper()
	testenv.Eventually(p.t, patience, func() error {
		if n := p.metric("handover_backlog{"); n != 0 {
			return fmt.Errorf("%v events and deliveries wait", n)
		}
		return nil
	})
	for _, state := range []string{"pending", "sending", "held", "failed", "canceled", "superseded"} {
		for d, err := range p.client().Deliveries(p.t.Context(), api.DeliveryFilter{State: state}) {
			if err != nil {
				p.t.Fatal(err)
			}
			p.t.Errorf("delivery %s of %s is %s: %s", d.ID, d.EventID, d.State, d.LastError)
			break
		}
	}
}

// A crowd publishes through several processes in turn. What was not answered is
// published again through the next one, under the same event id.
type crowd struct {
	t         *testing.T
	processes []*process
	leave     context.CancelFunc
	wait      sync.WaitGroup

	mu       sync.Mutex
	started  int
	accepted []string
}

func newCrowd(t *testing.T, publishers int, processes ...*process) *crowd {
	ctx, leave := context.WithCancel(t.Context())
	c := &crowd{t: t, processes: processes, leave: leave}
	for i := range publishers {
		c.wait.Go(func() {
			for turn := i; ctx.Err() == nil; turn++ {
				c.publish(turn)
				pause(ctx, 5*time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { leave(); c.wait.Wait() })
	return c
}

// publish does not end before its event is accepted, or the test.
func (c *crowd) publish(turn int) {
	ctx := c.t.Context()
	c.mu.Lock()
	c.started++
	id, ev := removal(c.started)
	c.mu.Unlock()
	for ; ctx.Err() == nil; turn++ {
		status, answer, err := c.processes[turn%len(c.processes)].call(ctx, http.MethodPost, "/v1/events", ev)
		switch {
		case err != nil || status >= 500: // gone, or going
			pause(ctx, time.Millisecond)
			continue
		case status != http.StatusAccepted:
			c.t.Errorf("publish: %d %s", status, answer)
		}
		c.mu.Lock()
		c.accepted = append(c.accepted, id)
		c.mu.Unlock()
		return
	}
}

func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.accepted)
}

// more waits until n more events were accepted.
func (c *crowd) more(n int) {
	c.t.Helper()
	want := c.count() + n
	testenv.Eventually(c.t, patience, func() error {
		if got := c.count(); got < want {
			return fmt.Errorf("%d of %d events accepted", got, want)
		}
		return nil
	})
}

// stop ends the publishing and returns what was accepted.
func (c *crowd) stop() []string {
	c.leave()
	c.wait.Wait()
	return c.accepted
}

// times tells how often each event was received.
func (r *receiver) times() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	times := make(map[string]int, len(r.byEvent))
	for id, got := range r.byEvent {
		times[id] = got.times
	}
	return times
}

// awaits is await for as long as it may take others to notice that a process
// is dead.
func (r *receiver) awaits(t *testing.T, ids []string) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		times := r.times()
		missing := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return times[id] > 0 })
		if len(missing) > 0 {
			return fmt.Errorf("%d of %d events have not arrived, such as %s", len(missing), len(ids), missing[0])
		}
		return nil
	})
}

func (r *receiver) complain(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) > 0 {
		t.Errorf("%d things wrong, first: %s", len(r.wrong), r.wrong[0])
	}
}

// Three processes share the work of a flood, two of them are killed and started
// again in turn: everything that was accepted arrives at every endpoint, each
// time under the same webhook-id and with the same bytes.
func TestClusterLosesNothingWhenKilled(t *testing.T) {
	t.Parallel()
	processes := newCluster(t, 3)
	for _, p := range processes {
		p.start()
	}
	receivers := []*receiver{newReceiver(t), newReceiver(t), newReceiver(t)}
	for i, r := range receivers {
		r.subscribe(t, processes[i%2], fmt.Sprint("app ", i))
	}
	crowd := newCrowd(t, 4, processes...)

	// fair sees each process do its part: a tenth of an equal share is far from
	// what chance or a busy machine can bring about.
	fair := func() {
		t.Helper()
		var before [3]float64
		for i, p := range processes {
			before[i] = p.metric("handover_attempts_total{")
		}
		crowd.more(500)
		var parts [3]float64
		sum := 0.0
		for i, p := range processes {
			parts[i] = p.metric("handover_attempts_total{") - before[i]
			sum += parts[i]
		}
		t.Logf("the processes made %v attempts", parts)
		if least := sum / 30; sum == 0 || slices.Min(parts[:]) < least {
			t.Errorf("the processes made %v attempts, at least %.0f are due to each", parts, least)
		}
	}
	fair()
	for _, p := range processes[1:] {
		crowd.more(100)
		p.kill()
		crowd.more(200)
		p.start()
	}
	fair()
	accepted := crowd.stop()

	duplicates := 0
	for _, r := range receivers {
		r.awaits(t, accepted)
	}
	processes[0].settled()
	for _, r := range receivers {
		r.complain(t)
		for _, n := range r.times() {
			duplicates += n - 1
		}
	}
	t.Logf("killed two of three in turn: %d events accepted, delivered to 3 endpoints each, %d deliveries came more than once", len(accepted), duplicates)
}

// Processes are stopped and started again one after the other while events are
// published through the others: each event arrives exactly once at every
// endpoint, also where an attempt is under way in the process that is stopped.
func TestRollingRestartDeliversOnce(t *testing.T) {
	t.Parallel()
	processes := newCluster(t, 3, "--shutdown-grace", patience.String())
	for _, p := range processes {
		p.start()
	}
	receivers := []*receiver{newReceiver(t), newReceiver(t), newReceiver(t)}
	for i, r := range receivers {
		id := r.subscribe(t, processes[0], fmt.Sprint("app ", i))
		processes[0].mustCall(http.MethodPatch, "/v1/endpoints/"+id, map[string]any{"timeout_seconds": 60}, http.StatusOK)
	}
	crowd := newCrowd(t, 4, processes...)
	for _, p := range slices.Concat(processes, processes[:1]) {
		crowd.more(100)
		open := receivers[0].shut()
		// More than the quick apps could have under way.
		testenv.Until(t, patience, "attempts under way", func() bool { return p.metric("handover_attempts_in_flight") >= 8 })
		if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		testenv.Until(t, patience, "that it takes no more requests", func() bool {
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", p.addr)
			if err == nil {
				_ = conn.Close()
			}
			return errors.Is(err, syscall.ECONNREFUSED)
		})
		crowd.more(50)
		open()
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("SIGTERM: %v, want exit 0\n%s", err, p.log.tail(4000))
		}
		p.cmd = nil
		crowd.more(50)
		p.start()
	}
	accepted := crowd.stop()
	for _, r := range receivers {
		r.awaits(t, accepted)
	}
	processes[0].settled()
	want := make(map[string]int, len(accepted))
	for _, id := range accepted {
		want[id] = 1
	}
	for i, r := range receivers {
		r.complain(t)
		if diff := cmp.Diff(want, r.times()); diff != "" {
			t.Errorf("app %d: how often each event came (-want +got):\n%.2000s", i, diff)
		}
	}
	t.Logf("restarted 4 times: %d events, each once", len(accepted))
}

// shut makes the app's requests wait until it is opened again.
func (r *receiver) shut() (open func()) {
	gate := make(chan struct{})
	set := func(hang func(*http.Request)) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.hang = hang
	}
	set(func(req *http.Request) {
		select {
		case <-gate:
		case <-req.Context().Done():
		}
	})
	return func() { set(nil); close(gate) }
}

// What a process held when it was killed is taken over by the others: attempts
// under way, retries under way, claims that waited in its memory, and what a
// person's earlier event held back. It does not come back.
func TestOthersTakeOverFromTheDead(t *testing.T) {
	t.Parallel()
	processes := newCluster(t, 3)
	dead, living := processes[0], processes[1:]
	dead.start()
	const persons = 20
	slow, failing := newDetainer(t, false), newDetainer(t, true)
	for app, e := range map[*detainer]api.NewEndpoint{
		// Two attempts are under way, all others wait behind them.
		slow:    {Name: "slow", Concurrency: 2},
		failing: {Name: "fails first", RetrySchedule: []float64{0, 0.1, 0.1, 0.1, 0.1}},
	} {
		e.URL, e.EventTypes, e.TimeoutSeconds = app.URL, []string{"*"}, 60
		created, err := dead.client().CreateEndpoint(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		app.endpoint = created.ID
	}
	var ids, later []string
	for n := range 2 * persons {
		// Every 500th is about the same person.
		id, ev := removal(n%persons + n/persons*500)
		dead.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
		if ids = append(ids, id); n >= persons {
			later = append(later, id)
		}
	}
	testenv.Eventually(t, patience, func() error {
		for app, underWay := range map[*detainer]int{slow: 2, failing: persons} {
			sending, held := dead.deliveries(app.endpoint, "sending"), dead.deliveries(app.endpoint, "held")
			if n := app.count(); n != underWay || sending != persons || held != persons {
				return fmt.Errorf("%d attempts under way, %d sending, %d held; want %d, %d, %d", n, sending, held, underWay, persons, persons)
			}
		}
		return nil
	})
	for _, p := range living {
		p.start()
	}
	dead.kill()
	slow.answer()
	failing.answer()

	for _, app := range []*detainer{slow, failing} {
		testenv.Eventually(t, patience, func() error {
			app.mu.Lock()
			defer app.mu.Unlock()
			for _, id := range ids {
				if !slices.Contains(app.answered, id) {
					return fmt.Errorf("event %s is not delivered", id)
				}
			}
			return nil
		})
	}
	living[0].settled()
	for app, dropped := range map[*detainer]int{slow: 2, failing: persons} {
		if len(app.dropped) != dropped {
			t.Errorf("%d attempts were broken off, want %d", len(app.dropped), dropped)
		}
		if len(app.answered) != len(ids) {
			t.Errorf("%d answers for %d events", len(app.answered), len(ids))
		}
		for i, id := range later {
			if slices.Index(app.answered, id) < slices.Index(app.answered, ids[i]) {
				t.Errorf("event %s overtook %s about the same person", id, ids[i])
			}
		}
	}
	sum := 0.0
	for _, p := range living {
		sum += p.metric(`handover_attempts_total{class="ok"}`)
	}
	if want := float64(2 * len(ids)); sum != want {
		t.Errorf("the living made %v deliveries, want %v", sum, want)
	}
}

// deliveries counts those of an endpoint in a state.
func (p *process) deliveries(endpoint, state string) int {
	p.t.Helper()
	n := 0
	for _, err := range p.client().Deliveries(p.t.Context(), api.DeliveryFilter{EndpointID: endpoint, State: state}) {
		if err != nil {
			p.t.Fatal(err)
		}
		n++
	}
	return n
}

// A detainer is an app that holds on to each request until it is broken off,
// and answers only later ones.
type detainer struct {
	*httptest.Server
	endpoint string

	mu       sync.Mutex
	fails    map[string]bool // events whose first attempt failed; nil: none does
	answers  bool
	detained int
	dropped  []string
	answered []string // events, in the order of the answers
}

func newDetainer(t *testing.T, failFirst bool) *detainer {
	d := &detainer{}
	if failFirst {
		d.fails = make(map[string]bool)
	}
	d.Server = httptest.NewServer(d)
	t.Cleanup(func() { d.CloseClientConnections(); d.Close() })
	return d
}

func (d *detainer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var ev struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(body, &ev); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.fails != nil && !d.fails[ev.ID]:
		d.fails[ev.ID] = true
		w.WriteHeader(http.StatusInternalServerError)
	case d.answers:
		d.answered = append(d.answered, ev.ID)
	default:
		d.detained++
		d.mu.Unlock()
		<-r.Context().Done()
		d.mu.Lock()
		d.dropped = append(d.dropped, ev.ID)
	}
}

func (d *detainer) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.detained
}

func (d *detainer) answer() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers = true
}
