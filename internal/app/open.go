package app

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/handover-dev/handover/internal/store"
)

// masterKey reads the key that encrypts secrets, or creates it at the first
// start.
func (c Config) masterKey() ([]byte, error) {
	path := filepath.Join(c.DataDir, "master.key")
	text, from := c.MasterKey, "HANDOVER_MASTER_KEY"
	if text == "" {
		from = path
		content, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return c.createMasterKey(path)
		case err != nil:
			return nil, fmt.Errorf("read master key: %w", err)
		}
		text = string(content)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != 32 {
		return nil, fmt.Errorf("read master key from %s: it must be 32 bytes in base64, as `openssl rand -base64 32` makes them", from)
	}
	return key, nil
}

func (c Config) createMasterKey(path string) ([]byte, error) {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	key := store.NewMasterKey()
	if err := os.WriteFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600); err != nil {
		return nil, fmt.Errorf("write master key: %w", err)
	}
	return key, nil
}

// openStore waits for a database that is just starting.
func (s *service) openStore(ctx context.Context, master []byte) (*store.Store, error) {
	var opened *store.Store
	err := patiently(ctx, func() error {
		var err error
		opened, err = store.Open(ctx, store.Config{URL: s.DatabaseURL, Dir: s.DataDir, MasterKey: master})
		if errors.Is(err, store.ErrNewerSchema) || s.DatabaseURL == "" {
			return permanent(err)
		}
		if errors.Is(err, store.ErrWrongKey) {
			return backoff.Permanent(fmt.Errorf("%w; start with the HANDOVER_MASTER_KEY that this database was first used with, all processes with the same", err))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return opened, nil
}

func permanent(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}

// patiently tries for half a minute: services that start together need not
// start in order.
func patiently(ctx context.Context, try func() error) error {
	policy := backoff.NewExponentialBackOff(backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxInterval(3*time.Second),
		backoff.WithMaxElapsedTime(30*time.Second))
	return backoff.Retry(try, backoff.WithContext(policy, ctx))
}
