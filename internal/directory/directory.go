// Package directory knows who is a member of what, and decides what a change of
// that means. Every removal, however it arrives, ends here: the membership, the
// sessions and the account that end with it, and the events that say so, are one
// transaction.
package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/groupcommit"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/outbox"
)

// What is kept, by its names here.
type (
	// Organization is a customer.
	Organization = store.Organization
	// User is a person's account.
	User = store.User
	// Membership is a person in an organization.
	Membership = store.Membership
	// MembershipStatus is where one stands.
	MembershipStatus = store.MembershipStatus
	// Session is a person's sign-in.
	Session = store.Session
	// SCIMDirectory is a SCIM client's door into one organization.
	SCIMDirectory = store.SCIMDirectory
	// SCIMUser is a person as a directory sees them.
	SCIMUser = store.SCIMUser
	// SCIMGroup is a group of a directory.
	SCIMGroup = store.SCIMGroup
)

// Errors that callers match. After any of them but ErrUnsure nothing was changed.
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
	// ErrUnsure means that the database was lost while it committed: the change may
	// have been made.
	ErrUnsure = store.ErrUnsure
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

// A Ref names an organization or a user in an environment, by one of its ids, or
// a user by email in any letter case.
type Ref struct {
	ID         string
	ExternalID string
	Email      string
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

// SessionFilter says which sessions are wanted; zero values ask nothing.
type SessionFilter struct {
	Statuses      []string
	Since, Before time.Time // of the creation
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
	Store    *store.Store
	Recorder *ingest.Recorder // hands what is appended to the relay
	Log      *slog.Logger     // nil: none

	group groupcommit.Group[*command]
	wake  chan struct{}
}

// New returns a Directory over a store.
func New(s *store.Store, r *ingest.Recorder) *Directory {
	d := &Directory{Store: s, Recorder: r, wake: make(chan struct{}, 1)}
	d.group.Commit = d.commit
	d.group.Max = 256
	d.group.Gather = 5 * time.Millisecond
	d.group.Transient = func(err error) bool { return !errors.As(err, &half{}) && s.Transient(err) }
	return d
}

// Run makes changes until ctx ends, and finishes deletions of organizations that
// a process left behind.
func (d *Directory) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return d.group.Run(ctx) })
	g.Go(func() error { return d.finishDeletions(ctx) })
	return g.Wait()
}

func (d *Directory) log() *slog.Logger {
	if d.Log != nil {
		return d.Log
	}
	return slog.New(slog.DiscardHandler)
}

// A command is one change that somebody asked for. Those that are asked for at
// the same time are one transaction.
type command struct {
	need    store.Need
	events  int // that it announces, about
	inbound *store.Acceptance
	// decide draws the consequences, or changes nothing and returns why not. It
	// may be called again.
	decide func(*store.Change) error
	taken  error // what it means that something unique exists already
	err    error
}

// half is the error of a command that failed when it had begun to change
// something: what shares its transaction has to be done without it.
type half struct{ error }

func (h half) Unwrap() error { return h.error }

func (d *Directory) do(ctx context.Context, c *command) error {
	err := d.group.Do(ctx, c)
	var begun half
	switch {
	case err == nil:
		return c.err
	case errors.As(err, &begun):
		return begun.error
	case c.taken != nil && store.Taken(err):
		return c.taken
	case errors.Is(err, ErrUnsure):
		return fmt.Errorf("change directory: %w", err)
	case d.Store.Transient(err) || errors.Is(err, groupcommit.ErrClosed) || errors.Is(err, groupcommit.ErrWithdrawn):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("change directory: %w", err)
}

func (d *Directory) commit(ctx context.Context, cs []*command) error {
	for {
		needs := make([]store.Need, len(cs))
		var inbound []*store.Acceptance
		n := 0
		for i, c := range cs {
			needs[i] = c.need
			n += max(c.events, 1)
			if c.inbound != nil {
				inbound = append(inbound, c.inbound)
			}
		}
		err := d.Recorder.Hand(ctx, n, func(ctx context.Context, h *outbox.Handoff) (appended int, err error) {
			err = d.Store.ChangePeople(ctx, h, inbound, needs, func(change *store.Change) error {
				for _, c := range cs {
					before := change.Touched()
					if c.err = c.decide(change); c.err != nil && change.Touched() != before {
						return half{c.err}
					}
				}
				appended = change.Announced()
				return nil
			})
			return appended, err
		})
		if !errors.Is(err, store.ErrContradicted) {
			return err
		}
		cs = slices.DeleteFunc(slices.Clone(cs), func(c *command) bool {
			if c.inbound == nil || c.inbound.Err == nil {
				return false
			}
			c.err = c.inbound.Err
			return true
		})
		if len(cs) == 0 {
			return nil
		}
	}
}

// newID returns prefix and 21 digits.
func newID(prefix string) string { return prefix + strings.TrimPrefix(events.NewID(), "evt_") }

func (d *Directory) defaults(env string, at time.Time) events.Defaults {
	return events.Defaults{EnvironmentID: env, Now: func() time.Time { return at }}
}

// unavailable says that the database failed a reading.
func (d *Directory) unavailable(err error) error {
	if d.Store.Transient(err) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}
