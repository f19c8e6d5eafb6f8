// Package dispatch makes the deliveries: it claims due ones, signs and sends
// their events, and writes down what came of each attempt.
package dispatch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handover-dev/handover/signing"
)

const (
	maxHeaderBytes   = 64 << 10
	connectTimeout   = 10 * time.Second
	handshakeTimeout = 5 * time.Second
	idleTimeout      = 30 * time.Second
	bodyGrace        = 2 * time.Second
	keepBytes        = 4 << 10
)

// A Client sends events to endpoints. Its zero value is ready, and connects to
// public addresses only. Set the fields before the first Do; a Client is safe
// for concurrent use and must not be copied.
//
// It speaks HTTP/1.1: with HTTP/2 one dead connection stalls every request to
// a host. It follows no redirects, uses no proxy of the environment (the guard
// would see only the proxy's address) and asks for no compression.
type Client struct {
	Guard               Guard
	Timeout             time.Duration // of an attempt until the answer's header is read; 0 = 15 s
	MaxIdleConns        int           // kept open in all; 0 = 2048
	MaxIdleConnsPerHost int           // kept open per host: what is sent to one at a time; 0 = 64
	AnswerLimit         int           // bytes of an answer that are read; 0 = 64 KiB
	MaxRetryAfter       time.Duration // longest wait that a receiver may ask for; 0 = 1 h
	UserAgent           string        // "" = "Handover"
	TLSConfig           *tls.Config   // nil = the system's roots
	Resolver            *net.Resolver // nil = the system's

	once    sync.Once
	pool    pool
	header  string    // what all requests say
	buffers sync.Pool // of *[]byte to read answers into
	places  sync.Map  // URL to *place
	placed  atomic.Int64
}

// A Request is one attempt of a delivery.
type Request struct {
	URL     string
	ID      string // webhook-id: the delivery's, the same in every attempt
	Body    []byte // sent byte for byte; not modified
	Signer  signing.Signer
	Timeout time.Duration // 0 = the Client's
	Now     time.Time     // webhook-timestamp; zero = time.Now()
}

func (c *Client) start() {
	cfg := c.TLSConfig.Clone()
	if cfg == nil {
		cfg = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if len(cfg.NextProtos) == 0 {
		cfg.NextProtos = []string{"http/1.1"}
	}
	c.pool = pool{
		dialer:  net.Dialer{Timeout: connectTimeout, Resolver: c.Resolver, ControlContext: c.Guard.Control()},
		tls:     cfg,
		perHost: cmp.Or(c.MaxIdleConnsPerHost, 64),
		inAll:   cmp.Or(c.MaxIdleConns, 2048),
		idle:    make(map[origin][]*conn),
	}
	agent := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, cmp.Or(c.UserAgent, "Handover"))
	c.header = "User-Agent: " + agent + "\r\nContent-Type: application/json\r\nContent-Length: "
	c.buffers.New = func() any { b := make([]byte, 0, keepBytes); return &b }
}

// Close closes the connections that are not in use. The Client stays usable.
func (c *Client) Close() {
	c.once.Do(c.start)
	c.pool.close(time.Now())
}

// Do makes one attempt and always returns: at the latest some two seconds after
// the request's timeout. An answer whose header came in time counts, whatever
// becomes of its body.
//
// When the receiver closes a kept connection at the moment it is used again,
// the request is sent a second time at once, on the terms of one attempt.
func (c *Client) Do(ctx context.Context, r Request) Answer {
	c.once.Do(c.start)
	begin := time.Now()
	answer := c.do(ctx, r, begin)
	answer.Duration = time.Since(begin)
	return answer
}

func (c *Client) do(ctx context.Context, r Request, begin time.Time) Answer {
	to, err := c.place(r.URL)
	if err != nil {
		return Answer{Class: ClassOther, Err: err}
	}
	if r.Now.IsZero() {
		r.Now = begin
	}
	var scratch [768]byte
	head, err := c.head(scratch[:0], to, r)
	if err != nil {
		return Answer{Class: ClassOther, Err: err}
	}
	timeout := cmp.Or(r.Timeout, c.Timeout, 15*time.Second)
	x := attempt{client: c, deadline: begin.Add(timeout), timeout: timeout, now: r.Now}
	if kept := c.pool.get(to.origin); kept != nil {
		answer, err := x.over(ctx, kept, head, r.Body)
		if err == nil {
			return answer
		}
		if kept.answering || ctx.Err() != nil || x.late() {
			return x.failed(ctx, kept, err)
		}
	}
	fresh, err := x.dial(ctx, to.origin)
	if err != nil {
		a := x.failed(ctx, nil, err)
		if outOfDescriptors(err) {
			c.pool.close(time.Now())
			a.RetryAfter = time.Second
		}
		return a
	}
	answer, err := x.over(ctx, fresh, head, r.Body)
	if err != nil {
		return x.failed(ctx, fresh, err)
	}
	return answer
}

// place is what a URL says, read once.
type place struct {
	origin
	start string // of the request, through the Host header
}

// A URL is read again when more than these came by.
const maxPlaces = 10_000

func (c *Client) place(raw string) (*place, error) {
	if p, ok := c.places.Load(raw); ok {
		return p.(*place), nil //nolint:forcetypeassert // nothing else is stored
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || (u.Scheme != "http" && u.Scheme != "https") {
		// The error would repeat the URL with what it may hold of secrets.
		return nil, &failure{words: "the endpoint's URL cannot be read", cause: ErrInvalidURL}
	}
	host, port := u.Hostname(), cmp.Or(u.Port(), "80")
	p := &place{}
	if u.Scheme == "https" {
		port = cmp.Or(u.Port(), "443")
		p.tls = host
	}
	p.addr = net.JoinHostPort(host, port)
	p.start = "POST " + strings.ReplaceAll(u.RequestURI(), " ", "%20") + " HTTP/1.1\r\nHost: " + u.Host + "\r\n"
	if c.placed.Add(1) > maxPlaces {
		c.places.Clear()
		c.placed.Store(1)
	}
	c.places.Store(raw, p)
	return p, nil
}

// head writes a request's header.
func (c *Client) head(b []byte, to *place, r Request) ([]byte, error) {
	signature, err := r.Signer.Sign(r.ID, r.Now, r.Body)
	if err != nil {
		return nil, &failure{words: bound("could not sign the event: " + err.Error()), cause: err}
	}
	b = append(b, to.start...)
	b = append(b, c.header...)
	b = strconv.AppendInt(b, int64(len(r.Body)), 10)
	b = append(b, "\r\n"+signing.HeaderID+": "...)
	b = append(b, r.ID...)
	b = append(b, "\r\n"+signing.HeaderTimestamp+": "...)
	b = strconv.AppendInt(b, r.Now.Unix(), 10)
	b = append(b, "\r\n"+signing.HeaderSignature+": "...)
	b = append(b, signature...)
	return append(b, "\r\n\r\n"...), nil
}

// attempt is one Do.
type attempt struct {
	client   *Client
	deadline time.Time
	timeout  time.Duration
	now      time.Time // of the request
}

func (x *attempt) dial(ctx context.Context, o origin) (*conn, error) {
	ctx, cancel := context.WithDeadline(ctx, x.deadline)
	defer cancel()
	return x.client.pool.dial(ctx, o)
}

// over makes the exchange on a connection, which is kept or closed. An answer
// whose header was read is no error.
func (x *attempt) over(ctx context.Context, c *conn, head, body []byte) (answer Answer, err error) {
	keep := false
	_ = c.SetDeadline(x.deadline) // its errors come back from reading
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer func() {
		if undisturbed := stop(); undisturbed && keep {
			x.client.pool.put(c)
		} else {
			_ = c.Close()
		}
	}()
	resp, sent, err := c.exchange(head, body) //nolint:bodyclose // that would read all the rest; the connection is closed
	if err != nil {
		return Answer{}, err
	}
	if time.Until(x.deadline) < bodyGrace {
		_ = c.SetReadDeadline(time.Now().Add(bodyGrace))
	}
	answer, whole := x.client.read(resp)
	keep = whole && !resp.Close && c.drained() && sent()
	answer.RemoteAddr = c.remote
	x.client.wishes(&answer, resp.Header, x.now)
	return answer, nil
}

// late reports whether the time is up. Then that is why there was an error,
// whatever it says: a header that was cut off looks like a malformed one.
func (x *attempt) late() bool { return !time.Now().Before(x.deadline) }

// failed is the answer when there was none; c is nil when there was no
// connection.
func (x *attempt) failed(ctx context.Context, c *conn, err error) Answer {
	p := progress{timeout: x.timeout, canceled: context.Cause(ctx)}
	switch {
	case p.canceled != nil:
		err = p.canceled
	case x.late():
		p.canceled = errTimedOut
	}
	var handshake handshakeError
	if errors.As(err, &handshake) {
		p.handshake = handshake.error
	}
	var a Answer
	if c != nil {
		p.remote, p.answering = c.remote, c.answering
		a.RemoteAddr = c.remote
	}
	a.Class, a.Err = classify(err, p)
	return a
}

// wishes takes from the answer's header what concerns the next attempt.
func (c *Client) wishes(a *Answer, h http.Header, now time.Time) {
	switch a.Class {
	case ClassThrottled, ClassUnavailable:
		if now.IsZero() {
			now = time.Now()
		}
		if d, ok := RetryAfter(h, now); ok {
			a.RetryAfter = min(d, cmp.Or(c.MaxRetryAfter, time.Hour))
		}
	case ClassRedirect:
		a.location = withoutSecrets(h.Get("Location"))
	default:
	}
}

// read takes the answer up to the limit. A body that was read to its end leaves
// the connection to the next request, any other is closed with it.
func (c *Client) read(resp *http.Response) (a Answer, whole bool) {
	a = Answer{Status: resp.StatusCode, Class: classOf(resp.StatusCode)}
	if a.Class == ClassProtocol {
		// The "body" of 101 is the bare connection, which need not ever end.
		return a, false
	}
	limit := cmp.Or(c.AnswerLimit, 64<<10)
	buf := c.buffers.Get().(*[]byte)
	defer c.buffers.Put(buf)
	body, whole := readUpTo(resp.Body, (*buf)[:0], limit)
	*buf = body[:0]

	a.Truncated = !whole
	if whole && len(body) > 0 && mayHoldReceipt(resp) {
		a.Receipt = bytes.Clone(body)
		a.Body = a.Receipt[:min(len(body), keepBytes):min(len(body), keepBytes)]
		return a, true
	}
	a.Body = append([]byte(nil), body[:min(len(body), keepBytes)]...)
	return a, whole
}

// readUpTo appends at most limit bytes of r to buf and reports whether that was all of it.
func readUpTo(r io.Reader, buf []byte, limit int) ([]byte, bool) {
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		switch {
		case len(buf) > limit:
			return buf[:limit], false
		case err != nil:
			return buf, err == io.EOF
		}
	}
}

func mayHoldReceipt(resp *http.Response) bool {
	if resp.StatusCode >= 300 && resp.StatusCode != http.StatusUnprocessableEntity {
		return false
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return false
	}
	kind := resp.Header.Get("Content-Type")
	if kind == "application/json" {
		return true
	}
	kind, _, err := mime.ParseMediaType(kind)
	return err == nil && kind == "application/json"
}
