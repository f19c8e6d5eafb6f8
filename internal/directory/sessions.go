package directory

import (
	"context"
	"slices"

	"github.com/handover-dev/handover/internal/store"
)

// CreateSession records a session that began elsewhere. An empty ID is made here.
// An invitation to its organization is accepted by it.
func (d *Directory) CreateSession(ctx context.Context, s Session) (Session, error) {
	if s.ID == "" {
		s.ID = newID("ses_")
	}
	env := s.EnvironmentID
	need := store.Need{EnvironmentID: env, Users: []store.UserRef{{ID: s.UserID}}, Sessions: []string{s.ID}}
	for _, id := range append([]string{s.OrganizationID}, s.Organizations...) {
		need.Organizations = append(need.Organizations, store.OrganizationRef{ID: id})
	}
	var made Session
	err := d.do(ctx, &command{need: need, events: 1, taken: ErrSessionExists, decide: func(c *store.Change) error {
		u, err := user(c, env, store.UserRef{ID: s.UserID})
		if err != nil {
			return err
		}
		if c.Session(env, s.ID) != nil {
			return ErrSessionExists
		}
		made = s
		made.Status, made.CreatedAt, made.UpdatedAt, made.LastActiveAt = store.SessionActive, micros(c.Now), micros(c.Now), micros(c.Now)
		if s.OrganizationID != "" && !slices.Contains(made.Organizations, s.OrganizationID) {
			made.Organizations = append(slices.Clone(made.Organizations), s.OrganizationID)
		}
		var pending *Membership
		for _, id := range made.Organizations {
			m := c.Membership(u, id)
			if m == nil || left(m) {
				return ErrMembershipNotFound
			}
			if id == s.OrganizationID && m.Status == store.MembershipPendingInvite {
				pending = m
			}
		}
		if pending != nil {
			accepted := pending.AcceptedAt
			pending.AcceptedAt = micros(c.Now)
			if err := d.join(c, u, pending, c.Now, pending.ProvisioningMethod, nil); err != nil {
				pending.AcceptedAt = accepted
				return err
			}
		}
		u.LastLoginAt = micros(c.Now)
		c.PutUser(u)
		kept := made
		c.PutSession(&kept)
		return nil
	}})
	return made, err
}

// RevokeSession ends a session; one that has ended already is returned as it is.
func (d *Directory) RevokeSession(ctx context.Context, env, id string) (Session, error) {
	var done Session
	err := d.do(ctx, &command{need: store.Need{EnvironmentID: env, Sessions: []string{id}}, decide: func(c *store.Change) error {
		s := c.Session(env, id)
		if s == nil {
			return ErrSessionNotFound
		}
		revoke(c, s)
		done = *s
		return nil
	}})
	return done, err
}

// RevokeUserSessions ends all sessions of a user and returns those that it ended.
func (d *Directory) RevokeUserSessions(ctx context.Context, env, userID string) ([]Session, error) {
	var done []Session
	err := d.do(ctx, &command{need: store.Need{EnvironmentID: env, Users: []store.UserRef{{ID: userID}}}, decide: func(c *store.Change) error {
		u, err := user(c, env, store.UserRef{ID: userID})
		if err != nil {
			return err
		}
		done = nil
		for _, s := range c.Sessions(u) {
			if s.Status == store.SessionActive {
				revoke(c, s)
				done = append(done, *s)
			}
		}
		return nil
	}})
	return done, err
}

func revoke(c *store.Change, s *Session) {
	if s.Status != store.SessionActive {
		return
	}
	s.Status, s.UpdatedAt, s.ExpiredAt = store.SessionRevoked, micros(c.Now), micros(c.Now)
	c.PutSession(s)
}
