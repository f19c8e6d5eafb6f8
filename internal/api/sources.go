package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/ingest/webhook/mapping"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/signing"
)

// Kinds of sources.
const (
	scalekit = "scalekit"
	standard = "standard"
)

// mappingOf checks a mapping, if there is one, and writes it as it is kept.
func mappingOf(m *SourceMapping) (string, *huma.ErrorDetail) {
	if m == nil {
		return "", nil
	}
	if _, err := m.Compile(); err != nil {
		var field *mapping.FieldError
		if errors.As(err, &field) {
			return "", at("body.mapping."+field.Field, field.Reason)
		}
		return "", at("body.mapping", err.Error())
	}
	text, err := json.Marshal(m)
	if err != nil || len(text) > mapping.MaxSize {
		return "", at("body.mapping", "is too large")
	}
	return string(text), nil
}

func sourceOf(src store.Source) Source {
	out := Source{
		ID: src.ID, Name: src.Name, Path: "/webhooks/" + src.Name, Kind: src.Kind, EnvironmentID: src.EnvironmentID, State: src.State,
		Secrets: make([]SourceSecret, len(src.Secrets)), CreatedAt: src.CreatedAt.UTC(), UpdatedAt: src.UpdatedAt.UTC(),
		Received: src.Received, LastEventAt: utc(src.LastEventAt),
		Rejections: make([]Rejection, len(src.Rejections)), Unmapped: make([]Unmapped, len(src.Unmapped)),
	}
	if src.Mapping != "" {
		if m, err := mapping.Parse([]byte(src.Mapping)); err == nil {
			out.Mapping = &m
		}
	}
	for i, c := range src.Rejections {
		out.Rejections[i] = Rejection{Reason: c.What, Count: c.N, LastAt: c.LastAt.UTC()}
	}
	for i, c := range src.Unmapped {
		out.Unmapped[i] = Unmapped{Type: c.What, Count: c.N, LastAt: c.LastAt.UTC()}
	}
	for i, secret := range src.Secrets {
		out.Secrets[i] = SourceSecret{ID: secret.ID, CreatedAt: secret.CreatedAt.UTC(), ExpiresAt: utc(secret.ExpiresAt)}
	}
	return out
}

func (s *Server) registerSources(a huma.API) {
	const tag, one = "sources", "/v1/sources/{id}"
	huma.Register(a, route("list-sources", http.MethodGet, "/v1/sources", tag, "List sources", http.StatusOK), s.listSources)
	huma.Register(a, route("create-source", http.MethodPost, "/v1/sources", tag, "Create a source of webhooks", http.StatusCreated, http.StatusConflict), s.createSource)
	huma.Register(a, route("get-source", http.MethodGet, one, tag, "Get a source", http.StatusOK, http.StatusNotFound), s.getSource)
	huma.Register(a, route("update-source", http.MethodPatch, one, tag, "Change, disable or enable a source", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.updateSource)
	huma.Register(a, route("delete-source", http.MethodDelete, one, tag, "Delete a source", http.StatusNoContent, http.StatusNotFound), s.deleteSource)
	huma.Register(a, route("rotate-source-secret", http.MethodPost, one+"/rotate", tag, "Accept a new secret", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.rotateSourceSecret)
}

func (s *Server) listSources(ctx context.Context, in *struct{ Paging }) (*body[Page[Source]], error) {
	all, next, err := s.Store.ListSources(ctx, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "source")
	}
	return listed(all, next, sourceOf), nil
}

func (s *Server) createSource(ctx context.Context, in *body[NewSource]) (*body[Source], error) {
	b := in.Body
	var faults []*huma.ErrorDetail
	var keys []signing.Key
	add := func(location, secret string) {
		key, err := signing.ParseKey(secret)
		if err != nil {
			faults = append(faults, at(location, err.Error()))
		}
		keys = append(keys, key)
	}
	if b.Secret != "" {
		add("body.secret", b.Secret)
	}
	for i, secret := range b.Secrets {
		add(fmt.Sprintf("body.secrets[%d]", i), secret)
	}
	if len(keys) > store.MaxKeys {
		faults = append(faults, at("body.secrets", fmt.Sprintf("are more than %d", store.MaxKeys)))
	}
	kind := cmp.Or(b.Kind, scalekit)
	mapped, fault := mappingOf(b.Mapping)
	switch {
	case fault != nil:
		faults = append(faults, fault)
	case kind == standard && b.Mapping == nil:
		faults = append(faults, at("body.mapping", "is required for the kind standard"))
	case kind != standard && b.Mapping != nil:
		faults = append(faults, at("body.mapping", "is for the kind standard alone"))
	}
	if err := invalid(faults...); err != nil {
		return nil, err
	}
	generated := ""
	if len(keys) == 0 {
		keys = append(keys, signing.NewKey())
		generated = keys[0].Secret()
	}
	src, err := s.Store.CreateSource(ctx, store.Source{Name: b.Name, Kind: kind, EnvironmentID: b.EnvironmentID, Mapping: mapped}, keys...)
	if errors.Is(err, store.ErrConflict) {
		return nil, refuse(http.StatusConflict, "the name is taken", at("body.name", "is taken"))
	}
	if err != nil {
		return nil, s.answerTo(ctx, err, "source")
	}
	s.sourcesChanged()
	out := sourceOf(src)
	out.Secret = generated
	return &body[Source]{out}, nil
}

func (s *Server) getSource(ctx context.Context, in *ByID) (*body[Source], error) {
	src, err := s.Store.Source(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "source")
	}
	return &body[Source]{sourceOf(src)}, nil
}

func (s *Server) updateSource(ctx context.Context, in *struct {
	ByID
	Body SourceChange
},
) (*body[Source], error) {
	var environment, state string
	set(&environment, in.Body.EnvironmentID)
	set(&state, in.Body.State)
	mapped, fault := mappingOf(in.Body.Mapping)
	if fault != nil {
		return nil, invalid(fault)
	}
	if mapped != "" {
		src, err := s.Store.Source(ctx, in.ID)
		if err != nil {
			return nil, s.answerTo(ctx, err, "source")
		}
		if src.Kind != standard {
			return nil, refuse(http.StatusConflict, "only sources of the kind standard have a mapping", at("body.mapping", "is for the kind standard alone"))
		}
	}
	src, err := s.Store.UpdateSource(ctx, in.ID, environment, state, mapped)
	if err != nil {
		return nil, s.answerTo(ctx, err, "source")
	}
	s.sourcesChanged()
	return &body[Source]{sourceOf(src)}, nil
}

func (s *Server) deleteSource(ctx context.Context, in *ByID) (*struct{}, error) {
	if err := s.Store.DeleteSource(ctx, in.ID); err != nil {
		return nil, s.answerTo(ctx, err, "source")
	}
	s.sourcesChanged()
	return nil, nil
}

func (s *Server) rotateSourceSecret(ctx context.Context, in *rotation) (*body[Source], error) {
	key, generated := signing.Key{}, ""
	if secret := in.secret(); secret != "" {
		var err error
		if key, err = signing.ParseKey(secret); err != nil {
			return nil, invalid(at("body.secret", err.Error()))
		}
	} else {
		key = signing.NewKey()
		generated = key.Secret()
	}
	src, err := s.Store.RotateSourceSecret(ctx, in.ID, key, in.overlap())
	if err != nil {
		return nil, s.answerTo(ctx, err, "source")
	}
	s.sourcesChanged()
	out := sourceOf(src)
	out.Secret = generated
	return &body[Source]{out}, nil
}
