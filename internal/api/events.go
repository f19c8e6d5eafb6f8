package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
)

// Bounds of a batch.
const (
	maxBatch      = 1000
	maxBatchBytes = 16 << 20
	maxBatches    = 4                // at a time: they are in memory as a whole
	batchWait     = 15 * time.Second // for its turn
)

// atMost serves so many requests at a time. The others wait, before anything of
// their bodies is read.
func atMost(n int, next http.HandlerFunc) http.HandlerFunc {
	places := make(chan struct{}, n)
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), batchWait)
		defer cancel()
		select {
		case places <- struct{}{}:
			defer func() { <-places }()
			next(w, r)
		case <-ctx.Done():
			writeError(w, huma.ErrorWithHeaders(refuse(http.StatusServiceUnavailable, "too many batches at a time; send it again"),
				http.Header{"Retry-After": {retryAfter}}))
		}
	}
}

func eventOf(e store.Event) Event {
	return Event{
		ID: e.ID, Type: e.Type, EnvironmentID: e.EnvironmentID, OrganizationID: e.OrganizationID, UserID: e.UserID,
		OccurredAt: e.OccurredAt.UTC(), RecordedAt: e.RecordedAt.UTC(), Body: e.Body,
	}
}

func (s *Server) defaults() events.Defaults {
	return events.Defaults{EnvironmentID: s.EnvironmentID, Now: s.Now}
}

// complete fills in what an event came without; now is its time then.
func (s *Server) complete(raw []byte, now time.Time) (events.Event, error) {
	ev, err := events.Complete(raw, events.Defaults{EnvironmentID: s.EnvironmentID, Now: func() time.Time { return now }})
	if err == nil {
		err = reserved(ev)
	}
	return ev, err
}

func (s *Server) registerEvents(a huma.API) {
	const tag = "events"
	huma.Register(a, route("list-events", http.MethodGet, "/v1/events", tag, "List events", http.StatusOK), s.listEvents)
	huma.Register(a, route("get-event", http.MethodGet, "/v1/events/{id}", tag, "Get an event with its body", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.getEvent)

	// The two that publish are on the hot path and served without reflection, so
	// they are described by hand.
	schemas := a.OpenAPI().Components.Schemas
	problem := &huma.MediaType{Schema: schemas.Schema(reflect.TypeFor[huma.ErrorModel](), true, "ErrorModel")}
	event := &huma.Schema{
		Type: "object", Required: []string{"type", "data"}, AdditionalProperties: true,
		Description: "An event in the envelope of the webhook contract. id, spec_version, occurred_at and environment_id are filled in when absent.",
		Properties: map[string]*huma.Schema{
			"id": {Type: "string", Pattern: "^evt_"}, "spec_version": {Type: "string", Pattern: "^[0-9]+$"}, "type": {Type: "string"},
			"object": {Type: "string"}, "occurred_at": {Type: "string", Format: "date-time"},
			"environment_id": {Type: "string", Pattern: "^env_"}, "organization_id": {Type: "string", Pattern: "^org_"},
			"display_name": {Type: "string"}, "data": {Type: "object", AdditionalProperties: true},
		},
	}
	most := maxBatch
	describe := func(id, path, summary string, body, answer *huma.Schema) {
		op := route(id, http.MethodPost, path, tag, summary, http.StatusAccepted)
		op.Description = "Answers after the commit. A duplicate is an event that was recorded before with the same id and body."
		op.Parameters = []*huma.Param{{
			Name: "Idempotency-Key", In: "header", Schema: &huma.Schema{Type: "string"},
			Description: "Names the request: the same request again gets the same answer, another one with the same key 409. At most 255 printable ASCII characters.",
		}}
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: body}}}
		op.Responses = map[string]*huma.Response{"202": {Description: "Recorded.", Content: map[string]*huma.MediaType{"application/json": {Schema: answer}}}}
		for _, status := range []int{400, 401, 408, 409, 413, 415, 422, 503} {
			op.Responses[strconv.Itoa(status)] = &huma.Response{
				Description: http.StatusText(status), Content: map[string]*huma.MediaType{"application/problem+json": problem},
			}
		}
		a.OpenAPI().AddOperation(&op)
	}
	describe("publish-event", "/v1/events", "Publish an event", event, schemas.Schema(reflect.TypeFor[Published](), true, "Published"))
	describe("publish-events", "/v1/events/batch", "Publish up to 1,000 events, all or none",
		&huma.Schema{Type: "array", Items: event, MaxItems: &most}, schemas.Schema(reflect.TypeFor[PublishedBatch](), true, "PublishedBatch"))
}

func (s *Server) listEvents(ctx context.Context, in *struct {
	Paging
	Between
	Type           string `query:"type" maxLength:"255"`
	OrganizationID string `query:"organization_id" maxLength:"255"`
	UserID         string `query:"user_id" maxLength:"255"`
},
) (*body[Page[Event]], error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	es, next, err := s.Store.ListEvents(ctx, store.EventFilter{
		Type: in.Type, OrganizationID: in.OrganizationID, UserID: in.UserID, Since: in.Since, Until: in.Until,
	}, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "event")
	}
	return listed(es, next, eventOf), nil
}

func (s *Server) getEvent(ctx context.Context, in *struct {
	ByID
	EnvironmentID string `query:"environment_id" maxLength:"255" doc:"When an id is there in several environments; needed only then."`
},
) (*body[Event], error) {
	if in.EnvironmentID == "" {
		environments, err := s.Store.EventEnvironments(ctx, in.ID, maxEnvironments)
		if err != nil {
			return nil, s.answerTo(ctx, err, "event")
		}
		if len(environments) > 1 {
			return nil, refuse(http.StatusConflict, "several environments have this event: "+strings.Join(environments, ", ")+"; say which with ?environment_id=",
				at("query.environment_id", "is required for this event"))
		}
	}
	e, err := s.Store.Event(ctx, in.ID, in.EnvironmentID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "event")
	}
	return &body[Event]{eventOf(e)}, nil
}

// maxEnvironments is how many environments of an event are named.
const maxEnvironments = 20

// publish records one event.
func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	raw, err := readBody(w, r, events.MaxSize)
	if err != nil {
		writeError(w, err)
		return
	}
	ev, err := s.complete(raw, s.now())
	if err != nil {
		writeError(w, faultOf(err, "body"))
		return
	}
	res, err := s.record(r, []json.RawMessage{raw}, []events.Event{ev}, raw, "body.id")
	if err != nil {
		writeError(w, err)
		return
	}
	answer := appendPublished(make([]byte, 0, 128), res.IDs[0], res.Duplicates[0])
	accepted(w, append(answer, '\n'))
}

// publishBatch records several events, all or none.
func (s *Server) publishBatch(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r, maxBatchBytes)
	if err != nil {
		writeError(w, err)
		return
	}
	raws, err := split(body)
	if err != nil {
		writeError(w, err)
		return
	}
	evs := make([]events.Event, len(raws))
	seen := make(map[[2]string]int, len(raws))
	now := s.now() // one for all, so that copies stay the same
	for i, raw := range raws {
		where := fmt.Sprintf("body[%d]", i)
		if len(raw) > events.MaxSize {
			writeError(w, refuse(http.StatusRequestEntityTooLarge, "an event is larger than 1 MiB", at(where, "is too large")))
			return
		}
		if evs[i], err = s.complete(raw, now); err != nil {
			writeError(w, faultOf(err, where))
			return
		}
		name := [2]string{evs[i].ID, evs[i].EnvironmentID}
		if first, again := seen[name]; !again {
			seen[name] = i
		} else if !bytes.Equal(evs[first].Body(), evs[i].Body()) {
			writeError(w, refuse(http.StatusConflict, "two events have this id and different bodies", at(where+".id", fmt.Sprintf("is that of body[%d]", first))))
			return
		}
	}
	res, err := s.record(r, raws, evs, body, "")
	if err != nil {
		writeError(w, err)
		return
	}
	answer := append(make([]byte, 0, 64*len(evs)), `{"data":[`...)
	for i, id := range res.IDs {
		if i > 0 {
			answer = append(answer, ',')
		}
		answer = appendPublished(answer, id, res.Duplicates[i])
	}
	accepted(w, append(answer, "]}\n"...))
}

func accepted(w http.ResponseWriter, answer []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(answer) // a client that went away is no concern of ours
}

func appendPublished(b []byte, id string, duplicate bool) []byte {
	b = append(b, `{"id":`...)
	quoted, _ := json.Marshal(id) // a string can always be
	b = append(b, quoted...)
	b = append(b, `,"duplicate":`...)
	b = strconv.AppendBool(b, duplicate)
	return append(b, '}')
}

// reserved refuses the type of events that are made here only.
func reserved(ev events.Event) error {
	if ev.Type == store.EventTypeTest {
		return &events.FieldError{Field: "type", Reason: "is kept for test events; POST /v1/endpoints/{id}/test sends one"}
	}
	return nil
}

// split takes an array apart without looking into its elements.
func split(body []byte) ([]json.RawMessage, error) {
	notArray := refuse(http.StatusBadRequest, "the body is not a JSON array of events", at("body", "is not a JSON array"))
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, notArray
	}
	var raws []json.RawMessage
	for d.More() {
		if len(raws) == maxBatch {
			return nil, refuse(http.StatusUnprocessableEntity, "a batch has at most 1,000 events", at("body", "has more than 1000 events"))
		}
		start := d.InputOffset()
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return nil, refuse(http.StatusBadRequest, "the body is not JSON", at(fmt.Sprintf("body[%d]", len(raws)), fmt.Sprintf("is not JSON, after byte %d", start)))
		}
		raws = append(raws, element)
	}
	if _, err := d.Token(); err != nil {
		return nil, notArray
	}
	if len(bytes.TrimLeft(body[d.InputOffset():], " \t\r\n")) > 0 {
		return nil, refuse(http.StatusBadRequest, "something follows the array", at("body", "has something after the array"))
	}
	if len(raws) == 0 {
		return nil, invalid(at("body", "has no events"))
	}
	return raws, nil
}

// faultOf names the field of an event that is at fault.
func faultOf(err error, where string) error {
	var field *events.FieldError
	var syntax *events.SyntaxError
	switch {
	case errors.As(err, &field):
		return refuse(http.StatusUnprocessableEntity, "the event is not valid", at(where+"."+field.Field, field.Reason))
	case errors.As(err, &syntax):
		return refuse(http.StatusBadRequest, "the body is not valid JSON", at(where, fmt.Sprintf("at byte %d: %s", syntax.Offset, syntax.Reason)))
	}
	return refuse(http.StatusUnprocessableEntity, "the event is not valid", at(where, err.Error()))
}

// record hands events to the recorder. raws are what they were made of, body is
// the whole request.
func (s *Server) record(r *http.Request, raws []json.RawMessage, evs []events.Event, body []byte, location string) (ingest.Result, error) {
	ctx := r.Context()
	req := ingest.Request{Events: evs}
	if key, ok := r.Header["Idempotency-Key"]; ok {
		if len(key) != 1 || !isWord(strings.ReplaceAll(key[0], " ", "_")) {
			return ingest.Result{}, refuse(http.StatusBadRequest, "the Idempotency-Key is not valid",
				at("header.Idempotency-Key", "has to be 1 to 255 printable ASCII characters, once"))
		}
		hash := sha256.New()
		hash.Write([]byte(r.URL.Path + "\n"))
		hash.Write(body)
		req.Idempotency = &ingest.Idempotency{APIKeyID: keyID(ctx), Key: key[0]}
		hash.Sum(req.Idempotency.RequestHash[:0])
	}
	res, err := s.Recorder.Record(ctx, req)
	if errors.Is(err, ingest.ErrEventConflict) {
		if err = s.sameButForTime(ctx, raws, evs, location); err == nil {
			res, err = s.Recorder.Record(ctx, req)
		}
	}
	var refused *huma.ErrorModel
	switch {
	case err == nil:
		return res, nil
	case errors.As(err, &refused):
		return ingest.Result{}, err
	}
	return ingest.Result{}, s.answerToRecord(ctx, err)
}

// sameButForTime looks at events of which at least one is recorded already with
// another body. Those that differ only in the time that was filled in, because
// they came without one, become the recorded ones; the first that differs
// otherwise is named in the error.
func (s *Server) sameButForTime(ctx context.Context, raws []json.RawMessage, evs []events.Event, location string) error {
	for i, ev := range evs {
		stored, err := s.Store.Event(ctx, ev.ID, ev.EnvironmentID)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return s.answerTo(ctx, err, "event")
		}
		again, err := s.complete(raws[i], stored.OccurredAt)
		if err != nil || !bytes.Equal(stored.Body, again.Body()) {
			where := location
			if where == "" {
				where = fmt.Sprintf("body[%d].id", i)
			}
			return refuse(http.StatusConflict, "an event with this id and another body is recorded", at(where, "is that of another event"))
		}
		evs[i] = again
	}
	return nil
}
