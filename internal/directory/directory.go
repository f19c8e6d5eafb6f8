// Package directory knows who is a member of what, and decides what a change of
// that means. Every removal, however it arrives, ends here: the membership, the
// sessions and the account that end with it, and the events that say so, are one
// transaction.
package directory

import (
	"context"
	"errors"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
)

// What is kept, by its names here.
type (
	Organization     = store.Organization
	User             = store.User
	Membership       = store.Membership
	MembershipStatus = store.MembershipStatus
	Session          = store.Session
	SCIMDirectory    = store.SCIMDirectory
	SCIMUser         = store.SCIMUser
	SCIMGroup        = store.SCIMGroup
)

// Errors that callers match. After any of them nothing was changed.
var (
	ErrOrganizationNotFound = errors.New("there is no such organization")
	ErrUserNotFound         = errors.New("there is no such user")
	ErrMembershipNotFound   = errors.New("the user is not a member of the organization")
	ErrSessionNotFound      = errors.New("there is no such session")
	ErrDirectoryNotFound    = errors.New("there is no such directory")
	ErrNotFound             = errors.New("there is no such resource") // of a directory
	ErrOrganizationExists   = errors.New("an organization with this external id or slug exists")
	ErrUserExists           = errors.New("a user with this email or external id exists")
	ErrMembershipExists     = errors.New("the user is a member of the organization already")
	ErrUserNameTaken        = errors.New("the directory has a user with this userName")
	ErrSessionExists        = errors.New("there is a session with this id")
	ErrSuccessor            = errors.New("the successor is not another active member of the organization")
	ErrPageToken            = errors.New("it is not a page token of this list")
	// ErrUnavailable means that nothing was changed because the database could not
	// be reached or written; the same may be asked again.
	ErrUnavailable = ingest.ErrUnavailable
)

// Reasons of removals.
const (
	ReasonAPI                 = "api"
	ReasonDashboard           = "dashboard"
	ReasonSCIM                = "scim"
	ReasonUpstream            = "upstream"
	ReasonUserDeleted         = "user_deleted"
	ReasonOrganizationDeleted = "organization_deleted"
)

// A Ref names an organization or a user in an environment, by one of its ids.
type Ref struct {
	ID         string
	ExternalID string
}

// A Page asks for a part of a list. Tokens stay good while the list changes: a
// page begins behind what the one before showed last.
type Page struct {
	Size  int    // 1 to 100; 0: 10
	Token string // "" for the first page
}

// A List is a page of one.
type List[T any] struct {
	Items      []T
	Next, Prev string // tokens; "" at the ends
	Total      int64  // of the whole list
}

// NewOrganization is what an organization is made of. An empty ID is made here.
type NewOrganization struct {
	ID, DisplayName, ExternalID, RegionCode, Slug string
	Metadata                                      map[string]string
}

// NewUser is what an account with a first membership is made of.
type NewUser struct {
	Email, ExternalID string
	Profile           events.UserProfile
	Metadata          map[string]string
	Membership        NewMembership
}

// NewMembership is what a membership begins with.
type NewMembership struct {
	Roles        []events.Role
	Metadata     map[string]string
	InviterEmail string
	Invite       bool // PENDING_INVITE until accepted, else ACTIVE at once
}

// MembershipChange says what of a membership to replace; nil leaves it.
type MembershipChange struct {
	Roles    *[]events.Role
	Metadata *map[string]string
}

// How tells how a removal came about.
type How struct {
	Reason string // default ReasonAPI
	// Successor is a user's id (usr_…) or email; it has to be another active member.
	// Empty: the manager that SCIM told, if there is one.
	Successor string
}

// A Removal is what was done.
type Removal struct {
	EventID         string // "" when the departure had been announced before
	User            User   // as it was
	Successor       *events.Successor
	RevokedSessions []string
	UserDeleted     bool
}

// Imported is one member of an existing installation. ID or Email has to be
// there.
type Imported struct {
	ID, Email, ExternalID string
	Name                  string // of the person
	Roles                 []string
	Status                MembershipStatus // default ACTIVE
	JoinedAt              time.Time
}

// SCIMFilter says which users of a directory are wanted: all conditions hold. nil
// asks nothing.
type SCIMFilter struct {
	ID, UserName, ExternalID, Email *string // UserName and Email in any letter case
	Active                          *bool
}

// SCIMGroupFilter says which groups are wanted.
type SCIMGroupFilter struct {
	ID, DisplayName, ExternalID, Member *string
}

// An Inbound is an event that an identity provider sent.
type Inbound struct {
	Event events.Event
	Inbox ingest.Inbox // what makes it known
}

// Effect is what an inbound event meant.
type Effect string

// Effects of inbound events.
const (
	EffectRecorded Effect = "recorded" // forwarded, nothing else
	EffectRemoved  Effect = "removed"  // at least one person left
	EffectAdded    Effect = "added"    // a person became a member, or again
	EffectKnown    Effect = "known"    // nothing new: told before, perhaps by another channel
	EffectStale    Effect = "stale"    // older than what is known
)

// An Applied is what became of an inbound event.
type Applied struct {
	EventID  string // the id it was recorded under first
	Repeated bool   // the same webhook came before
	Effect   Effect
}

// A Directory is safe for concurrent use. Run must be running.
type Directory struct {
	Store *store.Store
}

var errNotBuilt = errors.New("not built yet")

// Organizations.

func (d *Directory) CreateOrganization(ctx context.Context, env string, n NewOrganization) (Organization, error) {
	return Organization{}, errNotBuilt
}
func (d *Directory) Organization(ctx context.Context, env string, ref Ref) (Organization, error) {
	return Organization{}, errNotBuilt
}
func (d *Directory) Organizations(ctx context.Context, env, externalID string, p Page) (List[Organization], error) {
	return List[Organization]{}, errNotBuilt
}

// DeleteOrganization removes all members, and returns when that is done.
func (d *Directory) DeleteOrganization(ctx context.Context, env string, ref Ref) error {
	return errNotBuilt
}

// Users and memberships. Users come with their memberships.

func (d *Directory) CreateUser(ctx context.Context, env, organizationID string, n NewUser) (User, error) {
	return User{}, errNotBuilt
}
func (d *Directory) User(ctx context.Context, env string, ref Ref) (User, error) {
	return User{}, errNotBuilt
}
func (d *Directory) Users(ctx context.Context, env string, p Page) (List[User], error) {
	return List[User]{}, errNotBuilt
}
func (d *Directory) Members(ctx context.Context, env, organizationID string, p Page) (List[User], error) {
	return List[User]{}, errNotBuilt
}
func (d *Directory) AddMember(ctx context.Context, env, organizationID string, user Ref, n NewMembership) (User, error) {
	return User{}, errNotBuilt
}
func (d *Directory) UpdateMember(ctx context.Context, env, organizationID string, user Ref, c MembershipChange) (User, error) {
	return User{}, errNotBuilt
}
func (d *Directory) RemoveMember(ctx context.Context, env, organizationID string, user Ref, how How) (Removal, error) {
	return Removal{}, errNotBuilt
}

// DeleteUser removes all memberships and the account.
func (d *Directory) DeleteUser(ctx context.Context, env string, user Ref, how How) error {
	return errNotBuilt
}

// Import makes people known as members, without events; who is one already is
// left as they are. At most 1,000 at a time. It returns how many were new.
func (d *Directory) Import(ctx context.Context, env, organizationID string, members []Imported) (added int, err error) {
	return 0, errNotBuilt
}

// Sessions.

// CreateSession records a session that began elsewhere. An empty ID is made here.
func (d *Directory) CreateSession(ctx context.Context, s Session) (Session, error) {
	return Session{}, errNotBuilt
}
func (d *Directory) Session(ctx context.Context, env, id string) (Session, error) {
	return Session{}, errNotBuilt
}

// SessionFilter says which sessions are wanted; zero values ask nothing.
type SessionFilter struct {
	Statuses      []string
	Since, Before time.Time // of the creation
}

func (d *Directory) UserSessions(ctx context.Context, env, userID string, f SessionFilter, p Page) (List[Session], error) {
	return List[Session]{}, errNotBuilt
}

// RevokeSession ends a session; one that has ended already is returned as it is.
func (d *Directory) RevokeSession(ctx context.Context, env, id string) (Session, error) {
	return Session{}, errNotBuilt
}
func (d *Directory) RevokeUserSessions(ctx context.Context, env, userID string) ([]Session, error) {
	return nil, errNotBuilt
}

// SCIM. The directories themselves are managed through the store.

func (d *Directory) CreateSCIMUser(ctx context.Context, dir SCIMDirectory, u SCIMUser) (SCIMUser, error) {
	return SCIMUser{}, errNotBuilt
}
func (d *Directory) SCIMUser(ctx context.Context, dir SCIMDirectory, id string) (SCIMUser, error) {
	return SCIMUser{}, errNotBuilt
}

// SCIMUsers returns count users from the start-th (1 is the first) on, and how
// many there are in all.
func (d *Directory) SCIMUsers(ctx context.Context, dir SCIMDirectory, f SCIMFilter, start, count int) ([]SCIMUser, int, error) {
	return nil, 0, errNotBuilt
}

// ChangeSCIMUser lets change, which may be called more than once, make a new
// user of the present one, in the transaction that also draws the consequences.
// What change returns as its error is returned as it is.
func (d *Directory) ChangeSCIMUser(ctx context.Context, dir SCIMDirectory, id string, change func(SCIMUser) (SCIMUser, error)) (SCIMUser, error) {
	return SCIMUser{}, errNotBuilt
}
func (d *Directory) DeleteSCIMUser(ctx context.Context, dir SCIMDirectory, id string) error {
	return errNotBuilt
}

func (d *Directory) CreateSCIMGroup(ctx context.Context, dir SCIMDirectory, g SCIMGroup) (SCIMGroup, error) {
	return SCIMGroup{}, errNotBuilt
}
func (d *Directory) SCIMGroup(ctx context.Context, dir SCIMDirectory, id string) (SCIMGroup, error) {
	return SCIMGroup{}, errNotBuilt
}
func (d *Directory) SCIMGroups(ctx context.Context, dir SCIMDirectory, f SCIMGroupFilter, start, count int) ([]SCIMGroup, int, error) {
	return nil, 0, errNotBuilt
}
func (d *Directory) ChangeSCIMGroup(ctx context.Context, dir SCIMDirectory, id string, change func(SCIMGroup) (SCIMGroup, error)) (SCIMGroup, error) {
	return SCIMGroup{}, errNotBuilt
}
func (d *Directory) DeleteSCIMGroup(ctx context.Context, dir SCIMDirectory, id string) error {
	return errNotBuilt
}

// Inbound events.

// Means tells whether events of a type can change who is a member, or of
// sessions. Others only have to be recorded.
func Means(eventType string) bool { return false }

// Apply records an inbound event and does what it means.
func (d *Directory) Apply(ctx context.Context, in Inbound) (Applied, error) {
	return Applied{}, errNotBuilt
}
