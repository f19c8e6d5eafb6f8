// Package webhooktest sends the example events to a source, as its identity
// provider would, and says what each of them means.
package webhooktest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/signing"
)

// Environment is that of all examples.
const Environment = "env_118200000000000001"

// The people and organizations of the examples.
const (
	Northwind = "org_118200000000000101"
	Globex    = "org_118200000000000202"

	Dana = "usr_118200000000001001" // a member of both, dana.rivers@example.com
	Sam  = "usr_118200000000001002" // of Globex, sam.okoro@example.com
	Ines = "usr_118200000000001003" // of both, ines.moreau@example.com
)

// An Example is one of the events of [events.Fixture].
type Example struct {
	Name    string
	Effects []directory.Effect // one of them is its effect
}

// Examples lists all of them in the order in which they happened, with their
// effects where Dana, Sam and Ines are members to begin with.
func Examples() []Example {
	const ignored directory.Effect = "ignored"
	const recorded, removed, added, known = directory.EffectRecorded, directory.EffectRemoved, directory.EffectAdded, directory.EffectKnown
	one := func(name string, effects ...directory.Effect) Example { return Example{name, effects} }
	return []Example{
		one("legacy.scalekit.dir.user.delete", ignored),
		one("organization.sso_created", recorded),
		one("role.created", recorded),
		one("user.organization_membership_updated", recorded),
		one("user.organization_membership_deleted", removed),
		one("user.logout", recorded),
		one("user.organization_membership_deleted.minimal", removed),
		one("user.deleted.proposed", removed), // the account, which a membership's end upstream leaves
		one("organization.directory.user_updated.inactive", removed),
		one("user.organization_membership_updated.inactive.proposed", known),
		one("organization.directory.user_deleted", known),
		one("unknown_future_type", ignored),
		one("organization.directory_disabled", recorded),
		one("organization.directory.group_deleted", recorded),
		one("user.organization_membership_created", added),
		one("user.organization_invitation", recorded),
		one("organization.directory.user_updated.active", added, recorded), // whether it brings somebody back is the receiver's choice
		one("organization.deleted", removed),
	}
}

// A Target is a source of the kind scalekit and of Environment.
type Target struct {
	URL    string // of the source: …/webhooks/NAME
	Key    signing.Key
	Client *http.Client // nil: http.DefaultClient
}

// An Answer is what a webhook was answered.
type Answer struct {
	Status    int
	ID        string           `json:"id"`
	Duplicate bool             `json:"duplicate"`
	Effect    directory.Effect `json:"effect"`
}

// Send signs a body and sends it.
func (g Target) Send(t *testing.T, webhookID string, body []byte) Answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{g.Key}}).SetHeaders(req.Header, webhookID, time.Now(), body); err != nil {
		t.Fatal(err)
	}
	client := g.Client
	if client == nil {
		client = http.DefaultClient
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	a := Answer{Status: res.StatusCode}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		t.Fatalf("%d: %v", res.StatusCode, err)
	}
	return a
}

// Run sends every example in order, and then each of them twice more: the same
// webhook, and the same event in another one. After an example was sent first,
// check is called; it may look at who is a member by now. nil: nothing is.
func Run(t *testing.T, to Target, check func(t *testing.T, e Example, a Answer)) {
	t.Helper()
	all := Examples()
	for i, e := range all {
		body := e.body(t)
		a := to.Send(t, fmt.Sprintf("msg_%d", i), body)
		if ev, err := events.Parse(body); err != nil || a.ID != ev.ID || a.Duplicate || !slices.Contains(e.Effects, a.Effect) {
			t.Errorf("%s is answered %+v, not one of %v of %s: %v", e.Name, a, e.Effects, ev, err)
		}
		want := http.StatusCreated
		if a.Effect == directory.EffectKnown {
			want = http.StatusOK
		}
		if a.Status != want {
			t.Errorf("%s is answered %d", e.Name, a.Status)
		}
		if check != nil {
			check(t, e, a)
		}
	}
	for i, e := range all {
		body := e.body(t)
		for _, id := range []string{fmt.Sprintf("msg_%d", i), fmt.Sprintf("msg_%d_again", i)} {
			if a := to.Send(t, id, body); a.Status != http.StatusOK {
				t.Errorf("a copy of %s as %s is answered %+v", e.Name, id, a)
			}
		}
	}
}

func (e Example) body(t *testing.T) []byte {
	t.Helper()
	body, ok := events.Fixture(e.Name)
	if !ok {
		t.Fatalf("there is no example %s", e.Name)
	}
	return body
}
