package store

import (
	"context"
	"database/sql"
	"fmt"
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
	Sessions      []string // ids; their users too
	SCIMUsers     []SCIMRef
	SCIMGroups    []SCIMRef
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
	membershipsOf map[string][]*Membership
	sessionsOf    map[string][]*Session

	events     []announcement
	superseded []int64 // numbers of removals
}

// indexUser makes a user found by email; it is called before the row is kept.
func (c *Change) indexUser(u *User) {
	if c.users.get(keyOf(u.EnvironmentID, u.ID)) != nil || u.Email == "" {
		return
	}
	if c.byEmail == nil {
		c.byEmail = make(map[string][]*User)
	}
	key := keyOf(u.EnvironmentID, emailKey(u.Email))
	c.byEmail[key] = append(c.byEmail[key], u)
}

func (c *Change) indexMembership(m *Membership) {
	if c.memberships.get(keyOf(m.EnvironmentID, m.UserID, m.OrganizationID)) != nil {
		return
	}
	if c.membershipsOf == nil {
		c.membershipsOf = make(map[string][]*Membership)
	}
	of := keyOf(m.EnvironmentID, m.UserID)
	c.membershipsOf[of] = append(c.membershipsOf[of], m)
}

func (c *Change) indexSession(s *Session) {
	if c.sessions.get(keyOf(s.EnvironmentID, s.ID)) != nil {
		return
	}
	if c.sessionsOf == nil {
		c.sessionsOf = make(map[string][]*Session)
	}
	of := keyOf(s.EnvironmentID, s.UserID)
	c.sessionsOf[of] = append(c.sessionsOf[of], s)
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
		for _, u := range c.users.byKey {
			if u.EnvironmentID == env && u.ExternalID == ref.ExternalID && u.DeletedAt.IsZero() {
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
	for _, s := range c.scimUsers.byKey {
		if s.UserID == u.ID {
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
func (c *Change) PutSCIMUser(u *SCIMUser) { c.scimUsers.put(keyOf(u.DirectoryID, u.ID), u) }

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
	return s.Tx(ctx, func(tx *sql.Tx) error {
		ctx := s.unwatched(ctx)
		h.Reset()
		for _, a := range inbound {
			a.Err = nil
		}
		if err := s.rememberWebhooks(ctx, tx, inbound); err != nil {
			return err
		}
		c := &Change{Now: s.now()}
		if err := s.readNeeded(ctx, tx, c, need); err != nil {
			return err
		}
		if err := s.knownEvents(ctx, tx, inbound); err != nil {
			return err
		}
		if err := decide(c); err != nil {
			return err
		}
		return s.writeChange(ctx, tx, h, c)
	})
}

// ErrContradicted says that webhooks got their Err and nothing was changed.
var ErrContradicted = errContradicted

// knownEvents marks the webhooks whose event came before under another
// webhook-id.
func (s *Store) knownEvents(ctx context.Context, tx *sql.Tx, inbound []*Acceptance) error {
	var ids []string
	for _, a := range inbound {
		if !a.Repeated {
			ids = append(ids, a.Events[0].ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	type known struct {
		id, environment, source, webhook string
		hash                             []byte
	}
	rows, err := query(ctx, tx, "known events", func(k *known, scan func(...any) error) error {
		return scan(&k.id, &k.environment, &k.source, &k.webhook, &k.hash)
	}, `SELECT event_id, environment_id, source_id, webhook_id, body_hash FROM inbox WHERE event_id `+s.in("$1", "text"), list(s.dialect, ids))
	if err != nil {
		return err
	}
	type key struct{ id, environment string }
	others := make(map[key][]known)
	for _, k := range rows {
		others[key{k.id, k.environment}] = append(others[key{k.id, k.environment}], k)
	}
	first := make(map[key]*Acceptance)
	var contradicted error
	for _, a := range inbound {
		if a.Repeated {
			continue
		}
		k := key{a.Events[0].ID, a.Events[0].EnvironmentID}
		if f := first[k]; f != nil {
			if f.BodyHash != a.BodyHash {
				a.Err, contradicted = ErrEventConflict, errContradicted
			}
			a.Repeated, a.IDs = true, []string{k.id}
			continue
		}
		first[k] = a
		for _, o := range others[k] {
			if o.source == a.SourceID && o.webhook == a.WebhookID {
				continue
			}
			if slices.ContainsFunc(inbound, func(b *Acceptance) bool { return b.SourceID == o.source && b.WebhookID == o.webhook && !b.Repeated }) {
				continue // of this batch
			}
			if string(o.hash) != string(a.BodyHash[:]) {
				a.Err, contradicted = ErrEventConflict, errContradicted
			}
			a.Repeated, a.IDs = true, []string{k.id}
		}
	}
	return contradicted
}

// readNeeded reads rows of all environments that are needed. Locks are taken in
// one order: users, organizations, directory users.
func (s *Store) readNeeded(ctx context.Context, tx *sql.Tx, c *Change, needs []Need) error {
	byEnv := make(map[string]*Need)
	for i := range needs {
		n := &needs[i]
		all := byEnv[n.EnvironmentID]
		if all == nil {
			byEnv[n.EnvironmentID] = &Need{
				EnvironmentID: n.EnvironmentID, Users: slices.Clone(n.Users), Others: slices.Clone(n.Others), Organizations: slices.Clone(n.Organizations),
				Sessions: slices.Clone(n.Sessions), SCIMUsers: slices.Clone(n.SCIMUsers), SCIMGroups: slices.Clone(n.SCIMGroups),
			}
			continue
		}
		all.Users, all.Others = append(all.Users, n.Users...), append(all.Others, n.Others...)
		all.Organizations = append(all.Organizations, n.Organizations...)
		all.Sessions = append(all.Sessions, n.Sessions...)
		all.SCIMUsers, all.SCIMGroups = append(all.SCIMUsers, n.SCIMUsers...), append(all.SCIMGroups, n.SCIMGroups...)
	}
	for _, env := range slices.Sorted(maps.Keys(byEnv)) {
		r := reading{s: s, ctx: ctx, tx: tx, c: c, env: env}
		if err := r.read(byEnv[env]); err != nil {
			return err
		}
	}
	return nil
}

// reading reads rows of one environment into a Change.
type reading struct {
	s   *Store
	ctx context.Context //nolint:containedctx // of one transaction
	tx  *sql.Tx
	c   *Change
	env string
}

func (r *reading) read(n *Need) error {
	users, others := make(set), make(set)
	if err := r.sessionUsers(n.Sessions, users); err != nil {
		return err
	}
	if err := r.scimRows(n.SCIMUsers, users, ""); err != nil {
		return err
	}
	if err := r.resolve(n.Users, users); err != nil {
		return err
	}
	if err := r.people(users, r.s.forUpdate("UPDATE")); err != nil {
		return err
	}
	if err := r.organizations(n.Organizations); err != nil {
		return err
	}
	lock := r.s.forUpdate("UPDATE")
	if err := r.scimRows(n.SCIMUsers, nil, lock); err != nil {
		return err
	}
	if err := r.scimOf(users, lock); err != nil {
		return err
	}
	if err := r.groups(n.SCIMGroups); err != nil {
		return err
	}
	if err := r.managers(others); err != nil {
		return err
	}
	if err := r.resolve(n.Others, others); err != nil {
		return err
	}
	maps.DeleteFunc(others, func(id string, _ bool) bool { return users[id] })
	return r.people(others, "")
}

type set map[string]bool

func (s set) sorted() []string { return slices.Sorted(maps.Keys(s)) }

// some runs a query over a list, unless that is empty.
func some[T any](r *reading, what string, keys []string, text string, scan func(*T, func(...any) error) error) ([]T, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	return query(r.ctx, r.tx, what, scan, text, r.env, list(r.s.dialect, keys))
}

// keyed is the condition that a row of the environment, or the directory, $1 has
// one of the keys $2.
func (r *reading) keyed(of, key string) string {
	return of + ` = $1 AND ` + key + ` ` + r.s.in("$2", "text")
}

func scanID(id *string, scan func(...any) error) error { return scan(id) }

// resolve finds the ids of users.
func (r *reading) resolve(refs []UserRef, ids set) error {
	external, emails := make(set), make(set)
	for _, ref := range refs {
		switch {
		case ref.ID != "":
			ids[ref.ID] = true
		case ref.ExternalID != "":
			external[ref.ExternalID] = true
		case ref.Email != "":
			emails[emailKey(ref.Email)] = true
		}
	}
	for _, q := range []struct {
		keys set
		cond string
	}{
		{external, r.keyed("environment_id", "external_id") + ` AND external_id <> '' AND deleted_at = 0`},
		{emails, r.keyed("environment_id", "email_key") + ` AND email_key <> '' AND deleted_at = 0`},
		{emails, r.keyed("environment_id", "email_key") + ` AND email_key <> '' AND deleted_at > 0`},
	} {
		found, err := some(r, "users", q.keys.sorted(), `SELECT id FROM users WHERE `+q.cond, scanID)
		if err != nil {
			return err
		}
		for _, id := range found {
			ids[id] = true
		}
	}
	return nil
}

// people reads users and what is theirs.
func (r *reading) people(ids set, lock string) error {
	keys := ids.sorted()
	users, err := some(r, "users", keys, `SELECT `+userTable.list()+` FROM users WHERE `+r.keyed("environment_id", "id")+` ORDER BY id`+lock, userTable.scan)
	if err != nil {
		return err
	}
	for i := range users {
		r.c.addUser(&users[i])
	}
	memberships, err := some(r, "memberships", keys, `SELECT `+membershipTable.list()+` FROM memberships WHERE `+r.keyed("environment_id", "user_id"), membershipTable.scan)
	if err != nil {
		return err
	}
	for i := range memberships {
		r.c.addMembership(&memberships[i])
	}
	sessions, err := some(r, "sessions", keys, `SELECT `+sessionTable.list()+` FROM sessions WHERE `+r.keyed("environment_id", "user_id")+` AND status = 'active'`, sessionTable.scan)
	if err != nil {
		return err
	}
	for i := range sessions {
		r.c.addSession(&sessions[i])
	}
	return nil
}

// sessionUsers finds whose sessions they are. What ended stays as it is read here.
func (r *reading) sessionUsers(ids []string, users set) error {
	sessions, err := some(r, "sessions", ids, `SELECT `+sessionTable.list()+` FROM sessions WHERE `+r.keyed("environment_id", "id"), sessionTable.scan)
	for i := range sessions {
		users[sessions[i].UserID] = true
		r.c.addSession(&sessions[i])
	}
	return err
}

func (r *reading) organizations(refs []OrganizationRef) error {
	ids, external, slugs := make(set), make(set), make(set)
	for _, ref := range refs {
		switch {
		case ref.ID != "":
			ids[ref.ID] = true
		case ref.ExternalID != "":
			external[ref.ExternalID] = true
		case ref.Slug != "":
			slugs[ref.Slug] = true
		}
	}
	for column, keys := range map[string]set{"external_id": external, "slug": slugs} {
		found, err := some(r, "organizations", keys.sorted(),
			`SELECT id FROM organizations WHERE `+r.keyed("environment_id", column)+` AND `+column+` <> '' AND state = 0`, scanID)
		if err != nil {
			return err
		}
		for _, id := range found {
			ids[id] = true
		}
	}
	rows, err := some(r, "organizations", ids.sorted(),
		`SELECT `+organizationTable.list()+` FROM organizations WHERE `+r.keyed("environment_id", "id")+` ORDER BY id`+r.s.forUpdate("SHARE"), organizationTable.scan)
	for i := range rows {
		r.c.organizations.add(keyOf(r.env, rows[i].ID), &rows[i])
	}
	return err
}

// scimRows reads directory users, and adds whose they are to users.
func (r *reading) scimRows(refs []SCIMRef, users set, lock string) error {
	byDirectory := make(map[string][]SCIMRef)
	for _, ref := range refs {
		byDirectory[ref.DirectoryID] = append(byDirectory[ref.DirectoryID], ref)
	}
	for _, directory := range slices.Sorted(maps.Keys(byDirectory)) {
		ids, names, external := make(set), make(set), make(set)
		for _, ref := range byDirectory[directory] {
			switch {
			case ref.ID != "":
				ids[ref.ID] = true
			case ref.UserName != "":
				names[strings.ToLower(ref.UserName)] = true
			case ref.ExternalID != "":
				external[ref.ExternalID] = true
			}
		}
		for _, q := range []struct {
			keys set
			cond string
		}{
			{ids, r.keyed("directory_id", "id")},
			{names, r.keyed("directory_id", "user_name_key") + ` AND user_name_key <> ''`},
			{external, r.keyed("directory_id", "external_id") + ` AND external_id <> ''`},
		} {
			if len(q.keys) == 0 {
				continue
			}
			rows, err := query(r.ctx, r.tx, "directory users", scimUserTable.scan,
				`SELECT `+scimUserTable.list()+` FROM directory_users WHERE `+q.cond+` ORDER BY id`+lock, directory, list(r.s.dialect, q.keys.sorted()))
			if err != nil {
				return err
			}
			for i := range rows {
				r.addSCIM(&rows[i], users)
			}
		}
	}
	return nil
}

func (r *reading) addSCIM(u *SCIMUser, users set) {
	r.c.scimUsers.add(keyOf(u.DirectoryID, u.ID), u)
	if users != nil && u.UserID != "" {
		users[u.UserID] = true
	}
}

// scimOf reads the directory users of users.
func (r *reading) scimOf(users set, lock string) error {
	if len(users) == 0 {
		return nil
	}
	rows, err := query(r.ctx, r.tx, "directory users", scimUserTable.scan,
		`SELECT `+scimUserTable.list()+` FROM directory_users WHERE user_id `+r.s.in("$1", "text")+` ORDER BY directory_id, id`+lock, list(r.s.dialect, users.sorted()))
	for i := range rows {
		r.addSCIM(&rows[i], nil)
	}
	return err
}

// managers adds the users that are managers of the directory users.
func (r *reading) managers(users set) error {
	byDirectory := make(map[string]set)
	for _, u := range r.c.scimUsers.byKey {
		if u.ManagerID == "" {
			continue
		}
		if byDirectory[u.DirectoryID] == nil {
			byDirectory[u.DirectoryID] = make(set)
		}
		byDirectory[u.DirectoryID][u.ManagerID] = true
	}
	for _, directory := range slices.Sorted(maps.Keys(byDirectory)) {
		refs := make([]SCIMRef, 0, 2*len(byDirectory[directory]))
		for _, id := range byDirectory[directory].sorted() {
			refs = append(refs, SCIMRef{DirectoryID: directory, ID: id}, SCIMRef{DirectoryID: directory, ExternalID: id})
		}
		if err := r.scimRows(refs, users, ""); err != nil {
			return err
		}
	}
	return nil
}

func (r *reading) groups(refs []SCIMRef) error {
	for _, ref := range refs {
		rows, err := query(r.ctx, r.tx, "directory groups", scimGroupTable.scan,
			`SELECT `+scimGroupTable.list()+` FROM directory_groups WHERE directory_id = $1 AND id = $2`+r.s.forUpdate("UPDATE"), ref.DirectoryID, ref.ID)
		if err != nil {
			return err
		}
		for i := range rows {
			r.c.scimGroups.add(keyOf(rows[i].DirectoryID, rows[i].ID), &rows[i])
		}
	}
	return nil
}

// writeChange appends the events and writes the rows.
func (s *Store) writeChange(ctx context.Context, tx *sql.Tx, h *outbox.Handoff, c *Change) error {
	if err := s.announce(ctx, tx, h, c); err != nil {
		return err
	}
	for _, gone := range []struct {
		table string
		refs  []SCIMRef
	}{{"directory_users", c.goneSCIMUsers}, {"directory_groups", c.goneGroups}} {
		for _, ref := range gone.refs {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+gone.table+` WHERE directory_id = $1 AND id = $2`, ref.DirectoryID, ref.ID); err != nil {
				return fmt.Errorf("delete from %s: %w", gone.table, err)
			}
		}
	}
	if err := write(ctx, s, tx, organizationTable, &c.organizations); err != nil {
		return err
	}
	if err := write(ctx, s, tx, userTable, &c.users); err != nil {
		return err
	}
	if err := write(ctx, s, tx, membershipTable, &c.memberships); err != nil {
		return err
	}
	if err := write(ctx, s, tx, sessionTable, &c.sessions); err != nil {
		return err
	}
	if err := write(ctx, s, tx, scimUserTable, &c.scimUsers); err != nil {
		return err
	}
	return write(ctx, s, tx, scimGroupTable, &c.scimGroups)
}

// write writes what changed of a table, the rows that were there first: a new one
// may take over what was unique of one that is deleted. A new row that is there
// meanwhile is a collision.
func write[T any](ctx context.Context, s *Store, tx *sql.Tx, t table[T], rows *rowSet[T]) error {
	made, known := rows.changed()
	if err := put(ctx, s, tx, t, known, true); err != nil {
		return err
	}
	return put(ctx, s, tx, t, made, false)
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

// put inserts rows, or replaces them, in one statement where the database takes
// arrays.
func put[T any](ctx context.Context, s *Store, tx *sql.Tx, t table[T], rows []*T, replace bool) error {
	if len(rows) == 0 {
		return nil
	}
	text := t.insert(s.postgres(), replace)
	var err error
	if s.postgres() {
		_, err = tx.ExecContext(ctx, text, columnArrays(t, rows)...)
	} else {
		exec := preparedTx{s, tx}.Exec
		for _, row := range rows {
			if err = exec(ctx, text, t.args(row)...); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", t.name, err)
	}
	return nil
}

// insert is the statement for one row, or for arrays of columns.
func (t table[T]) insert(arrays, replace bool) string {
	values, updates := make([]string, len(t.columns)), make([]string, 0, len(t.columns))
	keys := strings.Split(t.key, ", ")
	for i, c := range t.columns {
		values[i] = fmt.Sprintf("$%d", i+1)
		if arrays {
			values[i] += "::" + c.kind + "[]"
		}
		if !slices.Contains(keys, c.name) {
			updates = append(updates, c.name+" = EXCLUDED."+c.name)
		}
	}
	from := `VALUES (` + strings.Join(values, ", ") + `)`
	if arrays {
		from = `SELECT * FROM unnest(` + strings.Join(values, ", ") + `)`
	}
	text := `INSERT INTO ` + t.name + ` (` + t.list() + `) ` + from
	if replace {
		text += ` ON CONFLICT (` + t.key + `) DO UPDATE SET ` + strings.Join(updates, ", ")
	}
	return text
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
