package scalekit_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/handover-dev/handover/internal/directory"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// Ids that the directory in memory makes, one after the other.
const (
	org1  = "org_100000000000000001"
	org2  = "org_100000000000000002"
	org3  = "org_100000000000000003"
	user1 = "usr_100000000000000004"
	user2 = "usr_100000000000000005"
	ses1  = "ses_100000000000000006"
	ses2  = "ses_100000000000000007"
	ses3  = "ses_100000000000000008"

	noOrg  = "org_999999999999999999"
	noUser = "usr_999999999999999999"
	noSes  = "ses_999999999999999999"
)

// A step is one call of the story that is told over every transport.
type step struct {
	rpc       string
	call      func(ctx context.Context, c rpcs) (proto.Message, error)
	want      proto.Message // nil: an error is
	errorCode string
}

// as makes a step's call of a typed one.
func as[Res proto.Message](call func(context.Context, rpcs) (Res, error)) func(context.Context, rpcs) (proto.Message, error) {
	return func(ctx context.Context, c rpcs) (proto.Message, error) { return call(ctx, c) }
}

func byID(id string) *pb.DeleteMembershipRequest_Id { return &pb.DeleteMembershipRequest_Id{Id: id} }

// story calls every RPC, for what it is for and for what it refuses.
func story() []step {
	at := timestamppb.New(begin)
	acme := &pb.Organization{
		Id: org1, CreateTime: at, UpdateTime: at, DisplayName: "Acme", RegionCode: pb.RegionCode_EU, ExternalId: new("acme"),
		Metadata: map[string]string{"plan": "gold"}, Slug: new("acme-1"),
	}
	globex := &pb.Organization{Id: org2, CreateTime: at, UpdateTime: at, DisplayName: "Globex"}
	hooli := &pb.Organization{Id: org3, CreateTime: at, UpdateTime: at, DisplayName: "Hooli"}
	inAcme := &pb.OrganizationMembership{
		OrganizationId: org1, JoinTime: at, CreatedAt: at, MembershipStatus: pb.MembershipStatus_ACTIVE, Name: new("Acme"), DisplayName: new("Acme"),
		Roles: []*pb.Role{{Name: "admin"}}, Metadata: map[string]string{"seat": "12"}, InviterEmail: new("boss@acme.example"),
		ProvisioningMethod: new("direct_provision"),
	}
	ann := &pb.User{
		Id: user1, EnvironmentId: env, CreateTime: at, UpdateTime: at, Email: "ann@acme.example", ExternalId: new("ann/1"),
		Metadata: map[string]string{"team": "blue"}, Memberships: []*pb.OrganizationMembership{inAcme},
		UserProfile: &pb.UserProfile{
			Id: "usp_100000000000000004", GivenName: "Ann", FamilyName: "Lee", FirstName: "Ann", LastName: "Lee", Name: "Ann Lee", Locale: "en",
			PhoneNumber: "+1 555", PreferredUsername: "ann", Metadata: map[string]string{"desk": "4"}, CustomAttributes: map[string]string{"shoe": "42"},
		},
	}
	invited := &pb.OrganizationMembership{
		OrganizationId: org1, CreatedAt: at, MembershipStatus: pb.MembershipStatus_PENDING_INVITE, Name: new("Acme"), DisplayName: new("Acme"),
		ProvisioningMethod: new("invitation"),
	}
	bob := &pb.User{
		Id: user2, EnvironmentId: env, CreateTime: at, UpdateTime: at, Email: "bob@acme.example",
		UserProfile: &pb.UserProfile{Id: "usp_100000000000000005"}, Memberships: []*pb.OrganizationMembership{invited},
	}
	inGlobex := &pb.OrganizationMembership{
		OrganizationId: org2, JoinTime: at, CreatedAt: at, MembershipStatus: pb.MembershipStatus_ACTIVE, Name: new("Globex"), DisplayName: new("Globex"),
		ProvisioningMethod: new("direct_provision"),
	}
	with := func(u *pb.User, memberships ...*pb.OrganizationMembership) *pb.User {
		u = proto.CloneOf(u)
		u.Memberships = memberships
		return u
	}
	changed := proto.CloneOf(inGlobex)
	changed.Roles = []*pb.Role{{Id: "role_1", Name: "viewer", DisplayName: "Viewer"}}
	session := func(id string, status string, organizations ...string) *pb.SessionDetails {
		return &pb.SessionDetails{
			SessionId: id, UserId: user1, OrganizationId: organizations[0], AuthenticatedOrganizations: organizations, Status: status,
			CreatedAt: at, UpdatedAt: at, LastActiveAt: at,
			IdleExpiresAt: timestamppb.New(begin.Add(time.Hour)), AbsoluteExpiresAt: timestamppb.New(begin.Add(24 * time.Hour)),
		}
	}
	revoked := func(id string) *pb.RevokedSessionDetails {
		return &pb.RevokedSessionDetails{
			SessionId: id, UserId: user1, Status: "revoked", CreatedAt: at, UpdatedAt: at, LastActiveAt: at,
			IdleExpiresAt: timestamppb.New(begin.Add(time.Hour)), AbsoluteExpiresAt: timestamppb.New(begin.Add(24 * time.Hour)),
		}
	}
	createOrganization := func(o *pb.CreateOrganization) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.CreateOrganizationResponse, error) {
			return c.CreateOrganization(ctx, &pb.CreateOrganizationRequest{Organization: o})
		})
	}
	getOrganization := func(req *pb.GetOrganizationRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.GetOrganizationResponse, error) {
			return c.GetOrganization(ctx, req)
		})
	}
	listOrganization := func(req *pb.ListOrganizationsRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.ListOrganizationsResponse, error) {
			return c.ListOrganization(ctx, req)
		})
	}
	deleteOrganization := func(req *pb.DeleteOrganizationRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*emptypb.Empty, error) { return c.DeleteOrganization(ctx, req) })
	}
	createUser := func(req *pb.CreateUserAndMembershipRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.CreateUserAndMembershipResponse, error) {
			return c.CreateUserAndMembership(ctx, req)
		})
	}
	getUser := func(req *pb.GetUserRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.GetUserResponse, error) { return c.GetUser(ctx, req) })
	}
	listUsers := func(req *pb.ListUsersRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.ListUsersResponse, error) { return c.ListUsers(ctx, req) })
	}
	members := func(req *pb.ListOrganizationUsersRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.ListOrganizationUsersResponse, error) {
			return c.ListOrganizationUsers(ctx, req)
		})
	}
	createMembership := func(req *pb.CreateMembershipRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.CreateMembershipResponse, error) {
			return c.CreateMembership(ctx, req)
		})
	}
	updateMembership := func(req *pb.UpdateMembershipRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.UpdateMembershipResponse, error) {
			return c.UpdateMembership(ctx, req)
		})
	}
	deleteMembership := func(req *pb.DeleteMembershipRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*emptypb.Empty, error) { return c.DeleteMembership(ctx, req) })
	}
	deleteUser := func(req *pb.DeleteUserRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*emptypb.Empty, error) { return c.DeleteUser(ctx, req) })
	}
	getSession := func(id string) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.SessionDetails, error) {
			return c.GetSession(ctx, &pb.SessionDetailsRequest{SessionId: id})
		})
	}
	sessions := func(req *pb.UserSessionDetailsRequest) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.UserSessionDetails, error) { return c.GetUserSessions(ctx, req) })
	}
	revoke := func(id string) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.RevokeSessionResponse, error) {
			return c.RevokeSession(ctx, &pb.RevokeSessionRequest{SessionId: id})
		})
	}
	revokeAll := func(id string) func(context.Context, rpcs) (proto.Message, error) {
		return as(func(ctx context.Context, c rpcs) (*pb.RevokeAllUserSessionsResponse, error) {
			return c.RevokeAllUserSessions(ctx, &pb.RevokeAllUserSessionsRequest{UserId: id})
		})
	}
	firstTwo := "b3JnXzEwMDAwMDAwMDAwMDAwMDAwMg" // the token behind org2

	return []step{
		{"CreateOrganization", createOrganization(&pb.CreateOrganization{
			DisplayName: "Acme", RegionCode: pb.RegionCode_EU, ExternalId: new("acme"), Slug: new("acme-1"), Metadata: map[string]string{"plan": "gold"},
		}), &pb.CreateOrganizationResponse{Organization: acme}, ""},
		{"CreateOrganization", createOrganization(&pb.CreateOrganization{DisplayName: "Globex"}), &pb.CreateOrganizationResponse{Organization: globex}, ""},
		{"CreateOrganization", createOrganization(&pb.CreateOrganization{DisplayName: "Hooli"}), &pb.CreateOrganizationResponse{Organization: hooli}, ""},
		{"CreateOrganization", createOrganization(&pb.CreateOrganization{DisplayName: "Acme", ExternalId: new("acme")}), nil, "ORGANIZATION_ALREADY_EXISTS"},

		{"GetOrganization", getOrganization(&pb.GetOrganizationRequest{Identities: &pb.GetOrganizationRequest_Id{Id: org1}}), &pb.GetOrganizationResponse{Organization: acme}, ""},
		{"GetOrganization", getOrganization(&pb.GetOrganizationRequest{Identities: &pb.GetOrganizationRequest_ExternalId{ExternalId: "acme"}}), &pb.GetOrganizationResponse{Organization: acme}, ""},
		{"GetOrganization", getOrganization(&pb.GetOrganizationRequest{Identities: &pb.GetOrganizationRequest_Id{Id: noOrg}}), nil, "ORGANIZATION_NOT_FOUND"},

		{"ListOrganization", listOrganization(&pb.ListOrganizationsRequest{PageSize: 2}), &pb.ListOrganizationsResponse{Organizations: []*pb.Organization{acme, globex}, TotalSize: 3, NextPageToken: firstTwo}, ""},
		{"ListOrganization", listOrganization(&pb.ListOrganizationsRequest{PageSize: 1 << 31, PageToken: firstTwo}), &pb.ListOrganizationsResponse{Organizations: []*pb.Organization{hooli}, TotalSize: 3}, ""},
		{"ListOrganization", listOrganization(&pb.ListOrganizationsRequest{ExternalId: new("acme")}), &pb.ListOrganizationsResponse{Organizations: []*pb.Organization{acme}, TotalSize: 1}, ""},
		{"ListOrganization", listOrganization(&pb.ListOrganizationsRequest{PageToken: "!"}), nil, "INVALID_ARGUMENT"},

		{"CreateUserAndMembership", createUser(&pb.CreateUserAndMembershipRequest{OrganizationId: org1, SendInvitationEmail: new(false), User: &pb.CreateUser{
			Email: "ann@acme.example", ExternalId: new("ann/1"), Metadata: map[string]string{"team": "blue"},
			Membership: &pb.CreateMembership{Roles: []*pb.Role{{Name: "admin"}}, Metadata: map[string]string{"seat": "12"}, InviterEmail: new("boss@acme.example")},
			UserProfile: &pb.CreateUserProfile{
				FirstName: "Ann", LastName: "Lee", Name: "Ann Lee", Locale: "en", PhoneNumber: "+1 555", PreferredUsername: "ann",
				Metadata: map[string]string{"desk": "4"}, CustomAttributes: map[string]string{"shoe": "42"},
			},
		}}), &pb.CreateUserAndMembershipResponse{User: ann}, ""},
		{"CreateUserAndMembership", createUser(&pb.CreateUserAndMembershipRequest{OrganizationId: org1, User: &pb.CreateUser{Email: "bob@acme.example"}}), &pb.CreateUserAndMembershipResponse{User: bob}, ""},
		{"CreateUserAndMembership", createUser(&pb.CreateUserAndMembershipRequest{OrganizationId: org1, User: &pb.CreateUser{Email: "BOB@acme.example"}}), nil, "USER_ALREADY_EXISTS"},
		{"CreateUserAndMembership", createUser(&pb.CreateUserAndMembershipRequest{OrganizationId: noOrg, User: &pb.CreateUser{Email: "bob@acme.example"}}), nil, "ORGANIZATION_NOT_FOUND"},

		{"GetUser", getUser(&pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: user1}}), &pb.GetUserResponse{User: ann}, ""},
		{"GetUser", getUser(&pb.GetUserRequest{Identities: &pb.GetUserRequest_ExternalId{ExternalId: "ann/1"}}), &pb.GetUserResponse{User: ann}, ""},
		{"GetUser", getUser(&pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: "usr_1"}}), nil, "USER_NOT_FOUND"},

		{"ListUsers", listUsers(&pb.ListUsersRequest{}), &pb.ListUsersResponse{Users: []*pb.User{ann, bob}, TotalSize: 2}, ""},
		{"ListOrganizationUsers", members(&pb.ListOrganizationUsersRequest{OrganizationId: org1, PageSize: 100}), &pb.ListOrganizationUsersResponse{Users: []*pb.User{ann, bob}, TotalSize: 2}, ""},
		{"ListOrganizationUsers", members(&pb.ListOrganizationUsersRequest{OrganizationId: org1, PageSize: 1}), &pb.ListOrganizationUsersResponse{Users: []*pb.User{ann}, TotalSize: 2, NextPageToken: "dXNyXzEwMDAwMDAwMDAwMDAwMDAwNA"}, ""},
		{"ListOrganizationUsers", members(&pb.ListOrganizationUsersRequest{OrganizationId: org2}), &pb.ListOrganizationUsersResponse{}, ""},
		{"ListOrganizationUsers", members(&pb.ListOrganizationUsersRequest{OrganizationId: noOrg}), nil, "ORGANIZATION_NOT_FOUND"},

		{"CreateMembership", createMembership(&pb.CreateMembershipRequest{
			OrganizationId: org2, Identities: &pb.CreateMembershipRequest_Id{Id: user1}, Membership: &pb.CreateMembership{}, SendInvitationEmail: new(false),
		}), &pb.CreateMembershipResponse{User: with(ann, inAcme, inGlobex)}, ""},
		{"CreateMembership", createMembership(&pb.CreateMembershipRequest{
			OrganizationId: org2, Identities: &pb.CreateMembershipRequest_ExternalId{ExternalId: "ann/1"}, Membership: &pb.CreateMembership{},
		}), nil, "MEMBERSHIP_ALREADY_EXISTS"},
		{"CreateMembership", createMembership(&pb.CreateMembershipRequest{
			OrganizationId: noOrg, Identities: &pb.CreateMembershipRequest_Id{Id: noUser}, Membership: &pb.CreateMembership{},
		}), nil, "ORGANIZATION_NOT_FOUND"},

		{"UpdateMembership", updateMembership(&pb.UpdateMembershipRequest{
			OrganizationId: org2, Identities: &pb.UpdateMembershipRequest_Id{Id: user1},
			Membership: &pb.UpdateMembership{Roles: []*pb.Role{{Id: "role_1", Name: "viewer", DisplayName: "Viewer"}}},
		}), &pb.UpdateMembershipResponse{User: with(ann, inAcme, changed)}, ""},
		{"UpdateMembership", updateMembership(&pb.UpdateMembershipRequest{ // what it does not name stays
			OrganizationId: org2, Identities: &pb.UpdateMembershipRequest_ExternalId{ExternalId: "ann/1"}, Membership: &pb.UpdateMembership{},
		}), &pb.UpdateMembershipResponse{User: with(ann, inAcme, changed)}, ""},
		{"UpdateMembership", updateMembership(&pb.UpdateMembershipRequest{
			OrganizationId: org2, Identities: &pb.UpdateMembershipRequest_Id{Id: user2}, Membership: &pb.UpdateMembership{},
		}), nil, "MEMBERSHIP_NOT_FOUND"},

		{"GetSession", getSession(ses1), session(ses1, "active", org1, org2), ""},
		{"GetSession", getSession(noSes), nil, "SESSION_NOT_FOUND"},
		{"GetUserSessions", sessions(&pb.UserSessionDetailsRequest{UserId: user1}), &pb.UserSessionDetails{Sessions: []*pb.SessionDetails{
			session(ses1, "active", org1, org2), session(ses2, "active", org2), session(ses3, "active", org2),
		}, TotalSize: 3}, ""},
		{"RevokeSession", revoke(ses2), &pb.RevokeSessionResponse{RevokedSession: revoked(ses2)}, ""},
		{"RevokeSession", revoke(noSes), nil, "SESSION_NOT_FOUND"},
		{"GetUserSessions", sessions(&pb.UserSessionDetailsRequest{UserId: user1, Filter: &pb.UserSessionFilter{Status: []string{"REVOKED", "logout", "revoked"}}}), &pb.UserSessionDetails{Sessions: []*pb.SessionDetails{session(ses2, "revoked", org2)}, TotalSize: 1}, ""},
		{"GetUserSessions", sessions(&pb.UserSessionDetailsRequest{UserId: user1, Filter: &pb.UserSessionFilter{StartTime: timestamppb.New(begin.Add(1))}}), &pb.UserSessionDetails{}, ""},
		{"GetUserSessions", sessions(&pb.UserSessionDetailsRequest{UserId: user1, Filter: &pb.UserSessionFilter{EndTime: at}}), &pb.UserSessionDetails{}, ""},
		{"GetUserSessions", sessions(&pb.UserSessionDetailsRequest{UserId: noUser}), nil, "USER_NOT_FOUND"},

		{"DeleteMembership", deleteMembership(&pb.DeleteMembershipRequest{OrganizationId: org1, Identities: byID(user1), Cascade: new(true)}), &emptypb.Empty{}, ""},
		{"DeleteMembership", deleteMembership(&pb.DeleteMembershipRequest{OrganizationId: org1, Identities: byID(user1)}), nil, "MEMBERSHIP_NOT_FOUND"},
		{"DeleteMembership", deleteMembership(&pb.DeleteMembershipRequest{OrganizationId: noOrg, Identities: byID(noUser)}), nil, "ORGANIZATION_NOT_FOUND"},
		{"DeleteMembership", deleteMembership(&pb.DeleteMembershipRequest{OrganizationId: org1, Identities: byID(noUser)}), nil, "USER_NOT_FOUND"},
		{"GetSession", getSession(ses1), session(ses1, "revoked", org1, org2), ""},

		{"RevokeAllUserSessions", revokeAll(user1), &pb.RevokeAllUserSessionsResponse{RevokedSessions: []*pb.RevokedSessionDetails{revoked(ses3)}, TotalRevoked: 1}, ""},
		{"RevokeAllUserSessions", revokeAll(user1), &pb.RevokeAllUserSessionsResponse{}, ""},
		{"RevokeAllUserSessions", revokeAll(noUser), nil, "USER_NOT_FOUND"},

		{"DeleteMembership", deleteMembership(&pb.DeleteMembershipRequest{OrganizationId: org2, Identities: &pb.DeleteMembershipRequest_ExternalId{ExternalId: "ann/1"}}), &emptypb.Empty{}, ""},
		{"GetUser", getUser(&pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: user1}}), nil, "USER_NOT_FOUND"},
		{"DeleteUser", deleteUser(&pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_Id{Id: user2}}), &emptypb.Empty{}, ""},
		{"DeleteUser", deleteUser(&pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_Id{Id: user2}}), nil, "USER_NOT_FOUND"},
		{"DeleteUser", deleteUser(&pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_ExternalId{ExternalId: "ann/1"}}), nil, "USER_NOT_FOUND"},
		{"DeleteOrganization", deleteOrganization(&pb.DeleteOrganizationRequest{Identities: &pb.DeleteOrganizationRequest_Id{Id: org2}}), &emptypb.Empty{}, ""},
		{"DeleteOrganization", deleteOrganization(&pb.DeleteOrganizationRequest{Identities: &pb.DeleteOrganizationRequest_Id{Id: org2}}), nil, "ORGANIZATION_NOT_FOUND"},
		{"DeleteOrganization", deleteOrganization(&pb.DeleteOrganizationRequest{Identities: &pb.DeleteOrganizationRequest_ExternalId{ExternalId: "acme"}}), &emptypb.Empty{}, ""},
	}
}

// codes are the gRPC codes of the error codes.
var codes = map[string]connect.Code{
	"INVALID_ARGUMENT":            connect.CodeInvalidArgument,
	"ORGANIZATION_NOT_FOUND":      connect.CodeNotFound,
	"USER_NOT_FOUND":              connect.CodeNotFound,
	"MEMBERSHIP_NOT_FOUND":        connect.CodeNotFound,
	"SESSION_NOT_FOUND":           connect.CodeNotFound,
	"ORGANIZATION_ALREADY_EXISTS": connect.CodeAlreadyExists,
	"USER_ALREADY_EXISTS":         connect.CodeAlreadyExists,
	"MEMBERSHIP_ALREADY_EXISTS":   connect.CodeAlreadyExists,
}

// signIn makes the sessions of the story's first user, before whom nobody has
// one.
func signIn(t *testing.T, dir *memory) {
	t.Helper()
	for _, organizations := range [][]string{{org1, org2}, {org2}, {org2}} {
		if _, err := dir.CreateSession(t.Context(), directory.Session{
			EnvironmentID: env, UserID: user1, OrganizationID: organizations[0], Organizations: organizations,
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRPCs(t *testing.T) {
	t.Parallel()
	transports := map[string]func(*world) *http.Client{
		"HTTP/1.1": func(w *world) *http.Client { return http1(w) },
		"h2c":      func(w *world) *http.Client { return http2(w) },
		"TLS": func(w *world) *http.Client {
			server := httptest.NewUnstartedServer(w.handler)
			server.EnableHTTP2 = true
			server.StartTLS()
			w.Cleanup(server.Close)
			w.url = server.URL
			return server.Client()
		},
	}
	for name, client := range transports {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := start(t)
			token := w.token()
			c := w.rpcs(client(w), "Authorization", "Bearer "+token)
			for i, s := range story() {
				got, err := s.call(t.Context(), c)
				switch {
				case err == nil && s.want == nil:
					t.Fatalf("step %d, %s: no error, want %s", i, s.rpc, s.errorCode)
				case err == nil:
					if diff := cmp.Diff(s.want, got, protocmp.Transform()); diff != "" {
						t.Fatalf("step %d, %s (-want +got):\n%s", i, s.rpc, diff)
					}
				case s.want != nil:
					t.Fatalf("step %d, %s: %v", i, s.rpc, err)
				case errorInfo(t, err).ErrorCode != s.errorCode || connect.CodeOf(err) != codes[s.errorCode]:
					t.Fatalf("step %d, %s: %v with %v, want %s", i, s.rpc, err, errorInfo(t, err), s.errorCode)
				}
				if s.rpc == "CreateUserAndMembership" && s.errorCode == "USER_ALREADY_EXISTS" {
					signIn(t, w.dir)
				}
			}
			for i, how := range w.dir.removals {
				want := []string{directory.ReasonAPI, directory.ReasonAPI, directory.ReasonUserDeleted}[i]
				if how.Reason != want || how.Successor != "" {
					t.Errorf("removal %d came about by %+v, want %s", i, how, want)
				}
			}
		})
	}
}

func TestStoryCallsEveryRPC(t *testing.T) {
	t.Parallel()
	told := make(map[string]bool)
	for _, s := range story() {
		told[s.rpc] = true
	}
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_scalekit_v1_users_users_proto, pb.File_scalekit_v1_organizations_organizations_proto, pb.File_scalekit_v1_sessions_sessions_proto,
	} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			if name := string(methods.Get(i).Name()); !told[name] {
				t.Errorf("%s is not called", name)
			}
		}
	}
}

// Removing somebody names who takes over.
func TestSuccessorOverRPC(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	acme, globex := w.organization("Acme"), w.organization("Globex")
	ann, bob, eve := w.user(acme.ID, "ann@acme.example"), w.user(acme.ID, "bob@acme.example"), w.user(globex.ID, "eve@globex.example")
	remove := func(header ...string) error {
		c := w.rpcs(http2(t), append(header, "Authorization", "Bearer "+token)...)
		_, err := c.DeleteMembership(t.Context(), &pb.DeleteMembershipRequest{OrganizationId: acme.ID, Identities: byID(ann.ID)})
		return err
	}
	for name, header := range map[string][]string{
		"of another organization": {"X-Handover-Successor", eve.ID},
		"the leaver":              {"X-Handover-Successor", ann.ID},
		"nobody":                  {"X-Handover-Successor", "nobody@acme.example"},
		"no id":                   {"X-Handover-Successor", "bob"},
		"no address":              {"X-Handover-Successor", "bob@"},
		"two":                     {"X-Handover-Successor", bob.ID, "X-Handover-Successor", bob.ID},
	} {
		err := remove(header...)
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("successor is %s: %v, want invalid_argument", name, err)
			continue
		}
		violations := errorInfo(t, err).GetValidationErrorInfo().GetFieldViolations()
		if len(violations) != 1 || violations[0].Field != "X-Handover-Successor" {
			t.Errorf("successor is %s: violations %v", name, violations)
		}
	}
	if len(w.dir.removals) != 0 {
		t.Fatalf("removed by %v", w.dir.removals)
	}
	if err := remove("X-Handover-Successor", bob.Email); err != nil {
		t.Fatal(err)
	}
	c := w.rpcs(http1(t), "Authorization", "Bearer "+token, "X-Handover-Successor", bob.ID)
	if _, err := c.DeleteUser(t.Context(), &pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_Id{Id: eve.ID}}); err != nil {
		t.Fatal(err)
	}
	want := []directory.How{{Reason: "api", Successor: bob.Email}, {Reason: "user_deleted", Successor: bob.ID}}
	if diff := cmp.Diff(want, w.dir.removals); diff != "" {
		t.Error(diff)
	}
}
