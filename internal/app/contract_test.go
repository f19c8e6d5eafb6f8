package app_test

import (
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekittest"
	"github.com/handover-dev/handover/internal/ingest/scim/scimtest"
	"github.com/handover-dev/handover/internal/ingest/webhook/webhooktest"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

// installations are the two that the contract is checked on.
var installations = map[string]func(t *testing.T) []string{
	"sqlite": func(*testing.T) []string { return nil },
	"postgres": func(t *testing.T) []string {
		return []string{"--database-url", testenv.Postgres(t), "--redis-url", testenv.RedisServer(t, testenv.RedisOptions{}).URL()}
	},
}

// onEach runs a test on the real program in each installation.
func onEach(t *testing.T, f func(t *testing.T, p *process)) {
	t.Helper()
	t.Parallel()
	for name, args := range installations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newSteady(t, append(args(t), "--data-dir", t.TempDir())...)
			p.start()
			f(t, p)
		})
	}
}

// as is the same process, asked by a subtest.
func (p *process) as(t *testing.T) *process {
	q := *p
	q.t = t
	return &q
}

var environments atomic.Int64

// newEnvironment is one that no other test uses.
func newEnvironment() string { return fmt.Sprintf("env_%018d", environments.Add(1)) }

// ask asks the database of the service; each row is a line.
func ask(tb testing.TB, p service, query string, args ...any) []string {
	tb.Helper()
	db, err := sql.Open(p.database())
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(tb.Context(), query, args...)
	if err != nil {
		tb.Fatalf("%v in %s", err, query)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		tb.Fatal(err)
	}
	var lines []string
	for rows.Next() {
		texts := make([]string, len(columns))
		into := make([]any, len(columns))
		for i := range texts {
			into[i] = &texts[i]
		}
		if err := rows.Scan(into...); err != nil {
			tb.Fatal(err)
		}
		lines = append(lines, strings.Join(texts, " "))
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return lines
}

// announced are the events that are recorded of an environment, in order.
func announced(tb testing.TB, p service, env string) []events.Event {
	tb.Helper()
	var all []events.Event
	for _, body := range ask(tb, p, `SELECT body FROM handover_events WHERE environment_id = $1 ORDER BY seq`, env) {
		ev, err := events.Parse([]byte(body))
		if err != nil {
			tb.Fatalf("%v in %s", err, body)
		}
		all = append(all, ev)
	}
	return all
}

// must ends the test on an error.
func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func organization(tb testing.TB, c *api.EnvironmentClient, id, name string) string {
	tb.Helper()
	return must[api.Organization](tb)(c.CreateOrganization(tb.Context(), api.NewOrganization{ID: id, DisplayName: name})).ID
}

// What directories are known to send.
func TestContractSCIM(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		scimtest.Run(t, func(t *testing.T) scimtest.Target {
			env := newEnvironment()
			c := p.client().InEnvironment(env)
			org, other := organization(t, c, "", "Northwind"), organization(t, c, "", "Globex")
			dir := must[api.SCIMDirectory](t)(c.CreateDirectory(t.Context(), api.NewSCIMDirectory{OrganizationID: org, Name: "okta"}))
			another := must[api.SCIMDirectory](t)(c.CreateDirectory(t.Context(), api.NewSCIMDirectory{OrganizationID: other, Name: "entra"}))
			person := func(tb testing.TB, email string) string {
				tb.Helper()
				ids := ask(tb, p, `SELECT id FROM users WHERE environment_id = $1 AND email_key = $2 AND deleted_at = 0`, env, email)
				if len(ids) != 1 {
					tb.Fatalf("%s has the accounts %v", email, ids)
				}
				return ids[0]
			}
			return scimtest.Target{
				URL: p.base() + dir.Path, Token: dir.Token, OtherToken: another.Token,
				Effects: func(tb testing.TB, email string) scimtest.Effects { return effects(tb, p, env, org, email) },
				AddSession: func(tb testing.TB, email string) {
					must[api.Session](tb)(c.CreateSession(tb.Context(), api.NewSession{UserID: person(tb, email), OrganizationID: org}))
				},
				AddMembership: func(tb testing.TB, email string) {
					must[api.Member](tb)(c.AddMember(tb.Context(), other, api.NewMember{UserID: person(tb, email)}))
				},
			}
		})
	})
}

func effects(tb testing.TB, p *process, env, org, email string) scimtest.Effects {
	tb.Helper()
	const accounts = `(SELECT id FROM users WHERE environment_id = $1 AND email_key = $2)`
	var e scimtest.Effects
	row := ask(tb, p, `SELECT
  (SELECT count(*) FROM users WHERE environment_id = $1 AND email_key = $2 AND deleted_at = 0),
  (SELECT coalesce(max(status), 0) FROM memberships WHERE environment_id = $1 AND organization_id = $3 AND user_id IN `+accounts+`),
  (SELECT count(*) FROM sessions WHERE environment_id = $1 AND status = 'active' AND user_id IN `+accounts+`)`, env, email, org)
	var found, status int
	if _, err := fmt.Sscan(row[0], &found, &status, &e.Sessions); err != nil || status > 2 || found > 1 {
		tb.Fatalf("%s is %s: %v", email, row[0], err)
	}
	e.Account, e.Status = found == 1, []string{"", "ACTIVE", "INACTIVE"}[status]
	for _, line := range ask(tb, p, `SELECT type FROM handover_events WHERE environment_id = $1 AND organization_id = $3 AND user_id IN `+accounts, env, email, org) {
		switch line {
		case events.MembershipRemoved.Name:
			e.Removed++
		case events.MembershipCreated.Name:
			e.Created++
		case events.UserDeleted.Name:
			e.Deleted++
		default:
			tb.Errorf("there is a %s", line)
		}
	}
	return e
}

// Every example of an inbound webhook, where who it is about was imported and
// where they became known by webhooks.
func TestContractWebhooks(t *testing.T) {
	names := strings.NewReplacer(
		webhooktest.Northwind, "Northwind", webhooktest.Globex, "Globex",
		webhooktest.Dana, "Dana", webhooktest.Sam, "Sam", webhooktest.Ines, "Ines",
	)
	emails := map[string]string{
		webhooktest.Dana: "dana.rivers@example.com", webhooktest.Sam: "sam.okoro@example.com", webhooktest.Ines: "ines.moreau@example.com",
	}
	members := map[string][]string{
		webhooktest.Northwind: {webhooktest.Dana, webhooktest.Ines},
		webhooktest.Globex:    {webhooktest.Dana, webhooktest.Sam, webhooktest.Ines},
	}
	for way, know := range map[string]func(t *testing.T, p *process, to webhooktest.Target){
		"imported": func(t *testing.T, p *process, _ webhooktest.Target) {
			c := p.client().InEnvironment(webhooktest.Environment)
			for org, people := range members {
				organization(t, c, org, names.Replace(org))
				var imports []api.ImportMember
				for _, id := range people {
					imports = append(imports, api.ImportMember{ID: id, Email: emails[id]})
				}
				must[api.Imported](t)(c.ImportMembers(t.Context(), org, imports))
			}
		},
		"told": func(t *testing.T, _ *process, to webhooktest.Target) {
			for org, people := range members {
				for _, id := range people {
					body := aboutMember(events.MembershipCreated.Name, webhooktest.Environment, org, id, emails[id], "2026-05-01T00:00:00Z", "")
					if a := to.Send(t, "msg_"+org+id, body); a.Status != 201 || a.Effect != "added" {
						t.Fatalf("%s in %s: %+v", id, org, a)
					}
				}
			}
		},
	} {
		t.Run(way, func(t *testing.T) {
			onEach(t, func(t *testing.T, p *process) {
				app := newReceiver(t)
				app.subscribe(t, p, "app")
				key := signing.NewKey()
				must[api.Source](t)(p.client().CreateSource(t.Context(), api.NewSource{Name: "idp", EnvironmentID: webhooktest.Environment, Secret: key.Secret()}))
				to := webhooktest.Target{URL: p.base() + "/webhooks/idp", Key: key}
				know(t, p, to)

				want := make(map[string]string)
				for org, people := range members {
					for _, id := range people {
						want[names.Replace(id+" "+org)] = "1"
					}
				}
				var wantRemovals []string
				last := 0
				webhooktest.Run(t, to, func(t *testing.T, e webhooktest.Example, _ webhooktest.Answer) {
					change, ok := changes[e.Name]
					if !ok {
						t.Fatalf("nothing is said of %s", e.Name)
					}
					for who, status := range change.members {
						if want[who] = status; status == "" {
							delete(want, who)
						}
					}
					wantRemovals = append(wantRemovals, change.removals...)
					testenv.Eventually(t, patience, func() error {
						got := make(map[string]string)
						for _, line := range ask(t, p, `SELECT user_id, organization_id, status FROM memberships WHERE environment_id = $1 AND status > 0`, webhooktest.Environment) {
							who := names.Replace(line)
							got[who[:len(who)-2]] = who[len(who)-1:]
						}
						if !maps.Equal(got, want) {
							return fmt.Errorf("after %s the members are %v, want %v", e.Name, got, want)
						}
						return nil
					})
					all := announced(t, p, webhooktest.Environment)
					var removals []string
					for _, ev := range all {
						if ev.Type == events.MembershipRemoved.Name {
							removals = append(removals, names.Replace(ev.UserID()+" "+ev.OrganizationID+" ")+must[events.Membership](t)(events.MembershipRemoved.Decode(ev)).Reason)
						}
					}
					slices.Sort(removals[min(len(removals), 3):]) // the members of an organization leave in no order
					if diff := cmp.Diff(wantRemovals, removals); diff != "" {
						t.Errorf("after %s the removals are (-want +got):\n%s", e.Name, diff)
					}
					app.hasAll(t, all) // a removal that nobody was told of would not be told after a re-add
					last = len(all)
				})
				if n := len(announced(t, p, webhooktest.Environment)); n != last {
					t.Errorf("copies made %d events of %d", n, last)
				}
				app.complain(t)
			})
		})
	}
}

// changes are what becomes of members by each example of package webhooktest, in
// its order.
var changes = map[string]struct {
	members  map[string]string // status, "" for none
	removals []string          // that are announced
}{
	"user.organization_membership_deleted":                   {map[string]string{"Dana Northwind": ""}, []string{"Dana Northwind upstream"}},
	"user.organization_membership_deleted.minimal":           {map[string]string{"Sam Globex": ""}, []string{"Sam Globex upstream"}},
	"organization.directory.user_updated.inactive":           {map[string]string{"Ines Northwind": "2"}, []string{"Ines Northwind upstream"}},
	"user.organization_membership_updated.inactive.proposed": {},
	"organization.directory.user_deleted":                    {map[string]string{"Ines Northwind": ""}, nil},
	"user.organization_membership_created":                   {map[string]string{"Dana Northwind": "1"}, nil},
	"organization.deleted":                                   {map[string]string{"Dana Globex": "", "Ines Globex": ""}, []string{"Dana Globex organization_deleted", "Ines Globex organization_deleted"}},
	"organization.directory.user_updated.active":             {},
	"legacy.scalekit.dir.user.delete":                        {},
	"organization.sso_created":                               {},
	"role.created":                                           {},
	"user.organization_membership_updated":                   {},
	"user.logout":                                            {},
	"user.deleted.proposed":                                  {},
	"unknown_future_type":                                    {},
	"organization.directory_disabled":                        {},
	"organization.directory.group_deleted":                   {},
	"user.organization_invitation":                           {},
}

// hasAll waits until the app got all of these events, each once and as it is
// recorded.
func (r *receiver) hasAll(t *testing.T, all []events.Event) {
	t.Helper()
	testenv.Eventually(t, patience, func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, ev := range all {
			got := r.byEvent[ev.ID]
			if got == nil {
				return fmt.Errorf("%s has not arrived", ev)
			}
			if got.times != 1 || string(got.body) != string(ev.Body()) {
				t.Errorf("%s came %d times, as %s", ev, got.times, got.body)
			}
		}
		return nil
	})
}

// The official Node SDK, as it is, does the whole removal flow.
func TestContractNodeSDK(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		app := newReceiver(t)
		app.subscribe(t, p, "app")
		env := newEnvironment()
		c := p.client().InEnvironment(env)
		client := must[api.APIClient](t)(c.CreateClient(t.Context(), "node"))
		scalekittest.Run(t, scalekittest.Target{
			URL: p.base(), ClientID: client.ID, Secret: client.Secret,
			Session: func(userID, organizationID string) (string, error) {
				s, err := c.CreateSession(t.Context(), api.NewSession{UserID: userID, OrganizationID: organizationID})
				return s.ID, err
			},
		})
		all := announced(t, p, env)
		told := make(map[string]int)
		for _, ev := range all {
			told[ev.Type]++
		}
		// Ann leaves twice and again with Globex, Bob and Carl once; all three accounts go.
		if told[events.UserDeleted.Name] != 3 || told[events.MembershipRemoved.Name] != 5 {
			t.Errorf("the flow was announced as %v", told)
		}
		checkInvariants(t, p)
		app.complain(t)
	})
}
