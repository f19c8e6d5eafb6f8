package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// scenario is one way to load the service.
type scenario struct {
	name string
	what string
	long bool // runs only when it is named
	run  func(ctx context.Context, m *measurement) error
}

func scenarios() []scenario {
	return []scenario{
		{name: "flood", what: "single-event POSTs as fast as answers come, one endpoint", run: flood},
		{name: "batch", what: "the same events, 100 a request", run: batchFlood},
		{name: "fanout", what: "a tenth of the events, ten endpoints", run: fanout},
		{name: "drain", what: "a backlog that was recorded while dispatch was paused, released", run: drain},
		{name: "light", what: "200 events/s for 10 s, one endpoint", run: light},
		{name: "calm", what: "100 events/s for 15 s, ten endpoints", run: func(ctx context.Context, m *measurement) error { return ten(ctx, m, "") }},
		{name: "hang", what: "the same, one of the ten hangs 10 s", run: func(ctx context.Context, m *measurement) error { return ten(ctx, m, "/hang") }},
		{name: "retries", what: "30 % are refused the first time, tried again after 5 s", run: retryStorm},
		{name: "kill", what: "SIGKILL in the middle of a flood, restart", run: killed},
		{name: "backlog", what: "a million deliveries that waited, released; a tenth of them measured", run: backlog},
		{name: "history", what: "the flood, on a database that holds a million delivered events", run: longHistory},
		{name: "retention", what: "the flood, while old events are deleted", run: retention},
		{name: "removal-rest", what: "members removed by REST, one a request; a million memberships", run: func(ctx context.Context, m *measurement) error { return removal(ctx, m, byREST) }},
		{name: "removal-grpc", what: "the same by gRPC", run: func(ctx context.Context, m *measurement) error { return removal(ctx, m, byGRPC) }},
		{name: "removal-scim", what: "the same by SCIM: PATCH of active, in hundreds of directories", run: func(ctx context.Context, m *measurement) error { return removal(ctx, m, bySCIM) }},
		{name: "removal-webhook", what: "the same told by signed webhooks of one source", run: func(ctx context.Context, m *measurement) error { return removal(ctx, m, byWebhook) }},
		{name: "members", what: "pages of 100 members by REST, four readers; a million memberships", run: members},
		{name: "soak", what: "an even rate for a long time", long: true, run: soak},
	}
}

func scenarioNames() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

// runAll measures the ceiling and then each scenario, each on an empty database.
func (b *bench) runAll(ctx context.Context, run int) ([]result, error) {
	ceiling, err := b.ceiling(ctx)
	if err != nil {
		return nil, err
	}
	progress("run %d, %s: the ceiling is %.0f/s", run+1, b.Store, ceiling)
	var results []result
	for _, s := range scenarios() {
		if named := slices.Contains(b.Only, s.name); !named && (len(b.Only) > 0 || s.long) {
			continue
		}
		r, err := b.measure(ctx, s, ceiling)
		if err != nil {
			return results, fmt.Errorf("%s: %w", s.name, err)
		}
		r.Run = run
		progress("%s", r.line())
		results = append(results, r)
	}
	return results, nil
}

// ceiling is what a bare signing client reaches against the receiver.
func (b *bench) ceiling(ctx context.Context) (float64, error) {
	r, err := b.spawn(ctx, "receiver")
	if err != nil {
		return 0, err
	}
	defer r.stop()
	best := 0.0
	for range 2 { // the first warms up
		s, err := b.generate(ctx, load{URL: "http://" + r.line + "/0", Count: 30000, Workers: 64, Sign: true})
		if err != nil {
			return 0, err
		}
		if s.Errors > 0 {
			return 0, fmt.Errorf("ceiling: %s", s.First)
		}
		best = max(best, float64(s.Accepted)/s.Took.Seconds())
	}
	return best, nil
}

// measurement is one scenario under way.
type measurement struct {
	*bench
	service  *service
	receiver *child
	result   *result

	begin     time.Time
	cpuBefore usage
	left      map[int]int64 // who left, by the number of their id, and when that was asked for; nil: events say it
}

// usage is CPU time by whose it is.
type usage struct{ service, database, redis, receiver time.Duration }

func (m *measurement) usage() usage {
	u := usage{service: m.service.cpu(), receiver: cpuOf(m.receiver.cmd.Process.Pid)}
	if m.postgres != nil {
		u.database = cpuOfTree(m.postgres.PID())
	}
	if m.redis != nil {
		u.redis = cpuOf(m.redis.PID())
	}
	return u
}

func (b *bench) measure(ctx context.Context, s scenario, ceiling float64) (result, error) {
	r := result{Scenario: s.name, What: s.what, Ceiling: ceiling, Store: b.Store}
	m := &measurement{bench: b, result: &r}
	var err error
	if m.receiver, err = b.spawn(ctx, "receiver"); err != nil {
		return r, err
	}
	defer m.receiver.stop()
	if m.service, err = b.fresh(ctx); err != nil {
		return r, err
	}
	defer m.service.stop()
	if err := s.run(ctx, m); err != nil {
		return r, fmt.Errorf("%w\n%s", err, m.service.log.String())
	}
	m.service.note()
	r.PeakRSS = m.service.last.peak
	return r, nil
}

func (m *measurement) events() string      { return "http://" + m.service.addr + "/v1/events" }
func (m *measurement) app(p string) string { return "http://" + m.receiver.line + "/" + p }

// startClock begins what is measured.
func (m *measurement) startClock() {
	if m.Profile != "" {
		go m.profile()
	}
	m.begin = time.Now()
	m.cpuBefore = m.usage()
}

// profile takes the service's CPU profile for the first seconds of a scenario.
func (m *measurement) profile() {
	resp, err := http.Get("http://" + debugAddr + "/debug/pprof/profile?seconds=4") //nolint:noctx // it ends
	if err != nil {
		progress("no profile: %v", err)
		return
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(m.Profile, m.Store+"-"+m.result.Scenario+".pprof"))
	if err != nil {
		progress("no profile: %v", err)
		return
	}
	if _, err := io.Copy(f, resp.Body); err != nil {
		progress("no profile: %v", err)
	}
	_ = f.Close()
}

// load runs the generator and counts what it had accepted.
func (m *measurement) load(ctx context.Context, l load) (sent, error) {
	s, err := m.generate(ctx, l)
	if err != nil {
		return s, err
	}
	m.result.Accepted += s.Accepted
	if s.First != "" && !l.Retry {
		return s, fmt.Errorf("%d requests failed, the first: %s", s.Errors, s.First)
	}
	return s, nil
}

// await waits until everything has arrived, or nothing more does for a time, and
// fills in the result.
func (m *measurement) await(ctx context.Context, want int, quiet time.Duration) error {
	var a arrivals
	last, since := -1, time.Now()
	for {
		var err error
		if a, err = m.arrivals(ctx, false); err != nil {
			return err
		}
		if a.Unique != last {
			last, since = a.Unique, time.Now()
		}
		if a.Unique >= want || time.Since(since) > quiet {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return m.finish(ctx, want)
}

func (m *measurement) finish(ctx context.Context, want int) error {
	after := m.usage()
	a, err := m.arrivals(ctx, true)
	if err != nil {
		return err
	}
	r := m.result
	r.Delivered, r.Lost = a.Unique, want-a.Unique
	r.Seconds = time.UnixMicro(a.Last).Sub(m.begin).Seconds()
	if r.Seconds > 0 {
		r.Rate = float64(a.Unique) / r.Seconds
	}
	r.Ratio = r.Rate / r.Ceiling
	m.spent(after, a.Unique)
	if m.left != nil {
		for i, s := range a.Samples {
			at, ok := m.left[s.Event]
			if !ok {
				return fmt.Errorf("somebody was said to have left who did not: %d", s.Event)
			}
			a.Samples[i].Latency = float32(float64(s.At*1000-at) / 1e6)
		}
	}
	r.samples = a.Samples
	r.begin = m.begin
	r.percentiles("")
	return nil
}

// spent notes the CPU time of each of n.
func (m *measurement) spent(after usage, n int) {
	per := func(after, before time.Duration) float64 {
		return float64((after - before).Microseconds()) / float64(max(n, 1))
	}
	r := m.result
	r.CPUService = per(after.service, m.cpuBefore.service)
	r.CPUDatabase = per(after.database, m.cpuBefore.database)
	r.CPURedis = per(after.redis, m.cpuBefore.redis)
	r.CPUReceiver = per(after.receiver, m.cpuBefore.receiver)
}

func (m *measurement) arrivals(ctx context.Context, samples bool) (arrivals, error) {
	url := "http://" + m.receiver.line + "/stats"
	if samples {
		url += "?samples"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return arrivals{}, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return arrivals{}, err
	}
	defer resp.Body.Close()
	var a arrivals
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		return arrivals{}, err
	}
	m.result.Duplicates = a.Requests - a.Unique
	return a, nil
}

func flood(ctx context.Context, m *measurement) error {
	if _, err := m.service.subscribe(ctx, m.app("0")); err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	return m.pour(ctx)
}

// pour measures a flood.
func (m *measurement) pour(ctx context.Context) error {
	m.startClock()
	if _, err := m.load(ctx, load{URL: m.events(), Count: m.Events, Workers: 64}); err != nil {
		return err
	}
	return m.await(ctx, m.Events, 20*time.Second)
}

// warmUp opens connections and fills caches; it is not counted.
func (m *measurement) warmUp(ctx context.Context) error {
	return m.warmUpBy(ctx, load{URL: m.events(), Count: 500, First: 90000000, Workers: 32})
}

// warmUpBy does so by requests of another kind.
func (m *measurement) warmUpBy(ctx context.Context, l load) error {
	s, err := m.generate(ctx, l)
	if err == nil && s.First != "" {
		err = fmt.Errorf("warm up: %s", s.First)
	}
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		a, err := m.arrivals(ctx, false)
		if err != nil {
			return err
		}
		if a.Unique >= l.Count {
			break
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+m.receiver.line+"/reset", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func batchFlood(ctx context.Context, m *measurement) error {
	if _, err := m.service.subscribe(ctx, m.app("0")); err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	m.startClock()
	if _, err := m.load(ctx, load{URL: m.events() + "/batch", Count: m.Events, Workers: 4, Batch: 100}); err != nil {
		return err
	}
	return m.await(ctx, m.Events, 20*time.Second)
}

func fanout(ctx context.Context, m *measurement) error {
	for i := range 10 {
		if _, err := m.service.subscribe(ctx, m.app(fmt.Sprint(i))); err != nil {
			return err
		}
	}
	m.startClock()
	n := m.Events / 10
	if _, err := m.load(ctx, load{URL: m.events(), Count: n, Workers: 64}); err != nil {
		return err
	}
	return m.await(ctx, 10*n, 20*time.Second)
}

func drain(ctx context.Context, m *measurement) error {
	id, err := m.service.subscribe(ctx, m.app("0"))
	if err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	if err := m.service.order(ctx, id, "pause"); err != nil {
		return err
	}
	if _, err := m.load(ctx, load{URL: m.events() + "/batch", Count: m.Events, Workers: 4, Batch: 100}); err != nil {
		return err
	}
	if err := m.routed(ctx, m.Events); err != nil {
		return err
	}
	m.startClock()
	if err := m.service.order(ctx, id, "resume"); err != nil {
		return err
	}
	return m.await(ctx, m.Events, 20*time.Second)
}

// routed waits until that many deliveries wait in the database.
func (m *measurement) routed(ctx context.Context, n int) error {
	db, err := m.service.database()
	if err != nil {
		return err
	}
	defer db.Close()
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		var count int
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM deliveries WHERE state = 0`).Scan(&count); err != nil {
			return err
		}
		if count >= n {
			return nil
		}
	}
	return fmt.Errorf("%d deliveries did not get routed", n)
}

func light(ctx context.Context, m *measurement) error {
	if _, err := m.service.subscribe(ctx, m.app("0")); err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	m.startClock()
	if _, err := m.load(ctx, load{URL: m.events(), Count: 2000, Workers: 64, Rate: 200}); err != nil {
		return err
	}
	return m.await(ctx, 2000, 10*time.Second)
}

func ten(ctx context.Context, m *measurement, one string) error {
	for i := range 10 {
		path := fmt.Sprint(i)
		if i == 3 {
			path += one
		}
		if _, err := m.service.subscribe(ctx, m.app(path)); err != nil {
			return err
		}
	}
	const n = 1500
	m.startClock()
	if _, err := m.load(ctx, load{URL: m.events(), Count: n, Workers: 64, Rate: 100}); err != nil {
		return err
	}
	// What counts is what the nine others get.
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		a, err := m.arrivals(ctx, true)
		if err != nil {
			return err
		}
		others := 0
		for _, s := range a.Samples {
			if s.App != "3" {
				others++
			}
		}
		if others >= 9*n {
			break
		}
	}
	if err := m.finish(ctx, 10*n); err != nil {
		return err
	}
	r := m.result
	r.samples = slices.DeleteFunc(r.samples, func(s sample) bool { return s.App == "3" })
	r.Delivered, r.Lost = len(r.samples), 9*n-len(r.samples)
	r.percentiles("")
	return nil
}

func retryStorm(ctx context.Context, m *measurement) error {
	if _, err := m.service.subscribe(ctx, m.app("0/flaky")); err != nil {
		return err
	}
	m.startClock()
	if _, err := m.load(ctx, load{URL: m.events(), Count: m.Events, Workers: 64}); err != nil {
		return err
	}
	return m.await(ctx, m.Events, 30*time.Second)
}

func killed(ctx context.Context, m *measurement) error {
	if _, err := m.service.subscribe(ctx, m.app("0")); err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	m.startClock()
	type outcome struct {
		sent
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		s, err := m.generate(ctx, load{URL: m.events(), Count: m.Events, Workers: 64, Retry: true})
		done <- outcome{s, err}
	}()
	for {
		a, err := m.arrivals(ctx, false)
		if err != nil {
			return err
		}
		if a.Unique > m.Events/3 {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	m.service.kill()
	restart := time.Now()
	if err := m.service.start(ctx); err != nil {
		return err
	}
	ready := time.Since(restart)
	o := <-done
	if o.err != nil {
		return o.err
	}
	m.result.Accepted = o.Accepted
	accepted := time.Now()
	if err := m.await(ctx, m.Events, 90*time.Second); err != nil {
		return err
	}
	// How long after all was accepted did the last arrive?
	last := m.begin.Add(time.Duration(m.result.Seconds * float64(time.Second)))
	m.result.Note = fmt.Sprintf("ready %.1f s after the kill, the last delivery %.1f s after the last was accepted",
		ready.Seconds(), max(0, last.Sub(accepted).Seconds()))
	return nil
}

func longHistory(ctx context.Context, m *measurement) error {
	id, err := m.service.subscribe(ctx, m.app("0"))
	if err != nil {
		return err
	}
	if err := m.fill(ctx, id, m.History, 24*time.Hour, true); err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	return m.pour(ctx)
}

func retention(ctx context.Context, m *measurement) error {
	id, err := m.service.subscribe(ctx, m.app("0"))
	if err != nil {
		return err
	}
	old := m.History / 5
	if err := m.fill(ctx, id, old, 100*24*time.Hour, true); err != nil {
		return err
	}
	m.service.kill()
	if err := m.service.start(ctx); err != nil { // it looks for old events now
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	before, err := m.service.expired(ctx)
	if err != nil {
		return err
	}
	if err := m.pour(ctx); err != nil {
		return err
	}
	after, err := m.service.expired(ctx)
	if err != nil {
		return err
	}
	m.result.Note = fmt.Sprintf("%d of %d old events deleted meanwhile", after-before, old)
	if after >= old {
		m.result.Note += "; these were all, before the end"
	}
	return nil
}

// backlog releases as many deliveries as the history is long, and stops after five
// times a flood: what is looked at is the memory.
func backlog(ctx context.Context, m *measurement) error {
	id, err := m.service.subscribe(ctx, m.app("0"))
	if err != nil {
		return err
	}
	if err := m.warmUp(ctx); err != nil {
		return err
	}
	if err := m.service.order(ctx, id, "pause"); err != nil {
		return err
	}
	if err := m.fill(ctx, id, m.History, time.Minute, false); err != nil {
		return err
	}
	m.startClock()
	if err := m.service.order(ctx, id, "resume"); err != nil {
		return err
	}
	want := min(m.History, 5*m.Events)
	if err := m.await(ctx, want, 20*time.Second); err != nil {
		return err
	}
	r := m.result
	r.Lost = max(r.Lost, 0) // more may have come by the time it stops
	return nil
}

// fill writes events of an age into the database, as they would be had they come
// through the service: delivered, or waiting for an endpoint.
func (m *measurement) fill(ctx context.Context, endpoint string, n int, age time.Duration, delivered bool) error {
	progress("%s: writing %d events", m.result.Scenario, n)
	at := time.Now().Add(-age).UnixMicro()
	micros, nanos := fmt.Sprint(at), fmt.Sprint(at*1000)
	db, err := m.service.database()
	if err != nil {
		return err
	}
	defer db.Close()
	series := `generate_series($1::bigint, $2::bigint) AS g(n)`
	digits := `lpad(g.n::text, 18, '0')`
	body := `convert_to('{"n":' || g.n || ',"sent_at":` + fmt.Sprint(at*1000) + `,"x":"' || repeat('x', 550) || '"}', 'UTF8')`
	if m.Store != "postgres" {
		series = `(WITH RECURSIVE g(n) AS (SELECT $1 UNION ALL SELECT n + 1 FROM g WHERE n < $2) SELECT n FROM g) AS g`
		digits = `printf('%018d', g.n)`
		body = `CAST('{"n":' || g.n || ',"sent_at":` + fmt.Sprint(at*1000) + `,"x":"' || replace(hex(zeroblob(275)), '00', 'xx') || '"}' AS blob)`
	}
	state, attempts, status, outcome := "3", "1", "200", "unattested"
	if !delivered {
		state, attempts, status, outcome = "0", "0", "0", ""
	}
	const step = 50000
	for from := 1; from <= n; from += step {
		to := min(from+step-1, n)
		for _, statement := range []string{
			`INSERT INTO handover_events (id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at, body)
SELECT 'evt_9' || ` + digits + `, 'env_118200000000000001', 'user.organization_membership_deleted', 'org_118200000000000101',
  'usr_9' || ` + digits + `, 'usr_9' || ` + digits + `, ` + nanos + `, ` + micros + `, ` + body + ` FROM ` + series,
			`INSERT INTO deliveries (id, event_seq, endpoint_id, order_key, state, due_at, attempts, tries, last_status, outcome, created_at, updated_at)
SELECT 'msg_0' || ` + digits + `, e.seq, '` + endpoint + `', e.subject, ` + state + `, ` + micros + `, ` + attempts + `, ` + attempts + `, ` + status + `, '` + outcome + `', ` + micros + `, ` + micros + `
FROM ` + series + ` JOIN handover_events e ON e.id = 'evt_9' || ` + digits + ` AND e.environment_id = 'env_118200000000000001'`,
			`INSERT INTO attempts (delivery_id, number, started_at, duration_us, status, class, error, answer, address)
SELECT 'msg_0' || ` + digits + `, 1, ` + micros + `, 800, 200, 'ok', '', ` + `CAST('' AS ` + map[bool]string{true: "bytea", false: "blob"}[m.Store == "postgres"] + `), '127.0.0.1:80' FROM ` + series,
		} {
			if !delivered && strings.HasPrefix(statement, "INSERT INTO attempts") {
				continue
			}
			if _, err := db.ExecContext(ctx, statement, from, to); err != nil {
				return fmt.Errorf("write history: %w", err)
			}
		}
	}
	if m.Store == "postgres" {
		if _, err := db.ExecContext(ctx, `VACUUM ANALYZE`); err != nil {
			return err
		}
		_, err = db.ExecContext(ctx, `CHECKPOINT`)
		return err
	}
	return nil
}
