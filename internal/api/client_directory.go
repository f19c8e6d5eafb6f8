package api

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"time"
)

// InEnvironment returns a client for organizations, people and what belongs to
// them in another environment than the service's own; empty is that one.
func (c *Client) InEnvironment(id string) *EnvironmentClient {
	return &EnvironmentClient{c: c, query: values("environment_id", id)}
}

// An EnvironmentClient asks about one environment.
type EnvironmentClient struct {
	c     *Client
	query url.Values
}

// with returns the query with more in it.
func (e *EnvironmentClient) with(pairs ...string) url.Values {
	q := values(pairs...)
	for name, all := range e.query {
		q[name] = all
	}
	return q
}

func sendTo[T any](ctx context.Context, e *EnvironmentClient, method, path string, in any) (T, error) {
	var out T
	err := e.c.do(ctx, request{method: method, path: path, query: e.query, in: in, out: &out})
	return out, err
}

// Organizations lists organizations: all, or the one with an external id.
func (e *EnvironmentClient) Organizations(ctx context.Context, externalID string) iter.Seq2[Organization, error] {
	return pages[Organization](ctx, e.c, under("organizations"), e.with("external_id", externalID))
}

// Organization returns one organization.
func (e *EnvironmentClient) Organization(ctx context.Context, id string) (Organization, error) {
	return sendTo[Organization](ctx, e, http.MethodGet, under("organizations", id), nil)
}

// CreateOrganization creates an organization.
func (e *EnvironmentClient) CreateOrganization(ctx context.Context, o NewOrganization) (Organization, error) {
	return sendTo[Organization](ctx, e, http.MethodPost, under("organizations"), o)
}

// DeleteOrganization removes all members of an organization, then itself.
func (e *EnvironmentClient) DeleteOrganization(ctx context.Context, id string) error {
	return e.c.do(ctx, request{method: http.MethodDelete, path: under("organizations", id), query: e.query})
}

// Members lists the members of an organization.
func (e *EnvironmentClient) Members(ctx context.Context, organizationID string) iter.Seq2[Member, error] {
	return pages[Member](ctx, e.c, under("organizations", organizationID, "members"), e.query)
}

// Member returns one member of an organization.
func (e *EnvironmentClient) Member(ctx context.Context, organizationID, userID string) (Member, error) {
	return sendTo[Member](ctx, e, http.MethodGet, under("organizations", organizationID, "members", userID), nil)
}

// AddMember makes a person a member.
func (e *EnvironmentClient) AddMember(ctx context.Context, organizationID string, m NewMember) (Member, error) {
	return sendTo[Member](ctx, e, http.MethodPost, under("organizations", organizationID, "members"), m)
}

// RemoveMember removes a person from an organization.
func (e *EnvironmentClient) RemoveMember(ctx context.Context, organizationID, userID string, l Leaving) (Removal, error) {
	var out Removal
	err := e.c.do(ctx, request{
		method: http.MethodDelete, path: under("organizations", organizationID, "members", userID),
		query: e.with("successor", l.Successor, "reason", l.Reason), out: &out,
	})
	return out, err
}

// ImportMembers makes up to MaxImport people known as members, without events.
// It may be repeated: who is a member already is left alone.
func (e *EnvironmentClient) ImportMembers(ctx context.Context, organizationID string, members []ImportMember) (Imported, error) {
	return sendTo[Imported](ctx, e, http.MethodPost, under("organizations", organizationID, "members", "import"), ImportMembers{members})
}

// Users lists accounts: all, or the one with an external id.
func (e *EnvironmentClient) Users(ctx context.Context, externalID string) iter.Seq2[User, error] {
	return pages[User](ctx, e.c, under("users"), e.with("external_id", externalID))
}

// User returns one account with its memberships.
func (e *EnvironmentClient) User(ctx context.Context, id string) (User, error) {
	return sendTo[User](ctx, e, http.MethodGet, under("users", id), nil)
}

// DeleteUser removes all memberships of an account, then itself. The successor,
// who may be empty, takes over where they are a member too.
func (e *EnvironmentClient) DeleteUser(ctx context.Context, id, successor string) error {
	return e.c.do(ctx, request{method: http.MethodDelete, path: under("users", id), query: e.with("successor", successor)})
}

// A SessionFilter selects sessions; what is empty does not restrict.
type SessionFilter struct {
	Status       string
	Since, Until time.Time // created
}

// UserSessions lists the sessions of an account.
func (e *EnvironmentClient) UserSessions(ctx context.Context, userID string, f SessionFilter) iter.Seq2[Session, error] {
	return pages[Session](ctx, e.c, under("users", userID, "sessions"), e.with("status", f.Status, "since", text(f.Since), "until", text(f.Until)))
}

// Session returns one session.
func (e *EnvironmentClient) Session(ctx context.Context, id string) (Session, error) {
	return sendTo[Session](ctx, e, http.MethodGet, under("sessions", id), nil)
}

// CreateSession tells of a session that began elsewhere.
func (e *EnvironmentClient) CreateSession(ctx context.Context, s NewSession) (Session, error) {
	return sendTo[Session](ctx, e, http.MethodPost, under("sessions"), s)
}

// RevokeSession ends a session; one that has ended already stays as it is.
func (e *EnvironmentClient) RevokeSession(ctx context.Context, id string) (Session, error) {
	return sendTo[Session](ctx, e, http.MethodPost, under("sessions", id, "revoke"), nil)
}

// CreateDirectory lets a SCIM client manage an organization's members. The answer
// holds its token, this once.
func (e *EnvironmentClient) CreateDirectory(ctx context.Context, d NewSCIMDirectory) (SCIMDirectory, error) {
	return sendTo[SCIMDirectory](ctx, e, http.MethodPost, under("directories"), d)
}

// CreateClient lets an app use the Scalekit-compatible API. The answer holds its
// secret, this once.
func (e *EnvironmentClient) CreateClient(ctx context.Context, name string) (APIClient, error) {
	return sendTo[APIClient](ctx, e, http.MethodPost, under("clients"), NewAPIClient{Name: name})
}

// Directories lists the SCIM directories of an organization, or all when it is
// empty, newest first.
func (c *Client) Directories(ctx context.Context, organizationID string) iter.Seq2[SCIMDirectory, error] {
	return pages[SCIMDirectory](ctx, c, under("directories"), values("organization_id", organizationID))
}

// Directory returns one SCIM directory.
func (c *Client) Directory(ctx context.Context, id string) (SCIMDirectory, error) {
	return send[SCIMDirectory](ctx, c, http.MethodGet, under("directories", id), nil)
}

// UpdateDirectory changes what is set in change.
func (c *Client) UpdateDirectory(ctx context.Context, id string, change SCIMDirectoryChange) (SCIMDirectory, error) {
	return send[SCIMDirectory](ctx, c, http.MethodPatch, under("directories", id), change)
}

// RotateDirectory gives a directory a new token, which the answer holds this
// once; the older ones hold until the overlap is over.
func (c *Client) RotateDirectory(ctx context.Context, id string, r TokenRotation) (SCIMDirectory, error) {
	return send[SCIMDirectory](ctx, c, http.MethodPost, under("directories", id, "rotate"), r)
}

// DeleteDirectory deletes a directory; its people stay members.
func (c *Client) DeleteDirectory(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: under("directories", id)})
}

// Clients lists clients of the Scalekit-compatible API, newest first. Their
// secrets are not known.
func (c *Client) Clients(ctx context.Context) iter.Seq2[APIClient, error] {
	return pages[APIClient](ctx, c, under("clients"), nil)
}

// RevokeClient makes a client and its tokens worthless.
func (c *Client) RevokeClient(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: under("clients", id)})
}
