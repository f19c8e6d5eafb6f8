package handlers_test

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/signing"
)

func TestAnswers(t *testing.T) {
	t.Parallel()
	key := signing.NewKey()
	body := fixture(t, removed)
	badData := []byte(strings.Replace(string(body), `"email":"dana.rivers@example.com"`, `"email":7`, 1))
	badTime := []byte(strings.Replace(string(body), `"create_time":"2026-03-01`, `"create_time":"Northwind`, 1))
	says := func(o handlers.Outcome, err error) func() (handlers.Outcome, error) {
		return func() (handlers.Outcome, error) { return o, err }
	}
	set := func(name, value string) func(*http.Request) {
		return func(req *http.Request) { req.Header.Set(name, value) }
	}
	const notHandled = `{"error":"the event could not be handled"}`
	for _, c := range []struct {
		name    string
		message message
		run     func() (handlers.Outcome, error) // nil: must not run
		status  int
		body    string // of the answer
		header  string // "Name: value" of the answer
	}{
		{name: "done", run: says(handlers.Transferred("document", 3, "usr_2"), nil), status: 200, body: `{"type":"receipt","status":"completed","resources":[{"type":"document","found":3,"transferred":3,"to":"usr_2"}]}`, header: "Content-Type: application/json"},
		{name: "nothing to do", run: says(handlers.NothingToDo(), nil), status: 200, body: `{"type":"receipt","status":"completed"}`},
		{name: "nothing said", run: says(handlers.Outcome{}, nil), status: 200, body: `{"received":true}`},
		{name: "in progress", run: says(handlers.InProgress(), nil), status: 202, body: `{"type":"receipt","status":"in_progress"}`},
		{name: "blocked", run: says(handlers.Blocked("two heirs"), nil), status: 422, body: `{"type":"receipt","status":"blocked","message":"two heirs"}`},
		{name: "reported failure", run: says(handlers.Report(handlers.Receipt{Status: "failed", Message: "no"}), nil), status: 422, body: `{"type":"receipt","status":"failed","message":"no"}`},
		{name: "permanent error", run: says(handlers.Outcome{}, fmt.Errorf("delete drafts: %w", handlers.Permanent(errors.New("archive is read-only")))), status: 422, body: `{"type":"receipt","status":"failed","message":"archive is read-only"}`},
		{name: "permanent nil", run: says(handlers.Outcome{}, handlers.Permanent(nil)), status: 422, body: `{"type":"receipt","status":"failed","message":"it cannot be done"}`},
		{name: "long permanent error", run: says(handlers.Outcome{}, handlers.Permanent(errors.New("a\x00\xff"+strings.Repeat("é", 1000)))), status: 422, body: `{"type":"receipt","status":"failed","message":"a` + strings.Repeat("é", 499) + `"}`},
		{name: "error", run: says(handlers.Outcome{}, errors.New("dial tcp 10.0.0.1: refused")), status: 500, body: notHandled},
		{name: "retry after", run: says(handlers.Outcome{}, handlers.RetryAfter(errBoom, 90*time.Second+1)), status: 503, body: `{"error":"the event cannot be handled now"}`, header: "Retry-After: 91"},
		{name: "retry after nothing", run: says(handlers.Outcome{}, handlers.RetryAfter(nil, 0)), status: 503, body: `{"error":"the event cannot be handled now"}`, header: "Retry-After: 1"},
		{name: "panic", run: func() (handlers.Outcome, error) { panic("dana.rivers@example.com") }, status: 500, body: notHandled},
		{name: "runtime panic", run: func() (handlers.Outcome, error) { return handlers.Deleted(strings.Fields("")[0], 1), nil }, status: 500, body: notHandled},
		{name: "outcome that breaks a rule", run: says(handlers.Transferred("Document", 3, "usr_2"), nil), status: 500, body: notHandled},
		{name: "outcome without a reason", run: says(handlers.Blocked(""), nil), status: 500, body: notHandled},
		{name: "outcome too large", run: says(handlers.Blocked(strings.Repeat("x", handlers.MaxReceipt)), nil), status: 500, body: notHandled},
		{name: "type without a function", message: message{body: fixture(t, "user.organization_membership_created")}, status: 200, body: `{"received":true}`},
		{name: "data of another shape", message: message{body: badData}, status: 422},
		{name: "time of another shape", message: message{body: badTime}, status: 422},
		{name: "charset", message: message{change: set("Content-Type", "Application/JSON; charset=utf-8")}, run: says(handlers.NothingToDo(), nil), status: 200},

		{name: "GET", message: message{change: func(req *http.Request) { req.Method = http.MethodGet }}, status: 405, header: "Allow: POST"},
		{name: "text", message: message{change: set("Content-Type", "text/plain")}, status: 415},
		{name: "no content type", message: message{change: func(req *http.Request) { req.Header.Del("Content-Type") }}, status: 415},
		{name: "content type like JSON", message: message{change: set("Content-Type", "application/jsonp")}, status: 415},
		{name: "gzip", message: message{change: set("Content-Encoding", "gzip")}, status: 415},
		{name: "no signature", message: message{change: func(req *http.Request) { req.Header.Del(signing.HeaderSignature) }}, status: 401, body: `{"error":"the signature does not verify"}`},
		{name: "other id", message: message{change: set(signing.HeaderID, "msg_other")}, status: 401},
		{name: "other time", message: message{change: set(signing.HeaderTimestamp, "1700000000")}, status: 401},
		{name: "other key", message: message{key: signing.NewKey()}, status: 401},
		{name: "not JSON and not ours", message: message{body: []byte(`{`), key: signing.NewKey()}, status: 401},
		{name: "not JSON", message: message{body: []byte(`{`)}, status: 400},
		{name: "no event", message: message{body: []byte(`{"hello":"world"}`)}, status: 400},
		{name: "empty", message: message{body: []byte{}}, status: 400},
		{name: "largest", message: message{body: append(make([]byte, 0, events.MaxSize), spaces(body, events.MaxSize)...)}, run: says(handlers.NothingToDo(), nil), status: 200},
		{name: "too large", message: message{body: spaces(body, events.MaxSize+1)}, status: 413},
		{name: "too large, of unknown length", message: message{body: spaces(body, events.MaxSize+1), change: func(req *http.Request) { req.ContentLength = -1 }}, status: 413},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var log record
			r := &handlers.Receiver{Verifier: signing.Verifier{Keys: []signing.Key{key}}, Log: log.logger()}
			ran := false
			handlers.On(r, events.MembershipRemoved, func(_ context.Context, ev events.Event, m events.Membership) (handlers.Outcome, error) {
				ran = true
				if ev.UserID() != "usr_118200000000001001" || m.User.ID != ev.UserID() {
					t.Errorf("event is about %q, data about %q", ev.UserID(), m.User.ID)
				}
				if c.run == nil {
					return handlers.Outcome{}, nil
				}
				return c.run()
			})
			m := c.message
			m.id = "msg_1"
			if m.body == nil {
				m.body = body
			}
			if m.key == (signing.Key{}) {
				m.key = key
			}
			got := m.post(t, serve(t, r))
			if got.status != c.status || c.body != "" && got.body != c.body {
				t.Errorf("answer %d %s, want %d %s", got.status, got.body, c.status, c.body)
			}
			if ran != (c.run != nil) {
				t.Errorf("function ran: %v", ran)
			}
			if name, value, ok := strings.Cut(c.header, ": "); ok && got.header.Get(name) != value {
				t.Errorf("%s is %q, want %q", name, got.header.Get(name), value)
			}
			if _, err := handlers.ParseReceipt([]byte(got.body)); err != nil && !errors.Is(err, handlers.ErrNoReceipt) {
				t.Error(err)
			}
			for _, secret := range []string{"dana.rivers", "Northwind", "whsec_", "v1,"} {
				if strings.Contains(log.String(), secret) || strings.Contains(got.body, secret) {
					t.Errorf("%q is in the log or the answer: %s %s", secret, log.String(), got.body)
				}
			}
		})
	}
}

// spaces pads JSON to a size.
func spaces(body []byte, size int) []byte {
	return append([]byte(strings.Repeat(" ", size-len(body))), body...)
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	first, second := signing.NewKey(), signing.NewKey()
	var keys atomic.Pointer[[]signing.Key]
	r := &handlers.Receiver{Keys: func() []signing.Key { return *keys.Load() }}
	url := serve(t, r)
	body := fixture(t, removed)
	for _, step := range []struct {
		keys          []signing.Key
		first, second int
	}{
		{[]signing.Key{first}, 200, 401},
		{[]signing.Key{second, first}, 200, 200},
		{[]signing.Key{second}, 401, 200},
		{nil, 401, 401},
	} {
		keys.Store(&step.keys)
		a, b := message{id: "msg_1", body: body, key: first}.post(t, url), message{id: "msg_1", body: body, key: second}.post(t, url)
		if a.status != step.first || b.status != step.second {
			t.Errorf("with %d keys: %d and %d, want %d and %d", len(step.keys), a.status, b.status, step.first, step.second)
		}
	}
}

func TestZeroReceiverRefuses(t *testing.T) {
	t.Parallel()
	got := message{id: "msg_1", body: fixture(t, removed), key: signing.NewKey()}.post(t, serve(t, &handlers.Receiver{}))
	if got.status != http.StatusUnauthorized {
		t.Errorf("status %d", got.status)
	}
}

func TestBodyHasToArriveInTime(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(&handlers.Receiver{ReadTimeout: 20 * time.Millisecond})
	t.Cleanup(s.Close)
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: app\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("status %d", res.StatusCode)
	}
}

func TestFunctionsRunInOrderAndStopAtAnError(t *testing.T) {
	t.Parallel()
	type function = func(context.Context, events.Event, events.Membership) (handlers.Outcome, error)
	var ran []string
	step := func(name string, o handlers.Outcome, err error) function {
		return func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
			ran = append(ran, name)
			return o, err
		}
	}
	r := &handlers.Receiver{}
	handlers.On(r, events.MembershipRemoved, step("transfer", handlers.Transferred("document", 1, "usr_2"), nil), step("delete", handlers.Deleted("draft", 2), nil))
	got, err := r.Handle(t.Context(), "msg_1", event(t, fixture(t, removed)))
	if err != nil || len(got.Resources) != 2 || got.Outcome() != "transferred" || strings.Join(ran, " ") != "transfer delete" {
		t.Errorf("receipt %+v, error %v, ran %v", got, err, ran)
	}

	ran = nil
	r = &handlers.Receiver{}
	handlers.On(r, events.MembershipRemoved, step("transfer", handlers.Outcome{}, errBoom), step("delete", handlers.Deleted("draft", 2), nil))
	if _, err := r.Handle(t.Context(), "msg_1", event(t, fixture(t, removed))); !errors.Is(err, errBoom) || strings.Join(ran, " ") != "transfer" {
		t.Errorf("error %v, ran %v", err, ran)
	}
}

func TestSenderHangingUpDoesNotEndTheWork(t *testing.T) {
	t.Parallel()
	key := signing.NewKey()
	r := &handlers.Receiver{Verifier: signing.Verifier{Keys: []signing.Key{key}}}
	started, release := make(chan struct{}), make(chan struct{})
	var runs atomic.Int32
	handlers.On(r, events.MembershipRemoved, func(ctx context.Context, _ events.Event, _ events.Membership) (handlers.Outcome, error) {
		runs.Add(1)
		close(started)
		<-release
		return handlers.Deleted("draft", 1), ctx.Err()
	})
	gone := make(chan struct{}) // closed when the server has noticed
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		context.AfterFunc(req.Context(), func() {
			select {
			case <-gone:
			default:
				close(gone)
			}
		})
		r.ServeHTTP(w, req)
	}))
	t.Cleanup(s.Close)
	m := message{id: "msg_1", body: fixture(t, removed), key: key}
	ctx, hangUp := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		res, err := http.DefaultClient.Do(m.request(t, ctx, s.URL))
		if err == nil {
			_ = res.Body.Close()
		}
		failed <- err
	}()
	<-started
	hangUp()
	if err := <-failed; err == nil {
		t.Fatal("the first request was answered")
	}
	<-gone
	close(release)
	if got := m.post(t, s.URL); got.status != 200 || !strings.Contains(got.body, `"deleted":1`) || runs.Load() != 1 {
		t.Errorf("answer %d %s after %d runs", got.status, got.body, runs.Load())
	}
}

// The bubble fails if a goroutine is left behind in it.
func TestTimeoutEndsTheWork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		key := signing.NewKey()
		r := &handlers.Receiver{Verifier: signing.Verifier{Keys: []signing.Key{key}}}
		handlers.On(r, events.MembershipRemoved, func(ctx context.Context, _ events.Event, _ events.Membership) (handlers.Outcome, error) {
			<-ctx.Done()
			return handlers.Outcome{}, ctx.Err()
		})
		start := time.Now()
		w := httptest.NewRecorder()
		r.ServeHTTP(w, message{id: "msg_1", body: fixture(t, removed), key: key}.request(t, t.Context(), "/"))
		if w.Code != 500 || time.Since(start) != time.Minute {
			t.Errorf("answer %d after %v", w.Code, time.Since(start))
		}
	})
}

func TestTypeWithoutFunctionIsNotRemembered(t *testing.T) {
	t.Parallel()
	var seen handlers.Memory
	ev := event(t, fixture(t, removed))
	if got, err := (&handlers.Receiver{Seen: &seen}).Handle(t.Context(), "msg_1", ev); err != nil || got.Type != "" {
		t.Fatalf("receipt %+v, error %v", got, err)
	}
	later := &handlers.Receiver{Seen: &seen} // the app learns the type, an operator sends again
	handlers.On(later, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.Deleted("draft", 1), nil
	})
	if got, err := later.Handle(t.Context(), "msg_1", ev); err != nil || got.Outcome() != "deleted" {
		t.Errorf("receipt %+v, error %v", got, err)
	}
}

func TestSameIDWithAnotherBodyIsAConflict(t *testing.T) {
	t.Parallel()
	key := signing.NewKey()
	r := &handlers.Receiver{Verifier: signing.Verifier{Keys: []signing.Key{key}}}
	handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.Deleted("draft", 1), nil
	})
	url, body := serve(t, r), fixture(t, removed)
	for _, c := range []struct {
		body []byte
		want int
	}{{body, 200}, {append([]byte(" "), body...), 409}, {body, 200}} {
		if got := (message{id: "msg_1", body: c.body, key: key}).post(t, url); got.status != c.want {
			t.Errorf("answer %d %s, want %d", got.status, got.body, c.want)
		}
	}
}

func TestRegistrationMistakesPanic(t *testing.T) {
	t.Parallel()
	plain := func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.Outcome{}, nil
	}
	inTx := func(context.Context, *sql.Tx, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.Outcome{}, nil
	}
	for name, register := range map[string]func(){
		"twice": func() {
			r := &handlers.Receiver{}
			handlers.On(r, events.MembershipRemoved, plain)
			handlers.On(r, events.MembershipRemoved, plain)
		},
		"without a table":  func() { handlers.OnTx(&handlers.Receiver{}, events.MembershipRemoved, inTx) },
		"with memory only": func() { handlers.OnTx(&handlers.Receiver{Seen: &handlers.Memory{}}, events.MembershipRemoved, inTx) },
		"both ways": func() {
			r := &handlers.Receiver{Seen: &handlers.Table{}}
			handlers.On(r, events.MembershipRemoved, plain)
			handlers.OnTx(r, events.MembershipRemoved, inTx)
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("registered %s without a panic", name)
				}
			}()
			register()
		}()
	}
}

func TestOneLineInTheLogPerMessage(t *testing.T) {
	t.Parallel()
	var log record
	r := &handlers.Receiver{Log: log.logger()}
	handlers.On(r, events.MembershipRemoved, func(context.Context, events.Event, events.Membership) (handlers.Outcome, error) {
		return handlers.Deleted("draft", 1), nil
	})
	ev := event(t, fixture(t, removed))
	for range 2 {
		if _, err := r.Handle(t.Context(), "msg_1", ev); err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), log.String())
	}
	for i, repeated := range []string{`"repeated":false`, `"repeated":true`} {
		for _, want := range []string{repeated, `"message_id":"msg_1"`, `"event_id":"` + ev.ID + `"`, `"outcome":"deleted"`, `"level":"INFO"`} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("line %d lacks %s: %s", i, want, lines[i])
			}
		}
	}
}
