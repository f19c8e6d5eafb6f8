package api

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/signing"
)

func endpointOf(e store.Endpoint) Endpoint {
	out := Endpoint{
		ID: e.ID, Name: e.Name, URL: e.URL, EventTypes: e.EventTypes, OrganizationIDs: e.OrganizationIDs, State: e.State,
		DisabledReason: e.DisabledReason, Paused: e.Paused, TimeoutSeconds: e.Timeout.Seconds(), Concurrency: e.Concurrency,
		Keys: make([]EndpointKey, len(e.Keys)), CreatedAt: e.CreatedAt.UTC(), UpdatedAt: e.UpdatedAt.UTC(),
	}
	for _, d := range e.Schedule {
		out.RetrySchedule = append(out.RetrySchedule, d.Seconds())
	}
	for i, k := range e.Keys {
		out.Keys[i] = EndpointKey{ID: k.ID, CreatedAt: k.CreatedAt.UTC(), ExpiresAt: utc(k.ExpiresAt)}
	}
	return out
}

// utc keeps the zero time zero.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

func (s *Server) registerEndpoints(a huma.API) {
	const tag, one = "endpoints", "/v1/endpoints/{id}"
	huma.Register(a, route("list-endpoints", http.MethodGet, "/v1/endpoints", tag, "List endpoints", http.StatusOK), s.listEndpoints)
	huma.Register(a, route("create-endpoint", http.MethodPost, "/v1/endpoints", tag, "Create an endpoint", http.StatusCreated), s.createEndpoint)
	huma.Register(a, route("get-endpoint", http.MethodGet, one, tag, "Get an endpoint", http.StatusOK, http.StatusNotFound), s.getEndpoint)
	huma.Register(a, route("update-endpoint", http.MethodPatch, one, tag, "Change an endpoint", http.StatusOK, http.StatusNotFound), s.updateEndpoint)
	huma.Register(a, route("delete-endpoint", http.MethodDelete, one, tag, "Delete an endpoint and cancel its open deliveries", http.StatusNoContent, http.StatusNotFound), s.deleteEndpoint)
	huma.Register(a, route("disable-endpoint", http.MethodPost, one+"/disable", tag, "Disable an endpoint and cancel its open deliveries", http.StatusOK, http.StatusNotFound), s.disableEndpoint)
	huma.Register(a, route("enable-endpoint", http.MethodPost, one+"/enable", tag, "Enable an endpoint", http.StatusOK, http.StatusNotFound), s.enableEndpoint)
	huma.Register(a, route("pause-endpoint", http.MethodPost, one+"/pause", tag, "Make an endpoint's deliveries wait", http.StatusOK, http.StatusNotFound), s.pauseEndpoint)
	huma.Register(a, route("resume-endpoint", http.MethodPost, one+"/resume", tag, "Send what waits for an endpoint", http.StatusOK, http.StatusNotFound), s.resumeEndpoint)
	huma.Register(a, route("rotate-endpoint-key", http.MethodPost, one+"/rotate", tag, "Sign with a new key", http.StatusOK, http.StatusNotFound, http.StatusConflict), s.rotateEndpointKey)
	huma.Register(a, route("test-endpoint", http.MethodPost, one+"/test", tag, "Send a test event to this endpoint alone", http.StatusAccepted, http.StatusNotFound, http.StatusConflict), s.testEndpoint)
}

func (s *Server) listEndpoints(ctx context.Context, in *struct {
	Paging
	State string `query:"state" enum:"enabled,disabled"`
},
) (*body[Page[Endpoint]], error) {
	es, next, err := s.Store.ListEndpoints(ctx, in.State, in.page())
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	return listed(es, next, endpointOf), nil
}

// Bounds of an endpoint's lists.
const (
	maxTypes         = 100
	maxOrganizations = 1000
	maxDelay         = 7 * 24 * time.Hour
	defaultOverlap   = 24 * time.Hour
)

func (s *Server) checkEndpoint(e *store.Endpoint) (faults []*huma.ErrorDetail) {
	if strings.TrimSpace(e.Name) == "" {
		faults = append(faults, at("body.name", "is blank"))
	}
	if s.CheckURL != nil {
		if err := s.CheckURL(e.URL); err != nil {
			faults = append(faults, at("body.url", err.Error()))
		}
	}
	for i, t := range e.EventTypes {
		if t != "*" && (!isWord(t) || strings.Contains(t, "*")) {
			faults = append(faults, at(fmt.Sprintf("body.event_types[%d]", i), "is neither * nor the name of a type"))
		}
	}
	for i, o := range e.OrganizationIDs {
		if !isWord(o) || !strings.HasPrefix(o, "org_") || o == "org_" {
			faults = append(faults, at(fmt.Sprintf("body.organization_ids[%d]", i), "has to begin with org_ and be an id"))
		}
	}
	for i, d := range e.Schedule {
		if d < 0 || d > maxDelay {
			faults = append(faults, at(fmt.Sprintf("body.retry_schedule[%d]", i), "has to be 0 to 604800 seconds"))
		}
	}
	return faults
}

// durations reads seconds; what is out of range stays so.
func durations(seconds []float64) []time.Duration {
	var out []time.Duration
	for _, s := range seconds {
		out = append(out, time.Duration(math.Max(-1, math.Min(s, 1e9))*float64(time.Second)))
	}
	return out
}

// newKey reads a secret that signs, or makes one if there is none.
func newKey(secret string) (signing.Key, error) {
	if secret == "" {
		return signing.NewKey(), nil
	}
	key, err := signing.ParseKey(secret)
	if err != nil {
		return signing.Key{}, err
	}
	if !key.CanSign() {
		return signing.Key{}, fmt.Errorf("%w: it cannot sign; give whsec_ or whsk_", signing.ErrInvalidKey)
	}
	return key, nil
}

func (s *Server) createEndpoint(ctx context.Context, in *body[NewEndpoint]) (*body[Endpoint], error) {
	b := in.Body
	e := store.Endpoint{
		Name: b.Name, URL: b.URL, EventTypes: unique(b.EventTypes), OrganizationIDs: unique(b.OrganizationIDs),
		Schedule: durations(b.RetrySchedule), Timeout: seconds(b.TimeoutSeconds), Concurrency: b.Concurrency,
	}
	faults := s.checkEndpoint(&e)
	key, err := newKey(b.Secret)
	if err != nil {
		faults = append(faults, at("body.secret", err.Error()))
	}
	if err := invalid(faults...); err != nil {
		return nil, err
	}
	e, err = s.Store.CreateEndpoint(ctx, e, key)
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	out := endpointOf(e)
	out.Secret = key.Secret()
	return &body[Endpoint]{out}, nil
}

func seconds(n float64) time.Duration { return time.Duration(n * float64(time.Second)) }

// unique drops what is there twice and keeps the order.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(slices.Clone(list), func(v string) bool {
		again := seen[v]
		seen[v] = true
		return again
	})
}

func (s *Server) getEndpoint(ctx context.Context, in *ByID) (*body[Endpoint], error) {
	e, err := s.Store.Endpoint(ctx, in.ID)
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	return &body[Endpoint]{endpointOf(e)}, nil
}

func (s *Server) updateEndpoint(ctx context.Context, in *struct {
	ByID
	Body EndpointChange
},
) (*body[Endpoint], error) {
	b := in.Body
	e, err := s.Store.UpdateEndpoint(ctx, in.ID, func(e *store.Endpoint) error {
		set(&e.Name, b.Name)
		set(&e.Concurrency, b.Concurrency)
		if b.URL != nil {
			e.URL = *b.URL
		}
		if b.EventTypes != nil {
			e.EventTypes = unique(*b.EventTypes)
		}
		if b.OrganizationIDs != nil {
			e.OrganizationIDs = unique(*b.OrganizationIDs)
		}
		if b.RetrySchedule != nil {
			e.Schedule = durations(*b.RetrySchedule)
		}
		if b.TimeoutSeconds != nil {
			e.Timeout = seconds(*b.TimeoutSeconds)
			if e.Timeout != 0 && e.Timeout < 100*time.Millisecond {
				return invalid(at("body.timeout_seconds", "has to be 0 or at least 0.1"))
			}
		}
		faults := s.checkEndpoint(e)
		if b.URL == nil { // one that was allowed when it was set does not hinder other changes
			faults = slices.DeleteFunc(faults, func(d *huma.ErrorDetail) bool { return d.Location == "body.url" })
		}
		return invalid(faults...)
	})
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	return &body[Endpoint]{endpointOf(e)}, nil
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Server) deleteEndpoint(ctx context.Context, in *ByID) (*struct{}, error) {
	if err := s.Store.DeleteEndpoint(ctx, in.ID); err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	return nil, nil
}

func (s *Server) disableEndpoint(ctx context.Context, in *ByID) (*body[Endpoint], error) {
	if err := s.Store.DisableEndpoint(ctx, in.ID, "by an operator"); err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	return s.getEndpoint(ctx, in)
}

func (s *Server) enableEndpoint(ctx context.Context, in *ByID) (*body[Endpoint], error) {
	if err := s.Store.EnableEndpoint(ctx, in.ID); err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	return s.getEndpoint(ctx, in)
}

func (s *Server) pauseEndpoint(ctx context.Context, in *ByID) (*body[Endpoint], error) {
	return s.setPaused(ctx, in, true)
}

func (s *Server) resumeEndpoint(ctx context.Context, in *ByID) (*body[Endpoint], error) {
	return s.setPaused(ctx, in, false)
}

func (s *Server) setPaused(ctx context.Context, in *ByID, paused bool) (*body[Endpoint], error) {
	if err := s.Store.PauseEndpoint(ctx, in.ID, paused); err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	return s.getEndpoint(ctx, in)
}

// rotation is the request of both rotations.
type rotation struct {
	ByID
	Body *Rotation
}

func (r rotation) overlap() time.Duration {
	if r.Body == nil || r.Body.OverlapSeconds == nil {
		return defaultOverlap
	}
	return seconds(*r.Body.OverlapSeconds)
}

func (r rotation) secret() string {
	if r.Body == nil {
		return ""
	}
	return r.Body.Secret
}

func (s *Server) rotateEndpointKey(ctx context.Context, in *rotation) (*body[Endpoint], error) {
	key, err := newKey(in.secret())
	if err != nil {
		return nil, invalid(at("body.secret", err.Error()))
	}
	e, err := s.Store.RotateEndpointKey(ctx, in.ID, key, in.overlap())
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.endpointsChanged()
	out := endpointOf(e)
	out.Secret = key.Secret()
	return &body[Endpoint]{out}, nil
}

func (s *Server) testEndpoint(ctx context.Context, in *ByID) (*body[Delivery], error) {
	raw, err := json.Marshal(map[string]any{
		"type": store.EventTypeTest, "object": "Test", "display_name": "Test Event",
		"data": map[string]string{"endpoint_id": in.ID, "message": "Sent by an operator to see whether this endpoint works."},
	})
	if err != nil {
		return nil, err
	}
	ev, err := events.Complete(raw, s.defaults())
	if err != nil {
		return nil, fmt.Errorf("build test event: %w", err)
	}
	d, err := s.Store.InsertTestDelivery(ctx, in.ID, ev)
	if err != nil {
		return nil, s.answerTo(ctx, err, "endpoint")
	}
	s.due(d.EndpointID)
	return &body[Delivery]{deliveryOf(d)}, nil
}
