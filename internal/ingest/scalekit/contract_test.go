package scalekit_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// contract is what SDKs have been built with: the numbers are what goes over the
// wire. An upper case type is a message, ? is for optional ones, [] for repeated
// ones, {} for maps of texts, | for one of a oneof.
const contract = `
scalekit.v1.commons.MembershipStatus: 0 Membership_Status_UNSPECIFIED, 1 ACTIVE, 2 INACTIVE, 3 PENDING_INVITE, 4 INVITE_EXPIRED
scalekit.v1.commons.RegionCode: 0 REGION_CODE_UNSPECIFIED, 1 US, 2 EU
scalekit.v1.commons.OrganizationMembership: 1 organization_id string, 2 join_time Timestamp, 3 membership_status MembershipStatus, 4 roles Role[], 5 name string?, 7 metadata {}, 9 display_name string?, 10 inviter_email string?, 11 created_at Timestamp?, 12 accepted_at Timestamp?, 13 expires_at Timestamp?, 14 provisioning_method string?, 15 permissions string[]
scalekit.v1.commons.Role: 1 id string, 2 name string, 3 display_name string
scalekit.v1.commons.UserProfile: 1 id string, 2 given_name string, 3 family_name string, 4 name string, 5 locale string, 6 email_verified bool, 7 phone_number string, 8 metadata {}, 9 custom_attributes {}, 12 preferred_username string, 13 phone_number_verified bool, 14 picture string, 15 groups string[], 16 gender string, 21 first_name string, 22 last_name string
scalekit.v1.errdetails.ErrorInfo: 1 error_code string, 5 resource_info ResourceInfo?, 6 request_info RequestInfo?, 8 validation_error_info ValidationErrorInfo?
scalekit.v1.errdetails.ResourceInfo: 2 resource_name string, 4 description string
scalekit.v1.errdetails.RequestInfo: 1 request_id string
scalekit.v1.errdetails.ValidationErrorInfo: 1 field_violations FieldViolation[]
scalekit.v1.errdetails.ValidationErrorInfo.FieldViolation: 1 field string, 2 description string, 3 constraint string
scalekit.v1.users.UserService: CreateUserAndMembership(CreateUserAndMembershipRequest) CreateUserAndMembershipResponse, GetUser(GetUserRequest) GetUserResponse, ListUsers(ListUsersRequest) ListUsersResponse, ListOrganizationUsers(ListOrganizationUsersRequest) ListOrganizationUsersResponse, CreateMembership(CreateMembershipRequest) CreateMembershipResponse, UpdateMembership(UpdateMembershipRequest) UpdateMembershipResponse, DeleteMembership(DeleteMembershipRequest) Empty, DeleteUser(DeleteUserRequest) Empty
scalekit.v1.users.User: 1 id string, 2 environment_id string, 3 create_time Timestamp, 4 update_time Timestamp, 5 email string, 6 external_id string?, 7 memberships OrganizationMembership[], 8 user_profile UserProfile, 9 metadata {}, 10 last_login_time Timestamp
scalekit.v1.users.CreateUser: 5 email string, 6 external_id string?, 7 membership CreateMembership, 8 user_profile CreateUserProfile, 9 metadata {}
scalekit.v1.users.CreateUserProfile: 2 given_name string, 3 family_name string, 4 name string, 5 locale string, 7 phone_number string, 8 metadata {}, 9 custom_attributes {}, 10 preferred_username string, 21 first_name string, 22 last_name string
scalekit.v1.users.CreateMembership: 4 roles Role[], 7 metadata {}, 8 inviter_email string?
scalekit.v1.users.UpdateMembership: 4 roles Role[], 7 metadata {}
scalekit.v1.users.CreateUserAndMembershipRequest: 1 organization_id string, 2 user CreateUser, 3 send_invitation_email bool?
scalekit.v1.users.CreateUserAndMembershipResponse: 1 user User
scalekit.v1.users.GetUserRequest: 1 id string|, 2 external_id string|
scalekit.v1.users.GetUserResponse: 1 user User
scalekit.v1.users.ListUsersRequest: 1 page_size uint32, 2 page_token string
scalekit.v1.users.ListUsersResponse: 1 users User[], 2 next_page_token string, 3 total_size uint32, 4 prev_page_token string
scalekit.v1.users.ListOrganizationUsersRequest: 1 organization_id string, 2 page_size uint32, 3 page_token string
scalekit.v1.users.ListOrganizationUsersResponse: 1 next_page_token string, 2 total_size uint32, 3 users User[], 4 prev_page_token string
scalekit.v1.users.CreateMembershipRequest: 1 organization_id string, 2 membership CreateMembership, 3 id string|, 4 external_id string|, 5 send_invitation_email bool?
scalekit.v1.users.CreateMembershipResponse: 1 user User
scalekit.v1.users.UpdateMembershipRequest: 1 organization_id string, 2 id string|, 3 external_id string|, 5 membership UpdateMembership
scalekit.v1.users.UpdateMembershipResponse: 1 user User
scalekit.v1.users.DeleteMembershipRequest: 1 organization_id string, 2 id string|, 3 external_id string|, 5 cascade bool?
scalekit.v1.users.DeleteUserRequest: 1 id string|, 2 external_id string|
scalekit.v1.organizations.OrganizationService: CreateOrganization(CreateOrganizationRequest) CreateOrganizationResponse, GetOrganization(GetOrganizationRequest) GetOrganizationResponse, ListOrganization(ListOrganizationsRequest) ListOrganizationsResponse, DeleteOrganization(DeleteOrganizationRequest) Empty
scalekit.v1.organizations.Organization: 1 id string, 2 create_time Timestamp, 3 update_time Timestamp, 4 display_name string, 5 region_code RegionCode, 6 external_id string?, 7 metadata {}, 9 slug string?
scalekit.v1.organizations.CreateOrganization: 4 display_name string, 5 region_code RegionCode, 6 external_id string?, 7 metadata {}, 9 slug string?
scalekit.v1.organizations.CreateOrganizationRequest: 1 organization CreateOrganization
scalekit.v1.organizations.CreateOrganizationResponse: 1 organization Organization
scalekit.v1.organizations.GetOrganizationRequest: 1 id string|, 2 external_id string|
scalekit.v1.organizations.GetOrganizationResponse: 1 organization Organization
scalekit.v1.organizations.ListOrganizationsRequest: 1 page_size uint32, 2 page_token string, 3 external_id string?
scalekit.v1.organizations.ListOrganizationsResponse: 1 next_page_token string, 2 total_size uint32, 3 organizations Organization[], 4 prev_page_token string
scalekit.v1.organizations.DeleteOrganizationRequest: 1 id string|, 2 external_id string|
scalekit.v1.sessions.SessionService: GetSession(SessionDetailsRequest) SessionDetails, GetUserSessions(UserSessionDetailsRequest) UserSessionDetails, RevokeSession(RevokeSessionRequest) RevokeSessionResponse, RevokeAllUserSessions(RevokeAllUserSessionsRequest) RevokeAllUserSessionsResponse
scalekit.v1.sessions.SessionDetailsRequest: 1 session_id string
scalekit.v1.sessions.SessionDetails: 1 session_id string, 2 user_id string, 3 authenticated_organizations string[], 4 organization_id string, 5 created_at Timestamp, 6 updated_at Timestamp, 7 idle_expires_at Timestamp, 8 absolute_expires_at Timestamp, 9 expired_at Timestamp, 10 logout_at Timestamp, 11 status string, 13 last_active_at Timestamp
scalekit.v1.sessions.UserSessionDetailsRequest: 1 user_id string, 2 page_size uint32, 3 page_token string, 4 filter UserSessionFilter
scalekit.v1.sessions.UserSessionFilter: 1 status string[], 2 start_time Timestamp, 3 end_time Timestamp
scalekit.v1.sessions.UserSessionDetails: 1 sessions SessionDetails[], 2 next_page_token string, 3 prev_page_token string, 4 total_size uint32
scalekit.v1.sessions.RevokeSessionRequest: 1 session_id string
scalekit.v1.sessions.RevokeSessionResponse: 1 revoked_session RevokedSessionDetails
scalekit.v1.sessions.RevokeAllUserSessionsRequest: 1 user_id string
scalekit.v1.sessions.RevokeAllUserSessionsResponse: 1 revoked_sessions RevokedSessionDetails[], 2 total_revoked uint32
scalekit.v1.sessions.RevokedSessionDetails: 1 session_id string, 2 user_id string, 5 created_at Timestamp, 6 updated_at Timestamp, 7 idle_expires_at Timestamp, 8 absolute_expires_at Timestamp, 9 expired_at Timestamp, 10 logout_at Timestamp, 11 status string, 12 last_active_at Timestamp
`

func TestGeneratedCodeKeepsTheContract(t *testing.T) {
	t.Parallel()
	var got strings.Builder
	got.WriteString("\n")
	for _, file := range []protoreflect.FileDescriptor{
		pb.File_scalekit_v1_commons_commons_proto, pb.File_scalekit_v1_errdetails_errdetails_proto, pb.File_scalekit_v1_users_users_proto,
		pb.File_scalekit_v1_organizations_organizations_proto, pb.File_scalekit_v1_sessions_sessions_proto,
	} {
		for i := range file.Enums().Len() {
			enum := file.Enums().Get(i)
			var values []string
			for j := range enum.Values().Len() {
				values = append(values, fmt.Sprintf("%d %s", enum.Values().Get(j).Number(), enum.Values().Get(j).Name()))
			}
			fmt.Fprintf(&got, "%s: %s\n", enum.FullName(), strings.Join(values, ", "))
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			var methods []string
			for j := range service.Methods().Len() {
				m := service.Methods().Get(j)
				methods = append(methods, fmt.Sprintf("%s(%s) %s", m.Name(), m.Input().Name(), m.Output().Name()))
			}
			fmt.Fprintf(&got, "%s: %s\n", service.FullName(), strings.Join(methods, ", "))
		}
		describe(&got, file.Messages())
	}
	if diff := cmp.Diff(strings.Split(contract, "\n"), strings.Split(got.String(), "\n")); diff != "" {
		t.Errorf("(-contract +generated)\n%s", diff)
	}
}

func describe(to *strings.Builder, messages protoreflect.MessageDescriptors) {
	for i := range messages.Len() {
		message := messages.Get(i)
		if message.IsMapEntry() {
			continue
		}
		var fields []string
		for j := range message.Fields().Len() {
			f := message.Fields().Get(j)
			typ := f.Kind().String()
			switch {
			case f.IsMap():
				typ = "{}"
			case f.Message() != nil:
				typ = string(f.Message().Name())
			case f.Enum() != nil:
				typ = string(f.Enum().Name())
			}
			switch {
			case f.IsList():
				typ += "[]"
			case f.HasOptionalKeyword():
				typ += "?"
			case f.ContainingOneof() != nil:
				typ += "|"
			}
			fields = append(fields, fmt.Sprintf("%d %s %s", f.Number(), f.Name(), typ))
		}
		fmt.Fprintf(to, "%s: %s\n", message.FullName(), strings.Join(fields, ", "))
		describe(to, message.Messages())
	}
}
