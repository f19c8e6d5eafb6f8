package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/directory"
)

func sessionOf(s directory.Session) Session {
	return Session{
		ID: s.ID, UserID: s.UserID, OrganizationID: s.OrganizationID, Organizations: append([]string{}, s.Organizations...), Status: string(s.Status),
		CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(), LastActiveAt: utc(s.LastActiveAt), IdleExpiresAt: utc(s.IdleExpiresAt),
		AbsoluteExpiresAt: utc(s.AbsoluteExpiresAt), ExpiredAt: utc(s.ExpiredAt), LogoutAt: utc(s.LogoutAt),
	}
}

func (s *Server) registerSessions(a huma.API) {
	const tag, one = "sessions", "/v1/sessions/{id}"
	huma.Register(a, route("create-session", http.MethodPost, "/v1/sessions", tag, "Tell of a session, so that it ends with the membership", http.StatusCreated, http.StatusConflict), s.createSession)
	huma.Register(a, route("get-session", http.MethodGet, one, tag, "Get a session", http.StatusOK, http.StatusNotFound), s.getSession)
	huma.Register(a, route("revoke-session", http.MethodPost, one+"/revoke", tag, "End a session", http.StatusOK, http.StatusNotFound), s.revokeSession)
}

func (s *Server) listUserSessions(ctx context.Context, in *struct {
	Paging
	Between
	OneOf
	Status string `query:"status" enum:"active,expired,revoked,logout"`
},
) (*body[Page[Session]], error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	f := directory.SessionFilter{Since: in.Since, Before: in.Until}
	if in.Status != "" {
		f.Statuses = []string{in.Status}
	}
	l, err := s.Directory.UserSessions(ctx, s.environment(in.InEnvironment), in.ID, f, in.directoryPage())
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return listed(l.Items, l.Next, sessionOf), nil
}

func (s *Server) createSession(ctx context.Context, in *struct {
	InEnvironment
	Body NewSession
},
) (*body[Session], error) {
	b := in.Body
	var faults []*huma.ErrorDetail
	if message := checkUserID(b.UserID); message != "" {
		faults = append(faults, at("body.user_id", message))
	}
	organizations := unique(append([]string{b.OrganizationID}, b.Organizations...))
	for _, o := range organizations {
		if !isWord(o) || !strings.HasPrefix(o, "org_") || o == "org_" {
			faults = append(faults, at("body.organizations", "and organization_id have to begin with org_ and be ids"))
			break
		}
	}
	if err := invalid(faults...); err != nil {
		return nil, err
	}
	created, err := s.Directory.CreateSession(ctx, directory.Session{
		EnvironmentID: s.environment(in.InEnvironment), ID: b.ID, UserID: b.UserID, OrganizationID: b.OrganizationID, Organizations: organizations,
	})
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{user: "body.user_id", organization: "body.organization_id"})
	}
	return &body[Session]{sessionOf(created)}, nil
}

func (s *Server) getSession(ctx context.Context, in *OneOf) (*body[Session], error) {
	got, err := s.Directory.Session(ctx, s.environment(in.InEnvironment), in.ID)
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return &body[Session]{sessionOf(got)}, nil
}

func (s *Server) revokeSession(ctx context.Context, in *OneOf) (*body[Session], error) {
	revoked, err := s.Directory.RevokeSession(ctx, s.environment(in.InEnvironment), in.ID)
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return &body[Session]{sessionOf(revoked)}, nil
}
