package app_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/handover-dev/handover/internal/api"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
	"github.com/handover-dev/handover/signing"
)

// gate is a way in, with all that a good request needs but the body.
type gate struct {
	method, url string
	media       string
	header      func(body []byte) http.Header
	body        func(text string) string // a good one but for the JSON value in it
	good        int
}

func (g gate) send(t *testing.T, client *http.Client, body []byte, header ...string) (status int, grpc string, answer []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), g.method, g.url, bytes.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, "", nil
	}
	if req.Header = g.header(body); req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", g.media)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := client.Do(req)
	if len(body) > 1<<20 && (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)) {
		return http.StatusRequestEntityTooLarge, "", nil // it was answered before we could say it all
	}
	if err != nil {
		t.Errorf("there is no answer: %v", err)
		return 0, "", nil
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		t.Error(err)
	}
	return res.StatusCode, res.Header.Get("Grpc-Status") + res.Trailer.Get("Grpc-Status"), answer
}

// Whatever strangers send to any of the ways in, by those who may: it is refused
// in so many words, the service stays well and small, and takes what is good.
func TestHostileRequests(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		gates, rpc := gatesOf(t, p)
		slow := holdBodies(t, p, gates)
		t.Run("doors", func(t *testing.T) {
			for name, g := range gates {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					client := transport(t, (*http.Protocols).SetHTTP1)
					attack(t, client, g)
				})
			}
			t.Run("gRPC", func(t *testing.T) {
				t.Parallel()
				http1 := transport(t, (*http.Protocols).SetHTTP1)
				attackRPC(t, http1, rpc)
				attackRPC(t, transport(t, (*http.Protocols).SetUnencryptedHTTP2), rpc)
				// Over HTTP/2 the client does not even send what it is told to be too much.
				if status, _, answer := rpc.send(t, http1, nil, "X-Flood", strings.Repeat("x", 64<<10)); status != http.StatusRequestHeaderFieldsTooLarge {
					t.Errorf("a flood of headers: %d %s", status, answer)
				}
			})
		})
		if status, parts, err := readiness(p); err != nil || status != http.StatusOK {
			t.Errorf("/readyz: %d %v %v", status, parts, err)
		}
		slow()
		for name, g := range gates {
			if status, _, answer := g.send(t, http.DefaultClient, []byte(g.body(`"at last"`))); status != g.good {
				t.Errorf("%s: a good request is answered %d %s at the end", name, status, answer)
			}
		}
		if size := residentMemory(t, p.cmd.Process.Pid); size > 200<<20 {
			t.Errorf("it takes %d MiB of memory at the end", size>>20)
		}
	})
}

func gatesOf(t *testing.T, p *process) (gates map[string]gate, rpc gate) {
	t.Helper()
	env := newEnvironment()
	c := p.client().InEnvironment(env)
	key := signing.NewKey()
	must[api.Source](t)(p.client().CreateSource(t.Context(), api.NewSource{Name: "idp", EnvironmentID: env, Secret: key.Secret()}))
	dir := must[api.SCIMDirectory](t)(c.CreateDirectory(t.Context(), api.NewSCIMDirectory{OrganizationID: organization(t, c, "", "Northwind"), Name: "okta"}))
	client := must[api.APIClient](t)(c.CreateClient(t.Context(), "app"))
	token := login(t, p, client)
	bearer := func(token string) func([]byte) http.Header {
		return func([]byte) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	}
	gates = map[string]gate{
		"webhook": {
			method: "POST", url: p.base() + "/webhooks/idp", media: "application/json", good: 201,
			header: func(body []byte) http.Header {
				h := make(http.Header)
				if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(h, fmt.Sprintf("msg_%d", people.Add(1)), time.Now(), body); err != nil {
					t.Error(err)
				}
				return h
			},
			body: func(text string) string {
				n := people.Add(1)
				return strings.Replace(string(aboutMember("user.organization_membership_created", env, fmt.Sprintf("org_%018d", n), fmt.Sprintf("usr_%018d", n), "", "2026-06-01T00:00:00Z", "")), `"email":""`, `"name":`+text, 1)
			},
		},
		"SCIM": {
			method: "POST", url: p.base() + dir.Path + "/Users", media: "application/scim+json", good: 201, header: bearer(dir.Token),
			body: func(text string) string {
				return fmt.Sprintf(`{"userName":"user%d","displayName":%s}`, people.Add(1), text)
			},
		},
		"REST": {
			method: "POST", url: p.base() + "/api/v1/organizations", media: "application/json", good: 201, header: bearer(token),
			body: func(text string) string { return `{"display_name":` + text + `}` },
		},
		"operator": {
			method: "POST", url: p.base() + "/v1/organizations", media: "application/json", good: 201, header: bearer(testAPIKey),
			body: func(text string) string { return `{"display_name":` + text + `}` },
		},
		"token": {
			method: "POST", url: p.base() + "/oauth/token", media: "application/x-www-form-urlencoded", good: 200, header: func([]byte) http.Header { return make(http.Header) },
			body: func(text string) string {
				return url.Values{"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {client.Secret}, "scope": {text}}.Encode()
			},
		},
	}
	rpc = gate{
		method: "POST", url: p.base() + pb.OrganizationServiceCreateOrganizationProcedure, media: "application/grpc", good: 200,
		header: func([]byte) http.Header { return http.Header{"Authorization": {"Bearer " + token}, "Te": {"trailers"}} },
	}
	return gates, rpc
}

// holdBodies begins requests whose bodies do not come.
func holdBodies(t *testing.T, p *process, gates map[string]gate) (release func()) {
	t.Helper()
	var releases []func()
	for _, g := range gates {
		body := g.body(`"slow"`)
		var text strings.Builder
		fmt.Fprintf(&text, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n", g.method, strings.TrimPrefix(g.url, p.base()), p.addr, g.media, len(body))
		if err := g.header([]byte(body)).Write(&text); err != nil {
			t.Fatal(err)
		}
		text.WriteString("\r\n" + body[:5])
		releases = append(releases, hold(t, p.addr, 20, text.String()))
	}
	return func() {
		for _, release := range releases {
			release()
		}
	}
}

func attack(t *testing.T, client *http.Client, g gate) {
	refused := func(what string, body string, want []int, header ...string) {
		t.Helper()
		status, _, answer := g.send(t, client, []byte(body), header...)
		if status >= 500 || status == 0 || want != nil && !slices.Contains(want, status) {
			t.Errorf("%s: %d %.200s, want one of %v", what, status, answer, want)
		}
	}
	good := g.body(`"good"`)
	form := g.media == "application/x-www-form-urlencoded"
	if status, _, answer := g.send(t, client, []byte(good)); status != g.good {
		t.Fatalf("a good request is answered %d %s", status, answer)
	}
	refused("a flood of headers", good, []int{431}, "X-Flood", strings.Repeat("x", 64<<10))
	media := []int{http.StatusUnsupportedMediaType}
	if form {
		media[0] = http.StatusBadRequest // as OAuth has it
	}
	refused("gzip", compressed(t, good), media, "Content-Encoding", "gzip")
	refused("a bomb", bomb(t, 50), media, "Content-Encoding", "gzip")
	refused("unknown encoding", good, media, "Content-Encoding", "x")
	refused("another type", good, media, "Content-Type", "text/plain")
	refused("no such type", good, media, "Content-Type", "application/\xff; =")
	refused("nothing", "", []int{400, 422})
	refused("not JSON", "\x00\xff\xfe", []int{400, 422})
	var large sync.WaitGroup
	for range 20 {
		large.Go(func() { refused("2 MiB", g.body(`"`+strings.Repeat("x", 2<<20)+`"`), []int{400, 413}) })
	}
	large.Wait()
	bad := []int{400, 422}
	if form {
		refused("a key twice", good+"&client_id=a", bad)
		refused("a bad escape", good+"&a=%zz", bad)
		refused("many keys", strings.Repeat("a&", 30_000), nil)
		refused("NUL", strings.Replace(good, "client_id=", "client_id=%00", 1), []int{400, 401})
		refused("not UTF-8", strings.Replace(good, "client_secret=", "client_secret=%ff", 1), []int{400, 401})
		return
	}
	refused("cut off", good[:len(good)-1], bad)
	refused("two", good+good, bad)
	refused("a list", "["+good+"]", bad)
	refused("null", "null", bad)
	refused("a key twice", strings.Replace(good, "{", `{"twice":1,"twice":2,`, 1), bad)
	refused("65 deep", strings.Replace(good, "{", `{"deep":`+strings.Repeat("[", 64)+strings.Repeat("]", 64)+`,`, 1), bad)
	refused("100,000 deep", g.body(strings.Repeat("[", 100_000)+strings.Repeat("]", 100_000)), bad)
	refused("deep and cut off", strings.Repeat(`{"a":`, 150_000), bad)
	refused("a NUL byte", g.body("\"a\x00b\""), bad)
	refused("not UTF-8", g.body("\"\xff\""), bad)
	for what, text := range map[string]string{
		"NUL":                    `"a\u0000b"`,
		"a lone surrogate":       `"\ud800"`,
		"a lone surrogate, last": `"\udfff\ud800"`,
		"a huge number":          "1e999999",
		"a long number":          strings.Repeat("9", 100_000),
		"a small number":         "-1e-999999",
		"a number":               "0",
		"an object":              `{"\u0000":{"a":[]}}`,
		"true":                   "true",
		"null inside":            "null",
		"a long text":            `"` + strings.Repeat("é", 100_000) + `"`,
		"controls":               `"\u0001\u001b[31m\u202e\ufeff"`,
	} {
		refused(what, g.body(text), nil)
	}
	g.url += "/%00%ff?a=%zz;b&filter=%00&environment_id=%00"
	refused("an odd path", good, nil)
	g.method = "GET"
	refused("an odd path to be read", "", nil)
	g.url = strings.SplitAfter(g.url, "?")[0] + strings.Repeat("a=b&", 4000)
	refused("a long query", "", nil)
}

func attackRPC(t *testing.T, client *http.Client, g gate) {
	t.Helper()
	message := func(name string) []byte {
		b, err := proto.MarshalOptions{}.Marshal(&pb.CreateOrganizationRequest{Organization: &pb.CreateOrganization{DisplayName: name}})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	framed := func(flags byte, length int, b []byte) []byte {
		return append([]byte{flags, byte(length >> 24), byte(length >> 16), byte(length >> 8), byte(length)}, b...)
	}
	frame := func(b []byte) []byte { return framed(0, len(b), b) }
	zipped := []byte(compressed(t, string(message("Acme"))))
	notUTF8 := bytes.Replace(message("AAAA"), []byte("AAAA"), []byte("\xff\xff\xff\xff"), 1)
	for _, c := range []struct {
		what   string
		body   []byte
		header []string
		status int
		grpc   []string
	}{
		{"a good one", frame(message("Acme")), nil, 200, []string{"0"}},
		{"nothing", nil, nil, 200, []string{"12"}},
		{"a cut envelope", []byte{0, 0}, nil, 200, []string{"3", "13"}},
		{"a cut message", framed(0, 100, []byte("a")), nil, 200, []string{"3", "13"}},
		{"4 GiB claimed", framed(0, 1<<32-1, []byte("a")), nil, 200, []string{"8"}},
		{"2 MiB", frame(message(strings.Repeat("a", 2<<20))), nil, 200, []string{"8"}},
		{"two messages", append(frame(message("Acme")), frame(message("Acme"))...), nil, 200, []string{"12"}},
		{"gzip", framed(1, len(zipped), zipped), []string{"Grpc-Encoding", "gzip"}, 200, []string{"12"}},
		{"a bomb", framed(1, len(bomb(t, 50)), []byte(bomb(t, 50))), []string{"Grpc-Encoding", "gzip"}, 200, []string{"8", "12"}},
		{"no protobuf", frame([]byte{0xff, 0xff}), nil, 200, []string{"3"}},
		{"deep", frame(bytes.Repeat([]byte{0x7b}, 100_000)), nil, 200, []string{"3"}},
		{"not UTF-8", frame(notUTF8), nil, 200, []string{"3"}},
		{"NUL", frame(message("a\x00b")), nil, 200, []string{"3"}},
		{"a long name", frame(message(strings.Repeat("a", 100_000))), nil, 200, []string{"3"}},
		{"another type", frame(message("Acme")), []string{"Content-Type", "application/json"}, 415, nil},
		{"a bad timeout", frame(message("Acme")), []string{"Grpc-Timeout", "99999999999999H"}, 200, []string{"3"}},
	} {
		status, grpc, answer := g.send(t, client, c.body, c.header...)
		if status == http.StatusRequestEntityTooLarge && len(c.body) > 1<<20 {
			continue // as send has it
		}
		if c.status != status || c.grpc != nil && !slices.Contains(c.grpc, grpc) {
			t.Errorf("%s: %d, status %s, %.200s, want %v, %v", c.what, status, grpc, answer, c.status, c.grpc)
		}
	}
}

func compressed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// residentMemory is what a process has in memory, in bytes; only Linux tells.
func residentMemory(t *testing.T, pid int) int64 {
	t.Helper()
	if runtime.GOOS != "linux" {
		return 0
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(status), "VmRSS:")
	var kib int64
	if _, err := fmt.Sscan(text, &kib); err != nil {
		t.Fatalf("no size in %s", status)
	}
	return kib << 10
}
