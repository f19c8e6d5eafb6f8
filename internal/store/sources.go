package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/handover-dev/handover/signing"
)

// Source states.
const (
	SourceEnabled  = "enabled"
	SourceDisabled = "disabled"
)

const sourceColumns = `id, name, kind, environment_id, state, mapping, created_at, updated_at`

func scanSource(src *Source, scan func(...any) error) error {
	var created, updated int64
	if err := scan(&src.ID, &src.Name, &src.Kind, &src.EnvironmentID, &src.State, &src.Mapping, &created, &updated); err != nil {
		return err
	}
	src.CreatedAt, src.UpdatedAt = time.UnixMicro(created), time.UnixMicro(updated)
	return nil
}

// CreateSource records an enabled source that may sign with any of keys. It
// sets the id and the times. A name that is taken is ErrConflict.
func (s *Store) CreateSource(ctx context.Context, src Source, keys ...signing.Key) (Source, error) {
	now := s.now().Truncate(time.Microsecond)
	src.ID, src.State = s.NewID("src_"), SourceEnabled
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO sources (`+sourceColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)`,
			src.ID, src.Name, src.Kind, src.EnvironmentID, src.State, src.Mapping, now.UnixMicro())
		if taken(err) {
			return fmt.Errorf("%w: the name is taken", ErrConflict)
		}
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := s.addSourceSecret(ctx, tx, src.ID, k, now); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Source{}, fmt.Errorf("create source: %w", err)
	}
	return s.Source(ctx, src.ID)
}

// Taken tells whether a change failed because something unique exists already.
func Taken(err error) bool { return taken(err) }

// taken tells whether an insert met a unique key.
func taken(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23505"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
}

func (s *Store) addSourceSecret(ctx context.Context, tx *sql.Tx, sourceID string, key signing.Key, now time.Time) error {
	id := s.NewID("ss_")
	_, err := tx.ExecContext(ctx, `INSERT INTO source_secrets (id, source_id, secret, created_at) VALUES ($1, $2, $3, $4)`,
		id, sourceID, s.box.seal(key.Secret(), "source_secrets/"+id), now.UnixMicro())
	return err
}

// Source returns a source, with what was counted of it.
func (s *Store) Source(ctx context.Context, id string) (Source, error) {
	src, err := s.source(ctx, s.read, `id = $1`, id)
	if err != nil {
		return Source{}, err
	}
	all := []Source{src}
	err = s.addCounts(ctx, all)
	return all[0], err
}

// SourceNamed returns the source with that name, without what was counted of it.
func (s *Store) SourceNamed(ctx context.Context, name string) (Source, error) {
	return s.source(ctx, s.read, `name = $1`, name)
}

func (s *Store) source(ctx context.Context, q querier, cond, arg string) (Source, error) {
	src, err := one(ctx, q, "source", scanSource, `SELECT `+sourceColumns+` FROM sources WHERE `+cond, arg)
	if err != nil {
		return Source{}, err
	}
	all := []Source{src}
	if err := s.addSecrets(ctx, q, all); err != nil {
		return Source{}, err
	}
	return all[0], nil
}

// addSecrets sets the secrets of sources.
func (s *Store) addSecrets(ctx context.Context, q querier, all []Source) error {
	if len(all) == 0 {
		return nil
	}
	index := make(map[string]*Source, len(all))
	ids := make([]string, len(all))
	for i := range all {
		ids[i] = all[i].ID
		index[ids[i]] = &all[i]
	}
	rows, err := q.QueryContext(ctx, `SELECT id, source_id, secret, created_at, expires_at FROM source_secrets
WHERE source_id `+s.in("$1", "text")+` AND (expires_at = 0 OR expires_at > $2) ORDER BY id DESC`, list(s.dialect, ids), s.now().UnixMicro())
	if err != nil {
		return fmt.Errorf("read source secrets: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var secret SourceSecret
		var sourceID string
		var sealed []byte
		var created, expires int64
		if err := rows.Scan(&secret.ID, &sourceID, &sealed, &created, &expires); err != nil {
			return fmt.Errorf("read source secrets: %w", err)
		}
		if secret.Key, err = s.openKey(sealed, "source_secrets/"+secret.ID); err != nil {
			return fmt.Errorf("read secret %s: %w", secret.ID, err)
		}
		secret.CreatedAt, secret.ExpiresAt = time.UnixMicro(created), timeOf(expires)
		src := index[sourceID]
		src.Secrets = append(src.Secrets, secret)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read source secrets: %w", err)
	}
	return nil
}

// ListSources lists sources, newest first.
func (s *Store) ListSources(ctx context.Context, p Page) ([]Source, string, error) {
	all, next, err := listing[Source]{"sources", sourceColumns, "sources", "src", scanSource, func(src *Source) string { return src.ID }}.page(ctx, s.read, where{}, p)
	if err != nil {
		return nil, "", err
	}
	if err := s.addSecrets(ctx, s.read, all); err != nil {
		return nil, "", err
	}
	return all, next, s.addCounts(ctx, all)
}

// UpdateSource changes a source's environment, state and mapping; empty leaves
// them.
func (s *Store) UpdateSource(ctx context.Context, id, environmentID, state, mapping string) (Source, error) {
	err := changed(s.write.ExecContext(ctx, `UPDATE sources SET environment_id = CASE WHEN $1 = '' THEN environment_id ELSE $1 END,
  state = CASE WHEN $2 = '' THEN state ELSE $2 END, mapping = CASE WHEN $3 = '' THEN mapping ELSE $3 END, updated_at = $4 WHERE id = $5`,
		environmentID, state, mapping, s.now().UnixMicro(), id))
	if err != nil {
		return Source{}, fmt.Errorf("update source: %w", err)
	}
	return s.Source(ctx, id)
}

// DeleteSource forgets a source, its secrets and its counts. What it sent remains.
func (s *Store) DeleteSource(ctx context.Context, id string) error {
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		for _, table := range []string{"source_secrets", "source_counts"} {
			if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE source_id = $1`, id); err != nil {
				return err
			}
		}
		return changed(tx.ExecContext(ctx, `DELETE FROM sources WHERE id = $1`, id))
	})
	if err != nil {
		return fmt.Errorf("delete source: %w", err)
	}
	return nil
}

// RotateSourceSecret adds a secret that a source may sign with. The older ones
// are accepted until the overlap is over.
func (s *Store) RotateSourceSecret(ctx context.Context, id string, key signing.Key, overlap time.Duration) (Source, error) {
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		now := s.now().Truncate(time.Microsecond)
		// Locks the source as well, so that rotations come one after the other.
		if err := changed(tx.ExecContext(ctx, `UPDATE sources SET updated_at = $1 WHERE id = $2`, now.UnixMicro(), id)); err != nil {
			return err
		}
		if err := s.expireKeys(ctx, tx, "source_secrets", "source_id", id, now, overlap); err != nil {
			return err
		}
		return s.addSourceSecret(ctx, tx, id, key, now)
	})
	if err != nil {
		return Source{}, fmt.Errorf("rotate secret: %w", err)
	}
	return s.Source(ctx, id)
}
