package events

import (
	"encoding/json"
	"fmt"
	"time"
)

// A Type binds the name of an event type to the Go type of its data.
type Type[T any] struct {
	Name        string
	Object      string // the envelope's object
	DisplayName string
}

// The types that say somebody left, or came back. Others can be declared in the
// same way.
var (
	MembershipRemoved = Type[Membership]{"user.organization_membership_deleted", "OrgMembership", "User Organization Membership Deleted"}
	MembershipCreated = Type[Membership]{"user.organization_membership_created", "OrgMembership", "User Organization Membership Created"}
	UserDeleted       = Type[UserDeletion]{"user.deleted", "User", "User Deleted"}
)

// Decode reads an event's data. It refuses an event of another type.
func (t Type[T]) Decode(e Event) (T, error) {
	var data T
	if e.Type != t.Name {
		return data, fmt.Errorf("decode %s: the event is a %s", t.Name, e.Type)
	}
	if err := json.Unmarshal(e.Data, &data); err != nil {
		return data, fmt.Errorf("decode %s: %w", t.Name, err)
	}
	return data, nil
}

// Membership is the data of events about a person in an organization.
type Membership struct {
	Organization Organization `json:"organization"`
	User         User         `json:"user"`
	// Reason says why a membership ended: api, dashboard, scim, upstream,
	// user_deleted or organization_deleted. May be empty.
	Reason string `json:"reason,omitempty"`
	// Successor is to whom the person's resources go; nil when the app decides.
	Successor *Successor `json:"successor,omitempty"`
	// RevokedSessions are the sessions that ended with the membership.
	RevokedSessions []string `json:"revoked_sessions,omitempty"`
}

// UserDeletion is the data of [UserDeleted].
type UserDeletion struct {
	User User `json:"user"`
	// Reason is last_membership_removed, user_deleted or organization_deleted.
	Reason    string     `json:"reason,omitempty"`
	Successor *Successor `json:"successor,omitempty"`
}

// Successor names a person to transfer to.
type Successor struct {
	UserID string `json:"user_id"`
	Email  string `json:"email,omitempty"`
}

// Organization is an organization as events show it.
type Organization struct {
	ID          string            `json:"id"`
	DisplayName string            `json:"display_name,omitempty"`
	ExternalID  string            `json:"external_id,omitempty"`
	RegionCode  string            `json:"region_code,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	CreateTime  time.Time         `json:"create_time,omitzero"`
	UpdateTime  time.Time         `json:"update_time,omitzero"`
}

// User is a person as events show it.
type User struct {
	ID          string            `json:"id"`
	Email       string            `json:"email,omitempty"`
	ExternalID  string            `json:"external_id,omitempty"`
	Metadata    map[string]string `json:"metadata,omitempty"`
	Profile     *Profile          `json:"user_profile,omitempty"`
	CreateTime  time.Time         `json:"create_time,omitzero"`
	UpdateTime  time.Time         `json:"update_time,omitzero"`
	DeletedAt   time.Time         `json:"deleted_at,omitzero"`
	Memberships []UserMembership  `json:"memberships,omitempty"`
}

// Profile is what is known of a person.
type Profile struct {
	ID                string `json:"id,omitempty"`
	Name              string `json:"name,omitempty"`
	GivenName         string `json:"given_name,omitempty"`
	FamilyName        string `json:"family_name,omitempty"`
	PreferredUsername string `json:"preferred_username,omitempty"`
	EmailVerified     bool   `json:"email_verified,omitempty"`
}

// UserMembership is one of a person's memberships, where an event lists them.
type UserMembership struct {
	OrganizationID   string    `json:"organization_id"`
	MembershipStatus string    `json:"membership_status,omitempty"` // ACTIVE, INACTIVE, PENDING_INVITE, INVITE_EXPIRED
	JoinTime         time.Time `json:"join_time,omitzero"`
}

// data reads the object under "data".
type data struct{ fields []member }

func (d *data) text(name string) string {
	raw, ok := lookup(d.fields, name)
	if !ok {
		return ""
	}
	s, _ := str(raw)
	return s
}

// child returns the string fields of an object in data.
func (d *data) child(name string) (map[string]string, error) {
	raw, ok := lookup(d.fields, name)
	if !ok {
		return nil, nil
	}
	if raw[0] != '{' {
		return nil, fault("data."+name, "it must be an object")
	}
	fields := make(map[string]string, 1)
	if id, ok := lookup(members(raw), "id"); ok {
		fields["id"], _ = str(id)
	}
	return fields, nil
}

func (d *data) id(path, prefix string) error {
	raw, ok := lookup(d.fields, path)
	if !ok {
		return fault("data."+path, "it is missing")
	}
	return checkRawID("data."+path, raw, prefix)
}

func checkRawID(field string, raw []byte, prefix string) error {
	id, ok := str(raw)
	if !ok {
		return fault(field, "it must be a string")
	}
	return checkID(field, id, prefix)
}

func (d *data) childID(name, prefix string) error {
	raw, ok := lookup(d.fields, name)
	if !ok {
		return fault("data."+name, "it is missing")
	}
	if raw[0] != '{' {
		return fault("data."+name, "it must be an object")
	}
	id, ok := lookup(members(raw), "id")
	if !ok {
		return fault("data."+name+".id", "it is missing")
	}
	return checkRawID("data."+name+".id", id, prefix)
}

func (d *data) textField(name string) error {
	raw, ok := lookup(d.fields, name)
	if !ok {
		return fault("data."+name, "it is missing")
	}
	if _, ok := str(raw); !ok {
		return fault("data."+name, "it must be a string")
	}
	return nil
}

func (d *data) object(name string) error {
	raw, ok := lookup(d.fields, name)
	if !ok {
		return fault("data."+name, "it is missing")
	}
	if raw[0] != '{' {
		return fault("data."+name, "it must be an object")
	}
	return nil
}

func all(checks ...func(*data) error) func(*data) error {
	return func(d *data) error {
		for _, check := range checks {
			if err := check(d); err != nil {
				return err
			}
		}
		return nil
	}
}

// What the documented types require of data.
var (
	ofOrganization = all(func(d *data) error { return d.id("id", "org_") }, func(d *data) error { return d.textField("display_name") })
	ofMembership   = all(func(d *data) error { return d.childID("organization", "org_") }, func(d *data) error { return d.childID("user", "usr_") })
	ofUser         = all(func(d *data) error { return d.childID("user", "usr_") })
	ofSession      = all(func(d *data) error { return d.object("user") }, func(d *data) error { return d.object("user_session") })
	ofDirectory    = all(func(d *data) error { return d.textField("id") }, func(d *data) error { return d.id("organization_id", "org_") })
	ofDirUser      = all(func(d *data) error { return d.id("id", "diruser_") }, func(d *data) error { return d.id("organization_id", "org_") })
	ofRole         = all(func(d *data) error { return d.textField("id") }, func(d *data) error { return d.textField("name") })
)

// objects are the documented types with the object of their envelope.
var objects = map[string]string{
	"organization.created": "Organization", "organization.updated": "Organization", "organization.deleted": "Organization",
	"organization.domain_created": "Organization", "organization.domain_deleted": "Organization",
	"organization.domain_dns_verification_success": "Organization", "organization.domain_dns_verification_failed": "Organization",
	"user.signup": "OrgMembership", "user.organization_invitation": "OrgMembership", "user.organization_membership_created": "OrgMembership",
	"user.organization_membership_updated": "OrgMembership", "user.organization_membership_deleted": "OrgMembership",
	"user.login": "User", "user.logout": "User", "user.deleted": "User",
	"organization.directory_enabled": "Directory", "organization.directory_disabled": "Directory",
	"organization.directory.user_created": "DirectoryUser", "organization.directory.user_updated": "DirectoryUser",
	"organization.directory.user_deleted":  "DirectoryUser",
	"organization.directory.group_created": "DirectoryGroup", "organization.directory.group_updated": "DirectoryGroup",
	"organization.directory.group_deleted": "DirectoryGroup",
	"organization.sso_created":             "Connection", "organization.sso_enabled": "Connection", "organization.sso_disabled": "Connection",
	"organization.sso_deleted": "Connection",
	"role.created":             "Role", "role.updated": "Role", "role.deleted": "Role",
	"permission.created": "Permission", "permission.updated": "Permission", "permission.deleted": "Permission",
}

func known(eventType string) bool { return objects[eventType] != "" }

// requirements checks data for the documented types.
var requirements = func() map[string]func(*data) error {
	byObject := map[string]func(*data) error{
		"Organization": ofOrganization, "OrgMembership": ofMembership, "Directory": ofDirectory, "DirectoryUser": ofDirUser,
		"DirectoryGroup": ofDirectory, "Connection": ofDirectory, "Role": ofRole, "Permission": ofRole,
	}
	checks := make(map[string]func(*data) error, len(objects))
	for name, object := range objects {
		checks[name] = byObject[object]
	}
	for _, name := range []string{"organization.domain_created", "organization.domain_deleted", "organization.domain_dns_verification_success", "organization.domain_dns_verification_failed"} {
		delete(checks, name) // their data is not documented beyond being an object
	}
	checks["user.login"], checks["user.logout"], checks["user.deleted"] = ofSession, ofSession, ofUser
	return checks
}()
