package scalekit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// rest puts the routes below /api/v1/ on h.routes.
func (h *Handler) rest(s *service) {
	route(h, "POST /api/v1/organizations", http.StatusCreated, s.CreateOrganization, func(in *input) *pb.CreateOrganizationRequest {
		req := &pb.CreateOrganizationRequest{Organization: &pb.CreateOrganization{}}
		in.body(req.Organization)
		return req
	})
	route(h, "GET /api/v1/organizations", http.StatusOK, s.ListOrganization, func(in *input) *pb.ListOrganizationsRequest {
		return &pb.ListOrganizationsRequest{PageSize: in.size(), PageToken: in.query("page_token"), ExternalId: optional(in.query("external_id"))}
	})
	route(h, "GET /api/v1/organizations/{id}", http.StatusOK, s.GetOrganization, func(in *input) *pb.GetOrganizationRequest {
		return &pb.GetOrganizationRequest{Identities: &pb.GetOrganizationRequest_Id{Id: in.path("id")}}
	})
	route(h, "DELETE /api/v1/organizations/{id}", http.StatusOK, s.DeleteOrganization, func(in *input) *pb.DeleteOrganizationRequest {
		return &pb.DeleteOrganizationRequest{Identities: &pb.DeleteOrganizationRequest_Id{Id: in.path("id")}}
	})

	route(h, "POST /api/v1/organizations/{organization_id}/users", http.StatusCreated, s.CreateUserAndMembership, func(in *input) *pb.CreateUserAndMembershipRequest {
		req := &pb.CreateUserAndMembershipRequest{OrganizationId: in.path("organization_id"), User: &pb.CreateUser{}, SendInvitationEmail: in.yesNo("send_invitation_email")}
		in.body(req.User)
		return req
	})
	route(h, "GET /api/v1/organizations/{organization_id}/users", http.StatusOK, s.ListOrganizationUsers, func(in *input) *pb.ListOrganizationUsersRequest {
		return &pb.ListOrganizationUsersRequest{OrganizationId: in.path("organization_id"), PageSize: in.size(), PageToken: in.query("page_token")}
	})
	route(h, "GET /api/v1/users", http.StatusOK, s.ListUsers, func(in *input) *pb.ListUsersRequest {
		return &pb.ListUsersRequest{PageSize: in.size(), PageToken: in.query("page_token")}
	})
	route(h, "GET /api/v1/users/{id}", http.StatusOK, s.GetUser, func(in *input) *pb.GetUserRequest {
		return &pb.GetUserRequest{Identities: &pb.GetUserRequest_Id{Id: in.path("id")}}
	})
	route(h, "GET /api/v1/users:external/{external_id}", http.StatusOK, s.GetUser, func(in *input) *pb.GetUserRequest {
		return &pb.GetUserRequest{Identities: &pb.GetUserRequest_ExternalId{ExternalId: in.path("external_id")}}
	})
	route(h, "DELETE /api/v1/users/{id}", http.StatusOK, s.DeleteUser, func(in *input) *pb.DeleteUserRequest {
		return &pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_Id{Id: in.path("id")}}
	})
	route(h, "DELETE /api/v1/users:external/{external_id}", http.StatusOK, s.DeleteUser, func(in *input) *pb.DeleteUserRequest {
		return &pb.DeleteUserRequest{Identities: &pb.DeleteUserRequest_ExternalId{ExternalId: in.path("external_id")}}
	})

	const membership, membershipExternal = " /api/v1/memberships/organizations/{organization_id}/users/{id}", " /api/v1/memberships/organizations/{organization_id}/users:external/{external_id}"
	create := func(in *input) *pb.CreateMembershipRequest {
		req := &pb.CreateMembershipRequest{OrganizationId: in.path("organization_id"), Membership: &pb.CreateMembership{}, SendInvitationEmail: in.yesNo("send_invitation_email")}
		in.membership(req.Membership)
		return req
	}
	route(h, "POST"+membership, http.StatusCreated, s.CreateMembership, func(in *input) *pb.CreateMembershipRequest {
		req := create(in)
		req.Identities = &pb.CreateMembershipRequest_Id{Id: in.path("id")}
		return req
	})
	route(h, "POST"+membershipExternal, http.StatusCreated, s.CreateMembership, func(in *input) *pb.CreateMembershipRequest {
		req := create(in)
		req.Identities = &pb.CreateMembershipRequest_ExternalId{ExternalId: in.path("external_id")}
		return req
	})
	update := func(in *input) *pb.UpdateMembershipRequest {
		req := &pb.UpdateMembershipRequest{OrganizationId: in.path("organization_id"), Membership: &pb.UpdateMembership{}}
		in.membership(req.Membership)
		return req
	}
	route(h, "PATCH"+membership, http.StatusOK, s.UpdateMembership, func(in *input) *pb.UpdateMembershipRequest {
		req := update(in)
		req.Identities = &pb.UpdateMembershipRequest_Id{Id: in.path("id")}
		return req
	})
	route(h, "PATCH"+membershipExternal, http.StatusOK, s.UpdateMembership, func(in *input) *pb.UpdateMembershipRequest {
		req := update(in)
		req.Identities = &pb.UpdateMembershipRequest_ExternalId{ExternalId: in.path("external_id")}
		return req
	})
	route(h, "DELETE"+membership, http.StatusOK, s.DeleteMembership, func(in *input) *pb.DeleteMembershipRequest {
		return &pb.DeleteMembershipRequest{OrganizationId: in.path("organization_id"), Identities: &pb.DeleteMembershipRequest_Id{Id: in.path("id")}}
	})
	route(h, "DELETE"+membershipExternal, http.StatusOK, s.DeleteMembership, func(in *input) *pb.DeleteMembershipRequest {
		return &pb.DeleteMembershipRequest{OrganizationId: in.path("organization_id"), Identities: &pb.DeleteMembershipRequest_ExternalId{ExternalId: in.path("external_id")}}
	})

	route(h, "GET /api/v1/sessions/{session_id}", http.StatusOK, s.GetSession, func(in *input) *pb.SessionDetailsRequest {
		return &pb.SessionDetailsRequest{SessionId: in.path("session_id")}
	})
	route(h, "POST /api/v1/sessions/{session_id}/revoke", http.StatusOK, s.RevokeSession, func(in *input) *pb.RevokeSessionRequest {
		return &pb.RevokeSessionRequest{SessionId: in.path("session_id")}
	})
	route(h, "GET /api/v1/users/{user_id}/sessions", http.StatusOK, s.GetUserSessions, func(in *input) *pb.UserSessionDetailsRequest {
		return &pb.UserSessionDetailsRequest{
			UserId: in.path("user_id"), PageSize: in.size(), PageToken: in.query("page_token"),
			Filter: &pb.UserSessionFilter{Status: in.queries("filter.status"), StartTime: in.time("filter.start_time"), EndTime: in.time("filter.end_time")},
		}
	})
	route(h, "POST /api/v1/users/{user_id}/sessions/revoke", http.StatusOK, s.RevokeAllUserSessions, func(in *input) *pb.RevokeAllUserSessionsRequest {
		return &pb.RevokeAllUserSessionsRequest{UserId: in.path("user_id")}
	})

	h.routes.HandleFunc("/api/v1/", h.noRoute)
}

// route serves method at pattern, with the request that read makes of what was
// sent.
func route[Req any, Res proto.Message](h *Handler, pattern string, success int, method func(context.Context, Req) (Res, error), read func(*input) Req) {
	h.routes.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, err := h.authenticate(r.Context(), r.Header, r.RemoteAddr)
		if err != nil {
			h.refusal(ctx, err).rest(w)
			return
		}
		ctx, cancel := context.WithTimeout(ctx, maxCall)
		defer cancel()
		in := &input{w: w, r: r}
		req := read(in)
		if err := in.err(); err != nil {
			h.refusal(ctx, err).rest(w)
			return
		}
		res, err := method(ctx, req)
		if err != nil {
			h.refusal(ctx, err).rest(w)
			return
		}
		body, err := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}.Marshal(res)
		if err != nil {
			h.refusal(ctx, err).rest(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(success)
		_, _ = w.Write(body) // a client that went away is no concern of ours
	})
}

// noRoute answers what no route took.
func (h *Handler) noRoute(w http.ResponseWriter, r *http.Request) {
	if ctx, err := h.authenticate(r.Context(), r.Header, r.RemoteAddr); err != nil {
		h.refusal(ctx, err).rest(w)
		return
	}
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := h.routes.Handler(other); pattern != "/api/v1/" {
			allowed = append(allowed, method)
		}
	}
	no := refuse(connect.CodeNotFound, "there is nothing at this path")
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		no = refuse(connect.CodeUnimplemented, "this path is for "+strings.Join(allowed, ", ")).as("METHOD_NOT_ALLOWED")
		no.status = http.StatusMethodNotAllowed
	}
	no.rest(w)
}

// input is what a REST request was sent with. What is wrong with it is collected.
type input struct {
	w      http.ResponseWriter
	r      *http.Request
	params url.Values
	faults faults
	no     error // what ends the reading
}

func (in *input) err() error {
	if in.no != nil {
		return in.no
	}
	return in.faults.err()
}

func (in *input) path(name string) string { return in.r.PathValue(name) }

// queries returns all values of a parameter. Unknown parameters are of no
// interest.
func (in *input) queries(name string) []string {
	if in.r.URL.RawQuery == "" {
		return nil
	}
	if in.params == nil {
		var err error
		if in.params, err = url.ParseQuery(in.r.URL.RawQuery); err != nil {
			in.faults.add("query", "query", "is not URL-encoded")
			in.params = url.Values{}
		}
	}
	return in.params[name]
}

func (in *input) query(name string) string {
	values := in.queries(name)
	if len(values) > 1 {
		in.faults.add(name, "query", "is there more than once")
	}
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

func (in *input) size() uint32 {
	text := in.query("page_size")
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		in.faults.add("page_size", "uint32", "has to be a number")
	}
	return uint32(n)
}

func (in *input) yesNo(name string) *bool {
	switch in.query(name) {
	case "":
		return nil
	case "true":
		return new(true)
	case "false":
		return new(false)
	}
	in.faults.add(name, "bool", "has to be true or false")
	return nil
}

func (in *input) time(name string) *timestamppb.Timestamp {
	text := in.query(name)
	if text == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		in.faults.add(name, "timestamp", "has to be a time as RFC 3339 has them")
		return nil
	}
	return timestamppb.New(t)
}

// body reads a body into msg.
func (in *input) body(msg proto.Message) {
	if body := in.read(); in.no == nil {
		in.unmarshal(body, msg)
	}
}

// membership reads a body that is a membership, or an object whose only member
// is one.
func (in *input) membership(msg proto.Message) {
	body := in.read()
	if in.no != nil {
		return
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err == nil {
		if inner, ok := members["membership"]; ok {
			if len(members) > 1 {
				in.no = invalid("membership", "json", "has to stand alone, or its members instead of it")
				return
			}
			body = inner
		}
	}
	in.unmarshal(body, msg)
}

func (in *input) unmarshal(body []byte, msg proto.Message) {
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(body, msg); err != nil {
		in.no = invalid("body", "json", "is not UTF-8, or has a member of the wrong type"+position(err))
	}
}

// position is where protojson found a fault; its own words may hold what was sent.
func position(err error) string {
	_, text, ok := strings.Cut(err.Error(), "(line ")
	line, text, ok2 := strings.Cut(text, ":")
	column, _, ok3 := strings.Cut(text, ")")
	if _, err := strconv.Atoi(line + column); err != nil || !ok || !ok2 || !ok3 {
		return ""
	}
	return ", in line " + line + " at column " + column
}

// read reads a body that is a JSON object which means one thing.
func (in *input) read() []byte {
	wrong := func(status int, field, description string) {
		no := invalid(field, "body", description)
		no.status = status
		in.no = no
	}
	if encoded(in.r) {
		wrong(http.StatusUnsupportedMediaType, "Content-Encoding", "is not supported")
		return nil
	}
	if media := in.r.Header.Get("Content-Type"); media != "application/json" {
		if media, _, err := mime.ParseMediaType(media); err != nil || media != "application/json" {
			wrong(http.StatusUnsupportedMediaType, "Content-Type", "has to be application/json")
			return nil
		}
	}
	body, err := readBody(in.w, in.r, maxBody)
	switch {
	case errors.Is(err, errTooLarge):
		wrong(http.StatusRequestEntityTooLarge, "body", "has to have at most 1 MiB")
	case errors.Is(err, os.ErrDeadlineExceeded):
		wrong(http.StatusRequestTimeout, "body", "came too slowly")
	case err != nil:
		wrong(http.StatusBadRequest, "body", "ended early")
	default:
		if err := checkJSON(body); err != nil {
			wrong(http.StatusBadRequest, "body", err.Error())
		}
	}
	return body
}

// encoded tells whether a body is compressed.
func encoded(r *http.Request) bool {
	encoding := r.Header.Values("Content-Encoding")
	return len(encoding) > 1 || len(encoding) == 1 && !strings.EqualFold(encoding[0], "identity")
}

var errTooLarge = errors.New("the body is too large")

// readBody reads a body of at most so many bytes, whatever is claimed of its size.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close")
		return nil, errTooLarge
	}
	var body bytes.Buffer
	if n := r.ContentLength; n > 0 {
		body.Grow(int(min(n, 16<<10)) + bytes.MinRead) // more only as it comes
	}
	n, err := body.ReadFrom(io.LimitReader(r.Body, limit+1))
	switch {
	case n > limit:
		w.Header().Set("Connection", "close")
		return nil, errTooLarge
	case err != nil:
		return nil, err
	}
	return body.Bytes(), nil
}

const maxDepth = 64

// checkJSON refuses what the reading into a message would not see, or would read
// in one of two ways.
func checkJSON(body []byte) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	type level struct {
		keys  map[string]bool // of an object
		value bool            // a key was read
	}
	var levels []level
	for first := true; ; first = false {
		token, err := d.Token()
		if err != nil {
			return errors.New("is not JSON")
		}
		if first && token != json.Delim('{') {
			return errors.New("is not a JSON object")
		}
		key := false
		if n := len(levels); n > 0 && levels[n-1].keys != nil {
			key = !levels[n-1].value
			levels[n-1].value = key
		}
		switch token := token.(type) {
		case json.Delim:
			switch token {
			case '{':
				levels = append(levels, level{keys: make(map[string]bool)})
			case '[':
				levels = append(levels, level{})
			default:
				levels = levels[:len(levels)-1]
			}
			if len(levels) > maxDepth {
				return errors.New("is nested too deeply")
			}
		case string:
			if strings.Contains(token, "\x00") {
				return errors.New("has a NUL character")
			}
			if key {
				keys := levels[len(levels)-1].keys
				if keys[token] {
					return errors.New("has a key twice in an object")
				}
				keys[token] = true
			}
		}
		if len(levels) == 0 {
			break
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("has something behind its end")
	}
	return nil
}
