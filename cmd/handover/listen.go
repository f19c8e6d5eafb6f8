package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/signing"
)

type listenCommand struct {
	*cli
	forward string
	types   []string
	body    bool

	verifier signing.Verifier
	proxy    http.Handler // nil: answer ourselves
	mu       sync.Mutex   // one line at a time
}

func (c *cli) listenCommand() *cobra.Command {
	l := listenCommand{cli: c}
	cmd := &cobra.Command{
		Use:   "listen",
		Short: "Receive events on this machine",
		Long: `Receive events on this machine while an app is being written: create an
endpoint at the service, check the signature of what arrives, print a line for
each, and remove the endpoint again at the end.

With --forward each request goes on to an app, with the headers and the bytes it
came with, and the app's answer goes back to the service. Without it every
request is answered with 200.

The service has to run on this machine too, and must be allowed to send here:
handover serve --allow-network 127.0.0.0/8`,
		Example: `  handover listen
  handover listen --forward http://localhost:3000/webhooks
  handover listen --events user.organization_membership_deleted --body`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return l.run(cmd.Context()) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&l.types, "events", []string{"*"}, "types to receive")
	typedOnly(f)
	f.StringVar(&l.forward, "forward", "", "URL of the app that gets the requests")
	f.BoolVar(&l.body, "body", false, "print the bodies too")
	c.clientFlags(cmd)
	completeTypes(cmd, "events")
	return cmd
}

func (l *listenCommand) run(ctx context.Context) error {
	if l.forward != "" {
		target, err := url.Parse(l.forward)
		if err != nil || target.Host == "" || (target.Scheme != "http" && target.Scheme != "https") {
			return usagef("--forward must be a URL such as http://localhost:3000/webhooks")
		}
		l.proxy = forwardTo(target)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()

	host, _ := os.Hostname()
	endpoint, err := l.client().CreateEndpoint(ctx, api.NewEndpoint{
		Name: "listen on " + orDash(host), URL: "http://" + listener.Addr().String() + "/", EventTypes: l.types,
	})
	if err != nil {
		return explainLoopback(err)
	}
	defer l.remove(ctx, endpoint.ID)
	key, err := signing.ParseKey(endpoint.Secret)
	if err != nil {
		return fmt.Errorf("read secret of endpoint: %w", err)
	}
	l.verifier = signing.Verifier{Keys: []signing.Key{key}}

	fmt.Fprintf(l.err, "listening at %s as %s; Ctrl-C stops\n", endpoint.URL, endpoint.ID)
	if l.forward != "" {
		fmt.Fprintf(l.err, "forwarding to %s\n", l.forward)
	}
	return l.serve(ctx, listener)
}

// explainLoopback adds what to do when the service may not send here.
func explainLoopback(err error) error {
	var refused *api.Error
	if errors.As(err, &refused) {
		for _, f := range refused.Fields {
			if f.Field == "url" || f.Field == "body.url" {
				return hinted{err, "start the service with `handover serve --allow-network 127.0.0.0/8`"}
			}
		}
	}
	return err
}

// remove deletes the endpoint, also when the command was interrupted.
func (l *listenCommand) remove(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.client().DeleteEndpoint(ctx, id); err != nil {
		fmt.Fprintf(l.err, "handover: could not remove endpoint %s: %v\n", id, err)
		return
	}
	fmt.Fprintf(l.err, "removed %s\n", id)
}

func (l *listenCommand) serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{Handler: l, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(ctx) // what is still open then is retried by the service
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// forwardTo sends requests on to exactly this URL.
func forwardTo(target *url.URL) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			u := *target
			r.Out.URL = &u
			r.Out.Host = u.Host
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, "cannot reach the app: "+err.Error(), http.StatusBadGateway)
		},
	}
}

// A received request, as it is printed.
type received struct {
	At        time.Time `json:"at"`
	WebhookID string    `json:"webhook_id"`
	EventID   string    `json:"event_id,omitempty"`
	Type      string    `json:"type,omitempty"`
	Status    int       `json:"status"`
	Millis    int64     `json:"duration_ms"`
	Error     string    `json:"error,omitempty"`
	Body      string    `json:"body,omitempty"`
}

func (l *listenCommand) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := l.now()
	got := received{At: start, WebhookID: r.Header.Get(signing.HeaderID)}
	answer := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, events.MaxSize))
	if err == nil {
		err = l.verifier.Verify(r.Header, body)
	}
	switch {
	case err != nil:
		got.Error = notVerified(err)
		http.Error(answer, "the request is not signed as it must be", http.StatusUnauthorized)
	case l.proxy != nil:
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		l.proxy.ServeHTTP(answer, r)
	}
	if err == nil {
		if e, err := events.Parse(body); err != nil {
			got.Error = err.Error()
		} else {
			got.EventID, got.Type = e.ID, e.Type
		}
		if l.body {
			got.Body = string(body)
		}
	}
	got.Status, got.Millis = answer.status, l.now().Sub(start).Milliseconds()
	l.print(got)
}

func (l *listenCommand) print(r received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.json {
		_ = l.printJSON(r) // nobody is left to tell
		return
	}
	s := l.style(l.out)
	status := s.good(fmt.Sprint(r.Status))
	if r.Status < 200 || r.Status > 299 {
		status = s.bad(fmt.Sprint(r.Status))
	}
	line := fmt.Sprintf("%s  %s  %s  %s  %s  %d ms", s.dim(r.At.Local().Format(time.TimeOnly)), status,
		s.strong(orDash(clean(r.Type))), orDash(clean(r.EventID)), orDash(clean(r.WebhookID)), r.Millis)
	if r.Error != "" {
		line += "  " + s.bad(clean(r.Error))
	}
	fmt.Fprintln(l.out, line)
	if r.Body != "" {
		fmt.Fprintln(l.out, clean(r.Body))
	}
}

// A statusWriter remembers the status that was answered.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets an http.ResponseController reach the connection.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
