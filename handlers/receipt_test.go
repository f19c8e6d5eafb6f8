package handlers_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/handlers"
)

// The receipt of the contract.
const contractReceipt = `{
  "type": "receipt",
  "status": "completed",
  "resources": [
    {"type": "document", "found": 37, "transferred": 35, "retained": 2, "to": "usr_118200000000001007",
     "retain_until": "2027-06-01T00:00:00Z", "retain_basis": "litigation hold"},
    {"type": "draft",   "found": 5, "deleted": 5},
    {"type": "api_key", "found": 4, "revoked": 4}
  ],
  "message": ""
}`

func TestParseReceiptOfTheContract(t *testing.T) {
	t.Parallel()
	got, err := handlers.ParseReceipt([]byte(contractReceipt))
	if err != nil {
		t.Fatal(err)
	}
	until := time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)
	want := handlers.Receipt{Type: "receipt", Status: "completed", Resources: []handlers.Resource{
		{Type: "document", Found: 37, Transferred: 35, Retained: 2, To: "usr_118200000000001007", RetainUntil: &until, RetainBasis: "litigation hold"},
		{Type: "draft", Found: 5, Deleted: 5},
		{Type: "api_key", Found: 4, Revoked: 4},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got.Outcome() != "transferred" {
		t.Errorf("outcome %q", got.Outcome())
	}
}

func TestParseReceiptRules(t *testing.T) {
	t.Parallel()
	resource := func(fields string) string {
		return `{"type":"receipt","status":"completed","resources":[{"type":"draft","found":1,"deleted":1},{` + fields + `}]}`
	}
	const none = "none" // the answer is not a receipt at all
	for _, c := range []struct{ name, answer, outcome, reason string }{
		{"no resources", `{"type":"receipt","status":"completed"}`, "nothing_to_do", ""},
		{"all found 0", `{"type":"receipt","status":"completed","resources":[{"type":"a"}]}`, "nothing_to_do", ""},
		{"unknown fields", `{"type":"receipt","status":"completed","new":{"a":[1]},"resources":[{"type":"a","new":1}]}`, "nothing_to_do", ""},
		{"nulls", `{"type":"receipt","status":"completed","resources":null,"message":null}`, "nothing_to_do", ""},
		{"null texts", resource(`"type":"a","to":null,"retain_until":null,"retain_basis":null`), "deleted", ""},
		{"in progress", `{"type":"receipt","status":"in_progress"}`, "in_progress", ""},
		{"in progress, part done", `{"type":"receipt","status":"in_progress","resources":[{"type":"a","found":2,"deleted":1,"failed":1}]}`, "in_progress", ""},
		{"blocked", `{"type":"receipt","status":"blocked","message":"two owners left"}`, "blocked", ""},
		{"failed", `{"type":"receipt","status":"failed","resources":[{"type":"a","found":1,"failed":1}]}`, "failed", ""},
		{"transferred over deleted", resource(`"type":"a","found":1,"transferred":1,"to":"usr_1"`), "transferred", ""},
		{"anonymized", `{"type":"receipt","status":"completed","resources":[{"type":"a","found":1,"anonymized":1}]}`, "deleted", ""},
		{"revoked", `{"type":"receipt","status":"completed","resources":[{"type":"a","found":1,"revoked":1}]}`, "deleted", ""},
		{"retained", `{"type":"receipt","status":"completed","resources":[{"type":"a","found":1,"retained":1,"retain_basis":"tax law"}]}`, "retained", ""},
		{"skipped", `{"type":"receipt","status":"completed","resources":[{"type":"a","found":1,"skipped":1}]}`, "retained", ""},
		{"longest type", resource(`"type":"` + strings.Repeat("a", 64) + `"`), "deleted", ""},
		{"type with all it may have", resource(`"type":"a.b_9"`), "deleted", ""},

		{"empty", ``, "", none},
		{"text", `ok`, "", none},
		{"null", `null`, "", none},
		{"list", `[]`, "", none},
		{"another answer", `{"received":true}`, "", none},
		{"another type", `{"type":"Receipt","status":"completed"}`, "", none},
		{"type in a field of another case", `{"Type":"receipt","status":"completed"}`, "", none},
		{"type not a string", `{"type":1}`, "", none},
		{"trailing data", `{"type":"receipt","status":"completed"}{}`, "", none},
		{"large and no receipt", `{"x":"` + strings.Repeat("x", handlers.MaxReceipt) + `"}`, "", none},

		{"no status", `{"type":"receipt"}`, "", "status is not completed, in_progress, blocked or failed"},
		{"unknown status", `{"type":"receipt","status":"done"}`, "", "status is not completed, in_progress, blocked or failed"},
		{"status in a field of another case", `{"type":"receipt","Status":"completed"}`, "", "status is not completed, in_progress, blocked or failed"},
		{"status not a string", `{"type":"receipt","status":{}}`, "", "status is not a string"},
		{"message not a string", `{"type":"receipt","status":"completed","message":1}`, "", "message is not a string"},
		{"message with NUL", `{"type":"receipt","status":"completed","message":"a\u0000"}`, "", "message has a NUL character"},
		{"blocked by nothing", `{"type":"receipt","status":"blocked"}`, "", "message is missing: it has to say what blocks"},
		{"resources not a list", `{"type":"receipt","status":"completed","resources":{}}`, "", "resources is not a list"},
		{"resource not an object", `{"type":"receipt","status":"completed","resources":[1]}`, "", "resources[0] is not an object"},
		{"resource null", `{"type":"receipt","status":"completed","resources":[null]}`, "", "resources[0] is not an object"},
		{"no resource type", resource(`"found":0`), "", "resources[1].type is not like ^[a-z][a-z0-9_.]{0,63}$"},
		{"upper case", resource(`"type":"Document"`), "", "resources[1].type is not like ^[a-z][a-z0-9_.]{0,63}$"},
		{"digit first", resource(`"type":"9a"`), "", "resources[1].type is not like ^[a-z][a-z0-9_.]{0,63}$"},
		{"type too long", resource(`"type":"` + strings.Repeat("a", 65) + `"`), "", "resources[1].type is not like ^[a-z][a-z0-9_.]{0,63}$"},
		{"type twice", resource(`"type":"draft"`), "", "resources[1].type stands in the receipt already"},
		{"negative", resource(`"type":"a","found":-1,"deleted":-1`), "", "resources[1].found is not a non-negative integer below 2^53"},
		{"negative that cancels out", resource(`"type":"a","found":1,"deleted":2,"skipped":-1`), "", "resources[1].skipped is not a non-negative integer below 2^53"},
		{"fraction", resource(`"type":"a","found":1.5`), "", "resources[1].found is not a non-negative integer"},
		{"count as text", resource(`"type":"a","found":"1"`), "", "resources[1].found is not a non-negative integer"},
		{"count null", resource(`"type":"a","found":null`), "", "resources[1].found is not a non-negative integer"},
		{"count over int64", resource(`"type":"a","found":9223372036854775808`), "", "resources[1].found is not a non-negative integer"},
		{"counts that overflow", resource(`"type":"a","found":0,"deleted":9223372036854775807,"skipped":9223372036854775807,"revoked":2`), "", "resources[1].deleted is not a non-negative integer below 2^53"},
		{"sum", resource(`"type":"a","found":3,"deleted":1,"skipped":1`), "", "resources[1].found is 3 but the counts add up to 2"},
		{"found missing", resource(`"type":"a","deleted":5`), "", "resources[1].found is 0 but the counts add up to 5"},
		{"no new owner", resource(`"type":"a","found":1,"transferred":1`), "", "resources[1].to is missing: it has to say who the new owner is"},
		{"new owner with NUL", resource(`"type":"a","found":1,"transferred":1,"to":"\u0000"`), "", "resources[1].to has a NUL character"},
		{"no basis", resource(`"type":"a","found":1,"retained":1`), "", "resources[1].retain_basis is missing: it has to say why they are kept"},
		{"basis with NUL", resource(`"type":"a","retain_basis":"\u0000"`), "", "resources[1].retain_basis has a NUL character"},
		{"until is no time", resource(`"type":"a","retain_until":"tomorrow"`), "", "resources[1].retain_until is not an RFC 3339 time"},
		{"completed with failures", resource(`"type":"a","found":1,"failed":1`), "", "resources[1].failed is not 0 though the status is completed"},
		{"too large", `{"type":"receipt","status":"completed","message":"` + strings.Repeat("x", handlers.MaxReceipt) + `"}`, "", "it is larger than 64 KiB"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := handlers.ParseReceipt([]byte(c.answer))
			var invalid *handlers.ReceiptError
			switch {
			case c.reason == none:
				if !errors.Is(err, handlers.ErrNoReceipt) {
					t.Errorf("error %v, want ErrNoReceipt", err)
				}
			case c.reason != "":
				if !errors.As(err, &invalid) || invalid.Reason != c.reason {
					t.Errorf("error %v, want reason %q", err, c.reason)
				}
			case err != nil:
				t.Error(err)
			case r.Outcome() != c.outcome:
				t.Errorf("outcome %q, want %q", r.Outcome(), c.outcome)
			}
		})
	}
}

func TestValidateBuiltReceipt(t *testing.T) {
	t.Parallel()
	var invalid *handlers.ReceiptError
	if err := (handlers.Receipt{Status: "completed"}).Validate(); !errors.As(err, &invalid) {
		t.Errorf("a receipt without its type is valid: %v", err)
	}
	r := handlers.Receipt{Type: "receipt", Status: "completed", Resources: []handlers.Resource{{Type: "a", Found: math.MinInt64, Deleted: math.MinInt64}}}
	if err := r.Validate(); !errors.As(err, &invalid) {
		t.Errorf("counts that wrap around are valid: %v", err)
	}
}

func FuzzParseReceipt(f *testing.F) {
	f.Add([]byte(contractReceipt))
	f.Add([]byte(`{"type":"receipt","status":"blocked","message":"m","resources":[{"type":"a","found":1,"failed":1}]}`))
	f.Add([]byte(`{"type":"receipt","status":"completed","resources":[{"type":"a","found":null}]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		r, err := handlers.ParseReceipt(answer)
		var invalid *handlers.ReceiptError
		if err != nil {
			if !errors.Is(err, handlers.ErrNoReceipt) && !errors.As(err, &invalid) {
				t.Fatalf("an error of neither kind: %v", err)
			}
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("accepted and not valid: %v", err)
		}
		again, err := handlers.ParseReceipt(mustJSON(t, r))
		if err != nil {
			t.Fatalf("written and not read: %v", err)
		}
		if diff := cmp.Diff(r, again); diff != "" {
			t.Fatal(diff)
		}
	})
}
