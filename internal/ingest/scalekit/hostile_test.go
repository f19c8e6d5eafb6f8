package scalekit_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// Bodies that mean nothing, or two things, or too much, are refused before the
// directory is asked.
func TestHostileBodies(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	var compressed bytes.Buffer
	z := gzip.NewWriter(&compressed)
	_, _ = z.Write([]byte(`{"display_name":"Acme"}`))
	_ = z.Close()
	organizations := "/api/v1/organizations"
	membership := "/api/v1/memberships/organizations/" + noOrg + "/users/" + noUser
	for name, c := range map[string]struct {
		path, body string
		header     []string
		status     int
		field      string
	}{
		"nothing":              {organizations, "", []string{"Content-Type", "application/json"}, 400, "body"},
		"not JSON":             {organizations, "display_name=Acme", nil, 400, "body"},
		"cut off":              {organizations, `{"display_name":"Acme"`, nil, 400, "body"},
		"null":                 {organizations, `null`, nil, 400, "body"},
		"a list":               {organizations, `[{"display_name":"Acme"}]`, nil, 400, "body"},
		"two values":           {organizations, `{"display_name":"Acme"}{}`, nil, 400, "body"},
		"a trailing comma":     {organizations, `{"display_name":"Acme",}`, nil, 400, "body"},
		"key twice":            {organizations, `{"display_name":"Acme","display_name":"Globex"}`, nil, 400, "body"},
		"key twice, escaped":   {organizations, `{"display_name":"Acme","display\u005fname":"Globex"}`, nil, 400, "body"},
		"key in two spellings": {organizations, `{"display_name":"Acme","displayName":"Globex"}`, nil, 400, "body"},
		"key twice, unknown":   {organizations, `{"display_name":"Acme","x":{"a":1,"a":2}}`, nil, 400, "body"},
		"key twice, metadata":  {organizations, `{"display_name":"Acme","metadata":{"key":"1","key":"2"}}`, nil, 400, "body"},
		"key twice, list":      {organizations, `{"display_name":"Acme","x":[{"a":1},{"a":1,"b":{},"a":1}]}`, nil, 400, "body"},
		"NUL":                  {organizations, `{"display_name":"Ac\u0000me"}`, nil, 400, "body"},
		"NUL in a key":         {organizations, `{"display_name":"Acme","metadata":{"ke\u0000y":"v"}}`, nil, 400, "body"},
		"lone surrogate":       {organizations, `{"display_name":"\ud800"}`, nil, 400, "body"},
		"not UTF-8":            {organizations, "{\"display_name\":\"\xff\"}", nil, 400, "body"},
		"not UTF-8, unknown":   {organizations, "{\"display_name\":\"Acme\",\"x\":{\"\xff\":[\"\xfe\"]}}", nil, 400, "body"},
		"a number as name":     {organizations, `{"display_name":1}`, nil, 400, "body"},
		"a huge number":        {organizations, `{"display_name":"Acme","region_code":1e999}`, nil, 400, "body"},
		"a region of tomorrow": {organizations, `{"display_name":"Acme","region_code":"MARS"}`, nil, 201, ""},
		"65 deep":              {organizations, `{"display_name":"Acme","x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`, nil, 400, "body"},
		"64 deep":              {organizations, `{"display_name":"Acme","x":` + strings.Repeat("[", 63) + strings.Repeat("]", 63) + `}`, nil, 201, ""},
		"very deep":            {organizations, strings.Repeat(`{"x":`, 200_000), nil, 400, "body"},
		"1 MiB and a byte":     {organizations, `{"display_name":"Acme","x":"` + strings.Repeat("x", 1<<20-29) + `"}`, nil, 413, "body"},
		"1 MiB":                {organizations, `{"display_name":"Acme","x":"` + strings.Repeat("x", 1<<20-30) + `"}`, nil, 201, ""},
		"form":                 {organizations, `{"display_name":"Acme"}`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "Content-Type"},
		"no media type":        {organizations, `{"display_name":"Acme"}`, []string{"Content-Type", ""}, 415, "Content-Type"},
		"with a parameter":     {organizations, `{"display_name":"Acme"}`, []string{"Content-Type", "Application/JSON; charset=utf-8"}, 201, ""},
		"compressed":           {organizations, compressed.String(), []string{"Content-Encoding", "gzip"}, 415, "Content-Encoding"},
		"wrapper and not":      {membership, `{"membership":{},"roles":[{"name":"a"}]}`, nil, 400, "membership"},
		"wrapper of null":      {membership, `{"membership":null}`, nil, 400, "body"},
		"wrapper of a list":    {membership, `{"membership":[]}`, nil, 400, "body"},
		"roles as texts":       {membership, `{"roles":["admin"]}`, nil, 400, "body"},
		"size of 33 bits":      {"GET /api/v1/users?page_size=4294967296", "", nil, 400, "page_size"},
		"negative size":        {"GET /api/v1/users?page_size=-1", "", nil, 400, "page_size"},
		"size twice":           {"GET /api/v1/users?page_size=1&page_size=2", "", nil, 400, "page_size"},
		"token with NUL":       {"GET /api/v1/users?page_token=%00", "", nil, 400, "page_token"},
		"token not UTF-8":      {"GET /api/v1/users?page_token=%ff", "", nil, 400, "page_token"},
		"bad escape":           {"GET /api/v1/users?page_size=%zz", "", nil, 400, "query"},
		"semicolon":            {"GET /api/v1/users?page_size=1;page_token=2", "", nil, 400, "query"},
		"invitation: perhaps":  {membership + "?send_invitation_email=perhaps", `{}`, nil, 400, "send_invitation_email"},
		"no time":              {"GET /api/v1/users/usr_1/sessions?filter.start_time=now", "", nil, 400, "filter.start_time"},
		"time out of range":    {"GET /api/v1/users/usr_1/sessions?filter.end_time=0000-01-01T00:00:00Z", "", nil, 400, "filter.end_time"},
		"id with NUL":          {"GET /api/v1/users/usr_%00", "", nil, 400, "id"},
		"id not UTF-8":         {"DELETE /api/v1/users/usr_%ff34567890123456", "", nil, 400, "id"},
		"external id with NUL": {"GET /api/v1/users:external/a%00", "", nil, 400, "external_id"},
		"external, not UTF-8":  {"DELETE /api/v1/users:external/%ff", "", nil, 400, "external_id"},
		"a long path":          {"GET /api/v1/users/" + strings.Repeat("a", 100_000), "", nil, 400, "id"},
	} {
		w.dir.mu.Lock()
		w.dir.asked = 0
		w.dir.mu.Unlock()
		method, path, ok := strings.Cut(c.path, " ")
		if !ok {
			method, path = "POST", c.path
		}
		status, body, _ := w.ask(method, path, token, c.body, c.header...)
		if status != c.status {
			t.Errorf("%s: %d %.300s, want %d", name, status, body, c.status)
			continue
		}
		if c.field == "" {
			continue
		}
		var answer struct {
			ErrorCode string `json:"error_code"`
			Info      struct {
				Violations []struct{ Field, Description, Constraint string } `json:"field_violations"`
			} `json:"validation_error_info"`
		}
		if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.ErrorCode != "INVALID_ARGUMENT" || len(answer.Info.Violations) == 0 || answer.Info.Violations[0].Field != c.field {
			t.Errorf("%s: %s, want a fault of %s", name, body, c.field)
		}
		if len(body) > 1000 || strings.Contains(body, "Acme") {
			t.Errorf("%s: the answer repeats what was sent: %s", name, body)
		}
		if w.dir.asked != 0 {
			t.Errorf("%s: the directory was asked", name)
		}
	}
	if w.log.Len() != 0 {
		t.Errorf("the log:\n%s", w.log)
	}
}

// Nobody has to say how long a body will be.
func TestLongBodyOfUnknownLength(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	for length, want := range map[int]int{1 << 20: http.StatusCreated, 1<<20 + 1: http.StatusRequestEntityTooLarge} {
		body := `{"display_name":"Acme"}`
		body += strings.Repeat(" ", length-len(body))
		req, err := http.NewRequestWithContext(t.Context(), "POST", w.url+"/api/v1/organizations", struct{ io.Reader }{strings.NewReader(body)})
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		res, err := http1(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%d bytes: %d, want %d", length, res.StatusCode, want)
		}
	}
}

// raw sends an RPC as it stands, and returns the statuses of HTTP and of gRPC.
func (w *world) raw(client *http.Client, path, token string, body io.Reader, header ...string) (status int, rpc string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), "POST", w.url+path, body)
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("Te", "trailers")
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		w.Fatal(err)
	}
	return res.StatusCode, res.Trailer.Get("Grpc-Status") + res.Header.Get("Grpc-Status")
}

// frame puts a message in the envelope of gRPC, with another length if it says so.
func frame(message []byte, flags byte, length int) io.Reader {
	b := append([]byte{flags, 0, 0, 0, 0}, message...)
	binary.BigEndian.PutUint32(b[1:], uint32(length))
	return bytes.NewReader(b)
}

func TestHostileRPCs(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	const path = pb.UserServiceDeleteMembershipProcedure
	large := bytes.Repeat([]byte{0x0a, 0x01, 'a'}, 1<<20/3+1)
	for name, c := range map[string]struct {
		path   string
		body   io.Reader
		header []string
		http   int
		code   connect.Code // with 200
	}{
		"nothing":           {path, bytes.NewReader(nil), nil, 200, connect.CodeUnimplemented},
		"a cut envelope":    {path, bytes.NewReader([]byte{0, 0}), nil, 200, connect.CodeInternal}, // as gRPC has it
		"a cut message":     {path, frame([]byte("ab"), 0, 3), nil, 200, connect.CodeInternal},
		"4 GiB claimed":     {path, frame([]byte("ab"), 0, 1<<32-1), nil, 200, connect.CodeResourceExhausted},
		"more than 1 MiB":   {path, frame(large, 0, len(large)), nil, 200, connect.CodeResourceExhausted},
		"no protobuf":       {path, frame([]byte{0xff, 0xff}, 0, 2), nil, 200, connect.CodeInvalidArgument},
		"not UTF-8":         {path, frame([]byte{0x0a, 0x01, 0xff}, 0, 3), nil, 200, connect.CodeInvalidArgument},
		"groups":            {path, frame(bytes.Repeat([]byte{0x7b}, 100_000), 0, 100_000), nil, 200, connect.CodeInvalidArgument},
		"compressed":        {path, frame([]byte{0x1f, 0x8b}, 1, 2), []string{"Grpc-Encoding", "gzip"}, 200, connect.CodeUnimplemented},
		"flagged":           {path, frame([]byte{0x1f, 0x8b}, 1, 2), nil, 200, connect.CodeInternal},
		"no timeout":        {path, frame(nil, 0, 0), []string{"Grpc-Timeout", "soon"}, 200, connect.CodeInvalidArgument},
		"no time":           {path, frame(nil, 0, 0), []string{"Grpc-Timeout", "0n"}, 200, connect.CodeDeadlineExceeded},
		"another RPC":       {"/scalekit.v1.users.UserService/UpdateUser", frame(nil, 0, 0), nil, 404, 0},
		"JSON in gRPC":      {path, frame([]byte(`{}`), 0, 2), []string{"Content-Type", "application/grpc+json"}, 415, 0},
		"gRPC-Web":          {path, frame(nil, 0, 0), []string{"Content-Type", "application/grpc-web+proto"}, 415, 0},
		"Connect":           {path, strings.NewReader(`{}`), []string{"Content-Type", "application/json"}, 415, 0},
		"Connect, protobuf": {path, strings.NewReader(""), []string{"Content-Type", "application/proto"}, 415, 0},
	} {
		for over, client := range map[string]*http.Client{"HTTP/1.1": http1(t), "h2c": http2(t)} {
			if seeker, ok := c.body.(io.Seeker); ok {
				_, _ = seeker.Seek(0, io.SeekStart)
			}
			status, rpc := w.raw(client, c.path, token, c.body, c.header...)
			if status != c.http || c.http == 200 && rpc != fmt.Sprint(int(c.code)) {
				t.Errorf("%s over %s: %d, gRPC status %q, want %d, %d", name, over, status, rpc, c.http, c.code)
			}
		}
	}
	if w.dir.asked != 0 {
		t.Errorf("the directory was asked %d times", w.dir.asked)
	}
}

// Who has no token is told so before the message is read, or found wrong.
func TestTokenComesBeforeForm(t *testing.T) {
	t.Parallel()
	w := start(t)
	endless, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	for name, body := range map[string]io.Reader{"wrong": frame([]byte{0xff, 0xff}, 0, 2), "endless": endless} {
		if _, rpc := w.raw(http2(t), pb.UserServiceDeleteMembershipProcedure, "", body); rpc != "16" {
			t.Errorf("RPC that is %s: gRPC status %q, want 16", name, rpc)
		}
	}
	for _, path := range []string{"/api/v1/organizations", "/api/v1/nothing", "/api/v1/users/x"} {
		if status, _, _ := w.ask("POST", path, "", "{", "Content-Type", "text/plain"); status != http.StatusUnauthorized {
			t.Errorf("POST %s: %d, want 401", path, status)
		}
	}
}

// waiting is a directory whose users are read until the context ends.
type waiting struct{ *memory }

func (waiting) User(ctx context.Context, _ string, _ directory.Ref) (directory.User, error) {
	<-ctx.Done()
	return directory.User{}, ctx.Err()
}

// What a client gives up is given up here.
func TestTimeoutOfClient(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.handler.Directory = waiting{w.dir}
	c := w.rpcs(http1(t), "Authorization", "Bearer "+w.token(), "Grpc-Timeout", "20m")
	_, err := c.GetUser(t.Context(), &pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: noUser}})
	if connect.CodeOf(err) != connect.CodeDeadlineExceeded || errorInfo(t, err).ErrorCode != "DEADLINE_EXCEEDED" {
		t.Errorf("RPC: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", "/api/v1/users/"+noUser, nil)
	r.Header.Set("Authorization", "Bearer "+w.token())
	answer := httptest.NewRecorder()
	if w.handler.ServeHTTP(answer, r); answer.Code != http.StatusGatewayTimeout {
		t.Errorf("REST: %d", answer.Code)
	}
}

// No body that a client can send is answered with a 5xx.
func FuzzREST(f *testing.F) {
	for _, seed := range []struct{ route, body string }{
		{"organizations?page_size=5&page_token=b3Jn", `{"display_name":"Acme","metadata":{"key":"value"}}`},
		{"organizations/" + noOrg + "/users?send_invitation_email=false", `{"email":"ann@acme.example","user_profile":{"first_name":"Ann"},"membership":{"roles":[{"name":"admin"}]}}`},
		{"memberships/organizations/" + noOrg + "/users/" + noUser, `{"membership":{"roles":[{"id":"role_1"}],"metadata":{"key":"\u00fc"}}}`},
		{"memberships/organizations/" + noOrg + "/users:external/a%2Fb", `{"inviter_email":"a@b.c"}`},
		{"users/usr_1/sessions?filter.status=active&filter.start_time=2026-11-24T10:00:00Z", `{}`},
		{"sessions/ses_1/revoke", ``},
	} {
		f.Add(seed.route, seed.body)
	}
	dir := newMemory(func() time.Time { return begin })
	clients := &register{secrets: map[string]string{clientID: clientSecret}, envs: map[string]string{clientID: env}, touched: make(chan string, 100)}
	h := newHandler(dir, clients, func() time.Time { return begin })
	login := httptest.NewRequestWithContext(f.Context(), "POST", "/oauth/token", strings.NewReader("grant_type=client_credentials&client_id="+clientID+"&client_secret=a+secret+%26+of+32+bytes+%2B+some+%C3%BCnicode"))
	login.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, login)
	var token struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(answer.Body.Bytes(), &token); err != nil || token.AccessToken == "" {
		f.Fatalf("login: %s", answer.Body)
	}
	f.Fuzz(func(t *testing.T, route, body string) {
		clear(dir.organizations) // what is made would not fit into memory
		for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
			r, err := http.NewRequestWithContext(t.Context(), method, "http://localhost/api/v1/"+route, strings.NewReader(body))
			if err != nil {
				return // no server gets to see it
			}
			r.RemoteAddr = "192.0.2.1:1"
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+token.AccessToken)
			answer := httptest.NewRecorder()
			h.ServeHTTP(answer, r)
			if answer.Code >= 500 || answer.Code < 200 {
				t.Errorf("%s %q: %d %s", method, route, answer.Code, answer.Body)
			}
			if answer.Code < 300 || answer.Code >= 400 && answer.Code != 404 {
				if !json.Valid(answer.Body.Bytes()) {
					t.Errorf("%s %q: %d %q", method, route, answer.Code, answer.Body)
				}
			}
		}
	})
}

// Whatever is sent as a token is refused, unless it was made here.
func FuzzToken(f *testing.F) {
	for _, seed := range []string{"", "sat_", "sat_AAAA", "Bearer sat_", "sat_" + strings.Repeat("A", 200), "sat_\xff"} {
		f.Add(seed)
	}
	clients := &register{secrets: map[string]string{clientID: clientSecret}, touched: make(chan string, 100)}
	h := newHandler(newMemory(time.Now), clients, time.Now)
	f.Fuzz(func(t *testing.T, token string) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/users", nil)
		r.Header["Authorization"] = []string{"Bearer " + token}
		answer := httptest.NewRecorder()
		if h.ServeHTTP(answer, r); answer.Code != http.StatusUnauthorized || clients.asked != 0 {
			t.Errorf("token %q: %d", token, answer.Code)
		}
	})
}
