package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/api"
)

// read gives each line's member or fault.
func read(text, format string) (members []api.ImportMember, faults []string) {
	for r, err := range readRows(strings.NewReader(text), format) {
		var bad *lineError
		switch {
		case errors.As(err, &bad):
			faults = append(faults, fmt.Sprintf("%d: %v", bad.line, err))
		case err != nil:
			faults = append(faults, err.Error())
		default:
			members = append(members, r.ImportMember)
		}
	}
	return members, faults
}

func TestMemberLists(t *testing.T) {
	t.Parallel()
	ines := api.ImportMember{
		ID: "usr_118200000000001001", Email: "ines@acme.example", ExternalID: "e-1", Name: "Fournier, Inès", Roles: []string{"admin", "member"},
		Status: "INACTIVE", JoinedAt: time.Date(2026, 6, 12, 9, 30, 0, 0, time.UTC),
	}
	bo := api.ImportMember{Email: "bo@acme.example"}
	for name, tt := range map[string]struct {
		format, text string
		want         []api.ImportMember
		faults       []string
	}{
		"csv": {formatCSV, "id,email,external_id,name,roles,status,joined_at\n" +
			`usr_118200000000001001,ines@acme.example,e-1,"Fournier, Inès",admin; member;,inactive,2026-06-12T09:30:00Z` + "\n" +
			",bo@acme.example,,,,,\n", []api.ImportMember{ines, bo}, nil},
		"in another order, from Excel": {formatCSV, "\xEF\xBB\xBFEmail , ID\r\nbo@acme.example,\r\n\r\n\"bo@acme.example\",\r\n", []api.ImportMember{bo, bo}, nil},
		"a date, no last line break":   {formatCSV, "email,joined_at\nbo@acme.example,2026-06-12", []api.ImportMember{{Email: bo.Email, JoinedAt: time.Date(2026, 6, 12, 0, 0, 0, 0, time.UTC)}}, nil},
		"lines": {formatLines, `{"id":"usr_118200000000001001","email":"ines@acme.example","external_id":"e-1","name":"Fournier, Inès","roles":["admin","member"],"status":"INACTIVE","joined_at":"2026-06-12T09:30:00Z"}` +
			"\n\n" + ` {"email":"bo@acme.example","name":null,"roles":null} ` + "\n", []api.ImportMember{ines, bo}, nil},
		"nothing":     {formatCSV, "", nil, nil},
		"only a head": {formatCSV, "id,email\n", nil, nil},

		"columns that are not known": {formatCSV, "email,Vorname,role\nbo@acme.example,Bo,x\n", nil, []string{
			`the header has columns that are not known: "Vorname", "role"; there are: id, email, external_id, name, roles, status, joined_at`,
		}},
		"semicolons":     {formatCSV, "id;email\n", nil, []string{`the header has columns that are not known: "id;email"; there are: id, email, external_id, name, roles, status, joined_at`}},
		"a column twice": {formatCSV, "email,id,Email\n", nil, []string{"the header has the column email twice"}},
		"nobody's":       {formatCSV, "name,external_id\n", nil, []string{"the header has neither id nor email"}},
		"a header that is not UTF-8": {formatCSV, "email,\xff\n", nil, []string{
			"the header is not UTF-8",
		}},
		"fewer columns, more, and a quote": {formatCSV, "email,name\nbo@acme.example\nbo@acme.example,Bo,Bo\nbo@acme.example,\"Bo\nbo@acme.example,B\"o\nbo@acme.example,\n", []api.ImportMember{bo}, []string{
			"2: has 1 column, not 2 as the header", "3: has 3 columns, not 2 as the header", `4: at byte 20: extraneous or missing " in quoted-field`, `5: at byte 18: bare " in non-quoted-field`,
		}},
		"wrong values": {formatCSV, "id,email,status,joined_at\n,,,\nbo,,,\n,bo,,\nusr_1,,gone,\nusr_1,,,yesterday\nusr_1,,,1969-01-01\n", nil, []string{
			"2: id is missing, and so is email", "3: id has to begin with usr_ and be an id", "4: email is not an email address",
			"5: status has to be one of ACTIVE, INACTIVE, PENDING_INVITE, INVITE_EXPIRED", "6: joined_at has to be like 2026-06-12 or 2026-06-12T09:30:00Z",
			"7: joined_at has to be in the years 1970 to 9000",
		}},
		"wrong objects": {formatLines, strings.Join([]string{
			`{"email":"bo@acme.example"`, `[]`, `{"email":"bo@acme.example"} {}`, `{"mail":"bo@acme.example"}`, `{"email":"bo@acme.example","email":"bo@acme.example"}`,
			`{"email":7}`, `{"email":"bo@acme.example","roles":"admin"}`, `{"Email":"bo@acme.example"}`, `x`, `{"email":"bo@acme.example",}`, "{\"email\":\"\xff\"}", `{"id":"usr_\u0000"}`,
		}, "\n"), nil, []string{
			"1: is not one JSON object", "2: is not one JSON object", "3: is not one JSON object",
			`4: has a key that is not known: "mail"; there are: id, email, external_id, name, roles, status, joined_at`, `5: has the key "email" twice`,
			"6: email is number, not a text", "7: roles is string, not a list of texts",
			`8: has a key that is not known: "Email"; there are: id, email, external_id, name, roles, status, joined_at`,
			"9: is not one JSON object", "10: is not one JSON object", "11: is not UTF-8", "12: id has to begin with usr_ and be an id",
		}},
		"a line that is too long": {formatLines, `{"email":"bo@acme.example"}` + "\n" + strings.Repeat("x", 3*maxLine) + "\n" + `{"email":"bo@acme.example"}` + "\n", []api.ImportMember{bo, bo}, []string{
			"2: is longer than 65536 bytes",
		}},
		"a header that is too long": {formatCSV, strings.Repeat("x", maxLine+1) + "\nemail\nbo@acme.example\n", nil, []string{"the header is longer than 65536 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			members, faults := read(tt.text, tt.format)
			if diff := cmp.Diff(tt.want, members); diff != "" {
				t.Errorf("members (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.faults, faults); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAListThatCannotBeRead(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	var got []error
	for _, err := range readRows(iotest.ErrReader(broken), formatCSV) {
		got = append(got, err)
	}
	if len(got) != 1 || !errors.Is(got[0], broken) {
		t.Errorf("it says %v", got)
	}
}

func TestListsAreCheckedWholly(t *testing.T) {
	t.Parallel()
	c := &cli{in: strings.NewReader("email\nbo@acme.example\n")}
	open := func(path, format, text string) *memberList {
		t.Helper()
		if path != "-" {
			path = filepath.Join(t.TempDir(), path)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := c.openList(path, format)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.close)
		return l
	}
	var out bytes.Buffer
	l := open("members.csv", "", "email\nbo@acme.example\nbo\n"+strings.Repeat("x\n", 40))
	if n, err := l.check(&out); n != 0 || err == nil || err.Error() != "41 lines are wrong; nothing was done" {
		t.Errorf("%d, %v", n, err)
	}
	if lines := strings.Split(out.String(), "\n"); len(lines) != maxBadLines+1 || !strings.HasSuffix(lines[0], "members.csv:3: email is not an email address") {
		t.Errorf("it shows\n%s", &out)
	}
	if _, err := open("members.jsonl", "", "").check(&out); err == nil || !strings.HasSuffix(err.Error(), "members.jsonl has no members in it") {
		t.Errorf("an empty one: %v", err)
	}
	for text, want := range map[string]bool{"email\nbo@acme.example\n": true, "email\nbo@acme.example": false, "email\nbo@acme.example\r\n": true, "": false} {
		if whole, err := open("members.csv", "", text).whole(); err != nil || whole != want {
			t.Errorf("%q is whole: %v, %v", text, whole, err)
		}
	}

	// What comes through a pipe can be read again, and leaves nothing behind.
	piped := open("-", formatCSV, "")
	for range 2 {
		if n, err := piped.check(&out); n != 1 || err != nil {
			t.Errorf("stdin has %d members: %v", n, err)
		}
	}
	copied := piped.file.Name()
	piped.close()
	if _, err := os.Stat(copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy: %v", err)
	}
	for _, path := range []string{"-", "members.txt"} {
		if _, err := c.openList(path, ""); !errors.As(err, new(usageError)) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestBatchesFitIntoRequests(t *testing.T) {
	t.Parallel()
	const short, long = 1001, 600
	var body strings.Builder
	body.WriteString("email,roles\n")
	for i := range short {
		fmt.Fprintf(&body, "p%d@acme.example,\n", i)
	}
	for i := range long {
		fmt.Fprintf(&body, "q%d@acme.example,%s\n", i, strings.Repeat(";"+strings.Repeat("r", 100), 20))
	}
	path := filepath.Join(t.TempDir(), "members.csv")
	if err := os.WriteFile(path, []byte(body.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := (&cli{}).openList(path, "")
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var sizes []int
	seen := map[string]bool{}
	if err := batches(l, func(rows []row) error {
		sizes = append(sizes, len(rows))
		for _, r := range rows {
			seen[r.Email] = true
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(seen) != short+long || sizes[0] != importMembers || sizes[1] != importMembers || len(sizes) != 5 {
		t.Errorf("%d people in batches of %v", len(seen), sizes)
	}
}
