package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxClients bounds the connections of clients where descriptors do not.
	maxClients = 2048
	// politeness is for how long a connection may be silent before it is closed to
	// make room for another.
	politeness = time.Second
)

// descriptors is how many files and connections this process may have open.
func descriptors() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 1024
	}
	return int(min(l.Cur, 1<<20))
}

// outOfDescriptors tells whether this process, or the machine, can open nothing
// any more.
func outOfDescriptors() bool {
	f, err := os.Open(os.DevNull)
	if err == nil {
		_ = f.Close()
	}
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// doors bounds the connections of clients, so that descriptors are left for the
// database and for deliveries. When one comes too many, the one that has been
// silent for longest is closed; when all are busy, the new one is told to come
// later, and when there are too many even of those, it waits to be told.
type doors struct {
	net.Listener
	most  int
	extra int // those that are told to come later
	left  chan struct{}

	closing sync.Once
	closed  chan struct{}

	mu   sync.Mutex
	open map[*visitor]struct{}
}

// visitor is the connection of a client.
type visitor struct {
	net.Conn
	doors   *doors
	silent  atomic.Int64 // since when, Unix nanoseconds; 0: something is asked
	tooMany bool
}

func newDoors(l net.Listener, most int) *doors {
	return &doors{
		Listener: l, most: most, extra: max(8, most/2), open: make(map[*visitor]struct{}),
		left: make(chan struct{}, 1), closed: make(chan struct{}),
	}
}

// Accept returns the next connection.
func (d *doors) Accept() (net.Conn, error) {
	for !d.room(d.most + d.extra) {
		select {
		case <-d.left:
		case <-time.After(politeness / 20): // one may have been silent for long enough
		case <-d.closed:
			return nil, net.ErrClosed
		}
	}
	c, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	v := &visitor{Conn: c, doors: d, tooMany: !d.room(d.most)}
	v.silent.Store(time.Now().UnixNano())
	d.mu.Lock()
	d.open[v] = struct{}{}
	d.mu.Unlock()
	return v, nil
}

// Close ends Accept.
func (d *doors) Close() error {
	d.closing.Do(func() { close(d.closed) })
	return d.Listener.Close()
}

// room tells whether there are less than most connections, after closing silent
// ones if need be.
func (d *doors) room(most int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.open) >= most {
		var longest *visitor
		since := time.Now().Add(-politeness).UnixNano()
		for v := range d.open {
			if at := v.silent.Load(); at > 0 && at < since {
				longest, since = v, at
			}
		}
		if longest == nil {
			return false
		}
		delete(d.open, longest)
		_ = longest.Conn.Close()
	}
	return true
}

// Close closes the connection.
func (v *visitor) Close() error {
	v.doors.mu.Lock()
	delete(v.doors.open, v)
	v.doors.mu.Unlock()
	select {
	case v.doors.left <- struct{}{}:
	default:
	}
	return v.Conn.Close()
}

// CloseWrite lets an answer arrive whose request was not read to its end.
func (v *visitor) CloseWrite() error {
	if c, ok := v.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// visitorOf finds the visitor that a connection of the server is, or is in.
func visitorOf(c net.Conn) *visitor {
	if inside, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = inside.NetConn()
	}
	v, _ := c.(*visitor)
	return v
}

// state is for [http.Server.ConnState].
func (d *doors) state(c net.Conn, s http.ConnState) {
	v := visitorOf(c)
	if v == nil {
		return
	}
	switch s {
	case http.StateIdle:
		v.silent.Store(time.Now().UnixNano())
	case http.StateActive:
		v.silent.Store(0)
	default: // it was silent from the start, and is gone
	}
}

type tooMany struct{}

// context is for [http.Server.ConnContext].
func (d *doors) context(ctx context.Context, c net.Conn) context.Context {
	if v := visitorOf(c); v != nil && v.tooMany {
		return context.WithValue(ctx, tooMany{}, true)
	}
	return ctx
}

// turnAway answers those who are too many.
func turnAway(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(tooMany{}) == nil {
			next.ServeHTTP(w, r)
			return
		}
		// A body that does not come would keep the place.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(politeness / 5))
		h := w.Header()
		h.Set("Connection", "close")
		h.Set("Retry-After", "1")
		h.Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintf(w, `{"title":%q,"status":%d,"detail":"too many connections; come again"}`+"\n",
			http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
	})
}
