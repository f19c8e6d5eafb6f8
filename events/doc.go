// Package events is the vocabulary of a hand-over: what happened to a person or
// an organization, as a webhook says it.
//
// An event is an envelope around data:
//
//	{"spec_version":"1","id":"evt_118200000000009002",
//	 "type":"user.organization_membership_deleted","object":"OrgMembership",
//	 "occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_118200000000000001",
//	 "data":{"organization":{"id":"org_118200000000000202"},"user":{"id":"usr_118200000000001002"}}}
//
// The form is that of Scalekit's webhooks, so an app written for these
// understands it without a change.
//
// # Reading
//
// [Parse] reads a body whose signature was verified, and [Type.Decode] its data:
//
//	ev, err := events.Parse(body)
//	…
//	removed, err := events.MembershipRemoved.Decode(ev)
//
// What Parse asks of a body:
//
//   - one JSON object of at most [MaxSize] bytes, nested at most [MaxDepth] deep,
//     in valid UTF-8, with nothing behind it but white space;
//   - no key twice in an object, at any depth, however it is escaped, and no half
//     of a surrogate pair: a message that orders deletions has to mean one thing
//     to everyone who reads it;
//   - spec_version (digits), id (evt_…), type, object, occurred_at (RFC 3339, at
//     most 9 fraction digits), environment_id (env_…) and data (an object); where
//     they are given and not null, organization_id (org_…) and display_name (a
//     string);
//   - in the data of the types that [Types] lists, the fields these have to have,
//     and ids with their prefixes: an organization and a user in the data of the
//     membership events, for example. A successor is a user_id, an email or both.
//
// The data of other types is free. Unknown fields are kept and ignored
// everywhere.
//
// # Building
//
// [New] builds an event from Go data, [Complete] one from JSON in which the
// sender may leave out what is not theirs to choose. Both write compact JSON and
// escape nothing that does not need it, for the sake of receivers that verify
// what JSON.stringify gives them.
//
// # Trying things out
//
// [Fixture] gives an example body for a type.
//
// # Guarantees
//
//   - [Event.Body] is the bytes that were parsed, unchanged, or that were built,
//     compact. Parsing them again gives an equal event.
//   - Whatever is parsed, nothing panics, recursion ends at [MaxDepth], and the
//     time grows with the size of the body alone.
//   - Every error about the content matches [ErrInvalid], is a [*FieldError] or a
//     [*SyntaxError], and quotes neither values nor keys that are not the package's own.
//   - Ids, types and objects are 1 to [MaxID] visible ASCII characters. Other texts
//     may hold any Unicode, U+0000 included, which some databases refuse.
//   - The nanoseconds of [Event.OccurredAt] fit an int64: the year is 1970 to 2261.
//   - Keys count to the letter in [Parse] and in the types of this package: "ID" is
//     not "id".
//   - The envelope and the types only ever grow.
package events
