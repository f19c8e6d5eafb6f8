package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/handover-dev/handover/signing"
)

// load is what the generator is to do. It comes as JSON.
type load struct {
	URL     string
	Key     string
	Count   int
	First   int
	Workers int
	Batch   int           // events in a request; 0: one, not as an array
	Rate    float64       // events a second; 0: as fast as answers come
	Sign    bool          // post signed bodies straight to a receiver: the ceiling
	Retry   bool          // send again what was not accepted, until it is
	Until   time.Duration // give up after

	// Of requests about people instead of events:
	Way      string // which; "": events
	People   people
	Token    string // of an API client
	Doors    []door // of directories, by organization
	SignWith string // secret of the source
}

// sent is what the generator tells.
type sent struct {
	Accepted int           `json:"accepted"`
	Errors   int           `json:"errors"`
	Took     time.Duration `json:"took"`
	First    string        `json:"first_error,omitempty"`
	CPU      time.Duration `json:"cpu"`

	// Of requests about people:
	Begin int64   `json:"begin,omitempty"` // Unix nanoseconds
	Asked []asked `json:"asked,omitempty"`
}

func generate(ctx context.Context) error {
	var l load
	if err := json.NewDecoder(os.Stdin).Decode(&l); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, l.Until)
	defer cancel()
	if l.Way == "" {
		return json.NewEncoder(os.Stdout).Encode(l.run(ctx))
	}
	s, err := l.ask(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(s)
}

func (l load) run(ctx context.Context) sent {
	client := &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{}).DialContext, MaxIdleConnsPerHost: l.Workers, MaxIdleConns: l.Workers, DisableCompression: true,
	}}
	signer := signing.Signer{Keys: []signing.Key{signing.NewKey()}}
	var next, accepted, failed atomic.Int64
	var first atomic.Pointer[string]
	size := max(1, l.Batch)
	begin := time.Now()
	var wg sync.WaitGroup
	for range l.Workers {
		wg.Go(func() {
			var body []byte
			for ctx.Err() == nil {
				start := int(next.Add(int64(size))) - size
				if start >= l.Count {
					return
				}
				n := min(size, l.Count-start)
				if l.Rate > 0 {
					due := begin.Add(time.Duration(float64(start) / l.Rate * float64(time.Second)))
					select {
					case <-ctx.Done():
						return
					case <-time.After(time.Until(due)):
					}
				}
				body = l.body(body[:0], l.First+start, n) // once: sent again it must be the same
				for {
					err := l.post(ctx, client, signer, body, l.First+start)
					if err == nil {
						accepted.Add(int64(n))
						break
					}
					failed.Add(1)
					text := err.Error()
					first.CompareAndSwap(nil, &text)
					if !l.Retry || ctx.Err() != nil {
						break
					}
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	wg.Wait()
	s := sent{Accepted: int(accepted.Load()), Errors: int(failed.Load()), Took: time.Since(begin), CPU: cpuOf(os.Getpid())}
	if p := first.Load(); p != nil {
		s.First = *p
	}
	return s
}

// body writes events of about 600 bytes, each about another person.
func (l load) body(b []byte, first, n int) []byte {
	if l.Batch > 0 {
		b = append(b, '[')
	}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = fmt.Appendf(b, `{"spec_version":"1","id":"evt_%018d","type":"user.organization_membership_deleted","object":"OrgMembership",`+
			`"occurred_at":"2026-06-12T09:30:00.123456789Z","environment_id":"env_118200000000000001","organization_id":"org_118200000000000101",`+
			`"data":{"n":%d,"sent_at":%d,"organization":{"id":"org_118200000000000101","display_name":"Northwind Example"},`+
			`"user":{"id":"usr_%018d","email":"person.%d@example.com","external_id":"hr-%d","user_profile":{"id":"usp_%018d","name":"Person %d","locale":"en"}},`+
			`"reason":"api"},"display_name":"User Organization Membership Deleted"}`,
			first+i, first+i, time.Now().UnixNano(), first+i, first+i, first+i, first+i, first+i)
	}
	if l.Batch > 0 {
		b = append(b, ']')
	}
	return b
}

func (l load) post(ctx context.Context, client *http.Client, signer signing.Signer, body []byte, n int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, l.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	if l.Sign {
		if err := signer.SetHeaders(req.Header, "msg_"+strconv.Itoa(n), time.Now(), body); err != nil {
			return err
		}
	} else {
		req.Header.Set("Authorization", "Bearer "+l.Key)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return errors.New(resp.Status + " " + strings.TrimSpace(string(answer)))
	}
	return nil
}
