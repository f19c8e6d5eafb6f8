package stream

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// commandTimeout bounds commands that do not block.
const commandTimeout = 5 * time.Second

// ackBatch is how many ids one XACK carries at most.
const ackBatch = 1024

// forgetConsumers is how long a consumer without messages is kept in the group.
const forgetConsumers = 24 * time.Hour

// session is one subscription to one stream.
type session struct {
	*subscription
	sub      *Subscriber
	cfg      *SubscriberConfig
	log      *slog.Logger
	stream   string
	consumer string
	places   *window
	acks     chan *delivery

	claimAt time.Time // when to look for messages of silent consumers
	claimed string    // how far the look has come
	trouble bool      // the last read failed
	missed  bool      // there may be messages of ours whose read's answer got lost

	mu    sync.Mutex
	held  map[string]*delivery // all that we have read and not finished
	loose []string             // given up at the end: to be taken over at once
}

func newSession(ctx context.Context, s *Subscriber, stream string) *session {
	x := &session{
		subscription: newSubscription(ctx, s.cfg.MaxInFlight, s.cfg.Grace, s.cfg.NackDelay),
		sub:          s,
		cfg:          &s.cfg,
		log:          s.log,
		stream:       stream,
		consumer:     s.cfg.Consumer + "-" + strings.ToLower(rand.Text()[:10]),
		places:       newWindow(s.cfg.MaxInFlight),
		acks:         make(chan *delivery, s.cfg.MaxInFlight),
		held:         map[string]*delivery{},
	}
	x.acked = func(d *delivery) { x.acks <- d }
	x.nacked = x.onNack
	x.dropped = x.onDrop
	return x
}

func (x *session) run() {
	var loops sync.WaitGroup
	loops.Go(x.collect)
	loops.Go(x.ackLoop)
	loops.Go(x.heartbeat)
	read := make(chan struct{})
	go func() {
		defer close(read)
		x.readLoop()
	}()
	x.end()
	loops.Wait()

	// A read that hangs in a dead connection does not hold up the end: what it
	// brings is claimed by others after MinIdle.
	t := time.NewTimer(x.cfg.Grace)
	defer t.Stop()
	select {
	case <-read:
	case <-t.C:
	}
	x.letGo()
	x.tidy(x.consumer)
}

// readLoop reads new messages and claims those of silent consumers, no more at
// a time than there are places for.
func (x *session) readLoop() {
	x.tidy("")
	x.claimAt = time.Now()
	var pause backoff
	for {
		n := x.places.take(x.cfg.ReadCount, x.ctx.Done())
		if n == 0 {
			return
		}
		if x.ctx.Err() != nil {
			return
		}
		var used int
		var err error
		if now := time.Now(); now.Before(x.claimAt) && !x.missed {
			used, err = x.read(n)
		} else {
			used, err = x.claim(n)
		}
		x.places.give(n - used)
		switch {
		case err == nil:
			if x.trouble {
				x.trouble = false
				x.missed, x.claimed = true, ""
				x.log.Info("stream is back", "stream", x.stream)
			}
			pause = backoff{}
		case lostGroup(err) && x.sub.ensureGroup(x.ctx, x.stream):
		case x.ctx.Err() != nil:
			return
		default:
			if !x.trouble {
				x.trouble = true
				x.log.Warn("cannot read stream", "stream", x.stream, "error", err)
			}
			if !pause.wait(x.ctx.Done()) {
				return
			}
		}
	}
}

func (x *session) read(n int) (used int, err error) {
	// A deadline rather than x.ctx: what a cancelled read has fetched already
	// would be pending here unseen.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), x.cfg.Block+commandTimeout)
	defer cancel()
	res, err := x.cfg.Client.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: x.cfg.Group, Consumer: x.consumer, Streams: []string{x.stream, ">"},
		Count: int64(n), Block: x.cfg.Block,
	}).Result()
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil || len(res) == 0 {
		return 0, err
	}
	entries := res[0].Messages
	x.sub.read.Add(uint64(len(entries)))
	batch := make([]delivery, len(entries))
	ds := make([]*delivery, len(entries))
	for i, m := range entries {
		batch[i] = delivery{id: m.ID, origin: entry(m.Values), tries: 1}
		ds[i] = &batch[i]
	}
	x.receive(ds)
	return len(ds), nil
}

// receive takes ds into our hands and hands them on.
func (x *session) receive(ds []*delivery) {
	x.mu.Lock()
	for _, d := range ds {
		x.held[d.id] = d
	}
	x.mu.Unlock()
	for _, d := range ds {
		e, _ := d.origin.(entry)
		reason := ""
		if err := e.check(); err != nil {
			reason = err.Error()
		} else if x.spent(d.tries - 1) {
			reason = fmt.Sprintf("delivered %d times", d.tries-1)
		}
		if reason == "" {
			x.deliver(d)
		} else if !x.buried(d, reason) {
			x.onDrop(d)
		}
	}
}

// spent reports whether a message that was delivered so often has had its share.
func (x *session) spent(tries int64) bool {
	return x.cfg.MaxDeliveries > 0 && tries >= int64(x.cfg.MaxDeliveries)
}

// buried moves d to the dead letters and lets it be acked. When that fails, d
// stays pending and is claimed, and tried, again after MinIdle.
func (x *session) buried(d *delivery, reason string) bool {
	if err := x.sub.bury(x.stream, d, reason); err != nil {
		x.log.Error("cannot move entry to dead letters", "stream", x.stream, "entry", d.id, "error", err)
		return false
	}
	x.acks <- d
	return true
}

func (x *session) onNack(d *delivery) (again bool) {
	if x.spent(d.tries) {
		if x.buried(d, fmt.Sprintf("delivered %d times", d.tries)) {
			return false
		}
		d.tries-- // not lost: the next nack tries to move it again
	}
	x.sub.redelivered.Add(1)
	// Redis counts deliveries by read and claim only; tell it of this one, so
	// that the limit holds across consumers.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), commandTimeout)
	defer cancel()
	x.cfg.Client.Do(ctx, "XCLAIM", x.stream, x.cfg.Group, x.consumer, 0, d.id, "RETRYCOUNT", d.tries+1, "JUSTID")
	return true
}

func (x *session) onDrop(d *delivery) {
	x.mu.Lock()
	delete(x.held, d.id)
	if x.ctx.Err() != nil {
		x.loose = append(x.loose, d.id)
	}
	x.mu.Unlock()
	x.places.give(1)
}

// ackLoop acks all that has queued up with one XACK, on contexts of its own:
// the end of the subscription must not lose the acks of finished handlers.
func (x *session) ackLoop() {
	batch := make([]*delivery, 0, ackBatch)
	ids := make([]string, 0, ackBatch)
	for {
		batch = batch[:0]
		select {
		case d := <-x.acks:
			batch = append(batch, d)
		case <-x.ended:
			// What was buried without being handed out is not waited for by end.
			select {
			case d := <-x.acks:
				batch = append(batch, d)
			default:
				return
			}
		}
	fill:
		for len(batch) < ackBatch {
			select {
			case d := <-x.acks:
				batch = append(batch, d)
			default:
				break fill
			}
		}
		ids = ids[:0]
		for _, d := range batch {
			ids = append(ids, d.id)
		}
		done := x.ackAll(ids)
		x.mu.Lock()
		for _, d := range batch {
			if x.held[d.id] == d {
				delete(x.held, d.id)
			}
		}
		x.mu.Unlock()
		if done {
			x.sub.acked.Add(uint64(len(batch)))
		}
		for _, d := range batch {
			if d.handed {
				x.inHand.Done()
			}
		}
		x.places.give(len(batch))
		clear(batch)
	}
}

// ackAll tries until Redis has taken the acks or the grace period is over; then
// the messages will be delivered again.
func (x *session) ackAll(ids []string) bool {
	var pause backoff
	for {
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		err := x.cfg.Client.XAck(ctx, x.stream, x.cfg.Group, ids...).Err()
		cancel()
		if err == nil {
			return true
		}
		if pause.next == 0 {
			x.log.Warn("cannot ack", "stream", x.stream, "messages", len(ids), "error", err)
		}
		if !pause.wait(x.work.Done()) {
			return false
		}
	}
}

// heartbeat tells Redis of the messages that handlers still work on, so that
// other consumers leave them alone.
func (x *session) heartbeat() {
	t := time.NewTicker(x.cfg.MinIdle / 3)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			x.beat()
		case <-x.ended:
			return
		}
	}
}

func (x *session) beat() {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	// Only what is still ours: after a long pause others may have claimed it, and
	// are at work.
	ours, err := x.cfg.Client.XPendingExt(ctx, &redis.XPendingExtArgs{
		Stream: x.stream, Group: x.cfg.Group, Consumer: x.consumer, Idle: x.cfg.MinIdle / 6,
		Start: "-", End: "+", Count: int64(2 * x.cfg.MaxInFlight),
	}).Result()
	if err != nil {
		return // the read loop speaks of it
	}
	ids := make([]string, 0, len(ours))
	x.mu.Lock()
	for _, p := range ours {
		if x.held[p.ID] != nil {
			ids = append(ids, p.ID)
		}
	}
	x.mu.Unlock()
	if len(ids) > 0 {
		x.cfg.Client.XClaimJustID(ctx, &redis.XClaimArgs{Stream: x.stream, Group: x.cfg.Group, Consumer: x.consumer, Messages: ids})
	}
}

// claim takes over up to n messages of consumers that were silent for MinIdle,
// and our own that a lost answer has kept from us: after an outage these at once.
func (x *session) claim(n int) (used int, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), commandTimeout)
	defer cancel()
	start := "-"
	if x.claimed != "" {
		start = "(" + x.claimed
	}
	consumer, idle := "", x.cfg.MinIdle
	if x.missed {
		consumer, idle = x.consumer, 0
	}
	pending, err := x.cfg.Client.XPendingExt(ctx, &redis.XPendingExtArgs{
		Stream: x.stream, Group: x.cfg.Group, Consumer: consumer, Idle: idle, Start: start, End: "+", Count: int64(n),
	}).Result()
	if err != nil {
		return 0, err
	}
	switch {
	case len(pending) == n:
		x.claimed = pending[len(pending)-1].ID
	case x.missed:
		x.claimed, x.missed = "", false
	default:
		x.claimed = ""
		x.claimAt = time.Now().Add(x.cfg.MinIdle / 3)
	}

	args := []any{"XCLAIM", x.stream, x.cfg.Group, x.consumer, idle.Milliseconds()}
	tries := map[string]int64{}
	x.mu.Lock()
	for _, p := range pending {
		if x.held[p.ID] == nil {
			args = append(args, p.ID)
			tries[p.ID] = p.RetryCount + 1
		}
	}
	x.mu.Unlock()
	if len(tries) == 0 {
		return 0, nil
	}
	// Not XClaim: Redis 6.2 answers nil for entries that were deleted.
	reply, err := x.cfg.Client.Do(ctx, args...).Slice()
	if err != nil {
		return 0, err
	}
	var ds []*delivery
	deleted := false
	for _, r := range reply {
		id, fields, ok := parseEntry(r)
		if !ok {
			deleted = true
			continue
		}
		ds = append(ds, &delivery{id: id, origin: fields, tries: tries[id]})
		delete(tries, id)
	}
	if deleted {
		x.forget(ctx, tries)
	}
	x.sub.redelivered.Add(uint64(len(ds)))
	x.receive(ds)
	return len(ds), nil
}

// forget acks those ids whose entries were deleted from the stream.
func (x *session) forget(ctx context.Context, ids map[string]int64) {
	for id := range ids {
		if found, err := x.cfg.Client.XRange(ctx, x.stream, id, id).Result(); err == nil && len(found) == 0 {
			x.cfg.Client.XAck(ctx, x.stream, x.cfg.Group, id)
		}
	}
}

// parseEntry reads [id, [field, value, ...]].
func parseEntry(reply any) (id string, fields entry, ok bool) {
	pair, _ := reply.([]any)
	if len(pair) != 2 {
		return "", nil, false
	}
	id, _ = pair[0].(string)
	flat, _ := pair[1].([]any)
	fields = make(entry, len(flat)/2)
	for i := 0; i+1 < len(flat); i += 2 {
		name, _ := flat[i].(string)
		fields[name] = flat[i+1]
	}
	return id, fields, id != ""
}

// letGo makes what we leave unfinished look idle, so that others take it over
// without waiting for MinIdle.
func (x *session) letGo() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.loose) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	args := []any{"XCLAIM", x.stream, x.cfg.Group, x.consumer, 0}
	for _, id := range x.loose {
		args = append(args, id)
	}
	args = append(args, "IDLE", x.cfg.MinIdle.Milliseconds(), "JUSTID")
	x.cfg.Client.Do(ctx, args...)
	x.loose = nil
}

// tidyScript deletes consumers that have nothing pending and were idle for
// ARGV[2] ms, or are named ARGV[3], from the group ARGV[1] of the stream KEYS[1].
// It is a script because a consumer deleted with messages pending takes them
// with it: nothing may come between the look and the deletion.
var tidyScript = redis.NewScript(`
for _, c in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
	local f = {}
	for i = 1, #c, 2 do f[c[i]] = c[i + 1] end
	if f.pending == 0 and (f.idle >= tonumber(ARGV[2]) or f.name == ARGV[3]) then
		redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], f.name)
	end
end
return 0`)

// tidy deletes consumers that are of no use any more, among them gone.
func (x *session) tidy(gone string) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	err := tidyScript.Run(ctx, x.cfg.Client, []string{x.stream}, x.cfg.Group, forgetConsumers.Milliseconds(), gone).Err()
	if err != nil {
		x.log.Debug("cannot delete old consumers", "stream", x.stream, "error", err)
	}
}
