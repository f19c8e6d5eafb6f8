// Package outbox records events in the transaction that caused them, and
// carries them out afterwards.
//
// A program that changes its database and then tells others about it can die
// between the two. Here the event is a row written in the same transaction as
// the change, so that either both exist or neither does; a [Relay] takes
// committed rows to a message stream and tries until the stream has them.
//
//	tx, _ := db.BeginTx(ctx, nil)
//	tx.ExecContext(ctx, `DELETE FROM members WHERE …`)
//	outbox.Append(ctx, tx, removed)
//	tx.Commit()
//
// [Append] works inside a *sql.Tx of PostgreSQL or SQLite; the package
// pgxoutbox does the same inside a pgx.Tx. [Migrate], or [Schema] for those who
// keep their own migrations, creates the two tables: handover_events holds each
// event for good, handover_outbox what is still to be relayed, so that the cost
// of relaying does not grow with what was relayed before.
//
// A relay runs beside the program that appends, or in processes of its own:
//
//	relay := &outbox.Relay{DB: db, Dialect: outbox.Postgres, Publisher: publisher}
//	go relay.Run(ctx)
//
// The publisher is any Watermill message.Publisher. The message's UUID is the
// event's id, its payload the event's body, and its metadata what a consumer
// may want to know without parsing.
//
// # Guarantees
//
// An event is recorded if and only if the transaction that appended it commits.
// Appending the same event again, by id and environment, changes nothing.
//
// Every recorded event is published at least once, also when a relay is killed
// at any moment; consumers recognize repeats by the event's id. With
// [Relay.KeepUntilRouted] it is published until [Routed] says that it arrived,
// so that a stream may lose everything it holds.
//
// A relay publishes what is due in the order in which it was recorded, but
// several relays, retries and late commits mix: order is not guaranteed. Nothing
// is skipped because it was committed late.
package outbox
