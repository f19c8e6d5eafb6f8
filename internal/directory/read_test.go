package directory

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
)

// written is a directory whose rows a test writes itself.
type written struct {
	*Directory
	t *testing.T
}

func eachWritten(t *testing.T, test func(t *testing.T, d written)) {
	t.Helper()
	for name, url := range map[string]func(testing.TB) string{"sqlite": nil, "postgres": testenv.Postgres} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := store.Config{Dir: t.TempDir(), MasterKey: store.NewMasterKey()}
			if url != nil {
				c.URL = url(t)
			}
			s, err := store.Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			test(t, written{&Directory{Store: s}, t})
		})
	}
}

// row writes a row: what is not told is empty or 0.
func (d written) row(table string, told map[string]any) {
	d.t.Helper()
	rows, err := d.Store.DB().QueryContext(d.t.Context(), `SELECT * FROM `+table+` LIMIT 0`)
	if err != nil {
		d.t.Fatal(err)
	}
	types, err := rows.ColumnTypes()
	if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
		d.t.Fatal(err)
	}
	var names, marks []string
	var values []any
	for i, c := range types {
		value, ok := told[c.Name()]
		switch {
		case ok:
		case strings.EqualFold(c.DatabaseTypeName(), "text"):
			value = ""
		default:
			value = 0
		}
		names, marks, values = append(names, c.Name()), append(marks, fmt.Sprint("$", i+1)), append(values, value)
	}
	d.exec(`INSERT INTO `+table+` (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(marks, ", ")+`)`, values...)
}

func (d written) exec(text string, args ...any) {
	d.t.Helper()
	if _, err := d.Store.DB().ExecContext(d.t.Context(), text, args...); err != nil {
		d.t.Error(err)
	}
}

func (d written) organization(id, externalID string) {
	d.t.Helper()
	d.row("organizations", map[string]any{"environment_id": "env_1", "id": id, "external_id": externalID})
}

// member writes a user who is a member of org_1.
func (d written) member(id string) {
	d.t.Helper()
	d.row("users", map[string]any{"environment_id": "env_1", "id": id, "external_id": "x" + id})
	d.row("memberships", map[string]any{"environment_id": "env_1", "organization_id": "org_1", "user_id": id, "status": 1})
}

func (d written) session(id, userID, status string) {
	d.t.Helper()
	d.row("sessions", map[string]any{"environment_id": "env_1", "id": id, "user_id": userID, "status": status, "organizations": "[]"})
}

// lists are all lists, each with the ids of what it shows.
func (d written) lists() map[string]func(Page) (List[string], error) {
	ctx := d.t.Context()
	return map[string]func(Page) (List[string], error){
		"organizations": func(p Page) (List[string], error) {
			l, err := d.Organizations(ctx, "env_1", "", p)
			return ids(l, func(o Organization) string { return o.ID }), err
		},
		"users": func(p Page) (List[string], error) {
			l, err := d.Users(ctx, "env_1", p)
			return ids(l, func(u User) string { return u.ID }), err
		},
		"members": func(p Page) (List[string], error) {
			l, err := d.Members(ctx, "env_1", "org_1", p)
			return ids(l, func(u User) string { return u.ID }), err
		},
		"sessions": func(p Page) (List[string], error) {
			l, err := d.UserSessions(ctx, "env_1", "usr_01", SessionFilter{}, p)
			return ids(l, func(s Session) string { return s.ID }), err
		},
	}
}

func ids[T any](l List[T], id func(T) string) List[string] {
	all := List[string]{Next: l.Next, Prev: l.Prev, Total: l.Total}
	for _, item := range l.Items {
		all.Items = append(all.Items, id(item))
	}
	return all
}

func TestListsArePagedBothWays(t *testing.T) {
	t.Parallel()
	eachWritten(t, func(t *testing.T, d written) {
		const n = 23
		for i := 1; i <= n; i++ {
			d.organization(fmt.Sprintf("org_%d", i), fmt.Sprint("x", i))
			d.member(fmt.Sprintf("usr_%02d", i))
			d.session(fmt.Sprintf("ses_%02d", i), "usr_01", "active")
		}
		for name, list := range d.lists() {
			whole, err := list(Page{Size: 1000})
			if err != nil || len(whole.Items) != n || whole.Total != n || whole.Next != "" || whole.Prev != "" || !slices.IsSorted(whole.Items) {
				t.Errorf("%s as a whole: %+v, %v", name, whole, err)
			}
			for _, size := range []int{-1, 0, 1, 5, 22, 23, 24} {
				var pages []List[string]
				for p := (Page{Size: size}); ; {
					l, err := list(p)
					if err != nil {
						t.Fatal(err)
					}
					pages = append(pages, l)
					if p.Token = l.Next; p.Token == "" {
						break
					}
				}
				var all []string
				for _, l := range pages {
					all = append(all, l.Items...)
				}
				if diff := cmp.Diff(whole.Items, all); diff != "" {
					t.Errorf("%s, size %d: %s", name, size, diff)
				}
				want := size
				if size <= 0 {
					want = 10
				}
				if got := len(pages[0].Items); got != min(want, n) {
					t.Errorf("%s, size %d: the first page has %d", name, size, got)
				}
				// Back again, over the same pages.
				for i := len(pages) - 1; i > 0; i-- {
					l, err := list(Page{Size: size, Token: pages[i].Prev})
					if err != nil || !slices.Equal(l.Items, pages[i-1].Items) || l.Next != pages[i-1].Next || l.Prev != pages[i-1].Prev || l.Total != n {
						t.Errorf("%s, size %d: back to page %d: %+v, %v", name, size, i-1, l, err)
					}
				}
				if pages[0].Prev != "" {
					t.Errorf("%s, size %d: there is a page before the first", name, size)
				}
			}
			for other, otherList := range d.lists() {
				l, err := otherList(Page{Size: 1})
				if err != nil {
					t.Fatal(err)
				}
				if _, err := list(Page{Token: l.Next}); (err == nil) != (name == other) || err != nil && !errors.Is(err, ErrPageToken) {
					t.Errorf("%s with a token of %s: %v", name, other, err)
				}
			}
		}
	})
}

func TestAPageOfWhatIsGoneStillHasNeighbors(t *testing.T) {
	t.Parallel()
	eachWritten(t, func(t *testing.T, d written) {
		d.organization("org_1", "")
		for i := 1; i <= 9; i++ {
			d.member(fmt.Sprint("usr_", i))
		}
		list := d.lists()["members"]
		get := func(token string) List[string] {
			t.Helper()
			l, err := list(Page{Size: 3, Token: token})
			if err != nil || l.Total == 0 {
				t.Fatal(l, err)
			}
			return l
		}
		first := get("")
		second := get(first.Next)
		third := get(second.Next)
		d.exec(`UPDATE memberships SET status = 0 WHERE user_id > 'usr_6'`)
		gone := get(second.Next)
		if len(gone.Items) != 0 || gone.Next != "" {
			t.Errorf("behind the end: %+v", gone)
		}
		// Nothing is left out: the page before begins at its end.
		if back := get(gone.Prev); !slices.Equal(back.Items, second.Items) || back.Next != "" || get(back.Prev).Items[0] != "usr_1" {
			t.Errorf("before the end: %+v", back)
		}
		d.exec(`UPDATE memberships SET status = 1 WHERE user_id > 'usr_6'`)
		d.exec(`UPDATE memberships SET status = 0 WHERE user_id < 'usr_7'`)
		if gone = get(third.Prev); len(gone.Items) != 0 || gone.Prev != "" {
			t.Errorf("before the beginning: %+v", gone)
		}
		if on := get(gone.Next); !slices.Equal(on.Items, third.Items) || on.Prev != "" {
			t.Errorf("behind the beginning: %+v", on)
		}
		// And when those went meanwhile that the neighbor begins with.
		d.exec(`UPDATE memberships SET status = 0`)
		d.exec(`UPDATE memberships SET status = 1 WHERE user_id = 'usr_1' OR user_id = 'usr_9'`)
		if l := get(second.Prev); !slices.Equal(l.Items, []string{"usr_1"}) || !slices.Equal(get(l.Next).Items, []string{"usr_9"}) {
			t.Errorf("%+v", l)
		}
	})
}

// TestPagesStayStableUnderChange walks up and down while people come and go:
// those who stay are seen once each way, in order.
func TestPagesStayStableUnderChange(t *testing.T) {
	t.Parallel()
	eachWritten(t, func(t *testing.T, d written) {
		d.organization("org_1", "")
		var stay []string
		for i := range 60 {
			id := fmt.Sprintf("usr_%03d", 10*i)
			d.member(id)
			if i%3 == 0 {
				stay = append(stay, id)
			}
		}
		stop := make(chan struct{})
		var changes atomic.Int64
		var group sync.WaitGroup
		group.Go(func() {
			r := rand.New(rand.NewPCG(1, 2))
			for {
				select {
				case <-stop:
					return
				default:
				}
				changes.Add(1)
				if id := fmt.Sprintf("usr_%03d", r.IntN(600)); !slices.Contains(stay, id) {
					d.exec(`DELETE FROM memberships WHERE user_id = $1`, id)
					d.exec(`DELETE FROM users WHERE id = $1`, id)
					if r.IntN(2) == 0 {
						d.member(id)
					}
				}
			}
		})
		walk := func(name string, list func(Page) (List[string], error), size int) {
			var up, down []string
			p := Page{Size: size}
			for {
				l, err := list(p)
				if err != nil {
					t.Error(err)
					return
				}
				up = append(up, l.Items...)
				if l.Next == "" {
					down, p.Token = slices.Clone(l.Items), l.Prev
					break
				}
				p.Token = l.Next
			}
			for p.Token != "" {
				l, err := list(p)
				if err != nil {
					t.Error(err)
					return
				}
				down, p.Token = append(l.Items, down...), l.Prev
			}
			for way, all := range map[string][]string{"up": up, "down": down} {
				if !slices.IsSorted(all) || len(slices.Compact(slices.Clone(all))) != len(all) {
					t.Errorf("%s %s by %d: not in order, or twice: %v", name, way, size, all)
				}
				all = slices.DeleteFunc(all, func(id string) bool { return !slices.Contains(stay, id) })
				if diff := cmp.Diff(stay, all); diff != "" {
					t.Errorf("%s %s by %d: %s", name, way, size, diff)
				}
			}
		}
		for done := false; !done; done = changes.Load() > 50 || t.Failed() {
			for _, size := range []int{1, 3, 7} {
				walk("users", d.lists()["users"], size)
				walk("members", d.lists()["members"], size)
			}
		}
		close(stop)
		group.Wait()
	})
}

func TestReadsSayWhatIsMissing(t *testing.T) {
	t.Parallel()
	eachWritten(t, func(t *testing.T, d written) {
		ctx, dir := t.Context(), SCIMDirectory{ID: "dir_1"}
		d.organization("org_1", "one")
		d.member("usr_01")
		d.session("ses_1", "usr_01", "active")
		d.session("ses_2", "usr_01", "logout")
		d.row("directory_users", map[string]any{"directory_id": "dir_1", "id": "diruser_1", "user_name": "Ada", "user_name_key": "ada", "active": 1, "attributes": "{}"})
		d.row("directory_groups", map[string]any{"directory_id": "dir_1", "id": "dirgroup_1", "members": `["diruser_1"]`})

		for name, found := range map[string]func() (string, error){
			"organization": func() (string, error) { o, err := d.Organization(ctx, "env_1", Ref{ID: "org_1"}); return o.ID, err },
			"organization by external id": func() (string, error) {
				o, err := d.Organization(ctx, "env_1", Ref{ExternalID: "one"})
				return o.ID, err
			},
			"user":                func() (string, error) { u, err := d.User(ctx, "env_1", Ref{ID: "usr_01"}); return u.ID, err },
			"user by external id": func() (string, error) { u, err := d.User(ctx, "env_1", Ref{ExternalID: "xusr_01"}); return u.ID, err },
			"session":             func() (string, error) { s, err := d.Session(ctx, "env_1", "ses_1"); return s.ID, err },
			"SCIM user":           func() (string, error) { u, err := d.SCIMUser(ctx, dir, "diruser_1"); return u.ID, err },
			"SCIM group":          func() (string, error) { g, err := d.SCIMGroup(ctx, dir, "dirgroup_1"); return g.ID, err },
		} {
			if id, err := found(); err != nil || id == "" {
				t.Errorf("%s: %q, %v", name, id, err)
			}
		}
		missing := func() map[string]error {
			all := make(map[string]error)
			_, all["organization"] = d.Organization(ctx, "env_1", Ref{ID: "org_9"})
			_, all["organization without id"] = d.Organization(ctx, "env_1", Ref{})
			_, all["organization elsewhere"] = d.Organization(ctx, "env_2", Ref{ExternalID: "one"})
			_, all["members"] = d.Members(ctx, "env_1", "org_9", Page{})
			_, all["user"] = d.User(ctx, "env_1", Ref{ID: "usr_9"})
			_, all["user without id"] = d.User(ctx, "env_1", Ref{})
			_, all["user sessions"] = d.UserSessions(ctx, "env_1", "usr_9", SessionFilter{}, Page{})
			_, all["session"] = d.Session(ctx, "env_1", "ses_9")
			_, all["SCIM user"] = d.SCIMUser(ctx, SCIMDirectory{ID: "dir_2"}, "diruser_1")
			_, all["SCIM group"] = d.SCIMGroup(ctx, SCIMDirectory{ID: "dir_2"}, "dirgroup_1")
			return all
		}
		want := map[string]error{
			"organization": ErrOrganizationNotFound, "organization without id": ErrOrganizationNotFound, "organization elsewhere": ErrOrganizationNotFound,
			"members": ErrOrganizationNotFound,
			"user":    ErrUserNotFound, "user without id": ErrUserNotFound, "user sessions": ErrUserNotFound,
			"session": ErrSessionNotFound, "SCIM user": ErrNotFound, "SCIM group": ErrNotFound,
		}
		for name, err := range missing() {
			if !errors.Is(err, want[name]) {
				t.Errorf("%s: %v, want %v", name, err, want[name])
			}
		}

		for status, n := range map[string]int64{"ACTIVE": 1, "Logout": 1, "revoked": 0, "\x00": 0} {
			if l, err := d.UserSessions(ctx, "env_1", "usr_01", SessionFilter{Statuses: []string{status}}, Page{}); err != nil || l.Total != n {
				t.Errorf("sessions that are %q: %+v, %v", status, l, err)
			}
		}
		name, member := "ADA", "diruser_1"
		for _, c := range []struct{ start, count, want int }{{1, 10, 1}, {-5, 10, 1}, {2, 10, 0}, {1, 0, 0}, {1, -1, 0}, {1 << 62, 1 << 62, 0}} {
			if all, total, err := d.SCIMUsers(ctx, dir, SCIMFilter{UserName: &name}, c.start, c.count); err != nil || len(all) != c.want || total != 1 {
				t.Errorf("SCIM users %+v: %v of %d, %v", c, all, total, err)
			}
			if all, total, err := d.SCIMGroups(ctx, dir, SCIMGroupFilter{Member: &member}, c.start, c.count); err != nil || len(all) != c.want || total != 1 {
				t.Errorf("SCIM groups %+v: %v of %d, %v", c, all, total, err)
			}
		}

		if err := d.Store.Close(); err != nil {
			t.Fatal(err)
		}
		unavailable := missing()
		_, unavailable["organizations"] = d.Organizations(ctx, "env_1", "", Page{})
		_, unavailable["users"] = d.Users(ctx, "env_1", Page{})
		_, _, unavailable["SCIM users"] = d.SCIMUsers(ctx, dir, SCIMFilter{}, 1, 10)
		_, _, unavailable["SCIM groups"] = d.SCIMGroups(ctx, dir, SCIMGroupFilter{}, 1, 10)
		for name, err := range unavailable {
			if strings.HasSuffix(name, "without id") {
				continue
			}
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s without a database: %v", name, err)
			}
		}
	})
}

var badTokens = []string{
	"x", "%%%", " ", "\x00", "bWVtYmVycw", "bWVtYmVyczphOnVzcl8x\n", "bWVtYmVyczphOnVzcl8x=", "bWVtYmVyczphOnVzcl8y\r",
	encode("members:a:"), encode("members:z:usr_1"), encode("members::usr_1"), encode("members:a:usr 1"), encode("members:a:usr_\x00"),
	encode("members:a:usr_\x7f"), encode("members:a:usr_é"), encode("members:ab:usr_1"), encode("Members:a:usr_1"), encode("users:a:usr_1"),
	encode("members:a:" + strings.Repeat("u", 256)), strings.Repeat("A", 1<<16),
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

func TestPageTokensAreRefused(t *testing.T) {
	t.Parallel()
	for _, token := range badTokens {
		if sp, err := (Page{Token: token}).span("members"); !errors.Is(err, ErrPageToken) {
			t.Errorf("%.60q: %+v, %v", token, sp, err)
		}
	}
	long := strings.Repeat("~", 255)
	if sp, err := (Page{Token: pageToken("organizations", wayUpTo, long)}).span("organizations"); err != nil || sp != (store.Span{Key: long, Back: true, With: true, Size: 10}) {
		t.Errorf("the longest token: %+v, %v", sp, err)
	}
}

// FuzzPageToken: a token that is taken is the one that was given for that place.
func FuzzPageToken(f *testing.F) {
	for _, w := range []way{wayAfter, wayFrom, wayBefore, wayUpTo} {
		f.Add(pageToken("members", w, "usr_123"))
	}
	for _, token := range badTokens {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		sp, err := Page{Size: 7, Token: token}.span("members")
		if token == "" {
			if err != nil || sp != (store.Span{Size: 7}) {
				t.Fatalf("the first page: %+v, %v", sp, err)
			}
			return
		}
		if err != nil {
			if !errors.Is(err, ErrPageToken) || sp != (store.Span{}) {
				t.Fatalf("%+v, %v", sp, err)
			}
			return
		}
		if sp.Key == "" || len(sp.Key) > 255 || strings.ContainsFunc(sp.Key, func(r rune) bool { return r <= ' ' || r > '~' }) || sp.Size != 7 {
			t.Fatalf("%q gave %+v", token, sp)
		}
		w := map[[2]bool]way{{false, false}: wayAfter, {false, true}: wayFrom, {true, false}: wayBefore, {true, true}: wayUpTo}[[2]bool{sp.Back, sp.With}]
		if again := pageToken("members", w, sp.Key); again != token {
			t.Fatalf("%q is %+v, whose token is %q", token, sp, again)
		}
		if _, err := (Page{Token: token}).span("users"); err == nil {
			t.Fatalf("%q is taken by two lists", token)
		}
	})
}
