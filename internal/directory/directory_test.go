package directory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/outbox"
)

const env = "env_118200000000000001"

// world is a directory over a database of its own.
type world struct {
	t *testing.T
	*directory.Directory
	store *store.Store
}

// onBoth runs a test on SQLite and on PostgreSQL.
func onBoth(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	t.Parallel()
	for _, db := range []string{"sqlite", "postgres"} {
		t.Run(db, func(t *testing.T) {
			t.Parallel()
			f(t, newWorld(t, db))
		})
	}
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
	d, stop := run(s)
	t.Cleanup(func() {
		stop()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{t, d, s}
}

// silent is a stream that nobody reads.
type silent struct{}

func (silent) Publish(string, ...*message.Message) error { return nil }
func (silent) Close() error                              { return nil }

// run starts a directory as a process does.
func run(s *store.Store) (*directory.Directory, func()) {
	relay := &outbox.Relay{DB: s.DB(), Dialect: s.Dialect(), Publisher: silent{}, Topic: "t", KeepUntilRouted: true, Owner: "o"}
	d := directory.New(s, ingest.NewRecorder(s, relay))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, f := range []func(context.Context) error{d.Run, relay.Run} {
		running.Go(func() { _ = f(ctx) }) // ends with the context
	}
	return d, func() { cancel(); running.Wait() }
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) refused(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("the error is %v, want %v", err, want)
	}
}

func (w *world) organization(name string) string {
	w.t.Helper()
	o, err := w.CreateOrganization(w.t.Context(), env, directory.NewOrganization{DisplayName: name})
	w.must(err)
	return o.ID
}

// member makes an account with an active membership.
func (w *world) member(org, email string) directory.User {
	w.t.Helper()
	u, err := w.CreateUser(w.t.Context(), env, org, directory.NewUser{Email: email, Profile: events.UserProfile{Name: email}})
	w.must(err)
	return u
}

func (w *world) join(org, user string) {
	w.t.Helper()
	_, err := w.AddMember(w.t.Context(), env, org, directory.Ref{ID: user}, directory.NewMembership{})
	w.must(err)
}

func (w *world) remove(org, user string) directory.Removal {
	w.t.Helper()
	r, err := w.RemoveMember(w.t.Context(), env, org, directory.Ref{ID: user}, directory.How{})
	w.must(err)
	return r
}

// user reads a user, or nil when there is none.
func (w *world) user(id string) *directory.User {
	w.t.Helper()
	u, err := w.User(w.t.Context(), env, directory.Ref{ID: id})
	if errors.Is(err, directory.ErrUserNotFound) {
		return nil
	}
	w.must(err)
	return &u
}

// status is the status of a membership as a reader sees it, "" for none.
func (w *world) status(org, user string) string {
	w.t.Helper()
	u := w.user(user)
	if u == nil {
		return ""
	}
	for _, m := range u.Memberships {
		if m.OrganizationID == org {
			return m.Status.String()
		}
	}
	return ""
}

func (w *world) members(org string) []string {
	w.t.Helper()
	l, err := w.Members(w.t.Context(), env, org, directory.Page{Size: 100})
	w.must(err)
	ids := make([]string, len(l.Items))
	for i, u := range l.Items {
		ids[i] = u.ID
	}
	return ids
}

// recorded are the events in the order of their numbers.
func (w *world) recorded(types ...string) []events.Event {
	w.t.Helper()
	rows, err := w.store.DB().QueryContext(w.t.Context(), `SELECT body FROM handover_events ORDER BY seq`)
	w.must(err)
	defer rows.Close()
	var all []events.Event
	for rows.Next() {
		var body []byte
		w.must(rows.Scan(&body))
		ev, err := events.Parse(body)
		w.must(err)
		if len(types) == 0 || slices.Contains(types, ev.Type) {
			all = append(all, ev)
		}
	}
	w.must(rows.Err())
	return all
}

// await polls for what another goroutine does.
func (w *world) await(what string, done func() bool) {
	w.t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for deadline := time.After(time.Minute); !done(); {
		select {
		case <-poll.C:
		case <-deadline:
			w.t.Fatalf("%s did not happen within a minute", what)
		}
	}
}

const (
	removed = "user.organization_membership_deleted"
	created = "user.organization_membership_created"
	deleted = "user.deleted"
)

// announced describes the removals and deletions: "removed org user reason".
func (w *world) announced() []string {
	w.t.Helper()
	var all []string
	for _, ev := range w.recorded(removed, deleted) {
		var data struct {
			Reason string `json:"reason"`
		}
		w.must(json.Unmarshal(ev.Data, &data))
		word := map[string]string{removed: "removed", deleted: "deleted"}[ev.Type]
		all = append(all, strings.TrimSpace(word+" "+ev.OrganizationID)+" "+ev.UserID()+" "+data.Reason)
	}
	return all
}

func (w *world) expect(what string, got, want any) {
	w.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func TestB1RemovesMembersOfAnyStatus(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, keep := w.organization("One"), w.organization("Two")
		for status, make := range map[string]func(id string){
			"ACTIVE": func(string) {},
			"PENDING_INVITE": func(id string) {
				w.remove(org, id)
				_, err := w.AddMember(t.Context(), env, org, directory.Ref{ID: id}, directory.NewMembership{Invite: true})
				w.must(err)
			},
			"INACTIVE": func(id string) {
				dir := w.scim(org)
				u := w.user(id)
				s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: u.Email, Email: u.Email, Active: true})
				w.must(err)
				w.switchSCIM(dir, s.ID, false)
			},
		} {
			u := w.member(org, strings.ToLower(status)+"@example.com")
			w.join(keep, u.ID)
			make(u.ID)
			w.expect("the status", w.status(org, u.ID), status)
			w.remove(org, u.ID)
			w.expect("the status after it", w.status(org, u.ID), "")
		}
	})
}

// scim is a directory of an organization.
func (w *world) scim(org string) directory.SCIMDirectory {
	return directory.SCIMDirectory{ID: "dir_1" + org[len(org)-17:], EnvironmentID: env, OrganizationID: org}
}

func (w *world) switchSCIM(dir directory.SCIMDirectory, id string, active bool) {
	w.t.Helper()
	_, err := w.ChangeSCIMUser(w.t.Context(), dir, id, func(u directory.SCIMUser) (directory.SCIMUser, error) {
		u.Active = active
		return u, nil
	})
	w.must(err)
}

func TestB2B3OnlyThatMembershipEnds(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u := w.member(org, "dana@example.com")
		_, err := w.AddMember(t.Context(), env, other, directory.Ref{ID: u.ID}, directory.NewMembership{Roles: []events.Role{{Name: "admin"}}})
		w.must(err)
		before := w.user(u.ID).Memberships[slices.IndexFunc(w.user(u.ID).Memberships, func(m directory.Membership) bool { return m.OrganizationID == other })]
		w.remove(org, u.ID)
		after := w.user(u.ID).Memberships
		w.expect("how many are left", len(after), 1)
		w.expect("the other one", fmt.Sprint(after[0].Status, after[0].Roles, after[0].JoinedAt, after[0].Epoch),
			fmt.Sprint(before.Status, before.Roles, before.JoinedAt, before.Epoch))
	})
}

func TestB2SCIMLeavesItInactive(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		dir := w.scim(org)
		s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: "dana@example.com", Active: true})
		w.must(err)
		w.expect("the status", w.status(org, s.UserID), "ACTIVE")
		w.switchSCIM(dir, s.ID, false)
		w.switchSCIM(dir, s.ID, false)
		w.expect("the status", w.status(org, s.UserID), "INACTIVE")
		w.expect("the events", w.announced(), []string{"removed " + org + " " + s.UserID + " scim"})
		w.switchSCIM(dir, s.ID, true)
		w.expect("the status", w.status(org, s.UserID), "ACTIVE")
		w.expect("the epoch", w.user(s.UserID).Memberships[0].Epoch, 2)

		other := w.organization("Two")
		w.join(other, s.UserID)
		w.must(w.DeleteSCIMUser(t.Context(), dir, s.ID))
		w.expect("the status after a deletion", w.status(org, s.UserID)+" "+w.status(other, s.UserID), "INACTIVE ACTIVE")
	})
}

func TestB4AccountStaysAndCanBeAddedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u := w.member(org, "dana@example.com")
		w.join(other, u.ID)
		r := w.remove(org, u.ID)
		w.expect("whether the account went", r.UserDeleted, false)
		w.join(org, u.ID)
		_, err := w.AddMember(t.Context(), env, org, directory.Ref{ID: u.ID}, directory.NewMembership{})
		w.refused(err, directory.ErrMembershipExists)
		var entries []string
		for _, m := range w.user(u.ID).Memberships {
			if m.OrganizationID == org {
				entries = append(entries, fmt.Sprint(m.Status, m.Epoch))
			}
		}
		w.expect("the entries", entries, []string{"ACTIVE 2"})
	})
}

func TestB5LastMembershipTakesTheAccount(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		n := directory.NewUser{Email: "Dana@Example.com", ExternalID: "hr-1"}
		u, err := w.CreateUser(t.Context(), env, org, n)
		w.must(err)
		n.Email = "dana@example.COM"
		_, err = w.CreateUser(t.Context(), env, org, n)
		w.refused(err, directory.ErrUserExists)
		r := w.remove(org, u.ID)
		w.expect("whether the account went", r.UserDeleted, true)
		if got := w.user(u.ID); got != nil {
			t.Fatalf("the account is still there: %+v", got)
		}
		_, err = w.User(t.Context(), env, directory.Ref{ExternalID: "hr-1"})
		w.refused(err, directory.ErrUserNotFound)
		again, err := w.CreateUser(t.Context(), env, org, n)
		w.must(err)
		if again.ID == u.ID {
			t.Fatal("the new account has the old one's id")
		}
	})
}

func TestB6SessionsThatReachTheOrganizationEnd(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u := w.member(org, "dana@example.com")
		w.join(other, u.ID)
		session := func(at string, reach ...string) string {
			s, err := w.CreateSession(t.Context(), directory.Session{EnvironmentID: env, UserID: u.ID, OrganizationID: at, Organizations: reach})
			w.must(err)
			return s.ID
		}
		in, through, elsewhere := session(org), session(other, other, org), session(other)
		r := w.remove(org, u.ID)
		want := []string{in, through}
		slices.Sort(want)
		w.expect("the sessions it ended", r.RevokedSessions, want)
		for id, status := range map[string]store.SessionStatus{in: store.SessionRevoked, through: store.SessionRevoked, elsewhere: store.SessionActive} {
			s, err := w.Session(t.Context(), env, id)
			w.must(err)
			w.expect("the status of "+id, s.Status, status)
		}
		data, err := events.MembershipRemoved.Decode(w.recorded(removed)[0])
		w.must(err)
		w.expect("the event's list", data.RevokedSessions, want)
	})
}

func TestB7B8NoListHasThem(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u, colleague := w.member(org, "dana@example.com"), w.member(org, "sam@example.com")
		w.join(other, u.ID)
		w.remove(org, u.ID)
		w.expect("the members", w.members(org), []string{colleague.ID})
		w.expect("the other organization's", w.members(other), []string{u.ID})
		w.expect("the switcher", len(w.user(u.ID).Memberships), 1)
	})
}

func TestB9RemovingAgainChangesNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u := w.member(org, "dana@example.com")
		w.join(other, u.ID)
		w.remove(org, u.ID)
		before := len(w.recorded())
		for _, who := range []struct {
			org, user string
			want      error
		}{
			{org, u.ID, directory.ErrMembershipNotFound},
			{org, "usr_999999999999999999", directory.ErrUserNotFound},
			{"org_999999999999999999", u.ID, directory.ErrOrganizationNotFound},
		} {
			_, err := w.RemoveMember(t.Context(), env, who.org, directory.Ref{ID: who.user}, directory.How{})
			w.refused(err, who.want)
		}
		w.expect("the events", len(w.recorded()), before)
	})
}

func TestB10OneEventEach(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		u := w.member(org, "dana@example.com")
		w.remove(org, u.ID)
		w.expect("the events", w.announced(), []string{
			"removed " + org + " " + u.ID + " api", "deleted " + org + " " + u.ID + " last_membership_removed",
		})
	})
}

func TestB11ConcurrentRemovals(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		second, stop := run(w.store) // as another process would
		defer stop()
		org, other := w.organization("One"), w.organization("Two")
		for round := range 10 {
			u := w.member(org, fmt.Sprintf("dana%d@example.com", round))
			w.join(other, u.ID)
			before := len(w.announced())
			var mu sync.Mutex
			outcomes := map[string]int{}
			var all sync.WaitGroup
			for i := range 16 {
				from, d := []string{org, other}[i%2], []*directory.Directory{w.Directory, second}[i/2%2]
				all.Go(func() {
					_, err := d.RemoveMember(context.WithoutCancel(t.Context()), env, from, directory.Ref{ID: u.ID}, directory.How{})
					word := "removed"
					switch {
					case errors.Is(err, directory.ErrMembershipNotFound), errors.Is(err, directory.ErrUserNotFound):
						word = "gone"
					case err != nil:
						word = err.Error()
					}
					mu.Lock()
					outcomes[word]++
					mu.Unlock()
				})
			}
			all.Wait()
			w.expect("the outcomes", outcomes, map[string]int{"removed": 2, "gone": 14})
			got := w.announced()[before:]
			words := map[string]int{}
			for _, a := range got {
				words[strings.Fields(a)[0]]++
			}
			w.expect("the events", words, map[string]int{"removed": 2, "deleted": 1})
			if last := got[2]; !strings.HasPrefix(last, "deleted") {
				t.Fatalf("the last event is %q", last)
			}
		}
		var orphans int
		w.must(w.store.DB().QueryRowContext(t.Context(), `SELECT count(*) FROM users u WHERE deleted_at = 0
AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = u.id AND m.status > 0)`).Scan(&orphans))
		w.expect("accounts without memberships", orphans, 0)
	})
}

func TestB13DeletingAUserEndsAllMemberships(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u := w.member(org, "dana@example.com")
		w.join(other, u.ID)
		s, err := w.CreateSession(t.Context(), directory.Session{EnvironmentID: env, UserID: u.ID})
		w.must(err)
		w.must(w.DeleteUser(t.Context(), env, directory.Ref{ID: u.ID}, directory.How{}))
		first, second := min(org, other), max(org, other)
		w.expect("the events", w.announced(), []string{
			"removed " + first + " " + u.ID + " user_deleted", "removed " + second + " " + u.ID + " user_deleted", "deleted " + u.ID + " user_deleted",
		})
		got, err := w.Session(t.Context(), env, s.ID)
		w.must(err)
		w.expect("the session", got.Status, store.SessionRevoked)
		w.refused(w.DeleteUser(t.Context(), env, directory.Ref{ID: u.ID}, directory.How{}), directory.ErrUserNotFound)
	})
}

func TestB14DeletingAnOrganizationRemovesEverybody(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		both := w.member(org, "both@example.com")
		w.join(other, both.ID)
		var only []string
		for i := range 120 {
			only = append(only, w.member(org, fmt.Sprintf("only%d@example.com", i)).ID)
		}
		w.must(w.DeleteOrganization(t.Context(), env, directory.Ref{ID: org}))
		_, err := w.Organization(t.Context(), env, directory.Ref{ID: org})
		w.refused(err, directory.ErrOrganizationNotFound)
		w.expect("who is left", w.status(other, both.ID), "ACTIVE")
		words := map[string]int{}
		for _, a := range w.announced() {
			fields := strings.Fields(a)
			words[fields[0]+" "+fields[len(fields)-1]]++
		}
		w.expect("the events", words, map[string]int{"removed organization_deleted": 121, "deleted organization_deleted": 120})
		if u := w.user(only[0]); u != nil {
			t.Fatal("an account without membership is left")
		}
		w.refused(w.DeleteOrganization(t.Context(), env, directory.Ref{ID: org}), directory.ErrOrganizationNotFound)
	})
}

func TestB15InvitationsArePendingUntilAccepted(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		u, err := w.CreateUser(t.Context(), env, org, directory.NewUser{Email: "dana@example.com", Membership: directory.NewMembership{Invite: true}})
		w.must(err)
		w.expect("the status", w.status(org, u.ID), "PENDING_INVITE")
		w.expect("the members created", len(w.recorded(created)), 0)
		_, err = w.CreateSession(t.Context(), directory.Session{EnvironmentID: env, UserID: u.ID, OrganizationID: org})
		w.must(err)
		w.expect("the status", w.status(org, u.ID), "ACTIVE")
		w.expect("the members created", len(w.recorded(created)), 1)
	})
}

func TestB17TheEventSaysWhoFromWhereWhenAndWhy(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		o, err := w.CreateOrganization(t.Context(), env, directory.NewOrganization{DisplayName: "Northwind", ExternalID: "crm-1"})
		w.must(err)
		u, heir := w.member(o.ID, "dana@example.com"), w.member(o.ID, "ines@example.com")
		at := time.Now()
		_, err = w.RemoveMember(t.Context(), env, o.ID, directory.Ref{ID: u.ID}, directory.How{Reason: directory.ReasonDashboard, Successor: "INES@example.com"})
		w.must(err)
		ev := w.recorded(removed)[0]
		data, err := events.MembershipRemoved.Decode(ev)
		w.must(err)
		w.expect("who", data.User.ID+data.User.Email, u.ID+"dana@example.com")
		w.expect("from where", data.Organization.ID+data.Organization.DisplayName+data.Organization.ExternalID, o.ID+"Northwindcrm-1")
		w.expect("why", data.Reason, "dashboard")
		w.expect("who takes over", *data.Successor, events.Successor{UserID: heir.ID, Email: "ines@example.com", Source: "request"})
		if ev.OccurredAt.Before(at.Truncate(time.Second)) || ev.EnvironmentID != env {
			t.Fatalf("when and where: %v %v", ev.OccurredAt, ev.EnvironmentID)
		}
	})
}

func TestSuccessorHasToBeAnotherActiveMember(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u, stranger := w.member(org, "dana@example.com"), w.member(other, "sam@example.com")
		for _, named := range []string{u.ID, "dana@example.com", stranger.ID, "nobody@example.com", "usr_999999999999999999"} {
			_, err := w.RemoveMember(t.Context(), env, org, directory.Ref{ID: u.ID}, directory.How{Successor: named})
			w.refused(err, directory.ErrSuccessor)
		}
		w.expect("the status", w.status(org, u.ID), "ACTIVE")
		w.expect("the events", len(w.announced()), 0)
	})
}

func TestManagerTakesOverWhileAMember(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		dir := w.scim(org)
		boss, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: "boss@example.com", ExternalID: "00u1", Active: true})
		w.must(err)
		for i, manager := range []string{boss.ID, "00u1", ""} {
			s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: fmt.Sprintf("dana%d@example.com", i), ManagerID: manager, Active: true})
			w.must(err)
			w.switchSCIM(dir, s.ID, false)
		}
		late, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: "late@example.com", ManagerID: boss.ID, Active: true})
		w.must(err)
		w.switchSCIM(dir, boss.ID, false)
		w.switchSCIM(dir, late.ID, false)
		var heirs []string
		for _, ev := range w.recorded(removed) {
			data, err := events.MembershipRemoved.Decode(ev)
			w.must(err)
			if data.Successor == nil {
				heirs = append(heirs, "-")
				continue
			}
			heirs = append(heirs, data.Successor.UserID+" "+data.Successor.Source)
		}
		w.expect("who takes over", heirs, []string{boss.UserID + " manager", boss.UserID + " manager", "-", "-", "-"})
	})
}

// inbound sends an event as a webhook.
func (w *world) inbound(id string, ev events.Event) directory.Applied {
	w.t.Helper()
	done, err := w.Apply(w.t.Context(), inboundOf(id, ev))
	w.must(err)
	return done
}

func inboundOf(id string, ev events.Event) directory.Inbound {
	var in directory.Inbound
	in.Event, in.Inbox.SourceID, in.Inbox.WebhookID = ev, "src_1", id
	copy(in.Inbox.BodyHash[:], ev.Body()[max(0, len(ev.Body())-32):])
	return in
}

func fixture(t *testing.T, name string) events.Event {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", "events", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	ev, err := events.Parse(body)
	if err != nil {
		t.Fatal(err)
	}
	return ev.Compact()
}
