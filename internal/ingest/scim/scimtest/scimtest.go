// Package scimtest holds the requests that directories are known to send, and
// what has to come of each.
package scimtest

import (
	"bytes"
	"embed"
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

//go:embed testdata/*.json
var fixtures embed.FS

// A Target is a service with a directory in which there is nobody yet.
type Target struct {
	URL        string // of the directory's door: …/scim/v2
	Token      string // opens it
	OtherToken string // opens another one

	// Effects tells what became so far of the person with an address, in the
	// directory's organization.
	Effects func(tb testing.TB, email string) Effects
	// AddSession begins a session of theirs there.
	AddSession func(tb testing.TB, email string)
	// AddMembership makes them an active member of another organization too.
	AddMembership func(tb testing.TB, email string)
}

// Effects is what became of a person.
type Effects struct {
	Status   string // of the membership: ACTIVE, INACTIVE, or "" when there is none
	Account  bool   // there is one
	Sessions int    // that are active

	// Events about them that were recorded.
	Removed, Created, Deleted int
}

type fixture struct {
	Name    string `json:"name"`
	Request struct {
		Method  string            `json:"method"`
		Path    string            `json:"path"`
		Headers map[string]string `json:"headers"`
		Body    json.RawMessage   `json:"body"`
	} `json:"request"`
	Expect struct {
		Status int      `json:"status"`
		Checks []string `json:"checks"`
		Effect string   `json:"effect"`
	} `json:"expect"`
}

const (
	ines = "ines.moreau@example.com"
	sam  = "sam.okafor@example.com"

	inesBody = `{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"externalId":"00u1exampleines","userName":"` + ines + `",` +
		`"name":{"givenName":"Inès","familyName":"Moreau"},"emails":[{"primary":true,"value":"` + ines + `","type":"work"}],"displayName":"Inès Moreau","active":true}`
	samBody = `{"userName":"` + sam + `","externalId":"00u1examplesam","emails":[{"value":"` + sam + `","type":"work","primary":true}]}`
)

// Run sends each request to a target of its own.
func Run(t *testing.T, open func(t *testing.T) Target) {
	names, err := fs.Glob(fixtures, "testdata/*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("there are no fixtures: %v", err)
	}
	for _, name := range names {
		raw, err := fixtures.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var f fixture
		if err := json.Unmarshal(raw, &f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		t.Run(f.Name, func(t *testing.T) {
			t.Parallel()
			newRun(t, open(t), f, false).run()
		})
		if f.Name == "delete-user" {
			t.Run(f.Name+" of a member of two organizations", func(t *testing.T) {
				t.Parallel()
				newRun(t, open(t), f, true).run()
			})
		}
	}
}

// run is one request with what is before and after it.
type run struct {
	testing.TB
	Target
	f                fixture
	two              bool // Inès is a member of two organizations
	id, other, group string
	before           Effects
	answer           answer
}

type answer struct {
	status int
	header http.Header
	body   []byte
	doc    map[string]any // the body
}

func newRun(t *testing.T, target Target, f fixture, two bool) *run {
	return &run{TB: t, Target: target, f: f, two: two}
}

// prepare makes what the requests are about: Inès with a session, Sam beside
// her, and a group of both.
func (r *run) prepare() {
	r.Helper()
	r.other = r.create("/Users", samBody)
	r.AddSession(r, sam)
	if r.f.Name == "post-create" {
		return
	}
	r.id = r.create("/Users", inesBody)
	r.AddSession(r, ines)
	if r.two {
		r.AddMembership(r, ines)
	}
	r.group = r.create("/Groups", `{"displayName":"Sales","members":[{"value":"`+r.id+`"},{"value":"`+r.other+`"}]}`)
	switch r.f.Name {
	case "okta-patch-reactivate":
		r.want(http.MethodPatch, "/Users/"+r.id, `{"Operations":[{"op":"replace","value":{"active":false}}]}`, http.StatusOK)
	case "delete-user-repeat":
		r.want(http.MethodDelete, "/Users/"+r.id, "", http.StatusNoContent)
	}
}

func (r *run) run() {
	r.prepare()
	bystander := r.Effects(r, sam)
	r.before = r.Effects(r, ines)
	r.answer = r.sendFixture()
	if r.answer.status != r.f.Expect.Status {
		r.Fatalf("answered %d, want %d: %s", r.answer.status, r.f.Expect.Status, r.answer.body)
	}
	r.sound(r.answer)
	r.checkEffect()
	for _, c := range r.f.Expect.Checks {
		check, ok := checks[c]
		if !ok {
			r.Fatalf("no check is written for %q", c)
		}
		check(r)
	}
	if diff := cmp.Diff(bystander, r.Effects(r, sam)); diff != "" {
		r.Errorf("the other member is affected:\n%s", diff)
	}
	if doc := r.want(http.MethodGet, "/Users/"+r.other, "", http.StatusOK).doc; doc["active"] != true {
		r.Errorf("the other user is %v", doc)
	}
}

// sound checks what holds for every answer.
func (r *run) sound(a answer) {
	r.Helper()
	switch {
	case a.status == http.StatusNoContent:
		if len(a.body) > 0 {
			r.Errorf("204 came with a body: %s", a.body)
		}
		return
	case a.header.Get("Content-Type") != "application/scim+json":
		r.Errorf("Content-Type is %q", a.header.Get("Content-Type"))
	}
	if a.status >= 400 {
		r.scimError(a)
	}
}

func (r *run) checkEffect() {
	r.Helper()
	want := r.before
	switch r.f.Expect.Effect {
	case "", "nothing changes", "nothing changes, no event", "group membership only":
	case "membership INACTIVE; sessions revoked; one membership-removed event in the outbox; user account kept":
		want.Status, want.Sessions = "INACTIVE", 0
		want.Removed++
		r.effects(want)
		r.active(false)
		if again := r.sendFixture(); again.status != r.f.Expect.Status {
			r.Errorf("again, it is answered %d: %s", again.status, again.body)
		}
		r.active(false)
	case "membership INACTIVE; sessions revoked; membership-removed event; user-deleted event too when no other membership is left (contract D-2)":
		want.Status, want.Sessions = "INACTIVE", 0
		want.Removed++
		if !r.two {
			want.Status, want.Account = r.Effects(r, ines).Status, false
			want.Deleted++
			if want.Status == "ACTIVE" {
				r.Error("she is a member still")
			}
		}
	case "membership ACTIVE":
		want = r.Effects(r, ines)
		if want.Status != "ACTIVE" || !want.Account || want.Removed != 0 || want.Deleted != 0 {
			r.Errorf("she is %+v", want)
		}
	case "membership ACTIVE again; membership-created event":
		want.Status = "ACTIVE"
		want.Created++
	default:
		r.Fatalf("no check is written for the effect %q", r.f.Expect.Effect)
	}
	r.effects(want)
	if strings.HasPrefix(r.f.Expect.Effect, "nothing changes") && r.f.Name != "delete-user-repeat" {
		r.active(true)
	}
}

func (r *run) effects(want Effects) {
	r.Helper()
	if diff := cmp.Diff(want, r.Effects(r, ines)); diff != "" {
		r.Errorf("effects differ (-want +got):\n%s", diff)
	}
}

func (r *run) active(want bool) {
	r.Helper()
	if doc := r.want(http.MethodGet, "/Users/"+r.id, "", http.StatusOK).doc; doc["active"] != want {
		r.Errorf("the user is %v, want active %v", doc, want)
	}
}

// sendFixture sends the fixture's request.
func (r *run) sendFixture() answer {
	r.Helper()
	fill := strings.NewReplacer("{id}", r.id, "{group_id}", r.group, "{scim_token}", r.Token, "{other_scim_token}", r.OtherToken).Replace
	header := http.Header{}
	for name, v := range r.f.Request.Headers {
		if v != "" {
			header.Set(name, fill(v))
		}
	}
	body := ""
	if string(r.f.Request.Body) != "null" {
		body = fill(string(r.f.Request.Body))
	}
	return r.send(r.f.Request.Method, fill(r.f.Request.Path), body, header)
}

// want sends a request that is not in question.
func (r *run) want(method, path, body string, status int) answer {
	r.Helper()
	a := r.send(method, path, body, http.Header{"Authorization": {"Bearer " + r.Token}, "Content-Type": {"application/scim+json"}})
	if a.status != status {
		r.Fatalf("%s %s was answered %d: %s", method, path, a.status, a.body)
	}
	return a
}

func (r *run) create(path, body string) string {
	r.Helper()
	id, _ := r.want(http.MethodPost, path, body, http.StatusCreated).doc["id"].(string)
	return id
}

func (r *run) send(method, path, body string, header http.Header) answer {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), method, r.URL+path, strings.NewReader(body))
	if err != nil {
		r.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	a := answer{status: res.StatusCode, header: res.Header}
	if a.body, err = io.ReadAll(res.Body); err != nil {
		r.Fatal(err)
	}
	if len(bytes.TrimSpace(a.body)) > 0 {
		if err := json.Unmarshal(a.body, &a.doc); err != nil {
			r.Fatalf("%s %s was answered with what is not JSON: %v\n%s", method, path, err, a.body)
		}
	}
	return a
}

// total returns how many users match a filter.
func (r *run) total(filter string) int {
	r.Helper()
	a := r.want(http.MethodGet, "/Users?filter="+strings.NewReplacer(" ", "%20", `"`, "%22", "@", "%40").Replace(filter), "", http.StatusOK)
	return r.list(a)
}

// list checks that an answer is a ListResponse and returns its total.
func (r *run) list(a answer) int {
	r.Helper()
	total, ok := a.doc["totalResults"].(float64)
	resources, isArray := a.doc["Resources"].([]any)
	if !ok || !isArray || len(resources) != int(a.doc["itemsPerPage"].(float64)) || !has(a.doc["schemas"], "urn:ietf:params:scim:api:messages:2.0:ListResponse") {
		r.Errorf("it is no ListResponse: %s", a.body)
	}
	return int(total)
}

func has(list any, s string) bool {
	items, _ := list.([]any)
	for _, i := range items {
		if i == s {
			return true
		}
	}
	return false
}
