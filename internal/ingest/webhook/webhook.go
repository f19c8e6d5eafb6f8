// Package webhook receives the signed webhooks of identity providers.
//
// A webhook is read, verified over its raw bytes, parsed, and recorded; it is
// answered after the commit and before any app is told. Nothing that a sender
// can send is answered with a 5xx: that means that nothing was recorded.
//
// A source of the kind scalekit sends events as they are kept here. One of the
// kind standard follows the Standard Webhooks in any form of event; a mapping
// says what they mean.
package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/ingest/webhook/mapping"
	"github.com/handover-dev/handover/internal/limit"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/signing"
)

// A Recorder records events. When Record returns without an error they are
// committed; after an error nothing was recorded. It is called concurrently.
type Recorder interface {
	Record(ctx context.Context, req ingest.Request) (ingest.Result, error)
}

// A Directory records events that may change who is a member, and does what
// they mean. It makes the same promises as a Recorder, with the same errors.
type Directory interface {
	Apply(ctx context.Context, in directory.Inbound) (directory.Applied, error)
}

// A Handler serves POST /webhooks/{source}. What it counts by source is written
// by Run.
type Handler struct {
	Store    *store.Store
	Recorder Recorder
	// Directory gets the events of which Means is true; nil: the Recorder gets all.
	Directory Directory
	Means     func(eventType string) bool // nil: directory.Means
	// OnReject is told of every webhook that is not taken: the name of its source,
	// UnknownSource if there is none of that name, and a reason of [Reasons]. nil:
	// nobody.
	OnReject func(source, reason string)
	// Failures are the signatures, by source and address, that did not hold. An
	// address that sent too many of them is told to wait before it sends more. The
	// zero value is ready.
	Failures limit.Limiter
	// Address is what Failures knows the sender of a request by; nil: the address
	// that the connection comes from. Behind a proxy that is the same for all.
	Address func(r *http.Request) string
	Now     func() time.Time // nil: time.Now
	Log     *slog.Logger     // nil: none

	tally    tally
	mu       sync.RWMutex
	sources  map[string]*source
	reading  singleflight.Group // by name
	forgot   int                // counts Forget, so that what was read before it is not remembered
	initOnce sync.Once
}

// UnknownSource stands for all sources that are not configured.
const UnknownSource = "unknown"

// Reasons for which a webhook is not taken.
const (
	ReasonSource      = "source"      // unknown or disabled
	ReasonMethod      = "method"      // not POST
	ReasonSize        = "size"        // more than 1 MiB
	ReasonBody        = "body"        // cut off, or too slow
	ReasonMedia       = "media"       // not JSON, or encoded
	ReasonHeader      = "header"      // a webhook-* header is missing or ill-formed
	ReasonTime        = "time"        // the timestamp is too old or too new
	ReasonSignature   = "signature"   // it matches no secret
	ReasonBlocked     = "blocked"     // too many signatures from this address did not hold
	ReasonEvent       = "event"       // it is not a valid event
	ReasonEnvironment = "environment" // it is of another environment than the source
	ReasonConflict    = "conflict"    // a known id with another body
	ReasonUnavailable = "unavailable" // it could not be recorded
)

// Reasons lists them.
func Reasons() []string {
	return []string{
		ReasonSource, ReasonMethod, ReasonSize, ReasonBody, ReasonMedia, ReasonHeader, ReasonTime, ReasonSignature,
		ReasonBlocked, ReasonEvent, ReasonEnvironment, ReasonConflict, ReasonUnavailable,
	}
}

const (
	// sourceMemory is for how long a source is believed to be as it was read.
	sourceMemory = time.Second
	// maxRecording bounds the wait for the commit: a sender gives up after 10 s.
	maxRecording = 9 * time.Second
	maxName      = 63
)

// Kinds of sources.
const (
	KindScalekit = "scalekit" // events in the form of Scalekit's
	KindStandard = "standard" // any, with a mapping
)

// What a webhook meant, beside the effects of package directory.
const (
	EffectIgnored  directory.Effect = "ignored"  // recorded; its type is not one that is known
	EffectUnmapped directory.Effect = "unmapped" // not recorded; the mapping does not have its type
)

// source is a source as it was read.
type source struct {
	store.Source
	readAt   time.Time
	verifier signing.Verifier
	mapping  *mapping.Compiled // of the kind standard
}

func (h *Handler) init() {
	h.initOnce.Do(func() {
		if h.Now == nil {
			h.Now = time.Now
		}
		if h.Log == nil {
			h.Log = slog.New(slog.DiscardHandler)
		}
		if h.Means == nil {
			h.Means = directory.Means
		}
		if h.Address == nil {
			h.Address = func(r *http.Request) string { return limit.Address(r.RemoteAddr) }
		}
		if h.Failures.Now == nil {
			h.Failures.Now = h.Now
		}
	})
}

// Forget makes the next request to each source read it again.
func (h *Handler) Forget() {
	h.mu.Lock()
	clear(h.sources)
	h.forgot++
	h.mu.Unlock()
}

// rejection is why a webhook is not taken, for its sender and for the metrics.
type rejection struct {
	status   int
	reason   string
	detail   string
	location string // the field at fault
	message  string
	allow    string
	wait     time.Duration // before it makes sense to try again
}

// outcome is what became of a webhook that was taken.
type outcome struct {
	ID        string           `json:"id,omitempty"` // of the event, as it was recorded first
	Duplicate bool             `json:"duplicate"`    // it was recorded before
	Effect    directory.Effect `json:"effect"`
}

func (o outcome) status() int {
	if o.Duplicate || o.Effect == directory.EffectKnown || o.Effect == EffectUnmapped {
		return http.StatusOK
	}
	return http.StatusCreated
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.init()
	arrived := h.Now()
	src, no := h.find(r, arrived)
	var out outcome
	if no == nil {
		out, no = h.take(w, r, src, arrived)
	}
	if no == nil {
		h.tally.add(src.ID, store.CountReceived, "", arrived)
		answer(w, out.status(), "application/json", out)
		return
	}
	name := UnknownSource
	if src != nil {
		name = src.Name
		h.tally.add(src.ID, store.CountRejected, no.reason, arrived)
	}
	if h.OnReject != nil {
		h.OnReject(name, no.reason)
	}
	answerNo(w, no)
}

// take does all that is to be done before the answer.
func (h *Handler) take(w http.ResponseWriter, r *http.Request, src *source, arrived time.Time) (outcome, *rejection) {
	if src.State != store.SourceEnabled {
		return outcome{}, noSource()
	}
	if r.Method != http.MethodPost {
		return outcome{}, &rejection{status: http.StatusMethodNotAllowed, reason: ReasonMethod, detail: "send webhooks with POST", allow: http.MethodPost}
	}
	body, no := read(w, r)
	if no == nil {
		no = checkMedia(r)
	}
	sender := src.ID + " " + h.Address(r)
	if no == nil {
		src, no = h.verify(r, src, body, arrived)
	}
	if no != nil {
		if no.status == http.StatusUnauthorized {
			no = h.slowDown(sender, no)
		}
		return outcome{}, no
	}
	parse := parseScalekit
	if src.mapping != nil {
		parse = parseMapped
	}
	ev, unmapped, no := parse(body, src, r.Header[signing.HeaderID][0])
	if no != nil {
		return outcome{}, no
	}
	if unmapped != "" {
		h.tally.add(src.ID, store.CountUnmapped, unmapped, arrived)
	}
	if ev.ID == "" {
		return outcome{Effect: EffectUnmapped}, nil
	}
	return h.record(r, src, ev, body)
}

// slowDown counts a signature that did not hold against its sender. One that holds
// is taken whoever else sends from the same address.
func (h *Handler) slowDown(sender string, no *rejection) *rejection {
	wait, blocked := h.Failures.Blocked(sender)
	h.Failures.Spend(sender)
	if blocked {
		return &rejection{status: http.StatusTooManyRequests, reason: ReasonBlocked, detail: "too many webhooks from this address were not signed as they must be", wait: wait}
	}
	return no
}

func noSource() *rejection {
	return &rejection{status: http.StatusNotFound, reason: ReasonSource, detail: "there is no such source", location: "path.source", message: "is not configured"}
}

// find returns the source of a request, as it is or was a moment ago.
func (h *Handler) find(r *http.Request, now time.Time) (*source, *rejection) {
	name, ok := strings.CutPrefix(r.URL.Path, "/webhooks/")
	if !ok || !validName(name) {
		return nil, noSource()
	}
	h.mu.RLock()
	src := h.sources[name]
	h.mu.RUnlock()
	if src != nil && now.Sub(src.readAt) < sourceMemory {
		return src, nil
	}
	src, err := h.readSource(r.Context(), name, now)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, noSource()
	case err != nil:
		return nil, h.unavailable(r, err)
	}
	return src, nil
}

func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// readSource reads a source that was not read since a time. Requests that need
// the same one share the reading; those for another do not wait.
func (h *Handler) readSource(ctx context.Context, name string, since time.Time) (*source, error) {
	for again := false; ; again = true {
		v, err, shared := h.reading.Do(name, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return h.readNow(ctx, name, since)
		})
		src, _ := v.(*source)
		// A shared reading may have begun before this request came, and missed what
		// was changed in between; the next one has not.
		if !shared || again || src != nil && !src.readAt.Before(since) {
			return src, err
		}
	}
}

func (h *Handler) readNow(ctx context.Context, name string, since time.Time) (*source, error) {
	h.mu.RLock()
	src, forgot := h.sources[name], h.forgot
	h.mu.RUnlock()
	if src != nil && src.readAt.After(since) {
		return src, nil // another request did, meanwhile
	}
	readAt := h.Now()
	row, err := h.Store.SourceNamed(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		h.mu.Lock()
		delete(h.sources, name)
		h.mu.Unlock()
	}
	if err != nil {
		return nil, err
	}
	src = &source{Source: row, readAt: readAt, verifier: signing.Verifier{Now: h.Now}}
	if row.Kind == KindStandard {
		m, err := mapping.Parse([]byte(row.Mapping))
		if err == nil {
			src.mapping, err = m.Compile()
		}
		if err != nil {
			return nil, fmt.Errorf("read mapping of source %s: %w", row.Name, err)
		}
	}
	for _, secret := range row.Secrets {
		src.verifier.Keys = append(src.verifier.Keys, secret.Key)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sources == nil {
		h.sources = make(map[string]*source)
	}
	if h.forgot == forgot {
		h.sources[name] = src
	}
	return src, nil
}

// read reads the body, of whatever a sender claims about its size.
func read(w http.ResponseWriter, r *http.Request) ([]byte, *rejection) {
	large := &rejection{status: http.StatusRequestEntityTooLarge, reason: ReasonSize, detail: "a webhook has at most 1 MiB", location: "body", message: "is larger than 1 MiB"}
	if r.ContentLength > events.MaxSize {
		w.Header().Set("Connection", "close")
		return nil, large
	}
	var body bytes.Buffer
	if n := r.ContentLength; n > 0 {
		body.Grow(int(min(n, 16<<10)) + bytes.MinRead) // more only as it comes
	}
	n, err := body.ReadFrom(io.LimitReader(r.Body, events.MaxSize+1))
	switch {
	case n > events.MaxSize:
		w.Header().Set("Connection", "close")
		return nil, large
	case err != nil:
		return nil, &rejection{status: http.StatusBadRequest, reason: ReasonBody, detail: "the body could not be read to its end", location: "body", message: "ended early"}
	}
	return body.Bytes(), nil
}

func checkMedia(r *http.Request) *rejection {
	no := &rejection{status: http.StatusUnsupportedMediaType, reason: ReasonMedia}
	if _, ok := r.Header["Content-Encoding"]; ok {
		no.detail, no.location, no.message = "send webhooks without a content encoding", "header.Content-Encoding", "is not supported"
		return no
	}
	media := r.Header.Get("Content-Type")
	if media != "application/json" {
		var err error
		if media, _, err = mime.ParseMediaType(media); err != nil || media != "application/json" {
			no.detail, no.location, no.message = "send webhooks as application/json", "header.Content-Type", "is not application/json"
			return no
		}
	}
	return nil
}

// verify checks the signature. When it matches none of the secrets as they were
// a moment ago, they are read again: one may have been added since.
func (h *Handler) verify(r *http.Request, src *source, body []byte, arrived time.Time) (*source, *rejection) {
	err := src.verifier.Verify(r.Header, body)
	if (errors.Is(err, signing.ErrNoMatch) || errors.Is(err, signing.ErrNoKeys)) && !src.readAt.After(arrived) {
		fresh, readErr := h.readSource(r.Context(), src.Name, arrived)
		switch {
		case errors.Is(readErr, store.ErrNotFound):
			return nil, noSource()
		case readErr != nil:
			return nil, h.unavailable(r, readErr)
		}
		src = fresh
		err = src.verifier.Verify(r.Header, body)
	}
	if err == nil {
		return src, nil
	}
	no := &rejection{status: http.StatusUnauthorized, reason: ReasonSignature, detail: err.Error(), location: "header.webhook-signature", message: "matches no secret of this source"}
	switch {
	case errors.Is(err, signing.ErrMissingHeader), errors.Is(err, signing.ErrInvalidHeader):
		no.reason, no.location, no.message = ReasonHeader, "header", "webhook-id, webhook-timestamp and webhook-signature have to be there once each, and well-formed"
	case errors.Is(err, signing.ErrTooOld), errors.Is(err, signing.ErrTooNew):
		no.reason, no.location, no.message = ReasonTime, "header.webhook-timestamp", "is too far from the present time"
	}
	return nil, no
}

// parseScalekit reads an event. Its type is returned beside it when it is not one
// that is known.
func parseScalekit(body []byte, src *source, _ string) (ev events.Event, unmapped string, no *rejection) {
	ev, err := events.Parse(body)
	if err != nil {
		return events.Event{}, "", invalid(err)
	}
	if ev.EnvironmentID != src.EnvironmentID {
		return events.Event{}, "", &rejection{
			status: http.StatusBadRequest, reason: ReasonEnvironment, detail: "the event is of another environment than this source",
			location: "body.environment_id", message: "is not that of this source",
		}
	}
	if !isKnown(ev.Type) {
		unmapped = word(ev.Type)
	}
	return ev.Compact(), unmapped, nil
}

// parseMapped makes an event, or none and returns its type when that means
// nothing.
func parseMapped(body []byte, src *source, webhookID string) (ev events.Event, unmapped string, no *rejection) {
	res, err := src.mapping.Map(body, mapping.Origin{SourceID: src.ID, WebhookID: webhookID, EnvironmentID: src.EnvironmentID})
	if err != nil {
		return events.Event{}, "", invalid(err)
	}
	if res.Meaning == mapping.Nothing {
		return events.Event{}, word(res.Type), nil
	}
	return res.Event, "", nil
}

func invalid(err error) *rejection {
	no := &rejection{status: http.StatusBadRequest, reason: ReasonEvent, detail: err.Error(), location: "body", message: err.Error()}
	var field *events.FieldError
	var pointer *mapping.FieldError
	switch {
	case errors.As(err, &field):
		no.location, no.message = "body."+field.Field, field.Reason
	case errors.As(err, &pointer):
		no.location, no.message = "body"+pointer.Field, pointer.Reason
	}
	return no
}

var knownTypes = events.Types() // sorted

// isKnown tells whether a type is one of those that package events knows.
func isKnown(eventType string) bool {
	_, known := slices.BinarySearch(knownTypes, eventType)
	return known
}

func (h *Handler) record(r *http.Request, src *source, ev events.Event, body []byte) (outcome, *rejection) {
	ctx, cancel := context.WithTimeout(r.Context(), maxRecording)
	defer cancel()
	inbox := ingest.Inbox{SourceID: src.ID, WebhookID: r.Header[signing.HeaderID][0], BodyHash: sha256.Sum256(body)}
	var out outcome
	var err error
	if h.Directory != nil && h.Means(ev.Type) {
		var done directory.Applied
		done, err = h.Directory.Apply(ctx, directory.Inbound{Event: ev, Inbox: inbox})
		out = outcome{done.EventID, done.Repeated, done.Effect}
	} else {
		out, err = h.forward(ctx, ev, inbox)
	}
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, ingest.ErrWebhookConflict):
		return outcome{}, &rejection{
			status: http.StatusConflict, reason: ReasonConflict, detail: "this webhook-id came before with another body",
			location: "header.webhook-id", message: "came before with another body",
		}
	case errors.Is(err, ingest.ErrEventConflict):
		return outcome{}, &rejection{
			status: http.StatusConflict, reason: ReasonConflict, detail: "an event with this id and another body is recorded",
			location: "body.id", message: "is that of another event",
		}
	}
	return outcome{}, h.unavailable(r, err)
}

// forward records an event that changes nothing here.
func (h *Handler) forward(ctx context.Context, ev events.Event, inbox ingest.Inbox) (outcome, error) {
	res, err := h.Recorder.Record(ctx, ingest.Request{Events: []events.Event{ev}, Inbox: &inbox})
	if err != nil {
		return outcome{}, err
	}
	out := outcome{res.IDs[0], res.Duplicates[0], directory.EffectRecorded}
	switch {
	case out.Duplicate:
		out.Effect = directory.EffectKnown
	case !isKnown(ev.Type):
		out.Effect = EffectIgnored
	}
	return out, nil
}

func (h *Handler) unavailable(r *http.Request, err error) *rejection {
	if r.Context().Err() == nil {
		h.Log.ErrorContext(r.Context(), "a webhook could not be recorded", "error", err)
	}
	return &rejection{status: http.StatusServiceUnavailable, reason: ReasonUnavailable, detail: "nothing was recorded; send it again", wait: time.Second}
}

func answerNo(w http.ResponseWriter, no *rejection) {
	if no.allow != "" {
		w.Header().Set("Allow", no.allow)
	}
	if no.wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((no.wait+time.Second-1)/time.Second)))
	}
	type fault struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	}
	problem := struct {
		Title  string  `json:"title"`
		Status int     `json:"status"`
		Detail string  `json:"detail"`
		Errors []fault `json:"errors,omitempty"`
	}{Title: http.StatusText(no.status), Status: no.status, Detail: no.detail}
	if no.location != "" {
		problem.Errors = []fault{{no.location, no.message}}
	}
	answer(w, no.status, "application/problem+json", problem)
}

func answer(w http.ResponseWriter, status int, media string, body any) {
	w.Header().Set("Content-Type", media)
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that went away is no concern of ours
}
