package dispatch

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// One request at a time goes over a connection, written and read by the
// goroutine that makes the attempt: net/http's Transport keeps two goroutines
// for each connection, and waking them costs more than the request.

// origin is where a connection goes.
type origin struct {
	addr string // host:port
	tls  string // the name to be certified, "" for plain HTTP
}

// conn is a connection to an origin.
type conn struct {
	net.Conn
	origin origin
	remote string
	raw    syscall.RawConn // of the TCP connection
	in     *bufio.Reader
	out    []byte // what is written next
	since  time.Time

	headerLeft int64 // bytes of header that are still taken; MaxInt64 for a body
	answering  bool  // a byte of the answer has come
}

var errHeaderTooLarge = errors.New("the answer's header is too large")

// Read counts what comes before the answer's body.
func (c *conn) Read(p []byte) (int, error) {
	if c.headerLeft <= 0 {
		return 0, errHeaderTooLarge
	}
	if int64(len(p)) > c.headerLeft {
		p = p[:c.headerLeft]
	}
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.answering = true
		c.headerLeft -= int64(n)
	}
	return n, err
}

// A large event is written while the answer is awaited, which may come before
// all of it was read.
const largeEvent = 32 << 10

// exchange writes a request and reads the answer's header. The connection can
// be kept when the body was read to its end and sent says so.
func (c *conn) exchange(head, body []byte) (resp *http.Response, sent func() bool, err error) {
	c.headerLeft, c.answering = maxHeaderBytes, false
	sent = func() bool { return true }
	if len(body) <= largeEvent {
		c.out = append(append(c.out[:0], head...), body...)
		if _, err := c.Write(c.out); err != nil {
			return nil, sent, err
		}
	} else {
		var done atomic.Bool
		sent = done.Load
		buffers := net.Buffers{head, body}
		go func() {
			if _, err := buffers.WriteTo(c.Conn); err == nil {
				done.Store(true)
			}
		}()
	}
	for {
		resp, err = http.ReadResponse(c.in, post)
		if err != nil {
			return nil, sent, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			c.headerLeft = math.MaxInt64
			return resp, sent, nil
		}
	}
}

// post tells ReadResponse what the answer is to.
var post = &http.Request{Method: http.MethodPost}

// pool dials connections and keeps them between attempts.
type pool struct {
	dialer  net.Dialer
	tls     *tls.Config
	perHost int
	inAll   int

	mu    sync.Mutex
	idle  map[origin][]*conn // the one used last at the end
	count int
	sweep *time.Timer // set while there are idle ones
}

// get returns a kept connection that is still open, or nil.
func (p *pool) get(o origin) *conn {
	for {
		p.mu.Lock()
		kept := p.idle[o]
		if len(kept) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := kept[len(kept)-1]
		kept[len(kept)-1] = nil
		p.idle[o] = kept[:len(kept)-1]
		p.count--
		p.mu.Unlock()
		if !hasNews(c.raw) {
			return c
		}
		// Nothing should come before we asked: it was closed, or is out of step.
		_ = c.Close()
	}
}

// put keeps a connection for the next attempt.
func (p *pool) put(c *conn) {
	c.since = time.Now()
	if cap(c.out) > 2*largeEvent {
		c.out = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle[c.origin]) >= p.perHost || p.count >= p.inAll {
		_ = c.Close()
		return
	}
	p.idle[c.origin] = append(p.idle[c.origin], c)
	p.count++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(idleTimeout, func() { p.close(time.Now().Add(-idleTimeout)) })
	}
}

// close closes the connections that were last used before a time.
func (p *pool) close(before time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := idleTimeout
	for o, kept := range p.idle {
		n := 0
		for n < len(kept) && !kept[n].since.After(before) {
			_ = kept[n].Close()
			n++
		}
		p.count -= n
		if n == len(kept) {
			delete(p.idle, o)
			continue
		}
		p.idle[o] = append([]*conn(nil), kept[n:]...)
		next = min(next, time.Until(kept[n].since.Add(idleTimeout)))
	}
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	if p.count > 0 {
		p.sweep = time.AfterFunc(max(next, time.Second), func() { p.close(time.Now().Add(-idleTimeout)) })
	}
}

// handshakeError is what a TLS handshake failed with.
type handshakeError struct{ error }

func (e handshakeError) Unwrap() error { return e.error }

// dial connects.
func (p *pool) dial(ctx context.Context, o origin) (*conn, error) {
	nc, err := p.dialer.DialContext(ctx, "tcp", o.addr)
	if err != nil {
		return nil, err
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("dial: %T is not TCP", nc), nc.Close())
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	c := &conn{Conn: nc, origin: o, remote: nc.RemoteAddr().String(), raw: raw}
	if o.tls != "" {
		cfg := p.tls.Clone()
		if cfg.ServerName == "" {
			cfg.ServerName = o.tls
		}
		secured := tls.Client(nc, cfg)
		ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(handshakeError{err}, nc.Close())
		}
		c.Conn = secured
	}
	c.in = bufio.NewReader(c)
	return c, nil
}

// drained reports whether nothing is left that came after an answer.
func (c *conn) drained() bool { return c.in.Buffered() == 0 }
