package app_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/dispatch"
	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekittest"
	"github.com/handover-dev/handover/internal/ingest/webhook/webhooktest"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

// envelope is an event with these data.
func envelope(typ, object, env, org, at, data string) []byte {
	return fmt.Appendf(nil, `{"spec_version":"1","id":%q,"type":%q,"object":%q,"occurred_at":%q,"environment_id":%q,"organization_id":%q,"data":%s}`,
		events.NewID(), typ, object, at, env, org, data)
}

// aboutMember is an event about a membership; more are further members of the user.
func aboutMember(typ, env, org, user, email, at, more string) []byte {
	return envelope(typ, "OrgMembership", env, org, at, fmt.Sprintf(`{"organization":{"id":%q},"user":{"id":%q,"email":%q%s}}`, org, user, email, more))
}

// source is an identity provider whose webhooks are taken.
type source struct {
	*testing.T
	webhooktest.Target
	p   *process
	env string
}

// signed are the headers of a webhook.
func (s source) signed(id string, body []byte) http.Header {
	s.Helper()
	h := http.Header{"Content-Type": {"application/json"}}
	if err := (signing.Signer{Keys: []signing.Key{s.Key}}).SetHeaders(h, id, time.Now(), body); err != nil {
		s.Fatal(err)
	}
	return h
}

// answers checks the status of the answer to a request.
func (s source) answers(what string, want int, method string, header http.Header, body []byte) {
	s.Helper()
	if status, answer := send(s, method, s.URL, string(body), header); status != want {
		s.Errorf("%s: %d %s, want %d", what, status, answer, want)
	}
}

// recorded is how often an event is recorded.
func (s source) recorded(body []byte) int {
	s.Helper()
	return len(ask(s, s.p, `SELECT 1 FROM handover_events WHERE environment_id = $1 AND id = $2`, s.env, idOf(s, body)))
}

func idOf(tb testing.TB, body []byte) string {
	tb.Helper()
	var ev struct{ ID string }
	if err := json.Unmarshal(body, &ev); err != nil {
		tb.Fatal(err)
	}
	return ev.ID
}

// person are names that nobody has had yet.
func (s source) person() (org, user, email string) {
	n := people.Add(1)
	return fmt.Sprintf("org_%018d", n), fmt.Sprintf("usr_%018d", n), fmt.Sprintf("person%d@example.com", n)
}

func (s source) status(org, user string) string {
	s.Helper()
	return strings.Join(ask(s, s.p, `SELECT status FROM memberships WHERE environment_id = $1 AND organization_id = $2 AND user_id = $3`, s.env, org, user), ",")
}

func (s source) removals(org, user string) int {
	s.Helper()
	return len(ask(s, s.p, `SELECT 1 FROM handover_events WHERE environment_id = $1 AND organization_id = $2 AND user_id = $3 AND type = $4`, s.env, org, user, events.MembershipRemoved.Name))
}

func (s source) takes(what string, body []byte, effects ...string) webhooktest.Answer {
	s.Helper()
	a := s.Send(s.T, "msg_"+events.NewID(), body)
	for _, effect := range effects {
		if string(a.Effect) == effect && a.Status/100 == 2 {
			return a
		}
	}
	s.Errorf("%s: %+v, want one of %v", what, a, effects)
	return a
}

// What is promised of webhooks that come in.
func TestContractReceiving(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		app := newReceiver(t)
		app.subscribe(t, p, "app")
		s := source{p: p, env: newEnvironment()}
		s.Key = signing.NewKey()
		s.URL = p.base() + "/webhooks/idp"
		must[api.Source](t)(p.client().CreateSource(t.Context(), api.NewSource{Name: "idp", EnvironmentID: s.env, Secret: s.Key.Secret()}))
		t.Run("rules", func(t *testing.T) {
			for name, holds := range receiving {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					s := s
					s.T = t
					holds(s, app)
				})
			}
		})
		t.Run("R6 the answer comes after the record and before the work", func(t *testing.T) {
			s, p := s, p.as(t)
			s.T = t
			answered := make(chan struct{})
			app.mu.Lock()
			app.hang = func(r *http.Request) {
				select {
				case <-answered:
				case <-r.Context().Done():
				}
			}
			app.mu.Unlock()
			org, user, email := s.person()
			body := aboutMember(events.MembershipRemoved.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", "")
			a := s.takes("a removal", body, "removed")
			p.kill()
			close(answered)
			if a.Status != http.StatusCreated || s.recorded(body) != 1 {
				t.Errorf("answered %+v, it is recorded %d times", a, s.recorded(body))
			}
			p.start()
			t.Cleanup(func() { // the new one is ours
				_ = p.cmd.Process.Kill()
				_ = p.cmd.Wait()
			})
			app.await(t, idOf(t, body))
			checkInvariants(t, p)
		})
		app.complain(t)
	})
}

var receiving = map[string]func(s source, app *receiver){
	"R1 only the webhook headers count": func(s source, _ *receiver) {
		org, user, email := s.person()
		body := aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", "")
		captured := s.signed("msg_captured", body)
		as := func(prefix string, id string) http.Header {
			h := http.Header{"Content-Type": {"application/json"}}
			for _, name := range []string{"Id", "Timestamp", "Signature"} {
				h.Set(prefix+name, captured.Get("Webhook-"+name))
			}
			if id != "" {
				h.Set("Webhook-Id", id)
				h.Set("Webhook-Timestamp", captured.Get("Webhook-Timestamp"))
				h.Set("Webhook-Signature", captured.Get("Webhook-Signature"))
			}
			return h
		}
		s.answers("a captured message under a new id", 401, "POST", as("Svix-", "msg_new"), body)
		s.answers("svix headers alone", 401, "POST", as("Svix-", ""), body)
		captured.Set("Svix-Id", "msg_other")
		captured.Set("Svix-Timestamp", "1")
		captured.Set("Svix-Signature", "v1,AAAA")
		s.answers("wrong svix headers beside good ones", 201, "POST", captured, body)
	},
	"R2 the form": func(s source, _ *receiver) {
		org, user, email := s.person()
		body := aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", "")
		with := func(name, value string) http.Header {
			h := s.signed("msg_form", body)
			h.Set(name, value)
			return h
		}
		s.answers("GET", 405, "GET", with("Accept", "*/*"), body)
		s.answers("text", 415, "POST", with("Content-Type", "text/plain"), body)
		s.answers("gzip", 415, "POST", with("Content-Encoding", "gzip"), body)
		s.answers("a long id", 401, "POST", with("Webhook-Id", strings.Repeat("i", 257)), body)
		s.answers("an id that is not ASCII", 401, "POST", with("Webhook-Id", "mésg"), body)
		s.answers("a timestamp of 13 digits", 401, "POST", with("Webhook-Timestamp", "1780000000000"), body)
		s.answers("a signed timestamp", 401, "POST", with("Webhook-Timestamp", "+1780000000"), body)
		s.answers("an old timestamp", 401, "POST", with("Webhook-Timestamp", "1780000000"), body)
		s.answers("a long signature", 401, "POST", with("Webhook-Signature", strings.Repeat("v1,AAAA ", 513)), body)
		large := bytes.Repeat([]byte(" "), 1<<20)
		copy(large, body)
		s.answers("1 MiB", 201, "POST", s.signed("msg_1mib", large), large)
		large = append(large, ' ')
		s.answers("1 MiB and a byte", 413, "POST", s.signed("msg_larger", large), large)
		deep := func(n int) []byte {
			more := `,"deep":` + strings.Repeat("[", n-3) + strings.Repeat("]", n-3) // the event, data, and the user are three
			return aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", more)
		}
		body64 := deep(64)
		s.answers("64 deep", 201, "POST", s.signed("msg_64", body64), body64)
		body65 := deep(65)
		s.answers("65 deep", 400, "POST", s.signed("msg_65", body65), body65)
	},
	"R3 the order, and what is refused": func(s source, _ *receiver) {
		org, user, email := s.person()
		good := string(aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", ""))
		wrong := http.Header{"Content-Type": {"application/json"}, "Webhook-Id": {"msg_1"}, "Webhook-Timestamp": {strconv.FormatInt(time.Now().Unix(), 10)}, "Webhook-Signature": {"v1,AAAA"}}
		s.answers("too large and wrongly signed", 413, "POST", wrong, bytes.Repeat([]byte("x"), 1<<20+1))
		s.answers("not JSON and wrongly signed", 401, "POST", wrong, []byte("{"))
		for what, body := range map[string]string{
			"nothing":             "",
			"not JSON":            "removal",
			"cut off":             good[:len(good)-1],
			"a list":              "[" + good + "]",
			"two":                 good + good,
			"not UTF-8":           strings.Replace(good, email, "\xff", 1),
			"a key twice":         strings.Replace(good, `{"spec_version":"1"`, `{"spec_version":"1","spec_version":"1"`, 1),
			"a key twice, inside": strings.Replace(good, `"email"`, `"id":"usr_1","email"`, 1),
			"no id":               strings.Replace(good, `"id":"evt_`, `"ID":"evt_`, 1),
			"no data":             strings.Replace(good, `"data"`, `"date"`, 1),
			"a number as type":    strings.Replace(good, `"`+events.MembershipCreated.Name+`"`, `1`, 1),
			"no time":             strings.Replace(good, `2026-06-01T00:00:00Z`, `today`, 1),
			"another prefix":      strings.Replace(good, `"evt_`, `"event_`, 1),
			"a user of no form":   strings.Replace(good, `"usr_`, `"user_`, 1),
			"NUL in an id":        strings.Replace(good, user, user+`\u0000`, 1),
			"half a surrogate":    strings.Replace(good, email, `\ud800`, 1),
			"another environment": strings.Replace(good, s.env, "env_1", 1),
		} {
			if body == good {
				s.Fatalf("%s: nothing is wrong with it", what)
			}
			s.answers(what, 400, "POST", s.signed("msg_"+events.NewID(), []byte(body)), []byte(body))
		}
		odd := strings.Replace(good, `"id":"`+org+`"`, `"id":"`+org+`","display_name":"a\u0000b"`, 1)
		s.answers("NUL in a text", 201, "POST", s.signed("msg_odd", []byte(odd)), []byte(odd))
	},
	"R4 what is not known is taken": func(s source, app *receiver) {
		org, user, email := s.person()
		unknown := envelope("user.some_future_event", "Future", s.env, org, "2026-06-01T00:00:00Z", `{"user":{"id":"`+user+`"}}`)
		s.takes("an unknown type", unknown, "ignored")
		nobody := aboutMember(events.MembershipRemoved.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", "")
		s.takes("an unknown person", nobody, "removed")
		app.await(s.T, idOf(s, unknown), idOf(s, nobody))
	},
	"R5 each is recorded once": func(s source, _ *receiver) {
		org, user, email := s.person()
		body := aboutMember(events.MembershipRemoved.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", "")
		s.answers("the first", 201, "POST", s.signed("msg_r5", body), body)
		s.answers("a copy", 200, "POST", s.signed("msg_r5", body), body)
		s.answers("the event in another webhook", 200, "POST", s.signed("msg_r5_again", body), body)
		other := aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-02T00:00:00Z", "")
		s.answers("another body", 409, "POST", s.signed("msg_r5", other), other)
		if n, others := s.recorded(body), s.recorded(other); n != 1 || others != 0 {
			s.Errorf("it is recorded %d times, the other %d times", n, others)
		}
		body = aboutMember(events.MembershipRemoved.Name, s.env, org, user+"1", "x"+email, "2026-06-01T00:00:00Z", "")
		var all sync.WaitGroup
		statuses := make([]int, 20)
		for i := range statuses {
			id := "msg_r5_copies"
			if i%2 == 1 {
				id += "_of_the_event"
			}
			header := s.signed(id, body)
			all.Go(func() { statuses[i], _ = send(s, "POST", s.URL, string(body), header) })
		}
		all.Wait()
		created := 0
		for _, status := range statuses {
			if status == http.StatusCreated {
				created++
			} else if status != http.StatusOK {
				s.Errorf("a concurrent copy is answered %d", status)
			}
		}
		if n := s.recorded(body); n != 1 || created != 1 || s.removals(org, user+"1") != 1 {
			s.Errorf("concurrent copies are recorded %d times, %d are answered 201", n, created)
		}
	},
	"R7 five ways to say that somebody left": func(s source, _ *receiver) {
		for first := range channels("", "", "", "") {
			org, user, email := s.person()
			s.takes("a member", aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", ""), "added")
			all := channels(s.env, org, user, email)
			s.takes(first, all[first], "removed")
			testenv.Eventually(s.T, patience, func() error {
				if status := s.status(org, user); status != "0" && status != "2" || s.removals(org, user) != 1 {
					return fmt.Errorf("after %s the membership is %s and %d removals are announced", first, status, s.removals(org, user))
				}
				return nil
			})
			for name, body := range all {
				if name != first && name != "organization.deleted" {
					s.takes(name+" after "+first, body, "known")
				}
			}
			if n := s.removals(org, user); n != 1 {
				s.Errorf("after %s and the others %d removals are announced", first, n)
			}
		}
		org, user, email := s.person()
		s.takes("a member", aboutMember(events.MembershipCreated.Name, s.env, org, user, email, "2026-06-01T00:00:00Z", ""), "added")
		s.takes("no status", aboutMember("user.organization_membership_updated", s.env, org, user, email, "2026-06-02T00:00:00Z", ""), "recorded")
		if status := s.status(org, user); status != "1" || s.removals(org, user) != 0 {
			s.Errorf("an update without a status makes the membership %s", status)
		}
	},
	"R8 late news are not acted on": func(s source, _ *receiver) {
		org, user, email := s.person()
		at := func(typ, nanos string) []byte {
			return aboutMember(typ, s.env, org, user, email, "2026-06-01T00:00:00."+nanos+"Z", "")
		}
		removed, created := events.MembershipRemoved.Name, events.MembershipCreated.Name
		late, later := at(removed, "000000019"), at(removed, "000000021")
		s.takes("a member", at(created, "000000001"), "added")
		s.takes("the removal", at(removed, "000000010"), "removed")
		s.takes("the re-add", at(created, "000000020"), "added")
		s.takes("a removal of a nanosecond before", late, "stale")
		if status := s.status(org, user); status != "1" || s.recorded(late) != 0 {
			s.Errorf("after late news the membership is %s", status)
		}
		s.takes("a removal of a nanosecond after", later, "removed")
		if status := s.status(org, user); status != "0" || s.recorded(later) != 1 {
			s.Errorf("after the removal the membership is %s", status)
		}
	},
}

// channels are the ways to say that somebody left.
func channels(env, org, user, email string) map[string][]byte {
	const at = "2026-06-02T00:00:00Z"
	directory := func(typ, more string) []byte {
		return envelope(typ, "DirectoryUser", env, org, at, fmt.Sprintf(`{"id":%q,"organization_id":%q,"dp_id":%q,"email":%q%s}`, "diruser_"+strings.TrimPrefix(user, "usr_"), org, "00u"+user, strings.ToUpper(email), more))
	}
	return map[string][]byte{
		"membership_deleted":             aboutMember(events.MembershipRemoved.Name, env, org, user, email, at, ""),
		"membership_updated, INACTIVE":   aboutMember("user.organization_membership_updated", env, org, user, email, at, fmt.Sprintf(`,"memberships":[{"organization_id":%q,"membership_status":"INACTIVE"}]`, org)),
		"directory.user_deleted":         directory("organization.directory.user_deleted", ""),
		"directory.user_updated, active": directory("organization.directory.user_updated", `,"active":false`),
		"organization.deleted":           envelope("organization.deleted", "Organization", env, org, at, fmt.Sprintf(`{"id":%q,"display_name":"Northwind","deleted_at":%q}`, org, at)),
	}
}

// tape is an app that answers as it is told and keeps what it gets.
type tape struct {
	*httptest.Server
	*testing.T
	p        *process
	org      string // whose events it gets
	endpoint api.Endpoint

	mu  sync.Mutex
	got []kept
}

type kept struct {
	header http.Header
	body   []byte
}

// record makes an endpoint at an app that answers the nth request, from 1 on, so.
func record(t *testing.T, p *process, schedule []float64, answer func(n int, w http.ResponseWriter)) *tape {
	t.Helper()
	a := &tape{T: t, p: p, org: fmt.Sprintf("org_%018d", people.Add(1))}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		a.mu.Lock()
		a.got = append(a.got, kept{r.Header, body})
		n := len(a.got)
		a.mu.Unlock()
		if answer != nil {
			answer(n, w)
		}
	}))
	t.Cleanup(a.Close)
	a.endpoint = must[api.Endpoint](t)(p.client().CreateEndpoint(t.Context(), api.NewEndpoint{
		Name: t.Name(), URL: a.URL, EventTypes: []string{"*"}, OrganizationIDs: []string{a.org}, RetrySchedule: schedule,
	}))
	return a
}

// publish publishes an event that goes to the app, and returns its delivery when
// done.
func (a *tape) publish(done func(d api.Delivery) bool, more string) api.Delivery {
	a.Helper()
	body := envelope(events.MembershipRemoved.Name, "OrgMembership", newEnvironment(), a.org, "2026-06-01T00:00:00Z",
		fmt.Sprintf(`{"organization":{"id":%q},"user":{"id":"usr_1"}%s}`, a.org, more))
	must[api.Published](a)(a.p.client().PublishEvent(a.Context(), body, ""))
	var found api.Delivery
	testenv.Eventually(a.T, patience, func() error {
		for d, err := range a.p.client().Deliveries(a.Context(), api.DeliveryFilter{EndpointID: a.endpoint.ID}) {
			if err != nil {
				return err
			}
			if d.EventID != idOf(a, body) {
				continue
			}
			if found, err = a.p.client().Delivery(a.Context(), d.ID); err != nil || !done(found) {
				return fmt.Errorf("the delivery is %+v, %w", found, err)
			}
			return nil
		}
		return errors.New("there is no delivery")
	})
	return found
}

func (a *tape) requests() []kept {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.got
}

func ended(d api.Delivery) bool { return d.State == "succeeded" || d.State == "failed" }

func status(code int) func(int, http.ResponseWriter) {
	return func(_ int, w http.ResponseWriter) { w.WriteHeader(code) }
}

// What is promised of webhooks that go out.
func TestContractSending(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		for name, holds := range sending {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				holds(t, p)
			})
		}
	})
}

// S3 is about bodies that an app may parse and write again, which holds for these.
const texts = `,"texts":["a < b & c > d","Inès","\u003c\/\u0026","\u2028","\"\\\u0001","😀",1.5,-0.25,null,true,[],{}]`

var sending = map[string]func(t *testing.T, p *process){
	"S1 every attempt is the same message": func(t *testing.T, p *process) {
		a := record(t, p, []float64{0, 2, 0}, func(n int, w http.ResponseWriter) {
			if n < 3 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		d := a.publish(ended, "")
		all := a.requests()
		if d.State != "succeeded" || len(all) != 3 {
			t.Fatalf("%s after %d requests", d.State, len(all))
		}
		var stamps []int64
		for _, r := range all {
			if r.header.Get("Webhook-Id") != d.ID || strings.Contains(d.ID, ".") || !bytes.Equal(r.body, all[0].body) {
				t.Errorf("an attempt of %s is %v %s", d.ID, r.header, r.body)
			}
			stamp, err := strconv.ParseInt(r.header.Get("Webhook-Timestamp"), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			stamps = append(stamps, stamp)
			key := must[signing.Key](t)(signing.ParseKey(a.endpoint.Secret))
			if err := (signing.Verifier{Keys: []signing.Key{key}}).Verify(r.header, r.body); err != nil {
				t.Error(err)
			}
		}
		for i, at := range stamps {
			// What is signed is the second in which the attempt began, or the one before.
			if began := d.Attempts[i].StartedAt.Unix(); at != began && at != began+1 && at != began-1 {
				t.Errorf("attempt %d of %d has the timestamp %d", i+1, began, at)
			}
		}
		if stamps[1] <= stamps[0] {
			t.Errorf("the timestamps are %v", stamps)
		}
	},
	"S2 libraries verify, while a secret is replaced too": func(t *testing.T, p *process) {
		a := record(t, p, nil, nil)
		secrets := []string{a.endpoint.Secret}
		a.publish(ended, "")
		overlap := 3600.0
		rotated := must[api.Endpoint](t)(p.client().RotateEndpoint(t.Context(), a.endpoint.ID, api.Rotation{OverlapSeconds: &overlap}))
		secrets = append(secrets, rotated.Secret)
		var all []kept
		testenv.Eventually(t, patience, func() error { // until the sender knows the new one
			a.publish(ended, "")
			all = a.requests()
			if n := len(strings.Fields(all[len(all)-1].header.Get("Webhook-Signature"))); n != 2 {
				return fmt.Errorf("%d signatures", n)
			}
			return nil
		})
		first, last := all[0], all[len(all)-1]
		var webhooks []scalekittest.Webhook
		for _, c := range []struct {
			kept
			secret string
		}{{first, secrets[0]}, {last, secrets[0]}, {last, secrets[1]}} {
			if err := must[*svix.Webhook](t)(svix.NewWebhook(c.secret)).Verify(c.body, c.header); err != nil {
				t.Errorf("svix: %v", err)
			}
			if err := must[*standardwebhooks.Webhook](t)(standardwebhooks.NewWebhook(c.secret)).Verify(c.body, c.header); err != nil {
				t.Errorf("standard webhooks: %v", err)
			}
			webhooks = append(webhooks, scalekittest.Webhook{Secret: c.secret, Header: c.header, Body: c.body})
		}
		for _, signature := range strings.Fields(last.header.Get("Webhook-Signature")) {
			if !strings.HasPrefix(signature, "v1,") || len(signature) != len("v1,")+44 {
				t.Errorf("a signature is %s", signature)
			}
		}
		scalekittest.Verify(t, webhooks...)
	},
	"S3 bodies are as JSON.stringify writes them": func(t *testing.T, p *process) {
		a := record(t, p, nil, nil)
		a.publish(ended, " \n"+texts+"\t")
		s := source{T: t, p: p, env: newEnvironment()}
		s.Key = signing.NewKey()
		s.URL = p.base() + "/webhooks/texts"
		must[api.Source](t)(p.client().CreateSource(t.Context(), api.NewSource{Name: "texts", EnvironmentID: s.env, Secret: s.Key.Secret()}))
		var spaced bytes.Buffer
		for _, typ := range []string{"user.signup", events.MembershipRemoved.Name} { // one as it came, one with more in it
			if err := json.Indent(&spaced, aboutMember(typ, s.env, a.org, "usr_2", "ines@example.com", "2026-06-01T00:00:00Z", texts), "", "  "); err != nil {
				t.Fatal(err)
			}
			spaced.WriteString("\r\n")
			s.takes(typ, spaced.Bytes(), "recorded", "removed")
			spaced.Reset()
		}
		testenv.Eventually(t, patience, func() error {
			if n := len(a.requests()); n < 3 {
				return fmt.Errorf("%d requests", n)
			}
			return nil
		})
		var webhooks []scalekittest.Webhook
		for _, r := range a.requests() {
			var compact bytes.Buffer
			if err := json.Compact(&compact, r.body); err != nil || !bytes.Equal(compact.Bytes(), r.body) || !bytes.Contains(r.body, []byte("a < b & c > d")) || bytes.Contains(r.body, []byte(`\u003c`)) {
				t.Errorf("%v: a body is %s", err, r.body)
			}
			webhooks = append(webhooks, scalekittest.Webhook{Secret: a.endpoint.Secret, Header: r.header, Body: r.body})
		}
		scalekittest.Verify(t, webhooks...)
	},
	"S4 the default schedule": func(t *testing.T, p *process) {
		a := record(t, p, nil, status(http.StatusInternalServerError))
		if a.endpoint.RetrySchedule != nil {
			t.Errorf("the schedule is %v", a.endpoint.RetrySchedule)
		}
		d := a.publish(func(d api.Delivery) bool {
			return d.State == "pending" && d.AttemptCount > 0 && len(d.Attempts) == d.AttemptCount
		}, "")
		last := d.Attempts[len(d.Attempts)-1]
		wait := d.NextAttemptAt.Sub(last.StartedAt.Add(time.Duration(last.DurationMS * float64(time.Millisecond)))).Seconds()
		want := dispatch.DefaultSchedule()[d.AttemptCount].Seconds()
		if math.Abs(wait-want) > 0.2*want+1 {
			t.Errorf("attempt %d is due in %v s, want %v s and a fifth more or less", d.AttemptCount+1, wait, want)
		}
		lost := record(t, p, []float64{0, 0}, func(n int, w http.ResponseWriter) {
			if n < 3 {
				w.WriteHeader(http.StatusInternalServerError)
			}
		})
		d = lost.publish(ended, "")
		if d.State != "failed" || d.AttemptCount != 2 {
			t.Errorf("at its end a schedule leaves %+v", d)
		}
		must[api.Delivery](t)(p.client().RetryDelivery(t.Context(), d.ID))
		testenv.Eventually(t, patience, func() error {
			d, err := p.client().Delivery(t.Context(), d.ID)
			if err != nil || d.State != "succeeded" {
				return fmt.Errorf("the dead letter is %s, %w", d.State, err)
			}
			return nil
		})
	},
	"S5 what answers mean": func(t *testing.T, p *process) {
		for _, code := range []int{200, 201, 202, 204, 299} {
			if d := record(t, p, []float64{0}, status(code)).publish(ended, ""); d.State != "succeeded" || d.LastStatus != code {
				t.Errorf("%d: %s", code, d.State)
			}
		}
		elsewhere := record(t, p, nil, nil)
		for _, code := range []int{301, 302, 307, 308} {
			d := record(t, p, []float64{0}, func(_ int, w http.ResponseWriter) {
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(code)
			}).publish(ended, "")
			if d.State != "failed" || d.LastStatus != code {
				t.Errorf("%d: %s", code, d.State)
			}
		}
		if n := len(elsewhere.requests()); n != 0 {
			t.Errorf("redirects were followed %d times", n)
		}
		gone := record(t, p, []float64{0, 0}, status(http.StatusGone))
		gone.publish(func(d api.Delivery) bool { return d.AttemptCount > 0 }, "")
		testenv.Eventually(t, patience, func() error {
			e, err := p.client().Endpoint(t.Context(), gone.endpoint.ID)
			if err != nil || e.State != "disabled" || e.DisabledReason == "" {
				return fmt.Errorf("after 410 the endpoint is %+v, %w", e, err)
			}
			return nil
		})
		if n := len(gone.requests()); n != 1 {
			t.Errorf("after 410 there were %d requests", n)
		}
		later := record(t, p, []float64{0, 0}, func(_ int, w http.ResponseWriter) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusServiceUnavailable)
		})
		d := later.publish(func(d api.Delivery) bool { return d.State == "pending" && d.AttemptCount > 0 && len(d.Attempts) > 0 }, "")
		if wait := d.NextAttemptAt.Sub(d.Attempts[0].StartedAt); wait < 59*time.Minute || len(later.requests()) != 1 {
			t.Errorf("after Retry-After: 3600 it is due in %v", wait)
		}
	},
}
