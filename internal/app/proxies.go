package app

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// behindProxies gives requests that come through a trusted proxy the address that
// it got them from: the last one in X-Forwarded-For that is not a trusted proxy
// itself. What stands before that anybody may have written.
func (s *service) behindProxies(next http.Handler) http.Handler {
	if len(s.Proxies) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && s.isProxy(peer.Addr()) {
			if client, ok := s.forwardedFor(r.Header.Values("X-Forwarded-For")); ok {
				r.RemoteAddr = net.JoinHostPort(client.String(), "0")
			}
		}
		next.ServeHTTP(w, r)
	})
}

func (s *service) forwardedFor(headers []string) (client netip.Addr, ok bool) {
	hops := strings.Split(strings.Join(headers, ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			return client, ok
		}
		client, ok = addr, true
		if !s.isProxy(addr) {
			break
		}
	}
	return client, ok
}

func (s *service) isProxy(addr netip.Addr) bool {
	for _, p := range s.Proxies {
		if p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}
