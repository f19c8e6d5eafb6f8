package api

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

func organizationOf(o directory.Organization) Organization {
	out := Organization{
		ID: o.ID, EnvironmentID: o.EnvironmentID, DisplayName: o.DisplayName, ExternalID: o.ExternalID, RegionCode: o.RegionCode, Slug: o.Slug,
		Metadata: o.Metadata, State: "active", CreatedAt: o.CreatedAt.UTC(), UpdatedAt: o.UpdatedAt.UTC(),
	}
	switch o.State {
	case store.OrganizationActive:
	case store.OrganizationDeleting:
		out.State = "deleting"
	case store.OrganizationDeleted:
		out.State = "deleted"
	}
	return out
}

func (s *Server) registerOrganizations(a huma.API) {
	const tag, all, one = "organizations", "/v1/organizations", "/v1/organizations/{id}"
	huma.Register(a, route("list-organizations", http.MethodGet, all, tag, "List organizations", http.StatusOK), s.listOrganizations)
	huma.Register(a, route("create-organization", http.MethodPost, all, tag, "Create an organization", http.StatusCreated, http.StatusConflict), s.createOrganization)
	huma.Register(a, route("get-organization", http.MethodGet, one, tag, "Get an organization", http.StatusOK, http.StatusNotFound), s.getOrganization)
	huma.Register(a, route("delete-organization", http.MethodDelete, one, tag, "Remove all members of an organization, then the organization", http.StatusNoContent, http.StatusNotFound), s.deleteOrganization)
}

func (s *Server) listOrganizations(ctx context.Context, in *struct {
	Paging
	InEnvironment
	ExternalID string `query:"external_id" maxLength:"255"`
},
) (*body[Page[Organization]], error) {
	l, err := s.Directory.Organizations(ctx, s.environment(in.InEnvironment), in.ExternalID, in.directoryPage())
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return listed(l.Items, l.Next, organizationOf), nil
}

func checkMetadata(m map[string]string) (faults []*huma.ErrorDetail) {
	const most = 10
	if len(m) > most {
		faults = append(faults, at("body.metadata", fmt.Sprintf("has more than %d entries", most)))
	}
	for key, value := range m {
		k, v := utf8.RuneCountInString(key), utf8.RuneCountInString(value)
		if k < 3 || k > 25 || v < 1 || v > 256 {
			faults = append(faults, at("body.metadata", "has a key that is not 3 to 25 characters long, or a value that is not 1 to 256"))
			break
		}
	}
	return faults
}

func (s *Server) createOrganization(ctx context.Context, in *struct {
	InEnvironment
	Body NewOrganization
},
) (*body[Organization], error) {
	b := in.Body
	faults := checkMetadata(b.Metadata)
	if strings.TrimSpace(b.DisplayName) == "" {
		faults = append(faults, at("body.display_name", "is blank"))
	}
	if err := invalid(faults...); err != nil {
		return nil, err
	}
	o, err := s.Directory.CreateOrganization(ctx, s.environment(in.InEnvironment), directory.NewOrganization(b))
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return &body[Organization]{organizationOf(o)}, nil
}

// OneOf names one thing of an environment. It is exported, like Paging, for huma.
type OneOf struct {
	ByID
	InEnvironment
}

func (s *Server) getOrganization(ctx context.Context, in *OneOf) (*body[Organization], error) {
	o, err := s.Directory.Organization(ctx, s.environment(in.InEnvironment), directory.Ref{ID: in.ID})
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return &body[Organization]{organizationOf(o)}, nil
}

func (s *Server) deleteOrganization(ctx context.Context, in *OneOf) (*struct{}, error) {
	if err := s.Directory.DeleteOrganization(ctx, s.environment(in.InEnvironment), directory.Ref{ID: in.ID}); err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return nil, nil
}
