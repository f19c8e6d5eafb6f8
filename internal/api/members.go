package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

// nameOf is what people call a person.
func nameOf(p events.UserProfile) string {
	if p.Name != "" || p.GivenName == "" || p.FamilyName == "" {
		return cmp.Or(p.Name, p.GivenName, p.FamilyName)
	}
	return p.GivenName + " " + p.FamilyName
}

func memberOf(u directory.User, m directory.Membership) Member {
	out := Member{
		UserID: u.ID, OrganizationID: m.OrganizationID, Email: u.Email, ExternalID: u.ExternalID, Name: nameOf(u.Profile), Status: m.Status.String(),
		Epoch: m.Epoch, Roles: make([]string, len(m.Roles)), Metadata: m.Metadata, ProvisioningMethod: m.ProvisioningMethod,
		InviterEmail: m.InviterEmail, JoinedAt: utc(m.JoinedAt), ExpiresAt: utc(m.ExpiresAt), UpdatedAt: utc(m.UpdatedAt),
	}
	for i, r := range m.Roles {
		out.Roles[i] = r.Name
	}
	return out
}

// memberIn shows a user as a member of an organization, if it is one.
func memberIn(organizationID string, u directory.User) (Member, bool) {
	for _, m := range u.Memberships {
		if m.OrganizationID == organizationID {
			return memberOf(u, m), true
		}
	}
	return Member{}, false
}

func userOf(u directory.User) User {
	out := User{
		ID: u.ID, EnvironmentID: u.EnvironmentID, Email: u.Email, ExternalID: u.ExternalID, Name: nameOf(u.Profile), Metadata: u.Metadata,
		Memberships: make([]Member, len(u.Memberships)), CreatedAt: u.CreatedAt.UTC(), UpdatedAt: u.UpdatedAt.UTC(), LastLoginAt: utc(u.LastLoginAt),
	}
	for i, m := range u.Memberships {
		out.Memberships[i] = memberOf(u, m)
	}
	return out
}

func rolesOf(names []string) []events.Role {
	var roles []events.Role
	for _, name := range unique(names) {
		roles = append(roles, events.Role{Name: name})
	}
	return roles
}

func (s *Server) registerMembers(a huma.API) {
	const tag, all, one = "members", "/v1/organizations/{id}/members", "/v1/organizations/{id}/members/{user_id}"
	huma.Register(a, route("list-members", http.MethodGet, all, tag, "List the members of an organization", http.StatusOK, http.StatusNotFound), s.listMembers)
	huma.Register(a, route("add-member", http.MethodPost, all, tag, "Make a person a member", http.StatusCreated, http.StatusNotFound, http.StatusConflict), s.addMember)
	huma.Register(a, route("import-members", http.MethodPost, all+"/import", tag, "Make the members of an existing installation known, without events", http.StatusOK, http.StatusNotFound), s.importMembers)
	huma.Register(a, route("get-member", http.MethodGet, one, tag, "Get a member", http.StatusOK, http.StatusNotFound), s.getMember)
	huma.Register(a, route("remove-member", http.MethodDelete, one, tag, "Remove a member and have the apps hand over", http.StatusOK, http.StatusNotFound), s.removeMember)
}

func (s *Server) registerUsers(a huma.API) {
	const tag, one = "users", "/v1/users/{id}"
	huma.Register(a, route("list-users", http.MethodGet, "/v1/users", tag, "List accounts", http.StatusOK), s.listUsers)
	huma.Register(a, route("get-user", http.MethodGet, one, tag, "Get an account with its memberships", http.StatusOK, http.StatusNotFound), s.getUser)
	huma.Register(a, route("delete-user", http.MethodDelete, one, tag, "Remove all memberships of an account, then the account", http.StatusNoContent, http.StatusNotFound), s.deleteUser)
	huma.Register(a, route("list-user-sessions", http.MethodGet, one+"/sessions", tag, "List the sessions of an account", http.StatusOK, http.StatusNotFound), s.listUserSessions)
}

func (s *Server) listMembers(ctx context.Context, in *struct {
	Paging
	OneOf
},
) (*body[Page[Member]], error) {
	l, err := s.Directory.Members(ctx, s.environment(in.InEnvironment), in.ID, in.directoryPage())
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	page := Page[Member]{Data: make([]Member, 0, len(l.Items)), NextCursor: l.Next}
	for _, u := range l.Items {
		if m, ok := memberIn(in.ID, u); ok {
			page.Data = append(page.Data, m)
		}
	}
	return &body[Page[Member]]{page}, nil
}

func (n NewMember) faults() (faults []*huma.ErrorDetail) {
	add := func(field, message string) {
		if message != "" {
			faults = append(faults, at("body."+field, message))
		}
	}
	switch {
	case n.UserID == "" && n.Email == "":
		add("email", "is required, or user_id")
	case n.UserID == "":
		add("email", checkEmail(n.Email))
		add("external_id", checkText(n.ExternalID, 255))
		add("name", checkText(n.Name, 255))
	default:
		add("user_id", checkUserID(n.UserID))
		if n.Email+n.ExternalID+n.Name != "" {
			add("user_id", "names an account that there is; leave email, external_id and name out")
		}
	}
	for _, f := range checkRoles("roles", n.Roles) {
		add(f.Field, f.Message)
	}
	return faults
}

func (s *Server) addMember(ctx context.Context, in *struct {
	OneOf
	Body NewMember
},
) (*body[Member], error) {
	b, env := in.Body, s.environment(in.InEnvironment)
	if err := invalid(b.faults()...); err != nil {
		return nil, err
	}
	membership := directory.NewMembership{Roles: rolesOf(b.Roles)}
	var u directory.User
	var err error
	if b.UserID != "" {
		u, err = s.Directory.AddMember(ctx, env, in.ID, directory.Ref{ID: b.UserID}, membership)
	} else {
		u, err = s.Directory.CreateUser(ctx, env, in.ID, directory.NewUser{
			Email: b.Email, ExternalID: b.ExternalID, Profile: events.UserProfile{Name: b.Name}, Membership: membership,
		})
		if errors.Is(err, directory.ErrUserExists) {
			// They have an account, perhaps as a member of another organization.
			u, err = s.Directory.AddMember(ctx, env, in.ID, directory.Ref{Email: b.Email}, membership)
			if errors.Is(err, directory.ErrUserNotFound) {
				err = directory.ErrUserExists // it is the external id that is taken
			}
		}
	}
	return s.member(ctx, in.ID, u, err, named{user: "body.user_id"})
}

func (s *Server) getMember(ctx context.Context, in *struct {
	OneOf
	UserID string `path:"user_id" maxLength:"255"`
},
) (*body[Member], error) {
	where, env := named{user: "path.user_id"}, s.environment(in.InEnvironment)
	u, err := s.Directory.User(ctx, env, directory.Ref{ID: in.UserID})
	if _, ok := memberIn(in.ID, u); !ok && (err == nil || errors.Is(err, directory.ErrUserNotFound)) {
		if _, err := s.Directory.Organization(ctx, env, directory.Ref{ID: in.ID}); err != nil {
			return nil, s.answerFrom(ctx, err, where)
		}
	}
	return s.member(ctx, in.ID, u, err, where)
}

// member answers with a user as a member of an organization.
func (s *Server) member(ctx context.Context, organizationID string, u directory.User, err error, where named) (*body[Member], error) {
	m, ok := memberIn(organizationID, u)
	if err == nil && !ok {
		err = directory.ErrMembershipNotFound
	}
	if err != nil {
		return nil, s.answerFrom(ctx, err, where)
	}
	return &body[Member]{m}, nil
}

// HowToLeave is [Leaving] in the body or in the query, where intermediaries do
// not lose it. It is exported for huma.
type HowToLeave struct {
	Successor string `query:"successor" maxLength:"255" doc:"Who takes over: the id (usr_…) or email of another active member."`
	Reason    string `query:"reason" enum:"api,dashboard,upstream"`
	Body      *Leaving
}

// read gives the one answer of both.
func (h HowToLeave) read() (how directory.How, where string, err error) {
	where, how = "query.successor", directory.How{Reason: h.Reason, Successor: h.Successor}
	if h.Body != nil {
		if h.Successor != "" || h.Reason != "" {
			return how, where, invalid(at("body", "and the query both say how; one has to"))
		}
		where, how = "body.successor", directory.How{Reason: h.Body.Reason, Successor: h.Body.Successor}
	}
	how.Reason = cmp.Or(how.Reason, directory.ReasonAPI)
	return how, where, nil
}

func (s *Server) removeMember(ctx context.Context, in *struct {
	OneOf
	HowToLeave
	UserID string `path:"user_id" maxLength:"255"`
},
) (*body[Removal], error) {
	how, successor, err := in.read()
	if err != nil {
		return nil, err
	}
	r, err := s.Directory.RemoveMember(ctx, s.environment(in.InEnvironment), in.ID, directory.Ref{ID: in.UserID}, how)
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{user: "path.user_id", successor: successor})
	}
	out := Removal{
		EventID: r.EventID, OrganizationID: in.ID, UserID: r.User.ID, Email: r.User.Email, Name: nameOf(r.User.Profile),
		RevokedSessions: append([]string{}, r.RevokedSessions...), UserDeleted: r.UserDeleted,
	}
	if r.Successor != nil {
		out.Successor = &Successor{UserID: r.Successor.UserID, Email: r.Successor.Email, Source: "request"}
		if how.Successor == "" {
			out.Successor.Source = "manager"
		}
	}
	return &body[Removal]{out}, nil
}

func (s *Server) importMembers(ctx context.Context, in *struct {
	OneOf
	Body ImportMembers
},
) (*body[Imported], error) {
	var faults []*huma.ErrorDetail
	members := make([]directory.Imported, len(in.Body.Members))
	for i, m := range in.Body.Members {
		for _, f := range m.Check() {
			faults = append(faults, at(fmt.Sprintf("body.members[%d].%s", i, f.Field), f.Message))
		}
		members[i] = directory.Imported{
			ID: m.ID, Email: m.Email, ExternalID: m.ExternalID, Name: m.Name, Roles: unique(m.Roles), Status: statusOf(m.Status), JoinedAt: m.JoinedAt,
		}
	}
	if err := invalid(faults...); err != nil {
		return nil, err
	}
	added, err := s.Directory.Import(ctx, s.environment(in.InEnvironment), in.ID, members)
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return &body[Imported]{Imported{Added: added, Known: len(members) - added}}, nil
}

// statusOf reads one of statuses, or none.
func statusOf(word string) directory.MembershipStatus {
	for status := store.MembershipActive; status <= store.MembershipInviteExpired; status++ {
		if status.String() == word {
			return status
		}
	}
	return store.MembershipActive
}

func (s *Server) listUsers(ctx context.Context, in *struct {
	Paging
	InEnvironment
	ExternalID string `query:"external_id" maxLength:"255"`
},
) (*body[Page[User]], error) {
	env := s.environment(in.InEnvironment)
	if in.ExternalID != "" {
		u, err := s.Directory.User(ctx, env, directory.Ref{ExternalID: in.ExternalID})
		if errors.Is(err, directory.ErrUserNotFound) {
			return listed[directory.User](nil, "", userOf), nil
		}
		if err != nil {
			return nil, s.answerFrom(ctx, err, named{})
		}
		return listed([]directory.User{u}, "", userOf), nil
	}
	l, err := s.Directory.Users(ctx, env, in.directoryPage())
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return listed(l.Items, l.Next, userOf), nil
}

func (s *Server) getUser(ctx context.Context, in *OneOf) (*body[User], error) {
	u, err := s.Directory.User(ctx, s.environment(in.InEnvironment), directory.Ref{ID: in.ID})
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{})
	}
	return &body[User]{userOf(u)}, nil
}

func (s *Server) deleteUser(ctx context.Context, in *struct {
	OneOf
	Successor string `query:"successor" maxLength:"255" doc:"Who takes over: the id (usr_…) or email of another active member."`
},
) (*struct{}, error) {
	err := s.Directory.DeleteUser(ctx, s.environment(in.InEnvironment), directory.Ref{ID: in.ID}, directory.How{Successor: in.Successor})
	if err != nil {
		return nil, s.answerFrom(ctx, err, named{successor: "query.successor"})
	}
	return nil, nil
}
