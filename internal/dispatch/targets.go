package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/signing"
)

// target is an endpoint, ready to be sent to.
type target struct {
	store.Endpoint
	policy Policy
	keys   signing.Signer
	// expires is when the first of the keys does; zero: never.
	expires time.Time
}

func newTarget(e store.Endpoint) *target {
	t := &target{Endpoint: e, policy: Policy{Schedule: e.Schedule}}
	for _, k := range e.Keys {
		t.keys.Keys = append(t.keys.Keys, k.Key)
		if !k.ExpiresAt.IsZero() && (t.expires.IsZero() || k.ExpiresAt.Before(t.expires)) {
			t.expires = k.ExpiresAt
		}
	}
	return t
}

// signer signs with all keys that are valid at a time.
func (t *target) signer(now time.Time) signing.Signer {
	if t.expires.IsZero() || now.Before(t.expires) {
		return t.keys
	}
	var s signing.Signer
	for _, k := range t.Keys {
		if k.ExpiresAt.IsZero() || now.Before(k.ExpiresAt) {
			s.Keys = append(s.Keys, k.Key)
		}
	}
	return s
}

// targets are the enabled endpoints as last read.
type targets struct {
	mu      sync.RWMutex
	version int64 // 0: to be read again
	byID    map[string]*target
}

func (ts *targets) get(id string) *target {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byID[id]
}

// find returns an endpoint, nil if it is not enabled.
func (ts *targets) find(ctx context.Context, from *store.Store, id string) (*target, error) {
	ts.mu.RLock()
	t, current := ts.byID[id], ts.version != 0
	ts.mu.RUnlock()
	if t != nil && current {
		return t, nil
	}
	if err := ts.read(ctx, from); err != nil {
		return nil, err
	}
	return ts.get(id), nil
}

// forget makes the next find read the endpoints again.
func (ts *targets) forget() {
	ts.mu.Lock()
	ts.version = 0
	ts.mu.Unlock()
}

// refresh reads the endpoints again if they changed.
func (ts *targets) refresh(ctx context.Context, from *store.Store) error {
	version, err := from.EndpointsVersion(ctx)
	if err != nil {
		return err
	}
	ts.mu.RLock()
	same := ts.version == version
	ts.mu.RUnlock()
	if same {
		return nil
	}
	return ts.read(ctx, from)
}

func (ts *targets) read(ctx context.Context, from *store.Store) error {
	version, all, err := from.Endpoints(ctx)
	if err != nil {
		return err
	}
	byID := make(map[string]*target, len(all))
	for _, e := range all {
		if e.State == store.EndpointEnabled {
			byID[e.ID] = newTarget(e)
		}
	}
	ts.mu.Lock()
	ts.version, ts.byID = version, byID
	ts.mu.Unlock()
	return nil
}

// unattested is the outcome of a delivery whose app did not say what it did.
const unattested = "unattested"

// outcome reads what the app says it did.
func outcome(a Answer) (outcome, receipt, problem string) {
	success := a.Verdict() == Success
	if a.Receipt == nil {
		if success {
			return unattested, "", ""
		}
		return "", "", ""
	}
	r, err := handlers.ParseReceipt(a.Receipt)
	switch {
	case errors.Is(err, handlers.ErrNoReceipt):
		if success {
			return unattested, "", ""
		}
		return "", "", ""
	case err != nil:
		return unattested, "", err.Error()
	}
	encoded, err := json.Marshal(r)
	if err != nil {
		return unattested, "", err.Error()
	}
	return r.Outcome(), string(encoded), ""
}
