package directory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
)

// News that arrive out of order, from several sides, or from two processes at
// once.

func TestDirectoryUserMovedMeanwhile(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		second, stop := run(w.store)
		defer stop()
		org := w.organization("One")
		dir := w.scim(org)
		for i := range 40 {
			s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: fmt.Sprint("dana", i), Email: fmt.Sprintf("dana%d@example.com", i), Active: true})
			w.must(err)
			w.remove(org, s.UserID) // the account goes; the directory's user is another one's from now on
			to := func(d *directory.Directory, active bool) {
				if _, err := d.ChangeSCIMUser(context.WithoutCancel(t.Context()), dir, s.ID, func(u directory.SCIMUser) (directory.SCIMUser, error) {
					u.Active = active
					return u, nil
				}); err != nil {
					t.Error(err)
				}
			}
			to(w.Directory, false)
			var both sync.WaitGroup
			both.Go(func() { to(w.Directory, true) })
			both.Go(func() { to(second, false) })
			both.Wait()
			after, err := w.SCIMUser(t.Context(), dir, s.ID)
			w.must(err)
			want := "INACTIVE"
			if after.Active {
				want = "ACTIVE"
			}
			if got := w.status(org, after.UserID); got != want && (got != "" || after.Active) {
				t.Fatalf("the directory says active %v, the membership is %q", after.Active, got)
			}
		}
	})
}

func TestLateNewsOfWhatIsGone(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at := time.Now().Add(-time.Hour)
		w.inbound("msg_1", told(t, created, northwind, dana, "dana@example.com", at))
		ev, err := events.New(events.UserDeleted, events.UserDeletion{User: events.User{ID: dana}},
			events.Defaults{EnvironmentID: env, Now: func() time.Time { return at.Add(2 * time.Minute) }}, "")
		w.must(err)
		w.inbound("msg_2", ev)
		for i, org := range []string{northwind, globex} {
			w.expect("a membership from before the account went", w.inbound(fmt.Sprint("msg_3", i), told(t, created, org, dana, "dana@example.com", at.Add(time.Minute))).Effect,
				directory.EffectStale)
		}
		if w.user(dana) != nil {
			t.Fatal("the account is back")
		}
		w.expect("one from after it", w.inbound("msg_4", told(t, created, northwind, dana, "dana@example.com", at.Add(3*time.Minute))).Effect, directory.EffectAdded)

		w.inbound("msg_5", fixture(t, "organization.deleted"))
		w.expect("a membership of an organization that is gone", w.inbound("msg_6", told(t, created, globex, sam, "sam@example.com", at)).Effect, directory.EffectStale)
		w.expect("who was told to be there", len(w.recorded(created)), 2)
	})
}

func TestUpdateBringsBackWhoWasRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at := time.Now().Add(-time.Hour)
		w.inbound("msg_1", told(t, created, northwind, dana, "dana@example.com", at))
		w.inbound("msg_2", told(t, removed, northwind, dana, "dana@example.com", at.Add(time.Minute)))
		ev, err := events.New(events.MembershipUpdated, events.Membership{
			Organization: events.Organization{ID: northwind},
			User:         events.User{ID: dana, Memberships: []events.UserMembership{{OrganizationID: northwind, Status: "ACTIVE"}}},
		}, events.Defaults{EnvironmentID: env, Now: func() time.Time { return at.Add(2 * time.Minute) }}, northwind)
		w.must(err)
		w.expect("the effect", w.inbound("msg_3", ev).Effect, directory.EffectAdded)
		var open int
		w.must(w.store.DB().QueryRowContext(t.Context(), `SELECT count(*) FROM handover_outbox o JOIN handover_events e ON e.seq = o.event_seq WHERE e.type = $1`, removed).Scan(&open))
		w.expect("open removals", open, 0)
		w.expect("who was told to be there", len(w.recorded(created)), 2)
	})
}

func TestInvitationEndsTheDepartureBeforeIt(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org, other := w.organization("One"), w.organization("Two")
		u := w.member(org, "dana@example.com")
		w.join(other, u.ID)
		w.remove(org, u.ID)
		at := time.Now()
		_, err := w.AddMember(t.Context(), env, org, directory.Ref{ID: u.ID}, directory.NewMembership{Invite: true})
		w.must(err)
		w.expect("late news of the departure", w.inbound("msg_1", told(t, removed, org, u.ID, "", at)).Effect, directory.EffectStale)
		w.expect("late news from before it", w.inbound("msg_2", told(t, created, org, u.ID, "", at.Add(-time.Hour))).Effect, directory.EffectStale)
		w.expect("the status", w.status(org, u.ID), "PENDING_INVITE")
		w.expect("the removals", len(w.recorded(removed)), 1)
	})
}

func TestEnvironmentsDoNotTouch(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		at := time.Now().Add(-time.Hour)
		elsewhere := func(ev events.Event) events.Event {
			other, err := events.Parse([]byte(strings.Replace(string(ev.Body()), env, "env_2", 1)))
			w.must(err)
			return other
		}
		w.inbound("msg_1", told(t, created, northwind, ines, "ines@example.com", at))
		w.inbound("msg_2", aboutDirectoryUser(t, "organization.directory.user_created", "diruser_1", "ines@example.com", "00u1", true, at))
		w.inbound("msg_3", elsewhere(aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_1", "ines@example.com", "00u1", false, at.Add(time.Minute))))
		w.expect("the status", w.status(northwind, ines), "ACTIVE")
		w.inbound("msg_4", elsewhere(told(t, removed, northwind, ines, "", at.Add(time.Minute))))
		w.expect("the status", w.status(northwind, ines), "ACTIVE")
		w.expect("the effect", w.inbound("msg_5", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_1", "", "", false, at.Add(2*time.Minute))).Effect, directory.EffectRemoved)
		w.expect("the status", w.status(northwind, ines), "")
	})
}

func TestNewsOfTheFutureDoNotHideLaterOnes(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.inbound("msg_1", told(t, created, northwind, dana, "dana@example.com", time.Now().AddDate(100, 0, 0)))
		w.expect("the effect", w.inbound("msg_2", told(t, removed, northwind, dana, "", time.Now().Add(time.Second))).Effect, directory.EffectRemoved)
		org := w.organization("One")
		_, err := w.Import(t.Context(), env, org, []directory.Imported{{ID: sam, JoinedAt: time.Now().AddDate(1, 0, 0)}})
		w.must(err)
		w.expect("the effect", w.inbound("msg_3", told(t, removed, org, sam, "", time.Now().Add(time.Second))).Effect, directory.EffectRemoved)
	})
}

func TestLateLoginOpensNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		f := fixture(t, "user.logout")
		w.inbound("msg_1", told(t, created, northwind, dana, "dana.rivers@example.com", f.OccurredAt.Add(-time.Hour)))
		w.inbound("msg_2", told(t, removed, northwind, dana, "", f.OccurredAt.Add(time.Hour)))
		login, err := events.Parse([]byte(strings.NewReplacer("user.logout", "user.login", "User Logout", "User Login", "REVOKED", "ACTIVE", "9014", "9013").Replace(string(f.Body()))))
		w.must(err)
		w.inbound("msg_3", login)
		w.expect("the session", storedSession(t, w, "ses_118200000000008001"), "revoked")
	})
}

func TestTheEmailOfAnAccountThatCameBackMayBeTaken(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		dir := w.scim(org)
		s, err := w.CreateSCIMUser(t.Context(), dir, directory.SCIMUser{UserName: "dana", Email: "dana@example.com", Active: true})
		w.must(err)
		w.remove(org, s.UserID)
		again := w.member(org, "dana@example.com")
		w.expect("the effect", w.inbound("msg_1", told(t, created, org, s.UserID, "dana@example.com", time.Now().Add(time.Second))).Effect, directory.EffectAdded)
		w.expect("whose the email is", w.user(s.UserID).Email+w.user(again.ID).Email, "dana@example.com")
		w.remove(org, s.UserID)
		w.switchSCIM(dir, s.ID, false)
		w.switchSCIM(dir, s.ID, true)
		after, err := w.SCIMUser(t.Context(), dir, s.ID)
		w.must(err)
		w.expect("whom the directory means now", after.UserID, again.ID)
	})
}

func TestADirectoryHasNoSayInOtherOrganizations(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		victim, other := w.organization("Victim"), w.organization("Other")
		theirs, own := w.scim(victim), w.scim(other)
		s, err := w.CreateSCIMUser(t.Context(), theirs, directory.SCIMUser{UserName: "dana", Email: "dana@example.com", Active: true})
		w.must(err)
		w.switchSCIM(theirs, s.ID, false)
		o, err := w.CreateSCIMUser(t.Context(), own, directory.SCIMUser{UserName: "dana", Email: "dana@example.com", Active: true})
		w.must(err)
		w.expect("the account", o.UserID, s.UserID)
		w.must(w.DeleteSCIMUser(t.Context(), own, o.ID))
		w.expect("the status of who is switched off", w.status(victim, s.UserID), "INACTIVE")
	})
}

// What cannot carry more is announced as it came.
func TestRemovalOfTheLargestSize(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		body := string(told(t, removed, northwind, dana, "", time.Now()).Body())
		padded := strings.Replace(body, `"data":{`, `"data":{"pad":"`+strings.Repeat("x", events.MaxSize-len(body)-len(`"pad":"",`))+`",`, 1)
		ev, err := events.Parse([]byte(padded))
		w.must(err)
		w.expect("the effect", w.inbound("msg_1", ev).Effect, directory.EffectRemoved)
		w.expect("the size", len(w.recorded(removed)[0].Body()), events.MaxSize)
	})
}

func TestImportTakesOverWhomADirectoryToldFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		w.inbound("msg_1", aboutDirectoryUser(t, "organization.directory.user_created", "diruser_1", "ines@example.com", "00u1", true, time.Now().Add(-time.Hour)))
		org := w.organization("One")
		added, err := w.Import(t.Context(), env, org, []directory.Imported{{ID: ines, Email: "Ines@example.com"}})
		w.must(err)
		w.expect("how many were added", added, 1)
		w.expect("the status", w.status(org, ines), "ACTIVE")
		w.expect("the effect", w.inbound("msg_2", aboutDirectoryUser(t, "organization.directory.user_deleted", "diruser_1", "", "", false, time.Now())).Effect, directory.EffectRemoved)
		w.expect("whom", w.recorded(removed)[0].UserID(), ines)
	})
}

// A deletion that was begun is reported as done: somebody finishes it.
func TestDeletionIsDoneOnceItIsBegun(t *testing.T) {
	onBoth(t, func(t *testing.T, w *world) {
		org := w.organization("One")
		for i := range 150 {
			w.member(org, fmt.Sprintf("u%d@example.com", i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan error, 1)
		go func() { answer <- w.DeleteOrganization(ctx, env, directory.Ref{ID: org}) }()
		w.await("the first removal", func() bool { return len(w.recorded(removed)) > 0 })
		cancel()
		err := <-answer
		if err != nil && !errors.Is(err, directory.ErrUnavailable) {
			t.Fatal(err)
		}
		if err != nil && len(w.recorded("organization.deleted")) > 0 {
			t.Fatalf("it is deleted, and the answer is %v", err)
		}
		w.await("the end of the organization", func() bool { return len(w.recorded(removed)) >= 150 })
		w.expect("the removals", len(w.recorded(removed)), 150)
		var data struct{ Reason string }
		w.must(json.Unmarshal(w.recorded(removed)[149].Data, &data))
		w.expect("the reason", data.Reason, "organization_deleted")
	})
}
