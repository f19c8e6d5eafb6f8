package store

import (
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNewDigits(t *testing.T) {
	t.Parallel()
	s := &Store{}
	id := regexp.MustCompile(`^usr_[0-9]{15,21}$`) // with usr_ 19 to 25 characters
	last := ""
	for range 1000 {
		next := s.NewDigits("usr_")
		if !id.MatchString(next) || next <= last {
			t.Fatalf("%s after %s", next, last)
		}
		last = next
	}
}

func TestClients(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		first, secret, err := s.CreateClient(ctx, "wiki", "env_1")
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^skc_[0-9]{18,}$`).MatchString(first.ID) || !regexp.MustCompile(`^hcs_[a-z2-7]{52}$`).MatchString(secret) ||
			first.Prefix != secret[:10] || first.Name != "wiki" || first.EnvironmentID != "env_1" || !first.CreatedAt.Equal(c.now()) {
			t.Errorf("created %+v with %s", first, secret)
		}
		got, hash, err := s.ValidClient(ctx, first.ID)
		if err != nil || got.ID != first.ID || got.EnvironmentID != "env_1" || hash != HashSecret(secret) || hash == HashSecret("hcs_") {
			t.Errorf("it is %+v: %v", got, err)
		}
		second, other, err := s.CreateClient(ctx, "crm", "env_2")
		if err != nil || other == secret || second.ID == first.ID {
			t.Fatalf("a second one: %+v: %v", second, err)
		}

		for _, step := range []time.Duration{0, 30 * time.Second, 31 * time.Second} { // the second is too soon to be noted
			c.add(step)
			if err := s.TouchClient(ctx, first.ID); err != nil {
				t.Fatal(err)
			}
			if step == 30*time.Second {
				if got, _, err := s.ValidClient(ctx, first.ID); err != nil || !got.LastUsedAt.Equal(c.now().Add(-step)) {
					t.Errorf("last used at %v: %v", got.LastUsedAt, err)
				}
			}
		}
		if got, _, err := s.ValidClient(ctx, first.ID); err != nil || !got.LastUsedAt.Equal(c.now()) {
			t.Errorf("last used at %v: %v", got.LastUsedAt, err)
		}

		if err := s.RevokeClient(ctx, first.ID); err != nil {
			t.Fatal(err)
		}
		at := c.now()
		c.add(time.Hour)
		if err := s.RevokeClient(ctx, first.ID); err != nil {
			t.Errorf("revoking again: %v", err)
		}
		for _, id := range []string{first.ID, "skc_1", ""} {
			if _, _, err := s.ValidClient(ctx, id); !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %v", id, err)
			}
		}
		if err := s.RevokeClient(ctx, "skc_1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("revoking nothing: %v", err)
		}
		if _, _, err := s.ValidClient(ctx, second.ID); err != nil {
			t.Errorf("the other one: %v", err)
		}

		page, next, err := s.ListClients(ctx, Page{Limit: 1})
		if err != nil || len(page) != 1 || page[0].ID != second.ID || next == "" {
			t.Errorf("first page %+v, %q: %v", page, next, err)
		}
		page, next, err = s.ListClients(ctx, Page{Limit: 1, Cursor: next})
		if err != nil || len(page) != 1 || page[0].ID != first.ID || !page[0].RevokedAt.Equal(at) || next != "" {
			t.Errorf("second page %+v, %q: %v", page, next, err)
		}
		var text string
		if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM clients WHERE hash = $1 OR name = $2`, []byte(secret), secret).Scan(&text); err != nil || text != "0" {
			t.Errorf("a secret is kept: %s, %v", text, err)
		}
	})
}

func TestSCIMDirectories(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		first, token, err := s.CreateSCIMDirectory(ctx, SCIMDirectory{EnvironmentID: "env_1", OrganizationID: "org_1", Name: "Okta"})
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`^dir_[0-9]{15,21}$`).MatchString(first.ID) || !regexp.MustCompile(`^scim_[a-z2-7]{52}$`).MatchString(token) ||
			first.EnvironmentID != "env_1" || first.OrganizationID != "org_1" || first.Name != "Okta" || first.State != SCIMDirectoryEnabled ||
			len(first.Tokens) != 1 || first.Tokens[0].Prefix != token[:11] || !first.Tokens[0].ExpiresAt.IsZero() || first.CreatedAt.IsZero() {
			t.Errorf("created %+v with %s", first, token)
		}
		second, other, err := s.CreateSCIMDirectory(ctx, SCIMDirectory{EnvironmentID: "env_1", OrganizationID: "org_2", Name: "Entra"})
		if err != nil {
			t.Fatal(err)
		}

		// A token opens its own directory and no other.
		for token, want := range map[string]string{token: first.ID, other: second.ID} {
			if d, err := s.SCIMDirectoryByToken(ctx, HashSecret(token)); err != nil || d.ID != want || len(d.Tokens) != 1 {
				t.Errorf("%s opens %+v: %v", token, d, err)
			}
		}
		if d, err := s.SCIMDirectoryByToken(ctx, HashSecret("scim_")); !errors.Is(err, ErrNotFound) {
			t.Errorf("an unknown token opens %+v: %v", d, err)
		}

		var ids []string
		for _, organization := range []string{"", "org_1", "org_3"} {
			all, _, err := s.ListSCIMDirectories(ctx, organization, Page{Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range all {
				if len(d.Tokens) != 1 {
					t.Errorf("listed %+v", d)
				}
				ids = append(ids, d.ID)
			}
			ids = append(ids, "|")
		}
		if want := []string{second.ID, first.ID, "|", first.ID, "|", "|"}; !slices.Equal(ids, want) {
			t.Errorf("lists are %v, not %v", ids, want)
		}
		page, next, err := s.ListSCIMDirectories(ctx, "", Page{Limit: 1})
		if err != nil || len(page) != 1 || next == "" {
			t.Fatalf("a page is %+v, %q: %v", page, next, err)
		}
		if page, next, err = s.ListSCIMDirectories(ctx, "", Page{Limit: 1, Cursor: next}); err != nil || len(page) != 1 || page[0].ID != first.ID || next != "" {
			t.Errorf("the next one is %+v, %q: %v", page, next, err)
		}

		if d, err := s.UpdateSCIMDirectory(ctx, first.ID, "Okta 2", ""); err != nil || d.Name != "Okta 2" || d.State != SCIMDirectoryEnabled {
			t.Errorf("renamed %+v: %v", d, err)
		}
		if d, err := s.UpdateSCIMDirectory(ctx, first.ID, "", SCIMDirectoryDisabled); err != nil || d.Name != "Okta 2" || d.State != SCIMDirectoryDisabled {
			t.Errorf("disabled %+v: %v", d, err)
		}
		if d, err := s.SCIMDirectoryByToken(ctx, HashSecret(token)); !errors.Is(err, ErrNotFound) {
			t.Errorf("the token of a disabled one opens %+v: %v", d, err)
		}
		if _, err := s.UpdateSCIMDirectory(ctx, first.ID, "", SCIMDirectoryEnabled); err != nil {
			t.Fatal(err)
		}
		if _, err := s.SCIMDirectoryByToken(ctx, HashSecret(token)); err != nil {
			t.Errorf("enabled again: %v", err)
		}

		if err := s.DeleteSCIMDirectory(ctx, first.ID); err != nil {
			t.Fatal(err)
		}
		for name, f := range map[string]func() error{
			"get":    func() error { _, err := s.SCIMDirectory(ctx, first.ID); return err },
			"open":   func() error { _, err := s.SCIMDirectoryByToken(ctx, HashSecret(token)); return err },
			"update": func() error { _, err := s.UpdateSCIMDirectory(ctx, first.ID, "", ""); return err },
			"rotate": func() error { _, _, err := s.RotateSCIMToken(ctx, first.ID, 0); return err },
			"delete": func() error { return s.DeleteSCIMDirectory(ctx, first.ID) },
		} {
			if err := f(); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s of a deleted directory: %v", name, err)
			}
		}
		if _, err := s.SCIMDirectoryByToken(ctx, HashSecret(other)); err != nil {
			t.Errorf("the other one: %v", err)
		}
	})
}

func TestSCIMTokensOverlapAndExpire(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		d, old, err := s.CreateSCIMDirectory(ctx, SCIMDirectory{EnvironmentID: "env_1", OrganizationID: "org_1", Name: "Okta"})
		if err != nil {
			t.Fatal(err)
		}
		opens := func(token string) bool {
			t.Helper()
			_, err := s.SCIMDirectoryByToken(ctx, HashSecret(token))
			if err != nil && !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			return err == nil
		}
		d, young, err := s.RotateSCIMToken(ctx, d.ID, time.Hour)
		if err != nil || len(d.Tokens) != 2 || !strings.HasPrefix(young, d.Tokens[0].Prefix) || !d.Tokens[0].ExpiresAt.IsZero() ||
			!d.Tokens[1].ExpiresAt.Equal(c.now().Add(time.Hour)) {
			t.Fatalf("rotated %+v: %v", d, err)
		}
		if !opens(old) || !opens(young) {
			t.Error("one of them does not open during the overlap")
		}
		if err := s.TouchSCIMToken(ctx, d.Tokens[0].ID); err != nil {
			t.Fatal(err)
		}
		if got := must(s.SCIMDirectory(ctx, d.ID))(t); !got.Tokens[0].LastUsedAt.Equal(c.now()) || !got.Tokens[1].LastUsedAt.IsZero() {
			t.Errorf("used %+v", got.Tokens)
		}
		c.add(time.Hour)
		if opens(old) || !opens(young) {
			t.Error("after the overlap the old one opens, or the new one does not")
		}
		if got := must(s.SCIMDirectory(ctx, d.ID))(t); len(got.Tokens) != 1 {
			t.Errorf("after the overlap: %+v", got.Tokens)
		}
		for range MaxKeys - 1 {
			if _, _, err := s.RotateSCIMToken(ctx, d.ID, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if _, _, err := s.RotateSCIMToken(ctx, d.ID, time.Hour); !errors.Is(err, ErrConflict) {
			t.Errorf("more than %d tokens: %v", MaxKeys, err)
		}
		d, last, err := s.RotateSCIMToken(ctx, d.ID, 0)
		if err != nil || len(d.Tokens) != 1 || opens(young) || !opens(last) {
			t.Errorf("without overlap: %+v: %v", d, err)
		}
	})
}
