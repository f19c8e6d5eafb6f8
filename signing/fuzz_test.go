package signing_test

import (
	"errors"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/handover-dev/handover/signing"
)

// FuzzVerify: whatever stands in the headers, Verify does not panic, accepts
// nothing that the reference library refuses, and nothing that breaks the rules
// for the headers.
func FuzzVerify(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.ID, v.Timestamp, v.Signature, v.Body)
	}
	f.Add("msg_1", "+1", "v1,", []byte("{}"))
	f.Add("", "1781256600000", "v1a,AAAA v1,x,y", []byte{})
	key := parseKey(f, "whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=")
	private := parseKey(f, "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==")
	reference, err := standardwebhooks.NewWebhook(key.Secret())
	if err != nil {
		f.Fatal(err)
	}
	strict := regexp.MustCompile(`^[0-9]{1,12}$`)
	f.Fuzz(func(t *testing.T, id, timestamp, signature string, body []byte) {
		h := headers(id, timestamp, signature)
		v := signing.Verifier{Keys: []signing.Key{key}, Tolerance: -1}
		err := v.Verify(h, body)
		if err != nil && !errors.Is(err, signing.ErrVerify) {
			t.Fatalf("%v does not match ErrVerify", err)
		}
		if err == nil {
			if reference.VerifyIgnoringTimestamp(body, h) != nil {
				t.Fatal("the reference library refuses what was verified")
			}
			if !strict.MatchString(timestamp) || len(id) > signing.MaxIDLength || len(signature) > signing.MaxSignatureLength {
				t.Fatal("a header that breaks the rules was accepted")
			}
		}
		sec, perr := strconv.ParseInt(timestamp, 10, 64)
		if perr != nil {
			return
		}
		h = http.Header{}
		signer := signing.Signer{Keys: []signing.Key{private, key}}
		if err := signer.SetHeaders(h, id, time.Unix(sec, 0), body); err != nil {
			return
		}
		for _, k := range []signing.Key{key, private} {
			v.Keys = []signing.Key{k}
			if err := v.Verify(h, body); err != nil {
				t.Fatalf("what was signed does not verify: %v", err)
			}
		}
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(signing.NewKey().Secret())
	f.Add(signing.NewEd25519Key().Secret())
	f.Add("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=")
	f.Add("whsec_")
	f.Fuzz(func(t *testing.T, s string) {
		key, err := signing.ParseKey(s)
		if err != nil {
			if !errors.Is(err, signing.ErrInvalidKey) {
				t.Fatalf("%v does not match ErrInvalidKey", err)
			}
			return
		}
		again, err := signing.ParseKey(key.Secret())
		if err != nil || !again.Equal(key) {
			t.Fatalf("the text form gives another key: %v", err)
		}
	})
}
