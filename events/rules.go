package events

import (
	"strconv"
	"strings"
	"time"
)

// kindOfEvent is what is known about a type.
type kindOfEvent struct {
	name, object, display string

	need need
	id   string // data.id begins so, where needID
}

type need uint16

const (
	needID             need = 1 << iota // data.id
	needName                            // data.name
	needDisplayName                     // data.display_name
	needDeletedAt                       // data.deleted_at
	needOrganizationID                  // data.organization_id
	needOrganization                    // data.organization.id
	needUser                            // data.user
	needUserID                          // data.user.id
	needSession                         // data.user_session
)

// catalog are the types whose data has to have a certain form. It is not
// changed.
var catalog = func() map[string]kindOfEvent {
	const (
		organization = needID | needDisplayName
		membership   = needOrganization | needUser | needUserID
		session      = needUser | needSession
		directory    = needID | needOrganizationID
		named        = needID | needName
	)
	m := make(map[string]kindOfEvent)
	for _, k := range []kindOfEvent{
		{"organization.created", "Organization", "Organization Created", organization, "org_"},
		{"organization.updated", "Organization", "Organization Updated", organization, "org_"},
		{"organization.deleted", "Organization", "Organization Deleted", organization | needDeletedAt, "org_"},
		{"organization.domain_created", "Organization", "Organization Domain Created", 0, ""},
		{"organization.domain_deleted", "Organization", "Organization Domain Deleted", 0, ""},
		{"organization.domain_dns_verification_success", "Organization", "Organization Domain DNS Verification Success", 0, ""},
		{"organization.domain_dns_verification_failed", "Organization", "Organization Domain DNS Verification Failed", 0, ""},
		{"user.signup", "OrgMembership", "User Signup", membership, ""},
		{"user.organization_invitation", "OrgMembership", "User Organization Invitation", membership, ""},
		{"user.organization_membership_created", "OrgMembership", "User Organization Membership Created", membership, ""},
		{"user.organization_membership_updated", "OrgMembership", "User Organization Membership Updated", membership, ""},
		{"user.organization_membership_deleted", "OrgMembership", "User Organization Membership Deleted", membership, ""},
		{"user.deleted", "User", "User Deleted", needUser | needUserID, ""},
		{"user.login", "User", "User Login", session, ""},
		{"user.logout", "User", "User Logout", session, ""},
		{"organization.directory_enabled", "Directory", "Directory Enabled", directory, ""},
		{"organization.directory_disabled", "Directory", "Directory Disabled", directory, ""},
		{"organization.directory.user_created", "DirectoryUser", "Directory User Created", directory, "diruser_"},
		{"organization.directory.user_updated", "DirectoryUser", "Directory User Updated", directory, "diruser_"},
		{"organization.directory.user_deleted", "DirectoryUser", "Directory User Deleted", directory, "diruser_"},
		{"organization.directory.group_created", "DirectoryGroup", "Directory Group Created", directory, ""},
		{"organization.directory.group_updated", "DirectoryGroup", "Directory Group Updated", directory, ""},
		{"organization.directory.group_deleted", "DirectoryGroup", "Directory Group Deleted", directory, ""},
		{"organization.sso_created", "Connection", "SSO Connection Created", directory, ""},
		{"organization.sso_enabled", "Connection", "SSO Connection Enabled", directory, ""},
		{"organization.sso_disabled", "Connection", "SSO Connection Disabled", directory, ""},
		{"organization.sso_deleted", "Connection", "SSO Connection Deleted", directory, ""},
		{"role.created", "Role", "Role Created", named, ""},
		{"role.updated", "Role", "Role Updated", named, ""},
		{"role.deleted", "Role", "Role Deleted", named, ""},
		{"permission.created", "Permission", "Permission Created", named, ""},
		{"permission.updated", "Permission", "Permission Updated", named, ""},
		{"permission.deleted", "Permission", "Permission Deleted", named, ""},
	} {
		m[k.name] = k
	}
	return m
}()

// Reasons of a FieldError.
const (
	required   = "is required"
	notString  = "has to be a string"
	notObject  = "has to be an object"
	notDigits  = "has to be digits"
	notVisible = "has to be visible ASCII characters"
	notTime    = "has to be a time of RFC 3339 with at most 9 fraction digits, such as 2026-06-12T09:30:00.5Z, from 1970 to 2261"
	needsOne   = "needs a user_id or an email"
	notAddress = "has to be an address of at most 254 bytes without control characters"
)

var tooLong = "is longer than " + strconv.Itoa(MaxID) + " bytes"

// event makes the event of what was scanned, or says which field is at fault.
func (s *scanner) event() (Event, error) {
	e := Event{body: s.b, loose: s.loose}
	e.SpecVersion = s.version()
	e.ID = s.word(fID, "id", "evt_")
	known := s.typ()
	e.Type = known.name
	e.Object = s.objectName(known.object)
	e.OccurredAt = s.time(fOccurredAt, "occurred_at")
	e.EnvironmentID = s.word(fEnvironmentID, "environment_id", "env_")
	if s.has(fOrganizationID) {
		e.OrganizationID = s.word(fOrganizationID, "organization_id", "org_")
	}
	if s.has(fDisplayName) {
		e.DisplayName = s.textOf(fDisplayName, "display_name")
	}
	if s.is(fData, "data", kindObject, notObject) {
		e.Data = s.b[s.f[fData].start:s.f[fData].end:s.f[fData].end]
	}
	if known.object != "" {
		s.data(known)
	}
	if s.faulty != "" {
		return Event{}, &FieldError{Field: s.faulty, Reason: s.fault}
	}
	if e.OrganizationID == "" {
		e.OrganizationID = s.organization(e.Object)
	}
	e.userID, _ = s.id(fDataUserID, "usr_")
	e.subject = e.userID
	if e.subject == "" && e.Object == "DirectoryUser" {
		e.subject, _ = s.id(fDataID, "diruser_")
	}
	return e, nil
}

func (s *scanner) organization(object string) string {
	if id, ok := s.id(fDataOrganizationDotID, "org_"); ok {
		return id
	}
	if id, ok := s.id(fDataOrganizationID, "org_"); ok {
		return id
	}
	if object == "Organization" {
		id, _ := s.id(fDataID, "org_")
		return id
	}
	return ""
}

// id returns a field that is an id with the prefix. Data of types that are not
// known may have anything there, which then is no id.
func (s *scanner) id(f field, prefix string) (string, bool) {
	v := s.f[f]
	if v.kind != kindString {
		return "", false
	}
	b := s.bytes(v)
	if len(b) <= len(prefix) || len(b) > MaxID || string(b[:len(prefix)]) != prefix || !isVisible(b) {
		return "", false
	}
	return string(b), true
}

// refuse notes a fault in a field; the first one counts.
func (s *scanner) refuse(name, reason string) {
	if s.faulty == "" {
		s.faulty, s.fault = name, reason
	}
}

// has reports whether an optional field is there; null stands for absent.
func (s *scanner) has(f field) bool {
	k := s.f[f].kind
	return k != kindNone && k != kindNull
}

func (s *scanner) is(f field, name string, k kind, otherwise string) bool {
	switch s.f[f].kind {
	case k:
		return true
	case kindNone:
		s.refuse(name, required)
	default:
		s.refuse(name, otherwise)
	}
	return false
}

func (s *scanner) textOf(f field, name string) string {
	if !s.is(f, name, kindString, notString) {
		return ""
	}
	return s.text(s.f[f])
}

// word returns a text that ids and names are made of: visible ASCII, with a
// prefix and something after it.
func (s *scanner) word(f field, name, prefix string) string {
	return string(s.wordBytes(f, name, prefix))
}

func (s *scanner) wordBytes(f field, name, prefix string) []byte {
	if s.faulty != "" || !s.is(f, name, kindString, notString) {
		return nil
	}
	b := s.bytes(s.f[f])
	switch {
	case len(b) > MaxID:
		s.refuse(name, tooLong)
	case len(b) < len(prefix) || string(b[:len(prefix)]) != prefix:
		s.refuse(name, "has to begin with "+prefix)
	case len(b) == len(prefix) && prefix != "":
		s.refuse(name, "has to have something after "+prefix)
	case len(b) == 0:
		s.refuse(name, "is empty")
	case !isVisible(b):
		s.refuse(name, notVisible)
	default:
		return b
	}
	return nil
}

func (s *scanner) version() string {
	b := s.wordBytes(fSpecVersion, "spec_version", "")
	if string(b) == specVersion {
		return specVersion
	}
	for _, digit := range b {
		if digit < '0' || digit > '9' {
			s.refuse("spec_version", notDigits)
		}
	}
	return string(b)
}

// typ returns what is known about the event's type, at least its name.
func (s *scanner) typ() kindOfEvent {
	b := s.wordBytes(fType, "type", "")
	if k, ok := catalog[string(b)]; ok {
		return k
	}
	return kindOfEvent{name: string(b)}
}

// objectName returns the field object; usual is what it is for the type.
func (s *scanner) objectName(usual string) string {
	b := s.wordBytes(fObject, "object", "")
	if string(b) == usual {
		return usual
	}
	return string(b)
}

func (s *scanner) time(f field, name string) time.Time {
	if s.faulty != "" || !s.is(f, name, kindString, notString) {
		return time.Time{}
	}
	t, ok := parseTime(s.bytes(s.f[f]))
	if !ok {
		s.refuse(name, notTime)
	}
	return t
}

// data checks the data of a type that is known.
func (s *scanner) data(k kindOfEvent) {
	if s.faulty != "" {
		return
	}
	if k.need&needID != 0 {
		s.wordBytes(fDataID, "data.id", k.id)
	}
	if k.need&needName != 0 {
		s.is(fDataName, "data.name", kindString, notString)
	}
	if k.need&needDisplayName != 0 {
		s.is(fDataDisplayName, "data.display_name", kindString, notString)
	}
	if k.need&needDeletedAt != 0 {
		s.time(fDataDeletedAt, "data.deleted_at")
	}
	if k.need&needOrganizationID != 0 || s.has(fDataOrganizationID) {
		s.wordBytes(fDataOrganizationID, "data.organization_id", "org_")
	}
	if k.need&needOrganization != 0 && s.is(fDataOrganization, "data.organization", kindObject, notObject) {
		s.wordBytes(fDataOrganizationDotID, "data.organization.id", "org_")
	}
	if k.need&needUser != 0 {
		s.is(fDataUser, "data.user", kindObject, notObject)
	}
	if k.need&needUserID != 0 || s.has(fDataUserID) {
		s.wordBytes(fDataUserID, "data.user.id", "usr_")
	}
	if k.need&needSession != 0 {
		s.is(fDataSession, "data.user_session", kindObject, notObject)
	}
	if k.need&needUserID != 0 {
		s.leaving()
	}
}

// leaving checks what the events about a person's membership or account may
// say beside: why, and who is to take over.
func (s *scanner) leaving() {
	if s.has(fDataReason) {
		s.is(fDataReason, "data.reason", kindString, notString)
	}
	if !s.has(fDataSuccessor) || !s.is(fDataSuccessor, "data.successor", kindObject, notObject) {
		return
	}
	user, email := s.has(fSuccessorUserID), s.has(fSuccessorEmail)
	if user {
		s.wordBytes(fSuccessorUserID, "data.successor.user_id", "usr_")
	}
	if email {
		address := s.textOf(fSuccessorEmail, "data.successor.email")
		if s.faulty == "" && !isAddress(address) {
			s.refuse("data.successor.email", notAddress)
		}
	}
	if !user && !email {
		s.refuse("data.successor", needsOne)
	}
}

func isVisible(b []byte) bool {
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}

func isAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && len(s) <= 254 && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}

// parseTime reads a time of RFC 3339 and takes no other form, unlike
// [time.Parse], which is lenient about some. The nanoseconds of what it
// returns fit an int64.
func parseTime(b []byte) (time.Time, bool) {
	const layout = "0000-00-00T00:00:00"
	if len(b) < len(layout)+1 || !matches(b[:len(layout)], layout) {
		return time.Time{}, false
	}
	zone := b[len(layout):]
	if zone[0] == '.' {
		n := 1
		for n < len(zone) && '0' <= zone[n] && zone[n] <= '9' {
			n++
		}
		if n == 1 || n > 10 {
			return time.Time{}, false
		}
		zone = zone[n:]
	}
	if string(zone) != "Z" && !matches(zone, "+00:00") && !matches(zone, "-00:00") {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return time.Time{}, false
	}
	t = t.UTC()
	return t, 1970 <= t.Year() && t.Year() <= 2261
}

// matches reports whether b has the form of the layout, in which 0 is any digit.
func matches(b []byte, layout string) bool {
	if len(b) != len(layout) {
		return false
	}
	for i, c := range b {
		if layout[i] == '0' {
			if c < '0' || c > '9' {
				return false
			}
		} else if c != layout[i] {
			return false
		}
	}
	return true
}
