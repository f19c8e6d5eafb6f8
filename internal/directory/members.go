package directory

import (
	"context"
	"fmt"
	"strings"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

func (r Ref) user() store.UserRef { return store.UserRef(r) }

// user returns one that is not deleted.
func user(c *store.Change, env string, ref store.UserRef) (*User, error) {
	u := c.User(env, ref)
	if u == nil || !u.DeletedAt.IsZero() {
		return nil, ErrUserNotFound
	}
	return u, nil
}

// memberOf returns a membership that is not removed, in the order in which what
// is missing is reported: the organization, the user, the membership.
func memberOf(c *store.Change, env, organizationID string, ref store.UserRef) (*User, *Membership, error) {
	if _, err := organization(c, env, store.OrganizationRef{ID: organizationID}); err != nil {
		return nil, nil, err
	}
	u, err := user(c, env, ref)
	if err != nil {
		return nil, nil, err
	}
	m := c.Membership(u, organizationID)
	if m == nil || m.Status == store.MembershipRemoved {
		return nil, nil, ErrMembershipNotFound
	}
	return u, m, nil
}

func membershipNeed(env, organizationID string, users ...store.UserRef) store.Need {
	return store.Need{EnvironmentID: env, Users: users, Organizations: []store.OrganizationRef{{ID: organizationID}}}
}

// CreateUser makes an account and its first membership.
func (d *Directory) CreateUser(ctx context.Context, env, organizationID string, n NewUser) (User, error) {
	id := newID("usr_")
	need := membershipNeed(env, organizationID, store.UserRef{Email: n.Email}, store.UserRef{ExternalID: n.ExternalID})
	var made User
	err := d.do(ctx, &command{need: need, events: 1, taken: ErrUserExists, decide: func(c *store.Change) error {
		if _, err := organization(c, env, store.OrganizationRef{ID: organizationID}); err != nil {
			return err
		}
		if n.ExternalID != "" && c.User(env, store.UserRef{ExternalID: n.ExternalID}) != nil {
			return ErrUserExists
		}
		if u := c.User(env, store.UserRef{Email: n.Email}); u != nil && u.DeletedAt.IsZero() {
			return ErrUserExists
		}
		u := &User{
			EnvironmentID: env, ID: id, Email: n.Email, ExternalID: n.ExternalID, Profile: n.Profile, Metadata: n.Metadata,
			CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now),
		}
		if u.Profile.ID == "" {
			u.Profile.ID = "usp_" + id[len("usr_"):]
		}
		m := membershipOf(c, u, organizationID)
		if err := d.begin(c, u, m, n.Membership); err != nil {
			return err
		}
		c.PutUser(u)
		made = withMemberships(c, u)
		return nil
	}})
	return made, err
}

// AddMember makes a user a member, or again.
func (d *Directory) AddMember(ctx context.Context, env, organizationID string, ref Ref, n NewMembership) (User, error) {
	var changed User
	err := d.do(ctx, &command{need: membershipNeed(env, organizationID, ref.user()), events: 1, decide: func(c *store.Change) error {
		if _, err := organization(c, env, store.OrganizationRef{ID: organizationID}); err != nil {
			return err
		}
		u, err := user(c, env, ref.user())
		if err != nil {
			return err
		}
		m := membershipOf(c, u, organizationID)
		if !left(m) {
			return ErrMembershipExists
		}
		if err := d.begin(c, u, m, n); err != nil {
			return err
		}
		changed = withMemberships(c, u)
		return nil
	}})
	return changed, err
}

// begin fills a membership that begins, or begins again.
func (d *Directory) begin(c *store.Change, u *User, m *Membership, n NewMembership) error {
	before := *m
	m.Roles, m.Metadata, m.InviterEmail, m.CreatedAt = n.Roles, n.Metadata, n.InviterEmail, micros(c.Now)
	if !n.Invite {
		if err := d.join(c, u, m, c.Now, "direct_provision", nil); err != nil {
			*m = before
			return err
		}
		return nil
	}
	ev, err := events.New(invitation, events.Membership{
		Organization: organizationData(c, u.EnvironmentID, m.OrganizationID), User: userData(u),
	}, d.defaults(u.EnvironmentID, c.Now), m.OrganizationID)
	if err != nil {
		*m = before
		return err
	}
	m.Status, m.ProvisioningMethod, m.UpdatedAt = store.MembershipPendingInvite, "invitation", micros(c.Now)
	m.ChangedAt = later(m.ChangedAt, c.Now) // what is told of earlier removals is over
	c.PutMembership(m)
	c.Announce(ev, nil)
	return nil
}

var (
	invitation        = events.Type[events.Membership]{Name: "user.organization_invitation"}
	membershipUpdated = events.Type[events.Membership]{Name: "user.organization_membership_updated"}
)

// UpdateMember changes what a member may do.
func (d *Directory) UpdateMember(ctx context.Context, env, organizationID string, ref Ref, change MembershipChange) (User, error) {
	var changed User
	err := d.do(ctx, &command{need: membershipNeed(env, organizationID, ref.user()), events: 1, decide: func(c *store.Change) error {
		u, m, err := memberOf(c, env, organizationID, ref.user())
		if err != nil {
			return err
		}
		ev, err := events.New(membershipUpdated, events.Membership{
			Organization: organizationData(c, env, organizationID), User: userData(u),
		}, d.defaults(env, c.Now), organizationID)
		if err != nil {
			return err
		}
		if change.Roles != nil {
			m.Roles = *change.Roles
		}
		if change.Metadata != nil {
			m.Metadata = *change.Metadata
		}
		m.UpdatedAt = micros(c.Now)
		c.PutMembership(m)
		c.Announce(ev, nil)
		changed = withMemberships(c, u)
		return nil
	}})
	return changed, err
}

// RemoveMember removes a person from an organization, in whatever status.
func (d *Directory) RemoveMember(ctx context.Context, env, organizationID string, ref Ref, how How) (Removal, error) {
	need := membershipNeed(env, organizationID, ref.user())
	need.Others = others(how.Successor)
	var done Removal
	err := d.do(ctx, &command{need: need, events: 2, decide: func(c *store.Change) error {
		u, m, err := memberOf(c, env, organizationID, ref.user())
		if err != nil {
			return err
		}
		o := departure{reason: how.reason(), at: c.Now, account: "last_membership_removed"}
		if o.successor, err = successor(c, u, organizationID, how.Successor); err != nil {
			return err
		}
		done, err = d.leave(c, u, m, o)
		return err
	}})
	return done, err
}

func (h How) reason() string {
	if h.Reason == "" {
		return ReasonAPI
	}
	return h.Reason
}

// DeleteUser removes all memberships and the account.
func (d *Directory) DeleteUser(ctx context.Context, env string, ref Ref, how How) error {
	need := store.Need{EnvironmentID: env, Users: []store.UserRef{ref.user()}, Others: others(how.Successor)}
	return d.do(ctx, &command{need: need, events: 4, decide: func(c *store.Change) error {
		u, err := user(c, env, ref.user())
		if err != nil {
			return err
		}
		return d.deleteUser(c, u, how.Successor)
	}})
}

// deleteUser ends all memberships of a person and the account.
func (d *Directory) deleteUser(c *store.Change, u *User, named string) error {
	heirs := make(map[string]*events.Successor)
	found := named == ""
	for _, m := range c.Memberships(u) {
		heir, err := successor(c, u, m.OrganizationID, named)
		if err != nil { // is none in this organization
			heir, err = successor(c, u, m.OrganizationID, "")
			if err != nil {
				return err
			}
		} else {
			found = true
		}
		heirs[m.OrganizationID] = heir
	}
	if !found {
		return ErrSuccessor
	}
	for _, m := range c.Memberships(u) {
		if m.Status == store.MembershipRemoved {
			continue
		}
		if _, err := d.leave(c, u, m, departure{reason: ReasonUserDeleted, at: c.Now, successor: heirs[m.OrganizationID]}); err != nil {
			return err
		}
	}
	return d.deleteAccount(c, u, "", departure{at: c.Now, account: ReasonUserDeleted})
}

// Import makes people known as members, without events.
func (d *Directory) Import(ctx context.Context, env, organizationID string, members []Imported) (added int, err error) {
	need := store.Need{EnvironmentID: env, Organizations: []store.OrganizationRef{{ID: organizationID}}}
	for _, p := range members {
		need.Users = append(need.Users, store.UserRef{ID: p.ID}, store.UserRef{ExternalID: p.ExternalID}, store.UserRef{Email: p.Email})
	}
	err = d.do(ctx, &command{need: need, taken: ErrUserExists, decide: func(c *store.Change) error {
		added = 0
		if _, err := organization(c, env, store.OrganizationRef{ID: organizationID}); err != nil {
			return err
		}
		people := make([]*User, len(members))
		listed := make(map[string]*User) // who is new
		for i, p := range members {
			if people[i], err = imported(c, env, p, listed); err != nil {
				return fmt.Errorf("member %d: %w", i+1, err)
			}
		}
		for i, p := range members {
			u := people[i]
			if c.User(env, store.UserRef{ID: u.ID}) == nil {
				c.PutUser(u)
			}
			if c.Membership(u, organizationID) != nil {
				continue
			}
			m := membershipOf(c, u, organizationID)
			m.Status, m.ProvisioningMethod, m.Roles = p.Status, "import", nil
			if m.Status == store.MembershipRemoved {
				m.Status = store.MembershipActive
			}
			if m.Status == store.MembershipActive {
				m.Epoch = 1
			}
			for _, name := range p.Roles {
				m.Roles = append(m.Roles, events.Role{Name: name})
			}
			m.JoinedAt, m.ChangedAt = p.JoinedAt, p.JoinedAt
			if p.JoinedAt.After(c.Now) {
				m.JoinedAt, m.ChangedAt = micros(c.Now), c.Now // or later removals would be stale
			}
			c.PutMembership(m)
			added++
		}
		return nil
	}})
	return added, err
}

// imported finds the account of somebody, or makes one.
func imported(c *store.Change, env string, p Imported, listed map[string]*User) (*User, error) {
	names := []string{"id " + p.ID, "external " + p.ExternalID, "email " + strings.ToLower(p.Email)}
	for _, name := range names {
		if u := listed[name]; u != nil && !strings.HasSuffix(name, " ") {
			return u, nil
		}
	}
	byID := c.User(env, store.UserRef{ID: p.ID})
	if p.ID != "" && byID != nil {
		if !byID.DeletedAt.IsZero() {
			return nil, fmt.Errorf("%w: %s was deleted", ErrUserExists, p.ID)
		}
		return byID, nil
	}
	var provisional *User
	for _, ref := range []store.UserRef{{ExternalID: p.ExternalID}, {Email: p.Email}} {
		if ref == (store.UserRef{}) {
			continue
		}
		u := c.User(env, ref)
		switch {
		case u == nil || !u.DeletedAt.IsZero():
		case p.ID == "":
			return u, nil
		case u.Provisional:
			provisional = u
		default:
			return nil, ErrUserExists
		}
	}
	u := &User{EnvironmentID: env, ID: p.ID, Email: p.Email, ExternalID: p.ExternalID, CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now)}
	if u.ID == "" {
		u.ID = newID("usr_")
	}
	u.Profile.Name = p.Name
	if provisional != nil {
		takeOver(c, u, provisional)
	}
	for _, name := range names {
		listed[name] = u
	}
	return u, nil
}
