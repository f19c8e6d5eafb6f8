package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
)

// FuzzParse: whatever comes in, Parse does not panic, its errors are of the
// documented kind, and what it accepts is what encoding/json reads too and
// stays the same when it is completed, compacted and parsed again.
func FuzzParse(f *testing.F) {
	for _, name := range events.FixtureNames() {
		body, _ := events.Fixture(name)
		f.Add(body)
	}
	f.Add([]byte(minimal))
	f.Add([]byte(`{"type":"user.deleted","data":{"user":{"id":"usr_1"},"successor":{"email":"a@b"}}}`))
	f.Add([]byte(`{"a":[1.5e+3,-0,"\ud83d\udea2\u0000",{"b":null,"\u0062":true}]} `))
	same := cmp.AllowUnexported(events.Event{})
	f.Fuzz(func(t *testing.T, body []byte) {
		if completed, err := events.Complete(body, defaults); err == nil {
			again, err := events.Complete(completed.Body(), events.Defaults{})
			if err != nil {
				t.Fatalf("Complete refuses its own: %v", err)
			}
			if diff := cmp.Diff(completed, again, same); diff != "" {
				t.Fatalf("Complete is not idempotent:\n%s", diff)
			}
			if compact := completed.Compact(); !bytes.Equal(compact.Body(), completed.Body()) {
				t.Fatal("Complete gives a body that is not compact")
			}
		}
		ev, err := events.Parse(body)
		if err != nil {
			var field *events.FieldError
			var syntax *events.SyntaxError
			if !errors.Is(err, events.ErrInvalid) || !errors.As(err, &field) && !errors.As(err, &syntax) {
				t.Fatalf("error of another kind: %v", err)
			}
			if syntax == nil && !json.Valid(body) {
				t.Fatalf("no JSON, but: %v", err)
			}
			return
		}
		if !json.Valid(body) || !utf8.Valid(body) || len(body) > events.MaxSize || !bytes.Equal(ev.Body(), body) {
			t.Fatal("accepted what it must not, or changed it")
		}
		checkAgainstEncodingJSON(t, ev)
		completed, err := events.Complete(body, events.Defaults{})
		if err != nil {
			t.Fatalf("Complete refuses what Parse accepts: %v", err)
		}
		if diff := cmp.Diff(ev.Compact(), completed, same); diff != "" {
			t.Fatalf("Complete and Compact differ:\n%s", diff)
		}
		for _, s := range []string{ev.ID, ev.Type, ev.Object, ev.EnvironmentID, ev.OrganizationID, ev.UserID(), ev.Subject()} {
			for _, c := range []byte(s) {
				if c <= ' ' || c > '~' {
					t.Fatalf("%q is not visible ASCII", s)
				}
			}
		}
		if m, err := events.MembershipRemoved.Decode(ev); err == nil && (m.User.ID != ev.UserID() || m.User.ID == "" || m.Organization.ID == "") {
			t.Fatalf("Decode reads %s of %s, Parse %s", m.User.ID, m.Organization.ID, ev.UserID())
		}
		if d, err := events.UserDeleted.Decode(ev); err == nil && (d.User.ID != ev.UserID() || d.User.ID == "") {
			t.Fatalf("Decode reads %s, Parse %s", d.User.ID, ev.UserID())
		}
	})
}
