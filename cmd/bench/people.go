package main

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"time"
)

// environment is that of all events and people.
const environment = "env_118200000000000001"

// people are those whom the database holds before they begin to leave. Each is a
// member of two organizations, and each organization has 100 members. People and
// organizations are numbered from 0.
type people struct {
	Organizations int
	Directories   int // so many organizations, the first ones, have a SCIM directory
}

const (
	membersEach = 100                // of an organization
	homeEach    = membersEach / 2    // those whose first organization it is
	firstID     = 118300000000000000 // ids have 18 digits
	// stride is a prime above the number of people: its multiples, modulo that,
	// meet each of them once, and jump about in tables and indexes.
	stride = 179424673
)

func newPeople(members int) people { return people{Organizations: max(2, members/membersEach)} }

func (p people) users() int       { return p.Organizations * homeEach }
func (p people) memberships() int { return p.Organizations * membersEach }

// leavers is how many can leave their first organization: all, or those of
// directories.
func (p people) leavers() int {
	if p.Directories > 0 {
		return p.Directories * homeEach
	}
	return p.users()
}

// leaver is who leaves as the i-th, and what. Those of directories come from one
// directory after the other, so that neighbors have nothing in common.
func (p people) leaver(i int) (user, organization int) {
	if p.Directories > 0 {
		organization = i % p.Directories
		return i/p.Directories*p.Organizations + organization, organization
	}
	user = i * stride % p.users()
	return user, user % p.Organizations
}

// id is the id of somebody or something by its number.
func id(prefix string, n int) string { return prefix + strconv.Itoa(firstID+n) }

// populate puts people into the database while the service is down.
func (m *measurement) populate(ctx context.Context) (people, error) {
	p := newPeople(m.Members)
	progress("%s: writing %d memberships", m.result.Scenario, p.memberships())
	m.service.kill()
	db, err := m.service.database()
	if err != nil {
		return p, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if err := p.write(ctx, db, m.Store == "postgres"); err != nil {
		return p, fmt.Errorf("write people: %w", err)
	}
	return p, m.service.start(ctx)
}

// peopleRows are the rows that the service writes when somebody creates an
// organization, a user in it, and another membership of theirs. g has numbers and
// what is the same in all rows.
var peopleRows = []string{
	`INSERT INTO organizations (environment_id, id, display_name, external_id, region_code, slug, metadata, state, created_at, updated_at)
SELECT g.env, 'org_' || (g.first_id + g.n), 'Organization ' || g.n, 'crm-' || g.n, 'US', '', '{}', 0, g.at, g.at FROM g WHERE g.n < g.organizations`,

	`INSERT INTO users (environment_id, id, email, email_key, external_id, profile, metadata, provisional, created_at, updated_at, last_login_at, deleted_at)
SELECT g.env, 'usr_' || (g.first_id + g.n), 'person.' || g.n || '@example.com', 'person.' || g.n || '@example.com', 'hr-' || g.n,
  '{"id":"usp_' || (g.first_id + g.n) || '","name":"Person ' || g.n || '","given_name":"Person","family_name":"' || g.n || '","locale":"en"}',
  '{}', 0, g.at, g.at, 0, 0 FROM g`,

	`INSERT INTO memberships (environment_id, organization_id, user_id, status, epoch, roles, metadata, inviter_email, provisioning_method,
  joined_at, created_at, accepted_at, expires_at, updated_at, changed_at, reason, successor, removal_seq)
SELECT g.env, 'org_' || (g.first_id + (g.n + o.nth * (1 + g.n / g.organizations % (g.organizations - 1))) % g.organizations), 'usr_' || (g.first_id + g.n),
  1, 1, '[{"name":"member"}]', '{}', '', 'direct_provision', g.at, g.at, 0, 0, g.at, g.at * 1000, '', '', 0
FROM g CROSS JOIN (SELECT 0 AS nth UNION ALL SELECT 1) AS o`,
}

func (p people) write(ctx context.Context, db *sql.DB, postgres bool) error {
	numbers, after := `generate_series(0, CAST($1 AS bigint) - 1) AS s(n)`, []string{`VACUUM ANALYZE`, `CHECKPOINT`}
	if !postgres {
		numbers = `(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n + 1 < $1) SELECT n FROM s) AS s`
		after = []string{`PRAGMA wal_checkpoint(TRUNCATE)`}
		if _, err := db.ExecContext(ctx, `PRAGMA cache_size = -400000`); err != nil { // KiB
			return err
		}
	}
	with := `WITH g AS (SELECT s.n, CAST($2 AS text) AS env, CAST($3 AS bigint) AS first_id, CAST($4 AS bigint) AS organizations, CAST($5 AS bigint) AS at
FROM ` + numbers + `) `
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // it was committed, or there is another error
	since := time.Now().AddDate(0, -1, 0).UnixMicro()
	for _, rows := range peopleRows {
		if _, err := tx.ExecContext(ctx, with+rows, p.users(), environment, firstID, p.Organizations, since); err != nil {
			return err
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, statement := range after {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

// enroll puts the members of organizations that have a directory into it, as
// rows that the service writes when the directory creates them.
func enroll(ctx context.Context, db *sql.DB, postgres bool) error {
	_, err := db.ExecContext(ctx, `INSERT INTO directory_users (environment_id, directory_id, organization_id, id, user_id, user_name, user_name_key, external_id, email, email_key,
  active, manager_id, attributes, created_at, updated_at)
SELECT d.environment_id, d.id, d.organization_id, 'diruser_' || substr(u.id, 5), u.id, u.email, u.email_key, '00u' || substr(u.id, 5), u.email, u.email_key, 1, '',
  '{"name":{"familyName":"Rivers","givenName":"Dana"},"displayName":"Dana Rivers","emails":[{"value":"' || u.email || '","type":"work","primary":true}]}',
  u.created_at, u.updated_at
FROM scim_directories d CROSS JOIN memberships m CROSS JOIN users u
WHERE m.environment_id = d.environment_id AND m.organization_id = d.organization_id AND m.status > 0 AND u.environment_id = m.environment_id AND u.id = m.user_id`)
	if err == nil && postgres {
		_, err = db.ExecContext(ctx, `ANALYZE directory_users`)
	}
	if err != nil {
		return fmt.Errorf("write people of directories: %w", err)
	}
	return nil
}

// remaining counts the memberships that are active.
func (m *measurement) remaining(ctx context.Context) (n int, err error) {
	db, err := m.service.database()
	if err != nil {
		return 0, err
	}
	defer db.Close()
	return n, db.QueryRowContext(ctx, `SELECT count(*) FROM memberships WHERE status = 1`).Scan(&n)
}
