package scimtest

import (
	"net/http"
	"strconv"
	"strings"
)

// checks is what the fixtures ask for beside the status and the effect.
var checks = map[string]func(*run){
	"SCIM error body":                       func(r *run) { r.scimError(r.answer) },
	`SCIM error body with status "404"`:     func(r *run) { r.scimError(r.answer) },
	"scimType invalidFilter":                func(r *run) { r.scimType("invalidFilter") },
	"scimType invalidSyntax":                func(r *run) { r.scimType("invalidSyntax") },
	"scimType invalidValue":                 func(r *run) { r.scimType("invalidValue") },
	"scimType uniqueness":                   func(r *run) { r.scimType("uniqueness") },
	"active true in the response":           func(r *run) { r.shown("active", true) },
	"active false in the response":          func(r *run) { r.shown("active", false) },
	"no second event":                       func(r *run) { r.effects(r.before) },
	"op is matched case-insensitively":      func(r *run) { r.active(false) },
	"meta.resourceType User":                func(r *run) { r.meta() },
	"401, or 404; never 204":                func(r *run) { r.active(true) },
	"200 with body also legal":              func(*run) {},
	"empty body":                            func(r *run) { r.empty() },
	"totalResults is a number even when 0":  func(r *run) { r.none() },
	"Resources is an array even when empty": func(r *run) { r.none() },
	"list and filter no longer return it":   func(r *run) { r.gone() },
	"GET of the same id afterwards is 404":  func(r *run) { r.want(http.MethodGet, "/Users/"+r.id, "", http.StatusNotFound) },
	"only the listed member is removed":     func(r *run) { r.onlySam() },
	"externalId comparison is case-sensitive": func(r *run) {
		if n := r.list(r.answer); n != 1 {
			r.Errorf("it finds %d users, want 1", n)
		}
		if n := r.total(`externalId eq "00U1EXAMPLEINES"`); n != 0 {
			r.Errorf("in capitals it finds %d users", n)
		}
	},
	"userName comparison is case-insensitive": func(r *run) {
		if n := r.list(r.answer); n != 1 {
			r.Errorf("it finds %d users, want 1", n)
		}
		if n := r.total(`USERNAME EQ "INES.Moreau@example.com"`); n != 1 {
			r.Errorf("in capitals it finds %d users, want 1", n)
		}
	},
	"unknown user gives 200 with totalResults 0, never 404": func(r *run) { r.none() },
	"schemas contains urn:ietf:params:scim:api:messages:2.0:ListResponse": func(r *run) {
		if n := r.list(r.answer); n != 2 {
			r.Errorf("there are %d users, want 2", n)
		}
	},
	"WWW-Authenticate: Bearer": func(r *run) {
		if got := r.answer.header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer") {
			r.Errorf("WWW-Authenticate is %q", got)
		}
	},
	`"False"/"false"/"True"/"true" accepted as booleans`: func(r *run) {
		for word, want := range map[string]bool{"True": true, "False": false, "true": true, "false": false} {
			r.want(http.MethodPatch, "/Users/"+r.id, `{"Operations":[{"op":"Replace","path":"active","value":"`+word+`"}]}`, http.StatusOK)
			r.active(want)
		}
	},
	"body is the full User with active false (204 also legal)": func(r *run) {
		r.shown("active", false)
		r.shown("userName", ines)
		r.shown("externalId", "00u1exampleines")
		r.shown("displayName", "Inès Moreau")
		r.meta()
	},
	"dotted and URN-qualified keys do not make the request fail": func(r *run) {
		r.shown("active", false)
		extension, _ := r.answer.doc["urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"].(map[string]any)
		name, _ := r.answer.doc["name"].(map[string]any)
		if extension["department"] != "Research" || name["familyName"] != "Moreau" || name["givenName"] != "Inès" {
			r.Errorf("the user is %s", r.answer.body)
		}
	},
	"operations are applied in order and atomically": func(r *run) {
		r.shown("title", "Engineer")
		r.shown("active", false)
	},
	"Location header": func(r *run) {
		location := r.answer.header.Get("Location")
		meta, _ := r.answer.doc["meta"].(map[string]any)
		if location == "" || location != meta["location"] || location != r.URL+"/Users/"+r.created() {
			r.Errorf("Location is %q, meta is %v", location, meta)
		}
	},
	"id assigned by the server": func(r *run) {
		if r.created() == "" || r.want(http.MethodGet, "/Users/"+r.created(), "", http.StatusOK).doc["userName"] != ines {
			r.Errorf("the user is %s", r.answer.body)
		}
	},
	"a userName freed by DELETE does not conflict": func(r *run) {
		r.want(http.MethodPost, "/Users", inesBody, http.StatusConflict)
		r.want(http.MethodDelete, "/Users/"+r.created(), "", http.StatusNoContent)
		if again := r.sendFixture(); again.status != http.StatusCreated {
			r.Errorf("again, it is answered %d: %s", again.status, again.body)
		}
	},
	"not a membership removal from the organization": func(r *run) {
		r.active(true)
		r.onlySam()
	},
}

func (r *run) scimError(a answer) {
	r.Helper()
	detail, _ := a.doc["detail"].(string)
	if !has(a.doc["schemas"], "urn:ietf:params:scim:api:messages:2.0:Error") || a.doc["status"] != strconv.Itoa(a.status) || detail == "" {
		r.Errorf("it is no SCIM error of status %d: %s", a.status, a.body)
	}
}

func (r *run) scimType(want string) {
	r.Helper()
	if r.answer.doc["scimType"] != want {
		r.Errorf("scimType is %v, want %s", r.answer.doc["scimType"], want)
	}
}

func (r *run) shown(name string, want any) {
	r.Helper()
	if got := r.answer.doc[name]; got != want {
		r.Errorf("%s is %v, want %v", name, got, want)
	}
}

func (r *run) meta() {
	r.Helper()
	meta, _ := r.answer.doc["meta"].(map[string]any)
	if meta["resourceType"] != "User" || meta["created"] == nil || meta["lastModified"] == nil || meta["location"] == nil {
		r.Errorf("meta is %v", meta)
	}
}

func (r *run) created() string {
	id, _ := r.answer.doc["id"].(string)
	return id
}

func (r *run) empty() {
	r.Helper()
	if len(r.answer.body) > 0 {
		r.Errorf("it has a body: %s", r.answer.body)
	}
}

func (r *run) none() {
	r.Helper()
	if n := r.total(`userName eq "nobody@example.com"`); n != 0 {
		r.Errorf("nobody is %d users", n)
	}
}

func (r *run) gone() {
	r.Helper()
	if n := r.total(`userName eq "` + ines + `"`); n != 0 {
		r.Errorf("a filter finds %d users", n)
	}
	if n := r.list(r.want(http.MethodGet, "/Users", "", http.StatusOK)); n != 1 {
		r.Errorf("there are %d users, want 1", n)
	}
}

// onlySam checks that the group has Sam as its only member.
func (r *run) onlySam() {
	r.Helper()
	members, _ := r.want(http.MethodGet, "/Groups/"+r.group, "", http.StatusOK).doc["members"].([]any)
	if len(members) != 1 || members[0].(map[string]any)["value"] != r.other {
		r.Errorf("the members are %v, want only %s", members, r.other)
	}
}
