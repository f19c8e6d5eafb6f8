package api

import (
	"fmt"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The routes of who is a member of what. Those marked e take ?environment_id,
// which is the service's own when it is absent.
//
//	GET    /v1/organizations                        e → Page[Organization]  ?external_id&cursor&limit
//	POST   /v1/organizations                        e → 201 Organization    NewOrganization
//	GET    /v1/organizations/{id}                   e → Organization
//	DELETE /v1/organizations/{id}                   e → 204                 removes its members first
//
//	GET    /v1/organizations/{id}/members           e → Page[Member]        ?cursor&limit
//	POST   /v1/organizations/{id}/members           e → 201 Member          NewMember
//	POST   /v1/organizations/{id}/members/import    e → Imported            ImportMembers; no events
//	GET    /v1/organizations/{id}/members/{user_id} e → Member
//	DELETE /v1/organizations/{id}/members/{user_id} e → Removal             Leaving, or ?successor&reason
//
//	GET    /v1/users                                e → Page[User]          ?external_id&cursor&limit
//	GET    /v1/users/{id}                           e → User
//	DELETE /v1/users/{id}                           e → 204                 ?successor
//	GET    /v1/users/{id}/sessions                  e → Page[Session]       ?status&since&until&cursor&limit
//
//	POST   /v1/sessions                             e → 201 Session         NewSession
//	GET    /v1/sessions/{id}                        e → Session
//	POST   /v1/sessions/{id}/revoke                 e → Session
//
//	GET    /v1/directories                            → Page[SCIMDirectory] ?organization_id&cursor&limit
//	POST   /v1/directories                          e → 201 SCIMDirectory   NewSCIMDirectory; Token set this once
//	GET    /v1/directories/{id}                       → SCIMDirectory
//	PATCH  /v1/directories/{id}                       → SCIMDirectory       SCIMDirectoryChange
//	DELETE /v1/directories/{id}                       → 204
//	POST   /v1/directories/{id}/rotate                → SCIMDirectory       TokenRotation or nothing; Token set this once
//
//	GET    /v1/clients                                → Page[APIClient]     ?cursor&limit
//	POST   /v1/clients                              e → 201 APIClient       NewAPIClient; Secret set this once
//	DELETE /v1/clients/{id}                           → 204                 revoked
//
// A page of organizations, members, users or sessions has at most 100 of them.

// An Organization is a customer whose members are known.
type Organization struct {
	ID            string            `json:"id" example:"org_118200000000000001"`
	EnvironmentID string            `json:"environment_id"`
	DisplayName   string            `json:"display_name"`
	ExternalID    string            `json:"external_id,omitempty" doc:"What the app calls it."`
	RegionCode    string            `json:"region_code,omitempty" enum:"US,EU"`
	Slug          string            `json:"slug,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	State         string            `json:"state" enum:"active,deleting,deleted" doc:"Deleting: its members are being removed."`
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
}

// NewOrganization asks for an organization.
type NewOrganization struct {
	ID          string            `json:"id,omitempty" maxLength:"32" pattern:"^org_[A-Za-z0-9_-]+$" patternDescription:"org_ and an id" doc:"Its id where it is known already; absent: one is made."`
	DisplayName string            `json:"display_name" minLength:"1" maxLength:"200"`
	ExternalID  string            `json:"external_id,omitempty" maxLength:"255"`
	RegionCode  string            `json:"region_code,omitempty" enum:"US,EU"`
	Slug        string            `json:"slug,omitempty" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9]|-[a-z0-9])*$" patternDescription:"lower case letters and digits, with single - between them"`
	Metadata    map[string]string `json:"metadata,omitempty" doc:"At most 10; keys of 3 to 25 characters, values of 1 to 256."`
}

// A Member is a person in an organization.
type Member struct {
	UserID             string            `json:"user_id" example:"usr_118200000000001001"`
	OrganizationID     string            `json:"organization_id"`
	Email              string            `json:"email,omitempty"`
	ExternalID         string            `json:"external_id,omitempty" doc:"What the app calls the person."`
	Name               string            `json:"name,omitempty"`
	Status             string            `json:"status" enum:"ACTIVE,INACTIVE,PENDING_INVITE,INVITE_EXPIRED"`
	Epoch              int64             `json:"epoch,omitempty" doc:"How often the membership became ACTIVE."`
	Roles              []string          `json:"roles" nullable:"false"`
	Metadata           map[string]string `json:"metadata,omitempty"`
	ProvisioningMethod string            `json:"provisioning_method,omitempty" doc:"How the person came: direct_provision, invitation, scim, upstream or import."`
	InviterEmail       string            `json:"inviter_email,omitempty"`
	JoinedAt           time.Time         `json:"joined_at,omitzero" required:"false"`
	ExpiresAt          time.Time         `json:"expires_at,omitzero" required:"false" doc:"Of an invitation."`
	UpdatedAt          time.Time         `json:"updated_at,omitzero" required:"false"`
}

// NewMember asks for a membership: of a new account with an email, or of one
// that there is with its user_id.
type NewMember struct {
	UserID     string   `json:"user_id,omitempty" maxLength:"255" doc:"Whose; instead of email, external_id and name."`
	Email      string   `json:"email,omitempty" maxLength:"254"`
	ExternalID string   `json:"external_id,omitempty" maxLength:"255"`
	Name       string   `json:"name,omitempty" maxLength:"255"`
	Roles      []string `json:"roles,omitempty" nullable:"false" maxItems:"50"`
}

// Leaving says how a person goes.
type Leaving struct {
	Successor string `json:"successor,omitempty" maxLength:"255" doc:"Who takes over: the id (usr_…) or email of another active member; absent: the manager that the directory told, if any."`
	Reason    string `json:"reason,omitempty" enum:"api,dashboard,upstream" doc:"Absent: api."`
}

// A Removal is what was done.
type Removal struct {
	EventID         string     `json:"event_id,omitempty" doc:"The event that tells the apps; absent: the departure had been told before."`
	OrganizationID  string     `json:"organization_id"`
	UserID          string     `json:"user_id"`
	Email           string     `json:"email,omitempty"`
	Name            string     `json:"name,omitempty"`
	Successor       *Successor `json:"successor,omitempty" doc:"Who takes over; absent: the apps decide."`
	RevokedSessions []string   `json:"revoked_sessions" nullable:"false"`
	UserDeleted     bool       `json:"user_deleted" doc:"It was the last membership, and the account went with it."`
}

// A Successor takes over what a person leaves behind.
type Successor struct {
	UserID string `json:"user_id,omitempty"`
	Email  string `json:"email,omitempty"`
	Source string `json:"source" enum:"request,manager" doc:"Who named the successor: the request, or the directory as the person's manager."`
}

// ImportMembers are members of an existing installation, at most 1,000.
type ImportMembers struct {
	Members []ImportMember `json:"members" nullable:"false" minItems:"1" maxItems:"1000"`
}

// An ImportMember is one member of an existing installation. Its id or its email
// has to be there.
type ImportMember struct {
	ID         string    `json:"id,omitempty" doc:"usr_…, where it is known."`
	Email      string    `json:"email,omitempty"`
	ExternalID string    `json:"external_id,omitempty"`
	Name       string    `json:"name,omitempty"`
	Roles      []string  `json:"roles,omitempty" nullable:"false"`
	Status     string    `json:"status,omitempty" doc:"ACTIVE, INACTIVE, PENDING_INVITE or INVITE_EXPIRED; absent: ACTIVE."`
	JoinedAt   time.Time `json:"joined_at,omitzero" required:"false"`
}

// Imported tells what became of an import.
type Imported struct {
	Added int `json:"added" doc:"How many were new."`
	Known int `json:"known" doc:"How many were members already, and were left as they are."`
}

// A User is a person's account.
type User struct {
	ID            string            `json:"id" example:"usr_118200000000001001"`
	EnvironmentID string            `json:"environment_id"`
	Email         string            `json:"email,omitempty"`
	ExternalID    string            `json:"external_id,omitempty"`
	Name          string            `json:"name,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Memberships   []Member          `json:"memberships" nullable:"false"`
	CreatedAt     time.Time         `json:"created_at"`
	UpdatedAt     time.Time         `json:"updated_at"`
	LastLoginAt   time.Time         `json:"last_login_at,omitzero" required:"false"`
}

// A Session is a person's sign-in.
type Session struct {
	ID                string    `json:"id" example:"ses_118200000000007001"`
	UserID            string    `json:"user_id"`
	OrganizationID    string    `json:"organization_id,omitempty" doc:"The one that is looked at."`
	Organizations     []string  `json:"organizations" nullable:"false" doc:"All that it reaches."`
	Status            string    `json:"status" enum:"active,expired,revoked,logout"`
	CreatedAt         time.Time `json:"created_at"`
	UpdatedAt         time.Time `json:"updated_at"`
	LastActiveAt      time.Time `json:"last_active_at,omitzero" required:"false"`
	IdleExpiresAt     time.Time `json:"idle_expires_at,omitzero" required:"false"`
	AbsoluteExpiresAt time.Time `json:"absolute_expires_at,omitzero" required:"false"`
	ExpiredAt         time.Time `json:"expired_at,omitzero" required:"false"`
	LogoutAt          time.Time `json:"logout_at,omitzero" required:"false"`
}

// NewSession tells of a session that began elsewhere.
type NewSession struct {
	ID             string   `json:"id,omitempty" maxLength:"64" pattern:"^ses_[0-9]+$" patternDescription:"ses_ and digits" doc:"Absent: one is made."`
	UserID         string   `json:"user_id" minLength:"1" maxLength:"255"`
	OrganizationID string   `json:"organization_id" minLength:"1" maxLength:"255" doc:"The one that is looked at."`
	Organizations  []string `json:"organizations,omitempty" nullable:"false" maxItems:"100" doc:"Others that it reaches."`
}

// A SCIMDirectory is a SCIM client's door into one organization.
type SCIMDirectory struct {
	ID             string      `json:"id" example:"dir_118200000000005001"`
	Name           string      `json:"name"`
	Path           string      `json:"path" doc:"The SCIM base URL, under the service's." example:"/api/v1/directories/dir_118200000000005001/scim/v2"`
	EnvironmentID  string      `json:"environment_id"`
	OrganizationID string      `json:"organization_id"`
	State          string      `json:"state" enum:"enabled,disabled"`
	Tokens         []SCIMToken `json:"tokens" nullable:"false" doc:"What opens it, newest first."`
	Token          string      `json:"token,omitempty" doc:"The new token. It is shown this once."`
	CreatedAt      time.Time   `json:"created_at"`
	UpdatedAt      time.Time   `json:"updated_at"`
}

// A SCIMToken opens a directory.
type SCIMToken struct {
	ID         string    `json:"id"`
	Prefix     string    `json:"prefix" doc:"Its first characters, to recognize it by."`
	CreatedAt  time.Time `json:"created_at"`
	ExpiresAt  time.Time `json:"expires_at,omitzero" required:"false" doc:"Absent: never."`
	LastUsedAt time.Time `json:"last_used_at,omitzero" required:"false" doc:"To the minute; absent: never."`
}

// NewSCIMDirectory asks for a directory.
type NewSCIMDirectory struct {
	OrganizationID string `json:"organization_id" minLength:"1" maxLength:"255" doc:"Whose members it manages."`
	Name           string `json:"name" minLength:"1" maxLength:"200"`
}

// A SCIMDirectoryChange changes what is set in it.
type SCIMDirectoryChange struct {
	Name  *string `json:"name,omitempty" minLength:"1" maxLength:"200"`
	State *string `json:"state,omitempty" enum:"enabled,disabled"`
}

// A TokenRotation replaces a token. The older ones remain valid for a while.
type TokenRotation struct {
	OverlapSeconds *float64 `json:"overlap_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"How long the older ones remain valid; absent: 24 hours."`
}

// An APIClient may use the Scalekit-compatible API.
type APIClient struct { //nolint:revive // Client is the one that talks to this API
	ID            string    `json:"id" example:"skc_118200000000009001"`
	Name          string    `json:"name"`
	EnvironmentID string    `json:"environment_id" doc:"The one whose organizations and people it reaches."`
	Prefix        string    `json:"prefix" doc:"The first characters of its secret, to recognize it by."`
	Secret        string    `json:"secret,omitempty" doc:"Its secret. It is shown this once."`
	CreatedAt     time.Time `json:"created_at"`
	LastUsedAt    time.Time `json:"last_used_at,omitzero" required:"false" doc:"To the minute; absent: never."`
	RevokedAt     time.Time `json:"revoked_at,omitzero" required:"false" doc:"Absent: it is valid."`
}

// NewAPIClient asks for a client.
type NewAPIClient struct {
	Name string `json:"name" minLength:"1" maxLength:"200"`
}

// MaxImport is how many members one request may import.
const MaxImport = 1000

// Statuses are those that a membership can have.
var statuses = []string{"ACTIVE", "INACTIVE", "PENDING_INVITE", "INVITE_EXPIRED"}

// Check says what is wrong with a member that is to be imported.
func (m ImportMember) Check() (faults []FieldError) {
	fault := func(field, message string) {
		if message != "" {
			faults = append(faults, FieldError{Field: field, Message: message})
		}
	}
	if m.ID == "" && m.Email == "" {
		fault("id", "is missing, and so is email")
	}
	if m.ID != "" {
		fault("id", checkUserID(m.ID))
	}
	if m.Email != "" {
		fault("email", checkEmail(m.Email))
	}
	fault("external_id", checkText(m.ExternalID, 255))
	fault("name", checkText(m.Name, 255))
	for _, f := range checkRoles("roles", m.Roles) {
		fault(f.Field, f.Message)
	}
	if known := m.Status == ""; !known {
		for _, s := range statuses {
			known = known || s == m.Status
		}
		if !known {
			fault("status", "has to be one of "+strings.Join(statuses, ", "))
		}
	}
	if t := m.JoinedAt; !t.IsZero() && (t.Year() < 1970 || t.Year() > 9000) {
		fault("joined_at", "has to be in the years 1970 to 9000")
	}
	return faults
}

func checkUserID(id string) string {
	if !isWord(id) || !strings.HasPrefix(id, "usr_") || id == "usr_" {
		return "has to begin with usr_ and be an id"
	}
	return ""
}

func checkEmail(email string) string {
	const most = 254
	if a, err := mail.ParseAddress(email); err != nil || a.Address != email || len(email) > most || checkText(email, most) != "" {
		return "is not an email address"
	}
	return ""
}

func checkRoles(field string, roles []string) (faults []FieldError) {
	const most = 50
	if len(roles) > most {
		faults = append(faults, FieldError{field, fmt.Sprintf("are more than %d", most)})
	}
	for i, r := range roles {
		message := checkText(r, 100)
		if strings.TrimSpace(r) == "" {
			message = "is blank"
		}
		if message != "" {
			faults = append(faults, FieldError{fmt.Sprintf("%s[%d]", field, i), message})
		}
	}
	return faults
}

// checkText says what is wrong with a text of one line.
func checkText(text string, most int) string {
	switch {
	case !utf8.ValidString(text):
		return "is not UTF-8"
	case utf8.RuneCountInString(text) > most:
		return fmt.Sprintf("is longer than %d characters", most)
	case strings.ContainsFunc(text, unicode.IsControl):
		return "has a control character"
	}
	return ""
}
