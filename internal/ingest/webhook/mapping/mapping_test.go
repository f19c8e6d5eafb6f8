package mapping_test

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/ingest/webhook/mapping"
)

func read(tb testing.TB, name string) string {
	tb.Helper()
	text, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// example is the mapping in testdata, after a change.
func example(tb testing.TB, change func(*mapping.Mapping)) *mapping.Compiled {
	tb.Helper()
	m, err := mapping.Parse([]byte(read(tb, "mapping.json")))
	if err != nil {
		tb.Fatal(err)
	}
	if change != nil {
		change(&m)
	}
	c, err := m.Compile()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

var origin = mapping.Origin{SourceID: "src_1", WebhookID: "msg_1", EnvironmentID: "env_1"}

func TestARemovalBecomesOneOfOurs(t *testing.T) {
	t.Parallel()
	c := example(t, nil)
	body := read(t, "removed.json")
	r, err := c.Map([]byte(body), origin)
	if err != nil || r.Meaning != mapping.Removal || r.Type != "member.removed" {
		t.Fatalf("%+v: %v", r, err)
	}
	ev := r.Event
	if ev.Type != "user.organization_membership_deleted" || ev.OrganizationID != "org_northwind" || ev.UserID() != "usr_1001" || ev.EnvironmentID != "env_1" ||
		!ev.OccurredAt.Equal(time.Date(2026, 6, 12, 9, 30, 0, 250_000_000, time.UTC)) || !strings.HasPrefix(ev.ID, "evt_") || len(ev.ID) != 36 {
		t.Errorf("%s", ev.Body())
	}
	data, err := events.MembershipRemoved.Decode(ev)
	if err != nil || data.User.Email != "Dana@example.com" || data.User.ExternalID != "77" || data.Reason != "upstream" || data.Organization.ID != "org_northwind" {
		t.Errorf("%+v: %v", data, err)
	}
	var more struct {
		Source map[string]string
		Raw    any
	}
	if err := json.Unmarshal(ev.Data, &more); err != nil {
		t.Fatal(err)
	}
	var original any
	if err := json.Unmarshal([]byte(body), &original); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(original, more.Raw); diff != "" || more.Source["id"] != "src_1" || more.Source["type"] != "member.removed" {
		t.Errorf("%v %s", more.Source, diff)
	}
	if strings.ContainsAny(string(ev.Body()), "\n") || !strings.Contains(string(ev.Body()), "<GmbH>") {
		t.Errorf("not compact: %s", ev.Body())
	}
	// A copy is the same event, to the byte; another message or source is not.
	loose, err := c.Map([]byte(strings.NewReplacer("\n", " ", "G", `\u0047`).Replace(body)), origin)
	if err != nil || string(loose.Event.Body()) != string(ev.Body()) {
		t.Errorf("a copy is another event: %s: %v", loose.Event.Body(), err)
	}
	for _, o := range []mapping.Origin{{SourceID: "src_2", WebhookID: "msg_1", EnvironmentID: "env_1"}, {SourceID: "src_1", WebhookID: "msg_2", EnvironmentID: "env_1"}} {
		if other, err := c.Map([]byte(body), o); err != nil || other.Event.ID == ev.ID {
			t.Errorf("%+v has the same id: %v", o, err)
		}
	}
}

func TestMeanings(t *testing.T) {
	t.Parallel()
	c := example(t, nil)
	body := read(t, "removed.json")
	for typ, want := range map[string]struct {
		meaning mapping.Meaning
		ours    string
		reason  string
	}{
		"member.removed":   {mapping.Removal, "user.organization_membership_deleted", "upstream"},
		"member.suspended": {mapping.Removal, "user.organization_membership_deleted", "upstream"},
		"member.added":     {mapping.Addition, "user.organization_membership_created", ""},
		"Member.removed":   {mapping.Nothing, "", ""},
		"member.seen":      {mapping.Nothing, "", ""},
	} {
		r, err := c.Map([]byte(strings.Replace(body, "member.removed", typ, 1)), origin)
		if err != nil || r.Meaning != want.meaning || r.Event.Type != want.ours || r.Type != typ {
			t.Errorf("%s: %+v: %v", typ, r, err)
			continue
		}
		var data events.Membership
		if want.ours != "" {
			if err := json.Unmarshal(r.Event.Data, &data); err != nil || data.Reason != want.reason {
				t.Errorf("%s: reason %q: %v", typ, data.Reason, err)
			}
		}
	}
	if r, err := c.Map([]byte(`{"type":"member.seen","data":7}`), origin); err != nil || r.Meaning != mapping.Nothing {
		t.Errorf("what means nothing is looked at: %+v: %v", r, err)
	}
}

func TestWhatIsMissingOrOddIsNamed(t *testing.T) {
	t.Parallel()
	c := example(t, func(m *mapping.Mapping) { m.ID = "/id" })
	body := strings.Replace(read(t, "removed.json"), "{", `{"id": "a",`, 1)
	if _, err := c.Map([]byte(body), origin); err != nil {
		t.Fatal(err)
	}
	for name, cs := range map[string]struct{ old, replacement, field string }{
		"no type":               {`"type": "member.removed",`, ``, "/type"},
		"type null":             {`"member.removed"`, `null`, "/type"},
		"type number":           {`"member.removed"`, `7`, "/type"},
		"no time":               {`"timestamp"`, `"timestamq"`, "/timestamp"},
		"time null":             {`"2026-06-12T09:30:00.25Z"`, `null`, "/timestamp"},
		"time text":             {`"2026-06-12T09:30:00.25Z"`, `"soon"`, "/timestamp"},
		"time list":             {`"2026-06-12T09:30:00.25Z"`, `[1]`, "/timestamp"},
		"time huge":             {`"2026-06-12T09:30:00.25Z"`, `1e999`, "/timestamp"},
		"time long":             {`"2026-06-12T09:30:00.25Z"`, strings.Repeat("9", 400), "/timestamp"},
		"time in 9999":          {`"2026-06-12T09:30:00.25Z"`, `9223372036854775807`, "/timestamp"},
		"time before 1970":      {`"2026-06-12T09:30:00.25Z"`, `"1969-12-31T23:59:59Z"`, "/timestamp"},
		"time negative":         {`"2026-06-12T09:30:00.25Z"`, `-1`, "/timestamp"},
		"no organization":       {`"id": "northwind"`, `"ix": 1`, "/data/workspace/id"},
		"organization nowhere":  {`{"id": "northwind", "name": "Northwind <GmbH>"}`, `7`, "/data/workspace/id"},
		"organization object":   {`"northwind"`, `{}`, "/data/workspace/id"},
		"organization bool":     {`"northwind"`, `true`, "/data/workspace/id"},
		"organization empty":    {`"northwind"`, `""`, "/data/workspace/id"},
		"organization prefix":   {`"northwind"`, `"org_"`, "/data/workspace/id"},
		"organization NUL":      {`"northwind"`, `"a\u0000"`, "/data/workspace/id"},
		"organization space":    {`"northwind"`, `"a b"`, "/data/workspace/id"},
		"organization umlaut":   {`"northwind"`, `"nörd"`, "/data/workspace/id"},
		"organization long":     {`"northwind"`, `"` + strings.Repeat("a", 252) + `"`, "/data/workspace/id"},
		"user fraction":         {`1001`, `1001.5`, "/data/member/id"},
		"user exponent":         {`1001`, `1e3`, "/data/member/id"},
		"user negative":         {`1001`, `-1`, "/data/member/id"},
		"user with many digits": {`1001`, strings.Repeat("1", 21), "/data/member/id"},
		"no user":               {`"id": 1001,`, ``, "/data/member/id"},
		"email number in words": {`"Dana@example.com"`, `"nobody"`, "/data/member/emails/0/address"},
		"email NUL":             {`"Dana@example.com"`, `"a\u0000@example.com"`, "/data/member/emails/0/address"},
		"email list":            {`"Dana@example.com"`, `[]`, "/data/member/emails/0/address"},
		"email long":            {`"Dana@example.com"`, `"` + strings.Repeat("a", 250) + `@example.com"`, "/data/member/emails/0/address"},
		"external id NUL":       {`77`, `"\u0000"`, "/data/member/employee_number"},
		"external id long":      {`77`, `"` + strings.Repeat("a", 256) + `"`, "/data/member/employee_number"},
		"no id":                 {`"id": "a",`, ``, "/id"},
		"id object":             {`"id": "a",`, `"id": {},`, "/id"},
	} {
		changed := strings.Replace(body, cs.old, cs.replacement, 1)
		if changed == body {
			t.Fatalf("%s changes nothing", name)
		}
		_, err := c.Map([]byte(changed), origin)
		var fault *mapping.FieldError
		if !errors.As(err, &fault) || fault.Field != cs.field {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, text := range map[string]string{
		"not JSON": "{", "empty": "", "list": "[" + body + "]", "trailing": body + "{}", "UTF-8": strings.Replace(body, "northwind", "\xff", 1),
		"surrogate": strings.Replace(body, "northwind", `\ud800`, 1), "twice": strings.Replace(body, "{", `{"type":"x",`, 1),
		"twice, escaped": strings.Replace(body, "{", `{"\u0074ype":"x",`, 1),
		"deep":           `{"type":"member.seen","x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
		"large":          body + strings.Repeat(" ", events.MaxSize),
	} {
		var fault *events.SyntaxError
		if _, err := c.Map([]byte(text), origin); !errors.As(err, &fault) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsTaken(t *testing.T) {
	t.Parallel()
	body := read(t, "removed.json")
	c := example(t, nil)
	get := func(old, replacement string) (events.Event, events.Membership) {
		t.Helper()
		r, err := c.Map([]byte(strings.Replace(body, old, replacement, 1)), origin)
		if err != nil {
			t.Fatalf("%s: %v", replacement, err)
		}
		data, err := events.MembershipRemoved.Decode(r.Event)
		if err != nil {
			t.Fatalf("%s: %v", replacement, err)
		}
		return r.Event, data
	}
	for text, want := range map[string]string{
		`1781256600`: "2026-06-12T09:30:00Z", `1781256600250`: "2026-06-12T09:30:00.25Z", `0`: "1970-01-01T00:00:00Z",
		`"2026-06-12T11:30:00.000000001+02:00"`: "2026-06-12T09:30:00.000000001Z",
	} {
		if ev, _ := get(`"2026-06-12T09:30:00.25Z"`, text); ev.OccurredAt.Format(time.RFC3339Nano) != want {
			t.Errorf("%s is %v", text, ev.OccurredAt)
		}
	}
	if ev, _ := get(`"northwind"`, `"org_1"`); ev.OrganizationID != "org_1" {
		t.Errorf("an id in our form became %s", ev.OrganizationID)
	}
	if ev, _ := get(`1001`, `18446744073709551615`); ev.UserID() != "usr_18446744073709551615" {
		t.Errorf("a large number became %s", ev.UserID())
	}
	if _, data := get(`, "employee_number": 77`, ``); data.User.ExternalID != "" || data.User.Email == "" {
		t.Errorf("without an external id: %+v", data.User)
	}
	if _, data := get(`[{"address": "Dana@example.com", "primary": true}]`, `[]`); data.User.Email != "" || data.User.ExternalID == "" {
		t.Errorf("without an email: %+v", data.User)
	}
	// The original is left out where it has no room: it is large, or as deep as it may be.
	for name, more := range map[string]string{
		"large": `"x": "` + strings.Repeat("a", 64<<10) + `", `, "deep": `"x": ` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `, `,
	} {
		ev, data := get(`{`, `{`+more)
		if strings.Contains(string(ev.Body()), `"raw"`) || data.User.Email == "" {
			t.Errorf("%s: %d bytes", name, len(ev.Body()))
		}
	}
	if ev, _ := get(`null`, strings.Repeat("[", 60)+`"\u0000"`+strings.Repeat("]", 60)); !strings.Contains(string(ev.Body()), `"raw"`) {
		t.Errorf("the original is left out")
	}
	c = example(t, func(m *mapping.Mapping) { m.ID = "/data/workspace/id" })
	a, err := c.Map([]byte(body), mapping.Origin{SourceID: "src_1", WebhookID: "a", EnvironmentID: "env_1"})
	b, err2 := c.Map([]byte(body), mapping.Origin{SourceID: "src_1", WebhookID: "b", EnvironmentID: "env_1"})
	if err != nil || err2 != nil || a.Event.ID != b.Event.ID {
		t.Errorf("an id of their own: %s, %s: %v, %v", a.Event, b.Event, err, err2)
	}
}

func TestPointers(t *testing.T) {
	t.Parallel()
	for p, want := range map[string]string{"/a~1b": "usr_1", "/m~0n": "usr_2", "/~01": "usr_3", "/": "usr_4", "/l/1": "usr_6", "/l/-": "", "/l/01": "", "/l/2": "", "/l/+1": "", "/o/-": "usr_7", "/l/1/0": ""} {
		c := example(t, func(m *mapping.Mapping) { m.User = p })
		r, err := c.Map([]byte(`{"a/b":"1","m~n":"2","~1":"3","":"4","l":["5","6"],"o":{"-":"7"},"type":"member.removed","timestamp":1,"data":{"workspace":{"id":"o"}}}`), origin)
		if got := r.Event.UserID(); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q: %v", p, got, err)
		}
	}
}

func TestMappingsAreCheckedStrictly(t *testing.T) {
	t.Parallel()
	good := read(t, "mapping.json")
	for name, cs := range map[string]struct{ old, replacement, says string }{
		"not JSON":         {good, `{`, "at byte 1"},
		"a list":           {good, `[]`, "JSON object"},
		"empty":            {good, ``, "JSON object"},
		"unknown key":      {`"user"`, `"usr"`, `"usr" is not a key of a mapping; these are removals, additions, type, time, organization, user, email, external_id, id`},
		"upper case":       {`"user"`, `"User"`, `"User" is not a key`},
		"long key":         {`"user"`, `"` + strings.Repeat("ü", 500) + `"`, "…"},
		"twice":            {`"type"`, `"type": "/x", "type"`, "twice"},
		"number":           {`"/type"`, `7`, "type has to be a string"},
		"list of numbers":  {`["member.added"]`, `[7]`, "additions"},
		"no list":          {`["member.added"]`, `"member.added"`, "additions has to be a list of strings"},
		"large":            {good, `{"type":"` + strings.Repeat("a", 64<<10) + `"}`, "longer"},
		"no type":          {`"type": "/type",`, ``, "type is required"},
		"no user":          {`"/data/member/id"`, `""`, "user is required"},
		"no pointer":       {`"/type"`, `"type"`, "type has to be a JSON Pointer"},
		"whole document":   {`"/type"`, `"#/type"`, "type has to be a JSON Pointer"},
		"odd tilde":        {`"/type"`, `"/a~2"`, "type has a ~"},
		"last tilde":       {`"/type"`, `"/a~"`, "type has a ~"},
		"third tilde":      {`"/type"`, `"/a~0~1~"`, "type has a ~"},
		"long pointer":     {`"/type"`, `"/` + strings.Repeat("a", 256) + `"`, "type is longer than 256"},
		"many steps":       {`"/type"`, `"` + strings.Repeat("/a", 33) + `"`, "type has more than 32"},
		"no types":         {good, `{"type":"/a","time":"/b","organization":"/c","user":"/d"}`, "removals needs a type"},
		"empty type":       {`"member.removed"`, `""`, "removals[0] has to have"},
		"long type":        {`"member.suspended"`, `"` + strings.Repeat("a", 256) + `"`, "removals[1] has to have"},
		"in both lists":    {`"member.added"`, `"member.suspended"`, "additions[0] is among the removals too"},
		"many types":       {`["member.added"]`, `["a"` + strings.Repeat(`,"a"`, 100) + `]`, "additions has more than 100"},
		"optional pointer": {`"/data/member/employee_number"`, `"x"`, "external_id has to be a JSON Pointer"},
	} {
		text := strings.Replace(good, cs.old, cs.replacement, 1)
		m, err := mapping.Parse([]byte(text))
		if err == nil {
			_, err = m.Compile()
		}
		if err == nil || !strings.Contains(err.Error(), cs.says) || len(err.Error()) > 300 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzMap looks for a body that breaks what is promised of the events that are
// made: they are valid and the same for each copy, and no error quotes a body.
func FuzzMap(f *testing.F) {
	body := read(f, "removed.json")
	for _, text := range []string{body, `{"type":"member.added","timestamp":1e999,"data":{"workspace":{"id":"o"},"member":{"id":"\u0000"}}}`, `{"type":{}}`, "[]"} {
		f.Add([]byte(text))
	}
	c := example(f, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := c.Map(body, origin)
		if err != nil {
			var field *mapping.FieldError
			var syntax *events.SyntaxError
			if !errors.As(err, &field) && !errors.As(err, &syntax) {
				t.Fatalf("%v", err)
			}
			if field != nil && !strings.HasPrefix(field.Field, "/") {
				t.Fatalf("a fault of the sender's names %q", field.Field)
			}
			return
		}
		if r.Meaning == mapping.Nothing {
			return
		}
		ev, err := events.Parse(r.Event.Body())
		if err != nil || ev.ID != r.Event.ID || ev.UserID() == "" || ev.OrganizationID == "" {
			t.Fatalf("%s: %v", r.Event.Body(), err)
		}
		if again, err := c.Map(body, origin); err != nil || string(again.Event.Body()) != string(r.Event.Body()) {
			t.Fatalf("%s is also %s: %v", r.Event.Body(), again.Event.Body(), err)
		}
	})
}
