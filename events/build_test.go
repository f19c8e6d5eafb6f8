package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
)

var defaults = events.Defaults{
	EnvironmentID: "env_9",
	Now:           func() time.Time { return time.Date(2026, 6, 12, 11, 30, 0, 120_000_000, time.FixedZone("", 7200)) },
	NewID:         func() string { return "evt_9" },
}

func TestComplete(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, raw, want string }{
		{
			"complete and compact", minimal, minimal,
		}, {
			"complete", " {\n \"data\" : { } , \"spec_version\":\"1\",\"id\":\"evt_1\",\"type\":\"t\",\"object\":\"O\",\"occurred_at\":\"2026-06-12T09:30:01Z\",\"environment_id\":\"env_1\"}\n",
			`{"data":{},"spec_version":"1","id":"evt_1","type":"t","object":"O","occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_1"}`,
		}, {
			"everything absent", `{"type":"user.deleted","data":{"user":{"id":"usr_1"}}}`,
			`{"spec_version":"1","id":"evt_9","object":"User","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","type":"user.deleted","data":{"user":{"id":"usr_1"}}}`,
		}, {
			"some absent", `{"z":1,"occurred_at":"2020-01-01T00:00:00Z","type":"t","a":[1, 2],"object":"O","data":{"z":0,"a":0},"id":"evt_1"}`,
			`{"spec_version":"1","environment_id":"env_9","z":1,"occurred_at":"2020-01-01T00:00:00Z","type":"t","a":[1,2],"object":"O","data":{"z":0,"a":0},"id":"evt_1"}`,
		}, {
			"no needless escapes", `{"type":"t","object":"O","data":{"a":"<&> é \u00e9 \/ ` + "\u2028" + ` a  b","n":1.50e+1}}`,
			`{"spec_version":"1","id":"evt_9","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","type":"t","object":"O","data":{"a":"<&> é é / ` + "\u2028" + ` a  b","n":1.50e+1}}`,
		}, {
			"an unknown type", `{"type":"t","data":{}}`,
			`{"spec_version":"1","id":"evt_9","object":"Event","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","type":"t","data":{}}`,
		}, {
			"escapes that JSON needs", `{"type":"t","object":"O","data":{"a":"\u003c\u0022\u005c\u000a\u001F\ud83d\ude00\"\\\n"}}`,
			`{"spec_version":"1","id":"evt_9","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","type":"t","object":"O","data":{"a":"<\"\\\n\u001f😀\"\\\n"}}`,
		}, {
			"object of its own", `{"type":"user.deleted","object":"Person","data":{"user":{"id":"usr_1"}}}`,
			`{"spec_version":"1","id":"evt_9","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","type":"user.deleted","object":"Person","data":{"user":{"id":"usr_1"}}}`,
		}, {
			"escaped keys are there", `{"\u0069d":"evt_1","type":"t","object":"O","data":{}}`,
			`{"spec_version":"1","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","id":"evt_1","type":"t","object":"O","data":{}}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			raw := []byte(test.raw)
			ev, err := events.Complete(raw, defaults)
			if err != nil {
				t.Fatal(err)
			}
			if string(ev.Body()) != test.want {
				t.Errorf("got  %s\nwant %s", ev.Body(), test.want)
			}
			if string(raw) != test.raw {
				t.Error("raw was changed")
			}
			checkAgainstEncodingJSON(t, ev)
			again, err := events.Complete(ev.Body(), events.Defaults{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(ev, again, cmp.AllowUnexported(events.Event{})); diff != "" {
				t.Errorf("the second time:\n%s", diff)
			}
		})
	}
}

func TestCompleteRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, raw, field string }{
		{"no JSON", `{`, ""},
		{"key twice", `{"id":"evt_1","id":"evt_2","type":"t","object":"O","data":{}}`, ""},
		{"too long", `{"type":"t","object":"O","data":{}}` + strings.Repeat(" ", events.MaxSize), ""},
		{"too long once complete", `{"type":"t","object":"O","data":{"a":"` + strings.Repeat("a", events.MaxSize-60) + `"}}`, ""},
		{"empty", `{}`, "type"},
		{"no type", `{"data":{}}`, "type"},
		{"type of another kind", `{"type":1,"object":"O","data":{}}`, "type"},
		{"no data", `{"type":"t","object":"O"}`, "data"},
		{"data of another kind", `{"type":"t","object":"O","data":[]}`, "data"},
		{"null is not absent", `{"id":null,"type":"t","object":"O","data":{}}`, "id"},
		{"bad id", `{"id":"1","type":"t","object":"O","data":{}}`, "id"},
		{"bad environment", `{"environment_id":"","type":"t","object":"O","data":{}}`, "environment_id"},
		{"bad time", `{"occurred_at":"now","type":"t","object":"O","data":{}}`, "occurred_at"},
		{"data of a known type", `{"type":"user.deleted","data":{"user":{"id":"1"}}}`, "data.user.id"},
	} {
		_, err := events.Complete([]byte(test.raw), defaults)
		if !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: got %v", test.name, err)
			continue
		}
		var field *events.FieldError
		if errors.As(err, &field) != (test.field != "") || field != nil && field.Field != test.field {
			t.Errorf("%s: got %v, want %q", test.name, err, test.field)
		}
	}
	_, err := events.Complete([]byte(`{"type":"t","object":"O","data":{}}`), events.Defaults{})
	var field *events.FieldError
	if !errors.As(err, &field) || field.Field != "environment_id" {
		t.Errorf("no environment to fill in: %v", err)
	}
	before := time.Now()
	ev, err := events.Complete([]byte(`{"type":"t","object":"O","data":{}}`), events.Defaults{EnvironmentID: "env_1"})
	if err != nil || ev.OccurredAt.Before(before) || ev.OccurredAt.After(time.Now()) || !strings.HasPrefix(ev.ID, "evt_") {
		t.Errorf("%+v, %v", ev, err)
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	data := events.Membership{
		Organization: events.Organization{ID: "org_1", DisplayName: "R&D <x>"},
		User: events.User{
			ID: "usr_1", Email: "a@example.com", CreateTime: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
			Profile: events.UserProfile{GivenName: "Inès", Groups: []string{"g"}},
		},
		Reason:          "scim",
		Successor:       &events.Successor{UserID: "usr_2"},
		RevokedSessions: []string{"ses_1"},
	}
	ev, err := events.New(events.MembershipRemoved, data, defaults, "org_1")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"spec_version":"1","id":"evt_9","type":"user.organization_membership_deleted","object":"OrgMembership","occurred_at":"2026-06-12T09:30:00.12Z","environment_id":"env_9","organization_id":"org_1",` +
		`"data":{"organization":{"id":"org_1","display_name":"R&D <x>"},"user":{"id":"usr_1","email":"a@example.com","user_profile":{"given_name":"Inès","groups":["g"]},"create_time":"2026-01-02T03:04:05.000000006Z"},"reason":"scim","successor":{"user_id":"usr_2"},"revoked_sessions":["ses_1"]},` +
		`"display_name":"User Organization Membership Deleted"}`
	if string(ev.Body()) != want {
		t.Errorf("got  %s\nwant %s", ev.Body(), want)
	}
	got, err := events.MembershipRemoved.Decode(ev)
	if err != nil {
		t.Fatal(err)
	}
	data.Raw = ev.Data
	if diff := cmp.Diff(data, got); diff != "" {
		t.Errorf("data differs:\n%s", diff)
	}

	raw, err := events.New(events.Type[events.Raw]{Name: "organization.directory_disabled"}, events.Raw(`{ "id":"dir_1", "organization_id":"org_1" }`), defaults, "")
	if err != nil {
		t.Fatal(err)
	}
	if raw.Object != "Directory" || raw.DisplayName != "Directory Disabled" || string(raw.Data) != `{"id":"dir_1","organization_id":"org_1"}` || raw.OrganizationID != "org_1" {
		t.Errorf("got %s", raw.Body())
	}
	own := events.Type[map[string]int]{Name: `a"b`, Object: "O"}
	ev, err = events.New(own, map[string]int{"n": 1}, defaults, "")
	if err != nil || ev.Type != `a"b` || ev.DisplayName != "" {
		t.Errorf("%+v, %v", ev, err)
	}
	if n, err := own.Decode(ev); err != nil || n["n"] != 1 {
		t.Errorf("%v, %v", n, err)
	}

	for field, build := range map[string]func() error{
		"data.user.id": func() error {
			_, err := events.New(events.UserDeleted, events.UserDeletion{}, defaults, "")
			return err
		},
		"environment_id": func() error {
			_, err := events.New(own, nil, events.Defaults{}, "")
			return err
		},
		"organization_id": func() error {
			_, err := events.New(own, map[string]int{}, defaults, "1")
			return err
		},
		"object": func() error {
			_, err := events.New(events.Type[events.Raw]{Name: "t"}, events.Raw(`{}`), defaults, "")
			return err
		},
		"data": func() error {
			_, err := events.New(events.Type[float64]{Name: "t", Object: "O"}, math.NaN(), defaults, "")
			return err
		},
	} {
		var got *events.FieldError
		if err := build(); !errors.As(err, &got) || got.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	// Raw data is the caller's own JSON: what Parse refuses, New refuses.
	if _, err := events.New(events.Type[events.Raw]{Name: "t", Object: "O"}, events.Raw(`{"a":1,"a":2}`), defaults, ""); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("a key twice: %v", err)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	removed, err := events.MembershipRemoved.Decode(parse(t, fixture(t, "user.organization_membership_deleted")))
	if err != nil {
		t.Fatal(err)
	}
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if !strings.Contains(string(removed.Raw), `"external_identities":[{"connection_id"`) {
		t.Errorf("Raw is %s", removed.Raw)
	}
	removed.Raw = nil
	want := events.Membership{
		Organization: events.Organization{
			ID: "org_118200000000000101", DisplayName: "Northwind Example", ExternalID: "crm-org-101", RegionCode: "US",
			CreateTime: at("2026-02-03T08:15:30.48Z"), UpdateTime: at("2026-06-11T12:04:41.386974738Z"),
		},
		User: events.User{
			ID: "usr_118200000000001001", Email: "dana.rivers@example.com", ExternalID: "hr-4471", Metadata: map[string]string{},
			CreateTime: at("2026-03-01T12:04:41.39Z"), UpdateTime: at("2026-06-11T12:04:41.391988Z"),
			Profile: events.UserProfile{
				ID: "usp_118200000000002001", Name: "Dana Rivers", GivenName: "Dana", FamilyName: "Rivers",
				EmailVerified: true, Metadata: map[string]string{},
			},
		},
	}
	if diff := cmp.Diff(want, removed); diff != "" {
		t.Error(diff)
	}

	deleted, err := events.UserDeleted.Decode(parse(t, fixture(t, "user.deleted")))
	if err != nil {
		t.Fatal(err)
	}
	if deleted.Reason != "last_membership_removed" || deleted.User.ID != "usr_118200000000001002" || !deleted.User.DeletedAt.Equal(at("2026-06-12T09:30:02.000000451Z")) || deleted.Successor != nil {
		t.Errorf("got %+v", deleted)
	}

	updated, err := events.MembershipUpdated.Decode(parse(t, fixture(t, "user.organization_membership_updated.inactive.proposed")))
	if err != nil {
		t.Fatal(err)
	}
	memberships := []events.UserMembership{
		{
			OrganizationID: "org_118200000000000101", Status: "INACTIVE", Name: "Northwind Example", DisplayName: "Northwind Example",
			Roles:    []events.Role{{ID: "role_118200000000004001", Name: "member", DisplayName: "Member"}},
			Metadata: map[string]string{}, ProvisioningMethod: "direct_provision",
		},
		{
			OrganizationID: "org_118200000000000202", Status: "ACTIVE", Name: "Globex Example", DisplayName: "Globex Example",
			Roles: []events.Role{}, Metadata: map[string]string{},
		},
	}
	if diff := cmp.Diff(memberships, updated.User.Memberships); diff != "" {
		t.Error(diff)
	}

	ev := parse(t, fixture(t, "organization.deleted"))
	raw, err := events.Type[events.Raw]{Name: "organization.deleted"}.Decode(ev)
	if err != nil || !bytes.Equal(raw, ev.Data) {
		t.Errorf("%s, %v", raw, err)
	}
	if _, err := events.UserDeleted.Decode(ev); !errors.Is(err, events.ErrInvalid) {
		t.Errorf("an event of another type: %v", err)
	}
}

// encoding/json takes "USER" for "user". If Decode did, a message could pass
// Parse with one person in it and reach the app with another.
func TestDecodeIsExact(t *testing.T) {
	t.Parallel()
	ev := parse(t, []byte(known("user.organization_membership_deleted",
		`{"organization":{"id":"org_1","ID":"org_2"},"user":{"id":"usr_1","Id":"usr_2","EMAIL":"x"},"USER":{"id":"usr_3"},"Successor":{"user_id":"usr_4"},"REASON":"api","\u017fuccessor":{"user_id":"usr_5"}}`)))
	got, err := events.MembershipRemoved.Decode(ev)
	if err != nil {
		t.Fatal(err)
	}
	got.Raw = nil
	want := events.Membership{Organization: events.Organization{ID: "org_1"}, User: events.User{ID: "usr_1"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeNamesTheField(t *testing.T) {
	t.Parallel()
	for field, data := range map[string]string{
		"data.user.email":                     `"email":5`,
		"data.user.create_time":               `"create_time":"yesterday"`,
		"data.user.metadata":                  `"metadata":{"a":1}`,
		"data.user.user_profile.groups":       `"user_profile":{"groups":"g"}`,
		"data.user.memberships.roles":         `"memberships":[{"organization_id":"org_1","roles":1}]`,
		"data.user.memberships.roles.name":    `"memberships":[{"organization_id":"org_1","roles":[{"name":1}]}]`,
		"data.user.user_profile":              `"user_profile":[]`,
		"data.user.user_profile.phone_number": `"user_profile":{"phone_number":1}`,
	} {
		_, err := events.UserDeleted.Decode(parse(t, []byte(known("user.deleted", `{"user":{"id":"usr_1",`+data+`}}`))))
		var got *events.FieldError
		if !errors.As(err, &got) || got.Field != field || !errors.Is(err, events.ErrInvalid) || errors.Unwrap(got) == nil {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestTypes(t *testing.T) {
	t.Parallel()
	types := events.Types()
	if !slices.IsSorted(types) || len(types) != 33 {
		t.Errorf("%d types: %v", len(types), types)
	}
	for _, typ := range types {
		_, err := events.Complete(fmt.Appendf(nil, `{"type":%q,"data":{}}`, typ), defaults)
		free := strings.HasPrefix(typ, "organization.domain_")
		if (err == nil) != free {
			t.Errorf("%s without data: %v", typ, err)
		}
	}
}

func TestCompact(t *testing.T) {
	t.Parallel()
	loose := parse(t, []byte(strings.ReplaceAll(minimal, ",", ", \n")))
	if got := loose.Compact(); string(got.Body()) != minimal || string(got.Data) != "{}" {
		t.Errorf("got %s", got.Body())
	}
	ev := parse(t, []byte(minimal))
	if got := ev.Compact(); &got.Body()[0] != &ev.Body()[0] {
		t.Error("a compact body was copied")
	}
	if got := (events.Event{}).Compact(); got.Body() != nil {
		t.Error("the zero event has a body")
	}
}

func TestNewID(t *testing.T) {
	t.Parallel()
	form := regexp.MustCompile(`^evt_[0-9]{21}$`)
	const goroutines, each = 4, 5_000
	ids := make([][]string, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for range each {
				ids[g] = append(ids[g], events.NewID())
			}
		})
	}
	wg.Wait()
	seen := make(map[string]bool, goroutines*each)
	for _, list := range ids {
		if last := list[len(list)-1]; !form.MatchString(list[0]) || !form.MatchString(last) {
			t.Errorf("%s or %s has another form", list[0], last)
		}
		if !slices.IsSorted(list) {
			t.Error("ids are not in the order they were made")
		}
		for _, id := range list {
			if seen[id] {
				t.Fatalf("%s came twice", id)
			}
			seen[id] = true
		}
	}
}

// Events are small structs of slices: parsing must not keep a second copy.
func TestBodyIsKept(t *testing.T) {
	t.Parallel()
	body := []byte(minimal)
	ev := parse(t, body)
	if &ev.Body()[0] != &body[0] || &ev.Data[0] != &body[bytes.Index(body, []byte("{}"))] {
		t.Error("the body was copied")
	}
	if data := append(ev.Data, 'x'); string(body) != minimal || len(data) != 3 {
		t.Error("appending to Data writes into the body")
	}
	var v any
	if err := json.Unmarshal(ev.Data, &v); err != nil {
		t.Fatal(err)
	}
}
