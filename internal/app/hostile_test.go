package app_test

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/testenv"
)

// A wire is an app that speaks, or does not, as its function says.
type wire struct {
	net.Listener
	conns    atomic.Int64
	requests atomic.Int64
}

func (w *wire) URL() string { return "http://" + w.Addr().String() }

// newWire listens on an address and gives each connection to serve.
func newWire(t *testing.T, addr string, serve func(w *wire, conn net.Conn)) *wire {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: l}
	var served sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	closed := false
	served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			w.conns.Add(1)
			mu.Lock()
			if closed {
				_ = conn.Close()
			}
			open = append(open, conn)
			mu.Unlock()
			served.Go(func() {
				defer conn.Close()
				serve(w, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		closed = true
		for _, conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		served.Wait()
	})
	return w
}

// read takes one whole request.
func (w *wire) read(conn net.Conn) bool {
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return false
	}
	if _, err := io.Copy(io.Discard, req.Body); err != nil {
		return false
	}
	w.requests.Add(1)
	return true
}

// says answers a request with a text and closes.
func says(text string) func(*wire, net.Conn) {
	return func(w *wire, conn net.Conn) {
		if w.read(conn) {
			_, _ = io.WriteString(conn, text)
		}
	}
}

// drips answers with a text and then, for as long as the other side bears it,
// with another one, a byte at a time.
func drips(first, then string) func(*wire, net.Conn) {
	return func(w *wire, conn net.Conn) {
		if !w.read(conn) {
			return
		}
		_, err := io.WriteString(conn, first)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; err == nil; i++ {
			<-tick.C
			_, err = conn.Write([]byte{then[i%len(then)]})
		}
	}
}

// floods answers with a text and then with one and the same piece, over and over,
// up to a size.
func floods(first string, piece []byte, size int) func(*wire, net.Conn) {
	return func(w *wire, conn net.Conn) {
		if !w.read(conn) {
			return
		}
		_, err := io.WriteString(conn, first)
		for sent := 0; err == nil && sent < size; sent += len(piece) {
			_, err = conn.Write(piece)
		}
	}
}

// waits reads a request and answers nothing.
func waits(w *wire, conn net.Conn) {
	w.read(conn)
	_, _ = io.Copy(io.Discard, conn)
}

// bomb is gzip that inflates to mib MiB.
func bomb(t *testing.T, mib int) string {
	t.Helper()
	var member bytes.Buffer
	w := gzip.NewWriter(&member)
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return strings.Repeat(member.String(), mib)
}

// answer is an HTTP answer with a body of its own length.
func answer(status, header, body string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s", status, header, len(body), body)
}

// try is an endpoint and what has to come of an attempt there.
type try struct {
	name, url string
	timeout   float64 // seconds; 0: one that does not end
	state     string  // "": failed
	class     string
	status    int
	words     string // in what the operator is told
	unbound   bool   // there was no connection
	delivery  api.Delivery
}

// endure creates the endpoints, publishes one event, and sees each delivery end
// after its first attempt, as it has to.
func endure(t *testing.T, p *process, tries []*try) {
	t.Helper()
	byEndpoint := make(map[string]*try, len(tries))
	for _, try := range tries {
		e, err := p.client().CreateEndpoint(t.Context(), api.NewEndpoint{
			Name: try.name, URL: try.url, EventTypes: []string{"*"}, RetrySchedule: []float64{0}, TimeoutSeconds: cmp.Or(try.timeout, 60),
		})
		if err != nil {
			t.Fatalf("%s: %v", try.name, err)
		}
		byEndpoint[e.ID] = try
	}
	id, ev := removal(1)
	p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
	testenv.Eventually(t, patience, func() error {
		ended := 0
		for d, err := range p.client().Deliveries(t.Context(), api.DeliveryFilter{EventID: id}) {
			if err != nil {
				return err
			}
			if d.State == "succeeded" || d.State == "failed" {
				byEndpoint[d.EndpointID].delivery = d
				ended++
			}
		}
		if ended < len(tries) {
			return fmt.Errorf("%d of %d deliveries ended", ended, len(tries))
		}
		return nil
	})
	for _, try := range tries {
		try.check(t, p)
	}
}

func (y *try) check(t *testing.T, p *process) {
	t.Helper()
	d, err := p.client().Delivery(t.Context(), y.delivery.ID)
	if err != nil {
		t.Fatal(err)
	}
	if d.State != cmp.Or(y.state, "failed") || len(d.Attempts) != 1 {
		t.Errorf("%s: %s after %d attempts, want %s after 1", y.name, d.State, len(d.Attempts), cmp.Or(y.state, "failed"))
		return
	}
	a := d.Attempts[0]
	if a.Class != y.class || a.Status != y.status || !strings.Contains(a.Error, y.words) {
		t.Errorf("%s: %s, status %d, %q; want %s, %d, %q", y.name, a.Class, a.Status, a.Error, y.class, y.status, y.words)
	}
	if len(a.Answer) > 16<<10 { // 4 KiB, of which each may have become a replacement
		t.Errorf("%s: %d bytes of the answer are kept", y.name, len(a.Answer))
	}
	if strings.HasPrefix(a.Answer, "\x00") {
		t.Errorf("%s: the answer was inflated", y.name)
	}
	if d.Receipt != nil {
		t.Errorf("%s: receipt %s", y.name, d.Receipt)
	}
	if _, host, _ := strings.Cut(y.url, "://"); !y.unbound && a.Address != strings.Split(host, "/")[0] {
		t.Errorf("%s: connected to %q, want %s", y.name, a.Address, host)
	}
}

// Whatever an app answers or does not, its delivery ends as an attempt of a clear
// class. A status counts when it came in time, whatever becomes of the body:
// the app has taken the event, or refused it.
func TestHostileApps(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "--data-dir", t.TempDir())
	p.start()
	at := func(serve func(*wire, net.Conn)) string { return newWire(t, "127.0.0.1:0", serve).URL() }
	nobody := newWire(t, "127.0.0.1:0", waits)
	_ = nobody.Close()
	const (
		ok      = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
		failure = "HTTP/1.1 500 Oops\r\n"
	)
	tries := []*try{
		{name: "good", url: at(says(answer("200 OK", "", "{}"))), state: "succeeded", class: "ok", status: 200},
		{name: "silent", url: at(waits), timeout: 2, class: "timeout", words: "did not answer within 2s"},
		{name: "drips the header", url: at(drips("", ok+strings.Repeat("X-Drip: drop\r\n", 1000))), timeout: 2, class: "timeout", words: "did not answer within 2s"},
		{name: "drips the body", url: at(drips(ok+"Content-Length: 100000\r\n\r\n", " ")), timeout: 5, state: "succeeded", class: "ok", status: 200},
		{name: "drips an error's body", url: at(drips(failure+"Content-Length: 100000\r\n\r\n", " ")), timeout: 5, class: "http_5xx", status: 500, words: "answered 500"},
		{name: "drips chunks", url: at(drips(failure+"Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n")), timeout: 5, class: "http_5xx", status: 500},
		{name: "closes at once", url: at(func(*wire, net.Conn) {}), class: "reset", words: "closed before an answer"},
		{name: "closes without an answer", url: at(says("")), class: "reset", words: "closed before an answer"},
		{name: "resets", url: at(func(w *wire, conn net.Conn) {
			w.read(conn)
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Error(err)
			}
		}), class: "reset", words: "closed before an answer"},
		{name: "closes in the header", url: at(says(ok)), class: "reset", words: "in the middle of the answer's header"},
		{name: "closes in the body", url: at(says(ok + "Content-Length: 100\r\n\r\n{")), state: "succeeded", class: "ok", status: 200},
		{name: "closes in an error's body", url: at(says(failure + "Content-Length: 100\r\n\r\n{")), class: "http_5xx", status: 500},
		{name: "closes in a chunk", url: at(says(failure + "Transfer-Encoding: chunked\r\n\r\nff\r\nx")), class: "http_5xx", status: 500},
		{name: "no HTTP", url: at(says("220 mail.example.com ESMTP\r\n")), class: "protocol", words: "not HTTP"},
		{name: "never a last word", url: at(drips("", "HTTP/1.1 100 Continue\r\n\r\n")), timeout: 2, class: "timeout"},
		{name: "switches protocols", url: at(says("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")), class: "protocol", status: 101},
		{name: "gzip bomb", url: at(says(answer("200 OK", "Content-Encoding: gzip\r\n", bomb(t, 50)))), state: "succeeded", class: "ok", status: 200},
		{name: "gzip bomb as an error", url: at(says(answer("500 Oops", "Content-Encoding: gzip\r\n", bomb(t, 50)))), class: "http_5xx", status: 500},
		{name: "a refusal as a gzip bomb", url: at(says(answer("422 No", "Content-Encoding: gzip\r\n", bomb(t, 50)))), class: "rejected", status: 422},
		{name: "nobody", url: nobody.URL(), class: "refused", words: "connection refused by " + nobody.Addr().String(), unbound: true},
	}
	endure(t, p, tries)
}

// Redirects of every kind end the attempt: where they lead, nothing arrives,
// not even a connection, be it an address that may be delivered to.
func TestRedirectsLeadNowhere(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "--data-dir", t.TempDir())
	p.start()
	elsewhere := newWire(t, ":0", says(answer("200 OK", "", "{}")))
	_, port, err := net.SplitHostPort(elsewhere.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	locations := []string{
		"http://127.0.0.1:" + port + "/in", "http://localhost:" + port + "/in", "http://[::]:" + port + "/in", "http://0.0.0.0:" + port + "/in",
		"http://[64:ff9b::7f00:1]:" + port + "/in", "https://127.0.0.1:" + port + "/in", "//127.0.0.1:" + port + "/in",
		"http://169.254.169.254/latest/meta-data/", "/again",
	}
	var requests atomic.Int64
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		var status, to int
		if _, err := fmt.Sscanf(r.URL.Path, "/%d/%d", &status, &to); err == nil {
			w.Header().Set("Location", locations[to])
			w.WriteHeader(status)
		}
	}))
	defer app.Close()
	var tries []*try
	for _, status := range []int{301, 302, 303, 307, 308} {
		for i, location := range locations {
			tries = append(tries, &try{
				name: fmt.Sprintf("%d to %s", status, location), url: fmt.Sprintf("%s/%d/%d", app.URL, status, i),
				class: "redirect", status: status, words: fmt.Sprintf("redirects (%d), which is not followed, to %s", status, location),
			})
		}
	}
	endure(t, p, tries)
	if n := requests.Load(); n != int64(len(tries)) {
		t.Errorf("%d requests for %d deliveries", n, len(tries))
	}
	if n := elsewhere.conns.Load(); n != 0 {
		t.Errorf("the redirects were followed by %d connections", n)
	}
}

// However much apps answer, and many at a time, the process stays small.
func TestHugeAnswersTakeLittleMemory(t *testing.T) {
	t.Parallel()
	p := newProcess(t, "--data-dir", t.TempDir())
	p.start()
	const events, size = 30, 1 << 30
	publish := func(from int) {
		for n := range events {
			_, ev := removal(from + n)
			p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
		}
	}
	good := newReceiver(t)
	good.subscribe(t, p, "good")
	publish(1000)
	p.settled()
	before := peakMemory(t, p.cmd.Process.Pid)

	plain := bytes.Repeat([]byte("x"), 64<<10)
	chunk := fmt.Appendf(nil, "%x\r\n%s\r\n", len(plain), plain)
	inflating := fmt.Appendf(nil, "%x\r\n%s\r\n", len(bomb(t, 100)), bomb(t, 100))
	for name, serve := range map[string]func(*wire, net.Conn){
		"of a length":     floods(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", size), plain, size),
		"in chunks":       floods("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, size),
		"compressed":      floods("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", inflating, size),
		"one small bomb":  says(answer("200 OK", "Content-Encoding: gzip\r\n", bomb(t, 50))),
		"an error's page": floods("HTTP/1.1 500 Oops\r\n\r\n", plain, size),
		"a header":        floods("HTTP/1.1 200 OK\r\nX-Long: ", plain, size),
		"an early hint":   floods("HTTP/1.1 103 Early Hints\r\nLink: ", plain, size),
	} {
		if _, err := p.client().CreateEndpoint(t.Context(), api.NewEndpoint{
			Name: name, URL: newWire(t, "127.0.0.1:0", serve).URL(), EventTypes: []string{"*"}, RetrySchedule: []float64{0}, TimeoutSeconds: 60,
		}); err != nil {
			t.Fatal(err)
		}
	}
	publish(2000)
	testenv.Eventually(t, patience, func() error {
		for class, want := range map[string]float64{"ok": 6 * events, "http_5xx": events, "answer_header_too_big": 2 * events} {
			if n := p.metric(`handover_attempts_total{class="` + class + `"}`); n != want {
				return fmt.Errorf("%v attempts are %s, want %v", n, class, want)
			}
		}
		return nil
	})
	if n := p.metric("handover_attempts_total{"); n != 9*events {
		t.Errorf("%v attempts, want %d", n, 9*events)
	}
	after := peakMemory(t, p.cmd.Process.Pid)
	t.Logf("at most %d MiB, then %d MiB", before>>20, after>>20)
	if grown := after - before; grown > 64<<20 {
		t.Errorf("grew by %d MiB over answers of 1 GiB", grown>>20)
	}
}

// peakMemory is the most that a process ever had in memory, in bytes; only
// Linux tells.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	t.Fatalf("no peak in %s", status)
	return 0
}

// Without a permission nothing that is not public is delivered to, be it named
// by address or by a name, nor after it was once permitted.
func TestAddressesAreJudgedAtEachConnection(t *testing.T) {
	t.Parallel()
	p := newSteady(t, "--data-dir", t.TempDir())
	permitted := p.args
	i := slices.Index(p.args, "--allow-network")
	forbidden := slices.Delete(slices.Clone(p.args), i, i+2)
	app := newWire(t, "127.0.0.1:0", says(answer("200 OK", "", "{}")))
	_, port, err := net.SplitHostPort(app.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	urls := []string{app.URL(), "http://localhost:" + port, "https://localhost:" + port}

	p.args = forbidden
	p.start()
	for _, url := range append([]string{
		"https://127.0.0.1:" + port, "https://[::]:" + port, "https://[64:ff9b::7f00:1]:" + port, "https://169.254.169.254/",
	}, urls...) {
		var refused *api.Error
		_, err := p.client().CreateEndpoint(t.Context(), api.NewEndpoint{Name: "app", URL: url, EventTypes: []string{"*"}})
		if !errors.As(err, &refused) || refused.Status != http.StatusUnprocessableEntity {
			t.Errorf("endpoint at %s: %v, want 422", url, err)
		}
	}
	p.kill()

	p.args = permitted
	p.start()
	var endpoints []string
	for _, url := range urls {
		e, err := p.client().CreateEndpoint(t.Context(), api.NewEndpoint{Name: "app", URL: url, EventTypes: []string{"*"}, RetrySchedule: []float64{0}})
		if err != nil {
			t.Fatal(err)
		}
		endpoints = append(endpoints, e.ID)
	}
	p.kill()

	p.args = forbidden
	p.start()
	_, ev := removal(1)
	p.mustCall(http.MethodPost, "/v1/events", ev, http.StatusAccepted)
	var plain string // the delivery over http to the name
	for i, endpoint := range endpoints {
		var id string
		testenv.Eventually(t, patience, func() error {
			for d, err := range p.client().Deliveries(t.Context(), api.DeliveryFilter{EndpointID: endpoint}) {
				if id = d.ID; err != nil || d.State == "failed" || d.State == "succeeded" {
					return err
				}
			}
			return errors.New("the delivery has not ended")
		})
		d, err := p.client().Delivery(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if d.State != "failed" {
			t.Errorf("%s: %s", urls[i], d.State)
		}
		if i == 1 {
			plain = d.ID
		}
		for _, a := range d.Attempts {
			if a.Class != "address_not_allowed" || !strings.Contains(a.Error, "--allow-network") || a.Address != "" {
				t.Errorf("%s: %s, %q, connected to %q", urls[i], a.Class, a.Error, a.Address)
			}
		}
	}
	if n := app.conns.Load(); n != 0 {
		t.Errorf("the app was connected to %d times", n)
	}
	p.kill()

	p.args = permitted
	p.start()
	p.mustCall(http.MethodPost, "/v1/deliveries/"+plain+"/retry", nil, http.StatusOK)
	testenv.Eventually(t, patience, func() error {
		if d, err := p.client().Delivery(t.Context(), plain); err != nil || d.State != "succeeded" {
			return fmt.Errorf("%s, %w", d.State, err)
		}
		return nil
	})
}

// Nothing is said to an app whose certificate does not prove who it is, and no
// proxy of the environment comes between: it would connect on our behalf.
// Not parallel: it sets the environment that the process starts in.
func TestOnlyTheAppItselfIsSpokenTo(t *testing.T) {
	authority := testenv.Certificate(t, nil, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true })
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := newWire(t, "127.0.0.1:0", says("HTTP/1.1 200 OK\r\n\r\n"))
	t.Setenv("SSL_CERT_FILE", roots)
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, proxy.URL())
	}
	p := newProcess(t, "--data-dir", t.TempDir())
	p.start()

	var spokenTo atomic.Int64
	serve := func(cert tls.Certificate) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { spokenTo.Add(1) }))
		server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL
	}
	good := serve(testenv.Certificate(t, &authority, nil))
	var mu sync.Mutex
	var heard []byte
	plain := newWire(t, "127.0.0.1:0", func(_ *wire, conn net.Conn) {
		_, _ = io.WriteString(conn, "220 mail.example.com ESMTP\r\n")
		said, _ := io.ReadAll(io.LimitReader(conn, 1<<20))
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, said...)
	})
	secure := func(w *wire) string { return "https://" + w.Addr().String() }
	endure(t, p, []*try{
		{name: "good", url: good, state: "succeeded", class: "ok", status: 200},
		{name: "self-signed", url: serve(testenv.Certificate(t, nil, nil)), class: "tls", words: "signed by an unknown authority", unbound: true},
		{name: "expired", url: serve(testenv.Certificate(t, &authority, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2020, 2, 1, 0, 0, 0, 0, time.UTC)
		})), class: "tls", words: "only valid from 2020-01-01 00:00:00 to 2020-02-01 00:00:00", unbound: true},
		{name: "another host's", url: serve(testenv.Certificate(t, &authority, func(c *x509.Certificate) {
			c.IPAddresses, c.DNSNames = nil, []string{"hooks.example.com"}
		})), class: "tls", words: "not for the host 127.0.0.1", unbound: true},
		{name: "not for the name", url: strings.Replace(good, "127.0.0.1", "localhost", 1), class: "tls", words: "not for the host localhost", unbound: true},
		{name: "plain text", url: secure(plain), class: "tls", words: "does not speak TLS on this port", unbound: true},
		{name: "closes", url: secure(newWire(t, "127.0.0.1:0", func(_ *wire, conn net.Conn) {
			_, _ = conn.Read(make([]byte, 1))
		})), class: "reset", words: "during the TLS handshake", unbound: true},
		{name: "silent", url: secure(newWire(t, "127.0.0.1:0", waits)), timeout: 1, class: "timeout", words: "could not connect within 1s", unbound: true},
	})
	if n := spokenTo.Load(); n != 1 {
		t.Errorf("%d requests arrived, want the good app's alone", n)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(heard) == 0 || bytes.Contains(bytes.ToLower(heard), []byte("webhook-")) {
		t.Errorf("the app without TLS heard %q", heard)
	}

	// A proxy would be asked for what is neither this machine nor reachable.
	unknown, err := p.client().CreateEndpoint(t.Context(), api.NewEndpoint{
		Name: "unknown", URL: "https://app.invalid/in", EventTypes: []string{"*"}, RetrySchedule: []float64{0}, TimeoutSeconds: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	p.mustCall(http.MethodPost, "/v1/endpoints/"+unknown.ID+"/test", nil, http.StatusAccepted)
	testenv.Eventually(t, patience, func() error {
		for _, err := range p.client().Deliveries(t.Context(), api.DeliveryFilter{EndpointID: unknown.ID, State: "failed"}) {
			return err
		}
		return errors.New("the delivery has not failed")
	})
	if n := proxy.conns.Load(); n != 0 {
		t.Errorf("the proxy was connected to %d times", n)
	}
}
