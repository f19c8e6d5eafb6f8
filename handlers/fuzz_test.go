package handlers_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/signing"
)

// Nothing that is sent, not even signed, makes the receiver fail.
func FuzzReceiver(f *testing.F) {
	for _, name := range events.FixtureTypes() {
		f.Add(fixture(f, name), "application/json", "msg_1")
	}
	f.Add([]byte(`{`), "application/json; charset=\"", "")
	key := signing.NewKey()
	f.Fuzz(func(t *testing.T, body []byte, contentType, id string) {
		r := &handlers.Receiver{Verifier: signing.Verifier{Keys: []signing.Key{key}}}
		handlers.On(r, events.MembershipRemoved, func(_ context.Context, ev events.Event, m events.Membership) (handlers.Outcome, error) {
			if m.User.ID != ev.UserID() {
				t.Errorf("event about %q, data about %q", ev.UserID(), m.User.ID)
			}
			return handlers.NothingToDo(), nil
		})
		req := message{id: "msg_1", body: body, key: key}.request(t, t.Context(), "/")
		req.Header.Set("Content-Type", contentType)
		if id != "msg_1" {
			req.Header.Set(signing.HeaderID, id)
		}
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		switch w.Code {
		case http.StatusOK, http.StatusBadRequest, http.StatusUnauthorized, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		default:
			t.Errorf("status %d", w.Code)
		}
		if w.Code == http.StatusOK && id != "msg_1" {
			t.Error("accepted under another id")
		}
	})
}
