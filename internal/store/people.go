package store

import (
	"encoding/json"
	"time"

	"github.com/handover-dev/handover/events"
)

// An Organization is a customer whose members are known here. Its id is unique
// in its environment.
type Organization struct {
	EnvironmentID string
	ID            string // org_…
	DisplayName   string
	ExternalID    string
	RegionCode    string // US, EU or ""
	Slug          string
	Metadata      map[string]string
	State         OrganizationState
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// OrganizationState is where an organization stands.
type OrganizationState int8

// The states of an organization.
const (
	OrganizationActive   OrganizationState = iota
	OrganizationDeleting                   // its members are being removed
	OrganizationDeleted                    // remembered, so that late events about it are understood
)

// A User is a person's account.
type User struct {
	EnvironmentID string
	ID            string // usr_…
	Email         string
	ExternalID    string
	Profile       events.UserProfile
	Metadata      map[string]string
	// Provisional is set when a directory named a person of whom no usr_ id was
	// ever told: the id was made here.
	Provisional bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
	LastLoginAt time.Time
	DeletedAt   time.Time // zero: not

	// Memberships are those that were not removed, by organization.
	Memberships []Membership
}

// MembershipStatus is where a membership stands; the numbers from 1 on are those
// of the Scalekit API.
type MembershipStatus int8

// The statuses of a membership.
const (
	MembershipRemoved MembershipStatus = iota // remembered, not shown
	MembershipActive
	MembershipInactive
	MembershipPendingInvite
	MembershipInviteExpired
)

var membershipWords = [...]string{"REMOVED", "ACTIVE", "INACTIVE", "PENDING_INVITE", "INVITE_EXPIRED"}

func (s MembershipStatus) String() string { return membershipWords[s] }

// A Membership is a person in an organization.
type Membership struct {
	EnvironmentID  string
	OrganizationID string
	UserID         string
	Status         MembershipStatus
	Epoch          int64 // how often it became ACTIVE
	Roles          []events.Role
	Metadata       map[string]string
	InviterEmail   string
	// ProvisioningMethod is direct_provision, invitation, scim, upstream or import.
	ProvisioningMethod string
	JoinedAt           time.Time
	CreatedAt          time.Time
	AcceptedAt         time.Time
	ExpiresAt          time.Time
	UpdatedAt          time.Time
	// ChangedAt is when it last began or ended, as those say who did it: later
	// news of earlier changes are stale.
	ChangedAt time.Time // to the nanosecond

	// Of the last removal:
	Reason     string
	Successor  *events.Successor
	RemovalSeq int64 // of its event; 0: there was none, or it became ACTIVE since

	// Set by reads.
	OrganizationName       string
	OrganizationExternalID string
}

// A Session is a person's sign-in.
type Session struct {
	EnvironmentID     string
	ID                string // ses_…
	UserID            string
	OrganizationID    string   // the one that is looked at
	Organizations     []string // all that it reaches
	Status            SessionStatus
	CreatedAt         time.Time
	UpdatedAt         time.Time
	LastActiveAt      time.Time
	IdleExpiresAt     time.Time
	AbsoluteExpiresAt time.Time
	ExpiredAt         time.Time
	LogoutAt          time.Time
}

// SessionStatus is where a session stands.
type SessionStatus string

// The statuses of a session.
const (
	SessionActive  SessionStatus = "active"
	SessionExpired SessionStatus = "expired"
	SessionRevoked SessionStatus = "revoked"
	SessionLogout  SessionStatus = "logout"
)

// A SCIMDirectory is a SCIM client's door into one organization.
type SCIMDirectory struct {
	ID             string // dir_…
	EnvironmentID  string
	OrganizationID string
	Name           string
	State          string // enabled, disabled
	Tokens         []SCIMToken
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// A SCIMToken opens a directory. Only its hash is kept.
type SCIMToken struct {
	ID         string
	Prefix     string // its first characters, to know it by
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time
}

// A SCIMUser is a person as a directory sees them.
type SCIMUser struct {
	EnvironmentID string
	DirectoryID   string
	// OrganizationID is the one that the directory opens.
	OrganizationID string
	ID             string // diruser_…
	UserID         string // the account, usr_…
	UserName       string
	ExternalID     string
	Email          string // the primary or first one
	Active         bool
	ManagerID      string // diruser_… or externalId of the manager, as sent
	// Attributes are those of the resource that are not listed above: name,
	// displayName, emails and so on. Never null.
	Attributes json.RawMessage
	CreatedAt  time.Time
	UpdatedAt  time.Time
}

// A SCIMGroup is a group of a directory.
type SCIMGroup struct {
	DirectoryID string
	ID          string // dirgroup_…
	DisplayName string
	ExternalID  string
	Members     []string // ids of SCIM users, sorted
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// A Client may use the Scalekit-compatible API. Only the hash of its secret is
// kept.
type Client struct {
	ID            string // skc_…
	Name          string
	EnvironmentID string
	Prefix        string // of the secret
	CreatedAt     time.Time
	LastUsedAt    time.Time
	RevokedAt     time.Time
}
