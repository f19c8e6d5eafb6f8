package app

import (
	"context"
	"crypto/hkdf"
	"crypto/sha256"
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
func (c Config) masterKey() (key []byte, created bool, err error) {
	path := c.masterKeyFile()
	text, from := c.MasterKey, "HANDOVER_MASTER_KEY"
	if text == "" {
		from = path
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			if err := c.createMasterKey(path); err != nil {
				return nil, false, err
			}
			created = true
			content, err = os.ReadFile(path)
		}
		if err != nil {
			return nil, false, fmt.Errorf("read master key: %w", err)
		}
		text = string(content)
	}
	key, err = base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(key) != 32 {
		return nil, false, fmt.Errorf("read master key from %s: it must be 32 bytes in base64, as `openssl rand -base64 32` makes them", from)
	}
	return key, created, nil
}

func (c Config) masterKeyFile() string { return filepath.Join(c.DataDir, "master.key") }

// createMasterKey writes a new key, on the disk and in one piece, before
// anything is encrypted with it. When another process was quicker, its key
// stands.
func (c Config) createMasterKey(path string) error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	f, err := os.CreateTemp(c.DataDir, "master.key-")
	if err != nil {
		return fmt.Errorf("write master key: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(store.NewMasterKey()) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write master key: %w", err)
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write master key: %w", err)
	}
	return nil
}

// openStore waits for a database that is just starting.
func (s *service) openStore(ctx context.Context) (*store.Store, error) {
	master, created, err := s.masterKey()
	if err != nil {
		return nil, err
	}
	if s.tokenKey, err = hkdf.Key(sha256.New, master, nil, "handover access tokens", 32); err != nil {
		return nil, fmt.Errorf("derive token key: %w", err)
	}
	var opened *store.Store
	err = s.patiently(ctx, "database", func() error {
		var err error
		opened, err = store.Open(ctx, store.Config{URL: s.DatabaseURL, Dir: s.DataDir, MasterKey: master, Now: s.Now})
		switch {
		case errors.Is(err, store.ErrWrongKey) && created:
			// A key that fits nothing would only hide that the right one is missing.
			return permanent(errors.Join(fmt.Errorf("%w; put the right one into %s, or give it in HANDOVER_MASTER_KEY", err, s.masterKeyFile()),
				os.Remove(s.masterKeyFile())))
		case errors.Is(err, store.ErrWrongKey):
			return permanent(fmt.Errorf("%w; give the key that this database was first used with, the same to all processes", err))
		case errors.Is(err, store.ErrNewerSchema), s.DatabaseURL == "":
			return permanent(err)
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
func (c Config) patiently(ctx context.Context, server string, try func() error) error {
	policy := backoff.NewExponentialBackOff(backoff.WithInitialInterval(200*time.Millisecond), backoff.WithMaxInterval(3*time.Second),
		backoff.WithMaxElapsedTime(30*time.Second))
	said := false
	return backoff.RetryNotify(try, backoff.WithContext(policy, ctx), func(err error, _ time.Duration) {
		if !said {
			c.Log.WarnContext(ctx, "waiting for a server, for half a minute", "server", server, "error", err)
			said = true
		}
	})
}
