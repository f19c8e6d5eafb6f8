package scalekit_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

// memory is a directory in memory: enough of one to answer the API.
type memory struct {
	now func() time.Time

	mu            sync.Mutex
	made          int
	organizations map[string]directory.Organization
	users         map[string]directory.User
	sessions      map[string]directory.Session
	removals      []directory.How
	asked         int   // calls
	fail          error // of all calls
}

func newMemory(now func() time.Time) *memory {
	return &memory{
		now:           now,
		organizations: make(map[string]directory.Organization),
		users:         make(map[string]directory.User),
		sessions:      make(map[string]directory.Session),
	}
}

func (m *memory) id(prefix string) string {
	m.made++
	return fmt.Sprintf("%s1%017d", prefix, m.made)
}

// enter begins a call; leave with the function it returns.
func (m *memory) enter() (func(), error) {
	m.mu.Lock()
	m.asked++
	return m.mu.Unlock, m.fail
}

func (m *memory) organization(env string, ref directory.Ref) (directory.Organization, error) {
	for _, o := range m.organizations {
		if o.EnvironmentID == env && (o.ID == ref.ID || ref.ID == "" && o.ExternalID == ref.ExternalID) {
			return o, nil
		}
	}
	return directory.Organization{}, directory.ErrOrganizationNotFound
}

func (m *memory) user(env string, ref directory.Ref) (directory.User, error) {
	for _, u := range m.users {
		if u.EnvironmentID == env && (u.ID == ref.ID || ref.ID == "" && u.ExternalID == ref.ExternalID) {
			return u, nil
		}
	}
	return directory.User{}, directory.ErrUserNotFound
}

func (m *memory) member(env, organizationID string, ref directory.Ref) (directory.User, int, error) {
	if _, err := m.organization(env, directory.Ref{ID: organizationID}); err != nil {
		return directory.User{}, 0, err
	}
	u, err := m.user(env, ref)
	if err != nil {
		return directory.User{}, 0, err
	}
	u.Memberships = slices.Clone(u.Memberships)
	i := slices.IndexFunc(u.Memberships, func(m directory.Membership) bool { return m.OrganizationID == organizationID })
	if i < 0 {
		return u, i, directory.ErrMembershipNotFound
	}
	return u, i, nil
}

func (m *memory) CreateOrganization(_ context.Context, env string, n directory.NewOrganization) (directory.Organization, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.Organization{}, err
	}
	if n.ExternalID != "" {
		if _, err := m.organization(env, directory.Ref{ExternalID: n.ExternalID}); err == nil {
			return directory.Organization{}, directory.ErrOrganizationExists
		}
	}
	o := directory.Organization{
		EnvironmentID: env, ID: m.id("org_"), DisplayName: n.DisplayName, ExternalID: n.ExternalID, RegionCode: n.RegionCode,
		Slug: n.Slug, Metadata: n.Metadata, CreatedAt: m.now(), UpdatedAt: m.now(),
	}
	m.organizations[o.ID] = o
	return o, nil
}

func (m *memory) Organization(_ context.Context, env string, ref directory.Ref) (directory.Organization, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.Organization{}, err
	}
	return m.organization(env, ref)
}

func (m *memory) Organizations(_ context.Context, env, externalID string, p directory.Page) (directory.List[directory.Organization], error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.List[directory.Organization]{}, err
	}
	return page(m.organizations, p, func(o directory.Organization) string { return o.ID }, func(o directory.Organization) bool {
		return o.EnvironmentID == env && (externalID == "" || o.ExternalID == externalID)
	})
}

// page is the part of a list in the order of ids; its tokens name the last id
// before it.
func page[T any](all map[string]T, p directory.Page, id func(T) string, wanted func(T) bool) (l directory.List[T], err error) {
	after, err := base64.RawURLEncoding.DecodeString(p.Token)
	if err != nil {
		return l, directory.ErrPageToken
	}
	for _, item := range all {
		if wanted(item) {
			l.Total++
			if id(item) > string(after) {
				l.Items = append(l.Items, item)
			}
		}
	}
	slices.SortFunc(l.Items, func(a, b T) int { return cmp.Compare(id(a), id(b)) })
	if size := cmp.Or(p.Size, 10); len(l.Items) > size {
		l.Items = l.Items[:size]
		l.Next = base64.RawURLEncoding.EncodeToString([]byte(id(l.Items[size-1])))
	}
	return l, nil
}

func (m *memory) DeleteOrganization(_ context.Context, env string, ref directory.Ref) error {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return err
	}
	o, err := m.organization(env, ref)
	if err != nil {
		return err
	}
	delete(m.organizations, o.ID)
	for _, u := range m.users {
		m.leave(u, o.ID)
	}
	return nil
}

// leave takes a membership from a user, who is deleted with the last.
func (m *memory) leave(u directory.User, organizationID string) (deleted bool, revoked []string) {
	u.Memberships = slices.DeleteFunc(slices.Clone(u.Memberships), func(m directory.Membership) bool { return m.OrganizationID == organizationID })
	for id, s := range m.sessions {
		if s.UserID == u.ID && s.Status == store.SessionActive && slices.Contains(s.Organizations, organizationID) {
			s.Status = store.SessionRevoked
			m.sessions[id] = s
			revoked = append(revoked, id)
		}
	}
	if len(u.Memberships) == 0 {
		delete(m.users, u.ID)
		return true, revoked
	}
	m.users[u.ID] = u
	return false, revoked
}

func (m *memory) join(env string, o directory.Organization, userID string, n directory.NewMembership) directory.Membership {
	membership := directory.Membership{
		EnvironmentID: env, OrganizationID: o.ID, UserID: userID, OrganizationName: o.DisplayName, Status: store.MembershipActive,
		Roles: n.Roles, Metadata: n.Metadata, InviterEmail: n.InviterEmail, ProvisioningMethod: "direct_provision",
		CreatedAt: m.now(), JoinedAt: m.now(),
	}
	if n.Invite {
		membership.Status, membership.ProvisioningMethod, membership.JoinedAt = store.MembershipPendingInvite, "invitation", time.Time{}
	}
	return membership
}

func (m *memory) CreateUser(_ context.Context, env, organizationID string, n directory.NewUser) (directory.User, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.User{}, err
	}
	o, err := m.organization(env, directory.Ref{ID: organizationID})
	if err != nil {
		return directory.User{}, err
	}
	for _, u := range m.users {
		if u.EnvironmentID == env && (strings.EqualFold(u.Email, n.Email) || n.ExternalID != "" && u.ExternalID == n.ExternalID) {
			return directory.User{}, directory.ErrUserExists
		}
	}
	u := directory.User{
		EnvironmentID: env, ID: m.id("usr_"), Email: n.Email, ExternalID: n.ExternalID, Profile: n.Profile, Metadata: n.Metadata,
		CreatedAt: m.now(), UpdatedAt: m.now(),
	}
	u.Profile.ID = strings.Replace(u.ID, "usr_", "usp_", 1)
	u.Memberships = []directory.Membership{m.join(env, o, u.ID, n.Membership)}
	m.users[u.ID] = u
	return u, nil
}

func (m *memory) User(_ context.Context, env string, ref directory.Ref) (directory.User, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.User{}, err
	}
	return m.user(env, ref)
}

func (m *memory) Users(_ context.Context, env string, p directory.Page) (directory.List[directory.User], error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.List[directory.User]{}, err
	}
	return page(m.users, p, func(u directory.User) string { return u.ID }, func(u directory.User) bool { return u.EnvironmentID == env })
}

func (m *memory) Members(_ context.Context, env, organizationID string, p directory.Page) (directory.List[directory.User], error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.List[directory.User]{}, err
	}
	if _, err := m.organization(env, directory.Ref{ID: organizationID}); err != nil {
		return directory.List[directory.User]{}, err
	}
	return page(m.users, p, func(u directory.User) string { return u.ID }, func(u directory.User) bool {
		return u.EnvironmentID == env && slices.ContainsFunc(u.Memberships, func(m directory.Membership) bool { return m.OrganizationID == organizationID })
	})
}

func (m *memory) AddMember(_ context.Context, env, organizationID string, user directory.Ref, n directory.NewMembership) (directory.User, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.User{}, err
	}
	u, i, err := m.member(env, organizationID, user)
	if err == nil && i >= 0 {
		return directory.User{}, directory.ErrMembershipExists
	}
	if i == 0 {
		return directory.User{}, err // no such organization or user
	}
	u.Memberships = append(u.Memberships, m.join(env, m.organizations[organizationID], u.ID, n))
	m.users[u.ID] = u
	return u, nil
}

func (m *memory) UpdateMember(_ context.Context, env, organizationID string, user directory.Ref, c directory.MembershipChange) (directory.User, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.User{}, err
	}
	u, i, err := m.member(env, organizationID, user)
	if err != nil {
		return directory.User{}, err
	}
	if c.Roles != nil {
		u.Memberships[i].Roles = *c.Roles
	}
	if c.Metadata != nil {
		u.Memberships[i].Metadata = *c.Metadata
	}
	m.users[u.ID] = u
	return u, nil
}

func (m *memory) RemoveMember(_ context.Context, env, organizationID string, user directory.Ref, how directory.How) (directory.Removal, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.Removal{}, err
	}
	u, _, err := m.member(env, organizationID, user)
	if err != nil {
		return directory.Removal{}, err
	}
	removal := directory.Removal{EventID: "evt_1", User: u}
	if removal.Successor, err = m.successor(env, organizationID, u, how); err != nil {
		return directory.Removal{}, err
	}
	m.removals = append(m.removals, how)
	removal.UserDeleted, removal.RevokedSessions = m.leave(u, organizationID)
	return removal, nil
}

func (m *memory) successor(env, organizationID string, leaver directory.User, how directory.How) (*events.Successor, error) {
	if how.Successor == "" {
		return nil, nil
	}
	for _, u := range m.users {
		if u.EnvironmentID != env || u.ID == leaver.ID || u.ID != how.Successor && u.Email != how.Successor {
			continue
		}
		for _, membership := range u.Memberships {
			if membership.Status == store.MembershipActive && (organizationID == "" || membership.OrganizationID == organizationID) {
				return &events.Successor{UserID: u.ID, Email: u.Email}, nil
			}
		}
	}
	return nil, directory.ErrSuccessor
}

func (m *memory) DeleteUser(_ context.Context, env string, user directory.Ref, how directory.How) error {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return err
	}
	u, err := m.user(env, user)
	if err != nil {
		return err
	}
	if _, err := m.successor(env, "", u, how); err != nil {
		return err
	}
	m.removals = append(m.removals, how)
	for _, membership := range u.Memberships {
		m.leave(u, membership.OrganizationID)
	}
	delete(m.users, u.ID)
	return nil
}

func (m *memory) CreateSession(_ context.Context, s directory.Session) (directory.Session, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.Session{}, err
	}
	s.ID, s.Status = cmp.Or(s.ID, m.id("ses_")), store.SessionActive
	s.CreatedAt, s.UpdatedAt, s.LastActiveAt = m.now(), m.now(), m.now()
	s.IdleExpiresAt, s.AbsoluteExpiresAt = m.now().Add(time.Hour), m.now().Add(24*time.Hour)
	m.sessions[s.ID] = s
	return s, nil
}

func (m *memory) Session(_ context.Context, env, id string) (directory.Session, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.Session{}, err
	}
	s, ok := m.sessions[id]
	if !ok || s.EnvironmentID != env {
		return directory.Session{}, directory.ErrSessionNotFound
	}
	return s, nil
}

func (m *memory) UserSessions(_ context.Context, env, userID string, f directory.SessionFilter, p directory.Page) (directory.List[directory.Session], error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.List[directory.Session]{}, err
	}
	if _, err := m.user(env, directory.Ref{ID: userID}); err != nil {
		return directory.List[directory.Session]{}, err
	}
	return page(m.sessions, p, func(s directory.Session) string { return s.ID }, func(s directory.Session) bool {
		return s.EnvironmentID == env && s.UserID == userID && (len(f.Statuses) == 0 || slices.Contains(f.Statuses, string(s.Status))) &&
			!s.CreatedAt.Before(f.Since) && (f.Before.IsZero() || s.CreatedAt.Before(f.Before))
	})
}

func (m *memory) RevokeSession(_ context.Context, env, id string) (directory.Session, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return directory.Session{}, err
	}
	s, ok := m.sessions[id]
	if !ok || s.EnvironmentID != env {
		return directory.Session{}, directory.ErrSessionNotFound
	}
	if s.Status == store.SessionActive {
		s.Status = store.SessionRevoked
		m.sessions[id] = s
	}
	return s, nil
}

func (m *memory) RevokeUserSessions(_ context.Context, env, userID string) ([]directory.Session, error) {
	leave, err := m.enter()
	defer leave()
	if err != nil {
		return nil, err
	}
	if _, err := m.user(env, directory.Ref{ID: userID}); err != nil {
		return nil, err
	}
	var revoked []directory.Session
	for id, s := range m.sessions {
		if s.UserID == userID && s.Status == store.SessionActive {
			s.Status = store.SessionRevoked
			m.sessions[id] = s
			revoked = append(revoked, s)
		}
	}
	slices.SortFunc(revoked, func(a, b directory.Session) int { return cmp.Compare(a.ID, b.ID) })
	return revoked, nil
}
