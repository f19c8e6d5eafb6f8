package dispatch

import (
	"time"

	"github.com/handover-dev/handover/internal/store"
)

// lane is one endpoint's way through the dispatcher.
type lane struct {
	endpointID string
	waiting    fifo
	reserved   int
	sending    int
	recording  int
	bytes      int       // of the events that wait
	limit      float64   // attempts at a time, when the endpoint asked us to slow down; else 0
	resumeAt   time.Time // nothing is started before
	backlog    bool      // the database has due deliveries
	queued     bool      // stands in ready
}

const (
	maxHeld      = 2    // times Queue, over all endpoints
	maxRecording = 1024 // results that may wait for their commit while their slots are used again
)

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
	here := l.waiting.len() + l.reserved + l.sending + l.recording
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

// send makes attempts until there is nothing left to start. What came of one is
// recorded beside the next.
func (d *Dispatcher) send(c waiting, l *lane) {
	for {
		r, p := d.attempt(c)
		d.mu.Lock()
		d.adapt(l, p)
		if r != nil {
			d.recording++
			l.recording++
			if d.recording <= maxRecording && r.answer.Class != ClassGone {
				go d.settle(r, l)
			} else {
				// The slot stays taken: what waits to be recorded is bounded, and an
				// endpoint that is gone gets nothing more.
				d.mu.Unlock()
				d.settle(r, l)
				d.mu.Lock()
			}
		} else {
			d.forget(c.ID)
		}
		l.sending--
		d.sending--
		if l.waiting.len() > 0 {
			d.enqueue(l)
		}
		if l.backlog && l.waiting.len() <= d.full(l) {
			d.poke()
		}
		var ok bool
		if c, l, ok = d.next(); !ok {
			d.ended()
			d.mu.Unlock()
			return
		}
		d.pump() // more may start than this one ended
		d.mu.Unlock()
	}
}

// settle sees a result recorded and lets go of its delivery.
func (d *Dispatcher) settle(r *record, l *lane) {
	d.conclude(r)
	d.mu.Lock()
	d.recording--
	l.recording--
	if l.backlog && l.waiting.len() <= d.full(l) {
		d.poke()
	}
	d.forget(r.claimed.ID)
	d.ended()
	d.mu.Unlock()
}

// forget lets a delivery go that is no longer in memory. d.mu is held.
func (d *Dispatcher) forget(id string) {
	d.held--
	delete(d.mine, id)
}

// ended tells drain when the last one is done. d.mu is held.
func (d *Dispatcher) ended() {
	if d.stopping && d.sending+d.recording == 0 {
		d.poke()
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
