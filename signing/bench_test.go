package signing_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/handover-dev/handover/signing"
)

func BenchmarkSign(b *testing.B) {
	s := signing.Signer{Keys: []signing.Key{signing.NewKey()}}
	body := make([]byte, 600)
	at := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Sign("evt_118200000000009001", at, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	keys := []signing.Key{signing.NewKey()}
	body, h := make([]byte, 600), http.Header{}
	if err := (signing.Signer{Keys: keys}).SetHeaders(h, "evt_118200000000009001", time.Now(), body); err != nil {
		b.Fatal(err)
	}
	v := signing.Verifier{Keys: keys, Tolerance: -1}
	b.ReportAllocs()
	for b.Loop() {
		if err := v.Verify(h, body); err != nil {
			b.Fatal(err)
		}
	}
}
