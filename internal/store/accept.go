package store

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/outbox"
)

// An Acceptance is one request to record events: all of them or none.
type Acceptance struct {
	Events []events.Event

	// Set for an inbound webhook: the pair makes it known, the hash tells
	// whether a second one is the same.
	SourceID, WebhookID string
	BodyHash            [32]byte

	// Set when the caller named the request.
	APIKeyID, IdempotencyKey string
	RequestHash              [32]byte

	// Records are set by Accept, in the order of Events.
	Records []outbox.Record
	// Err is set when it contradicts what is recorded: one of the errors below.
	// Nothing of it was recorded then.
	Err error
	// Repeated is set when this request was accepted before. IDs are then those
	// of the first time.
	Repeated bool
	IDs      []string
}

// What may be wrong with one acceptance.
var (
	ErrEventConflict       = outbox.ErrConflict
	ErrWebhookConflict     = errors.New("this webhook-id came before with another body")
	ErrIdempotencyConflict = errors.New("this idempotency key was used before with another body")
)

// errContradicted says that acceptances got their Err and nothing was recorded.
var errContradicted = errors.New("contradicts what is recorded")

// Accept records what was asked in one transaction, which also remembers the
// webhook-ids and idempotency keys, and supersedes the removals of people who
// came back. Those that contradict what is recorded are left out and have their
// Err set. After an error nothing was recorded.
func (s *Store) Accept(ctx context.Context, h *outbox.Handoff, as []*Acceptance) error {
	for _, a := range as {
		a.Err = nil
	}
	for {
		err := s.accept(ctx, h, as)
		if !errors.Is(err, errContradicted) {
			return err
		}
		as = slices.DeleteFunc(slices.Clone(as), func(a *Acceptance) bool { return a.Err != nil })
	}
}

func (s *Store) accept(ctx context.Context, h *outbox.Handoff, as []*Acceptance) error {
	if s.postgres() {
		if err := s.acceptNew(ctx, h, as); !errors.Is(err, errUncommon) {
			return err
		}
	}
	return s.Tx(ctx, func(tx *sql.Tx) error {
		ctx := s.unwatched(ctx)
		h.Reset()
		var evs []events.Event
		var from []*Acceptance
		if err := s.rememberWebhooks(ctx, tx, as); err != nil {
			return err
		}
		for _, a := range as {
			if a.Repeated {
				continue
			}
			if err := s.rememberRequest(ctx, tx, a); err != nil {
				return err
			}
			if a.Err != nil {
				return errContradicted
			}
			if a.Repeated {
				continue
			}
			evs = append(evs, a.Events...)
			from = append(from, a)
		}
		if len(evs) == 0 {
			return nil
		}
		var t outbox.Tx = preparedTx{s, tx}
		if s.postgres() {
			t = outbox.SQLArrays(tx)
		}
		records, err := outbox.AppendReserved(ctx, t, h, evs...)
		if err != nil && !errors.Is(err, outbox.ErrConflict) {
			return err
		}
		var readds []int64
		for i, ev := range evs {
			if records[i].Status == outbox.Added && supersedes(ev.Type, ev.UserID()) {
				readds = append(readds, records[i].Seq)
			}
		}
		for _, a := range from {
			a.Records, records = records[:len(a.Events)], records[len(a.Events):]
			if slices.ContainsFunc(a.Records, func(r outbox.Record) bool { return r.Status == outbox.Conflict }) {
				a.Err, err = ErrEventConflict, errContradicted
			}
		}
		if err != nil {
			return err
		}
		return s.supersede(ctx, tx, readds)
	})
}

// acceptNew is the short way for what came without a name of its own and is not
// known.
func (s *Store) acceptNew(ctx context.Context, h *outbox.Handoff, as []*Acceptance) error {
	var evs []events.Event
	for _, a := range as {
		if a.WebhookID != "" || a.IdempotencyKey != "" {
			return errUncommon
		}
		a.Repeated = false
		evs = append(evs, a.Events...)
	}
	if slices.ContainsFunc(evs, func(ev events.Event) bool { return supersedes(ev.Type, ev.UserID()) }) {
		return errUncommon
	}
	h.Reset()
	records, err := outbox.AppendReserved(ctx, pipelined{s}, h, evs...)
	if errors.Is(err, outbox.ErrKnown) || s.violated(err) {
		return errUncommon
	}
	if err != nil {
		return err
	}
	for _, a := range as {
		a.Records, records = records[:len(a.Events)], records[len(a.Events):]
	}
	return nil
}

type webhookKey struct{ source, id string }

func (s *Store) rememberWebhooks(ctx context.Context, tx *sql.Tx, as []*Acceptance) error {
	var sources, ids, evs, envs []string
	var hashes [][]byte
	first := make(map[webhookKey]*Acceptance)
	var again []*Acceptance
	for _, a := range as {
		a.Repeated = false
		if a.WebhookID == "" {
			continue
		}
		k := webhookKey{a.SourceID, a.WebhookID}
		if first[k] != nil {
			again = append(again, a)
			continue
		}
		first[k] = a
		sources, ids, evs, hashes = append(sources, k.source), append(ids, k.id), append(evs, a.Events[0].ID), append(hashes, a.BodyHash[:])
		envs = append(envs, a.Events[0].EnvironmentID)
	}
	if len(ids) == 0 {
		return nil
	}
	const insert = `INSERT INTO inbox (source_id, webhook_id, event_id, body_hash, environment_id, received_at) `
	const unlessKnown = ` ON CONFLICT (source_id, webhook_id) DO NOTHING RETURNING source_id, webhook_id`
	now := s.now().UnixMicro()
	fresh := make(map[webhookKey]bool, len(ids))
	collect := func(rows *sql.Rows, err error) error {
		if err != nil {
			return fmt.Errorf("remember webhooks: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var k webhookKey
			if err := rows.Scan(&k.source, &k.id); err != nil {
				return fmt.Errorf("remember webhooks: %w", err)
			}
			fresh[k] = true
		}
		return rows.Err()
	}
	if s.postgres() {
		if err := collect(tx.QueryContext(ctx, insert+`SELECT *, $6::bigint FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[])`+unlessKnown,
			sources, ids, evs, hashes, envs, now)); err != nil {
			return err
		}
	} else {
		stmt, err := s.stmt(ctx, tx, insert+`VALUES ($1, $2, $3, $4, $5, $6)`+unlessKnown)
		if err != nil {
			return fmt.Errorf("remember webhooks: %w", err)
		}
		for i := range ids {
			if err := collect(stmt.query(ctx, sources[i], ids[i], evs[i], hashes[i], envs[i], now)); err != nil {
				return err
			}
		}
	}
	var contradicted error
	for k, a := range first {
		if fresh[k] {
			continue
		}
		var hash []byte
		var id string
		if err := tx.QueryRowContext(ctx, `SELECT body_hash, event_id FROM inbox WHERE source_id = $1 AND webhook_id = $2`, k.source, k.id).Scan(&hash, &id); err != nil {
			return fmt.Errorf("compare webhook: %w", err)
		}
		if subtle.ConstantTimeCompare(hash, a.BodyHash[:]) != 1 {
			a.Err, contradicted = ErrWebhookConflict, errContradicted
			continue
		}
		a.Repeated, a.IDs = true, []string{id}
	}
	for _, a := range again {
		if a.BodyHash != first[webhookKey{a.SourceID, a.WebhookID}].BodyHash {
			a.Err, contradicted = ErrWebhookConflict, errContradicted
			continue
		}
		a.Repeated, a.IDs = true, []string{a.Events[0].ID}
	}
	return contradicted
}

func (s *Store) rememberRequest(ctx context.Context, tx *sql.Tx, a *Acceptance) error {
	if a.IdempotencyKey == "" {
		return nil
	}
	ids := make([]string, len(a.Events))
	for i, ev := range a.Events {
		ids[i] = ev.ID
	}
	encoded, err := json.Marshal(ids)
	if err != nil {
		return fmt.Errorf("remember request: %w", err)
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO idempotency_keys (api_key_id, key, request_hash, response, created_at)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (api_key_id, key) DO NOTHING`, a.APIKeyID, a.IdempotencyKey, a.RequestHash[:], string(encoded), s.now().UnixMicro())
	if err != nil {
		return fmt.Errorf("remember request: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		return err
	}
	var hash []byte
	var response string
	if err := tx.QueryRowContext(ctx, `SELECT request_hash, response FROM idempotency_keys WHERE api_key_id = $1 AND key = $2`,
		a.APIKeyID, a.IdempotencyKey).Scan(&hash, &response); err != nil {
		return fmt.Errorf("compare request: %w", err)
	}
	if subtle.ConstantTimeCompare(hash, a.RequestHash[:]) != 1 {
		a.Err = ErrIdempotencyConflict
		return nil
	}
	a.Repeated = true
	if err := json.Unmarshal([]byte(response), &a.IDs); err != nil {
		return fmt.Errorf("read remembered answer: %w", err)
	}
	return nil
}
