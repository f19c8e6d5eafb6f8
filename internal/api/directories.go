package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

func scimDirectoryOf(d store.SCIMDirectory) SCIMDirectory {
	out := SCIMDirectory{
		ID: d.ID, Name: d.Name, Path: "/api/v1/directories/" + d.ID + "/scim/v2", EnvironmentID: d.EnvironmentID, OrganizationID: d.OrganizationID,
		State: d.State, Tokens: make([]SCIMToken, len(d.Tokens)), CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
	for i, t := range d.Tokens {
		out.Tokens[i] = SCIMToken{ID: t.ID, Prefix: t.Prefix, CreatedAt: t.CreatedAt.UTC(), ExpiresAt: utc(t.ExpiresAt), LastUsedAt: utc(t.LastUsedAt)}
	}
	return out
}

func (s *Server) registerDirectories(a huma.API) {
	const tag, all, one = "directories", "/v1/directories", "/v1/directories/{id}"
	huma.Register(a, route("list-directories", http.MethodGet, all, tag, "List SCIM directories", http.StatusOK), s.listDirectories)
	huma.Register(a, route("create-directory", http.MethodPost, all, tag, "Let a SCIM client manage an organization's members", http.StatusCreated), s.createDirectory)
	huma.Register(a, route("get-directory", http.MethodGet, one, tag, "Get a directory", http.StatusOK, http.StatusNotFound), s.getDirectory)
	huma.Register(a, route("update-directory", http.MethodPatch, one, tag, "Rename, disable or enable a directory", http.StatusOK, http.StatusNotFound), s.updateDirectory)
	huma.Register(a, route("delete-directory", http.MethodDelete, one, tag, "Delete a directory; its people stay", http.StatusNoContent, http.StatusNotFound), s.deleteDirectory)
	huma.Register(a, route("rotate-directory-token", http.MethodPost, one+"/rotate", tag, "Give a directory a new token", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.rotateDirectoryToken)
}

func (s *Server) listDirectories(ctx context.Context, in *struct {
	Paging
	OrganizationID string `query:"organization_id" maxLength:"255"`
},
) (*body[Page[SCIMDirectory]], error) {
	all, next, err := s.Store.ListSCIMDirectories(ctx, in.OrganizationID, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "directory")
	}
	return listed(all, next, scimDirectoryOf), nil
}

func (s *Server) createDirectory(ctx context.Context, in *struct {
	InEnvironment
	Body NewSCIMDirectory
},
) (*body[SCIMDirectory], error) {
	o, err := s.Directory.Organization(ctx, s.environment(in.InEnvironment), directory.Ref{ID: in.Body.OrganizationID})
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{organization: "body.organization_id"})
	}
	d, token, err := s.Store.CreateSCIMDirectory(ctx, store.SCIMDirectory{EnvironmentID: s.environment(in.InEnvironment), OrganizationID: o.ID, Name: in.Body.Name})
	if err != nil {
		return nil, s.answerTo(ctx, err, "directory")
	}
	out := scimDirectoryOf(d)
	out.Token = token
	return &body[SCIMDirectory]{out}, nil
}

func (s *Server) getDirectory(ctx context.Context, in *ByID) (*body[SCIMDirectory], error) {
	d, err := s.Store.SCIMDirectory(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "directory")
	}
	return &body[SCIMDirectory]{scimDirectoryOf(d)}, nil
}

func (s *Server) updateDirectory(ctx context.Context, in *struct {
	ByID
	Body SCIMDirectoryChange
},
) (*body[SCIMDirectory], error) {
	var name, state string
	set(&name, in.Body.Name)
	set(&state, in.Body.State)
	d, err := s.Store.UpdateSCIMDirectory(ctx, in.ID, name, state)
	s.directoriesChanged()
	if err != nil {
		return nil, s.answerTo(ctx, err, "directory")
	}
	return &body[SCIMDirectory]{scimDirectoryOf(d)}, nil
}

func (s *Server) deleteDirectory(ctx context.Context, in *ByID) (*struct{}, error) {
	err := s.Store.DeleteSCIMDirectory(ctx, in.ID)
	s.directoriesChanged()
	if err != nil {
		return nil, s.answerTo(ctx, err, "directory")
	}
	return nil, nil
}

func (s *Server) rotateDirectoryToken(ctx context.Context, in *struct {
	ByID
	Body *TokenRotation
},
) (*body[SCIMDirectory], error) {
	overlap := time.Duration(defaultOverlap)
	if in.Body != nil && in.Body.OverlapSeconds != nil {
		overlap = seconds(*in.Body.OverlapSeconds)
	}
	d, token, err := s.Store.RotateSCIMToken(ctx, in.ID, overlap)
	s.directoriesChanged()
	if err != nil {
		return nil, s.answerTo(ctx, err, "directory")
	}
	out := scimDirectoryOf(d)
	out.Token = token
	return &body[SCIMDirectory]{out}, nil
}

func (s *Server) directoriesChanged() {
	if s.OnDirectoriesChanged != nil {
		s.OnDirectoriesChanged()
	}
}
