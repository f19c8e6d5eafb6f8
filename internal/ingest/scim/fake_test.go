package scim_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest/scim"
	"github.com/handover-dev/handover/internal/ingest/scim/scimtest"
	"github.com/handover-dev/handover/internal/store"
)

const (
	token      = "scim_one"
	otherToken = "scim_other"
	offToken   = "scim_off"
)

// fake keeps everything in memory and counts what a change means.
type fake struct {
	mu      sync.Mutex
	err     error // of all methods, if there is one
	lookups int
	touched chan string // ids of tokens; nil: not told
	made    int
	users   map[string]store.SCIMUser
	groups  map[string]store.SCIMGroup
	members map[string]bool // of another organization, by address
	effects map[string]*scimtest.Effects
	dirs    map[[32]byte]store.SCIMDirectory
}

func newFake() *fake {
	f := &fake{
		users: map[string]store.SCIMUser{}, groups: map[string]store.SCIMGroup{}, members: map[string]bool{},
		effects: map[string]*scimtest.Effects{}, dirs: map[[32]byte]store.SCIMDirectory{},
	}
	for text, dir := range map[string]store.SCIMDirectory{
		token: {ID: "dir_1", State: "enabled"}, otherToken: {ID: "dir_2", State: "enabled"}, offToken: {ID: "dir_3", State: "disabled"},
	} {
		dir.Tokens = []store.SCIMToken{{ID: "st_" + dir.ID}}
		f.dirs[sha256.Sum256([]byte(text))] = dir
	}
	return f
}

func (f *fake) SCIMDirectoryByToken(_ context.Context, hash [32]byte) (store.SCIMDirectory, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lookups++
	dir, ok := f.dirs[hash]
	if !ok {
		return dir, cmp.Or(f.err, store.ErrNotFound)
	}
	return dir, f.err
}

func (f *fake) TouchSCIMToken(_ context.Context, id string) error {
	if f.touched != nil {
		f.touched <- id
	}
	return nil
}

func (f *fake) of(u store.SCIMUser) *scimtest.Effects {
	e := f.effects[u.Email]
	if e == nil {
		e = new(scimtest.Effects)
		f.effects[u.Email] = e
	}
	return e
}

func (f *fake) id(kind string) string {
	f.made++
	return fmt.Sprintf("%s_%018d", kind, f.made)
}

func (f *fake) CreateSCIMUser(_ context.Context, dir store.SCIMDirectory, u store.SCIMUser) (store.SCIMUser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return u, f.err
	}
	for _, other := range f.users {
		if other.DirectoryID == dir.ID && strings.EqualFold(other.UserName, u.UserName) {
			return u, directory.ErrUserNameTaken
		}
	}
	u.ID, u.CreatedAt, u.UpdatedAt = f.id("diruser"), time.Now(), time.Now()
	f.users[u.ID] = u
	e := f.of(u)
	e.Account, e.Status = true, "INACTIVE"
	if u.Active {
		e.Status = "ACTIVE"
		e.Created++
	}
	return u, nil
}

func (f *fake) SCIMUser(_ context.Context, dir store.SCIMDirectory, id string) (store.SCIMUser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.users[id]
	if !ok || u.DirectoryID != dir.ID {
		return u, cmp.Or(f.err, directory.ErrNotFound)
	}
	return u, f.err
}

func (f *fake) SCIMUsers(_ context.Context, dir store.SCIMDirectory, q directory.SCIMFilter, start, count int) ([]store.SCIMUser, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []store.SCIMUser
	for _, id := range slices.Sorted(maps.Keys(f.users)) {
		u := f.users[id]
		if u.DirectoryID == dir.ID && is(q.ID, u.ID) && isFold(q.UserName, u.UserName) && isFold(q.Email, u.Email) &&
			is(q.ExternalID, u.ExternalID) && (q.Active == nil || *q.Active == u.Active) {
			all = append(all, u)
		}
	}
	return page(all, start, count), len(all), f.err
}

func is(want *string, s string) bool     { return want == nil || *want == s }
func isFold(want *string, s string) bool { return want == nil || strings.EqualFold(*want, s) }

func page[T any](all []T, start, count int) []T {
	all = all[min(start-1, len(all)):]
	return all[:min(count, len(all))]
}

func (f *fake) ChangeSCIMUser(_ context.Context, dir store.SCIMDirectory, id string, change func(store.SCIMUser) (store.SCIMUser, error)) (store.SCIMUser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, ok := f.users[id]
	if !ok || was.DirectoryID != dir.ID || f.err != nil {
		return was, cmp.Or(f.err, directory.ErrNotFound)
	}
	u, err := twice(was, change)
	if err != nil {
		return was, err
	}
	f.users[id] = u
	e := f.of(u)
	switch {
	case was.Active && !u.Active:
		e.Status, e.Sessions = "INACTIVE", 0
		e.Removed++
	case !was.Active && u.Active:
		e.Status = "ACTIVE"
		e.Created++
	}
	return u, nil
}

// twice makes a change twice, as a transaction that is repeated does, of which
// both have to come to the same.
func twice[T any](was T, change func(T) (T, error)) (T, error) {
	first, err := change(was)
	again, errAgain := change(was)
	if diff := gocmp.Diff(first, again); diff != "" || (err == nil) != (errAgain == nil) {
		panic("a change that is made twice is another: " + diff)
	}
	return again, errAgain
}

func (f *fake) DeleteSCIMUser(_ context.Context, dir store.SCIMDirectory, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	u, ok := f.users[id]
	if !ok || u.DirectoryID != dir.ID || f.err != nil {
		return cmp.Or(f.err, directory.ErrNotFound)
	}
	delete(f.users, id)
	for id, g := range f.groups {
		g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(m string) bool { return m == u.ID })
		f.groups[id] = g
	}
	e := f.of(u)
	if e.Status == "ACTIVE" {
		e.Removed++
	}
	e.Status, e.Sessions = "INACTIVE", 0
	if !f.members[u.Email] {
		e.Account = false
		e.Deleted++
	}
	return nil
}

func (f *fake) CreateSCIMGroup(_ context.Context, dir store.SCIMDirectory, g store.SCIMGroup) (store.SCIMGroup, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g.ID, g.CreatedAt, g.UpdatedAt = f.id("dirgroup"), time.Now(), time.Now()
	if err := cmp.Or(f.err, f.known(g)); err != nil {
		return g, err
	}
	f.groups[g.ID] = g
	return g, nil
}

func (f *fake) known(g store.SCIMGroup) error {
	for _, id := range g.Members {
		if _, ok := f.users[id]; !ok {
			return directory.ErrUserNotFound
		}
	}
	return nil
}

func (f *fake) SCIMGroup(_ context.Context, dir store.SCIMDirectory, id string) (store.SCIMGroup, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, ok := f.groups[id]
	if !ok || g.DirectoryID != dir.ID {
		return g, cmp.Or(f.err, directory.ErrNotFound)
	}
	return g, f.err
}

func (f *fake) SCIMGroups(_ context.Context, dir store.SCIMDirectory, q directory.SCIMGroupFilter, start, count int) ([]store.SCIMGroup, int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []store.SCIMGroup
	for _, id := range slices.Sorted(maps.Keys(f.groups)) {
		g := f.groups[id]
		if g.DirectoryID == dir.ID && is(q.ID, g.ID) && is(q.DisplayName, g.DisplayName) && is(q.ExternalID, g.ExternalID) &&
			(q.Member == nil || slices.Contains(g.Members, *q.Member)) {
			all = append(all, g)
		}
	}
	return page(all, start, count), len(all), f.err
}

func (f *fake) ChangeSCIMGroup(_ context.Context, dir store.SCIMDirectory, id string, change func(store.SCIMGroup) (store.SCIMGroup, error)) (store.SCIMGroup, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was, ok := f.groups[id]
	if !ok || was.DirectoryID != dir.ID || f.err != nil {
		return was, cmp.Or(f.err, directory.ErrNotFound)
	}
	g, err := twice(was, change)
	if err == nil {
		err = f.known(g)
	}
	if err != nil {
		return was, err
	}
	f.groups[id] = g
	return g, nil
}

func (f *fake) DeleteSCIMGroup(_ context.Context, dir store.SCIMDirectory, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if g, ok := f.groups[id]; !ok || g.DirectoryID != dir.ID || f.err != nil {
		return cmp.Or(f.err, directory.ErrNotFound)
	}
	delete(f.groups, id)
	return nil
}

// serve serves a Handler over a fake.
func serve(tb testing.TB, set func(*scim.Handler)) (url string, f *fake) {
	f = newFake()
	h := &scim.Handler{Directory: f, Tokens: f}
	if set != nil {
		set(h)
	}
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.URL + scim.Prefix + "dir_1/scim/v2", f
}

// onFake is a target on a fake.
func onFake(t *testing.T) scimtest.Target {
	url, f := serve(t, nil)
	return scimtest.Target{
		URL: url, Token: token, OtherToken: otherToken,
		Effects: func(_ testing.TB, email string) scimtest.Effects {
			f.mu.Lock()
			defer f.mu.Unlock()
			return *f.of(store.SCIMUser{Email: email})
		},
		AddSession: func(_ testing.TB, email string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.of(store.SCIMUser{Email: email}).Sessions++
		},
		AddMembership: func(_ testing.TB, email string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.members[email] = true
		},
	}
}

func TestFixtures(t *testing.T) {
	t.Parallel()
	scimtest.Run(t, onFake)
}

// addUser puts a user into a fake's directory.
func (f *fake) addUser(attributes string, u store.SCIMUser) store.SCIMUser {
	f.mu.Lock()
	defer f.mu.Unlock()
	u.DirectoryID, u.ID, u.Attributes = "dir_1", f.id("diruser"), json.RawMessage(attributes)
	f.users[u.ID] = u
	return u
}
