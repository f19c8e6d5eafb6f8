package scalekit

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
)

// refusal is an error as it goes over the wire.
type refusal struct {
	code   connect.Code
	status int    // of a REST answer
	text   string // for people
	info   *scalekitv1.ErrorInfo
	wait   time.Duration // until it may be asked again; 0: not said
}

func (no *refusal) Error() string { return no.text }

// refuse makes a refusal whose error code is the usual one of the code.
func refuse(code connect.Code, text string) *refusal {
	no := &refusal{code: code, text: text, info: &scalekitv1.ErrorInfo{}}
	switch code {
	case connect.CodeInvalidArgument:
		no.status, no.info.ErrorCode = http.StatusBadRequest, "INVALID_ARGUMENT"
	case connect.CodeUnauthenticated:
		no.status, no.info.ErrorCode = http.StatusUnauthorized, "UNAUTHENTICATED"
	case connect.CodeNotFound:
		no.status, no.info.ErrorCode = http.StatusNotFound, "NOT_FOUND"
	case connect.CodeAlreadyExists:
		no.status, no.info.ErrorCode = http.StatusConflict, "ALREADY_EXISTS"
	case connect.CodeResourceExhausted:
		no.status, no.info.ErrorCode = http.StatusTooManyRequests, "RESOURCE_EXHAUSTED"
	case connect.CodeUnavailable:
		no.status, no.info.ErrorCode, no.wait = http.StatusServiceUnavailable, "UNAVAILABLE", time.Second
	case connect.CodeDeadlineExceeded:
		no.status, no.info.ErrorCode = http.StatusGatewayTimeout, "DEADLINE_EXCEEDED"
	case connect.CodeCanceled:
		no.status, no.info.ErrorCode = 499, "CANCELED" // nobody is there to read it
	default:
		no.status, no.info.ErrorCode = http.StatusInternalServerError, "INTERNAL"
	}
	return no
}

// as gives a refusal a more telling error code.
func (no *refusal) as(errorCode string) *refusal {
	no.info.ErrorCode = errorCode
	return no
}

func tooMany(text string, wait time.Duration) *refusal {
	no := refuse(connect.CodeResourceExhausted, text)
	no.wait = max(wait, 1)
	return no
}

// refusal makes of any error what its caller is told. It is the only place that
// knows what the directory's errors mean in the API.
//
// unavailable makes SDKs ask again, and so must not be the answer to anything
// that may have been done: ErrUnavailable promises that, ErrUnsure and a context
// that ended do not.
func (h *Handler) refusal(ctx context.Context, err error) *refusal {
	var no *refusal
	switch {
	case errors.As(err, &no):
		return no
	case errors.Is(err, directory.ErrOrganizationNotFound):
		return refuse(connect.CodeNotFound, directory.ErrOrganizationNotFound.Error()).as("ORGANIZATION_NOT_FOUND")
	case errors.Is(err, directory.ErrUserNotFound):
		return refuse(connect.CodeNotFound, directory.ErrUserNotFound.Error()).as("USER_NOT_FOUND")
	case errors.Is(err, directory.ErrMembershipNotFound):
		return refuse(connect.CodeNotFound, directory.ErrMembershipNotFound.Error()).as("MEMBERSHIP_NOT_FOUND")
	case errors.Is(err, directory.ErrSessionNotFound):
		return refuse(connect.CodeNotFound, directory.ErrSessionNotFound.Error()).as("SESSION_NOT_FOUND")
	case errors.Is(err, directory.ErrOrganizationExists):
		return refuse(connect.CodeAlreadyExists, directory.ErrOrganizationExists.Error()).as("ORGANIZATION_ALREADY_EXISTS")
	case errors.Is(err, directory.ErrUserExists):
		return refuse(connect.CodeAlreadyExists, directory.ErrUserExists.Error()).as("USER_ALREADY_EXISTS")
	case errors.Is(err, directory.ErrMembershipExists):
		return refuse(connect.CodeAlreadyExists, directory.ErrMembershipExists.Error()).as("MEMBERSHIP_ALREADY_EXISTS")
	case errors.Is(err, directory.ErrSuccessor):
		return invalid(SuccessorHeader, "member", "has to be another active member of the organization")
	case errors.Is(err, directory.ErrPageToken):
		return invalid("page_token", "page_token", "has to come from an answer of this list")
	case errors.Is(err, directory.ErrUnsure):
		return refuse(connect.CodeDeadlineExceeded, "the database was lost while it committed; it may have been done")
	case errors.Is(err, directory.ErrUnavailable):
		return h.unavailable(ctx, err)
	case errors.Is(err, context.Canceled):
		return refuse(connect.CodeCanceled, "the request was given up before it was answered; it may have been done")
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(connect.CodeDeadlineExceeded, "the request took too long; it may have been done")
	}
	no = refuse(connect.CodeInternal, "something is wrong here")
	h.Log.ErrorContext(ctx, "a request met an error of ours", "error", err, "request_id", no.name())
	return no
}

// unavailable is for errors after which nothing was changed.
func (h *Handler) unavailable(ctx context.Context, err error) *refusal {
	no := refuse(connect.CodeUnavailable, "the database cannot be reached; nothing was changed")
	if ctx.Err() == nil {
		h.Log.WarnContext(ctx, "a request could not be answered", "error", err, "request_id", no.name())
	}
	return no
}

// name gives an answer an id by which it can be found in the log.
func (no *refusal) name() string {
	id := "req_" + rand.Text()
	no.info.RequestInfo = &scalekitv1.RequestInfo{RequestId: id}
	return id
}

func (no *refusal) grpc() *connect.Error {
	err := connect.NewError(no.code, errors.New(no.text))
	if detail, detailErr := connect.NewErrorDetail(no.info); detailErr == nil {
		err.AddDetail(detail)
	}
	no.retryAfter(err.Meta())
	return err
}

func (no *refusal) retryAfter(header http.Header) {
	if no.wait > 0 {
		header.Set("Retry-After", strconv.FormatInt(int64((no.wait+time.Second-1)/time.Second), 10))
	}
}

// rest answers with the fields of ErrorInfo.
func (no *refusal) rest(w http.ResponseWriter) {
	header := w.Header()
	no.retryAfter(header)
	if no.code == connect.CodeUnauthenticated {
		header.Set("WWW-Authenticate", `Bearer realm="handover"`)
	}
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(no.info)
	if err != nil {
		body = []byte(`{}`) // no text of ours is not UTF-8
	}
	header.Set("Content-Type", "application/json")
	w.WriteHeader(no.status)
	_, _ = w.Write(body) //nolint:gosec // G705: JSON, and of our own words
}
