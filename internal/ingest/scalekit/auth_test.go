package scalekit_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// list asks for something that is always there.
func (w *world) list(token string) error {
	w.Helper()
	var header []string
	if token != "" {
		header = []string{"Authorization", "Bearer " + token}
	}
	_, err := w.rpcs(http2(w), header...).ListUsers(w.Context(), &pb.ListUsersRequest{})
	return err
}

// accepts tells whether RPCs and REST take a token; it fails the test when they
// do not agree, or refuse it in another way than SDKs need to log in again.
func (w *world) accepts(token string) bool {
	w.Helper()
	err := w.list(token)
	status, body, header := w.ask("GET", "/api/v1/users", token, "")
	if err == nil && status == http.StatusOK {
		return true
	}
	if connect.CodeOf(err) != connect.CodeUnauthenticated || errorInfo(w.T, err).ErrorCode != "UNAUTHENTICATED" {
		w.Errorf("RPC with token %q: %v, want unauthenticated", token, err)
	}
	if status != http.StatusUnauthorized || !sameJSON(body, `{"error_code":"UNAUTHENTICATED"}`) || header.Get("WWW-Authenticate") != `Bearer realm="handover"` {
		w.Errorf("REST with token %q: %d %s %v, want 401", token, status, body, header)
	}
	return false
}

func sameJSON(a, b string) bool {
	var va, vb any
	return json.Unmarshal([]byte(a), &va) == nil && json.Unmarshal([]byte(b), &vb) == nil && cmp.Equal(va, vb)
}

func TestLogin(t *testing.T) {
	t.Parallel()
	w := start(t)
	status, answer := w.login(clientID, clientSecret)
	if status != http.StatusOK || answer["token_type"] != "Bearer" || answer["expires_in"] != float64(86399) {
		t.Fatalf("login: %d %v", status, answer)
	}
	token, _ := answer["access_token"].(string)
	if !strings.HasPrefix(token, "sat_") || !w.accepts(token) {
		t.Errorf("token %q is not taken", token)
	}
	if other := w.token(); other == token {
		t.Error("two tokens are the same")
	}
}

func TestLoginRefusals(t *testing.T) {
	t.Parallel()
	w := start(t)
	form := func(change ...string) string {
		values := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {clientSecret}}
		for i := 0; i < len(change); i += 2 {
			values.Set(change[i], change[i+1])
		}
		return values.Encode()
	}
	for name, c := range map[string]struct {
		body   string
		header []string
		status int
		code   string
	}{
		"another secret":     {body: form("client_secret", clientSecret+"x"), status: 401, code: "invalid_client"},
		"no secret":          {body: form("client_secret", ""), status: 401, code: "invalid_client"},
		"unknown client":     {body: form("client_id", "skc_2"), status: 401, code: "invalid_client"},
		"no client":          {body: form("client_id", ""), status: 401, code: "invalid_client"},
		"NUL in the client":  {body: form("client_id", clientID+"\x00"), status: 401, code: "invalid_client"},
		"long client":        {body: form("client_id", strings.Repeat("a", 60<<10)), status: 401, code: "invalid_client"},
		"no grant type":      {body: form("grant_type", ""), status: 400, code: "invalid_request"},
		"another grant type": {body: form("grant_type", "password"), status: 400, code: "unsupported_grant_type"},
		"twice":              {body: form() + "&client_id=" + clientID, status: 400, code: "invalid_request"},
		"not a form":         {body: `{"grant_type":"client_credentials"}`, header: []string{"Content-Type", "application/json"}, status: 400, code: "invalid_request"},
		"no media type":      {body: form(), header: []string{"Content-Type", ""}, status: 400, code: "invalid_request"},
		"bad escape":         {body: form() + "&scope=%zz", status: 400, code: "invalid_request"},
		"compressed":         {body: form(), header: []string{"Content-Encoding", "gzip"}, status: 400, code: "invalid_request"},
		"large":              {body: form("scope", strings.Repeat("a", 64<<10)), status: 400, code: "invalid_request"},
		"empty":              {body: "", status: 400, code: "invalid_request"},
	} {
		header := append([]string{"Content-Type", "application/x-www-form-urlencoded"}, c.header...)
		status, body, _ := w.ask("POST", "/oauth/token", "", c.body, header...)
		var answer struct{ Error string }
		if err := json.Unmarshal([]byte(body), &answer); err != nil || status != c.status || answer.Error != c.code {
			t.Errorf("%s: %d %s, want %d %s", name, status, body, c.status, c.code)
		}
	}
	if status, _, header := w.ask("GET", "/oauth/token?"+form(), "", ""); status != http.StatusMethodNotAllowed || header.Get("Allow") != "POST" {
		t.Errorf("GET: %d, allowed %q", status, header.Get("Allow"))
	}
	if strings.Contains(w.log.String(), "secret") {
		t.Errorf("the log tells:\n%s", w.log)
	}
}

// SDKs send their old token along when they renew it.
func TestLoginIgnoresAuthorization(t *testing.T) {
	t.Parallel()
	w := start(t)
	for _, old := range []string{"Bearer sat_old", "Basic c2tjOng=", "nonsense"} {
		if status, answer := w.login(clientID, clientSecret, "Authorization", old); status != http.StatusOK {
			t.Errorf("Authorization: %s: %d %v", old, status, answer)
		}
	}
}

// An environment's URL with a slash at its end makes an SDK ask for //oauth/token.
func TestLoginBehindTwoSlashes(t *testing.T) {
	t.Parallel()
	w := start(t)
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {clientSecret}}
	status, body, _ := w.ask("POST", "//oauth/token", "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if status != http.StatusOK || !strings.Contains(body, "access_token") {
		t.Errorf("answer %d %s", status, body)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	if w.accepts("") {
		t.Error("no token is needed")
	}
	for i := range token {
		other := byte('A')
		if token[i] == 'A' {
			other = 'B'
		}
		if w.accepts(token[:i] + string(other) + token[i+1:]) {
			t.Errorf("taken with another byte %d", i)
		}
		if i%8 == 0 && w.accepts(token[:i]) {
			t.Errorf("taken with %d bytes", i)
		}
	}
	for _, forged := range []string{"sat_", token + "A", token + "=", strings.ToUpper(token), strings.Repeat("A", 2000)} {
		if w.accepts(forged) {
			t.Errorf("taken: %q", forged)
		}
	}

	elsewhere := newHandler(w.dir, w.clients, w.clock.Now)
	elsewhere.TokenKey = []byte(strings.Repeat("k", 32))
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/users", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	answer := httptest.NewRecorder()
	if elsewhere.ServeHTTP(answer, r); answer.Code != http.StatusUnauthorized {
		t.Errorf("another key takes it: %d", answer.Code)
	}

	if status, _, _ := w.ask("GET", "/api/v1/users", "", "", "Authorization", "bearer  "+token); status != http.StatusOK {
		t.Errorf("scheme in lower case: %d", status)
	}
	if status, _, _ := w.ask("GET", "/api/v1/users", "", "", "Authorization", "Basic "+token); status != http.StatusUnauthorized {
		t.Errorf("another scheme: %d", status)
	}
	both := w.rpcs(http1(t), "Authorization", "Bearer "+token, "Authorization", "Bearer "+token)
	if _, err := both.ListUsers(t.Context(), &pb.ListUsersRequest{}); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("two headers: %v", err)
	}

	w.clock.move(24*time.Hour - 2*time.Second)
	if !w.accepts(token) {
		t.Error("refused a second before its end")
	}
	w.clock.move(time.Second)
	if w.accepts(token) {
		t.Error("taken at its end")
	}
	if got := w.limits.spent()["127.0.0.1"]; got == 0 {
		t.Error("forged tokens cost nothing")
	}
}

func TestRevokedClient(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	for range 20 {
		if !w.accepts(token) {
			t.Fatal("refused")
		}
	}
	if w.clients.asked != 1 {
		t.Errorf("the client was looked up %d times within a second", w.clients.asked)
	}
	w.clients.revoke(clientID)
	w.clock.move(time.Second)
	if w.accepts(token) {
		t.Error("taken a second after the client was revoked")
	}
	if status, answer := w.login(clientID, clientSecret); status != http.StatusUnauthorized || answer["error"] != "invalid_client" {
		t.Errorf("login: %d %v", status, answer)
	}
	if spent := w.limits.spent(); spent["127.0.0.1"] != 1 { // by the login
		t.Errorf("spent %v", spent)
	}
}

// What is remembered of clients is remembered for all requests.
func TestConcurrentRequests(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	c := w.rpcs(http2(t), "Authorization", "Bearer "+token)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if _, err := c.ListUsers(t.Context(), &pb.ListUsersRequest{}); err != nil {
					t.Error(err)
				}
				w.handler.Forget()
				w.clock.move(time.Second)
			}
		})
	}
	all.Wait()
}

func TestForget(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	if !w.accepts(token) {
		t.Fatal("refused")
	}
	w.clients.revoke(clientID)
	w.handler.Forget()
	if w.accepts(token) {
		t.Error("taken after the handler was told to forget")
	}
}

// A look-up that began before is not remembered.
func TestForgetDuringLookUp(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	w.handler.Forget()
	w.clients.during = func() {
		delete(w.clients.secrets, clientID)
		w.handler.Forget()
	}
	if err := w.list(token); err != nil {
		t.Fatal(err)
	}
	if w.accepts(token) {
		t.Error("taken from a look-up that had begun before the client was revoked")
	}
}

func TestUseOfClientsIsNoted(t *testing.T) {
	t.Parallel()
	w := start(t)
	noted := func() string {
		select {
		case id := <-w.clients.touched:
			return id
		case <-time.After(10 * time.Second):
			t.Fatal("the use was not noted")
			return ""
		}
	}
	if _, answer := w.login(clientID, "no"); answer["error"] != "invalid_client" {
		t.Fatal(answer)
	}
	token := w.token()
	if got := noted(); got != clientID {
		t.Errorf("noted %s", got)
	}
	w.clock.move(time.Minute - 1)
	w.accepts(token)
	w.clock.move(1)
	w.accepts(token)
	if got := noted(); got != clientID {
		t.Errorf("noted %s", got)
	}
	if n := len(w.clients.touched); n != 0 {
		t.Errorf("noted %d times more", n)
	}
}

// A client sees and changes its environment only.
func TestEnvironments(t *testing.T) {
	t.Parallel()
	w := start(t)
	w.clients.secrets["skc_2"], w.clients.envs["skc_2"] = "two", "env_2"
	_, answer := w.login("skc_2", "two")
	token, _ := answer["access_token"].(string)
	acme := w.organization("Acme")
	ann := w.user(acme.ID, "ann@acme.example")
	c := w.rpcs(http2(t), "Authorization", "Bearer "+token)
	users, err := c.ListUsers(t.Context(), &pb.ListUsersRequest{})
	if err != nil || len(users.Users) != 0 {
		t.Errorf("it sees %v, %v", users, err)
	}
	_, err = c.DeleteMembership(t.Context(), &pb.DeleteMembershipRequest{OrganizationId: acme.ID, Identities: byID(ann.ID)})
	if connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("it removes: %v", err)
	}
	made, err := c.CreateOrganization(t.Context(), &pb.CreateOrganizationRequest{Organization: &pb.CreateOrganization{DisplayName: "Two"}})
	if err != nil {
		t.Fatal(err)
	}
	if o := w.dir.organizations[made.Organization.Id]; o.EnvironmentID != "env_2" {
		t.Errorf("made in %s", o.EnvironmentID)
	}
}

func TestFailuresAreLimited(t *testing.T) {
	t.Parallel()
	w := start(t)
	good := w.token()
	w.limits.most = 3
	for range 3 {
		if status, _ := w.login(clientID, "guess"); status != http.StatusUnauthorized {
			t.Fatalf("guess: %d", status)
		}
	}
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {clientID}, "client_secret": {clientSecret}}
	status, body, header := w.ask("POST", "/oauth/token", "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "60" {
		t.Errorf("login when blocked: %d %s %v", status, body, header)
	}
	err := w.list("sat_forged")
	var failed *connect.Error
	if !errors.As(err, &failed) || failed.Code() != connect.CodeResourceExhausted || failed.Meta().Get("Retry-After") != "60" {
		t.Errorf("forged token when blocked: %v", err)
	}
	if info := errorInfo(t, err); info.ErrorCode != "RESOURCE_EXHAUSTED" {
		t.Errorf("detail %v", info)
	}
	if status, _, header := w.ask("GET", "/api/v1/users", "sat_forged", ""); status != http.StatusTooManyRequests || header.Get("Retry-After") != "60" {
		t.Errorf("forged token when blocked: %d %v", status, header)
	}
	if !w.accepts(good) || w.accepts("") {
		t.Error("who has a good token is blocked with the others, or who has none")
	}
	if spent := w.limits.spent(); spent["127.0.0.1"] != 3 {
		t.Errorf("spent %v, want 3: what is blocked and what has no token is not counted", spent)
	}
}

// One machine may have all addresses of an IPv6 network.
func TestFailuresCountAgainstNetworks(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.7:1234":                 "192.0.2.7",
		"[::ffff:192.0.2.7]:1234":        "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:1234":    "2001:db8:1:2::/64",
		"[fe80::1%eth0]:1234":            "fe80::/64",
		"[2001:db8:1:2:ffff::9]:1234":    "2001:db8:1:2::/64",
		"a socket that is not of the IP": "",
	} {
		w := start(t)
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/users", nil)
		r.RemoteAddr = remote
		r.Header.Set("Authorization", "Bearer forged")
		w.handler.ServeHTTP(httptest.NewRecorder(), r)
		if diff := cmp.Diff(map[string]int{want: 1}, w.limits.spent()); diff != "" {
			t.Errorf("from %s: %s", remote, diff)
		}
	}
}

func TestRequestsAreLimited(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	w.limits.requests[clientID] = 1
	if err := w.list(token); err != nil {
		t.Fatal(err)
	}
	err := w.list(token)
	var failed *connect.Error
	if !errors.As(err, &failed) || failed.Code() != connect.CodeResourceExhausted || failed.Meta().Get("Retry-After") != "2" {
		t.Errorf("RPC over the limit: %v", err)
	}
	status, body, header := w.ask("GET", "/api/v1/users", token, "")
	if status != http.StatusTooManyRequests || !sameJSON(body, `{"error_code":"RESOURCE_EXHAUSTED"}`) || header.Get("Retry-After") != "2" {
		t.Errorf("REST over the limit: %d %s %v", status, body, header)
	}
}

// Nothing that may have been done is answered with unavailable, upon which SDKs
// ask again; and nothing of ours shows in answers.
func TestErrorsOfOurs(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	for name, c := range map[string]struct {
		err    error
		code   connect.Code
		status int
		name   string
		retry  string
	}{
		"database": {errors.Join(directory.ErrUnavailable, errors.New("dial tcp 10.0.0.7")), connect.CodeUnavailable, 503, "UNAVAILABLE", "1"},
		"bug":      {errors.New("pq: relation of 10.0.0.7 has no column"), connect.CodeInternal, 500, "INTERNAL", ""},
		"deadline": {context.DeadlineExceeded, connect.CodeDeadlineExceeded, 504, "DEADLINE_EXCEEDED", ""},
	} {
		w.dir.mu.Lock()
		w.dir.fail = c.err
		w.dir.mu.Unlock()
		err := w.list(token)
		if connect.CodeOf(err) != c.code || errorInfo(t, err).ErrorCode != c.name || strings.Contains(err.Error(), "10.0.0.7") {
			t.Errorf("%s: RPC: %v", name, err)
		}
		status, body, header := w.ask("GET", "/api/v1/users", token, "")
		if status != c.status || !strings.Contains(body, `"`+c.name+`"`) || strings.Contains(body, "10.0.0.7") || header.Get("Retry-After") != c.retry {
			t.Errorf("%s: REST: %d %s %v", name, status, body, header)
		}
		if id := errorInfo(t, err).GetRequestInfo().GetRequestId(); c.code != connect.CodeDeadlineExceeded && (id == "" || !strings.Contains(w.log.String(), id)) {
			t.Errorf("%s: request %q is not in the log", name, id)
		}
	}

	w.clients.mu.Lock()
	w.clients.fail = errors.New("dial tcp 10.0.0.7")
	w.clients.mu.Unlock()
	w.handler.Forget()
	if err := w.list(token); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("RPC when clients cannot be read: %v", err)
	}
	if status, answer := w.login(clientID, clientSecret); status != http.StatusServiceUnavailable || answer["error"] != "temporarily_unavailable" {
		t.Errorf("login when clients cannot be read: %d %v", status, answer)
	}
	if spent := w.limits.spent(); len(spent) != 0 {
		t.Errorf("spent %v", spent)
	}
}

func TestShortTokenKey(t *testing.T) {
	t.Parallel()
	h := newHandler(nil, nil, nil)
	h.TokenKey = h.TokenKey[1:]
	defer func() {
		if recover() == nil {
			t.Error("a key of 31 bytes is taken")
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), "GET", "/api/v1/users", nil))
}
