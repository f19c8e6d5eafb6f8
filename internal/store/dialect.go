package store

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"

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

// Transient tells whether an error is of the database as a whole, such as a lost
// connection or a full disk, and not of what was asked of it.
func (s *Store) Transient(err error) bool {
	if errors.Is(err, ErrEventConflict) || errors.Is(err, ErrWebhookConflict) || errors.Is(err, ErrIdempotencyConflict) {
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code[:2] {
		case "21", "22", "23", "42", "54": // what was asked cannot be done
			return false
		}
		return true
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		switch lite.Code() & 0xff {
		case 1, 18, 19, 20, 25: // error, too big, constraint, mismatch, range
			return false
		}
	}
	return true
}

// violated tells whether a row could not be inserted because there is one like it.
func (d dialect) violated(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "23505"
}

// collided tells whether a transaction failed only because of another one.
func (d dialect) collided(err error) bool {
	if errors.Is(err, errMoved) {
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40001", "40P01": // serialization failure, deadlock
			return true
		case "23505": // two transactions made the same row active or routed it at once, or made the same person
			table, _, _ := strings.Cut(pg.ConstraintName, "_")
			return slices.Contains([]string{"deliveries", "organizations", "users", "memberships", "sessions", "directory"}, table)
		}
	}
	return false
}
