package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// What a client reads of an answer at most.
const maxAnswer = 64 << 20

// A Client talks to the operator API of a running service. Its zero value talks
// to http://127.0.0.1:8080 without a key. It is safe for concurrent use.
//
// What the API refuses comes back as an [*Error]. A GET is tried once more when
// it got no answer, or one that says that the service is not there at the
// moment; nothing else is.
type Client struct {
	BaseURL string
	Key     string       // API key
	HTTP    *http.Client // nil: one that gives up after 30 s
}

var defaultHTTP = &http.Client{Timeout: 30 * time.Second}

// DefaultURL is where a service listens when nothing else is said.
const DefaultURL = "http://127.0.0.1:8080"

// An Error is what the API answered instead of a result: a problem document
// (RFC 9457), or the status alone when something else answered.
type Error struct {
	Status int
	Title  string
	Detail string
	Fields []FieldError
}

// A FieldError says what is wrong with one field of a request.
type FieldError struct {
	Field   string // such as body.url
	Message string
}

func (e *Error) Error() string {
	text := cmp.Or(e.Detail, e.Title, http.StatusText(e.Status))
	var fields []string
	for _, f := range e.Fields {
		if !strings.Contains(text, f.Message) { // it may have been said already
			fields = append(fields, strings.TrimPrefix(f.Field+": "+f.Message, ": "))
		}
	}
	if len(fields) > 0 {
		text += ": " + strings.Join(fields, "; ")
	}
	return text
}

// A ConnectError says that the service could not be asked at all.
type ConnectError struct {
	URL string // without credentials
	Err error
}

func (e *ConnectError) Error() string { return fmt.Sprintf("cannot reach %s: %v", e.URL, e.Err) }

// Unwrap gives the cause.
func (e *ConnectError) Unwrap() error { return e.Err }

// request is one call: in is JSON to send, as it is when it is a []byte; out
// receives the answer.
type request struct {
	method, path   string
	query          url.Values
	in, out        any
	idempotencyKey string
}

func (c *Client) do(ctx context.Context, r request) error {
	body, err := encode(r.in)
	if err != nil {
		return err
	}
	base, err := url.Parse(cmp.Or(c.BaseURL, DefaultURL))
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return errors.New("the service's URL must look like " + DefaultURL)
	}
	u := base.JoinPath(r.path)
	u.RawQuery = r.query.Encode()
	err = c.once(ctx, r, u, body)
	if r.method == http.MethodGet && passing(err) && ctx.Err() == nil {
		err = c.once(ctx, r, u, body)
	}
	return err
}

// passing tells whether the next try may go better.
func passing(err error) bool {
	var connect *ConnectError
	var answer *Error
	return errors.As(err, &connect) ||
		errors.As(err, &answer) && (answer.Status == http.StatusBadGateway || answer.Status == http.StatusServiceUnavailable || answer.Status == http.StatusGatewayTimeout)
}

func encode(in any) ([]byte, error) {
	switch in := in.(type) {
	case nil:
		return nil, nil
	case []byte:
		return in, nil
	}
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	return body, nil
}

func (c *Client) once(ctx context.Context, r request, u *url.URL, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, r.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("build request: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "handover")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	if r.idempotencyKey != "" {
		req.Header.Set("Idempotency-Key", r.idempotencyKey)
	}
	res, err := cmp.Or(c.HTTP, defaultHTTP).Do(req)
	if err != nil {
		var wrapped *url.Error
		if errors.As(err, &wrapped) {
			err = wrapped.Err // its text repeats the URL
		}
		return &ConnectError{URL: (&url.URL{Scheme: u.Scheme, Host: u.Host}).String(), Err: err}
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return &ConnectError{URL: (&url.URL{Scheme: u.Scheme, Host: u.Host}).String(), Err: fmt.Errorf("read answer: %w", err)}
	case len(answer) > maxAnswer:
		return fmt.Errorf("read answer: more than %d bytes", maxAnswer)
	case res.StatusCode < 200 || res.StatusCode > 299:
		return problem(res, answer)
	case r.out == nil:
		return nil
	}
	if err := json.Unmarshal(answer, r.out); err != nil {
		return fmt.Errorf("read answer of %s: it is not what this API answers: %w", u.Path, err)
	}
	return nil
}

// problem reads an answer that is no success.
func problem(res *http.Response, body []byte) error {
	e := &Error{Status: res.StatusCode, Title: http.StatusText(res.StatusCode)}
	media, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || media != "application/problem+json" {
		e.Detail = fmt.Sprintf("answered %d, and not as this API does", res.StatusCode)
		return e
	}
	var doc struct {
		Title, Detail string
		Errors        []struct{ Location, Message string }
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return e
	}
	e.Title, e.Detail = cmp.Or(doc.Title, e.Title), doc.Detail
	for _, f := range doc.Errors {
		e.Fields = append(e.Fields, FieldError{Field: f.Location, Message: f.Message})
	}
	return e
}

// pages walks a list from page to page, until the end or the first error.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		query.Set("limit", "100")
		for {
			var p Page[T]
			if err := c.do(ctx, request{method: http.MethodGet, path: path, query: query, out: &p}); err != nil {
				yield(*new(T), err)
				return
			}
			for _, item := range p.Data {
				if !yield(item, nil) {
					return
				}
			}
			if p.NextCursor == "" || p.NextCursor == query.Get("cursor") {
				return
			}
			query.Set("cursor", p.NextCursor)
		}
	}
}

// values makes a query of what is set.
func values(pairs ...string) url.Values {
	q := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	return q
}

func text(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func send[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	err := c.do(ctx, request{method: method, path: path, in: in, out: &out})
	return out, err
}

// under joins the segments of a path, each escaped.
func under(segments ...string) string {
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return "/v1/" + strings.Join(segments, "/")
}

// Endpoints lists endpoints, newest first; state is empty for all that are not
// deleted.
func (c *Client) Endpoints(ctx context.Context, state string) iter.Seq2[Endpoint, error] {
	return pages[Endpoint](ctx, c, "/v1/endpoints", values("state", state))
}

// Endpoint returns one endpoint.
func (c *Client) Endpoint(ctx context.Context, id string) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodGet, under("endpoints", id), nil)
}

// CreateEndpoint creates an endpoint. The answer holds its secret, this once.
func (c *Client) CreateEndpoint(ctx context.Context, e NewEndpoint) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPost, under("endpoints"), e)
}

// UpdateEndpoint changes what is set in change.
func (c *Client) UpdateEndpoint(ctx context.Context, id string, change EndpointChange) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPatch, under("endpoints", id), change)
}

// DeleteEndpoint deletes an endpoint; its open deliveries are canceled.
func (c *Client) DeleteEndpoint(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: under("endpoints", id)})
}

// DisableEndpoint stops sending to an endpoint; its open deliveries are canceled.
func (c *Client) DisableEndpoint(ctx context.Context, id string) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPost, under("endpoints", id, "disable"), nil)
}

// EnableEndpoint sends to an endpoint again, from the next event on.
func (c *Client) EnableEndpoint(ctx context.Context, id string) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPost, under("endpoints", id, "enable"), nil)
}

// PauseEndpoint makes an endpoint's deliveries wait.
func (c *Client) PauseEndpoint(ctx context.Context, id string) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPost, under("endpoints", id, "pause"), nil)
}

// ResumeEndpoint sends what waits for an endpoint.
func (c *Client) ResumeEndpoint(ctx context.Context, id string) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPost, under("endpoints", id, "resume"), nil)
}

// RotateEndpoint gives an endpoint another secret, which the answer holds this
// once; requests carry signatures of both until the overlap is over.
func (c *Client) RotateEndpoint(ctx context.Context, id string, r Rotation) (Endpoint, error) {
	return send[Endpoint](ctx, c, http.MethodPost, under("endpoints", id, "rotate"), r)
}

// TestEndpoint sends an event handover.test to one endpoint.
func (c *Client) TestEndpoint(ctx context.Context, id string) (Delivery, error) {
	return send[Delivery](ctx, c, http.MethodPost, under("endpoints", id, "test"), nil)
}

// PublishEvent publishes one event, given in JSON. With an idempotency key, the
// same call again has no second effect.
func (c *Client) PublishEvent(ctx context.Context, event []byte, idempotencyKey string) (Published, error) {
	var out Published
	err := c.do(ctx, request{method: http.MethodPost, path: "/v1/events", in: event, out: &out, idempotencyKey: idempotencyKey})
	return out, err
}

// PublishEvents publishes a JSON array of up to 1,000 events, all or nothing.
func (c *Client) PublishEvents(ctx context.Context, events []byte, idempotencyKey string) (PublishedBatch, error) {
	var out PublishedBatch
	err := c.do(ctx, request{method: http.MethodPost, path: "/v1/events/batch", in: events, out: &out, idempotencyKey: idempotencyKey})
	return out, err
}

// An EventFilter selects events; what is empty does not restrict.
type EventFilter struct {
	Type, OrganizationID, UserID string
	Since, Until                 time.Time // recorded
}

// Events lists events without their bodies, newest first.
func (c *Client) Events(ctx context.Context, f EventFilter) iter.Seq2[Event, error] {
	return pages[Event](ctx, c, "/v1/events", values("type", f.Type, "organization_id", f.OrganizationID,
		"user_id", f.UserID, "since", text(f.Since), "until", text(f.Until)))
}

// Event returns one event with its body. The environment is needed only where
// several have an event of this id.
func (c *Client) Event(ctx context.Context, id, environmentID string) (Event, error) {
	var out Event
	err := c.do(ctx, request{method: http.MethodGet, path: under("events", id), query: values("environment_id", environmentID), out: &out})
	return out, err
}

// A DeliveryFilter selects deliveries; what is empty does not restrict.
type DeliveryFilter struct {
	State, EndpointID, EventID, OrganizationID, UserID string
	Since, Until                                       time.Time // created
}

// Deliveries lists deliveries without their attempts, newest first.
func (c *Client) Deliveries(ctx context.Context, f DeliveryFilter) iter.Seq2[Delivery, error] {
	return pages[Delivery](ctx, c, "/v1/deliveries", values("state", f.State, "endpoint_id", f.EndpointID, "event_id", f.EventID,
		"organization_id", f.OrganizationID, "user_id", f.UserID, "since", text(f.Since), "until", text(f.Until)))
}

// Delivery returns one delivery with its attempts.
func (c *Client) Delivery(ctx context.Context, id string) (Delivery, error) {
	return send[Delivery](ctx, c, http.MethodGet, under("deliveries", id), nil)
}

// RetryDelivery makes a delivery due now, from the start of the schedule.
func (c *Client) RetryDelivery(ctx context.Context, id string) (Delivery, error) {
	return send[Delivery](ctx, c, http.MethodPost, under("deliveries", id, "retry"), nil)
}

// CancelDelivery gives a delivery up; the person's next one at the endpoint goes.
func (c *Client) CancelDelivery(ctx context.Context, id string) (Delivery, error) {
	return send[Delivery](ctx, c, http.MethodPost, under("deliveries", id, "cancel"), nil)
}

// Replays lists replays, newest first.
func (c *Client) Replays(ctx context.Context) iter.Seq2[Replay, error] {
	return pages[Replay](ctx, c, "/v1/replays", nil)
}

// Replay returns one replay.
func (c *Client) Replay(ctx context.Context, id string) (Replay, error) {
	return send[Replay](ctx, c, http.MethodGet, under("replays", id), nil)
}

// CreateReplay sends deliveries again, in the background, or counts them.
func (c *Client) CreateReplay(ctx context.Context, r NewReplay) (Replay, error) {
	return send[Replay](ctx, c, http.MethodPost, under("replays"), r)
}

// CancelReplay stops a replay; what it has sent again stays so.
func (c *Client) CancelReplay(ctx context.Context, id string) (Replay, error) {
	return send[Replay](ctx, c, http.MethodPost, under("replays", id, "cancel"), nil)
}

// Sources lists sources, newest first.
func (c *Client) Sources(ctx context.Context) iter.Seq2[Source, error] {
	return pages[Source](ctx, c, "/v1/sources", nil)
}

// Source returns one source.
func (c *Client) Source(ctx context.Context, id string) (Source, error) {
	return send[Source](ctx, c, http.MethodGet, under("sources", id), nil)
}

// CreateSource creates a source. The answer holds its secret, this once, when
// it was generated.
func (c *Client) CreateSource(ctx context.Context, s NewSource) (Source, error) {
	return send[Source](ctx, c, http.MethodPost, under("sources"), s)
}

// UpdateSource changes what is set in change.
func (c *Client) UpdateSource(ctx context.Context, id string, change SourceChange) (Source, error) {
	return send[Source](ctx, c, http.MethodPatch, under("sources", id), change)
}

// RotateSource adds a secret to a source; the older ones hold until the overlap
// is over.
func (c *Client) RotateSource(ctx context.Context, id string, r Rotation) (Source, error) {
	return send[Source](ctx, c, http.MethodPost, under("sources", id, "rotate"), r)
}

// DeleteSource deletes a source; nothing more is taken from it.
func (c *Client) DeleteSource(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: under("sources", id)})
}

// APIKeys lists API keys, newest first. The keys themselves are not known.
func (c *Client) APIKeys(ctx context.Context) iter.Seq2[APIKey, error] {
	return pages[APIKey](ctx, c, "/v1/api-keys", nil)
}

// CreateAPIKey creates an API key, which the answer holds this once.
func (c *Client) CreateAPIKey(ctx context.Context, name string) (APIKey, error) {
	return send[APIKey](ctx, c, http.MethodPost, under("api-keys"), NewAPIKey{Name: name})
}

// RevokeAPIKey makes an API key worthless. The one in use cannot revoke itself.
func (c *Client) RevokeAPIKey(ctx context.Context, id string) error {
	return c.do(ctx, request{method: http.MethodDelete, path: under("api-keys", id)})
}
