package handlers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/signing"
)

// ServeHTTP takes one message of the Standard Webhooks form: a POST of
// application/json of at most 1 MiB, without content encoding, signed with one
// of the keys. The package comment lists the answers.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	ev, refused := r.accept(w, req)
	if refused != nil {
		r.log().LogAttrs(req.Context(), slog.LevelWarn, "message refused", slog.Int("status", refused.status), slog.String("error", refused.err.Error()))
		if refused.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
		writeError(w, refused.status, refused.words)
		return
	}
	a, err := r.handle(req.Context(), req.Header.Get(signing.HeaderID), ev)
	if err != nil {
		fail(w, err)
		return
	}
	switch a.receipt.Status {
	case StatusBlocked, StatusFailed:
		write(w, http.StatusUnprocessableEntity, a.body)
	case StatusInProgress:
		write(w, http.StatusAccepted, a.body)
	default:
		write(w, http.StatusOK, a.body)
	}
}

// refusal is why a message is not handled: words for the sender, who may be
// anyone, and the error for the log.
type refusal struct {
	status int
	words  string
	err    error
}

func refuse(status int, words string) *refusal {
	return &refusal{status, words, errors.New(words)}
}

// accept reads and verifies a message, and only then looks into it.
func (r *Receiver) accept(w http.ResponseWriter, req *http.Request) (events.Event, *refusal) {
	if req.Method != http.MethodPost {
		return events.Event{}, refuse(http.StatusMethodNotAllowed, "use POST")
	}
	if typ, _, err := mime.ParseMediaType(req.Header.Get("Content-Type")); err != nil || typ != "application/json" {
		return events.Event{}, refuse(http.StatusUnsupportedMediaType, "the content type has to be application/json")
	}
	if len(req.Header.Values("Content-Encoding")) > 0 {
		return events.Event{}, refuse(http.StatusUnsupportedMediaType, "a content encoding is not supported")
	}
	body, refused := r.read(w, req)
	if refused != nil {
		return events.Event{}, refused
	}
	v := r.Verifier
	if r.Keys != nil {
		v.Keys = r.Keys()
	}
	if err := v.Verify(req.Header, body); err != nil {
		return events.Event{}, &refusal{http.StatusUnauthorized, "the signature does not verify", err}
	}
	ev, err := events.Parse(body)
	if err != nil {
		return events.Event{}, &refusal{http.StatusBadRequest, err.Error(), err}
	}
	return ev, nil
}

func (r *Receiver) read(w http.ResponseWriter, req *http.Request) ([]byte, *refusal) {
	timeout := r.ReadTimeout
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(timeout)) // a writer that cannot do this has its own limits

	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, events.MaxSize))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %d bytes", events.MaxSize))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, &refusal{http.StatusRequestTimeout, "the body did not arrive in time", err}
	case err != nil:
		return nil, &refusal{http.StatusBadRequest, "the body could not be read", err}
	}
	_ = control.SetReadDeadline(time.Time{})
	return body, nil
}

// fail answers for an error of Handle. What the app's own errors say stays here.
func fail(w http.ResponseWriter, err error) {
	var permanent *PermanentError
	var retry *RetryError
	switch {
	case errors.As(err, &permanent):
		body, _ := json.Marshal(Receipt{Type: "receipt", Status: StatusFailed, Message: bound(permanent.Error())})
		write(w, http.StatusUnprocessableEntity, body)
	case errors.As(err, &retry):
		retryAfter(w, retry.After)
		writeError(w, http.StatusServiceUnavailable, "the event cannot be handled now")
	case errors.Is(err, ErrBusy):
		retryAfter(w, 5*time.Second)
		writeError(w, http.StatusServiceUnavailable, ErrBusy.Error())
	case errors.Is(err, ErrConflict):
		writeError(w, http.StatusConflict, ErrConflict.Error())
	default:
		writeError(w, http.StatusInternalServerError, "the event could not be handled")
	}
}

func retryAfter(w http.ResponseWriter, d time.Duration) {
	seconds := max(1, (d+time.Second-1)/time.Second)
	w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
}

// bound makes a message of any text that fits a receipt.
func bound(text string) string {
	const most = 1000
	text = strings.ReplaceAll(text, "\x00", "")
	if len(text) > most {
		text = text[:most]
	}
	return strings.ToValidUTF8(text, "")
}

func writeError(w http.ResponseWriter, status int, words string) {
	body, _ := json.Marshal(struct {
		Error string `json:"error"`
	}{words})
	write(w, status, body)
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a sender that is gone asks again
}
