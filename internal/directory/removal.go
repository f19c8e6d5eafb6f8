package directory

import (
	"net/mail"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

// A departure is a person's leaving an organization: who asked for it and what
// follows.
type departure struct {
	reason string
	at     time.Time
	// keep leaves the membership INACTIVE, as directories switch people off and on;
	// else it is gone.
	keep bool
	// account ends with the last membership, for this reason; "": it stays.
	account   string
	successor *events.Successor
	// told is the event by which somebody else told it; it is announced with what
	// we know added. nil: one of our own is.
	told *events.Event
}

// left tells whether the departure of a membership is past.
func left(m *Membership) bool {
	return m.Status == store.MembershipRemoved || m.Status == store.MembershipInactive
}

// leave is where every removal ends. It ends the membership, the sessions that
// reach the organization and, with the last membership, the account, and
// announces it.
func (d *Directory) leave(c *store.Change, u *User, m *Membership, o departure) (Removal, error) {
	r := Removal{User: withMemberships(c, u), Successor: o.successor}
	told := m.Status == store.MembershipInactive && m.RemovalSeq > 0 // when it became so
	ended := sessionsThatReach(c, u, m.OrganizationID)
	for _, s := range ended {
		r.RevokedSessions = append(r.RevokedSessions, s.ID)
	}
	before := *m
	if m.Status = store.MembershipRemoved; o.keep {
		m.Status = store.MembershipInactive
	}
	var ev events.Event
	if !told {
		var err error
		if ev, err = d.membershipRemoved(c, u, m, o, r.RevokedSessions); err != nil {
			*m = before
			return Removal{}, err
		}
		r.EventID = ev.ID
		m.Reason, m.Successor, m.RemovalSeq = o.reason, o.successor, 0
	}
	m.ChangedAt, m.UpdatedAt = later(m.ChangedAt, o.at), c.Now
	c.PutMembership(m)
	for _, s := range ended {
		s.Status, s.UpdatedAt, s.ExpiredAt = store.SessionRevoked, c.Now, c.Now
		c.PutSession(s)
	}
	for _, s := range c.SCIMUsers(u) {
		// What a directory does itself it writes itself.
		if s.Active && s.OrganizationID == m.OrganizationID && o.reason != ReasonSCIM {
			s.Active, s.UpdatedAt = false, c.Now
			c.PutSCIMUser(s)
		}
	}
	if !told {
		c.Announce(ev, func(seq int64) { m.RemovalSeq = seq })
	}
	directoryOf := ""
	if o.reason == ReasonSCIM {
		directoryOf = m.OrganizationID
	}
	if o.account != "" && !hasMembership(c, u, directoryOf) {
		if err := d.deleteAccount(c, u, m.OrganizationID, o); err != nil {
			return Removal{}, err
		}
		r.UserDeleted = true
	}
	return r, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// hasMembership tells whether a membership is left to a person. One that is
// INACTIVE is not, unless a directory asks, of which it is not the organization: it
// has no say in others.
func hasMembership(c *store.Change, u *User, directoryOf string) bool {
	for _, m := range c.Memberships(u) {
		if !left(m) || m.Status == store.MembershipInactive && directoryOf != "" && directoryOf != m.OrganizationID {
			return true
		}
	}
	return false
}

// deleteAccount ends an account whose memberships have ended.
func (d *Directory) deleteAccount(c *store.Change, u *User, organizationID string, o departure) error {
	ev, err := d.userDeleted(u, organizationID, o)
	if err != nil {
		return err
	}
	for _, m := range c.Memberships(u) {
		if m.Status != store.MembershipRemoved {
			m.Status, m.UpdatedAt = store.MembershipRemoved, c.Now
			c.PutMembership(m)
		}
	}
	for _, s := range c.Sessions(u) {
		if s.Status == store.SessionActive {
			s.Status, s.UpdatedAt, s.ExpiredAt = store.SessionRevoked, c.Now, c.Now
			c.PutSession(s)
		}
	}
	u.DeletedAt, u.UpdatedAt = micros(o.at), micros(c.Now)
	c.PutUser(u)
	c.Announce(ev, nil)
	return nil
}

func (d *Directory) membershipRemoved(c *store.Change, u *User, m *Membership, o departure, sessions []string) (events.Event, error) {
	if o.told != nil {
		more := []events.Member{{Name: "reason", Value: o.reason}}
		if o.successor != nil {
			more = append(more, events.Member{Name: "successor", Value: o.successor})
		}
		if len(sessions) > 0 {
			more = append(more, events.Member{Name: "revoked_sessions", Value: sessions})
		}
		ev, err := events.Extend(*o.told, more...)
		if err != nil {
			return *o.told, nil // it would be too large
		}
		return ev, nil
	}
	data := events.Membership{
		Organization: organizationData(c, u.EnvironmentID, m.OrganizationID), User: userData(u),
		Reason: o.reason, Successor: o.successor, RevokedSessions: sessions,
	}
	if o.keep {
		data.User.Memberships = membershipsData(c, u)
	}
	return events.New(events.MembershipRemoved, data, d.defaults(u.EnvironmentID, o.at), m.OrganizationID)
}

func (d *Directory) userDeleted(u *User, organizationID string, o departure) (events.Event, error) {
	data := events.UserDeletion{User: userData(u), Reason: o.account, Successor: o.successor}
	data.User.DeletedAt = o.at.UTC()
	return events.New(events.UserDeleted, data, d.defaults(u.EnvironmentID, o.at), organizationID)
}

// sessionsThatReach are the active sessions of a person that end with a
// membership.
func sessionsThatReach(c *store.Change, u *User, organizationID string) []*Session {
	var all []*Session
	for _, s := range c.Sessions(u) {
		if s.Status != store.SessionActive {
			continue
		}
		reaches := s.OrganizationID == organizationID
		for _, id := range s.Organizations {
			reaches = reaches || id == organizationID
		}
		if reaches {
			all = append(all, s)
		}
	}
	return all
}

// successor finds who takes over: who was named, who has to be another active
// member, else the manager that the directory told, if still one.
func successor(c *store.Change, u *User, organizationID, named string) (*events.Successor, error) {
	if named != "" {
		s := member(c, c.User(u.EnvironmentID, userRef(named)), u, organizationID)
		if s == nil {
			return nil, ErrSuccessor
		}
		return heir(s, "request"), nil
	}
	for _, scim := range c.SCIMUsers(u) {
		if scim.ManagerID == "" {
			continue
		}
		manager := c.SCIMUser(store.SCIMRef{DirectoryID: scim.DirectoryID, ID: scim.ManagerID})
		if manager == nil {
			manager = c.SCIMUser(store.SCIMRef{DirectoryID: scim.DirectoryID, ExternalID: scim.ManagerID})
		}
		if manager == nil {
			continue
		}
		if s := member(c, c.User(u.EnvironmentID, store.UserRef{ID: manager.UserID}), u, organizationID); s != nil {
			return heir(s, "manager"), nil
		}
	}
	return nil, nil
}

// heir is a user as events name one.
func heir(u *User, source string) *events.Successor {
	s := &events.Successor{UserID: u.ID, Source: source}
	if address, err := mail.ParseAddress(u.Email); err == nil && address.Address == u.Email {
		s.Email = u.Email
	}
	return s
}

// member returns s if it is another active member.
func member(c *store.Change, s, other *User, organizationID string) *User {
	if s == nil || s.ID == other.ID || !s.DeletedAt.IsZero() {
		return nil
	}
	if m := c.Membership(s, organizationID); m == nil || m.Status != store.MembershipActive {
		return nil
	}
	return s
}

// userRef reads what names a user: an id or an email.
func userRef(named string) store.UserRef {
	if strings.HasPrefix(named, "usr_") {
		return store.UserRef{ID: named}
	}
	return store.UserRef{Email: named}
}

func others(named string) []store.UserRef {
	if named == "" {
		return nil
	}
	return []store.UserRef{userRef(named)}
}

// join makes a person an active member, or again, and announces it: whoever had
// not been told of the last removal will not be. told is the event by which
// somebody else told it, which is announced then.
func (d *Directory) join(c *store.Change, u *User, m *Membership, at time.Time, method string, told *events.Event) error {
	ev := told
	if ev == nil {
		own, err := events.New(events.MembershipCreated, events.Membership{
			Organization: organizationData(c, u.EnvironmentID, m.OrganizationID), User: userData(u),
		}, d.defaults(u.EnvironmentID, at), m.OrganizationID)
		if err != nil {
			return err
		}
		ev = &own
	}
	if m.Status != store.MembershipActive {
		m.Epoch++
	}
	if m.RemovalSeq > 0 {
		c.Supersede(m.RemovalSeq)
	}
	m.Status, m.RemovalSeq, m.Reason, m.Successor = store.MembershipActive, 0, "", nil
	m.ChangedAt, m.JoinedAt, m.UpdatedAt, m.ProvisioningMethod = later(m.ChangedAt, at), at, c.Now, method
	c.PutMembership(m)
	c.Announce(*ev, nil)
	return nil
}

// membershipOf returns the membership of a person, a new one if there never was
// any. A new one counts as removed until it is something else.
func membershipOf(c *store.Change, u *User, organizationID string) *Membership {
	if m := c.Membership(u, organizationID); m != nil {
		return m
	}
	return &Membership{EnvironmentID: u.EnvironmentID, OrganizationID: organizationID, UserID: u.ID, CreatedAt: c.Now, UpdatedAt: c.Now}
}
