package scim

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/store"
)

const dana = `{"name":{"givenName":"Dana","familyName":"Reed"},"title":"Engineer",` +
	`"emails":[{"value":"dana@example.com","type":"work","primary":true},{"value":"dana@home.example.com","type":"home"}],` +
	`"` + enterpriseSchema + `":{"department":"Sales"}}`

func danaReed() store.SCIMUser {
	return store.SCIMUser{
		ID: "diruser_1", UserName: "dana@example.com", ExternalID: "x1", Email: "dana@example.com", Active: true,
		ManagerID: "boss", Attributes: json.RawMessage(dana),
	}
}

// patch sends the operations of a PATCH through all that a request goes through.
func patch(body string, u store.SCIMUser) (store.SCIMUser, error) {
	v, err := parseJSON(body)
	if err != nil {
		return u, err
	}
	edits, err := userEdits(v)
	if err != nil {
		return u, err
	}
	return change(edits)(u)
}

func ops(list string) string { return `{"Operations":[` + list + `]}` }

func scimTypeOf(err error) string {
	var p *problem
	if !errors.As(err, &p) {
		return ""
	}
	if p.status != http.StatusBadRequest {
		return "status " + strconv.Itoa(p.status)
	}
	return p.scimType
}

// instead returns the attributes of Dana with a text replaced.
func instead(old, text string) string {
	if !strings.Contains(dana, old) {
		panic("there is no " + old)
	}
	return strings.Replace(dana, old, text, 1)
}

func TestPatchUser(t *testing.T) {
	t.Parallel()
	const homeless = `[{"value":"dana@example.com","type":"work","primary":true}]`
	emails := `"emails":[{"value":"dana@example.com","type":"work","primary":true},{"value":"dana@home.example.com","type":"home"}]`
	for name, test := range map[string]struct {
		ops  string
		want func(*store.SCIMUser) // nil: nothing changes
	}{
		"path":                 {`{"op":"replace","path":"active","value":false}`, inactive},
		"capitals":             {`{"OP":"REPLACE","Path":"ACTIVE","Value":"FALSE"}`, inactive},
		"add":                  {`{"op":"add","path":"active","value":false}`, inactive},
		"urn":                  {`{"op":"replace","path":"URN:ietf:params:scim:schemas:core:2.0:user:Active","value":false}`, inactive},
		"no path":              {`{"op":"replace","value":{"active":false}}`, inactive},
		"null path":            {`{"op":"replace","path":null,"value":{"Active":"False"}}`, inactive},
		"empty path":           {`{"op":"replace","path":"","value":{"active":false}}`, inactive},
		"urn key":              {`{"op":"replace","value":{"` + userSchema + `:active":false}}`, inactive},
		"nested":               {`{"op":"replace","value":{"` + userSchema + `":{"active":false}}}`, inactive},
		"the last of two":      {`{"op":"replace","path":"active","value":true},{"op":"replace","path":"active","value":false}`, inactive},
		"active of another":    {`{"op":"replace","path":"` + groupSchema + `:active","value":false}`, nil},
		"active of enterprise": {`{"op":"replace","path":"` + enterpriseSchema + `:active","value":false}`, nil},
		"active of no known":   {`{"op":"replace","path":"urn:example:2.0:User:active","value":false}`, nil},
		"active is no s":       {`{"op":"replace","value":{"u` + "\u017f" + `erName":"x"}}`, nil},
		"unknown": {
			`{"op":"replace","path":"shoeSize","value":44},{"op":"add","value":{"nick name":1,"members":[],"password":"hunter2","schemas":[]}},` +
				`{"op":"remove","path":"shoeSize"},{"op":"add","path":"emails.shoe","value":1},{"op":"add","path":"name.shoe","value":1}`, nil,
		},
		"the id without a path": {`{"op":"replace","value":{"id":"other","meta":{},"groups":[]}}`, nil},

		"userName":           {`{"op":"replace","path":"userName","value":"dr@example.com"}`, func(u *store.SCIMUser) { u.UserName = "dr@example.com" }},
		"externalId":         {`{"op":"replace","path":"externalId","value":"x2"}`, func(u *store.SCIMUser) { u.ExternalID = "x2" }},
		"externalId removed": {`{"op":"remove","path":"externalId"}`, func(u *store.SCIMUser) { u.ExternalID = "" }},

		"text":             {`{"op":"replace","path":"TITLE","value":"Head"}`, attrs(instead("Engineer", "Head"))},
		"text removed":     {`{"op":"remove","path":"title"}`, attrs(instead(`"title":"Engineer",`, ""))},
		"text emptied":     {`{"op":"replace","path":"title","value":""}`, attrs(instead(`"title":"Engineer",`, ""))},
		"text null":        {`{"op":"replace","value":{"title":null}}`, attrs(instead(`"title":"Engineer",`, ""))},
		"text from number": {`{"op":"replace","path":"` + enterpriseSchema + `:department","value":7}`, attrs(instead("Sales", "7"))},
		"part":             {`{"op":"replace","path":"name.familyName","value":"Roe"}`, attrs(instead("Reed", "Roe"))},
		"dotted key":       {`{"op":"replace","value":{"NAME.familyname":"Roe"}}`, attrs(instead("Reed", "Roe"))},
		"some parts":       {`{"op":"replace","path":"name","value":{"familyName":"Roe","givenName":null}}`, attrs(instead(`"givenName":"Dana","familyName":"Reed"`, `"familyName":"Roe"`))},
		"complex removed":  {`{"op":"remove","path":"name"}`, attrs(instead(`"name":{"givenName":"Dana","familyName":"Reed"},`, ""))},

		"enterprise urn":    {`{"op":"replace","path":"` + enterpriseSchema + `:department","value":"IT"}`, attrs(instead("Sales", "IT"))},
		"enterprise object": {`{"op":"add","value":{"` + enterpriseSchema + `":{"Department":"IT","shoe":1,"urn:example:2.0:User:division":"no"}}}`, attrs(instead("Sales", "IT"))},
		"enterprise removed": {`{"op":"remove","path":"` + enterpriseSchema + `"}`, func(u *store.SCIMUser) {
			u.ManagerID = ""
			attrs(instead(`,"`+enterpriseSchema+`":{"department":"Sales"}`, ""))(u)
		}},

		"manager":              {`{"op":"add","path":"` + enterpriseSchema + `:manager","value":"m2"}`, manager("m2")},
		"manager object":       {`{"op":"add","path":"` + enterpriseSchema + `:manager","value":{"value":"m2","displayName":"M"}}`, manager("m2")},
		"manager array":        {`{"op":"Add","path":"` + enterpriseSchema + `:manager","value":[{"$ref":"x","value":"m2"}]}`, manager("m2")},
		"manager.value":        {`{"op":"replace","path":"` + enterpriseSchema + `:manager.value","value":"m2"}`, manager("m2")},
		"manager key":          {`{"op":"replace","value":{"` + enterpriseSchema + `:manager":"m2"}}`, manager("m2")},
		"manager nested":       {`{"op":"replace","value":{"` + enterpriseSchema + `":{"manager":{"value":"m2"}}}}`, manager("m2")},
		"manager removed":      {`{"op":"remove","path":"` + enterpriseSchema + `:manager"}`, manager("")},
		"manager null":         {`{"op":"replace","path":"` + enterpriseSchema + `:manager","value":null}`, manager("")},
		"manager without a id": {`{"op":"replace","path":"` + enterpriseSchema + `:manager","value":{"displayName":"M"}}`, nil},
		"manager.displayName":  {`{"op":"replace","path":"` + enterpriseSchema + `:manager.displayName","value":"M"}`, nil},

		"email": {`{"op":"replace","path":"emails[type eq \"work\"].value","value":"d@example.com"}`, func(u *store.SCIMUser) {
			u.Email = "d@example.com"
			attrs(instead("dana@example.com", "d@example.com"))(u)
		}},
		"email by type in capitals": {`{"op":"Replace","path":"Emails[Type EQ \"WORK\" and primary eq \"True\"].Value","value":"d@example.com"}`, func(u *store.SCIMUser) {
			u.Email = "d@example.com"
			attrs(instead("dana@example.com", "d@example.com"))(u)
		}},
		"email key": {`{"op":"replace","value":{"emails[type eq \"work\"].value":"d@example.com"}}`, func(u *store.SCIMUser) {
			u.Email = "d@example.com"
			attrs(instead("dana@example.com", "d@example.com"))(u)
		}},
		"email that is not there": {`{"op":"replace","path":"emails[type eq \"other\"].value","value":"o@example.com"}`, attrs(instead(
			`"type":"home"}]`, `"type":"home"},{"type":"other","value":"o@example.com"}]`))},
		"element that is not there": {`{"op":"add","path":"emails[type eq \"other\"]","value":[{"value":"o@example.com"}]}`, attrs(instead(
			`"type":"home"}]`, `"type":"home"},{"type":"other","value":"o@example.com"}]`))},
		"email removed":             {`{"op":"remove","path":"emails[type eq \"home\"]"}`, attrs(strings.Replace(dana, emails, `"emails":`+homeless, 1))},
		"email removed by value":    {`{"op":"remove","path":"emails","value":[{"value":"dana@home.example.com"}]}`, attrs(strings.Replace(dana, emails, `"emails":`+homeless, 1))},
		"a part removed":            {`{"op":"remove","path":"emails[value eq \"dana@home.example.com\"].type"}`, attrs(instead(`,"type":"home"`, ""))},
		"no email removed":          {`{"op":"remove","path":"emails[type eq \"x\"]"}`, nil},
		"emails removed":            {`{"op":"remove","path":"emails"}`, attrs(strings.Replace(dana, emails+",", "", 1))},
		"emails replaced by one":    {`{"op":"replace","path":"emails","value":{"value":"dana@example.com","type":"work","primary":"True"}}`, attrs(strings.Replace(dana, emails, `"emails":`+homeless, 1))},
		"an email that is there":    {`{"op":"add","path":"emails","value":[{"type":"home","value":"dana@home.example.com"}]}`, nil},
		"an email without its type": {`{"op":"add","path":"emails","value":["o@example.com"]}`, attrs(instead(`"type":"home"}]`, `"type":"home"},{"value":"o@example.com"}]`))},
		"another is primary": {`{"op":"add","path":"emails","value":[{"value":"o@example.com","primary":true}]}`, func(u *store.SCIMUser) {
			u.Email = "o@example.com"
			attrs(strings.Replace(dana, emails, `"emails":[{"value":"dana@example.com","type":"work","primary":false},`+
				`{"value":"dana@home.example.com","type":"home"},{"value":"o@example.com","primary":true}]`, 1))(u)
		}},
		"another becomes primary": {`{"op":"replace","path":"emails[type eq \"home\"].primary","value":"True"}`, func(u *store.SCIMUser) {
			u.Email = "dana@home.example.com"
			attrs(strings.Replace(dana, emails, `"emails":[{"value":"dana@example.com","type":"work","primary":false},`+
				`{"value":"dana@home.example.com","type":"home","primary":true}]`, 1))(u)
		}},
		"several": {`{"op":"Replace","path":"title","value":"Head"},{"op":"Remove","path":"name"},{"op":"Replace","path":"active","value":"False"}`, func(u *store.SCIMUser) {
			inactive(u)
			attrs(strings.Replace(instead("Engineer", "Head"), `"name":{"givenName":"Dana","familyName":"Reed"},`, "", 1))(u)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := danaReed()
			if test.want != nil {
				test.want(&want)
			}
			got, err := patch(ops(test.ops), danaReed())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
				t.Errorf("the user differs (-want +got):\n%s", diff)
			}
		})
	}
}

func inactive(u *store.SCIMUser) { u.Active = false }

func manager(id string) func(*store.SCIMUser) {
	return func(u *store.SCIMUser) { u.ManagerID = id }
}

func attrs(text string) func(*store.SCIMUser) {
	return func(u *store.SCIMUser) { u.Attributes = json.RawMessage(text) }
}

// plain makes users comparable: the order of keys says nothing.
func plain(tb testing.TB, u store.SCIMUser) map[string]any {
	tb.Helper()
	var attributes map[string]any
	if err := json.Unmarshal(u.Attributes, &attributes); err != nil {
		tb.Fatalf("the attributes are no JSON object: %v: %s", err, u.Attributes)
	}
	u.Attributes = nil
	return map[string]any{"user": u, "attributes": attributes}
}

func TestPatchUserRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxName+1)
	many := strings.TrimSuffix(strings.Repeat(`{"op":"add","path":"title","value":"x"},`, maxOperations+1), ",")
	for name, test := range map[string]struct{ body, want string }{
		"no operations":             {`{}`, invalidSyntax},
		"empty operations":          {`{"Operations":[]}`, invalidSyntax},
		"operations are no array":   {`{"Operations":{"op":"add"}}`, invalidSyntax},
		"an operation is no object": {`{"Operations":[1]}`, invalidSyntax},
		"too many operations":       {ops(many), tooMany},
		"no op":                     {ops(`{"path":"active","value":false}`), invalidSyntax},
		"unknown op":                {ops(`{"op":"explode","path":"active","value":false}`), invalidSyntax},
		"op is no string":           {ops(`{"op":1,"path":"active","value":false}`), invalidSyntax},
		"path is no string":         {ops(`{"op":"replace","path":1,"value":false}`), invalidPath},
		"malformed path":            {ops(`{"op":"replace","path":"emails[type eq \"work\"","value":"x"}`), invalidPath},
		"malformed key":             {ops(`{"op":"replace","value":{"emails[type":"x"}}`), invalidPath},
		"a space behind a path":     {ops(`{"op":"replace","path":"active ","value":false}`), invalidPath},
		"another operator":          {ops(`{"op":"replace","path":"emails[type ne \"work\"].value","value":"x"}`), invalidPath},
		"a long path":               {ops(`{"op":"replace","path":"` + strings.Repeat("a", maxPath+1) + `","value":"x"}`), invalidPath},
		"a part of active":          {ops(`{"op":"replace","path":"active.value","value":false}`), invalidPath},
		"an element of active":      {ops(`{"op":"replace","path":"active[value eq true]","value":false}`), invalidPath},
		"an element of name":        {ops(`{"op":"replace","path":"name[x eq 1].givenName","value":"x"}`), invalidPath},
		"a part of title":           {ops(`{"op":"replace","path":"title.x","value":"x"}`), invalidPath},
		"remove without path":       {ops(`{"op":"remove","value":{"active":true}}`), noTarget},
		"no value":                  {ops(`{"op":"replace","path":"active"}`), invalidValue},
		"value without path":        {ops(`{"op":"replace","value":false}`), invalidValue},
		"active maybe":              {ops(`{"op":"replace","path":"active","value":"maybe"}`), invalidValue},
		"active null":               {ops(`{"op":"replace","value":{"active":null}}`), invalidValue},
		"active number":             {ops(`{"op":"replace","path":"active","value":0}`), invalidValue},
		"active array":              {ops(`{"op":"replace","path":"active","value":[false]}`), invalidValue},
		"active empty":              {ops(`{"op":"replace","path":"active","value":""}`), invalidValue},
		"active twice":              {ops(`{"op":"replace","value":{"active":true,"` + userSchema + `:active":false}}`), invalidSyntax},
		"active removed":            {ops(`{"op":"remove","path":"active"}`), mutability},
		"userName removed":          {ops(`{"op":"remove","path":"userName"}`), mutability},
		"userName emptied":          {ops(`{"op":"replace","path":"userName","value":" "}`), invalidValue},
		"userName null":             {ops(`{"op":"replace","path":"userName","value":null}`), invalidValue},
		"a long userName":           {ops(`{"op":"replace","path":"userName","value":"` + long + `"}`), invalidValue},
		"a long externalId":         {ops(`{"op":"replace","path":"externalId","value":"` + long + `"}`), invalidValue},
		"a long manager":            {ops(`{"op":"replace","path":"` + enterpriseSchema + `:manager","value":"` + long + `"}`), invalidValue},
		"two managers":              {ops(`{"op":"replace","path":"` + enterpriseSchema + `:manager","value":["a","b"]}`), invalidValue},
		"id":                        {ops(`{"op":"replace","path":"id","value":"x"}`), mutability},
		"meta":                      {ops(`{"op":"remove","path":"meta.created"}`), mutability},
		"groups":                    {ops(`{"op":"add","path":"groups","value":[]}`), mutability},
		"the user":                  {ops(`{"op":"remove","path":"` + userSchema + `"}`), mutability},
		"title is an object":        {ops(`{"op":"replace","path":"title","value":{}}`), invalidValue},
		"a long title":              {ops(`{"op":"replace","path":"title","value":"` + strings.Repeat("x", maxText+1) + `"}`), invalidValue},
		"name is a string":          {ops(`{"op":"replace","path":"name","value":"x"}`), invalidValue},
		"emails is a number":        {ops(`{"op":"replace","path":"emails","value":1}`), invalidValue},
		"an email is a number":      {ops(`{"op":"replace","path":"emails","value":[1]}`), invalidValue},
		"primary is no boolean":     {ops(`{"op":"replace","path":"emails.primary","value":"x"}`), invalidValue},
		"a value that is not there": {ops(`{"op":"replace","path":"emails[value eq \"x\"].value","value":"y"}`), noTarget},
		"an unknown part":           {ops(`{"op":"replace","path":"emails[shoe eq \"x\"].value","value":"y"}`), noTarget},
		"too many emails":           {ops(`{"op":"replace","path":"emails","value":[` + strings.Repeat(`"a@example.com",`, maxElements) + `"b@example.com"]}`), tooMany},
		"too many emails added":     {ops(added(maxElements)), tooMany},
		"large attributes":          {ops(large()), invalidValue},
		"NUL":                       {ops(`{"op":"replace","path":"title","value":"a\u0000b"}`), invalidValue},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// What comes before it is not done either.
			body := strings.Replace(test.body, `"Operations":[{`, `"Operations":[{"op":"replace","path":"active","value":false},{`, 1)
			if _, err := patch(body, danaReed()); scimTypeOf(err) != test.want {
				t.Errorf("it is refused with %q (%v), want %q", scimTypeOf(err), err, test.want)
			}
		})
	}
}

// added adds n more emails, one by one.
func added(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"op":"add","path":"emails","value":["e` + strconv.Itoa(i) + `@example.com"]}`)
	}
	return b.String()
}

// large puts a long text into each of many addresses.
func large() string {
	return `{"op":"replace","path":"addresses","value":[` + strings.Repeat(`{},`, 20) + `{}]},` +
		strings.TrimSuffix(strings.Repeat(`{"op":"add","path":"addresses","value":[{"formatted":"x","streetAddress":"`+strings.Repeat("x", maxText)+`"}]},`, 1), ",") +
		`,{"op":"replace","path":"addresses.formatted","value":"` + strings.Repeat("y", maxText) + `"}` +
		`,` + manyAddresses(20) + `,{"op":"replace","path":"addresses.streetAddress","value":"` + strings.Repeat("z", maxText) + `"}`
}

func manyAddresses(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = `{"formatted":"` + strconv.Itoa(i) + `"}`
	}
	return `{"op":"add","path":"addresses","value":[` + strings.Join(list, ",") + `]}`
}

// What is sent is used by each try of a transaction, so none may change it.
func TestEditsAreMadeAgain(t *testing.T) {
	t.Parallel()
	body, err := parseJSON(ops(`{"op":"replace","path":"emails","value":[{"value":"a@example.com","type":"work","primary":true},{"value":"b@example.com","type":"home"}]},` +
		`{"op":"replace","path":"emails[primary eq true].display","value":"first"},{"op":"replace","path":"emails[type eq \"home\"].primary","value":true},{"op":"replace","path":"emails.type","value":"other"},` +
		`{"op":"remove","path":"emails[value eq \"a@example.com\"]"},{"op":"add","path":"name","value":{"middleName":"M"}}`))
	if err != nil {
		t.Fatal(err)
	}
	edits, err := userEdits(body)
	if err != nil {
		t.Fatal(err)
	}
	first, err := change(edits)(danaReed())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		again, err := change(edits)(danaReed())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(first, again); diff != "" {
			t.Fatalf("made again, it is another (-first +again):\n%s", diff)
		}
	}
	if first.Email != "b@example.com" {
		t.Errorf("the address is %s", first.Email)
	}
}

func TestAttributesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	u := danaReed()
	u.Attributes = json.RawMessage(`{"emails":`)
	for _, op := range []string{`{"op":"replace","path":"title","value":"x"}`, `{"op":"replace","path":"userName","value":"x"}`} {
		if _, err := patch(ops(op), u); !errors.Is(err, errStored) || scimTypeOf(err) != "" {
			t.Errorf("%s: the error is %v", op, err)
		}
	}
	if got, err := patch(ops(`{"op":"replace","path":"active","value":false}`), u); err != nil || got.Active {
		t.Errorf("a departure fails: %v", err)
	}
}

func TestPatchGroup(t *testing.T) {
	t.Parallel()
	group := store.SCIMGroup{ID: "dirgroup_1", DisplayName: "Sales", ExternalID: "g1", Members: []string{"a", "b", "c"}}
	members := func(ids ...string) store.SCIMGroup {
		g := group
		g.Members = ids
		return g
	}
	for name, test := range map[string]struct {
		ops  string
		want store.SCIMGroup
		err  string
	}{
		"by path":            {ops: `{"op":"remove","path":"members[value eq \"b\"]"}`, want: members("a", "c")},
		"by urn path":        {ops: `{"op":"remove","path":"` + groupSchema + `:members[value eq \"b\"]"}`, want: members("a", "c")},
		"by value":           {ops: `{"op":"Remove","path":"members","value":[{"value":"b"}]}`, want: members("a", "c")},
		"by no value":        {ops: `{"op":"remove","path":"members","value":[]}`, want: group},
		"who is no member":   {ops: `{"op":"remove","path":"members[value eq \"x\"]"}`, want: group},
		"all":                {ops: `{"op":"remove","path":"members"}`, want: members()},
		"add":                {ops: `{"op":"add","path":"members","value":[{"value":"d","display":"D"},{"value":"a"}]}`, want: members("a", "b", "c", "d")},
		"add one":            {ops: `{"op":"add","path":"members","value":{"value":"aa"}}`, want: members("a", "aa", "b", "c")},
		"add a string":       {ops: `{"op":"add","path":"members","value":"aa"}`, want: members("a", "aa", "b", "c")},
		"add without a path": {ops: `{"op":"add","value":{"members":[{"value":"d"}]}}`, want: members("a", "b", "c", "d")},
		"replace":            {ops: `{"op":"replace","path":"members","value":[{"value":"z"},{"value":"b"}]}`, want: members("b", "z")},
		"replace all":        {ops: `{"op":"replace","value":{"id":"x","members":[]}}`, want: members()},
		"in order":           {ops: `{"op":"add","path":"members","value":["x"]},{"op":"remove","path":"members"},{"op":"add","path":"members","value":["y","z"]},{"op":"remove","path":"members[value eq \"z\"]"}`, want: members("y")},
		"names":              {ops: `{"op":"replace","value":{"DisplayName":"S","externalid":null}}`, want: store.SCIMGroup{ID: group.ID, DisplayName: "S", Members: group.Members}},
		"unknown":            {ops: `{"op":"replace","path":"active","value":false},{"op":"add","path":"` + userSchema + `:members","value":["x"]}`, want: group},

		"no displayName":         {ops: `{"op":"remove","path":"displayName"}`, err: mutability},
		"an empty displayName":   {ops: `{"op":"replace","path":"displayName","value":""}`, err: invalidValue},
		"a null displayName":     {ops: `{"op":"replace","value":{"displayName":null}}`, err: invalidValue},
		"the id":                 {ops: `{"op":"replace","path":"id","value":"x"}`, err: mutability},
		"a part of members":      {ops: `{"op":"replace","path":"members.value","value":"x"}`, err: invalidPath},
		"members by type":        {ops: `{"op":"remove","path":"members[type eq \"User\"]"}`, err: invalidPath},
		"add by filter":          {ops: `{"op":"add","path":"members[value eq \"x\"]","value":"x"}`, err: invalidPath},
		"a part of displayName":  {ops: `{"op":"add","path":"displayName.x","value":"x"}`, err: invalidPath},
		"a member without an id": {ops: `{"op":"add","path":"members","value":[{"display":"x"}]}`, err: invalidValue},
		"a member with a number": {ops: `{"op":"add","path":"members","value":[{"value":1}]}`, err: invalidValue},
		"members is true":        {ops: `{"op":"add","path":"members","value":true}`, err: invalidValue},
		"remove without a path":  {ops: `{"op":"remove","value":{"members":[]}}`, err: noTarget},
		"too many":               {ops: `{"op":"add","path":"members","value":[` + numbers(maxMembers) + `]}`, err: tooMany},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body, err := parseJSON(ops(test.ops))
			if err != nil {
				t.Fatal(err)
			}
			var got store.SCIMGroup
			edit, err := groupEdits(body)
			if err == nil {
				got, err = edit.change(group)
			}
			if scimTypeOf(err) != test.err || (err != nil) != (test.err != "") {
				t.Fatalf("the error is %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("the group differs (-want +got):\n%s", diff)
			}
		})
	}
}

func numbers(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = `"` + strconv.Itoa(i) + `"`
	}
	return strings.Join(list, ",")
}

func TestAddress(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxEmail-len("@example.com")) + "@example.com"
	for _, test := range []struct{ userName, emails, want string }{
		{"dana", `[{"value":"a@example.com"},{"value":"b@example.com","primary":"True"}]`, "b@example.com"},
		{"dana", `[{"value":"a@example.com","primary":false},"b@example.com"]`, "a@example.com"},
		{"d@example.com", `[{"value":"none","primary":true},"@x","x@","a b@x","a\tb@x","b@example.com"]`, "b@example.com"},
		{"d@example.com", `[{"type":"work"}]`, "d@example.com"},
		{"d@example.com", `null`, "d@example.com"},
		{"dana", `[]`, ""},
		{"@", `[]`, ""},
		{"dana", `["` + long + `"]`, long},
		{"dana", `["x` + long + `"]`, ""},
	} {
		body, err := parseJSON(`{"userName":"` + test.userName + `","emails":` + test.emails + `}`)
		if err != nil {
			t.Fatal(err)
		}
		edits, err := userContent(body)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := replace(edits)(store.SCIMUser{Email: "old@example.com"}); err != nil || u.Email != test.want {
			t.Errorf("%s, %s: the address is %q, want %q (%v)", test.userName, test.emails, u.Email, test.want, err)
		}
	}
}
