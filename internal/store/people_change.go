package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/outbox"
)

// A Need is what has to be read, and locked, before a change can be decided.
// What is not there is left out.
type Need struct {
	EnvironmentID string
	// Users, with their memberships, active sessions and directory users.
	Users []UserRef
	// Others are read as Users are, but not locked.
	Others        []UserRef
	Organizations []OrganizationRef
	// Ends is set when the state of the organizations is to be changed: nobody may
	// join or leave them meanwhile.
	Ends       bool
	Sessions   []string // ids; their users too
	SCIMUsers  []SCIMRef
	SCIMGroups []SCIMRef
}

// A UserRef names a user by one of these.
type UserRef struct{ ID, ExternalID, Email string }

// An OrganizationRef names an organization by one of these.
type OrganizationRef struct{ ID, ExternalID, Slug string }

// A SCIMRef names a user or a group of a directory by one of these.
type SCIMRef struct{ DirectoryID, ID, UserName, ExternalID string }

// A Change is what one transaction about people works on: what was asked for, as
// it is, and what shall be instead.
type Change struct {
	Now time.Time

	organizations rowSet[Organization]
	users         rowSet[User]
	memberships   rowSet[Membership]
	sessions      rowSet[Session]
	scimUsers     rowSet[SCIMUser]
	scimGroups    rowSet[SCIMGroup]
	goneSCIMUsers []SCIMRef
	goneGroups    []SCIMRef

	byEmail       map[string][]*User // by environment and email
	byExternalID  map[string][]*User
	membershipsOf map[string][]*Membership
	sessionsOf    map[string][]*Session
	scimUsersOf   map[string][]*SCIMUser // by user, whose they may be no more

	events     []announcement
	superseded []int64 // numbers of removals
}

// indexUser makes a user found by more than the id; it is called before the row
// is kept.
func (c *Change) indexUser(u *User) {
	if u.Email != "" {
		index(&c.byEmail, keyOf(u.EnvironmentID, emailKey(u.Email)), u)
	}
	if u.ExternalID != "" {
		index(&c.byExternalID, keyOf(u.EnvironmentID, u.ExternalID), u)
	}
}

// index adds a row to those under a key, once.
func index[T any](m *map[string][]*T, key string, row *T) {
	if *m == nil {
		*m = make(map[string][]*T)
	}
	if !slices.Contains((*m)[key], row) {
		(*m)[key] = append((*m)[key], row)
	}
}

func (c *Change) indexMembership(m *Membership) {
	index(&c.membershipsOf, keyOf(m.EnvironmentID, m.UserID), m)
}

func (c *Change) indexSession(s *Session) {
	index(&c.sessionsOf, keyOf(s.EnvironmentID, s.UserID), s)
}

func (c *Change) addUser(u *User) {
	c.indexUser(u)
	c.users.add(keyOf(u.EnvironmentID, u.ID), u)
}

func (c *Change) addMembership(m *Membership) {
	c.indexMembership(m)
	c.memberships.add(keyOf(m.EnvironmentID, m.UserID, m.OrganizationID), m)
}

// addSession keeps a session as it was read first.
func (c *Change) addSession(s *Session) {
	if key := keyOf(s.EnvironmentID, s.ID); c.sessions.get(key) == nil {
		c.indexSession(s)
		c.sessions.add(key, s)
	}
}

// announcement is an event to append, and what to do with its number.
type announcement struct {
	event    events.Event
	appended func(seq int64)
}

// rowSet are rows of a table by key, and which of them to write.
type rowSet[T any] struct {
	byKey map[string]*T
	made  map[string]bool // those that were not read
	dirty map[string]bool
	order []string // of the dirty ones
}

func (r *rowSet[T]) get(key string) *T { return r.byKey[key] }

func (r *rowSet[T]) add(key string, row *T) {
	if r.byKey == nil {
		r.byKey = make(map[string]*T)
	}
	r.byKey[key] = row
}

func (r *rowSet[T]) put(key string, row *T) {
	if r.dirty == nil {
		r.dirty, r.made = make(map[string]bool), make(map[string]bool)
	}
	if r.byKey[key] == nil {
		r.made[key] = true
	}
	r.add(key, row)
	if !r.dirty[key] {
		r.dirty[key] = true
		r.order = append(r.order, key)
	}
}

// changed are the rows to insert and those to update.
func (r *rowSet[T]) changed() (made, known []*T) {
	for _, key := range r.order {
		switch row := r.byKey[key]; {
		case row == nil:
		case r.made[key]:
			made = append(made, row)
		default:
			known = append(known, row)
		}
	}
	return made, known
}

func keyOf(parts ...string) string { return strings.Join(parts, "\x00") }

func emailKey(email string) string { return strings.ToLower(email) }

// Organization returns an organization that was asked for, or nil; by its id also
// one that is deleted.
func (c *Change) Organization(env string, ref OrganizationRef) *Organization {
	if ref.ID != "" {
		return c.organizations.get(keyOf(env, ref.ID))
	}
	if ref == (OrganizationRef{}) {
		return nil
	}
	for _, o := range c.organizations.byKey {
		if o.EnvironmentID == env && o.State == OrganizationActive &&
			(ref.ExternalID != "" && o.ExternalID == ref.ExternalID || ref.Slug != "" && o.Slug == ref.Slug) {
			return o
		}
	}
	return nil
}

// User returns a user that was asked for, or nil. By email it finds one that is
// not deleted first.
func (c *Change) User(env string, ref UserRef) *User {
	switch {
	case ref.ID != "":
		return c.users.get(keyOf(env, ref.ID))
	case ref.ExternalID != "":
		for _, u := range c.byExternalID[keyOf(env, ref.ExternalID)] {
			if u.ExternalID == ref.ExternalID && u.DeletedAt.IsZero() {
				return u
			}
		}
		return nil
	}
	var deleted *User
	for _, u := range c.byEmail[keyOf(env, emailKey(ref.Email))] {
		if emailKey(u.Email) != emailKey(ref.Email) {
			continue // it was changed
		}
		if u.DeletedAt.IsZero() {
			return u
		}
		if deleted == nil || u.DeletedAt.After(deleted.DeletedAt) {
			deleted = u
		}
	}
	return deleted
}

// Memberships returns all memberships of a user, removed ones too, by
// organization.
func (c *Change) Memberships(u *User) []*Membership {
	all := slices.Clone(c.membershipsOf[keyOf(u.EnvironmentID, u.ID)])
	slices.SortFunc(all, func(a, b *Membership) int { return strings.Compare(a.OrganizationID, b.OrganizationID) })
	return all
}

// Membership returns the membership of a user, a removed one too, or nil.
func (c *Change) Membership(u *User, organizationID string) *Membership {
	return c.memberships.get(keyOf(u.EnvironmentID, u.ID, organizationID))
}

// Sessions returns the active sessions of a user and those that were asked for,
// by id.
func (c *Change) Sessions(u *User) []*Session {
	all := slices.Clone(c.sessionsOf[keyOf(u.EnvironmentID, u.ID)])
	slices.SortFunc(all, func(a, b *Session) int { return strings.Compare(a.ID, b.ID) })
	return all
}

// Session returns a session that was asked for, or nil.
func (c *Change) Session(env, id string) *Session { return c.sessions.get(keyOf(env, id)) }

// SCIMUser returns a directory user that was asked for, or nil.
func (c *Change) SCIMUser(ref SCIMRef) *SCIMUser {
	if ref.ID != "" {
		return c.scimUsers.get(keyOf(ref.DirectoryID, ref.ID))
	}
	if ref.UserName == "" && ref.ExternalID == "" {
		return nil
	}
	for _, u := range c.scimUsers.byKey {
		if u.DirectoryID == ref.DirectoryID && (ref.UserName != "" && strings.EqualFold(u.UserName, ref.UserName) ||
			ref.UserName == "" && ref.ExternalID != "" && u.ExternalID == ref.ExternalID) {
			return u
		}
	}
	return nil
}

// SCIMUsers returns all directory users of a user.
func (c *Change) SCIMUsers(u *User) []*SCIMUser {
	var all []*SCIMUser
	for _, s := range c.scimUsersOf[u.ID] {
		if s.UserID == u.ID && s.EnvironmentID == u.EnvironmentID && c.scimUsers.get(keyOf(s.DirectoryID, s.ID)) == s {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *SCIMUser) int { return strings.Compare(a.DirectoryID+a.ID, b.DirectoryID+b.ID) })
	return all
}

// SCIMGroup returns a directory's group that was asked for, or nil.
func (c *Change) SCIMGroup(ref SCIMRef) *SCIMGroup {
	return c.scimGroups.get(keyOf(ref.DirectoryID, ref.ID))
}

// PutOrganization writes an organization.
func (c *Change) PutOrganization(o *Organization) {
	c.organizations.put(keyOf(o.EnvironmentID, o.ID), o)
}

// PutUser writes a user.
func (c *Change) PutUser(u *User) {
	c.indexUser(u)
	c.users.put(keyOf(u.EnvironmentID, u.ID), u)
}

// PutMembership writes a membership.
func (c *Change) PutMembership(m *Membership) {
	c.indexMembership(m)
	c.memberships.put(keyOf(m.EnvironmentID, m.UserID, m.OrganizationID), m)
}

// PutSession writes a session.
func (c *Change) PutSession(s *Session) {
	c.indexSession(s)
	c.sessions.put(keyOf(s.EnvironmentID, s.ID), s)
}

// PutSCIMUser writes a directory user.
func (c *Change) PutSCIMUser(u *SCIMUser) {
	index(&c.scimUsersOf, u.UserID, u)
	c.scimUsers.put(keyOf(u.DirectoryID, u.ID), u)
}

// PutSCIMGroup writes a directory's group.
func (c *Change) PutSCIMGroup(g *SCIMGroup) { c.scimGroups.put(keyOf(g.DirectoryID, g.ID), g) }

// DropSCIMUser deletes a directory user.
func (c *Change) DropSCIMUser(u *SCIMUser) {
	delete(c.scimUsers.byKey, keyOf(u.DirectoryID, u.ID))
	c.goneSCIMUsers = append(c.goneSCIMUsers, SCIMRef{DirectoryID: u.DirectoryID, ID: u.ID})
}

// DropSCIMGroup deletes a directory's group.
func (c *Change) DropSCIMGroup(g *SCIMGroup) {
	delete(c.scimGroups.byKey, keyOf(g.DirectoryID, g.ID))
	c.goneGroups = append(c.goneGroups, SCIMRef{DirectoryID: g.DirectoryID, ID: g.ID})
}

// Announce appends an event, and tells appended the number that it gets, before
// the rows are written.
func (c *Change) Announce(ev events.Event, appended func(seq int64)) {
	c.events = append(c.events, announcement{event: ev, appended: appended})
}

// Touched grows with everything that is to be written.
func (c *Change) Touched() int {
	return len(c.organizations.order) + len(c.users.order) + len(c.memberships.order) + len(c.sessions.order) + len(c.scimUsers.order) +
		len(c.scimGroups.order) + len(c.goneSCIMUsers) + len(c.goneGroups) + len(c.events) + len(c.superseded)
}

// Announced is how many events were announced so far.
func (c *Change) Announced() int { return len(c.events) }

// ChangePeople reads what is needed, lets decide draw the consequences, and
// writes them, in one transaction, which is repeated when it only collided with
// another one: decide may be called more than once. Webhooks are remembered in
// the same transaction; those that contradict what is recorded get their Err and
// nothing happens (the error is ErrContradicted). Sets Repeated of those that came
// before.
func (s *Store) ChangePeople(ctx context.Context, h *outbox.Handoff, inbound []*Acceptance, need []Need, decide func(*Change) error) error {
	return s.askingTx(ctx, func(a *asking) error {
		ctx := s.unwatched(ctx)
		h.Reset()
		for _, in := range inbound {
			in.Err = nil
		}
		if err := s.rememberWebhooks(ctx, a.tx, inbound); err != nil {
			return err
		}
		c := &Change{Now: s.now()}
		known := askKnownEvents(inbound)
		if err := c.read(ctx, a, need, known); err != nil {
			return err
		}
		if err := known.mark(inbound); err != nil {
			return err
		}
		if err := decide(c); err != nil {
			return err
		}
		return s.writeChange(ctx, a, h, c)
	})
}

// ErrContradicted says that webhooks got their Err and nothing was changed.
var ErrContradicted = errContradicted

// knownEvents are webhooks whose events are those of others.
type knownEvents struct {
	ids   []string
	found map[eventName][]knownEvent
}

type eventName struct{ id, environment string }

type knownEvent struct {
	eventName
	source, webhook string
	hash            []byte
}

// askKnownEvents looks for the events of webhooks that were not there before.
func askKnownEvents(inbound []*Acceptance) *knownEvents {
	k := &knownEvents{found: make(map[eventName][]knownEvent)}
	for _, a := range inbound {
		if !a.Repeated {
			k.ids = append(k.ids, a.Events[0].ID)
		}
	}
	return k
}

func (k *knownEvents) ask(a *asking) {
	if len(k.ids) == 0 {
		return
	}
	ask(a, "known events", `SELECT event_id, environment_id, source_id, webhook_id, body_hash FROM inbox WHERE event_id `+a.s.in("$1", "text"),
		func(e *knownEvent, scan func(...any) error) error {
			return scan(&e.id, &e.environment, &e.source, &e.webhook, &e.hash)
		}, func(e *knownEvent) { k.found[e.eventName] = append(k.found[e.eventName], *e) }, list(a.s.dialect, k.ids))
}

// mark marks the webhooks whose event came before under another webhook-id.
func (k *knownEvents) mark(inbound []*Acceptance) error {
	type name struct{ source, webhook string }
	together := make(map[name]bool)
	for _, a := range inbound {
		if !a.Repeated {
			together[name{a.SourceID, a.WebhookID}] = true
		}
	}
	first := make(map[eventName]*Acceptance)
	var contradicted error
	for _, a := range inbound {
		if a.Repeated {
			continue
		}
		n := eventName{a.Events[0].ID, a.Events[0].EnvironmentID}
		if f := first[n]; f != nil {
			if f.BodyHash != a.BodyHash {
				a.Err, contradicted = ErrEventConflict, errContradicted
			}
			a.Repeated, a.IDs = true, []string{n.id}
			continue
		}
		first[n] = a
		for _, e := range k.found[n] {
			if together[name{e.source, e.webhook}] {
				continue // this one, or one of the same batch
			}
			if string(e.hash) != string(a.BodyHash[:]) {
				a.Err, contradicted = ErrEventConflict, errContradicted
			}
			a.Repeated, a.IDs = true, []string{n.id}
		}
	}
	return contradicted
}

// read reads the rows that are needed, under locks: whoever changes a person, or
// what is theirs, holds the person's. known is asked when they are held.
func (c *Change) read(ctx context.Context, a *asking, needs []Need, known *knownEvents) error {
	byEnv := make(map[string]*reading)
	for i := range needs {
		n := &needs[i]
		r := byEnv[n.EnvironmentID]
		if r == nil {
			r = newReading(a, c, n.EnvironmentID)
			byEnv[n.EnvironmentID] = r
		}
		r.need(n)
	}
	all := make([]*reading, 0, len(byEnv))
	for _, env := range slices.Sorted(maps.Keys(byEnv)) {
		all = append(all, byEnv[env])
	}
	for _, step := range []func(*reading){(*reading).resolve, (*reading).rows} {
		for _, r := range all {
			step(r)
		}
		if err := a.send(ctx); err != nil {
			return err
		}
	}
	for _, r := range all {
		if r.moved() {
			return errMoved
		}
	}
	known.ask(a)
	for _, step := range []func(*reading){(*reading).resolveOthers, (*reading).others} {
		for _, r := range all {
			step(r)
		}
		if err := a.send(ctx); err != nil {
			return err
		}
	}
	return nil
}

type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

func (s set) add(key string) {
	if key != "" {
		s[key] = true
	}
}

// reading reads rows of one environment into a Change. What it finds out in one
// step it asks for in the next.
type reading struct {
	a   *asking
	c   *Change
	env string

	users, external, emails                      set // ids, and what they are to be found by
	otherUsers, otherExternal, otherEmails       set
	organizationIDs, organizationExternal, slugs set
	sessions                                     set
	directories, scimIDs, scimNames, scimOutside set
	groups                                       []SCIMRef
	ends                                         bool
	found                                        set // directory users that were there before the locks
}

func newReading(a *asking, c *Change, env string) *reading {
	r := &reading{a: a, c: c, env: env}
	for _, s := range []*set{
		&r.users, &r.external, &r.emails, &r.found, &r.otherUsers, &r.otherExternal, &r.otherEmails, &r.organizationIDs, &r.organizationExternal, &r.slugs,
		&r.sessions, &r.directories, &r.scimIDs, &r.scimNames, &r.scimOutside,
	} {
		*s = make(set)
	}
	return r
}

func (r *reading) need(n *Need) {
	for _, ref := range n.Users {
		r.users.add(ref.ID)
		r.external.add(ref.ExternalID)
		r.emails.add(emailKey(ref.Email))
	}
	r.ends = r.ends || n.Ends
	for _, ref := range n.Others {
		r.otherUsers.add(ref.ID)
		r.otherExternal.add(ref.ExternalID)
		r.otherEmails.add(emailKey(ref.Email))
	}
	for _, ref := range n.Organizations {
		r.organizationIDs.add(ref.ID)
		r.organizationExternal.add(ref.ExternalID)
		r.slugs.add(ref.Slug)
	}
	for _, id := range n.Sessions {
		r.sessions.add(id)
	}
	for _, ref := range n.SCIMUsers {
		r.directories.add(ref.DirectoryID)
		r.scimIDs.add(ref.ID)
		r.scimNames.add(strings.ToLower(ref.UserName))
		r.scimOutside.add(ref.ExternalID)
	}
	r.groups = append(r.groups, n.SCIMGroups...)
}

// in asks for rows of the environment with one of the keys, unless there is none.
func in[T any](r *reading, what string, keys set, before, column, after string, scan func(*T, func(...any) error) error, each func(*T)) {
	if len(keys) == 0 {
		return
	}
	ask(r.a, what, before+` WHERE environment_id = $1 AND `+column+` `+r.a.s.in("$2", "text")+after, scan, each, r.env, list(r.a.s.dialect, keys.sorted()))
}

func scanID(id *string, scan func(...any) error) error { return scan(id) }

// resolve finds the ids of what is named otherwise.
func (r *reading) resolve() {
	r.resolveUsers(r.users, r.external, r.emails)
	found := func(id *string) { r.organizationIDs.add(*id) }
	in(r, "organizations", r.organizationExternal, `SELECT id FROM organizations`, `external_id`, ` AND external_id <> '' AND state = 0`, scanID, found)
	in(r, "organizations", r.slugs, `SELECT id FROM organizations`, `slug`, ` AND slug <> '' AND state = 0`, scanID, found)
	in(r, "sessions", r.sessions, `SELECT user_id FROM sessions`, `id`, ``, scanID, func(id *string) { r.users.add(*id) })
	type row struct{ directory, id, user string }
	scimUsersIn(r, r.directories, r.scimIDs, r.scimNames, r.scimOutside, `directory_id, id, user_id`,
		func(u *row, scan func(...any) error) error { return scan(&u.directory, &u.id, &u.user) }, func(u *row) {
			r.users.add(u.user)
			r.found.add(keyOf(u.directory, u.id))
		})
}

func (r *reading) resolveUsers(ids, external, emails set) {
	found := func(id *string) { ids.add(*id) }
	in(r, "users", external, `SELECT id FROM users`, `external_id`, ` AND external_id <> '' AND deleted_at = 0`, scanID, found)
	in(r, "users", emails, `SELECT id FROM users`, `email_key`, ` AND email_key <> '' AND deleted_at = 0`, scanID, found)
	in(r, "users", emails, `SELECT id FROM users`, `email_key`, ` AND email_key <> '' AND deleted_at > 0`, scanID, found)
}

// rows reads what is to be changed, locked.
func (r *reading) rows() {
	r.lock()
	r.people(r.users)
	in(r, "sessions", r.sessions, `SELECT `+sessionColumns+` FROM sessions`, `id`, ``, sessionTable.scan, r.c.addSession)
	in(r, "organizations", r.organizationIDs, `SELECT `+organizationColumns+` FROM organizations`, `id`, ``, organizationTable.scan,
		func(o *Organization) { r.c.organizations.add(keyOf(r.env, o.ID), o) })
	if len(r.users) > 0 {
		ask(r.a, "directory users", `SELECT `+scimUserColumns+` FROM directory_users WHERE environment_id = $1 AND user_id `+r.a.s.in("$2", "text")+``,
			scimUserTable.scan, r.addSCIM, r.env, list(r.a.s.dialect, r.users.sorted()))
	}
	for _, ref := range r.groups {
		ask(r.a, "directory groups", `SELECT `+scimGroupColumns+` FROM directory_groups WHERE directory_id = $1 AND id = $2`+r.a.s.forUpdate("UPDATE"),
			scimGroupTable.scan, func(g *SCIMGroup) { r.c.scimGroups.add(keyOf(g.DirectoryID, g.ID), g) }, ref.DirectoryID, ref.ID)
	}
}

// lock makes this transaction the only one that changes these people, and theirs
// in these organizations, until it ends. SQLite has one writer anyway. Locks of
// PostgreSQL's own leave no trace in the rows, which locked rows would: as much
// to write as a change.
func (r *reading) lock() {
	if !r.a.s.postgres() {
		return
	}
	for _, l := range []struct {
		mode string
		kind string
		keys set
	}{{"", "user", r.users}, {r.organizationLock(), "organization", r.organizationIDs}} {
		if len(l.keys) == 0 {
			continue
		}
		keys := make([]int64, 0, len(l.keys))
		for key := range l.keys {
			h := fnv.New64a()
			_, _ = io.WriteString(h, keyOf(l.kind, r.env, key))
			keys = append(keys, int64(h.Sum64())) //nolint:gosec // any number is as good
		}
		slices.Sort(keys) // everybody in the same order
		r.a.ask(statementAsked{what: "lock " + l.kind, text: `SELECT count(pg_advisory_xact_lock` + l.mode + `(k)::text) FROM unnest($1::bigint[]) AS k`, args: []any{keys}})
	}
}

func (r *reading) organizationLock() string {
	if r.ends {
		return ""
	}
	return "_shared"
}

// people reads users and what is theirs.
func (r *reading) people(ids set) {
	in(r, "users", ids, `SELECT `+userColumns+` FROM users`, `id`, ``, userTable.scan, r.c.addUser)
	in(r, "memberships", ids, `SELECT `+membershipColumns+` FROM memberships`, `user_id`, ``, membershipTable.scan, r.c.addMembership)
	in(r, "sessions", ids, `SELECT `+sessionColumns+` FROM sessions`, `user_id`, ` AND status = 'active'`, sessionTable.scan, r.c.addSession)
}

// scimUsersIn asks for users of directories by any of their names. It may find
// users of one directory by what was asked of another; they do no harm.
func scimUsersIn[T any](r *reading, directories, ids, names, outside set, columns string, scan func(*T, func(...any) error) error, each func(*T)) {
	for _, q := range []struct {
		keys   set
		column string
		more   string
	}{{ids, "id", ""}, {names, "user_name_key", ` AND user_name_key <> ''`}, {outside, "external_id", ` AND external_id <> ''`}} {
		if len(q.keys) > 0 {
			ask(r.a, "directory users", `SELECT `+columns+` FROM directory_users WHERE directory_id `+r.a.s.in("$1", "text")+` AND `+q.column+` `+r.a.s.in("$2", "text")+
				q.more, scan, each, list(r.a.s.dialect, directories.sorted()), list(r.a.s.dialect, q.keys.sorted()))
		}
	}
}

func (r *reading) addSCIM(u *SCIMUser) {
	key := keyOf(u.DirectoryID, u.ID)
	if r.c.scimUsers.get(key) != nil {
		return
	}
	index(&r.c.scimUsersOf, u.UserID, u)
	r.c.scimUsers.add(key, u)
}

// errMoved says that somebody became the user of another account while it was
// read: what belongs to that one was not.
var errMoved = errors.New("a directory's user was given another account meanwhile")

func (r *reading) moved() bool {
	for key := range r.found {
		if r.c.scimUsers.get(key) == nil {
			return true
		}
	}
	return false
}

// resolveOthers finds who else may play a part: managers, and those who were named.
func (r *reading) resolveOthers() {
	r.resolveUsers(r.otherUsers, r.otherExternal, r.otherEmails)
	directories, managers := make(set), make(set)
	for _, u := range r.c.scimUsers.byKey {
		if u.ManagerID != "" {
			directories.add(u.DirectoryID)
			managers.add(u.ManagerID)
		}
	}
	scimUsersIn(r, directories, managers, nil, managers, scimUserColumns, scimUserTable.scan, func(u *SCIMUser) {
		r.addSCIM(u)
		r.otherUsers.add(u.UserID)
	})
}

// others reads them, without locks.
func (r *reading) others() {
	maps.DeleteFunc(r.otherUsers, func(id string, _ bool) bool { return r.users[id] })
	r.people(r.otherUsers)
}

// writeChange appends the events and writes the rows.
func (s *Store) writeChange(ctx context.Context, a *asking, h *outbox.Handoff, c *Change) error {
	if err := s.announce(ctx, a.tx, h, c); err != nil {
		return err
	}
	for _, ref := range c.goneSCIMUsers {
		a.ask(statementAsked{what: "delete directory user", text: `DELETE FROM directory_users WHERE directory_id = $1 AND id = $2`, args: []any{ref.DirectoryID, ref.ID}})
	}
	for _, ref := range c.goneGroups {
		a.ask(statementAsked{what: "delete directory group", text: `DELETE FROM directory_groups WHERE directory_id = $1 AND id = $2`, args: []any{ref.DirectoryID, ref.ID}})
	}
	write(a, organizationTable, &c.organizations)
	write(a, userTable, &c.users)
	write(a, membershipTable, &c.memberships)
	write(a, sessionTable, &c.sessions)
	write(a, scimUserTable, &c.scimUsers)
	write(a, scimGroupTable, &c.scimGroups)
	return a.send(ctx)
}

// write writes what changed of a table, the rows that were there first: a new one
// may take over what was unique of one that is deleted. A new row that is there
// meanwhile is a collision.
func write[T any](a *asking, t table[T], rows *rowSet[T]) {
	made, known := rows.changed()
	put(a, t, known, true)
	put(a, t, made, false)
}

// announce appends the events of a change and supersedes the removals of people
// who came back.
func (s *Store) announce(ctx context.Context, tx *sql.Tx, h *outbox.Handoff, c *Change) error {
	if len(c.events) == 0 {
		return nil
	}
	evs := make([]events.Event, len(c.events))
	for i, a := range c.events {
		evs[i] = a.event
	}
	var t outbox.Tx = preparedTx{s, tx}
	if s.postgres() {
		t = outbox.SQLArrays(tx)
	}
	records, err := outbox.AppendReserved(ctx, t, h, evs...)
	if err != nil {
		return err
	}
	var readds []int64
	for i, rec := range records {
		if c.events[i].appended != nil {
			c.events[i].appended(rec.Seq)
		}
		if rec.Status == outbox.Added && supersedes(evs[i].Type, evs[i].UserID()) {
			readds = append(readds, rec.Seq)
		}
	}
	if err := s.supersede(ctx, tx, readds); err != nil {
		return err
	}
	return s.supersedeRemovals(ctx, tx, c.superseded)
}

// Supersede ends what is open of a removal's deliveries.
func (c *Change) Supersede(removalSeq int64) { c.superseded = append(c.superseded, removalSeq) }

// put inserts rows, or updates them, in one statement where the database takes
// arrays.
func put[T any](a *asking, t table[T], rows []*T, known bool) {
	if len(rows) == 0 {
		return
	}
	text := t.insert(a.s.postgres())
	if known {
		text = t.update(a.s.postgres())
	}
	if a.s.postgres() {
		a.ask(statementAsked{what: "write " + t.name, text: text, args: columnArrays(t, rows)})
		return
	}
	for _, row := range rows {
		a.ask(statementAsked{what: "write " + t.name, text: text, args: t.args(row)})
	}
}

// insert is the statement for one new row, or for arrays of columns.
func (t table[T]) insert(arrays bool) string {
	from := `VALUES (` + t.parameters(false) + `)`
	if arrays {
		from = `SELECT * FROM unnest(` + t.parameters(true) + `)`
	}
	return `INSERT INTO ` + t.name + ` (` + t.list() + `) ` + from
}

// update is the statement for one row that is there, or for arrays of columns.
func (t table[T]) update(arrays bool) string {
	var set, where []string
	keys := strings.Split(t.key, ", ")
	for i, c := range t.columns {
		value := fmt.Sprintf("$%d", i+1)
		if arrays {
			value = "u." + c.name
		}
		if slices.Contains(keys, c.name) {
			where = append(where, "t."+c.name+" = "+value)
		} else {
			set = append(set, c.name+" = "+value)
		}
	}
	text := `UPDATE ` + t.name + ` AS t SET ` + strings.Join(set, ", ")
	if arrays {
		text += ` FROM unnest(` + t.parameters(true) + `) AS u(` + t.list() + `)`
	}
	return text + ` WHERE ` + strings.Join(where, " AND ")
}

func (t table[T]) parameters(arrays bool) string {
	values := make([]string, len(t.columns))
	for i, c := range t.columns {
		if values[i] = fmt.Sprintf("$%d", i+1); arrays {
			values[i] += "::" + c.kind + "[]"
		}
	}
	return strings.Join(values, ", ")
}

func columnArrays[T any](t table[T], rows []*T) []any {
	texts, numbers := make([][]string, len(t.columns)), make([][]int64, len(t.columns))
	for _, row := range rows {
		for i, v := range t.args(row) {
			switch v := v.(type) {
			case string:
				texts[i] = append(texts[i], v)
			case int64:
				numbers[i] = append(numbers[i], v)
			}
		}
	}
	arrays := make([]any, len(t.columns))
	for i := range arrays {
		if arrays[i] = texts[i]; texts[i] == nil {
			arrays[i] = numbers[i]
		}
	}
	return arrays
}

// MemberIDs returns the users of up to limit memberships of an organization that
// are not removed.
func (s *Store) MemberIDs(ctx context.Context, env, organizationID string, limit int) ([]string, error) {
	return query(ctx, s.read, "members", scanID,
		`SELECT user_id FROM memberships WHERE environment_id = $1 AND organization_id = $2 AND status > 0 ORDER BY user_id LIMIT $3`, env, organizationID, limit)
}

// DeletingOrganization returns one of the organizations that are being deleted.
func (s *Store) DeletingOrganization(ctx context.Context) (Organization, error) {
	return one(ctx, s.read, "organization", organizationTable.scan, `SELECT `+organizationTable.list()+` FROM organizations WHERE state = 1 ORDER BY id LIMIT 1`)
}
