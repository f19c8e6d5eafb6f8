package scim

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/store"
)

// clientsFault fails a test when an error is not one of the client's.
func clientsFault(t *testing.T, err error) {
	t.Helper()
	var p *problem
	if !errors.As(err, &p) || p.status != http.StatusBadRequest || p.scimType == "" {
		t.Fatalf("the error is %v", err)
	}
}

func storable(t *testing.T, texts ...string) {
	t.Helper()
	for _, s := range texts {
		if !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			t.Fatalf("a database cannot hold %q", s)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		`userName eq "a@example.com"`, `externalId eq "x" and active eq true`, `emails[type eq "work"].value eq "a"`,
		`displayName eq "Sales" and members.value eq "u"`, userSchema + `:userName eq "a\u00e9"`, `a[b eq "c"`, "\x00", `id eq 1e5`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, _, err := userFilter(s); err != nil {
			clientsFault(t, err)
		} else {
			for _, v := range []*string{u.ID, u.UserName, u.ExternalID, u.Email} {
				if v != nil {
					storable(t, *v)
				}
			}
		}
		if g, _, err := groupFilter(s); err != nil {
			clientsFault(t, err)
		} else {
			for _, v := range []*string{g.ID, g.DisplayName, g.ExternalID, g.Member} {
				if v != nil {
					storable(t, *v)
				}
			}
		}
	})
}

// written writes a path so that it reads as the same one.
func (p path) written() string {
	s := p.name
	if p.schema != "" {
		s = strings.TrimSuffix(p.schema+":"+s, ":")
	}
	if p.filtered {
		var cs []string
		for _, c := range p.conditions {
			cs = append(cs, c.sub+" eq "+string(appendJSON(nil, c.value)))
		}
		s += "[" + strings.Join(cs, " and ") + "]"
	}
	if p.sub != "" {
		s += "." + p.sub
	}
	return s
}

func FuzzPatchPath(f *testing.F) {
	for _, s := range []string{
		"active", "name.familyName", `emails[type eq "work"].value`, `members[value eq "x"]`, userSchema + ":active", enterpriseSchema,
		`urn:x:2.0:y`, `a[b eq "c" and d eq true].e`, `a[`, `a[b eq "\ud83d\ude00"]`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePath(s)
		if err != nil {
			clientsFault(t, err)
			return
		}
		if len(p.conditions) > maxConditions || p.filtered != (len(p.conditions) > 0) {
			t.Fatalf("%q has %d conditions", s, len(p.conditions))
		}
		if len(p.written()) > maxPath {
			return
		}
		again, err := parsePath(p.written())
		if diff := cmp.Diff(p, again, cmp.AllowUnexported(path{}, condition{}, value{}, item{})); err != nil || diff != "" {
			t.Fatalf("%q is written %q, which is another: %v\n%s", s, p.written(), err, diff)
		}
	})
}

func FuzzPatch(f *testing.F) {
	for _, s := range []string{
		`{"op":"replace","value":{"active":false}}`, `{"op":"Replace","path":"active","value":"False"}`,
		`{"op":"add","path":"emails","value":[{"value":"x@example.com","primary":true}]},{"op":"remove","path":"emails[type eq \"work\"]"}`,
		`{"op":"replace","value":{"name.familyName":"x","` + enterpriseSchema + `:manager":{"value":"m"},"title":null}}`,
		`{"op":"add","path":"addresses[type eq \"home\"].country","value":"DE"},{"op":"remove","path":"addresses.country"}`,
		`{"op":"remove","path":"members[value eq \"a\"]"},{"op":"add","path":"members","value":["b",{"value":"c"}]}`,
	} {
		f.Add(ops(s))
	}
	f.Fuzz(func(t *testing.T, body string) {
		if u, err := patch(body, danaReed()); err != nil {
			clientsFault(t, err)
		} else {
			soundUser(t, u)
			if again, err := patch(body, danaReed()); err != nil || cmp.Diff(u, again) != "" {
				t.Fatalf("again, it is another: %v\n%s", err, cmp.Diff(u, again))
			}
		}
		v, err := parseJSON(body)
		if err != nil {
			clientsFault(t, err)
			return
		}
		if text := string(appendJSON(nil, v)); !json.Valid([]byte(text)) {
			t.Fatalf("it is written as %s", text)
		}
		if edits, err := userContent(v); err != nil {
			clientsFault(t, err)
		} else if u, err := replace(edits)(store.SCIMUser{}); err == nil {
			soundUser(t, u)
		}
		edit, err := groupEdits(v)
		if err != nil {
			clientsFault(t, err)
			return
		}
		if g, err := edit.change(store.SCIMGroup{DisplayName: "Sales", Members: []string{"a"}}); err == nil {
			storable(t, append(g.Members, g.DisplayName, g.ExternalID)...)
			if b := appendGroup(nil, "http://h", g, true); !json.Valid(b) {
				t.Fatalf("the group is shown as %s", b)
			}
		}
	})
}

func soundUser(t *testing.T, u store.SCIMUser) {
	t.Helper()
	var attributes map[string]any
	if err := json.Unmarshal(u.Attributes, &attributes); err != nil || len(u.Attributes) > maxAttributes {
		t.Fatalf("the attributes are %s: %v", u.Attributes, err)
	}
	if strings.Contains(string(u.Attributes), `\u0000`) && !strings.Contains(string(u.Attributes), `\\u0000`) {
		t.Fatalf("a database cannot hold %s", u.Attributes)
	}
	storable(t, u.UserName, u.ExternalID, u.Email, u.ManagerID, string(u.Attributes))
	if u.UserName == "" || len(u.UserName) > maxName || len(u.ExternalID) > maxName || len(u.ManagerID) > maxName || len(u.Email) > maxName {
		t.Fatalf("the user is %+v", u)
	}
	b, err := appendUser(nil, "http://h", u)
	if err != nil || !json.Valid(b) {
		t.Fatalf("the user is shown as %s: %v", b, err)
	}
}

// What goes in comes out: the parser agrees with that of the standard library,
// but for what it refuses beyond.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"a":[1,-2.5e3,true,false,null,"x\n\u00e9\ud83d\ude00"]}`, `{"a":1,"A":2}`, `{"a":"\ud800"}`, `{"a":"\u0000"}`, `{"a":01}`, `{"a":1}x`, `{"a":1e9999}`, "{\"a\":\"\xff\"}",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseJSON(s)
		if err != nil {
			clientsFault(t, err)
			return
		}
		var want, got any
		if err := json.Unmarshal([]byte(s), &want); err != nil {
			t.Fatalf("%q is no JSON: %v", s, err)
		}
		if err := json.Unmarshal(appendJSON(nil, v), &got); err != nil {
			t.Fatalf("%q is written %q: %v", s, appendJSON(nil, v), err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%q is read as another (-want +got):\n%s", s, diff)
		}
	})
}
