package events

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limits on an event's body.
const (
	MaxSize  = 1 << 20 // bytes
	MaxDepth = 64      // of objects and arrays within each other
	MaxID    = 255     // bytes of an id
)

// ErrInvalid is matched by every error of [Parse] and [Complete].
var ErrInvalid = errors.New("invalid event")

// A FieldError says which field is wrong, and how.
type FieldError struct {
	Field  string // such as data.user.id; empty for the body as a whole
	Reason string
}

// Error names the field and what is wrong with it.
func (e *FieldError) Error() string {
	if e.Field == "" {
		return ErrInvalid.Error() + ": " + e.Reason
	}
	return ErrInvalid.Error() + ": " + e.Field + ": " + e.Reason
}

// Is makes every FieldError match [ErrInvalid].
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

func fault(field, reason string) error { return &FieldError{Field: field, Reason: reason} }

// An Event is one fact, in the envelope that webhooks carry. It is not changed
// after it was parsed or built.
type Event struct {
	SpecVersion string // "1"
	ID          string // evt_…
	Type        string
	Object      string // what data describes
	OccurredAt  time.Time
	// EnvironmentID is env_…: ids are unique within an environment.
	EnvironmentID string
	// OrganizationID is the envelope's organization, else the one that data
	// names; empty when the event is about none.
	OrganizationID string
	DisplayName    string
	Data           json.RawMessage

	body    []byte
	userID  string
	subject string
	loose   bool
}

// Body returns the bytes that were parsed or built. They must not be changed.
func (e Event) Body() []byte { return e.body }

// UserID returns the user that the event is about, usr_…, or "".
func (e Event) UserID() string { return e.userID }

// Subject returns the person that the event is about: the user, or the
// directory's user (diruser_…) when no other is named; "" when it is about no
// person. Events of one subject must not overtake each other.
func (e Event) Subject() string { return e.subject }

// Compact returns the event with its body in compact JSON: no white space and
// no needless escapes, as JSON.stringify writes it. Nothing else changes.
func (e Event) Compact() Event {
	if !e.loose {
		return e
	}
	again, err := Parse(compact(make([]byte, 0, len(e.body)), e.body))
	if err != nil {
		return e // cannot be: it was parsed
	}
	return again
}

// Parse reads the body of a webhook. It is strict: one JSON object of at most
// MaxSize bytes and MaxDepth levels, valid UTF-8, no name twice in any object,
// every required field of the envelope and of the type's data there and of its
// type, ids with the prefix of their kind. Unknown fields and unknown types are
// accepted. The event keeps the bytes.
func Parse(body []byte) (Event, error) {
	e, top, err := scan(body)
	if err != nil {
		return Event{}, err
	}
	if err := e.envelope(top); err != nil {
		return Event{}, err
	}
	return e, nil
}

func scan(body []byte) (Event, []member, error) {
	if len(body) > MaxSize {
		return Event{}, nil, fault("", fmt.Sprintf("it is larger than %d bytes", MaxSize))
	}
	s := scanner{b: body, top: make([]member, 0, 12), names: make([][]byte, 0, 32)}
	if err := s.document(); err != nil {
		return Event{}, nil, err
	}
	return Event{body: body, loose: s.loose}, s.top, nil
}

func (e *Event) envelope(top []member) error {
	var err error
	if e.SpecVersion, err = required(top, "spec_version"); err != nil {
		return err
	}
	if len(e.SpecVersion) > 9 || strings.Trim(e.SpecVersion, "0123456789") != "" {
		return fault("spec_version", "it must be digits")
	}
	if e.ID, err = requiredID(top, "id", "evt_"); err != nil {
		return err
	}
	if e.Type, err = required(top, "type"); err != nil {
		return err
	}
	if !identifier(e.Type, MaxID) {
		return fault("type", "it must be printable ASCII without spaces")
	}
	if e.Object, err = required(top, "object"); err != nil {
		return err
	}
	occurred, err := required(top, "occurred_at")
	if err != nil {
		return err
	}
	if e.OccurredAt, err = parseTime("occurred_at", occurred); err != nil {
		return err
	}
	if e.EnvironmentID, err = requiredID(top, "environment_id", "env_"); err != nil {
		return err
	}
	if e.OrganizationID, err = optionalID(top, "organization_id", "org_"); err != nil {
		return err
	}
	if raw, ok := lookup(top, "display_name"); ok && string(raw) != "null" {
		if e.DisplayName, ok = str(raw); !ok {
			return fault("display_name", "it must be a string")
		}
	}
	raw, ok := lookup(top, "data")
	if !ok {
		return fault("data", "it is missing")
	}
	if raw[0] != '{' {
		return fault("data", "it must be an object")
	}
	e.Data = raw
	return e.readData()
}

// readData checks what the type requires of data and finds whom the event is
// about.
func (e *Event) readData() error {
	d := data{fields: members(e.Data)}
	if check := requirements[e.Type]; check != nil {
		if err := check(&d); err != nil {
			return err
		}
	}
	organization, err := d.child("organization")
	if err != nil && known(e.Type) {
		return err
	}
	user, err := d.child("user")
	if err != nil && known(e.Type) {
		return err
	}
	if e.OrganizationID == "" {
		e.OrganizationID = firstID("org_", organization["id"], d.text("organization_id"))
		if e.OrganizationID == "" && e.Object == "Organization" {
			e.OrganizationID = firstID("org_", d.text("id"))
		}
	}
	e.userID = firstID("usr_", user["id"])
	if e.userID == "" && e.Object == "User" {
		e.userID = firstID("usr_", d.text("id"))
	}
	e.subject = e.userID
	if e.subject == "" && e.Object == "DirectoryUser" {
		e.subject = firstID("diruser_", d.text("id"))
	}
	return nil
}

// firstID returns the first that is an id of a kind; ill-formed ones in data of
// unknown types name nobody.
func firstID(prefix string, candidates ...string) string {
	for _, c := range candidates {
		if checkID("", c, prefix) == nil {
			return c
		}
	}
	return ""
}

func required(ms []member, name string) (string, error) {
	raw, ok := lookup(ms, name)
	if !ok {
		return "", fault(name, "it is missing")
	}
	s, ok := str(raw)
	if !ok {
		return "", fault(name, "it must be a string")
	}
	if s == "" {
		return "", fault(name, "it is empty")
	}
	return s, nil
}

func requiredID(ms []member, name, prefix string) (string, error) {
	id, err := required(ms, name)
	if err != nil {
		return "", err
	}
	return id, checkID(name, id, prefix)
}

func optionalID(ms []member, name, prefix string) (string, error) {
	raw, ok := lookup(ms, name)
	if !ok || string(raw) == "null" || string(raw) == `""` {
		return "", nil
	}
	return requiredID(ms, name, prefix)
}

func checkID(field, id, prefix string) error {
	switch {
	case !strings.HasPrefix(id, prefix) || len(id) == len(prefix):
		return fault(field, "it must begin with "+prefix)
	case len(id) > MaxID:
		return fault(field, fmt.Sprintf("it is longer than %d characters", MaxID))
	case !identifier(id, MaxID):
		return fault(field, "it must be printable ASCII without spaces")
	}
	return nil
}

func identifier(s string, most int) bool {
	if len(s) > most {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// str decodes a scanned value that is a string.
func str(raw []byte) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	return string(unquote(raw[1 : len(raw)-1])), true
}

// parseTime reads an RFC 3339 time with at most nine digits of a second.
func parseTime(field, text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || len(text) > len("2006-01-02T15:04:05.123456789+00:00") || strings.Contains(text, ",") {
		return time.Time{}, fault(field, "it must be an RFC 3339 time with at most nine digits of a second")
	}
	if y := t.Year(); y < 1678 || y > 2261 {
		return time.Time{}, fault(field, "it lies outside the years 1678 to 2261")
	}
	return t, nil
}

// printable makes a bounded piece of a stranger's text fit for an error.
func printable(s string) string {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return strings.Trim(strconv.QuoteToASCII(s), `"`)
}

// Defaults are what [Complete] and [New] fill in.
type Defaults struct {
	EnvironmentID string           // for an event that names none
	Now           func() time.Time // default time.Now
	NewID         func() string    // default the function NewID
}

// Complete reads an event to be published. It is as strict as [Parse], but
// spec_version, id, object, occurred_at and environment_id may be absent and
// are filled in. The body is compact JSON; unknown fields and the order of
// fields are kept.
func Complete(raw []byte, d Defaults) (Event, error) {
	e, top, err := scan(raw)
	if err != nil {
		return Event{}, err
	}
	var missing []byte
	add := func(name string, value func() string) {
		if _, ok := lookup(top, name); ok {
			return
		}
		encoded, _ := json.Marshal(value()) // a string cannot fail
		missing = append(missing, '"')
		missing = append(missing, name...)
		missing = append(missing, '"', ':')
		missing = append(missing, encoded...)
		missing = append(missing, ',')
	}
	add("spec_version", func() string { return "1" })
	add("id", d.newID)
	add("object", func() string { return objectOf(top) })
	add("occurred_at", func() string { return d.now().UTC().Format(time.RFC3339Nano) })
	if d.EnvironmentID != "" {
		add("environment_id", func() string { return d.EnvironmentID })
	}
	if len(missing) > 0 {
		body := make([]byte, 0, len(missing)+len(raw))
		body = append(append(body, '{'), missing...)
		rest := strings.TrimLeft(string(raw), " \t\r\n")[1:]
		if len(top) == 0 {
			body = body[:len(body)-1] // no comma before nothing
		}
		if e, top, err = scan(append(body, rest...)); err != nil {
			return Event{}, err
		}
	}
	if e.loose {
		if e, top, err = scan(compact(make([]byte, 0, len(e.body)), e.body)); err != nil {
			return Event{}, err
		}
		e.loose = false
	}
	if err := e.envelope(top); err != nil {
		return Event{}, err
	}
	return e, nil
}

func objectOf(top []member) string {
	raw, _ := lookup(top, "type")
	name, _ := str(raw)
	if object := objects[name]; object != "" {
		return object
	}
	return "Event"
}

func (d Defaults) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

func (d Defaults) newID() string {
	if d.NewID != nil {
		return d.NewID()
	}
	return NewID()
}

// New builds an event of a type. The organization may be empty.
func New[T any](t Type[T], data T, d Defaults, organizationID string) (Event, error) {
	encoded, err := marshal(data)
	if err != nil {
		return Event{}, fmt.Errorf("encode data of %s: %w", t.Name, err)
	}
	body, err := marshal(struct {
		SpecVersion    string          `json:"spec_version"`
		ID             string          `json:"id"`
		Type           string          `json:"type"`
		Object         string          `json:"object"`
		OccurredAt     time.Time       `json:"occurred_at"`
		EnvironmentID  string          `json:"environment_id"`
		OrganizationID string          `json:"organization_id,omitempty"`
		Data           json.RawMessage `json:"data"`
		DisplayName    string          `json:"display_name,omitempty"`
	}{"1", d.newID(), t.Name, t.Object, d.now().UTC(), d.EnvironmentID, organizationID, encoded, t.DisplayName})
	if err != nil {
		return Event{}, fmt.Errorf("encode %s: %w", t.Name, err)
	}
	return Complete(body, d)
}

// marshal is json.Marshal without HTML escapes.
func marshal(v any) ([]byte, error) {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(b.String(), "\n")), nil
}

// NewID returns evt_ and 20 digits: the time in milliseconds and a number that
// rises within one. Ids of one process are unique and sort by time; those of
// two processes meet about once in 10 million that are made in the same
// millisecond.
func NewID() string { return newID(time.Now()) }

// sequence makes ids unique within this process.
var sequence struct {
	sync.Mutex
	ms, n uint64
}

const perMillisecond = 10_000_000

func newID(now time.Time) string {
	ms := uint64(now.UnixMilli()) //nolint:gosec // after 1970
	sequence.Lock()
	if ms > sequence.ms {
		var random [8]byte
		_, _ = rand.Read(random[:]) // never fails
		sequence.ms, sequence.n = ms, binary.BigEndian.Uint64(random[:])%(perMillisecond/2)
	} else if sequence.n++; sequence.n == perMillisecond {
		sequence.ms++
		sequence.n = 0
	}
	ms, n := sequence.ms, sequence.n
	sequence.Unlock()
	return fmt.Sprintf("evt_%013d%07d", ms, n)
}
