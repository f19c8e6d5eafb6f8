package api_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/ingest"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/outbox"
)

// newDirectory is the directory that the API is tested over.
func newDirectory(t *testing.T, db *store.Store) api.Directory {
	t.Helper()
	relay := &outbox.Relay{DB: db.DB(), Dialect: db.Dialect(), Publisher: silent{}, Topic: "t", KeepUntilRouted: true, Owner: "directory"}
	d := directory.New(db, ingest.NewRecorder(db, relay))
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	for _, run := range []func(context.Context) error{d.Run, relay.Run} {
		running.Go(func() { _ = run(ctx) }) // ends with the context
	}
	t.Cleanup(func() { stop(); running.Wait() })
	return d
}

// silent is a stream that nobody reads.
type silent struct{}

func (silent) Publish(string, ...*message.Message) error { return nil }
func (silent) Close() error                              { return nil }

// managed makes two members, of whom a directory says that one is the other's
// manager.
func (s *service) managed(organizationID string) (person, manager string) {
	s.t.Helper()
	ctx, d := s.t.Context(), s.server.Directory.(*directory.Directory)
	made, err := s.own().CreateDirectory(ctx, api.NewSCIMDirectory{OrganizationID: organizationID, Name: "Okta"})
	if err != nil {
		s.t.Fatal(err)
	}
	door, err := s.store.SCIMDirectory(ctx, made.ID)
	if err != nil {
		s.t.Fatal(err)
	}
	boss, err := d.CreateSCIMUser(ctx, door, directory.SCIMUser{UserName: "manager@acme.example", Active: true, Attributes: json.RawMessage(`{}`)})
	if err != nil {
		s.t.Fatal(err)
	}
	other, err := d.CreateSCIMUser(ctx, door, directory.SCIMUser{UserName: "managed@acme.example", Active: true, ManagerID: boss.ID, Attributes: json.RawMessage(`{}`)})
	if err != nil {
		s.t.Fatal(err)
	}
	return other.UserID, boss.UserID
}

// failing is a directory of which every call fails.
type failing struct {
	api.Directory
	err error
}

func (f failing) CreateOrganization(context.Context, string, directory.NewOrganization) (o directory.Organization, err error) {
	return o, f.err
}

func (f failing) Organization(context.Context, string, directory.Ref) (o directory.Organization, err error) {
	return o, f.err
}

func (f failing) Organizations(context.Context, string, string, directory.Page) (l directory.List[directory.Organization], err error) {
	return l, f.err
}
func (f failing) DeleteOrganization(context.Context, string, directory.Ref) error { return f.err }

func (f failing) CreateUser(context.Context, string, string, directory.NewUser) (u directory.User, err error) {
	return u, f.err
}

func (f failing) User(context.Context, string, directory.Ref) (u directory.User, err error) {
	return u, f.err
}

func (f failing) Users(context.Context, string, directory.Page) (l directory.List[directory.User], err error) {
	return l, f.err
}

func (f failing) DeleteUser(context.Context, string, directory.Ref, directory.How) error {
	return f.err
}

func (f failing) Members(context.Context, string, string, directory.Page) (l directory.List[directory.User], err error) {
	return l, f.err
}

func (f failing) AddMember(context.Context, string, string, directory.Ref, directory.NewMembership) (u directory.User, err error) {
	return u, f.err
}

func (f failing) RemoveMember(context.Context, string, string, directory.Ref, directory.How) (r directory.Removal, err error) {
	return r, f.err
}

func (f failing) Import(context.Context, string, string, []directory.Imported) (int, error) {
	return 0, f.err
}

func (f failing) CreateSession(context.Context, directory.Session) (s directory.Session, err error) {
	return s, f.err
}

func (f failing) Session(context.Context, string, string) (s directory.Session, err error) {
	return s, f.err
}

func (f failing) UserSessions(context.Context, string, string, directory.SessionFilter, directory.Page) (l directory.List[directory.Session], err error) {
	return l, f.err
}

func (f failing) RevokeSession(context.Context, string, string) (s directory.Session, err error) {
	return s, f.err
}
