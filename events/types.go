package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Type binds the name that a type has on the wire to the Go type of its data.
//
// A type that is not declared here is a Type of [Raw], or of a type of your
// own: Type[Raw]{Name: "organization.deleted"}. Object and DisplayName are what
// [New] writes and may be empty for the names that [Types] lists.
type Type[T any] struct {
	Name        string // "user.deleted"
	Object      string // "User"
	DisplayName string // "User Deleted"
}

// The types whose data has a Go type.
var (
	// MembershipRemoved says that a person is no longer a member of an
	// organization. It is the event to hand over on.
	MembershipRemoved = Type[Membership]{"user.organization_membership_deleted", "OrgMembership", "User Organization Membership Deleted"}
	// MembershipCreated says that a person became a member, or is one again.
	MembershipCreated = Type[Membership]{"user.organization_membership_created", "OrgMembership", "User Organization Membership Created"}
	// MembershipUpdated says that something about a membership changed. An
	// INACTIVE entry for the organization in User.Memberships is a removal.
	MembershipUpdated = Type[Membership]{"user.organization_membership_updated", "OrgMembership", "User Organization Membership Updated"}
	// UserDeleted says that an account is gone.
	UserDeleted = Type[UserDeletion]{"user.deleted", "User", "User Deleted"}
)

// Types returns the names of the types whose data [Parse] checks, sorted.
func Types() []string { return slices.Sorted(maps.Keys(catalog)) }

// Raw is data that is left as it was sent.
type Raw = json.RawMessage

// Decode returns the data of an event of the type. Keys are matched to the
// letter. Every error matches [ErrInvalid].
func (t Type[T]) Decode(e Event) (T, error) {
	var data T
	if e.Type != t.Name {
		return data, &FieldError{Field: "type", Reason: "is not " + t.Name}
	}
	if raw, ok := any(&data).(*json.RawMessage); ok {
		*raw = e.Data
		return data, nil
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		var zero T
		return zero, wrongType("data", err)
	}
	return data, nil
}

// Membership is a person in an organization.
type Membership struct {
	Organization Organization `json:"organization"`
	User         User         `json:"user"`

	// Reason is why the membership ended: api, dashboard, scim, upstream,
	// user_deleted or organization_deleted; "" when the sender does not say.
	Reason string `json:"reason,omitempty"`
	// Successor is who takes over; nil leaves it to the app.
	Successor *Successor `json:"successor,omitempty"`
	// RevokedSessions are the ids (ses_…) of the sessions that ended with it.
	RevokedSessions []string `json:"revoked_sessions,omitempty"`

	Raw json.RawMessage `json:"-"` // the data as sent, with what is not listed here
}

// UserDeletion is an account that is gone.
type UserDeletion struct {
	User User `json:"user"`

	// Reason is last_membership_removed, user_deleted or organization_deleted;
	// "" when the sender does not say.
	Reason    string     `json:"reason,omitempty"`
	Successor *Successor `json:"successor,omitempty"`

	Raw json.RawMessage `json:"-"` // the data as sent, with what is not listed here
}

// Successor is whom to transfer to. One of the two is there, or both.
type Successor struct {
	UserID string `json:"user_id,omitempty"` // usr_…
	Email  string `json:"email,omitempty"`
	// Source is how the successor was found: request, when whoever removed the
	// person named them, or manager, when the directory told; "" when the sender
	// does not say.
	Source string `json:"source,omitempty"`
}

// Organization is a customer: a company, a team. Only the ID is always there.
type Organization struct {
	ID          string            `json:"id"` // org_…
	DisplayName string            `json:"display_name,omitempty"`
	ExternalID  string            `json:"external_id,omitempty"` // in the app's own system
	RegionCode  string            `json:"region_code,omitempty"` // US, EU
	Metadata    map[string]string `json:"metadata,omitempty"`
	CreateTime  time.Time         `json:"create_time,omitzero"`
	UpdateTime  time.Time         `json:"update_time,omitzero"`
	DeletedAt   time.Time         `json:"deleted_at,omitzero"`
}

// User is a person's account. Only the ID is always there.
type User struct {
	ID            string            `json:"id"` // usr_…
	Email         string            `json:"email,omitempty"`
	ExternalID    string            `json:"external_id,omitempty"` // in the app's own system
	Metadata      map[string]string `json:"metadata,omitempty"`
	Profile       UserProfile       `json:"user_profile,omitzero"`
	Memberships   []UserMembership  `json:"memberships,omitempty"`
	CreateTime    time.Time         `json:"create_time,omitzero"`
	UpdateTime    time.Time         `json:"update_time,omitzero"`
	LastLoginTime time.Time         `json:"last_login_time,omitzero"`
	DeletedAt     time.Time         `json:"deleted_at,omitzero"`
}

// UserProfile is what a person says of themselves, or their directory does.
type UserProfile struct {
	ID                  string            `json:"id,omitempty"` // usp_…
	Name                string            `json:"name,omitempty"`
	GivenName           string            `json:"given_name,omitempty"`
	FamilyName          string            `json:"family_name,omitempty"`
	PreferredUsername   string            `json:"preferred_username,omitempty"`
	Locale              string            `json:"locale,omitempty"`
	Gender              string            `json:"gender,omitempty"`
	Picture             string            `json:"picture,omitempty"`
	EmailVerified       bool              `json:"email_verified,omitempty"`
	PhoneNumber         string            `json:"phone_number,omitempty"`
	PhoneNumberVerified bool              `json:"phone_number_verified,omitempty"`
	Groups              []string          `json:"groups,omitempty"`
	Metadata            map[string]string `json:"metadata,omitempty"`
	CustomAttributes    map[string]string `json:"custom_attributes,omitempty"`
}

// UserMembership is one of a user's memberships as the user carries it.
type UserMembership struct {
	OrganizationID     string            `json:"organization_id"`             // org_…
	Status             string            `json:"membership_status,omitempty"` // ACTIVE, INACTIVE, PENDING_INVITE, INVITE_EXPIRED
	Name               string            `json:"name,omitempty"`
	DisplayName        string            `json:"display_name,omitempty"`
	ProvisioningMethod string            `json:"provisioning_method,omitempty"`
	Roles              []Role            `json:"roles,omitempty"`
	Metadata           map[string]string `json:"metadata,omitempty"`
	JoinTime           time.Time         `json:"join_time,omitzero"`
}

// Role is what a member may do.
type Role struct {
	ID          string `json:"id,omitempty"` // role_…
	Name        string `json:"name"`
	DisplayName string `json:"display_name,omitempty"`
}

// UnmarshalJSON takes the fields whose keys match to the letter.
func (m *Membership) UnmarshalJSON(b []byte) error {
	m.Raw = bytes.Clone(b)
	return decodeExactly(b, m)
}

// UnmarshalJSON takes the fields whose keys match to the letter.
func (d *UserDeletion) UnmarshalJSON(b []byte) error {
	d.Raw = bytes.Clone(b)
	return decodeExactly(b, d)
}

// UnmarshalJSON takes the fields whose keys match to the letter.
func (s *Successor) UnmarshalJSON(b []byte) error { return decodeExactly(b, s) }

// UnmarshalJSON takes the fields whose keys match to the letter.
func (o *Organization) UnmarshalJSON(b []byte) error { return decodeExactly(b, o) }

// UnmarshalJSON takes the fields whose keys match to the letter.
func (u *User) UnmarshalJSON(b []byte) error { return decodeExactly(b, u) }

// UnmarshalJSON takes the fields whose keys match to the letter.
func (p *UserProfile) UnmarshalJSON(b []byte) error { return decodeExactly(b, p) }

// UnmarshalJSON takes the fields whose keys match to the letter.
func (m *UserMembership) UnmarshalJSON(b []byte) error { return decodeExactly(b, m) }

// UnmarshalJSON takes the fields whose keys match to the letter.
func (r *Role) UnmarshalJSON(b []byte) error { return decodeExactly(b, r) }

// decodeExactly fills a struct from an object. Left to itself encoding/json
// would also take "USER" for "user", and the last of the two would win over the
// one that Parse has checked.
func decodeExactly(b []byte, structure any) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return err
	}
	v := reflect.ValueOf(structure).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		raw, ok := members[name]
		if !ok || name == "-" {
			continue
		}
		if err := json.Unmarshal(raw, v.Field(i).Addr().Interface()); err != nil {
			return wrongType(name, err)
		}
	}
	return nil
}

// wrongType names the field. The cause may quote what stands there, so it stays
// out of the text.
func wrongType(name string, err error) *FieldError {
	var inner *FieldError
	if errors.As(err, &inner) {
		return &FieldError{Field: name + "." + inner.Field, Reason: inner.Reason, cause: inner.cause}
	}
	return &FieldError{Field: name, Reason: "has the wrong type", cause: err}
}
