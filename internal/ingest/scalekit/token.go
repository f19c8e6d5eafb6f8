package scalekit

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"net/url"
	"time"

	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
)

// An access token is tokenPrefix and, in base64url, the second in which it
// expires (8 bytes), a nonce, the client's id, and the HMAC-SHA256 of all that.
// Nothing is stored for it.
const (
	tokenPrefix = "sat_"
	tokenLife   = 24*time.Hour - time.Second
	tokenNonce  = 16
	tokenHead   = 8 + tokenNonce
	maxToken    = 512 // characters
	maxClientID = 64

	maxForm = 64 << 10
)

var (
	errTokenForged  = errors.New("the access token was not made here")
	errTokenExpired = errors.New("the access token is too old")
)

func tokenMAC(key, content []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(tokenPrefix)) // what else is signed with the key is no token
	mac.Write(content)
	return mac.Sum(nil)
}

func sealToken(key []byte, clientID string, now time.Time) string {
	b := make([]byte, tokenHead, tokenHead+len(clientID)+sha256.Size)
	binary.BigEndian.PutUint64(b, uint64(now.Add(tokenLife).Unix())) //nolint:gosec // G115: after 1970
	_, _ = rand.Read(b[8:])                                          // never fails
	b = append(b, clientID...)
	b = append(b, tokenMAC(key, b)...)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// openToken returns the id of the client that a token was made for.
func openToken(key []byte, token string, now time.Time) (clientID string, err error) {
	if len(token) > maxToken || len(token) < len(tokenPrefix) || token[:len(tokenPrefix)] != tokenPrefix {
		return "", errTokenForged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token[len(tokenPrefix):])
	if err != nil || len(b) <= tokenHead+sha256.Size {
		return "", errTokenForged
	}
	content, mac := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if !hmac.Equal(mac, tokenMAC(key, content)) {
		return "", errTokenForged
	}
	if now.Unix() >= int64(binary.BigEndian.Uint64(content)) { //nolint:gosec // G115: it is ours
		return "", errTokenExpired
	}
	return string(content[tokenHead:]), nil
}

// token serves /oauth/token: a token for the secret of a client. An Authorization
// header is of no interest: SDKs send their old token along.
func (h *Handler) token(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		tokenError(w, http.StatusMethodNotAllowed, "invalid_request", "ask for tokens with POST")
		return
	}
	form, err := readForm(w, r)
	if err != nil {
		tokenError(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	switch form.Get("grant_type") {
	case "client_credentials":
	case "":
		tokenError(w, http.StatusBadRequest, "invalid_request", "grant_type is missing")
		return
	default:
		tokenError(w, http.StatusBadRequest, "unsupported_grant_type", "grant_type has to be client_credentials")
		return
	}
	if err := h.blocked(r.RemoteAddr); err != nil {
		no := h.refusal(r.Context(), err)
		no.retryAfter(w.Header())
		tokenError(w, no.status, "temporarily_unavailable", no.text)
		return
	}
	id, secret := form.Get("client_id"), sha256.Sum256([]byte(form.Get("client_secret")))
	hash := [32]byte{} // that of no secret
	err = store.ErrNotFound
	if len(id) <= maxClientID && isWord(id) {
		_, hash, err = h.client(r.Context(), id)
	}
	switch same := subtle.ConstantTimeCompare(secret[:], hash[:]) == 1; {
	case errors.Is(err, store.ErrNotFound), err == nil && !same:
		if h.Limiter != nil {
			h.Limiter.Spend(limit.Address(r.RemoteAddr))
		}
		tokenError(w, http.StatusUnauthorized, "invalid_client", "the client is unknown or revoked, or its secret is another")
		return
	case err != nil:
		no := h.refusal(r.Context(), h.unavailable(r.Context(), err))
		no.retryAfter(w.Header())
		tokenError(w, no.status, "temporarily_unavailable", no.text)
		return
	}
	h.used(r.Context(), id)
	writeJSON(w, http.StatusOK, struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"` // seconds
	}{sealToken(h.TokenKey, id, h.Now()), "Bearer", int64(tokenLife / time.Second)})
}

// readForm reads a form in which nothing is there twice.
func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return nil, errors.New("send a form, as application/x-www-form-urlencoded")
	}
	if encoded(r) {
		return nil, errors.New("send the form without a content encoding")
	}
	body, err := readBody(w, r, maxForm)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("the form is not URL-encoded")
	}
	for _, values := range form {
		if len(values) > 1 {
			return nil, errors.New("a parameter is there more than once")
		}
	}
	return form, nil
}

// tokenError answers as RFC 6749, section 5.2, says.
func tokenError(w http.ResponseWriter, status int, code, description string) {
	writeJSON(w, status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, description})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that went away is no concern of ours
}
