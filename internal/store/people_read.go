package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Span asks for a part of a list that is ordered by a key: what lies behind a
// key, or before it.
type Span struct {
	Key  string // "" for the first part
	Back bool   // before Key, and nearest to it
	With bool   // Key itself too
	Size int
}

// A Part is what a Span asked for, in the order of the keys.
type Part[T any] struct {
	Rows         []T
	Before, More bool  // whether there are rows before it, and behind it
	Total        int64 // of the whole list
}

// keyed is a list of rows in the order of a key.
type keyed struct {
	from, key string
	columns   string // what to read of them
	where     where
}

// page is the SQL of a span's rows, and of one more, and of the facts that a Part
// holds beside them. The last of args is for the page alone.
func (l *keyed) page(sp Span) (page, facts string, args []any) {
	op, opposite, order := ">", "<=", ""
	if sp.Back {
		op, opposite, order = "<", ">=", " DESC"
	}
	if sp.With {
		op, opposite = op+"=", opposite[:1]
	}
	w, passed := l.where.with(), "0"
	if sp.Key != "" {
		w.and(l.key+" "+op+" ?", sp.Key)
		other := l.where.with()
		other.and(l.key+" "+opposite+" ?", sp.Key)
		// The order is for PostgreSQL, which else may look for any such row from the
		// table's start on.
		passed = fmt.Sprintf(`(SELECT count(*) FROM (SELECT 1 FROM %s%s ORDER BY %s LIMIT 1) x)`, l.from, other, l.key)
	}
	args = append(w.args, sp.Size+1)
	page = fmt.Sprintf(`SELECT %s FROM %s%s ORDER BY %s%s LIMIT $%d`, l.columns, l.from, w, l.key, order, len(args))
	facts = fmt.Sprintf(`(SELECT count(*) FROM %s%s), %s`, l.from, &l.where, passed)
	return page, facts, args
}

// shape is how values are read of a page's rows, p: rest is what is joined with
// them, and the order.
type shape[T any] struct {
	what, columns, rest string
	scan                func(*T, func(...any) error) error
	merge               func([]T) []T // nil: one row is one value
}

// readPart reads a part of a list in one query, or in two when it is empty.
func readPart[T any](ctx context.Context, q querier, l keyed, sp Span, sh shape[T]) (Part[T], error) {
	var part Part[T]
	var passed int
	page, facts, args := l.page(sp)
	rows, err := query(ctx, q, sh.what, func(v *T, scan func(...any) error) error {
		return sh.scan(v, func(dest ...any) error { return scan(append(dest, &part.Total, &passed)...) })
	}, `SELECT `+sh.columns+`, `+facts+` FROM (`+page+`) p `+sh.rest, args...)
	if err != nil {
		return Part[T]{}, err
	}
	if len(rows) == 0 {
		if err := q.QueryRowContext(ctx, `SELECT `+facts, args[:len(args)-1]...).Scan(&part.Total, &passed); err != nil {
			return Part[T]{}, fmt.Errorf("count %s: %w", sh.what, err)
		}
	}
	if sh.merge != nil {
		rows = sh.merge(rows)
	}
	more := len(rows) > sp.Size
	switch {
	case more && sp.Back:
		rows = rows[1:]
	case more:
		rows = rows[:sp.Size]
	}
	part.Rows, part.Before, part.More = rows, passed > 0, more
	if sp.Back {
		part.Before, part.More = more, passed > 0
	}
	return part, nil
}

// known tells whether texts can be in the database at all: PostgreSQL refuses to
// look for others.
func known(texts ...string) bool {
	for _, text := range texts {
		if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
			return false
		}
	}
	return true
}

// Organization returns an organization that is neither deleted nor about to be.
func (s *Store) Organization(ctx context.Context, env, id string) (Organization, error) {
	return s.organization(ctx, s.read, `id = $2`, env, id)
}

// OrganizationWithExternalID is Organization by the app's own id for it.
func (s *Store) OrganizationWithExternalID(ctx context.Context, env, externalID string) (Organization, error) {
	return s.organization(ctx, s.read, `external_id = $2 AND external_id <> ''`, env, externalID)
}

func (s *Store) organization(ctx context.Context, q querier, cond, env, id string) (Organization, error) {
	if !known(env, id) {
		return Organization{}, ErrNotFound
	}
	return one(ctx, q, "organization", scanOrganization,
		`SELECT `+organizationColumns+` FROM organizations WHERE environment_id = $1 AND state = 0 AND `+cond, env, id)
}

// Organizations lists an environment's organizations by id. An external id, when
// it is not empty, leaves the one that has it.
func (s *Store) Organizations(ctx context.Context, env, externalID string, sp Span) (Part[Organization], error) {
	return s.organizations(ctx, s.read, env, externalID, sp)
}

func (s *Store) organizations(ctx context.Context, q querier, env, externalID string, sp Span) (Part[Organization], error) {
	if !known(env, externalID, sp.Key) {
		return Part[Organization]{}, nil
	}
	l := keyed{from: "organizations", key: "id", columns: organizationColumns}
	l.where.and(`environment_id = ? AND state = 0`, env)
	if externalID != "" {
		l.where.and(`external_id = ? AND external_id <> ''`, externalID)
	}
	return readPart(ctx, q, l, sp, shape[Organization]{
		what: "organizations", columns: organizationTable.listOf("p", false), scan: scanOrganization, rest: `ORDER BY p.id`,
	})
}

// usersJoined is users with the memberships that are shown. One of an
// organization that is being deleted lacks the organization.
const usersJoined = `users u
  LEFT JOIN memberships m ON m.environment_id = u.environment_id AND m.user_id = u.id AND m.status > 0
  LEFT JOIN organizations o ON o.environment_id = m.environment_id AND o.id = m.organization_id AND o.state = 0`

// usersShape has the ids of users for rows. CROSS JOIN makes SQLite begin with
// them; see deliveriesOfEvents.
var usersShape = shape[User]{
	what:    "users",
	columns: userTable.listOf("u", false) + `, ` + membershipTable.listOf("m", true) + `, coalesce(o.id, ''), coalesce(o.display_name, ''), coalesce(o.external_id, '')`,
	rest:    `CROSS JOIN ` + usersJoined + ` WHERE u.environment_id = $1 AND u.id = p.id AND u.deleted_at = 0 ORDER BY u.id, m.organization_id`,
	scan:    scanUserMembership,
	merge:   mergeUsers,
}

// scanUserMembership reads a user with one membership, or none.
func scanUserMembership(u *User, scan func(...any) error) error {
	var m Membership
	var organization string
	err := scanUser(u, func(user ...any) error {
		return scanMembership(&m, func(membership ...any) error {
			return scan(append(append(user, membership...), &organization, &m.OrganizationName, &m.OrganizationExternalID)...)
		})
	})
	if err == nil && organization != "" {
		u.Memberships = []Membership{m}
	}
	return err
}

// mergeUsers puts the memberships of each user together.
func mergeUsers(rows []User) []User {
	users := rows[:0]
	for _, u := range rows {
		if last := len(users) - 1; last >= 0 && users[last].ID == u.ID {
			users[last].Memberships = append(users[last].Memberships, u.Memberships...)
			continue
		}
		users = append(users, u)
	}
	return users
}

// User returns an account that is not deleted, with its memberships.
func (s *Store) User(ctx context.Context, env, id string) (User, error) {
	return s.user(ctx, s.read, `u.id = $2`, env, id)
}

// UserWithExternalID is User by the app's own id for it.
func (s *Store) UserWithExternalID(ctx context.Context, env, externalID string) (User, error) {
	return s.user(ctx, s.read, `u.external_id = $2 AND u.external_id <> ''`, env, externalID)
}

func (s *Store) user(ctx context.Context, q querier, cond, env, id string) (User, error) {
	if !known(env, id) {
		return User{}, ErrNotFound
	}
	rows, err := query(ctx, q, "user", scanUserMembership, `SELECT `+usersShape.columns+` FROM `+usersJoined+`
WHERE u.environment_id = $1 AND u.deleted_at = 0 AND `+cond+` ORDER BY m.organization_id`, env, id)
	if err != nil {
		return User{}, err
	}
	if len(rows) == 0 {
		return User{}, ErrNotFound
	}
	return mergeUsers(rows)[0], nil
}

// Users lists an environment's accounts by id, with their memberships.
func (s *Store) Users(ctx context.Context, env string, sp Span) (Part[User], error) {
	return s.users(ctx, s.read, env, sp)
}

func (s *Store) users(ctx context.Context, q querier, env string, sp Span) (Part[User], error) {
	if !known(env, sp.Key) {
		return Part[User]{}, nil
	}
	l := keyed{from: "users", key: "id", columns: "id"}
	l.where.and(`environment_id = ? AND deleted_at = 0`, env)
	return readPart(ctx, q, l, sp, usersShape)
}

// Members lists the people of an organization by id, with all their memberships.
func (s *Store) Members(ctx context.Context, env, organizationID string, sp Span) (Part[User], error) {
	return s.members(ctx, s.read, env, organizationID, sp)
}

func (s *Store) members(ctx context.Context, q querier, env, organizationID string, sp Span) (Part[User], error) {
	if !known(env, organizationID, sp.Key) {
		return Part[User]{}, ErrNotFound
	}
	l := keyed{from: "memberships", key: "user_id", columns: "user_id AS id"}
	l.where.and(`environment_id = ? AND organization_id = ? AND status > 0`, env, organizationID)
	l.where.and(`EXISTS (SELECT 1 FROM organizations WHERE environment_id = $1 AND id = $2 AND state = 0)`)
	part, err := readPart(ctx, q, l, sp, usersShape)
	if err == nil && part.Total == 0 {
		_, err = s.organization(ctx, q, `id = $2`, env, organizationID)
	}
	return part, err
}

// At is the session as it stands at a time: its row may not say yet that it
// expired.
func (s Session) At(now time.Time) Session {
	if s.Status != SessionActive {
		return s
	}
	for _, end := range []time.Time{s.IdleExpiresAt, s.AbsoluteExpiresAt} {
		if !end.IsZero() && !end.After(now) && (s.Status == SessionActive || end.Before(s.ExpiredAt)) {
			s.Status, s.ExpiredAt = SessionExpired, end
		}
	}
	return s
}

// sessionStatus is the status that Session.At gives; both its parameters are the
// time.
const sessionStatus = `CASE WHEN status = 'active' AND (idle_expires_at BETWEEN 1 AND ? OR absolute_expires_at BETWEEN 1 AND ?)
  THEN 'expired' ELSE status END`

// Session returns a session as it stands now.
func (s *Store) Session(ctx context.Context, env, id string) (Session, error) {
	if !known(env, id) {
		return Session{}, ErrNotFound
	}
	found, err := one(ctx, s.read, "session", scanSession, `SELECT `+sessionColumns+` FROM sessions WHERE environment_id = $1 AND id = $2`, env, id)
	return found.At(s.now()), err
}

// A SessionFilter says which sessions; what is empty does not restrict.
type SessionFilter struct {
	Statuses      []SessionStatus // as they stand now
	Since, Before time.Time       // created at or after, and before
}

// UserSessions lists a person's sessions by id, as they stand now. It is
// ErrNotFound when there is neither the account nor a session of it.
func (s *Store) UserSessions(ctx context.Context, env, userID string, f SessionFilter, sp Span) (Part[Session], error) {
	return s.userSessions(ctx, s.read, env, userID, f, sp)
}

func (s *Store) userSessions(ctx context.Context, q querier, env, userID string, f SessionFilter, sp Span) (Part[Session], error) {
	if !known(env, userID, sp.Key) {
		return Part[Session]{}, ErrNotFound
	}
	now := s.now()
	l := keyed{from: "sessions", key: "id", columns: sessionColumns}
	l.where.and(`environment_id = ? AND user_id = ?`, env, userID)
	if len(f.Statuses) > 0 {
		statuses := slices.DeleteFunc(slices.Clone(f.Statuses), func(st SessionStatus) bool { return !known(string(st)) })
		l.where.and(sessionStatus+` `+s.in("?", "text"), now.UnixMicro(), now.UnixMicro(), list(s.dialect, statuses))
	}
	if !f.Since.IsZero() {
		l.where.and(`created_at >= ?`, f.Since.UnixMicro())
	}
	if !f.Before.IsZero() {
		l.where.and(`created_at < ?`, f.Before.UnixMicro())
	}
	part, err := readPart(ctx, q, l, sp, shape[Session]{
		what: "sessions", columns: sessionTable.listOf("p", false), scan: scanSession, rest: `ORDER BY p.id`,
	})
	if err != nil {
		return Part[Session]{}, err
	}
	for i := range part.Rows {
		part.Rows[i] = part.Rows[i].At(now)
	}
	if part.Total > 0 {
		return part, nil
	}
	var somebody bool
	if err := q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE environment_id = $1 AND id = $2 AND deleted_at = 0)
  OR EXISTS (SELECT 1 FROM sessions WHERE environment_id = $1 AND user_id = $2)`, env, userID).Scan(&somebody); err != nil {
		return Part[Session]{}, fmt.Errorf("read user: %w", err)
	}
	if !somebody {
		return Part[Session]{}, ErrNotFound
	}
	return part, nil
}

// readRange reads limit rows of a table, in the order of their ids, after as many
// as skip says, and counts all.
func readRange[T any](ctx context.Context, q querier, t table[T], w *where, skip, limit int) (rows []T, total int, err error) {
	count := `(SELECT count(*) FROM ` + t.name + w.String() + `)`
	n := len(w.args)
	rows, err = query(ctx, q, t.name, func(v *T, scan func(...any) error) error {
		return t.scan(v, func(dest ...any) error { return scan(append(dest, &total)...) })
	}, fmt.Sprintf(`SELECT %s, %s FROM %s%s ORDER BY id LIMIT $%d OFFSET $%d`, t.list(), count, t.name, w, n+1, n+2),
		append(w.args[:n:n], limit, skip)...)
	if err == nil && len(rows) == 0 {
		if err = q.QueryRowContext(ctx, `SELECT `+count, w.args...).Scan(&total); err != nil {
			err = fmt.Errorf("count %s: %w", t.name, err)
		}
	}
	return rows, total, err
}

// SCIMUser returns a user of a directory.
func (s *Store) SCIMUser(ctx context.Context, directoryID, id string) (SCIMUser, error) {
	if !known(directoryID, id) {
		return SCIMUser{}, ErrNotFound
	}
	return one(ctx, s.read, "directory user", scanSCIMUser,
		`SELECT `+scimUserColumns+` FROM directory_users WHERE directory_id = $1 AND id = $2`, directoryID, id)
}

// A SCIMUserFilter says which users of a directory are wanted: all conditions
// hold. nil asks nothing.
type SCIMUserFilter struct {
	ID, UserName, ExternalID, Email *string // UserName and Email in any letter case
	Active                          *bool
}

// SCIMUsers lists users of a directory by id and tells how many there are.
func (s *Store) SCIMUsers(ctx context.Context, directoryID string, f SCIMUserFilter, skip, limit int) ([]SCIMUser, int, error) {
	return s.scimUsers(ctx, s.read, directoryID, f, skip, limit)
}

func (s *Store) scimUsers(ctx context.Context, q querier, directoryID string, f SCIMUserFilter, skip, limit int) ([]SCIMUser, int, error) {
	w := asked{possible: true}
	w.and(`directory_id = ?`, directoryID)
	w.equal(`id = ?`, f.ID)
	w.equal(`user_name_key = ? AND user_name_key <> ''`, lower(f.UserName))
	w.equal(`external_id = ? AND external_id <> ''`, f.ExternalID)
	w.equal(`email_key = ?`, lower(f.Email))
	if f.Active != nil {
		w.and(`active = ?`, bit(*f.Active))
	}
	if !w.possible {
		return nil, 0, nil
	}
	return readRange(ctx, q, scimUserTable, &w.where, skip, limit)
}

// SCIMGroup returns a group of a directory.
func (s *Store) SCIMGroup(ctx context.Context, directoryID, id string) (SCIMGroup, error) {
	if !known(directoryID, id) {
		return SCIMGroup{}, ErrNotFound
	}
	return one(ctx, s.read, "directory group", scanSCIMGroup,
		`SELECT `+scimGroupColumns+` FROM directory_groups WHERE directory_id = $1 AND id = $2`, directoryID, id)
}

// A SCIMGroupFilter says which groups are wanted.
type SCIMGroupFilter struct {
	ID, DisplayName, ExternalID, Member *string
}

// SCIMGroups lists groups of a directory by id and tells how many there are.
func (s *Store) SCIMGroups(ctx context.Context, directoryID string, f SCIMGroupFilter, skip, limit int) ([]SCIMGroup, int, error) {
	return s.scimGroups(ctx, s.read, directoryID, f, skip, limit)
}

func (s *Store) scimGroups(ctx context.Context, q querier, directoryID string, f SCIMGroupFilter, skip, limit int) ([]SCIMGroup, int, error) {
	w := asked{possible: true}
	w.and(`directory_id = ?`, directoryID)
	w.equal(`id = ?`, f.ID)
	w.equal(`display_name = ?`, f.DisplayName)
	w.equal(`external_id = ?`, f.ExternalID)
	if s.postgres() {
		if f.Member != nil {
			// As it is written: JSON may hold what PostgreSQL's texts cannot.
			w.and(`EXISTS (SELECT 1 FROM json_array_elements(members::json) m WHERE m::text = ?)`, strings.Trim(jsonList([]string{*f.Member}), "[]"))
		}
	} else {
		w.equal(`EXISTS (SELECT 1 FROM json_each(members) m WHERE m.value = ?)`, f.Member)
	}
	if !w.possible {
		return nil, 0, nil
	}
	return readRange(ctx, q, scimGroupTable, &w.where, skip, limit)
}

// asked collects what a filter asks.
type asked struct {
	where
	possible bool // false when nothing can meet it
}

func (w *asked) equal(cond string, text *string) {
	if text == nil {
		return
	}
	w.possible = w.possible && known(*text)
	w.and(cond, *text)
}

func lower(text *string) *string {
	if text == nil {
		return nil
	}
	l := strings.ToLower(*text)
	return &l
}
