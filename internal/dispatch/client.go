// Package dispatch makes the deliveries: it claims due ones, signs and sends
// their events, and writes down what came of each attempt.
package dispatch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
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

	once      sync.Once
	transport *http.Transport
	userAgent []string
	buffers   sync.Pool // of *[]byte to read answers into
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
	dialer := &net.Dialer{
		Timeout:        connectTimeout,
		Resolver:       c.Resolver,
		ControlContext: c.Guard.Control(),
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	c.transport = &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        c.TLSConfig.Clone(),
		TLSHandshakeTimeout:    handshakeTimeout,
		MaxIdleConns:           cmp.Or(c.MaxIdleConns, 2048),
		MaxIdleConnsPerHost:    cmp.Or(c.MaxIdleConnsPerHost, 64),
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		DisableCompression:     true,
		Protocols:              protocols,
	}
	c.userAgent = []string{cmp.Or(c.UserAgent, "Handover")}
	c.buffers.New = func() any { b := make([]byte, 0, keepBytes); return &b }
}

// Close closes the connections that are not in use. The Client stays usable.
func (c *Client) Close() {
	c.once.Do(c.start)
	c.transport.CloseIdleConnections()
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
	answer := c.do(ctx, r)
	answer.Duration = time.Since(begin)
	return answer
}

func (c *Client) do(parent context.Context, r Request) Answer {
	timeout := cmp.Or(r.Timeout, c.Timeout, 15*time.Second)
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	deadline := time.Now().Add(timeout)
	timer := time.AfterFunc(timeout, func() { cancel(errTimedOut) })
	defer timer.Stop()

	x := new(exchange)
	req, err := c.request(httptrace.WithClientTrace(ctx, x.trace()), r)
	if err != nil {
		return Answer{Class: ClassOther, Err: err}
	}
	resp, err := c.transport.RoundTrip(req)
	if err != nil && x.stale() && ctx.Err() == nil {
		x.conn, x.reused = nil, false
		if req.Body, err = req.GetBody(); err == nil {
			resp, err = c.transport.RoundTrip(req)
		}
	}
	if err != nil {
		answer := Answer{RemoteAddr: x.remoteAddr()}
		answer.Class, answer.Err = classify(err, progress{
			remote: answer.RemoteAddr, answering: x.answering.Load(), handshake: x.handshakeErr(),
			timeout: timeout, canceled: context.Cause(ctx),
		})
		return answer
	}
	defer resp.Body.Close()

	if time.Until(deadline) < bodyGrace {
		timer.Reset(bodyGrace)
	}
	answer := c.read(resp)
	answer.RemoteAddr = x.remoteAddr()
	c.wishes(&answer, resp.Header, r.Now)
	return answer
}

func (c *Client) request(ctx context.Context, r Request) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(r.Body))
	if err != nil {
		// The error would repeat the URL with what it may hold of secrets.
		return nil, &failure{words: "the endpoint's URL cannot be read", cause: ErrInvalidURL}
	}
	h := make(http.Header, 5)
	h["Content-Type"] = contentType
	h["User-Agent"] = c.userAgent
	at := r.Now
	if at.IsZero() {
		at = time.Now()
	}
	if err := r.Signer.SetHeaders(h, r.ID, at, r.Body); err != nil {
		return nil, &failure{words: bound("could not sign the event: " + err.Error()), cause: err}
	}
	req.Header = h
	return req, nil
}

var contentType = []string{"application/json"}

// exchange watches one request through httptrace.
type exchange struct {
	conn      net.Conn // set on the goroutine of RoundTrip
	reused    bool
	answering atomic.Bool
	handshake atomic.Pointer[error]
}

func (x *exchange) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { x.conn, x.reused = info.Conn, info.Reused },
		GotFirstResponseByte: func() {
			x.answering.Store(true)
		},
		TLSHandshakeDone: func(_ tls.ConnectionState, err error) {
			if err != nil {
				x.handshake.Store(&err)
			}
		},
	}
}

// stale reports whether a kept connection turned out to be closed by the other
// side before it said anything to this request.
func (x *exchange) stale() bool { return x.reused && !x.answering.Load() }

func (x *exchange) remoteAddr() string {
	if x.conn == nil {
		return ""
	}
	return x.conn.RemoteAddr().String()
}

func (x *exchange) handshakeErr() error {
	if err := x.handshake.Load(); err != nil {
		return *err
	}
	return nil
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
func (c *Client) read(resp *http.Response) Answer {
	a := Answer{Status: resp.StatusCode, Class: classOf(resp.StatusCode)}
	if a.Class == ClassProtocol {
		// The "body" of 101 is the bare connection, which need not ever end.
		return a
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
		return a
	}
	a.Body = append([]byte(nil), body[:min(len(body), keepBytes)]...)
	return a
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
