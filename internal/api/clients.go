package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/store"
)

func apiClientOf(c store.Client) APIClient {
	return APIClient{
		ID: c.ID, Name: c.Name, EnvironmentID: c.EnvironmentID, Prefix: c.Prefix, CreatedAt: c.CreatedAt.UTC(), LastUsedAt: utc(c.LastUsedAt), RevokedAt: utc(c.RevokedAt),
	}
}

func (s *Server) registerClients(a huma.API) {
	const tag = "clients"
	huma.Register(a, route("list-clients", http.MethodGet, "/v1/clients", tag, "List clients of the Scalekit-compatible API", http.StatusOK), s.listClients)
	huma.Register(a, route("create-client", http.MethodPost, "/v1/clients", tag, "Let an app use the Scalekit-compatible API", http.StatusCreated), s.createClient)
	huma.Register(a, route("revoke-client", http.MethodDelete, "/v1/clients/{id}", tag, "Revoke a client", http.StatusNoContent, http.StatusNotFound), s.revokeClient)
}

func (s *Server) listClients(ctx context.Context, in *struct{ Paging }) (*body[Page[APIClient]], error) {
	all, next, err := s.Store.ListClients(ctx, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "client")
	}
	return listed(all, next, apiClientOf), nil
}

func (s *Server) createClient(ctx context.Context, in *struct {
	InEnvironment
	Body NewAPIClient
},
) (*body[APIClient], error) {
	c, secret, err := s.Store.CreateClient(ctx, in.Body.Name, s.environment(in.InEnvironment))
	if err != nil {
		return nil, s.answerTo(ctx, err, "client")
	}
	out := apiClientOf(c)
	out.Secret = secret
	return &body[APIClient]{out}, nil
}

func (s *Server) revokeClient(ctx context.Context, in *ByID) (*struct{}, error) {
	err := s.Store.RevokeClient(ctx, in.ID)
	if s.OnClientsChanged != nil {
		s.OnClientsChanged()
	}
	if err != nil {
		return nil, s.answerTo(ctx, err, "client")
	}
	return nil, nil
}
