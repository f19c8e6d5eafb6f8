package dispatch_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/handover-dev/handover/internal/dispatch"
)

// hostile are addresses that a receiver's name or URL must not lead us to.
var hostile = []string{
	"127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
	"100.64.0.1", "100.100.100.200", "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "192.0.2.1",
	"198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
	"::1", "::", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:168.63.129.16", "::ffff:0:127.0.0.1",
	"64:ff9b::7f00:1", "64:ff9b::169.254.169.254", "64:ff9b:1::a00:1", "2002:7f00:1::", "2001::7f00:1", "2001:db8::1",
	"fe80::1", "fe80::1%lo", "fec0::1", "fc00::1", "fd00:ec2::254", "fd20:ce::254", "ff02::1", "5f00::1", "3fff::1", "100::1",
}

var public = []string{"1.1.1.1", "8.8.8.8", "172.32.0.1", "192.0.1.1", "168.63.129.17", "::ffff:8.8.8.8", "2606:4700::1111", "2a00:1450:4001::1"}

func TestGuardRefusesEverythingNotPublic(t *testing.T) {
	t.Parallel()
	control := dispatch.Guard{}.Control()
	dial := func(text string, port uint16) error {
		addr := netip.MustParseAddr(text)
		network := "tcp6"
		if addr.Is4() {
			network = "tcp4"
		}
		return control(t.Context(), network, netip.AddrPortFrom(addr, port).String(), nil)
	}
	for _, text := range hostile {
		for _, port := range []uint16{80, 443, 8443} {
			if err := dial(text, port); !errors.Is(err, dispatch.ErrAddressNotAllowed) {
				t.Errorf("%s port %d: %v, want a refusal", text, port, err)
			}
		}
	}
	for _, text := range public {
		for _, port := range []uint16{80, 443, 8443} {
			if err := dial(text, port); err != nil {
				t.Errorf("%s port %d: %v", text, port, err)
			}
		}
	}
	for _, bad := range [][2]string{{"tcp4", "localhost:80"}, {"tcp4", "8.8.8.8"}, {"udp4", "8.8.8.8:53"}, {"unix", "/run/docker.sock"}, {"tcp4", ""}} {
		if err := control(t.Context(), bad[0], bad[1], nil); !errors.Is(err, dispatch.ErrAddressNotAllowed) {
			t.Errorf("%q: %v, want a refusal", bad, err)
		}
	}
}

func TestGuardAllowsWhatTheOperatorAllows(t *testing.T) {
	t.Parallel()
	g := dispatch.Guard{
		Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("fe80::/10")},
		Ports: []uint16{443},
	}
	for text, want := range map[string]bool{
		"10.1.2.3:80": true, "[::ffff:10.1.2.3]:8080": true, "[::1]:9": true, "[fe80::1%eth0]:80": true,
		"10.2.0.1:443": false, "127.0.0.1:443": false, "8.8.8.8:443": true, "8.8.8.8:8443": false,
	} {
		err := g.Check(netip.MustParseAddrPort(text))
		if (err == nil) != want || (err != nil && !errors.Is(err, dispatch.ErrAddressNotAllowed)) {
			t.Errorf("%s: %v, want allowed %v", text, err, want)
		}
	}
}

func TestCheckURL(t *testing.T) {
	t.Parallel()
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, test := range []struct {
		url   string
		guard dispatch.Guard
		want  string // part of the error, "" = taken
	}{
		{"https://hooks.example.com:8443/in?token=x", dispatch.Guard{}, ""},
		{"HTTPS://Hooks.Example.COM./in", dispatch.Guard{}, ""},
		{"https://xn--bcher-kva.example/", dispatch.Guard{}, ""},
		{"https://8.8.8.8/in", dispatch.Guard{}, ""},
		{"https://[2606:4700::1111]:8443/in", dispatch.Guard{}, ""},
		{"https://app/in", dispatch.Guard{}, ""},
		{"http://hooks.example.com/in", dispatch.Guard{AllowHTTP: true}, ""},
		{"http://127.0.0.1:3000/in", dispatch.Guard{Allow: loopback}, ""},
		{"http://localhost:3000/in", dispatch.Guard{Allow: loopback}, ""},
		{"http://app.localhost:3000/in", dispatch.Guard{Allow: loopback}, ""},
		{"http://app:3000/in", dispatch.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12")}}, ""},
		{"http://app.ns.svc.cluster.local/in", dispatch.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, ""},
		{"https://8.8.8.8/in", dispatch.Guard{Ports: []uint16{443}}, ""},

		{"", dispatch.Guard{}, "no scheme"},
		{"hooks.example.com/in", dispatch.Guard{}, "no scheme"},
		{"https://", dispatch.Guard{}, "no host"},
		{"https:hooks.example.com", dispatch.Guard{}, "no host"},
		{"https:///in", dispatch.Guard{}, "no host"},
		{"https://:443/in", dispatch.Guard{}, "no host"},
		{"ftp://hooks.example.com/", dispatch.Guard{}, `"ftp" is not supported`},
		{"gopher://127.0.0.1:6379/_x", dispatch.Guard{}, "not supported"},
		{"http://hooks.example.com/in", dispatch.Guard{}, "use https"},
		{"http://hooks.example.com/in", dispatch.Guard{Allow: loopback}, "use https"},
		{"http://app:3000/in", dispatch.Guard{}, "use https"},
		{"http://8.8.8.8/in", dispatch.Guard{}, "use https"},
		{"https://user:secret@hooks.example.com/", dispatch.Guard{}, "user name or password"},
		{"https://hooks.example.com/#secret", dispatch.Guard{}, "fragment"},
		{"https://hooks.example.com/#", dispatch.Guard{}, "fragment"},
		{"https://hooks.example.com:0/", dispatch.Guard{}, "the port 0"},
		{"https://hooks.example.com:65536/", dispatch.Guard{}, "the port 65536"},
		{"https://hooks.example.com:/", dispatch.Guard{}, "port is empty"},
		{"https://hooks.example.com:8443/", dispatch.Guard{Ports: []uint16{443}}, "port 8443"},
		{"https://8.8.8.8:8443/", dispatch.Guard{Ports: []uint16{443}}, "port 8443 of 8.8.8.8"},
		{"https://hooks.example.com/" + strings.Repeat("a", 2048), dispatch.Guard{}, "at most 2048"},
		{"https://hooks.example.com/\x00secret", dispatch.Guard{}, "cannot be read"},
		{"https://hooks.example.com/%zz?secret", dispatch.Guard{}, "cannot be read"},
		{"https://bücher.example/", dispatch.Guard{}, "not a host name"},
		{"https://１２７.0.0.1/", dispatch.Guard{}, "not a host name"},
		{"https://a..example.com/", dispatch.Guard{}, "not a host name"},
		{"https://" + strings.Repeat("a.", 130) + "com/", dispatch.Guard{}, "longer than 253"},
		{"https://2130706433/", dispatch.Guard{}, "is a number"},
		{"https://0x7f000001/", dispatch.Guard{}, "is a number"},
		{"https://0x7f.1/", dispatch.Guard{}, "is a number"},
		{"https://127.1/", dispatch.Guard{}, "is a number"},
		{"https://0177.0.0.1/", dispatch.Guard{}, "is a number"},
		{"https://0/", dispatch.Guard{}, "is a number"},
		{"https://127.0.0.1/", dispatch.Guard{}, "the address 127.0.0.1 is not public: start with --allow-network 127.0.0.0/8 to permit it"},
		{"https://127.0.0.1./", dispatch.Guard{}, "the address 127.0.0.1 is not public"},
		{"https://localhost/", dispatch.Guard{}, "start with --allow-network 127.0.0.0/8"},
		{"https://LOCALHOST./", dispatch.Guard{}, "start with --allow-network 127.0.0.0/8"},
		{"https://[::ffff:10.0.0.1]/", dispatch.Guard{}, "start with --allow-network 10.0.0.0/8"},
		{"https://[::1]/", dispatch.Guard{}, "start with --allow-network ::1/128"},
		{"https://169.254.169.254/latest", dispatch.Guard{AllowHTTP: true}, "clouds keep machine credentials"},
		{"https://[fe80::1%25lo]/", dispatch.Guard{}, "clouds keep machine credentials"},
	} {
		err := dispatch.CheckURL(test.url, test.guard)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%.60q: %v", test.url, err)
		case test.want != "" && (!errors.Is(err, dispatch.ErrInvalidURL) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%.60q: %v, want an error with %q", test.url, err, test.want)
		case err != nil && strings.Contains(err.Error(), "secret"):
			t.Errorf("%.60q: the error repeats a secret: %v", test.url, err)
		}
	}
	for _, text := range hostile {
		raw := "https://" + text + "/"
		if strings.Contains(text, ":") {
			raw = "https://[" + strings.Replace(text, "%", "%25", 1) + "]/"
		}
		if err := dispatch.CheckURL(raw, dispatch.Guard{AllowHTTP: true}); !errors.Is(err, dispatch.ErrAddressNotAllowed) {
			t.Errorf("%s: %v, want ErrAddressNotAllowed", raw, err)
		}
	}
}

func FuzzCheckURL(f *testing.F) {
	for _, seed := range []string{"https://hooks.example.com:8443/in?x", "http://[::1%25lo]:80/", "https://0x7f.1", "https://u:p@h/#"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if err := dispatch.CheckURL(raw, dispatch.Guard{}); err != nil {
			if !errors.Is(err, dispatch.ErrInvalidURL) || len(err.Error()) > 400 {
				t.Errorf("%q: %d bytes: %v", raw, len(err.Error()), err)
			}
		}
	})
}
