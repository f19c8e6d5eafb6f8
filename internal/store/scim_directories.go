package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// States of SCIM directories.
const (
	SCIMDirectoryEnabled  = "enabled"
	SCIMDirectoryDisabled = "disabled"
)

const scimDirectoryColumns = `id, environment_id, organization_id, name, state, created_at, updated_at`

func scanSCIMDirectory(d *SCIMDirectory, scan func(...any) error) error {
	var created, updated int64
	if err := scan(&d.ID, &d.EnvironmentID, &d.OrganizationID, &d.Name, &d.State, &created, &updated); err != nil {
		return err
	}
	d.CreatedAt, d.UpdatedAt = time.UnixMicro(created), time.UnixMicro(updated)
	return nil
}

// scimToken is a token with the directory that it opens.
type scimToken struct {
	SCIMToken
	directoryID string
}

const scimTokenColumns = `id, directory_id, prefix, created_at, expires_at, last_used_at`

func scanSCIMToken(t *scimToken, scan func(...any) error) error {
	var created, expires, used int64
	if err := scan(&t.ID, &t.directoryID, &t.Prefix, &created, &expires, &used); err != nil {
		return err
	}
	t.CreatedAt, t.ExpiresAt, t.LastUsedAt = time.UnixMicro(created), timeOf(expires), timeOf(used)
	return nil
}

// CreateSCIMDirectory records an enabled directory with a first token, which is
// not kept. It sets the id and the times.
func (s *Store) CreateSCIMDirectory(ctx context.Context, d SCIMDirectory) (_ SCIMDirectory, token string, err error) {
	now := s.now().Truncate(time.Microsecond)
	d.ID, d.State = s.NewDigits("dir_"), SCIMDirectoryEnabled
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO scim_directories (`+scimDirectoryColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $6)`,
			d.ID, d.EnvironmentID, d.OrganizationID, d.Name, d.State, now.UnixMicro()); err != nil {
			return err
		}
		token, err = s.addSCIMToken(ctx, tx, d.ID, now)
		return err
	})
	if err != nil {
		return SCIMDirectory{}, "", fmt.Errorf("create directory: %w", err)
	}
	d, err = s.SCIMDirectory(ctx, d.ID)
	return d, token, err
}

func (s *Store) addSCIMToken(ctx context.Context, tx *sql.Tx, directoryID string, now time.Time) (token string, err error) {
	token, shown, hash := newSecret("scim_")
	_, err = tx.ExecContext(ctx, `INSERT INTO scim_tokens (id, directory_id, prefix, hash, created_at) VALUES ($1, $2, $3, $4, $5)`,
		s.NewID("st_"), directoryID, shown, hash[:], now.UnixMicro())
	return token, err
}

// SCIMDirectory returns a directory with its tokens that have not expired, newest
// first.
func (s *Store) SCIMDirectory(ctx context.Context, id string) (SCIMDirectory, error) {
	d, err := one(ctx, s.read, "directory", scanSCIMDirectory, `SELECT `+scimDirectoryColumns+` FROM scim_directories WHERE id = $1`, id)
	if err != nil {
		return SCIMDirectory{}, err
	}
	all := []SCIMDirectory{d}
	if err := s.addSCIMTokens(ctx, all); err != nil {
		return SCIMDirectory{}, err
	}
	return all[0], nil
}

// SCIMDirectoryByToken returns the enabled directory that the token with that
// hash opens, and of its tokens only that one. ErrNotFound when the token is
// unknown or expired, or the directory disabled.
func (s *Store) SCIMDirectoryByToken(ctx context.Context, hash [32]byte) (SCIMDirectory, error) {
	t, err := one(ctx, s.read, "token", scanSCIMToken, `SELECT `+scimTokenColumns+` FROM scim_tokens WHERE hash = $1 AND (expires_at = 0 OR expires_at > $2)`,
		hash[:], s.now().UnixMicro())
	if err != nil {
		return SCIMDirectory{}, err
	}
	d, err := one(ctx, s.read, "directory", scanSCIMDirectory, `SELECT `+scimDirectoryColumns+` FROM scim_directories WHERE id = $1 AND state = 'enabled'`, t.directoryID)
	if err != nil {
		return SCIMDirectory{}, err
	}
	d.Tokens = []SCIMToken{t.SCIMToken}
	return d, nil
}

// TouchSCIMToken notes that a token was used. It writes at most once a minute.
func (s *Store) TouchSCIMToken(ctx context.Context, id string) error {
	return s.touch(ctx, "scim_tokens", "token", id)
}

// addSCIMTokens sets the tokens of directories.
func (s *Store) addSCIMTokens(ctx context.Context, all []SCIMDirectory) error {
	if len(all) == 0 {
		return nil
	}
	index := make(map[string]*SCIMDirectory, len(all))
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
		index[ids[i]] = &all[i]
	}
	tokens, err := query(ctx, s.read, "tokens", scanSCIMToken, `SELECT `+scimTokenColumns+` FROM scim_tokens
WHERE directory_id `+s.in("$1", "text")+` AND (expires_at = 0 OR expires_at > $2) ORDER BY id DESC`, list(s.dialect, ids), s.now().UnixMicro())
	if err != nil {
		return err
	}
	for _, t := range tokens {
		d := index[t.directoryID]
		d.Tokens = append(d.Tokens, t.SCIMToken)
	}
	return nil
}

// ListSCIMDirectories lists the directories of an organization, or all when it is
// empty, newest first.
func (s *Store) ListSCIMDirectories(ctx context.Context, organizationID string, p Page) ([]SCIMDirectory, string, error) {
	var w where
	if organizationID != "" {
		w.and(`organization_id = ?`, organizationID)
	}
	all, next, err := listing[SCIMDirectory]{"scim_directories", scimDirectoryColumns, "directories", "dir", scanSCIMDirectory, func(d *SCIMDirectory) string { return d.ID }}.page(ctx, s.read, w, p)
	if err != nil {
		return nil, "", err
	}
	return all, next, s.addSCIMTokens(ctx, all)
}

// UpdateSCIMDirectory changes a directory's name and state; empty leaves them.
func (s *Store) UpdateSCIMDirectory(ctx context.Context, id, name, state string) (SCIMDirectory, error) {
	err := changed(s.write.ExecContext(ctx, `UPDATE scim_directories SET name = CASE WHEN $1 = '' THEN name ELSE $1 END,
  state = CASE WHEN $2 = '' THEN state ELSE $2 END, updated_at = $3 WHERE id = $4`, name, state, s.now().UnixMicro(), id))
	if err != nil {
		return SCIMDirectory{}, fmt.Errorf("update directory: %w", err)
	}
	return s.SCIMDirectory(ctx, id)
}

// DeleteSCIMDirectory forgets a directory and its tokens. Whoever came through it
// remains.
func (s *Store) DeleteSCIMDirectory(ctx context.Context, id string) error {
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"scim_tokens", "directory_users", "directory_groups"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE directory_id = $1`, id); err != nil {
				return err
			}
		}
		return changed(tx.ExecContext(ctx, `DELETE FROM scim_directories WHERE id = $1`, id))
	})
	if err != nil {
		return fmt.Errorf("delete directory: %w", err)
	}
	return nil
}

// RotateSCIMToken adds a token to a directory, which is not kept. The older ones
// open it until the overlap is over. More than MaxKeys at a time is ErrConflict.
func (s *Store) RotateSCIMToken(ctx context.Context, id string, overlap time.Duration) (_ SCIMDirectory, token string, err error) {
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		now := s.now().Truncate(time.Microsecond)
		// Locks the directory as well, so that rotations come one after the other.
		if err := changed(tx.ExecContext(ctx, `UPDATE scim_directories SET updated_at = $1 WHERE id = $2`, now.UnixMicro(), id)); err != nil {
			return err
		}
		if err := s.expireKeys(ctx, tx, "scim_tokens", "directory_id", id, now, overlap); err != nil {
			return err
		}
		token, err = s.addSCIMToken(ctx, tx, id, now)
		return err
	})
	if err != nil {
		return SCIMDirectory{}, "", fmt.Errorf("rotate token: %w", err)
	}
	d, err := s.SCIMDirectory(ctx, id)
	return d, token, err
}
