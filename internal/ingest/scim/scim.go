// Package scim is the door for directories that speak SCIM 2.0 (RFC 7643 and
// 7644): Okta, Entra ID and the like provision the members of one organization
// through it, and tell who leaves.
//
// Only the protocol is spoken here. Who is a member, and what it means that a
// user is not active any more, is decided behind the interface Directory. Nothing
// that a client can send is answered with a 5xx: that means that nothing changed.
package scim

import (
	"context"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

// A Directory keeps the users and groups of directories. Its methods return the
// errors of package directory, after which nothing was changed, and are called
// concurrently.
type Directory interface {
	Users
	Groups
}

// Users is what is asked of a Directory about users.
type Users interface {
	CreateSCIMUser(ctx context.Context, dir store.SCIMDirectory, u store.SCIMUser) (store.SCIMUser, error)
	SCIMUser(ctx context.Context, dir store.SCIMDirectory, id string) (store.SCIMUser, error)
	// SCIMUsers returns count users from the start-th on, and how many there are.
	SCIMUsers(ctx context.Context, dir store.SCIMDirectory, f directory.SCIMFilter, start, count int) ([]store.SCIMUser, int, error)
	// ChangeSCIMUser lets change, which may be called more than once, make a new
	// user of the present one.
	ChangeSCIMUser(ctx context.Context, dir store.SCIMDirectory, id string, change func(store.SCIMUser) (store.SCIMUser, error)) (store.SCIMUser, error)
	DeleteSCIMUser(ctx context.Context, dir store.SCIMDirectory, id string) error
}

// Groups is what is asked of a Directory about groups.
type Groups interface {
	CreateSCIMGroup(ctx context.Context, dir store.SCIMDirectory, g store.SCIMGroup) (store.SCIMGroup, error)
	SCIMGroup(ctx context.Context, dir store.SCIMDirectory, id string) (store.SCIMGroup, error)
	SCIMGroups(ctx context.Context, dir store.SCIMDirectory, f directory.SCIMGroupFilter, start, count int) ([]store.SCIMGroup, int, error)
	ChangeSCIMGroup(ctx context.Context, dir store.SCIMDirectory, id string, change func(store.SCIMGroup) (store.SCIMGroup, error)) (store.SCIMGroup, error)
	DeleteSCIMGroup(ctx context.Context, dir store.SCIMDirectory, id string) error
}

// Tokens knows the tokens of directories.
type Tokens interface {
	// SCIMDirectoryByToken finds the directory that a valid token opens, by the
	// SHA-256 of the token, and of its tokens only that one. The error is
	// store.ErrNotFound when there is none.
	SCIMDirectoryByToken(ctx context.Context, hash [32]byte) (store.SCIMDirectory, error)
	// TouchSCIMToken notes that a token is used. It is called now and then.
	TouchSCIMToken(ctx context.Context, id string) error
}

// A Limiter bounds how much is asked. Its methods are called concurrently.
type Limiter interface {
	// Allow takes one from what a key may do now, or tells when it may again.
	Allow(key string) (wait time.Duration, ok bool)
	// Spend takes one from what a key may do, though it was done already.
	Spend(key string)
	// Blocked tells whether all of it is spent, and until when.
	Blocked(key string) (wait time.Duration, blocked bool)
}

// A Handler serves Prefix{directory_id}/scim/v2/….
type Handler struct {
	Directory Directory
	Tokens    Tokens
	// Origin is where clients reach the service, as https://handover.example.com.
	// "": what they ask for themselves.
	Origin  string
	Limiter Limiter          // nil: nothing is limited
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: none

	tokens tokens
}

// Prefix begins the paths of a Handler.
const Prefix = "/api/v1/directories/"

const (
	mediaType   = "application/scim+json"
	maxServing  = 20 * time.Second
	maxCount    = 200 // users or groups in one answer
	maxDetailed = 20  // groups with their members in one answer
	defaultSize = 100
)

func (h *Handler) now() time.Time {
	if h.Now != nil {
		return h.Now()
	}
	return time.Now()
}

func (h *Handler) log() *slog.Logger {
	if h.Log != nil {
		return h.Log
	}
	return slog.New(slog.DiscardHandler)
}

// answer is what a request is answered with.
type answer struct {
	status   int
	location string
	body     []byte
}

func write(w http.ResponseWriter, a answer) {
	if a.location != "" {
		w.Header().Set("Location", a.location)
	}
	if a.body != nil {
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // a client that went away is no concern of ours
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), maxServing)
	defer cancel()
	a, err := h.serve(ctx, w, r)
	if err != nil {
		writeProblem(w, h.problemOf(ctx, err))
		return
	}
	write(w, a)
}

// request is a request of a directory's client.
type request struct {
	*http.Request
	w    http.ResponseWriter
	dir  store.SCIMDirectory
	base string // the URL of the directory's door
	id   string // of the resource; "": all
}

func (h *Handler) serve(ctx context.Context, w http.ResponseWriter, r *http.Request) (answer, error) {
	id, rest, ok := cutPath(r.URL.Path)
	if !ok {
		return answer{}, notFound("there is nothing at this path")
	}
	dir, err := h.authenticate(ctx, r, id)
	if err != nil {
		return answer{}, err
	}
	if h.Limiter != nil {
		if d, ok := h.Limiter.Allow("scim:" + dir.ID); !ok {
			return answer{}, wait(http.StatusTooManyRequests, "the directory sends too many requests", d)
		}
	}
	req := &request{Request: r, w: w, dir: dir, base: h.origin(r) + Prefix + dir.ID + "/scim/v2"}
	kind, rest, deeper := strings.Cut(rest, "/")
	if deeper {
		if req.id = rest; rest == "" || strings.Contains(rest, "/") {
			kind = ""
		}
	}
	return h.route(ctx, req, kind)
}

func (h *Handler) route(ctx context.Context, r *request, kind string) (answer, error) {
	switch kind {
	case "Users":
		return h.users(ctx, r)
	case "Groups":
		return h.groups(ctx, r)
	case "ServiceProviderConfig", "ResourceTypes", "Schemas":
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return answer{}, notAllowed("GET, HEAD")
		}
		return describe(r, kind)
	case "Me", "Bulk":
		return answer{}, &problem{status: http.StatusNotImplemented, detail: "this is not supported"}
	}
	return answer{}, notFound("there is nothing at this path")
}

// cutPath takes /api/v1/directories/{id}/scim/v2/{rest} apart.
func cutPath(path string) (id, rest string, ok bool) {
	if path, ok = strings.CutPrefix(path, Prefix); !ok {
		return "", "", false
	}
	id, rest, _ = strings.Cut(path, "/")
	rest, ok = strings.CutPrefix(rest, "scim/v2/")
	return id, rest, ok
}

func (h *Handler) origin(r *http.Request) string {
	switch {
	case h.Origin != "":
		return strings.TrimRight(h.Origin, "/")
	case r.TLS != nil:
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

func notAllowed(methods string) error {
	return &problem{status: http.StatusMethodNotAllowed, detail: "this method is not for this path", header: http.Header{"Allow": {methods}}}
}

// validID tells whether there can be a resource with an id.
func validID(id string) bool {
	if id == "" || len(id) > maxID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

func (h *Handler) users(ctx context.Context, r *request) (answer, error) {
	if r.id == "" {
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return h.listUsers(ctx, r)
		case http.MethodPost:
			return h.createUser(ctx, r)
		}
		return answer{}, notAllowed("GET, HEAD, POST")
	}
	var (
		u   store.SCIMUser
		err error
	)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if !validID(r.id) {
			return answer{}, directory.ErrNotFound
		}
		u, err = h.Directory.SCIMUser(ctx, r.dir, r.id)
	case http.MethodPut:
		u, err = h.changeUser(ctx, r, userContent, replace)
	case http.MethodPatch:
		u, err = h.changeUser(ctx, r, userEdits, change)
	case http.MethodDelete:
		if !validID(r.id) {
			return answer{}, directory.ErrNotFound
		}
		return answer{status: http.StatusNoContent}, h.Directory.DeleteSCIMUser(ctx, r.dir, r.id)
	default:
		return answer{}, notAllowed("DELETE, GET, HEAD, PATCH, PUT")
	}
	if err != nil {
		return answer{}, err
	}
	body, err := appendUser(make([]byte, 0, 512+len(u.Attributes)), r.base, u)
	return answer{status: http.StatusOK, body: body}, err
}

func (h *Handler) changeUser(ctx context.Context, r *request, compile func(value) ([]edit, error),
	with func([]edit) func(store.SCIMUser) (store.SCIMUser, error),
) (store.SCIMUser, error) {
	body, err := read(r)
	if err != nil {
		return store.SCIMUser{}, err
	}
	edits, err := compile(body)
	if err != nil {
		return store.SCIMUser{}, err
	}
	if !validID(r.id) {
		return store.SCIMUser{}, directory.ErrNotFound
	}
	return h.Directory.ChangeSCIMUser(ctx, r.dir, r.id, with(edits))
}

func (h *Handler) createUser(ctx context.Context, r *request) (answer, error) {
	body, err := read(r)
	if err != nil {
		return answer{}, err
	}
	edits, err := userContent(body)
	if err != nil {
		return answer{}, err
	}
	u, err := replace(edits)(store.SCIMUser{DirectoryID: r.dir.ID, Active: true})
	if err != nil {
		return answer{}, err
	}
	if u, err = h.Directory.CreateSCIMUser(ctx, r.dir, u); err != nil {
		return answer{}, err
	}
	b, err := appendUser(make([]byte, 0, 512+len(u.Attributes)), r.base, u)
	return answer{status: http.StatusCreated, location: r.base + "/Users/" + u.ID, body: b}, err
}

func (h *Handler) listUsers(ctx context.Context, r *request) (answer, error) {
	q, err := readQuery(r)
	if err != nil {
		return answer{}, err
	}
	var (
		filter directory.SCIMFilter
		none   bool
	)
	if q.filtered {
		if filter, none, err = userFilter(q.filter); err != nil {
			return answer{}, err
		}
	}
	var (
		users []store.SCIMUser
		total int
	)
	if !none {
		if users, total, err = h.Directory.SCIMUsers(ctx, r.dir, filter, q.start, min(q.count, maxCount)); err != nil {
			return answer{}, err
		}
	}
	b := appendListHead(make([]byte, 0, 256+1024*len(users)), total, q.start, len(users))
	for i := range users {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = appendUser(b, r.base, users[i]); err != nil {
			return answer{}, err
		}
	}
	return answer{status: http.StatusOK, body: append(b, "]}"...)}, nil
}

func (h *Handler) groups(ctx context.Context, r *request) (answer, error) {
	if r.id == "" {
		switch r.Method {
		case http.MethodGet, http.MethodHead:
			return h.listGroups(ctx, r)
		case http.MethodPost:
			return h.createGroup(ctx, r)
		}
		return answer{}, notAllowed("GET, HEAD, POST")
	}
	var (
		g   store.SCIMGroup
		err error
	)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		if !validID(r.id) {
			return answer{}, directory.ErrNotFound
		}
		g, err = h.Directory.SCIMGroup(ctx, r.dir, r.id)
	case http.MethodPut:
		g, err = h.changeGroup(ctx, r, groupContent)
	case http.MethodPatch:
		_, err = h.changeGroup(ctx, r, groupEdits)
		return answer{status: http.StatusNoContent}, err
	case http.MethodDelete:
		if !validID(r.id) {
			return answer{}, directory.ErrNotFound
		}
		return answer{status: http.StatusNoContent}, h.Directory.DeleteSCIMGroup(ctx, r.dir, r.id)
	default:
		return answer{}, notAllowed("DELETE, GET, HEAD, PATCH, PUT")
	}
	if err != nil {
		return answer{}, err
	}
	q, err := readQuery(r)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: appendGroup(nil, r.base, g, q.members)}, nil
}

func (h *Handler) changeGroup(ctx context.Context, r *request, compile func(value) (*groupEdit, error)) (store.SCIMGroup, error) {
	body, err := read(r)
	if err != nil {
		return store.SCIMGroup{}, err
	}
	edit, err := compile(body)
	if err != nil {
		return store.SCIMGroup{}, err
	}
	if !validID(r.id) {
		return store.SCIMGroup{}, directory.ErrNotFound
	}
	return h.Directory.ChangeSCIMGroup(ctx, r.dir, r.id, edit.change)
}

func (h *Handler) createGroup(ctx context.Context, r *request) (answer, error) {
	body, err := read(r)
	if err != nil {
		return answer{}, err
	}
	edit, err := groupContent(body)
	if err != nil {
		return answer{}, err
	}
	g, err := edit.change(store.SCIMGroup{DirectoryID: r.dir.ID})
	if err != nil {
		return answer{}, err
	}
	if g, err = h.Directory.CreateSCIMGroup(ctx, r.dir, g); err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusCreated, location: r.base + "/Groups/" + g.ID, body: appendGroup(nil, r.base, g, true)}, nil
}

func (h *Handler) listGroups(ctx context.Context, r *request) (answer, error) {
	q, err := readQuery(r)
	if err != nil {
		return answer{}, err
	}
	var (
		filter directory.SCIMGroupFilter
		none   bool
	)
	if q.filtered {
		if filter, none, err = groupFilter(q.filter); err != nil {
			return answer{}, err
		}
	}
	most := maxCount
	if q.members {
		most = maxDetailed
	}
	var (
		groups []store.SCIMGroup
		total  int
	)
	if !none {
		if groups, total, err = h.Directory.SCIMGroups(ctx, r.dir, filter, q.start, min(q.count, most)); err != nil {
			return answer{}, err
		}
	}
	b := appendListHead(make([]byte, 0, 256+512*len(groups)), total, q.start, len(groups))
	for i := range groups {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendGroup(b, r.base, groups[i], q.members)
	}
	return answer{status: http.StatusOK, body: append(b, "]}"...)}, nil
}

// appendListHead begins a ListResponse; its resources and `]}` follow.
func appendListHead(b []byte, total, start, count int) []byte {
	b = append(b, `{"schemas":["`+listSchema+`"],"totalResults":`...)
	b = strconv.AppendInt(b, int64(total), 10)
	b = strconv.AppendInt(append(b, `,"startIndex":`...), int64(start), 10)
	b = strconv.AppendInt(append(b, `,"itemsPerPage":`...), int64(count), 10)
	return append(b, `,"Resources":[`...)
}

// appendMeta ends a resource.
func appendMeta(b []byte, base, kind, id string, created, modified time.Time) []byte {
	const layout = "2006-01-02T15:04:05.000Z"
	b = append(b, `,"meta":{"resourceType":"`+kind+`","created":"`...)
	b = created.UTC().AppendFormat(b, layout)
	b = append(b, `","lastModified":"`...)
	b = modified.UTC().AppendFormat(b, layout)
	b = appendText(append(b, `","location":`...), base+"/"+kind+"s/"+id)
	return append(b, "}}"...)
}
