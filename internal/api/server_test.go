package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/signing"
)

// service is the API over a real database, served over HTTP.
type service struct {
	*api.Client
	t       *testing.T
	server  *api.Server
	handler http.Handler
	store   *store.Store
	first   string // the API key that was created at the start
	changes atomic.Int32
	mu      sync.Mutex
	due     []string
}

func eachDatabase(t *testing.T, test func(t *testing.T, s *service)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newService(t, store.Config{Dir: t.TempDir()}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newService(t, store.Config{URL: testenv.Postgres(t)}))
	})
}

func newService(t *testing.T, c store.Config) *service {
	t.Helper()
	c.MasterKey = store.NewMasterKey()
	db, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	recorder := ingest.NewRecorder(db, &outbox.Relay{DB: db.DB(), Dialect: db.Dialect(), KeepUntilRouted: true, Owner: "test"})
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = recorder.Run(ctx) })
	s := &service{t: t, store: db}
	s.server = &api.Server{
		Store: db, Recorder: recorder, Directory: newDirectory(t, db), EnvironmentID: "env_100000000000000001", Version: "test",
		CheckURL: func(raw string) error {
			if !strings.HasPrefix(raw, "https://") {
				return errors.New("has to begin with https://")
			}
			return nil
		},
		Failures:           limit.Limiter{Burst: 1_000_000},
		OnEndpointsChanged: func() { s.changes.Add(1) },
		OnDue: func(ids ...string) {
			s.mu.Lock()
			s.due = append(s.due, ids...)
			s.mu.Unlock()
		},
	}
	if s.first, err = db.EnsureAPIKey(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	s.handler = s.server.Handler()
	web := httptest.NewServer(s.handler)
	s.Client = &api.Client{BaseURL: web.URL, Key: s.first, HTTP: web.Client()}
	t.Cleanup(func() {
		web.Close()
		stop()
		running.Wait()
		_ = db.Close()
	})
	return s
}

// wasDue gives the endpoints that were announced since the last call.
func (s *service) wasDue() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.due
	s.due = nil
	return due
}

type answered struct {
	*http.Response
	text string
}

// json reads a value out of the answer by its keys.
func (a answered) json(t *testing.T, path ...any) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.text), &v); err != nil {
		t.Fatalf("%v in %s", err, a.text)
	}
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				return nil
			}
			v = l[step]
		}
	}
	return v
}

// send makes a request by hand; headers are "Name: value".
func (s *service) send(method, path string, body any, headers ...string) answered {
	s.t.Helper()
	var r io.Reader
	switch body := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(body)
	case []byte:
		r = bytes.NewReader(body)
	case io.Reader:
		r = body
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.BaseURL+path, r)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.first)
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		if value = strings.TrimSpace(value); value == "" {
			req.Header.Del(name)
		} else {
			req.Header.Set(name, value)
		}
	}
	res, err := s.HTTP.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answered{res, string(text)}
}

// announce sends the header of a request with so large a body, and no body.
func (s *service) announce(path string, size int) (status int) {
	s.t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(s.t.Context(), "tcp", strings.TrimPrefix(s.BaseURL, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", path, s.first, size)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	return res.StatusCode
}

// refused checks that a request is refused as it should, naming the field.
func (s *service) refused(a answered, status int, location string) {
	s.t.Helper()
	got, _ := a.json(s.t, "errors", 0, "location").(string)
	if a.StatusCode != status || got != location || a.Header.Get("Content-Type") != "application/problem+json" ||
		a.json(s.t, "status") != float64(status) || a.json(s.t, "title") != http.StatusText(status) {
		s.t.Errorf("%s %s: %d naming %q, want %d naming %q: %s", a.Request.Method, a.Request.URL.RequestURI(), a.StatusCode, got, status, location, a.text)
	}
}

// ok ends a test when a call failed: ok(call())(t).
func ok[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// refusal checks what the client says of a refusal.
func refusal(t *testing.T, err error, status int, field string) {
	t.Helper()
	var refused *api.Error
	if !errors.As(err, &refused) || refused.Status != status {
		t.Errorf("refused with %v, want %d", err, status)
		return
	}
	if field != "" && (len(refused.Fields) == 0 || refused.Fields[0].Field != field) {
		t.Errorf("it names %v, not %s", refused.Fields, field)
	}
}

func (s *service) endpoint(types ...string) api.Endpoint {
	s.t.Helper()
	if len(types) == 0 {
		types = []string{"*"}
	}
	e, err := s.CreateEndpoint(s.t.Context(), api.NewEndpoint{Name: "App", URL: "https://app.example.com/", EventTypes: types})
	return ok(e, err)(s.t)
}

// deliver routes a recorded event to endpoints as the router would.
func (s *service) deliver(eventID, subject string, endpoints ...string) []string {
	s.t.Helper()
	ev, err := s.store.Event(s.t.Context(), eventID, "")
	if err != nil {
		s.t.Fatal(err)
	}
	made, _, err := s.store.Route(s.t.Context(), "", []store.Arrival{{Seq: ev.Seq}}, func(int64, []store.Unrouted) (store.Plan, error) {
		p := store.Plan{Events: 1}
		for _, id := range endpoints {
			p.Deliveries = append(p.Deliveries, store.NewDelivery{ID: s.store.NewID("msg_"), EventSeq: ev.Seq, EndpointID: id, OrderKey: subject})
		}
		return p, nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, d := range made {
		ids = append(ids, d.ID)
	}
	return ids
}

func (s *service) publish(body string) api.Published {
	s.t.Helper()
	p, err := s.PublishEvent(s.t.Context(), []byte(body), "")
	return ok(p, err)(s.t)
}

func removal(id, user string) string {
	return fmt.Sprintf(`{"id":%q,"type":"user.organization_membership_deleted","occurred_at":"2026-01-02T03:04:05.123456789Z",
"data":{"organization":{"id":"org_100000000000000001"},"user":{"id":%q}}}`, id, user)
}

// routes are all that the wire says there are.
var routes = []string{
	"DELETE /v1/api-keys/{id}", "DELETE /v1/clients/{id}", "DELETE /v1/directories/{id}", "DELETE /v1/endpoints/{id}", "DELETE /v1/organizations/{id}",
	"DELETE /v1/organizations/{id}/members/{user_id}", "DELETE /v1/sources/{id}", "DELETE /v1/users/{id}",
	"GET /v1/api-keys", "GET /v1/clients", "GET /v1/deliveries", "GET /v1/deliveries/{id}", "GET /v1/directories", "GET /v1/directories/{id}",
	"GET /v1/endpoints", "GET /v1/endpoints/{id}", "GET /v1/events", "GET /v1/events/{id}", "GET /v1/organizations", "GET /v1/organizations/{id}",
	"GET /v1/organizations/{id}/members", "GET /v1/organizations/{id}/members/{user_id}", "GET /v1/replays", "GET /v1/replays/{id}",
	"GET /v1/sessions/{id}", "GET /v1/sources", "GET /v1/sources/{id}", "GET /v1/users", "GET /v1/users/{id}", "GET /v1/users/{id}/sessions",
	"PATCH /v1/directories/{id}", "PATCH /v1/endpoints/{id}", "PATCH /v1/sources/{id}",
	"POST /v1/api-keys", "POST /v1/clients", "POST /v1/deliveries/{id}/cancel", "POST /v1/deliveries/{id}/retry", "POST /v1/directories",
	"POST /v1/directories/{id}/rotate", "POST /v1/endpoints", "POST /v1/endpoints/{id}/disable", "POST /v1/endpoints/{id}/enable",
	"POST /v1/endpoints/{id}/pause", "POST /v1/endpoints/{id}/resume", "POST /v1/endpoints/{id}/rotate", "POST /v1/endpoints/{id}/test",
	"POST /v1/events", "POST /v1/events/batch", "POST /v1/organizations", "POST /v1/organizations/{id}/members",
	"POST /v1/organizations/{id}/members/import", "POST /v1/replays", "POST /v1/replays/{id}/cancel", "POST /v1/sessions",
	"POST /v1/sessions/{id}/revoke", "POST /v1/sources", "POST /v1/sources/{id}/rotate",
}

func sqlite(t *testing.T) *service {
	t.Helper()
	return newService(t, store.Config{Dir: t.TempDir()})
}

func TestTheDescriptionHasEveryRoute(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	a := s.send("GET", "/openapi.json", nil, "Authorization:")
	if a.StatusCode != http.StatusOK || a.json(t, "openapi") != "3.1.0" {
		t.Fatalf("%d %s", a.StatusCode, a.text)
	}
	var got []string
	for path, methods := range a.json(t, "paths").(map[string]any) {
		for method, operation := range methods.(map[string]any) {
			got = append(got, strings.ToUpper(method)+" "+path)
			responses := operation.(map[string]any)["responses"].(map[string]any)
			for _, status := range []string{"400", "401", "503"} {
				if responses[status] == nil {
					t.Errorf("%s %s does not say that it answers %s", method, path, status)
				}
			}
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(routes, got); diff != "" {
		t.Error(diff)
	}
	for _, path := range []string{"/docs", "/schemas/Endpoint.json", "/openapi.yaml"} {
		if a := s.send("GET", path, nil); a.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
}

func TestNothingWithoutAKey(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		for _, r := range routes {
			method, path, _ := strings.Cut(r, " ")
			path = strings.Replace(path, "{id}", "x", 1)
			for _, header := range []string{
				"Authorization:", "Authorization: Bearer", "Authorization: Basic " + s.first, "Authorization: Bearer hk_wrong",
				"Authorization: Bearer " + s.first + "x", "Authorization: " + s.first, "Authorization: Bearer " + strings.Repeat("x", 2000),
			} {
				a := s.send(method, path, `{"a":1}`, header)
				s.refused(a, http.StatusUnauthorized, "header.Authorization")
				if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer ") {
					t.Errorf("%s: WWW-Authenticate is %q", r, a.Header.Get("WWW-Authenticate"))
				}
			}
		}
		if a := s.send("GET", "/v1/endpoints", nil, "Authorization: bearer  "+s.first); a.StatusCode != http.StatusOK {
			t.Errorf("another spelling of Bearer: %d", a.StatusCode)
		}
	})
}

func TestUnknownPathsAndMethods(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/none", "/v1/endpoints/a/b/c", "/v2/endpoints"} {
		if a := s.send("GET", path, nil); a.StatusCode != http.StatusNotFound || a.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.text)
		}
	}
	for path, allow := range map[string]string{
		"/v1/endpoints": "GET, POST", "/v1/endpoints/x": "GET, PATCH, DELETE", "/v1/events/batch": "GET, POST", "/v1/deliveries/x/retry": "POST", "/openapi.json": "GET",
	} {
		if a := s.send("PUT", path, `{}`); a.StatusCode != http.StatusMethodNotAllowed || a.Header.Get("Allow") != allow {
			t.Errorf("PUT %s: %d, Allow %q", path, a.StatusCode, a.Header.Get("Allow"))
		}
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		created, err := s.CreateEndpoint(ctx, api.NewEndpoint{
			Name: "App", URL: "https://app.example.com/in", EventTypes: []string{"user.deleted", "user.deleted", "*"}, OrganizationIDs: []string{"org_1", "org_1"},
			RetrySchedule: []float64{0, 0.5, 60}, TimeoutSeconds: 2.5, Concurrency: 3,
		})
		if err != nil {
			t.Fatal(err)
		}
		key, err := signing.ParseKey(created.Secret)
		if err != nil || !key.CanSign() {
			t.Errorf("the secret is %q: %v", created.Secret, err)
		}
		want := api.Endpoint{
			ID: created.ID, Name: "App", URL: "https://app.example.com/in", EventTypes: []string{"user.deleted", "*"}, OrganizationIDs: []string{"org_1"},
			State: "enabled", RetrySchedule: []float64{0, 0.5, 60}, TimeoutSeconds: 2.5, Concurrency: 3,
			Keys: created.Keys, CreatedAt: created.CreatedAt, UpdatedAt: created.UpdatedAt,
		}
		got := ok(s.Endpoint(ctx, created.ID))(t)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		if a := s.send("GET", "/v1/endpoints", nil); strings.Contains(a.text, "whsec_") {
			t.Errorf("a list shows a secret: %s", a.text)
		}
		own := signing.NewKey().Secret()
		if e := ok(s.CreateEndpoint(ctx, api.NewEndpoint{Name: "Own", URL: "https://a", EventTypes: []string{"*"}, Secret: own}))(t); e.Secret != own || len(e.OrganizationIDs) != 0 {
			t.Errorf("with an own secret: %+v", e)
		}

		name, none, zero := "New", []string{}, 0.0
		changed := ok(s.UpdateEndpoint(ctx, created.ID, api.EndpointChange{Name: &name, OrganizationIDs: &none, TimeoutSeconds: &zero, RetrySchedule: &[]float64{}}))(t)
		if changed.Name != "New" || len(changed.OrganizationIDs) != 0 || changed.TimeoutSeconds != 0 || changed.RetrySchedule != nil ||
			changed.Concurrency != 3 || changed.URL != want.URL || changed.Secret != "" {
			t.Errorf("changed %+v", changed)
		}

		if e := ok(s.DisableEndpoint(ctx, created.ID))(t); e.State != "disabled" || e.DisabledReason == "" {
			t.Errorf("disabled %+v", e)
		}
		var ids []string
		for e, err := range s.Endpoints(ctx, "disabled") {
			ids = append(ids, ok(e, err)(t).ID)
		}
		if !slices.Equal(ids, []string{created.ID}) {
			t.Errorf("the disabled ones are %v", ids)
		}
		_, err = s.TestEndpoint(ctx, created.ID)
		refusal(t, err, http.StatusConflict, "")
		if e := ok(s.EnableEndpoint(ctx, created.ID))(t); e.State != "enabled" || e.DisabledReason != "" {
			t.Errorf("enabled %+v", e)
		}

		hour := 3600.0
		rotated := ok(s.RotateEndpoint(ctx, created.ID, api.Rotation{OverlapSeconds: &hour}))(t)
		if len(rotated.Keys) != 2 || rotated.Secret == "" || rotated.Secret == created.Secret || rotated.Keys[1].ExpiresAt.IsZero() {
			t.Errorf("rotated %+v", rotated)
		}
		if a := s.send("POST", "/v1/endpoints/"+created.ID+"/rotate", nil); a.StatusCode != http.StatusOK {
			t.Errorf("a rotation without a body: %d %s", a.StatusCode, a.text)
		}

		if got := s.changes.Load(); got != 7 {
			t.Errorf("%d changes were announced", got)
		}
		if err := s.DeleteEndpoint(ctx, created.ID); err != nil {
			t.Fatal(err)
		}
		for name, f := range map[string]func() error{
			"get":     func() error { _, err := s.Endpoint(ctx, created.ID); return err },
			"delete":  func() error { return s.DeleteEndpoint(ctx, created.ID) },
			"disable": func() error { _, err := s.DisableEndpoint(ctx, created.ID); return err },
			"enable":  func() error { _, err := s.EnableEndpoint(ctx, created.ID); return err },
			"rotate":  func() error { _, err := s.RotateEndpoint(ctx, created.ID, api.Rotation{}); return err },
			"test":    func() error { _, err := s.TestEndpoint(ctx, created.ID); return err },
			"update":  func() error { _, err := s.UpdateEndpoint(ctx, created.ID, api.EndpointChange{Name: &name}); return err },
		} {
			t.Run(name, func(t *testing.T) { refusal(t, f(), http.StatusNotFound, "path.id") })
		}
	})
}

func TestATestEventIsDueAtOneEndpoint(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		a, b := s.endpoint(), s.endpoint()
		d := ok(s.TestEndpoint(ctx, a.ID))(t)
		if d.State != "pending" || d.EventType != store.EventTypeTest || d.EndpointID != a.ID || d.NextAttemptAt.IsZero() {
			t.Errorf("%+v", d)
		}
		if due := s.wasDue(); !slices.Equal(due, []string{a.ID}) {
			t.Errorf("announced at %v", due)
		}
		for d, err := range s.Deliveries(ctx, api.DeliveryFilter{EndpointID: b.ID}) {
			t.Errorf("another endpoint gets %+v: %v", d, err)
		}
		ev := ok(s.Event(ctx, d.EventID, ""))(t)
		if ev.EnvironmentID != s.server.EnvironmentID || !strings.Contains(string(ev.Body), a.ID) {
			t.Errorf("%+v", ev)
		}
	})
}

func TestEndpointFaultsAreNamed(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	e := s.endpoint()
	path := "/v1/endpoints/" + e.ID
	many := func(n int, format string) string {
		items := make([]string, n)
		for i := range items {
			items[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(items, ",")
	}
	secret := signing.NewKey().Secret()
	for _, c := range []struct {
		method, path, body string
		status             int
		location           string
	}{
		{"POST", "/v1/endpoints", `{"url":"https://a","event_types":["*"]}`, 422, "body.name"},
		{"POST", "/v1/endpoints", ``, 400, "body"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"url":"https://b"}`, 400, "body"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"URL":"https://b"}`, 400, "body"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"\u0075rl":"https://b"}`, 400, "body"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":[{"x":{"a":["a",{}],"b":"a"},"x":0}]}`, 400, "body"},
		{"POST", "/v1/endpoints", `{"name":` + strings.Repeat(`{"a":[`, 32) + strings.Repeat(`]}`, 32) + `}`, 400, "body"},
		{"POST", "/v1/endpoints", `{"name":` + strings.Repeat(`{"a":[`, 31) + strings.Repeat(`]}`, 31) + `,"url":"https://a","event_types":["*"]}`, 422, "body.name"},
		{"POST", "/v1/endpoints", `{"name":"url","url":"https://a","event_types":["x","x"],"organization_ids":["name"]}`, 422, "body.organization_ids[0]"},
		{"POST", "/v1/endpoints", `{"name":"","url":"https://a","event_types":["*"]}`, 422, "body.name"},
		{"POST", "/v1/endpoints", `{"name":"  ","url":"https://a","event_types":["*"]}`, 422, "body.name"},
		{"POST", "/v1/endpoints", `{"name":"` + strings.Repeat("x", 201) + `","url":"https://a","event_types":["*"]}`, 422, "body.name"},
		{"POST", "/v1/endpoints", `{"name":1,"url":"https://a","event_types":["*"]}`, 422, "body.name"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"http://a","event_types":["*"]}`, 422, "body.url"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":[]}`, 422, "body.event_types"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":null}`, 422, "body.event_types"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*","user.*"]}`, 422, "body.event_types[1]"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["a b"]}`, 422, "body.event_types[0]"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":[` + many(101, `"t%d"`) + `]}`, 422, "body.event_types"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"organization_ids":["org_1","usr_1"]}`, 422, "body.organization_ids[1]"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"organization_ids":[` + many(1001, `"org_%d"`) + `]}`, 422, "body.organization_ids"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"secret":"whsec_short"}`, 422, "body.secret"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"retry_schedule":[0,-1]}`, 422, "body.retry_schedule[1]"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"retry_schedule":[1e300]}`, 422, "body.retry_schedule[0]"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"timeout_seconds":0.01}`, 422, "body.timeout_seconds"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"concurrency":-1}`, 422, "body.concurrency"},
		{"POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"event_type":"x"}`, 422, "body.event_type"},
		{"POST", "/v1/endpoints", `{"name":"a\u0000b","url":"https://a","event_types":["*"]}`, 400, "body"},
		{"POST", "/v1/endpoints", "{\"name\":\"a\xff\",\"url\":\"https://a\",\"event_types\":[\"*\"]}", 400, "body"},
		{"POST", "/v1/endpoints", `{"name":`, 400, "body"},
		{"POST", "/v1/endpoints", `{} {}`, 400, "body"},
		{"POST", "/v1/endpoints", `[]`, 422, "body"},
		{"POST", "/v1/endpoints", `null`, 422, "body"},
		{"PATCH", path, `{"url":"ftp://a"}`, 422, "body.url"},
		{"PATCH", path, `{"timeout_seconds":0.05}`, 422, "body.timeout_seconds"},
		{"PATCH", path, `{"event_types":[]}`, 422, "body.event_types"},
		{"PATCH", path, `{"state":"enabled"}`, 422, "body.state"},
		{"POST", path + "/rotate", `{"secret":"x"}`, 422, "body.secret"},
		{"POST", path + "/rotate", `{"overlap_seconds":-1}`, 422, "body.overlap_seconds"},
		{"GET", "/v1/endpoints?limit=0", "", 422, "query.limit"},
		{"GET", "/v1/endpoints?limit=201", "", 422, "query.limit"},
		{"GET", "/v1/endpoints?limit=x", "", 422, "query.limit"},
		{"GET", "/v1/endpoints?state=deleted", "", 422, "query.state"},
		{"GET", "/v1/endpoints?stat=enabled", "", 422, "query.stat"},
		{"GET", "/v1/endpoints?cursor=x", "", 400, "query.cursor"},
		{"GET", "/v1/endpoints?cursor=a%00b", "", 400, "query.cursor"},
		{"GET", "/v1/endpoints?cursor=%ff", "", 400, "query.cursor"},
		{"GET", "/v1/endpoints?limit=1&limit=2", "", 400, "query.limit"},
		{"GET", "/v1/endpoints?limit=%zz", "", 400, "query"},
		{"GET", "/v1/endpoints/a%00b", "", 400, "path"},
		{"GET", "/v1/endpoints/" + strings.Repeat("x", 256), "", 422, "path.id"},
	} {
		var body any
		if c.body != "" {
			body = c.body
		}
		s.refused(s.send(c.method, c.path, body), c.status, c.location)
	}
	for _, c := range []struct{ method, path, body, want string }{
		{"POST", "/v1/endpoints", `{"name":"a","event_types":["*"]}`, `{"message":"is required","location":"body.url"}`},
		{"GET", "/v1/events?since=2h", "", `{"message":"has to be an RFC 3339 time such as 2026-06-12T09:30:00Z","location":"query.since"}`},
		{"GET", "/v1/deliveries?until=2026-06-12T09:30:00+02:00", "", `{"message":"has to be an RFC 3339 time such as 2026-06-12T09:30:00Z","location":"query.until"}`},
		{"POST", "/v1/replays", `{"since":"2h"}`, `{"message":"has to be an RFC 3339 time such as 2026-06-12T09:30:00Z","location":"body.since"}`},
		{"POST", "/v1/api-keys", `{"name":"a","name":"b"}`, `{"message":"has the key \"name\" twice in one object","location":"body"}`},
	} {
		if a := s.send(c.method, c.path, c.body); !strings.Contains(a.text, `"errors":[`+c.want+`]`) {
			t.Errorf("%s %s %s: %s", c.method, c.path, c.body, a.text)
		}
	}
	a := s.send("POST", "/v1/endpoints", `{"name":"a","url":"https://a","event_types":["*"],"secret":"`+secret+strings.Repeat("x", 300)+`"}`)
	s.refused(a, 422, "body.secret")
	if strings.Contains(a.text, secret) {
		t.Errorf("the answer repeats a secret: %s", a.text)
	}
	s.refused(s.send("POST", "/v1/endpoints", strings.Repeat(" ", 1<<20)+`{}`), 413, "body")
	s.refused(s.send("POST", "/v1/endpoints", io.MultiReader(strings.NewReader(strings.Repeat(" ", 1<<20)+`{}`))), 413, "body") // chunked
	for _, path := range []string{"/v1/endpoints", "/v1/events", "/v1/events/batch"} {
		if status := s.announce(path, 17<<20); status != http.StatusRequestEntityTooLarge {
			t.Errorf("%s waits for 17 MiB and answers %d", path, status)
		}
	}
	s.refused(s.send("POST", "/v1/endpoints", `{}`, "Content-Type: text/plain"), 415, "header.Content-Type")
	s.refused(s.send("POST", "/v1/endpoints", `{}`, "Content-Encoding: gzip"), 415, "header.Content-Encoding")
	if a := s.send("GET", "/v1/endpoints?state=&cursor=&limit=", nil, "Accept: text/html"); a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "application/json" {
		t.Errorf("empty parameters: %d %s", a.StatusCode, a.text)
	}
	if a := s.send("POST", "/v1/endpoints", `{`+many(5000, `"y%d":0`)+`}`); a.StatusCode != 422 || len(a.text) > 10000 {
		t.Errorf("5000 faults are answered with %d bytes", len(a.text))
	}
}

func TestPublishing(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		a := s.send("POST", "/v1/events", `{"type":"doc.shared", "object":"Doc","data":{"a":"<b>"}}`)
		id, _ := a.json(t, "id").(string)
		if a.StatusCode != http.StatusAccepted || a.Header.Get("Content-Type") != "application/json" || a.json(t, "duplicate") != false || !strings.HasPrefix(id, "evt_") {
			t.Fatalf("%d %s", a.StatusCode, a.text)
		}
		ev := ok(s.Event(ctx, id, ""))(t)
		if ev.Type != "doc.shared" || ev.EnvironmentID != s.server.EnvironmentID || !strings.Contains(string(ev.Body), `"data":{"a":"<b>"}`) || ev.OccurredAt.IsZero() {
			t.Errorf("recorded %+v", ev)
		}

		if p := s.publish(removal("evt_1", "usr_100000000000000001")); p.ID != "evt_1" || p.Duplicate {
			t.Errorf("%+v", p)
		}
		if p := s.publish(removal("evt_1", "usr_100000000000000001")); p.ID != "evt_1" || !p.Duplicate {
			t.Errorf("the same again: %+v", p)
		}
		_, err := s.PublishEvent(ctx, []byte(removal("evt_1", "usr_100000000000000002")), "")
		refusal(t, err, http.StatusConflict, "body.id")

		// A known id without a time is the same event as the first time.
		timeless := `{"id":"evt_2","type":"doc.shared","object":"Doc","data":{"n":%d}}`
		if p := s.publish(fmt.Sprintf(timeless, 1)); p.Duplicate {
			t.Errorf("%+v", p)
		}
		if p := s.publish(fmt.Sprintf(timeless, 1)); !p.Duplicate {
			t.Errorf("the same without a time: %+v", p)
		}
		_, err = s.PublishEvent(ctx, fmt.Appendf(nil, timeless, 2), "")
		refusal(t, err, http.StatusConflict, "body.id")

		// An Idempotency-Key gets the answer of the first time.
		body := []byte(`{"type":"doc.shared","object":"Doc","data":{}}`)
		first := ok(s.PublishEvent(ctx, body, "order 66"))(t)
		if again := ok(s.PublishEvent(ctx, body, "order 66"))(t); again.ID != first.ID {
			t.Errorf("%+v, then %+v", first, again)
		}
		if other := ok(s.PublishEvent(ctx, body, ""))(t); other.ID == first.ID {
			t.Error("without a key it is another event")
		}
		_, err = s.PublishEvent(ctx, append(body, ' '), "order 66")
		refusal(t, err, http.StatusConflict, "header.Idempotency-Key")
		second := ok(s.CreateAPIKey(ctx, "second"))(t)
		other := &api.Client{BaseURL: s.BaseURL, Key: second.Key, HTTP: s.HTTP}
		if p := ok(other.PublishEvent(ctx, body, "order 66"))(t); p.ID == first.ID {
			t.Error("an Idempotency-Key is of one API key")
		}
	})
}

func TestBatchesAreAllOrNothing(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		batch := func(evs ...string) []byte { return []byte("[" + strings.Join(evs, ",\n") + "]") }
		res := ok(s.PublishEvents(ctx, batch(removal("evt_1", "usr_1"), removal("evt_2", "usr_2"), removal("evt_1", "usr_1"), `{"type":"x","object":"X","data":{}}`), "k"))(t)
		if len(res.Data) != 4 || res.Data[0] != (api.Published{ID: "evt_1"}) || res.Data[2] != (api.Published{ID: "evt_1", Duplicate: true}) || res.Data[3].Duplicate {
			t.Errorf("%+v", res)
		}
		count := func() (n int) {
			for _, err := range s.Events(ctx, api.EventFilter{}) {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			return n
		}
		if n := count(); n != 3 {
			t.Errorf("%d events", n)
		}
		again := ok(s.PublishEvents(ctx, batch(removal("evt_1", "usr_1"), removal("evt_2", "usr_2"), removal("evt_1", "usr_1"), `{"type":"x","object":"X","data":{}}`), "k"))(t)
		for i, p := range again.Data {
			if p.ID != res.Data[i].ID {
				t.Errorf("the same request got %+v, then %+v", res, again)
			}
		}
		for _, c := range []struct {
			body     string
			status   int
			location string
		}{
			{string(batch(removal("evt_10", "usr_1"), removal("evt_2", "usr_9"))), 409, "body[1].id"},
			{string(batch(removal("evt_10", "usr_1"), removal("evt_10", "usr_2"))), 409, "body[1].id"},
			{string(batch(removal("evt_10", "usr_1"), `{"object":"X","data":{}}`)), 422, "body[1].type"},
			{string(batch(removal("evt_10", "usr_1"), `{"type":"x","object":"X","data":{},"data":{}}`)), 400, "body[1]"},
			{string(batch(removal("evt_10", "usr_1"), `7`)), 400, "body[1]"},
			{string(batch(removal("evt_10", "usr_1"), `{"type":"handover.test","object":"X","data":{}}`)), 422, "body[1].type"},
			{string(batch(removal("evt_10", "usr_1"), `{"type":"x","object":"X","data":{"a":"`+strings.Repeat("x", 1<<20)+`"}}`)), 413, "body[1]"},
			{"[" + strings.Repeat(`{"type":"x","object":"X","data":{}},`, 1000) + `{"type":"x","object":"X","data":{}}]`, 422, "body"},
			{"[]", 422, "body"},
			{"{}", 400, "body"},
			{"", 400, "body"},
			{"[1", 400, "body"},
			{"[{}", 400, "body"},
			{"[] []", 400, "body"},
			{"[,]", 400, "body[0]"},
			{"[{\"type\":\"x\",\"object\":\"X\",\"data\":{\"a\":\"\xff\"}}]", 400, "body[0]"},
		} {
			a := s.send("POST", "/v1/events/batch", c.body)
			s.refused(a, c.status, c.location)
		}
		if n := count(); n != 3 {
			t.Errorf("%d events after refused batches", n)
		}
		// Copies without a time are copies, of each other and of what is recorded.
		timeless := `{"id":"evt_20","type":"x","object":"X","data":{}}`
		for _, known := range []bool{false, true} {
			res := ok(s.PublishEvents(ctx, batch(timeless, removal("evt_1", "usr_1"), timeless), ""))(t)
			want := []api.Published{{ID: "evt_20", Duplicate: known}, {ID: "evt_1", Duplicate: true}, {ID: "evt_20", Duplicate: true}}
			if diff := cmp.Diff(want, res.Data); diff != "" {
				t.Errorf("known before: %t: %s", known, diff)
			}
		}
		other := `{"id":"evt_20","type":"x","object":"X","data":{"n":1}}`
		s.refused(s.send("POST", "/v1/events/batch", batch(other)), http.StatusConflict, "body[0].id")
		s.refused(s.send("POST", "/v1/events/batch", batch(timeless, other)), http.StatusConflict, "body[1].id")
		full := []byte("[" + strings.Repeat(`{"type":"x","object":"X","data":{}},`, 999) + `{"type":"x","object":"X","data":{}}]`)
		testenv.Eventually(t, time.Minute, func() error { // a busy machine may be too slow for it once: 503, send it again
			res, err := s.PublishEvents(ctx, full, "")
			if err == nil && len(res.Data) != 1000 {
				t.Errorf("%d of 1000", len(res.Data))
			}
			return err
		})
	})
}

func TestEventFaultsAreNamed(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	deep := strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)
	for _, c := range []struct {
		body     any
		status   int
		location string
		headers  []string
	}{
		{`{"object":"X","data":{}}`, 422, "body.type", nil},
		{`{"type":"x","object":"X"}`, 422, "body.data", nil},
		{`{"type":"x","object":"X","data":{},"id":"msg_1"}`, 422, "body.id", nil},
		{`{"type":"x","object":"X","data":{},"id":"evt_a\u0000"}`, 422, "body.id", nil},
		{`{"type":"x","object":"X","data":{},"environment_id":"1"}`, 422, "body.environment_id", nil},
		{`{"type":"x","object":"X","data":{},"occurred_at":"today"}`, 422, "body.occurred_at", nil},
		{`{"type":"user.organization_membership_deleted","data":{"organization":{"id":"org_1"}}}`, 422, "body.data.user", nil},
		{`{"type":"handover.test","object":"X","data":{}}`, 422, "body.type", nil},
		{`{"type":"x","object":"X","data":{}} x`, 400, "body", nil},
		{`{"type":"x","object":"X","type":"y","data":{}}`, 400, "body", nil},
		{"{\"type\":\"x\",\"object\":\"X\",\"data\":{\"a\":\"\xff\"}}", 400, "body", nil},
		{`{"type":"x","object":"X","data":` + deep + `}`, 400, "body", nil},
		{`[]`, 400, "body", nil},
		{``, 400, "body", nil},
		{nil, 400, "body", nil},
		{`{"type":"x","object":"X","data":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`, 413, "body", nil},
		{io.MultiReader(strings.NewReader(`{"type":"x","object":"X","data":{"a":"` + strings.Repeat("x", 1<<20) + `"}}`)), 413, "body", nil},
		{`{}`, 415, "header.Content-Type", []string{"Content-Type: text/plain"}},
		{`{}`, 415, "header.Content-Encoding", []string{"Content-Encoding: gzip"}},
		{`{"type":"x","object":"X","data":{}}`, 400, "header.Idempotency-Key", []string{"Idempotency-Key: " + strings.Repeat("x", 256)}},
		{`{"type":"x","object":"X","data":{}}`, 400, "header.Idempotency-Key", []string{"Idempotency-Key: ä"}},
	} {
		s.refused(s.send("POST", "/v1/events", c.body, c.headers...), c.status, c.location)
	}
	if a := s.send("POST", "/v1/events", `{"type":"x","object":"X","data":{"name":"a\u0000b"}}`); a.StatusCode != http.StatusAccepted {
		t.Errorf("NUL in the data: %d %s", a.StatusCode, a.text)
	}
}

func TestConcurrentCopiesAreRecordedOnce(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		var fresh atomic.Int32
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				p, err := s.PublishEvent(t.Context(), []byte(`{"id":"evt_1","type":"x","object":"X","data":{}}`), "")
				if err != nil {
					t.Error(err)
				} else if !p.Duplicate {
					fresh.Add(1)
				}
			})
		}
		all.Wait()
		if fresh.Load() != 1 {
			t.Errorf("%d copies were recorded", fresh.Load())
		}
	})
}

func TestEventLists(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		for i := range 5 {
			s.publish(removal(fmt.Sprintf("evt_%d", i), fmt.Sprintf("usr_%d", i%2)))
		}
		s.publish(`{"id":"evt_5","type":"x","object":"X","organization_id":"org_2","data":{}}`)
		list := func(query string) string {
			t.Helper()
			var ids []string
			for cursor := ""; ; {
				a := s.send("GET", "/v1/events?limit=2&"+query+"&cursor="+cursor, nil)
				if a.StatusCode != http.StatusOK {
					t.Fatalf("%s: %s", query, a.text)
				}
				for _, ev := range a.json(t, "data").([]any) {
					ev := ev.(map[string]any)
					ids = append(ids, strings.TrimPrefix(ev["id"].(string), "evt_"))
					if ev["body"] != nil {
						t.Error("a list has bodies")
					}
				}
				if cursor = a.json(t, "next_cursor").(string); cursor == "" {
					return strings.Join(ids, "")
				}
			}
		}
		for query, want := range map[string]string{
			"": "543210", "type=x": "5", "user_id=usr_1": "31", "organization_id=org_2": "5", "organization_id=org_100000000000000001": "43210", "user_id=usr_9": "",
			"since=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339): "", "until=" + time.Now().Add(time.Hour).UTC().Format(time.RFC3339): "543210",
			"since=&until=&type=": "543210",
		} {
			if got := list(query); got != want {
				t.Errorf("%q: %s, not %s", query, got, want)
			}
		}
		s.refused(s.send("GET", "/v1/events?since=yesterday", nil), 422, "query.since")
		s.refused(s.send("GET", "/v1/events?since=0001-01-02T00:00:00Z", nil), 422, "query.since")
		s.refused(s.send("GET", "/v1/events?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", nil), 422, "query.until")
		s.refused(s.send("GET", "/v1/events?cursor=abc", nil), 400, "query.cursor")
		_, err := s.Event(ctx, "evt_none", "")
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.Event(ctx, "evt_1", "env_2")
		refusal(t, err, http.StatusNotFound, "path.id")
		if ev := ok(s.Event(ctx, "evt_1", s.server.EnvironmentID))(t); ev.OccurredAt.Nanosecond() != 123456789 {
			t.Errorf("%v", ev.OccurredAt)
		}
	})
}

func TestAnEventOfSeveralEnvironments(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		for _, environment := range []string{"env_2", "env_1"} {
			s.publish(`{"id":"evt_1","environment_id":"` + environment + `","type":"x","object":"X","data":{}}`)
		}
		a := s.send("GET", "/v1/events/evt_1", nil)
		s.refused(a, http.StatusConflict, "query.environment_id")
		if detail := a.json(t, "detail"); detail != "several environments have this event: env_1, env_2; say which with ?environment_id=" {
			t.Error(detail)
		}
		for _, environment := range []string{"env_1", "env_2"} {
			if e := ok(s.Event(ctx, "evt_1", environment))(t); e.EnvironmentID != environment {
				t.Errorf("%s was asked for, %s came", environment, e.EnvironmentID)
			}
		}
		_, err := s.Event(ctx, "evt_1", "env_3")
		refusal(t, err, http.StatusNotFound, "path.id")
	})
}

// waitingRecorder holds every call until it is let go.
type waitingRecorder struct {
	api.Recorder
	in   chan struct{}
	goOn chan struct{}
}

func (w waitingRecorder) Record(ctx context.Context, req ingest.Request) (ingest.Result, error) {
	w.in <- struct{}{}
	<-w.goOn
	return w.Recorder.Record(ctx, req)
}

func TestFourBatchesAtATime(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	const most, more = 4, 3
	waiting := waitingRecorder{s.server.Recorder, make(chan struct{}, most+more), make(chan struct{})}
	letGo := sync.OnceFunc(func() { close(waiting.goOn) })
	defer letGo()
	now := time.Now()
	s.server.Recorder, s.server.Now = waiting, func() time.Time { return now } // the key stays known
	const batch = `[{"type":"x","object":"X","data":{}}]`
	var sent sync.WaitGroup
	for range most + more {
		sent.Go(func() {
			if _, err := s.PublishEvents(t.Context(), []byte(batch), ""); err != nil {
				t.Error(err)
			}
		})
	}
	for range most {
		select {
		case <-waiting.in:
		case <-time.After(10 * time.Second):
			t.Fatal("fewer are served at a time")
		}
	}
	// There is no place for another one; who gives up waiting is told.
	gone, leave := context.WithCancel(t.Context())
	leave()
	asked := httptest.NewRequestWithContext(gone, http.MethodPost, "/v1/events/batch", unread{t})
	asked.Header.Set("Authorization", "Bearer "+s.first)
	answer := httptest.NewRecorder()
	s.handler.ServeHTTP(answer, asked)
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" || !strings.Contains(answer.Body.String(), "too many batches") {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
	letGo()
	sent.Wait()
	if n := len(waiting.in); n != more {
		t.Errorf("%d of %d that waited were recorded", n, more)
	}
}

// unread is a body that must not be read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body is read before its turn")
	return 0, io.EOF
}

func TestDeliveries(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		a, b := s.endpoint(), s.endpoint()
		s.publish(removal("evt_1", "usr_1"))
		s.publish(removal("evt_2", "usr_1"))
		one := s.deliver("evt_1", "usr_1", a.ID, b.ID)
		two := s.deliver("evt_2", "usr_1", a.ID)
		now := time.Now()
		claimed, err := s.store.Claim(ctx, "w1", []store.Want{{EndpointID: a.ID, N: 5}})
		if err != nil || len(claimed) != 1 {
			t.Fatalf("%d claimed: %v", len(claimed), err)
		}
		_, err = s.RetryDelivery(ctx, one[0])
		refusal(t, err, http.StatusConflict, "")
		if _, err := s.store.Record(ctx, "w1", []store.Result{{
			Attempt: store.Attempt{
				DeliveryID: one[0], Number: 1, StartedAt: now, Duration: 1500 * time.Microsecond, Status: 500, Class: "server_error", Error: "it failed",
				Answer: []byte("oh\xff"), Address: "192.0.2.1:443",
			},
			EndpointID: a.ID, OrderKey: "usr_1", State: store.Failed, DueAt: now, Tries: 10,
		}}); err != nil {
			t.Fatal(err)
		}
		got := ok(s.Delivery(ctx, one[0]))(t)
		if got.State != "failed" || got.AttemptCount != 1 || got.LastStatus != 500 || got.LastError != "server_error" || len(got.Attempts) != 1 ||
			got.UserID != "usr_1" || got.OrganizationID != "org_100000000000000001" || !got.NextAttemptAt.IsZero() {
			t.Errorf("%+v", got)
		}
		want := api.Attempt{
			Number: 1, StartedAt: now.UTC().Truncate(time.Microsecond), DurationMS: 1.5, Status: 500, Class: "server_error", Error: "it failed",
			Answer: "oh\uFFFD", Address: "192.0.2.1:443",
		}
		if diff := cmp.Diff(want, got.Attempts[0]); diff != "" {
			t.Error(diff)
		}
		list := func(query string) (ids []string) {
			t.Helper()
			answer := s.send("GET", "/v1/deliveries?"+query, nil)
			if answer.StatusCode != http.StatusOK {
				t.Fatalf("%s: %s", query, answer.text)
			}
			for _, d := range answer.json(t, "data").([]any) {
				ids = append(ids, d.(map[string]any)["id"].(string))
				if d.(map[string]any)["attempts"] != nil {
					t.Error("a list has attempts")
				}
			}
			slices.Sort(ids)
			return ids
		}
		all := slices.Sorted(slices.Values(append(slices.Clone(one), two...)))
		for query, want := range map[string][]string{
			"": all, "state=failed": {one[0]}, "state=succeeded": nil, "endpoint_id=" + b.ID: {one[1]}, "organization_id=org_100000000000000001": all,
			"user_id=usr_1": all, "user_id=usr_2": nil, "event_id=evt_2": two, "user_id=usr_1&state=failed": {one[0]},
			"since=" + now.Add(-time.Hour).UTC().Format(time.RFC3339): all, "until=" + now.Add(-time.Hour).UTC().Format(time.RFC3339): nil,
			"state=&endpoint_id=&organization_id=&user_id=&since=&until=&cursor=&limit=": all,
		} {
			if diff := cmp.Diff(want, list(query)); diff != "" {
				t.Errorf("%q: %s", query, diff)
			}
		}
		s.wasDue()
		if d := ok(s.RetryDelivery(ctx, one[0]))(t); d.State != "held" { // the second one of the person has begun
			t.Errorf("retried: %+v", d)
		}
		if d := ok(s.CancelDelivery(ctx, two[0]))(t); d.State != "canceled" || d.LastError == "" {
			t.Errorf("canceled: %+v", d)
		}
		if d := ok(s.Delivery(ctx, one[0]))(t); d.State != "pending" || d.NextAttemptAt.IsZero() {
			t.Errorf("after canceling the one before it: %+v", d)
		}
		if due := s.wasDue(); !slices.Equal(due, []string{a.ID}) {
			t.Errorf("announced at %v", due)
		}
		_, err = s.CancelDelivery(ctx, two[0])
		refusal(t, err, http.StatusConflict, "")
		ok(s.DisableEndpoint(ctx, b.ID))(t)
		_, err = s.RetryDelivery(ctx, one[1])
		refusal(t, err, http.StatusConflict, "")
		for _, f := range []func(context.Context, string) (api.Delivery, error){s.Delivery, s.RetryDelivery, s.CancelDelivery} {
			_, err := f(ctx, "msg_none")
			refusal(t, err, http.StatusNotFound, "path.id")
		}
		for query, location := range map[string]string{"state=open": "query.state", "limit=1000": "query.limit", "since=x": "query.since", "endpoint=ep_1": "query.endpoint"} {
			s.refused(s.send("GET", "/v1/deliveries?"+query, nil), 422, location)
		}
		s.refused(s.send("GET", "/v1/deliveries?cursor=x", nil), 400, "query.cursor")
	})
}

func TestReplays(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		e := s.endpoint()
		for i := range 3 {
			id := fmt.Sprintf("evt_%d", i)
			s.publish(removal(id, fmt.Sprintf("usr_%d", i)))
			s.deliver(id, fmt.Sprintf("usr_%d", i), e.ID)
		}
		since := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
		dry := ok(s.CreateReplay(ctx, api.NewReplay{Selection: api.Selection{EndpointID: e.ID, Since: since}, DryRun: true}))(t)
		if dry.Total != 3 || !dry.DryRun || dry.ID != "" || dry.State != "dry_run" {
			t.Errorf("%+v", dry)
		}
		for r, err := range s.Replays(ctx) {
			t.Errorf("a dry run started %+v, %v", r, err)
		}
		if a := s.send("POST", "/v1/replays", `{"endpoint_id":"`+e.ID+`","dry_run":true}`); a.StatusCode != http.StatusOK {
			t.Errorf("a dry run is answered %d", a.StatusCode)
		}
		a := s.send("POST", "/v1/replays", `{"endpoint_id":"`+e.ID+`","state":"pending","rate":7}`)
		id, _ := a.json(t, "id").(string)
		if a.StatusCode != http.StatusAccepted || a.json(t, "total") != 3.0 || a.json(t, "state") != "running" || a.json(t, "selection", "state") != "pending" {
			t.Errorf("%d %s", a.StatusCode, a.text)
		}
		if r := ok(s.Replay(ctx, id))(t); r.Rate != 7 || r.Selection.EndpointID != e.ID || r.CreatedAt.IsZero() {
			t.Errorf("%+v", r)
		}
		if r := ok(s.CancelReplay(ctx, id))(t); r.State != "canceled" {
			t.Errorf("%+v", r)
		}
		late := s.endpoint()
		if r := ok(s.CreateReplay(ctx, api.NewReplay{Selection: api.Selection{EndpointID: late.ID, Missing: true}, DryRun: true}))(t); r.Total != 3 {
			t.Errorf("missing: %+v", r)
		}
		for body, location := range map[string]string{
			`{}`: "body", `{"dry_run":true}`: "body", `{"missing":true}`: "body.endpoint_id", `{"endpoint_id":"ep_none"}`: "body.endpoint_id",
			`{"endpoint_id":"` + e.ID + `","missing":true,"state":"failed"}`: "body.state", `{"endpoint_id":"` + e.ID + `","missing":true,"delivery_ids":["msg_1"]}`: "body.delivery_ids",
			`{"state":"superseded"}`: "body.state", `{"state":"failed","rate":-1}`: "body.rate", `{"since":"2026-01-02T00:00:00Z","until":"2026-01-01T00:00:00Z"}`: "body.until",
			`{"since":"x"}`: "body.since", `{"delivery_ids":"msg_1"}`: "body.delivery_ids", `{"status":"failed"}`: "body.status",
		} {
			s.refused(s.send("POST", "/v1/replays", body), 422, location)
		}
		ok(s.DisableEndpoint(ctx, late.ID))(t)
		_, err := s.CreateReplay(ctx, api.NewReplay{Selection: api.Selection{EndpointID: late.ID, Missing: true}})
		refusal(t, err, http.StatusConflict, "")
		_, err = s.Replay(ctx, "rpl_none")
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.CancelReplay(ctx, "rpl_none")
		refusal(t, err, http.StatusNotFound, "path.id")
	})
}

func TestSources(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		src := ok(s.CreateSource(ctx, api.NewSource{Name: "idp", EnvironmentID: "env_1"}))(t)
		if src.Path != "/webhooks/idp" || src.Kind != "scalekit" || src.State != "enabled" || !strings.HasPrefix(src.Secret, "whsec_") || len(src.Secrets) != 1 {
			t.Errorf("%+v", src)
		}
		given := signing.NewKey().Secret()
		own := ok(s.CreateSource(ctx, api.NewSource{Name: "own", EnvironmentID: "env_1", Secret: given, Secrets: []string{signing.NewKey().Secret()}}))(t)
		if own.Secret != "" || len(own.Secrets) != 2 {
			t.Errorf("its own secrets are shown: %+v", own)
		}
		if a := s.send("GET", "/v1/sources", nil); strings.Contains(a.text, "whsec_") {
			t.Errorf("a list shows a secret: %s", a.text)
		}
		_, err := s.CreateSource(ctx, api.NewSource{Name: "idp", EnvironmentID: "env_1"})
		refusal(t, err, http.StatusConflict, "body.name")
		environment, disabled := "env_2", "disabled"
		if got := ok(s.UpdateSource(ctx, src.ID, api.SourceChange{EnvironmentID: &environment, State: &disabled}))(t); got.EnvironmentID != "env_2" || got.State != "disabled" {
			t.Errorf("%+v", got)
		}
		if got := ok(s.RotateSource(ctx, src.ID, api.Rotation{}))(t); len(got.Secrets) != 2 || got.Secret == "" || got.Secret == src.Secret {
			t.Errorf("%+v", got)
		}
		if got := ok(s.RotateSource(ctx, src.ID, api.Rotation{Secret: given}))(t); got.Secret != "" || len(got.Secrets) != 3 {
			t.Errorf("%+v", got)
		}
		if got := ok(s.Source(ctx, src.ID))(t); len(got.Secrets) != 3 || got.Secret != "" {
			t.Errorf("%+v", got)
		}
		if err := s.DeleteSource(ctx, src.ID); err != nil {
			t.Fatal(err)
		}
		refusal(t, s.DeleteSource(ctx, src.ID), http.StatusNotFound, "path.id")
		_, err = s.Source(ctx, src.ID)
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.RotateSource(ctx, src.ID, api.Rotation{})
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.UpdateSource(ctx, src.ID, api.SourceChange{State: &disabled})
		refusal(t, err, http.StatusNotFound, "path.id")
		for body, location := range map[string]string{
			`{"name":"A","environment_id":"env_1"}`: "body.name", `{"name":"a/b","environment_id":"env_1"}`: "body.name", `{"name":"a","environment_id":"1"}`: "body.environment_id",
			`{"name":"a"}`: "body.environment_id", `{"name":"a","environment_id":"env_1","kind":"okta"}`: "body.kind", `{"name":"a","environment_id":"env_1","secret":"x"}`: "body.secret",
			`{"name":"a","environment_id":"env_1","secrets":["` + given + `","x"]}`: "body.secrets[1]", `{"name":"` + strings.Repeat("a", 64) + `","environment_id":"env_1"}`: "body.name",
		} {
			s.refused(s.send("POST", "/v1/sources", body), 422, location)
		}
	})
}

func TestSourcesWithAMapping(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		m := api.SourceMapping{Type: "/type", Time: "/at", Organization: "/org", User: "/user", Removals: []string{"left"}}
		src := ok(s.CreateSource(ctx, api.NewSource{Name: "crm", Kind: "standard", EnvironmentID: "env_1", Mapping: &m}))(t)
		if diff := cmp.Diff(&m, src.Mapping); diff != "" || src.Kind != "standard" {
			t.Error(diff)
		}
		if a := s.send("GET", "/v1/sources/"+src.ID, nil); !strings.Contains(a.text, `"received":0,"rejections":[],"unmapped":[]`) || strings.Contains(a.text, "last_event_at") {
			t.Errorf("%s", a.text)
		}
		m.Additions = []string{"joined"}
		if got := ok(s.UpdateSource(ctx, src.ID, api.SourceChange{Mapping: &m}))(t); got.EnvironmentID != "env_1" || cmp.Diff(&m, got.Mapping) != "" {
			t.Errorf("%+v", got)
		}
		disabled := "disabled"
		if got := ok(s.UpdateSource(ctx, src.ID, api.SourceChange{State: &disabled}))(t); cmp.Diff(&m, got.Mapping) != "" {
			t.Errorf("the mapping did not stay: %+v", got)
		}
		_, err := s.UpdateSource(ctx, "src_none", api.SourceChange{Mapping: &m})
		refusal(t, err, http.StatusNotFound, "path.id")
		plain := ok(s.CreateSource(ctx, api.NewSource{Name: "idp", EnvironmentID: "env_1"}))(t)
		_, err = s.UpdateSource(ctx, plain.ID, api.SourceChange{Mapping: &m})
		refusal(t, err, http.StatusConflict, "body.mapping")

		good := `{"type":"/type","time":"/at","organization":"/org","user":"/user","removals":["left"]}`
		for change, location := range map[[2]string]string{
			{`"type":"/type"`, `"type":"type"`}:                      "body.mapping.type",
			{`"type":"/type",`, ``}:                                  "body.mapping.type",
			{`"user"`, `"usr":"/x","user"`}:                          "body.mapping.usr",
			{`"user"`, `"user":"/x","user"`}:                         "body",
			{`["left"]`, `["left",""]`}:                              "body.mapping.removals[1]",
			{`["left"]`, `[7]`}:                                      "body.mapping.removals[0]",
			{`["left"]`, `["a"` + strings.Repeat(`,"a"`, 100) + `]`}: "body.mapping.removals",
			{`,"removals":["left"]`, ``}:                             "body.mapping.removals",
			{`"/org"`, `"/` + strings.Repeat("a", 256) + `"`}:        "body.mapping.organization",
			{`"/org"`, `"/org~"`}:                                    "body.mapping.organization",
			{good, `"x"`}:                                            "body.mapping",
			{good, `null`}:                                           "body.mapping",
			{`}`, `},"kind":"scalekit"`}:                             "body",
		} {
			changed := strings.Replace(good, change[0], change[1], 1)
			if changed == good {
				t.Fatalf("%v changes nothing", change)
			}
			a := s.send("POST", "/v1/sources", `{"name":"b","environment_id":"env_1","kind":"standard","mapping":`+changed+`}`)
			if got := fmt.Sprint(a.json(t, "errors", 0, "location")); a.StatusCode/100 != 4 || got != location {
				t.Errorf("%v: %d %s", change, a.StatusCode, a.text)
			}
		}
		s.refused(s.send("POST", "/v1/sources", `{"name":"b","environment_id":"env_1","kind":"standard"}`), 422, "body.mapping")
		s.refused(s.send("POST", "/v1/sources", `{"name":"b","environment_id":"env_1","mapping":`+good+`}`), 422, "body.mapping")
		if _, err := api.ReadSourceMapping([]byte(good)); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatBecameOfWebhooksIsShown(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, at := t.Context(), time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		src := ok(s.CreateSource(ctx, api.NewSource{Name: "idp", EnvironmentID: "env_1"}))(t)
		if err := s.store.AddSourceCounts(ctx, []store.SourceCount{
			{SourceID: src.ID, Kind: store.CountReceived, N: 7, LastAt: at},
			{SourceID: src.ID, Kind: store.CountRejected, What: "time", N: 1, LastAt: at},
			{SourceID: src.ID, Kind: store.CountRejected, What: "signature", N: 2, LastAt: at},
			{SourceID: src.ID, Kind: store.CountUnmapped, What: "user.seen", N: 3, LastAt: at},
		}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/v1/sources", "/v1/sources/" + src.ID} {
			want := `"received":7,"last_event_at":"2026-01-02T03:04:05.000006Z","rejections":[{"reason":"signature","count":2,"last_at":"2026-01-02T03:04:05.000006Z"},` +
				`{"reason":"time","count":1,"last_at":"2026-01-02T03:04:05.000006Z"}],"unmapped":[{"type":"user.seen","count":3,"last_at":"2026-01-02T03:04:05.000006Z"}]`
			if a := s.send("GET", path, nil); !strings.Contains(a.text, want) {
				t.Errorf("%s: %s", path, a.text)
			}
		}
	})
}

// TestWhoGuessesKeysHasToWait guesses from one address until it is not heard.
func TestWhoGuessesKeysHasToWait(t *testing.T) {
	t.Parallel()
	s := newService(t, store.Config{Dir: t.TempDir()})
	var from, ahead atomic.Int64
	now := time.Now()
	s.server.Address = func(*http.Request) string { return fmt.Sprint(from.Load()) }
	s.server.Failures.Burst, s.server.Failures.Rate = 3, 0.5
	s.server.Failures.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	s.server.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	get := func(key string) answered {
		t.Helper()
		return s.send("GET", "/v1/sources", nil, "Authorization: Bearer "+key)
	}
	if a := get(s.first); a.StatusCode != http.StatusOK {
		t.Fatalf("%d", a.StatusCode)
	}
	for range 3 {
		if a := get("hk_guess"); a.StatusCode != http.StatusUnauthorized {
			t.Errorf("%d", a.StatusCode)
		}
	}
	if a := get("hk_guess"); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") != "2" {
		t.Errorf("%d %v", a.StatusCode, a.Header)
	}
	if a := get(s.first); a.StatusCode != http.StatusOK {
		t.Errorf("a key that was valid a moment ago: %d", a.StatusCode)
	}
	from.Store(1)
	if a := get("hk_guess"); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("another address: %d", a.StatusCode)
	}
	from.Store(0)
	ahead.Store(int64(1500 * time.Millisecond)) // by now the key is to be looked up again
	if a := get(s.first); a.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a key that has to be looked up: %d", a.StatusCode)
	}
	ahead.Store(int64(2 * time.Second))
	for range 10 { // what is valid costs nothing
		if a := get(s.first); a.StatusCode != http.StatusOK {
			t.Errorf("after the wait: %d", a.StatusCode)
		}
	}
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		k := ok(s.CreateAPIKey(ctx, "deploy"))(t)
		if !strings.HasPrefix(k.Key, "hk_") || !strings.HasPrefix(k.Key, k.Prefix) {
			t.Errorf("%+v", k)
		}
		if a := s.send("GET", "/v1/api-keys", nil); strings.Contains(a.text, k.Key) || a.json(t, "data", 0, "id") != k.ID {
			t.Errorf("a list shows a key: %s", a.text)
		}
		other := &api.Client{BaseURL: s.BaseURL, Key: k.Key, HTTP: s.HTTP}
		for _, err := range other.Endpoints(ctx, "") {
			t.Error(err)
		}
		refusal(t, other.RevokeAPIKey(ctx, k.ID), http.StatusConflict, "path.id")
		testenv.Eventually(t, 10*time.Second, func() error {
			for got, err := range s.APIKeys(ctx) {
				if err != nil || got.LastUsedAt.IsZero() {
					return fmt.Errorf("the use of %s was not noted: %w", got.Name, err)
				}
			}
			return nil
		})
		if err := s.RevokeAPIKey(ctx, k.ID); err != nil {
			t.Fatal(err)
		}
		_, err := other.Endpoint(ctx, "ep_none")
		refusal(t, err, http.StatusUnauthorized, "header.Authorization") // at once
		refusal(t, s.RevokeAPIKey(ctx, "key_none"), http.StatusNotFound, "path.id")
		_, err = s.CreateAPIKey(ctx, store.APIKeyFromStart)
		refusal(t, err, http.StatusUnprocessableEntity, "body.name")
		s.refused(s.send("POST", "/v1/api-keys", `{"name":""}`), 422, "body.name")
	})
}

// TestAKeyRevokedElsewhereIsInvalidWithinASecond gives two servers one database.
func TestAKeyRevokedElsewhereIsInvalidWithinASecond(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	var skew atomic.Int64
	elsewhere := &api.Server{Store: s.store, Recorder: s.server.Recorder, Now: func() time.Time { return time.Now().Add(time.Duration(skew.Load())) }}
	web := httptest.NewServer(elsewhere.Handler())
	defer web.Close()
	k := ok(s.CreateAPIKey(t.Context(), "deploy"))(t)
	c := &api.Client{BaseURL: web.URL, Key: k.Key}
	for _, err := range c.Endpoints(t.Context(), "") {
		t.Fatal(err)
	}
	if err := s.RevokeAPIKey(t.Context(), k.ID); err != nil {
		t.Fatal(err)
	}
	skew.Store(int64(time.Second))
	_, err := c.Endpoint(t.Context(), "ep_none")
	refusal(t, err, http.StatusUnauthorized, "header.Authorization")
}

type brokenRecorder struct{ err error }

func (b brokenRecorder) Record(context.Context, ingest.Request) (ingest.Result, error) {
	return ingest.Result{}, b.err
}

func TestWhenTheDatabaseIsAway(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	e := s.endpoint()
	unavailable := func(a answered) {
		t.Helper()
		s.refused(a, http.StatusServiceUnavailable, "")
		if a.Header.Get("Retry-After") == "" {
			t.Error("it does not say when to try again")
		}
	}
	s.server.Recorder = brokenRecorder{fmt.Errorf("%w: secret detail", ingest.ErrUnavailable)}
	for path, body := range map[string]string{"/v1/events": removal("evt_1", "usr_1"), "/v1/events/batch": "[" + removal("evt_1", "usr_1") + "]"} {
		a := s.send("POST", path, body)
		unavailable(a)
		if !strings.Contains(a.text, "nothing was recorded; send it again") || strings.Contains(a.text, "secret detail") {
			t.Error(a.text)
		}
	}
	var now atomic.Int64
	s.server.Now = func() time.Time { return time.Unix(1e9, now.Load()) }
	s.send("GET", "/v1/endpoints", nil) // the key is known for a second
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	unavailable(s.send("GET", "/v1/endpoints", nil))
	unavailable(s.send("GET", "/v1/endpoints/"+e.ID, nil))
	unavailable(s.send("POST", "/v1/endpoints/"+e.ID+"/test", nil))
	now.Store(int64(2 * time.Second))
	unavailable(s.send("GET", "/v1/endpoints", nil))
}

// TestNothingThatIsSentIsAnsweredWithAFault throws at every route what no
// program of good will sends.
func TestNothingThatIsSentIsAnsweredWithAFault(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		e := s.endpoint()
		bodies := []string{
			"", "null", "0", `""`, "[]", "{}", "{", "\x00", "\xff\xfe", `{"":""}`, `{"name":"\u0000"}`, `{"name":"\ud800"}`, `{"id":"evt_\u0000","type":"\u0000"}`,
			`{"name":null,"url":null,"event_types":[null],"environment_id":null,"data":null,"since":null,"rate":null}`,
			strings.Repeat("[", 5000), strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000), `{"overlap_seconds":1e400}`, `{"rate":1e30,"state":"failed"}`,
			`{"since":"9999-12-31T23:59:59Z","missing":true,"endpoint_id":"` + e.ID + `"}`, `{"delivery_ids":["\u0000"]}`, `{"delivery_ids":["` + strings.Repeat("x", 100000) + `"],"dry_run":true}`,
			`{"event_ids":["'; DROP TABLE deliveries; --", "%", "\\"],"dry_run":true}`, `{"type":"x","object":"X","data":{"a":1e999}}`, `[{"type":"x","object":"X","data":{"\u0000":0}}]`,
		}
		ids := []string{"x", "%27%3B--", "%F0%9F%98%80", "%00", "%ff", "..%2f..", e.ID, "%20", "a%2Fb"}
		queries := []string{"", "?limit=-1", "?limit=99999999999999999999", "?cursor=%00", "?state=%27", "?since=%F0%9F%98%80", "?user_id=%27%20OR%201=1", "?=", "?%00=1", "?;"}
		for _, r := range routes {
			method, path, _ := strings.Cut(r, " ")
			if r == "DELETE /v1/endpoints/{id}" {
				continue
			}
			for i := range max(len(bodies), len(queries)) {
				p := strings.Replace(path, "{id}", ids[i%len(ids)], 1) + queries[i%len(queries)]
				var body any
				if method == "POST" || method == "PATCH" {
					body = bodies[i%len(bodies)]
				}
				a := s.send(method, p, body)
				if a.StatusCode >= 500 || a.StatusCode >= 400 && a.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s %.100q: %d %s", method, p, body, a.StatusCode, a.text)
				}
			}
		}
	})
}
