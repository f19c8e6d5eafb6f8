package signing

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The three headers of a signed message, in the form [http.Header] keeps them.
const (
	HeaderID        = "Webhook-Id"
	HeaderTimestamp = "Webhook-Timestamp"
	HeaderSignature = "Webhook-Signature"
)

// DefaultTolerance is how far the timestamp of a message may be from the
// verifier's clock, either way, when Verifier.Tolerance is zero.
const DefaultTolerance = 5 * time.Minute

// Bounds on what a sender may put into the headers.
const (
	MaxIDLength        = 256     // bytes of webhook-id
	MaxSignatureLength = 4 << 10 // bytes of webhook-signature
	MaxSignatures      = 16      // entries in webhook-signature
)

// maxTimestamp is the last second that fits ^[0-9]{1,12}$.
const maxTimestamp = 999_999_999_999

// ErrVerify is matched by every error of [Verifier.Verify].
var ErrVerify = errors.New("message not verified")

// The reasons for which a message is not verified.
var (
	// ErrMissingHeader: one of the three headers is absent or empty.
	ErrMissingHeader = fmt.Errorf("%w: missing header", ErrVerify)
	// ErrInvalidHeader: a header is there twice, too long or ill-formed.
	ErrInvalidHeader = fmt.Errorf("%w: invalid header", ErrVerify)
	// ErrTooOld: the timestamp is further in the past than the tolerance.
	ErrTooOld = fmt.Errorf("%w: timestamp too old", ErrVerify)
	// ErrTooNew: the timestamp is further in the future than the tolerance.
	ErrTooNew = fmt.Errorf("%w: timestamp too new", ErrVerify)
	// ErrNoMatch: no signature of the message was made with one of the keys.
	ErrNoMatch = fmt.Errorf("%w: no matching signature", ErrVerify)
	// ErrNoKeys: there is no key to verify with.
	ErrNoKeys = fmt.Errorf("%w: no keys", ErrVerify)
)

// ErrSign is matched by every error of [Signer.Sign] and [Signer.SetHeaders].
var ErrSign = errors.New("message not signed")

// Signer signs messages with each of its keys.
//
// Two keys at once are how a key is replaced without a gap: the receiver
// accepts a message when one of its entries matches. A Signer may be used by
// several goroutines.
type Signer struct {
	Keys []Key // whsec_ or whsk_; the entries stand in this order
}

// Sign returns the value of the webhook-signature header: one entry a key,
// joined by a space, over "id.timestamp.body", the timestamp being at in whole
// seconds since 1970.
//
// The id has 1 to 256 characters of visible ASCII and no ".", which would leave
// open where the id ends. The body is signed as it is and may be empty.
func (s Signer) Sign(id string, at time.Time, body []byte) (string, error) {
	if len(s.Keys) == 0 {
		return "", fmt.Errorf("%w: no keys", ErrSign)
	}
	if !validID(id) || strings.Contains(id, ".") {
		return "", fmt.Errorf("%w: the id has to be 1 to %d characters of visible ASCII without %q", ErrSign, MaxIDLength, ".")
	}
	if sec := at.Unix(); sec < 0 || sec > maxTimestamp {
		return "", fmt.Errorf("%w: the time has to be between 1970 and the second %d", ErrSign, int64(maxTimestamp))
	}
	if len(s.Keys) == 1 {
		return s.Keys[0].sign(id, at, body)
	}
	entries := make([]string, len(s.Keys))
	for i, k := range s.Keys {
		entry, err := k.sign(id, at, body)
		if err != nil {
			return "", err
		}
		entries[i] = entry
	}
	return strings.Join(entries, " "), nil
}

// SetHeaders signs like [Signer.Sign] and sets the three webhook-* headers. The
// headers are left alone when that fails.
func (s Signer) SetHeaders(h http.Header, id string, at time.Time, body []byte) error {
	signature, err := s.Sign(id, at, body)
	if err != nil {
		return err
	}
	h.Set(HeaderID, id)
	h.Set(HeaderTimestamp, strconv.FormatInt(at.Unix(), 10))
	h.Set(HeaderSignature, signature)
	return nil
}

// Verifier verifies messages against each of its keys. It may be used by
// several goroutines.
type Verifier struct {
	Keys      []Key            // whsec_, whpk_ or whsk_; a message needs to match one
	Tolerance time.Duration    // 0: DefaultTolerance; negative: the timestamp is not compared with the clock
	Now       func() time.Time // the clock; nil: time.Now
}

// Verify reports whether the body was signed with one of the keys, within the
// tolerance. The body is the request's, byte for byte: parsed and written again
// it does not verify.
//
// Of the headers only webhook-id, webhook-timestamp and webhook-signature are
// looked at, and each has to be there exactly once. Entries of
// webhook-signature that have another version than v1 and v1a, or another form,
// are skipped. Every error matches [ErrVerify] and one of the reasons.
func (v Verifier) Verify(h http.Header, body []byte) error {
	if len(v.Keys) == 0 {
		return ErrNoKeys
	}
	id, err := one(h, HeaderID)
	if err != nil {
		return err
	}
	timestamp, err := one(h, HeaderTimestamp)
	if err != nil {
		return err
	}
	signature, err := one(h, HeaderSignature)
	if err != nil {
		return err
	}
	if !validID(id) {
		return fmt.Errorf("%w: %s", ErrInvalidHeader, HeaderID)
	}
	at, ok := parseTimestamp(timestamp)
	if !ok {
		return fmt.Errorf("%w: %s", ErrInvalidHeader, HeaderTimestamp)
	}
	sigs, ok := parseSignatures(signature)
	if !ok {
		return fmt.Errorf("%w: %s", ErrInvalidHeader, HeaderSignature)
	}
	if err := v.checkTime(at); err != nil {
		return err
	}
	m := message{id: id, at: at, body: body, signatures: sigs}
	for _, k := range v.Keys {
		if k.verify(&m) {
			return nil
		}
	}
	return ErrNoMatch
}

func (v Verifier) checkTime(at time.Time) error {
	if v.Tolerance < 0 {
		return nil
	}
	tolerance := v.Tolerance
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	now := time.Now
	if v.Now != nil {
		now = v.Now
	}
	switch age := now().Sub(at); {
	case age > tolerance:
		return ErrTooOld
	case age < -tolerance:
		return ErrTooNew
	}
	return nil
}

// message is what the headers and the body of a request claim.
type message struct {
	id         string
	at         time.Time
	body       []byte
	signatures signatures

	hmacHeader http.Header // made for the first key that needs it
	content    []byte      // likewise
}

// signatures are the well-formed entries of webhook-signature.
type signatures struct {
	hmac    string   // the v1 entries, as they came
	ed25519 [][]byte // the v1a entries, decoded
}

// header returns the message's headers for the HMAC library: the three that
// count and nothing beside them, since it would prefer others.
func (m *message) header() http.Header {
	if m.hmacHeader == nil {
		m.hmacHeader = http.Header{
			HeaderID:        {m.id},
			HeaderTimestamp: {strconv.FormatInt(m.at.Unix(), 10)},
			HeaderSignature: {m.signatures.hmac},
		}
	}
	return m.hmacHeader
}

func (m *message) signed() []byte {
	if m.content == nil {
		m.content = content(m.id, m.at, m.body)
	}
	return m.content
}

func content(id string, at time.Time, body []byte) []byte {
	b := make([]byte, 0, len(id)+len(body)+14)
	b = append(b, id...)
	b = append(b, '.')
	b = strconv.AppendInt(b, at.Unix(), 10)
	b = append(b, '.')
	return append(b, body...)
}

func one(h http.Header, name string) (string, error) {
	switch values := h[name]; {
	case len(values) > 1:
		return "", fmt.Errorf("%w: %s is there %d times", ErrInvalidHeader, name, len(values))
	case len(values) == 0 || values[0] == "":
		return "", fmt.Errorf("%w: %s", ErrMissingHeader, name)
	default:
		return values[0], nil
	}
}

func validID(id string) bool {
	if id == "" || len(id) > MaxIDLength {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

func parseTimestamp(s string) (time.Time, bool) {
	if s == "" || len(s) > 12 {
		return time.Time{}, false
	}
	var sec int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return time.Time{}, false
		}
		sec = sec*10 + int64(s[i]-'0')
	}
	return time.Unix(sec, 0), true
}

// parseSignatures takes the entries apart. What it does not know it skips, as
// the standard asks; it refuses only what is too much.
func parseSignatures(s string) (signatures, bool) {
	var sigs signatures
	if len(s) > MaxSignatureLength || strings.Count(s, " ") >= MaxSignatures {
		return sigs, false
	}
	hmacLen, edLen := base64.StdEncoding.EncodedLen(32), base64.StdEncoding.EncodedLen(ed25519.SignatureSize)
	for entry := range strings.SplitSeq(s, " ") {
		version, value, _ := strings.Cut(entry, ",")
		switch {
		case version == "v1" && len(value) == hmacLen:
			if sigs.hmac == "" {
				sigs.hmac = entry
			} else {
				sigs.hmac += " " + entry
			}
		case version == "v1a" && len(value) == edLen:
			if raw, err := decodeBase64(value); err == nil {
				sigs.ed25519 = append(sigs.ed25519, raw)
			}
		}
	}
	return sigs, true
}
