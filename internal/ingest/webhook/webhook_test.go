package webhook_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	svix "github.com/svix/svix-webhooks/go"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/ingest/webhook"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
	"github.com/handover-dev/handover/signing"
)

const environment = "env_100000000000000001"

// inbound is the handler over a real database, behind real HTTP, with one source.
type inbound struct {
	t       *testing.T
	url     string
	handler *webhook.Handler
	store   *store.Store
	source  store.Source
	key     signing.Key
	now     atomic.Int64 // how far the handler's clock is ahead
	mu      sync.Mutex
	rejects []string
}

func eachDatabase(t *testing.T, test func(t *testing.T, in *inbound)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		test(t, newInbound(t, store.Config{Dir: t.TempDir()}))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, newInbound(t, store.Config{URL: testenv.Postgres(t)}))
	})
}

func newInbound(t *testing.T, c store.Config) *inbound {
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
	in := &inbound{t: t, store: db, key: signing.NewKey()}
	if in.source, err = db.CreateSource(t.Context(), store.Source{Name: "idp", Kind: "scalekit", EnvironmentID: environment}, in.key); err != nil {
		t.Fatal(err)
	}
	in.handler = &webhook.Handler{
		Store: db, Recorder: recorder, Now: func() time.Time { return time.Now().Add(time.Duration(in.now.Load())) },
		OnReject: func(source, reason string) {
			in.mu.Lock()
			in.rejects = append(in.rejects, source+" "+reason)
			in.mu.Unlock()
		},
	}
	mux := http.NewServeMux()
	mux.Handle("/webhooks/", in.handler)
	web := httptest.NewServer(mux)
	in.url = web.URL
	t.Cleanup(func() {
		web.Close()
		stop()
		running.Wait()
		_ = db.Close()
	})
	return in
}

// rejected gives what was counted since the last call.
func (in *inbound) rejected() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	all := strings.Join(in.rejects, ", ")
	in.rejects = nil
	return all
}

type message struct {
	id, body string
	at       time.Time
	key      signing.Key
	path     string
	method   string
	header   http.Header // beside what is signed; nil values take one away
	reader   io.Reader   // in place of body
}

type reply struct {
	status                int
	id, location, message string
	effect                string
	duplicate             bool
	header                http.Header
}

func (in *inbound) send(m message) reply {
	in.t.Helper()
	if m.at.IsZero() {
		m.at = time.Now()
	}
	if m.key.IsZero() {
		m.key = in.key
	}
	if m.path == "" {
		m.path = "/webhooks/idp"
	}
	if m.method == "" {
		m.method = http.MethodPost
	}
	var body io.Reader = strings.NewReader(m.body)
	if m.reader != nil {
		body = m.reader
	}
	req, err := http.NewRequestWithContext(in.t.Context(), m.method, in.url+m.path, body)
	if err != nil {
		in.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{m.key}}).SetHeaders(req.Header, m.id, m.at, []byte(m.body)); err != nil {
		in.t.Fatal(err)
	}
	for name, values := range m.header {
		if values == nil {
			req.Header.Del(name)
		} else {
			req.Header[name] = values
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		in.t.Fatal(err)
	}
	defer res.Body.Close()
	var doc struct {
		ID        string
		Effect    string
		Duplicate bool
		Status    int
		Errors    []struct{ Location, Message string }
	}
	if err := json.NewDecoder(res.Body).Decode(&doc); err != nil {
		in.t.Fatalf("%d: %v", res.StatusCode, err)
	}
	r := reply{status: res.StatusCode, id: doc.ID, effect: doc.Effect, duplicate: doc.Duplicate, header: res.Header}
	if len(doc.Errors) > 0 {
		r.location, r.message = doc.Errors[0].Location, doc.Errors[0].Message
	}
	if problem := res.Header.Get("Content-Type") == "application/problem+json"; problem != (res.StatusCode >= 400) || problem && doc.Status != res.StatusCode {
		in.t.Errorf("%d with %s", res.StatusCode, res.Header.Get("Content-Type"))
	}
	return r
}

func (in *inbound) events() int {
	in.t.Helper()
	all, _, err := in.store.ListEvents(in.t.Context(), store.EventFilter{}, store.Page{Limit: 200})
	if err != nil {
		in.t.Fatal(err)
	}
	return len(all)
}

func removal(id string) string {
	return fmt.Sprintf(`{"spec_version":"1","id":%q,"type":"user.organization_membership_deleted","object":"OrgMembership","occurred_at":"2026-01-02T03:04:05Z",
 "environment_id":%q, "data":{"organization":{"id":"org_100000000000000101"},"user":{"id":"usr_118200000000001001"}}}`, id, environment)
}

func TestR5ASignedWebhookIsRecordedOnce(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		body := removal("evt_1")
		if r := in.send(message{id: "msg_1", body: body}); r.status != http.StatusCreated || r.id != "evt_1" || r.duplicate || r.effect != "recorded" {
			t.Fatalf("%+v", r)
		}
		ev, err := in.store.Event(t.Context(), "evt_1", environment)
		if err != nil || strings.ContainsAny(string(ev.Body), "\n") || ev.UserID != "usr_118200000000001001" || ev.OrganizationID != "org_100000000000000101" {
			t.Errorf("recorded %+v: %v", ev, err)
		}
		for name, m := range map[string]message{
			"the same again":                           {id: "msg_1", body: body},
			"under another webhook-id":                 {id: "msg_2", body: body},
			"with other white space, under another id": {id: "msg_3", body: strings.ReplaceAll(body, "\n ", "")},
		} {
			if r := in.send(m); r.status != http.StatusOK || !r.duplicate || r.id != "evt_1" || r.effect != "known" {
				t.Errorf("%s: %+v", name, r)
			}
		}
		if got := in.rejected(); got != "" {
			t.Errorf("rejected: %s", got)
		}
		if r := in.send(message{id: "msg_1", body: removal("evt_2")}); r.status != http.StatusConflict || r.location != "header.webhook-id" {
			t.Errorf("the same webhook-id with another body: %+v", r)
		}
		if r := in.send(message{id: "msg_4", body: strings.Replace(body, "usr_118200000000001001", "usr_118200000000001002", 1)}); r.status != http.StatusConflict || r.location != "body.id" {
			t.Errorf("the same event id with another body: %+v", r)
		}
		if got := in.rejected(); got != "idp conflict, idp conflict" {
			t.Errorf("counted %s", got)
		}
		if n := in.events(); n != 1 {
			t.Errorf("%d events", n)
		}
		// What was refused did not use its webhook-id up.
		if r := in.send(message{id: "msg_4", body: removal("evt_3")}); r.status != http.StatusCreated {
			t.Errorf("%+v", r)
		}
	})
}

func TestR5ConcurrentCopiesAreRecordedOnce(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		var created, repeated atomic.Int32
		var all sync.WaitGroup
		for i := range 24 {
			all.Go(func() {
				switch r := in.send(message{id: "msg_" + strconv.Itoa(i%2), body: removal("evt_1")}); r.status {
				case http.StatusCreated:
					created.Add(1)
				case http.StatusOK:
					repeated.Add(1)
				default:
					t.Errorf("%+v", r)
				}
			})
		}
		all.Wait()
		if created.Load() != 1 || repeated.Load() != 23 {
			t.Errorf("%d created, %d repeated", created.Load(), repeated.Load())
		}
	})
}

func TestR4EveryKnownAndUnknownTypeIsTaken(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	n := 0
	for _, name := range events.FixtureTypes() {
		body, ok := events.Fixture(name)
		if !ok {
			t.Fatal(name)
		}
		ev, err := events.Parse(body)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(body), ev.EnvironmentID, environment, 1)
		if r := in.send(message{id: fmt.Sprint("msg_", n), body: text}); r.status/100 != 2 {
			t.Errorf("%s: %+v", name, r)
		}
		n++
	}
	unknown := `{"spec_version":"1","id":"evt_99","type":"some.future_type","object":"Thing","occurred_at":"2026-01-02T03:04:05Z","environment_id":"` + environment + `","data":{"a":"\u0000"}}`
	if r := in.send(message{id: "msg_future", body: unknown}); r.status != http.StatusCreated || r.effect != "ignored" {
		t.Errorf("an unknown type: %+v", r)
	}
	if ev, err := in.store.Event(t.Context(), "evt_99", ""); err != nil || ev.Type != "some.future_type" || n < 10 {
		t.Errorf("%+v of %d: %v", ev, n, err)
	}
}

func TestR2R3WhatIsRefused(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		body := removal("evt_1")
		large := strings.Repeat(" ", events.MaxSize) + body
		with := func(name string, values ...string) http.Header { return http.Header{name: values} }
		edited := func(old, replacement string) string { return strings.Replace(body, old, replacement, 1) }
		for name, c := range map[string]struct {
			m        message
			status   int
			location string
			counted  string
		}{
			"unknown source":         {message{path: "/webhooks/other"}, 404, "path.source", "unknown source"},
			"hostile source":         {message{path: "/webhooks/%00%ff"}, 404, "path.source", "unknown source"},
			"long source":            {message{path: "/webhooks/" + strings.Repeat("a", 64)}, 404, "path.source", "unknown source"},
			"no source":              {message{path: "/webhooks/"}, 404, "path.source", "unknown source"},
			"deeper path":            {message{path: "/webhooks/idp/x"}, 404, "path.source", "unknown source"},
			"GET":                    {message{method: http.MethodGet}, 405, "", "idp method"},
			"too large":              {message{body: large}, 413, "body", "idp size"},
			"too large, chunked":     {message{body: large, reader: io.MultiReader(strings.NewReader(large))}, 413, "body", "idp size"},
			"large before media":     {message{body: large, header: with("Content-Type", "text/plain")}, 413, "body", "idp size"},
			"media":                  {message{header: with("Content-Type", "text/plain")}, 415, "header.Content-Type", "idp media"},
			"no media":               {message{header: with("Content-Type")}, 415, "header.Content-Type", "idp media"},
			"media before signature": {message{key: signing.NewKey(), header: with("Content-Type", "application/jsonx")}, 415, "header.Content-Type", "idp media"},
			"encoded":                {message{header: with("Content-Encoding", "gzip")}, 415, "header.Content-Encoding", "idp media"},
			"encoded as itself":      {message{header: with("Content-Encoding", "identity")}, 415, "header.Content-Encoding", "idp media"},
			"no id":                  {message{header: with(signing.HeaderID)}, 401, "header", "idp header"},
			"two ids":                {message{header: with(signing.HeaderID, "a", "b")}, 401, "header", "idp header"},
			"long id":                {message{header: with(signing.HeaderID, strings.Repeat("x", 257))}, 401, "header", "idp header"},
			"no timestamp":           {message{header: with(signing.HeaderTimestamp)}, 401, "header", "idp header"},
			"odd timestamp":          {message{header: with(signing.HeaderTimestamp, "+1"+strconv.FormatInt(time.Now().Unix(), 10))}, 401, "header", "idp header"},
			"no signature":           {message{header: with(signing.HeaderSignature)}, 401, "header", "idp header"},
			"long signature":         {message{header: with(signing.HeaderSignature, "v1,"+strings.Repeat("a", 5000))}, 401, "header", "idp header"},
			"empty signature":        {message{header: with(signing.HeaderSignature, "v1,")}, 401, "header.webhook-signature", "idp signature"},
			"wrong key":              {message{key: signing.NewKey()}, 401, "header.webhook-signature", "idp signature"},
			"another id":             {message{header: with(signing.HeaderID, "msg_other")}, 401, "header.webhook-signature", "idp signature"},
			"too old":                {message{at: time.Now().Add(-6 * time.Minute)}, 401, "header.webhook-timestamp", "idp time"},
			"too new":                {message{at: time.Now().Add(6 * time.Minute)}, 401, "header.webhook-timestamp", "idp time"},
			"signature before parse": {message{body: "{", key: signing.NewKey()}, 401, "header.webhook-signature", "idp signature"},
			"not JSON":               {message{body: "{"}, 400, "body", "idp event"},
			"empty":                  {message{body: " "}, 400, "body", "idp event"},
			"list":                   {message{body: "[" + body + "]"}, 400, "body", "idp event"},
			"trailing data":          {message{body: body + "{}"}, 400, "body", "idp event"},
			"invalid UTF-8":          {message{body: edited("usr_118200000000001001", "usr_\xff")}, 400, "body", "idp event"},
			"half a surrogate":       {message{body: edited(`"evt_1"`, `"evt_\ud800"`)}, 400, "body", "idp event"},
			"half of one in data":    {message{body: edited(`"data":{`, `"data":{"x":"\udc00",`)}, 400, "body", "idp event"},
			"duplicate escaped key":  {message{body: edited(`"data":{`, `"data":{"user":{},"\u0075ser":{},`)}, 400, "body", "idp event"},
			"duplicate key":          {message{body: edited(`"spec_version":"1",`, `"spec_version":"1","spec_version":"1",`)}, 400, "body", "idp event"},
			"no type":                {message{body: edited(`"type":"user.organization_membership_deleted",`, ``)}, 400, "body.type", "idp event"},
			"no occurred_at":         {message{body: edited(`"occurred_at":"2026-01-02T03:04:05Z",`, ``)}, 400, "body.occurred_at", "idp event"},
			"wrong prefix":           {message{body: edited(`"evt_1"`, `"msg_1"`)}, 400, "body.id", "idp event"},
			"NUL in an id":           {message{body: edited(`"evt_1"`, `"evt_1\u0000"`)}, 400, "body.id", "idp event"},
			"too deep":               {message{body: edited(`"data":{`, `"data":{"x":`+strings.Repeat("[", 70)+strings.Repeat("]", 70)+`,`)}, 400, "body", "idp event"},
			"65 levels":              {message{body: edited(`"data":{`, `"data":{"x":`+strings.Repeat("[", 63)+strings.Repeat("]", 63)+`,`)}, 400, "body", "idp event"},
			"ids of another kind":    {message{body: edited(`"usr_118200000000001001"`, `118200000000001001`)}, 400, "body.data.user.id", "idp event"},
			"NUL in a person's id":   {message{body: edited(`"usr_118200000000001001"`, `"usr_\u0000"`)}, 400, "body.data.user.id", "idp event"},
			"NUL in the type":        {message{body: edited(`"user.organization_membership_deleted"`, `"user\u0000"`)}, 400, "body.type", "idp event"},
			"a time in words":        {message{body: edited(`"2026-01-02T03:04:05Z"`, `"soon"`)}, 400, "body.occurred_at", "idp event"},
			"a huge number as time":  {message{body: edited(`"2026-01-02T03:04:05Z"`, `1e999999`)}, 400, "body.occurred_at", "idp event"},
			"a flood of signatures":  {message{header: with(signing.HeaderSignature, slices.Repeat([]string{"v1,AAAA"}, 5000)...)}, 401, "header", "idp header"},
			"a flood of ids":         {message{header: with(signing.HeaderID, slices.Repeat([]string{"msg_1"}, 5000)...)}, 401, "header", "idp header"},
			"many entries":           {message{header: with(signing.HeaderSignature, strings.Repeat("v1,A ", 800))}, 401, "header", "idp header"},
			"no ASCII in the id":     {message{header: with(signing.HeaderID, "msg\xff")}, 401, "header", "idp header"},
			"another environment":    {message{body: edited(environment, "env_2")}, 400, "body.environment_id", "idp environment"},
		} {
			if c.m.id == "" {
				c.m.id = "msg_1"
			}
			if c.m.body == "" {
				c.m.body = body
			}
			r := in.send(c.m)
			if counted := in.rejected(); r.status != c.status || r.location != c.location || counted != c.counted {
				t.Errorf("%s: %+v, counted as %q", name, r, counted)
			}
			if c.status == http.StatusMethodNotAllowed && r.header.Get("Allow") != http.MethodPost {
				t.Errorf("%s: Allow is %q", name, r.header.Get("Allow"))
			}
		}
		if n := in.events(); n != 0 {
			t.Errorf("%d events were recorded", n)
		}
		if r := in.send(message{id: "msg_1", body: body, header: http.Header{"Content-Type": {"application/json; charset=utf-8"}}}); r.status != http.StatusCreated {
			t.Errorf("a parameter of the media type: %+v", r)
		}
	})
}

// TestR1OnlyTheWebhookHeadersCount replays a captured message under svix-* headers.
func TestR1OnlyTheWebhookHeadersCount(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	body, at := removal("evt_1"), time.Now()
	hook, err := svix.NewWebhook(in.key.Secret())
	if err != nil {
		t.Fatal(err)
	}
	signature, err := hook.Sign("msg_1", at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	captured := http.Header{
		"Svix-Id": {"msg_1"}, "Svix-Timestamp": {strconv.FormatInt(at.Unix(), 10)}, "Svix-Signature": {signature}, signing.HeaderID: {"msg_new"},
	}
	if r := in.send(message{id: "msg_1", body: body, at: at, header: captured}); r.status != http.StatusUnauthorized {
		t.Errorf("a captured message under a new webhook-id: %+v", r)
	}
	delete(captured, signing.HeaderID)
	captured["Svix-Id"] = []string{"msg_other"}
	if r := in.send(message{id: "msg_1", body: body, at: at, header: captured}); r.status != http.StatusCreated {
		t.Errorf("svix-* headers beside a valid message: %+v", r)
	}
}

func TestSourcesAreSeenAsTheyAre(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		ctx, n := t.Context(), 0
		try := func(path string, key signing.Key) int {
			t.Helper()
			n++
			return in.send(message{id: fmt.Sprint("msg_", n), body: removal(fmt.Sprint("evt_", n)), path: path, key: key}).status
		}
		if got := try("/webhooks/new", in.key); got != 404 {
			t.Fatal(got)
		}
		added, err := in.store.CreateSource(ctx, store.Source{Name: "new", Kind: "scalekit", EnvironmentID: environment}, in.key)
		if err != nil {
			t.Fatal(err)
		}
		if got := try("/webhooks/new", in.key); got != 201 {
			t.Errorf("a new source: %d", got)
		}
		// A new secret counts at once, the old one until its end.
		second := signing.NewKey()
		if _, err := in.store.RotateSourceSecret(ctx, added.ID, second, time.Hour); err != nil {
			t.Fatal(err)
		}
		for _, key := range []signing.Key{second, in.key} {
			if got := try("/webhooks/new", key); got != 201 {
				t.Errorf("after a rotation: %d", got)
			}
		}
		if _, err := in.store.RotateSourceSecret(ctx, added.ID, signing.NewKey(), 0); err != nil {
			t.Fatal(err)
		}
		in.now.Add(int64(time.Second)) // by now every process knows
		if got := try("/webhooks/new", second); got != 401 {
			t.Errorf("a secret that has ended: %d", got)
		}
		if got := try("/webhooks/idp", in.key); got != 201 {
			t.Errorf("the first source: %d", got)
		}
		if _, err := in.store.UpdateSource(ctx, in.source.ID, "", store.SourceDisabled, ""); err != nil {
			t.Fatal(err)
		}
		in.handler.Forget()
		in.rejected()
		if got := try("/webhooks/idp", in.key); got != 404 || in.rejected() != "idp source" {
			t.Errorf("a disabled source: %d", got)
		}
		if _, err := in.store.UpdateSource(ctx, in.source.ID, "env_2", store.SourceEnabled, ""); err != nil {
			t.Fatal(err)
		}
		in.now.Add(int64(time.Second))
		if got := try("/webhooks/idp", in.key); got != 400 {
			t.Errorf("a source of another environment: %d", got)
		}
		if err := in.store.DeleteSource(ctx, in.source.ID); err != nil {
			t.Fatal(err)
		}
		in.now.Add(int64(time.Second))
		if got := try("/webhooks/idp", in.key); got != 404 {
			t.Errorf("a deleted source: %d", got)
		}
	})
}

type broken struct{ err error }

func (b broken) Record(context.Context, ingest.Request) (ingest.Result, error) {
	return ingest.Result{}, b.err
}

func TestR4OnlyFailureToRecordIsA5xx(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	works := in.handler.Recorder
	in.handler.Recorder = broken{fmt.Errorf("%w: %w", ingest.ErrUnavailable, errors.New("disk full"))}
	r := in.send(message{id: "msg_1", body: removal("evt_1")})
	if counted := in.rejected(); r.status != http.StatusServiceUnavailable || r.header.Get("Retry-After") == "" || counted != "idp unavailable" {
		t.Errorf("%+v, counted as %q", r, counted)
	}
	in.handler.Recorder = works
	if r := in.send(message{id: "msg_1", body: removal("evt_1")}); r.status != http.StatusCreated {
		t.Errorf("sent again: %+v", r)
	}
	in.now.Store(int64(2 * time.Second)) // what is known of the source is too old
	if err := in.store.Close(); err != nil {
		t.Fatal(err)
	}
	if r := in.send(message{id: "msg_2", body: removal("evt_2")}); r.status != http.StatusServiceUnavailable {
		t.Errorf("without a database: %+v", r)
	}
}

func TestABodyThatIsCutOffIsNotRecorded(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	body := removal("evt_1")
	h := http.Header{}
	if err := (signing.Signer{Keys: []signing.Key{in.key}}).SetHeaders(h, "msg_1", time.Now(), []byte(body)); err != nil {
		t.Fatal(err)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(in.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /webhooks/idp HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n", len(body)+10)
	_ = h.Write(conn)
	fmt.Fprintf(conn, "\r\n%s", body)
	_ = conn.Close()
	testenv.Until(t, 10*time.Second, "it was not counted", func() bool { return in.rejected() == "idp body" })
	if n := in.events(); n != 0 {
		t.Errorf("%d events", n)
	}
}

// TestALargeBodyIsRefusedUnread announces one and sends nothing of it.
func TestALargeBodyIsRefusedUnread(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(in.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /webhooks/idp HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", events.MaxSize+1)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("it is answered %d", res.StatusCode)
	}
}

func TestReasonsAreClosed(t *testing.T) {
	t.Parallel()
	all := webhook.Reasons()
	slices.Sort(all)
	if len(all) != 13 || len(slices.Compact(all)) != 13 {
		t.Errorf("%v", all)
	}
}
