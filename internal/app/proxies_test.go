package app

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
)

func TestProxiesAreBelievedWhereTrusted(t *testing.T) {
	t.Parallel()
	s := &service{Config: Config{Proxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	for _, c := range []struct {
		peer string
		said []string
		want string
	}{
		{"192.0.2.1:999", []string{"203.0.113.9"}, "192.0.2.1:999"}, // nobody's proxy
		{"10.0.0.1:999", []string{"203.0.113.9"}, "203.0.113.9:0"},
		{"10.0.0.1:999", []string{"198.51.100.1, 203.0.113.9, 10.0.0.2"}, "203.0.113.9:0"}, // the first one is made up
		{"10.0.0.1:999", []string{"198.51.100.1", "2001:db8::1"}, "[2001:db8::1]:0"},
		{"[::ffff:10.0.0.1]:999", []string{"203.0.113.9"}, "203.0.113.9:0"},
		{"10.0.0.1:999", nil, "10.0.0.1:999"},
		{"10.0.0.1:999", []string{"unknown"}, "10.0.0.1:999"},
		{"10.0.0.1:999", []string{"10.0.0.3"}, "10.0.0.3:0"},
	} {
		var got string
		h := s.behindProxies(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr, r.Header["X-Forwarded-For"] = c.peer, c.said
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != c.want {
			t.Errorf("%s for %q: %s, want %s", c.peer, c.said, got, c.want)
		}
	}
}
