package scim_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scim"
	"github.com/handover-dev/handover/internal/store"
)

const (
	enterprise = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	core       = "urn:ietf:params:scim:schemas:core:2.0:User"
)

type answer struct {
	status int
	header http.Header
	body   string
	doc    map[string]any
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// ask sends a request with the directory's token; headers are name, value.
func ask(tb testing.TB, method, url, body string, headers ...string) answer {
	tb.Helper()
	return send(tb, method, url, strings.NewReader(body), headers...)
}

func send(tb testing.TB, method, url string, body io.Reader, headers ...string) answer {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/scim+json"}}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Del(headers[i])
		if headers[i+1] != "" {
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	a := answer{status: res.StatusCode, header: res.Header, body: string(raw)}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a.doc); err != nil {
			tb.Fatalf("%s %s was answered with what is not JSON: %s", method, url, raw)
		}
		if got := a.header.Get("Content-Type"); got != "application/scim+json" {
			tb.Errorf("%s %s was answered as %q", method, url, got)
		}
	}
	return a
}

// is checks the status of an answer and the scimType of a problem.
func (a answer) is(tb testing.TB, status int, scimType ...string) answer {
	tb.Helper()
	if a.status != status {
		tb.Fatalf("answered %v, want %d", a, status)
	}
	if status >= 400 {
		want := map[string]any{"schemas": []any{"urn:ietf:params:scim:api:messages:2.0:Error"}, "status": strconv.Itoa(status), "detail": a.doc["detail"]}
		if len(scimType) > 0 {
			want["scimType"] = scimType[0]
		}
		if diff := cmp.Diff(want, a.doc); diff != "" || a.doc["detail"] == "" || a.doc["detail"] == nil {
			tb.Errorf("the problem differs (-want +got):\n%s", diff)
		}
	}
	return a
}

func TestPaths(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	id := f.addUser("{}", store.SCIMUser{UserName: "a"}).ID
	for _, test := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "/ServiceProviderConfig", 200, ""},
		{"HEAD", "/ServiceProviderConfig", 200, ""},
		{"POST", "/ServiceProviderConfig", 405, "GET, HEAD"},
		{"GET", "/ServiceProviderConfig/x", 404, ""},
		{"GET", "/ResourceTypes", 200, ""},
		{"GET", "/ResourceTypes/User", 200, ""},
		{"GET", "/ResourceTypes/Group", 200, ""},
		{"GET", "/ResourceTypes/Device", 404, ""},
		{"DELETE", "/ResourceTypes/User", 405, "GET, HEAD"},
		{"GET", "/Schemas", 200, ""},
		{"GET", "/Schemas/" + core, 200, ""},
		{"GET", "/Schemas/" + enterprise, 200, ""},
		{"GET", "/Schemas/urn:x", 404, ""},
		{"POST", "/Bulk", 501, ""},
		{"GET", "/Me", 501, ""},
		{"PATCH", "/Me", 501, ""},
		{"GET", "/Users", 200, ""},
		{"HEAD", "/Users", 200, ""},
		{"DELETE", "/Users", 405, "GET, HEAD, POST"},
		{"GET", "/Users/" + id, 200, ""},
		{"POST", "/Users/" + id, 405, "DELETE, GET, HEAD, PATCH, PUT"},
		{"POST", "/Users/.search", 405, "DELETE, GET, HEAD, PATCH, PUT"},
		{"GET", "/Users/", 404, ""},
		{"GET", "/Users/" + id + "/", 404, ""},
		{"GET", "/Users/" + id + "/x", 404, ""},
		{"GET", "/Users/nobody", 404, ""},
		{"GET", "/Users/%00", 404, ""},
		{"GET", "/Users/%FF", 404, ""},
		{"DELETE", "/Users/a%00", 404, ""},
		{"GET", "/Users/" + strings.Repeat("a", 2000), 404, ""},
		{"GET", "/Groups", 200, ""},
		{"PUT", "/Groups", 405, "GET, HEAD, POST"},
		{"GET", "/Groups/nobody", 404, ""},
		{"GET", "/Groups/%00", 404, ""},
		{"DELETE", "/Groups/%00", 404, ""},
		{"POST", "/Groups/x", 405, "DELETE, GET, HEAD, PATCH, PUT"},
		{"GET", "/users", 404, ""},
		{"GET", "/", 404, ""},
		{"GET", "", 404, ""},
		{"GET", "/Devices", 404, ""},
		{"GET", "/../v3/Users", 404, ""},
	} {
		a := ask(t, test.method, base+test.path, "")
		if a.status != test.status || a.header.Get("Allow") != test.allow {
			t.Errorf("%s %s was answered %v, Allow %q", test.method, test.path, a, a.header.Get("Allow"))
		} else if test.method != http.MethodHead {
			a.is(t, test.status)
		}
	}
	for _, path := range []string{"%00", "\xff"} {
		ask(t, "PATCH", base+"/Users/"+url.PathEscape(path), `{"Operations":[{"op":"add","value":{}}]}`).is(t, 404)
		ask(t, "PATCH", base+"/Groups/"+url.PathEscape(path), `{"Operations":[{"op":"add","value":{}}]}`).is(t, 404)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	ask(t, "GET", base+"/Users", "", "Authorization", "Bearer hk_one").is(t, 401)
	ask(t, "GET", base+"/Users", "", "Authorization", "Bearer scim_"+strings.Repeat("x", 4000)).is(t, 401)
	if f.lookups > 0 {
		t.Error("what cannot be a token is looked up")
	}
	other := strings.Replace(base, "dir_1", "dir_2", 1)
	off := strings.Replace(base, "dir_1", "dir_3", 1)
	for name, test := range map[string]struct {
		url, authorization string
		status             int
	}{
		"valid":                      {base, "Bearer " + token, 200},
		"in lower case":              {base, "bearer " + token, 200},
		"of the other directory":     {other, "Bearer " + otherToken, 200},
		"none":                       {base, "", 401},
		"empty":                      {base, "Bearer ", 401},
		"basic":                      {base, "Basic " + token, 401},
		"alone":                      {base, token, 401},
		"unknown":                    {base, "Bearer scim_nobody", 401},
		"with another prefix":        {base, "Bearer hk_one", 401},
		"long":                       {base, "Bearer scim_" + strings.Repeat("x", 4000), 401},
		"for another directory":      {other, "Bearer " + token, 401},
		"of another directory":       {base, "Bearer " + otherToken, 401},
		"of a disabled directory":    {off, "Bearer " + offToken, 401},
		"for an unknown directory":   {strings.Replace(base, "dir_1", "dir_9", 1), "Bearer " + token, 401},
		"for no directory":           {strings.Replace(base, "dir_1", "", 1), "Bearer " + token, 401},
		"for a directory with a NUL": {strings.Replace(base, "dir_1", "dir_1%00", 1), "Bearer " + token, 401},
	} {
		for _, path := range []string{"/Users", "/ServiceProviderConfig"} {
			a := ask(t, "GET", test.url+path, "", "Authorization", test.authorization)
			if a.status != test.status {
				t.Errorf("%s: %v", name, a)
			}
			if challenge := a.header.Get("WWW-Authenticate"); (a.status == 401) != strings.HasPrefix(challenge, "Bearer ") {
				t.Errorf("%s: WWW-Authenticate is %q", name, challenge)
			}
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/Users", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header["Authorization"] = []string{"Bearer " + token, "Bearer " + token}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 401 {
		t.Errorf("two tokens were answered %d", res.StatusCode)
	}
}

func TestAnotherDirectoryIsNotReached(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	id := f.addUser("{}", store.SCIMUser{UserName: "a", Active: true}).ID
	other := strings.Replace(base, "dir_1", "dir_2", 1)
	for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
		ask(t, method, other+"/Users/"+id, `{"userName":"b","Operations":[{"op":"replace","path":"active","value":false}]}`, "Authorization", "Bearer "+otherToken).is(t, 404)
	}
	if a := ask(t, "GET", other+"/Users", "", "Authorization", "Bearer "+otherToken).is(t, 200); a.doc["totalResults"] != 0.0 {
		t.Errorf("the other directory has %v", a)
	}
	if a := ask(t, "GET", base+"/Users/"+id, "").is(t, 200); a.doc["active"] != true || a.doc["userName"] != "a" {
		t.Errorf("the user is %v", a)
	}
}

// clock is moved by hand.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestTokensAreRemembered(t *testing.T) {
	t.Parallel()
	c := &clock{at: time.Unix(1e9, 0)}
	var h *scim.Handler
	base, f := serve(t, func(made *scim.Handler) { h, made.Now = made, c.now })
	f.touched = make(chan string, 100)
	get := func(status, lookups int) {
		t.Helper()
		ask(t, "GET", base+"/Users", "").is(t, status)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.lookups != lookups {
			t.Errorf("the token was looked up %d times, want %d", f.lookups, lookups)
		}
	}
	get(200, 1)
	c.add(time.Second - 1)
	get(200, 1)
	c.add(1)
	get(200, 2)
	for range 60 {
		c.add(time.Second)
		ask(t, "GET", base+"/Users", "").is(t, 200)
	}
	get(200, 62)
	for range 2 { // at the beginning and after a minute
		if id := <-f.touched; id != "st_dir_1" {
			t.Errorf("the use of %s is noted", id)
		}
	}
	if len(f.touched) > 0 {
		t.Error("the use of a token is noted too often")
	}
	f.mu.Lock()
	clear(f.dirs)
	f.mu.Unlock()
	get(200, 62)
	h.Forget()
	get(401, 63)
	get(401, 64)
}

func TestTokensThatCannotBeLookedUp(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	f.err = errors.New("no database")
	if a := ask(t, "GET", base+"/Users", "").is(t, 503); a.header.Get("Retry-After") != "1" || strings.Contains(a.body, "database") {
		t.Errorf("answered %v, %v", a, a.header)
	}
}

// limiter blocks keys that are told, and notes what is asked.
type limiter struct {
	mu             sync.Mutex
	blocked        map[string]time.Duration
	asked, allowed []string
}

func (l *limiter) Allow(key string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed = append(l.allowed, key)
	d, blocked := l.blocked[key]
	return d, !blocked
}

func (l *limiter) Blocked(key string) (time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d, blocked := l.blocked[key]
	return d, blocked
}

func (l *limiter) Spend(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked = append(l.asked, key)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	l := &limiter{blocked: map[string]time.Duration{}}
	c := &clock{at: time.Unix(1e9, 0)}
	base, f := serve(t, func(h *scim.Handler) { h.Limiter, h.Now = l, c.now })
	ask(t, "GET", base+"/Users", "", "Authorization", "").is(t, 401)
	ask(t, "GET", base+"/Users", "", "Authorization", "Bearer scim_nobody").is(t, 401)
	if want := []string{"scim-auth:127.0.0.1", "scim-auth:127.0.0.1"}; !slices.Equal(l.asked, want) || len(l.allowed) != 0 {
		t.Errorf("spent %v, asked for %v", l.asked, l.allowed)
	}
	ask(t, "GET", base+"/Users", "").is(t, 200)
	if !slices.Equal(l.allowed, []string{"scim:dir_1"}) {
		t.Errorf("asked for %v", l.allowed)
	}
	lookups := f.lookups

	l.blocked["scim-auth:127.0.0.1"] = 1500 * time.Millisecond
	for _, authorization := range []string{"", "Bearer scim_nobody", "Bearer " + otherToken} {
		if a := ask(t, "GET", base+"/Users", "", "Authorization", authorization).is(t, 429); a.header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
		}
	}
	if f.lookups != lookups {
		t.Error("a token was looked up for a blocked address")
	}
	ask(t, "GET", base+"/Users", "").is(t, 200) // its token was valid before

	l.blocked["scim:dir_1"] = time.Nanosecond
	if a := ask(t, "DELETE", base+"/Users/x", "").is(t, 429); a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
	}

	// A token that is valid no more is known no more.
	f.mu.Lock()
	clear(f.dirs)
	f.mu.Unlock()
	c.add(time.Second)
	ask(t, "GET", base+"/Users", "").is(t, 401)
	ask(t, "GET", base+"/Users", "").is(t, 429)
}

func TestBodies(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	id := f.addUser("{}", store.SCIMUser{UserName: "a", Active: true}).ID
	nested := func(n int) string {
		return `{"userName":"a","x":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	for name, test := range map[string]struct {
		body     string
		status   int
		scimType string
	}{
		"empty":              {``, 400, "invalidSyntax"},
		"cut off":            {`{"userName":"a"`, 400, "invalidSyntax"},
		"an array":           {`[]`, 400, "invalidSyntax"},
		"a string":           {`"a"`, 400, "invalidSyntax"},
		"something behind":   {`{"userName":"a"} {}`, 400, "invalidSyntax"},
		"a comma":            {`{"userName":"a",}`, 400, "invalidSyntax"},
		"not UTF-8":          {"{\"userName\":\"\xff\"}", 400, "invalidSyntax"},
		"a control":          {"{\"userName\":\"a\x01\"}", 400, "invalidSyntax"},
		"a bare NUL":         {"{\"userName\":\"a\x00\"}", 400, "invalidSyntax"},
		"a NUL":              {`{"userName":"a\u0000"}`, 400, "invalidValue"},
		"a NUL in a key":     {`{"userName":"a","\u0000":1}`, 400, "invalidValue"},
		"a lone surrogate":   {`{"userName":"a\ud800"}`, 400, "invalidSyntax"},
		"a reversed pair":    {`{"userName":"\udc00\ud800"}`, 400, "invalidSyntax"},
		"a key twice":        {`{"userName":"a","active":true,"active":false}`, 400, "invalidSyntax"},
		"a key in two cases": {`{"userName":"a","active":true,"Active":false}`, 400, "invalidSyntax"},
		"many keys, one twice": {
			`{` + keys(100) + `,"K50":1}`, 400, "invalidSyntax",
		},
		"many keys":          {`{` + keys(100) + `,"userName":"a"}`, 200, ""},
		"depth 64":           {nested(63), 200, ""},
		"depth 65":           {nested(64), 400, "invalidSyntax"},
		"depth 500,000":      {nested(500_000), 400, "invalidSyntax"},
		"many values":        {`{"userName":"a","x":[` + strings.Repeat("0,", 100_000) + `0]}`, 400, "tooMany"},
		"1 MiB":              {`{"userName":"a","x":"` + strings.Repeat("x", 1<<20-23) + `"}`, 200, ""},
		"1 MiB and a byte":   {`{"userName":"a","x":"` + strings.Repeat("x", 1<<20-22) + `"}`, 413, ""},
		"a huge number":      {`{"userName":"a","x":1e999999}`, 400, "invalidValue"},
		"a long number":      {`{"userName":"a","x":` + strings.Repeat("1", 1000) + `}`, 400, "invalidValue"},
		"a large number":     {`{"userName":"a","title":1e308}`, 200, ""},
		"no number":          {`{"userName":"a","x":01}`, 400, "invalidSyntax"},
		"no userName":        {`{"active":false}`, 400, "invalidValue"},
		"an empty userName":  {`{"userName":""}`, 400, "invalidValue"},
		"a userName of null": {`{"userName":null}`, 400, "invalidValue"},
		"a userName of 1":    {`{"userName":1}`, 400, "invalidValue"},
		"active of null":     {`{"userName":"a","active":null}`, 400, "invalidValue"},
		"active in a string": {`{"userName":"a","active":"TRUE"}`, 200, ""},
		"large attributes":   {`{"userName":"a","addresses":[` + addresses(70) + `]}`, 400, "invalidValue"},
		"escapes":            {`{"userName":"a","title":"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00<&>"}`, 200, ""},
		"an unknown escape":  {`{"userName":"a","title":"\x"}`, 400, "invalidSyntax"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := ask(t, "PUT", base+"/Users/"+id, test.body)
			if test.scimType != "" {
				a.is(t, test.status, test.scimType)
			} else {
				a.is(t, test.status)
			}
		})
	}
	t.Run("of unknown length", func(t *testing.T) {
		t.Parallel()
		send(t, "PUT", base+"/Users/"+id, io.MultiReader(strings.NewReader(`{"userName":"a","x":"`), strings.NewReader(strings.Repeat("x", 2<<20)))).is(t, 413)
	})
}

func keys(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf(`"k%d":%d`, i, i))
	}
	return strings.Join(list, ",")
}

// addresses is n long ones.
func addresses(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(`{"formatted":"%d%s"}`, i, strings.Repeat("x", 1000))
	}
	return strings.Join(list, ",")
}

func TestMedia(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	id := f.addUser("{}", store.SCIMUser{UserName: "a"}).ID
	for media, status := range map[string]int{
		"application/scim+json": 200, "application/json": 200, "application/scim+json; charset=utf-8": 200, "Application/JSON;charset=UTF-8": 200,
		"application/scim+json; x": 200, "": 415, "text/plain": 415, "application/xml": 415, "application/jsonx": 415, "application/x-www-form-urlencoded": 415, ";": 415,
	} {
		a := ask(t, "PUT", base+"/Users/"+id, `{"userName":"a"}`, "Content-Type", media)
		if a.is(t, status); a.status != status {
			t.Errorf("%q: %v", media, a)
		}
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(`{"userName":"a"}`))
	_ = z.Close()
	ask(t, "PUT", base+"/Users/"+id, zipped.String(), "Content-Encoding", "gzip").is(t, 415)
	ask(t, "PUT", base+"/Users/"+id, `{"userName":"a"}`, "Content-Encoding", "identity").is(t, 415)
	ask(t, "DELETE", base+"/Users/"+id, "no JSON", "Content-Type", "").is(t, 204)
}

func TestErrors(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, test := range []struct {
		err      error
		status   int
		scimType string
		logged   bool
	}{
		{directory.ErrNotFound, 404, "", false},
		{directory.ErrDirectoryNotFound, 404, "", false},
		{directory.ErrOrganizationNotFound, 404, "", false},
		{directory.ErrUserNameTaken, 409, "uniqueness", false},
		{directory.ErrUserExists, 409, "uniqueness", false},
		{fmt.Errorf("of a group: %w", directory.ErrUserNotFound), 400, "invalidValue", false},
		{fmt.Errorf("%w: the disk is full", directory.ErrUnavailable), 503, "", true},
		{context.DeadlineExceeded, 503, "", true},
		{errors.New("something else"), 500, "", true},
	} {
		t.Run(test.err.Error(), func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			base, f := serve(t, func(h *scim.Handler) { h.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			ask(t, "GET", base+"/Users", "").is(t, 200) // the token is known now
			f.mu.Lock()
			f.err = test.err
			f.mu.Unlock()
			for _, r := range [][3]string{
				{"POST", "/Users", `{"userName":"` + secret + `"}`},
				{"PUT", "/Users/x", `{"userName":"` + secret + `"}`},
				{"PATCH", "/Users/x", `{"Operations":[{"op":"replace","path":"title","value":"` + secret + `"}]}`},
				{"DELETE", "/Users/x", ""},
				{"GET", "/Users/x", ""},
				{"GET", "/Users", ""},
				{"GET", "/Groups", ""},
				{"GET", "/Groups/x", ""},
				{"POST", "/Groups", `{"displayName":"` + secret + `"}`},
				{"PATCH", "/Groups/x", `{"Operations":[{"op":"replace","path":"displayName","value":"` + secret + `"}]}`},
				{"DELETE", "/Groups/x", ""},
			} {
				a := ask(t, r[0], base+r[1], r[2])
				if test.scimType != "" {
					a.is(t, test.status, test.scimType)
				} else {
					a.is(t, test.status)
				}
				if (a.status == 503) != (a.header.Get("Retry-After") != "") {
					t.Errorf("Retry-After of %d is %q", a.status, a.header.Get("Retry-After"))
				}
				if strings.Contains(a.body, secret) || a.status >= 500 && strings.Contains(a.body, test.err.Error()) {
					t.Errorf("the answer tells too much: %s", a.body)
				}
			}
			if strings.Contains(log.String(), secret) || (log.Len() > 0) != test.logged || strings.Count(log.String(), "\n") > 11 {
				t.Errorf("the log is %q", log.String())
			}
		})
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	for i := range 205 {
		f.addUser("{}", store.SCIMUser{UserName: fmt.Sprintf("u%03d", i), Active: i%2 == 0})
	}
	for query, want := range map[string][4]int{ // total, start, count, number of the first
		"":                                 {205, 1, 100, 0},
		"?aadOptscim062020":                {205, 1, 100, 0},
		"?startIndex=1&count=2":            {205, 1, 2, 0},
		"?startIndex=204&count=10":         {205, 204, 2, 203},
		"?startIndex=206":                  {205, 206, 0, 0},
		"?startIndex=0":                    {205, 1, 100, 0},
		"?startIndex=-5&count=1":           {205, 1, 1, 0},
		"?count=0":                         {205, 1, 0, 0},
		"?count=-1":                        {205, 1, 0, 0},
		"?count=100000":                    {205, 1, 200, 0},
		"?count=99999999999999999999":      {205, 1, 200, 0},
		"?startIndex=99999999999999":       {205, 1<<31 - 1, 0, 0},
		"?startIndex=-99999999999999":      {205, 1, 100, 0},
		"?filter=active+eq+true&count=1":   {103, 1, 1, 0},
		"?filter=userName%20eq%20%22U7%22": {0, 1, 0, 0},
		"?filter=userName%20eq%20%22U007%22&startIndex=1&count=100":                         {1, 1, 1, 7},
		"?filter=active+eq+true+and+active+eq+false":                                        {0, 1, 0, 0},
		"?sortBy=userName&sortOrder=descending&attributes=userName&excludedAttributes=name": {205, 1, 100, 0},
	} {
		a := ask(t, "GET", base+"/Users"+query, "").is(t, 200)
		var list struct {
			Schemas                                []string
			TotalResults, StartIndex, ItemsPerPage int
			Resources                              []struct{ UserName string }
		}
		if err := json.Unmarshal([]byte(a.body), &list); err != nil {
			t.Fatal(err)
		}
		got := [4]int{list.TotalResults, list.StartIndex, list.ItemsPerPage, want[3]}
		if got != want || len(list.Resources) != want[2] || list.Resources == nil || !slices.Equal(list.Schemas, []string{"urn:ietf:params:scim:api:messages:2.0:ListResponse"}) {
			t.Errorf("%s: %v, %d resources", query, got, len(list.Resources))
		} else if want[2] > 0 && list.Resources[0].UserName != fmt.Sprintf("u%03d", want[3]) {
			t.Errorf("%s begins with %s", query, list.Resources[0].UserName)
		}
	}
	for query, scimType := range map[string]string{
		"?filter=title%20co%20%22x%22": "invalidFilter",
		"?filter=":                     "invalidFilter",
		"?filter=id+eq+%22a%22&filter=id+eq+%22b%22": "invalidFilter",
		"?filter=id+eq+%22%00%22":                    "invalidFilter",
		"?filter=id+eq+%22%ff%22":                    "invalidFilter",
		"?filter=%zz":                                "invalidSyntax",
		"?a=b;filter=c":                              "invalidSyntax",
		"?startIndex=one":                            "invalidValue",
		"?count=":                                    "invalidValue",
		"?count=1.5":                                 "invalidValue",
	} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", base+"/Users", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = query[1:]
		ask(t, "GET", req.URL.String(), "").is(t, 400, scimType)
		req.URL.Path = strings.Replace(req.URL.Path, "/Users", "/Groups", 1)
		ask(t, "GET", req.URL.String(), "").is(t, 400, scimType)
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	base, f := serve(t, func(h *scim.Handler) { h.Origin = "https://handover.example.com/" })
	const at = "https://handover.example.com/api/v1/directories/dir_1/scim/v2/Users/"
	made := ask(t, "POST", base+"/Users", `{"schemas":["`+core+`"],"id":"mine","userName":"Dana@example.com","EXTERNALID":"x1","Title":"Engineer","password":"hunter2",
		"name":{"GivenName":"Dana"},"emails":[{"value":"d@home.example.com","type":"home"},{"value":"d@example.com","type":"work","primary":"true"}],
		"groups":[{"value":"g"}],"meta":{"resourceType":"Group"},"shoe":1,"`+enterprise+`":{"department":"Sales","manager":{"value":"boss","displayName":"B"}}}`).is(t, 201)
	id, _ := made.doc["id"].(string)
	meta, _ := made.doc["meta"].(map[string]any)
	want := map[string]any{
		"schemas": []any{core, enterprise}, "id": id, "externalId": "x1", "userName": "Dana@example.com", "active": true, "title": "Engineer",
		"name": map[string]any{"givenName": "Dana"},
		"emails": []any{
			map[string]any{"value": "d@home.example.com", "type": "home"},
			map[string]any{"value": "d@example.com", "type": "work", "primary": true},
		},
		enterprise: map[string]any{"department": "Sales", "manager": map[string]any{"value": "boss"}},
		"meta":     map[string]any{"resourceType": "User", "created": meta["created"], "lastModified": meta["lastModified"], "location": at + id},
	}
	if diff := cmp.Diff(want, made.doc); diff != "" {
		t.Errorf("the user differs (-want +got):\n%s", diff)
	}
	if id == "mine" || made.header.Get("Location") != at+id {
		t.Errorf("Location is %q", made.header.Get("Location"))
	}
	for _, name := range []string{"created", "lastModified"} {
		text, _ := meta[name].(string)
		if _, err := time.Parse("2006-01-02T15:04:05.000Z", text); err != nil {
			t.Errorf("%s is %q", name, text)
		}
	}
	if u := f.users[id]; u.Email != "d@example.com" || u.ManagerID != "boss" || strings.Contains(string(u.Attributes), "hunter2") {
		t.Errorf("kept is %+v", u)
	}
	if got := ask(t, "GET", base+"/Users/"+id, "").is(t, 200); got.body != made.body {
		t.Errorf("it is shown as %s, not %s", got.body, made.body)
	}
	ask(t, "POST", base+"/Users", `{"userName":"dANA@example.com"}`).is(t, 409, "uniqueness")

	// PUT keeps nothing but the id and whether they are active.
	ask(t, "PATCH", base+"/Users/"+id, `{"Operations":[{"op":"replace","path":"active","value":false}]}`).is(t, 200)
	put := ask(t, "PUT", base+"/Users/"+id, `{"id":"other","userName":"dr@example.com"}`).is(t, 200)
	delete(put.doc, "meta")
	want = map[string]any{"schemas": []any{core}, "id": id, "userName": "dr@example.com", "active": false}
	if diff := cmp.Diff(want, put.doc); diff != "" {
		t.Errorf("the user differs (-want +got):\n%s", diff)
	}
	if u := f.users[id]; u.Email != "dr@example.com" || u.ManagerID != "" || string(u.Attributes) != "{}" || u.CreatedAt.IsZero() {
		t.Errorf("kept is %+v", u)
	}
	if a := ask(t, "PUT", base+"/Users/"+id, `{"userName":"dr@example.com","active":true}`).is(t, 200); a.doc["active"] != true {
		t.Errorf("the user is %v", a)
	}
	if a := ask(t, "POST", base+"/Users", `{"userName":"gone","active":false}`).is(t, 201); a.doc["active"] != false || f.users[a.doc["id"].(string)].Email != "" {
		t.Errorf("the user is %v", a)
	}
	ask(t, "DELETE", base+"/Users/"+id, "").is(t, 204)
	ask(t, "GET", base+"/Users/"+id, "").is(t, 404)
}

func TestGroup(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	a, b := f.addUser("{}", store.SCIMUser{UserName: "a"}).ID, f.addUser("{}", store.SCIMUser{UserName: "b"}).ID
	made := ask(t, "POST", base+"/Groups", `{"displayName":"Sales","externalId":"g1","members":[{"value":"`+b+`"},{"value":"`+a+`","display":"A"}]}`).is(t, 201)
	id, _ := made.doc["id"].(string)
	meta, _ := made.doc["meta"].(map[string]any)
	if made.header.Get("Location") != base+"/Groups/"+id || meta["location"] != base+"/Groups/"+id || meta["resourceType"] != "Group" {
		t.Errorf("Location is %q, meta %v", made.header.Get("Location"), meta)
	}
	members := func(ids ...string) []any {
		list := []any{}
		for _, id := range ids {
			list = append(list, map[string]any{"value": id, "type": "User"})
		}
		return list
	}
	show := func(path string, want map[string]any) {
		t.Helper()
		got := ask(t, "GET", base+path, "").is(t, 200).doc
		if list, ok := got["Resources"].([]any); ok {
			got, _ = list[0].(map[string]any)
		}
		delete(got, "meta")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", path, diff)
		}
	}
	schemas := []any{"urn:ietf:params:scim:schemas:core:2.0:Group"}
	full := map[string]any{"schemas": schemas, "id": id, "displayName": "Sales", "externalId": "g1", "members": members(a, b)}
	short := map[string]any{"schemas": schemas, "id": id, "displayName": "Sales", "externalId": "g1"}
	show("/Groups/"+id, full)
	show("/Groups?filter=members.value+eq+%22"+a+"%22", full)
	show("/Groups?filter=displayName+eq+%22Sales%22&excludedAttributes=members", short)
	show("/Groups/"+id+"?excludedAttributes=externalId,%20MEMBERS", short)
	show("/Groups/"+id+"?excludedAttributes=urn:ietf:params:scim:schemas:core:2.0:Group:members", short)
	show("/Groups/"+id+"?excludedAttributes=displayName", full)
	if n := ask(t, "GET", base+"/Groups?filter=displayName+eq+%22x%22+and+displayName+eq+%22y%22", "").is(t, 200).doc["totalResults"]; n != 0.0 {
		t.Errorf("there are %v", n)
	}

	ask(t, "PUT", base+"/Groups/"+id, `{"displayName":"S","members":[{"value":"`+b+`"}]}`).is(t, 200)
	show("/Groups/"+id, map[string]any{"schemas": schemas, "id": id, "displayName": "S", "members": members(b)})
	if a := ask(t, "PATCH", base+"/Groups/"+id, `{"Operations":[{"op":"add","path":"members","value":[{"value":"`+a+`"}]}]}`).is(t, 204); a.body != "" {
		t.Errorf("204 came with %s", a.body)
	}
	show("/Groups/"+id, map[string]any{"schemas": schemas, "id": id, "displayName": "S", "members": members(a, b)})
	ask(t, "PATCH", base+"/Groups/"+id, `{"Operations":[{"op":"add","path":"members","value":[{"value":"nobody"}]}]}`).is(t, 400, "invalidValue")
	ask(t, "PATCH", base+"/Groups/"+id, `{"Operations":[]}`).is(t, 400, "invalidSyntax")
	ask(t, "POST", base+"/Groups", `{"members":[]}`).is(t, 400, "invalidValue")
	ask(t, "PUT", base+"/Groups/"+id, `{"members":[]}`).is(t, 400, "invalidValue")
	ask(t, "PATCH", base+"/Groups/nobody", `{"Operations":[{"op":"remove","path":"members"}]}`).is(t, 404)
	ask(t, "DELETE", base+"/Groups/"+id, "").is(t, 204)
	ask(t, "DELETE", base+"/Groups/"+id, "").is(t, 404)
	ask(t, "GET", base+"/Groups/"+id, "").is(t, 404)
}

// With their members, few groups are given at once.
func TestGroupPages(t *testing.T) {
	t.Parallel()
	base, f := serve(t, nil)
	for i := range 30 {
		f.groups[strconv.Itoa(i)] = store.SCIMGroup{DirectoryID: "dir_1", ID: strconv.Itoa(i), DisplayName: "g"}
	}
	for query, want := range map[string]float64{"?count=30": 20, "?count=30&excludedAttributes=members": 30, "?startIndex=21&count=30": 10} {
		a := ask(t, "GET", base+"/Groups"+query, "").is(t, 200)
		if list, _ := a.doc["Resources"].([]any); a.doc["totalResults"] != 30.0 || a.doc["itemsPerPage"] != want || float64(len(list)) != want {
			t.Errorf("%s: %v", query, a)
		}
	}
}

func TestDescriptions(t *testing.T) {
	t.Parallel()
	base, _ := serve(t, nil)
	config := ask(t, "GET", base+"/ServiceProviderConfig", "").is(t, 200).doc
	supported := map[string]bool{}
	for _, name := range []string{"patch", "filter", "bulk", "sort", "etag", "changePassword"} {
		o, _ := config[name].(map[string]any)
		b, ok := o["supported"].(bool)
		if !ok {
			t.Errorf("%s is %v", name, config[name])
		}
		supported[name] = b
	}
	want := map[string]bool{"patch": true, "filter": true, "bulk": false, "sort": false, "etag": false, "changePassword": false}
	if diff := cmp.Diff(want, supported); diff != "" {
		t.Errorf("what is supported differs (-want +got):\n%s", diff)
	}
	schemes, _ := config["authenticationSchemes"].([]any)
	if len(schemes) != 1 || schemes[0].(map[string]any)["type"] != "oauthbearertoken" {
		t.Errorf("the schemes are %v", schemes)
	}
	for path, ids := range map[string][]string{
		"/ResourceTypes": {"User", "Group"},
		"/Schemas":       {core, "urn:ietf:params:scim:schemas:core:2.0:Group", enterprise},
	} {
		list := ask(t, "GET", base+path, "").is(t, 200).doc
		all, _ := list["Resources"].([]any)
		if len(all) != len(ids) || list["totalResults"] != float64(len(ids)) {
			t.Fatalf("%s: %v", path, list)
		}
		for i, id := range ids {
			one := ask(t, "GET", base+path+"/"+id, "").is(t, 200).doc
			if diff := cmp.Diff(all[i], any(one)); diff != "" || one["id"] != id || one["meta"].(map[string]any)["location"] != base+path+"/"+id {
				t.Errorf("%s is %v:\n%s", id, one, diff)
			}
		}
	}
	user := ask(t, "GET", base+"/Schemas/"+core, "").doc
	var names []any
	attributes, _ := user["attributes"].([]any)
	for _, a := range attributes {
		names = append(names, a.(map[string]any)["name"])
	}
	for _, name := range []any{"userName", "active", "name", "displayName", "emails"} {
		if !slices.Contains(names, name) {
			t.Errorf("%v does not describe %v", names, name)
		}
	}
}

func BenchmarkDeparture(b *testing.B) {
	f := newFake()
	id := f.addUser(`{"name":{"givenName":"Dana"},"emails":[{"value":"d@example.com","type":"work","primary":true}]}`, store.SCIMUser{UserName: "a", Active: true}).ID
	h := &scim.Handler{Directory: once{f}, Tokens: f}
	b.ReportAllocs()
	for b.Loop() {
		r, err := http.NewRequestWithContext(b.Context(), "PATCH", scim.Prefix+"dir_1/scim/v2/Users/"+id,
			strings.NewReader(`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","value":{"active":false}}]}`))
		if err != nil {
			b.Fatal(err)
		}
		r.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/scim+json"}}
		h.ServeHTTP(discard{}, r)
	}
}

// once changes a user once only, as a directory does.
type once struct{ *fake }

func (o once) ChangeSCIMUser(_ context.Context, _ store.SCIMDirectory, id string, change func(store.SCIMUser) (store.SCIMUser, error)) (store.SCIMUser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return change(o.users[id])
}

type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(status int) {
	if status != http.StatusOK {
		panic(status)
	}
}
