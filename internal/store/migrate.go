package store

import (
	"context"
	"errors"
)

// Migrate brings the schema of a database up to date, as [Open] does, without
// the master key.
func Migrate(ctx context.Context, c Config) error {
	return withoutKey(c, func(s *Store) error { return s.migrate(ctx) })
}

// SchemaVersions tells the version of the schema in a database and the one that
// this program brings, and leaves the schema as it is.
func SchemaVersions(ctx context.Context, c Config) (current, target int64, err error) {
	err = withoutKey(c, func(s *Store) error {
		current, target, err = s.SchemaVersions(ctx)
		return err
	})
	return current, target, err
}

func withoutKey(c Config, f func(*Store) error) error {
	s := &Store{now: c.Now}
	if err := s.connect(c); err != nil {
		return err
	}
	return errors.Join(f(s), s.Close())
}
