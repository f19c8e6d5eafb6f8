package signing

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	svix "github.com/svix/svix-webhooks/go"
)

// Lengths of a symmetric key in bytes, before base64.
const (
	MinSecretLength = 24
	MaxSecretLength = 64
)

const (
	prefixSecret  = "whsec_"
	prefixPrivate = "whsk_"
	prefixPublic  = "whpk_"
)

const redacted = "[redacted]"

// ErrInvalidKey is matched by every error of [ParseKey]. Its text never holds a
// part of what was given.
var ErrInvalidKey = errors.New("invalid key")

// Key is a symmetric secret (whsec_), an ed25519 private key (whsk_) or an
// ed25519 public key (whpk_). The zero Key is no key: nothing can be signed or
// verified with it.
//
// However a Key is printed, encoded or logged, it shows only its kind;
// [Key.Secret] is the one way to its text. Compare keys with [Key.Equal]. A Key
// cannot be changed and may be used by several goroutines.
type Key struct {
	// A pointer to a pointer, because fmt follows a single one when a Key stands
	// in an unexported field, where it cannot call Format.
	p **key
}

type key struct {
	prefix  string
	raw     []byte             // what the text form encodes
	hmac    *svix.Webhook      // whsec_
	private ed25519.PrivateKey // whsk_
	public  ed25519.PublicKey  // whsk_ and whpk_
}

func wrap(k key) Key {
	p := &k
	return Key{&p}
}

// key returns what is behind k; nil for the zero Key.
func (k Key) key() *key {
	if k.p == nil {
		return nil
	}
	return *k.p
}

// NewKey returns a new symmetric key of 32 random bytes.
func NewKey() Key {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails
	return newSecret(raw)
}

// NewEd25519Key returns a new ed25519 private key. [Key.Public] gives what the
// receivers need.
func NewEd25519Key() Key {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	return newPrivate(seed)
}

func newSecret(raw []byte) Key {
	// NewWebhookRaw has no error to give.
	hook, _ := svix.NewWebhookRaw(raw)
	return wrap(key{prefix: prefixSecret, raw: raw, hmac: hook})
}

func newPrivate(seed []byte) Key {
	private := ed25519.NewKeyFromSeed(seed)
	return wrap(key{prefix: prefixPrivate, raw: private, private: private, public: private.Public().(ed25519.PublicKey)})
}

func newPublic(raw []byte) Key {
	return wrap(key{prefix: prefixPublic, raw: raw, public: raw})
}

// ParseKey reads the text form of a key: a prefix and standard base64 with
// padding.
//
//   - whsec_ and 24 to 64 bytes: a symmetric key;
//   - whsk_ and 64 bytes (seed and public key) or 32 bytes (the seed): an
//     ed25519 private key;
//   - whpk_ and 32 bytes: an ed25519 public key, which only verifies.
//
// Nothing around it is trimmed. Every error matches [ErrInvalidKey].
func ParseKey(s string) (Key, error) {
	i := strings.IndexByte(s, '_')
	if i < 0 {
		return Key{}, fmt.Errorf("%w: it has to begin with %s, %s or %s", ErrInvalidKey, prefixSecret, prefixPrivate, prefixPublic)
	}
	prefix, text := s[:i+1], s[i+1:]
	switch prefix {
	case prefixSecret, prefixPrivate, prefixPublic:
	default:
		return Key{}, fmt.Errorf("%w: it has to begin with %s, %s or %s", ErrInvalidKey, prefixSecret, prefixPrivate, prefixPublic)
	}
	if len(text) > base64.StdEncoding.EncodedLen(MaxSecretLength) {
		return Key{}, fmt.Errorf("%w: too long", ErrInvalidKey)
	}
	raw, err := decodeBase64(text)
	if err != nil {
		return Key{}, fmt.Errorf("%w: after %s it has to be standard base64 with padding", ErrInvalidKey, prefix)
	}
	switch prefix {
	case prefixSecret:
		if len(raw) < MinSecretLength || len(raw) > MaxSecretLength {
			return Key{}, fmt.Errorf("%w: %s needs %d to %d bytes, these are %d", ErrInvalidKey, prefix, MinSecretLength, MaxSecretLength, len(raw))
		}
		return newSecret(raw), nil
	case prefixPublic:
		if len(raw) != ed25519.PublicKeySize {
			return Key{}, fmt.Errorf("%w: %s needs %d bytes, these are %d", ErrInvalidKey, prefix, ed25519.PublicKeySize, len(raw))
		}
		return newPublic(raw), nil
	}
	if len(raw) != ed25519.SeedSize && len(raw) != ed25519.PrivateKeySize {
		return Key{}, fmt.Errorf("%w: %s needs %d or %d bytes, these are %d", ErrInvalidKey, prefix, ed25519.PrivateKeySize, ed25519.SeedSize, len(raw))
	}
	k := newPrivate(raw[:ed25519.SeedSize])
	if len(raw) == ed25519.PrivateKeySize && subtle.ConstantTimeCompare(raw, k.key().raw) != 1 {
		return Key{}, fmt.Errorf("%w: the two halves of %s do not belong together", ErrInvalidKey, prefix)
	}
	return k, nil
}

// decodeBase64 takes one text for one value only: no line breaks, no stray bits
// at the end.
func decodeBase64(s string) ([]byte, error) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, base64.CorruptInputError(0)
	}
	return base64.StdEncoding.Strict().DecodeString(s)
}

// Secret returns the text form that [ParseKey] reads, secret and all; "" for
// the zero Key.
func (k Key) Secret() string {
	inner := k.key()
	if inner == nil {
		return ""
	}
	return inner.prefix + base64.StdEncoding.EncodeToString(inner.raw)
}

// Public returns the public key of an ed25519 key, and false for any other.
func (k Key) Public() (Key, bool) {
	inner := k.key()
	if inner == nil || inner.public == nil {
		return Key{}, false
	}
	return newPublic(inner.public), true
}

// CanSign reports whether the key can sign: a whpk_ only verifies.
func (k Key) CanSign() bool { return !k.IsZero() && k.key().prefix != prefixPublic }

// IsZero reports whether k is the zero Key.
func (k Key) IsZero() bool { return k.p == nil }

// Equal reports whether the keys are the same, in a time that does not depend
// on how much of them is.
func (k Key) Equal(other Key) bool {
	a, b := k.key(), other.key()
	if a == nil || b == nil {
		return a == b
	}
	return a.prefix == b.prefix && subtle.ConstantTimeCompare(a.raw, b.raw) == 1
}

// String returns the kind of the key and no more.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return k.key().prefix + redacted
}

// GoString is [Key.String] for %#v.
func (k Key) GoString() string { return "signing.Key(" + k.String() + ")" }

// Format prints [Key.String], or [Key.GoString] for %#v, whatever the verb.
func (k Key) Format(f fmt.State, verb rune) {
	s := k.String()
	if verb == 'v' && f.Flag('#') {
		s = k.GoString()
	}
	_, _ = f.Write([]byte(s))
}

// MarshalText returns [Key.String].
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// MarshalJSON returns [Key.String] as a JSON string.
func (k Key) MarshalJSON() ([]byte, error) { return []byte(`"` + k.String() + `"`), nil }

// LogValue returns [Key.String].
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

func (k Key) sign(id string, at time.Time, body []byte) (string, error) {
	inner := k.key()
	switch {
	case inner == nil:
		return "", fmt.Errorf("%w: a key is zero", ErrSign)
	case inner.hmac != nil:
		entry, err := inner.hmac.Sign(id, at, body)
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrSign, err)
		}
		return entry, nil
	case inner.private != nil:
		return "v1a," + base64.StdEncoding.EncodeToString(ed25519.Sign(inner.private, content(id, at, body))), nil
	default:
		return "", fmt.Errorf("%w: a %s key only verifies", ErrSign, prefixPublic)
	}
}

func (k Key) verify(m *message) bool {
	inner := k.key()
	switch {
	case inner == nil:
		return false
	case inner.hmac != nil:
		// The library has a clock of its own: the timestamp is checked before.
		return m.signatures.hmac != "" && inner.hmac.VerifyIgnoringTimestamp(m.body, m.header()) == nil
	default:
		for _, sig := range m.signatures.ed25519 {
			if ed25519.Verify(inner.public, m.signed(), sig) {
				return true
			}
		}
		return false
	}
}
