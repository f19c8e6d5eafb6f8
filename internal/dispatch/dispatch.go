package dispatch

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/handover-dev/handover/internal/groupcommit"
	"github.com/handover-dev/handover/internal/store"
)

// A Dispatcher sends deliveries. It holds a bounded number of them in memory:
// some that the router handed over as it created them, the others claimed from
// the database as room becomes free. Whatever it holds is marked with its owner
// in the database, and due again for others when the owner is gone.
//
// Endpoints share the attempts under way. One may have at most PerEndpoint of
// them, and at most as many as are free, so that endpoints that hang leave room
// for the others however many they are.
type Dispatcher struct {
	Store  *store.Store
	Client *Client
	Owner  string

	Concurrency int           // attempts under way in all; 0 = 512
	PerEndpoint int           // attempts under way per endpoint; 0 = 64
	Queue       int           // deliveries in memory per endpoint; 0 = 1024
	Memory      int           // bytes of events that wait in memory, in all; 0 = 32 MiB
	Poll        time.Duration // how often to look for due deliveries that nobody announced; 0 = 1 s
	Grace       time.Duration // for attempts under way when Run ends; 0 = 20 s

	Now func() time.Time // nil = time.Now
	Log *slog.Logger     // nil = none
	// OnAttempt is told of every attempt; it must be quick. nil = nobody.
	OnAttempt func(Report)

	once     sync.Once
	wake     chan struct{}
	recorder groupcommit.Group[*record]
	confirms groupcommit.Group[*confirmation]
	targets  targets
	changed  atomic.Bool // endpoints did

	mu       sync.Mutex
	lanes    map[string]*lane
	mine     map[string]bool // ids of the deliveries in memory
	ready    []*lane         // lanes that may have something to start, each once
	sending  int
	held     int // deliveries in memory or reserved, in all
	bytes    int
	stopping bool
	work     context.Context
}

// A Report tells of one attempt and what followed.
type Report struct {
	Delivery store.Claimed
	Endpoint string // its name
	Number   int
	Answer   Answer
	State    store.State
	DueAt    time.Time
	// Latency is from the commit of the event to the end of the attempt.
	Latency time.Duration
}

// lane is one endpoint's way through the dispatcher.
type lane struct {
	endpointID string
	waiting    fifo
	reserved   int
	sending    int
	bytes      int       // of the events that wait
	limit      float64   // attempts at a time, when the endpoint asked us to slow down; else 0
	resumeAt   time.Time // nothing is started before
	backlog    bool      // the database has due deliveries
	queued     bool      // stands in ready
}

// record is one result on its way through a transaction.
type record struct {
	store.Result
	due []string // set for the first of a batch: endpoints at which something became due
}

const maxHeld = 16 // times Queue, over all endpoints

func (d *Dispatcher) init() {
	d.once.Do(func() {
		d.wake = make(chan struct{}, 1)
		d.lanes = make(map[string]*lane)
		d.mine = make(map[string]bool)
		d.recorder.Commit = d.commit
		d.recorder.Max = 256
		d.recorder.Queue = 2048
		d.confirms.Commit = d.confirm
		d.confirms.Transient = func(error) bool { return true }
		d.recorder.Transient = func(err error) bool { return d.Store.Transient(err) }
		d.work = context.Background()
	})
}

func (d *Dispatcher) queue() int       { return cmp.Or(d.Queue, 1024) }
func (d *Dispatcher) concurrency() int { return cmp.Or(d.Concurrency, 512) }
func (d *Dispatcher) perEndpoint() int { return cmp.Or(d.PerEndpoint, 64) }
func (d *Dispatcher) memory() int      { return cmp.Or(d.Memory, 32<<20) }

func (d *Dispatcher) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (d *Dispatcher) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.New(slog.DiscardHandler)
}

// lane returns an endpoint's lane. d.mu is held.
func (d *Dispatcher) lane(endpointID string) *lane {
	l := d.lanes[endpointID]
	if l == nil {
		l = &lane{endpointID: endpointID}
		d.lanes[endpointID] = l
	}
	return l
}

// room tells how many more deliveries an endpoint may have in memory. As with the
// attempts, one may have as much as is left for the others, in number and in
// bytes, and a little in any case. d.mu is held.
func (d *Dispatcher) room(l *lane) int {
	if d.stopping {
		return 0
	}
	here := l.waiting.len() + l.reserved + l.sending
	if here > 0 && l.bytes >= d.memory()-d.bytes {
		return 0
	}
	const little = 8
	return max(0, min(d.queue(), max(little, maxHeld*d.queue()-d.held))-here)
}

// Reserve asks for room to send one delivery to the endpoint now. It is refused
// while older ones of that endpoint wait in the database.
func (d *Dispatcher) Reserve(endpointID string) bool {
	d.init()
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.lane(endpointID)
	if l.backlog || d.room(l) == 0 || d.now().Before(l.resumeAt) || d.paused(l) {
		return false
	}
	l.reserved++
	d.held++
	return true
}

// Release gives a reservation back.
func (d *Dispatcher) Release(endpointID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lane(endpointID).reserved--
	d.held--
}

// Send takes over committed deliveries that room was reserved for.
func (d *Dispatcher) Send(deliveries []store.Claimed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range deliveries {
		d.lane(c.EndpointID).reserved--
		d.held--
		d.add(c)
	}
	d.pump()
}

// add puts a claimed delivery into its lane. d.mu is held.
func (d *Dispatcher) add(c store.Claimed) {
	l := d.lane(c.EndpointID)
	l.waiting.push(waiting{c, d.now()})
	d.mine[c.ID] = true
	d.held++
	d.bytes += len(c.Body)
	l.bytes += len(c.Body)
	d.enqueue(l)
}

func (d *Dispatcher) enqueue(l *lane) {
	if !l.queued {
		l.queued = true
		d.ready = append(d.ready, l)
	}
}

// Wake says that deliveries of these endpoints are due in the database.
func (d *Dispatcher) Wake(endpointIDs ...string) {
	d.init()
	d.mu.Lock()
	for _, id := range endpointIDs {
		d.lane(id).backlog = true
	}
	d.mu.Unlock()
	d.poke()
}

func (d *Dispatcher) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// pump starts attempts while there is something to start. d.mu is held.
func (d *Dispatcher) pump() {
	for {
		c, l, ok := d.next()
		if !ok {
			return
		}
		go d.send(c, l)
	}
}

// next takes the next delivery to send, from each lane in turn. d.mu is held.
func (d *Dispatcher) next() (waiting, *lane, bool) {
	now := time.Time{}
	for len(d.ready) > 0 && d.sending < d.concurrency() && !d.stopping {
		l := d.ready[0]
		d.ready[0] = nil
		d.ready = d.ready[1:]
		l.queued = false
		if l.waiting.len() == 0 || l.sending >= d.limit(l) {
			continue
		}
		if !l.resumeAt.IsZero() {
			if now.IsZero() {
				now = d.now()
			}
			if now.Before(l.resumeAt) {
				continue
			}
			l.resumeAt = time.Time{}
		}
		c := l.waiting.pop()
		d.bytes -= len(c.Body)
		l.bytes -= len(c.Body)
		l.sending++
		d.sending++
		if l.waiting.len() > 0 {
			d.enqueue(l)
		}
		return c, l, true
	}
	return waiting{}, nil, false
}

// limit is how many attempts a lane may have under way now: at least one, at
// most as many as are free, so that the busiest leave room for the others.
func (d *Dispatcher) limit(l *lane) int {
	full := d.full(l)
	if l.limit > 0 {
		full = min(full, int(l.limit))
	}
	return max(1, min(full, d.concurrency()-d.sending))
}

// paused tells whether an operator made a lane wait.
func (d *Dispatcher) paused(l *lane) bool {
	t := d.targets.get(l.endpointID)
	return t != nil && t.Paused
}

// full is how many attempts a lane may have when its endpoint keeps up.
func (d *Dispatcher) full(l *lane) int {
	if t := d.targets.get(l.endpointID); t != nil && t.Concurrency > 0 {
		return t.Concurrency
	}
	return d.perEndpoint()
}

// send makes attempts until there is nothing left to start.
func (d *Dispatcher) send(c waiting, l *lane) {
	for {
		slow := d.attempt(c)
		d.mu.Lock()
		l.sending--
		d.sending--
		d.held--
		delete(d.mine, c.ID)
		d.adapt(l, slow)
		if l.waiting.len() > 0 {
			d.enqueue(l)
		}
		if l.backlog && l.waiting.len() <= d.full(l) {
			d.poke()
		}
		if d.stopping && d.sending == 0 {
			d.mu.Unlock()
			d.poke()
			return
		}
		var ok bool
		if c, l, ok = d.next(); !ok {
			d.mu.Unlock()
			return
		}
		d.pump() // more may start than this one ended
		d.mu.Unlock()
	}
}

// pace is what an attempt tells about how fast its endpoint wants to be.
type pace struct {
	slower bool
	wait   time.Duration
	faster bool
}

// adapt halves what an endpoint gets at a time when it asks us to slow down,
// and gives it back success by success. d.mu is held.
func (d *Dispatcher) adapt(l *lane, p pace) {
	full := float64(d.full(l))
	switch {
	case p.slower:
		if l.limit == 0 {
			l.limit = full
		}
		l.limit = max(1, l.limit/2)
		if p.wait > 0 {
			l.resumeAt = d.now().Add(p.wait)
		}
	case p.faster && l.limit > 0:
		if l.limit += 1 / l.limit; l.limit >= full {
			l.limit = 0
		}
	}
}

// Run sends until ctx ends. Then it starts nothing more, puts back what waits,
// gives the attempts under way the grace time and returns nil.
func (d *Dispatcher) Run(ctx context.Context) error {
	d.init()
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	d.mu.Lock()
	d.work = work
	d.mu.Unlock()
	recording, stop := context.WithCancel(context.WithoutCancel(ctx))
	var groups errgroup.Group
	groups.Go(func() error { return d.recorder.Run(recording) })
	groups.Go(func() error { return d.confirms.Run(recording) })

	d.loop(ctx)
	d.drain(work, abort)
	stop()
	return groups.Wait()
}

func (d *Dispatcher) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var lookAt, checkAt time.Time // what is woken often must look and check as often as what is not
	var suspects map[string]bool
	var wait time.Duration
	for {
		var err error
		if now := time.Now(); !now.Before(lookAt) || d.changed.Swap(false) {
			var next time.Duration
			next, err = d.look(ctx)
			lookAt = now.Add(next)
			if err == nil && !now.Before(checkAt) {
				suspects, err = d.reconcile(ctx, suspects)
				checkAt = now.Add(5 * time.Second)
			}
		}
		if err == nil {
			err = d.step(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait = min(max(2*wait, 50*time.Millisecond), 5*time.Second)
			d.log().WarnContext(ctx, "claim failed", "error", err, "retry_in", wait)
			lookAt = time.Now().Add(wait)
			select { // whatever wakes us: the database has to be given time
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			continue
		}
		wait = 0
		timer.Reset(time.Until(lookAt))
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-timer.C:
		}
	}
}

// look searches the database for what nobody announced: changed endpoints and
// due deliveries. It tells when to look again.
func (d *Dispatcher) look(ctx context.Context) (time.Duration, error) {
	next := cmp.Or(d.Poll, time.Second)
	if err := d.targets.refresh(ctx, d.Store); err != nil {
		return next, err
	}
	due, err := d.Store.NextDue(ctx)
	if err != nil {
		return next, err
	}
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, at := range due {
		if at.After(now) {
			next = min(next, at.Sub(now)+time.Millisecond)
			continue
		}
		d.lane(id).backlog = true
	}
	return next, nil
}

// reconcile puts back what the database says is ours and we know nothing of: its
// commit's answer got lost. What is on its way into memory just now is told from
// it by looking twice.
func (d *Dispatcher) reconcile(ctx context.Context, suspects map[string]bool) (map[string]bool, error) {
	ids, err := d.Store.Mine(ctx, d.Owner)
	if err != nil {
		return nil, err
	}
	again := make(map[string]bool)
	var lost []string
	d.mu.Lock()
	for _, id := range ids {
		switch {
		case d.mine[id]:
		case suspects[id]:
			lost = append(lost, id)
		default:
			again[id] = true
		}
	}
	d.mu.Unlock()
	if len(lost) == 0 {
		return again, nil
	}
	d.log().WarnContext(ctx, "put back deliveries that nobody was sending", "deliveries", len(lost))
	return again, d.Store.PutBack(ctx, d.Owner, lost, d.now())
}

// step claims what there is room for.
func (d *Dispatcher) step(ctx context.Context) error {
	if err := d.putBackPaused(ctx); err != nil {
		return err
	}
	d.resume()
	for {
		more, err := d.claim(ctx)
		if err != nil || !more {
			return err
		}
	}
}

// claim claims one batch, and tells whether there may be more to claim now.
func (d *Dispatcher) claim(ctx context.Context) (more bool, err error) {
	const batch = 512
	now := d.now()
	d.mu.Lock()
	var wants []store.Want
	left := batch
	for id, l := range d.lanes {
		if left == 0 {
			more = true
			break
		}
		if !l.backlog || now.Before(l.resumeAt) || d.paused(l) || l.waiting.len() > d.full(l) {
			continue
		}
		if n := min(d.room(l), left, 2*d.perEndpoint()); n > 0 {
			l.backlog = false // Wake may set it again while we look
			l.reserved += n
			d.held += n
			left -= n
			wants = append(wants, store.Want{EndpointID: id, N: n})
		}
	}
	d.mu.Unlock()
	if len(wants) == 0 {
		return false, nil
	}
	claimed, err := d.Store.Claim(ctx, d.Owner, wants)
	d.mu.Lock()
	defer d.mu.Unlock()
	got := make(map[string]int, len(wants))
	for _, c := range claimed {
		got[c.EndpointID]++
		d.add(c)
	}
	for _, w := range wants {
		l := d.lane(w.EndpointID)
		l.reserved -= w.N
		d.held -= w.N
		if err != nil || got[w.EndpointID] == w.N {
			l.backlog = true
		}
	}
	d.pump()
	return more || len(claimed) == batch, err
}

// putBackPaused returns what waits for endpoints that are paused, or asked for a
// pause, to the database, so that it does not occupy memory meanwhile.
func (d *Dispatcher) putBackPaused(ctx context.Context) error {
	now := d.now()
	type pause struct {
		ids   []string
		until time.Time
	}
	var pauses []pause
	d.mu.Lock()
	for _, l := range d.lanes {
		switch {
		case l.waiting.len() == 0:
		case d.paused(l):
			pauses = append(pauses, pause{d.empty(l), now})
		case l.resumeAt.After(now.Add(time.Second)):
			pauses = append(pauses, pause{d.empty(l), l.resumeAt})
		}
	}
	d.mu.Unlock()
	for _, p := range pauses {
		if err := d.Store.PutBack(ctx, d.Owner, p.ids, p.until); err != nil {
			return err // reconcile finds them
		}
	}
	return nil
}

// resume starts what waited for the end of a short pause.
func (d *Dispatcher) resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lanes {
		if l.waiting.len() > 0 {
			d.enqueue(l)
		}
	}
	d.pump()
}

// empty takes all that waits out of a lane. d.mu is held.
func (d *Dispatcher) empty(l *lane) []string {
	ids := make([]string, 0, l.waiting.len())
	for l.waiting.len() > 0 {
		c := l.waiting.pop()
		d.bytes -= len(c.Body)
		l.bytes -= len(c.Body)
		d.held--
		delete(d.mine, c.ID)
		ids = append(ids, c.ID)
	}
	return ids
}

// drain ends the dispatcher: work is the attempts' context, abort ends it.
func (d *Dispatcher) drain(work context.Context, abort context.CancelFunc) {
	d.mu.Lock()
	d.stopping = true
	var ids []string
	for _, l := range d.lanes {
		ids = append(ids, d.empty(l)...)
	}
	under := d.sending
	d.mu.Unlock()
	if len(ids) > 0 {
		back, cancel := context.WithTimeout(work, 5*time.Second)
		err := d.Store.PutBack(back, d.Owner, ids, d.now())
		cancel()
		if err != nil {
			d.log().WarnContext(work, "could not put deliveries back; they follow when this process is seen to be gone", "error", err, "deliveries", len(ids))
		}
	}
	if under == 0 {
		return
	}
	grace := time.AfterFunc(cmp.Or(d.Grace, 20*time.Second), abort)
	defer grace.Stop()
	for {
		<-d.wake
		d.mu.Lock()
		under = d.sending
		d.mu.Unlock()
		if under == 0 {
			return
		}
	}
}

// fresh is how old a claim may be to be sent without asking whether it is still
// ours: what waits for a slow endpoint may be canceled meanwhile, or taken over.
const fresh = time.Second

// confirmation asks whether a delivery is still ours.
type confirmation struct {
	id   string
	mine bool
}

func (d *Dispatcher) confirm(ctx context.Context, cs []*confirmation) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ids := make([]string, len(cs))
	for i, c := range cs {
		ids[i] = c.id
	}
	mine, err := d.Store.Mine(ctx, d.Owner, ids...)
	if err != nil {
		return err
	}
	for _, c := range cs {
		c.mine = slices.Contains(mine, c.id)
	}
	return nil
}

// attempt makes one attempt and sees it recorded.
func (d *Dispatcher) attempt(w waiting) pace {
	d.mu.Lock()
	ctx := d.work
	d.mu.Unlock()
	c := w.Claimed
	if d.now().Sub(w.since) > fresh {
		asked := &confirmation{id: c.ID}
		switch err := d.confirms.Do(ctx, asked); {
		case err != nil:
			d.log().WarnContext(ctx, "could not confirm delivery", "error", err, "delivery", c.ID)
			d.putBack(ctx, c.ID)
			return pace{}
		case !asked.mine:
			return pace{}
		}
	}
	t, err := d.targets.find(ctx, d.Store, c.EndpointID)
	if err != nil {
		d.log().WarnContext(ctx, "could not read endpoint", "error", err, "endpoint", c.EndpointID)
		d.putBack(ctx, c.ID)
		return pace{}
	}
	if t == nil {
		d.cancel(ctx, c)
		return pace{}
	}
	if t.Paused {
		d.putBack(ctx, c.ID)
		return pace{}
	}
	started := d.now()
	answer := d.Client.Do(ctx, Request{
		URL: t.URL, ID: c.ID, Body: c.Body, Signer: t.signer(started), Timeout: t.Timeout, Now: started,
	})
	if answer.Verdict() == Aborted {
		d.putBack(ctx, c.ID)
		return pace{}
	}
	r := &record{Result: decide(c, t, answer, started, d.now())}
	if !d.record(ctx, r) {
		return pace{}
	}
	if answer.Verdict() == Gone {
		d.disable(ctx, t)
	}
	d.report(ctx, c, t, answer, r)
	if len(r.due) > 0 {
		d.Wake(r.due...)
	}
	switch v := answer.Verdict(); v {
	case Success:
		return pace{faster: true}
	case SlowDown:
		return pace{slower: true, wait: answer.RetryAfter}
	default:
		return pace{}
	}
}

// record sees a result committed. While the database does not answer it keeps
// trying: the slot stays taken, so what waits to be recorded is bounded. It
// gives up when the dispatcher has to end; the delivery is then sent once more
// by whoever takes it over.
func (d *Dispatcher) record(ctx context.Context, r *record) bool {
	wait := 50 * time.Millisecond
	for {
		err := d.recorder.Do(context.WithoutCancel(ctx), r)
		if err == nil {
			return true
		}
		d.log().WarnContext(ctx, "could not record attempt", "error", err, "delivery", r.DeliveryID, "retry_in", wait)
		if errors.Is(err, groupcommit.ErrClosed) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

func (d *Dispatcher) commit(ctx context.Context, rs []*record) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	results := make([]store.Result, len(rs))
	for i, r := range rs {
		results[i] = r.Result
	}
	due, err := d.Store.Record(ctx, d.Owner, results)
	if err != nil {
		return err
	}
	rs[0].due = due
	return nil
}

// decide says what follows from an answer.
func decide(c store.Claimed, t *target, a Answer, started, now time.Time) store.Result {
	r := store.Result{
		Attempt: store.Attempt{
			DeliveryID: c.ID, Number: c.Attempts + 1, StartedAt: started, Duration: a.Duration, Status: a.Status,
			Class: string(a.Class), Error: a.Words(), Answer: a.Body, Address: a.RemoteAddr,
		},
		EndpointID: c.EndpointID, OrderKey: c.OrderKey, DueAt: now, Tries: c.Tries + 1,
	}
	r.Outcome, r.Receipt, r.ReceiptError = outcome(a)
	switch a.Verdict() {
	case Success:
		r.State, r.Error = store.Succeeded, ""
	case Permanent:
		r.State = store.Failed
	case Gone:
		r.State = store.Canceled
	default:
		wait, ok := Next(t.policy, c.ID, c.Tries+2, a.RetryAfter)
		if ok {
			r.State, r.DueAt = store.Pending, now.Add(wait)
		} else {
			r.State = store.Failed
		}
	}
	return r
}

// putBack makes deliveries pending that were not sent. What cannot be put back
// now is found by reconcile.
func (d *Dispatcher) putBack(ctx context.Context, ids ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := d.Store.PutBack(ctx, d.Owner, ids, d.now()); err != nil {
		d.log().WarnContext(ctx, "could not put deliveries back", "error", err, "deliveries", len(ids))
	}
}

// cancel ends the deliveries of an endpoint that is not there any more; if it is
// there again, they wait for the next look.
func (d *Dispatcher) cancel(ctx context.Context, c store.Claimed) {
	d.mu.Lock()
	ids := append(d.empty(d.lane(c.EndpointID)), c.ID)
	d.mu.Unlock()
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer stop()
	n, err := d.Store.CancelOf(ctx, c.EndpointID, store.CauseEndpointDisabled)
	if err != nil {
		d.log().WarnContext(ctx, "could not cancel deliveries", "error", err, "endpoint", c.EndpointID)
	}
	if n == 0 {
		d.putBack(ctx, ids...)
	}
}

func (d *Dispatcher) disable(ctx context.Context, t *target) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := d.Store.DisableGone(ctx, t.ID, t.URL, "it answered 410 Gone"); err != nil {
		d.log().WarnContext(ctx, "could not disable endpoint", "error", err, "endpoint", t.ID)
		return
	}
	d.targets.forget()
}

func (d *Dispatcher) report(ctx context.Context, c store.Claimed, t *target, a Answer, r *record) {
	latency := d.now().Sub(c.RecordedAt)
	if d.OnAttempt != nil {
		d.OnAttempt(Report{Delivery: c, Endpoint: t.Name, Number: r.Number, Answer: a, State: r.State, DueAt: r.DueAt, Latency: latency})
	}
	log := d.log()
	if !log.Enabled(ctx, slog.LevelInfo) {
		return
	}
	attrs := []slog.Attr{
		slog.String("delivery", c.ID), slog.String("event", c.EventID), slog.String("type", c.EventType),
		slog.String("endpoint", c.EndpointID), slog.Int("attempt", r.Number), slog.Int("status", a.Status),
		slog.String("class", string(a.Class)), slog.Duration("duration", a.Duration), slog.Duration("latency", latency),
		slog.String("state", r.State.String()), slog.String("outcome", r.Outcome),
	}
	if r.State == store.Pending {
		attrs = append(attrs, slog.Time("due_at", r.DueAt))
	}
	log.LogAttrs(ctx, slog.LevelInfo, "attempt", attrs...)
}

// Urge is Wake for what a person asked for: it also ends a pause that the
// endpoint had asked for.
func (d *Dispatcher) Urge(endpointIDs ...string) {
	d.init()
	d.mu.Lock()
	for _, id := range endpointIDs {
		d.lane(id).resumeAt = time.Time{}
	}
	d.mu.Unlock()
	d.Wake(endpointIDs...)
}

// EndpointsChanged makes the dispatcher read the endpoints again.
func (d *Dispatcher) EndpointsChanged() {
	d.init()
	d.targets.forget()
	d.changed.Store(true)
	d.poke()
}

// Busy tells how many attempts are under way, and how many deliveries are in
// memory in all.
func (d *Dispatcher) Busy() (sending, held int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sending, d.held
}
