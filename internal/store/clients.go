package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
)

// NewDigits returns prefix and 21 digits, as Scalekit's ids are made. Like those
// of NewID they sort by the time they were made.
func (s *Store) NewDigits(prefix string) string {
	return prefix + strings.TrimPrefix(events.NewID(), "evt_")
}

// newSecret is a prefix and 256 bits, so that a plain hash of it cannot be
// reversed; shown is what it may be known by.
func newSecret(prefix string) (text, shown string, hash [32]byte) {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	text = prefix + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
	return text, text[:len(prefix)+6], HashSecret(text)
}

// HashSecret is what is kept of a client's secret and of a directory's token.
func HashSecret(text string) [32]byte { return sha256.Sum256([]byte(text)) }

const clientColumns = `id, name, environment_id, prefix, created_at, last_used_at, revoked_at`

func scanClient(c *Client, scan func(...any) error) error {
	var created, used, revoked int64
	if err := scan(&c.ID, &c.Name, &c.EnvironmentID, &c.Prefix, &created, &used, &revoked); err != nil {
		return err
	}
	c.CreatedAt, c.LastUsedAt, c.RevokedAt = time.UnixMicro(created), timeOf(used), timeOf(revoked)
	return nil
}

// CreateClient makes a client of an environment. Its secret is not kept.
func (s *Store) CreateClient(ctx context.Context, name, environmentID string) (c Client, secret string, err error) {
	secret, shown, hash := newSecret("hcs_")
	c = Client{ID: s.NewDigits("skc_"), Name: name, EnvironmentID: environmentID, Prefix: shown, CreatedAt: s.now().Truncate(time.Microsecond)}
	if _, err := s.write.ExecContext(ctx, `INSERT INTO clients (id, name, environment_id, prefix, hash, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		c.ID, c.Name, c.EnvironmentID, c.Prefix, hash[:], c.CreatedAt.UnixMicro()); err != nil {
		return Client{}, "", fmt.Errorf("create client: %w", err)
	}
	return c, secret, nil
}

// ValidClient returns a client that is not revoked, and the hash of its secret.
func (s *Store) ValidClient(ctx context.Context, id string) (c Client, hash [32]byte, err error) {
	var kept []byte
	c, err = one(ctx, s.read, "client", func(c *Client, scan func(...any) error) error {
		return scanClient(c, func(dest ...any) error { return scan(append(dest, &kept)...) })
	}, `SELECT `+clientColumns+`, hash FROM clients WHERE id = $1 AND revoked_at = 0`, id)
	copy(hash[:], kept)
	return c, hash, err
}

// TouchClient notes that a client logged in. It writes at most once a minute.
func (s *Store) TouchClient(ctx context.Context, id string) error {
	return s.touch(ctx, "clients", "client", id)
}

// touch notes that a row of a table was used, if that is a minute ago or more.
func (s *Store) touch(ctx context.Context, table, what, id string) error {
	now := s.now()
	if _, err := s.write.ExecContext(ctx, `UPDATE `+table+` SET last_used_at = $1 WHERE id = $2 AND last_used_at <= $3`,
		now.UnixMicro(), id, now.Add(-time.Minute).UnixMicro()); err != nil {
		return fmt.Errorf("note use of %s: %w", what, err)
	}
	return nil
}

// ListClients lists clients, revoked ones too, newest first.
func (s *Store) ListClients(ctx context.Context, p Page) ([]Client, string, error) {
	return listing[Client]{"clients", clientColumns, "clients", "skc", scanClient, func(c *Client) string { return c.ID }}.page(ctx, s.read, where{}, p)
}

// RevokeClient makes a client invalid. One that is already stays so.
func (s *Store) RevokeClient(ctx context.Context, id string) error {
	err := changed(s.write.ExecContext(ctx, `UPDATE clients SET revoked_at = CASE WHEN revoked_at = 0 THEN $1 ELSE revoked_at END WHERE id = $2`,
		s.now().UnixMicro(), id))
	if err != nil {
		return fmt.Errorf("revoke client: %w", err)
	}
	return nil
}
