// Package api is the operator API: its server, its client, and what goes over
// the wire between them.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
)

// A Recorder records events. When Record returns without an error they are
// committed; after an error nothing was recorded. It is called concurrently.
type Recorder interface {
	Record(ctx context.Context, req ingest.Request) (ingest.Result, error)
}

// A Server serves the operator API.
type Server struct {
	Store     *store.Store
	Recorder  Recorder
	Directory Directory

	// CheckURL says what is wrong with an endpoint's URL; nil: nothing ever is.
	CheckURL func(raw string) error
	// What changed is announced to these; each may be nil.
	OnEndpointsChanged func()
	OnSourcesChanged   func()
	OnReplay           func()
	OnDue              func(endpointIDs ...string) // deliveries became due
	// A client was revoked; a directory was changed, or opens with other tokens.
	OnClientsChanged     func()
	OnDirectoriesChanged func()

	// Failures are the API keys, by address, that were not valid. An address that
	// sent too many of them has to wait; keys that were valid a moment ago do not.
	// The zero value is ready.
	Failures limit.Limiter
	// Address is what Failures knows the sender of a request by; nil: the address
	// that the connection comes from. Behind a proxy that is the same for all.
	Address func(r *http.Request) string

	EnvironmentID string // of published events that name none
	Version       string
	Now           func() time.Time // nil: time.Now
	Log           *slog.Logger     // nil: none

	keys keys
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (s *Server) endpointsChanged() {
	if s.OnEndpointsChanged != nil {
		s.OnEndpointsChanged()
	}
}

func (s *Server) sourcesChanged() {
	if s.OnSourcesChanged != nil {
		s.OnSourcesChanged()
	}
}

func (s *Server) due(endpointIDs ...string) {
	if s.OnDue != nil && len(endpointIDs) > 0 {
		s.OnDue(endpointIDs...)
	}
}

// maxBody bounds the bodies of all requests but those that publish events.
const maxBody = 1 << 20

// Handler serves the API and its description.
func (s *Server) Handler() http.Handler {
	if s.Failures.Now == nil {
		s.Failures.Now = s.now
	}
	mux := http.NewServeMux()
	described := s.register(mux)
	mux.HandleFunc("POST /v1/events", s.publish)
	mux.HandleFunc("POST /v1/events/batch", atMost(maxBatches, s.publishBatch))
	description, err := json.Marshal(described)
	if err != nil {
		panic(fmt.Sprintf("describe the API: %v", err)) // the same at every start: a test meets it
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { unknown(mux, w, r) })
	private := s.authenticate(mux)

	all := http.NewServeMux()
	all.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(description) // a client that went away is no concern of ours
	})
	all.Handle("/v1/", private)
	all.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { unknown(all, w, r) })
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		if err := checkURL(r.URL); err != nil {
			writeError(w, err)
			return
		}
		all.ServeHTTP(w, r)
	})
}

// register puts all routes but the two that publish on mux, and describes all.
func (s *Server) register(mux *http.ServeMux) *huma.OpenAPI {
	config := huma.DefaultConfig("Handover", s.Version)
	config.Info.Description = "Hands over what a person leaves behind: who is a member of what, and endpoints, events, deliveries, replays."
	config.OpenAPIPath, config.DocsPath, config.SchemasPath, config.CreateHooks = "", "", "", nil
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{discreet}
	format := huma.Format{Marshal: huma.DefaultJSONFormat.Marshal, Unmarshal: unmarshal}
	config.Formats = map[string]huma.Format{"application/json": format, "json": format} // json: of application/problem+json
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"apiKey": {Type: "http", Scheme: "bearer", Description: "An API key, hk_…"},
	}
	config.Security = []map[string][]string{{"apiKey": {}}}
	a := humago.New(bounded{mux}, config)
	s.registerEndpoints(a)
	s.registerEvents(a)
	s.registerDeliveries(a)
	s.registerReplays(a)
	s.registerSources(a)
	s.registerAPIKeys(a)
	s.registerOrganizations(a)
	s.registerMembers(a)
	s.registerUsers(a)
	s.registerSessions(a)
	s.registerDirectories(a)
	s.registerClients(a)
	return a.OpenAPI()
}

// route describes an operation; the statuses are those it may refuse with
// beside the ones that every operation has.
func route(id, method, path, tag, summary string, success int, refusals ...int) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Summary: summary, Tags: []string{tag}, DefaultStatus: success,
		Errors: append([]int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable}, refusals...),
	}
}

// bounded reads the body of a request before its handler does, so that what is
// wrong with it is the sender's fault and not an error of ours.
type bounded struct{ *http.ServeMux }

func (b bounded) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	b.ServeMux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		body, err := readBody(w, r, maxBody)
		if err == nil && len(body) > 0 && !utf8.Valid(body) {
			err = refuse(http.StatusBadRequest, "the body is not UTF-8", at("body", "is not UTF-8"))
		}
		if err != nil {
			writeError(w, err)
			return
		}
		if len(body) > 0 {
			r.Header.Set("Content-Type", "application/json")
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		handler(w, r)
	})
}

// readBody reads a JSON body of at most so many bytes.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := refuse(http.StatusRequestEntityTooLarge, "the body is larger than "+strconv.FormatInt(limit, 10)+" bytes", at("body", "is too large"))
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close")
		return nil, tooLarge
	}
	if r.ContentLength != 0 {
		if encoding := r.Header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
			return nil, refuse(http.StatusUnsupportedMediaType, "send the body as it is", at("header.Content-Encoding", "is not supported"))
		}
		if media := r.Header.Get("Content-Type"); media != "" && media != "application/json" {
			media, _, err := mime.ParseMediaType(media)
			if err != nil || media != "application/json" {
				return nil, refuse(http.StatusUnsupportedMediaType, "send the body as application/json", at("header.Content-Type", "is not application/json"))
			}
		}
	}
	var body bytes.Buffer
	body.Grow(int(max(min(r.ContentLength, limit), 0)) + bytes.MinRead)
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, tooLarge
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, refuse(http.StatusRequestTimeout, "the body came too slowly", at("body", "came too slowly"))
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "the body could not be read to its end", at("body", "ended early"))
	}
	return body.Bytes(), nil
}

// unmarshal is encoding/json's. Of two readings of a body the first is into an
// any; that one refuses what the second would not see: keys that are there
// twice, and NUL, which PostgreSQL cannot store.
func unmarshal(data []byte, v any) error {
	tree, first := v.(*any)
	if first {
		if err := checkKeys(data); err != nil {
			return err
		}
	}
	if err := json.Unmarshal(data, v); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return fmt.Errorf("is not JSON: %w", err)
		}
		return err
	}
	if first && hasNUL(*tree) {
		return errors.New("has a NUL character")
	}
	return nil
}

// checkKeys refuses objects in which a key is there twice: encoding/json takes
// the last, whatever is in front of us may have looked at the first. It takes
// keys that differ in case for the same one, so they are. What is not JSON is
// left to the reading.
func checkKeys(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	type level struct {
		keys  map[string]bool // nil: an array
		value bool            // a value comes next, not a key
	}
	var open []level
	for {
		token, err := d.Token()
		if err != nil {
			return nil // the end, or what the reading says better
		}
		var in *level
		if len(open) > 0 {
			in = &open[len(open)-1]
		}
		if key, ok := token.(string); ok && in != nil && in.keys != nil && !in.value {
			folded := strings.ToLower(strings.ToUpper(key)) // at least as much as encoding/json does
			if in.keys[folded] {
				return fmt.Errorf("has the key %q twice in one object", short(key))
			}
			in.keys[folded], in.value = true, true
			continue
		}
		switch token {
		case json.Delim('}'), json.Delim(']'):
			open = open[:len(open)-1]
			continue
		}
		if in != nil {
			in.value = false
		}
		switch token {
		case json.Delim('{'):
			open = append(open, level{keys: make(map[string]bool)})
		case json.Delim('['):
			open = append(open, level{})
		}
		if len(open) > events.MaxDepth {
			return errors.New("is nested too deeply")
		}
	}
}

func hasNUL(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, "\x00")
	case []any:
		for _, item := range v {
			if hasNUL(item) {
				return true
			}
		}
	case map[string]any:
		for key, item := range v {
			if hasNUL(key) || hasNUL(item) {
				return true
			}
		}
	}
	return false
}

// checkURL refuses what no path or parameter of ours can hold.
func checkURL(u *url.URL) error {
	if !utf8.ValidString(u.Path) || strings.Contains(u.Path, "\x00") {
		return refuse(http.StatusBadRequest, "the path is not valid", at("path", "has a NUL character, or is not UTF-8"))
	}
	if u.RawQuery == "" {
		return nil
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return refuse(http.StatusBadRequest, "the query is not valid", at("query", "is not URL-encoded"))
	}
	for name, values := range query {
		for _, v := range append(values, name) {
			if !utf8.ValidString(v) || strings.Contains(v, "\x00") {
				return refuse(http.StatusBadRequest, "the query is not valid", at("query."+short(strings.ToValidUTF8(name, "?")), "has a NUL character, or is not UTF-8"))
			}
		}
		if len(values) > 1 {
			return refuse(http.StatusBadRequest, "the query is not valid", at("query."+short(name), "is there more than once"))
		}
	}
	return nil
}

// unknown answers what no route took: 405 when another method would be, else 404.
func unknown(mux *http.ServeMux, w http.ResponseWriter, r *http.Request) {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := mux.Handler(other); pattern != "/" && pattern != "" && pattern != "/v1/" {
			allowed = append(allowed, method)
		}
	}
	if len(allowed) > 0 {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeError(w, refuse(http.StatusMethodNotAllowed, "this path is for "+strings.Join(allowed, ", ")))
		return
	}
	writeError(w, refuse(http.StatusNotFound, "there is nothing at this path"))
}

// Paging is what every list takes. It is exported, like the others that are
// embedded in requests, because huma passes over embedded fields that are not.
type Paging struct {
	Cursor string `query:"cursor" maxLength:"400" doc:"Where the page before ended: its next_cursor."`
	Limit  int    `query:"limit" minimum:"1" maximum:"200" default:"50"`
}

func (p Paging) page() store.Page { return store.Page{Cursor: p.Cursor, Limit: p.Limit} }

// body is an answer that has one.
type body[T any] struct{ Body T }

// listed makes the answer of a list.
func listed[R, W any](rows []R, next string, wire func(R) W) *body[Page[W]] {
	page := Page[W]{Data: make([]W, len(rows)), NextCursor: next}
	for i, row := range rows {
		page.Data[i] = wire(row)
	}
	return &body[Page[W]]{page}
}

// ByID is what names one thing in a path.
type ByID struct {
	ID string `path:"id" maxLength:"255"`
}

// isWord tells whether s can be an id or the name of a type.
func isWord(s string) bool {
	if s == "" || len(s) > events.MaxID {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
