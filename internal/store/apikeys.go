package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base32"
	"fmt"
	"strings"
	"time"
)

// APIKeyFromStart names the key that the process was started with.
const APIKeyFromStart = "HANDOVER_API_KEY"

const apiKeyColumns = `id, name, prefix, created_at, last_used_at, revoked_at`

func scanAPIKey(k *APIKey, scan func(...any) error) error {
	var created, used, revoked int64
	if err := scan(&k.ID, &k.Name, &k.Prefix, &created, &used, &revoked); err != nil {
		return err
	}
	k.CreatedAt, k.LastUsedAt, k.RevokedAt = time.UnixMicro(created), timeOf(used), timeOf(revoked)
	return nil
}

// newAPIKey is 256 bits, so that a plain hash of it cannot be reversed.
func newAPIKey() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return "hk_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// HashAPIKey is what is kept of an API key.
func HashAPIKey(text string) [32]byte { return sha256.Sum256([]byte(text)) }

// CreateAPIKey makes an API key. Its text is not kept.
func (s *Store) CreateAPIKey(ctx context.Context, name string) (k APIKey, text string, err error) {
	text = newAPIKey()
	k = APIKey{ID: s.NewID("key_"), Name: name, Prefix: text[:9], CreatedAt: s.now().Truncate(time.Microsecond)}
	hash := HashAPIKey(text)
	if _, err := s.write.ExecContext(ctx, `INSERT INTO api_keys (id, name, prefix, hash, created_at) VALUES ($1, $2, $3, $4, $5)`,
		k.ID, k.Name, k.Prefix, hash[:], k.CreatedAt.UnixMicro()); err != nil {
		return APIKey{}, "", fmt.Errorf("create API key: %w", err)
	}
	return k, text, nil
}

// EnsureAPIKey makes sure that somebody can use the API. A configured key is
// made valid, and the one that was configured before it, if another, is revoked.
// Without one, a key is created unless there is a valid one, and returned this
// once.
func (s *Store) EnsureAPIKey(ctx context.Context, configured string) (created string, err error) {
	if configured != "" {
		if err := s.configureAPIKey(ctx, configured); err != nil {
			return "", fmt.Errorf("configure API key: %w", err)
		}
		return "", nil
	}
	var valid int
	if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM api_keys WHERE revoked_at = 0`).Scan(&valid); err != nil {
		return "", fmt.Errorf("count API keys: %w", err)
	}
	if valid > 0 {
		return "", nil
	}
	_, created, err = s.CreateAPIKey(ctx, "first")
	return created, err
}

func (s *Store) configureAPIKey(ctx context.Context, text string) error {
	hash := HashAPIKey(text)
	return s.Tx(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO api_keys (id, name, prefix, hash, created_at) VALUES ($1, $2, '', $3, $4)
ON CONFLICT (hash) DO UPDATE SET revoked_at = 0`, s.NewID("key_"), APIKeyFromStart, hash[:], s.now().UnixMicro()); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE api_keys SET revoked_at = $1 WHERE name = $2 AND hash <> $3 AND revoked_at = 0`,
			s.now().UnixMicro(), APIKeyFromStart, hash[:])
		return err
	})
}

// ValidAPIKey returns the key with that hash if it is not revoked.
func (s *Store) ValidAPIKey(ctx context.Context, hash [32]byte) (APIKey, error) {
	return one(ctx, s.read, "API key", scanAPIKey, `SELECT `+apiKeyColumns+` FROM api_keys WHERE hash = $1 AND revoked_at = 0`, hash[:])
}

// TouchAPIKey notes that a key was used. It writes at most once a minute.
func (s *Store) TouchAPIKey(ctx context.Context, id string) error {
	now := s.now()
	if _, err := s.write.ExecContext(ctx, `UPDATE api_keys SET last_used_at = $1 WHERE id = $2 AND last_used_at <= $3`,
		now.UnixMicro(), id, now.Add(-time.Minute).UnixMicro()); err != nil {
		return fmt.Errorf("note use of API key: %w", err)
	}
	return nil
}

// ListAPIKeys lists API keys, revoked ones too, newest first.
func (s *Store) ListAPIKeys(ctx context.Context, p Page) ([]APIKey, string, error) {
	return listing[APIKey]{"api_keys", apiKeyColumns, "API keys", "key", scanAPIKey, func(k *APIKey) string { return k.ID }}.page(ctx, s.read, where{}, p)
}

// RevokeAPIKey makes a key invalid. One that is already stays so.
func (s *Store) RevokeAPIKey(ctx context.Context, id string) error {
	err := changed(s.write.ExecContext(ctx, `UPDATE api_keys SET revoked_at = CASE WHEN revoked_at = 0 THEN $1 ELSE revoked_at END WHERE id = $2`,
		s.now().UnixMicro(), id))
	if err != nil {
		return fmt.Errorf("revoke API key: %w", err)
	}
	return nil
}
