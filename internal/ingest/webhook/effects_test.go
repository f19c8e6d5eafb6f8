package webhook_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/ingest/webhook"
	"github.com/handover-dev/handover/internal/ingest/webhook/webhooktest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/signing"
)

// known stands in for the directory: it records, and an event means what the
// test says.
type known struct {
	recorder webhook.Recorder
	effects  map[string]directory.Effect // by event id; else recorded
	err      error
	mu       sync.Mutex
	asked    []string // types
}

func (k *known) Apply(ctx context.Context, in directory.Inbound) (directory.Applied, error) {
	k.mu.Lock()
	k.asked = append(k.asked, in.Event.Type)
	k.mu.Unlock()
	if k.err != nil {
		return directory.Applied{}, k.err
	}
	res, err := k.recorder.Record(ctx, ingest.Request{Events: []events.Event{in.Event}, Inbox: &in.Inbox})
	if err != nil {
		return directory.Applied{}, err
	}
	done := directory.Applied{EventID: res.IDs[0], Repeated: res.Duplicates[0], Effect: directory.EffectKnown}
	if !done.Repeated {
		done.Effect = k.effects[in.Event.ID]
		if done.Effect == "" {
			done.Effect = directory.EffectRecorded
		}
	}
	return done, nil
}

// means are the types that can change who is a member, or of sessions.
var means = []string{
	"organization.deleted", "organization.directory.user_created", "organization.directory.user_deleted", "organization.directory.user_updated",
	"user.deleted", "user.login", "user.logout", "user.organization_invitation", "user.organization_membership_created",
	"user.organization_membership_deleted", "user.organization_membership_updated", "user.signup",
}

func (in *inbound) knows(effects map[string]directory.Effect) *known {
	k := &known{recorder: in.handler.Recorder, effects: effects}
	in.handler.Directory = k
	in.handler.Means = func(typ string) bool { return slices.Contains(means, typ) }
	return k
}

// TestR7TheExamplesMeanWhatTheySay sends all examples. What they mean is the
// directory's to say; here it is asked about the right ones, and believed.
func TestR7TheExamplesMeanWhatTheySay(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		key := signing.NewKey()
		if _, err := in.store.CreateSource(t.Context(), store.Source{Name: "examples", Kind: "scalekit", EnvironmentID: webhooktest.Environment}, key); err != nil {
			t.Fatal(err)
		}
		effects := make(map[string]directory.Effect)
		var asked []string
		for _, e := range webhooktest.Examples() {
			body, _ := events.Fixture(e.Name)
			ev, err := events.Parse(body)
			if err != nil {
				t.Fatalf("%s: %v", e.Name, err)
			}
			effects[ev.ID] = e.Effects[0]
			if slices.Contains(means, ev.Type) {
				asked = append(asked, ev.Type)
			}
		}
		k := in.knows(effects)
		var names []string
		webhooktest.Run(t, webhooktest.Target{URL: in.url + "/webhooks/examples", Key: key}, func(t *testing.T, e webhooktest.Example, _ webhooktest.Answer) {
			names = append(names, e.Name)
			if len(names) == len(webhooktest.Examples()) {
				if diff := cmp.Diff(asked, k.asked); diff != "" {
					t.Errorf("the directory was asked about: %s", diff)
				}
			}
		})
		if slices.Sort(names); !slices.Equal(names, events.FixtureNames()) {
			t.Errorf("not all examples were sent: %v", names)
		}
		if n := in.events(); n != len(names) {
			t.Errorf("%d events were recorded, not %d", n, len(names))
		}
		if got := in.rejected(); got != "" {
			t.Errorf("rejected: %s", got)
		}
	})
}

func TestEffectsAreAnswered(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	k := in.knows(map[string]directory.Effect{"evt_1": directory.EffectRemoved, "evt_2": directory.EffectKnown, "evt_3": directory.EffectStale, "evt_4": directory.EffectAdded})
	for id, want := range map[string]struct {
		status int
		effect string
	}{"evt_1": {201, "removed"}, "evt_2": {200, "known"}, "evt_3": {201, "stale"}, "evt_4": {201, "added"}, "evt_5": {201, "recorded"}} {
		if r := in.send(message{id: "msg_" + id, body: removal(id)}); r.status != want.status || r.effect != want.effect || r.id != id || r.duplicate {
			t.Errorf("%s: %+v", id, r)
		}
		if r := in.send(message{id: "msg_" + id, body: removal(id)}); r.status != 200 || r.effect != "known" || r.id != id || !r.duplicate {
			t.Errorf("%s again: %+v", id, r)
		}
	}
	in.rejected()
	for _, c := range []struct {
		err      error
		status   int
		location string
		counted  string
	}{
		{ingest.ErrWebhookConflict, 409, "header.webhook-id", "idp conflict"},
		{ingest.ErrEventConflict, 409, "body.id", "idp conflict"},
		{ingest.ErrUnavailable, 503, "", "idp unavailable"},
		{io.ErrUnexpectedEOF, 503, "", "idp unavailable"},
	} {
		k.err = fmt.Errorf("apply: %w", c.err)
		r := in.send(message{id: "msg_new", body: removal("evt_new")})
		if counted := in.rejected(); r.status != c.status || r.location != c.location || counted != c.counted || (r.header.Get("Retry-After") == "1") != (c.status == 503) {
			t.Errorf("%v: %+v, counted as %s", c.err, r, counted)
		}
	}
}

// TestR6ASlowCommitIsAnsweredInTime lets a commit hang: a sender gives up after
// 10 s, and has to hear before that nothing is known of the event.
func TestR6ASlowCommitIsAnsweredInTime(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	now := time.Now()
	in.handler.Now = func() time.Time { return now } // the source stays remembered
	if r := in.send(message{id: "msg_1", body: removal("evt_1"), at: now}); r.status != http.StatusCreated {
		t.Fatalf("%+v", r)
	}
	in.handler.Recorder = hanging{}
	synctest.Test(t, func(t *testing.T) {
		began, w := time.Now(), httptest.NewRecorder()
		in.handler.ServeHTTP(w, in.request(t, "/webhooks/idp", "msg_2", []byte(removal("evt_2")), now))
		if took := time.Since(began); w.Code != http.StatusServiceUnavailable || took >= 10*time.Second || took < time.Second {
			t.Errorf("%d after %v", w.Code, took)
		}
	})
}

// hanging is a recorder that waits for as long as it may.
type hanging struct{}

func (hanging) Record(ctx context.Context, _ ingest.Request) (ingest.Result, error) {
	<-ctx.Done()
	return ingest.Result{}, fmt.Errorf("%w: %w", ingest.ErrUnavailable, ctx.Err())
}

// request is a signed one that needs no server.
func (in *inbound) request(tb testing.TB, path, id string, body []byte, at time.Time) *http.Request {
	tb.Helper()
	r := httptest.NewRequestWithContext(tb.Context(), http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{in.key}}).SetHeaders(r.Header, id, at, body); err != nil {
		tb.Fatal(err)
	}
	return r
}

func TestWhateverTextsHoldIsTaken(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		for i, data := range []string{
			`"x":"\u0000"`, `"\u0000":1`, `"x":1e999999`, `"x":-0.0000000000000000000000000000000000000001`, `"x":` + strings.Repeat("9", 5000),
			`"x":"\ud83d\ude00"`, `"x":"<script>&\u2028"`, `"x":` + strings.Repeat("[", 62) + strings.Repeat("]", 62), `"x":"` + strings.Repeat("a", 1<<19) + `"`,
		} {
			id := fmt.Sprint("evt_", i)
			body := strings.Replace(removal(id), `"data":{`, `"data":{`+data+`,`, 1)
			m := message{id: fmt.Sprint("msg_", i), body: body}
			if i%2 == 1 {
				m.reader = io.MultiReader(strings.NewReader(body)) // in chunks
			}
			if r := in.send(m); r.status != http.StatusCreated {
				t.Errorf("%.40s: %+v", data, r)
				continue
			}
			if ev, err := in.store.Event(t.Context(), id, environment); err != nil || ev.UserID != "usr_118200000000001001" {
				t.Errorf("%.40s: %+v: %v", data, ev, err)
			}
		}
		junk := http.Header{}
		for i := range 2000 {
			junk[fmt.Sprint("X-Junk-", i)] = []string{"webhook-id"}
		}
		if r := in.send(message{id: "msg_junk", body: removal("evt_junk"), header: junk}); r.status != http.StatusCreated {
			t.Errorf("a flood of headers: %+v", r)
		}
	})
}

// standard adds a source of the kind standard.
func (in *inbound) standard(name, change string) store.Source {
	in.t.Helper()
	m, err := os.ReadFile("mapping/testdata/mapping.json")
	if err != nil {
		in.t.Fatal(err)
	}
	text := string(m)
	if change != "" {
		text = strings.Replace(text, "{", "{"+change+",", 1)
	}
	src, err := in.store.CreateSource(in.t.Context(), store.Source{Name: name, Kind: "standard", EnvironmentID: environment, Mapping: text}, in.key)
	if err != nil {
		in.t.Fatal(err)
	}
	return src
}

func foreign(tb testing.TB) string {
	tb.Helper()
	body, err := os.ReadFile("mapping/testdata/removed.json")
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

func TestAnyStandardWebhookIsMapped(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		src, body := in.standard("crm", ""), foreign(t)
		in.standard("own", `"id": "/data/by"`)
		k := in.knows(nil)
		send := func(path, id, body string) reply {
			t.Helper()
			return in.send(message{path: "/webhooks/" + path, id: id, body: body})
		}
		first := send("crm", "msg_1", body)
		if first.status != 201 || first.effect != "recorded" || first.duplicate || !strings.HasPrefix(first.id, "evt_") || !slices.Equal(k.asked, []string{"user.organization_membership_deleted"}) {
			t.Fatalf("%+v, asked %v", first, k.asked)
		}
		ev, err := in.store.Event(t.Context(), first.id, environment)
		if err != nil || ev.OrganizationID != "org_northwind" || ev.UserID != "usr_1001" || !strings.Contains(string(ev.Body), `"raw":{"type":"member.removed"`) {
			t.Errorf("recorded %+v: %v", ev, err)
		}
		if r := send("crm", "msg_1", body); r.status != 200 || !r.duplicate || r.id != first.id {
			t.Errorf("again: %+v", r)
		}
		if r := send("crm", "msg_1", body+" "); r.status != 409 || r.location != "header.webhook-id" {
			t.Errorf("another body: %+v", r)
		}
		if r := send("crm", "msg_2", body); r.status != 201 || r.id == first.id {
			t.Errorf("another message: %+v", r)
		}
		added := strings.Replace(body, "member.removed", "member.added", 1)
		if r := send("crm", "msg_3", added); r.status != 201 || k.asked[len(k.asked)-1] != "user.organization_membership_created" {
			t.Errorf("an addition: %+v, asked %v", r, k.asked)
		}
		in.rejected()
		if r := send("crm", "msg_4", strings.Replace(body, "northwind", "", 1)); r.status != 400 || r.location != "body/data/workspace/id" || in.rejected() != "crm event" {
			t.Errorf("without an organization: %+v", r)
		}
		if r := send("crm", "msg_5", "{"); r.status != 400 || r.location != "body" || in.rejected() != "crm event" {
			t.Errorf("not JSON: %+v", r)
		}
		if r := in.send(message{path: "/webhooks/crm", id: "msg_6", body: body, key: signing.NewKey()}); r.status != 401 || in.rejected() != "crm signature" {
			t.Errorf("not signed: %+v", r)
		}

		// An id of the sender's own makes copies of what differs only in the message.
		named := strings.Replace(body, "null", `"8f0c"`, 1)
		own := send("own", "msg_1", named)
		if r := send("own", "msg_2", named); own.status != 201 || r.status != 200 || r.id != own.id || r.effect != "known" {
			t.Errorf("%+v, then %+v", own, r)
		}
		if r := send("own", "msg_3", strings.Replace(named, "77", "78", 1)); r.status != 409 || r.location != "body.id" {
			t.Errorf("the same id, another event: %+v", r)
		}
		if r := send("own", "msg_4", body); r.status != 400 || r.location != "body/data/by" {
			t.Errorf("no id: %+v", r)
		}

		// What is not mapped is taken and leaves nothing but its count.
		before, asked := in.events(), len(k.asked)
		for range 2 {
			if r := send("crm", "msg_7", strings.Replace(body, "member.removed", "member.\\u0000seen", 1)); r.status != 200 || r.effect != "unmapped" || r.id != "" || r.duplicate {
				t.Errorf("not mapped: %+v", r)
			}
		}
		if in.events() != before || len(k.asked) != asked {
			t.Errorf("what is not mapped was recorded")
		}
		if err := in.handler.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := in.store.Source(t.Context(), src.ID)
		if err != nil || len(got.Unmapped) != 1 || got.Unmapped[0].What != "member.?seen" || got.Unmapped[0].N != 2 || got.Received != 6 || len(got.Rejections) != 3 {
			t.Errorf("counted %+v: %v", got, err)
		}

		// A new mapping counts for the next webhook.
		if _, err := in.store.UpdateSource(t.Context(), src.ID, "", "", strings.Replace(got.Mapping, "member.added", "member.seen", 1)); err != nil {
			t.Fatal(err)
		}
		in.handler.Forget()
		if r := send("crm", "msg_8", strings.Replace(body, "member.removed", "member.seen", 1)); r.status != 201 {
			t.Errorf("with the new mapping: %+v", r)
		}
	})
}

func TestConcurrentCopiesOfAMappedEventAreRecordedOnce(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		in.standard("crm", `"id": "/data/workspace/id"`)
		body := foreign(t)
		var created, repeated atomic.Int32
		var all sync.WaitGroup
		for i := range 16 {
			all.Go(func() {
				switch r := in.send(message{path: "/webhooks/crm", id: fmt.Sprint("msg_", i%3), body: body}); r.status {
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
		if n := in.events(); created.Load() != 1 || repeated.Load() != 15 || n != 1 {
			t.Errorf("%d created, %d repeated, %d events", created.Load(), repeated.Load(), n)
		}
	})
}

// TestAMappingThatCannotBeReadIsOurFault meets what a later version may write.
func TestAMappingThatCannotBeReadIsOurFault(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	in.standard("crm", `"later": "/x"`)
	if r := in.send(message{path: "/webhooks/crm", id: "msg_1", body: foreign(t)}); r.status != http.StatusServiceUnavailable {
		t.Errorf("%+v", r)
	}
	if r := in.send(message{id: "msg_1", body: removal("evt_1")}); r.status != http.StatusCreated {
		t.Errorf("the other source: %+v", r)
	}
}

func TestWhatBecomesOfWebhooksIsCounted(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, in *inbound) {
		ctx := t.Context()
		read := func() (rejections, unmapped map[string]int64, src store.Source) {
			t.Helper()
			src, err := in.store.Source(ctx, in.source.ID)
			if err != nil {
				t.Fatal(err)
			}
			rejections, unmapped = make(map[string]int64), make(map[string]int64)
			for _, c := range src.Rejections {
				rejections[c.What] = c.N
			}
			for _, c := range src.Unmapped {
				unmapped[c.What] = c.N
			}
			return rejections, unmapped, src
		}
		in.send(message{id: "msg_1", body: removal("evt_1")})
		in.send(message{id: "msg_1", body: removal("evt_1")})
		in.send(message{id: "msg_2", body: "{"})
		in.send(message{id: "msg_3", body: removal("evt_3"), key: signing.NewKey()})
		in.send(message{id: "msg_3", body: removal("evt_3"), method: http.MethodGet})
		in.send(message{path: "/webhooks/other", id: "msg_3", body: removal("evt_3")})
		future := strings.NewReplacer("user.organization_membership_deleted", "user.vanished", "OrgMembership", "Thing")
		in.send(message{id: "msg_4", body: future.Replace(removal("evt_4"))})
		if _, _, src := read(); src.Received != 0 {
			t.Errorf("each request writes: %+v", src)
		}
		// The process ends: what it counted is written.
		ended, end := context.WithCancel(ctx)
		end()
		if err := in.handler.Run(ended); err != nil {
			t.Fatal(err)
		}
		rejections, unmapped, src := read()
		if diff := cmp.Diff(map[string]int64{"event": 1, "signature": 1, "method": 1}, rejections); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(map[string]int64{"user.vanished": 1}, unmapped); diff != "" {
			t.Error(diff)
		}
		if src.Received != 3 || time.Since(src.LastEventAt) > time.Hour {
			t.Errorf("%d, last %v", src.Received, src.LastEventAt)
		}
		// What cannot be written now is written later, once.
		in.send(message{id: "msg_1", body: removal("evt_1")})
		gone, cancel := context.WithCancel(ctx)
		cancel()
		if err := in.handler.Flush(gone); err == nil {
			t.Error("it was written")
		}
		for range 2 {
			if err := in.handler.Flush(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, src := read(); src.Received != 4 {
			t.Errorf("%d after a failure", src.Received)
		}
	})
}

func TestTypesAreToldApartOnlySoFar(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	src := in.standard("crm", "")
	for i := range store.MaxUnmappedTypes + 5 {
		if r := in.send(message{path: "/webhooks/crm", id: "msg_1", body: fmt.Sprintf(`{"type":"%d%s"}`, i, strings.Repeat("ü", 1000))}); r.effect != "unmapped" {
			t.Fatalf("%+v", r)
		}
	}
	if err := in.handler.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := in.store.Source(t.Context(), src.ID)
	if err != nil || len(got.Unmapped) != store.MaxUnmappedTypes+1 || got.Unmapped[0].What != store.OtherTypes || got.Unmapped[0].N != 5 {
		t.Errorf("%d: %+v: %v", len(got.Unmapped), got.Unmapped[0], err)
	}
	for _, c := range got.Unmapped {
		if len(c.What) > 110 {
			t.Errorf("%d bytes of a type are kept", len(c.What))
		}
	}
}

// TestWhoSignsWronglyHasToWait floods a source with signatures that do not hold.
func TestWhoSignsWronglyHasToWait(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	if _, err := in.store.CreateSource(t.Context(), store.Source{Name: "second", Kind: "scalekit", EnvironmentID: environment}, in.key); err != nil {
		t.Fatal(err)
	}
	var from atomic.Value
	from.Store("192.0.2.1")
	in.handler.Address = func(*http.Request) string { return from.Load().(string) }
	in.handler.Failures.Rate, in.handler.Failures.Burst = 0.25, 5
	now := time.Now()
	var ahead atomic.Int64
	in.handler.Failures.Now = func() time.Time { return now.Add(time.Duration(ahead.Load())) }
	for i := range 5 {
		m := message{id: "msg_1", body: removal("evt_1"), key: signing.NewKey()}
		if i == 4 {
			m.key, m.at = in.key, now.Add(-time.Hour)
		}
		if r := in.send(m); r.status != http.StatusUnauthorized {
			t.Errorf("%d: %+v", i, r)
		}
	}
	in.rejected()
	good := message{id: "msg_1", body: removal("evt_1")}
	bad := message{id: "msg_1", body: removal("evt_1"), key: signing.NewKey()}
	if r := in.send(bad); r.status != http.StatusTooManyRequests || r.header.Get("Retry-After") != "4" || in.rejected() != "idp blocked" {
		t.Errorf("blocked: %+v", r)
	}
	if r := in.send(good); r.status != http.StatusCreated { // strangers do not cut off who signs
		t.Errorf("a signature that holds: %+v", r)
	}
	second := bad
	second.path = "/webhooks/second"
	if r := in.send(second); r.status != http.StatusUnauthorized {
		t.Errorf("another source: %+v", r)
	}
	from.Store("192.0.2.2")
	if r := in.send(bad); r.status != http.StatusUnauthorized {
		t.Errorf("another address: %+v", r)
	}
	from.Store("192.0.2.1")
	ahead.Store(int64(8 * time.Second))
	if r := in.send(bad); r.status != http.StatusUnauthorized {
		t.Errorf("after the wait: %+v", r)
	}
	for range 20 { // what holds costs nothing
		if r := in.send(good); r.status != http.StatusOK {
			t.Errorf("after the wait: %+v", r)
		}
	}
	for range 20 { // neither does what is refused for other reasons
		if r := in.send(message{id: "msg_2", body: "{"}); r.status != http.StatusBadRequest {
			t.Errorf("not an event: %+v", r)
		}
		if r := in.send(message{id: "msg_2", body: "{}", header: http.Header{"Content-Type": {"text/plain"}}}); r.status != http.StatusUnsupportedMediaType {
			t.Errorf("not JSON: %+v", r)
		}
	}
}

// TestAddressesAreThoseOfConnections blocks the real one.
func TestAddressesAreThoseOfConnections(t *testing.T) {
	t.Parallel()
	in := newInbound(t, store.Config{Dir: t.TempDir()})
	in.handler.Failures.Burst, in.handler.Failures.Rate = 1, 0.001
	for _, want := range []int{401, 429} { // by two connections, from two ports
		http.DefaultClient.CloseIdleConnections()
		if r := in.send(message{id: "msg_1", body: removal("evt_1"), key: signing.NewKey()}); r.status != want {
			t.Errorf("%+v", r)
		}
	}
}

// taking records nothing and takes everything.
type taking struct{}

func (taking) Record(_ context.Context, req ingest.Request) (ingest.Result, error) {
	return ingest.Result{IDs: []string{req.Events[0].ID}, Duplicates: []bool{false}}, nil
}

func (taking) Apply(_ context.Context, in directory.Inbound) (directory.Applied, error) {
	return directory.Applied{EventID: in.Event.ID, Effect: directory.EffectRemoved}, nil
}

// FuzzWebhook sends any body, signed as it should be, to a source of each kind.
func FuzzWebhook(f *testing.F) {
	for _, name := range events.FixtureNames() {
		body, _ := events.Fixture(name)
		f.Add(bytes.ReplaceAll(body, []byte(webhooktest.Environment), []byte(environment)))
	}
	for _, text := range []string{"", "{", "[]", foreign(f), `{"type":"member.added","timestamp":1e9,"data":null}`, `{"type":"a","type":"b"}`, strings.Repeat("[", 100)} {
		f.Add([]byte(text))
	}
	db, err := store.Open(f.Context(), store.Config{Dir: f.TempDir(), MasterKey: store.NewMasterKey()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = db.Close() })
	mapped, err := os.ReadFile("mapping/testdata/mapping.json")
	if err != nil {
		f.Fatal(err)
	}
	in := &inbound{store: db, key: signing.NewKey()}
	for _, src := range []store.Source{{Name: "idp", Kind: "scalekit"}, {Name: "crm", Kind: "standard", Mapping: string(mapped)}} {
		src.EnvironmentID = environment
		if _, err := db.CreateSource(f.Context(), src, in.key); err != nil {
			f.Fatal(err)
		}
	}
	now := time.Now()
	in.handler = &webhook.Handler{Store: db, Recorder: taking{}, Directory: taking{}, Means: func(typ string) bool { return typ < "user.m" }, Now: func() time.Time { return now }}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, path := range []string{"/webhooks/idp", "/webhooks/crm"} {
			w := httptest.NewRecorder()
			in.handler.ServeHTTP(w, in.request(t, path, "msg_1", body, now))
			if w.Code >= 500 || w.Code < 200 || w.Code == http.StatusUnauthorized {
				t.Fatalf("%s: %d %s", path, w.Code, w.Body)
			}
			if w.Code/100 == 2 && !strings.Contains(w.Body.String(), `"effect":"`) {
				t.Fatalf("%s: %s", path, w.Body)
			}
		}
	})
}
