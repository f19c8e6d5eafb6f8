package scalekit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

func pairs(n int) map[string]string {
	m := make(map[string]string)
	for i := range n {
		m[fmt.Sprintf("key%d", i)] = "v"
	}
	return m
}

// Each rule is broken by as little as it can be, and each bound is reached
// without breaking it.
func TestRules(t *testing.T) {
	t.Parallel()
	w := start(t)
	c := w.rpcs(http2(t), "Authorization", "Bearer "+w.token())
	a := func(n int) string { return strings.Repeat("a", n) }
	ü := func(n int) string { return strings.Repeat("ü", n) }
	digits := func(n int) string { return strings.Repeat("1", n) }

	type call = func(context.Context) (proto.Message, error)
	getOrganization := func(req *pb.GetOrganizationRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.GetOrganization(ctx, req) }
	}
	organizationID := func(id string) call {
		return getOrganization(&pb.GetOrganizationRequest{Identities: &pb.GetOrganizationRequest_Id{Id: id}})
	}
	organization := func(change func(*pb.CreateOrganization)) call {
		o := &pb.CreateOrganization{DisplayName: "Acme"}
		change(o)
		return func(ctx context.Context) (proto.Message, error) {
			return c.CreateOrganization(ctx, &pb.CreateOrganizationRequest{Organization: o})
		}
	}
	user := func(change func(*pb.CreateUser)) call { // of no organization: when the form is right, that is what is wrong
		u := &pb.CreateUser{Email: "ann@acme.example"}
		change(u)
		return func(ctx context.Context) (proto.Message, error) {
			return c.CreateUserAndMembership(ctx, &pb.CreateUserAndMembershipRequest{OrganizationId: noOrg, User: u})
		}
	}
	profile := func(p *pb.CreateUserProfile) call { return user(func(u *pb.CreateUser) { u.UserProfile = p }) }
	membership := func(m *pb.CreateMembership) call { return user(func(u *pb.CreateUser) { u.Membership = m }) }
	getUser := func(req *pb.GetUserRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.GetUser(ctx, req) }
	}
	getUserID := func(id string) call {
		return getUser(&pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: id}})
	}
	getExternal := func(id string) call {
		return getUser(&pb.GetUserRequest{Identities: &pb.GetUserRequest_ExternalId{ExternalId: id}})
	}
	remove := func(req *pb.DeleteMembershipRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.DeleteMembership(ctx, req) }
	}
	removeID := func(id string) call {
		return remove(&pb.DeleteMembershipRequest{OrganizationId: noOrg, Identities: byID(id)})
	}
	create := func(req *pb.CreateMembershipRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.CreateMembership(ctx, req) }
	}
	update := func(req *pb.UpdateMembershipRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.UpdateMembership(ctx, req) }
	}
	updateWith := func(m *pb.UpdateMembership) call {
		return update(&pb.UpdateMembershipRequest{OrganizationId: noOrg, Identities: &pb.UpdateMembershipRequest_Id{Id: noUser}, Membership: m})
	}
	members := func(req *pb.ListOrganizationUsersRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.ListOrganizationUsers(ctx, req) }
	}
	deleteUser := func(id string) call {
		return func(ctx context.Context) (proto.Message, error) {
			return c.DeleteUser(ctx, &pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_Id{Id: id}})
		}
	}
	listUsers := func(req *pb.ListUsersRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.ListUsers(ctx, req) }
	}
	listOrganizations := func(req *pb.ListOrganizationsRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.ListOrganization(ctx, req) }
	}
	getSession := func(id string) call {
		return func(ctx context.Context) (proto.Message, error) {
			return c.GetSession(ctx, &pb.SessionDetailsRequest{SessionId: id})
		}
	}
	revoke := func(id string) call {
		return func(ctx context.Context) (proto.Message, error) {
			return c.RevokeSession(ctx, &pb.RevokeSessionRequest{SessionId: id})
		}
	}
	revokeAll := func(id string) call {
		return func(ctx context.Context) (proto.Message, error) {
			return c.RevokeAllUserSessions(ctx, &pb.RevokeAllUserSessionsRequest{UserId: id})
		}
	}
	sessions := func(req *pb.UserSessionDetailsRequest) call {
		return func(ctx context.Context) (proto.Message, error) { return c.GetUserSessions(ctx, req) }
	}
	filtered := func(f *pb.UserSessionFilter) call {
		return sessions(&pb.UserSessionDetailsRequest{UserId: noUser, Filter: f})
	}
	roles := func(n int) []*pb.Role {
		out := make([]*pb.Role, n)
		for i := range out {
			out[i] = &pb.Role{Name: fmt.Sprintf("role %d", i)}
		}
		return out
	}

	for i, r := range []struct {
		do    call
		field string // at fault; "": none
	}{
		{organizationID(""), "id"},
		{organizationID("org_"), ""},
		{organizationID("org_" + digits(28)), ""},
		{organizationID("org_" + digits(29)), "id"},
		{organizationID("acme"), "id"},
		{organizationID("org_\x00"), "id"},
		{organizationID("org_ü"), "id"},
		{organizationID("org_ 1"), "id"},
		{organizationID("[object Object]"), "id"},
		{getOrganization(&pb.GetOrganizationRequest{}), "identities"},
		{getOrganization(&pb.GetOrganizationRequest{Identities: &pb.GetOrganizationRequest_ExternalId{}}), "external_id"},
		{func(ctx context.Context) (proto.Message, error) {
			return c.DeleteOrganization(ctx, &pb.DeleteOrganizationRequest{Identities: &pb.DeleteOrganizationRequest_Id{Id: "usr_1"}})
		}, "id"},
		{func(ctx context.Context) (proto.Message, error) {
			return c.CreateOrganization(ctx, &pb.CreateOrganizationRequest{})
		}, "organization"},
		{organization(func(o *pb.CreateOrganization) { o.DisplayName = "" }), "organization.display_name"},
		{organization(func(o *pb.CreateOrganization) { o.DisplayName = ü(200) }), ""},
		{organization(func(o *pb.CreateOrganization) { o.DisplayName = ü(201) }), "organization.display_name"},
		{organization(func(o *pb.CreateOrganization) { o.DisplayName = "a\x00" }), "organization.display_name"},
		{organization(func(o *pb.CreateOrganization) { o.RegionCode = 3 }), "organization.region_code"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("") }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new(a(63)) }), ""},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new(a(64)) }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("a-b-1") }), ""},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("a--b") }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("-a") }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("a-") }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("a\n") }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.Slug = new("A") }), "organization.slug"},
		{organization(func(o *pb.CreateOrganization) { o.ExternalId = new("") }), "organization.external_id"},
		{organization(func(o *pb.CreateOrganization) { o.ExternalId = new(ü(510)) }), ""},
		{organization(func(o *pb.CreateOrganization) { o.ExternalId = new(ü(511)) }), "organization.external_id"},
		{organization(func(o *pb.CreateOrganization) { o.ExternalId = new("a\x00") }), "organization.external_id"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = pairs(10) }), ""},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = pairs(11) }), "organization.metadata"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{ü(3): ü(1), ü(25): ü(256)} }), ""},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{ü(2): "v"} }), "organization.metadata"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{ü(26): "v"} }), "organization.metadata"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{"key": ""} }), "organization.metadata"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{"key": ü(257)} }), "organization.metadata"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{"k\x00y": "v"} }), "organization.metadata"},
		{organization(func(o *pb.CreateOrganization) { o.Metadata = map[string]string{"key": "\x00"} }), "organization.metadata"},
		{listOrganizations(&pb.ListOrganizationsRequest{ExternalId: new(a(511))}), "external_id"},
		{listOrganizations(&pb.ListOrganizationsRequest{ExternalId: new("")}), ""},
		{listOrganizations(&pb.ListOrganizationsRequest{PageToken: a(1025)}), "page_token"},

		{func(ctx context.Context) (proto.Message, error) {
			return c.CreateUserAndMembership(ctx, &pb.CreateUserAndMembershipRequest{OrganizationId: noOrg})
		}, "user"},
		{func(ctx context.Context) (proto.Message, error) {
			return c.CreateUserAndMembership(ctx, &pb.CreateUserAndMembershipRequest{OrganizationId: "org", User: &pb.CreateUser{Email: "ann@acme.example"}})
		}, "organization_id"},
		{user(func(*pb.CreateUser) {}), ""},
		{user(func(u *pb.CreateUser) { u.Email = "" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "ann" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "ann@" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "Ann <ann@acme.example>" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = " ann@acme.example" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "ann@acme.example, bob@acme.example" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "ann@acme.example\r\nBcc: x@y.example" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "an\x00n@acme.example" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.Email = "ann+tag@sub.acme.example" }), ""},
		{user(func(u *pb.CreateUser) { u.Email = a(241) + "@acme.example" }), ""},
		{user(func(u *pb.CreateUser) { u.Email = a(242) + "@acme.example" }), "user.email"},
		{user(func(u *pb.CreateUser) { u.ExternalId = new("") }), "user.external_id"},
		{user(func(u *pb.CreateUser) { u.Metadata = pairs(20) }), ""},
		{user(func(u *pb.CreateUser) { u.Metadata = pairs(21) }), "user.metadata"},
		{profile(&pb.CreateUserProfile{
			GivenName: ü(255), FamilyName: ü(255), FirstName: ü(200), LastName: ü(200), Name: ü(512), Locale: a(512), PhoneNumber: a(512), PreferredUsername: a(512),
		}), ""},
		{profile(&pb.CreateUserProfile{GivenName: ü(256)}), "user.user_profile.given_name"},
		{profile(&pb.CreateUserProfile{FamilyName: ü(256)}), "user.user_profile.family_name"},
		{profile(&pb.CreateUserProfile{FirstName: ü(201)}), "user.user_profile.first_name"},
		{profile(&pb.CreateUserProfile{LastName: ü(201)}), "user.user_profile.last_name"},
		{profile(&pb.CreateUserProfile{Name: ü(513)}), "user.user_profile.name"},
		{profile(&pb.CreateUserProfile{Locale: a(513)}), "user.user_profile.locale"},
		{profile(&pb.CreateUserProfile{PhoneNumber: a(513)}), "user.user_profile.phone_number"},
		{profile(&pb.CreateUserProfile{PreferredUsername: a(513)}), "user.user_profile.preferred_username"},
		{profile(&pb.CreateUserProfile{Name: "\x00"}), "user.user_profile.name"},
		{profile(&pb.CreateUserProfile{Metadata: pairs(21)}), "user.user_profile.metadata"},
		{profile(&pb.CreateUserProfile{CustomAttributes: pairs(21)}), "user.user_profile.custom_attributes"},
		{membership(&pb.CreateMembership{InviterEmail: new("")}), "user.membership.inviter_email"},
		{membership(&pb.CreateMembership{InviterEmail: new("a@b")}), "user.membership.inviter_email"},
		{membership(&pb.CreateMembership{InviterEmail: new("a@b.c")}), ""},
		{membership(&pb.CreateMembership{Metadata: pairs(21)}), "user.membership.metadata"},
		{membership(&pb.CreateMembership{Roles: roles(100)}), ""},
		{membership(&pb.CreateMembership{Roles: roles(101)}), "user.membership.roles"},
		{membership(&pb.CreateMembership{Roles: []*pb.Role{{Id: "role_1"}, {DisplayName: "Admin"}}}), "user.membership.roles[1]"},
		{membership(&pb.CreateMembership{Roles: []*pb.Role{{Id: a(65)}}}), "user.membership.roles[0].id"},
		{membership(&pb.CreateMembership{Roles: []*pb.Role{{Name: a(513)}}}), "user.membership.roles[0].name"},
		{membership(&pb.CreateMembership{Roles: []*pb.Role{{Name: "a", DisplayName: "\x00"}}}), "user.membership.roles[0].display_name"},

		{getUser(&pb.GetUserRequest{}), "identities"},
		{getUserID("usr_"), ""},
		{getUserID("usr_" + digits(28)), ""},
		{getUserID("usr_" + digits(29)), "id"},
		{getUserID("org_1"), "id"},
		{getExternal(ü(510)), ""},
		{getExternal(ü(511)), "external_id"},
		{getExternal("a\x00"), "external_id"},
		{listUsers(&pb.ListUsersRequest{PageSize: 1000}), ""},
		{listUsers(&pb.ListUsersRequest{PageToken: "a b"}), "page_token"},
		{listUsers(&pb.ListUsersRequest{PageToken: "*"}), "page_token"}, // the directory says so
		{members(&pb.ListOrganizationUsersRequest{OrganizationId: noOrg, PageSize: 100}), ""},
		{members(&pb.ListOrganizationUsersRequest{OrganizationId: noOrg, PageSize: 101}), "page_size"},
		{members(&pb.ListOrganizationUsersRequest{PageSize: 1}), "organization_id"},
		{members(&pb.ListOrganizationUsersRequest{OrganizationId: noOrg, PageToken: "\x00"}), "page_token"},

		{removeID("usr_" + digits(15)), ""},
		{removeID("usr_" + digits(14)), "id"},
		{removeID("usr_" + digits(21)), ""},
		{removeID("usr_" + digits(22)), "id"},
		{removeID("user_456"), "id"},
		{removeID("usr_67890"), "id"},
		{removeID("undefined"), "id"},
		{removeID("usr_123456789012345\x00"), "id"},
		{remove(&pb.DeleteMembershipRequest{OrganizationId: noOrg}), "identities"},
		{remove(&pb.DeleteMembershipRequest{OrganizationId: "[object Object]", Identities: byID(noUser)}), "organization_id"},
		{remove(&pb.DeleteMembershipRequest{OrganizationId: noOrg, Identities: &pb.DeleteMembershipRequest_ExternalId{}}), "external_id"},
		{deleteUser("usr_1"), "id"},
		{create(&pb.CreateMembershipRequest{OrganizationId: noOrg, Identities: &pb.CreateMembershipRequest_Id{Id: noUser}}), "membership"},
		{create(&pb.CreateMembershipRequest{OrganizationId: noOrg, Identities: &pb.CreateMembershipRequest_Id{Id: "usr_1"}, Membership: &pb.CreateMembership{}}), "id"},
		{create(&pb.CreateMembershipRequest{OrganizationId: noOrg, Identities: &pb.CreateMembershipRequest_ExternalId{}, Membership: &pb.CreateMembership{}}), "external_id"},
		{create(&pb.CreateMembershipRequest{Identities: &pb.CreateMembershipRequest_Id{Id: noUser}, Membership: &pb.CreateMembership{}}), "organization_id"},
		{create(&pb.CreateMembershipRequest{OrganizationId: noOrg, Identities: &pb.CreateMembershipRequest_Id{Id: noUser}, Membership: &pb.CreateMembership{Metadata: pairs(21)}}), "membership.metadata"},
		{update(&pb.UpdateMembershipRequest{OrganizationId: noOrg, Identities: &pb.UpdateMembershipRequest_Id{Id: noUser}}), "membership"},
		{update(&pb.UpdateMembershipRequest{OrganizationId: noOrg, Identities: &pb.UpdateMembershipRequest_Id{Id: "usr_1"}, Membership: &pb.UpdateMembership{}}), "id"},
		{update(&pb.UpdateMembershipRequest{Identities: &pb.UpdateMembershipRequest_ExternalId{ExternalId: "a"}, Membership: &pb.UpdateMembership{}}), "organization_id"},
		{update(&pb.UpdateMembershipRequest{OrganizationId: noOrg, Membership: &pb.UpdateMembership{}}), "identities"},
		{updateWith(&pb.UpdateMembership{Metadata: pairs(20)}), ""},
		{updateWith(&pb.UpdateMembership{Metadata: pairs(21)}), "membership.metadata"},
		{updateWith(&pb.UpdateMembership{Roles: roles(101)}), "membership.roles"},

		{getSession("ses_"), "session_id"},
		{getSession("ses_1"), ""},
		{getSession("ses_1a"), "session_id"},
		{getSession("ses_" + digits(60)), ""},
		{getSession("ses_" + digits(61)), "session_id"},
		{getSession("usr_1"), "session_id"},
		{getSession("ses_1\n"), "session_id"},
		{revoke("ses_x"), "session_id"},
		{revokeAll("usr_x"), "user_id"},
		{revokeAll("usr_1"), ""},
		{sessions(&pb.UserSessionDetailsRequest{UserId: "ses_1"}), "user_id"},
		{sessions(&pb.UserSessionDetailsRequest{UserId: "usr_1", PageToken: "\x7f"}), "page_token"},
		{filtered(&pb.UserSessionFilter{Status: []string{"active", "Expired", "REVOKED", "logout"}}), ""},
		{filtered(&pb.UserSessionFilter{Status: []string{"active", "gone"}}), "filter.status"},
		{filtered(&pb.UserSessionFilter{StartTime: &timestamppb.Timestamp{Nanos: -1}}), "filter.start_time"},
		{filtered(&pb.UserSessionFilter{EndTime: &timestamppb.Timestamp{Seconds: 1 << 60}}), "filter.end_time"},
	} {
		w.dir.mu.Lock()
		w.dir.asked = 0
		w.dir.mu.Unlock()
		_, err := r.do(t.Context())
		if r.field == "" {
			if connect.CodeOf(err) == connect.CodeInvalidArgument {
				t.Errorf("rule %d: %v %v", i, err, errorInfo(t, err))
			}
			continue
		}
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("rule %d: %v, want a fault of %s", i, err, r.field)
			continue
		}
		info := errorInfo(t, err)
		violations := info.GetValidationErrorInfo().GetFieldViolations()
		if info.ErrorCode != "INVALID_ARGUMENT" || len(violations) != 1 || violations[0].Field != r.field || violations[0].Description == "" || violations[0].Constraint == "" {
			t.Errorf("rule %d: %v, want a fault of %s", i, info, r.field)
		}
		if n := w.dir.asked; n != 0 && r.field != "page_token" {
			t.Errorf("rule %d: the directory was asked", i)
		}
	}
}

// All faults are told at once, but not without end.
func TestManyFaults(t *testing.T) {
	t.Parallel()
	w := start(t)
	c := w.rpcs(http2(t), "Authorization", "Bearer "+w.token())
	_, err := c.DeleteMembership(t.Context(), &pb.DeleteMembershipRequest{Identities: byID("user_456")})
	if violations := errorInfo(t, err).GetValidationErrorInfo().GetFieldViolations(); len(violations) != 2 {
		t.Errorf("violations %v, want 2", violations)
	}
	roles := make([]*pb.Role, 100)
	for i := range roles {
		roles[i] = &pb.Role{}
	}
	_, err = c.CreateUserAndMembership(t.Context(), &pb.CreateUserAndMembershipRequest{User: &pb.CreateUser{Membership: &pb.CreateMembership{Roles: roles}}})
	if violations := errorInfo(t, err).GetValidationErrorInfo().GetFieldViolations(); len(violations) != 20 {
		t.Errorf("%d violations, want 20", len(violations))
	}
}
