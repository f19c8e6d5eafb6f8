package app

import (
	"context"
	"fmt"

	"github.com/handover-dev/handover/internal/store"
)

// SchemaVersions tells the version of the schema in the database and the one
// that this program brings. It changes neither.
func SchemaVersions(ctx context.Context, c Config) (current, target int64, err error) {
	c = c.withDefaults()
	current, target, err = store.SchemaVersions(ctx, store.Config{URL: c.DatabaseURL, Dir: c.DataDir})
	if err != nil {
		return 0, 0, fmt.Errorf("open database: %w", err)
	}
	return current, target, nil
}

// Migrate brings the schema of the database up to date, as Run does at its start.
func Migrate(ctx context.Context, c Config) error {
	c = c.withDefaults()
	if err := store.Migrate(ctx, store.Config{URL: c.DatabaseURL, Dir: c.DataDir}); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	return nil
}
