package directory

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

// CreateSCIMUser makes a user of a directory and, if active, a member of its
// organization: the account with the same email, or a new one.
func (d *Directory) CreateSCIMUser(ctx context.Context, dir SCIMDirectory, n SCIMUser) (SCIMUser, error) {
	n.EnvironmentID, n.DirectoryID, n.OrganizationID, n.ID = dir.EnvironmentID, dir.ID, dir.OrganizationID, newID("diruser_")
	need := store.Need{
		EnvironmentID: dir.EnvironmentID, Users: []store.UserRef{{Email: n.Email}}, Organizations: []store.OrganizationRef{{ID: dir.OrganizationID}},
		SCIMUsers: []store.SCIMRef{{DirectoryID: dir.ID, UserName: n.UserName}},
	}
	var made SCIMUser
	err := d.do(ctx, &command{need: need, events: 1, taken: ErrUserNameTaken, decide: func(c *store.Change) error {
		if _, err := organization(c, dir.EnvironmentID, store.OrganizationRef{ID: dir.OrganizationID}); err != nil {
			return err
		}
		if c.SCIMUser(store.SCIMRef{DirectoryID: dir.ID, UserName: n.UserName}) != nil {
			return ErrUserNameTaken
		}
		u := account(c, dir, &n)
		if n.Active {
			if m := membershipOf(c, u, dir.OrganizationID); m.Status != store.MembershipActive {
				if err := d.join(c, u, m, c.Now, "scim", nil); err != nil {
					return err
				}
			}
		}
		c.PutUser(u)
		made = n
		made.UserID, made.CreatedAt, made.UpdatedAt = u.ID, micros(c.Now), micros(c.Now)
		kept := made
		c.PutSCIMUser(&kept)
		return nil
	}})
	return made, err
}

// account finds the account of a directory user by email, or makes one.
func account(c *store.Change, dir SCIMDirectory, n *SCIMUser) *User {
	if u := c.User(dir.EnvironmentID, store.UserRef{Email: n.Email}); u != nil && u.DeletedAt.IsZero() {
		return u
	}
	u := &User{EnvironmentID: dir.EnvironmentID, ID: newID("usr_"), Email: n.Email, CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now)}
	u.Profile.ID = "usp_" + u.ID[len("usr_"):]
	nameOf(n.Attributes, &u.Profile)
	return u
}

// nameOf reads what a directory says of a person's name.
func nameOf(attributes json.RawMessage, p *events.UserProfile) {
	var said struct {
		DisplayName string `json:"displayName"`
		Name        struct {
			GivenName  string `json:"givenName"`
			FamilyName string `json:"familyName"`
			Formatted  string `json:"formatted"`
		} `json:"name"`
	}
	if json.Unmarshal(attributes, &said) != nil {
		return // it says nothing that we understand
	}
	p.GivenName, p.FamilyName, p.Name = said.Name.GivenName, said.Name.FamilyName, said.DisplayName
	if p.Name == "" {
		p.Name = said.Name.Formatted
	}
}

// ChangeSCIMUser lets change, which may be called more than once, make a new
// user of the present one, in the transaction that also draws the consequences.
// What change returns as its error is returned as it is.
func (d *Directory) ChangeSCIMUser(ctx context.Context, dir SCIMDirectory, id string, change func(SCIMUser) (SCIMUser, error)) (SCIMUser, error) {
	ref := store.SCIMRef{DirectoryID: dir.ID, ID: id}
	need := store.Need{EnvironmentID: dir.EnvironmentID, Organizations: []store.OrganizationRef{{ID: dir.OrganizationID}}, SCIMUsers: []store.SCIMRef{ref}}
	var changed SCIMUser
	cmd := &command{need: need, events: 1, taken: ErrUserNameTaken, decide: func(c *store.Change) error {
		s := c.SCIMUser(ref)
		if s == nil {
			return ErrNotFound
		}
		next, err := change(*s)
		if err != nil {
			return err
		}
		next.EnvironmentID, next.DirectoryID, next.OrganizationID, next.ID, next.UserID = s.EnvironmentID, s.DirectoryID, s.OrganizationID, s.ID, s.UserID
		next.CreatedAt, next.UpdatedAt = s.CreatedAt, micros(c.Now)
		if next.Active != s.Active {
			if err := d.switchSCIMUser(c, dir, &next); err != nil {
				return err
			}
		}
		*s = next
		c.PutSCIMUser(s)
		changed = next
		return nil
	}}
	err := d.do(ctx, cmd)
	if errors.Is(err, ErrUserNameTaken) {
		// It may be the email, of an account that is to be the person's from now on.
		if s, readErr := d.SCIMUser(ctx, dir, id); readErr == nil && s.Email != "" {
			cmd.need.Users = []store.UserRef{{Email: s.Email}}
			err = d.do(ctx, cmd)
		}
	}
	return changed, err
}

// switchSCIMUser does what it means that a directory switches a person on or off.
func (d *Directory) switchSCIMUser(c *store.Change, dir SCIMDirectory, s *SCIMUser) error {
	u := c.User(dir.EnvironmentID, store.UserRef{ID: s.UserID})
	if s.Active {
		if _, err := organization(c, dir.EnvironmentID, store.OrganizationRef{ID: dir.OrganizationID}); err != nil {
			return err
		}
		if u == nil || !u.DeletedAt.IsZero() {
			u = account(c, dir, s)
			c.PutUser(u)
			s.UserID = u.ID
		}
		m := membershipOf(c, u, dir.OrganizationID)
		if m.Status == store.MembershipActive {
			return nil
		}
		return d.join(c, u, m, c.Now, "scim", nil)
	}
	if u == nil || !u.DeletedAt.IsZero() {
		return nil
	}
	m := c.Membership(u, dir.OrganizationID)
	if m == nil || left(m) {
		return nil
	}
	return d.leaveSCIM(c, u, m, departure{reason: ReasonSCIM, at: c.Now, keep: true})
}

func (d *Directory) leaveSCIM(c *store.Change, u *User, m *Membership, o departure) (err error) {
	if o.successor, err = successor(c, u, m.OrganizationID, ""); err != nil {
		return err
	}
	_, err = d.leave(c, u, m, o)
	return err
}

// maxGroups is of how many groups a user is taken out who is deleted.
const maxGroups = 1000

// DeleteSCIMUser removes a user of a directory, from its groups, and from its
// organization.
func (d *Directory) DeleteSCIMUser(ctx context.Context, dir SCIMDirectory, id string) error {
	ref := store.SCIMRef{DirectoryID: dir.ID, ID: id}
	need := store.Need{EnvironmentID: dir.EnvironmentID, Organizations: []store.OrganizationRef{{ID: dir.OrganizationID}}, SCIMUsers: []store.SCIMRef{ref}}
	groups, _, err := d.SCIMGroups(ctx, dir, SCIMGroupFilter{Member: &id}, 1, maxGroups)
	if err != nil {
		return err
	}
	for _, g := range groups {
		need.SCIMGroups = append(need.SCIMGroups, store.SCIMRef{DirectoryID: dir.ID, ID: g.ID})
	}
	return d.do(ctx, &command{need: need, events: 2, decide: func(c *store.Change) error {
		s := c.SCIMUser(ref)
		if s == nil {
			return ErrNotFound
		}
		if u := c.User(dir.EnvironmentID, store.UserRef{ID: s.UserID}); u != nil && u.DeletedAt.IsZero() {
			if m := c.Membership(u, dir.OrganizationID); m != nil && m.Status != store.MembershipRemoved {
				if err := d.leaveSCIM(c, u, m, departure{reason: ReasonSCIM, at: c.Now, keep: true, account: "last_membership_removed"}); err != nil {
					return err
				}
			}
		}
		for _, ref := range need.SCIMGroups {
			if g := c.SCIMGroup(ref); g != nil {
				g.Members = slices.DeleteFunc(g.Members, func(member string) bool { return member == id })
				c.PutSCIMGroup(g)
			}
		}
		c.DropSCIMUser(s)
		return nil
	}})
}

// CreateSCIMGroup makes a group of a directory.
func (d *Directory) CreateSCIMGroup(ctx context.Context, dir SCIMDirectory, g SCIMGroup) (SCIMGroup, error) {
	g.DirectoryID, g.ID = dir.ID, newID("dirgroup_")
	var made SCIMGroup
	err := d.do(ctx, &command{need: store.Need{EnvironmentID: dir.EnvironmentID}, decide: func(c *store.Change) error {
		made = g
		made.CreatedAt, made.UpdatedAt = micros(c.Now), micros(c.Now)
		kept := made
		c.PutSCIMGroup(&kept)
		return nil
	}})
	return made, err
}

// ChangeSCIMGroup lets change, which may be called more than once, make a new
// group of the present one.
func (d *Directory) ChangeSCIMGroup(ctx context.Context, dir SCIMDirectory, id string, change func(SCIMGroup) (SCIMGroup, error)) (SCIMGroup, error) {
	ref := store.SCIMRef{DirectoryID: dir.ID, ID: id}
	var changed SCIMGroup
	err := d.do(ctx, &command{need: store.Need{EnvironmentID: dir.EnvironmentID, SCIMGroups: []store.SCIMRef{ref}}, decide: func(c *store.Change) error {
		g := c.SCIMGroup(ref)
		if g == nil {
			return ErrNotFound
		}
		next, err := change(*g)
		if err != nil {
			return err
		}
		next.DirectoryID, next.ID, next.CreatedAt, next.UpdatedAt = g.DirectoryID, g.ID, g.CreatedAt, micros(c.Now)
		*g = next
		c.PutSCIMGroup(g)
		changed = next
		return nil
	}})
	return changed, err
}

// DeleteSCIMGroup removes a group of a directory. Nobody leaves by that.
func (d *Directory) DeleteSCIMGroup(ctx context.Context, dir SCIMDirectory, id string) error {
	ref := store.SCIMRef{DirectoryID: dir.ID, ID: id}
	return d.do(ctx, &command{need: store.Need{EnvironmentID: dir.EnvironmentID, SCIMGroups: []store.SCIMRef{ref}}, decide: func(c *store.Change) error {
		g := c.SCIMGroup(ref)
		if g == nil {
			return ErrNotFound
		}
		c.DropSCIMGroup(g)
		return nil
	}})
}
