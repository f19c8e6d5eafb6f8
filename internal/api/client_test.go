package api_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/api"
)

// clientOf serves and returns a client of what is served.
func clientOf(t *testing.T, serve http.HandlerFunc) *api.Client {
	t.Helper()
	server := httptest.NewServer(serve)
	t.Cleanup(server.Close)
	return &api.Client{BaseURL: server.URL, Key: "hk_test"}
}

func answer(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func TestClientSendsWhatIsAsked(t *testing.T) {
	t.Parallel()
	type seen struct{ Method, Path, Query, Auth, Type, Key, Body string }
	var got seen
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{
			r.Method, r.URL.EscapedPath(), r.URL.RawQuery, r.Header.Get("Authorization"),
			r.Header.Get("Content-Type"), r.Header.Get("Idempotency-Key"), string(body),
		}
		answer(w, http.StatusOK, "application/json", `{"id":"evt_1","duplicate":true}`)
	})
	ctx := t.Context()
	yes := 1.5
	none := []string{}
	for _, tt := range []struct {
		name string
		call func() error
		want seen
	}{
		{
			"event as it is", func() error {
				p, err := c.PublishEvent(ctx, []byte(`{"type": "<a>"}`), "key 1")
				if p != (api.Published{ID: "evt_1", Duplicate: true}) {
					t.Errorf("read %+v", p)
				}
				return err
			},
			seen{"POST", "/v1/events", "", "Bearer hk_test", "application/json", "key 1", `{"type": "<a>"}`},
		},
		{
			"nothing to say", func() error { _, err := c.TestEndpoint(ctx, "ep_1"); return err },
			seen{"POST", "/v1/endpoints/ep_1/test", "", "Bearer hk_test", "", "", ""},
		},
		{
			"only what changes", func() error {
				_, err := c.UpdateEndpoint(ctx, "ep_1", api.EndpointChange{OrganizationIDs: &none, TimeoutSeconds: &yes})
				return err
			},
			seen{"PATCH", "/v1/endpoints/ep_1", "", "Bearer hk_test", "application/json", "", `{"organization_ids":[],"timeout_seconds":1.5}`},
		},
		{
			"an id with a slash stays one segment", func() error { _, err := c.Event(ctx, "evt_1/..?x=%2F", "env_1"); return err },
			seen{"GET", "/v1/events/evt_1%2F..%3Fx=%252F", "environment_id=env_1", "Bearer hk_test", "", "", ""},
		},
		{
			"filters", func() error {
				for _, err := range c.Deliveries(ctx, api.DeliveryFilter{State: "failed", Since: time.Unix(1, 500).In(time.FixedZone("", 3600))}) {
					return err
				}
				return nil
			},
			seen{"GET", "/v1/deliveries", "limit=100&since=1970-01-01T00%3A00%3A01.0000005Z&state=failed", "Bearer hk_test", "", "", ""},
		},
	} {
		if err := tt.call(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: request (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestClientReadsProblems(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name              string
		status            int
		contentType, body string
		want              api.Error
		text              string
	}{
		{
			"problem with fields", 422, "application/problem+json; charset=utf-8",
			`{"title":"Unprocessable Entity","status":422,"detail":"validation failed","errors":[{"location":"body.url","message":"must be https","value":"x"},{"message":"also"}]}`,
			api.Error{
				Status: 422, Title: "Unprocessable Entity", Detail: "validation failed",
				Fields: []api.FieldError{{Field: "body.url", Message: "must be https"}, {Message: "also"}},
			},
			"validation failed: body.url: must be https; also",
		},
		{
			"said once", 404, "application/problem+json", `{"detail":"there is no such event","errors":[{"location":"path.id","message":"there is no such event"}]}`,
			api.Error{
				Status: 404, Title: "Not Found", Detail: "there is no such event",
				Fields: []api.FieldError{{Field: "path.id", Message: "there is no such event"}},
			},
			"there is no such event",
		},
		{"title only", 404, "application/problem+json", `{"title":"Not Found"}`, api.Error{Status: 404, Title: "Not Found"}, "Not Found"},
		{
			"another server", 404, "text/html", "<h1>It works!</h1>",
			api.Error{Status: 404, Title: "Not Found", Detail: "answered 404, and not as this API does"},
			"answered 404, and not as this API does",
		},
		{"broken problem", 500, "application/problem+json", `{`, api.Error{Status: 500, Title: "Internal Server Error"}, "Internal Server Error"},
	} {
		c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { answer(w, tt.status, tt.contentType, tt.body) })
		_, err := c.Endpoint(t.Context(), "ep_1")
		var got *api.Error
		if !errors.As(err, &got) {
			t.Fatalf("%s: error is %v, not an *api.Error", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, *got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
		if got.Error() != tt.text {
			t.Errorf("%s: text is %q, not %q", tt.name, got, tt.text)
		}
	}
}

// A GET is tried once more when the service was not there, anything else never.
func TestClientTriesGetsTwice(t *testing.T) {
	t.Parallel()
	unavailable := func(w http.ResponseWriter) { answer(w, http.StatusServiceUnavailable, "text/plain", "") }
	hangUp := func(http.ResponseWriter) { panic(http.ErrAbortHandler) }
	refuse := func(w http.ResponseWriter) { answer(w, http.StatusConflict, "application/problem+json", `{}`) }
	get := func(ctx context.Context, c *api.Client) error { _, err := c.Replay(ctx, "rpl_1"); return err }
	post := func(ctx context.Context, c *api.Client) error {
		_, err := c.PublishEvent(ctx, []byte(`{}`), "key")
		return err
	}
	for _, tt := range []struct {
		name  string
		call  func(context.Context, *api.Client) error
		first func(http.ResponseWriter)
		tries int64
		ok    bool
	}{
		{"GET, 503", get, unavailable, 2, true},
		{"GET, hung up", get, hangUp, 2, true},
		{"GET, 409", get, refuse, 1, false},
		{"POST, 503", post, unavailable, 1, false},
		{"POST, hung up", post, hangUp, 1, false},
	} {
		var tries atomic.Int64
		c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
			if tries.Add(1) == 1 {
				tt.first(w)
				return
			}
			answer(w, http.StatusOK, "application/json", `{}`)
		})
		c.HTTP = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // whose own retries would count
		if err := tt.call(t.Context(), c); (err == nil) != tt.ok {
			t.Errorf("%s: error is %v", tt.name, err)
		}
		if n := tries.Load(); n != tt.tries {
			t.Errorf("%s: tried %d times, not %d", tt.name, n, tt.tries)
		}
	}
	var tries atomic.Int64
	down := clientOf(t, func(w http.ResponseWriter, _ *http.Request) { tries.Add(1); unavailable(w) })
	if err := get(t.Context(), down); err == nil || tries.Load() != 2 {
		t.Errorf("a service that is down: error %v after %d tries, not 2", err, tries.Load())
	}
}

func TestClientWalksPages(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		pages := map[string]string{
			"":  `{"data":[{"id":"msg_4"},{"id":"msg_3"}],"next_cursor":"b"}`,
			"b": `{"data":[],"next_cursor":"c"}`,
			"c": `{"data":[{"id":"msg_2"}],"next_cursor":"d"}`,
			"d": `{"data":[{"id":"msg_1"}],"next_cursor":""}`,
		}
		if r.URL.Query().Get("state") != "failed" {
			t.Errorf("page %q asked without the filter", r.URL.Query().Get("cursor"))
		}
		answer(w, http.StatusOK, "application/json", pages[r.URL.Query().Get("cursor")])
	})
	list := c.Deliveries(t.Context(), api.DeliveryFilter{State: "failed"})
	for range 2 { // a list can be walked again
		var ids []string
		for d, err := range list {
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, d.ID)
		}
		if diff := cmp.Diff([]string{"msg_4", "msg_3", "msg_2", "msg_1"}, ids); diff != "" {
			t.Errorf("ids (-want +got):\n%s", diff)
		}
	}
	requests.Store(0)
	for _, err := range list {
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("asked for %d pages to show one delivery", n)
	}
}

func TestClientEndsWalkAtError(t *testing.T) {
	t.Parallel()
	c := clientOf(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("cursor") == "" {
			answer(w, http.StatusOK, "application/json", `{"data":[{"id":"src_1"}],"next_cursor":"b"}`)
			return
		}
		answer(w, http.StatusUnauthorized, "application/problem+json", `{"detail":"no such key"}`)
	})
	var steps []string
	for s, err := range c.Sources(t.Context()) {
		steps = append(steps, fmt.Sprint(s.ID, " ", err))
	}
	if diff := cmp.Diff([]string{"src_1 <nil>", " no such key"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestClientBoundsAnswers(t *testing.T) {
	t.Parallel()
	chunk := strings.Repeat(" ", 1<<20)
	c := clientOf(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 65 {
			if _, err := io.WriteString(w, chunk); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, "{}")
	})
	if _, err := c.Endpoint(t.Context(), "ep_1"); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("an endless answer: error is %v", err)
	}
}

func TestClientSaysThatNobodyIsThere(t *testing.T) {
	t.Parallel()
	_, err := (&api.Client{BaseURL: "http://bob:hunter2@127.0.0.1:1/base"}).Endpoint(t.Context(), "ep_1")
	var connect *api.ConnectError
	if !errors.As(err, &connect) || connect.URL != "http://127.0.0.1:1" {
		t.Errorf("error is %v", err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error shows a password: %v", err)
	}
	for _, bad := range []string{"localhost:8080", "ftp://127.0.0.1", "http://", "\x00"} {
		if _, err := (&api.Client{BaseURL: bad}).Endpoint(t.Context(), "ep_1"); err == nil || errors.As(err, &connect) {
			t.Errorf("BaseURL %q: error is %v", bad, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (&api.Client{BaseURL: "http://127.0.0.1:1"}).Endpoint(ctx, "ep_1"); !errors.Is(err, context.Canceled) {
		t.Errorf("error of a canceled call is %v", err)
	}
}
