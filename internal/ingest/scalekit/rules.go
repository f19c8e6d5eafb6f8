package scalekit

import (
	"cmp"
	"fmt"
	"net/mail"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

const (
	maxID         = 32
	maxSessionID  = 64 // and of the users in sessions, for which the API knows no bound
	maxExternalID = 510
	maxEmail      = 254
	maxText       = 512
	maxRoles      = 100
	maxPage       = 100
	maxPageToken  = 1024
	maxFaults     = 20

	pairsOfUser         = 20
	pairsOfOrganization = 10
)

// faults collects what is wrong with a request, by the names of its fields.
type faults []*scalekitv1.ValidationErrorInfo_FieldViolation

// add notes a fault. Descriptions go behind the field's name, and never hold what
// was sent.
func (f *faults) add(field, constraint, description string) {
	if len(*f) < maxFaults {
		*f = append(*f, &scalekitv1.ValidationErrorInfo_FieldViolation{Field: field, Constraint: constraint, Description: description})
	}
}

func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	no := refuse(connect.CodeInvalidArgument, f[0].Field+" "+f[0].Description)
	no.info.ValidationErrorInfo = &scalekitv1.ValidationErrorInfo{FieldViolations: f}
	return no
}

// invalid is a refusal for one fault.
func invalid(field, constraint, description string) *refusal {
	var f faults
	f.add(field, constraint, description)
	no, _ := f.err().(*refusal) //nolint:errorlint // it was made here
	return no
}

// isWord tells whether all of s is printable ASCII without spaces.
func isWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

func (f *faults) id(field, id, prefix string, least, most int) {
	switch {
	case len(id) < least || len(id) > most:
		f.add(field, "string.length", fmt.Sprintf("has to have %d to %d characters", least, most))
	case !strings.HasPrefix(id, prefix):
		f.add(field, "string.prefix", "has to begin with "+prefix)
	case !isWord(id):
		f.add(field, "string.pattern", "has a character that no id has")
	}
}

func (f *faults) organizationID(field, id string) { f.id(field, id, "org_", 1, maxID) }

// sessionID is for ids in requests about sessions, which are digits.
func (f *faults) sessionID(field, id, prefix string) {
	digits, ok := strings.CutPrefix(id, prefix)
	if !ok || digits == "" || len(id) > maxSessionID || strings.Trim(digits, "0123456789") != "" {
		f.add(field, "string.pattern", "has to be "+prefix+" and digits")
	}
}

func (f *faults) externalID(field, id string) {
	if id == "" || utf8.RuneCountInString(id) > maxExternalID {
		f.add(field, "string.length", fmt.Sprintf("has to have 1 to %d characters", maxExternalID))
		return
	}
	f.characters(field, id)
}

// text checks a text that may be empty.
func (f *faults) text(field, s string, most int) {
	if len(s) > most && utf8.RuneCountInString(s) > most {
		f.add(field, "string.max_len", fmt.Sprintf("has to have at most %d characters", most))
		return
	}
	f.characters(field, s)
}

// characters refuses what a database cannot hold.
func (f *faults) characters(field, s string) {
	if !storable(s) {
		f.add(field, "string.pattern", "has a NUL character, or is not UTF-8")
	}
}

func storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

func (f *faults) email(field, email string, least int) {
	if len(email) < least || len(email) > maxEmail || !isEmail(email) {
		f.add(field, "string.email", fmt.Sprintf("has to be an email address of at most %d characters", maxEmail))
	}
}

func isEmail(s string) bool {
	a, err := mail.ParseAddress(s)
	return err == nil && a.Address == s && storable(s) // and so without a name, comments or spaces
}

func (f *faults) metadata(field string, pairs map[string]string, most int) {
	if len(pairs) > most {
		f.add(field, "map.max_pairs", fmt.Sprintf("has to have at most %d pairs", most))
		return
	}
	keys, values, characters := true, true, true
	for k, v := range pairs {
		keys = keys && between(k, 3, 25)
		values = values && between(v, 1, 256)
		characters = characters && storable(k) && storable(v)
	}
	if !keys {
		f.add(field, "map.keys", "has to have keys of 3 to 25 characters")
	}
	if !values {
		f.add(field, "map.values", "has to have values of 1 to 256 characters")
	}
	if !characters {
		f.add(field, "string.pattern", "has a NUL character, or is not UTF-8")
	}
}

func between(s string, least, most int) bool {
	n := utf8.RuneCountInString(s)
	return n >= least && n <= most
}

func (f *faults) roles(field string, roles []*scalekitv1.Role) []events.Role {
	if len(roles) > maxRoles {
		f.add(field, "repeated.max_items", fmt.Sprintf("has to have at most %d roles", maxRoles))
		return nil
	}
	var out []events.Role
	for i, role := range roles {
		at := fmt.Sprintf("%s[%d]", field, i)
		if role.GetId() == "" && role.GetName() == "" {
			f.add(at, "required", "has to have a name or an id")
		}
		f.text(at+".id", role.GetId(), maxSessionID)
		f.text(at+".name", role.GetName(), maxText)
		f.text(at+".display_name", role.GetDisplayName(), maxText)
		out = append(out, events.Role{ID: role.GetId(), Name: role.GetName(), DisplayName: role.GetDisplayName()})
	}
	return out
}

// identity is one of the two ids that an organization or a user is asked for by.
type identity struct {
	there, external bool
	id, externalID  string
}

func (f *faults) ref(who identity, prefix string, least, most int) directory.Ref {
	switch {
	case !who.there:
		f.add("identities", "required", "is missing: send id or external_id")
	case who.external:
		f.externalID("external_id", who.externalID)
	default:
		f.id("id", who.id, prefix, least, most)
	}
	return directory.Ref{ID: who.id, ExternalID: who.externalID}
}

// user is for requests that change something, in which ids have other bounds
// than in those that only read.
func (f *faults) user(who identity) directory.Ref { return f.ref(who, "usr_", 19, 25) }

// page takes a page's size as far as pages go.
func (f *faults) page(size uint32, token string) directory.Page {
	if len(token) > maxPageToken || !isWord(token) {
		f.add("page_token", "page_token", "has to come from an answer of this list")
	}
	return directory.Page{Size: int(min(size, maxPage)), Token: token}
}

var slugs = regexp.MustCompile(`^[a-z0-9]([a-z0-9]|-[a-z0-9])*$`)

func (f *faults) slug(field, slug string) {
	if len(slug) > 63 || !slugs.MatchString(slug) {
		f.add(field, "string.pattern", "has to have 1 to 63 lower-case letters, digits, and single hyphens between them")
	}
}

func (f *faults) time(field string, t *timestamppb.Timestamp) {
	if t != nil && t.CheckValid() != nil {
		f.add(field, "timestamp", "is not a time")
	}
}

// successor takes who the header says is to take over.
func (f *faults) successor(values []string) string {
	if len(values) == 0 {
		return ""
	}
	who := values[0]
	if len(values) > 1 {
		f.add(SuccessorHeader, "header", "has to be there once")
	} else if !strings.Contains(who, "@") {
		f.id(SuccessorHeader, who, "usr_", 1, maxID)
	} else {
		f.email(SuccessorHeader, who, 1)
	}
	return who
}

// profile checks a person's profile. Some SDKs send the first pair of names, some
// the second.
func (f *faults) profile(field string, p *scalekitv1.CreateUserProfile) events.UserProfile {
	if p == nil {
		return events.UserProfile{}
	}
	f.text(field+".given_name", p.GivenName, 255)
	f.text(field+".family_name", p.FamilyName, 255)
	f.text(field+".first_name", p.FirstName, 200)
	f.text(field+".last_name", p.LastName, 200)
	f.text(field+".name", p.Name, maxText)
	f.text(field+".locale", p.Locale, maxText)
	f.text(field+".phone_number", p.PhoneNumber, maxText)
	f.text(field+".preferred_username", p.PreferredUsername, maxText)
	f.metadata(field+".metadata", p.Metadata, pairsOfUser)
	f.metadata(field+".custom_attributes", p.CustomAttributes, pairsOfUser)
	return events.UserProfile{
		GivenName:         cmp.Or(p.GivenName, p.FirstName),
		FamilyName:        cmp.Or(p.FamilyName, p.LastName),
		Name:              p.Name,
		Locale:            p.Locale,
		PhoneNumber:       p.PhoneNumber,
		PreferredUsername: p.PreferredUsername,
		Metadata:          p.Metadata,
		CustomAttributes:  p.CustomAttributes,
	}
}

// membership checks what a membership begins with.
func (f *faults) membership(field string, m *scalekitv1.CreateMembership) directory.NewMembership {
	if m != nil && m.InviterEmail != nil {
		f.email(field+".inviter_email", m.GetInviterEmail(), 5)
	}
	f.metadata(field+".metadata", m.GetMetadata(), pairsOfUser)
	return directory.NewMembership{
		Roles:        f.roles(field+".roles", m.GetRoles()),
		Metadata:     m.GetMetadata(),
		InviterEmail: m.GetInviterEmail(),
	}
}

// statuses checks the statuses of a filter of sessions, in any letter case.
func (f *faults) statuses(field string, statuses []string) []string {
	known := []string{"active", "expired", "revoked", "logout"}
	var wanted []string
	for _, s := range statuses {
		s = strings.ToLower(s)
		switch {
		case !slices.Contains(known, s):
			f.add(field, "string.in", "has to be of active, expired, revoked, logout")
			return nil
		case !slices.Contains(wanted, s):
			wanted = append(wanted, s)
		}
	}
	return wanted
}
