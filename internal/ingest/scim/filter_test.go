package scim

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/directory"
)

func ptr[T any](v T) *T { return &v }

func TestUserFilter(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]directory.SCIMFilter{
		`userName eq "a@example.com"`:                                      {UserName: ptr("a@example.com")},
		`  USERNAME   Eq   "a"  `:                                          {UserName: ptr("a")},
		userSchema + `:userName eq "a"`:                                    {UserName: ptr("a")},
		strings.ToUpper(userSchema) + `:username EQ "a"`:                   {UserName: ptr("a")},
		`externalId eq "X"`:                                                {ExternalID: ptr("X")},
		`id eq "diruser_1"`:                                                {ID: ptr("diruser_1")},
		`active eq true`:                                                   {Active: ptr(true)},
		`active eq "False"`:                                                {Active: ptr(false)},
		`emails[type eq "work"].value eq "a@example.com"`:                  {Email: ptr("a@example.com")},
		`Emails[Type Eq "Work"].Value Eq "a"`:                              {Email: ptr("a")},
		`emails[ type eq "work" ].value eq "a"`:                            {Email: ptr("a")},
		userSchema + `:emails[type eq "work"].value eq "a"`:                {Email: ptr("a")},
		`userName eq "a and \"b\" ] \\ \u00e9 \ud83d\ude00"`:               {UserName: ptr(`a and "b" ] \ é 😀`)},
		`userName eq "a" and active eq true AND externalId eq ""`:          {UserName: ptr("a"), Active: ptr(true), ExternalID: ptr("")},
		`userName eq "a" and userName eq "A"`:                              {UserName: ptr("a")},
		`emails[type eq "work"].value eq "a" and externalId eq "and eq x"`: {Email: ptr("a"), ExternalID: ptr("and eq x")},
	} {
		got, none, err := userFilter(text)
		if err != nil || none {
			t.Errorf("%s: none %v, %v", text, none, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{
		`userName eq "a" and userName eq "b"`,
		`externalId eq "a" and externalId eq "A"`,
		`active eq true and active eq false`,
	} {
		if _, none, err := userFilter(text); err != nil || !none {
			t.Errorf("%s: none %v, %v", text, none, err)
		}
	}
}

func TestGroupFilter(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]directory.SCIMGroupFilter{
		`displayName eq "Sales"`:                              {DisplayName: ptr("Sales")},
		groupSchema + `:displayName eq "Sales"`:               {DisplayName: ptr("Sales")},
		`members.value eq "u1"`:                               {Member: ptr("u1")},
		`id eq "g1" and externalId eq "x"`:                    {ID: ptr("g1"), ExternalID: ptr("x")},
		`DISPLAYNAME EQ "Sales" AND Members.Value eq "u1"`:    {DisplayName: ptr("Sales"), Member: ptr("u1")},
		`members.value eq "u1" and members.value eq "u1"`:     {Member: ptr("u1")},
		groupSchema + `:members.value eq "u1"`:                {Member: ptr("u1")},
		`displayName eq "A" and members.value eq "\u0041\/b"`: {DisplayName: ptr("A"), Member: ptr("A/b")},
	} {
		got, none, err := groupFilter(text)
		if err != nil || none {
			t.Errorf("%s: none %v, %v", text, none, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	for _, text := range []string{
		`userName eq "a"`, `members eq "a"`, `members[value eq "a"]`, `members[value eq "a"].value eq "b"`,
		userSchema + `:displayName eq "a"`, `members.value eq "a" and members.value eq "b"`,
	} {
		if _, _, err := groupFilter(text); scimTypeOf(err) != invalidFilter {
			t.Errorf("%s: the error is %v", text, err)
		}
	}
	if _, none, err := groupFilter(`displayName eq "a" and displayName eq "b"`); err != nil || !none {
		t.Errorf("none %v, %v", none, err)
	}
}

func TestFilterRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, ` `, `userName`, `userName eq`, `userName eq `, `eq "a"`, `userName "a"`, `userName eq a`, `userName eq 'a'`, `userName eq "a`,
		`userName eq "a" and`, `userName eq "a" and `, `and userName eq "a"`, `userName eq "a" or externalId eq "b"`, `userName eq "a" externalId eq "b"`,
		`userName eq "a"and active eq true`, `userName eq "a" and(active eq true)`, `(userName eq "a")`, `not (userName eq "a")`,
		`userName ne "a"`, `userName co "a"`, `userName sw "a"`, `userName ew "a"`, `userName gt "a"`, `userName pr`, `userName eq"a"`, `userName` + "\t" + `eq "a"`,
		`title eq "a"`, `title co "x"`, `name.familyName eq "a"`, `userName.x eq "a"`, `groups.value eq "a"`, `meta.lastModified gt "2020"`,
		`userName eq 1`, `userName eq true`, `userName eq null`, `userName eq {}`, `userName eq ["a"]`, `userName eq "a" "b"`, `id eq 5abc`,
		`active eq 1`, `active eq "yes"`, `active eq null`, `active[x eq 1] eq true`,
		`emails eq "a"`, `emails.value eq "a"`, `emails[type eq "home"].value eq "a"`, `emails[type eq "work"] eq "a"`, `emails[type eq "work"].type eq "a"`,
		`emails[type ne "work"].value eq "a"`, `emails[type eq "work" and primary eq true].value eq "a"`, `emails[].value eq "a"`, `emails[type eq "work".value eq "a"`,
		`emails[type eq "work"]value eq "a"`, `emails[emails[type eq "work"].value eq "a"].value eq "a"`, `emails[type eq "work"].value eq "a" and emails[type eq "work"].value eq "b"`,
		groupSchema + `:userName eq "a"`, enterpriseSchema + `:userName eq "a"`, `urn:example:userName eq "a"`, `:userName eq "a"`, userSchema + ` eq "a"`, userSchema + `: eq "a"`,
		`userName eq "\ud800"`, `userName eq "a\u0000"`, `userName eq "\x"`, "userName eq \"a\nb\"", "userName eq \"\xff\"", "userName\x00 eq \"a\"",
		`userName eq "` + strings.Repeat("a", maxFilter) + `"`,
		strings.Repeat(`userName eq "a" and `, maxTerms) + `userName eq "a"`,
	} {
		if _, _, err := userFilter(text); scimTypeOf(err) != invalidFilter {
			t.Errorf("%q: the error is %v", text, err)
		}
	}
}

func TestSame(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"azAZ09", "AZaz09", true},
		{"@[`{", "`{@[", false},
		{"s", "\u017f", false},
		{"k", "\u212a", false},
		{"é", "É", false},
		{"a", "aa", false},
	} {
		if same(test.a, test.b) != test.want || (fold(test.a) == fold(test.b)) != test.want {
			t.Errorf("%q and %q: want %v", test.a, test.b, test.want)
		}
	}
}

func TestParsePath(t *testing.T) {
	t.Parallel()
	work := []condition{{"type", textValue("work")}}
	for text, want := range map[string]path{
		`active`:                       {name: "active"},
		`name.familyName`:              {name: "name", sub: "familyName"},
		`emails[type eq "work"].value`: {name: "emails", filtered: true, conditions: work, sub: "value"},
		`emails[type eq "work" and primary eq true]`: {name: "emails", filtered: true, conditions: append(work[:1:1], condition{"primary", value{kind: boolean, text: "true"}})},
		userSchema:                          {schema: userSchema},
		userSchema + `:active`:              {schema: userSchema, name: "active"},
		userSchema + `:name.givenName`:      {schema: userSchema, name: "name", sub: "givenName"},
		strings.ToUpper(enterpriseSchema):   {schema: enterpriseSchema},
		enterpriseSchema + `:manager.value`: {schema: enterpriseSchema, name: "manager", sub: "value"},
		`urn:Example:custom:2.0:User:shoe`:  {schema: "urn:example:custom:2.0:user", name: "shoe"},
		`urn:example:2.0:shoe.size`:         {schema: "urn:example:2.0", name: "shoe.size"},
		`members[value eq "a \" ] b"]`:      {name: "members", filtered: true, conditions: []condition{{"value", textValue(`a " ] b`)}}},
	} {
		got, err := parsePath(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(path{}, condition{}, value{}, item{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
	nine := strings.Repeat(`type eq "a" and `, maxConditions) + `type eq "a"`
	for _, text := range []string{
		"", " ", ".", "a.", ".a", "a.b.c", "a b", " a", "a[", "a[]", "a]", "a[b]", "a[b eq]", `a[b eq "c"`, `a[b eq "c"].`, `a[b eq "c"].d.e`, `a[b eq "c"]d`,
		`a[b.c eq "d"]`, `a.b[c eq "d"]`, `[b eq "c"]`, `a[b eq "c"][d eq "e"]`, `a[b pr]`, `a[b eq {}]`, ":a", "urn:", "a:", userSchema + ":", userSchema + `[a eq "b"]`,
		userSchema + ":a.b.c", `a[` + nine + `]`, "a\x00", `a"b"`, "a(b)",
	} {
		if p, err := parsePath(text); scimTypeOf(err) != invalidPath {
			t.Errorf("%q is %+v, %v", text, p, err)
		}
	}
}
