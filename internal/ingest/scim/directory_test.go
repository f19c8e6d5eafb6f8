package scim_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/ingest/scim"
	"github.com/handover-dev/handover/internal/ingest/scim/scimtest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
)

// silent is a stream that nobody reads.
type silent struct{}

func (silent) Publish(string, ...*message.Message) error { return nil }
func (silent) Close() error                              { return nil }

// world is the door before the directory and a database.
type world struct {
	*directory.Directory
	url  string
	envs atomic.Int64
}

func newWorld(t *testing.T, db string) *world {
	t.Helper()
	c := store.Config{Dir: t.TempDir(), MasterKey: store.NewMasterKey()}
	if db == "postgres" {
		c.URL = testenv.Postgres(t)
	}
	s, err := store.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	relay := &outbox.Relay{DB: s.DB(), Dialect: s.Dialect(), Publisher: silent{}, Topic: "t", KeepUntilRouted: true, Owner: "o"}
	w := &world{Directory: directory.New(s, ingest.NewRecorder(s, relay))}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, f := range []func(context.Context) error{w.Run, relay.Run} {
		running.Go(func() { _ = f(ctx) }) // ends with the context
	}
	server := httptest.NewServer(&scim.Handler{Directory: w.Directory, Tokens: s, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	w.url = server.URL
	t.Cleanup(func() {
		server.Close()
		cancel()
		running.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// organization makes an organization with a directory and returns its token.
func (w *world) organization(t *testing.T, env, name string) (store.SCIMDirectory, string) {
	t.Helper()
	o, err := w.CreateOrganization(t.Context(), env, directory.NewOrganization{DisplayName: name})
	if err != nil {
		t.Fatal(err)
	}
	dir, token, err := w.Store.CreateSCIMDirectory(t.Context(), store.SCIMDirectory{EnvironmentID: env, OrganizationID: o.ID, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return dir, token
}

// target is an environment of its own with two organizations.
func (w *world) target(t *testing.T) scimtest.Target {
	t.Helper()
	env := fmt.Sprintf("env_%d", 1000+w.envs.Add(1))
	dir, token := w.organization(t, env, "Northwind")
	other, otherToken := w.organization(t, env, "Globex")
	return scimtest.Target{
		URL: w.url + scim.Prefix + dir.ID + "/scim/v2", Token: token, OtherToken: otherToken,
		Effects: func(tb testing.TB, email string) scimtest.Effects { return w.effects(tb, dir, email) },
		AddSession: func(tb testing.TB, email string) {
			tb.Helper()
			s := directory.Session{EnvironmentID: env, UserID: w.account(tb, env, email), OrganizationID: dir.OrganizationID}
			if _, err := w.CreateSession(tb.Context(), s); err != nil {
				tb.Fatal(err)
			}
		},
		AddMembership: func(tb testing.TB, email string) {
			tb.Helper()
			user := directory.Ref{ID: w.account(tb, env, email)}
			if _, err := w.AddMember(tb.Context(), env, other.OrganizationID, user, directory.NewMembership{}); err != nil {
				tb.Fatal(err)
			}
		},
	}
}

// texts reads a column.
func (w *world) texts(tb testing.TB, query string, args ...any) (all []string) {
	tb.Helper()
	rows, err := w.Store.DB().QueryContext(tb.Context(), query, args...)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			tb.Fatal(err)
		}
		all = append(all, s)
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return all
}

// account is the id of the account with an address, "" when there is none.
func (w *world) account(tb testing.TB, env, email string) string {
	tb.Helper()
	ids := w.texts(tb, `SELECT id FROM users WHERE environment_id = $1 AND email_key = $2 AND deleted_at = 0`, env, email)
	if len(ids) == 0 {
		return ""
	}
	return ids[0]
}

func (w *world) effects(tb testing.TB, dir store.SCIMDirectory, email string) (e scimtest.Effects) {
	tb.Helper()
	all := w.texts(tb, `SELECT id FROM users WHERE environment_id = $1 AND email_key = $2`, dir.EnvironmentID, email)
	for _, id := range all {
		e.Sessions += len(w.texts(tb, `SELECT id FROM sessions WHERE environment_id = $1 AND user_id = $2 AND status = 'active'`, dir.EnvironmentID, id))
	}
	if id := w.account(tb, dir.EnvironmentID, email); id != "" {
		u, err := w.User(tb.Context(), dir.EnvironmentID, directory.Ref{ID: id})
		if err != nil {
			tb.Fatal(err)
		}
		e.Account = true
		for _, m := range u.Memberships {
			if m.OrganizationID == dir.OrganizationID {
				e.Status = m.Status.String()
			}
		}
	}
	for _, body := range w.texts(tb, `SELECT body FROM handover_events ORDER BY seq`) {
		ev, err := events.Parse([]byte(body))
		if err != nil {
			tb.Fatal(err)
		}
		for _, id := range all {
			switch {
			case ev.EnvironmentID != dir.EnvironmentID || ev.UserID() != id:
			case ev.Type == events.UserDeleted.Name:
				e.Deleted++
			case ev.OrganizationID != dir.OrganizationID:
			case ev.Type == events.MembershipRemoved.Name:
				e.Removed++
			case ev.Type == events.MembershipCreated.Name:
				e.Created++
			}
		}
	}
	return e
}

// The same requests, on the directory and the databases.
func TestFixturesOnDirectory(t *testing.T) {
	t.Parallel()
	for _, db := range []string{"sqlite", "postgres"} {
		t.Run(db, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, db)
			scimtest.Run(t, w.target)
		})
	}
}

// Nothing that a client sends makes a database fail.
func TestContentOnDirectory(t *testing.T) {
	t.Parallel()
	for _, db := range []string{"sqlite", "postgres"} {
		t.Run(db, func(t *testing.T) {
			t.Parallel()
			target := newWorld(t, db).target(t)
			do := func(method, path, body string) answer {
				t.Helper()
				a := ask(t, method, target.URL+path, body, "Authorization", "Bearer "+target.Token)
				if a.status >= 500 {
					t.Errorf("%s %.200s %.200s: %v", method, path, body, a)
				}
				return a
			}
			id, _ := do("POST", "/Users", `{"userName":"a@example.com"}`).is(t, 201).doc["id"].(string)
			group, _ := do("POST", "/Groups", `{"displayName":"g"}`).is(t, 201).doc["id"].(string)
			for _, text := range []string{
				`a`, ` `, ``, `\u0000`, `a\u0000b`, `\ud800`, `\u0001`, `\u007f`, `\uffff`, `\ufffe`, `\ud83d\ude00`, `é`, `é`, `'; DROP TABLE users; --`, `%`, `_`, `\\`, `\"`, `{}`, `$1`, `@`, `a@`, `a b@example.com`,
				`İ@example.com`, `ſ@example.com`, strings.Repeat("x", 512), strings.Repeat("é", 256), strings.Repeat("\U0001F600", 128), strings.Repeat("x", 513), strings.Repeat("x", 320) + "@example.com", strings.Repeat("x", 300) + "@example.com",
			} {
				s := `"` + text + `"`
				do("POST", "/Users", `{"userName":`+s+`,"externalId":`+s+`,"title":`+s+`,"emails":[{"value":`+s+`,"type":`+s+`}],"name":{"givenName":`+s+`}}`)
				do("POST", "/Users", `{"userName":"u","externalId":`+s+`,"emails":[`+s+`],"`+enterprise+`":{"manager":`+s+`}}`)
				do("PATCH", "/Users/"+id, `{"Operations":[{"op":"replace","path":"title","value":`+s+`},{"op":"add","path":"emails[type eq \"x\"].value","value":`+s+`},{"op":"replace","path":"`+enterprise+`:manager","value":`+s+`}]}`)
				do("PUT", "/Users/"+id, `{"userName":`+s+`,"displayName":`+s+`,"active":false}`)
				do("PUT", "/Users/"+id, `{"userName":`+s+`,"displayName":`+s+`,"active":true}`)
				do("POST", "/Groups", `{"displayName":`+s+`,"externalId":`+s+`}`)
				do("PATCH", "/Groups/"+group, `{"Operations":[{"op":"add","path":"members","value":[`+s+`]}]}`)
				do("PATCH", "/Groups/"+group, `{"Operations":[{"op":"remove","path":"members[value eq `+strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), `"`, `\"`)+`]"}]}`)
				for _, filter := range []string{`userName eq ` + s, `externalId eq ` + s, `id eq ` + s, `emails[type eq "work"].value eq ` + s, `active eq ` + s} {
					do("GET", "/Users?filter="+url.QueryEscape(filter), "")
				}
				for _, filter := range []string{`displayName eq ` + s, `externalId eq ` + s, `id eq ` + s, `members.value eq ` + s} {
					do("GET", "/Groups?filter="+url.QueryEscape(filter), "")
				}
				for _, path := range []string{"/Users/", "/Groups/"} {
					do("GET", path+url.PathEscape(text), "")
					do("DELETE", path+url.PathEscape(text), "")
				}
			}
			for _, id := range []string{"%00", "a%00b", "%FF", "%C3%A9", "%0A"} {
				for _, path := range []string{"/Users/", "/Groups/"} {
					for _, method := range []string{"GET", "PUT", "PATCH", "DELETE"} {
						do(method, path+id, `{"userName":"x","displayName":"x","Operations":[{"op":"replace","value":{}}]}`).is(t, 404)
					}
				}
			}
			for _, query := range []string{"?startIndex=2147483647&count=2147483647", "?count=0", "?startIndex=-9223372036854775808"} {
				do("GET", "/Users"+query, "").is(t, 200)
				do("GET", "/Groups"+query, "").is(t, 200)
			}
		})
	}
}

// However often and at once a departure is told, it is one.
func TestDeparturesAtOnce(t *testing.T) {
	t.Parallel()
	for _, db := range []string{"sqlite", "postgres"} {
		t.Run(db, func(t *testing.T) {
			t.Parallel()
			target := newWorld(t, db).target(t)
			bearer := "Bearer " + target.Token
			const dana = "dana@example.com"
			id, _ := ask(t, "POST", target.URL+"/Users", `{"userName":"`+dana+`"}`, "Authorization", bearer).is(t, 201).doc["id"].(string)
			target.AddSession(t, dana)
			want := target.Effects(t, dana)
			want.Status, want.Sessions = "INACTIVE", 0
			want.Removed++
			var all sync.WaitGroup
			for i := range 24 {
				all.Go(func() {
					a := answer{}
					switch i % 3 {
					case 0:
						a = ask(t, "PATCH", target.URL+"/Users/"+id, `{"Operations":[{"op":"replace","value":{"active":false}}]}`, "Authorization", bearer)
					case 1:
						a = ask(t, "PATCH", target.URL+"/Users/"+id, `{"Operations":[{"op":"Replace","path":"active","value":"False"},{"op":"add","path":"title","value":"x"}]}`, "Authorization", bearer)
					default:
						a = ask(t, "PUT", target.URL+"/Users/"+id, `{"userName":"`+dana+`","active":false}`, "Authorization", bearer)
					}
					if a.status != 200 || a.doc["active"] != false {
						t.Errorf("answered %v", a)
					}
				})
			}
			all.Wait()
			if diff := cmp.Diff(want, target.Effects(t, dana)); diff != "" {
				t.Errorf("effects differ (-want +got):\n%s", diff)
			}
		})
	}
}
