package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
)

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	body, ok := events.Fixture(name)
	if !ok {
		t.Fatalf("no fixture %s", name)
	}
	return body
}

func parse(t testing.TB, body []byte) events.Event {
	t.Helper()
	ev, err := events.Parse(body)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return ev
}

func TestFixtures(t *testing.T) {
	t.Parallel()
	const (
		dana, sam, ines   = "usr_118200000000001001", "usr_118200000000001002", "usr_118200000000001003"
		directoryInes     = "diruser_118200000000005003"
		northwind, globex = "org_118200000000000101", "org_118200000000000202"
	)
	want := map[string]struct{ typ, organization, user, subject string }{
		"legacy.scalekit.dir.user.delete":                        {"scalekit.dir.user.delete", northwind, "", directoryInes},
		"organization.deleted":                                   {"", globex, "", ""},
		"organization.directory.group_deleted":                   {"", northwind, "", ""},
		"organization.directory.user_deleted":                    {"", northwind, "", directoryInes},
		"organization.directory.user_updated.active":             {"organization.directory.user_updated", northwind, "", directoryInes},
		"organization.directory.user_updated.inactive":           {"organization.directory.user_updated", northwind, "", directoryInes},
		"organization.directory_disabled":                        {"", northwind, "", ""},
		"organization.sso_created":                               {"", northwind, "", ""},
		"role.created":                                           {"", "", "", ""},
		"unknown_future_type":                                    {"user.some_future_event", northwind, dana, dana},
		"user.deleted.proposed":                                  {"user.deleted", globex, sam, sam},
		"user.logout":                                            {"", northwind, dana, dana},
		"user.organization_invitation":                           {"", globex, dana, dana},
		"user.organization_membership_created":                   {"", northwind, dana, dana},
		"user.organization_membership_deleted":                   {"", northwind, dana, dana},
		"user.organization_membership_deleted.minimal":           {"user.organization_membership_deleted", globex, sam, sam},
		"user.organization_membership_updated":                   {"", northwind, dana, dana},
		"user.organization_membership_updated.inactive.proposed": {"user.organization_membership_updated", northwind, ines, ines},
	}
	names := events.FixtureNames()
	if len(names) != len(want) {
		t.Errorf("%d fixtures, %d expected", len(names), len(want))
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, ok := want[name]
			if !ok {
				t.Fatal("nothing is expected of it")
			}
			file, err := os.ReadFile("fixtures/" + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			ev := parse(t, file)
			if !bytes.Equal(ev.Body(), file) {
				t.Error("Body is not what was parsed")
			}
			if w.typ == "" {
				w.typ = name
			}
			if ev.Type != w.typ || ev.OrganizationID != w.organization || ev.UserID() != w.user || ev.Subject() != w.subject {
				t.Errorf("type %s, organization %s, user %s, subject %s; want %+v", ev.Type, ev.OrganizationID, ev.UserID(), ev.Subject(), w)
			}
			checkAgainstEncodingJSON(t, ev)

			compact := parse(t, fixture(t, name))
			var std bytes.Buffer
			if err := json.Compact(&std, file); err != nil {
				t.Fatal(err)
			}
			for label, body := range map[string][]byte{"Fixture": compact.Body(), "Compact": ev.Compact().Body()} {
				if !bytes.Equal(body, std.Bytes()) {
					t.Errorf("%s gives %s", label, body)
				}
			}
			completed, err := events.Complete(file, events.Defaults{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(compact, completed, cmp.AllowUnexported(events.Event{})); diff != "" {
				t.Errorf("Complete gives another event:\n%s", diff)
			}
		})
	}
}

// checkAgainstEncodingJSON compares an event with what encoding/json makes of
// its body, key for key.
func checkAgainstEncodingJSON(t *testing.T, ev events.Event) {
	t.Helper()
	var env map[string]json.RawMessage
	if err := json.Unmarshal(ev.Body(), &env); err != nil {
		t.Fatalf("encoding/json refuses what Parse accepted: %v", err)
	}
	text := func(m map[string]json.RawMessage, key string) string {
		var s string
		if raw, ok := m[key]; ok {
			if err := json.Unmarshal(raw, &s); err != nil {
				t.Fatalf("%s: %v", key, err)
			}
		}
		return s
	}
	at, err := time.Parse(time.RFC3339Nano, text(env, "occurred_at"))
	if err != nil {
		t.Fatal(err)
	}
	got := []string{ev.SpecVersion, ev.ID, ev.Type, ev.Object, ev.EnvironmentID, ev.DisplayName, string(ev.Data)}
	want := []string{text(env, "spec_version"), text(env, "id"), text(env, "type"), text(env, "object"), text(env, "environment_id"), text(env, "display_name"), string(env["data"])}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields differ:\n%s", diff)
	}
	if !ev.OccurredAt.Equal(at) || ev.OccurredAt.Location() != time.UTC || !time.Unix(0, ev.OccurredAt.UnixNano()).Equal(at) {
		t.Errorf("OccurredAt %v, want %v in UTC", ev.OccurredAt, at)
	}
	if id := text(env, "organization_id"); id != "" && id != ev.OrganizationID {
		t.Errorf("OrganizationID %s, want %s", ev.OrganizationID, id)
	}
}

// The fixtures and the types match both ways: each type with Go data has a
// fixture, and each fixture is of a type that is known, but for two that stand
// for those that are not.
func TestFixturesAndTypesMatch(t *testing.T) {
	t.Parallel()
	fixtures, types := map[string]bool{}, map[string]bool{}
	for _, typ := range events.FixtureTypes() {
		fixtures[typ] = true
	}
	for _, typ := range events.Types() {
		types[typ] = true
	}
	for _, declared := range []string{
		events.MembershipRemoved.Name, events.MembershipCreated.Name, events.MembershipUpdated.Name, events.UserDeleted.Name,
	} {
		if !fixtures[declared] || !types[declared] {
			t.Errorf("%s has a fixture: %v, is known: %v", declared, fixtures[declared], types[declared])
		}
	}
	for typ := range fixtures {
		stranger := typ == "scalekit.dir.user.delete" || typ == "user.some_future_event"
		if types[typ] == stranger {
			t.Errorf("%s is known: %v", typ, types[typ])
		}
		if ev := parse(t, fixture(t, typ)); ev.Type != typ {
			t.Errorf("Fixture(%s) is of type %s", typ, ev.Type)
		}
	}
	files, err := os.ReadDir("fixtures")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".json"))
	}
	slices.Sort(names)
	if diff := cmp.Diff(names, events.FixtureNames()); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"", "no.such.type", "../doc", "user.deleted.proposed.json"} {
		if _, ok := events.Fixture(name); ok {
			t.Errorf("there is a fixture %q", name)
		}
	}
	body := fixture(t, "role.created")
	body[0] = 'x'
	if fixture(t, "role.created")[0] != '{' {
		t.Error("a caller can change a fixture")
	}
}

// minimal is the smallest event of a type that is not known.
const minimal = `{"spec_version":"1","id":"evt_1","type":"t","object":"O","occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_1","data":{}}`

// with replaces a part of minimal.
func with(t *testing.T, old, text string) string {
	t.Helper()
	if strings.Count(minimal, old) != 1 {
		t.Fatalf("%q is not in the event once", old)
	}
	return strings.Replace(minimal, old, text, 1)
}

func known(typ, data string) string {
	return fmt.Sprintf(`{"spec_version":"1","id":"evt_1","type":%q,"object":"O","occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_1","data":%s}`, typ, data)
}

func nested(depth int) string {
	return strings.Repeat("[", depth) + strings.Repeat("]", depth)
}

func TestSyntax(t *testing.T) {
	t.Parallel()
	value := func(v string) string { return with(t, `{}}`, `{"x":`+v+`}}`) }
	many := func(n int, last string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		return "{" + b.String() + last + ":0}"
	}
	for name, body := range map[string]string{
		"minimal":                 minimal,
		"white space":             " \t\r\n" + minimal + "\r\n\t ",
		"space between tokens":    with(t, `"type":"t",`, " \"type\" :\t\"t\"\r\n,"),
		"literals":                value(`[true,false,null,{},[],""]`),
		"numbers":                 value(`[0,-0,1,-1,10,1.5,0.0,1e1,1E+1,1e-10,-1.25E5,123456789012345678901234567890,1e999]`),
		"escapes":                 value(`"\"\\\/\b\f\n\r\t\u0000\u00e9\uD83D\uDEA2\ud83d\udea2"`),
		"UTF-8":                   value(`"é€🚢` + "\u2028\x7f" + `"`),
		"replacement character":   value("\"\uFFFD\""),
		"same key in two objects": value(`[{"a":1},{"a":1},{"b":{"a":{"a":1}}}]`),
		"keys in two cases":       value(`{"a":1,"A":1,"":1}`),
		"as deep as allowed":      value(nested(events.MaxDepth - 2)),
		"many keys":               value(many(1000, `"last"`)),
		"as long as allowed":      minimal + strings.Repeat(" ", events.MaxSize-len(minimal)),
	} {
		ev, err := events.Parse([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		checkAgainstEncodingJSON(t, ev)
	}
	for name, body := range map[string]string{
		"nothing":                     "",
		"white space only":            " \n",
		"byte order mark":             "\ufeff" + minimal,
		"null":                        "null",
		"array":                       "[" + minimal + "]",
		"string":                      `"x"`,
		"number":                      "1",
		"two objects":                 minimal + minimal,
		"trailing word":               minimal + " x",
		"trailing NUL":                minimal + "\x00",
		"trailing bracket":            minimal + "}",
		"comma behind the last":       with(t, `{}}`, `{},}`),
		"comma first":                 "{," + minimal[1:],
		"no comma":                    with(t, `"1","id"`, `"1" "id"`),
		"no colon":                    with(t, `"id":`, `"id" `),
		"key without quotes":          with(t, `"id":`, `id:`),
		"key in single quotes":        with(t, `"id":`, `'id':`),
		"comment":                     with(t, `"id":`, `/**/"id":`),
		"array comma behind the last": value(`[1,]`),
		"array comma first":           value(`[,1]`),
		"array without comma":         value(`[1 2]`),
		"array without end":           value(`[1`),
		"no value":                    value(``),
		"word":                        value(`nil`),
		"word cut short":              value(`tru`),
		"upper case word":             value(`True`),
		"NaN":                         value(`NaN`),
		"Infinity":                    value(`-Infinity`),
		"plus":                        value(`+1`),
		"leading zero":                value(`01`),
		"minus only":                  value(`-`),
		"dot first":                   value(`.5`),
		"dot last":                    value(`1.`),
		"exponent without digits":     value(`1e`),
		"hexadecimal":                 value(`0x1`),
		"newline in a string":         value("\"\n\""),
		"NUL in a string":             value("\"\x00\""),
		"unknown escape":              value(`"\x41"`),
		"escape cut short":            value(`"\u00e"`),
		"escape not hexadecimal":      value(`"\u00eg"`),
		"high surrogate alone":        value(`"\ud83d"`),
		"high surrogate, then text":   value(`"\ud83d\n"`),
		"two high surrogates":         value(`"\ud83d\ud83d"`),
		"low surrogate alone":         value(`"\udea2"`),
		"surrogates the wrong way":    value(`"\udea2\ud83d"`),
		"surrogate in a key":          value(`{"\ud83d":1}`),
		"invalid UTF-8":               value("\"\xff\""),
		"invalid UTF-8 in a key":      value("{\"\xc3\":1}"),
		"UTF-8 cut short":             value("\"\xf0\x9f\x9a\""),
		"overlong UTF-8":              value("\"\xc0\x80\""),
		"surrogate in UTF-8":          value("\"\xed\xa0\xbd\""),
		"UTF-8 outside of a string":   value("é"),
		"key twice":                   minimal[:len(minimal)-1] + `,"data":{}}`,
		"key twice in data":           value(`1,"x":2`),
		"key twice, deep":             value(`[{"a":[{"b":1,"b":1}]}]`),
		"key twice, once escaped":     value(`{"ab":1,"\u0061b":2}`),
		"key twice, another escape":   value(`{"/":1,"\/":2}`),
		"key twice, UTF-16":           value(`{"🚢":1,"\ud83d\udea2":2}`),
		"empty key twice":             value(`{"":1,"":2}`),
		"first key again after many":  value(many(1000, `"k0"`)),
		"last key again after many":   value(many(1000, `"k999"`)),
		"key again at the limit":      value(many(16, `"k15"`)),
		"key again past the limit":    value(many(17, `"k16"`)),
		"too deep":                    value(nested(events.MaxDepth - 1)),
		"much too deep":               value(strings.Repeat(`{"a":[`, 100_000)),
		"too long":                    minimal + strings.Repeat(" ", events.MaxSize-len(minimal)+1),
	} {
		_, err := events.Parse([]byte(body))
		var syntax *events.SyntaxError
		if !errors.As(err, &syntax) || !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: got %v, want a SyntaxError", name, err)
			continue
		}
		if syntax.Offset < 0 || syntax.Offset > len(body) || !strings.HasPrefix(err.Error(), "invalid event: at byte ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range len(minimal) {
		if _, err := events.Parse([]byte(minimal[:i])); !errors.Is(err, events.ErrInvalid) {
			t.Errorf("cut after %d bytes: %v", i, err)
		}
	}
}

func TestFields(t *testing.T) {
	t.Parallel()
	longest := strings.Repeat("1", events.MaxID-4)
	for name, body := range map[string]string{
		"longest id":              with(t, "evt_1", "evt_"+longest),
		"escaped id":              with(t, "evt_1", `\u0065vt_1`),
		"another version":         with(t, `"spec_version":"1"`, `"spec_version":"20260101"`),
		"organization":            with(t, `"data"`, `"organization_id":"org_1","data"`),
		"null organization":       with(t, `"data"`, `"organization_id":null,"data"`),
		"null display name":       with(t, `"data"`, `"display_name":null,"data"`),
		"NUL in display name":     with(t, `"data"`, `"display_name":"a\u0000b","data"`),
		"free data":               with(t, `{}}`, `{"user":{"id":5},"organization":"x","id":[],"organization_id":"","reason":{},"successor":[]}}`),
		"user is a string":        with(t, `{}}`, `{"user":"usr_1"}}`),
		"membership":              known("user.signup", `{"organization":{"id":"org_1"},"user":{"id":"usr_1"}}`),
		"null reason, successor":  known("user.deleted", `{"user":{"id":"usr_1"},"reason":null,"successor":null}`),
		"successor":               known("user.deleted", `{"user":{"id":"usr_1"},"reason":"user_deleted","successor":{"user_id":"usr_2","email":"a@example.com","x":1}}`),
		"successor by email":      known("user.deleted", `{"user":{"id":"usr_1"},"successor":{"email":"zoë@example.com"}}`),
		"login without user id":   known("user.login", `{"user":{},"user_session":{}}`),
		"domain":                  known("organization.domain_created", `{"id":"dom_1"}`),
		"organization deleted":    known("organization.deleted", `{"id":"org_1","display_name":"","deleted_at":"2026-06-12T09:30:01+02:00"}`),
		"directory":               known("organization.directory_enabled", `{"id":"dir_1","organization_id":"org_1"}`),
		"directory user":          known("organization.directory.user_created", `{"id":"diruser_1","organization_id":"org_1"}`),
		"permission":              known("permission.created", `{"id":"perm_1","name":"read"}`),
		"connected account":       known("connected_account.created", `{}`),
		"keys in the other case":  known("user.deleted", `{"user":{"id":"usr_1","ID":5},"USER":7}`),
		"fields in another order": `{"data":{},"environment_id":"env_1","occurred_at":"2026-06-12T09:30:01Z","object":"O","type":"t","id":"evt_1","spec_version":"1"}`,
	} {
		if _, err := events.Parse([]byte(body)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	membership := func(data string) string { return known("user.organization_membership_deleted", data) }
	for _, test := range []struct{ field, name, body string }{
		{"spec_version", "absent", with(t, `"spec_version":"1",`, ``)},
		{"spec_version", "null", with(t, `"spec_version":"1"`, `"spec_version":null`)},
		{"spec_version", "number", with(t, `"spec_version":"1"`, `"spec_version":1`)},
		{"spec_version", "empty", with(t, `"spec_version":"1"`, `"spec_version":""`)},
		{"spec_version", "no digits", with(t, `"spec_version":"1"`, `"spec_version":"1.0"`)},
		{"id", "absent", with(t, `"id":"evt_1",`, ``)},
		{"id", "in the other case", with(t, `"id"`, `"ID"`)},
		{"id", "number", with(t, `"evt_1"`, `1`)},
		{"id", "prefix", with(t, `evt_1`, `msg_1`)},
		{"id", "upper case prefix", with(t, `evt_1`, `EVT_1`)},
		{"id", "prefix only", with(t, `evt_1`, `evt_`)},
		{"id", "space", with(t, `evt_1`, `evt_1 `)},
		{"id", "NUL", with(t, `evt_1`, `evt_1\u0000`)},
		{"id", "line break", with(t, `evt_1`, `evt_1\n`)},
		{"id", "DEL", with(t, `evt_1`, "evt_1\x7f")},
		{"id", "not ASCII", with(t, `evt_1`, `evt_é`)},
		{"id", "too long", with(t, `evt_1`, `evt_1`+longest)},
		{"type", "absent", with(t, `"type":"t",`, ``)},
		{"type", "empty", with(t, `"type":"t"`, `"type":""`)},
		{"type", "array", with(t, `"type":"t"`, `"type":["t"]`)},
		{"type", "NUL", with(t, `"type":"t"`, `"type":"t\u0000"`)},
		{"type", "too long", with(t, `"type":"t"`, `"type":"ttttt`+longest+`"`)},
		{"object", "absent", with(t, `"object":"O",`, ``)},
		{"object", "empty", with(t, `"object":"O"`, `"object":""`)},
		{"object", "object", with(t, `"object":"O"`, `"object":{}`)},
		{"occurred_at", "absent", with(t, `"occurred_at":"2026-06-12T09:30:01Z",`, ``)},
		{"occurred_at", "number", with(t, `"2026-06-12T09:30:01Z"`, `1781256601`)},
		{"environment_id", "absent", with(t, `"environment_id":"env_1",`, ``)},
		{"environment_id", "prefix", with(t, `env_1`, `environment_1`)},
		{"data", "absent", with(t, `,"data":{}`, ``)},
		{"data", "null", with(t, `"data":{}`, `"data":null`)},
		{"data", "array", with(t, `"data":{}`, `"data":[]`)},
		{"data", "string", with(t, `"data":{}`, `"data":"{}"`)},
		{"organization_id", "empty", with(t, `"data"`, `"organization_id":"","data"`)},
		{"organization_id", "prefix", with(t, `"data"`, `"organization_id":"usr_1","data"`)},
		{"organization_id", "number", with(t, `"data"`, `"organization_id":1,"data"`)},
		{"display_name", "number", with(t, `"data"`, `"display_name":1,"data"`)},

		{"data.organization", "absent", membership(`{"user":{"id":"usr_1"}}`)},
		{"data.organization", "null", membership(`{"organization":null,"user":{"id":"usr_1"}}`)},
		{"data.organization", "string", membership(`{"organization":"org_1","user":{"id":"usr_1"}}`)},
		{"data.organization.id", "absent", membership(`{"organization":{},"user":{"id":"usr_1"}}`)},
		{"data.organization.id", "prefix", membership(`{"organization":{"id":"usr_1"},"user":{"id":"usr_1"}}`)},
		{"data.user", "absent", membership(`{"organization":{"id":"org_1"}}`)},
		{"data.user", "array", membership(`{"organization":{"id":"org_1"},"user":[{"id":"usr_1"}]}`)},
		{"data.user.id", "absent", membership(`{"organization":{"id":"org_1"},"user":{"ID":"usr_1"}}`)},
		{"data.user.id", "null", membership(`{"organization":{"id":"org_1"},"user":{"id":null}}`)},
		{"data.user.id", "prefix", membership(`{"organization":{"id":"org_1"},"user":{"id":"org_1"}}`)},
		{"data.user.id", "NUL", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_\u0000"}}`)},
		{"data.reason", "number", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"reason":1}`)},
		{"data.successor", "string", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":"usr_2"}`)},
		{"data.successor", "empty", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":{}}`)},
		{"data.successor.user_id", "prefix", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":{"user_id":"2","email":"a@example.com"}}`)},
		{"data.successor.email", "number", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":{"email":2}}`)},
		{"data.successor.email", "no address", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":{"email":"sam"}}`)},
		{"data.successor.email", "NUL", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":{"email":"sam@a\u0000"}}`)},
		{"data.successor.email", "too long", membership(`{"organization":{"id":"org_1"},"user":{"id":"usr_1"},"successor":{"email":"sam@` + longest + `"}}`)},
		{"data.user.id", "deleted without", known("user.deleted", `{"user":{}}`)},
		{"data.user", "login without", known("user.login", `{"user_session":{}}`)},
		{"data.user_session", "absent", known("user.logout", `{"user":{"id":"usr_1"}}`)},
		{"data.user.id", "login with another", known("user.login", `{"user":{"id":"x"},"user_session":{}}`)},
		{"data.id", "organization without", known("organization.created", `{"display_name":"N"}`)},
		{"data.id", "organization of another kind", known("organization.created", `{"id":"usr_1","display_name":"N"}`)},
		{"data.display_name", "absent", known("organization.updated", `{"id":"org_1"}`)},
		{"data.deleted_at", "absent", known("organization.deleted", `{"id":"org_1","display_name":"N"}`)},
		{"data.deleted_at", "no time", known("organization.deleted", `{"id":"org_1","display_name":"N","deleted_at":"yesterday"}`)},
		{"data.id", "directory user of another kind", known("organization.directory.user_deleted", `{"id":"usr_1","organization_id":"org_1"}`)},
		{"data.organization_id", "directory without", known("organization.directory.user_deleted", `{"id":"diruser_1"}`)},
		{"data.organization_id", "connection of another kind", known("organization.sso_deleted", `{"id":"conn_1","organization_id":"1"}`)},
		{"data.id", "empty", known("organization.sso_deleted", `{"id":"","organization_id":"org_1"}`)},
		{"data.name", "absent", known("role.deleted", `{"id":"role_1"}`)},
		{"data.name", "number", known("permission.deleted", `{"id":"perm_1","name":1}`)},
	} {
		_, err := events.Parse([]byte(test.body))
		var field *events.FieldError
		if !errors.As(err, &field) || !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s, %s: got %v, want a FieldError", test.field, test.name, err)
			continue
		}
		if field.Field != test.field {
			t.Errorf("%s, %s: got %v", test.field, test.name, err)
		}
	}
}

func TestOccurredAt(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Time{
		"2026-06-12T09:30:00Z":                time.Date(2026, 6, 12, 9, 30, 0, 0, time.UTC),
		"2026-06-12T09:30:00.5Z":              time.Date(2026, 6, 12, 9, 30, 0, 500_000_000, time.UTC),
		"2026-06-12T09:30:00.123456789Z":      time.Date(2026, 6, 12, 9, 30, 0, 123_456_789, time.UTC),
		"2026-06-12T09:30:00.000000001+02:00": time.Date(2026, 6, 12, 7, 30, 0, 1, time.UTC),
		"2026-06-12T23:30:00-05:30":           time.Date(2026, 6, 13, 5, 0, 0, 0, time.UTC),
		"2026-06-12T09:30:00-00:00":           time.Date(2026, 6, 12, 9, 30, 0, 0, time.UTC),
		"2024-02-29T00:00:00Z":                time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC),
		"1970-01-01T00:00:00Z":                time.Unix(0, 0),
		"2261-12-31T23:59:59.999999999Z":      time.Date(2261, 12, 31, 23, 59, 59, 999_999_999, time.UTC),
	} {
		ev, err := events.Parse([]byte(with(t, "2026-06-12T09:30:01Z", text)))
		if err != nil || !ev.OccurredAt.Equal(want) || ev.OccurredAt.Location() != time.UTC {
			t.Errorf("%s: %v, %v", text, ev.OccurredAt, err)
		}
	}
	for _, text := range []string{
		"", "now", "2026-06-12", "2026-06-12T09:30Z", "2026-06-12T09:30:00", "2026-06-12 09:30:00Z", "2026-06-12t09:30:00z",
		"2026-06-12T09:30:00.Z", "2026-06-12T09:30:00.1234567890Z", "2026-06-12T09:30:00,5Z", "2026-06-12T9:30:00Z",
		"2026-06-12T09:30:00+0200", "2026-06-12T09:30:00+02", "2026-06-12T09:30:00+25:00", "2026-06-12T09:30:00ZZ", " 2026-06-12T09:30:00Z",
		"2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-06-12T24:00:00Z", "2026-06-12T09:60:00Z", "2026-06-12T09:30:60Z",
		"1969-12-31T23:59:59Z", "1970-01-01T00:00:00+01:00", "2262-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "10000-01-01T00:00:00Z",
	} {
		_, err := events.Parse([]byte(with(t, "2026-06-12T09:30:01Z", text)))
		var field *events.FieldError
		if !errors.As(err, &field) || field.Field != "occurred_at" {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestOrganizationAndSubject(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, object, more, data, organization, user, subject string }{
		{"envelope first", "Organization", `"organization_id":"org_1",`, `{"organization":{"id":"org_2"},"organization_id":"org_3","id":"org_4"}`, "org_1", "", ""},
		{"organization next", "Organization", "", `{"id":"org_4","organization_id":"org_3","organization":{"id":"org_2"}}`, "org_2", "", ""},
		{"organization_id next", "Organization", "", `{"id":"org_4","organization_id":"org_3","organization":{"id":"x"}}`, "org_3", "", ""},
		{"own id last", "Organization", "", `{"id":"org_4"}`, "org_4", "", ""},
		{"own id of another object", "Role", "", `{"id":"org_4"}`, "", "", ""},
		{"null in the envelope", "O", `"organization_id":null,`, `{"organization":{"id":"org_2"}}`, "org_2", "", ""},
		{"no id of an organization", "Organization", "", `{"organization":{"id":5},"organization_id":"org_","id":"organization"}`, "", "", ""},
		{"user", "User", "", `{"user":{"id":"usr_1"},"id":"diruser_1"}`, "", "usr_1", "usr_1"},
		{"directory user", "DirectoryUser", "", `{"id":"diruser_1"}`, "", "", "diruser_1"},
		{"both", "DirectoryUser", "", `{"id":"diruser_1","user":{"id":"usr_1"}}`, "", "usr_1", "usr_1"},
		{"directory user of another object", "DirectoryGroup", "", `{"id":"diruser_1"}`, "", "", ""},
		{"no id of a user", "DirectoryUser", "", `{"id":"dirgroup_1","user":{"id":"usr_\u0000"}}`, "", "", ""},
		{"user is elsewhere", "User", "", `{"x":{"user":{"id":"usr_1"}},"user":[{"id":"usr_2"}]}`, "", "", ""},
		{"escaped keys", "User", "", `{"\u0075ser":{"i\u0064":"usr_1"}}`, "", "usr_1", "usr_1"},
	} {
		ev, err := events.Parse([]byte(strings.NewReplacer(`"object":"O"`, fmt.Sprintf(`"object":%q`, test.object), `"data":{}`, test.more+`"data":`+test.data).Replace(minimal)))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if ev.OrganizationID != test.organization || ev.UserID() != test.user || ev.Subject() != test.subject {
			t.Errorf("%s: organization %q, user %q, subject %q", test.name, ev.OrganizationID, ev.UserID(), ev.Subject())
		}
	}
}

// Errors go to strangers and to logs, and events are logged: neither may show
// what an event says.
func TestNothingIsQuoted(t *testing.T) {
	t.Parallel()
	const private = "s3cret"
	for _, body := range []string{
		with(t, `{}}`, `{"s3cret":1,"s3cret":2}}`),
		with(t, `{}}`, `{"s3cret":"s3cret\q"}}`),
		with(t, `evt_1`, `s3cret`),
		with(t, "2026-06-12T09:30:01Z", "s3cret"),
		known("user.deleted", `{"user":{"id":"s3cret"}}`),
		known("user.deleted", `{"user":{"id":"usr_1","create_time":"s3cret"}}`),
		known("user.deleted", `{"user":{"id":"usr_1","user_profile":{"groups":["s3cret",{}]}}}`),
		known("user.deleted", `{"user":{"id":"usr_1","metadata":{"s3cret":5}}}`),
	} {
		ev, err := events.Parse([]byte(body))
		if err == nil {
			_, err = events.UserDeleted.Decode(ev)
		}
		if !errors.Is(err, events.ErrInvalid) || strings.Contains(err.Error(), private) {
			t.Errorf("got %v", err)
		}
	}
	ev := parse(t, []byte(with(t, `{}}`, `{"s3cret":"s3cret"}}`)))
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).InfoContext(t.Context(), "event", slog.Any("event", ev))
	fmt.Fprintf(&out, "%v %+v %s", ev, ev, ev)
	if strings.Contains(out.String(), private) || !strings.Contains(out.String(), "event.id=evt_1") || !strings.Contains(out.String(), "t evt_1") {
		t.Errorf("got %s", out.String())
	}
}
