package outbox

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"strings"
)

//go:embed schema_postgres.sql
var schemaPostgres string

//go:embed schema_sqlite.sql
var schemaSQLite string

// A Dialect is a database that the outbox speaks.
type Dialect string

// The databases that are tested: PostgreSQL 14 and later, SQLite 3.35 and later.
const (
	Postgres Dialect = "postgres"
	SQLite   Dialect = "sqlite"
)

// Schema returns the statements that create the outbox's two tables and their
// indexes, for those who keep their migrations themselves. They may be run
// again: what is there already is left alone.
func Schema(d Dialect) string {
	if d == Postgres {
		return schemaPostgres
	}
	return schemaSQLite
}

// Migrate creates what [Schema] describes, in one transaction. Several
// processes may call it at the same time.
func Migrate(ctx context.Context, db *sql.DB, d Dialect) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("migrate outbox: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreDone(tx.Rollback()))
		}
	}()
	if err := MigrateTx(ctx, tx, d); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("migrate outbox: %w", err)
	}
	return nil
}

// MigrateTx is [Migrate] in a transaction of the caller's.
func MigrateTx(ctx context.Context, tx *sql.Tx, d Dialect) error {
	if d == Postgres {
		// CREATE TABLE IF NOT EXISTS is not safe against itself run twice at once.
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(724110391)`); err != nil {
			return fmt.Errorf("lock outbox schema: %w", err)
		}
	}
	for statement := range strings.SplitSeq(Schema(d), ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("migrate outbox: %w", err)
		}
	}
	return nil
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}
