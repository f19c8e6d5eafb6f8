package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/testenv"
)

// insertRows writes rows as they are.
func insertRows[T any](t *testing.T, s *Store, tb table[T], rows ...T) {
	t.Helper()
	marks := make([]string, len(tb.columns))
	for i := range marks {
		marks[i] = fmt.Sprint("$", i+1)
	}
	for _, row := range rows {
		args := tb.args(&row)
		for i, arg := range args {
			_, text := arg.(string)
			_, number := arg.(int64)
			if text != (tb.columns[i].kind == "text") || number != (tb.columns[i].kind == "bigint") {
				t.Fatalf("%s.%s, a %s, is written as %T", tb.name, tb.columns[i].name, tb.columns[i].kind, arg)
			}
		}
		if _, err := s.write.ExecContext(t.Context(), `INSERT INTO `+tb.name+` (`+tb.list()+`) VALUES (`+strings.Join(marks, ", ")+`)`, args...); err != nil {
			t.Fatal(err)
		}
	}
}

func at(n int64) time.Time { return time.UnixMicro(1_700_000_000_000_000 + n) }

func TestRowsOfPeopleAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		odd := "\u2028 <&> \"'\\ ünï 𝄞"
		roundTrip(t, s, organizationTable, Organization{
			EnvironmentID: "env_1", ID: "org_1", DisplayName: odd, ExternalID: "ext", RegionCode: "EU", Slug: "slug",
			Metadata: map[string]string{"a": odd, "nul": "\x00"}, State: OrganizationDeleted, CreatedAt: at(1), UpdatedAt: at(2),
		}, Organization{EnvironmentID: "env_1", ID: "org_2"})
		roundTrip(t, s, userTable, User{
			EnvironmentID: "env_1", ID: "usr_1", Email: "Ada@Example.com", ExternalID: "ext",
			Profile:     events.UserProfile{ID: "usp_1", Name: odd, EmailVerified: true, Groups: []string{"g"}, Metadata: map[string]string{"k": "v"}},
			Metadata:    map[string]string{"a": odd},
			Provisional: true, CreatedAt: at(1), UpdatedAt: at(2), LastLoginAt: at(3), DeletedAt: at(4),
		}, User{EnvironmentID: "env_1", ID: "usr_2"})
		roundTrip(t, s, membershipTable, Membership{
			EnvironmentID: "env_1", OrganizationID: "org_1", UserID: "usr_1", Status: MembershipInviteExpired, Epoch: 7,
			Roles: []events.Role{{ID: "role_1", Name: "admin", DisplayName: odd}}, Metadata: map[string]string{"a": odd},
			InviterEmail: "b@example.com", ProvisioningMethod: "scim", JoinedAt: at(1), CreatedAt: at(2), AcceptedAt: at(3), ExpiresAt: at(4),
			UpdatedAt: at(5), ChangedAt: time.Unix(1_700_000_000, 123_456_789), Reason: "api",
			Successor: &events.Successor{UserID: "usr_2", Email: "c@example.com"}, RemovalSeq: 9,
		}, Membership{EnvironmentID: "env_1", OrganizationID: "org_2", UserID: "usr_2"})
		roundTrip(t, s, sessionTable, Session{
			EnvironmentID: "env_1", ID: "ses_1", UserID: "usr_1", OrganizationID: "org_1", Organizations: []string{"org_1", "org_2"},
			Status: SessionRevoked, CreatedAt: at(1), UpdatedAt: at(2), LastActiveAt: at(3), IdleExpiresAt: at(4), AbsoluteExpiresAt: at(5),
			ExpiredAt: at(6), LogoutAt: at(7),
		}, Session{EnvironmentID: "env_1", ID: "ses_2"})
		roundTrip(t, s, scimUserTable, SCIMUser{
			EnvironmentID: "env_1", DirectoryID: "dir_1", OrganizationID: "org_1", ID: "diruser_1", UserID: "usr_1", UserName: "Ada", ExternalID: "ext", Email: "Ada@Example.com", Active: true,
			ManagerID: "diruser_2", Attributes: json.RawMessage(`{"displayName": "\u0000"}`), CreatedAt: at(1), UpdatedAt: at(2),
		}, SCIMUser{DirectoryID: "dir_1", ID: "diruser_2", Attributes: json.RawMessage(`{}`)})
		roundTrip(t, s, scimGroupTable, SCIMGroup{
			DirectoryID: "dir_1", ID: "dirgroup_1", DisplayName: odd, ExternalID: "ext", Members: []string{"diruser_1", odd},
			CreatedAt: at(1), UpdatedAt: at(2),
		}, SCIMGroup{DirectoryID: "dir_1", ID: "dirgroup_2"})

		var emailKey, userNameKey, scimEmailKey string
		if err := s.read.QueryRowContext(t.Context(), `SELECT u.email_key, d.user_name_key, d.email_key FROM users u, directory_users d
WHERE u.id = 'usr_1' AND d.id = 'diruser_1'`).Scan(&emailKey, &userNameKey, &scimEmailKey); err != nil {
			t.Fatal(err)
		}
		if emailKey != "ada@example.com" || userNameKey != "ada" || scimEmailKey != "ada@example.com" {
			t.Errorf("keys %q, %q, %q", emailKey, userNameKey, scimEmailKey)
		}
	})
}

func roundTrip[T any](t *testing.T, s *Store, tb table[T], full, empty T) {
	t.Helper()
	for v, i := reflect.ValueOf(full), 0; i < v.NumField(); i++ {
		switch name := v.Type().Field(i).Name; name {
		case "Memberships", "OrganizationName", "OrganizationExternalID": // read from other tables
		default:
			if v.Field(i).IsZero() {
				t.Errorf("%T.%s is not tried", full, name)
			}
		}
	}
	insertRows(t, s, tb, full, empty)
	found, err := query(t.Context(), s.read, tb.name, tb.scan, `SELECT `+tb.list()+` FROM `+tb.name+` ORDER BY `+tb.key)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]T{full, empty}, found); diff != "" {
		t.Errorf("%s: %s", tb.name, diff)
	}
	rows, err := s.read.QueryContext(t.Context(), `SELECT * FROM `+tb.name+` LIMIT 0`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	if err != nil {
		t.Fatal(err)
	}
	var actual, told []string
	for _, c := range columns {
		kind := strings.ToLower(c.DatabaseTypeName())
		if kind == "int8" || kind == "integer" {
			kind = "bigint"
		}
		actual = append(actual, c.Name()+" "+kind)
	}
	for _, c := range tb.columns {
		told = append(told, c.name+" "+c.kind)
	}
	if diff := cmp.Diff(actual, told); diff != "" {
		t.Errorf("%s: %s", tb.name, diff)
	}
}

// town has some people in some organizations.
func town(t *testing.T, s *Store) {
	t.Helper()
	insertRows(
		t, s, organizationTable,
		Organization{EnvironmentID: "env_1", ID: "org_1", DisplayName: "One", ExternalID: "x1", Slug: "one"},
		Organization{EnvironmentID: "env_1", ID: "org_2", DisplayName: "Two", ExternalID: "x2"},
		Organization{EnvironmentID: "env_1", ID: "org_3", DisplayName: "Three", ExternalID: "x3", State: OrganizationDeleting},
		Organization{EnvironmentID: "env_1", ID: "org_4", DisplayName: "Four", ExternalID: "x1", State: OrganizationDeleted},
		Organization{EnvironmentID: "env_1", ID: "org_5", DisplayName: "Five"},
		Organization{EnvironmentID: "env_2", ID: "org_1", DisplayName: "Other", ExternalID: "x1"},
	)
	insertRows(
		t, s, userTable,
		User{EnvironmentID: "env_1", ID: "usr_1", Email: "1@example.com", ExternalID: "u1"},
		User{EnvironmentID: "env_1", ID: "usr_2", Email: "2@example.com", ExternalID: "u2"},
		User{EnvironmentID: "env_1", ID: "usr_3", Email: "3@example.com"},
		User{EnvironmentID: "env_1", ID: "usr_4", Email: "1@example.com", ExternalID: "u1", DeletedAt: at(1)},
		User{EnvironmentID: "env_2", ID: "usr_1", ExternalID: "u1"},
	)
	member := func(env, organization, user string, status MembershipStatus) {
		insertRows(t, s, membershipTable, Membership{EnvironmentID: env, OrganizationID: organization, UserID: user, Status: status, Epoch: 1})
	}
	member("env_1", "org_2", "usr_1", MembershipPendingInvite)
	member("env_1", "org_1", "usr_1", MembershipActive)
	member("env_1", "org_3", "usr_1", MembershipActive) // of an organization that is being deleted
	member("env_1", "org_5", "usr_1", MembershipRemoved)
	member("env_1", "org_1", "usr_2", MembershipInactive)
	member("env_1", "org_3", "usr_3", MembershipActive)
	member("env_1", "org_1", "usr_4", MembershipRemoved)
	member("env_2", "org_1", "usr_1", MembershipActive)
}

// brief is what a test looks at of users.
func brief(users ...User) (all []string) {
	for _, u := range users {
		text := u.EnvironmentID + "/" + u.ID
		for _, m := range u.Memberships {
			text += " " + m.OrganizationID + "=" + m.OrganizationName + "/" + m.OrganizationExternalID + ":" + m.Status.String()
		}
		all = append(all, text)
	}
	return all
}

func TestPeopleAreFound(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		town(t, s)
		ctx := t.Context()
		for _, c := range []struct{ env, id, externalID, want string }{
			{"env_1", "org_1", "", "One"},
			{"env_2", "org_1", "", "Other"},
			{"env_1", "", "x1", "One"},
			{"env_2", "", "x1", "Other"},
			{"env_1", "org_3", "", ""}, // being deleted
			{"env_1", "", "x3", ""},
			{"env_1", "org_4", "", ""},
			{"env_1", "org_9", "", ""},
			{"env_1", "", "", ""},
			{"env_1", "org_\x00", "", ""},
			{"env_1", "", "x\xff", ""},
		} {
			o, err := s.Organization(ctx, c.env, c.id)
			if c.id == "" {
				o, err = s.OrganizationWithExternalID(ctx, c.env, c.externalID)
			}
			if o.DisplayName != c.want || (err == nil) != (c.want != "") || err != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("organization %+v: %+v, %v", c, o, err)
			}
		}
		first := "env_1/usr_1 org_1=One/x1:ACTIVE org_2=Two/x2:PENDING_INVITE"
		for _, c := range []struct{ env, id, externalID, want string }{
			{"env_1", "usr_1", "", first},
			{"env_1", "", "u1", first},
			{"env_2", "", "u1", "env_2/usr_1 org_1=Other/x1:ACTIVE"},
			{"env_1", "usr_3", "", "env_1/usr_3"},
			{"env_1", "usr_4", "", ""}, // deleted
			{"env_1", "usr_9", "", ""},
			{"env_1", "", "", ""},
			{"env_1", "usr_\x00", "", ""},
			{"env_1", "", "\xff", ""},
		} {
			u, err := s.User(ctx, c.env, c.id)
			if c.id == "" {
				u, err = s.UserWithExternalID(ctx, c.env, c.externalID)
			}
			if err != nil {
				if c.want != "" || !errors.Is(err, ErrNotFound) {
					t.Errorf("user %+v: %v", c, err)
				}
			} else if got := brief(u)[0]; got != c.want {
				t.Errorf("user %+v: %s", c, got)
			}
		}
	})
}

func TestListsOfPeople(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		town(t, s)
		ctx := t.Context()
		users := must(s.Users(ctx, "env_1", Span{Size: 10}))(t)
		first, second := "env_1/usr_1 org_1=One/x1:ACTIVE org_2=Two/x2:PENDING_INVITE", "env_1/usr_2 org_1=One/x1:INACTIVE"
		if diff := cmp.Diff([]string{first, second, "env_1/usr_3"}, brief(users.Rows...)); diff != "" || users.Total != 3 {
			t.Errorf("users: %d, %s", users.Total, diff)
		}
		members := must(s.Members(ctx, "env_1", "org_1", Span{Size: 10}))(t)
		if diff := cmp.Diff([]string{first, second}, brief(members.Rows...)); diff != "" || members.Total != 2 {
			t.Errorf("members: %d, %s", members.Total, diff)
		}
		if nobody := must(s.Members(ctx, "env_1", "org_5", Span{Size: 10}))(t); nobody.Total != 0 || len(nobody.Rows) != 0 {
			t.Errorf("members of an empty organization: %+v", nobody)
		}
		for _, id := range []string{"org_3", "org_4", "org_9", "org_\x00"} {
			if part, err := s.Members(ctx, "env_1", id, Span{Size: 10}); !errors.Is(err, ErrNotFound) {
				t.Errorf("members of %q: %+v, %v", id, part, err)
			}
		}
		names := func(part Part[Organization]) (all []string) {
			for _, o := range part.Rows {
				all = append(all, o.DisplayName)
			}
			return all
		}
		all := must(s.Organizations(ctx, "env_1", "", Span{Size: 10}))(t)
		if got := names(all); !slices.Equal(got, []string{"One", "Two", "Five"}) || all.Total != 3 {
			t.Errorf("organizations %v of %d", got, all.Total)
		}
		external := must(s.Organizations(ctx, "env_1", "x2", Span{Size: 10}))(t)
		if got := names(external); !slices.Equal(got, []string{"Two"}) || external.Total != 1 {
			t.Errorf("organizations with an external id %v of %d", got, external.Total)
		}
		for _, id := range []string{"x3", "x9", "\x00"} {
			if none := must(s.Organizations(ctx, "env_1", id, Span{Size: 10}))(t); none.Total != 0 || len(none.Rows) != 0 {
				t.Errorf("organizations with external id %q: %+v", id, none)
			}
		}
	})
}

// TestPartsOfLists looks at every part that a list can be asked for: a page seen
// from any key, there or not, in either way.
func TestPartsOfLists(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		insertRows(t, s, organizationTable, Organization{EnvironmentID: "env_1", ID: "org_1"}, Organization{EnvironmentID: "env_1", ID: "org_2"})
		ids := []string{"usr_2", "usr_4", "usr_6", "usr_8"}
		for _, id := range ids {
			insertRows(t, s, userTable, User{EnvironmentID: "env_1", ID: id})
			for _, organization := range []string{"org_1", "org_2"} {
				insertRows(t, s, membershipTable, Membership{EnvironmentID: "env_1", OrganizationID: organization, UserID: id, Status: MembershipActive})
			}
		}
		for key := range 10 {
			for size := 1; size <= 5; size++ {
				for _, sp := range []Span{{}, {With: true}, {Back: true}, {Back: true, With: true}} {
					sp.Key, sp.Size = fmt.Sprint("usr_", key), size
					want := Part[string]{Total: 4}
					for _, id := range ids {
						switch inside := sp.With && id == sp.Key || !sp.Back && id > sp.Key || sp.Back && id < sp.Key; {
						case inside:
							want.Rows = append(want.Rows, id)
						case sp.Back:
							want.More = true
						default:
							want.Before = true
						}
					}
					if n := len(want.Rows); n > size && sp.Back {
						want.Rows, want.Before = want.Rows[n-size:], true
					} else if n > size {
						want.Rows, want.More = want.Rows[:size], true
					}
					for name, part := range map[string]Part[User]{
						"users":   must(s.Users(t.Context(), "env_1", sp))(t),
						"members": must(s.Members(t.Context(), "env_1", "org_1", sp))(t),
					} {
						got := Part[string]{Before: part.Before, More: part.More, Total: part.Total}
						for _, u := range part.Rows {
							got.Rows = append(got.Rows, u.ID)
							if len(u.Memberships) != 2 {
								t.Errorf("%s: %d memberships", name, len(u.Memberships))
							}
						}
						if diff := cmp.Diff(want, got); diff != "" {
							t.Errorf("%s %+v: %s", name, sp, diff)
						}
					}
				}
			}
		}
	})
}

func TestSessionsAreShownAsTheyStand(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		past, future := c.t.Add(-time.Minute), c.t.Add(time.Minute)
		add := func(id string, status SessionStatus, created, idle, absolute, expired time.Time) {
			insertRows(t, s, sessionTable, Session{
				EnvironmentID: "env_1", ID: id, UserID: "usr_1", Status: status,
				CreatedAt: created, IdleExpiresAt: idle, AbsoluteExpiresAt: absolute, ExpiredAt: expired,
			})
		}
		never := time.Time{}
		add("ses_1", SessionActive, at(1), never, never, never)
		add("ses_2", SessionActive, at(2), future, future, never)
		add("ses_3", SessionActive, at(3), past, future, never)
		add("ses_4", SessionActive, at(4), future, past, never)
		add("ses_5", SessionActive, at(5), past, past.Add(-time.Minute), never)
		add("ses_6", SessionActive, at(6), c.t, never, never) // to the microsecond
		add("ses_7", SessionRevoked, at(7), past, past, never)
		add("ses_8", SessionExpired, at(8), past, past, past.Add(-time.Hour))
		insertRows(t, s, sessionTable, Session{EnvironmentID: "env_1", ID: "ses_9", UserID: "usr_9"}, Session{EnvironmentID: "env_2", ID: "ses_1", UserID: "usr_1"})
		insertRows(t, s, userTable, User{EnvironmentID: "env_1", ID: "usr_2"}, User{EnvironmentID: "env_1", ID: "usr_3", DeletedAt: at(1)})

		want := map[string]struct {
			status  SessionStatus
			expired time.Time
		}{
			"ses_1": {SessionActive, never}, "ses_2": {SessionActive, never},
			"ses_3": {SessionExpired, past}, "ses_4": {SessionExpired, past}, "ses_5": {SessionExpired, past.Add(-time.Minute)}, "ses_6": {SessionExpired, c.t},
			"ses_7": {SessionRevoked, never}, "ses_8": {SessionExpired, past.Add(-time.Hour)},
		}
		for id, w := range want {
			if got := must(s.Session(ctx, "env_1", id))(t); got.Status != w.status || !got.ExpiredAt.Equal(w.expired) {
				t.Errorf("%s is %s since %v", id, got.Status, got.ExpiredAt)
			}
		}
		for _, id := range []string{"ses_0", "ses_\x00"} {
			if _, err := s.Session(ctx, "env_1", id); !errors.Is(err, ErrNotFound) {
				t.Errorf("session %q: %v", id, err)
			}
		}
		for _, c := range []struct {
			f    SessionFilter
			want string
		}{
			{SessionFilter{}, "1 2 3 4 5 6 7 8"},
			{SessionFilter{Statuses: []SessionStatus{SessionActive}}, "1 2"},
			{SessionFilter{Statuses: []SessionStatus{SessionExpired}}, "3 4 5 6 8"},
			{SessionFilter{Statuses: []SessionStatus{SessionActive, SessionRevoked}}, "1 2 7"},
			{SessionFilter{Statuses: []SessionStatus{"other"}}, ""},
			{SessionFilter{Statuses: []SessionStatus{SessionActive, "\x00"}}, "1 2"},
			{SessionFilter{Statuses: []SessionStatus{"\x00"}}, ""},
			{SessionFilter{Since: at(3)}, "3 4 5 6 7 8"},
			{SessionFilter{Before: at(3)}, "1 2"},
			{SessionFilter{Since: at(2), Before: at(8), Statuses: []SessionStatus{SessionActive, SessionExpired}}, "2 3 4 5 6"},
		} {
			part := must(s.UserSessions(ctx, "env_1", "usr_1", c.f, Span{Size: 10}))(t)
			var ids []string
			for _, found := range part.Rows {
				ids = append(ids, strings.TrimPrefix(found.ID, "ses_"))
				if w := want[found.ID]; found.Status != w.status || !found.ExpiredAt.Equal(w.expired) {
					t.Errorf("listed %s is %s since %v", found.ID, found.Status, found.ExpiredAt)
				}
			}
			if got := strings.Join(ids, " "); got != c.want || part.Total != int64(len(ids)) {
				t.Errorf("%+v: %s of %d", c.f, got, part.Total)
			}
		}
		if none := must(s.UserSessions(ctx, "env_1", "usr_2", SessionFilter{}, Span{Size: 10}))(t); none.Total != 0 {
			t.Errorf("sessions of one who has none: %+v", none)
		}
		// Of an account of which nothing else is known.
		if some := must(s.UserSessions(ctx, "env_1", "usr_9", SessionFilter{Since: at(1)}, Span{Size: 10}))(t); some.Total != 0 {
			t.Errorf("sessions of one who is not known: %+v", some)
		}
		for _, id := range []string{"usr_0", "usr_3", "usr_\x00"} {
			if part, err := s.UserSessions(ctx, "env_1", id, SessionFilter{}, Span{Size: 10}); !errors.Is(err, ErrNotFound) {
				t.Errorf("sessions of %q: %+v, %v", id, part, err)
			}
		}
	})
}

func TestDirectoriesAreSearched(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		insertRows(
			t, s, scimUserTable,
			SCIMUser{DirectoryID: "dir_1", ID: "diruser_1", UserName: "Ada", ExternalID: "A", Email: "Ada@Example.com", Active: true},
			SCIMUser{DirectoryID: "dir_1", ID: "diruser_2", UserName: "bob", ExternalID: "a", Email: "bob@example.com"},
			SCIMUser{DirectoryID: "dir_1", ID: "diruser_3", UserName: "Ünal", Email: "bob@example.com", Active: true},
			SCIMUser{DirectoryID: "dir_2", ID: "diruser_1", UserName: "ada", ExternalID: "A", Email: "ada@example.com", Active: true},
		)
		odd := `","`
		insertRows(
			t, s, scimGroupTable,
			SCIMGroup{DirectoryID: "dir_1", ID: "dirgroup_1", DisplayName: "All", ExternalID: "g", Members: []string{"diruser_1", "diruser_12"}},
			SCIMGroup{DirectoryID: "dir_1", ID: "dirgroup_2", DisplayName: "Some", Members: []string{"diruser_12", "<&>", "\x00"}},
			SCIMGroup{DirectoryID: "dir_1", ID: "dirgroup_3", DisplayName: "all", Members: []string{odd}},
			SCIMGroup{DirectoryID: "dir_2", ID: "dirgroup_1", DisplayName: "All", Members: []string{"diruser_1"}},
		)
		if u := must(s.SCIMUser(ctx, "dir_2", "diruser_1"))(t); u.UserName != "ada" {
			t.Errorf("found %+v", u)
		}
		if g := must(s.SCIMGroup(ctx, "dir_1", "dirgroup_2"))(t); g.DisplayName != "Some" {
			t.Errorf("found %+v", g)
		}
		for _, id := range []string{"diruser_9", "diruser_\x00", ""} {
			if _, err := s.SCIMUser(ctx, "dir_1", id); !errors.Is(err, ErrNotFound) {
				t.Errorf("user %q: %v", id, err)
			}
			if _, err := s.SCIMGroup(ctx, "dir_1", id); !errors.Is(err, ErrNotFound) {
				t.Errorf("group %q: %v", id, err)
			}
		}
		p := func(text string) *string { return &text }
		for _, c := range []struct {
			f           SCIMUserFilter
			skip, limit int
			want        string
			total       int
		}{
			{SCIMUserFilter{}, 0, 10, "1 2 3", 3},
			{SCIMUserFilter{}, 1, 1, "2", 3},
			{SCIMUserFilter{}, 0, 0, "", 3},
			{SCIMUserFilter{}, 5, 10, "", 3},
			{SCIMUserFilter{UserName: p("aDA")}, 0, 10, "1", 1},
			{SCIMUserFilter{UserName: p("ÜNAL")}, 0, 10, "3", 1},
			{SCIMUserFilter{UserName: p("")}, 0, 10, "", 0},
			{SCIMUserFilter{UserName: p("a\x00")}, 0, 10, "", 0},
			{SCIMUserFilter{UserName: p("%")}, 0, 10, "", 0},
			{SCIMUserFilter{ExternalID: p("A")}, 0, 10, "1", 1},
			{SCIMUserFilter{ExternalID: p("")}, 0, 10, "", 0},
			{SCIMUserFilter{Email: p("BOB@example.com")}, 0, 10, "2 3", 2},
			{SCIMUserFilter{Email: p("BOB@example.com"), Active: new(true)}, 0, 10, "3", 1},
			{SCIMUserFilter{Active: new(false)}, 0, 10, "2", 1},
			{SCIMUserFilter{ID: p("diruser_2")}, 0, 10, "2", 1},
			{SCIMUserFilter{ID: p("diruser_2"), UserName: p("ada")}, 0, 10, "", 0},
		} {
			users, total, err := s.SCIMUsers(ctx, "dir_1", c.f, c.skip, c.limit)
			var ids []string
			for _, u := range users {
				ids = append(ids, strings.TrimPrefix(u.ID, "diruser_"))
			}
			if got := strings.Join(ids, " "); err != nil || got != c.want || total != c.total {
				t.Errorf("users %+v: %q of %d, %v; want %q of %d", c, got, total, err, c.want, c.total)
			}
		}
		for _, c := range []struct {
			f           SCIMGroupFilter
			skip, limit int
			want        string
			total       int
		}{
			{SCIMGroupFilter{}, 0, 2, "1 2", 3},
			{SCIMGroupFilter{}, 2, 2, "3", 3},
			{SCIMGroupFilter{ID: p("dirgroup_3")}, 0, 10, "3", 1},
			{SCIMGroupFilter{DisplayName: p("All")}, 0, 10, "1", 1},
			{SCIMGroupFilter{ExternalID: p("g")}, 0, 10, "1", 1},
			{SCIMGroupFilter{Member: p("diruser_1")}, 0, 10, "1", 1},
			{SCIMGroupFilter{Member: p("diruser_12")}, 0, 10, "1 2", 2},
			{SCIMGroupFilter{Member: p("diruser_12"), DisplayName: p("Some")}, 0, 10, "2", 1},
			{SCIMGroupFilter{Member: p("<&>")}, 0, 10, "2", 1},
			{SCIMGroupFilter{Member: p(odd)}, 0, 10, "3", 1},
			{SCIMGroupFilter{Member: p("diruser_")}, 0, 10, "", 0},
			{SCIMGroupFilter{Member: p("")}, 0, 10, "", 0},
			{SCIMGroupFilter{Member: p("\xff")}, 0, 10, "", 0},
			{SCIMGroupFilter{DisplayName: p("\x00")}, 0, 10, "", 0},
		} {
			groups, total, err := s.SCIMGroups(ctx, "dir_1", c.f, c.skip, c.limit)
			var ids []string
			for _, g := range groups {
				ids = append(ids, strings.TrimPrefix(g.ID, "dirgroup_"))
			}
			if got := strings.Join(ids, " "); err != nil || got != c.want || total != c.total {
				t.Errorf("groups %+v: %q of %d, %v; want %q of %d", c, got, total, err, c.want, c.total)
			}
		}
	})
}

// planned notes how SQLite is going to do what it is asked.
type planned struct {
	querier
	t     *testing.T
	steps []string
}

func (p *planned) QueryContext(ctx context.Context, text string, args ...any) (*sql.Rows, error) {
	p.explain(ctx, text, args)
	return p.querier.QueryContext(ctx, text, args...)
}

func (p *planned) QueryRowContext(ctx context.Context, text string, args ...any) *sql.Row {
	p.explain(ctx, text, args)
	return p.querier.QueryRowContext(ctx, text, args...)
}

func (p *planned) explain(ctx context.Context, text string, args []any) {
	p.t.Helper()
	steps, err := query(ctx, p.querier, "plan", func(step *string, scan func(...any) error) error {
		var id, parent, unused int
		return scan(&id, &parent, &unused, step)
	}, `EXPLAIN QUERY PLAN `+text, args...)
	if err != nil {
		p.t.Fatal(err)
	}
	p.steps = append(p.steps, steps...)
}

// whole tells whether a step reads all rows of a table, or of an environment.
func whole(step string) bool {
	table, scan := strings.CutPrefix(step, "SCAN ")
	switch {
	case table == "p", table == "x", table == "CONSTANT ROW", strings.Contains(step, "VIRTUAL TABLE"): // no table
		return false
	case strings.Contains(step, "INDEX users_listed (environment_id=?)"),
		strings.Contains(step, "INDEX organizations_listed (environment_id=?)"): // to count, and the first page
		return false
	}
	return scan || strings.HasSuffix(step, "(environment_id=?)") || strings.Contains(step, "AUTOMATIC")
}

// TestListsReadNoMoreThanTheyShow asks for everything beside 100,000 memberships.
// SQLite tells its plans, and PostgreSQL counts the rows that it read.
func TestListsReadNoMoreThanTheyShow(t *testing.T) {
	t.Parallel()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		s := open(t, Config{Dir: t.TempDir()})
		for _, r := range reads(s) {
			p := &planned{querier: s.read, t: t}
			if err := r.do(t.Context(), p); err != nil && !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", r.name, err)
			}
			if i := slices.IndexFunc(p.steps, whole); i >= 0 || len(p.steps) == 0 {
				t.Errorf("%s reads too much: %s", r.name, strings.Join(p.steps, "\n  "))
			}
		}
		p := &planned{querier: s.read, t: t}
		if _, err := query(t.Context(), p, "users", scanUser, `SELECT `+userColumns+` FROM users WHERE environment_id = 'env_1' AND email = ''`); err != nil || !slices.ContainsFunc(p.steps, whole) {
			t.Errorf("%v, %v: the test shows nothing", p.steps, err)
		}
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		const most = 1000 + organizations                           // so few are worth a join with all
		s := open(t, Config{URL: testenv.Postgres(t), MaxConns: 1}) // a session sees what it counted itself
		settle(t, s)
		for _, r := range reads(s) {
			before := rowsRead(t, s)
			if err := r.do(t.Context(), s.read); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
			if n := rowsRead(t, s) - before - r.counted; n > most {
				t.Errorf("%s read %d rows", r.name, n)
			}
		}
	})
}

const (
	organizations   = 1000
	membersOfEach   = 100
	people          = organizations * membersOfEach / 2 // each in two
	scimUsersOfEach = 100
)

// settle makes organizations of 100 people each.
func settle(t *testing.T, s *Store) {
	t.Helper()
	for _, text := range []string{
		`INSERT INTO organizations (` + organizationColumns + `)
SELECT 'env_1', 'org_' || (1000 + i), 'Organization', 'x' || i, '', '', '{}', 0, 1, 1 FROM generate_series(0, $1::int - 1) i`,
		`INSERT INTO users (` + userColumns + `)
SELECT 'env_1', 'usr_' || (100000 + i), i || '@example.com', i || '@example.com', 'u' || i, '{}', '{}', 0, 1, 1, 0, 0 FROM generate_series(0, $1::int * 50 - 1) i`,
		`INSERT INTO memberships (` + membershipColumns + `)
SELECT 'env_1', 'org_' || (1000 + i % $1::int), 'usr_' || (100000 + i % ($1::int * 50 - 1)), 1, 1, '[]', '{}', '', '', 1, 1, 0, 0, 1, 1, '', '', 0 FROM generate_series(0, $1::int * 100 - 1) i
ON CONFLICT DO NOTHING`,
		`INSERT INTO sessions (` + sessionColumns + `)
SELECT 'env_1', 'ses_' || (100000 + i), 'usr_' || (100000 + i / 5), 'org_1000', '[]', 'active', 1, 1, 1, 0, 0, 0, 0 FROM generate_series(0, $1::int * 50 - 1) i`,
		`INSERT INTO directory_users (` + scimUserColumns + `)
SELECT 'env_1', 'dir_' || (i % $1::int), 'org_1000', 'diruser_' || (100000 + i), '', i || '', i || '', 'e' || i, '', '', 1, '', '{}', 1, 1 FROM generate_series(0, $1::int * 100 - 1) i`,
		`INSERT INTO directory_groups (` + scimGroupColumns + `)
SELECT 'dir_' || (i % $1::int), 'dirgroup_' || (100000 + i), 'Group ' || i, '', '["diruser_1"]', 1, 1 FROM generate_series(0, $1::int * 10 - 1) i`,
	} {
		if _, err := s.write.ExecContext(t.Context(), text, organizations); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.write.ExecContext(t.Context(), `VACUUM ANALYZE`); err != nil {
		t.Fatal(err)
	}
}

type read struct {
	name    string
	counted int64 // rows that are counted only
	do      func(context.Context, querier) error
}

// reads are all lists, and what is found by an index other than the first.
func reads(s *Store) []read {
	var all []read
	add := func(name string, counted int64, do func(context.Context, querier) error) {
		all = append(all, read{name, counted, do})
	}
	text := func(s string) *string { return &s }
	for name, sp := range map[string]Span{
		"":       {Size: 100},
		" next":  {Size: 100, Key: "usr_120000"},
		" back":  {Size: 100, Key: "usr_130000", Back: true},
		" up to": {Size: 100, Key: "usr_130000", Back: true, With: true},
		" one":   {Size: 1, Key: "usr_120000", With: true},
		" end":   {Size: 100, Key: "usr_999999"},
	} {
		add("users"+name, people, func(ctx context.Context, q querier) error {
			_, err := s.users(ctx, q, "env_1", sp)
			return err
		})
		add("members"+name, 0, func(ctx context.Context, q querier) error {
			_, err := s.members(ctx, q, "env_1", "org_1500", sp)
			return err
		})
		sp.Key = strings.Replace(sp.Key, "usr_120000", "org_1500", 1)
		add("organizations"+name, organizations, func(ctx context.Context, q querier) error {
			_, err := s.organizations(ctx, q, "env_1", "", sp)
			return err
		})
		sp.Key = strings.Replace(sp.Key, "org_1500", "ses_120001", 1)
		add("sessions"+name, 0, func(ctx context.Context, q querier) error {
			_, err := s.userSessions(ctx, q, "env_1", "usr_104000", SessionFilter{Statuses: []SessionStatus{SessionActive}, Since: at(-1 << 50)}, sp)
			return err
		})
	}
	add("user", 0, func(ctx context.Context, q querier) error {
		_, err := s.user(ctx, q, `u.id = $2`, "env_1", "usr_104000")
		return err
	})
	add("user by external id", 0, func(ctx context.Context, q querier) error {
		_, err := s.user(ctx, q, `u.external_id = $2 AND u.external_id <> ''`, "env_1", "u4000")
		return err
	})
	add("organization by external id", 0, func(ctx context.Context, q querier) error {
		_, err := s.organization(ctx, q, `external_id = $2 AND external_id <> ''`, "env_1", "x400")
		return err
	})
	add("organizations by external id", 0, func(ctx context.Context, q querier) error {
		_, err := s.organizations(ctx, q, "env_1", "x400", Span{Size: 10})
		return err
	})
	for name, f := range map[string]SCIMUserFilter{
		"":               {},
		" by userName":   {UserName: text("5000")},
		" by externalId": {ExternalID: text("e5000")},
		" by email":      {Email: text("nobody@example.com"), Active: new(true)},
	} {
		add("SCIM users"+name, 0, func(ctx context.Context, q querier) error {
			_, _, err := s.scimUsers(ctx, q, "dir_1", f, 0, scimUsersOfEach)
			return err
		})
	}
	for name, f := range map[string]SCIMGroupFilter{"": {}, " by name": {DisplayName: text("Group 5000")}, " by member": {Member: text("diruser_1")}} {
		add("SCIM groups"+name, 0, func(ctx context.Context, q querier) error {
			_, _, err := s.scimGroups(ctx, q, "dir_1", f, 0, 100)
			return err
		})
	}
	return all
}
