package scalekit

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

func (s *service) CreateOrganization(ctx context.Context, req *pb.CreateOrganizationRequest) (*pb.CreateOrganizationResponse, error) {
	var f faults
	o := req.Organization
	if o == nil {
		f.add("organization", "required", "is missing")
		return nil, f.err()
	}
	if o.DisplayName == "" {
		f.add("organization.display_name", "string.min_len", "has to have 1 to 200 characters")
	}
	f.text("organization.display_name", o.DisplayName, 200)
	if o.ExternalId != nil {
		f.externalID("organization.external_id", o.GetExternalId())
	}
	if o.Slug != nil {
		f.slug("organization.slug", o.GetSlug())
	}
	f.metadata("organization.metadata", o.Metadata, pairsOfOrganization)
	n := directory.NewOrganization{
		DisplayName: o.DisplayName, ExternalID: o.GetExternalId(), Slug: o.GetSlug(), Metadata: o.Metadata,
	}
	switch o.RegionCode {
	case pb.RegionCode_REGION_CODE_UNSPECIFIED:
	case pb.RegionCode_US, pb.RegionCode_EU:
		n.RegionCode = o.RegionCode.String()
	default:
		f.add("organization.region_code", "enum.defined_only", "has to be US or EU")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	organization, err := s.dir.CreateOrganization(ctx, callOf(ctx).env, n)
	if err != nil {
		return nil, err
	}
	return &pb.CreateOrganizationResponse{Organization: wireOrganization(&organization)}, nil
}

func (s *service) GetOrganization(ctx context.Context, req *pb.GetOrganizationRequest) (*pb.GetOrganizationResponse, error) {
	var f faults
	_, external := req.Identities.(*pb.GetOrganizationRequest_ExternalId)
	ref := f.ref(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()}, "org_", 1, maxID)
	if err := f.err(); err != nil {
		return nil, err
	}
	organization, err := s.dir.Organization(ctx, callOf(ctx).env, ref)
	if err != nil {
		return nil, err
	}
	return &pb.GetOrganizationResponse{Organization: wireOrganization(&organization)}, nil
}

func (s *service) ListOrganization(ctx context.Context, req *pb.ListOrganizationsRequest) (*pb.ListOrganizationsResponse, error) {
	var f faults
	page := f.page(req.PageSize, req.PageToken)
	if req.GetExternalId() != "" {
		f.externalID("external_id", req.GetExternalId())
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	list, err := s.dir.Organizations(ctx, callOf(ctx).env, req.GetExternalId(), page)
	if err != nil {
		return nil, err
	}
	return &pb.ListOrganizationsResponse{
		Organizations: wireList(list.Items, wireOrganization), NextPageToken: list.Next, PrevPageToken: list.Prev, TotalSize: total(list.Total),
	}, nil
}

func (s *service) DeleteOrganization(ctx context.Context, req *pb.DeleteOrganizationRequest) (*emptypb.Empty, error) {
	var f faults
	_, external := req.Identities.(*pb.DeleteOrganizationRequest_ExternalId)
	ref := f.ref(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()}, "org_", 1, maxID)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := s.dir.DeleteOrganization(ctx, callOf(ctx).env, ref); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
