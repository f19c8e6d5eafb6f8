package scalekit_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scalekit"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
	"github.com/handover-dev/handover/internal/store"
)

var _ scalekit.Directory = (*directory.Directory)(nil)

const (
	env          = "env_100000000000000001"
	clientID     = "skc_100000000000000001"
	clientSecret = "a secret & of 32 bytes + some ünicode"
)

// begin is the time in tests, until they move it.
var begin = time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)

// clock is a clock that stands still unless it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	c.now = c.now.Add(d)
	c.mu.Unlock()
}

// register is the clients in memory.
type register struct {
	mu      sync.Mutex
	secrets map[string]string // by id
	envs    map[string]string
	asked   int
	touched chan string
	during  func() // each look-up, when it has read
	fail    error
}

func (c *register) ValidClient(_ context.Context, id string) (store.Client, [32]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.fail != nil {
		return store.Client{}, [32]byte{}, c.fail
	}
	secret, ok := c.secrets[id]
	if !ok {
		return store.Client{}, [32]byte{}, store.ErrNotFound
	}
	if c.during != nil {
		c.during()
	}
	return store.Client{ID: id, EnvironmentID: c.envs[id]}, sha256.Sum256([]byte(secret)), nil
}

func (c *register) TouchClient(_ context.Context, id string) error {
	c.touched <- id
	return nil
}

func (c *register) revoke(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.secrets, id)
}

// limiter allows what it is told to.
type limiter struct {
	mu       sync.Mutex
	requests map[string]int // left, by client; not there: no limit
	failures map[string]int // made, by address
	most     int            // failures
}

func (l *limiter) Allow(key string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	left, limited := l.requests[key]
	if limited && left == 0 {
		return 1500 * time.Millisecond, false
	}
	if limited {
		l.requests[key]--
	}
	return 0, true
}

func (l *limiter) Blocked(key string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Minute, l.failures[key] >= l.most
}

func (l *limiter) Spend(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[key]++
}

func (l *limiter) spent() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.failures)
}

// world is the API with what stands around it.
type world struct {
	*testing.T
	handler *scalekit.Handler
	dir     *memory
	clients *register
	limits  *limiter
	clock   *clock
	log     *bytes.Buffer
	url     string
}

// start serves the API over HTTP/1.1 and HTTP/2 without TLS, on one port.
func start(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, clock: &clock{now: begin}, log: new(bytes.Buffer)}
	w.dir = newMemory(w.clock.Now)
	w.clients = &register{secrets: map[string]string{clientID: clientSecret}, envs: map[string]string{clientID: env}, touched: make(chan string, 100)}
	w.limits = &limiter{requests: map[string]int{}, failures: map[string]int{}, most: 1000}
	w.handler = newHandler(w.dir, w.clients, w.clock.Now)
	w.handler.Limiter = w.limits
	w.handler.Log = slog.New(slog.NewTextHandler(&locked{w: w.log}, nil))
	mux := http.NewServeMux()
	w.handler.Register(mux)
	w.url = serve(t, mux)
	return w
}

// newHandler makes what is tested. Any directory and any clients do.
func newHandler(dir scalekit.Directory, clients scalekit.Clients, now func() time.Time) *scalekit.Handler {
	return &scalekit.Handler{Directory: dir, Clients: clients, TokenKey: bytes.Repeat([]byte{7}, 32), Now: now}
}

// serve is a server as the service has it.
func serve(t testing.TB, h http.Handler) (base string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: h, Protocols: new(http.Protocols), ReadHeaderTimeout: 10 * time.Second}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return "http://" + l.Addr().String()
}

type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// http2 returns a client that speaks HTTP/2 with prior knowledge.
func http2(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// http1 returns a client that speaks HTTP/1.1.
func http1(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask sends a request; a token of "" is none.
func (w *world) ask(method, path, token, body string, header ...string) (status int, answer string, got http.Header) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+path, strings.NewReader(body))
	if err != nil {
		w.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if req.Header.Set(header[i], header[i+1]); header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// login asks for a token.
func (w *world) login(id, secret string, header ...string) (status int, answer map[string]any) {
	w.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}
	status, body, _ := w.ask("POST", "/oauth/token", "", form.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded"}, header...)...)
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		w.Fatalf("answer %q: %v", body, err)
	}
	return status, answer
}

// token is one that is good.
func (w *world) token() string {
	w.Helper()
	status, answer := w.login(clientID, clientSecret)
	token, _ := answer["access_token"].(string)
	if status != http.StatusOK || token == "" {
		w.Fatalf("login: %d %v", status, answer)
	}
	return token
}

// rpcs is a client of all services.
type rpcs struct {
	pb.UserServiceClient
	pb.OrganizationServiceClient
	pb.SessionServiceClient
}

// rpcs returns a client that speaks gRPC, with headers.
func (w *world) rpcs(client *http.Client, header ...string) rpcs {
	set := connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			for i := 0; i < len(header); i += 2 {
				req.Header().Add(header[i], header[i+1])
			}
			return next(ctx, req)
		}
	})
	options := []connect.ClientOption{connect.WithGRPC(), connect.WithInterceptors(set)}
	return rpcs{
		pb.NewUserServiceClient(client, w.url, options...),
		pb.NewOrganizationServiceClient(client, w.url, options...),
		pb.NewSessionServiceClient(client, w.url, options...),
	}
}

// errorInfo returns the detail of a gRPC error.
func errorInfo(t *testing.T, err error) *pb.ErrorInfo {
	t.Helper()
	var failed *connect.Error
	if !errors.As(err, &failed) {
		t.Fatalf("error %v is not of gRPC", err)
	}
	if len(failed.Details()) != 1 {
		t.Fatalf("error %v has %d details, want 1", err, len(failed.Details()))
	}
	detail, err := failed.Details()[0].Value()
	if err != nil {
		t.Fatal(err)
	}
	info, ok := detail.(*pb.ErrorInfo)
	if !ok {
		t.Fatalf("detail is a %T", detail)
	}
	return info
}

// user makes a member of an organization.
func (w *world) user(organizationID, email string) directory.User {
	w.Helper()
	u, err := w.dir.CreateUser(w.Context(), env, organizationID, directory.NewUser{Email: email})
	if err != nil {
		w.Fatal(err)
	}
	return u
}

func (w *world) organization(name string) directory.Organization {
	w.Helper()
	o, err := w.dir.CreateOrganization(w.Context(), env, directory.NewOrganization{DisplayName: name})
	if err != nil {
		w.Fatal(err)
	}
	return o
}
