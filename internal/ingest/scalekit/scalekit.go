// Package scalekit serves the part of Scalekit's API that knows members, so that
// its SDKs work here unchanged: gRPC and REST, with access tokens that API
// clients get for their secrets.
//
// The RPCs and the REST routes are two spellings of the same methods: a route
// makes the RPC's request of what it was sent. What is asked is checked in this
// order: the token, the form, the organization, the user, the membership.
// Everything acts in the environment of the client that asks.
package scalekit

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
	"github.com/handover-dev/handover/internal/store"
)

// A Directory knows who is a member of what. Its errors are those of package
// directory; after any error nothing was changed.
type Directory interface {
	CreateOrganization(ctx context.Context, env string, n directory.NewOrganization) (directory.Organization, error)
	Organization(ctx context.Context, env string, ref directory.Ref) (directory.Organization, error)
	Organizations(ctx context.Context, env, externalID string, p directory.Page) (directory.List[directory.Organization], error)
	DeleteOrganization(ctx context.Context, env string, ref directory.Ref) error

	CreateUser(ctx context.Context, env, organizationID string, n directory.NewUser) (directory.User, error)
	User(ctx context.Context, env string, ref directory.Ref) (directory.User, error)
	Users(ctx context.Context, env string, p directory.Page) (directory.List[directory.User], error)
	Members(ctx context.Context, env, organizationID string, p directory.Page) (directory.List[directory.User], error)
	AddMember(ctx context.Context, env, organizationID string, user directory.Ref, n directory.NewMembership) (directory.User, error)
	UpdateMember(ctx context.Context, env, organizationID string, user directory.Ref, c directory.MembershipChange) (directory.User, error)
	RemoveMember(ctx context.Context, env, organizationID string, user directory.Ref, how directory.How) (directory.Removal, error)
	DeleteUser(ctx context.Context, env string, user directory.Ref, how directory.How) error

	Session(ctx context.Context, env, id string) (directory.Session, error)
	UserSessions(ctx context.Context, env, userID string, f directory.SessionFilter, p directory.Page) (directory.List[directory.Session], error)
	RevokeSession(ctx context.Context, env, id string) (directory.Session, error)
	RevokeUserSessions(ctx context.Context, env, userID string) ([]directory.Session, error)
}

// Clients knows who may use the API.
type Clients interface {
	// ValidClient returns a client and the SHA-256 of its secret, or
	// store.ErrNotFound when it is unknown or revoked.
	ValidClient(ctx context.Context, id string) (store.Client, [32]byte, error)
	// TouchClient notes that a client was there.
	TouchClient(ctx context.Context, id string) error
}

// A Limiter bounds what clients may ask, and what strangers may try. Keys are
// ids of clients and addresses.
type Limiter interface {
	// Allow takes one request of the key's allowance; if there is none left, wait
	// is how long it takes until there is.
	Allow(key string) (wait time.Duration, ok bool)
	// Blocked tells whether a key has failed too often, and for how long it may
	// not try again.
	Blocked(key string) (wait time.Duration, blocked bool)
	// Spend notes a failure of the key.
	Spend(key string)
}

// A Handler serves the API.
type Handler struct {
	Directory Directory
	Clients   Clients
	// TokenKey signs access tokens: at least 32 bytes, the same in all processes.
	// With another one all tokens are invalid, and SDKs ask for new ones.
	TokenKey []byte
	Limiter  Limiter          // nil: no limits
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: none

	init    sync.Once
	routes  *http.ServeMux
	clients clientMemory
}

const (
	maxBody = 1 << 20
	// maxCall bounds the work on one request: SDKs give up after 10 s.
	maxCall = 9 * time.Second
)

// Register puts the API on a mux: /oauth/token, the RPCs, and what is below
// /api/v1/ unless the mux has a longer pattern for it.
func (h *Handler) Register(mux *http.ServeMux) {
	for _, pattern := range []string{
		"/oauth/token",
		"/api/v1/",
		"/" + scalekitv1.UserServiceName + "/",
		"/" + scalekitv1.OrganizationServiceName + "/",
		"/" + scalekitv1.SessionServiceName + "/",
	} {
		mux.Handle(pattern, h)
	}
}

// ServeHTTP serves all of the API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.init.Do(h.build)
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	h.routes.ServeHTTP(w, r)
}

func (h *Handler) build() {
	if len(h.TokenKey) < 32 {
		panic("scalekit: TokenKey has fewer than 32 bytes") // a mistake in the program; anybody could make tokens
	}
	if h.Now == nil {
		h.Now = time.Now
	}
	if h.Log == nil {
		h.Log = slog.New(slog.DiscardHandler)
	}
	s := &service{dir: h.Directory}
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(maxBody),
		connect.WithCompression("gzip", nil, nil), // no SDK compresses what it sends
		connect.WithRequestGate(h.gate),
		connect.WithInterceptors(connect.UnaryInterceptorFunc(h.answerRPC)),
	}
	h.routes = http.NewServeMux()
	rpcs := func(pattern string, rpc http.Handler) { h.routes.Handle(pattern, onlyGRPC(rpc)) }
	rpcs(scalekitv1.NewUserServiceHandler(s, options...))
	rpcs(scalekitv1.NewOrganizationServiceHandler(s, options...))
	rpcs(scalekitv1.NewSessionServiceHandler(s, options...))
	h.routes.HandleFunc("/oauth/token", h.token)
	h.rest(s)
}

// onlyGRPC keeps out the other protocols that connect speaks: SDKs use none of
// them, and they take JSON less strictly than the routes below /api/v1/ do.
func onlyGRPC(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Header.Get("Content-Type") {
		case "application/grpc", "application/grpc+proto":
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("Accept-Post", "application/grpc, application/grpc+proto")
			http.Error(w, "this path is for gRPC", http.StatusUnsupportedMediaType)
		}
	})
}

// gate lets only RPCs with a valid token through; their message is not read
// before that.
func (h *Handler) gate(ctx context.Context, _ connect.Spec, peer connect.Peer, header http.Header) (context.Context, error) {
	ctx, err := h.authenticate(ctx, header, peer.Addr)
	if err != nil {
		return nil, h.refusal(ctx, err).grpc()
	}
	return ctx, nil
}

// answerRPC makes gRPC errors of the methods' errors.
func (h *Handler) answerRPC(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, cancel := context.WithTimeout(ctx, maxCall)
		defer cancel()
		res, err := next(ctx, req)
		if err != nil {
			return nil, h.refusal(ctx, err).grpc()
		}
		return res, nil
	}
}
