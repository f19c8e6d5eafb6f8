package main

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
)

// What is written past the service has to be what it reads.
func TestPeopleAreWhomTheServiceKnows(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"sqlite", "postgres"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ctx, p := t.Context(), newPeople(600)
			c := store.Config{Dir: t.TempDir(), MasterKey: store.NewMasterKey()}
			driver, url := "sqlite", "file:"+filepath.Join(c.Dir, "handover.db")
			if kind == "postgres" {
				c.URL = testenv.Postgres(t)
				driver, url = "pgx", c.URL
			}
			s, err := store.Open(ctx, c)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Close() })
			db, err := sql.Open(driver, url)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			db.SetMaxOpenConns(1)
			if err := p.write(ctx, db, kind == "postgres"); err != nil {
				t.Fatal(err)
			}

			for o := range p.Organizations {
				part, err := s.Members(ctx, environment, id("org_", o), store.Span{Size: membersEach})
				if err != nil || part.Total != membersEach || len(part.Rows) != membersEach || len(part.Rows[0].Memberships) != 2 {
					t.Fatalf("organization %d: %d members, %d shown, error %v", o, part.Total, len(part.Rows), err)
				}
			}
			got, err := s.User(ctx, environment, id("usr_", 7))
			if err != nil {
				t.Fatal(err)
			}
			member := func(o int) store.Membership {
				return store.Membership{
					EnvironmentID: environment, OrganizationID: id("org_", o), UserID: got.ID, Status: store.MembershipActive, Epoch: 1,
					Roles: []events.Role{{Name: "member"}}, ProvisioningMethod: "direct_provision",
					JoinedAt: got.CreatedAt, CreatedAt: got.CreatedAt, UpdatedAt: got.CreatedAt, ChangedAt: got.CreatedAt,
					OrganizationName: fmt.Sprintf("Organization %d", o), OrganizationExternalID: fmt.Sprintf("crm-%d", o),
				}
			}
			want := store.User{
				EnvironmentID: environment, ID: "usr_118300000000000007", Email: "person.7@example.com", ExternalID: "hr-7",
				Profile:   events.UserProfile{ID: "usp_118300000000000007", Name: "Person 7", GivenName: "Person", FamilyName: "7", Locale: "en"},
				CreatedAt: got.CreatedAt, UpdatedAt: got.CreatedAt, Memberships: []store.Membership{member(1), member(3)},
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}

			d, _, err := s.CreateSCIMDirectory(ctx, store.SCIMDirectory{EnvironmentID: environment, OrganizationID: id("org_", 0), Name: "bench"})
			if err != nil {
				t.Fatal(err)
			}
			if err := enroll(ctx, db, kind == "postgres"); err != nil {
				t.Fatal(err)
			}
			p.Directories = 1
			for i := range p.leavers() {
				user, _ := p.leaver(i)
				u, err := s.SCIMUser(ctx, d.ID, id("diruser_", user))
				if err != nil || u.UserID != id("usr_", user) || !u.Active {
					t.Fatalf("%d: %+v, error %v", i, u, err)
				}
			}
		})
	}
}

func TestEachLeavesOnceAndTheirFirstOrganization(t *testing.T) {
	t.Parallel()
	for _, p := range []people{newPeople(0), newPeople(20000), newPeople(1000000), {Organizations: 200, Directories: 41}} {
		seen := make(map[int]bool)
		for i := range p.leavers() {
			user, organization := p.leaver(i)
			if seen[user] || user < 0 || user >= p.users() || organization != user%p.Organizations {
				t.Fatalf("%+v: %d leaves organization %d as number %d, seen before: %t", p, user, organization, i, seen[user])
			}
			seen[user] = true
			if p.Directories > 0 && organization >= p.Directories {
				t.Fatalf("%+v: organization %d has no directory", p, organization)
			}
		}
	}
}
