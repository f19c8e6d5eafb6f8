// Package pgxoutbox appends events inside a transaction of pgx. It is apart
// from package outbox so that programs on other drivers do not link pgx.
//
// # Guarantees
//
// Those of [outbox.Append].
package pgxoutbox

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/outbox"
)

// Append is [outbox.Append] inside a transaction of pgx.
func Append(ctx context.Context, tx pgx.Tx, evs ...events.Event) ([]outbox.Record, error) {
	return outbox.AppendTx(ctx, Tx(tx), evs...)
}

// Tx makes an [outbox.Tx] of a transaction of pgx.
func Tx(tx pgx.Tx) outbox.Tx { return adapter{tx} }

type adapter struct{ tx pgx.Tx }

// Arrays says that slices may be passed as PostgreSQL arrays.
func (adapter) Arrays() bool { return true }

func (a adapter) Exec(ctx context.Context, query string, args ...any) error {
	_, err := a.tx.Exec(ctx, query, args...)
	return err
}

func (a adapter) Query(ctx context.Context, each func(scan func(dest ...any) error) error, query string, args ...any) error {
	rows, err := a.tx.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}
