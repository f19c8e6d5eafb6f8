package scim

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
)

// problem is why a request is not served: an error as RFC 7644, section 3.12 has
// it. Its detail has nothing in it of what was sent.
type problem struct {
	status   int
	scimType string
	detail   string
	header   http.Header
}

func (p *problem) Error() string { return p.detail }

// errStored says that what is kept is not as it was put there.
var errStored = errors.New("what is kept cannot be read")

// The scimTypes that are used.
const (
	invalidFilter = "invalidFilter"
	invalidSyntax = "invalidSyntax"
	invalidPath   = "invalidPath"
	invalidValue  = "invalidValue"
	noTarget      = "noTarget"
	mutability    = "mutability"
	tooMany       = "tooMany"
	uniqueness    = "uniqueness"
)

// refuse makes a problem of the request's content.
func refuse(scimType, detail string) error {
	return &problem{status: http.StatusBadRequest, scimType: scimType, detail: detail}
}

func notFound(detail string) error {
	return &problem{status: http.StatusNotFound, detail: detail}
}

// wait tells when to try again.
func wait(status int, detail string, d time.Duration) error {
	seconds := max(int64((d+time.Second-1)/time.Second), 1)
	return &problem{status: status, detail: detail, header: http.Header{"Retry-After": {strconv.FormatInt(seconds, 10)}}}
}

// problemOf turns any error into what is answered. What nobody can help but us
// is logged here, once, and not told.
func (h *Handler) problemOf(ctx context.Context, err error) *problem {
	var p *problem
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, directory.ErrNotFound), errors.Is(err, store.ErrNotFound):
		err = notFound("there is no such resource in this directory")
	case errors.Is(err, directory.ErrDirectoryNotFound), errors.Is(err, directory.ErrOrganizationNotFound):
		err = notFound("the directory is there no more")
	case errors.Is(err, directory.ErrUserNotFound):
		err = refuse(invalidValue, "a member is not a user of this directory")
	case errors.Is(err, directory.ErrUserNameTaken):
		err = &problem{status: http.StatusConflict, scimType: uniqueness, detail: "the directory has a user with this userName"}
	case errors.Is(err, directory.ErrUserExists), errors.Is(err, directory.ErrMembershipExists), errors.Is(err, store.ErrConflict):
		err = &problem{status: http.StatusConflict, scimType: uniqueness, detail: "there is one like it already"}
	case errors.Is(err, directory.ErrUnavailable), errors.Is(err, directory.ErrUnsure), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		if ctx.Err() == nil {
			h.log().ErrorContext(ctx, "the database failed a request of a directory", "error", err)
		}
		err = wait(http.StatusServiceUnavailable, "the service cannot do it now; send it again", time.Second)
	default:
		h.log().ErrorContext(ctx, "a request of a directory failed", "error", err)
		err = &problem{status: http.StatusInternalServerError, detail: "the service failed"}
	}
	errors.As(err, &p)
	return p
}

// writeProblem answers with a problem.
func writeProblem(w http.ResponseWriter, p *problem) {
	for name, values := range p.header {
		w.Header()[name] = values
	}
	b := append(make([]byte, 0, 256), `{"schemas":["`+errorSchema+`"],"status":"`...)
	b = strconv.AppendInt(b, int64(p.status), 10)
	if p.scimType != "" {
		b = append(b, `","scimType":"`+p.scimType...)
	}
	b = append(b, `","detail":`...)
	b = appendText(b, p.detail)
	write(w, answer{status: p.status, body: append(b, '}')})
}
