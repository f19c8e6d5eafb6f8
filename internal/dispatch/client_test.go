package dispatch_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/handover-dev/handover/internal/dispatch"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

var loopback = dispatch.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

func newClient(tb testing.TB, c *dispatch.Client) *dispatch.Client {
	tb.Helper()
	tb.Cleanup(c.Close)
	return c
}

func request(url string) dispatch.Request {
	return dispatch.Request{
		URL: url + "/in?token=hunter2", ID: "dlv_1", Body: []byte(`{"id":"evt_1"}`),
		Signer: signing.Signer{Keys: []signing.Key{signing.NewKey()}}, Now: time.Unix(1750000000, 0),
	}
}

// receiver serves each connection with the function, which gets the
// connection's number from 1 and a reader on it.
type receiver struct {
	net.Listener
	conns    atomic.Int64
	requests atomic.Int64
}

func (r *receiver) URL() string { return "http://" + r.Addr().String() }

func newReceiver(tb testing.TB, serve func(r *receiver, n int64, conn net.Conn, in *bufio.Reader)) *receiver {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &receiver{Listener: l}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	closed := false
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if closed {
				_ = conn.Close()
			}
			open[conn] = true
			mu.Unlock()
			wg.Go(func() {
				defer conn.Close()
				serve(r, r.conns.Add(1), conn, bufio.NewReader(conn))
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		closed = true
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return r
}

// read takes one whole request.
func (r *receiver) read(in *bufio.Reader) bool {
	req, err := http.ReadRequest(in)
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return false
	}
	r.requests.Add(1)
	return true
}

// send writes text to a side that may have gone.
func send(w io.Writer, text string) { _, _ = io.WriteString(w, text) }

// once answers the first request on each connection with text and closes.
func once(text string) func(*receiver, int64, net.Conn, *bufio.Reader) {
	return func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
		if r.read(in) {
			send(conn, text)
		}
	}
}

// drip sends start and then text for as long as the other side bears it.
func drip(start, text string) func(*receiver, int64, net.Conn, *bufio.Reader) {
	return func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
		if !r.read(in) {
			return
		}
		send(conn, start)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if _, err := io.WriteString(conn, text); err != nil {
				return
			}
		}
	}
}

func TestDoSendsTheEvent(t *testing.T) {
	t.Parallel()
	var got *http.Request
	var body []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusCreated)
		send(w, `{"type":"receipt","status":"completed"}`)
	}))
	defer server.Close()
	c := newClient(t, &dispatch.Client{Guard: loopback, UserAgent: "Handover/1.2.3"})
	req := request(server.URL)
	a := c.Do(t.Context(), req)

	if a.Status != 201 || a.Class != dispatch.ClassOK || a.Err != nil || a.Verdict() != dispatch.Success || a.Words() != "answered 201" {
		t.Errorf("answer %+v: %s", a, a.Words())
	}
	if want := `{"type":"receipt","status":"completed"}`; string(a.Receipt) != want || string(a.Body) != want || a.Truncated {
		t.Errorf("receipt %q, body %q, truncated %v", a.Receipt, a.Body, a.Truncated)
	}
	if a.RemoteAddr != server.Listener.Addr().String() || a.Duration <= 0 {
		t.Errorf("remote %q after %v", a.RemoteAddr, a.Duration)
	}
	if got.Method != http.MethodPost || got.Proto != "HTTP/1.1" || got.RequestURI != "/in?token=hunter2" ||
		got.Host != server.Listener.Addr().String() || !bytes.Equal(body, req.Body) {
		t.Errorf("request %s %s %s to %s: %s", got.Method, got.RequestURI, got.Proto, got.Host, body)
	}
	want := http.Header{}
	if err := req.Signer.SetHeaders(want, req.ID, req.Now, req.Body); err != nil {
		t.Fatal(err)
	}
	want.Set("Content-Type", "application/json")
	want.Set("Content-Length", "14")
	want.Set("User-Agent", "Handover/1.2.3")
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	const operator = `{"type":"receipt","status":"blocked","message":"two owners"}`
	now := time.Unix(1750000000, 0)
	for _, test := range []struct {
		name, answer string
		class        dispatch.Class
		verdict      dispatch.Verdict
		retryAfter   time.Duration
		words        string
	}{
		{"200", "200 OK\r\n", dispatch.ClassOK, dispatch.Success, 0, "answered 200"},
		{"202", "202 Accepted\r\n", dispatch.ClassOK, dispatch.Success, 0, "accepted, will be done later (202)"},
		{"204", "204 No Content\r\n", dispatch.ClassOK, dispatch.Success, 0, "answered 204"},
		{"299", "299 Odd\r\n", dispatch.ClassOK, dispatch.Success, 0, "answered 299"},
		{"304", "304 Not Modified\r\n", dispatch.ClassRedirect, dispatch.Retry, 0, "redirects (304), which is not followed"},
		{"400", "400 Bad Request\r\n", dispatch.ClassHTTP4xx, dispatch.Retry, 0, "answered 400"},
		{"401", "401 Unauthorized\r\n", dispatch.ClassHTTP4xx, dispatch.Retry, 0, "rejects our signature (401)"},
		{"404", "404 Not Found\r\nRetry-After: 9\r\n", dispatch.ClassHTTP4xx, dispatch.Retry, 0, "has nothing at this URL (404)"},
		{"410", "410 Gone\r\n", dispatch.ClassGone, dispatch.Gone, 0, "is gone and wants no more events (410)"},
		{"422", "422 No\r\n", dispatch.ClassRejected, dispatch.Retry, 0, "cannot process the event (422)"},
		{"422 json", "422 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", dispatch.ClassRejected, dispatch.Retry, 0, "cannot process the event (422)"},
		{"422 receipt", fmt.Sprintf("422 No\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(operator), operator), dispatch.ClassRejected, dispatch.Permanent, 0, "cannot do it (422, blocked): two owners"},
		{"422 text", fmt.Sprintf("422 No\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(operator), operator), dispatch.ClassRejected, dispatch.Retry, 0, "cannot process the event (422)"},
		{"429", "429 Slow\r\n", dispatch.ClassThrottled, dispatch.SlowDown, 0, "asks us to slow down (429)"},
		{"429 seconds", "429 Slow\r\nRetry-After: 90\r\n", dispatch.ClassThrottled, dispatch.SlowDown, 90 * time.Second, "asks us to slow down (429, again in 1m30s)"},
		{"429 date", "429 Slow\r\nRetry-After: " + now.Add(2*time.Minute).UTC().Format(http.TimeFormat) + "\r\n", dispatch.ClassThrottled, dispatch.SlowDown, 2 * time.Minute, "asks us to slow down (429, again in 2m)"},
		{"429 for ever", "429 Slow\r\nRetry-After: 999999999999999999999\r\n", dispatch.ClassThrottled, dispatch.SlowDown, time.Hour, "asks us to slow down (429, again in 1h)"},
		{"429 garbage", "429 Slow\r\nRetry-After: -1\r\n", dispatch.ClassThrottled, dispatch.SlowDown, 0, "asks us to slow down (429)"},
		{"500", "500 Oops\r\nRetry-After: 90\r\n", dispatch.ClassHTTP5xx, dispatch.Retry, 0, "answered 500"},
		{"502", "502 Bad\r\n", dispatch.ClassUnavailable, dispatch.SlowDown, 0, "is unavailable (502)"},
		{"503", "503 Un\r\nRetry-After: 5\r\n", dispatch.ClassUnavailable, dispatch.SlowDown, 5 * time.Second, "is unavailable (503, again in 5s)"},
		{"504", "504 Un\r\n", dispatch.ClassUnavailable, dispatch.SlowDown, 0, "is unavailable (504)"},
		{"999", "999 Un\r\n", dispatch.ClassHTTP5xx, dispatch.Retry, 0, "answered 999"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text := "HTTP/1.1 " + test.answer
			if !strings.Contains(text, "\r\n\r\n") {
				text += "Content-Length: 0\r\n\r\n"
			}
			r := newReceiver(t, once(text))
			c := newClient(t, &dispatch.Client{Guard: loopback})
			a := c.Do(t.Context(), request(r.URL()))
			if a.Class != test.class || a.Verdict() != test.verdict || a.RetryAfter != test.retryAfter || a.Words() != test.words || a.Err != nil {
				t.Errorf("%s, %s, after %v, %q, %v; want %s, %s, after %v, %q", a.Class, a.Verdict(), a.RetryAfter, a.Words(), a.Err,
					test.class, test.verdict, test.retryAfter, test.words)
			}
		})
	}
}

func TestHostileReceivers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		serve   func(*receiver, int64, net.Conn, *bufio.Reader)
		timeout time.Duration
		class   dispatch.Class
		words   string
	}{
		{"silent", func(r *receiver, _ int64, _ net.Conn, in *bufio.Reader) { r.read(in); r.read(in) }, time.Second, dispatch.ClassTimeout, "did not answer within 1s"},
		{"drips header", drip("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"), time.Second, dispatch.ClassTimeout, "did not answer within 1s"},
		{"endless 1xx", drip("", "HTTP/1.1 100 Continue\r\n\r\n"), time.Second, dispatch.ClassTimeout, "did not answer within 1s"},
		{"flood of 1xx", flood("HTTP/1.1 103 Early Hints\r\n\r\n"), 0, dispatch.ClassHeaderTooLarge, "larger than 64 KiB"},
		{"huge header", once("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 128<<10) + "\r\n\r\n"), 0, dispatch.ClassHeaderTooLarge, "larger than 64 KiB"},
		{"endless header", flood("X-A: b\r\n"), 0, dispatch.ClassProtocol, "not HTTP"},
		{"endless status line", flood("a"), 0, dispatch.ClassHeaderTooLarge, "larger than 64 KiB"},
		{"closes at once", func(*receiver, int64, net.Conn, *bufio.Reader) {}, 0, dispatch.ClassReset, "closed before an answer by 127.0.0.1:"},
		{"closes after the request", once(""), 0, dispatch.ClassReset, "closed before an answer by 127.0.0.1:"},
		{"resets", func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
			r.read(in)
			_ = conn.(*net.TCPConn).SetLinger(0)
		}, 0, dispatch.ClassReset, "closed before an answer by 127.0.0.1:"},
		{"closes in the header", once("HTTP/1.1 200 OK\r\nX-A: b\r\n"), 0, dispatch.ClassReset, "in the middle of the answer's header by 127.0.0.1:"},
		{"no HTTP", once("SSH-2.0-OpenSSH_9.2\r\n\x1b[31m" + strings.Repeat("\xff\x00é", 5000) + "\r\n"), 0, dispatch.ClassProtocol, "not HTTP"},
		{"bad status", once("HTTP/1.1 abc\r\n\r\n"), 0, dispatch.ClassProtocol, "not HTTP"},
		{"bad header", once("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), 0, dispatch.ClassProtocol, "not HTTP"},
		{"two lengths", once("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), 0, dispatch.ClassProtocol, "not HTTP"},
		{"switches protocols", func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
			r.read(in)
			send(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			r.read(in)
		}, 0, dispatch.ClassProtocol, "answered 101"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, test.serve)
			c := newClient(t, &dispatch.Client{Guard: loopback})
			req := request(r.URL())
			req.Timeout = test.timeout
			a := c.Do(t.Context(), req)
			if a.Class != test.class || !strings.Contains(a.Words(), test.words) || a.Verdict() != dispatch.Retry {
				t.Errorf("%s, %s, %q; want %s, %q", a.Class, a.Verdict(), a.Words(), test.class, test.words)
			}
			checkWords(t, a)
			if n := r.requests.Load(); n > 1 {
				t.Errorf("sent %d times on fresh connections", n)
			}
			if a.RemoteAddr != r.Addr().String() {
				t.Errorf("remote address %q, want %q", a.RemoteAddr, r.Addr())
			}
		})
	}
}

// flood sends text as fast as the other side takes it.
func flood(text string) func(*receiver, int64, net.Conn, *bufio.Reader) {
	return func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
		if !r.read(in) {
			return
		}
		chunk := bytes.Repeat([]byte(text), 1+4096/len(text))
		for {
			if _, err := conn.Write(chunk); err != nil {
				return
			}
		}
	}
}

func checkWords(t *testing.T, a dispatch.Answer) {
	t.Helper()
	words := a.Words()
	if words == "" || len(words) > 300 || !utf8.ValidString(words) || strings.ContainsFunc(words, func(r rune) bool { return r < ' ' }) {
		t.Errorf("%d bytes of words: %q", len(words), words)
	}
	if strings.Contains(words, "hunter2") || a.Err != nil && strings.Contains(a.Err.Error(), "hunter2") {
		t.Errorf("the words hold the URL's query: %q, %v", words, a.Err)
	}
}

// A 2xx in time is a success whatever becomes of the body.
func TestBodies(t *testing.T) {
	t.Parallel()
	const header = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	length := func(n int) string { return fmt.Sprintf("%sContent-Length: %d\r\n\r\n", header, n) }
	full := `{"type":"` + strings.Repeat("x", 64<<10-11) + `"}`
	for _, test := range []struct {
		name      string
		serve     func(*receiver, int64, net.Conn, *bufio.Reader)
		body      int // bytes kept
		receipt   int
		truncated bool
	}{
		{"none", once(length(0)), 0, 0, false},
		{"until close", once(header + "Connection: close\r\n\r\n{}"), 2, 2, false},
		{"chunked", once(header + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"), 2, 2, false},
		{"just the limit", once(length(len(full)) + full), 4 << 10, 64 << 10, false},
		{"one byte more", once(length(len(full)+1) + full + " "), 4 << 10, 0, true},
		{"cut", once(length(100) + `{"type":`), 8, 0, true},
		{"bad chunk", once(header + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n"), 2, 0, true},
		{"stops", func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
			r.read(in)
			send(conn, length(100)+`{"a":`)
			r.read(in)
		}, 5, 0, true},
		{"endless", flood(header + "\r\n"), 4 << 10, 0, true},
		{"text", once("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"), 2, 0, false},
		{"error page", once("HTTP/1.1 500 Oops\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"), 2, 0, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, test.serve)
			c := newClient(t, &dispatch.Client{Guard: loopback})
			req := request(r.URL())
			if test.name == "stops" {
				req.Timeout = time.Second
			}
			a := c.Do(t.Context(), req)
			if a.Status != 500 && a.Verdict() != dispatch.Success || a.Err != nil {
				t.Errorf("%s, %v", a.Class, a.Err)
			}
			if len(a.Body) != test.body || len(a.Receipt) != test.receipt || a.Truncated != test.truncated {
				t.Errorf("body %d, receipt %d bytes, truncated %v; want %d, %d, %v",
					len(a.Body), len(a.Receipt), a.Truncated, test.body, test.receipt, test.truncated)
			}
		})
	}
	t.Run("drips", func(t *testing.T) {
		t.Parallel()
		r := newReceiver(t, drip(length(1000000), "x"))
		c := newClient(t, &dispatch.Client{Guard: loopback, Timeout: 2 * time.Second})
		a := c.Do(t.Context(), request(r.URL()))
		if a.Verdict() != dispatch.Success || !a.Truncated || len(a.Body) == 0 || a.Receipt != nil {
			t.Errorf("%s, %d bytes, truncated %v", a.Verdict(), len(a.Body), a.Truncated)
		}
	})
	t.Run("compressed", func(t *testing.T) {
		t.Parallel()
		var bomb bytes.Buffer
		w := gzip.NewWriter(&bomb)
		_, _ = io.CopyN(w, zeros{}, 32<<20)
		_ = w.Close()
		var asked http.Header
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = r.Header
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", "application/json")
			send(w, bomb.String())
		}))
		defer server.Close()
		a := newClient(t, &dispatch.Client{Guard: loopback}).Do(t.Context(), request(server.URL))
		if _, ok := asked["Accept-Encoding"]; ok {
			t.Error("asked for compression")
		}
		if a.Verdict() != dispatch.Success || a.Receipt != nil || !bytes.Equal(a.Body, bomb.Bytes()[:4<<10]) {
			t.Errorf("%s, receipt of %d, body of %d bytes", a.Verdict(), len(a.Receipt), len(a.Body))
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Not parallel: it measures what the whole process allocates.
func TestGibibyteAnswerTakesLittleMemory(t *testing.T) {
	const size = 1 << 30
	chunk := make([]byte, 64<<10)
	written := make(chan int, 1)
	r := newReceiver(t, func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
		r.read(in)
		fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
		total := 0
		for total < size {
			fmt.Fprintf(conn, "%x\r\n", len(chunk))
			_, _ = conn.Write(chunk)
			if _, err := io.WriteString(conn, "\r\n"); err != nil {
				break
			}
			total += len(chunk)
		}
		written <- total
	})
	c := newClient(t, &dispatch.Client{Guard: loopback})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	a := c.Do(t.Context(), request(r.URL()))
	runtime.ReadMemStats(&after)
	if a.Verdict() != dispatch.Success || !a.Truncated || len(a.Body) != 4<<10 {
		t.Errorf("%s, truncated %v, %d bytes", a.Class, a.Truncated, len(a.Body))
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<20 {
		t.Errorf("allocated %d KiB for an answer of 1 GiB", grown>>10)
	}
	if n := <-written; n >= size {
		t.Errorf("took the whole answer of %d bytes", n)
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer target.Close()
	c := newClient(t, &dispatch.Client{Guard: loopback})
	for _, status := range []int{300, 301, 302, 303, 305, 307, 308} {
		for _, location := range []string{target.URL + "/next?token=hunter2", "http://169.254.169.254/latest/meta-data", "/elsewhere", "", "http://%zz/"} {
			r := newReceiver(t, once(fmt.Sprintf("HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", status, location)))
			a := c.Do(t.Context(), request(r.URL()))
			if a.Class != dispatch.ClassRedirect || a.Verdict() != dispatch.Retry || a.Status != status {
				t.Errorf("%d to %s: %s, %s", status, location, a.Class, a.Verdict())
			}
			checkWords(t, a)
			if want, _, _ := strings.Cut(location, "?"); !strings.Contains(location, "%") && !strings.Contains(a.Words(), want) {
				t.Errorf("%q does not say where to", a.Words())
			}
		}
	}
	if n := hits.Load(); n != 0 {
		t.Errorf("the target was asked %d times", n)
	}
}

func TestKeptConnections(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	for _, test := range []struct {
		name     string
		second   func(r *receiver, conn net.Conn, in *bufio.Reader) // what the first connection does with its second request
		later    string                                             // what later connections answer
		class    dispatch.Class
		requests int64
	}{
		{"closed instead of an answer", func(*receiver, net.Conn, *bufio.Reader) {}, ok, dispatch.ClassOK, 3},
		{"closed twice", func(*receiver, net.Conn, *bufio.Reader) {}, "", dispatch.ClassReset, 3},
		{"closed in the answer", func(_ *receiver, conn net.Conn, _ *bufio.Reader) { send(conn, "HTTP/1.1 200 OK\r\n") }, ok, dispatch.ClassReset, 2},
		{"closed for good", func(r *receiver, _ net.Conn, _ *bufio.Reader) { _ = r.Close() }, ok, dispatch.ClassRefused, 2},
		{"silent", func(r *receiver, _ net.Conn, in *bufio.Reader) { r.read(in) }, ok, dispatch.ClassTimeout, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newReceiver(t, func(r *receiver, n int64, conn net.Conn, in *bufio.Reader) {
				if n > 1 {
					once(test.later)(r, n, conn, in)
					return
				}
				r.read(in)
				send(conn, ok)
				if r.read(in) {
					test.second(r, conn, in)
				}
			})
			c := newClient(t, &dispatch.Client{Guard: loopback})
			req := request(r.URL())
			if a := c.Do(t.Context(), req); a.Verdict() != dispatch.Success {
				t.Fatalf("first: %s", a.Words())
			}
			if test.class == dispatch.ClassTimeout {
				req.Timeout = time.Second
			}
			a := c.Do(t.Context(), req)
			if a.Class != test.class || (a.RemoteAddr == "") != (test.class == dispatch.ClassRefused) {
				t.Errorf("second: %s: %s, connected to %q; want %s", a.Class, a.Words(), a.RemoteAddr, test.class)
			}
			if n := r.requests.Load(); n != test.requests {
				t.Errorf("%d requests, want %d", n, test.requests)
			}
		})
	}
}

func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 10, 64 << 10} {
		r := newReceiver(t, func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
			for r.read(in) {
				fmt.Fprintf(conn, "HTTP/1.1 500 Oops\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size))
			}
		})
		c := newClient(t, &dispatch.Client{Guard: loopback})
		for range 20 {
			if a := c.Do(t.Context(), request(r.URL())); a.Status != 500 {
				t.Fatalf("%s", a.Words())
			}
		}
		if n := r.conns.Load(); n != 1 {
			t.Errorf("%d connections for answers of %d bytes", n, size)
		}
	}
}

func TestNoConnection(t *testing.T) {
	t.Parallel()
	closed := newReceiver(t, nil)
	_ = closed.Close()
	c := newClient(t, &dispatch.Client{Guard: loopback})
	a := c.Do(t.Context(), request(closed.URL()))
	if want := "connection refused by " + closed.Addr().String(); a.Class != dispatch.ClassRefused || a.Words() != want || a.RemoteAddr != "" {
		t.Errorf("%s: %q, want %q", a.Class, a.Words(), want)
	}
	bad := request(closed.URL())
	bad.Signer = signing.Signer{}
	if a := c.Do(t.Context(), bad); a.Class != dispatch.ClassOther || !strings.Contains(a.Words(), "could not sign the event") {
		t.Errorf("without a key: %s: %q", a.Class, a.Words())
	}
	for _, url := range []string{"ht tp://x", "ftp://127.0.0.1", "http://"} {
		a := c.Do(t.Context(), request(url))
		if a.Class != dispatch.ClassOther || a.Verdict() != dispatch.Retry {
			t.Errorf("%s: %s: %q", url, a.Class, a.Words())
		}
		checkWords(t, a)
	}
}

func TestGuardedDial(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	c := newClient(t, &dispatch.Client{})
	a := c.Do(t.Context(), request(server.URL))
	if a.Class != dispatch.ClassAddressNotAllowed || !errors.Is(a.Err, dispatch.ErrAddressNotAllowed) || !strings.Contains(a.Words(), "--allow-network 127.0.0.0/8") {
		t.Errorf("%s: %q", a.Class, a.Words())
	}
	for _, text := range hostile {
		host := text
		if strings.Contains(text, ":") {
			host = "[" + strings.Replace(text, "%", "%25", 1) + "]"
		}
		if a := c.Do(t.Context(), request("http://"+host+":9")); a.Class != dispatch.ClassAddressNotAllowed {
			t.Errorf("%s: %s: %q", host, a.Class, a.Words())
		}
	}
	if hits.Load() != 0 {
		t.Error("the guarded server was reached")
	}
}

// The name is judged by what it points to at each connection.
func TestRebinding(t *testing.T) {
	t.Parallel()
	var hits atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	_, port, _ := net.SplitHostPort(server.Listener.Addr().String())
	var addresses atomic.Pointer[[]netip.Addr]
	point := func(texts ...string) {
		var addrs []netip.Addr
		for _, text := range texts {
			addrs = append(addrs, netip.MustParseAddr(text))
		}
		addresses.Store(&addrs)
	}
	resolver := newResolver(t, func() []netip.Addr { return *addresses.Load() })
	guard := dispatch.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	c := newClient(t, &dispatch.Client{Guard: guard, Resolver: resolver})
	url := "http://rebind.example:" + port

	point("127.0.0.1")
	if err := dispatch.CheckURL(url, dispatch.Guard{AllowHTTP: true}); err != nil {
		t.Error(err)
	}
	if a := c.Do(t.Context(), request(url)); a.Verdict() != dispatch.Success {
		t.Fatalf("%s: %s", a.Class, a.Words())
	}
	c.Close()
	for _, text := range []string{"127.0.0.2", "169.254.169.254", "10.0.0.1"} {
		point(text)
		if a := c.Do(t.Context(), request(url)); a.Class != dispatch.ClassAddressNotAllowed || !strings.Contains(a.Words(), text) {
			t.Errorf("%s: %s: %s", text, a.Class, a.Words())
		}
	}
	if n := hits.Load(); n != 1 {
		t.Errorf("%d requests arrived, want 1", n)
	}
	// Each of a name's addresses is judged, whatever stands beside it.
	point("10.0.0.1", "169.254.169.254", "::1", "64:ff9b::7f00:1", "::ffff:10.0.0.1")
	if a := c.Do(t.Context(), request(url)); a.Class != dispatch.ClassAddressNotAllowed {
		t.Errorf("several: %s: %s", a.Class, a.Words())
	}
	point("10.0.0.1", "64:ff9b::7f00:1", "127.0.0.1", "169.254.169.254")
	if a := c.Do(t.Context(), request(url)); a.Verdict() != dispatch.Success || a.RemoteAddr != server.Listener.Addr().String() {
		t.Errorf("one of several: connected to %q, %s: %s", a.RemoteAddr, a.Class, a.Words())
	}
	c.Close()
	point()
	if a := c.Do(t.Context(), request(url)); a.Class != dispatch.ClassDNS || a.Words() != "the name rebind.example has no address" {
		t.Errorf("%s: %q", a.Class, a.Words())
	}
}

// newResolver asks a name server of its own, which gives every name the same
// addresses; without any there is no such name.
func newResolver(t *testing.T, addresses func() []netip.Addr) *net.Resolver {
	t.Helper()
	server, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		query := make([]byte, 512)
		for {
			_, from, err := server.ReadFrom(query)
			if err != nil {
				return
			}
			end := 12
			for query[end] != 0 {
				end += 1 + int(query[end])
			}
			question := query[12 : end+5]
			kind := binary.BigEndian.Uint16(query[end+1:])
			var records []byte
			count := byte(0)
			all := addresses()
			for _, addr := range all {
				if addr.Is4() == (kind == 1) {
					count++
					records = append(records, 0xc0, 12)
					records = binary.BigEndian.AppendUint16(records, kind)
					records = append(records, 0, 1, 0, 0, 0, 0, 0, byte(addr.BitLen()/8))
					records = append(records, addr.AsSlice()...)
				}
			}
			code := byte(0x80)
			if len(all) == 0 {
				code |= 3
			}
			answer := append([]byte{}, query[:2]...)
			answer = append(answer, 0x81, code, 0, 1, 0, count, 0, 0, 0, 0)
			answer = append(answer, question...)
			answer = append(answer, records...)
			_, _ = server.WriteTo(answer, from)
		}
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	authority := testenv.Certificate(t, nil, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	roots := x509.NewCertPool()
	roots.AddCert(authority.Leaf)
	good := testenv.Certificate(t, &authority, nil)
	expired := testenv.Certificate(t, &authority, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2020, 2, 1, 0, 0, 0, 0, time.UTC)
	})
	wrong := testenv.Certificate(t, &authority, func(c *x509.Certificate) {
		c.IPAddresses = nil
		for i := range 200 {
			c.DNSNames = append(c.DNSNames, fmt.Sprintf("host%d.example.com", i))
		}
	})
	serve := func(cert tls.Certificate) *httptest.Server {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { send(w, r.Proto) }))
		server.EnableHTTP2 = true
		server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
		server.Config.ErrorLog = discardLog
		server.StartTLS()
		t.Cleanup(server.Close)
		return server
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	silent := newReceiver(t, func(r *receiver, _ int64, _ net.Conn, in *bufio.Reader) { _, _ = io.Copy(io.Discard, in) })
	closes := newReceiver(t, func(r *receiver, _ int64, _ net.Conn, in *bufio.Reader) { _, _ = in.ReadByte() })
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	old.TLS = &tls.Config{Certificates: []tls.Certificate{good}, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = discardLog
	old.StartTLS()
	t.Cleanup(old.Close)

	for _, test := range []struct {
		name, url string
		roots     *x509.CertPool
		class     dispatch.Class
		words     string
	}{
		{"good", serve(good).URL, roots, dispatch.ClassOK, "answered 200"},
		{"unknown authority", serve(good).URL, x509.NewCertPool(), dispatch.ClassTLS, "the certificate is not valid: it is signed by an unknown authority"},
		{"expired", serve(expired).URL, roots, dispatch.ClassTLS, "the certificate is not valid: it is only valid from 2020-01-01 00:00:00 to 2020-02-01 00:00:00"},
		{"wrong host", serve(wrong).URL, roots, dispatch.ClassTLS, "the certificate is not valid: it is not for the host 127.0.0.1"},
		{"plain HTTP", strings.Replace(plain.URL, "http:", "https:", 1), roots, dispatch.ClassTLS, "does not speak TLS on this port"},
		{"old version", old.URL, roots, dispatch.ClassTLS, "the TLS handshake failed"},
		{"closes in the handshake", "https://" + closes.Addr().String(), roots, dispatch.ClassReset, "during the TLS handshake"},
		{"silent", "https://" + silent.Addr().String(), roots, dispatch.ClassTimeout, "could not connect within 500ms"},
		{"HTTP to a TLS port", strings.Replace(serve(good).URL, "https:", "http:", 1), roots, dispatch.ClassHTTP4xx, "answered 400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, &dispatch.Client{Guard: loopback, TLSConfig: &tls.Config{RootCAs: test.roots}})
			req := request(test.url)
			if test.class == dispatch.ClassTimeout {
				req.Timeout = 500 * time.Millisecond
			}
			a := c.Do(t.Context(), req)
			if a.Class != test.class || !strings.HasPrefix(a.Words(), test.words) && !strings.HasSuffix(a.Words(), test.words) {
				t.Errorf("%s: %q, want %s: %q", a.Class, a.Words(), test.class, test.words)
			}
			checkWords(t, a)
			if test.class == dispatch.ClassOK && string(a.Body) != "HTTP/1.1" {
				t.Errorf("spoke %s", a.Body)
			}
		})
	}
}

var discardLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)

func TestCanceledIsNoAttempt(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 1)
	r := newReceiver(t, func(r *receiver, _ int64, _ net.Conn, in *bufio.Reader) {
		r.read(in)
		arrived <- struct{}{}
		r.read(in)
	})
	c := newClient(t, &dispatch.Client{Guard: loopback})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	a := c.Do(ctx, request(r.URL()))
	if a.Class != dispatch.ClassCanceled || a.Verdict() != dispatch.Aborted || !errors.Is(a.Err, context.Canceled) {
		t.Errorf("%s, %s: %v", a.Class, a.Verdict(), a.Err)
	}
}

// Not parallel, so that only its own goroutines come and go.
func TestNothingIsLeftRunning(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	t.Run("receivers", func(t *testing.T) {
		for _, serve := range []func(*receiver, int64, net.Conn, *bufio.Reader){
			once("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
			once(""),
			once("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}"),
			drip("HTTP/1.1 200 OK\r\n", "X-A: b\r\n"),
			flood("HTTP/1.1 200 OK\r\n\r\n"),
			func(r *receiver, _ int64, _ net.Conn, in *bufio.Reader) { r.read(in); r.read(in) },
			func(r *receiver, _ int64, conn net.Conn, in *bufio.Reader) {
				r.read(in)
				send(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
				r.read(in)
			},
		} {
			r := newReceiver(t, serve)
			for _, scheme := range []string{"http", "https"} {
				c := newClient(t, &dispatch.Client{Guard: loopback, Timeout: 100 * time.Millisecond})
				c.Do(t.Context(), request(scheme+"://"+r.Addr().String()))
			}
		}
	})
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if len(body)%3 != 0 {
			w.Header().Set("Content-Type", "application/json")
		}
		send(w, string(body))
	}))
	defer server.Close()
	c := newClient(t, &dispatch.Client{Guard: loopback})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			var answers []dispatch.Answer
			body := func(n int) []byte { return []byte(strings.Repeat(fmt.Sprint(i), 1+n*i*20)) }
			for n := range 50 {
				req := request(server.URL)
				req.Body = body(n)
				answers = append(answers, c.Do(t.Context(), req))
			}
			for n, a := range answers {
				want := body(n)
				if a.Verdict() != dispatch.Success || !bytes.Equal(a.Body, want[:min(len(want), 4<<10)]) {
					t.Errorf("%s: another's answer of %d bytes for %d", a.Words(), len(a.Body), len(want))
				}
				if len(want)%3 != 0 && !bytes.Equal(a.Receipt, want) {
					t.Errorf("another's receipt of %d bytes for %d", len(a.Receipt), len(want))
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkClientDo(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}))
	defer server.Close()
	c := newClient(b, &dispatch.Client{Guard: loopback})
	req := request(server.URL)
	req.Body = bytes.Repeat([]byte("x"), 512)
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if a := c.Do(b.Context(), req); a.Status != http.StatusCreated {
				b.Error(a.Words())
			}
		}
	})
}
