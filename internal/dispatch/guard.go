package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

var (
	// ErrAddressNotAllowed is matched by the error of a connection or a
	// registration that the guard refused.
	ErrAddressNotAllowed = errors.New("address not allowed")
	// ErrInvalidURL is matched by every error of CheckURL.
	ErrInvalidURL = errors.New("invalid endpoint URL")
)

// MaxURLLength is the longest endpoint URL that CheckURL takes, in bytes.
const MaxURLLength = 2048

// A Guard decides which addresses may be connected to. Its zero value lets
// through every public address on any port: receivers on 8443 are common, and
// what is worth protecting from requests of ours does not stand on public
// addresses. Ports narrows that where an operator wants it.
//
// The decision that counts is made on the address being dialed (see
// [Guard.Control]): a name cannot be re-pointed between check and use.
type Guard struct {
	Allow     []netip.Prefix // networks let through on any port beside the public ones, checked first
	Ports     []uint16       // ports permitted on public addresses; nil = any
	AllowHTTP bool           // CheckURL takes http:// for every host, not only for those in Allow
}

// AddressError says which address the guard refused and what would permit it.
type AddressError struct {
	Addr netip.AddrPort
	Port bool // the address is public but its port is not among Guard.Ports
}

func (e *AddressError) Error() string {
	addr := e.Addr.Addr()
	switch {
	case e.Port:
		return fmt.Sprintf("port %d of %s is not among the permitted ports", e.Addr.Port(), addr)
	case !addr.IsValid():
		return "the address is not public"
	case addr.IsLinkLocalUnicast() || addr == azureHost:
		return fmt.Sprintf("the address %s is not public but the host's own network, where clouds keep machine credentials", addr)
	default:
		return fmt.Sprintf("the address %s is not public: start with --allow-network %s to permit it", addr, networkOf(addr))
	}
}

// Is makes the error match ErrAddressNotAllowed.
func (e *AddressError) Is(target error) bool { return target == ErrAddressNotAllowed }

// azureHost answers every Azure machine with its metadata although it is a public address.
var azureHost = netip.AddrFrom4([4]byte{168, 63, 129, 16})

// networkOf names the usual network around a private address, else the address alone.
func networkOf(addr netip.Addr) netip.Prefix {
	for _, text := range [...]string{"127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"} {
		if p := netip.MustParsePrefix(text); p.Contains(addr) {
			return p
		}
	}
	return netip.PrefixFrom(addr.WithZone(""), addr.BitLen())
}

// Control returns a function for [net.Dialer.ControlContext]. It sees every
// address that is about to be connected to, after resolution and for each one
// of a name's addresses, and refuses with an error that matches
// [ErrAddressNotAllowed].
func (g Guard) Control() func(ctx context.Context, network, address string, c syscall.RawConn) error {
	check := g.checker()
	return func(_ context.Context, network, address string, _ syscall.RawConn) error {
		addr, err := netip.ParseAddrPort(address)
		if err != nil || (network != "tcp4" && network != "tcp6") {
			return &AddressError{}
		}
		return check(addr)
	}
}

// Check judges one address. A port of 0 is not judged.
func (g Guard) Check(addr netip.AddrPort) error { return g.checker()(addr) }

func (g Guard) checker() func(netip.AddrPort) error {
	public := ssrf.New(ssrf.WithAnyPort(), ssrf.WithDeniedV4Prefixes(netip.PrefixFrom(azureHost, 32)))
	return func(addr netip.AddrPort) error {
		ip := addr.Addr().Unmap()
		if g.allows(ip) {
			return nil
		}
		addr = netip.AddrPortFrom(ip, addr.Port())
		if err := public.SafeAddr(ip); err != nil {
			return &AddressError{Addr: addr}
		}
		if len(g.Ports) > 0 && addr.Port() != 0 && !slices.Contains(g.Ports, addr.Port()) {
			return &AddressError{Addr: addr, Port: true}
		}
		return nil
	}
}

func (g Guard) allows(ip netip.Addr) bool {
	ip = ip.WithZone("")
	return slices.ContainsFunc(g.Allow, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// CheckURL judges an endpoint's URL when it is registered, without resolving
// its name: early and clear words for mistakes. Whether a name's addresses are
// permitted is decided at each connection. Its errors match [ErrInvalidURL],
// those about an address [ErrAddressNotAllowed] too, and never repeat the URL's
// user part or query.
func CheckURL(raw string, g Guard) error {
	if len(raw) > MaxURLLength {
		return invalidURL("it has %d bytes; at most %d are taken", len(raw), MaxURLLength)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return invalidURL("it cannot be read as a URL; write it like https://hooks.example.com/handover")
	}
	switch u.Scheme {
	case "https", "http":
	case "":
		return invalidURL("it has no scheme; write it like https://hooks.example.com/handover")
	default:
		return invalidURL("the scheme %.20q is not supported; use https", u.Scheme)
	}
	switch {
	case u.User != nil:
		return invalidURL("it holds a user name or password; requests are authenticated by their signature, so remove it")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return invalidURL("it holds a fragment (#…), which is never sent; remove it")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if host == "" {
		return invalidURL("it has no host; write it like https://hooks.example.com/handover")
	}
	port, err := portOf(u)
	if err != nil {
		return err
	}
	local, err := g.checkHost(host, port)
	if err != nil {
		return err
	}
	if u.Scheme == "http" && !g.AllowHTTP && !local {
		return invalidURL("http would send personal data in the clear; use https (http is for hosts in an --allow-network)")
	}
	return nil
}

func portOf(u *url.URL) (uint16, error) {
	text := u.Port()
	if text == "" {
		if strings.HasSuffix(u.Host, ":") {
			return 0, invalidURL("its port is empty; remove the colon")
		}
		if u.Scheme == "http" {
			return 80, nil
		}
		return 443, nil
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, invalidURL("the port %.10s is not between 1 and 65535", text)
	}
	return uint16(port), nil
}

// checkHost reports whether the host is, or may well be, in an allowed network.
func (g Guard) checkHost(host string, port uint16) (local bool, err error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return g.allows(ip.Unmap()), g.checkLiteral(netip.AddrPortFrom(ip, port))
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		loopback := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		return true, g.checkLiteral(loopback)
	}
	if err := checkName(host); err != nil {
		return false, err
	}
	local = len(g.Allow) > 0 && isInternalName(host)
	if !local && len(g.Allow) == 0 && len(g.Ports) > 0 && !slices.Contains(g.Ports, port) {
		return false, fmt.Errorf("%w: port %d is not among the permitted ports %v", ErrInvalidURL, port, g.Ports)
	}
	return local, nil
}

func (g Guard) checkLiteral(addr netip.AddrPort) error {
	if err := g.Check(addr); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidURL, err)
	}
	return nil
}

// checkName refuses what some resolvers take for an address although it is
// written like a name (0x7f.1, 2130706433, 127.1), and what cannot be a name.
func checkName(host string) error {
	if len(host) > 253 {
		return invalidURL("its host is longer than 253 bytes")
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return invalidURL("its host is not a host name (letters, digits, hyphens and dots; other scripts in their xn-- form)")
		}
	}
	last := labels[len(labels)-1]
	if isDigits(last) || (strings.HasPrefix(last, "0x") && strings.Trim(last[2:], "0123456789abcdef") == "") {
		return invalidURL("its host is a number; write an address with four decimal parts or use a name")
	}
	return nil
}

// isInternalName reports whether a name cannot be one of the public name
// system: a single label, or below a domain set aside for private use.
func isInternalName(host string) bool {
	return !strings.Contains(host, ".") || slices.ContainsFunc(
		[]string{".internal", ".local", ".test", ".lan", ".home.arpa"},
		func(suffix string) bool { return strings.HasSuffix(host, suffix) })
}

func invalidURL(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalidURL, fmt.Sprintf(format, args...))
}
