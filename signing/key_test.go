package signing_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/signing"
)

func encoded(prefix string, n int) string {
	return prefix + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, n))
}

func TestParseKey(t *testing.T) {
	t.Parallel()
	private := signing.NewEd25519Key()
	public, ok := private.Public()
	if !ok {
		t.Fatal("an ed25519 key has no public key")
	}
	for _, text := range []string{
		encoded("whsec_", 24), encoded("whsec_", 32), encoded("whsec_", 64),
		signing.NewKey().Secret(), private.Secret(), public.Secret(),
	} {
		key, err := signing.ParseKey(text)
		if err != nil {
			t.Errorf("%d characters: %v", len(text), err)
			continue
		}
		if key.Secret() != text {
			t.Errorf("Secret is not what was parsed")
		}
		if key.IsZero() || key.CanSign() == strings.HasPrefix(text, "whpk_") {
			t.Errorf("%v: IsZero %v, CanSign %v", key, key.IsZero(), key.CanSign())
		}
	}
	seed := private.Secret()[:len("whsk_")]
	raw, err := base64.StdEncoding.DecodeString(private.Secret()[len("whsk_"):])
	if err != nil {
		t.Fatal(err)
	}
	seed += base64.StdEncoding.EncodeToString(raw[:32])
	if key := parseKey(t, seed); !key.Equal(private) {
		t.Error("the seed alone gives another key")
	}
	if _, ok := signing.NewKey().Public(); ok {
		t.Error("a symmetric key has a public key")
	}
}

func TestParseKeyRefuses(t *testing.T) {
	t.Parallel()
	halves := slices.Concat(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32))
	stray := []byte(encoded("whsec_", 25)) // 25 bytes leave four bits of the last character over
	stray[len(stray)-3]++
	for name, text := range map[string]string{
		"empty":                   "",
		"no prefix":               encoded("", 32),
		"another prefix":          encoded("whxx_", 32),
		"upper case prefix":       encoded("WHSEC_", 32),
		"prefix only":             "whsec_",
		"23 bytes":                encoded("whsec_", 23),
		"65 bytes":                encoded("whsec_", 65),
		"a megabyte":              encoded("whsec_", 1<<20),
		"space before":            " " + encoded("whsec_", 32),
		"newline behind":          encoded("whsec_", 32) + "\n",
		"newline inside":          "whsec_\n" + encoded("", 32),
		"no padding":              strings.TrimRight(encoded("whsec_", 32), "="),
		"stray bits":              string(stray),
		"URL alphabet":            "whsec_" + base64.URLEncoding.EncodeToString(bytes.Repeat([]byte{0xfb}, 32)),
		"two underscores":         "whsec__" + encoded("", 32),
		"private of 33 bytes":     encoded("whsk_", 33),
		"halves of different":     "whsk_" + base64.StdEncoding.EncodeToString(halves),
		"public of 31 bytes":      encoded("whpk_", 31),
		"public that is a secret": encoded("whpk_", 64),
	} {
		key, err := signing.ParseKey(text)
		if !errors.Is(err, signing.ErrInvalidKey) {
			t.Errorf("%s: got %v, want ErrInvalidKey", name, err)
			continue
		}
		if !key.IsZero() {
			t.Errorf("%s: a key came with the error", name)
		}
		if _, secret, _ := strings.Cut(text, "_"); len(secret) > 8 && strings.Contains(err.Error(), secret[:8]) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
		if text != "" && !strings.Contains(text, "wh") && strings.Contains(err.Error(), text) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

func TestEqual(t *testing.T) {
	t.Parallel()
	a, b := signing.NewKey(), signing.NewKey()
	private := signing.NewEd25519Key()
	public, _ := private.Public()
	if !a.Equal(parseKey(t, a.Secret())) || !(signing.Key{}).Equal(signing.Key{}) {
		t.Error("equal keys are not Equal")
	}
	for _, pair := range [][2]signing.Key{{a, b}, {a, {}}, {{}, a}, {private, public}, {parseKey(t, encoded("whsec_", 32)), parseKey(t, encoded("whpk_", 32))}} {
		if pair[0].Equal(pair[1]) {
			t.Errorf("%v equals %v", pair[0], pair[1])
		}
	}
	if diff := cmp.Diff(map[string]signing.Key{"k": a}, map[string]signing.Key{"k": parseKey(t, a.Secret())}); diff != "" {
		t.Error(diff)
	}
}

func TestKeysAreNotPrinted(t *testing.T) {
	t.Parallel()
	type config struct {
		Name string
		Key  signing.Key
		Keys []signing.Key
		last signing.Key
	}
	private := signing.NewEd25519Key()
	public, _ := private.Public()
	for _, key := range []signing.Key{signing.NewKey(), private, public} {
		prefix, text, _ := strings.Cut(key.Secret(), "_")
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		c := config{Name: "n", Key: key, Keys: []signing.Key{key}, last: key}
		var out []string
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%b", "%c", "%U", "%t", "%e", "%p"} {
			for _, v := range []any{key, &key, c, &c, []signing.Key{key}, map[string]signing.Key{"k": key}, signing.Signer{Keys: c.Keys}, signing.Verifier{Keys: c.Keys}} {
				out = append(out, fmt.Sprintf(verb, v))
			}
		}
		out = append(out, key.String(), key.GoString())
		for _, v := range []any{key, &key, c, signing.Signer{Keys: c.Keys}, map[string]any{"k": key}} {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(b))
		}
		b, err := key.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(b))
		var logged bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
			log := slog.New(h)
			log.InfoContext(t.Context(), "keys", slog.Any("key", key), slog.Any("pointer", &key), slog.Any("keys", c.Keys), slog.Any("config", c))
		}
		out = append(out, logged.String())

		if !strings.Contains(logged.String(), prefix+"_[redacted]") || key.String() != prefix+"_[redacted]" {
			t.Errorf("the kind is not shown: %s, %s", key.String(), logged.String())
		}
		if string(b) != key.String() {
			t.Errorf("MarshalText gives %s", b)
		}
		for _, s := range out {
			for _, leak := range []string{text[:10], text[10:20], string(raw[:6]), fmt.Sprintf("%x", raw[:6]), fmt.Sprintf("%d %d %d", raw[0], raw[1], raw[2]), fmt.Sprintf("%#x, %#x, %#x", raw[0], raw[1], raw[2])} {
				if strings.Contains(strings.ToLower(s), strings.ToLower(leak)) {
					t.Errorf("the key shows in %q", s)
				}
			}
		}
	}
	if s := fmt.Sprintf("%v|%#v", signing.Key{}, signing.Key{}); s != "|signing.Key()" {
		t.Errorf("the zero key prints %q", s)
	}
	if (signing.Key{}).Secret() != "" || (signing.Key{}).CanSign() {
		t.Error("the zero key is one")
	}
}

func TestNewKeysDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		for _, k := range []signing.Key{signing.NewKey(), signing.NewEd25519Key()} {
			if seen[k.Secret()] {
				t.Fatal("a key came twice")
			}
			seen[k.Secret()] = true
		}
	}
}
