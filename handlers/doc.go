// Package handlers is what an app imports to receive events: it verifies them,
// keeps each from being handled twice, runs your functions, and answers with
// what they did.
//
//	receiver := &handlers.Receiver{
//		Verifier: signing.Verifier{Keys: []signing.Key{key}},
//		Seen:     &handlers.Table{DB: db},
//	}
//	handlers.OnTx(receiver, events.MembershipRemoved, transferDocuments, deleteDrafts)
//	http.Handle("/handover", receiver)
//
// A function does its part of the work and returns an [Outcome]:
//
//	func deleteDrafts(ctx context.Context, tx *sql.Tx, ev events.Event, m events.Membership) (handlers.Outcome, error) {
//		res, err := tx.ExecContext(ctx, `DELETE FROM draft WHERE owner = $1`, m.User.ID)
//		if err != nil {
//			return handlers.Outcome{}, err
//		}
//		n, err := res.RowsAffected()
//		return handlers.Deleted("draft", n), err
//	}
//
// # Which registration
//
// [OnTx] runs the functions in a transaction of the app's own database that
// records the message as handled too. Use it where the work is SQL: it is done
// exactly once, whatever crashes when. It needs the table of [Schema].
//
// [On] is for work that lies elsewhere. A function may then run a second time
// for the same message: the program died before it could record the answer, or
// one of several functions failed. With a [Table] that is all; with [Memory],
// the default, it is also so after a restart. Functions must be able to find
// their work done already, which for "delete what belongs to this person" comes
// by itself.
//
// Either way, several functions run in order, and their outcomes are combined.
//
// # What a function returns
//
//	Outcome, nil               done: 200 with a receipt
//	InProgress(), nil          taken on, will be finished by itself: 202 with a receipt
//	Outcome{}, nil             done, with nothing to say: 200 {"received":true}
//	Blocked(reason), nil       an operator must decide: 422 with a receipt, not sent again by itself
//	Permanent(err)             will never work: 422 with a receipt that shows err, not sent again by itself
//	RetryAfter(err, d)         not before d has passed: 503 with Retry-After
//	any other error, a panic   sent again as scheduled: 500, without a word about the error
//
// Only what is done or taken on is recorded. After a Blocked, a Permanent or
// any other error the function runs again when the message comes again.
//
// # What else is answered
//
//	200  {"received":true}: there is no function for the type. That is not recorded, so
//	     it can be sent again once there is one
//	400  what is signed is not an event
//	401  the signature does not verify, or there is no key
//	405  not a POST
//	408  the body did not arrive within ReadTimeout
//	409  this webhook-id was handled with another body before
//	413  more than 1 MiB
//	415  not application/json, or with a content encoding
//	422  data is not what its type says it is: a receipt of status failed
//	503  a copy is being handled at this moment
//
// # Keys
//
// Keys are made by whoever sends, one per endpoint. To replace one, let the
// [Receiver] have both for a while; Keys is a function for apps that read them
// from a place that changes.
//
// # Other ways in
//
// [Receiver.Handle] runs the same functions for an event that came by another
// way; the package onstream does that for Watermill. Apps in other languages
// answer with the JSON of a [Receipt].
//
// # Guarantees
//
// The signature is verified over the raw bytes, in constant time, before they
// are looked into; at most 1 MiB is read, within ReadTimeout.
//
// The same webhook-id gets the same answer and has no second effect: with OnTx
// always, also for copies that come at once to several processes and across a
// crash at any instruction; with On as long as the Seen keeps the answer, and but
// for a crash before it is recorded. Copies that come at once are not run at
// once, by one process with Memory, and by all that share the database with a
// Table, provided that functions end when their context does.
//
// A sender that hangs up does not end the work. It ends with Timeout, and the
// answer is there when the sender asks again. No goroutine outlives a request.
//
// Every receipt that is sent obeys the contract: an outcome that breaks a rule
// is an error of the function, and with OnTx is rolled back.
//
// Logs hold ids, types, outcomes and the texts of your errors, never bodies,
// headers, keys or what a function panicked with. The sender sees no error text
// but that of Permanent and the reason of Blocked.
package handlers
