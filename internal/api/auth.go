package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
)

type keyContext struct{}

// keyID is the API key that a request came with.
func keyID(ctx context.Context) string {
	id, _ := ctx.Value(keyContext{}).(string)
	return id
}

const (
	keyMemory = time.Second // for how long a key is believed to be valid
	keyTouch  = time.Minute // how often its use is noted
	maxKey    = 512
)

// keys remembers the valid API keys that were seen lately, by the hash of their
// text: comparing hashes tells an attacker nothing about a key.
type keys struct {
	mu      sync.RWMutex
	byHash  map[[32]byte]seenKey
	touched map[string]time.Time
	revoked int // counts, so that a look-up that began before one is not remembered
}

type seenKey struct {
	id    string
	until time.Time
}

// authenticate lets only requests with a valid API key through.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		text = strings.Trim(text, " ")
		if !strings.EqualFold(scheme, "Bearer") || text == "" || len(text) > maxKey || len(r.Header["Authorization"]) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="handover"`)
			writeError(w, refuse(http.StatusUnauthorized, "send an API key, as Authorization: Bearer hk_…", at("header.Authorization", "has no API key")))
			return
		}
		sender := s.address(r)
		id, err := s.validKey(r.Context(), text, sender)
		var wait *tooManyFailures
		switch {
		case errors.As(err, &wait):
			writeError(w, huma.ErrorWithHeaders(refuse(http.StatusTooManyRequests, "too many API keys from this address were not valid"), http.Header{"Retry-After": {wait.seconds()}}))
		case errors.Is(err, store.ErrNotFound):
			s.Failures.Spend(sender)
			w.Header().Set("WWW-Authenticate", `Bearer realm="handover", error="invalid_token"`)
			writeError(w, refuse(http.StatusUnauthorized, "the API key is not valid", at("header.Authorization", "has an API key that is unknown or revoked")))
		case err != nil:
			writeError(w, s.answerTo(r.Context(), err, "API key"))
		default:
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keyContext{}, id)))
		}
	})
}

// tooManyFailures says that an address has to wait before another API key of it
// is looked up.
type tooManyFailures struct{ wait time.Duration }

func (t *tooManyFailures) Error() string { return "too many API keys were not valid" }

func (t *tooManyFailures) seconds() string {
	return strconv.Itoa(int((t.wait + time.Second - 1) / time.Second))
}

func (s *Server) address(r *http.Request) string {
	if s.Address != nil {
		return s.Address(r)
	}
	return limit.Address(r.RemoteAddr)
}

// validKey looks a key up, unless it was valid a moment ago.
func (s *Server) validKey(ctx context.Context, text, sender string) (id string, err error) {
	hash, now := store.HashAPIKey(text), s.now()
	s.keys.mu.RLock()
	seen, ok := s.keys.byHash[hash]
	revoked := s.keys.revoked
	s.keys.mu.RUnlock()
	if ok && now.Before(seen.until) {
		return seen.id, nil
	}
	if wait, blocked := s.Failures.Blocked(sender); blocked {
		return "", &tooManyFailures{wait}
	}
	k, err := s.Store.ValidAPIKey(ctx, hash)
	if err != nil {
		return "", err
	}
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	if s.keys.byHash == nil {
		s.keys.byHash, s.keys.touched = make(map[[32]byte]seenKey), make(map[string]time.Time)
	}
	if s.keys.revoked == revoked {
		s.keys.byHash[hash] = seenKey{k.ID, now.Add(keyMemory)}
	}
	if now.Sub(s.keys.touched[k.ID]) >= keyTouch {
		s.keys.touched[k.ID] = now
		go s.touch(context.WithoutCancel(ctx), k.ID)
	}
	return k.ID, nil
}

// touch notes the use of a key, beside the request's path.
func (s *Server) touch(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := s.Store.TouchAPIKey(ctx, id); err != nil {
		s.log().DebugContext(ctx, "could not note the use of an API key", "error", err)
	}
}

// forgetKeys makes the next request of each key look it up.
func (s *Server) forgetKeys() {
	s.keys.mu.Lock()
	clear(s.keys.byHash)
	s.keys.revoked++
	s.keys.mu.Unlock()
}
