package scalekit_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What REST answers about the organizations and users of its story.
const (
	acmeJSON   = `{"id":"` + org1 + `","create_time":"2026-11-24T10:00:00Z","update_time":"2026-11-24T10:00:00Z","display_name":"Acme <&>","region_code":"EU","external_id":"acme","metadata":{"plan":"gold"},"slug":"acme-1"}`
	globexJSON = `{"id":"` + org2 + `","create_time":"2026-11-24T10:00:00Z","update_time":"2026-11-24T10:00:00Z","display_name":"Globex","region_code":"REGION_CODE_UNSPECIFIED","metadata":{}}`
	hooliJSON  = `{"id":"` + org3 + `","create_time":"2026-11-24T10:00:00Z","update_time":"2026-11-24T10:00:00Z","display_name":"Hooli","region_code":"US","metadata":{}}`

	annInAcme = `{"organization_id":"` + org1 + `","join_time":"2026-11-24T10:00:00Z","created_at":"2026-11-24T10:00:00Z","membership_status":"ACTIVE","name":"Acme <&>","display_name":"Acme <&>","roles":[{"id":"","name":"admin","display_name":""}],"metadata":{},"permissions":[],"provisioning_method":"direct_provision"}`
	bobInAcme = `{"organization_id":"` + org1 + `","created_at":"2026-11-24T10:00:00Z","membership_status":"PENDING_INVITE","name":"Acme <&>","display_name":"Acme <&>","roles":[],"metadata":{},"permissions":[],"provisioning_method":"invitation"}`
)

func userJSON(id, email, external, first, last string, memberships ...string) string {
	if external != "" {
		external = `"external_id":"` + external + `",`
	}
	return `{"id":"` + id + `","environment_id":"` + env + `","create_time":"2026-11-24T10:00:00Z","update_time":"2026-11-24T10:00:00Z","email":"` + email + `",` + external +
		`"metadata":{},"memberships":[` + strings.Join(memberships, ",") + `],"user_profile":{"id":"` + strings.Replace(id, "usr_", "usp_", 1) + `","given_name":"` + first + `","family_name":"` + last + `",
		"first_name":"` + first + `","last_name":"` + last + `","name":"","locale":"","email_verified":false,"phone_number":"","metadata":{},"custom_attributes":{},"preferred_username":"",
		"phone_number_verified":false,"picture":"","groups":[],"gender":""}}`
}

func annJSON(memberships ...string) string {
	return userJSON(user1, "ann@acme.example", "ann/1", "Ann", "Lee", memberships...)
}

func sessionJSON(id, status string, organizations ...string) string {
	return `{"session_id":"` + id + `","user_id":"` + user1 + `","organization_id":"` + organizations[0] + `","authenticated_organizations":["` + strings.Join(organizations, `","`) + `"],
		"created_at":"2026-11-24T10:00:00Z","updated_at":"2026-11-24T10:00:00Z","last_active_at":"2026-11-24T10:00:00Z","idle_expires_at":"2026-11-24T11:00:00Z","absolute_expires_at":"2026-11-25T10:00:00Z","status":"` + status + `"}`
}

func revokedJSON(id string) string {
	return `{"session_id":"` + id + `","user_id":"` + user1 + `","created_at":"2026-11-24T10:00:00Z","updated_at":"2026-11-24T10:00:00Z","last_active_at":"2026-11-24T10:00:00Z",
		"idle_expires_at":"2026-11-24T11:00:00Z","absolute_expires_at":"2026-11-25T10:00:00Z","status":"revoked"}`
}

func TestREST(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	inGlobex := `{"organization_id":"` + org2 + `","join_time":"2026-11-24T10:00:00Z","created_at":"2026-11-24T10:00:00Z","membership_status":"ACTIVE","name":"Globex","display_name":"Globex","roles":[],"metadata":{"seat":"12"},"permissions":[],"provisioning_method":"direct_provision","inviter_email":"boss@acme.example"}`
	viewer := strings.Replace(inGlobex, `"roles":[]`, `"roles":[{"id":"","name":"viewer","display_name":""}]`, 1)
	editor := strings.NewReplacer(`"roles":[]`, `"roles":[{"id":"","name":"editor","display_name":""}]`, `{"seat":"12"}`, `{"seat":"14"}`).Replace(inGlobex)
	memberships := "/api/v1/memberships/organizations/"
	bob := userJSON(user2, "bob@acme.example", "", "", "", bobInAcme)
	invitedToGlobex := strings.NewReplacer(org1, org2, "Acme <&>", "Globex").Replace(bobInAcme)

	for i, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/api/v1/organizations", `{"display_name":"Acme <&>","region_code":"EU","external_id":"acme","slug":"acme-1","metadata":{"plan":"gold"},"settings":{"features":[]}}`, 201, `{"organization":` + acmeJSON + `}`},
		{"POST", "/api/v1/organizations", `{"display_name":"Globex"}`, 201, `{"organization":` + globexJSON + `}`},
		{"POST", "/api/v1/organizations", `{"displayName":"Hooli","regionCode":1}`, 201, `{"organization":` + hooliJSON + `}`},
		{"POST", "/api/v1/organizations", `{"display_name":"Acme","external_id":"acme"}`, 409, `{"error_code":"ORGANIZATION_ALREADY_EXISTS"}`},
		{"GET", "/api/v1/organizations?page_size=2", "", 200, `{"organizations":[` + acmeJSON + `,` + globexJSON + `],"total_size":3,"next_page_token":"b3JnXzEwMDAwMDAwMDAwMDAwMDAwMg","prev_page_token":""}`},
		{"GET", "/api/v1/organizations?page_size=2&page_token=b3JnXzEwMDAwMDAwMDAwMDAwMDAwMg", "", 200, `{"organizations":[` + hooliJSON + `],"total_size":3,"next_page_token":"","prev_page_token":""}`},
		{"GET", "/api/v1/organizations?external_id=acme&new_parameter=1", "", 200, `{"organizations":[` + acmeJSON + `],"total_size":1,"next_page_token":"","prev_page_token":""}`},
		{"GET", "/api/v1/organizations?external_id=none", "", 200, `{"organizations":[],"total_size":0,"next_page_token":"","prev_page_token":""}`},
		{"GET", "/api/v1/organizations/" + org1, "", 200, `{"organization":` + acmeJSON + `}`},
		{"GET", "/api/v1/organizations/" + noOrg, "", 404, `{"error_code":"ORGANIZATION_NOT_FOUND"}`},

		{"POST", "/api/v1/organizations/" + org1 + "/users?send_invitation_email=false", `{"email":"ann@acme.example","external_id":"ann/1","user_profile":{"first_name":"Ann","last_name":"Lee"},"membership":{"roles":[{"name":"admin"}]}}`, 201, `{"user":` + annJSON(annInAcme) + `}`},
		{"POST", "/api/v1/organizations/" + org1 + "/users", `{"email":"bob@acme.example"}`, 201, `{"user":` + bob + `}`},
		{"POST", "/api/v1/organizations/" + org1 + "/users", `{"email":"Bob@acme.example"}`, 409, `{"error_code":"USER_ALREADY_EXISTS"}`},
		{"GET", "/api/v1/organizations/" + org1 + "/users?page_size=1", "", 200, `{"users":[` + annJSON(annInAcme) + `],"total_size":2,"next_page_token":"dXNyXzEwMDAwMDAwMDAwMDAwMDAwNA","prev_page_token":""}`},
		{"GET", "/api/v1/users?page_token=dXNyXzEwMDAwMDAwMDAwMDAwMDAwNA", "", 200, `{"users":[` + bob + `],"total_size":2,"next_page_token":"","prev_page_token":""}`},
		{"GET", "/api/v1/users/" + user1, "", 200, `{"user":` + annJSON(annInAcme) + `}`},
		{"GET", "/api/v1/users:external/ann%2F1", "", 200, `{"user":` + annJSON(annInAcme) + `}`},
		{"GET", "/api/v1/users:external/ann", "", 404, `{"error_code":"USER_NOT_FOUND"}`},

		{"POST", memberships + org2 + "/users/" + user1 + "?send_invitation_email=false", `{"metadata":{"seat":"12"},"inviter_email":"boss@acme.example"}`, 201, `{"user":` + annJSON(annInAcme, inGlobex) + `}`},
		{"POST", memberships + org2 + "/users:external/ann%2F1", `{}`, 409, `{"error_code":"MEMBERSHIP_ALREADY_EXISTS"}`},
		{"POST", memberships + org2 + "/users/" + user2, `{"membership":{}}`, 201, `{"user":` + userJSON(user2, "bob@acme.example", "", "", "", bobInAcme, invitedToGlobex) + `}`},
		{"PATCH", memberships + org2 + "/users/" + user1, `{"roles":[{"name":"viewer"}]}`, 200, `{"user":` + annJSON(annInAcme, viewer) + `}`},
		{"PATCH", memberships + org2 + "/users:external/ann%2F1", `{"membership":{"roles":[{"name":"editor"}],"metadata":{"seat":"14"}}}`, 200, `{"user":` + annJSON(annInAcme, editor) + `}`},
		{"PATCH", memberships + org3 + "/users/" + user1, `{}`, 404, `{"error_code":"MEMBERSHIP_NOT_FOUND"}`},

		{"SESSIONS", "", "", 0, ""},
		{"GET", "/api/v1/sessions/" + ses1, "", 200, sessionJSON(ses1, "active", org1, org2)},
		{"GET", "/api/v1/sessions/" + noSes, "", 404, `{"error_code":"SESSION_NOT_FOUND"}`},
		{"POST", "/api/v1/sessions/" + ses2 + "/revoke", "", 200, `{"revoked_session":` + revokedJSON(ses2) + `}`},
		{"GET", "/api/v1/users/" + user1 + "/sessions?filter.status=revoked&filter.status=logout", "", 200, `{"sessions":[` + sessionJSON(ses2, "revoked", org2) + `],"total_size":1,"next_page_token":"","prev_page_token":""}`},
		{"GET", "/api/v1/users/" + user1 + "/sessions?filter.start_time=2026-11-24T11:00:00.5%2B01:00", "", 200, `{"sessions":[],"total_size":0,"next_page_token":"","prev_page_token":""}`},
		{"GET", "/api/v1/users/" + user1 + "/sessions?filter.end_time=2026-11-24T10:00:01Z&page_size=1", "", 200, `{"sessions":[` + sessionJSON(ses1, "active", org1, org2) + `],"total_size":3,"next_page_token":"c2VzXzEwMDAwMDAwMDAwMDAwMDAwNg","prev_page_token":""}`},
		{"DELETE", memberships + org1 + "/users/" + user1, "", 200, `{}`},
		{"DELETE", memberships + org1 + "/users/" + user1, "", 404, `{"error_code":"MEMBERSHIP_NOT_FOUND"}`},
		{"DELETE", memberships + noOrg + "/users/" + noUser, "", 404, `{"error_code":"ORGANIZATION_NOT_FOUND"}`},
		{"GET", "/api/v1/sessions/" + ses1, "", 200, sessionJSON(ses1, "revoked", org1, org2)},
		{"POST", "/api/v1/users/" + user1 + "/sessions/revoke", "", 200, `{"revoked_sessions":[` + revokedJSON(ses3) + `],"total_revoked":1}`},
		{"DELETE", memberships + org2 + "/users:external/ann%2F1?cascade=true", "", 200, `{}`},
		{"DELETE", "/api/v1/users:external/ann%2F1", "", 404, `{"error_code":"USER_NOT_FOUND"}`},
		{"DELETE", "/api/v1/users/" + user2, "", 200, `{}`},
		{"DELETE", "/api/v1/users/" + user2, "", 404, `{"error_code":"USER_NOT_FOUND"}`},
		{"DELETE", "/api/v1/organizations/" + org1, "", 200, `{}`},
		{"DELETE", "/api/v1/organizations/" + org1, "", 404, `{"error_code":"ORGANIZATION_NOT_FOUND"}`},

		{"GET", "/api/v1/nothing", "", 404, `{"error_code":"NOT_FOUND"}`},
		{"PUT", "/api/v1/users/" + user1, `{}`, 405, `{"error_code":"METHOD_NOT_ALLOWED"}`},
	} {
		if c.method == "SESSIONS" {
			signIn(t, w.dir)
			continue
		}
		status, got, header := w.ask(c.method, c.path, token, c.body)
		if status != c.status {
			t.Fatalf("%d: %s %s: %d %s, want %d", i, c.method, c.path, status, got, c.status)
		}
		var want, have any
		if err := json.Unmarshal([]byte(c.want), &want); err != nil {
			t.Fatalf("%d: %v in %s", i, err, c.want)
		}
		if err := json.Unmarshal([]byte(got), &have); err != nil {
			t.Fatalf("%d: %v in %s", i, err, got)
		}
		if diff := cmp.Diff(want, have); diff != "" {
			t.Fatalf("%d: %s %s (-want +got):\n%s", i, c.method, c.path, diff)
		}
		if header.Get("Content-Type") != "application/json" || header.Get("Cache-Control") != "no-store" {
			t.Errorf("%d: headers %v", i, header)
		}
		if allow := header.Get("Allow"); c.status == http.StatusMethodNotAllowed && allow != "GET, DELETE" {
			t.Errorf("%d: allowed %q", i, allow)
		}
	}
}

func TestSuccessorOverREST(t *testing.T) {
	t.Parallel()
	w := start(t)
	token := w.token()
	acme := w.organization("Acme")
	ann, bob := w.user(acme.ID, "ann@acme.example"), w.user(acme.ID, "bob@acme.example")
	path := "/api/v1/memberships/organizations/" + acme.ID + "/users/" + ann.ID
	status, body, _ := w.ask("DELETE", path, token, "", "X-Handover-Successor", "nobody@acme.example")
	if status != http.StatusBadRequest || !strings.Contains(body, `"X-Handover-Successor"`) {
		t.Errorf("nobody: %d %s", status, body)
	}
	if status, body, _ := w.ask("DELETE", path, token, "", "X-Handover-Successor", bob.ID); status != http.StatusOK {
		t.Errorf("bob: %d %s", status, body)
	}
	if len(w.dir.removals) != 1 || w.dir.removals[0].Successor != bob.ID {
		t.Errorf("removed by %+v", w.dir.removals)
	}
}
