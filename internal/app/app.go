// Package app puts the rooms together: it opens the database and the stream,
// runs every part until it is told to stop, and stops them in the order in
// which an event passes through.
package app

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/dispatch"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/ingest/scalekit"
	"github.com/handover-dev/handover/internal/ingest/scim"
	"github.com/handover-dev/handover/internal/ingest/webhook"
	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/replay"
	"github.com/handover-dev/handover/internal/router"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/outbox"
)

// DefaultEnvironmentID is the environment of published events that name none.
const DefaultEnvironmentID = "env_100000000000000001"

// DefaultClientRate is how many requests a second one API client may send.
const DefaultClientRate = 5000

// Config says how to run Handover. Its zero value runs one process on a SQLite
// file in the directory "handover-data".
type Config struct {
	Addr          string         // where to listen; default 127.0.0.1:8080
	DataDir       string         // for the SQLite file and the master key; default "handover-data"
	DatabaseURL   string         // postgres://…; default the SQLite file
	RedisURL      string         // redis://…; default a stream inside the process
	AllowNetworks []netip.Prefix // networks that may be delivered to beside public ones
	APIKey        string         // accepted beside those created; default one created at the first start
	MasterKey     string         // 32 bytes in base64, encrypts secrets at rest; default a file in DataDir
	EnvironmentID string         // default DefaultEnvironmentID
	DebugAddr     string         // where to serve Go's profiler; default nowhere
	ShutdownGrace time.Duration  // for requests and attempts under way; default 20 s
	Retention     time.Duration  // age at which events are deleted; default DefaultRetention, negative: never
	PublicURL     string         // where clients reach the service, for links to itself; default where they ask
	Proxies       []netip.Prefix // that say in X-Forwarded-For whom they speak for; default none
	ClientRate    float64        // requests a second of one API client or directory; default DefaultClientRate
	TLSCert       string         // file of the certificate chain to serve TLS with, PEM; default no TLS
	TLSKey        string         // file of its key, PEM
	Version       string
	Log           *slog.Logger // default none

	// OnReady is told once when the process serves.
	OnReady func(Ready)

	// For programs that embed the service.
	Registry *prometheus.Registry // default a new one
	Now      func() time.Time     // the clock; default time.Now
}

// Ready tells where the service is.
type Ready struct {
	URL       string
	NewAPIKey string // set when it was created at this start; it is never shown again
}

func (c Config) withDefaults() Config {
	c.Addr = cmp.Or(c.Addr, "127.0.0.1:8080")
	c.DataDir = cmp.Or(c.DataDir, "handover-data")
	c.EnvironmentID = cmp.Or(c.EnvironmentID, DefaultEnvironmentID)
	c.ShutdownGrace = cmp.Or(c.ShutdownGrace, 20*time.Second)
	c.Retention = cmp.Or(c.Retention, DefaultRetention)
	c.ClientRate = cmp.Or(c.ClientRate, DefaultClientRate)
	c.Version = cmp.Or(c.Version, "dev")
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	return c
}

// service is one running Handover.
type service struct {
	Config
	store      *store.Store
	line       *line
	worker     store.Worker
	relay      *outbox.Relay
	recorder   *ingest.Recorder
	directory  *directory.Directory
	hooks      *webhook.Handler
	tokenKey   []byte // signs access tokens
	router     *router.Router
	dispatcher *dispatch.Dispatcher
	replays    *replay.Runner
	metrics    *metrics
	health     health
	clock      *clock
	beats      int // since the clock was set back
}

// Run serves until ctx ends; then it takes nothing more, finishes what is under
// way within the grace time, and returns nil.
func Run(ctx context.Context, c Config) (err error) {
	c = c.withDefaults()
	if c.DatabaseURL == "" {
		unlock, err := lockDir(c.DataDir)
		if err != nil {
			return err
		}
		defer unlock()
	}
	var listen net.ListenConfig
	listener, err := listen.Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", c.Addr, err)
	}
	defer listener.Close() // the server closes it too; this is for the ways out before
	s := &service{Config: c, clock: &clock{source: c.Now}, beats: math.MaxInt}
	s.Now = s.clock.now
	if s.store, err = s.openStore(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	newKey, err := s.store.EnsureAPIKey(ctx, c.APIKey)
	if err != nil {
		return err
	}
	if s.line, err = openLine(ctx, c); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.line.close()) }()
	if err := s.enlist(ctx, listener.Addr().String()); err != nil {
		return err
	}
	s.build()
	ahead, err := s.store.Ahead(ctx, clockTolerance)
	if err != nil {
		return err
	}
	s.clock.back.Store(ahead)
	return s.run(ctx, listener, Ready{URL: s.urlOf(listener.Addr()), NewAPIKey: newKey})
}

func (s *service) build() {
	owner := s.worker.Owner
	s.metrics = newMetrics(s.Registry, s.Version)
	s.health.relaying.Store(true)
	s.health.recording.Store(true)
	s.relay = &outbox.Relay{
		DB: s.store.DB(), Dialect: s.store.Dialect(), Publisher: s.line.publisher, Topic: topic,
		KeepUntilRouted: true, Owner: owner, Now: s.Now, Log: s.Log,
		Observe: func(n int, err error) {
			s.health.relaying.Store(err == nil)
			if err == nil {
				s.metrics.relayed.Add(float64(n))
			}
		},
	}
	s.line.onLost(func() {
		n, err := outbox.Rewind(context.Background(), s.store.DB(), s.Now())
		s.Log.Warn("the stream was lost; events that were not routed are relayed again", "events", n, "error", err)
		s.relay.Wake()
	})
	s.recorder = ingest.NewRecorder(s.store, s.relay)
	s.recorder.Now = s.Now
	s.recorder.Observe = s.health.recorded
	s.recorder.OnAccept = func(n int) { s.metrics.accepted.Add(float64(n)) }
	s.directory = directory.New(s.store, s.recorder)
	s.directory.Log = s.Log
	s.hooks = &webhook.Handler{Store: s.store, Recorder: s.recorder, Directory: s.directory, OnReject: s.metrics.reject, Now: s.Now, Log: s.Log}
	s.hooks.Failures.Now = s.Now
	quarter := descriptors() / 4 // of them for attempts, one for connections that are kept, one for clients
	s.dispatcher = &dispatch.Dispatcher{
		Store: s.store, Owner: owner, Now: s.Now, Log: s.Log, OnAttempt: s.metrics.attempt, Grace: s.ShutdownGrace,
		Concurrency: min(512, quarter),
		Client:      &dispatch.Client{Guard: s.guard(), UserAgent: "Handover/" + s.Version, MaxIdleConns: min(2048, quarter)},
	}
	s.router = &router.Router{
		Store: s.store, Subscriber: s.line.subscriber, Topic: topic, Owner: owner, Sender: s.dispatcher, Log: s.Log,
		OnLeft: s.relay.Wake,
		OnRoute: func(events, deliveries int) {
			s.metrics.routed.Add(float64(events))
			s.metrics.created.Add(float64(deliveries))
		},
	}
	s.replays = &replay.Runner{Store: s.store, Owner: owner, OnDue: s.dispatcher.Wake, Now: s.Now, Log: s.Log}
	s.metrics.collect(s)
}

func (s *service) guard() dispatch.Guard { return dispatch.Guard{Allow: s.AllowNetworks} }

// run starts the parts and, when ctx ends or one of them fails, stops them one
// after the other, so that each finishes what those before it handed on.
func (s *service) run(ctx context.Context, listener net.Listener, ready Ready) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stops := make(map[string]func())
	var order []string
	start := func(name string, run func(context.Context) error) {
		part, stop := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan struct{})
		go func() {
			defer close(done)
			err := run(part)
			if err == nil && part.Err() == nil {
				err = errors.New("it ended by itself")
			}
			if err != nil {
				fail(fmt.Errorf("%s: %w", name, err))
			}
		}()
		stops[name] = func() { stop(); <-done }
		order = append(order, name)
	}
	start("web server", func(ctx context.Context) error { return s.serve(ctx, listener) })
	start("replays", s.replays.Run)
	if s.Retention > 0 {
		start("retention", s.retain)
	}
	start("webhook counts", s.hooks.Run)
	start("directory", s.directory.Run)
	start("recorder", s.recorder.Run)
	start("relay", s.relay.Run)
	start("router", s.router.Run)
	start("dispatcher", s.dispatcher.Run)
	start("stream upkeep", s.line.run)
	start("upkeep", s.upkeep)
	if s.DebugAddr != "" {
		start("profiler", s.debug)
	}
	s.Log.InfoContext(ctx, "serving", "url", ready.URL, "database", string(s.store.Dialect()), "stream", s.line.name, "version", s.Version)
	if s.OnReady != nil {
		s.OnReady(ready)
	}
	<-ctx.Done()
	cause := context.Cause(ctx)
	s.health.stopping.Store(true)
	s.Log.InfoContext(ctx, "stopping")
	// Requests and attempts under way have the grace time together; what passes
	// between them is stopped when both are done, in the line's order.
	var ends sync.WaitGroup
	ends.Go(stops["web server"])
	ends.Go(stops["dispatcher"])
	ends.Wait()
	for _, name := range order {
		stops[name]()
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.store.Retire(last, s.worker.Owner); err != nil {
		s.Log.WarnContext(last, "could not give back what this process held; others take it when its lease ends", "error", err)
	}
	if errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded) {
		return nil
	}
	return cause
}

func (s *service) serve(ctx context.Context, listener net.Listener) error {
	doors := newDoors(listener, min(maxClients, descriptors()/4))
	server := &http.Server{
		Handler:           turnAway(s.behindProxies(s.handler())),
		ConnState:         doors.state,
		ConnContext:       doors.context,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      60 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		// SDKs of the membership API speak gRPC over HTTP/1.1 and over HTTP/2 without TLS.
		Protocols: new(http.Protocols),
		HTTP2:     &http.HTTP2Config{MaxConcurrentStreams: 100},
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetHTTP2(true)
	server.Protocols.SetUnencryptedHTTP2(true)
	listen := func() error { return server.Serve(doors) }
	if s.TLSCert != "" {
		listen = func() error { return server.ServeTLS(doors, s.TLSCert, s.TLSKey) }
	}
	var g errgroup.Group
	g.Go(func() error {
		if err := listen(); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve: %w", err)
		}
		return nil
	})
	failed := make(chan error, 1)
	go func() { failed <- g.Wait() }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.ShutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		s.Log.WarnContext(ctx, "requests were cut off", "error", err)
		_ = server.Close()
	}
	return <-failed
}

func (s *service) handler() http.Handler {
	mux := http.NewServeMux()
	limits := &limits{
		failures: limit.Limiter{Now: s.Now},
		requests: limit.Limiter{Rate: s.ClientRate, Burst: int(max(s.ClientRate, 1)), Now: s.Now},
	}
	clients := &scalekit.Handler{Directory: s.directory, Clients: s.store, TokenKey: s.tokenKey, Limiter: limits, Now: s.Now, Log: s.Log}
	directories := &scim.Handler{Directory: s.directory, Tokens: s.store, Origin: s.PublicURL, Limiter: limits, Now: s.Now, Log: s.Log}
	a := &api.Server{
		Store: s.store, Recorder: s.recorder, Directory: s.directory, CheckURL: func(raw string) error { return dispatch.CheckURL(raw, s.guard()) },
		OnEndpointsChanged: s.dispatcher.EndpointsChanged, OnDue: s.dispatcher.Urge, OnReplay: s.replays.Wake, OnSourcesChanged: s.hooks.Forget,
		OnClientsChanged: clients.Forget, OnDirectoriesChanged: directories.Forget,
		EnvironmentID: s.EnvironmentID, Version: s.Version, Now: s.Now, Log: s.Log,
	}
	mux.Handle("/", a.Handler())
	mux.Handle("/webhooks/", s.hooks)
	mux.Handle(scim.Prefix, directories)
	clients.Register(mux)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("GET /metrics", s.metrics.handler)
	return mux
}

// enlist registers this start of the process. The name is the same after a
// restart, so that what the last start held is taken back at once.
func (s *service) enlist(ctx context.Context, addr string) error {
	name := "local"
	if s.DatabaseURL != "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read host name: %w", err)
		}
		name = host + " " + addr
	}
	now := s.Now()
	s.worker = store.Worker{Owner: s.store.NewID("wrk_"), Name: name, Version: s.Version, StartedAt: now, Lease: workerLease}
	return s.store.Enlist(ctx, s.worker)
}

const (
	workerLease = 10 * time.Second
	workerBeat  = 2 * time.Second

	// idempotencyKept is how long an Idempotency-Key is remembered.
	idempotencyKept = 24 * time.Hour
)

// upkeep renews this worker's lease and retires those who let theirs end.
func (s *service) upkeep(ctx context.Context) error {
	beat := time.NewTicker(workerBeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
		}
		err := s.store.Renew(ctx, s.worker)
		s.health.wrote(err)
		var gone []string
		if err == nil {
			err = s.followClock(ctx)
		}
		if err == nil {
			gone, err = s.store.RetireExpired(ctx, s.worker.Owner)
		}
		if err == nil {
			// In batches, so that it holds nobody up.
			_, err = s.store.ForgetRequests(ctx, s.Now().Add(-idempotencyKept), 1000)
		}
		if err != nil && ctx.Err() == nil {
			s.Log.WarnContext(ctx, "upkeep failed", "error", err)
		}
		if len(gone) > 0 {
			s.Log.InfoContext(ctx, "took over from workers that are gone", "workers", gone)
			s.relay.Wake()
		}
	}
}

func (c Config) urlOf(addr net.Addr) string {
	scheme := "http://"
	if c.TLSCert != "" {
		scheme = "https://"
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return scheme + addr.String()
	}
	if tcp.IP.IsUnspecified() {
		return fmt.Sprintf("%s127.0.0.1:%d", scheme, tcp.Port)
	}
	return scheme + tcp.String()
}

// limits slow down those who fail to say who they are, and bound what those who
// did may ask.
type limits struct{ failures, requests limit.Limiter }

func (l *limits) Allow(key string) (time.Duration, bool)   { return l.requests.Allow(key) }
func (l *limits) Blocked(key string) (time.Duration, bool) { return l.failures.Blocked(key) }
func (l *limits) Spend(key string)                         { l.failures.Spend(key) }
