package handlers

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxReceipt is the size of the largest answer that is read as a receipt, in bytes.
const MaxReceipt = 64 << 10

// The values of [Receipt.Status].
const (
	StatusCompleted  = "completed"   // all is done
	StatusBlocked    = "blocked"     // a person has to decide; the message says what
	StatusFailed     = "failed"      // it cannot be done
	StatusInProgress = "in_progress" // accepted, more is to come
)

// A Receipt is what an app says it did about an event: the JSON body of its
// answer. Functions return an [Outcome] and the [Receiver] makes the receipt;
// the type is here for those who read answers, or write them by other means.
type Receipt struct {
	Type      string     `json:"type"`                // always "receipt"
	Status    string     `json:"status"`              // completed, in_progress, blocked or failed
	Resources []Resource `json:"resources,omitempty"` // one per type of resource; none: there was nothing to do
	Message   string     `json:"message,omitempty"`   // for a person to read; required when blocked
}

// A Resource counts what became of one type of thing. Found is the sum of the
// counts that follow it.
type Resource struct {
	Type        string     `json:"type"`                   // the app's own word: ^[a-z][a-z0-9_.]{0,63}$
	Found       int64      `json:"found"`                  // how many the person had
	Transferred int64      `json:"transferred,omitempty"`  // belong to someone else now
	Deleted     int64      `json:"deleted,omitempty"`      // are gone
	Anonymized  int64      `json:"anonymized,omitempty"`   // are kept without the person in them
	Revoked     int64      `json:"revoked,omitempty"`      // credentials that no longer work
	Retained    int64      `json:"retained,omitempty"`     // have to be kept
	Skipped     int64      `json:"skipped,omitempty"`      // left as they are on purpose
	Failed      int64      `json:"failed,omitempty"`       // could not be dealt with
	To          string     `json:"to,omitempty"`           // the new owner; required when Transferred > 0
	RetainUntil *time.Time `json:"retain_until,omitempty"` // when they may go; nil: not known
	RetainBasis string     `json:"retain_basis,omitempty"` // why they are kept; required when Retained > 0
}

// ErrNoReceipt says that an answer is not a receipt at all, which is allowed:
// not a JSON object, or one whose type is not "receipt".
var ErrNoReceipt = errors.New("answer is not a receipt")

// A ReceiptError says which rule of the contract a receipt breaks.
type ReceiptError struct {
	Reason string // names the field; repeats nothing of the answer's text
}

func (e *ReceiptError) Error() string { return "invalid receipt: " + e.Reason }

func broken(format string, args ...any) error {
	return &ReceiptError{Reason: fmt.Sprintf(format, args...)}
}

// ParseReceipt reads the body of an answer. The error matches [ErrNoReceipt]
// when it is no receipt, and is a [*ReceiptError] when it is one that breaks a
// rule. Fields that are not in the contract are ignored; names are compared
// exactly; null stands for an absent field, except for a count.
func ParseReceipt(answer []byte) (Receipt, error) {
	top, ok := object(answer)
	if !ok || top.text("type") != "receipt" {
		return Receipt{}, ErrNoReceipt
	}
	if len(answer) > MaxReceipt {
		return Receipt{}, broken("it is larger than %d KiB", MaxReceipt>>10)
	}
	r := Receipt{Type: top.text("type"), Status: top.text("status"), Message: top.text("message")}
	var list []json.RawMessage
	top.read("resources", &list, "a list")
	for i, raw := range list {
		o, ok := object(raw)
		if !ok {
			return Receipt{}, broken("resources[%d] is not an object", i)
		}
		o.at = fmt.Sprintf("resources[%d].", i)
		r.Resources = append(r.Resources, Resource{
			Type: o.text("type"), Found: o.count("found"),
			Transferred: o.count("transferred"), Deleted: o.count("deleted"), Anonymized: o.count("anonymized"),
			Revoked: o.count("revoked"), Retained: o.count("retained"), Skipped: o.count("skipped"), Failed: o.count("failed"),
			To: o.text("to"), RetainUntil: o.time("retain_until"), RetainBasis: o.text("retain_basis"),
		})
		if o.err != nil {
			return Receipt{}, o.err
		}
	}
	if top.err != nil {
		return Receipt{}, top.err
	}
	if err := r.Validate(); err != nil {
		return Receipt{}, err
	}
	return r, nil
}

// fields are those of one JSON object; the first that cannot be read is in err.
type fields struct {
	at  string
	raw map[string]json.RawMessage
	err error
}

func object(data []byte) (*fields, bool) {
	f := &fields{}
	return f, json.Unmarshal(data, &f.raw) == nil && f.raw != nil
}

func (f *fields) read(name string, into any, what string) {
	if raw, ok := f.raw[name]; ok && json.Unmarshal(raw, into) != nil {
		f.fail(name, what)
	}
}

func (f *fields) fail(name, what string) {
	f.err = cmp.Or(f.err, broken("%s%s is not %s", f.at, name, what))
}

func (f *fields) text(name string) (s string) {
	f.read(name, &s, "a string")
	return s
}

func (f *fields) count(name string) (n int64) {
	const what = "a non-negative integer"
	if string(f.raw[name]) == "null" {
		f.fail(name, what)
	}
	f.read(name, &n, what)
	return n
}

func (f *fields) time(name string) (t *time.Time) {
	f.read(name, &t, "an RFC 3339 time")
	return t
}

// maxCount is the largest integer that every JSON library keeps exactly.
const maxCount = 1<<53 - 1

// Validate returns a [*ReceiptError] for the first rule that the receipt breaks.
func (r Receipt) Validate() error {
	if r.Type != "receipt" {
		return broken(`type is not "receipt"`)
	}
	switch r.Status {
	case StatusCompleted, StatusInProgress, StatusFailed:
	case StatusBlocked:
		if r.Message == "" {
			return broken("message is missing: it has to say what blocks")
		}
	default:
		return broken("status is not completed, in_progress, blocked or failed")
	}
	if strings.ContainsRune(r.Message, 0) {
		return broken("message has a NUL character")
	}
	seen := make(map[string]bool, len(r.Resources))
	for i, res := range r.Resources {
		if err := res.validate(fmt.Sprintf("resources[%d].", i)); err != nil {
			return err
		}
		if seen[res.Type] {
			return broken("resources[%d].type stands in the receipt already", i)
		}
		seen[res.Type] = true
		if r.Status == StatusCompleted && res.Failed > 0 {
			return broken("resources[%d].failed is not 0 though the status is completed", i)
		}
	}
	return nil
}

func (r Resource) validate(at string) error {
	if !isResourceType(r.Type) {
		return broken("%stype is not like ^[a-z][a-z0-9_.]{0,63}$", at)
	}
	var sum int64
	for _, c := range []struct {
		name string
		n    int64
	}{
		{"found", r.Found},
		{"transferred", r.Transferred},
		{"deleted", r.Deleted},
		{"anonymized", r.Anonymized},
		{"revoked", r.Revoked},
		{"retained", r.Retained},
		{"skipped", r.Skipped},
		{"failed", r.Failed},
	} {
		if c.n < 0 || c.n > maxCount {
			return broken("%s%s is not a non-negative integer below 2^53", at, c.name)
		}
		sum += c.n
	}
	sum -= r.Found
	switch {
	case sum != r.Found:
		return broken("%sfound is %d but the counts add up to %d", at, r.Found, sum)
	case r.Transferred > 0 && r.To == "":
		return broken("%sto is missing: it has to say who the new owner is", at)
	case r.Retained > 0 && r.RetainBasis == "":
		return broken("%sretain_basis is missing: it has to say why they are kept", at)
	case strings.ContainsRune(r.To, 0):
		return broken("%sto has a NUL character", at)
	case strings.ContainsRune(r.RetainBasis, 0):
		return broken("%sretain_basis has a NUL character", at)
	}
	return nil
}

func isResourceType(s string) bool {
	for i, c := range []byte(s) {
		if 'a' <= c && c <= 'z' || i > 0 && (c == '_' || c == '.' || '0' <= c && c <= '9') {
			continue
		}
		return false
	}
	return 1 <= len(s) && len(s) <= 64
}

// Outcome sums a receipt up in one word. A status other than completed is its
// own word: in_progress, blocked, failed. A completed one is, by the first that
// applies to any resource, transferred; deleted (which anonymized and revoked
// are too); retained (which skipped is too); else nothing_to_do.
func (r Receipt) Outcome() string {
	if r.Status != StatusCompleted {
		return r.Status
	}
	var moved, gone, kept int64
	for _, res := range r.Resources {
		moved += res.Transferred
		gone += res.Deleted + res.Anonymized + res.Revoked
		kept += res.Retained + res.Skipped
	}
	switch {
	case moved > 0:
		return "transferred"
	case gone > 0:
		return "deleted"
	case kept > 0:
		return "retained"
	default:
		return "nothing_to_do"
	}
}
