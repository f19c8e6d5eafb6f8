package stream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// delivery is a message on its way through a handler. One goroutine at a time
// owns it.
type delivery struct {
	id     string // of the stream entry
	origin interface{ message() *message.Message }
	tries  int64 // deliveries so far, this one included

	msg    *message.Message // the copy that the handler has
	cancel context.CancelFunc
	handed bool
}

// subscription hands deliveries to the consumer of its channel and learns what
// becomes of them. Both transports are built on it: they feed it by deliver and
// are told the outcome by acked, nacked and dropped.
type subscription struct {
	out       chan *message.Message
	ctx       context.Context // ends with the subscription: nothing is handed out any more
	work      context.Context // the messages' parent; ends a grace period later at the latest
	stopWork  context.CancelFunc
	grace     time.Duration
	nackDelay time.Duration

	acked   func(*delivery)      // its transport calls inHand.Done when it has recorded that
	nacked  func(*delivery) bool // deliver it again? false: the transport sees to it, as after acked
	dropped func(*delivery)      // it was not handled and has to go back

	offer *time.Timer // set where others can have a delivery that our consumer does not take

	fifo  chan *delivery // handed out, in order
	ended chan struct{}

	mu     sync.RWMutex // held for reading while sending on out
	closed bool
	inHand sync.WaitGroup // deliveries handed out and not finished
}

// patience is how long the collector waits for one message before it gives it
// a goroutine of its own: most handlers are done by then, and waiting in order is
// much cheaper than a goroutine each.
const patience = 2 * time.Millisecond

// offerTime is how long a delivery is offered to a consumer that does not read
// while others might.
const offerTime = 20 * time.Millisecond

// nackDelay is the time from a nack of the try-th delivery to the next one.
func nackDelay(base time.Duration, try int64) time.Duration {
	return base * time.Duration(min(try, 10))
}

// newSubscription prepares a subscription with at most size deliveries in hand.
func newSubscription(ctx context.Context, size int, grace, nackDelay time.Duration) *subscription {
	s := &subscription{
		out: make(chan *message.Message), ctx: ctx, grace: grace, nackDelay: nackDelay,
		fifo: make(chan *delivery, size), ended: make(chan struct{}),
	}
	s.work, s.stopWork = context.WithCancel(context.WithoutCancel(ctx))
	return s
}

// deliver hands d to the consumer, or drops it when the subscription ends first.
func (s *subscription) deliver(d *delivery) {
	m := d.origin.message()
	ctx, cancel := context.WithCancel(s.work)
	m.SetContext(ctx)
	d.msg, d.cancel = m, cancel

	s.mu.RLock()
	sent := !s.closed
	if sent {
		if !d.handed {
			d.handed = true
			s.inHand.Add(1)
		}
		sent = s.send(m)
	}
	s.mu.RUnlock()
	if !sent {
		s.drop(d)
		return
	}
	s.fifo <- d
}

func (s *subscription) send(m *message.Message) bool {
	select {
	case s.out <- m:
		return true
	default:
	}
	var expired <-chan time.Time
	if s.offer != nil {
		s.offer.Reset(offerTime)
		expired = s.offer.C
	}
	select {
	case s.out <- m:
		return true
	case <-expired:
	case <-s.ctx.Done():
	}
	return false
}

// collect learns of acks in the order of delivery, cheaply as long as handlers
// are quick.
func (s *subscription) collect() {
	t := time.NewTimer(patience)
	slow := false // the last one was: do not wait for each of those behind it in turn
	for {
		var d *delivery
		select {
		case d = <-s.fifo:
		case <-s.ended:
			return
		}
		select {
		case <-d.msg.Acked():
			slow = false
			s.ack(d)
			continue
		default:
		}
		if slow {
			go s.watch(d)
			continue
		}
		t.Reset(patience)
		select {
		case <-d.msg.Acked():
			s.ack(d)
		case <-d.msg.Nacked():
			go s.nack(d)
		case <-t.C:
			slow = true
			go s.watch(d)
		case <-s.work.Done():
			s.watch(d)
		}
	}
}

func (s *subscription) watch(d *delivery) {
	select {
	case <-d.msg.Acked():
		s.ack(d)
	case <-d.msg.Nacked():
		s.nack(d)
	case <-s.work.Done():
		select {
		case <-d.msg.Acked():
			s.ack(d)
		default:
			s.drop(d)
		}
	}
}

func (s *subscription) ack(d *delivery) {
	d.cancel()
	s.acked(d)
}

func (s *subscription) nack(d *delivery) {
	d.cancel()
	if !s.nacked(d) {
		return
	}
	t := time.NewTimer(nackDelay(s.nackDelay, d.tries))
	defer t.Stop()
	select {
	case <-t.C:
		d.tries++
		s.deliver(d)
	case <-s.ctx.Done():
		s.drop(d)
	}
}

func (s *subscription) drop(d *delivery) {
	d.cancel()
	handed := d.handed
	d.handed = false
	s.dropped(d) // d is somebody else's from here on
	if handed {
		s.inHand.Done()
	}
}

// end waits for the end of the subscription and then for its handlers.
func (s *subscription) end() {
	<-s.ctx.Done()
	s.mu.Lock()
	s.closed = true
	close(s.out)
	s.mu.Unlock()

	idle := make(chan struct{})
	go func() {
		s.inHand.Wait()
		close(idle)
	}()
	t := time.NewTimer(s.grace)
	defer t.Stop()
	select {
	case <-idle:
	case <-t.C:
	}
	s.stopWork()
	<-idle
	close(s.ended)
}

// subscriptions are what a subscriber has to end on Close.
type subscriptions struct {
	ctx  context.Context
	stop context.CancelFunc
	mu   sync.Mutex
	wg   sync.WaitGroup
}

func newSubscriptions() *subscriptions {
	s := &subscriptions{}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// start runs a subscription under a context that ends with ctx and with close.
func (s *subscriptions) start(ctx context.Context, run func(context.Context) func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return fmt.Errorf("subscribe: %w", ErrClosed)
	}
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(s.ctx, cancel)
	body := run(ctx)
	s.wg.Go(func() {
		defer cancel()
		defer forget()
		body()
	})
	return nil
}

func (s *subscriptions) close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.wg.Wait()
}
