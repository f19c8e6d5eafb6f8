package dispatch

import (
	"cmp"
	"context"
	"log/slog"
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
	Queue       int           // deliveries in memory per endpoint; 0 = 4096
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

	mu        sync.Mutex
	lanes     map[string]*lane
	mine      map[string]bool // ids of the deliveries in memory
	ready     []*lane         // lanes that may have something to start, each once
	sending   int
	recording int // results on their way into the database
	held      int // deliveries in memory or reserved, in all
	bytes     int
	stopping  bool
	work      context.Context
}

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

func (d *Dispatcher) queue() int       { return cmp.Or(d.Queue, 4096) }
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
	// Not to be broken off by the end: rows may be claimed whose answer is lost.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
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

// drain ends the dispatcher: work is the attempts' context, abort ends it.
func (d *Dispatcher) drain(work context.Context, abort context.CancelFunc) {
	d.mu.Lock()
	d.stopping = true
	var ids []string
	for _, l := range d.lanes {
		ids = append(ids, d.empty(l)...)
	}
	under := d.sending + d.recording
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
		under = d.sending + d.recording
		d.mu.Unlock()
		if under == 0 {
			return
		}
	}
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
