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
	fields := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		fields[i] = strings.TrimPrefix(f.Field+": "+f.Message, ": ")
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

func (c *Client) get(ctx context.Context, path string, query url.Values, out any) error {
	return c.do(ctx, request{method: http.MethodGet, path: path, query: query, out: out})
}

func (c *Client) post(ctx context.Context, path string, in, out any) error {
	return c.do(ctx, request{method: http.MethodPost, path: path, in: in, out: out})
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

// A page is what every list answers.
type page[T any] struct {
	Data       []T    `json:"data"`
	NextCursor string `json:"next_cursor"`
}

// pages walks a list from page to page, until the end or the first error.
func pages[T any](ctx context.Context, c *Client, path string, query url.Values) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		query := maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		for {
			var p page[T]
			if err := c.get(ctx, path, query, &p); err != nil {
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
