package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"

	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
)

// refuse makes the answer to a request that is not served. It has no value of
// the request in it, only where that stands.
func refuse(status int, detail string, fields ...*huma.ErrorDetail) *huma.ErrorModel {
	return &huma.ErrorModel{Status: status, Title: http.StatusText(status), Detail: detail, Errors: fields}
}

// at says what is wrong with one field.
func at(location, message string) *huma.ErrorDetail {
	return &huma.ErrorDetail{Location: location, Message: message}
}

// invalid refuses fields, if there are any.
func invalid(fields ...*huma.ErrorDetail) error {
	if len(fields) == 0 {
		return nil
	}
	return refuse(http.StatusUnprocessableEntity, "validation failed", fields...)
}

// retryAfter is how long to wait when the database does not answer, in seconds.
const retryAfter = "1"

// answerTo turns an error of the store into an answer. What nobody can help but
// us is logged here, once, and not told.
func (s *Server) answerTo(ctx context.Context, err error, what string) error {
	var refused *huma.ErrorModel
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, store.ErrCursor):
		return refuse(http.StatusBadRequest, "the cursor is not valid", at("query.cursor", "is not a cursor that this list gave"))
	case errors.Is(err, store.ErrNotFound):
		return refuse(http.StatusNotFound, "there is no such "+what, at("path.id", "there is no such "+what))
	case errors.Is(err, store.ErrConflict):
		return refuse(http.StatusConflict, reason(err))
	case errors.Is(err, store.ErrWrongKey):
		s.log().ErrorContext(ctx, "a stored secret cannot be decrypted", "error", err)
		return refuse(http.StatusInternalServerError, "a stored secret cannot be decrypted")
	}
	if ctx.Err() == nil {
		s.log().ErrorContext(ctx, "the database failed a request", "error", err)
	}
	return huma.ErrorWithHeaders(refuse(http.StatusServiceUnavailable, "the database does not answer; try again"),
		http.Header{"Retry-After": {retryAfter}})
}

// reason is what follows "conflict: " in an error.
func reason(err error) string {
	text := err.Error()
	if _, after, ok := strings.Cut(text, store.ErrConflict.Error()+": "); ok {
		return after
	}
	return text
}

// answerToRecord turns an error of the recorder into an answer.
func (s *Server) answerToRecord(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, ingest.ErrIdempotencyConflict):
		return refuse(http.StatusConflict, "this Idempotency-Key was used before with another request",
			at("header.Idempotency-Key", "was used before with another request"))
	case errors.Is(err, ingest.ErrEventConflict):
		return refuse(http.StatusConflict, "an event with this id and another body is recorded", at("body.id", "is that of another event"))
	}
	if ctx.Err() == nil {
		s.log().ErrorContext(ctx, "events could not be recorded", "error", err)
	}
	return huma.ErrorWithHeaders(refuse(http.StatusServiceUnavailable, "nothing was recorded; send it again"),
		http.Header{"Retry-After": {retryAfter}})
}

// writeError answers outside of huma as it would.
func writeError(w http.ResponseWriter, err error) {
	h := w.Header()
	var more huma.HeadersError
	if errors.As(err, &more) {
		for name, values := range more.GetHeaders() {
			h[name] = values
		}
	}
	var refused *huma.ErrorModel
	if !errors.As(err, &refused) {
		refused = refuse(http.StatusInternalServerError, "")
	}
	h.Set("Content-Type", "application/problem+json")
	w.WriteHeader(refused.Status)
	_ = json.NewEncoder(w).Encode(refused) // a client that went away is no concern of ours
}

// maxErrors bounds how many faults one answer lists.
const maxErrors = 20

// discreet keeps what was sent out of the answers about it: it may be a secret,
// or long. What huma found wrong is said there as we say it.
func discreet(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	if len(e.Errors) == 0 && e.Detail == "request body is required" {
		e.Errors = []*huma.ErrorDetail{at("body", "is required")}
	}
	if len(e.Errors) > maxErrors {
		e.Errors = e.Errors[:maxErrors]
	}
	for i, d := range e.Errors {
		location, message := reworded(d.Location, d.Message)
		e.Errors[i] = at(short(location), short(message))
	}
	return e, nil
}

const notTime = "has to be an RFC 3339 time such as 2026-06-12T09:30:00Z"

// reworded turns what huma says of a field into our words: a field that is
// missing is named by its own location, not by that of the object.
func reworded(location, message string) (_, _ string) {
	before, after, _ := strings.Cut(validation.MsgExpectedRequiredProperty, "%s")
	if name, ok := strings.CutPrefix(message, before); ok {
		if name, ok := strings.CutSuffix(name, after); ok {
			return location + "." + name, "is required"
		}
	}
	if message == validation.MsgExpectedRFC3339DateTime || strings.HasPrefix(message, "invalid date/time for format ") {
		return location, notTime
	}
	return location, message
}

func short(s string) string {
	const most = 300
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
