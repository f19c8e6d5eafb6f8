package app

import (
	"context"
	"encoding/json"
	"net/http"
	"sync/atomic"
	"time"
)

// health is what the parts last said of themselves.
type health struct {
	stopping  atomic.Bool
	relaying  atomic.Bool
	recording atomic.Bool
	refused   atomic.Bool // recording failed since the last beat
}

// recorded notes whether events could be recorded.
func (h *health) recorded(err error) {
	h.recording.Store(err == nil)
	h.refused.Store(err != nil)
}

// wrote notes whether something small could be written, which tells less: on a
// full disk it may fit where events do not.
func (h *health) wrote(err error) {
	if refused := h.refused.Swap(false); err != nil || !refused {
		h.recording.Store(err == nil)
	}
}

// healthz says that the process lives; restarting it would not help otherwise.
func (s *service) healthz(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

// readyz says whether the process can take events and deliver them, and which
// part cannot.
func (s *service) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 3*time.Second)
	defer cancel()
	parts := map[string]string{"database": "ok", "stream": "ok", "process": "ok"}
	ready := true
	bad := func(part, why string) { parts[part], ready = why, false }
	if err := s.store.Ping(ctx); err != nil {
		s.Log.WarnContext(ctx, "not ready", "part", "database", "error", err)
		bad("database", "does not answer: nothing can be recorded")
	} else if !s.health.recording.Load() {
		bad("database", "cannot be written: nothing can be recorded")
	}
	if err := s.line.ping(ctx); err != nil {
		s.Log.WarnContext(ctx, "not ready", "part", "stream", "error", err)
		bad("stream", "does not answer: events are recorded and wait")
	} else if !s.health.relaying.Load() {
		bad("stream", "takes no events: they are recorded and wait")
	}
	if outOfDescriptors() {
		bad("process", "can open no file or connection any more")
	}
	if s.health.stopping.Load() {
		bad("process", "stopping")
	}
	status, word := http.StatusOK, "ready"
	if !ready {
		status, word = http.StatusServiceUnavailable, "not ready"
	}
	answer(w, status, map[string]any{"status": word, "parts": parts})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // a client that went away is no concern of ours
}
