package signing_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/handover-dev/handover/signing"
)

func parseKey(t testing.TB, s string) signing.Key {
	t.Helper()
	k, err := signing.ParseKey(s)
	if err != nil {
		t.Fatalf("ParseKey: %v", err)
	}
	return k
}

func clock(sec int64) func() time.Time {
	return func() time.Time { return time.Unix(sec, 0) }
}

func headers(id, timestamp, signature string) http.Header {
	return http.Header{
		signing.HeaderID:        {id},
		signing.HeaderTimestamp: {timestamp},
		signing.HeaderSignature: {signature},
	}
}

type vector struct {
	Name           string `json:"name"`
	Secret         string `json:"secret"`
	PreviousSecret string `json:"previous_secret"`
	ID             string `json:"webhook_id"`
	Timestamp      string `json:"webhook_timestamp"`
	Body           []byte `json:"body_base64"`
	Signature      string `json:"webhook_signature"`
}

func vectors(t testing.TB) []vector {
	t.Helper()
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var set struct {
		Vectors []vector `json:"vectors"`
	}
	if err := json.Unmarshal(file, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Vectors) == 0 {
		t.Fatal("no vectors")
	}
	return set.Vectors
}

func TestVectors(t *testing.T) {
	t.Parallel()
	list := append(vectors(t),
		vector{
			Name: "standard webhooks", Secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
			ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp: "1614265330", Body: []byte(`{"test": 2432232314}`),
			Signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
		},
		vector{
			Name: "svix ed25519", Secret: "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
			ID: "msg_p5jXN8AQM9LWM0D4loKWxJek", Timestamp: "1614265330", Body: []byte(`{"test": 2432232314}`),
			Signature: "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
		})
	for _, v := range list {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			keys := []signing.Key{parseKey(t, v.Secret)}
			if v.PreviousSecret != "" {
				keys = append(keys, parseKey(t, v.PreviousSecret))
			}
			sec, err := strconv.ParseInt(v.Timestamp, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			h := http.Header{}
			if err := (signing.Signer{Keys: keys}).SetHeaders(h, v.ID, time.Unix(sec, 0), v.Body); err != nil {
				t.Fatal(err)
			}
			if got := h.Get("webhook-signature"); got != v.Signature {
				t.Errorf("signature %s, want %s", got, v.Signature)
			}
			if h.Get("webhook-id") != v.ID || h.Get("webhook-timestamp") != v.Timestamp || len(h) != 3 {
				t.Errorf("headers %v", h)
			}
			for i, k := range keys {
				verifier := signing.Verifier{Keys: []signing.Key{k}, Now: clock(sec)}
				if err := verifier.Verify(headers(v.ID, v.Timestamp, v.Signature), v.Body); err != nil {
					t.Errorf("key %d: %v", i, err)
				}
				if public, ok := k.Public(); ok {
					verifier.Keys = []signing.Key{public}
					if err := verifier.Verify(headers(v.ID, v.Timestamp, v.Signature), v.Body); err != nil {
						t.Errorf("public key: %v", err)
					}
				}
				changed := append([]byte("x"), v.Body...)
				if err := verifier.Verify(headers(v.ID, v.Timestamp, v.Signature), changed); !errors.Is(err, signing.ErrNoMatch) {
					t.Errorf("changed body: %v, want ErrNoMatch", err)
				}
			}
		})
	}
}

// library is a public implementation of the standard.
type library interface {
	Sign(id string, at time.Time, body []byte) (string, error)
	Verify(body []byte, h http.Header) error
}

func libraries(t *testing.T, secret string) map[string]library {
	t.Helper()
	s, err := svix.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]library{"svix": s, "standard webhooks": w}
}

func TestLibrariesVerifyOurs(t *testing.T) {
	t.Parallel()
	body, now := []byte(`{"name":"Inès <&> 🚢"}`), time.Now()
	key, old := signing.NewKey(), signing.NewKey()
	for name, keys := range map[string][]signing.Key{
		"one key":          {key},
		"rotation":         {key, old},
		"old first":        {old, key},
		"beside a v1a key": {signing.NewEd25519Key(), key},
	} {
		h := http.Header{}
		if err := (signing.Signer{Keys: keys}).SetHeaders(h, "evt_118200000000009001", now, body); err != nil {
			t.Fatal(err)
		}
		for lib, l := range libraries(t, key.Secret()) {
			if err := l.Verify(body, h); err != nil {
				t.Errorf("%s, %s: %v", lib, name, err)
			}
		}
		for lib, l := range libraries(t, signing.NewKey().Secret()) {
			if l.Verify(body, h) == nil {
				t.Errorf("%s, %s: verifies with a key that did not sign", lib, name)
			}
		}
	}
}

func TestOursVerifiesLibraries(t *testing.T) {
	t.Parallel()
	body, now := []byte(`{"name":"Inès <&> 🚢"}`), time.Now()
	key := signing.NewKey()
	for lib, l := range libraries(t, key.Secret()) {
		signature, err := l.Sign("msg_1", now, body)
		if err != nil {
			t.Fatal(err)
		}
		h := headers("msg_1", strconv.FormatInt(now.Unix(), 10), signature)
		if err := (signing.Verifier{Keys: []signing.Key{signing.NewKey(), key}}).Verify(h, body); err != nil {
			t.Errorf("%s: %v", lib, err)
		}
		if err := (signing.Verifier{Keys: []signing.Key{signing.NewKey()}}).Verify(h, body); !errors.Is(err, signing.ErrNoMatch) {
			t.Errorf("%s: %v, want ErrNoMatch", lib, err)
		}
	}
}

// A key is replaced while messages flow: sender and receiver change at
// different times, and no message is refused.
func TestRotation(t *testing.T) {
	t.Parallel()
	old, next := signing.NewKey(), signing.NewEd25519Key()
	public, _ := next.Public()
	steps := []struct{ sender, receiver []signing.Key }{
		{[]signing.Key{old}, []signing.Key{old}},
		{[]signing.Key{next, old}, []signing.Key{old}},
		{[]signing.Key{next, old}, []signing.Key{old, public}},
		{[]signing.Key{next, old}, []signing.Key{public}},
		{[]signing.Key{next}, []signing.Key{public}},
	}
	body := []byte(`{}`)
	for i, step := range steps {
		h := http.Header{}
		if err := (signing.Signer{Keys: step.sender}).SetHeaders(h, "evt_1", time.Now(), body); err != nil {
			t.Fatal(err)
		}
		if got := len(strings.Fields(h.Get("webhook-signature"))); got != len(step.sender) {
			t.Errorf("step %d: %d entries for %d keys", i, got, len(step.sender))
		}
		if err := (signing.Verifier{Keys: step.receiver}).Verify(h, body); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	h := http.Header{}
	if err := (signing.Signer{Keys: []signing.Key{old}}).SetHeaders(h, "evt_1", time.Now(), body); err != nil {
		t.Fatal(err)
	}
	if err := (signing.Verifier{Keys: []signing.Key{public}}).Verify(h, body); !errors.Is(err, signing.ErrNoMatch) {
		t.Errorf("a message of the old key alone: %v, want ErrNoMatch", err)
	}
}

func TestVerifyRefuses(t *testing.T) {
	t.Parallel()
	const id, timestamp = "msg_1", "1781256600"
	key, body := signing.NewKey(), []byte(`{"a":1}`)
	edKey := signing.NewEd25519Key()
	at := time.Unix(1781256600, 0)
	sign := func(id string, keys ...signing.Key) string {
		signature, err := (signing.Signer{Keys: keys}).Sign(id, at, body)
		if err != nil {
			t.Fatal(err)
		}
		return signature
	}
	good, goodEd := sign(id, key), sign(id, edKey)
	long := strings.Repeat("i", signing.MaxIDLength)
	wrong := "v1," + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, test := range []struct {
		name string
		h    http.Header
		want error
	}{
		{"valid", headers(id, timestamp, good), nil},
		{"valid v1a", headers(id, timestamp, goodEd), nil},
		{"longest id", headers(long, timestamp, sign(long, key)), nil},
		{"unknown versions before", headers(id, timestamp, "v2,abc v1 v1, v1a,=== "+wrong+"  "+good), nil},
		{"as many signatures as are looked at", headers(id, timestamp, strings.Repeat(wrong+" ", signing.MaxSignatures-1)+good), nil},

		{"no headers", http.Header{}, signing.ErrMissingHeader},
		{"nil headers", nil, signing.ErrMissingHeader},
		{"no id", http.Header{signing.HeaderTimestamp: {timestamp}, signing.HeaderSignature: {good}}, signing.ErrMissingHeader},
		{"no timestamp", http.Header{signing.HeaderID: {id}, signing.HeaderSignature: {good}}, signing.ErrMissingHeader},
		{"no signature", http.Header{signing.HeaderID: {id}, signing.HeaderTimestamp: {timestamp}}, signing.ErrMissingHeader},
		{"empty id", headers("", timestamp, good), signing.ErrMissingHeader},
		{"empty timestamp", headers(id, "", good), signing.ErrMissingHeader},
		{"empty signature", headers(id, timestamp, ""), signing.ErrMissingHeader},
		{"svix headers only", http.Header{"Svix-Id": {id}, "Svix-Timestamp": {timestamp}, "Svix-Signature": {good}}, signing.ErrMissingHeader},

		{"two ids", http.Header{signing.HeaderID: {id, id}, signing.HeaderTimestamp: {timestamp}, signing.HeaderSignature: {good}}, signing.ErrInvalidHeader},
		{"two timestamps", http.Header{signing.HeaderID: {id}, signing.HeaderTimestamp: {timestamp, timestamp}, signing.HeaderSignature: {good}}, signing.ErrInvalidHeader},
		{"two signatures", http.Header{signing.HeaderID: {id}, signing.HeaderTimestamp: {timestamp}, signing.HeaderSignature: {good, good}}, signing.ErrInvalidHeader},
		{"id too long", headers(long+"i", timestamp, good), signing.ErrInvalidHeader},
		{"id with a space", headers("msg 1", timestamp, good), signing.ErrInvalidHeader},
		{"id with NUL", headers("msg_1\x00", timestamp, good), signing.ErrInvalidHeader},
		{"id not ASCII", headers("msg_é", timestamp, good), signing.ErrInvalidHeader},
		{"timestamp with sign", headers(id, "+1781256600", good), signing.ErrInvalidHeader},
		{"negative timestamp", headers(id, "-1781256600", good), signing.ErrInvalidHeader},
		{"timestamp with fraction", headers(id, "1781256600.0", good), signing.ErrInvalidHeader},
		{"timestamp with space", headers(id, " 1781256600", good), signing.ErrInvalidHeader},
		{"timestamp in hexadecimal", headers(id, "0x6a2bd158", good), signing.ErrInvalidHeader},
		{"timestamp of 13 digits", headers(id, "1781256600000", good), signing.ErrInvalidHeader},
		{"timestamp in other digits", headers(id, "١٧٨١٢٥", good), signing.ErrInvalidHeader},
		{"signature header too long", headers(id, timestamp, good+" "+strings.Repeat("x", signing.MaxSignatureLength)), signing.ErrInvalidHeader},
		{"too many signatures", headers(id, timestamp, strings.Repeat(wrong+" ", signing.MaxSignatures)+good), signing.ErrInvalidHeader},

		{"other id", headers("msg_2", timestamp, good), signing.ErrNoMatch},
		{"other timestamp", headers(id, "1781256601", good), signing.ErrNoMatch},
		{"other id, v1a", headers("msg_2", timestamp, goodEd), signing.ErrNoMatch},
		{"wrong signature", headers(id, timestamp, wrong), signing.ErrNoMatch},
		{"another key", headers(id, timestamp, sign(id, signing.NewKey())), signing.ErrNoMatch},
		{"another ed25519 key", headers(id, timestamp, sign(id, signing.NewEd25519Key())), signing.ErrNoMatch},
		{"no version", headers(id, timestamp, strings.TrimPrefix(good, "v1,")), signing.ErrNoMatch},
		{"other version", headers(id, timestamp, "v2"+strings.TrimPrefix(good, "v1")), signing.ErrNoMatch},
		{"v1 said to be v1a", headers(id, timestamp, "v1a"+strings.TrimPrefix(good, "v1")), signing.ErrNoMatch},
		{"cut short", headers(id, timestamp, good[:len(good)-4]), signing.ErrNoMatch},
		{"only the version", headers(id, timestamp, "v1,"), signing.ErrNoMatch},
		{"something behind", headers(id, timestamp, good+",x"), signing.ErrNoMatch},
		{"upper case version", headers(id, timestamp, "V1"+strings.TrimPrefix(good, "v1")), signing.ErrNoMatch},

		// The timestamp is checked before the signature.
		{"too old", headers(id, "1781256299", good), signing.ErrTooOld},
		{"too new", headers(id, "1781256901", good), signing.ErrTooNew},
		{"long ago", headers(id, "0", good), signing.ErrTooOld},
		{"far ahead", headers(id, "999999999999", good), signing.ErrTooNew},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			v := signing.Verifier{Keys: []signing.Key{{}, key, edKey}, Now: func() time.Time { return at }}
			err := v.Verify(test.h, body)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			if err != nil && !errors.Is(err, signing.ErrVerify) {
				t.Errorf("%v does not match ErrVerify", err)
			}
		})
	}
	if err := (signing.Verifier{}).Verify(headers(id, timestamp, good), body); !errors.Is(err, signing.ErrNoKeys) || !errors.Is(err, signing.ErrVerify) {
		t.Errorf("no keys: %v", err)
	}
	if err := (signing.Verifier{Keys: []signing.Key{{}}, Tolerance: -1}).Verify(headers(id, timestamp, good), body); !errors.Is(err, signing.ErrNoMatch) {
		t.Errorf("the zero key: %v", err)
	}
}

// The library that computes the MAC would take svix-* headers before webhook-*:
// a captured message could be sent again under a new id.
func TestOnlyTheWebhookHeadersCount(t *testing.T) {
	t.Parallel()
	key, body, now := signing.NewKey(), []byte(`{"a":1}`), time.Now()
	h := http.Header{}
	if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(h, "msg_1", now, body); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Id", "Timestamp", "Signature"} {
		h["Svix-"+name] = h["Webhook-"+name]
	}
	h.Set("webhook-id", "msg_2")
	library, err := svix.NewWebhook(key.Secret())
	if err != nil {
		t.Fatal(err)
	}
	if err := library.Verify(body, h); err != nil {
		t.Fatalf("the library is no longer deceived, which this test is about: %v", err)
	}
	if err := (signing.Verifier{Keys: []signing.Key{key}}).Verify(h, body); !errors.Is(err, signing.ErrNoMatch) {
		t.Errorf("got %v, want ErrNoMatch", err)
	}
}

func TestTolerance(t *testing.T) {
	t.Parallel()
	const sent = 1781256600
	key, body := signing.NewKey(), []byte(`{}`)
	h := http.Header{}
	if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(h, "msg_1", time.Unix(sent, 0), body); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		tolerance time.Duration
		now       int64
		want      error
	}{
		{"same second", 0, sent, nil},
		{"5 minutes later", 0, sent + 300, nil},
		{"a second more", 0, sent + 301, signing.ErrTooOld},
		{"5 minutes earlier", 0, sent - 300, nil},
		{"a second less", 0, sent - 301, signing.ErrTooNew},
		{"own, inside", time.Second, sent + 1, nil},
		{"own, outside", time.Second, sent + 2, signing.ErrTooOld},
		{"own, ahead", time.Second, sent - 2, signing.ErrTooNew},
		{"none, years later", -1, sent + 1e9, nil},
		{"none, years earlier", -1, sent - 1e9, nil},
	} {
		v := signing.Verifier{Keys: []signing.Key{key}, Tolerance: test.tolerance, Now: clock(test.now)}
		if err := v.Verify(h, body); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
	if err := (signing.Verifier{Keys: []signing.Key{key}}).Verify(headers("msg_1", "1500000000", h.Get("webhook-signature")), body); !errors.Is(err, signing.ErrTooOld) {
		t.Errorf("without a clock of its own: %v, want ErrTooOld", err)
	}
}

func TestSignRefuses(t *testing.T) {
	t.Parallel()
	key, at := signing.NewKey(), time.Unix(1781256600, 0)
	public, _ := signing.NewEd25519Key().Public()
	for _, test := range []struct {
		name string
		keys []signing.Key
		id   string
		at   time.Time
	}{
		{"no keys", nil, "evt_1", at},
		{"the zero key", []signing.Key{{}}, "evt_1", at},
		{"a public key", []signing.Key{public}, "evt_1", at},
		{"a public key behind another", []signing.Key{key, public}, "evt_1", at},
		{"no id", []signing.Key{key}, "", at},
		{"id too long", []signing.Key{key}, strings.Repeat("i", signing.MaxIDLength+1), at},
		{"id with a line break", []signing.Key{key}, "evt_1\r\nx: y", at},
		{"id with a full stop", []signing.Key{key}, "evt_1.2", at},
		{"before 1970", []signing.Key{key}, "evt_1", time.Unix(-1, 0)},
		{"the zero time", []signing.Key{key}, "evt_1", time.Time{}},
		{"13 digits", []signing.Key{key}, "evt_1", time.Unix(1e12, 0)},
	} {
		h := http.Header{}
		err := (signing.Signer{Keys: test.keys}).SetHeaders(h, test.id, test.at, nil)
		if !errors.Is(err, signing.ErrSign) {
			t.Errorf("%s: got %v, want ErrSign", test.name, err)
		}
		if len(h) != 0 {
			t.Errorf("%s: headers %v were set", test.name, h)
		}
	}
}
