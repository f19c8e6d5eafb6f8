package store

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
)

// A table says how the values of a type are kept in rows.
type table[T any] struct {
	name    string
	key     string // the columns that name a row
	columns []column
	scan    func(*T, func(...any) error) error
	args    func(*T) []any // in the order of columns; each a string or an int64
}

// A column has a name and a type, which is text or bigint.
type column struct{ name, kind string }

// columnsOf reads a list like "id text, state bigint".
func columnsOf(list string) []column {
	var all []column
	for c := range strings.SplitSeq(list, ",") {
		name, kind, _ := strings.Cut(strings.TrimSpace(c), " ")
		all = append(all, column{name, kind})
	}
	return all
}

// list is the columns as a SELECT or an INSERT lists them.
func (t table[T]) list() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return strings.Join(names, ", ")
}

// listOf is list for a table that goes by another name in its statement. One
// that is joined may have no row: scan reads the zero value then.
func (t table[T]) listOf(alias string, joined bool) string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = alias + "." + c.name
		switch {
		case joined && c.kind == "text":
			names[i] = "coalesce(" + names[i] + ", '')"
		case joined:
			names[i] = "coalesce(" + names[i] + ", 0)"
		}
	}
	return strings.Join(names, ", ")
}

var (
	organizationTable = table[Organization]{
		name: "organizations", key: "environment_id, id", scan: scanOrganization, args: argsOrganization,
		columns: columnsOf(`environment_id text, id text, display_name text, external_id text, region_code text, slug text, metadata text,
  state bigint, created_at bigint, updated_at bigint`),
	}
	userTable = table[User]{
		name: "users", key: "environment_id, id", scan: scanUser, args: argsUser,
		columns: columnsOf(`environment_id text, id text, email text, email_key text, external_id text, profile text, metadata text,
  provisional bigint, created_at bigint, updated_at bigint, last_login_at bigint, deleted_at bigint`),
	}
	membershipTable = table[Membership]{
		name: "memberships", key: "environment_id, user_id, organization_id", scan: scanMembership, args: argsMembership,
		columns: columnsOf(`environment_id text, organization_id text, user_id text, status bigint, epoch bigint, roles text, metadata text,
  inviter_email text, provisioning_method text, joined_at bigint, created_at bigint, accepted_at bigint, expires_at bigint, updated_at bigint,
  changed_at bigint, reason text, successor text, removal_seq bigint`),
	}
	sessionTable = table[Session]{
		name: "sessions", key: "environment_id, id", scan: scanSession, args: argsSession,
		columns: columnsOf(`environment_id text, id text, user_id text, organization_id text, organizations text, status text,
  created_at bigint, updated_at bigint, last_active_at bigint, idle_expires_at bigint, absolute_expires_at bigint, expired_at bigint, logout_at bigint`),
	}
	scimUserTable = table[SCIMUser]{
		name: "directory_users", key: "directory_id, id", scan: scanSCIMUser, args: argsSCIMUser,
		columns: columnsOf(`environment_id text, directory_id text, organization_id text, id text, user_id text, user_name text, user_name_key text, external_id text, email text, email_key text,
  active bigint, manager_id text, attributes text, created_at bigint, updated_at bigint`),
	}
	scimGroupTable = table[SCIMGroup]{
		name: "directory_groups", key: "directory_id, id", scan: scanSCIMGroup, args: argsSCIMGroup,
		columns: columnsOf(`directory_id text, id text, display_name text, external_id text, members text, created_at bigint, updated_at bigint`),
	}
)

var (
	organizationColumns = organizationTable.list()
	userColumns         = userTable.list()
	membershipColumns   = membershipTable.list()
	sessionColumns      = sessionTable.list()
	scimUserColumns     = scimUserTable.list()
	scimGroupColumns    = scimGroupTable.list()
)

func scanOrganization(o *Organization, scan func(...any) error) error {
	var metadata string
	var created, updated int64
	if err := scan(&o.EnvironmentID, &o.ID, &o.DisplayName, &o.ExternalID, &o.RegionCode, &o.Slug, &metadata,
		&o.State, &created, &updated); err != nil {
		return err
	}
	o.CreatedAt, o.UpdatedAt = timeOf(created), timeOf(updated)
	return decode("metadata", metadata, &o.Metadata)
}

func argsOrganization(o *Organization) []any {
	return []any{
		o.EnvironmentID, o.ID, o.DisplayName, o.ExternalID, o.RegionCode, o.Slug, jsonMap(o.Metadata),
		int64(o.State), microsOf(o.CreatedAt), microsOf(o.UpdatedAt),
	}
}

func scanUser(u *User, scan func(...any) error) error {
	var emailKey, profile, metadata string
	var provisional, created, updated, login, deleted int64
	if err := scan(&u.EnvironmentID, &u.ID, &u.Email, &emailKey, &u.ExternalID, &profile, &metadata,
		&provisional, &created, &updated, &login, &deleted); err != nil {
		return err
	}
	u.Provisional = provisional != 0
	u.CreatedAt, u.UpdatedAt, u.LastLoginAt, u.DeletedAt = timeOf(created), timeOf(updated), timeOf(login), timeOf(deleted)
	// As it was written here, so that its keys need no second look.
	type written events.UserProfile
	if err := decode("profile", profile, (*written)(&u.Profile)); err != nil {
		return err
	}
	return decode("metadata", metadata, &u.Metadata)
}

func argsUser(u *User) []any {
	profile, _ := json.Marshal(u.Profile) // strings and booleans cannot fail
	return []any{
		u.EnvironmentID, u.ID, u.Email, strings.ToLower(u.Email), u.ExternalID, string(profile), jsonMap(u.Metadata),
		bit(u.Provisional), microsOf(u.CreatedAt), microsOf(u.UpdatedAt), microsOf(u.LastLoginAt), microsOf(u.DeletedAt),
	}
}

func scanMembership(m *Membership, scan func(...any) error) error {
	var roles, metadata, successor string
	var joined, created, accepted, expires, updated, changed int64
	if err := scan(&m.EnvironmentID, &m.OrganizationID, &m.UserID, &m.Status, &m.Epoch, &roles, &metadata,
		&m.InviterEmail, &m.ProvisioningMethod, &joined, &created, &accepted, &expires, &updated,
		&changed, &m.Reason, &successor, &m.RemovalSeq); err != nil {
		return err
	}
	m.JoinedAt, m.CreatedAt, m.AcceptedAt, m.ExpiresAt, m.UpdatedAt = timeOf(joined), timeOf(created), timeOf(accepted), timeOf(expires), timeOf(updated)
	if changed != 0 {
		m.ChangedAt = time.Unix(0, changed)
	}
	if err := decode("roles", roles, &m.Roles); err != nil {
		return err
	}
	if err := decode("successor", successor, &m.Successor); err != nil {
		return err
	}
	return decode("metadata", metadata, &m.Metadata)
}

func argsMembership(m *Membership) []any {
	var successor []byte
	if m.Successor != nil {
		successor, _ = json.Marshal(m.Successor) // strings cannot fail
	}
	var changed int64
	if !m.ChangedAt.IsZero() {
		changed = m.ChangedAt.UnixNano()
	}
	return []any{
		m.EnvironmentID, m.OrganizationID, m.UserID, int64(m.Status), m.Epoch, jsonList(m.Roles), jsonMap(m.Metadata),
		m.InviterEmail, m.ProvisioningMethod, microsOf(m.JoinedAt), microsOf(m.CreatedAt), microsOf(m.AcceptedAt), microsOf(m.ExpiresAt), microsOf(m.UpdatedAt),
		changed, m.Reason, string(successor), m.RemovalSeq,
	}
}

func scanSession(s *Session, scan func(...any) error) error {
	var organizations string
	var created, updated, active, idle, absolute, expired, logout int64
	if err := scan(&s.EnvironmentID, &s.ID, &s.UserID, &s.OrganizationID, &organizations, &s.Status,
		&created, &updated, &active, &idle, &absolute, &expired, &logout); err != nil {
		return err
	}
	s.CreatedAt, s.UpdatedAt, s.LastActiveAt = timeOf(created), timeOf(updated), timeOf(active)
	s.IdleExpiresAt, s.AbsoluteExpiresAt, s.ExpiredAt, s.LogoutAt = timeOf(idle), timeOf(absolute), timeOf(expired), timeOf(logout)
	return decode("organizations", organizations, &s.Organizations)
}

func argsSession(s *Session) []any {
	return []any{
		s.EnvironmentID, s.ID, s.UserID, s.OrganizationID, jsonList(s.Organizations), string(s.Status),
		microsOf(s.CreatedAt), microsOf(s.UpdatedAt), microsOf(s.LastActiveAt), microsOf(s.IdleExpiresAt), microsOf(s.AbsoluteExpiresAt),
		microsOf(s.ExpiredAt), microsOf(s.LogoutAt),
	}
}

func scanSCIMUser(u *SCIMUser, scan func(...any) error) error {
	var userNameKey, emailKey, attributes string
	var active, created, updated int64
	if err := scan(&u.EnvironmentID, &u.DirectoryID, &u.OrganizationID, &u.ID, &u.UserID, &u.UserName, &userNameKey, &u.ExternalID, &u.Email, &emailKey,
		&active, &u.ManagerID, &attributes, &created, &updated); err != nil {
		return err
	}
	u.Active, u.Attributes = active != 0, json.RawMessage(attributes)
	u.CreatedAt, u.UpdatedAt = timeOf(created), timeOf(updated)
	return nil
}

func argsSCIMUser(u *SCIMUser) []any {
	attributes := "{}"
	if len(u.Attributes) > 0 {
		attributes = string(u.Attributes)
	}
	return []any{
		u.EnvironmentID, u.DirectoryID, u.OrganizationID, u.ID, u.UserID, u.UserName, strings.ToLower(u.UserName), u.ExternalID, u.Email, strings.ToLower(u.Email),
		bit(u.Active), u.ManagerID, attributes, microsOf(u.CreatedAt), microsOf(u.UpdatedAt),
	}
}

func scanSCIMGroup(g *SCIMGroup, scan func(...any) error) error {
	var members string
	var created, updated int64
	if err := scan(&g.DirectoryID, &g.ID, &g.DisplayName, &g.ExternalID, &members, &created, &updated); err != nil {
		return err
	}
	g.CreatedAt, g.UpdatedAt = timeOf(created), timeOf(updated)
	return decode("members", members, &g.Members)
}

func argsSCIMGroup(g *SCIMGroup) []any {
	return []any{g.DirectoryID, g.ID, g.DisplayName, g.ExternalID, jsonList(g.Members), microsOf(g.CreatedAt), microsOf(g.UpdatedAt)}
}

// decode reads a column that holds JSON. What is empty stays nil, so that a value
// is read as it was written.
func decode(what, text string, into any) error {
	switch text {
	case "", "{}", "[]":
		return nil
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// jsonMap encodes a map that may be nil.
func jsonMap(m map[string]string) string {
	if len(m) == 0 {
		return "{}"
	}
	encoded, _ := json.Marshal(m) // strings cannot fail
	return string(encoded)
}

// microsOf is what a column keeps of a time: 0 for none.
func microsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func bit(set bool) int64 {
	if set {
		return 1
	}
	return 0
}
