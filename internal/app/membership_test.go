package app_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/api"
	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// door is a way to the membership API.
type door struct {
	pb.UserServiceClient
	pb.OrganizationServiceClient
	pb.SessionServiceClient
}

// doorsOf are all ways, for a token.
func doorsOf(t *testing.T, base, token string) map[string]door {
	http1, http2 := transport(t, (*http.Protocols).SetHTTP1), transport(t, (*http.Protocols).SetUnencryptedHTTP2)
	web := &rest{base: base, token: token, client: http1}
	return map[string]door{
		"REST":            {web, web, web},
		"gRPC over HTTP1": overGRPC(http1, base, token),
		"gRPC over HTTP2": overGRPC(http2, base, token),
	}
}

func transport(t *testing.T, allow func(*http.Protocols, bool)) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), MaxIdleConnsPerHost: 16}
	allow(transport.Protocols, true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

// successor names in a context who takes over.
type successor struct{}

func succeededBy(ctx context.Context, who string) context.Context {
	return context.WithValue(ctx, successor{}, who)
}

func setHeaders(ctx context.Context, h http.Header, token string) {
	h.Set("Authorization", "Bearer "+token)
	if who, ok := ctx.Value(successor{}).(string); ok {
		h.Set("X-Handover-Successor", who)
	}
}

func overGRPC(client *http.Client, base, token string) door {
	headers := connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			setHeaders(ctx, req.Header(), token)
			return next(ctx, req)
		}
	})
	options := []connect.ClientOption{connect.WithGRPC(), connect.WithInterceptors(headers)}
	return door{
		pb.NewUserServiceClient(client, base, options...), pb.NewOrganizationServiceClient(client, base, options...), pb.NewSessionServiceClient(client, base, options...),
	}
}

// rest speaks REST as if it were gRPC. What the tests do not call it does not have.
type rest struct {
	pb.UserServiceClient
	pb.OrganizationServiceClient
	pb.SessionServiceClient
	base, token string
	client      *http.Client
}

func (r *rest) CreateOrganization(ctx context.Context, req *pb.CreateOrganizationRequest) (*pb.CreateOrganizationResponse, error) {
	return call(ctx, r, "POST", "/organizations", req.Organization, new(pb.CreateOrganizationResponse))
}

func (r *rest) DeleteOrganization(ctx context.Context, req *pb.DeleteOrganizationRequest) (*emptypb.Empty, error) {
	return call(ctx, r, "DELETE", "/organizations/"+req.GetId(), nil, new(emptypb.Empty))
}

func (r *rest) CreateUserAndMembership(ctx context.Context, req *pb.CreateUserAndMembershipRequest) (*pb.CreateUserAndMembershipResponse, error) {
	return call(ctx, r, "POST", "/organizations/"+req.OrganizationId+"/users"+flag("send_invitation_email", req.SendInvitationEmail), req.User, new(pb.CreateUserAndMembershipResponse))
}

func (r *rest) ListOrganizationUsers(ctx context.Context, req *pb.ListOrganizationUsersRequest) (*pb.ListOrganizationUsersResponse, error) {
	query := "?page_token=" + url.QueryEscape(req.PageToken)
	return call(ctx, r, "GET", "/organizations/"+req.OrganizationId+"/users"+query, nil, new(pb.ListOrganizationUsersResponse))
}

func (r *rest) GetUser(ctx context.Context, req *pb.GetUserRequest) (*pb.GetUserResponse, error) {
	return call(ctx, r, "GET", "/users/"+req.GetId(), nil, new(pb.GetUserResponse))
}

func (r *rest) DeleteUser(ctx context.Context, req *pb.DeleteUserRequest) (*emptypb.Empty, error) {
	return call(ctx, r, "DELETE", "/users/"+req.GetId(), nil, new(emptypb.Empty))
}

func (r *rest) CreateMembership(ctx context.Context, req *pb.CreateMembershipRequest) (*pb.CreateMembershipResponse, error) {
	path := "/memberships/organizations/" + req.OrganizationId + "/users/" + req.GetId() + flag("send_invitation_email", req.SendInvitationEmail)
	return call(ctx, r, "POST", path, req.Membership, new(pb.CreateMembershipResponse))
}

func (r *rest) DeleteMembership(ctx context.Context, req *pb.DeleteMembershipRequest) (*emptypb.Empty, error) {
	path := "/memberships/organizations/" + req.OrganizationId + "/users/" + req.GetId() + flag("cascade", req.Cascade)
	return call(ctx, r, "DELETE", path, nil, new(emptypb.Empty))
}

func (r *rest) GetSession(ctx context.Context, req *pb.SessionDetailsRequest) (*pb.SessionDetails, error) {
	return call(ctx, r, "GET", "/sessions/"+req.SessionId, nil, new(pb.SessionDetails))
}

func flag(name string, value *bool) string {
	if value == nil {
		return ""
	}
	return fmt.Sprintf("?%s=%t", name, *value)
}

// An answerError is an answer that has no place in the contract.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string { return e.text }

// call sends one request. An answer that is an error is one of gRPC, with its
// details.
func call[Res proto.Message](ctx context.Context, r *rest, method, path string, in proto.Message, out Res) (Res, error) {
	var none Res
	var body io.Reader
	if in != nil {
		encoded, err := protojson.Marshal(in)
		if err != nil {
			return none, err
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.base+"/api/v1"+path, body)
	if err != nil {
		return none, err
	}
	setHeaders(ctx, req.Header, r.token)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := r.client.Do(req)
	if err != nil {
		return none, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return none, &url.Error{Op: method, URL: path, Err: err} // it is as good as none
	}
	if res.StatusCode == http.StatusOK || method == "POST" && res.StatusCode == http.StatusCreated {
		return out, protojson.Unmarshal(answer, out)
	}
	code, ok := map[int]connect.Code{400: connect.CodeInvalidArgument, 404: connect.CodeNotFound, 409: connect.CodeAlreadyExists}[res.StatusCode]
	info := new(pb.ErrorInfo)
	if err := protojson.Unmarshal(answer, info); err != nil || !ok {
		return none, &answerError{res.StatusCode, fmt.Sprintf("%s %s: %d %s", method, path, res.StatusCode, answer)}
	}
	failed := connect.NewError(code, errors.New(info.ErrorCode))
	detail, err := connect.NewErrorDetail(info)
	if err == nil {
		failed.AddDetail(detail)
	}
	return none, failed
}

// members is an environment that is reached by one door, and an app that is told
// of it.
type members struct {
	*testing.T
	door
	p        *process
	env      string
	operator *api.EnvironmentClient
	app      *receiver
}

var people atomic.Int64

func (m members) organization() string {
	m.Helper()
	return must[*pb.CreateOrganizationResponse](m)(m.CreateOrganization(m.Context(), &pb.CreateOrganizationRequest{Organization: &pb.CreateOrganization{DisplayName: m.Name()[:min(len(m.Name()), 200)]}})).Organization.Id
}

// create makes an account with a membership.
func (m members) create(org string, invite *bool, roles ...*pb.Role) *pb.User {
	m.Helper()
	n := people.Add(1)
	return must[*pb.CreateUserAndMembershipResponse](m)(m.CreateUserAndMembership(m.Context(), &pb.CreateUserAndMembershipRequest{
		OrganizationId: org, SendInvitationEmail: invite,
		User: &pb.CreateUser{
			Email: fmt.Sprintf("person%d@example.com", n), ExternalId: new(fmt.Sprintf("hr-%d", n)),
			UserProfile: &pb.CreateUserProfile{FirstName: "Dana", LastName: "Rivers"}, Membership: &pb.CreateMembership{Roles: roles},
		},
	})).User
}

// member makes an account that is an active member of one or more organizations.
func (m members) member(orgs ...string) string {
	m.Helper()
	id := m.create(orgs[0], new(false)).Id
	for _, org := range orgs[1:] {
		m.join(org, id, new(false))
	}
	return id
}

func (m members) join(org, user string, invite *bool) {
	m.Helper()
	must[*pb.CreateMembershipResponse](m)(m.CreateMembership(m.Context(), &pb.CreateMembershipRequest{
		OrganizationId: org, Identities: &pb.CreateMembershipRequest_Id{Id: user}, Membership: &pb.CreateMembership{Roles: []*pb.Role{{Name: "viewer"}}}, SendInvitationEmail: invite,
	}))
}

func (m members) remove(org, user string) error {
	_, err := m.DeleteMembership(m.Context(), &pb.DeleteMembershipRequest{OrganizationId: org, Identities: &pb.DeleteMembershipRequest_Id{Id: user}})
	return err
}

func (m members) removed(org, user string) {
	m.Helper()
	if err := m.remove(org, user); err != nil {
		m.Fatalf("remove %s from %s: %v", user, org, err)
	}
}

// user is an account, nil when there is none.
func (m members) user(id string) *pb.User {
	m.Helper()
	res, err := m.GetUser(m.Context(), &pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: id}})
	if connect.CodeOf(err) == connect.CodeNotFound {
		m.refused(err, "USER_NOT_FOUND")
		return nil
	}
	return must[*pb.GetUserResponse](m)(res, err).User
}

// in are the organizations of an account with the status in each.
func (m members) in(user string) []string {
	m.Helper()
	all := []string{}
	for _, entry := range m.user(user).GetMemberships() {
		all = append(all, entry.OrganizationId+" "+entry.MembershipStatus.String())
	}
	slices.Sort(all)
	return all
}

// list are the members of an organization.
func (m members) list(org string) []string {
	m.Helper()
	all := []string{}
	for token := ""; ; {
		page := must[*pb.ListOrganizationUsersResponse](m)(m.ListOrganizationUsers(m.Context(), &pb.ListOrganizationUsersRequest{OrganizationId: org, PageToken: token}))
		for _, u := range page.Users {
			all = append(all, u.Id)
		}
		if token = page.NextPageToken; token == "" {
			slices.Sort(all)
			return all
		}
	}
}

func (m members) signIn(user, org string, others ...string) string {
	m.Helper()
	return must[api.Session](m)(m.operator.CreateSession(m.Context(), api.NewSession{UserID: user, OrganizationID: org, Organizations: others})).ID
}

func (m members) session(id string) string {
	m.Helper()
	return must[*pb.SessionDetails](m)(m.GetSession(m.Context(), &pb.SessionDetailsRequest{SessionId: id})).Status
}

// about are the events that are recorded of a person.
func (m members) about(user string) []events.Event {
	m.Helper()
	return slices.DeleteFunc(announced(m, m.p, m.env), func(ev events.Event) bool { return ev.UserID() != user })
}

// told is what the app is told of a person, each once.
func (m members) told(user string) []string {
	m.Helper()
	all := m.about(user)
	m.app.hasAll(m.T, all)
	lines := []string{}
	for _, ev := range all {
		var data struct{ Reason string }
		if err := json.Unmarshal(ev.Data, &data); err != nil {
			m.Fatal(err)
		}
		lines = append(lines, strings.TrimSpace(ev.Type[strings.LastIndexAny(ev.Type, "_.")+1:]+" "+cmp.Or(ev.OrganizationID, "-")+" "+data.Reason))
	}
	return lines
}

func (m members) refused(err error, want string) {
	m.Helper()
	var failed *connect.Error
	if !errors.As(err, &failed) || len(failed.Details()) != 1 {
		m.Fatalf("the error is %v, want %s", err, want)
	}
	detail, err := failed.Details()[0].Value()
	if err != nil {
		m.Fatal(err)
	}
	if got := detail.(*pb.ErrorInfo).ErrorCode; got != want {
		m.Fatalf("the error is %s, want %s", got, want)
	}
}

func (m members) expect(what string, got, want any) {
	m.Helper()
	if diff := gocmp.Diff(want, got, protocmp.Transform()); diff != "" {
		m.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (m members) directory(org string) api.SCIMDirectory {
	m.Helper()
	return must[api.SCIMDirectory](m)(m.operator.CreateDirectory(m.Context(), api.NewSCIMDirectory{OrganizationID: org, Name: "okta"}))
}

// scim sends a request of a directory.
func (m members) scim(d api.SCIMDirectory, method, path, body string) (id string) {
	m.Helper()
	status, answer := send(m, method, m.p.base()+d.Path+path, body, http.Header{"Authorization": {"Bearer " + d.Token}, "Content-Type": {"application/scim+json"}})
	if status > 299 {
		m.Fatalf("%s %s: %d %s", method, path, status, answer)
	}
	var doc struct{ ID string }
	if answer != "" {
		if err := json.Unmarshal([]byte(answer), &doc); err != nil {
			m.Fatal(err)
		}
	}
	return doc.ID
}

// What the membership API promises, through each door. What is said of the
// console is not here, and what is said of crashes is in TestKilledWhileRemoving.
func TestContractMembershipAPI(t *testing.T) {
	onEach(t, func(t *testing.T, p *process) {
		app := newReceiver(t)
		app.subscribe(t, p, "app")
		t.Run("doors", func(t *testing.T) {
			for _, name := range []string{"REST", "gRPC over HTTP1", "gRPC over HTTP2"} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					m := members{p: p, env: newEnvironment(), app: app}
					m.operator = p.client().InEnvironment(m.env)
					client := must[api.APIClient](t)(m.operator.CreateClient(t.Context(), "app"))
					m.door = doorsOf(t, p.base(), login(t, p, client))[name]
					for _, s := range statements {
						t.Run(s.name, func(t *testing.T) {
							t.Parallel()
							m := m
							m.T = t
							s.holds(m)
						})
					}
				})
			}
		})
		app.complain(t)
		checkInvariants(t, p)
	})
}

// login asks for an access token.
func login(t *testing.T, p *process, client api.APIClient) string {
	t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {client.Secret}}
	status, answer := send(t, "POST", p.base()+"/oauth/token", form.Encode(), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}})
	var token struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal([]byte(answer), &token); err != nil || status != http.StatusOK {
		t.Fatalf("login: %d %s", status, answer)
	}
	return token.Access
}

// send sends a request as it is.
func send(tb testing.TB, method, url, body string, header http.Header) (status int, answer string) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, url, strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header = header
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return res.StatusCode, string(b)
}

var statements = []struct {
	name  string
	holds func(m members)
}{
	{"B1 members of any status are removed", func(m members) {
		org, other := m.organization(), m.organization()
		for _, status := range []string{"ACTIVE", "INACTIVE", "PENDING_INVITE", "INVITE_EXPIRED"} {
			id := m.member(other)
			must[api.Imported](m)(m.operator.ImportMembers(m.Context(), org, []api.ImportMember{{ID: id, Status: status}}))
			want := []string{org + " " + status, other + " ACTIVE"}
			slices.Sort(want)
			m.expect("the memberships", m.in(id), want)
			m.removed(org, id)
			m.expect("the memberships of who was "+status, m.in(id), []string{other + " ACTIVE"})
		}
	}},
	{"B2 the entry is gone, or INACTIVE by SCIM", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(other, org)
		m.removed(org, id)
		m.expect("the memberships", m.in(id), []string{other + " ACTIVE"})
		d := m.directory(org)
		dirUser := m.scim(d, "POST", "/Users", `{"userName":"`+m.user(id).Email+`","active":true}`)
		m.scim(d, "PATCH", "/Users/"+dirUser, `{"Operations":[{"op":"replace","path":"active","value":false}]}`)
		want := []string{org + " INACTIVE", other + " ACTIVE"}
		slices.Sort(want)
		m.expect("the memberships", m.in(id), want)
	}},
	{"B3 other memberships are unchanged", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(org, other)
		entry := func() *pb.OrganizationMembership {
			entries := m.user(id).Memberships
			i := slices.IndexFunc(entries, func(e *pb.OrganizationMembership) bool { return e.OrganizationId == other })
			if i < 0 {
				m.Fatalf("the memberships are %v", entries)
			}
			return entries[i]
		}
		before := entry()
		if before.MembershipStatus != pb.MembershipStatus_ACTIVE || before.JoinTime == nil || len(before.Roles) != 1 {
			m.Fatalf("it is %v to begin with", before)
		}
		m.removed(org, id)
		m.expect("the other membership", entry(), before)
	}},
	{"B4 the account remains and can be added again", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(other, org)
		m.removed(org, id)
		m.expect("what the app is told", m.told(id), []string{"created " + other, "created " + org, "deleted " + org + " api"})
		m.join(org, id, new(false))
		want := []string{org + " ACTIVE", other + " ACTIVE"}
		slices.Sort(want)
		m.expect("the memberships", m.in(id), want)
		_, err := m.CreateMembership(m.Context(), &pb.CreateMembershipRequest{OrganizationId: org, Identities: &pb.CreateMembershipRequest_Id{Id: id}, Membership: &pb.CreateMembership{}})
		m.refused(err, "MEMBERSHIP_ALREADY_EXISTS")
	}},
	{"B5 the account goes with the last membership", func(m members) {
		org := m.organization()
		u := m.create(org, new(false))
		req := &pb.CreateUserAndMembershipRequest{OrganizationId: org, User: &pb.CreateUser{Email: strings.ToUpper(u.Email), ExternalId: u.ExternalId}}
		_, err := m.CreateUserAndMembership(m.Context(), req)
		m.refused(err, "USER_ALREADY_EXISTS")
		m.removed(org, u.Id)
		if left := m.user(u.Id); left != nil {
			m.Errorf("the account is still there: %v", left)
		}
		again := must[*pb.CreateUserAndMembershipResponse](m)(m.CreateUserAndMembership(m.Context(), req)).User
		if again.Id == u.Id {
			m.Error("the account is the same as before")
		}
	}},
	{"B6 sessions that reach the organization are revoked", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(other, org)
		in, reaching, elsewhere := m.signIn(id, org), m.signIn(id, other, org), m.signIn(id, other)
		m.removed(org, id)
		m.expect("the sessions", []string{m.session(in), m.session(reaching), m.session(elsewhere)}, []string{"revoked", "revoked", "active"})
	}},
	{"B7 the organization is not in the switcher", func(m members) {
		org, other, inviting, directory := m.organization(), m.organization(), m.organization(), m.organization()
		id := m.member(org, other)
		m.join(inviting, id, nil)
		d := m.directory(directory)
		dirUser := m.scim(d, "POST", "/Users", `{"userName":"`+m.user(id).Email+`"}`)
		switcher := func() (all []string) {
			for _, e := range m.user(id).Memberships {
				if e.MembershipStatus == pb.MembershipStatus_ACTIVE || e.MembershipStatus == pb.MembershipStatus_PENDING_INVITE {
					all = append(all, e.OrganizationId)
				}
			}
			slices.Sort(all)
			return all
		}
		sorted := func(all ...string) []string { slices.Sort(all); return all }
		m.expect("the switcher", switcher(), sorted(org, other, inviting, directory))
		m.removed(org, id)
		m.expect("the switcher", switcher(), sorted(other, inviting, directory))
		m.scim(d, "DELETE", "/Users/"+dirUser, "")
		m.expect("the switcher", switcher(), sorted(other, inviting))
	}},
	{"B8 the organization's list is without them", func(m members) {
		org, other := m.organization(), m.organization()
		all := []string{m.member(org, other), m.member(org), m.member(org)}
		slices.Sort(all)
		m.expect("the members", m.list(org), all)
		m.removed(org, all[0])
		m.expect("the members", m.list(org), all[1:])
	}},
	{"B9 removing again changes nothing", func(m members) {
		org, other := m.organization(), m.organization()
		id, stranger := m.member(org, other), m.member(other)
		m.removed(org, id)
		before := m.about(id)
		m.refused(m.remove(org, id), "MEMBERSHIP_NOT_FOUND")
		m.refused(m.remove(org, stranger), "MEMBERSHIP_NOT_FOUND")
		m.refused(m.remove(org, "usr_999999999999999999"), "USER_NOT_FOUND")
		m.refused(m.remove("org_999999999999999999", id), "ORGANIZATION_NOT_FOUND")
		m.refused(m.remove(org, "user_456"), "INVALID_ARGUMENT")
		m.expect("the events", len(m.about(id)), len(before))
		m.expect("the stranger's events", m.told(stranger), []string{"created " + other})
		m.expect("the memberships", m.in(id), []string{other + " ACTIVE"})
	}},
	{"B10 one event each, the account's last", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(org, other)
		m.removed(other, id)
		m.removed(org, id)
		m.expect("what the app is told", m.told(id), []string{
			"created " + org, "created " + other, "deleted " + other + " api", "deleted " + org + " api", "deleted " + org + " last_membership_removed",
		})
	}},
	{"B11 concurrent removals", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(org, other)
		m.expect("how many of eight succeed", m.atOnce(id, org, org, org, org, org, org, org, org), 1)
		m.expect("the memberships", m.in(id), []string{other + " ACTIVE"})
		id = m.member(org, other)
		m.expect("how many of the last two succeed", m.atOnce(id, org, other), 2)
		if left := m.user(id); left != nil {
			m.Errorf("the account is still there: %v", left)
		}
		told := m.told(id)
		if len(told) != 5 || !strings.HasSuffix(told[4], " last_membership_removed") || strings.Contains(strings.Join(told[:4], ","), "last_membership_removed") {
			m.Errorf("the app is told %v", told)
		}
	}},
	{"B12 cascade makes no difference", func(m members) {
		for _, cascade := range []*bool{new(true), new(false), nil} {
			org, other := m.organization(), m.organization()
			id, colleague := m.member(org, other), m.member(org)
			_, err := m.DeleteMembership(m.Context(), &pb.DeleteMembershipRequest{OrganizationId: org, Identities: &pb.DeleteMembershipRequest_Id{Id: id}, Cascade: cascade})
			must[any](m)(nil, err)
			m.expect("the memberships", m.in(id), []string{other + " ACTIVE"})
			m.expect("the members", m.list(org), []string{colleague})
			m.expect("what the app is told", m.told(id), []string{"created " + org, "created " + other, "deleted " + org + " api"})
		}
	}},
	{"B13 deleting a user ends all memberships", func(m members) {
		org, other := m.organization(), m.organization()
		id := m.member(org, other)
		s := m.signIn(id, other)
		_, err := m.DeleteUser(m.Context(), &pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_Id{Id: id}})
		must[any](m)(nil, err)
		if left := m.user(id); left != nil {
			m.Errorf("the account is still there: %v", left)
		}
		m.expect("the session", m.session(s), "revoked")
		told := m.told(id)
		if len(told) != 5 {
			m.Fatalf("the app is told %v", told)
		}
		slices.Sort(told[2:4]) // the memberships end in no order
		want := []string{"deleted " + org + " user_deleted", "deleted " + other + " user_deleted"}
		slices.Sort(want)
		m.expect("what the app is told", told[2:], append(want, "deleted - user_deleted"))
	}},
	{"B14 deleting an organization removes everybody", func(m members) {
		org, other := m.organization(), m.organization()
		only, both, invited := m.member(org), m.member(org, other), m.create(org, nil).Id
		_, err := m.DeleteOrganization(m.Context(), &pb.DeleteOrganizationRequest{Identities: &pb.DeleteOrganizationRequest_Id{Id: org}})
		must[any](m)(nil, err)
		_, err = m.ListOrganizationUsers(m.Context(), &pb.ListOrganizationUsersRequest{OrganizationId: org})
		m.refused(err, "ORGANIZATION_NOT_FOUND")
		m.expect("the memberships", m.in(both), []string{other + " ACTIVE"})
		if m.user(only) != nil || m.user(invited) != nil {
			m.Error("accounts without a membership are still there")
		}
		gone := []string{"deleted " + org + " organization_deleted", "deleted " + org + " organization_deleted"} // the membership and the account
		m.expect("what the app is told", m.told(only), append([]string{"created " + org}, gone...))
		m.expect("what the app is told of who was invited", m.told(invited), append([]string{"invitation " + org}, gone...))
		m.expect("what the app is told of who stays", m.told(both), []string{"created " + org, "created " + other, gone[0]})
	}},
	{"B15 members are invited unless that is forbidden", func(m members) {
		org, other := m.organization(), m.organization()
		for _, c := range []struct {
			invite *bool
			status string
		}{{new(false), "ACTIVE"}, {new(true), "PENDING_INVITE"}, {nil, "PENDING_INVITE"}} {
			id := m.create(org, c.invite).Id
			m.expect("a new account", m.in(id), []string{org + " " + c.status})
			m.join(other, id, c.invite)
			want := []string{org + " " + c.status, other + " " + c.status}
			slices.Sort(want)
			m.expect("a second membership", m.in(id), want)
		}
	}},
	{"B17 the event says who, from where, when and why", func(m members) {
		org, other := m.organization(), m.organization()
		u, heir, outsider := m.create(org, new(false)), m.create(org, new(false)), m.member(other)
		m.join(other, u.Id, new(false))
		sessions := []string{m.signIn(u.Id, org), m.signIn(u.Id, other, org)}
		m.signIn(u.Id, other)
		req := &pb.DeleteMembershipRequest{OrganizationId: org, Identities: &pb.DeleteMembershipRequest_Id{Id: u.Id}}
		for _, who := range []string{outsider, u.Id, "nobody@example.com"} {
			_, err := m.DeleteMembership(succeededBy(m.Context(), who), req)
			m.refused(err, "INVALID_ARGUMENT")
		}
		from := time.Now()
		_, err := m.DeleteMembership(succeededBy(m.Context(), heir.Email), req)
		must[any](m)(nil, err)
		to := time.Now()

		m.expect("what the app is told", m.told(u.Id), []string{"created " + org, "created " + other, "deleted " + org + " api"})
		about := m.about(u.Id)
		ev := about[len(about)-1]
		data := must[events.Membership](m)(events.MembershipRemoved.Decode(ev))
		slices.Sort(sessions)
		slices.Sort(data.RevokedSessions)
		m.expect("the person", data.User.ID+" "+data.User.Email+" "+data.User.ExternalID+" "+data.User.Profile.GivenName, u.Id+" "+u.Email+" "+u.GetExternalId()+" Dana")
		m.expect("the organization", data.Organization.ID, org)
		m.expect("the sessions", data.RevokedSessions, sessions)
		m.expect("the successor", data.Successor, &events.Successor{UserID: heir.Id, Email: heir.Email, Source: "request"})
		if ev.OccurredAt.Before(from.Add(-time.Millisecond)) || ev.OccurredAt.After(to.Add(time.Millisecond)) {
			m.Errorf("it occurred at %v, not between %v and %v", ev.OccurredAt, from, to)
		}
	}},
}

// atOnce removes a person from several organizations at once, and returns how
// often that succeeds. Who is late is told that there is nothing to remove.
func (m members) atOnce(user string, orgs ...string) int {
	m.Helper()
	var all sync.WaitGroup
	errs := make([]error, len(orgs))
	for i, org := range orgs {
		all.Go(func() { errs[i] = m.remove(org, user) })
	}
	all.Wait()
	succeeded := 0
	for _, err := range errs {
		if err == nil {
			succeeded++
			continue
		}
		m.refused(err, "MEMBERSHIP_NOT_FOUND")
	}
	return succeeded
}
