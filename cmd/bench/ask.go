package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/handover-dev/handover/internal/ingest/scalekit/scalekitv1"
	"github.com/handover-dev/handover/signing"
)

// The requests that are about people.
const (
	byREST    = "rest"
	byGRPC    = "grpc"
	bySCIM    = "scim"
	byWebhook = "webhook"
	toList    = "list" // members
)

// door is where a directory's requests go.
type door struct{ Path, Token string }

// asked is when a request was sent, and how long its answer took.
type asked struct {
	At   int64         `json:"at"` // Unix nanoseconds
	Took time.Duration `json:"took"`
}

// ask sends requests that are made beforehand, the i-th about the i-th of those
// who leave, as fast as answers come.
func (l load) ask(ctx context.Context) (sent, error) {
	send, err := l.prepare(ctx)
	if err != nil {
		return sent{}, err
	}
	all := make([]asked, l.Count)
	var next, accepted atomic.Int64
	var first atomic.Pointer[string]
	var wg sync.WaitGroup
	begin := time.Now()
	for w := range l.Workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= l.Count {
					return
				}
				at := time.Now()
				if err := send(w, i); err != nil {
					text := err.Error()
					first.CompareAndSwap(nil, &text)
					continue
				}
				all[i] = asked{At: at.UnixNano(), Took: time.Since(at)}
				accepted.Add(1)
			}
		})
	}
	wg.Wait()
	s := sent{Accepted: int(accepted.Load()), Took: time.Since(begin), Begin: begin.UnixNano(), Asked: all}
	s.Errors = l.Count - s.Accepted
	if p := first.Load(); p != nil {
		s.First = *p
	}
	return s, nil
}

// prepare makes the requests. What it returns sends the i-th on the connection of
// a worker.
func (l load) prepare(ctx context.Context) (send func(worker, i int) error, err error) {
	if l.Way == byGRPC {
		return l.calls(ctx), nil
	}
	clients := make([]*http.Client, l.Workers)
	for i := range clients {
		clients[i] = &http.Client{Transport: &http.Transport{DisableCompression: true}}
	}
	requests := make([]*http.Request, l.Count)
	for i := range requests {
		if requests[i], err = l.request(ctx, i); err != nil {
			return nil, err
		}
	}
	return func(worker, i int) error {
		answer, err := clients[worker].Do(requests[i])
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
		if err != nil {
			return err
		}
		if answer.StatusCode >= 300 {
			return errors.New(answer.Status + " " + strings.TrimSpace(string(body)))
		}
		if l.Way == toList {
			if n := bytes.Count(body, []byte(`"usr_`)); n != membersEach {
				return fmt.Errorf("a page of %d members, want %d", n, membersEach)
			}
		}
		return nil
	}, nil
}

func (l load) request(ctx context.Context, i int) (*http.Request, error) {
	user, organization := l.People.leaver(l.First + i)
	var method, path, token, body, media string
	switch l.Way {
	case byREST:
		method, path, token = http.MethodDelete, "/api/v1/memberships/organizations/"+id("org_", organization)+"/users/"+id("usr_", user), l.Token
	case bySCIM:
		d := l.Doors[organization]
		method, path, token = http.MethodPatch, d.Path+"/Users/"+id("diruser_", user), d.Token
		media, body = "application/scim+json", `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","value":{"active":false}}]}`
	case byWebhook:
		method, path, media, body = http.MethodPost, "/webhooks/bench", "application/json", l.webhook(i, user, organization)
	case toList:
		method, path, token = http.MethodGet, "/api/v1/organizations/"+id("org_", organization)+"/users?page_size=100", l.Token
	default:
		return nil, fmt.Errorf("no request goes by %q", l.Way)
	}
	req, err := http.NewRequestWithContext(ctx, method, l.URL+path, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	if media != "" {
		req.Header.Set("Content-Type", media)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if l.Way == byWebhook {
		key, err := signing.ParseKey(l.SignWith)
		if err != nil {
			return nil, err
		}
		return req, signing.Signer{Keys: []signing.Key{key}}.SetHeaders(req.Header, id("msg_", l.First+i), time.Now(), []byte(body))
	}
	return req, nil
}

// webhook says what the service knows of a person, and that they left just now.
func (l load) webhook(i, user, organization int) string {
	return fmt.Sprintf(`{"spec_version":"1","id":%q,"type":"user.organization_membership_deleted","object":"OrgMembership",`+
		`"occurred_at":%q,"environment_id":%q,"organization_id":%q,`+
		`"data":{"organization":{"id":%q,"display_name":"Organization %d","external_id":"crm-%d","region_code":"US"},`+
		`"user":{"id":%q,"email":"person.%d@example.com","external_id":"hr-%d",`+
		`"user_profile":{"id":%q,"name":"Person %d","given_name":"Person","family_name":"%d","locale":"en"}}},`+
		`"display_name":"User Organization Membership Deleted"}`,
		id("evt_", l.First+i), time.Now().UTC().Format(time.RFC3339Nano), environment, id("org_", organization),
		id("org_", organization), organization, organization, id("usr_", user), user, user, id("usp_", user), user, user)
}

// programs is how many call by gRPC. Each has one connection, as the SDKs do, and
// makes its share of the calls at the same time.
const programs = 8

// calls makes the calls of DeleteMembership, over unencrypted HTTP/2.
func (l load) calls(ctx context.Context) func(worker, i int) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	authorized := connect.WithInterceptors(connect.UnaryInterceptorFunc(func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			req.Header().Set("Authorization", "Bearer "+l.Token)
			return next(ctx, req)
		}
	}))
	clients := make([]scalekitv1.UserServiceClient, min(l.Workers, programs))
	for i := range clients {
		client := &http.Client{Transport: &http.Transport{Protocols: protocols, DisableCompression: true}}
		clients[i] = scalekitv1.NewUserServiceClient(client, l.URL, connect.WithGRPC(), authorized)
	}
	requests := make([]*scalekitv1.DeleteMembershipRequest, l.Count)
	for i := range requests {
		user, organization := l.People.leaver(l.First + i)
		requests[i] = &scalekitv1.DeleteMembershipRequest{
			OrganizationId: id("org_", organization), Identities: &scalekitv1.DeleteMembershipRequest_Id{Id: id("usr_", user)},
		}
	}
	return func(worker, i int) error {
		_, err := clients[worker%len(clients)].DeleteMembership(ctx, requests[i])
		return err
	}
}
