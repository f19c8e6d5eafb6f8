package events

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Bounds on an event.
const (
	MaxSize  = 1 << 20 // bytes of a body
	MaxDepth = 64      // arrays and objects inside one another, the envelope being the first
	MaxID    = 255     // bytes of an id, a type name, an object name and a spec_version
)

// ErrInvalid is matched by every error about the content of an event. None of
// them quotes the event, except for the name of a field of the envelope or of
// the data.
var ErrInvalid = errors.New("invalid event")

// FieldError says which field of an event breaks a rule, and which. It matches
// [ErrInvalid].
type FieldError struct {
	Field  string // as a path: "id", "data.user.id"
	Reason string // "is required", "has to begin with usr_"

	cause error
}

func (e *FieldError) Error() string { return ErrInvalid.Error() + ": " + e.Field + " " + e.Reason }

// Unwrap returns the error of encoding/json or of your own type, if one is the
// cause. Its text may quote the event.
func (e *FieldError) Unwrap() error { return e.cause }

// Is reports whether target is [ErrInvalid].
func (e *FieldError) Is(target error) bool { return target == ErrInvalid }

// SyntaxError says where a body stops being the JSON that is asked for. It
// matches [ErrInvalid].
type SyntaxError struct {
	Offset int    // bytes before the fault
	Reason string // "a key is there twice"
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("%s: at byte %d: %s", ErrInvalid, e.Offset, e.Reason)
}

// Is reports whether target is [ErrInvalid].
func (e *SyntaxError) Is(target error) bool { return target == ErrInvalid }

// Event is a fact about a person or an organization: the envelope of a webhook,
// with what the fact is about in Data.
//
// Events come from [Parse], [Complete] and [New] and are not changed. Ids, Type
// and Object are visible ASCII of at most [MaxID] bytes; DisplayName and the
// texts in Data may hold any Unicode, NUL included.
type Event struct {
	SpecVersion string    // digits
	ID          string    // evt_…, the same in every copy of the event
	Type        string    // such as user.organization_membership_deleted
	Object      string    // such as OrgMembership
	OccurredAt  time.Time // UTC, to the nanosecond

	EnvironmentID string // env_…

	// OrganizationID is org_… or "": the envelope's organization_id, else
	// data.organization.id, else data.organization_id, else data.id of an
	// Organization.
	OrganizationID string

	DisplayName string          // "" when the envelope has none
	Data        json.RawMessage // an object, as sent

	body    []byte
	loose   bool // the body has white space between tokens
	userID  string
	subject string
}

// Body returns the bytes that were parsed or built. They are what gets signed,
// stored and sent; do not modify them.
func (e Event) Body() []byte { return e.body }

// UserID returns data.user.id (usr_…), and "" for an event that is about no
// user or knows only the directory's id.
func (e Event) UserID() string { return e.userID }

// Subject returns the id of the person the event is about, whose events have to
// stay in order: the user's (usr_…), else the directory user's (diruser_…) when
// the object is a DirectoryUser, else "".
func (e Event) Subject() string { return e.subject }

// Compact returns the event with a body as JSON.stringify writes it: no white
// space between the tokens, and only the escapes that JSON needs. A body that is
// so already is kept as it is.
func (e Event) Compact() Event {
	if !e.loose {
		return e
	}
	c, err := Parse(compact(make([]byte, 0, len(e.body)), e.body))
	if err != nil {
		return e
	}
	return c
}

// String returns the type and the id.
func (e Event) String() string { return e.Type + " " + e.ID }

// LogValue returns the ids and the type, never the data.
func (e Event) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("id", e.ID),
		slog.String("type", e.Type),
		slog.String("organization_id", e.OrganizationID),
		slog.String("subject", e.Subject()),
	)
}

// Parse reads an event strictly: the package comment lists the rules. The event
// keeps body, which must not be modified afterwards.
func Parse(body []byte) (Event, error) {
	s := scanner{b: body}
	if err := s.scan(); err != nil {
		return Event{}, err
	}
	return s.event()
}

// Defaults are what [Complete] and [New] fill in.
type Defaults struct {
	EnvironmentID string           // env_…
	Now           func() time.Time // for occurred_at; nil: time.Now
	NewID         func() string    // nil: NewID
}

// specVersion is the version of the envelope that is written.
const specVersion = "1"

// Complete reads an event that is to be published. It is like [Parse], but
// spec_version, id, object, occurred_at and environment_id may be absent; they
// are filled in and stand first. The object of a type that the package does not
// know is "Event" then. All other fields, known or not, keep their order.
//
// The body of the result is compact, as JSON.stringify writes it: no white space
// between tokens, no needless escapes, no newline at the end. A raw that is complete and compact already is the body.
func Complete(raw []byte, d Defaults) (Event, error) {
	s := scanner{b: raw}
	if err := s.scan(); err != nil {
		return Event{}, err
	}
	head := s.missing(d)
	if len(head) == 0 && !s.loose {
		return s.event()
	}
	if s.f[fType].kind == kindNone {
		return Event{}, &FieldError{Field: "type", Reason: required}
	}
	body := make([]byte, 0, len(head)+len(raw)+1)
	if len(head) > 0 {
		body = append(append(body, '{'), head...)
	}
	start := len(body)
	if s.loose {
		body = compact(body, raw)
	} else {
		body = append(body, raw...)
	}
	if len(head) > 0 {
		// There is a type, so there is a member for the comma to come before.
		body = append(body[:start], body[start+1:]...)
	}
	return Parse(body)
}

// missing writes the members that raw lacks, each with a comma after it.
func (s *scanner) missing(d Defaults) []byte {
	var head []byte
	add := func(f field, name, value string) {
		if s.f[f].kind == kindNone && value != "" {
			head = appendMember(head, name, value)
			head = append(head, ',')
		}
	}
	add(fSpecVersion, "spec_version", specVersion)
	if s.f[fID].kind == kindNone {
		add(fID, "id", d.newID())
	}
	if s.f[fObject].kind == kindNone && s.f[fType].kind == kindString {
		add(fObject, "object", cmp.Or(catalog[s.text(s.f[fType])].object, "Event"))
	}
	if s.f[fOccurredAt].kind == kindNone {
		add(fOccurredAt, "occurred_at", d.now())
	}
	add(fEnvironmentID, "environment_id", d.EnvironmentID)
	return head
}

func (d Defaults) newID() string {
	if d.NewID != nil {
		return d.NewID()
	}
	return NewID()
}

func (d Defaults) now() string {
	now := time.Now
	if d.Now != nil {
		now = d.Now
	}
	return now().UTC().Format(time.RFC3339Nano)
}

func appendMember(b []byte, name, value string) []byte {
	b = append(b, '"')
	b = append(b, name...)
	b = append(b, `":`...)
	for i := range len(value) {
		if !plain[value[i]] {
			quoted, _ := marshal(value) // a string can always be
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

// marshal writes compact JSON in which <, > and & stay as they are.
func marshal(v any) ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// New builds an event of a type in compact JSON and checks it like [Parse]. The
// organization may be "" for events that belong to none.
func New[T any](t Type[T], data T, d Defaults, organizationID string) (Event, error) {
	raw, err := marshal(data)
	if err != nil {
		return Event{}, &FieldError{Field: "data", Reason: "cannot be marshaled", cause: err}
	}
	known := catalog[t.Name]
	b := append(make([]byte, 0, len(raw)+512), '{')
	add := func(name, value string, always bool) {
		if value != "" || always {
			b = append(appendMember(b, name, value), ',')
		}
	}
	add("spec_version", specVersion, true)
	add("id", d.newID(), true)
	add("type", t.Name, true)
	add("object", cmp.Or(t.Object, known.object), true)
	add("occurred_at", d.now(), true)
	add("environment_id", d.EnvironmentID, true)
	add("organization_id", organizationID, false)
	b = append(b, `"data":`...)
	b = append(b, raw...)
	if name := cmp.Or(t.DisplayName, known.display); name != "" {
		b = appendMember(append(b, ','), "display_name", name)
	}
	return Parse(append(b, '}'))
}

// A Member is a name and a value in the data of an event.
type Member struct {
	Name  string
	Value any
}

// Extend returns the event with members added at the end of its data, in compact
// JSON. What the data has already stays as it is.
func Extend(e Event, members ...Member) (Event, error) {
	e = e.Compact()
	var there map[string]json.RawMessage
	if err := json.Unmarshal(e.Data, &there); err != nil {
		return Event{}, &FieldError{Field: "data", Reason: notObject, cause: err}
	}
	var more []byte
	for _, m := range members {
		if _, ok := there[m.Name]; ok {
			continue
		}
		raw, err := marshal(m.Value)
		if err != nil {
			return Event{}, &FieldError{Field: "data." + m.Name, Reason: "cannot be marshaled", cause: err}
		}
		if len(there)+len(more) > 0 {
			more = append(more, ',')
		}
		more = append(append(append(more, '"'), m.Name...), '"', ':')
		more = append(more, raw...)
	}
	if len(more) == 0 {
		return e, nil
	}
	s := scanner{b: e.body}
	if err := s.scan(); err != nil {
		return Event{}, err
	}
	end := s.f[fData].end - 1 // before the brace
	body := make([]byte, 0, len(e.body)+len(more))
	body = append(append(append(body, e.body[:end]...), more...), e.body[end:]...)
	return Parse(body)
}
