package api_test

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/directory"
)

// own asks about the service's own environment.
func (s *service) own() *api.EnvironmentClient { return s.InEnvironment("") }

func (s *service) organization(name string) api.Organization {
	s.t.Helper()
	o, err := s.own().CreateOrganization(s.t.Context(), api.NewOrganization{DisplayName: name})
	return ok(o, err)(s.t)
}

func (s *service) member(organizationID, email string) api.Member {
	s.t.Helper()
	m, err := s.own().AddMember(s.t.Context(), organizationID, api.NewMember{Email: email})
	return ok(m, err)(s.t)
}

// all reads a list to its end.
func all[T any](s *service, list func(yield func(T, error) bool)) (items []T) {
	s.t.Helper()
	for item, err := range list {
		items = append(items, ok(item, err)(s.t))
	}
	return items
}

func TestOrganizations(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx := t.Context()
		want := api.Organization{
			ID: "org_118200000000000077", EnvironmentID: "env_100000000000000001", DisplayName: "Acme", ExternalID: "acme-1", RegionCode: "EU", Slug: "acme-eu",
			Metadata: map[string]string{"plan": "gold"}, State: "active",
		}
		created := ok(s.own().CreateOrganization(ctx, api.NewOrganization{
			ID: want.ID, DisplayName: "Acme", ExternalID: "acme-1", RegionCode: "EU", Slug: "acme-eu", Metadata: want.Metadata,
		}))(t)
		if created.CreatedAt.IsZero() || created.UpdatedAt.IsZero() {
			t.Errorf("created %+v", created)
		}
		want.CreatedAt, want.UpdatedAt = created.CreatedAt, created.UpdatedAt
		for name, got := range map[string]api.Organization{"created": created, "read": ok(s.own().Organization(ctx, want.ID))(t)} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		_, err := s.own().CreateOrganization(ctx, api.NewOrganization{DisplayName: "Again", ExternalID: "acme-1"})
		refusal(t, err, http.StatusConflict, "")

		for i := range 102 { // more than a page
			s.organization(fmt.Sprint("Organization ", i))
		}
		if got := all(s, s.own().Organizations(ctx, "")); len(got) != 103 {
			t.Errorf("%d organizations are listed", len(got))
		}
		if got := all(s, s.own().Organizations(ctx, "acme-1")); len(got) != 1 || got[0].ID != want.ID {
			t.Errorf("by external id: %+v", got)
		}
		if got := all(s, s.own().Organizations(ctx, "none")); len(got) != 0 {
			t.Errorf("by an unknown external id: %+v", got)
		}
		if a := s.send("GET", "/v1/organizations?limit=200", nil); len(a.json(t, "data").([]any)) != 100 {
			t.Error("a page has more than 100, or fewer")
		}

		// Another environment has its own.
		other := s.InEnvironment("env_2")
		if got := all(s, other.Organizations(ctx, "")); len(got) != 0 {
			t.Errorf("another environment has %+v", got)
		}
		_, err = other.Organization(ctx, want.ID)
		refusal(t, err, http.StatusNotFound, "path.id")
		if o := ok(other.CreateOrganization(ctx, api.NewOrganization{DisplayName: "Acme", ID: want.ID}))(t); o.EnvironmentID != "env_2" {
			t.Errorf("created there: %+v", o)
		}

		if err := s.own().DeleteOrganization(ctx, want.ID); err != nil {
			t.Fatal(err)
		}
		_, err = s.own().Organization(ctx, want.ID)
		refusal(t, err, http.StatusNotFound, "path.id")
		refusal(t, s.own().DeleteOrganization(ctx, want.ID), http.StatusNotFound, "path.id")
		if _, err := other.Organization(ctx, want.ID); err != nil {
			t.Errorf("the one of the other environment: %v", err)
		}
	})
}

func TestMembers(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, acme, globex := t.Context(), s.organization("Acme").ID, s.organization("Globex").ID
		ines := ok(s.own().AddMember(ctx, acme, api.NewMember{Email: "ines@acme.example", ExternalID: "e-1", Name: "Inès Fournier", Roles: []string{"admin", "admin", "member"}}))(t)
		want := api.Member{
			UserID: ines.UserID, OrganizationID: acme, Email: "ines@acme.example", ExternalID: "e-1", Name: "Inès Fournier", Status: "ACTIVE", Epoch: 1,
			Roles: []string{"admin", "member"}, ProvisioningMethod: "direct_provision",
		}
		ignore := cmpopts.IgnoreFields(api.Member{}, "JoinedAt", "UpdatedAt")
		for name, got := range map[string]api.Member{"added": ines, "read": ok(s.own().Member(ctx, acme, ines.UserID))(t)} {
			if diff := cmp.Diff(want, got, ignore); diff != "" || got.JoinedAt.IsZero() {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		_, err := s.own().AddMember(ctx, acme, api.NewMember{Email: "INES@acme.example"})
		refusal(t, err, http.StatusConflict, "")
		second := ok(s.own().AddMember(ctx, globex, api.NewMember{UserID: ines.UserID}))(t)
		if second.OrganizationID != globex || second.UserID != ines.UserID || len(second.Roles) != 0 {
			t.Errorf("in a second organization: %+v", second)
		}
		_, err = s.own().AddMember(ctx, globex, api.NewMember{UserID: ines.UserID})
		refusal(t, err, http.StatusConflict, "")
		_, err = s.own().AddMember(ctx, globex, api.NewMember{UserID: "usr_100000000000000000"})
		refusal(t, err, http.StatusUnprocessableEntity, "body.user_id")
		_, err = s.own().AddMember(ctx, "org_1", api.NewMember{UserID: ines.UserID})
		refusal(t, err, http.StatusNotFound, "path.id")

		for i := range 101 {
			s.member(acme, fmt.Sprintf("p%d@acme.example", i))
		}
		if got := all(s, s.own().Members(ctx, acme)); len(got) != 102 || !slices.ContainsFunc(got, func(m api.Member) bool { return m.UserID == ines.UserID }) {
			t.Errorf("%d members are listed", len(got))
		}
		if got := all(s, s.own().Members(ctx, globex)); len(got) != 1 || got[0].OrganizationID != globex {
			t.Errorf("members of the other one: %+v", got)
		}
		if got := all(s, s.own().Users(ctx, "")); len(got) != 102 {
			t.Errorf("%d users are listed", len(got))
		}
		if got := all(s, s.own().Users(ctx, "e-1")); len(got) != 1 || got[0].ID != ines.UserID || len(got[0].Memberships) != 2 {
			t.Errorf("by external id: %+v", got)
		}
		if got := all(s, s.own().Users(ctx, "none")); len(got) != 0 {
			t.Errorf("by an unknown external id: %+v", got)
		}
		u := ok(s.own().User(ctx, ines.UserID))(t)
		if u.Email != "ines@acme.example" || u.Name != "Inès Fournier" || u.EnvironmentID != "env_100000000000000001" || len(u.Memberships) != 2 || u.CreatedAt.IsZero() {
			t.Errorf("the user is %+v", u)
		}

		for path, field := range map[string]string{
			"/v1/organizations/org_1/members":                              "path.id",
			"/v1/organizations/org_1/members/" + ines.UserID:               "path.id",
			"/v1/organizations/" + acme + "/members/usr_1":                 "path.user_id",
			"/v1/users/usr_1":                                              "path.id",
			"/v1/users/usr_1/sessions":                                     "path.id",
			"/v1/users/" + ines.UserID + "?environment_id=env_2":           "path.id",
			"/v1/organizations/" + acme + "/members?environment_id=env_2":  "path.id",
			"/v1/organizations/" + globex + "/members/" + notIn(s, globex): "path.user_id",
		} {
			s.refused(s.send("GET", path, nil), http.StatusNotFound, field)
		}
		s.refused(s.send("GET", "/v1/organizations/"+acme+"/members?cursor=x", nil), http.StatusBadRequest, "query.cursor")

		refusal(t, s.own().DeleteUser(ctx, ines.UserID, "nobody@acme.example"), http.StatusUnprocessableEntity, "query.successor")
		if err := s.own().DeleteUser(ctx, ines.UserID, ""); err != nil {
			t.Fatal(err)
		}
		_, err = s.own().User(ctx, ines.UserID)
		refusal(t, err, http.StatusNotFound, "path.id")
		refusal(t, s.own().DeleteUser(ctx, ines.UserID, ""), http.StatusNotFound, "path.id")
	})
}

// notIn finds a user who is no member of an organization.
func notIn(s *service, organizationID string) string {
	for _, u := range all(s, s.own().Users(s.t.Context(), "")) {
		if !slices.ContainsFunc(u.Memberships, func(m api.Member) bool { return m.OrganizationID == organizationID }) {
			return u.ID
		}
	}
	s.t.Fatal("everybody is a member")
	return ""
}

func TestARemovalSaysWhatWasDone(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, acme, globex := t.Context(), s.organization("Acme").ID, s.organization("Globex").ID
		ines := ok(s.own().AddMember(ctx, acme, api.NewMember{Email: "ines@acme.example", Name: "Inès Fournier"}))(t)
		bo := s.member(acme, "bo@acme.example")
		ok(s.own().AddMember(ctx, globex, api.NewMember{UserID: ines.UserID}))(t)
		session := ok(s.own().CreateSession(ctx, api.NewSession{UserID: ines.UserID, OrganizationID: acme}))(t)
		elsewhere := ok(s.own().CreateSession(ctx, api.NewSession{UserID: ines.UserID, OrganizationID: globex}))(t)

		path := "/v1/organizations/" + acme + "/members/" + ines.UserID
		s.refused(s.send("DELETE", path+"?successor=nobody@acme.example", nil), http.StatusUnprocessableEntity, "query.successor")
		s.refused(s.send("DELETE", path, `{"successor":"nobody@acme.example"}`), http.StatusUnprocessableEntity, "body.successor")
		s.refused(s.send("DELETE", path+"?reason=scim", nil), http.StatusUnprocessableEntity, "query.reason")
		s.refused(s.send("DELETE", path, `{"reason":"because"}`), http.StatusUnprocessableEntity, "body.reason")
		s.refused(s.send("DELETE", path+"?reason=api", `{"successor":"bo@acme.example"}`), http.StatusUnprocessableEntity, "body")
		s.refused(s.send("DELETE", path, `{"sucessor":"bo@acme.example"}`), http.StatusUnprocessableEntity, "body.sucessor")
		s.refused(s.send("DELETE", path+"?sucessor=bo@acme.example", nil), http.StatusUnprocessableEntity, "query.sucessor")
		if m := ok(s.own().Member(ctx, acme, ines.UserID))(t); m.Status != "ACTIVE" {
			t.Fatalf("a refused removal changed %+v", m)
		}

		removal := ok(s.own().RemoveMember(ctx, acme, ines.UserID, api.Leaving{Successor: "bo@acme.example", Reason: "dashboard"}))(t)
		want := api.Removal{
			EventID: removal.EventID, OrganizationID: acme, UserID: ines.UserID, Email: "ines@acme.example", Name: "Inès Fournier",
			Successor: &api.Successor{UserID: bo.UserID, Email: "bo@acme.example", Source: "request"}, RevokedSessions: []string{session.ID},
		}
		if diff := cmp.Diff(want, removal); diff != "" || !strings.HasPrefix(removal.EventID, "evt_") {
			t.Errorf("removal (-want +got):\n%s", diff)
		}
		_, err := s.own().RemoveMember(ctx, acme, ines.UserID, api.Leaving{})
		refusal(t, err, http.StatusNotFound, "path.user_id")
		_, err = s.own().RemoveMember(ctx, "org_1", ines.UserID, api.Leaving{})
		refusal(t, err, http.StatusNotFound, "path.id")
		if got := ok(s.own().Session(ctx, session.ID))(t); got.Status != "revoked" {
			t.Errorf("the session is %+v", got)
		}
		if got := ok(s.own().Session(ctx, elsewhere.ID))(t); got.Status != "active" {
			t.Errorf("the other session is %+v", got)
		}

		a := s.send("DELETE", "/v1/organizations/"+globex+"/members/"+ines.UserID, `{}`)
		if a.StatusCode != http.StatusOK || a.json(t, "user_deleted") != true || a.json(t, "revoked_sessions", 0) != elsewhere.ID {
			t.Errorf("the last one: %d %s", a.StatusCode, a.text)
		}
		person, manager := s.managed(globex)
		if r := ok(s.own().RemoveMember(ctx, globex, person, api.Leaving{}))(t); r.Successor == nil || r.Successor.UserID != manager || r.Successor.Source != "manager" {
			t.Errorf("with a manager: %+v", r)
		}
		a = s.send("DELETE", "/v1/organizations/"+acme+"/members/"+bo.UserID, nil)
		if a.json(t, "successor") != nil || len(a.json(t, "revoked_sessions").([]any)) != 0 {
			t.Errorf("without a successor: %s", a.text)
		}
	})
}

func TestWhatIsWrongWithAMember(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	acme := s.organization("Acme").ID
	long := strings.Repeat("x", 256)
	for body, field := range map[string]string{
		`{}`:                                "body.email",
		`{"email":"ines"}`:                  "body.email",
		`{"email":"Ines <ines@a.example>"}`: "body.email",
		`{"email":"a@b\nc.example"}`:        "body.email",
		`{"email":"a@b.example","name":"a\u001b"}`:             "body.name",
		`{"email":"a@b.example","external_id":"` + long + `"}`: "body.external_id",
		`{"user_id":"bo"}`:                        "body.user_id",
		`{"user_id":"usr_1","name":"Bo"}`:         "body.user_id",
		`{"email":"a@b.example","roles":[""]}`:    "body.roles[0]",
		`{"email":"a@b.example","roles":"admin"}`: "body.roles",
		`{"email":"a@b.example","admin":true}`:    "body.admin",
	} {
		s.refused(s.send("POST", "/v1/organizations/"+acme+"/members", body), http.StatusUnprocessableEntity, field)
	}
	s.refused(s.send("POST", "/v1/organizations/"+acme+"/members?environment_id=prod", `{"email":"a@b.example"}`), http.StatusUnprocessableEntity, "query.environment_id")
	for body, field := range map[string]string{
		`{}`:                                                  "body.display_name",
		`{"display_name":" "}`:                                "body.display_name",
		`{"display_name":"A","id":"acme"}`:                    "body.id",
		`{"display_name":"A","slug":"a--b"}`:                  "body.slug",
		`{"display_name":"A","region_code":"MARS"}`:           "body.region_code",
		`{"display_name":"A","metadata":{"a":"b"}}`:           "body.metadata",
		`{"display_name":"A","metadata":{"abc":""}}`:          "body.metadata",
		`{"display_name":"A","metadata":` + entries(11) + `}`: "body.metadata",
	} {
		s.refused(s.send("POST", "/v1/organizations", body), http.StatusUnprocessableEntity, field)
	}
	if a := s.send("POST", "/v1/organizations", `{"display_name":"A","metadata":`+entries(10)+`}`); a.StatusCode != http.StatusCreated {
		t.Errorf("with 10 entries: %d %s", a.StatusCode, a.text)
	}
}

func entries(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"key%d":"v"`, i))
	}
	return "{" + strings.Join(all, ",") + "}"
}

func TestImport(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, acme := t.Context(), s.organization("Acme").ID
		members := make([]api.ImportMember, api.MaxImport)
		for i := range members {
			members[i] = api.ImportMember{Email: fmt.Sprintf("p%d@acme.example", i), Name: "Somebody"}
		}
		members[0] = api.ImportMember{ID: "usr_118200000000001001", Email: "ines@acme.example", ExternalID: "e-1", Roles: []string{"admin"}, Status: "INACTIVE", JoinedAt: time.Now()}
		const some = 150
		if got := ok(s.own().ImportMembers(ctx, acme, members[:some]))(t); got != (api.Imported{Added: some}) {
			t.Errorf("imported %+v", got)
		}
		if got := ok(s.own().ImportMembers(ctx, acme, members[:3]))(t); got != (api.Imported{Known: 3}) {
			t.Errorf("imported again %+v", got)
		}
		if m := ok(s.own().Member(ctx, acme, members[0].ID))(t); m.Status != "INACTIVE" || m.ExternalID != "e-1" || !slices.Equal(m.Roles, []string{"admin"}) || m.ProvisioningMethod != "import" {
			t.Errorf("the first one is %+v", m)
		}
		_, err := s.own().ImportMembers(ctx, acme, append(members, members[1]))
		refusal(t, err, http.StatusUnprocessableEntity, "body.members")
		_, err = s.own().ImportMembers(ctx, acme, nil)
		refusal(t, err, http.StatusUnprocessableEntity, "body.members")
		_, err = s.own().ImportMembers(ctx, "org_1", members)
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.own().ImportMembers(ctx, acme, []api.ImportMember{{Email: "new@acme.example"}, {Name: "Nobody"}, {ID: "usr_2", Status: "gone", Email: "x"}})
		refusal(t, err, http.StatusUnprocessableEntity, "body.members[1].id")
		var refused *api.Error
		if errors.As(err, &refused) && len(refused.Fields) != 3 {
			t.Errorf("it names %v", refused.Fields)
		}
		if got := all(s, s.own().Members(ctx, acme)); len(got) != some {
			t.Errorf("%d members after refused imports", len(got))
		}
	})
}

func TestSessions(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, acme, globex := t.Context(), s.organization("Acme").ID, s.organization("Globex").ID
		ines := s.member(acme, "ines@acme.example").UserID
		ok(s.own().AddMember(ctx, globex, api.NewMember{UserID: ines}))(t)
		made := ok(s.own().CreateSession(ctx, api.NewSession{ID: "ses_118200000000007001", UserID: ines, OrganizationID: acme, Organizations: []string{globex, acme}}))(t)
		if made.ID != "ses_118200000000007001" || made.Status != "active" || made.OrganizationID != acme || !slices.Equal(made.Organizations, []string{acme, globex}) {
			t.Errorf("created %+v", made)
		}
		if diff := cmp.Diff(made, ok(s.own().Session(ctx, made.ID))(t)); diff != "" {
			t.Error(diff)
		}
		other := ok(s.own().CreateSession(ctx, api.NewSession{UserID: ines, OrganizationID: acme}))(t)
		for _, id := range []string{other.ID, other.ID} {
			if got := ok(s.own().RevokeSession(ctx, id))(t); got.Status != "revoked" {
				t.Errorf("revoked %+v", got)
			}
		}
		for filter, want := range map[api.SessionFilter]int{
			{}: 2, {Status: "active"}: 1, {Status: "logout"}: 0, {Since: time.Now().Add(time.Hour)}: 0, {Until: time.Now().Add(-time.Hour)}: 0,
		} {
			if got := all(s, s.own().UserSessions(ctx, ines, filter)); len(got) != want {
				t.Errorf("%+v finds %d, not %d", filter, len(got), want)
			}
		}
		for body, field := range map[string]string{
			`{"organization_id":"` + acme + `"}`:                                    "body.user_id",
			`{"user_id":"` + ines + `"}`:                                            "body.organization_id",
			`{"user_id":"bo","organization_id":"` + acme + `"}`:                     "body.user_id",
			`{"user_id":"usr_1","organization_id":"` + acme + `"}`:                  "body.user_id",
			`{"user_id":"` + ines + `","organization_id":"org_1"}`:                  "body.user_id",
			`{"user_id":"` + ines + `","organization_id":"acme"}`:                   "body.organizations",
			`{"id":"s1","user_id":"` + ines + `","organization_id":"` + acme + `"}`: "body.id",
		} {
			s.refused(s.send("POST", "/v1/sessions", body), http.StatusUnprocessableEntity, field)
		}
		_, err := s.own().CreateSession(ctx, api.NewSession{ID: made.ID, UserID: ines, OrganizationID: acme})
		refusal(t, err, http.StatusConflict, "")
		_, err = s.own().Session(ctx, "ses_1")
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.own().RevokeSession(ctx, "ses_1")
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.InEnvironment("env_2").Session(ctx, made.ID)
		refusal(t, err, http.StatusNotFound, "path.id")
	})
}

func TestDirectories(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, acme, globex := t.Context(), s.organization("Acme").ID, s.organization("Globex").ID
		changes := 0
		s.server.OnDirectoriesChanged = func() { changes++ }
		made := ok(s.own().CreateDirectory(ctx, api.NewSCIMDirectory{OrganizationID: acme, Name: "Okta"}))(t)
		if !strings.HasPrefix(made.Token, "scim_") || len(made.Tokens) != 1 || made.Path != "/api/v1/directories/"+made.ID+"/scim/v2" ||
			made.State != "enabled" || made.OrganizationID != acme || made.EnvironmentID != "env_100000000000000001" || made.Name != "Okta" {
			t.Errorf("created %+v", made)
		}
		other := ok(s.own().CreateDirectory(ctx, api.NewSCIMDirectory{OrganizationID: globex, Name: "Entra"}))(t)
		if got := ok(s.Directory(ctx, made.ID))(t); got.Token != "" || got.Tokens[0].Prefix != made.Token[:11] {
			t.Errorf("read %+v", got)
		}
		var ids []string
		for _, organization := range []string{"", acme} {
			for _, d := range all(s, s.Directories(ctx, organization)) {
				ids = append(ids, d.ID)
			}
		}
		if want := []string{other.ID, made.ID, made.ID}; !slices.Equal(ids, want) {
			t.Errorf("lists are %v, not %v", ids, want)
		}
		if a := s.send("GET", "/v1/directories", nil); strings.Contains(a.text, made.Token) {
			t.Errorf("a list shows a token: %s", a.text)
		}

		name, off := "Okta 2", "disabled"
		if got := ok(s.UpdateDirectory(ctx, made.ID, api.SCIMDirectoryChange{Name: &name, State: &off}))(t); got.Name != name || got.State != off {
			t.Errorf("changed %+v", got)
		}
		hour := 3600.0
		rotated := ok(s.RotateDirectory(ctx, made.ID, api.TokenRotation{OverlapSeconds: &hour}))(t)
		if rotated.Token == "" || rotated.Token == made.Token || len(rotated.Tokens) != 2 || rotated.Tokens[1].ExpiresAt.IsZero() {
			t.Errorf("rotated %+v", rotated)
		}
		if a := s.send("POST", "/v1/directories/"+made.ID+"/rotate", nil); a.StatusCode != http.StatusOK || len(a.json(t, "tokens").([]any)) != 3 {
			t.Errorf("rotated by default: %d %s", a.StatusCode, a.text)
		}
		for range 2 {
			ok(s.RotateDirectory(ctx, made.ID, api.TokenRotation{}))(t)
		}
		_, err := s.RotateDirectory(ctx, made.ID, api.TokenRotation{})
		refusal(t, err, http.StatusConflict, "")

		for body, field := range map[string]string{
			`{"name":"Okta"}`: "body.organization_id",
			`{"name":"Okta","organization_id":"org_1"}`:    "body.organization_id",
			`{"name":"","organization_id":"` + acme + `"}`: "body.name",
		} {
			s.refused(s.send("POST", "/v1/directories", body), http.StatusUnprocessableEntity, field)
		}
		s.refused(s.send("POST", "/v1/directories?environment_id=env_2", `{"name":"Okta","organization_id":"`+acme+`"}`), http.StatusUnprocessableEntity, "body.organization_id")
		if err := s.DeleteDirectory(ctx, made.ID); err != nil {
			t.Fatal(err)
		}
		if changes != 7 {
			t.Errorf("%d changes were told", changes)
		}
		_, err = s.Directory(ctx, made.ID)
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.UpdateDirectory(ctx, made.ID, api.SCIMDirectoryChange{})
		refusal(t, err, http.StatusNotFound, "path.id")
		_, err = s.RotateDirectory(ctx, made.ID, api.TokenRotation{})
		refusal(t, err, http.StatusNotFound, "path.id")
		refusal(t, s.DeleteDirectory(ctx, made.ID), http.StatusNotFound, "path.id")
	})
}

func TestClients(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *service) {
		ctx, changes := t.Context(), 0
		s.server.OnClientsChanged = func() { changes++ }
		made := ok(s.own().CreateClient(ctx, "wiki"))(t)
		if !strings.HasPrefix(made.ID, "skc_") || !strings.HasPrefix(made.Secret, made.Prefix) || made.Secret == made.Prefix ||
			made.EnvironmentID != "env_100000000000000001" || made.Name != "wiki" || !made.RevokedAt.IsZero() {
			t.Errorf("created %+v", made)
		}
		if other := ok(s.InEnvironment("env_2").CreateClient(ctx, "crm"))(t); other.EnvironmentID != "env_2" {
			t.Errorf("created %+v", other)
		}
		if err := s.RevokeClient(ctx, made.ID); err != nil || changes != 1 {
			t.Errorf("revoked, told %d times: %v", changes, err)
		}
		got := all(s, s.Clients(ctx))
		if len(got) != 2 || got[1].ID != made.ID || got[1].RevokedAt.IsZero() || got[1].Secret != "" || got[0].Name != "crm" {
			t.Errorf("listed %+v", got)
		}
		refusal(t, s.RevokeClient(ctx, "skc_1"), http.StatusNotFound, "path.id")
		s.refused(s.send("POST", "/v1/clients", `{"name":""}`), http.StatusUnprocessableEntity, "body.name")
	})
}

// TestAnUnavailableDirectory answers 503, and tells the log alone why.
func TestAnUnavailableDirectory(t *testing.T) {
	t.Parallel()
	s := sqlite(t)
	s.server.Directory = failing{err: fmt.Errorf("write: %w: connection to 10.0.0.7 lost", directory.ErrUnavailable)}
	for _, r := range routes {
		method, path, _ := strings.Cut(r, " ")
		body := map[string]string{
			"POST /v1/organizations":                     `{"display_name":"Acme"}`,
			"POST /v1/organizations/{id}/members":        `{"email":"a@b.example"}`,
			"POST /v1/organizations/{id}/members/import": `{"members":[{"email":"a@b.example"}]}`,
			"POST /v1/sessions":                          `{"user_id":"usr_1","organization_id":"org_1"}`,
			"POST /v1/directories":                       `{"organization_id":"org_1","name":"Okta"}`,
		}[r]
		if group, _, _ := strings.Cut(strings.TrimPrefix(path, "/v1/"), "/"); !slices.Contains([]string{"organizations", "users", "sessions"}, group) && r != "POST /v1/directories" {
			continue
		}
		path = strings.NewReplacer("{id}", "x", "{user_id}", "y").Replace(path)
		if a := s.send(method, path, body); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || strings.Contains(a.text, "10.0.0.7") {
			t.Errorf("%s: %d %s", r, a.StatusCode, a.text)
		}
	}
}
