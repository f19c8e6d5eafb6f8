package scalekit

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
)

// SuccessorHeader names who takes over, by id or email, in requests that remove
// a member or delete a user.
const SuccessorHeader = "X-Handover-Successor"

// call is what a request's headers tell.
type call struct {
	env       string
	successor []string
}

type callKey struct{}

// callOf returns what authenticate left.
func callOf(ctx context.Context) call {
	c, _ := ctx.Value(callKey{}).(call)
	return c
}

// authenticate lets requests through that have a valid token. Only forged tokens
// count as attempts to break in: SDKs begin without a token, and get to know that
// theirs is too old by being told so.
func (h *Handler) authenticate(ctx context.Context, header http.Header, remote string) (context.Context, error) {
	text, ok := bearer(header)
	if !ok {
		return ctx, refuse(connect.CodeUnauthenticated, "send an access token, as Authorization: Bearer")
	}
	id, err := openToken(h.TokenKey, text, h.Now())
	switch {
	case errors.Is(err, errTokenExpired):
		return ctx, refuse(connect.CodeUnauthenticated, "the access token is too old")
	case err != nil:
		if err := h.failed(remote); err != nil {
			return ctx, err
		}
		return ctx, refuse(connect.CodeUnauthenticated, "the access token is not valid")
	}
	client, _, err := h.client(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return ctx, refuse(connect.CodeUnauthenticated, "the access token's client was revoked")
	case err != nil:
		return ctx, h.unavailable(ctx, err)
	}
	if h.Limiter != nil {
		if wait, ok := h.Limiter.Allow(id); !ok {
			return ctx, tooMany("too many requests of this client", wait)
		}
	}
	h.used(ctx, id)
	return context.WithValue(ctx, callKey{}, call{client.EnvironmentID, header.Values(SuccessorHeader)}), nil
}

func bearer(header http.Header) (text string, ok bool) {
	values := header["Authorization"]
	if len(values) != 1 {
		return "", false
	}
	scheme, text, _ := strings.Cut(values[0], " ")
	text = strings.Trim(text, " ")
	return text, strings.EqualFold(scheme, "Bearer") && text != ""
}

// blocked refuses who has failed too often.
func (h *Handler) blocked(remote string) error {
	if h.Limiter != nil {
		if wait, blocked := h.Limiter.Blocked(limit.Address(remote)); blocked {
			return tooMany("too many failed attempts from this address", wait)
		}
	}
	return nil
}

// failed notes a failed attempt, or refuses it if there were too many.
func (h *Handler) failed(remote string) error {
	if err := h.blocked(remote); err != nil {
		return err
	}
	if h.Limiter != nil {
		h.Limiter.Spend(limit.Address(remote))
	}
	return nil
}

const (
	clientMemoryFor = time.Second // for how long a client is believed to be valid
	clientTouch     = time.Minute // how often its use is noted
)

// clientMemory remembers the valid clients that were there lately.
type clientMemory struct {
	mu      sync.RWMutex
	byID    map[string]seenClient
	touched map[string]time.Time
	forgot  int // counts, so that a look-up that began before is not remembered
}

type seenClient struct {
	client store.Client
	secret [32]byte // its hash
	until  time.Time
}

// Forget makes the next request of each client look it up.
func (h *Handler) Forget() {
	h.clients.mu.Lock()
	clear(h.clients.byID)
	h.clients.forgot++
	h.clients.mu.Unlock()
}

// client returns a valid client, and the hash of its secret, as they are or were
// a moment ago.
func (h *Handler) client(ctx context.Context, id string) (store.Client, [32]byte, error) {
	m, now := &h.clients, h.Now()
	m.mu.RLock()
	seen, ok := m.byID[id]
	forgot := m.forgot
	m.mu.RUnlock()
	if ok && now.Before(seen.until) {
		return seen.client, seen.secret, nil
	}
	client, secret, err := h.Clients.ValidClient(ctx, id)
	if err != nil {
		return store.Client{}, [32]byte{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.byID == nil {
		m.byID, m.touched = make(map[string]seenClient), make(map[string]time.Time)
	}
	if m.forgot == forgot {
		m.byID[id] = seenClient{client, secret, now.Add(clientMemoryFor)}
	}
	return client, secret, nil
}

// used notes the use of a client once a minute, beside the request's path.
func (h *Handler) used(ctx context.Context, id string) {
	m, now := &h.clients, h.Now()
	m.mu.RLock()
	recent := now.Sub(m.touched[id]) < clientTouch
	m.mu.RUnlock()
	if recent {
		return
	}
	m.mu.Lock()
	recent = now.Sub(m.touched[id]) < clientTouch
	m.touched[id] = now
	m.mu.Unlock()
	if recent {
		return
	}
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxCall)
		defer cancel()
		if err := h.Clients.TouchClient(ctx, id); err != nil {
			h.Log.DebugContext(ctx, "could not note the use of a client", "error", err)
		}
	}()
}
