package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/store"
)

func apiKeyOf(k store.APIKey) APIKey {
	return APIKey{
		ID: k.ID, Name: k.Name, Prefix: k.Prefix, CreatedAt: k.CreatedAt.UTC(), LastUsedAt: utc(k.LastUsedAt), RevokedAt: utc(k.RevokedAt),
	}
}

func (s *Server) registerAPIKeys(a huma.API) {
	const tag = "api-keys"
	huma.Register(a, route("list-api-keys", http.MethodGet, "/v1/api-keys", tag, "List API keys", http.StatusOK), s.listAPIKeys)
	huma.Register(a, route("create-api-key", http.MethodPost, "/v1/api-keys", tag, "Create an API key", http.StatusCreated), s.createAPIKey)
	huma.Register(a, route("revoke-api-key", http.MethodDelete, "/v1/api-keys/{id}", tag, "Revoke an API key", http.StatusNoContent, http.StatusNotFound, http.StatusConflict), s.revokeAPIKey)
}

func (s *Server) listAPIKeys(ctx context.Context, in *struct{ Paging }) (*body[Page[APIKey]], error) {
	all, next, err := s.Store.ListAPIKeys(ctx, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "API key")
	}
	return listed(all, next, apiKeyOf), nil
}

func (s *Server) createAPIKey(ctx context.Context, in *body[NewAPIKey]) (*body[APIKey], error) {
	if in.Body.Name == store.APIKeyFromStart {
		return nil, invalid(at("body.name", "is kept for the key that the service was started with"))
	}
	k, text, err := s.Store.CreateAPIKey(ctx, in.Body.Name)
	if err != nil {
		return nil, s.answerTo(ctx, err, "API key")
	}
	out := apiKeyOf(k)
	out.Key = text
	return &body[APIKey]{out}, nil
}

func (s *Server) revokeAPIKey(ctx context.Context, in *ByID) (*struct{}, error) {
	if in.ID == keyID(ctx) {
		return nil, refuse(http.StatusConflict, "this is the key that asks; revoke it with another one", at("path.id", "is the key that asks"))
	}
	err := s.Store.RevokeAPIKey(ctx, in.ID)
	s.forgetKeys()
	if err != nil {
		return nil, s.answerTo(ctx, err, "API key")
	}
	return nil, nil
}
