package signing_test

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"time"

	"github.com/handover-dev/handover/signing"
)

const secret = "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="

func ExampleSigner_SetHeaders() {
	key, err := signing.ParseKey(secret)
	if err != nil {
		log.Fatal(err)
	}
	body := `{"hello":"world"}`
	req, err := http.NewRequest(http.MethodPost, "https://app.example.com/webhooks", strings.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	at := time.Date(2026, 6, 12, 9, 30, 0, 0, time.UTC) // time.Now(), for each attempt
	signer := signing.Signer{Keys: []signing.Key{key}}
	if err := signer.SetHeaders(req.Header, "msg_118200000000000001", at, []byte(body)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(req.Header.Get("webhook-id"))
	fmt.Println(req.Header.Get("webhook-timestamp"))
	fmt.Println(req.Header.Get("webhook-signature"))
	// Output:
	// msg_118200000000000001
	// 1781256600
	// v1,sRn+2Bl7jo+tBU1KtJex+TiNYZ+MfaDXPgYra3M2rhE=
}

func ExampleVerifier_Verify() {
	key, err := signing.ParseKey(secret)
	if err != nil {
		log.Fatal(err)
	}
	h := http.Header{}
	h.Set("webhook-id", "msg_118200000000000001")
	h.Set("webhook-timestamp", "1781256600")
	h.Set("webhook-signature", "v1,sRn+2Bl7jo+tBU1KtJex+TiNYZ+MfaDXPgYra3M2rhE=")

	verifier := signing.Verifier{
		Keys: []signing.Key{key},
		Now:  func() time.Time { return time.Unix(1781256660, 0) }, // leave it out outside of tests
	}
	fmt.Println(verifier.Verify(h, []byte(`{"hello":"world"}`)))
	fmt.Println(verifier.Verify(h, []byte(`{"hello": "world"}`)))

	verifier.Now = func() time.Time { return time.Unix(1781257200, 0) }
	err = verifier.Verify(h, []byte(`{"hello":"world"}`))
	fmt.Println(errors.Is(err, signing.ErrTooOld), errors.Is(err, signing.ErrVerify))
	// Output:
	// <nil>
	// message not verified: no matching signature
	// true true
}

// To replace a key, sign with both until every receiver has the new one.
func ExampleSigner_rotation() {
	old, next := signing.NewKey(), signing.NewKey()
	h, body := http.Header{}, []byte(`{"rotated":true}`)
	signer := signing.Signer{Keys: []signing.Key{next, old}}
	if err := signer.SetHeaders(h, "msg_1", time.Now(), body); err != nil {
		log.Fatal(err)
	}
	for _, key := range []signing.Key{old, next} {
		verifier := signing.Verifier{Keys: []signing.Key{key}}
		fmt.Println(verifier.Verify(h, body))
	}
	// Output:
	// <nil>
	// <nil>
}

// With ed25519 the receivers hold nothing that could sign.
func ExampleKey_Public() {
	private := signing.NewEd25519Key()
	public, _ := private.Public()
	h, body := http.Header{}, []byte(`{}`)
	if err := (signing.Signer{Keys: []signing.Key{private}}).SetHeaders(h, "msg_1", time.Now(), body); err != nil {
		log.Fatal(err)
	}
	fmt.Println(public.CanSign())
	fmt.Println(signing.Verifier{Keys: []signing.Key{public}}.Verify(h, body))
	// Output:
	// false
	// <nil>
}

func ExampleKey() {
	key, err := signing.ParseKey(secret)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(key)
	fmt.Printf("%+v %#v\n", key, key)
	fmt.Println(key.Secret() == secret)

	_, err = signing.ParseKey("whsec_c2hvcnQ=")
	fmt.Println(err)
	// Output:
	// whsec_[redacted]
	// whsec_[redacted] signing.Key(whsec_[redacted])
	// true
	// invalid key: whsec_ needs 24 to 64 bytes, these are 5
}
