// Package mapping makes removals of other senders' events. A mapping says where
// their events have what one of ours is made of, by JSON Pointers (RFC 6901),
// and which of their types mean what:
//
//	{
//	  "type": "/type",
//	  "time": "/timestamp",
//	  "organization": "/data/workspace/id",
//	  "user": "/data/member/id",
//	  "email": "/data/member/email",
//	  "external_id": "/data/member/employee_number",
//	  "id": "/id",
//	  "removals": ["member.removed", "member.suspended"],
//	  "additions": ["member.added"]
//	}
//
// Events of a removal become user.organization_membership_deleted, those of an
// addition user.organization_membership_created. Others mean nothing; of these
// only the type is looked at.
//
// A time is a string of RFC 3339, or a whole number of seconds, or of
// milliseconds where it has more than 11 digits, since 1970. An organization, a
// user, an external id and an id are strings or whole numbers. An organization's
// id that does not begin with org_ gets it put in front, a user's usr_. Email and
// external id may be absent; the rest has to be there. An event without an id
// pointer is known by its webhook-id; our event's id is made of either and of
// the source, and so is the same for each copy.
package mapping

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/handover-dev/handover/events"
)

// A Mapping is what a person writes.
type Mapping struct {
	Type         string   `json:"type" minLength:"1" maxLength:"256" doc:"JSON Pointer to the type of an event." example:"/type"`
	Time         string   `json:"time" minLength:"1" maxLength:"256" doc:"JSON Pointer to when it happened: RFC 3339, or whole seconds or milliseconds since 1970." example:"/timestamp"`
	Organization string   `json:"organization" minLength:"1" maxLength:"256" doc:"JSON Pointer to the organization's id; org_ is put in front where it is not." example:"/data/workspace/id"`
	User         string   `json:"user" minLength:"1" maxLength:"256" doc:"JSON Pointer to the user's id; usr_ is put in front where it is not." example:"/data/member/id"`
	Email        string   `json:"email,omitempty" maxLength:"256" doc:"JSON Pointer to the user's email, which an event may lack." example:"/data/member/email"`
	ExternalID   string   `json:"external_id,omitempty" maxLength:"256" doc:"JSON Pointer to the user's id in the apps, which an event may lack."`
	ID           string   `json:"id,omitempty" maxLength:"256" doc:"JSON Pointer to the event's id; absent: the webhook-id." example:"/id"`
	Removals     []string `json:"removals,omitempty" nullable:"false" maxItems:"100" doc:"Types that mean that the user left the organization." example:"[\"member.removed\"]"`
	Additions    []string `json:"additions,omitempty" nullable:"false" maxItems:"100" doc:"Types that mean that the user became a member."`
}

// Bounds on a mapping.
const (
	MaxSize   = 64 << 10 // bytes of its JSON
	maxTypes  = 100
	maxPath   = 256 // bytes of a pointer
	maxSteps  = 32  // of a pointer
	maxRaw    = 64 << 10
	maxNumber = 20 // digits of an id
)

// A FieldError says which field of a mapping is wrong, or of an event, where
// Field is the pointer to it.
type FieldError struct{ Field, Reason string }

func (e *FieldError) Error() string { return e.Field + " " + e.Reason }

// pointers lists the pointers of a mapping by their names.
func (m *Mapping) pointers() []struct {
	name, text string
	required   bool
} {
	return []struct {
		name, text string
		required   bool
	}{
		{"type", m.Type, true},
		{"time", m.Time, true},
		{"organization", m.Organization, true},
		{"user", m.User, true},
		{"email", m.Email, false},
		{"external_id", m.ExternalID, false},
		{"id", m.ID, false},
	}
}

// Parse reads a mapping strictly: it is one JSON object in which every key is
// known and there once. What the pointers are is for Compile to say.
func Parse(text []byte) (Mapping, error) {
	if len(text) > MaxSize {
		return Mapping{}, fmt.Errorf("it is longer than %d bytes", MaxSize)
	}
	var fault *events.SyntaxError
	if errors.As(checkJSON(text), &fault) {
		return Mapping{}, fmt.Errorf("at byte %d: %s", fault.Offset, fault.Reason)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(text, &keys); err != nil {
		return Mapping{}, errors.New("it is not a JSON object")
	}
	var m Mapping
	known := []string{"removals", "additions"}
	for _, p := range m.pointers() {
		known = append(known, p.name)
	}
	for key := range keys {
		if !slices.Contains(known, key) { // encoding/json would also take "Type" for "type"
			return Mapping{}, &FieldError{strconv.Quote(shorten(key)), "is not a key of a mapping; these are " + strings.Join(known, ", ")}
		}
	}
	if err := json.Unmarshal(text, &m); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return Mapping{}, &FieldError{wrong.Field, "has to be a " + map[bool]string{true: "list of strings", false: "string"}[slices.Contains(known[:2], wrong.Field)]}
		}
		return Mapping{}, errors.New("it cannot be read")
	}
	return m, nil
}

func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// checkJSON asks of a text what [events.Parse] asks before it looks at any
// field: one JSON object, bounded, without a key that is there twice.
func checkJSON(text []byte) error {
	var fault *events.SyntaxError
	if _, err := events.Parse(text); errors.As(err, &fault) {
		return fault
	}
	return nil
}

// Meaning is what an event of a type means.
type Meaning int

// The meanings.
const (
	Nothing Meaning = iota
	Removal
	Addition
)

// Compiled is a mapping that can be used. It is safe for concurrent use.
type Compiled struct {
	typ, time, organization, user, email, externalID, id pointer
	meaning                                              map[string]Meaning
}

// Compile checks a mapping. Every error is a *FieldError.
func (m Mapping) Compile() (*Compiled, error) {
	c := &Compiled{meaning: make(map[string]Meaning)}
	targets := []*pointer{&c.typ, &c.time, &c.organization, &c.user, &c.email, &c.externalID, &c.id}
	for i, p := range m.pointers() {
		if p.text == "" {
			if p.required {
				return nil, &FieldError{p.name, "is required"}
			}
			continue
		}
		var err error
		if *targets[i], err = parsePointer(p.text); err != nil {
			return nil, &FieldError{p.name, err.Error()}
		}
	}
	for _, l := range []struct {
		name    string
		types   []string
		meaning Meaning
	}{{"removals", m.Removals, Removal}, {"additions", m.Additions, Addition}} {
		if len(l.types) > maxTypes {
			return nil, &FieldError{l.name, fmt.Sprintf("has more than %d types", maxTypes)}
		}
		for i, typ := range l.types {
			at := fmt.Sprintf("%s[%d]", l.name, i)
			switch before, ok := c.meaning[typ]; {
			case typ == "" || len(typ) > events.MaxID:
				return nil, &FieldError{at, fmt.Sprintf("has to have 1 to %d bytes", events.MaxID)}
			case ok && before != l.meaning:
				return nil, &FieldError{at, "is among the removals too"}
			}
			c.meaning[typ] = l.meaning
		}
	}
	if len(c.meaning) == 0 {
		return nil, &FieldError{"removals", "needs a type, or additions do"}
	}
	return c, nil
}

// A pointer is a JSON Pointer (RFC 6901) in its steps.
type pointer struct {
	text  string
	steps []string
}

func parsePointer(text string) (pointer, error) {
	switch {
	case len(text) > maxPath:
		return pointer{}, fmt.Errorf("is longer than %d bytes", maxPath)
	case text[0] != '/':
		return pointer{}, errors.New("has to be a JSON Pointer, such as /data/user/id")
	case !utf8.ValidString(text):
		return pointer{}, errors.New("is not UTF-8")
	}
	steps := strings.Split(text[1:], "/")
	if len(steps) > maxSteps {
		return pointer{}, fmt.Errorf("has more than %d steps", maxSteps)
	}
	for i, step := range steps {
		for rest := step; ; {
			_, after, found := strings.Cut(rest, "~")
			if !found {
				break
			}
			if after == "" || after[0] != '0' && after[0] != '1' {
				return pointer{}, errors.New("has a ~ that is neither ~0 (for ~) nor ~1 (for /)")
			}
			rest = after
		}
		steps[i] = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
	}
	return pointer{text, steps}, nil
}

// in returns what the pointer points at, nil where that is nothing or null.
func (p pointer) in(document any) any {
	v := document
	for _, step := range p.steps {
		switch at := v.(type) {
		case map[string]any:
			v = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(at) || strconv.Itoa(i) != step {
				return nil
			}
			v = at[i]
		default:
			return nil
		}
	}
	return v
}

// An Origin is whence an event came, which is not in its body.
type Origin struct {
	SourceID      string
	WebhookID     string
	EnvironmentID string
}

// A Result is what became of a sender's event.
type Result struct {
	Type    string // theirs
	Meaning Meaning
	Event   events.Event // unless it means nothing
}

// Map makes an event of ours of a sender's. Its errors are a
// *[events.SyntaxError] for a body that is not the JSON that is asked for, and a
// *FieldError that names the pointer at which something is missing or odd.
// Neither quotes the body.
func (c *Compiled) Map(body []byte, o Origin) (Result, error) {
	if err := checkJSON(body); err != nil {
		return Result{}, err
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber() // some numbers fit no float
	var document any
	if err := d.Decode(&document); err != nil {
		return Result{}, &FieldError{"", "cannot be read"} // does not happen: it was checked
	}
	typ, ok := c.typ.in(document).(string)
	if !ok {
		return Result{}, missing(c.typ, c.typ.in(document), "a string")
	}
	r := Result{Type: typ, Meaning: c.meaning[typ]}
	if r.Meaning == Nothing {
		return r, nil
	}
	var err error
	r.Event, err = c.event(r.Meaning, document, body, o)
	return r, err
}

// membership is the data of the events that are made here.
type membership struct {
	Organization events.Organization `json:"organization"`
	User         events.User         `json:"user"`
	Reason       string              `json:"reason,omitempty"`
	Source       source              `json:"source"`
	Raw          json.RawMessage     `json:"raw,omitempty"`
}

// source tells where an event comes from.
type source struct {
	ID   string `json:"id"`
	Type string `json:"type"`
}

func (c *Compiled) event(m Meaning, document any, body []byte, o Origin) (events.Event, error) {
	at, err := c.when(document)
	if err != nil {
		return events.Event{}, err
	}
	typ, _ := c.typ.in(document).(string)
	data := membership{Source: source{o.SourceID, typ}}
	if data.Organization.ID, err = c.prefixed(c.organization, document, "org_"); err != nil {
		return events.Event{}, err
	}
	if data.User.ID, err = c.prefixed(c.user, document, "usr_"); err != nil {
		return events.Event{}, err
	}
	if data.User.Email, err = text(c.email, document, 254); err != nil {
		return events.Event{}, err
	}
	if email := data.User.Email; email != "" && !isAddress(email) {
		return events.Event{}, &FieldError{c.email.text, "has to be an email address"}
	}
	if data.User.ExternalID, err = text(c.externalID, document, events.MaxID); err != nil {
		return events.Event{}, err
	}
	id := o.WebhookID
	if c.id.text != "" {
		if id, err = text(c.id, document, len(body)); err != nil {
			return events.Event{}, err
		}
		if id == "" {
			return events.Event{}, missing(c.id, nil, "")
		}
	}
	hash := sha256.Sum256([]byte(o.SourceID + "\x00" + id))
	d := events.Defaults{
		EnvironmentID: o.EnvironmentID,
		Now:           func() time.Time { return at },
		NewID:         func() string { return "evt_" + hex.EncodeToString(hash[:16]) },
	}
	kind := events.Type[membership]{Name: events.MembershipCreated.Name}
	if m == Removal {
		kind.Name, data.Reason = events.MembershipRemoved.Name, "upstream"
	}
	if len(body) < maxRaw {
		data.Raw = body
		if ev, err := events.New(kind, data, d, data.Organization.ID); err == nil {
			return ev.Compact(), nil
		}
		data.Raw = nil // it may be nested too deeply for where it would stand
	}
	ev, err := events.New(kind, data, d, data.Organization.ID)
	var fault *events.FieldError
	if errors.As(err, &fault) {
		return events.Event{}, &FieldError{fault.Field, fault.Reason}
	}
	return ev, err
}

func missing(p pointer, v any, kind string) *FieldError {
	if v == nil {
		return &FieldError{p.text, "is required"}
	}
	return &FieldError{p.text, "has to be " + kind}
}

// text returns a string, or a whole number in its digits; "" where there is
// none.
func text(p pointer, document any, most int) (string, error) {
	if p.text == "" {
		return "", nil
	}
	switch v := p.in(document).(type) {
	case nil:
		return "", nil
	case string:
		if len(v) > most {
			return "", &FieldError{p.text, fmt.Sprintf("is longer than %d bytes", most)}
		}
		if strings.IndexFunc(v, unicode.IsControl) >= 0 {
			return "", &FieldError{p.text, "has a control character"}
		}
		return v, nil
	case json.Number:
		if digits := v.String(); len(digits) <= maxNumber && strings.Trim(digits, "0123456789") == "" {
			return digits, nil
		}
	}
	return "", &FieldError{p.text, "has to be a string or a whole number"}
}

// prefixed returns an id in our form.
func (c *Compiled) prefixed(p pointer, document any, prefix string) (string, error) {
	id, err := text(p, document, events.MaxID)
	if err != nil {
		return "", err
	}
	rest := strings.TrimPrefix(id, prefix)
	switch {
	case rest == "":
		return "", missing(p, nil, "")
	case strings.IndexFunc(rest, func(r rune) bool { return r <= ' ' || r > '~' }) >= 0:
		return "", &FieldError{p.text, "has to be visible ASCII characters"}
	case len(prefix)+len(rest) > events.MaxID:
		return "", &FieldError{p.text, fmt.Sprintf("is longer than %d bytes", events.MaxID-len(prefix))}
	}
	return prefix + rest, nil
}

func isAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && !strings.ContainsFunc(s, unicode.IsSpace)
}

// when returns the time of an event.
func (c *Compiled) when(document any) (time.Time, error) {
	var at time.Time
	switch v := c.time.in(document).(type) {
	case nil:
		return at, missing(c.time, nil, "")
	case string:
		var err error
		if at, err = time.Parse(time.RFC3339, v); err != nil {
			return at, &FieldError{c.time.text, "has to be a time of RFC 3339, or a whole number of seconds or milliseconds"}
		}
	case json.Number:
		n, err := strconv.ParseInt(v.String(), 10, 64)
		switch {
		case err != nil || n < 0:
			return at, &FieldError{c.time.text, "has to be a whole number of seconds or milliseconds"}
		case len(v) > 11:
			at = time.UnixMilli(n)
		default:
			at = time.Unix(n, 0)
		}
	default:
		return at, missing(c.time, v, "a string or a number")
	}
	at = at.UTC()
	if at.Year() < 1970 || at.Year() > 2261 {
		return at, &FieldError{c.time.text, "has to be from 1970 to 2261"}
	}
	return at, nil
}
