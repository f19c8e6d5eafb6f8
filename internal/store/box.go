package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
)

// box encrypts what must not be readable in the database or its backups:
// AES-256-GCM, the nonce first, the place it stands in as additional data, so
// that a secret copied to another row does not open.
type box struct{ aead cipher.AEAD }

func newBox(key []byte) (box, error) {
	if len(key) != 32 {
		return box{}, fmt.Errorf("read master key: it has %d bytes, not 32", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return box{}, fmt.Errorf("read master key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return box{}, fmt.Errorf("read master key: %w", err)
	}
	return box{aead}, nil
}

func (b box) seal(plain, place string) []byte {
	return b.aead.Seal(nil, nil, []byte(plain), []byte(place)) //nolint:gosec // the nonce is random: NewGCMWithRandomNonce
}

func (b box) open(sealed []byte, place string) (string, error) {
	plain, err := b.aead.Open(nil, nil, sealed, []byte(place))
	if err != nil {
		return "", fmt.Errorf("decrypt secret: %w", ErrWrongKey)
	}
	return string(plain), nil
}

// NewMasterKey makes a key for [Config.MasterKey].
func NewMasterKey() []byte {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return key
}

const keyCheck = "handover"

// checkKey refuses a master key other than the one that the database was
// started with, before a secret fails to open in the middle of a delivery.
func (s *Store) checkKey(ctx context.Context) error {
	_, err := s.write.ExecContext(ctx, `INSERT INTO control (id, key_check, created_at) VALUES (1, $1, $2) ON CONFLICT (id) DO NOTHING`,
		s.box.seal(keyCheck, "control"), s.now().UnixMicro())
	if err != nil {
		return fmt.Errorf("record master key check: %w", err)
	}
	var sealed []byte
	if err := s.read.QueryRowContext(ctx, `SELECT key_check FROM control WHERE id = 1`).Scan(&sealed); err != nil {
		return fmt.Errorf("read master key check: %w", err)
	}
	plain, err := s.box.open(sealed, "control")
	if err != nil {
		return ErrWrongKey
	}
	if subtle.ConstantTimeCompare([]byte(plain), []byte(keyCheck)) != 1 {
		return errors.Join(ErrWrongKey, errors.New("the check value differs"))
	}
	return nil
}
