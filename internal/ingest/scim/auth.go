package scim

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
)

const (
	tokenPrefix  = "scim_"
	maxToken     = 512
	tokenMemory  = time.Second // for how long a token is believed to be valid
	tokenTouch   = time.Minute // how often its use is noted
	maxRemembers = 10_000      // tokens
	enabled      = "enabled"   // the state of a directory that is served
)

// tokens remembers the valid tokens that were seen lately, by their hash:
// comparing hashes tells an attacker nothing about a token.
type tokens struct {
	mu     sync.RWMutex
	byHash map[[32]byte]seenToken
	forgot int // counts Forget, so that what was read before it is not remembered
}

type seenToken struct {
	dir     store.SCIMDirectory
	until   time.Time
	touched time.Time // when its use was noted
}

// Forget makes the next request with each token look it up.
func (h *Handler) Forget() {
	h.tokens.mu.Lock()
	clear(h.tokens.byHash)
	h.tokens.forgot++
	h.tokens.mu.Unlock()
}

// authenticate returns the directory that a request may use: the one in its path,
// if the token opens it.
func (h *Handler) authenticate(ctx context.Context, r *http.Request, id string) (store.SCIMDirectory, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.Trim(token, " ")
	hash := sha256.Sum256([]byte(token))
	h.tokens.mu.RLock()
	seen, known := h.tokens.byHash[hash]
	h.tokens.mu.RUnlock()
	// Who showed a valid token is not held back by strangers behind the same
	// address: directories of many organizations, or a proxy, may share it.
	address := "scim-auth:" + limit.Address(r.RemoteAddr)
	if h.Limiter != nil && !known {
		if d, blocked := h.Limiter.Blocked(address); blocked {
			return store.SCIMDirectory{}, wait(http.StatusTooManyRequests, "there were too many requests without a valid token", d)
		}
	}
	if !same(scheme, "Bearer") || !strings.HasPrefix(token, tokenPrefix) || len(token) > maxToken || len(r.Header["Authorization"]) != 1 {
		h.spend(address)
		return store.SCIMDirectory{}, unauthorized(`Bearer realm="scim"`, "send the directory's token, as Authorization: Bearer scim_…")
	}
	dir := seen.dir
	if now := h.now(); !known || !now.Before(seen.until) {
		var err error
		if dir, err = h.lookUp(ctx, hash, now); errors.Is(err, store.ErrNotFound) {
			h.spend(address)
			return dir, unauthorized(`Bearer realm="scim", error="invalid_token"`, "the token is not valid")
		} else if err != nil {
			return dir, h.lookUpFailed(ctx, err)
		}
	}
	if dir.ID != id || dir.State != enabled {
		return dir, unauthorized(`Bearer realm="scim", error="invalid_token"`, "the token is not valid for this directory")
	}
	return dir, nil
}

func (h *Handler) lookUp(ctx context.Context, hash [32]byte, now time.Time) (store.SCIMDirectory, error) {
	h.tokens.mu.RLock()
	forgot := h.tokens.forgot
	h.tokens.mu.RUnlock()
	dir, err := h.Tokens.SCIMDirectoryByToken(ctx, hash)
	h.tokens.mu.Lock()
	defer h.tokens.mu.Unlock()
	switch {
	case errors.Is(err, store.ErrNotFound):
		delete(h.tokens.byHash, hash)
	case err == nil && h.tokens.forgot == forgot:
		if h.tokens.byHash == nil || len(h.tokens.byHash) >= maxRemembers {
			h.tokens.byHash = make(map[[32]byte]seenToken)
		}
		seen := seenToken{dir, now.Add(tokenMemory), h.tokens.byHash[hash].touched}
		if now.Sub(seen.touched) >= tokenTouch {
			seen.touched = now
			go h.touch(context.WithoutCancel(ctx), dir)
		}
		h.tokens.byHash[hash] = seen
	}
	return dir, err
}

// touch notes the use of a token, beside the request's path.
func (h *Handler) touch(ctx context.Context, dir store.SCIMDirectory) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for _, t := range dir.Tokens {
		if err := h.Tokens.TouchSCIMToken(ctx, t.ID); err != nil {
			h.log().DebugContext(ctx, "could not note the use of a token", "error", err)
		}
	}
}

func (h *Handler) lookUpFailed(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		h.log().ErrorContext(ctx, "a token could not be looked up", "error", err)
	}
	return wait(http.StatusServiceUnavailable, "the service cannot do it now; send it again", time.Second)
}

func (h *Handler) spend(key string) {
	if h.Limiter != nil {
		h.Limiter.Spend(key)
	}
}

func unauthorized(challenge, detail string) error {
	return &problem{status: http.StatusUnauthorized, detail: detail, header: http.Header{"Www-Authenticate": {challenge}}}
}
