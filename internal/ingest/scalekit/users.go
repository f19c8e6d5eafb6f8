package scalekit

import (
	"context"

	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// service has the methods of all three services.
type service struct{ dir Directory }

var (
	_ pb.UserServiceHandler         = (*service)(nil)
	_ pb.OrganizationServiceHandler = (*service)(nil)
	_ pb.SessionServiceHandler      = (*service)(nil)
)

func (s *service) CreateUserAndMembership(ctx context.Context, req *pb.CreateUserAndMembershipRequest) (*pb.CreateUserAndMembershipResponse, error) {
	var f faults
	f.organizationID("organization_id", req.OrganizationId)
	u := req.User
	if u == nil {
		f.add("user", "required", "is missing")
		return nil, f.err()
	}
	f.email("user.email", u.Email, 1)
	if u.ExternalId != nil {
		f.externalID("user.external_id", u.GetExternalId())
	}
	f.metadata("user.metadata", u.Metadata, pairsOfUser)
	n := directory.NewUser{
		Email:      u.Email,
		ExternalID: u.GetExternalId(),
		Metadata:   u.Metadata,
		Profile:    f.profile("user.user_profile", u.UserProfile),
		Membership: f.membership("user.membership", u.Membership),
	}
	n.Membership.Invite = invites(req.SendInvitationEmail)
	if err := f.err(); err != nil {
		return nil, err
	}
	user, err := s.dir.CreateUser(ctx, callOf(ctx).env, req.OrganizationId, n)
	if err != nil {
		return nil, err
	}
	return &pb.CreateUserAndMembershipResponse{User: wireUser(&user)}, nil
}

// invites tells whether a new membership is pending: it is unless that is
// forbidden.
func invites(send *bool) bool { return send == nil || *send }

func (s *service) GetUser(ctx context.Context, req *pb.GetUserRequest) (*pb.GetUserResponse, error) {
	var f faults
	_, external := req.Identities.(*pb.GetUserRequest_ExternalId)
	ref := f.ref(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()}, "usr_", 1, maxID)
	if err := f.err(); err != nil {
		return nil, err
	}
	user, err := s.dir.User(ctx, callOf(ctx).env, ref)
	if err != nil {
		return nil, err
	}
	return &pb.GetUserResponse{User: wireUser(&user)}, nil
}

func (s *service) ListUsers(ctx context.Context, req *pb.ListUsersRequest) (*pb.ListUsersResponse, error) {
	var f faults
	page := f.page(req.PageSize, req.PageToken)
	if err := f.err(); err != nil {
		return nil, err
	}
	list, err := s.dir.Users(ctx, callOf(ctx).env, page)
	if err != nil {
		return nil, err
	}
	return &pb.ListUsersResponse{
		Users: wireList(list.Items, wireUser), NextPageToken: list.Next, PrevPageToken: list.Prev, TotalSize: total(list.Total),
	}, nil
}

func (s *service) ListOrganizationUsers(ctx context.Context, req *pb.ListOrganizationUsersRequest) (*pb.ListOrganizationUsersResponse, error) {
	var f faults
	f.organizationID("organization_id", req.OrganizationId)
	if req.PageSize > maxPage {
		f.add("page_size", "uint32.lte", "has to be at most 100")
	}
	page := f.page(req.PageSize, req.PageToken)
	if err := f.err(); err != nil {
		return nil, err
	}
	list, err := s.dir.Members(ctx, callOf(ctx).env, req.OrganizationId, page)
	if err != nil {
		return nil, err
	}
	return &pb.ListOrganizationUsersResponse{
		Users: wireList(list.Items, wireUser), NextPageToken: list.Next, PrevPageToken: list.Prev, TotalSize: total(list.Total),
	}, nil
}

func (s *service) CreateMembership(ctx context.Context, req *pb.CreateMembershipRequest) (*pb.CreateMembershipResponse, error) {
	var f faults
	f.organizationID("organization_id", req.OrganizationId)
	_, external := req.Identities.(*pb.CreateMembershipRequest_ExternalId)
	ref := f.user(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()})
	if req.Membership == nil {
		f.add("membership", "required", "is missing")
	}
	n := f.membership("membership", req.Membership)
	n.Invite = invites(req.SendInvitationEmail)
	if err := f.err(); err != nil {
		return nil, err
	}
	user, err := s.dir.AddMember(ctx, callOf(ctx).env, req.OrganizationId, ref, n)
	if err != nil {
		return nil, err
	}
	return &pb.CreateMembershipResponse{User: wireUser(&user)}, nil
}

// UpdateMembership leaves what the request does not name: on the wire nothing
// tells no roles from none given.
func (s *service) UpdateMembership(ctx context.Context, req *pb.UpdateMembershipRequest) (*pb.UpdateMembershipResponse, error) {
	var f faults
	f.organizationID("organization_id", req.OrganizationId)
	_, external := req.Identities.(*pb.UpdateMembershipRequest_ExternalId)
	ref := f.user(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()})
	m := req.Membership
	if m == nil {
		f.add("membership", "required", "is missing")
	}
	var change directory.MembershipChange
	if roles := f.roles("membership.roles", m.GetRoles()); len(roles) > 0 {
		change.Roles = &roles
	}
	if metadata := m.GetMetadata(); len(metadata) > 0 {
		f.metadata("membership.metadata", metadata, pairsOfUser)
		change.Metadata = &metadata
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	user, err := s.dir.UpdateMember(ctx, callOf(ctx).env, req.OrganizationId, ref, change)
	if err != nil {
		return nil, err
	}
	return &pb.UpdateMembershipResponse{User: wireUser(&user)}, nil
}

func (s *service) DeleteMembership(ctx context.Context, req *pb.DeleteMembershipRequest) (*emptypb.Empty, error) {
	var f faults
	call := callOf(ctx)
	f.organizationID("organization_id", req.OrganizationId)
	_, external := req.Identities.(*pb.DeleteMembershipRequest_ExternalId)
	ref := f.user(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()})
	how := directory.How{Reason: directory.ReasonAPI, Successor: f.successor(call.successor)}
	if err := f.err(); err != nil {
		return nil, err
	}
	if _, err := s.dir.RemoveMember(ctx, call.env, req.OrganizationId, ref, how); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *service) DeleteUser(ctx context.Context, req *pb.DeleteUserRequest) (*emptypb.Empty, error) {
	var f faults
	call := callOf(ctx)
	_, external := req.Identities.(*pb.DeleteUserRequest_ExternalId)
	ref := f.user(identity{req.Identities != nil, external, req.GetId(), req.GetExternalId()})
	how := directory.How{Reason: directory.ReasonUserDeleted, Successor: f.successor(call.successor)}
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := s.dir.DeleteUser(ctx, call.env, ref, how); err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
