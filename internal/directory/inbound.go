package directory

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

// Types of inbound events that mean something beside those that package events
// knows.
const (
	typeLogin                = "user.login"
	typeLogout               = "user.logout"
	typeMembershipUpdated    = "user.organization_membership_updated"
	typeInvitation           = "user.organization_invitation"
	typeOrganizationCreated  = "organization.created"
	typeOrganizationUpdated  = "organization.updated"
	typeOrganizationDeleted  = "organization.deleted"
	typeDirectoryUserCreated = "organization.directory.user_created"
	typeDirectoryUserUpdated = "organization.directory.user_updated"
	typeDirectoryUserDeleted = "organization.directory.user_deleted"
)

// Means tells whether events of a type can change who is a member, or of
// sessions. Others only have to be recorded.
func Means(eventType string) bool {
	switch eventType {
	case events.MembershipRemoved.Name, events.MembershipCreated.Name, events.UserDeleted.Name, typeLogin, typeLogout, typeMembershipUpdated,
		typeInvitation, typeOrganizationCreated, typeOrganizationUpdated, typeOrganizationDeleted,
		typeDirectoryUserCreated, typeDirectoryUserUpdated, typeDirectoryUserDeleted:
		return true
	}
	return false
}

// Apply records an inbound event and does what it means, in one transaction. A
// departure that was told before, by whatever channel, is not announced again;
// news that are older than what is known change nothing.
func (d *Directory) Apply(ctx context.Context, in Inbound) (Applied, error) {
	ev := in.Event
	a := &store.Acceptance{Events: []events.Event{ev}, SourceID: in.Inbox.SourceID, WebhookID: in.Inbox.WebhookID, BodyHash: in.Inbox.BodyHash}
	news := d.understand(ev)
	var done Applied
	deleting := false
	err := d.do(ctx, &command{need: news.need(), events: 2, inbound: a, decide: func(c *store.Change) (err error) {
		done, deleting = Applied{EventID: ev.ID}, false
		if a.Repeated {
			done.EventID, done.Repeated, done.Effect = a.IDs[0], true, EffectKnown
			return nil
		}
		// What is said to be in the future would make later news stale.
		if news.at = ev.OccurredAt; news.at.After(c.Now) {
			news.at = c.Now
		}
		done.Effect, err = news.apply(c)
		deleting = ev.Type == typeOrganizationDeleted && done.Effect == EffectRemoved
		return err
	}})
	if err == nil && deleting {
		d.finishSoon()
	}
	return done, err
}

// news is an inbound event as it was understood.
type news struct {
	d     *Directory
	event events.Event
	env   string
	at    time.Time

	organization events.Organization
	user         events.User
	scim         scimNews
	session      sessionNews
}

type scimNews struct {
	ID             string `json:"id"`
	OrganizationID string `json:"organization_id"`
	ProviderID     string `json:"dp_id"`
	Email          string `json:"email"`
	Active         *bool  `json:"active"`
	Name           string `json:"name"`
	GivenName      string `json:"given_name"`
	FamilyName     string `json:"family_name"`
}

type sessionNews struct {
	ID                string     `json:"session_id"`
	OrganizationID    string     `json:"organization_id"`
	Organizations     []string   `json:"authenticated_organizations"`
	Status            string     `json:"status"`
	CreatedAt         *time.Time `json:"created_at"`
	LastActiveAt      *time.Time `json:"last_active_at"`
	IdleExpiresAt     *time.Time `json:"idle_expires_at"`
	AbsoluteExpiresAt *time.Time `json:"absolute_expires_at"`
}

// understand reads an event. What is ill-formed in it beyond what it has to have
// only tells less.
func (d *Directory) understand(ev events.Event) *news {
	n := &news{d: d, event: ev, env: ev.EnvironmentID, at: ev.OccurredAt, organization: events.Organization{ID: ev.OrganizationID}}
	switch ev.Type {
	case events.UserDeleted.Name:
		data, _ := events.UserDeleted.Decode(ev)
		n.user = data.User
	case typeLogin, typeLogout:
		var data struct {
			User    json.RawMessage `json:"user"`
			Session json.RawMessage `json:"user_session"`
		}
		_ = json.Unmarshal(ev.Data, &data)
		_ = json.Unmarshal(data.User, &n.user)
		_ = json.Unmarshal(data.Session, &n.session)
	case typeOrganizationCreated, typeOrganizationUpdated, typeOrganizationDeleted:
		_ = json.Unmarshal(ev.Data, &n.organization)
	case typeDirectoryUserCreated, typeDirectoryUserUpdated, typeDirectoryUserDeleted:
		_ = json.Unmarshal(ev.Data, &n.scim)
		n.scim.ID = ev.Subject()
	case events.MembershipRemoved.Name:
		// The rest only when the person is not known: see stranger.
		var data struct {
			User struct {
				Email string `json:"email"`
			} `json:"user"`
		}
		_ = json.Unmarshal(ev.Data, &data)
		n.user.Email = data.User.Email
	default:
		data, _ := events.Type[events.Membership]{Name: ev.Type}.Decode(ev)
		n.user, n.organization = data.User, data.Organization
	}
	if ev.Object != "DirectoryUser" {
		n.user.ID = ev.UserID()
	}
	n.organization.ID = ev.OrganizationID
	n.clean()
	return n
}

// clean takes out of what was said what cannot be kept: NUL, and names that are
// too long to be ones.
func (n *news) clean() {
	for _, text := range []*string{
		&n.user.Email, &n.user.ExternalID, &n.organization.DisplayName, &n.organization.ExternalID, &n.organization.RegionCode,
		&n.scim.ProviderID, &n.scim.Email, &n.scim.Name, &n.scim.GivenName, &n.scim.FamilyName, &n.session.ID, &n.session.OrganizationID,
	} {
		if strings.Contains(*text, "\x00") || len(*text) > 512 {
			*text = ""
		}
	}
	if len(n.session.Organizations) > 100 {
		n.session.Organizations = n.session.Organizations[:100]
	}
	encoded, err := json.Marshal([]any{n.user.Profile, n.user.Metadata, n.user.Memberships, n.organization.Metadata, n.session.Organizations})
	if err != nil || strings.Contains(string(encoded), `\u0000`) || len(encoded) > 64<<10 {
		n.user.Profile, n.user.Metadata, n.organization.Metadata, n.session.Organizations = events.UserProfile{}, nil, nil, nil
	}
}

func (n *news) need() store.Need {
	need := store.Need{EnvironmentID: n.env}
	if n.organization.ID != "" {
		need.Organizations = []store.OrganizationRef{{ID: n.organization.ID}, {ExternalID: n.organization.ExternalID}}
		need.Ends = n.event.Type == typeOrganizationDeleted
	}
	switch {
	case n.event.Type == events.MembershipRemoved.Name:
		need.Users = append(need.Users, store.UserRef{ID: n.user.ID}, store.UserRef{Email: n.user.Email})
	case n.user.ID != "":
		need.Users = append(need.Users, store.UserRef{ID: n.user.ID}, store.UserRef{Email: n.user.Email}, store.UserRef{ExternalID: n.user.ExternalID})
	}
	if n.scim.ID != "" {
		need.Users = append(need.Users, store.UserRef{Email: n.scim.Email})
		need.SCIMUsers = []store.SCIMRef{{DirectoryID: n.directoryID(), ID: n.scim.ID}, {DirectoryID: n.directoryID(), ExternalID: n.scim.ProviderID}}
	}
	if n.session.ID != "" {
		need.Sessions = []string{n.session.ID}
	}
	return need
}

// apply does what the news mean, and announces what is to be.
func (n *news) apply(c *store.Change) (Effect, error) {
	switch n.event.Type {
	case events.MembershipRemoved.Name:
		return n.removed(c)
	case events.MembershipCreated.Name:
		return n.created(c)
	case typeMembershipUpdated:
		return n.updated(c)
	case typeInvitation:
		return n.invited(c)
	case events.UserDeleted.Name:
		return n.userDeleted(c)
	case typeOrganizationDeleted:
		return n.organizationDeleted(c)
	case typeLogin, typeLogout:
		return n.signedIn(c)
	case typeDirectoryUserCreated, typeDirectoryUserUpdated, typeDirectoryUserDeleted:
		return n.directoryUser(c)
	}
	n.learnOrganization(c)
	return n.forward(c)
}

// forward announces the event as it came.
func (n *news) forward(c *store.Change) (Effect, error) {
	c.Announce(n.event, nil)
	return EffectRecorded, nil
}

func (n *news) removed(c *store.Change) (Effect, error) {
	u, m := n.membership(c)
	if effect, done := n.old(m); done {
		if effect == EffectKnown {
			m.Status = store.MembershipRemoved // it may have been INACTIVE
		}
		c.PutMembership(m)
		return effect, nil
	}
	return EffectRemoved, n.leave(c, u, m, departure{told: &n.event})
}

// old tells whether the news of a removal are old, and marks when a known one
// was told to have been.
func (n *news) old(m *Membership) (Effect, bool) {
	switch {
	case m.ChangedAt.IsZero():
		return "", false
	case left(m):
		m.ChangedAt = later(m.ChangedAt, n.at)
		return EffectKnown, true
	case n.at.Before(m.ChangedAt):
		return EffectStale, true
	}
	return "", false
}

// leave ends a membership because of the news.
func (n *news) leave(c *store.Change, u *User, m *Membership, o departure) error {
	o.reason, o.at = ReasonUpstream, n.at
	if o.successor == nil {
		var err error
		if o.successor, err = successor(c, u, m.OrganizationID, ""); err != nil {
			return err
		}
	}
	_, err := n.d.leave(c, u, m, o)
	return err
}

func (n *news) created(c *store.Change) (Effect, error) {
	u, m := n.membership(c)
	switch {
	case m.Status == store.MembershipActive:
		m.ChangedAt = later(m.ChangedAt, n.at)
		c.PutMembership(m)
		return n.forward(c)
	case n.late(c, u, m):
		return EffectStale, nil
	}
	n.revive(c, u, n.user.Email)
	return EffectAdded, n.d.join(c, u, m, n.at, "upstream", &n.event)
}

// updated looks for what the user's own list of memberships says of this one.
// That it says nothing means nothing.
func (n *news) updated(c *store.Change) (Effect, error) {
	status := ""
	for _, entry := range n.user.Memberships {
		if entry.OrganizationID == n.organization.ID {
			status = entry.Status
		}
	}
	if status != "INACTIVE" && status != "ACTIVE" {
		n.person(c)
		n.learnOrganization(c)
		return n.forward(c)
	}
	u, m := n.membership(c)
	if status == "INACTIVE" {
		if effect, done := n.old(m); done {
			c.PutMembership(m)
			if effect == EffectStale {
				return effect, nil
			}
			c.Announce(n.event, nil)
			return EffectKnown, nil
		}
		c.Announce(n.event, nil)
		return EffectRemoved, n.leave(c, u, m, departure{keep: true})
	}
	if m.Status != store.MembershipActive && n.late(c, u, m) {
		return EffectStale, nil
	}
	c.Announce(n.event, nil)
	if m.Status == store.MembershipActive {
		m.ChangedAt = later(m.ChangedAt, n.at)
		c.PutMembership(m)
		return EffectRecorded, nil
	}
	if !m.ChangedAt.IsZero() || m.RemovalSeq > 0 {
		n.revive(c, u, n.user.Email)
		return EffectAdded, n.d.join(c, u, m, n.at, "upstream", nil)
	}
	// Nobody knew them: they are a member, and not by this.
	m.Status, m.Epoch, m.ChangedAt, m.JoinedAt, m.ProvisioningMethod = store.MembershipActive, m.Epoch+1, n.at, n.at, "upstream"
	c.PutMembership(m)
	return EffectRecorded, nil
}

func (n *news) invited(c *store.Change) (Effect, error) {
	u, m := n.membership(c)
	if n.late(c, u, m) {
		return EffectStale, nil
	}
	if left(m) {
		m.Status, m.ProvisioningMethod, m.UpdatedAt = store.MembershipPendingInvite, "invitation", micros(c.Now)
		m.ChangedAt = n.at
		c.PutMembership(m)
	}
	return n.forward(c)
}

func (n *news) userDeleted(c *store.Change) (Effect, error) {
	u := n.person(c)
	if !u.DeletedAt.IsZero() {
		return EffectKnown, nil
	}
	for _, m := range c.Memberships(u) {
		if m.Status == store.MembershipRemoved || n.at.Before(m.ChangedAt) && !left(m) {
			continue
		}
		heir, err := successor(c, u, m.OrganizationID, "")
		if err != nil {
			return "", err
		}
		if _, err := n.d.leave(c, u, m, departure{reason: ReasonUserDeleted, at: n.at, successor: heir}); err != nil {
			return "", err
		}
	}
	if hasMembership(c, u, "") {
		return EffectStale, nil // they became a member after it
	}
	for _, s := range c.Sessions(u) {
		revoke(c, s)
	}
	u.DeletedAt, u.UpdatedAt = micros(n.at), micros(c.Now)
	c.PutUser(u)
	c.Announce(n.event, nil)
	return EffectRemoved, nil
}

func (n *news) organizationDeleted(c *store.Change) (Effect, error) {
	o := c.Organization(n.env, store.OrganizationRef{ID: n.organization.ID})
	if o != nil && o.State != store.OrganizationActive {
		return EffectKnown, nil
	}
	o = n.learnOrganization(c)
	o.State, o.UpdatedAt = store.OrganizationDeleting, micros(c.Now)
	c.PutOrganization(o)
	c.Announce(n.event, nil)
	return EffectRemoved, nil
}

func (n *news) signedIn(c *store.Change) (Effect, error) {
	if n.user.ID == "" || n.session.ID == "" {
		return n.forward(c)
	}
	u := n.person(c)
	if !u.DeletedAt.IsZero() {
		return n.forward(c)
	}
	s := c.Session(n.env, n.session.ID)
	if s == nil {
		s = &Session{EnvironmentID: n.env, ID: n.session.ID, UserID: u.ID, CreatedAt: micros(n.at), Status: store.SessionActive}
	} else if s.UserID != u.ID {
		return n.forward(c)
	}
	told := n.session
	for _, t := range []struct {
		to   *time.Time
		from *time.Time
	}{
		{&s.CreatedAt, told.CreatedAt}, {&s.LastActiveAt, told.LastActiveAt}, {&s.IdleExpiresAt, told.IdleExpiresAt}, {&s.AbsoluteExpiresAt, told.AbsoluteExpiresAt},
	} {
		if t.from != nil && t.from.Year() > 1970 && t.from.Year() < 2261 {
			*t.to = micros(*t.from)
		}
	}
	s.OrganizationID, s.Organizations, s.UpdatedAt = told.OrganizationID, told.Organizations, micros(c.Now)
	switch {
	case n.event.Type == typeLogout && s.Status == store.SessionActive:
		s.Status, s.LogoutAt, s.ExpiredAt = store.SessionLogout, micros(n.at), micros(n.at)
		if strings.EqualFold(told.Status, string(store.SessionRevoked)) {
			s.Status = store.SessionRevoked
		}
	case n.event.Type == typeLogin && s.Status == store.SessionActive && n.reachesWhatEnded(c, u, s):
		s.Status, s.ExpiredAt = store.SessionRevoked, micros(c.Now)
	case n.event.Type == typeLogin && n.at.After(u.LastLoginAt):
		u.LastLoginAt = micros(n.at)
		c.PutUser(u)
	}
	c.PutSession(s)
	return n.forward(c)
}

// directoryUser is about somebody of whom a directory knows an email or an id of
// its own. The event is announced as it is; a departure is announced beside it,
// once, however many events tell it.
func (n *news) directoryUser(c *store.Change) (Effect, error) {
	active := n.event.Type != typeDirectoryUserDeleted && (n.scim.Active == nil || *n.scim.Active)
	u := n.directoryPerson(c)
	m := membershipOf(c, u, n.organization.ID)
	if active {
		back := !m.ChangedAt.IsZero() && !n.late(c, u, m) &&
			(m.Status == store.MembershipInactive || m.Status == store.MembershipRemoved && m.Reason == ReasonUpstream && n.event.Type == typeDirectoryUserCreated)
		if !back {
			return n.forward(c)
		}
		c.Announce(n.event, nil)
		n.revive(c, u, n.scim.Email)
		return EffectAdded, n.d.join(c, u, m, n.at, "upstream", nil)
	}
	n.learnOrganization(c)
	gone := n.event.Type == typeDirectoryUserDeleted
	if effect, done := n.old(m); done {
		if effect == EffectKnown {
			c.Announce(n.event, nil)
			if gone {
				m.Status = store.MembershipRemoved
			}
		}
		c.PutMembership(m)
		return effect, nil
	}
	c.Announce(n.event, nil)
	return EffectRemoved, n.leave(c, u, m, departure{keep: !gone})
}

// membership finds or makes what the event is about.
func (n *news) membership(c *store.Change) (*User, *Membership) {
	u := n.person(c)
	n.learnOrganization(c)
	return u, membershipOf(c, u, n.organization.ID)
}

// person finds or makes the user that the event names, as the event shows them.
func (n *news) person(c *store.Change) *User {
	u := c.User(n.env, store.UserRef{ID: n.user.ID})
	made := u == nil
	if n.event.Type == events.MembershipRemoved.Name {
		if !made {
			return u // who leaves needs no more to be known of
		}
		n.stranger()
	}
	if made {
		u = &User{EnvironmentID: n.env, ID: n.user.ID, CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now)}
		if p := c.User(n.env, store.UserRef{Email: n.user.Email}); p != nil && p.Provisional && p.DeletedAt.IsZero() {
			takeOver(c, u, p)
		}
	}
	before := *u
	n.learnUser(c, u)
	if made || !reflect.DeepEqual(before, *u) {
		c.PutUser(u)
	}
	return u
}

// stranger reads what a removal says of somebody who was not known. Whether an
// external id is somebody else's was not looked up, so it is not kept.
func (n *news) stranger() {
	data, _ := events.MembershipRemoved.Decode(n.event)
	n.user, n.organization = data.User, data.Organization
	n.user.ID, n.organization.ID = n.event.UserID(), n.event.OrganizationID
	n.clean()
	n.user.ExternalID, n.organization.ExternalID = "", ""
}

// learnUser keeps what the event says of its user.
func (n *news) learnUser(c *store.Change, u *User) {
	if !u.DeletedAt.IsZero() {
		return
	}
	if other := c.User(n.env, store.UserRef{Email: n.user.Email}); n.user.Email != "" && (other == nil || !other.DeletedAt.IsZero() || other.ID == u.ID) {
		u.Email = n.user.Email
	}
	if other := c.User(n.env, store.UserRef{ExternalID: n.user.ExternalID}); n.user.ExternalID != "" && (other == nil || other.ID == u.ID) {
		u.ExternalID = n.user.ExternalID
	}
	if n.user.Metadata != nil {
		u.Metadata = n.user.Metadata
	}
	if !reflect.ValueOf(n.user.Profile).IsZero() {
		u.Profile = n.user.Profile
	}
}

// takeOver gives a user who is told for the first time what is known of them
// under an id that was made here, because a directory had told of them first.
func takeOver(c *store.Change, u, p *User) {
	for _, m := range c.Memberships(p) {
		moved := *m
		moved.UserID = u.ID
		c.PutMembership(&moved)
		m.Status, m.UpdatedAt = store.MembershipRemoved, micros(c.Now)
		c.PutMembership(m)
	}
	for _, s := range c.SCIMUsers(p) {
		s.UserID = u.ID
		c.PutSCIMUser(s)
	}
	p.DeletedAt, p.UpdatedAt, p.Email = micros(c.Now), micros(c.Now), ""
	c.PutUser(p)
}

// directoryPerson finds whom a directory means: by its own id, by the provider's,
// by email in any letter case. Somebody unknown becomes known.
func (n *news) directoryPerson(c *store.Change) *User {
	ref := store.SCIMRef{DirectoryID: n.directoryID(), ID: n.scim.ID}
	s := c.SCIMUser(ref)
	if s == nil && n.scim.ProviderID != "" {
		s = c.SCIMUser(store.SCIMRef{DirectoryID: n.directoryID(), ExternalID: n.scim.ProviderID})
	}
	var u *User
	if s != nil {
		u = c.User(n.env, store.UserRef{ID: s.UserID})
	}
	if u == nil && n.scim.Email != "" {
		u = c.User(n.env, store.UserRef{Email: n.scim.Email})
	}
	if u == nil {
		u = &User{EnvironmentID: n.env, ID: newID("usr_"), Email: n.scim.Email, Provisional: true, CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now)}
		u.Profile = events.UserProfile{Name: n.scim.Name, GivenName: n.scim.GivenName, FamilyName: n.scim.FamilyName}
		c.PutUser(u)
	}
	if s == nil {
		s = &SCIMUser{EnvironmentID: n.env, DirectoryID: n.directoryID(), OrganizationID: n.organization.ID, ID: n.scim.ID, CreatedAt: micros(c.Now)}
	}
	s.UserID, s.Email, s.UpdatedAt = u.ID, n.scim.Email, micros(c.Now)
	if n.scim.ProviderID != "" {
		s.ExternalID = n.scim.ProviderID
	}
	s.Active = n.event.Type != typeDirectoryUserDeleted && (n.scim.Active == nil || *n.scim.Active)
	c.PutSCIMUser(s)
	return u
}

// directoryID stands for the directory of which a source tells.
func (n *news) directoryID() string { return n.env + "/" + n.organization.ID }

// late tells whether the news of somebody's being a member, or invited, are older
// than what is known to have ended: the membership, the account, the
// organization.
func (n *news) late(c *store.Change, u *User, m *Membership) bool {
	o := c.Organization(n.env, store.OrganizationRef{ID: n.organization.ID})
	return m.Status != store.MembershipActive && !m.ChangedAt.IsZero() && !n.at.After(m.ChangedAt) ||
		!u.DeletedAt.IsZero() && !n.at.After(u.DeletedAt) ||
		o != nil && o.State != store.OrganizationActive
}

// revive gives a person back the account that went, with what is unique of it if
// nobody else has that by now.
func (n *news) revive(c *store.Change, u *User, email string) {
	if u.DeletedAt.IsZero() {
		return
	}
	byEmail, byExternalID := c.User(n.env, store.UserRef{Email: email}), c.User(n.env, store.UserRef{ExternalID: n.user.ExternalID})
	u.DeletedAt, u.UpdatedAt, u.Email, u.ExternalID = time.Time{}, micros(c.Now), email, n.user.ExternalID
	if byEmail != nil && byEmail.ID != u.ID && byEmail.DeletedAt.IsZero() {
		u.Email = ""
	}
	if byExternalID != nil && byExternalID.ID != u.ID {
		u.ExternalID = ""
	}
	c.PutUser(u)
}

// reachesWhatEnded tells whether a session that began then reaches an organization
// that the person has left since.
func (n *news) reachesWhatEnded(c *store.Change, u *User, s *Session) bool {
	for _, id := range append([]string{s.OrganizationID}, s.Organizations...) {
		if m := c.Membership(u, id); m != nil && left(m) && !n.at.After(m.ChangedAt) {
			return true
		}
	}
	return false
}

// learnOrganization keeps what the event says of its organization.
func (n *news) learnOrganization(c *store.Change) *Organization {
	if n.organization.ID == "" {
		return nil
	}
	o := c.Organization(n.env, store.OrganizationRef{ID: n.organization.ID})
	if o == nil {
		o = &Organization{EnvironmentID: n.env, ID: n.organization.ID, CreatedAt: micros(c.Now), UpdatedAt: micros(c.Now)}
	} else if o.State != store.OrganizationActive || !n.teaches(o) {
		return o
	}
	if n.organization.DisplayName != "" {
		o.DisplayName = n.organization.DisplayName
	}
	if other := c.Organization(n.env, store.OrganizationRef{ExternalID: n.organization.ExternalID}); n.organization.ExternalID != "" && (other == nil || other.ID == o.ID) {
		o.ExternalID = n.organization.ExternalID
	}
	o.RegionCode = n.organization.RegionCode
	if n.organization.Metadata != nil {
		o.Metadata = n.organization.Metadata
	}
	c.PutOrganization(o)
	return o
}

// teaches tells whether the event knows more of the organization than we do.
func (n *news) teaches(o *Organization) bool {
	return n.organization.DisplayName != "" && n.organization.DisplayName != o.DisplayName
}
