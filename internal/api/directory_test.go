package api_test

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

// newDirectory is the directory that the API is tested over.
func newDirectory(t *testing.T, db *store.Store) api.Directory {
	t.Helper()
	return &people{id: db.NewDigits, organizations: map[string]directory.Organization{}, users: map[string]directory.User{}, sessions: map[string]directory.Session{}}
}

// managed makes two members, of whom one is the other's manager.
func (s *service) managed(organizationID string) (person, manager string) {
	s.t.Helper()
	m, err := s.own().AddMember(s.t.Context(), organizationID, api.NewMember{Email: "manager@acme.example", Name: "Manager"})
	return s.member(organizationID, "managed@acme.example").UserID, ok(m, err)(s.t).UserID
}

// people is a directory in memory.
type people struct {
	mu            sync.Mutex
	id            func(prefix string) string
	organizations map[string]directory.Organization // by environment and id
	users         map[string]directory.User
	sessions      map[string]directory.Session
}

func (p *people) CreateOrganization(_ context.Context, env string, n directory.NewOrganization) (directory.Organization, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id := cmp.Or(n.ID, p.id("org_"))
	for _, o := range p.organizations {
		if o.EnvironmentID == env && (o.ID == id || n.ExternalID != "" && o.ExternalID == n.ExternalID) {
			return o, fmt.Errorf("create organization: %w", directory.ErrOrganizationExists)
		}
	}
	o := directory.Organization{
		EnvironmentID: env, ID: id, DisplayName: n.DisplayName, ExternalID: n.ExternalID, RegionCode: n.RegionCode, Slug: n.Slug, Metadata: n.Metadata,
		CreatedAt: time.Now(), UpdatedAt: time.Now(),
	}
	p.organizations[env+id] = o
	return o, nil
}

func (p *people) Organization(_ context.Context, env string, ref directory.Ref) (directory.Organization, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.organization(env, ref.ID)
}

func (p *people) organization(env, id string) (directory.Organization, error) {
	o, ok := p.organizations[env+id]
	if !ok {
		return o, fmt.Errorf("read: %w", directory.ErrOrganizationNotFound)
	}
	return o, nil
}

// pageOf cuts a page: a token is the key that the page before ended with.
func pageOf[T any](all map[string]T, p directory.Page, wanted func(T) bool) (l directory.List[T], err error) {
	if p.Token != "" && !strings.HasPrefix(p.Token, "after:") {
		return l, fmt.Errorf("list: %w", directory.ErrPageToken)
	}
	if p.Size < 1 || p.Size > 100 {
		return l, fmt.Errorf("a page of %d", p.Size)
	}
	last := ""
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !wanted(all[key]) {
			continue
		}
		l.Total++
		if key <= strings.TrimPrefix(p.Token, "after:") {
			continue
		}
		if len(l.Items) == p.Size {
			l.Next = "after:" + last
			continue
		}
		l.Items = append(l.Items, all[key])
		last = key
	}
	return l, nil
}

func (p *people) Organizations(_ context.Context, env, externalID string, page directory.Page) (directory.List[directory.Organization], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pageOf(p.organizations, page, func(o directory.Organization) bool {
		return o.EnvironmentID == env && (externalID == "" || o.ExternalID == externalID)
	})
}

func (p *people) DeleteOrganization(ctx context.Context, env string, ref directory.Ref) error {
	members, err := p.Members(ctx, env, ref.ID, directory.Page{Size: 100})
	if err != nil {
		return err
	}
	for _, u := range members.Items {
		if _, err := p.RemoveMember(ctx, env, ref.ID, directory.Ref{ID: u.ID}, directory.How{}); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.organizations, env+ref.ID)
	return nil
}

func (p *people) CreateUser(_ context.Context, env, organizationID string, n directory.NewUser) (directory.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.organization(env, organizationID); err != nil {
		return directory.User{}, err
	}
	for _, u := range p.users {
		if u.EnvironmentID == env && strings.EqualFold(u.Email, n.Email) {
			return directory.User{}, fmt.Errorf("create user: %w", directory.ErrUserExists)
		}
	}
	u := directory.User{EnvironmentID: env, ID: p.id("usr_"), Email: n.Email, ExternalID: n.ExternalID, Profile: n.Profile, CreatedAt: time.Now(), UpdatedAt: time.Now()}
	return p.join(u, organizationID, n.Membership.Roles, store.MembershipActive, "direct_provision"), nil
}

func (p *people) join(u directory.User, organizationID string, roles []events.Role, status directory.MembershipStatus, method string) directory.User {
	u.Memberships = slices.DeleteFunc(slices.Clone(u.Memberships), func(m directory.Membership) bool { return m.OrganizationID == organizationID })
	u.Memberships = append(u.Memberships, directory.Membership{
		EnvironmentID: u.EnvironmentID, OrganizationID: organizationID, UserID: u.ID, Status: status, Epoch: 1, Roles: roles, ProvisioningMethod: method, JoinedAt: time.Now(),
	})
	p.users[u.EnvironmentID+u.ID] = u
	return u
}

func (p *people) User(_ context.Context, env string, ref directory.Ref) (directory.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.user(env, ref)
}

func (p *people) user(env string, ref directory.Ref) (directory.User, error) {
	for _, u := range p.users {
		if u.EnvironmentID == env && (ref.ID != "" && u.ID == ref.ID || ref.ExternalID != "" && u.ExternalID == ref.ExternalID) {
			return u, nil
		}
	}
	return directory.User{}, fmt.Errorf("read: %w", directory.ErrUserNotFound)
}

func (p *people) Users(_ context.Context, env string, page directory.Page) (directory.List[directory.User], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return pageOf(p.users, page, func(u directory.User) bool { return u.EnvironmentID == env })
}

func (p *people) DeleteUser(ctx context.Context, env string, ref directory.Ref, how directory.How) error {
	u, err := p.User(ctx, env, ref)
	if err != nil {
		return err
	}
	for _, m := range u.Memberships { // who is in several may be left in the first when the second is refused
		if _, err := p.RemoveMember(ctx, env, m.OrganizationID, ref, how); err != nil {
			return err
		}
	}
	return nil
}

func memberOf(u directory.User, organizationID string) int {
	return slices.IndexFunc(u.Memberships, func(m directory.Membership) bool { return m.OrganizationID == organizationID })
}

func (p *people) Members(_ context.Context, env, organizationID string, page directory.Page) (directory.List[directory.User], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.organization(env, organizationID); err != nil {
		return directory.List[directory.User]{}, err
	}
	return pageOf(p.users, page, func(u directory.User) bool { return u.EnvironmentID == env && memberOf(u, organizationID) >= 0 })
}

func (p *people) AddMember(_ context.Context, env, organizationID string, ref directory.Ref, n directory.NewMembership) (directory.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.organization(env, organizationID); err != nil {
		return directory.User{}, err
	}
	u, err := p.user(env, ref)
	if err != nil {
		return u, err
	}
	if i := memberOf(u, organizationID); i >= 0 && u.Memberships[i].Status != store.MembershipInactive {
		return u, fmt.Errorf("add member: %w", directory.ErrMembershipExists)
	}
	return p.join(u, organizationID, n.Roles, store.MembershipActive, "direct_provision"), nil
}

func (p *people) RemoveMember(_ context.Context, env, organizationID string, ref directory.Ref, how directory.How) (r directory.Removal, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.organization(env, organizationID); err != nil {
		return r, err
	}
	u, err := p.user(env, ref)
	if err != nil {
		return r, err
	}
	i := memberOf(u, organizationID)
	if i < 0 {
		return r, fmt.Errorf("remove member: %w", directory.ErrMembershipNotFound)
	}
	r = directory.Removal{EventID: p.id("evt_"), User: u}
	for _, other := range p.users {
		named := other.ID == how.Successor || other.Email == how.Successor || how.Successor == "" && other.Profile.Name == "Manager"
		if named && other.ID != u.ID && memberOf(other, organizationID) >= 0 {
			r.Successor = &events.Successor{UserID: other.ID, Email: other.Email}
		}
	}
	if r.Successor == nil && how.Successor != "" {
		return directory.Removal{}, fmt.Errorf("remove member: %w", directory.ErrSuccessor)
	}
	for id, s := range p.sessions {
		if s.UserID == u.ID && slices.Contains(s.Organizations, organizationID) && s.Status == store.SessionActive {
			s.Status = store.SessionRevoked
			p.sessions[id] = s
			r.RevokedSessions = append(r.RevokedSessions, s.ID)
		}
	}
	u.Memberships = slices.Delete(slices.Clone(u.Memberships), i, i+1)
	p.users[env+u.ID] = u
	if r.UserDeleted = len(u.Memberships) == 0; r.UserDeleted {
		delete(p.users, env+u.ID)
	}
	return r, nil
}

func (p *people) Import(_ context.Context, env, organizationID string, members []directory.Imported) (added int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.organization(env, organizationID); err != nil {
		return 0, err
	}
	for _, m := range members {
		u := directory.User{EnvironmentID: env, ID: cmp.Or(m.ID, p.id("usr_")), Email: m.Email, ExternalID: m.ExternalID, Profile: events.UserProfile{Name: m.Name}}
		for _, known := range p.users {
			if known.ID == m.ID || m.Email != "" && known.Email == m.Email {
				u = known
			}
		}
		if memberOf(u, organizationID) < 0 {
			added++
			p.join(u, organizationID, roles(m.Roles), m.Status, "import")
		}
	}
	return added, nil
}

func roles(names []string) (all []events.Role) {
	for _, n := range names {
		all = append(all, events.Role{Name: n})
	}
	return all
}

func (p *people) CreateSession(_ context.Context, s directory.Session) (directory.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u, err := p.user(s.EnvironmentID, directory.Ref{ID: s.UserID})
	if err != nil {
		return s, err
	}
	for _, organization := range s.Organizations {
		if memberOf(u, organization) < 0 {
			return s, fmt.Errorf("create session: %w", directory.ErrMembershipNotFound)
		}
	}
	s.ID, s.Status, s.CreatedAt, s.UpdatedAt = cmp.Or(s.ID, p.id("ses_")), store.SessionActive, time.Now(), time.Now()
	if _, ok := p.sessions[s.EnvironmentID+s.ID]; ok {
		return s, fmt.Errorf("create session: %w", directory.ErrSessionExists)
	}
	p.sessions[s.EnvironmentID+s.ID] = s
	return s, nil
}

func (p *people) Session(_ context.Context, env, id string) (directory.Session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s, ok := p.sessions[env+id]
	if !ok {
		return s, fmt.Errorf("read: %w", directory.ErrSessionNotFound)
	}
	return s, nil
}

func (p *people) UserSessions(_ context.Context, env, userID string, f directory.SessionFilter, page directory.Page) (directory.List[directory.Session], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := p.user(env, directory.Ref{ID: userID}); err != nil {
		return directory.List[directory.Session]{}, err
	}
	return pageOf(p.sessions, page, func(s directory.Session) bool {
		return s.EnvironmentID == env && s.UserID == userID && (len(f.Statuses) == 0 || slices.Contains(f.Statuses, string(s.Status))) &&
			!s.CreatedAt.Before(f.Since) && (f.Before.IsZero() || s.CreatedAt.Before(f.Before))
	})
}

func (p *people) RevokeSession(ctx context.Context, env, id string) (directory.Session, error) {
	s, err := p.Session(ctx, env, id)
	if err != nil {
		return s, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Status == store.SessionActive {
		s.Status = store.SessionRevoked
	}
	p.sessions[env+id] = s
	return s, nil
}

// failing is a directory of which every call fails.
type failing struct {
	api.Directory
	err error
}

func (f failing) CreateOrganization(context.Context, string, directory.NewOrganization) (o directory.Organization, err error) {
	return o, f.err
}

func (f failing) Organization(context.Context, string, directory.Ref) (o directory.Organization, err error) {
	return o, f.err
}

func (f failing) Organizations(context.Context, string, string, directory.Page) (l directory.List[directory.Organization], err error) {
	return l, f.err
}
func (f failing) DeleteOrganization(context.Context, string, directory.Ref) error { return f.err }

func (f failing) CreateUser(context.Context, string, string, directory.NewUser) (u directory.User, err error) {
	return u, f.err
}

func (f failing) User(context.Context, string, directory.Ref) (u directory.User, err error) {
	return u, f.err
}

func (f failing) Users(context.Context, string, directory.Page) (l directory.List[directory.User], err error) {
	return l, f.err
}

func (f failing) DeleteUser(context.Context, string, directory.Ref, directory.How) error {
	return f.err
}

func (f failing) Members(context.Context, string, string, directory.Page) (l directory.List[directory.User], err error) {
	return l, f.err
}

func (f failing) AddMember(context.Context, string, string, directory.Ref, directory.NewMembership) (u directory.User, err error) {
	return u, f.err
}

func (f failing) RemoveMember(context.Context, string, string, directory.Ref, directory.How) (r directory.Removal, err error) {
	return r, f.err
}

func (f failing) Import(context.Context, string, string, []directory.Imported) (int, error) {
	return 0, f.err
}

func (f failing) CreateSession(context.Context, directory.Session) (s directory.Session, err error) {
	return s, f.err
}

func (f failing) Session(context.Context, string, string) (s directory.Session, err error) {
	return s, f.err
}

func (f failing) UserSessions(context.Context, string, string, directory.SessionFilter, directory.Page) (l directory.List[directory.Session], err error) {
	return l, f.err
}

func (f failing) RevokeSession(context.Context, string, string) (s directory.Session, err error) {
	return s, f.err
}
