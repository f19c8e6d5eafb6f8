package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

// clock is a time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time      { return c.t }
func (c *clock) add(d time.Duration) { c.t = c.t.Add(d) }

// withClock gives a store a clock that stands still.
func withClock(s *Store) *clock {
	c := &clock{time.Now().Truncate(time.Microsecond)}
	s.now = c.now
	return c
}

func must[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestEndpointsAreKeptAndTheirChangesSeen(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		version := must(s.EndpointsVersion(ctx))(t)
		bumped := func(what string) {
			t.Helper()
			v := must(s.EndpointsVersion(ctx))(t)
			if v <= version {
				t.Errorf("%s did not change the version", what)
			}
			version = v
		}
		key := signing.NewKey()
		e := must(s.CreateEndpoint(ctx, Endpoint{
			Name: "App", URL: "https://app.example.com/in", EventTypes: []string{"user.deleted", "b"}, OrganizationIDs: []string{"org_1"},
			Schedule: []time.Duration{0, 1500 * time.Millisecond}, Timeout: 3 * time.Second, Concurrency: 7,
		}, key))(t)
		bumped("creating")
		if !strings.HasPrefix(e.ID, "ep_") || e.State != EndpointEnabled || len(e.Keys) != 1 || !e.Keys[0].Key.Equal(key) ||
			e.Schedule[1] != 1500*time.Millisecond || e.Timeout != 3*time.Second || e.Concurrency != 7 || e.CreatedAt.IsZero() {
			t.Errorf("created %+v", e)
		}
		if diff := cmp.Diff([]string{"user.deleted", "b"}, e.EventTypes); diff != "" {
			t.Error(diff)
		}

		e, err := s.UpdateEndpoint(ctx, e.ID, func(e *Endpoint) error {
			e.Name, e.OrganizationIDs, e.Schedule = "New", nil, nil
			return nil
		})
		if err != nil || e.Name != "New" || len(e.OrganizationIDs) != 0 || e.Schedule != nil {
			t.Errorf("updated %+v: %v", e, err)
		}
		bumped("updating")
		if got := must(s.Endpoint(ctx, e.ID))(t); got.Name != "New" || got.URL != e.URL {
			t.Errorf("read back %+v", got)
		}

		if err := s.DisableEndpoint(ctx, e.ID, "it answered 410 Gone"); err != nil {
			t.Fatal(err)
		}
		bumped("disabling")
		if err := s.DisableEndpoint(ctx, e.ID, "by an operator"); err != nil {
			t.Fatal(err)
		}
		if got := must(s.Endpoint(ctx, e.ID))(t); got.State != EndpointDisabled || got.DisabledReason != "it answered 410 Gone" {
			t.Errorf("disabled twice: %+v", got)
		}
		if err := s.EnableEndpoint(ctx, e.ID); err != nil {
			t.Fatal(err)
		}
		if got := must(s.Endpoint(ctx, e.ID))(t); got.State != EndpointEnabled || got.DisabledReason != "" {
			t.Errorf("enabled: %+v", got)
		}

		v, all, err := s.Endpoints(ctx)
		if err != nil || len(all) != 1 || len(all[0].Keys) != 1 || v < version {
			t.Errorf("all endpoints: %d, %+v, %v", v, all, err)
		}
		if err := s.DeleteEndpoint(ctx, e.ID); err != nil {
			t.Fatal(err)
		}
		bumped("deleting")
		if _, all, err = s.Endpoints(ctx); err != nil || len(all) != 0 {
			t.Errorf("after deleting: %+v, %v", all, err)
		}
		for name, f := range map[string]func() error{
			"get":     func() error { _, err := s.Endpoint(ctx, e.ID); return err },
			"update":  func() error { _, err := s.UpdateEndpoint(ctx, e.ID, func(*Endpoint) error { return nil }); return err },
			"enable":  func() error { return s.EnableEndpoint(ctx, e.ID) },
			"disable": func() error { return s.DisableEndpoint(ctx, e.ID, "") },
			"delete":  func() error { return s.DeleteEndpoint(ctx, e.ID) },
			"rotate":  func() error { _, err := s.RotateEndpointKey(ctx, e.ID, signing.NewKey(), 0); return err },
		} {
			if err := f(); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s of a deleted endpoint: %v", name, err)
			}
		}
		var left int
		if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM endpoint_keys`).Scan(&left); err != nil || left != 0 {
			t.Errorf("%d keys of a deleted endpoint remain: %v", left, err)
		}
	})
}

func TestKeysOverlapAndExpire(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		first, second, third := signing.NewKey(), signing.NewKey(), signing.NewKey()
		e := must(s.CreateEndpoint(ctx, Endpoint{Name: "a", URL: "https://a", EventTypes: []string{"*"}}, first))(t)
		e = must(s.RotateEndpointKey(ctx, e.ID, second, time.Hour))(t)
		if len(e.Keys) != 2 || !e.Keys[0].Key.Equal(second) || !e.Keys[0].ExpiresAt.IsZero() || !e.Keys[1].ExpiresAt.Equal(c.now().Add(time.Hour)) {
			t.Fatalf("after a rotation: %+v", e.Keys)
		}
		c.add(59 * time.Minute)
		e = must(s.RotateEndpointKey(ctx, e.ID, third, time.Hour))(t)
		if len(e.Keys) != 3 || !e.Keys[2].ExpiresAt.Equal(c.now().Add(time.Minute)) {
			t.Errorf("a second rotation made the first key live longer: %+v", e.Keys)
		}
		c.add(time.Minute)
		if e = must(s.Endpoint(ctx, e.ID))(t); len(e.Keys) != 2 {
			t.Errorf("an expired key is still there: %+v", e.Keys)
		}
		if e = must(s.RotateEndpointKey(ctx, e.ID, signing.NewKey(), 0))(t); len(e.Keys) != 1 {
			t.Errorf("rotated without overlap: %+v", e.Keys)
		}
		for range MaxKeys - 1 {
			must(s.RotateEndpointKey(ctx, e.ID, signing.NewKey(), time.Hour))(t)
		}
		if _, err := s.RotateEndpointKey(ctx, e.ID, signing.NewKey(), time.Hour); !errors.Is(err, ErrConflict) {
			t.Errorf("more than %d keys: %v", MaxKeys, err)
		}
	})
}

func TestSecretsAreSealedInTheirPlace(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, key := t.Context(), signing.NewKey()
		a := must(s.CreateEndpoint(ctx, Endpoint{Name: "a", URL: "https://a", EventTypes: []string{"*"}}, key))(t)
		must(s.CreateEndpoint(ctx, Endpoint{Name: "b", URL: "https://b", EventTypes: []string{"*"}}, signing.NewKey()))(t)
		must(s.CreateSource(ctx, Source{Name: "idp", Kind: "scalekit", EnvironmentID: "env_1"}, key))(t)
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(key.Secret(), "whsec_"))
		if err != nil {
			t.Fatal(err)
		}
		for _, table := range []string{"endpoint_keys", "source_secrets"} {
			rows := must(query(ctx, s.read, "secrets", func(b *[]byte, scan func(...any) error) error { return scan(b) }, `SELECT secret FROM `+table))(t)
			for _, sealed := range rows {
				if bytes.Contains(sealed, raw) || bytes.Contains(sealed, []byte(key.Secret())) {
					t.Errorf("a secret lies open in %s", table)
				}
			}
		}
		if _, err := s.write.ExecContext(ctx, `UPDATE endpoint_keys SET secret = (SELECT secret FROM endpoint_keys WHERE endpoint_id = $1) WHERE endpoint_id <> $1`, a.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.Endpoints(ctx); !errors.Is(err, ErrWrongKey) {
			t.Errorf("a secret that was copied to another row opens: %v", err)
		}
	})
}

func TestEndpointListPages(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		l := newLine(t, s, 5)
		if err := s.DisableEndpoint(t.Context(), l.endpoints[2], "x"); err != nil {
			t.Fatal(err)
		}
		if err := s.DeleteEndpoint(t.Context(), l.endpoints[3]); err != nil {
			t.Fatal(err)
		}
		list := func(state string, limit int) (ids []string) {
			t.Helper()
			for p := (Page{Limit: limit}); ; {
				es, next, err := s.ListEndpoints(t.Context(), state, p)
				if err != nil || len(es) > limit {
					t.Fatalf("%d of %d: %v", len(es), limit, err)
				}
				for _, e := range es {
					ids = append(ids, e.ID)
					if len(e.Keys) != 1 {
						t.Errorf("%d keys", len(e.Keys))
					}
				}
				if p.Cursor = next; next == "" {
					return ids
				}
			}
		}
		want := []string{l.endpoints[4], l.endpoints[2], l.endpoints[1], l.endpoints[0]}
		for _, limit := range []int{1, 2, 3, 4, 50} {
			if diff := cmp.Diff(want, list("", limit)); diff != "" {
				t.Errorf("limit %d: %s", limit, diff)
			}
		}
		if diff := cmp.Diff([]string{l.endpoints[2]}, list(EndpointDisabled, 1)); diff != "" {
			t.Error(diff)
		}
	})
}

func TestCursorsOfOthersAreRefused(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		lists := map[string]func(Page) error{
			"endpoints":  func(p Page) error { _, _, err := s.ListEndpoints(ctx, "", p); return err },
			"sources":    func(p Page) error { _, _, err := s.ListSources(ctx, p); return err },
			"keys":       func(p Page) error { _, _, err := s.ListAPIKeys(ctx, p); return err },
			"replays":    func(p Page) error { _, _, err := s.ListReplays(ctx, p); return err },
			"events":     func(p Page) error { _, _, err := s.ListEvents(ctx, EventFilter{}, p); return err },
			"deliveries": func(p Page) error { _, _, err := s.ListDeliveries(ctx, DeliveryFilter{}, p); return err },
			"a person's": func(p Page) error { _, _, err := s.ListDeliveries(ctx, DeliveryFilter{UserID: "usr_1"}, p); return err },
		}
		for name, list := range lists {
			for _, bad := range []string{
				"x", "====", cursor("zz", "1"), cursor("ev", "-1"), cursor("ev", "01"), cursor("ev", "1e3"), cursor("ev", ""), cursor("ep", "a\x00b"),
				cursor("d", "x"), cursor("de", "5"), cursor("d", "-1.a"), strings.Repeat("A", 1000), base64.StdEncoding.EncodeToString([]byte("ep:a?")) + "\n",
			} {
				if err := list(Page{Cursor: bad, Limit: 5}); !errors.Is(err, ErrCursor) {
					t.Errorf("%s with the cursor %q: %v", name, bad, err)
				}
			}
		}
	})
}

func TestSources(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		one, two, three := signing.NewKey(), signing.NewKey(), signing.NewKey()
		src := must(s.CreateSource(ctx, Source{Name: "idp", Kind: "scalekit", EnvironmentID: "env_1"}, one, two))(t)
		if len(src.Secrets) != 2 || src.State != SourceEnabled || src.CreatedAt.IsZero() {
			t.Errorf("created %+v", src)
		}
		if _, err := s.CreateSource(ctx, Source{Name: "idp", Kind: "scalekit", EnvironmentID: "env_2"}, one); !errors.Is(err, ErrConflict) {
			t.Errorf("a name that is taken: %v", err)
		}
		src = must(s.RotateSourceSecret(ctx, src.ID, three, time.Hour))(t)
		if len(src.Secrets) != 3 || !src.Secrets[0].Key.Equal(three) {
			t.Errorf("rotated %+v", src)
		}
		c.add(time.Hour)
		if src = must(s.SourceNamed(ctx, "idp"))(t); len(src.Secrets) != 1 || !src.Secrets[0].Key.Equal(three) {
			t.Errorf("after the overlap: %+v", src)
		}
		if src = must(s.UpdateSource(ctx, src.ID, "", SourceDisabled, ""))(t); src.State != SourceDisabled || src.EnvironmentID != "env_1" {
			t.Errorf("disabled %+v", src)
		}
		if src = must(s.UpdateSource(ctx, src.ID, "env_3", "", ""))(t); src.State != SourceDisabled || src.EnvironmentID != "env_3" {
			t.Errorf("moved %+v", src)
		}
		second := must(s.CreateSource(ctx, Source{Name: "other", Kind: "scalekit", EnvironmentID: "env_1"}, one))(t)
		page, next, err := s.ListSources(ctx, Page{Limit: 1})
		if err != nil || len(page) != 1 || page[0].ID != second.ID {
			t.Errorf("first page %+v, %v", page, err)
		}
		page, next, err = s.ListSources(ctx, Page{Limit: 1, Cursor: next})
		if err != nil || len(page) != 1 || page[0].ID != src.ID || len(page[0].Secrets) != 1 || next != "" {
			t.Errorf("second page %+v, %q, %v", page, next, err)
		}
		if err := s.DeleteSource(ctx, src.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Source(ctx, src.ID); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if err := s.DeleteSource(ctx, src.ID); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := s.RotateSourceSecret(ctx, src.ID, one, 0); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		if _, err := s.UpdateSource(ctx, src.ID, "", "", ""); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		text := must(s.EnsureAPIKey(ctx, ""))(t)
		if !strings.HasPrefix(text, "hk_") || len(text) < 50 {
			t.Fatalf("the first key is %q", text)
		}
		if again := must(s.EnsureAPIKey(ctx, ""))(t); again != "" {
			t.Error("a second start made another key")
		}
		k := must(s.ValidAPIKey(ctx, HashAPIKey(text)))(t)
		if k.Name != "first" || !strings.HasPrefix(text, k.Prefix) || k.Prefix == "" || !k.LastUsedAt.IsZero() {
			t.Errorf("it is %+v", k)
		}
		if _, err := s.ValidAPIKey(ctx, HashAPIKey(text+"x")); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		var plain int
		if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM api_keys WHERE hash = $1`, []byte(text)).Scan(&plain); err != nil || plain != 0 {
			t.Errorf("the text is kept: %v", err)
		}

		first := c.now()
		for range 3 {
			if err := s.TouchAPIKey(ctx, k.ID); err != nil {
				t.Fatal(err)
			}
			c.add(20 * time.Second)
		}
		if k = must(s.ValidAPIKey(ctx, HashAPIKey(text)))(t); !k.LastUsedAt.Equal(first) {
			t.Errorf("written more than once a minute: %v, not %v", k.LastUsedAt, first)
		}
		if err := s.TouchAPIKey(ctx, k.ID); err != nil {
			t.Fatal(err)
		}
		if k = must(s.ValidAPIKey(ctx, HashAPIKey(text)))(t); !k.LastUsedAt.Equal(c.now()) {
			t.Errorf("not written after a minute: %v", k.LastUsedAt)
		}

		other, _, err := s.CreateAPIKey(ctx, "other")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.RevokeAPIKey(ctx, k.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ValidAPIKey(ctx, HashAPIKey(text)); !errors.Is(err, ErrNotFound) {
			t.Errorf("a revoked key is valid: %v", err)
		}
		if err := s.RevokeAPIKey(ctx, "key_none"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		all, next, err := s.ListAPIKeys(ctx, Page{Limit: 10})
		if err != nil || next != "" || len(all) != 2 || all[0].ID != other.ID || all[1].RevokedAt.IsZero() {
			t.Errorf("%+v, %q, %v", all, next, err)
		}

		// A key from the start's configuration works, also after it was revoked, and
		// its successor puts an end to it.
		for range 2 {
			must(s.EnsureAPIKey(ctx, "from the environment"))(t)
			k = must(s.ValidAPIKey(ctx, HashAPIKey("from the environment")))(t)
			if err := s.RevokeAPIKey(ctx, k.ID); err != nil {
				t.Fatal(err)
			}
		}
		must(s.EnsureAPIKey(ctx, "from the environment"))(t)
		must(s.EnsureAPIKey(ctx, "its successor"))(t)
		if _, err := s.ValidAPIKey(ctx, HashAPIKey("from the environment")); !errors.Is(err, ErrNotFound) {
			t.Errorf("a key that is configured no more is valid: %v", err)
		}
		must(s.ValidAPIKey(ctx, HashAPIKey("its successor")))(t)
		if err := s.RevokeAPIKey(ctx, other.ID); err != nil {
			t.Fatal(err)
		}
		if created := must(s.EnsureAPIKey(ctx, ""))(t); created != "" {
			t.Error("a key was created although one is valid")
		}
	})
}

// world is many events and deliveries in all states, and all of them in memory
// to compare with.
type world struct {
	*Store
	endpoints  []Endpoint
	events     []Event
	deliveries []Delivery
}

// newWorld makes n events of 20 people in 4 organizations, one a second, the
// last one now, and deliveries of them to 3 endpoints.
func newWorld(t *testing.T, s *Store, n int) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{Store: s}
	for range 3 {
		w.endpoints = append(w.endpoints, must(s.CreateEndpoint(ctx, Endpoint{Name: "a", URL: "https://a", EventTypes: []string{"*"}}, signing.NewKey()))(t))
	}
	r := rand.New(rand.NewPCG(1, uint64(n)))
	start := time.Now().Truncate(time.Microsecond).Add(-time.Duration(n) * time.Second)
	open := make(map[group]bool)
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		for i := range n {
			person := r.IntN(20)
			ev := Event{
				Seq: int64(i + 1), ID: fmt.Sprintf("evt_%d", i), EnvironmentID: "env_1", Type: []string{"a", "b", "c"}[r.IntN(3)],
				OrganizationID: fmt.Sprintf("org_%d", person%4), UserID: fmt.Sprintf("usr_%d", person), Subject: fmt.Sprintf("usr_%d", person),
				OccurredAt: start.Add(time.Duration(i) * time.Second), RecordedAt: start.Add(time.Duration(i) * time.Second), Body: []byte("{}"),
			}
			if person == 0 {
				ev.UserID, ev.Subject, ev.OrganizationID = "", "", ""
			}
			w.events = append(w.events, ev)
			if _, err := tx.ExecContext(ctx, `INSERT INTO handover_events (seq, id, environment_id, type, organization_id, user_id, subject, occurred_at, recorded_at, body)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`, ev.Seq, ev.ID, ev.EnvironmentID, ev.Type, ev.OrganizationID, ev.UserID, ev.Subject,
				ev.OccurredAt.UnixNano(), ev.RecordedAt.UnixMicro(), ev.Body); err != nil {
				return err
			}
			for _, e := range w.endpoints {
				if r.IntN(10) == 0 {
					continue
				}
				id := deliveryIDAt(ev.RecordedAt)[:4+10] + fmt.Sprintf("%016d", len(w.deliveries))
				d := Delivery{
					ID: id, EventID: ev.ID, EventSeq: ev.Seq, EventType: ev.Type, EndpointID: e.ID, OrganizationID: ev.OrganizationID, UserID: ev.UserID,
					State: Succeeded, CreatedAt: ev.RecordedAt,
				}
				g := group{e.ID, ev.Subject}
				if g.orderKey == "" {
					g.orderKey = id
				}
				switch k := r.IntN(100); {
				case k < 10:
					d.State = Failed
				case k < 13:
					d.State = Canceled
				case k < 16:
					d.State = Superseded
				case k < 26 && open[g]:
					d.State = Held
				case k < 20:
					d.State, open[g] = Pending, true
				case k < 22:
					d.State, open[g] = Sending, true
				}
				w.deliveries = append(w.deliveries, d)
				if _, err := tx.ExecContext(ctx, `INSERT INTO deliveries (id, event_seq, endpoint_id, order_key, state, due_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $6, $6)`, d.ID, d.EventSeq, d.EndpointID, g.orderKey, d.State, d.CreatedAt.UnixMicro()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.postgres() {
		if _, err := s.write.ExecContext(ctx, `SELECT setval(pg_get_serial_sequence('handover_events', 'seq'), $1)`, n); err != nil {
			t.Fatal(err)
		}
		if _, err := s.write.ExecContext(ctx, `ANALYZE`); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (f DeliveryFilter) matches(d Delivery) bool {
	in := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	is := func(want, v string) bool { return want == "" || want == v }
	return in(f.IDs, d.ID) && in(f.EventIDs, d.EventID) && is(f.EndpointID, d.EndpointID) && is(f.EventType, d.EventType) &&
		is(f.OrganizationID, d.OrganizationID) && is(f.UserID, d.UserID) && is(f.State, d.State.String()) &&
		(f.Since.IsZero() || !d.CreatedAt.Before(f.Since)) && (f.Until.IsZero() || d.CreatedAt.Before(f.Until))
}

func (w *world) want(f DeliveryFilter) (ids []string) {
	for _, d := range w.deliveries {
		if f.matches(d) {
			ids = append(ids, d.ID)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids
}

func (w *world) list(t *testing.T, f DeliveryFilter, limit int) (ids []string) {
	t.Helper()
	for p := (Page{Limit: limit}); ; {
		ds, next, err := w.ListDeliveries(t.Context(), f, p)
		if err != nil || len(ds) > limit {
			t.Fatalf("%+v: %d of %d: %v", f, len(ds), limit, err)
		}
		for _, d := range ds {
			ids = append(ids, d.ID)
		}
		if p.Cursor = next; next == "" {
			return ids
		}
	}
}

// filters are all kinds of them.
func (w *world) filters() []DeliveryFilter {
	ep, mid := w.endpoints[1].ID, w.events[len(w.events)/2].RecordedAt
	fs := []DeliveryFilter{
		{},
		{EndpointID: ep},
		{OrganizationID: "org_2"},
		{UserID: "usr_7"},
		{EventType: "b"},
		{EventIDs: []string{"evt_5", "evt_6", "none"}},
		{IDs: []string{w.deliveries[3].ID, w.deliveries[9].ID, "none"}},
		{IDs: []string{w.deliveries[3].ID}, State: "failed"},
		{OrganizationID: "org_none"},
		{UserID: "usr_none"},
		{EndpointID: "ep_none"},
		{Since: mid},
		{Until: mid},
		{Since: mid, Until: mid.Add(20 * time.Second)},
		{UserID: "usr_7", Since: mid},
		{OrganizationID: "org_1", Until: mid},
		{UserID: "usr_7", OrganizationID: "org_3", EndpointID: ep, EventType: "a"},
		{UserID: "usr_7", OrganizationID: "org_1"},
		{EventIDs: []string{"evt_5", "evt_6", "evt_7"}, EndpointID: ep},
		{IDs: []string{w.deliveries[3].ID}, EventIDs: []string{"evt_99999"}},
	}
	for state := Pending; state <= Canceled; state++ {
		word := state.String()
		fs = append(fs, DeliveryFilter{State: word}, DeliveryFilter{State: word, EndpointID: ep}, DeliveryFilter{State: word, OrganizationID: "org_1"},
			DeliveryFilter{State: word, UserID: "usr_3"}, DeliveryFilter{State: word, EventType: "c", Since: mid}, DeliveryFilter{State: word, EndpointID: ep, Until: mid})
	}
	return fs
}

func TestDeliveryListsHaveAllThatMatchesOnce(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		w := newWorld(t, s, 1200) // more deliveries than several windows
		for _, f := range w.filters() {
			want := w.want(f)
			for _, limit := range []int{1, 7, 50, 200} {
				if limit == 1 && len(want) > 60 {
					continue
				}
				got := w.list(t, f, limit)
				if f.UserID == "" && f.OrganizationID == "" && !slices.IsSortedFunc(got, func(a, b string) int { return strings.Compare(b, a) }) {
					t.Errorf("%+v: not newest first", f)
				}
				slices.Sort(got)
				slices.Reverse(got)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%+v by %d: %s", f, limit, diff)
				}
			}
		}
		d := must(s.Delivery(t.Context(), w.deliveries[5].ID))(t)
		want := w.deliveries[5]
		if d.EventID != want.EventID || d.EventType != want.EventType || d.UserID != want.UserID || d.State != want.State || !d.CreatedAt.Equal(want.CreatedAt) {
			t.Errorf("%+v, not %+v", d, want)
		}
		if _, err := s.Delivery(t.Context(), "msg_none"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

func TestAPageOfARareMatchLooksAtBoundedRows(t *testing.T) {
	t.Parallel()
	looked, from := 0, 1000000
	end, done, err := walk(from, 10,
		func(from, n int) (int, bool, error) { return from - n, true, nil },
		func(from int, to *int, n int) (int, error) { looked += from - *to; return 0, nil })
	if err != nil || done || looked != maxScanned || end != from-maxScanned {
		t.Errorf("looked at %d rows, to %d, done %v: %v", looked, end, done, err)
	}
}

func TestEventLists(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		w := newWorld(t, s, 1200)
		mid := w.events[600].RecordedAt
		for _, f := range []EventFilter{
			{},
			{Type: "a"},
			{OrganizationID: "org_1"},
			{UserID: "usr_5"},
			{UserID: "usr_5", OrganizationID: "org_1"},
			{UserID: "usr_5", OrganizationID: "org_2"},
			{Type: "none"},
			{Since: mid},
			{Until: mid},
			{Since: mid, Until: mid.Add(3 * time.Second)},
			{Since: mid.Add(-time.Microsecond), Type: "b", OrganizationID: "org_3"},
			{Since: time.Now().Add(time.Hour)},
			{Until: mid.Add(-time.Hour)},
		} {
			var want []string
			for _, ev := range slices.Backward(w.events) {
				if (f.Type == "" || f.Type == ev.Type) && (f.OrganizationID == "" || f.OrganizationID == ev.OrganizationID) && (f.UserID == "" || f.UserID == ev.UserID) &&
					(f.Since.IsZero() || !ev.RecordedAt.Before(f.Since)) && (f.Until.IsZero() || ev.RecordedAt.Before(f.Until)) {
					want = append(want, ev.ID)
				}
			}
			for _, limit := range []int{3, 50, 200} {
				var got []string
				for p := (Page{Limit: limit}); ; {
					es, next, err := s.ListEvents(t.Context(), f, p)
					if err != nil {
						t.Fatal(err)
					}
					for _, ev := range es {
						got = append(got, ev.ID)
						if ev.Body != nil {
							t.Error("a list has bodies")
						}
					}
					if p.Cursor = next; next == "" {
						break
					}
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("%+v by %d: %s", f, limit, diff)
				}
			}
		}
		ev := must(s.Event(t.Context(), "evt_7", ""))(t)
		if string(ev.Body) != "{}" || !ev.OccurredAt.Equal(w.events[7].OccurredAt) || ev.Seq != 8 {
			t.Errorf("%+v", ev)
		}
		must(s.Event(t.Context(), "evt_7", "env_1"))(t)
		if _, err := s.Event(t.Context(), "evt_7", "env_2"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

// TestOpenAndFailedAreFoundWithoutReadingWhatIsDone looks at the plans, which
// is what a test can see of the cost on a large history.
func TestOpenAndFailedAreFoundWithoutReadingWhatIsDone(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		w := newWorld(t, s, 1500)
		// Most of what there is, is done.
		if _, err := s.write.ExecContext(t.Context(), `UPDATE deliveries SET state = 3 WHERE state > 3 AND event_seq < 1300 OR state < 3 AND event_seq < 1400`); err != nil {
			t.Fatal(err)
		}
		if s.postgres() {
			// These tables are so small that reading all of them is cheap.
			if _, err := s.write.ExecContext(t.Context(), `ANALYZE deliveries; DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$`); err != nil {
				t.Fatal(err)
			}
			s.write.SetMaxIdleConns(0) // new connections have the setting
		}
		ep := w.endpoints[0].ID
		for _, c := range []struct {
			f       DeliveryFilter
			indexes []string // one of them has to be used
		}{
			{DeliveryFilter{State: "failed"}, []string{"deliveries_failed"}},
			{DeliveryFilter{State: "failed", EndpointID: ep}, []string{"deliveries_failed"}},
			{DeliveryFilter{State: "failed", OrganizationID: "org_1"}, []string{"deliveries_failed"}},
			{DeliveryFilter{State: "pending"}, []string{"deliveries_due", "deliveries_active"}},
			{DeliveryFilter{State: "pending", EndpointID: ep}, []string{"deliveries_due", "deliveries_active"}},
			{DeliveryFilter{State: "sending"}, []string{"deliveries_sending", "deliveries_active"}},
			{DeliveryFilter{State: "held"}, []string{"deliveries_held"}},
			{DeliveryFilter{State: "sending", EndpointID: ep}, []string{"deliveries_sending", "deliveries_active"}},
			{DeliveryFilter{State: "held", EndpointID: ep}, []string{"deliveries_held"}},
			{DeliveryFilter{State: "held", OrganizationID: "org_1"}, []string{"deliveries_held"}},
			{DeliveryFilter{UserID: "usr_5"}, []string{"handover_events_user"}},
			{DeliveryFilter{UserID: "usr_5", State: "failed"}, []string{"handover_events_user"}},
		} {
			plan := explain(t, s, c.f)
			if !slices.ContainsFunc(c.indexes, func(name string) bool { return strings.Contains(plan, name) }) ||
				strings.Contains(plan, "SCAN d\n") || strings.Contains(plan, "Seq Scan on deliveries") || strings.Contains(plan, "Seq Scan on handover_events") {
				t.Errorf("%+v:\n%s", c.f, plan)
			}
		}
	})
}

// explainer notes the plans of the queries that pass through it.
type explainer struct {
	*sql.DB
	prefix string
	plan   strings.Builder
}

func (e *explainer) note(ctx context.Context, text string, args []any) {
	rows, err := e.DB.QueryContext(ctx, e.prefix+text, args...)
	if err != nil {
		e.plan.WriteString(err.Error())
		return
	}
	defer rows.Close()
	columns, _ := rows.Columns()
	for rows.Next() {
		cells := make([]any, len(columns))
		for i := range cells {
			cells[i] = new(any)
		}
		if err := rows.Scan(cells...); err != nil {
			e.plan.WriteString(err.Error())
		}
		fmt.Fprintln(&e.plan, *cells[len(cells)-1].(*any))
	}
}

func (e *explainer) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	e.note(ctx, text, args)
	return e.DB.QueryContext(ctx, text, args...)
}

func (e *explainer) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	e.note(ctx, text, args)
	return e.DB.QueryRowContext(ctx, text, args...)
}

func explain(t *testing.T, s *Store, f DeliveryFilter) string {
	t.Helper()
	e := &explainer{DB: s.read, prefix: "EXPLAIN QUERY PLAN "}
	if s.postgres() {
		e.prefix = "EXPLAIN "
	}
	w := must(s.way(t.Context(), f))(t)
	if _, _, _, err := s.walk(t.Context(), e, w, w.start(true), w.start(false), true, 51); err != nil {
		t.Fatal(err)
	}
	return e.plan.String()
}

func TestRetryAndCancel(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		l := newLine(t, s, 1)
		ep := l.endpoints[0]
		l.route("w1", l.publish("a", "a", "b")...)
		ds, _, err := s.ListDeliveries(ctx, DeliveryFilter{EndpointID: ep}, Page{Limit: 10})
		if err != nil || len(ds) != 3 {
			t.Fatalf("%d deliveries: %v", len(ds), err)
		}
		b, a2, a1 := ds[0], ds[1], ds[2]
		if l.states() != "sending held sending" {
			t.Fatal(l.states())
		}
		if _, err := s.RetryDelivery(ctx, a1.ID); !errors.Is(err, ErrSending) {
			t.Errorf("retry of one that is sent just now: %v", err)
		}
		if due := must(s.CancelDelivery(ctx, a1.ID))(t); !slices.Equal(due, []string{ep}) {
			t.Errorf("canceling the first of a person made %v due", due)
		}
		if l.states() != "canceled pending sending" {
			t.Fatal(l.states())
		}
		if d := must(s.Delivery(ctx, a1.ID))(t); d.LastError != CauseOperator {
			t.Errorf("%+v", d)
		}
		if _, err := s.CancelDelivery(ctx, a1.ID); !errors.Is(err, ErrFinal) {
			t.Errorf("canceled twice: %v", err)
		}
		must(s.RetryDelivery(ctx, a1.ID))(t)
		if l.states() != "held pending sending" {
			t.Errorf("retried while another of the person is active: %s", l.states())
		}
		must(s.CancelDelivery(ctx, a2.ID))(t)
		if l.states() != "pending canceled sending" {
			t.Error(l.states())
		}
		if due := must(s.RetryDelivery(ctx, a1.ID))(t); !slices.Equal(due, []string{ep}) {
			t.Errorf("retry of a pending one: %v", due)
		}
		for _, err := range []error{
			func() error { _, err := s.RetryDelivery(ctx, "msg_none"); return err }(), func() error { _, err := s.CancelDelivery(ctx, "msg_none"); return err }(),
		} {
			if !errors.Is(err, ErrNotFound) {
				t.Error(err)
			}
		}
		if _, err := s.write.ExecContext(ctx, `UPDATE deliveries SET state = 5 WHERE id = $1`, b.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := s.RetryDelivery(ctx, b.ID); !errors.Is(err, ErrSuperseded) {
			t.Errorf("a superseded delivery is sent again: %v", err)
		}
		if err := s.DisableEndpoint(ctx, ep, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.RetryDelivery(ctx, a2.ID); !errors.Is(err, ErrEndpointNotReady) {
			t.Errorf("retry at a disabled endpoint: %v", err)
		}
	})
}

func TestDisablingAndDeletingCancelWhatIsOpenThere(t *testing.T) {
	t.Parallel()
	for cause, stop := range map[string]func(*Store, context.Context, string) error{
		CauseEndpointDisabled: func(s *Store, ctx context.Context, id string) error { return s.DisableEndpoint(ctx, id, "x") },
		CauseEndpointDeleted:  func(s *Store, ctx context.Context, id string) error { return s.DeleteEndpoint(ctx, id) },
	} {
		t.Run(cause, func(t *testing.T) {
			t.Parallel()
			eachDatabase(t, func(t *testing.T, s *Store) {
				l := newLine(t, s, 2)
				l.route("", l.publish("a", "a", "a", "b")...)
				l.claim("w1", 1)
				if err := stop(s, t.Context(), l.endpoints[0]); err != nil {
					t.Fatal(err)
				}
				for _, id := range l.endpoints {
					ds, _, err := s.ListDeliveries(t.Context(), DeliveryFilter{EndpointID: id}, Page{Limit: 10})
					if err != nil || len(ds) != 4 {
						t.Fatal(len(ds), err)
					}
					for _, d := range ds {
						if stopped := id == l.endpoints[0]; stopped != (d.State == Canceled) || stopped != (d.LastError == cause) {
							t.Errorf("at the stopped endpoint %v: %v %q", stopped, d.State, d.LastError)
						}
					}
				}
			})
		})
	}
}

func TestATestEventGoesToOneEndpoint(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		l := newLine(t, s, 2)
		ev := must(events.Complete([]byte(`{"type":"handover.test","object":"Test","data":{}}`), events.Defaults{EnvironmentID: "env_1"}))(t)
		d := must(s.InsertTestDelivery(ctx, l.endpoints[0], ev))(t)
		if d.State != Pending || d.EventID != ev.ID || d.EndpointID != l.endpoints[0] {
			t.Errorf("%+v", d)
		}
		if n := l.count(`SELECT count(*) FROM handover_outbox`); n != 0 {
			t.Error("the router will see the test event")
		}
		if got := must(s.Event(ctx, ev.ID, ""))(t); !bytes.Equal(got.Body, ev.Body()) {
			t.Errorf("recorded %s", got.Body)
		}
		if total, _, err := s.CountReplay(ctx, Selection{EndpointID: l.endpoints[1], Missing: true}); err != nil || total != 0 {
			t.Errorf("a test event is missing at another endpoint: %d, %v", total, err)
		}
		if err := s.DisableEndpoint(ctx, l.endpoints[0], "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.InsertTestDelivery(ctx, l.endpoints[0], ev); !errors.Is(err, ErrEndpointNotReady) {
			t.Errorf("a test of a disabled endpoint: %v", err)
		}
		if _, err := s.InsertTestDelivery(ctx, "ep_none", ev); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
	})
}

// play runs a replay to its end by pages of a size and returns it.
func play(t *testing.T, s *Store, owner, id string, size int) Replay {
	t.Helper()
	for range 10000 {
		page := must(s.ContinueReplay(t.Context(), owner, id, size))(t)
		if page.Moved+page.Skipped > size {
			t.Fatalf("%d in a page of %d", page.Moved+page.Skipped, size)
		}
		if page.State != ReplayRunning {
			return must(s.Replay(t.Context(), id))(t)
		}
	}
	t.Fatal("it does not end")
	return Replay{}
}

func TestReplaysMoveWhatIsSelectedOnce(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		w := newWorld(t, s, 400)
		if err := s.DisableEndpoint(ctx, w.endpoints[2].ID, "x"); err != nil { // cancels there
			t.Fatal(err)
		}
		mid := w.events[200].RecordedAt
		for i, sel := range []Selection{
			{State: "failed"},
			{State: "failed", OrganizationID: "org_1"},
			{UserID: "usr_6"},
			{OrganizationID: "org_2", Until: mid},
			{EndpointID: w.endpoints[0].ID, Since: mid},
			{EventType: "a"},
			{DeliveryIDs: []string{w.deliveries[1].ID, w.deliveries[2].ID, "none"}},
			{EventIDs: []string{"evt_3", "evt_4"}},
			{State: "canceled"},
			{Since: mid, Until: mid.Add(time.Minute)},
			{UserID: "usr_none"},
		} {
			total, skips, err := s.CountReplay(ctx, sel)
			if err != nil {
				t.Fatal(err)
			}
			before := w.states(t)
			r := must(s.CreateReplay(ctx, sel, 0))(t)
			if r.Total != total || r.State != ReplayRunning {
				t.Errorf("%d: created %+v, counted %d", i, r, total)
			}
			if mine := must(s.ClaimReplays(ctx, "w1"))(t); len(mine) != 1 || mine[0].ID != r.ID {
				t.Fatalf("claimed %+v", mine)
			}
			r = play(t, s, "w1", r.ID, 7)
			if r.State != ReplayDone || r.Total != total || r.Done+r.Skipped != total || r.Skipped != skips {
				t.Errorf("%d: %+v, counted %d and %d to skip", i, r, total, skips)
			}
			after, moved := w.states(t), int64(0)
			for id, state := range before {
				d := w.byID(id)
				selected := sel.filter()
				selected.State = ""
				inSelection := selected.matches(d) && (sel.State == "" || sel.State == state.String())
				switch {
				case !inSelection || state == Superseded || state == Sending || d.EndpointID == w.endpoints[2].ID:
					if after[id] != state {
						t.Fatalf("%d: %s was not to be touched and went from %s to %s", i, id, state, after[id])
					}
				case after[id] != Pending && after[id] != Held:
					t.Fatalf("%d: %s is %s", i, id, after[id])
				default:
					moved++
				}
			}
			if moved != r.Done {
				t.Errorf("%d: %d moved, it says %d", i, moved, r.Done)
			}
		}
		if n := must(one(ctx, s.read, "n", func(n *int, scan func(...any) error) error { return scan(n) },
			`SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE state < 2 GROUP BY endpoint_id, order_key HAVING count(*) > 1) x`))(t); n != 0 {
			t.Error("two active deliveries of one person")
		}
	})
}

func (w *world) states(t *testing.T) map[string]State {
	t.Helper()
	type row struct {
		id    string
		state State
	}
	rows := must(query(t.Context(), w.read, "states", func(r *row, scan func(...any) error) error { return scan(&r.id, &r.state) }, `SELECT id, state FROM deliveries`))(t)
	out := make(map[string]State)
	for _, r := range rows {
		out[r.id] = r.state
	}
	return out
}

func (w *world) byID(id string) Delivery {
	return w.deliveries[slices.IndexFunc(w.deliveries, func(d Delivery) bool { return d.ID == id })]
}

func TestAReplayHasOneOwnerAndSurvivesIt(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		w := newWorld(t, s, 200)
		for _, owner := range []string{"w1", "w2"} {
			if err := s.Enlist(ctx, Worker{Owner: owner, Name: owner, StartedAt: time.Now(), Lease: time.Hour}); err != nil {
				t.Fatal(err)
			}
		}
		r := must(s.CreateReplay(ctx, Selection{EventType: "a"}, 0))(t)
		must(s.ClaimReplays(ctx, "w1"))(t)
		first := must(s.ContinueReplay(ctx, "w1", r.ID, 5))(t)
		if others := must(s.ClaimReplays(ctx, "w2"))(t); len(others) != 0 {
			t.Error("a replay of a living worker was taken")
		}
		if page := must(s.ContinueReplay(ctx, "w2", r.ID, 5))(t); page.State != "" || page.Moved != 0 {
			t.Errorf("another worker went on with it: %+v", page)
		}
		if got := must(s.Replay(ctx, r.ID))(t); got.Done+got.Skipped != int64(first.Moved+first.Skipped) {
			t.Errorf("progress %+v after a page of %+v", got, first)
		}
		// A new delivery of that kind is no part of it.
		if err := s.Retire(ctx, "w1"); err != nil {
			t.Fatal(err)
		}
		if mine := must(s.ClaimReplays(ctx, "w2"))(t); len(mine) != 1 {
			t.Fatal("a replay of a dead worker was not taken")
		}
		if page := must(s.ContinueReplay(ctx, "w1", r.ID, 5))(t); page.State != "" {
			t.Error("a worker that lost a replay went on with it")
		}
		got := play(t, s, "w2", r.ID, 50)
		if got.State != ReplayDone || got.Done+got.Skipped != r.Total || r.Total != int64(len(w.want(DeliveryFilter{EventType: "a"}))) {
			t.Errorf("%+v", got)
		}
		if mine := must(s.ClaimReplays(ctx, "w2"))(t); len(mine) != 0 {
			t.Error("a replay that is done was claimed")
		}
	})
}

func TestACanceledReplayStops(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		newWorld(t, s, 100)
		r := must(s.CreateReplay(ctx, Selection{EventType: "a"}, 0))(t)
		must(s.ClaimReplays(ctx, "w1"))(t)
		page := must(s.ContinueReplay(ctx, "w1", r.ID, 5))(t)
		if got := must(s.CancelReplay(ctx, r.ID))(t); got.State != ReplayCanceled {
			t.Errorf("%+v", got)
		}
		if next := must(s.ContinueReplay(ctx, "w1", r.ID, 5))(t); next.State != "" || next.Moved != 0 {
			t.Errorf("it went on: %+v", next)
		}
		got := must(s.Replay(ctx, r.ID))(t)
		if got.State != ReplayCanceled || got.Done != int64(page.Moved) {
			t.Errorf("%+v", got)
		}
		must(s.CancelReplay(ctx, r.ID))(t) // again
		if _, err := s.CancelReplay(ctx, "rpl_none"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		done := must(s.CreateReplay(ctx, Selection{UserID: "usr_none"}, 0))(t)
		must(s.ClaimReplays(ctx, "w1"))(t)
		play(t, s, "w1", done.ID, 5)
		if _, err := s.CancelReplay(ctx, done.ID); !errors.Is(err, ErrConflict) {
			t.Errorf("canceled when it was done: %v", err)
		}
		all, next, err := s.ListReplays(ctx, Page{Limit: 1})
		if err != nil || len(all) != 1 || all[0].ID != done.ID || next == "" {
			t.Errorf("%+v %q %v", all, next, err)
		}
		if all, next, err = s.ListReplays(ctx, Page{Limit: 1, Cursor: next}); err != nil || len(all) != 1 || all[0].ID != r.ID || next != "" {
			t.Errorf("%+v %q %v", all, next, err)
		}
	})
}

func TestReplayOfWhatIsMissing(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		w := newWorld(t, s, 300)
		late := must(s.CreateEndpoint(ctx, Endpoint{
			Name: "late", URL: "https://late", EventTypes: []string{"a", "b"}, OrganizationIDs: []string{"org_1", "org_2"},
		}, signing.NewKey()))(t)
		// The router has yet to come to the last event that it is subscribed to.
		var missing []string
		var unrouted Event
		for _, ev := range w.events {
			if late.Wants(ev.Type, ev.OrganizationID) {
				missing = append(missing, ev.ID)
				unrouted = ev
			}
		}
		missing = missing[:len(missing)-1]
		if _, err := s.write.ExecContext(ctx, `INSERT INTO handover_outbox (event_seq, subject, due_at) VALUES ($1, $2, 0)`, unrouted.Seq, unrouted.Subject); err != nil {
			t.Fatal(err)
		}
		sel := Selection{EndpointID: late.ID, Missing: true}
		if total, skips, err := s.CountReplay(ctx, sel); err != nil || total != int64(len(missing)) || skips != 0 {
			t.Errorf("counted %d and %d, there are %d: %v", total, skips, len(missing), err)
		}
		r := must(s.CreateReplay(ctx, sel, 0))(t)
		must(s.ClaimReplays(ctx, "w1"))(t)
		if got := play(t, s, "w1", r.ID, 9); got.State != ReplayDone || got.Done != int64(len(missing)) || got.Skipped != 0 {
			t.Errorf("%+v", got)
		}
		var got []string
		ds, _, err := s.ListDeliveries(ctx, DeliveryFilter{EndpointID: late.ID}, Page{Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range slices.Backward(ds) {
			got = append(got, d.EventID)
			if d.State != Pending && d.State != Held {
				t.Errorf("%s is %s", d.ID, d.State)
			}
		}
		if diff := cmp.Diff(missing, got); diff != "" {
			t.Error(diff)
		}
		if total, _, err := s.CountReplay(ctx, sel); err != nil || total != 0 {
			t.Errorf("%d are missing still: %v", total, err)
		}
		for _, narrow := range []Selection{
			{EndpointID: w.endpoints[0].ID, Missing: true, EventType: "c"},
			{EndpointID: w.endpoints[0].ID, Missing: true, UserID: "usr_3"},
			{EndpointID: w.endpoints[0].ID, Missing: true, OrganizationID: "org_1", Since: w.events[150].RecordedAt},
			{EndpointID: w.endpoints[0].ID, Missing: true, EventIDs: []string{"evt_1", "evt_2", "evt_3", "evt_4", "evt_5", "evt_6", "evt_7"}},
		} {
			has := make(map[string]bool)
			ds, _, err := s.ListDeliveries(ctx, DeliveryFilter{EndpointID: narrow.EndpointID}, Page{Limit: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range ds {
				has[d.EventID] = true
			}
			want := int64(0)
			for _, ev := range w.events {
				if !has[ev.ID] && ev.ID != unrouted.ID && (narrow.EventType == "" || narrow.EventType == ev.Type) && (narrow.UserID == "" || narrow.UserID == ev.UserID) &&
					(narrow.OrganizationID == "" || narrow.OrganizationID == ev.OrganizationID) && !ev.RecordedAt.Before(narrow.Since) &&
					(narrow.EventIDs == nil || slices.Contains(narrow.EventIDs, ev.ID)) {
					want++
				}
			}
			total, _, err := s.CountReplay(ctx, narrow)
			if err != nil || total != want {
				t.Errorf("%+v: %d, not %d: %v", narrow, total, want, err)
			}
			r := must(s.CreateReplay(ctx, narrow, 0))(t)
			must(s.ClaimReplays(ctx, "w1"))(t)
			if got := play(t, s, "w1", r.ID, 2); got.State != ReplayDone || got.Done != want {
				t.Errorf("%+v: %+v", narrow, got)
			}
		}

		r = must(s.CreateReplay(ctx, Selection{EndpointID: w.endpoints[1].ID, Missing: true}, 0))(t)
		must(s.ClaimReplays(ctx, "w1"))(t)
		if err := s.DeleteEndpoint(ctx, w.endpoints[1].ID); err != nil {
			t.Fatal(err)
		}
		if got := play(t, s, "w1", r.ID, 5); got.State != ReplayFailed || got.Error == "" {
			t.Errorf("its endpoint is deleted: %+v", got)
		}
	})
}

func TestForgetRequests(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		ask := func(key string) *Acceptance {
			ev := must(events.Complete([]byte(`{"type":"x","object":"X","data":{}}`), events.Defaults{EnvironmentID: "env_1"}))(t)
			a := &Acceptance{Events: []events.Event{ev}, APIKeyID: "key_1", IdempotencyKey: key}
			if err := s.Accept(ctx, nil, []*Acceptance{a}); err != nil {
				t.Fatal(err)
			}
			return a
		}
		ask("old")
		c.add(time.Hour)
		ask("new")
		if n, err := s.ForgetRequests(ctx, c.now().Add(-time.Minute), 10); err != nil || n != 1 {
			t.Errorf("forgot %d: %v", n, err)
		}
		if !ask("new").Repeated || ask("old").Repeated {
			t.Error("the wrong one was forgotten")
		}
	})
}

func TestEventsAreFoundByTheirTime(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		w := newWorld(t, s, 50)
		if _, err := s.write.ExecContext(t.Context(), `DELETE FROM handover_events WHERE seq IN (1, 20, 21, 22)`); err != nil { // numbers have gaps
			t.Fatal(err)
		}
		exists := func(seq int64) bool { return seq != 1 && (seq < 20 || seq > 22) }
		for i, ev := range w.events {
			want := ev.Seq
			for !exists(want) {
				want++
			}
			// A number that no event has may come out, but none that leaves one out.
			got := must(s.seqAt(t.Context(), ev.RecordedAt, 51))(t)
			for !exists(got) {
				got++
			}
			if got != want {
				t.Errorf("the first event at or after the time of event %d is %d, not %d", i+1, want, got)
			}
		}
		if got := must(s.seqAt(t.Context(), time.Now().Add(time.Hour), 51))(t); got != 51 {
			t.Errorf("after the last: %d", got)
		}
	})
}

// TestCancelingOneWhileAnotherReleasesIt lets the first delivery of a person end
// while an operator cancels the second, in both orders.
func TestCancelingOneWhileAnotherReleasesIt(t *testing.T) {
	t.Parallel()
	for _, cancelFirst := range []bool{true, false} {
		t.Run(fmt.Sprint("cancel first ", cancelFirst), func(t *testing.T) {
			t.Parallel()
			s := open(t, Config{URL: testenv.Postgres(t)}) // SQLite has one transaction at a time
			ctx := t.Context()
			l := newLine(t, s, 1)
			l.route("w1", l.publish("a", "a", "a")...)
			ds, _, err := s.ListDeliveries(ctx, DeliveryFilter{}, Page{Limit: 5})
			if err != nil || l.states() != "sending held held" {
				t.Fatal(l.states(), err)
			}
			cancel := func(tx *sql.Tx) error { _, err := s.cancelDelivery(ctx, tx, ds[1].ID); return err }
			end := func(tx *sql.Tx) error { _, _, err := s.finish(ctx, tx, Succeeded, "", `id = $4`, ds[2].ID); return err }
			first, second := end, cancel
			if cancelFirst {
				first, second = cancel, end
			}
			tx, err := s.write.BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := first(tx); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- s.Tx(ctx, second) }()
			testenv.Until(t, 20*time.Second, "the second transaction does not wait for the first", func() bool {
				return l.count(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) == 1
			})
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if got := l.states(); got != "succeeded canceled pending" {
				t.Error(got)
			}
		})
	}
}
