package app_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/api"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
	"github.com/handover-dev/handover/internal/testenv"
)

// A process that removes people by REST is killed again and again. What was
// answered is announced and arrives, once; nothing is announced that was not
// done.
func TestKilledWhileRemoving(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		app := newReceiver(t)
		app.subscribe(t, p, "app")
		env := newEnvironment()
		c := p.client().InEnvironment(env)
		client := must[api.APIClient](t)(c.CreateClient(t.Context(), "app"))
		l := &leaving{t: t, org: organization(t, c, "", "Northwind"), other: organization(t, c, "", "Globex"), removed: make(map[string]bool)}
		l.client = transport(t, (*http.Protocols).SetHTTP1)
		l.door = &rest{base: p.base(), token: login(t, p, client), client: l.client}
		l.start(12)
		for range 6 {
			l.more(30)
			p.kill()
			p.start()
		}
		l.more(30)
		l.stop()

		told := make(map[string]string) // the event of each person's removal from org
		for _, ev := range announced(t, p, env) {
			if ev.Type != events.MembershipRemoved.Name {
				continue
			}
			if ev.OrganizationID != l.org || told[ev.UserID()] != "" {
				t.Errorf("%s is announced again, or should not have been", ev)
			}
			told[ev.UserID()] = ev.ID
		}
		for user := range l.removed {
			if told[user] == "" {
				t.Errorf("the removal of %s was answered and is not announced", user)
			}
		}
		testenv.Eventually(t, patience, func() error {
			app.mu.Lock()
			defer app.mu.Unlock()
			for user, id := range told {
				if app.byEvent[id] == nil {
					return fmt.Errorf("the removal of %s has not arrived", user)
				}
			}
			return nil
		})
		for _, never := range []struct{ what, query string }{
			{"removed memberships without event", `SELECT count(*) FROM memberships m WHERE status = 0 AND NOT EXISTS
(SELECT 1 FROM handover_events e WHERE e.seq = m.removal_seq AND e.type = '` + events.MembershipRemoved.Name + `' AND e.user_id = m.user_id AND e.organization_id = m.organization_id)`},
			{"events without removal", `SELECT count(*) FROM handover_events e WHERE type = '` + events.MembershipRemoved.Name + `' AND NOT EXISTS
(SELECT 1 FROM memberships m WHERE m.user_id = e.user_id AND m.status = 0 AND m.removal_seq = e.seq)`},
			{"deleted accounts without event", `SELECT count(*) FROM users u WHERE deleted_at > 0 AND NOT EXISTS
(SELECT 1 FROM handover_events e WHERE e.type = '` + events.UserDeleted.Name + `' AND e.user_id = u.id)`},
			{"deletions of accounts that are there", `SELECT count(*) FROM handover_events e WHERE type = '` + events.UserDeleted.Name + `' AND NOT EXISTS
(SELECT 1 FROM users u WHERE u.id = e.user_id AND u.deleted_at > 0)`},
			{"accounts without membership", `SELECT count(*) FROM users u WHERE deleted_at = 0 AND NOT EXISTS (SELECT 1 FROM memberships m WHERE m.user_id = u.id AND m.status > 0)`},
			{"sessions that outlived", `SELECT count(*) FROM sessions s JOIN memberships m ON m.user_id = s.user_id AND m.organization_id = s.organization_id WHERE s.status = 'active' AND m.status = 0`},
		} {
			if n := count(t, p, never.query); n != 0 {
				t.Errorf("%s: %d", never.what, n)
			}
		}
		checkInvariants(t, p)
		app.complain(t)
		t.Logf("%d removals were answered, %d of them after they had been done already; %d are announced", len(l.removed), l.found, len(told))
	})
}

// leaving are people who become members and leave. What is not answered is asked
// again.
type leaving struct {
	t          *testing.T
	door       *rest
	client     *http.Client
	org, other string
	end        atomic.Bool
	ended      sync.WaitGroup

	mu      sync.Mutex
	removed map[string]bool // those whose removal was answered
	found   int             // to have left, as it was asked again
}

func (l *leaving) start(workers int) {
	for range workers {
		l.ended.Go(func() {
			for !l.end.Load() {
				l.one()
			}
		})
	}
	l.t.Cleanup(l.stop)
}

func (l *leaving) stop() {
	l.end.Store(true)
	l.ended.Wait()
}

// more waits until so many more removals were answered.
func (l *leaving) more(n int) {
	l.t.Helper()
	count := func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.removed) }
	before := count()
	testenv.Eventually(l.t, patience, func() error {
		if now := count(); now < before+n {
			return fmt.Errorf("%d removals were answered, and then %d", before, now-before)
		}
		return nil
	})
}

// one makes somebody a member and removes them.
func (l *leaving) one() {
	ctx := l.t.Context()
	n := people.Add(1)
	res, err := l.door.CreateUserAndMembership(ctx, &pb.CreateUserAndMembershipRequest{
		OrganizationId: l.org, User: &pb.CreateUser{Email: fmt.Sprintf("leaving%d@example.com", n)}, SendInvitationEmail: new(n%2 == 0),
	})
	if err != nil {
		l.wait(ctx, err)
		return // they may be a member, or not
	}
	id := res.User.Id
	if n%3 == 0 {
		req := &pb.CreateMembershipRequest{OrganizationId: l.other, Identities: &pb.CreateMembershipRequest_Id{Id: id}, Membership: &pb.CreateMembership{}}
		if _, err := l.door.CreateMembership(ctx, req); err != nil {
			l.wait(ctx, err)
		}
	}
	for again := false; ctx.Err() == nil; again = true {
		_, err := l.door.DeleteMembership(ctx, &pb.DeleteMembershipRequest{OrganizationId: l.org, Identities: &pb.DeleteMembershipRequest_Id{Id: id}})
		done := again && connect.CodeOf(err) == connect.CodeNotFound
		if err != nil && !done {
			l.wait(ctx, err)
			continue
		}
		l.mu.Lock()
		l.removed[id] = true
		if done {
			l.found++
		}
		l.mu.Unlock()
		return
	}
}

// wait waits a little when there was no answer or a clear "later".
func (l *leaving) wait(ctx context.Context, err error) {
	var lost *url.Error
	var answered *answerError
	if ctx.Err() == nil && !errors.As(err, &lost) && (!errors.As(err, &answered) || answered.status != http.StatusServiceUnavailable) {
		l.t.Errorf("a request fails with %v", err)
	}
	pause(ctx, 5*time.Millisecond)
}
