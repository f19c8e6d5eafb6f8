package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"github.com/handover-dev/handover/signing"
)

// MaxKeys is how many keys of an endpoint, or secrets of a source, may be valid
// at a time.
const MaxKeys = 5

// Causes of canceled deliveries.
const (
	CauseEndpointDisabled = "endpoint_disabled"
	CauseEndpointDeleted  = "endpoint_deleted"
	CauseOperator         = "operator"
)

const endpointColumns = `id, name, url, event_types, organization_ids, state, disabled_reason, paused, schedule, timeout_ms, concurrency, created_at, updated_at`

func scanEndpoint(e *Endpoint, scan func(...any) error) error {
	var types, organizations, schedule string
	var timeout, created, updated int64
	if err := scan(&e.ID, &e.Name, &e.URL, &types, &organizations, &e.State, &e.DisabledReason, &e.Paused, &schedule, &timeout, &e.Concurrency, &created, &updated); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(types), &e.EventTypes); err != nil {
		return fmt.Errorf("event types: %w", err)
	}
	if err := json.Unmarshal([]byte(organizations), &e.OrganizationIDs); err != nil {
		return fmt.Errorf("organizations: %w", err)
	}
	if schedule != "" {
		var seconds []float64
		if err := json.Unmarshal([]byte(schedule), &seconds); err != nil {
			return fmt.Errorf("schedule: %w", err)
		}
		for _, s := range seconds {
			e.Schedule = append(e.Schedule, time.Duration(s*float64(time.Second)))
		}
	}
	e.Timeout = time.Duration(timeout) * time.Millisecond
	e.CreatedAt, e.UpdatedAt = time.UnixMicro(created), time.UnixMicro(updated)
	return nil
}

// jsonList encodes a list that may be nil.
func jsonList[T any](values []T) string {
	if values == nil {
		return "[]"
	}
	encoded, _ := json.Marshal(values) // strings and numbers cannot fail
	return string(encoded)
}

func scheduleText(ds []time.Duration) string {
	if len(ds) == 0 {
		return ""
	}
	seconds := make([]float64, len(ds))
	for i, d := range ds {
		seconds[i] = d.Seconds()
	}
	return jsonList(seconds)
}

// CreateEndpoint records an enabled endpoint that signs with key. It sets the
// id and the times.
func (s *Store) CreateEndpoint(ctx context.Context, e Endpoint, key signing.Key) (Endpoint, error) {
	now := s.now().Truncate(time.Microsecond)
	e.ID, e.State, e.CreatedAt, e.UpdatedAt = s.NewID("ep_"), EndpointEnabled, now, now
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO endpoints (`+endpointColumns+`) VALUES ($1, $2, $3, $4, $5, $6, '', false, $7, $8, $9, $10, $10)`,
			e.ID, e.Name, e.URL, jsonList(e.EventTypes), jsonList(e.OrganizationIDs), e.State, scheduleText(e.Schedule),
			e.Timeout.Milliseconds(), e.Concurrency, now.UnixMicro()); err != nil {
			return err
		}
		if err := s.addEndpointKey(ctx, tx, e.ID, key, now); err != nil {
			return err
		}
		return bumpEndpoints(ctx, tx)
	})
	if err != nil {
		return Endpoint{}, fmt.Errorf("create endpoint: %w", err)
	}
	return s.Endpoint(ctx, e.ID)
}

func (s *Store) addEndpointKey(ctx context.Context, tx *sql.Tx, endpointID string, key signing.Key, now time.Time) error {
	id := s.NewID("sk_")
	_, err := tx.ExecContext(ctx, `INSERT INTO endpoint_keys (id, endpoint_id, secret, created_at) VALUES ($1, $2, $3, $4)`,
		id, endpointID, s.box.seal(key.Secret(), "endpoint_keys/"+id), now.UnixMicro())
	return err
}

// bumpEndpoints tells routers and dispatchers that an endpoint changed.
func bumpEndpoints(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `UPDATE control SET endpoints_version = endpoints_version + 1 WHERE id = 1`)
	return err
}

// EndpointsVersion changes whenever an endpoint does.
func (s *Store) EndpointsVersion(ctx context.Context) (int64, error) {
	var v int64
	if err := s.read.QueryRowContext(ctx, `SELECT endpoints_version FROM control WHERE id = 1`).Scan(&v); err != nil {
		return 0, fmt.Errorf("read endpoints version: %w", err)
	}
	return v, nil
}

// Endpoints returns all endpoints that are not deleted, with their keys, and the
// version that they have at least.
func (s *Store) Endpoints(ctx context.Context) (version int64, all []Endpoint, err error) {
	if version, err = s.EndpointsVersion(ctx); err != nil { // first, so that it is never newer than what follows
		return 0, nil, err
	}
	all, err = query(ctx, s.read, "endpoints", scanEndpoint, `SELECT `+endpointColumns+` FROM endpoints WHERE state <> 'deleted' ORDER BY id`)
	if err != nil {
		return 0, nil, err
	}
	return version, all, s.addKeys(ctx, s.read, all)
}

// Endpoint returns an endpoint that is not deleted.
func (s *Store) Endpoint(ctx context.Context, id string) (Endpoint, error) {
	return s.endpoint(ctx, s.read, id, "")
}

func (s *Store) endpoint(ctx context.Context, q querier, id, lock string) (Endpoint, error) {
	e, err := one(ctx, q, "endpoint", scanEndpoint, `SELECT `+endpointColumns+` FROM endpoints WHERE id = $1 AND state <> 'deleted'`+lock, id)
	if err != nil {
		return Endpoint{}, err
	}
	es := []Endpoint{e}
	if err := s.addKeys(ctx, q, es); err != nil {
		return Endpoint{}, err
	}
	return es[0], nil
}

// addKeys sets the keys of endpoints.
func (s *Store) addKeys(ctx context.Context, q querier, es []Endpoint) error {
	if len(es) == 0 {
		return nil
	}
	index := make(map[string]*Endpoint, len(es))
	ids := make([]string, len(es))
	for i := range es {
		ids[i] = es[i].ID
		index[ids[i]] = &es[i]
	}
	rows, err := q.QueryContext(ctx, `SELECT id, endpoint_id, secret, created_at, expires_at FROM endpoint_keys
WHERE endpoint_id `+s.in("$1", "text")+` AND (expires_at = 0 OR expires_at > $2) ORDER BY id DESC`, list(s.dialect, ids), s.now().UnixMicro())
	if err != nil {
		return fmt.Errorf("read endpoint keys: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var k EndpointKey
		var endpointID string
		var sealed []byte
		var created, expires int64
		if err := rows.Scan(&k.ID, &endpointID, &sealed, &created, &expires); err != nil {
			return fmt.Errorf("read endpoint keys: %w", err)
		}
		if k.Key, err = s.openKey(sealed, "endpoint_keys/"+k.ID); err != nil {
			return fmt.Errorf("read key %s: %w", k.ID, err)
		}
		k.CreatedAt, k.ExpiresAt = time.UnixMicro(created), timeOf(expires)
		e := index[endpointID]
		e.Keys = append(e.Keys, k)
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read endpoint keys: %w", err)
	}
	return nil
}

func (s *Store) openKey(sealed []byte, place string) (signing.Key, error) {
	text, err := s.box.open(sealed, place)
	if err != nil {
		return signing.Key{}, err
	}
	return signing.ParseKey(text)
}

// timeOf is a time whose column says 0 for none.
func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros)
}

// ListEndpoints lists endpoints that are not deleted, newest first; state is
// empty for all.
func (s *Store) ListEndpoints(ctx context.Context, state string, p Page) ([]Endpoint, string, error) {
	var w where
	w.and(`state <> 'deleted'`)
	if state != "" {
		w.and(`state = ?`, state)
	}
	es, next, err := listing[Endpoint]{"endpoints", endpointColumns, "endpoints", "ep", scanEndpoint, func(e *Endpoint) string { return e.ID }}.page(ctx, s.read, w, p)
	if err != nil {
		return nil, "", err
	}
	return es, next, s.addKeys(ctx, s.read, es)
}

// UpdateEndpoint changes what a caller sets in an endpoint: name, URL, event
// types, organizations, schedule, timeout, concurrency. change may be called
// again when the transaction has to be repeated.
func (s *Store) UpdateEndpoint(ctx context.Context, id string, change func(*Endpoint) error) (Endpoint, error) {
	var e Endpoint
	err := s.Tx(ctx, func(tx *sql.Tx) (err error) {
		if e, err = s.endpoint(ctx, tx, id, s.forUpdate("UPDATE")); err != nil {
			return err
		}
		if err := change(&e); err != nil {
			return err
		}
		e.UpdatedAt = s.now().Truncate(time.Microsecond)
		if _, err := tx.ExecContext(ctx, `UPDATE endpoints SET name = $1, url = $2, event_types = $3, organization_ids = $4, schedule = $5,
  timeout_ms = $6, concurrency = $7, updated_at = $8 WHERE id = $9`, e.Name, e.URL, jsonList(e.EventTypes), jsonList(e.OrganizationIDs),
			scheduleText(e.Schedule), e.Timeout.Milliseconds(), e.Concurrency, e.UpdatedAt.UnixMicro(), id); err != nil {
			return err
		}
		return bumpEndpoints(ctx, tx)
	})
	if err != nil {
		return Endpoint{}, fmt.Errorf("update endpoint: %w", err)
	}
	return e, nil
}

// EnableEndpoint makes an endpoint receive again what is recorded from now on.
func (s *Store) EnableEndpoint(ctx context.Context, id string) error {
	return s.setEndpointState(ctx, id, EndpointEnabled, "", "")
}

// PauseEndpoint makes an endpoint's deliveries wait, or go on. None is canceled
// and none loses an attempt.
func (s *Store) PauseEndpoint(ctx context.Context, id string, paused bool) error {
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		if err := changed(tx.ExecContext(ctx, `UPDATE endpoints SET paused = $1, updated_at = $2 WHERE id = $3 AND state <> 'deleted'`,
			paused, s.now().UnixMicro(), id)); err != nil {
			return err
		}
		return bumpEndpoints(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("pause endpoint: %w", err)
	}
	return nil
}

// DisableEndpoint stops an endpoint and cancels its open deliveries. One that is
// disabled already keeps its reason.
func (s *Store) DisableEndpoint(ctx context.Context, id, reason string) error {
	return s.setEndpointState(ctx, id, EndpointDisabled, reason, CauseEndpointDisabled)
}

// DisableGone is [Store.DisableEndpoint] for an endpoint that said at a URL that
// it is gone, unless it has moved meanwhile.
func (s *Store) DisableGone(ctx context.Context, id, url, reason string) error {
	var now string
	if err := s.write.QueryRowContext(ctx, `SELECT url FROM endpoints WHERE id = $1`, id).Scan(&now); err != nil {
		return fmt.Errorf("read endpoint: %w", err)
	}
	if now != url {
		return nil
	}
	return s.DisableEndpoint(ctx, id, reason)
}

// DeleteEndpoint stops an endpoint for good, cancels its open deliveries and
// forgets its keys. What was delivered to it remains known.
func (s *Store) DeleteEndpoint(ctx context.Context, id string) error {
	return s.setEndpointState(ctx, id, EndpointDeleted, "", CauseEndpointDeleted)
}

func (s *Store) setEndpointState(ctx context.Context, id, state, reason, cause string) error {
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		now := s.now().UnixMicro()
		if err := changed(tx.ExecContext(ctx, `UPDATE endpoints SET disabled_reason = CASE WHEN state = $1 THEN disabled_reason ELSE $2 END,
  updated_at = CASE WHEN state = $1 THEN updated_at ELSE $3 END, state = $1 WHERE id = $4 AND state <> 'deleted'`, state, reason, now, id)); err != nil {
			return err
		}
		if state == EndpointDeleted {
			if _, err := tx.ExecContext(ctx, `DELETE FROM endpoint_keys WHERE endpoint_id = $1`, id); err != nil {
				return err
			}
		}
		if cause != "" {
			if _, err := s.cancelOpen(ctx, tx, id, cause); err != nil {
				return err
			}
		}
		return bumpEndpoints(ctx, tx)
	})
	if err != nil {
		return fmt.Errorf("set endpoint to %s: %w", state, err)
	}
	return nil
}

// RotateEndpointKey makes an endpoint sign with a new key. The older ones sign
// too until the overlap is over.
func (s *Store) RotateEndpointKey(ctx context.Context, id string, key signing.Key, overlap time.Duration) (Endpoint, error) {
	var e Endpoint
	err := s.Tx(ctx, func(tx *sql.Tx) (err error) {
		if _, err := s.endpoint(ctx, tx, id, s.forUpdate("UPDATE")); err != nil {
			return err
		}
		now := s.now().Truncate(time.Microsecond)
		if err := s.expireKeys(ctx, tx, "endpoint_keys", "endpoint_id", id, now, overlap); err != nil {
			return err
		}
		if err := s.addEndpointKey(ctx, tx, id, key, now); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE endpoints SET updated_at = $1 WHERE id = $2`, now.UnixMicro(), id); err != nil {
			return err
		}
		if err := bumpEndpoints(ctx, tx); err != nil {
			return err
		}
		e, err = s.endpoint(ctx, tx, id, "")
		return err
	})
	if err != nil {
		return Endpoint{}, fmt.Errorf("rotate key: %w", err)
	}
	return e, nil
}

// expireKeys lets the secrets of one owner end after the overlap and deletes
// those that have ended. It refuses when there would be too many valid ones.
func (s *Store) expireKeys(ctx context.Context, tx *sql.Tx, table, column, owner string, now time.Time, overlap time.Duration) error {
	until := now.Add(overlap).UnixMicro()
	if _, err := tx.ExecContext(ctx, `UPDATE `+table+` SET expires_at = $1 WHERE `+column+` = $2 AND (expires_at = 0 OR expires_at > $1)`, until, owner); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM `+table+` WHERE `+column+` = $1 AND expires_at <> 0 AND expires_at <= $2`, owner, now.UnixMicro()); err != nil {
		return err
	}
	var left int
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM `+table+` WHERE `+column+` = $1`, owner).Scan(&left); err != nil {
		return err
	}
	if left >= MaxKeys {
		return fmt.Errorf("%w: %d older secrets are still valid; wait for one to expire, or rotate without overlap", ErrConflict, left)
	}
	return nil
}
