package directory

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
)

// Organization returns an organization that is not deleted.
func (d *Directory) Organization(ctx context.Context, env string, ref Ref) (Organization, error) {
	return find(ctx, d, env, ref, d.Store.Organization, d.Store.OrganizationWithExternalID, ErrOrganizationNotFound)
}

// Organizations lists the organizations of an environment. An external id, when it
// is not empty, leaves the one that has it.
func (d *Directory) Organizations(ctx context.Context, env, externalID string, p Page) (List[Organization], error) {
	sp, err := p.span("organizations")
	if err != nil {
		return List[Organization]{}, err
	}
	part, err := d.Store.Organizations(ctx, env, externalID, sp)
	if err != nil {
		return List[Organization]{}, d.notRead(err, ErrOrganizationNotFound)
	}
	return listed("organizations", sp, part, func(o *Organization) string { return o.ID }), nil
}

// User returns an account that is not deleted.
func (d *Directory) User(ctx context.Context, env string, ref Ref) (User, error) {
	return find(ctx, d, env, ref, d.Store.User, d.Store.UserWithExternalID, ErrUserNotFound)
}

// Users lists the accounts of an environment.
func (d *Directory) Users(ctx context.Context, env string, p Page) (List[User], error) {
	sp, err := p.span("users")
	if err != nil {
		return List[User]{}, err
	}
	part, err := d.Store.Users(ctx, env, sp)
	if err != nil {
		return List[User]{}, d.notRead(err, ErrUserNotFound)
	}
	return listed("users", sp, part, userID), nil
}

// Members lists the people of an organization, whatever the status of their
// membership.
func (d *Directory) Members(ctx context.Context, env, organizationID string, p Page) (List[User], error) {
	sp, err := p.span("members")
	if err != nil {
		return List[User]{}, err
	}
	part, err := d.Store.Members(ctx, env, organizationID, sp)
	if err != nil {
		return List[User]{}, d.notRead(err, ErrOrganizationNotFound)
	}
	return listed("members", sp, part, userID), nil
}

func userID(u *User) string { return u.ID }

// Session returns a session as it stands now.
func (d *Directory) Session(ctx context.Context, env, id string) (Session, error) {
	s, err := d.Store.Session(ctx, env, id)
	if err != nil {
		return Session{}, d.notRead(err, ErrSessionNotFound)
	}
	return s, nil
}

// UserSessions lists a person's sessions as they stand now, those of a deleted
// account too.
func (d *Directory) UserSessions(ctx context.Context, env, userID string, f SessionFilter, p Page) (List[Session], error) {
	sp, err := p.span("sessions")
	if err != nil {
		return List[Session]{}, err
	}
	filter := store.SessionFilter{Since: f.Since, Before: f.Before}
	for _, status := range f.Statuses {
		filter.Statuses = append(filter.Statuses, store.SessionStatus(strings.ToLower(status)))
	}
	part, err := d.Store.UserSessions(ctx, env, userID, filter, sp)
	if err != nil {
		return List[Session]{}, d.notRead(err, ErrUserNotFound)
	}
	return listed("sessions", sp, part, func(s *Session) string { return s.ID }), nil
}

// SCIMUser returns a user of a directory.
func (d *Directory) SCIMUser(ctx context.Context, dir SCIMDirectory, id string) (SCIMUser, error) {
	u, err := d.Store.SCIMUser(ctx, dir.ID, id)
	if err != nil {
		return SCIMUser{}, d.notRead(err, ErrNotFound)
	}
	return u, nil
}

// SCIMUsers returns count users from the start-th (1 is the first) on, at most
// 1,000, and how many there are in all.
func (d *Directory) SCIMUsers(ctx context.Context, dir SCIMDirectory, f SCIMFilter, start, count int) ([]SCIMUser, int, error) {
	skip, limit := scimRange(start, count)
	users, total, err := d.Store.SCIMUsers(ctx, dir.ID, store.SCIMUserFilter(f), skip, limit)
	if err != nil {
		return nil, 0, d.notRead(err, ErrNotFound)
	}
	return users, total, nil
}

// SCIMGroup returns a group of a directory.
func (d *Directory) SCIMGroup(ctx context.Context, dir SCIMDirectory, id string) (SCIMGroup, error) {
	g, err := d.Store.SCIMGroup(ctx, dir.ID, id)
	if err != nil {
		return SCIMGroup{}, d.notRead(err, ErrNotFound)
	}
	return g, nil
}

// SCIMGroups is SCIMUsers for groups.
func (d *Directory) SCIMGroups(ctx context.Context, dir SCIMDirectory, f SCIMGroupFilter, start, count int) ([]SCIMGroup, int, error) {
	skip, limit := scimRange(start, count)
	groups, total, err := d.Store.SCIMGroups(ctx, dir.ID, store.SCIMGroupFilter(f), skip, limit)
	if err != nil {
		return nil, 0, d.notRead(err, ErrNotFound)
	}
	return groups, total, nil
}

// scimRange reads startIndex and count as RFC 7644, section 3.4.2.4, says.
func scimRange(start, count int) (skip, limit int) {
	const most = 1000
	return max(start, 1) - 1, min(max(count, 0), most)
}

// find reads what a reference names.
func find[T any](ctx context.Context, d *Directory, env string, ref Ref,
	byID, byExternalID func(context.Context, string, string) (T, error), missing error,
) (found T, err error) {
	switch {
	case ref.ID != "":
		found, err = byID(ctx, env, ref.ID)
	case ref.ExternalID != "":
		found, err = byExternalID(ctx, env, ref.ExternalID)
	default:
		return found, missing
	}
	if err != nil {
		return found, d.notRead(err, missing)
	}
	return found, nil
}

// notRead is why something could not be read; missing is the error for what is
// not there.
func (d *Directory) notRead(err, missing error) error {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return missing
	case d.Store.Transient(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

const (
	defaultPage = 10
	largestPage = 100
)

// A way says where a list goes on, seen from a key.
type way string

const (
	wayAfter  way = "a"
	wayFrom   way = "f" // with the key itself
	wayBefore way = "b"
	wayUpTo   way = "u" // with the key itself
)

// pageToken is "kind:way:key" in base64url.
func pageToken(kind string, w way, key string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + string(w) + ":" + key))
}

// maxToken is longer than a token of any list and id.
const maxToken = 400

// parsePageToken takes what pageToken gave for that kind and an id, and nothing else.
func parsePageToken(kind, token string) (w way, key string, ok bool) {
	if len(token) > maxToken {
		return "", "", false
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", "", false
	}
	rest, ok := strings.CutPrefix(string(text), kind+":")
	letter, key, found := strings.Cut(rest, ":")
	w = way(letter)
	if !ok || !found || key == "" || len(key) > events.MaxID || token != pageToken(kind, w, key) {
		return "", "", false
	}
	for _, c := range []byte(key) {
		if c <= ' ' || c > '~' {
			return "", "", false
		}
	}
	switch w {
	case wayAfter, wayFrom, wayBefore, wayUpTo:
		return w, key, true
	}
	return "", "", false
}

// span is the part of a list of that kind that a page shows.
func (p Page) span(kind string) (store.Span, error) {
	sp := store.Span{Size: defaultPage}
	if p.Size > 0 {
		sp.Size = min(p.Size, largestPage)
	}
	if p.Token == "" {
		return sp, nil
	}
	w, key, ok := parsePageToken(kind, p.Token)
	if !ok {
		return store.Span{}, ErrPageToken
	}
	sp.Key, sp.Back, sp.With = key, w == wayBefore || w == wayUpTo, w == wayFrom || w == wayUpTo
	return sp, nil
}

// listed is a page with the tokens of its neighbors. When all that it would show
// is gone, they meet at the key that it was to begin behind.
func listed[T any](kind string, sp store.Span, part store.Part[T], id func(*T) string) List[T] {
	l := List[T]{Items: part.Rows, Total: part.Total}
	before, first, after, last := wayBefore, sp.Key, wayAfter, sp.Key
	if n := len(l.Items); n > 0 {
		first, last = id(&l.Items[0]), id(&l.Items[n-1])
	} else if !sp.With {
		before, after = wayUpTo, wayFrom
	}
	if part.Before {
		l.Prev = pageToken(kind, before, first)
	}
	if part.More {
		l.Next = pageToken(kind, after, last)
	}
	return l
}
