package store

import (
	"encoding/json"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/handover-dev/handover/outbox"
)

// dialect is what differs between the databases.
type dialect struct{ name outbox.Dialect }

func (d dialect) postgres() bool { return d.name == outbox.Postgres }

// in is "IN (…)" over one parameter that list made.
func (d dialect) in(placeholder, pgType string) string {
	if d.postgres() {
		return "= ANY(" + placeholder + "::" + pgType + "[])"
	}
	return "IN (SELECT value FROM json_each(" + placeholder + "))"
}

// list makes the parameter for in.
func list[T ~string | ~int64](d dialect, values []T) any {
	if d.postgres() {
		return values
	}
	encoded, _ := json.Marshal(values) // strings and integers cannot fail
	return string(encoded)
}

// forUpdate locks what a SELECT finds; SQLite has one writer and needs none.
func (d dialect) forUpdate(mode string) string {
	if d.postgres() {
		return " FOR " + mode
	}
	return ""
}

// collided tells whether a transaction failed only because of another one.
func (d dialect) collided(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40001", "40P01": // serialization failure, deadlock
			return true
		case "23505": // two transactions made the same row active or routed it at once
			return strings.HasPrefix(pg.ConstraintName, "deliveries_")
		}
	}
	return false
}
