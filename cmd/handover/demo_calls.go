package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/handover-dev/handover/internal/api"
)

// A call is a request of somebody who knows who is a member, and its answer.
type call struct {
	method, path string
	status       int
	body         []byte
	took         time.Duration
	note         string // on what came of it
}

// read reads the answer.
func (c call) read(out any) error {
	if err := json.Unmarshal(c.body, out); err != nil {
		return fmt.Errorf("read answer to %s %s: %w", c.method, c.path, err)
	}
	return nil
}

// send makes a call, which has to be answered with the status.
func (d *demo) send(ctx context.Context, want int, method, path string, header http.Header, body []byte) (call, error) {
	c := call{method: method, path: path}
	req, err := http.NewRequestWithContext(ctx, method, d.service.URL+path, bytes.NewReader(body))
	if err != nil {
		return c, fmt.Errorf("build request: %w", err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	start := d.now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return c, fmt.Errorf("send request: %w", err)
	}
	defer res.Body.Close()
	c.body, err = io.ReadAll(io.LimitReader(res.Body, 1<<16))
	c.status, c.took = res.StatusCode, d.now().Sub(start)
	if err != nil || c.status != want {
		return c, fmt.Errorf("%s %s was answered with %d %s, not %d", method, path, c.status, clean(string(c.body)), want)
	}
	return c, nil
}

// logIn gets a token for the secret of a client, as the SDKs do.
func (d *demo) logIn(ctx context.Context, client api.APIClient) error {
	form := url.Values{"grant_type": {"client_credentials"}, "client_id": {client.ID}, "client_secret": {client.Secret}}
	c, err := d.send(ctx, http.StatusOK, http.MethodPost, "/oauth/token",
		http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, []byte(form.Encode()))
	if err != nil {
		return err
	}
	var answer struct {
		Token string `json:"access_token"`
	}
	err = c.read(&answer)
	d.token = answer.Token
	return err
}

// ask calls the API that the SDKs speak. A successor may be empty.
func (d *demo) ask(ctx context.Context, want int, method, path, successor, body string) (call, error) {
	header := http.Header{"Authorization": {"Bearer " + d.token}, "Content-Type": {"application/json"}}
	if successor != "" {
		header.Set("X-Handover-Successor", successor)
	}
	return d.send(ctx, want, method, path, header, []byte(body))
}

// create makes an organization or a user, and returns the id.
func (d *demo) create(ctx context.Context, path, body string) (id string, err error) {
	c, err := d.ask(ctx, http.StatusCreated, http.MethodPost, "/api/v1"+path+"?send_invitation_email=false", "", body)
	if err != nil {
		return "", err
	}
	var answer struct{ Organization, User struct{ ID string } }
	err = c.read(&answer)
	return answer.Organization.ID + answer.User.ID, err
}

// membership is the path of Dana's.
func (d *demo) membership() string {
	return "/api/v1/memberships/organizations/" + d.northwind + "/users/" + d.dana
}

// remove removes Dana through the API; Inès takes over.
func (d *demo) remove(ctx context.Context) (call, error) {
	return d.ask(ctx, http.StatusOK, http.MethodDelete, d.membership(), inesEmail, "")
}

// add makes Dana a member again, at once.
func (d *demo) add(ctx context.Context) (call, error) {
	return d.ask(ctx, http.StatusCreated, http.MethodPost, d.membership()+"?send_invitation_email=false", "", "{}")
}

// tell calls SCIM as a directory does.
func (d *demo) tell(ctx context.Context, want int, method, path, body string) (call, error) {
	header := http.Header{"Authorization": {"Bearer " + d.directory.Token}, "Content-Type": {"application/scim+json"}}
	return d.send(ctx, want, method, d.directory.Path+path, header, []byte(body))
}

// createSCIM tells of a member and the manager, who may be empty.
func (d *demo) createSCIM(ctx context.Context, email, manager string) (id string, err error) {
	more := ""
	if manager != "" {
		more = fmt.Sprintf(`,"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"manager":{"value":%q}}`, manager)
	}
	c, err := d.tell(ctx, http.StatusCreated, http.MethodPost, "/Users",
		fmt.Sprintf(`{"schemas":["urn:ietf:params:scim:schemas:core:2.0:User"],"userName":%q,"active":true%s}`, email, more))
	if err != nil {
		return "", err
	}
	var user struct{ ID string }
	err = c.read(&user)
	return user.ID, err
}

// switchDana makes her active in the directory, or not, as Okta does.
func (d *demo) switchDana(ctx context.Context, active bool) (call, error) {
	return d.tell(ctx, http.StatusOK, http.MethodPatch, "/Users/"+d.danaSCIM, fmt.Sprintf(
		`{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[{"op":"replace","value":{"active":%t}}]}`, active))
}

// calls shows what was asked, with names for ids.
func (d *demo) calls(all ...call) {
	names := []string{d.northwind, "{northwind}", d.dana, "{dana}"}
	if d.danaSCIM != "" {
		names = append(names, d.directory.ID, "{directory}", d.danaSCIM, "{dana}")
	}
	named := strings.NewReplacer(names...)
	t := table{}
	for _, c := range all {
		path, _, _ := strings.Cut(named.Replace(c.path), "?")
		t.add("  "+c.method, path, d.s.good(fmt.Sprint(c.status)), "in "+took(c.took), c.note)
	}
	t.print(d.out, d.s)
}
