package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The receiver answers POSTs to /{app} and remembers each event's arrival, by its
// number or by that of the person's id. What the app does is in the path: /{app}/hang sleeps 10 s, /{app}/flaky refuses
// three events of ten the first time. Its control is GET /stats and POST /reset.
type receiver struct {
	mu       sync.Mutex
	seen     map[arrivalKey]int
	samples  []sample
	requests int
	last     time.Time
}

type arrivalKey struct {
	app string
	n   int
}

// sample is one arrival.
type sample struct {
	At      int64   `json:"at"`      // Unix microseconds
	Latency float32 `json:"latency"` // ms since it was sent
	App     string  `json:"app"`
	Event   int     `json:"n"`
}

// arrivals is what the receiver tells of itself.
type arrivals struct {
	Requests int      `json:"requests"`
	Unique   int      `json:"unique"`
	Last     int64    `json:"last"`
	Samples  []sample `json:"samples,omitempty"`
}

func receive(ctx context.Context) error {
	r := &receiver{seen: make(map[arrivalKey]int)}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout, l.Addr().String()); err != nil {
		return err
	}
	server := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.Serve(l); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/stats" || req.URL.Path == "/reset" {
		r.control(w, req)
		return
	}
	buf := buffers.Get().(*[]byte)
	body := bytes.NewBuffer((*buf)[:0])
	if _, err := io.Copy(body, req.Body); err != nil {
		return
	}
	now := time.Now()
	n, sent := number(body.Bytes(), `"n":`), number(body.Bytes(), `"sent_at":`)
	if n < 0 {
		n = number(body.Bytes(), `"user":{"id":"usr_`)
	}
	*buf = body.Bytes()
	buffers.Put(buf)
	app, how, _ := strings.Cut(strings.TrimPrefix(req.URL.Path, "/"), "/")
	if how == "hang" {
		select {
		case <-time.After(10 * time.Second):
		case <-req.Context().Done():
			return
		}
	}
	k := arrivalKey{app, int(n)}
	r.mu.Lock()
	r.requests++
	times := r.seen[k]
	refuse := how == "flaky" && times == 0 && n%10 < 3
	switch {
	case refuse:
		r.seen[k] = -1
	case times <= 0:
		r.seen[k] = 1
		r.samples = append(r.samples, sample{now.UnixMicro(), float32(float64(now.UnixNano()-sent) / 1e6), app, int(n)})
		r.last = now
	default:
		r.seen[k]++
	}
	r.mu.Unlock()
	if refuse {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
}

// number reads the digits behind a key; the bodies are the generator's own, or
// those of a service that is known.
func number(body []byte, key string) int64 {
	i := bytes.Index(body, []byte(key))
	if i < 0 {
		return -1
	}
	rest := body[i+len(key):]
	end := 0
	for end < len(rest) && rest[end] >= '0' && rest[end] <= '9' {
		end++
	}
	n, err := strconv.ParseInt(string(rest[:end]), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

func (r *receiver) control(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if req.URL.Path == "/reset" {
		r.seen, r.samples, r.requests = make(map[arrivalKey]int), nil, 0
		return
	}
	a := arrivals{Requests: r.requests, Last: r.last.UnixMicro()}
	for _, times := range r.seen {
		if times > 0 {
			a.Unique++
		}
	}
	if req.URL.Query().Has("samples") {
		a.Samples = r.samples
	}
	_ = json.NewEncoder(w).Encode(a)
}
