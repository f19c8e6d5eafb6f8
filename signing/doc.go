// Package signing signs and verifies webhooks as Standard Webhooks
// (https://www.standardwebhooks.com) describes.
//
// A message is a body with three headers:
//
//	webhook-id: evt_118200000000009001
//	webhook-timestamp: 1781256600
//	webhook-signature: v1,sRn+2Bl7jo+tBU1KtJex+TiNYZ+MfaDXPgYra3M2rhE=
//
// The id is the same each time the message is sent, so that a receiver knows it
// again; the timestamp is of the attempt. What is signed is the id, the
// timestamp and the body, joined by a full stop.
//
// # Sending
//
// [Signer.SetHeaders] signs a request:
//
//	signer := signing.Signer{Keys: []signing.Key{key}}
//	err := signer.SetHeaders(req.Header, id, time.Now(), body)
//
// # Receiving
//
// Read the whole body, bounded, and verify it before anything looks into it:
//
//	verifier := signing.Verifier{Keys: []signing.Key{key}}
//	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
//	…
//	if err := verifier.Verify(r.Header, body); err != nil {
//		http.Error(w, "the signature does not verify", http.StatusUnauthorized)
//		return
//	}
//
// Package handlers does this, and remembers the ids as well.
//
// # Keys
//
// Most senders and receivers share a secret: [NewKey] makes one of the form
// whsec_…, and the signatures have the version v1 (HMAC-SHA256). [NewEd25519Key]
// makes a private key, whsk_…, whose holder alone can sign; receivers are given
// its public half, whpk_…, and the signatures have the version v1a (ed25519).
//
// Both sides may have several keys. To replace one, let the sender sign with
// the new and the old, give the receivers the new, then take the old away: the
// signature header holds one entry a key, and one that matches is enough.
//
// # Guarantees
//
//   - [Verifier.Verify] looks at the bytes of the body and at the three webhook-*
//     headers, each of which has to be there exactly once. Other headers, svix-*
//     among them, change nothing.
//   - Signatures are compared in constant time, and a message costs bounded work
//     whatever its headers hold: at most [MaxSignatures] signatures a key.
//   - The timestamp is 1 to 12 digits, nothing else, and within the tolerance of
//     the clock.
//   - Any error means that nothing about the message can be trusted. Its text
//     holds nothing of what was sent.
//   - A [Key] shows its kind only, however it is printed, logged or encoded.
//     [Key.Secret] alone gives it away. Errors never do.
//   - Symmetric keys have 24 to 64 bytes: a shorter one is not accepted, whatever
//     made it.
//   - What is signed here verifies with the public Standard Webhooks and svix
//     libraries, and what they sign verifies here.
package signing
