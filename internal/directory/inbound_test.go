package directory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/signing"
)

const (
	northwind = "org_118200000000000101"
	globex    = "org_118200000000000202"
	dana      = "usr_118200000000001001"
	sam       = "usr_118200000000001002"
	ines      = "usr_118200000000001003"
)

// told builds an inbound event about a membership.
func told(t *testing.T, typ, org, user, email string, at time.Time) events.Event {
	t.Helper()
	ev, err := events.New(events.Type[events.Membership]{Name: typ}, events.Membership{
		Organization: events.Organization{ID: org, DisplayName: "Northwind"}, User: events.User{ID: user, Email: email},
	}, events.Defaults{EnvironmentID: env, Now: func() time.Time { return at }}, org)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

func aboutDirectoryUser(t *testing.T, typ, id, email, provider string, active bool, at time.Time) events.Event {
	t.Helper()
	data, err := json.Marshal(map[string]any{"id": id, "organization_id": northwind, "email": email, "dp_id": provider, "active": active})
	if err != nil {
		t.Fatal(err)
	}
	ev, err := events.New(events.Type[events.Raw]{Name: typ}, events.Raw(data), events.Defaults{EnvironmentID: env, Now: func() time.Time { return at }}, northwind)
	if err != nil {
		t.Fatal(err)
	}
	return ev
}

// Every fixture means what it is said to mean, alone and told again.
func TestFixtures(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		for name, want := range map[string]struct {
			effect  directory.Effect
			removed []string
		}{
			"user.organization_membership_deleted":                   {directory.EffectRemoved, []string{northwind + " " + dana}},
			"user.organization_membership_deleted.minimal":           {directory.EffectRemoved, []string{globex + " " + sam}},
			"user.deleted.proposed":                                  {directory.EffectRemoved, nil},
			"user.organization_membership_created":                   {directory.EffectAdded, nil},
			"user.organization_membership_updated":                   {directory.EffectRecorded, nil},
			"user.organization_membership_updated.inactive.proposed": {directory.EffectRemoved, []string{northwind + " " + ines}},
			"user.organization_invitation":                           {directory.EffectRecorded, nil},
			"organization.deleted":                                   {directory.EffectRemoved, nil},
			"organization.directory.user_updated.inactive":           {directory.EffectRemoved, []string{northwind + " ines.moreau@example.com"}},
			"organization.directory.user_updated.active":             {directory.EffectRecorded, nil},
			"organization.directory.user_deleted":                    {directory.EffectRemoved, []string{northwind + " ines.moreau@example.com"}},
			"user.logout":                                            {directory.EffectRecorded, nil},
		} {
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, string(w.store.Dialect()))
				ev := fixture(t, name)
				if !directory.Means(ev.Type) {
					t.Fatal("the type means nothing")
				}
				done := w.inbound("msg_1", ev)
				w.expect("the effect", done.Effect, want.effect)
				again := w.inbound("msg_1", ev)
				w.expect("the effect of the same webhook", fmt.Sprintf("%v %v %v", again.Effect, again.Repeated, again.EventID), "known true "+ev.ID)
				w.expect("that of the same event under another id", w.inbound("msg_2", ev).Repeated, true)
				var got []string
				for _, ev := range w.recorded(removed) {
					data, err := events.MembershipRemoved.Decode(ev)
					w.must(err)
					who := data.User.ID
					if strings.Contains(name, "directory") {
						who = data.User.Email // the id is one that was made here
					}
					got = append(got, ev.OrganizationID+" "+who)
					w.expect("the reason", data.Reason, "upstream")
				}
				w.expect("the removals", got, want.removed)
			})
		}
	})
}

func TestFixturesOfOtherTypesMeanNothing(t *testing.T) {
	for _, name := range []string{
		"organization.directory_disabled", "organization.directory.group_deleted", "organization.sso_created", "role.created",
		"unknown_future_type", "legacy.scalekit.dir.user.delete",
	} {
		if typ := fixture(t, name).Type; directory.Means(typ) {
			t.Errorf("%s means something", typ)
		}
	}
}

// The fixtures are one story: Inès leaves by three channels, and once.
func TestR7OneDepartureHoweverOftenItIsTold(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		channels := []events.Event{
			fixture(t, "organization.directory.user_updated.inactive"),
			fixture(t, "user.organization_membership_updated.inactive.proposed"),
			fixture(t, "organization.directory.user_deleted"),
			told(t, removed, northwind, ines, "INES.moreau@example.com", time.Now()),
		}
		for _, first := range []int{0, 1, 2, 3} {
			w := newWorld(t, string(w.store.Dialect()))
			known := w.inbound("msg_0", told(t, created, northwind, ines, "ines.moreau@example.com", fixture(t, "organization.directory.user_updated.inactive").OccurredAt.Add(-time.Hour)))
			w.expect("the effect", known.Effect, directory.EffectAdded)
			order := append(slices.Clone(channels[first:]), channels[:first]...)
			var effects []string
			for i, ev := range order {
				effects = append(effects, string(w.inbound(fmt.Sprint("msg_", i+1), ev).Effect))
			}
			w.expect("the effects", effects, []string{"removed", "known", "known", "known"})
			w.expect("the removals", len(w.recorded(removed)), 1)
			w.expect("whom", w.recorded(removed)[0].UserID(), ines)
			w.expect("the status", w.status(northwind, ines), "")
		}
	})
}

// Somebody whose account went with the last membership comes back by their
// directory.
func TestDirectoryBringsBackADeletedAccount(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at := time.Now().Add(-time.Hour)
		w.inbound("msg_1", told(t, created, northwind, ines, "ines@example.com", at))
		w.inbound("msg_2", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_5003", "ines@example.com", "00u1", false, at.Add(time.Minute)))
		ev, err := events.New(events.UserDeleted, events.UserDeletion{User: events.User{ID: ines}}, events.Defaults{EnvironmentID: env}, "")
		w.must(err)
		w.inbound("msg_3", ev)
		if w.user(ines) != nil {
			t.Fatal("the account is still there")
		}
		w.expect("the effect", w.inbound("msg_4", aboutDirectoryUser(t, "organization.directory.user_created", "diruser_5003", "ines@example.com", "00u1", true, time.Now().Add(time.Minute))).Effect,
			directory.EffectAdded)
		w.expect("the status", w.status(northwind, ines), "ACTIVE")
	})
}

// Of somebody whom only a directory told of there is one departure too, also when
// their id is told later, and by the id of the directory's own.
func TestR7PeopleKnownByTheirDirectoryOnly(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at := time.Now().Add(-time.Hour)
		w.inbound("msg_1", aboutDirectoryUser(t, "organization.directory.user_updated", "diruser_5003", "ines@example.com", "00u1", false, at))
		w.inbound("msg_2", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_5003", "", "", false, at.Add(time.Minute)))
		w.inbound("msg_3", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_5004", "", "00u1", false, at.Add(time.Minute)))
		w.inbound("msg_4", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_5005", "INES@example.com", "", false, at.Add(time.Minute)))
		w.expect("the effect", w.inbound("msg_5", told(t, removed, northwind, ines, "ines@example.com", at.Add(2*time.Minute))).Effect, directory.EffectKnown)
		w.expect("the removals", len(w.recorded(removed)), 1)
		w.expect("the re-add", w.inbound("msg_6", told(t, created, northwind, ines, "ines@example.com", at.Add(3*time.Minute))).Effect, directory.EffectAdded)
		w.expect("the status", w.status(northwind, ines), "ACTIVE")
		w.expect("the next removal", w.inbound("msg_7", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_5003", "", "", false, at.Add(4*time.Minute))).Effect,
			directory.EffectRemoved)
		w.expect("whom", w.recorded(removed)[1].UserID(), ines)
	})
}

func TestR8LateNewsAreNotActedOn(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at := time.Now().Add(-time.Hour)
		step := func(i int, typ string, after time.Duration) directory.Effect {
			return w.inbound(fmt.Sprint("msg_", i), told(t, typ, northwind, dana, "dana@example.com", at.Add(after))).Effect
		}
		w.expect("the re-add", step(1, created, time.Minute), directory.EffectAdded)
		w.expect("a removal before it, by a nanosecond", step(2, removed, time.Minute-1), directory.EffectStale)
		w.expect("the status", w.status(northwind, dana), "ACTIVE")
		w.expect("a removal after it", step(3, removed, time.Minute+2), directory.EffectRemoved)
		w.expect("a re-add between", step(4, created, time.Minute+1), directory.EffectStale)
		w.expect("the status", w.status(northwind, dana), "")
		w.expect("the removals", len(w.recorded(removed)), 1)
		w.expect("the re-adds", len(w.recorded(created)), 1)
		w.expect("a re-add after it", step(5, created, time.Minute+3), directory.EffectAdded)
		w.expect("the epoch", w.user(dana).Memberships[0].Epoch, 2)
	})
}

func TestRemovalByAPIIsKnownToLaterWebhooks(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		u := w.member(org, "dana@example.com")
		w.remove(org, u.ID)
		w.expect("the effect", w.inbound("msg_1", told(t, removed, org, u.ID, u.Email, time.Now())).Effect, directory.EffectKnown)
		w.expect("the events", len(w.announced()), 2)
	})
}

func TestWebhookThatContradictsIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		ev := told(t, removed, northwind, dana, "", time.Now())
		w.inbound("msg_1", ev)
		other, err := events.Parse([]byte(strings.Replace(string(ev.Body()), "Northwind", "Eastwind!", 1)))
		w.must(err)
		in := inboundOf("msg_1", other)
		in.Inbox.BodyHash[0]++
		_, err = w.Apply(t.Context(), in)
		w.refused(err, ingest.ErrWebhookConflict)
		in.Inbox.WebhookID = "msg_2"
		_, err = w.Apply(t.Context(), in)
		w.refused(err, ingest.ErrEventConflict)
		w.expect("the removals", len(w.recorded(removed)), 1)
	})
}

func TestConcurrentCopiesAreOneEvent(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		second, stop := run(w.store)
		defer stop()
		for round := range 10 {
			user := fmt.Sprintf("usr_1182000000000010%02d", round)
			ev := told(t, removed, northwind, user, "", time.Now())
			var all sync.WaitGroup
			effects := make(chan directory.Effect, 32)
			for i := range 32 {
				d := []*directory.Directory{w.Directory, second}[i%2]
				all.Go(func() {
					done, err := d.Apply(context.WithoutCancel(t.Context()), inboundOf(fmt.Sprint("msg_", round, "_", i/4), ev))
					if err != nil {
						t.Error(err)
					}
					effects <- done.Effect
				})
			}
			all.Wait()
			close(effects)
			n := 0
			for e := range effects {
				if e == directory.EffectRemoved {
					n++
				}
			}
			w.expect("how many removed", n, 1)
			w.expect("the events", len(w.recorded(removed)), round+1)
		}
	})
}

func TestUpstreamDeletesAnOrganization(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.inbound("msg_1", told(t, created, globex, dana, "dana@example.com", time.Now().Add(-time.Hour)))
		w.inbound("msg_2", told(t, created, globex, sam, "sam@example.com", time.Now().Add(-time.Hour)))
		w.inbound("msg_3", told(t, created, northwind, dana, "dana@example.com", time.Now().Add(-time.Hour)))
		w.expect("the effect", w.inbound("msg_4", fixture(t, "organization.deleted")).Effect, directory.EffectRemoved)
		w.await("the end of the organization", func() bool { return len(w.announced()) >= 3 })
		w.expect("the events", w.announced(), []string{
			"removed " + globex + " " + dana + " organization_deleted",
			"removed " + globex + " " + sam + " organization_deleted", "deleted " + globex + " " + sam + " organization_deleted",
		})
	})
}

func TestSessionsComeFromLogins(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.inbound("msg_1", told(t, created, northwind, dana, "dana.rivers@example.com", time.Now().Add(-time.Hour)))
		login, err := events.Parse([]byte(strings.NewReplacer("user.logout", "user.login", "User Logout", "User Login", "REVOKED", "ACTIVE", "9014", "9013").
			Replace(string(fixture(t, "user.logout").Body()))))
		w.must(err)
		w.inbound("msg_2", login)
		const id = "ses_118200000000008001"
		s := storedSession(t, w, id)
		w.expect("the status", s, "active")
		w.inbound("msg_3", told(t, removed, northwind, dana, "", time.Now()))
		data, err := events.MembershipRemoved.Decode(w.recorded(removed)[0])
		w.must(err)
		w.expect("the sessions that ended", data.RevokedSessions, []string{id})
		w.inbound("msg_4", fixture(t, "user.logout"))
		w.expect("the status", storedSession(t, w, id), "revoked")
	})
}

func storedSession(t *testing.T, w *world, id string) string {
	t.Helper()
	var status string
	w.must(w.store.DB().QueryRowContext(t.Context(), `SELECT status FROM sessions WHERE id = $1`, id).Scan(&status))
	return status
}

// The removal that is open when a person comes back is superseded, by whatever
// channel they do.
func TestReaddSupersedesTheRemoval(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		_, err := w.store.CreateEndpoint(t.Context(), store.Endpoint{Name: "app", URL: "https://app.example.com", EventTypes: []string{removed}}, signing.NewKey())
		w.must(err)
		org, other := w.organization("One"), w.organization("Two")
		dir := w.scim(org)
		s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: "dana@example.com", Active: true})
		w.must(err)
		u := s.UserID
		w.join(other, u)
		for i, again := range []struct{ leave, back func() }{
			{func() { w.remove(org, u) }, func() { w.join(org, u) }},
			{func() { w.switchSCIM(dir, s.ID, true); w.switchSCIM(dir, s.ID, false) }, func() { w.switchSCIM(dir, s.ID, true) }},
			{func() { w.inbound("msg_1", told(t, removed, org, u, "", time.Now())) }, func() { w.inbound("msg_2", told(t, created, org, u, "", time.Now())) }},
		} {
			again.leave()
			w.expect("the removals", len(w.recorded(removed)), i+1)
			var superseded, open int
			count := func() {
				w.must(w.store.DB().QueryRowContext(t.Context(), `SELECT count(*) FROM deliveries WHERE state = 5`).Scan(&superseded))
				w.must(w.store.DB().QueryRowContext(t.Context(), `SELECT count(*) FROM handover_outbox o JOIN handover_events e ON e.seq = o.event_seq WHERE e.type = $1`, removed).Scan(&open))
			}
			count()
			w.expect("what is open after the removal", open, 1)
			again.back()
			count()
			w.expect("what is open, and superseded, after the re-add", []int{open, superseded}, []int{0, i + 1})
		}
	})
}

func TestNothingOfARefusedCommandStays(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		dir := w.scim(org)
		s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: "dana@example.com", Active: true})
		w.must(err)
		no := errors.New("no")
		var all sync.WaitGroup
		for i := range 20 {
			all.Go(func() {
				_, err := w.ChangeSCIMUser(context.WithoutCancel(t.Context()), dir, s.ID, func(u directory.SCIMUser) (directory.SCIMUser, error) {
					u.Active = false
					return u, no
				})
				if !errors.Is(err, no) {
					t.Errorf("the error is %v", err)
				}
			})
			all.Go(func() { w.member(org, fmt.Sprintf("other%d@example.com", i)) })
		}
		all.Wait()
		w.expect("the status", w.status(org, s.UserID), "ACTIVE")
		w.expect("the events", len(w.announced()), 0)
	})
}
