package directory_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/handover-dev/handover/internal/directory"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/internal/testenv"
)

// BenchmarkRemoveMember removes people who are members of another organization
// too, 64 at a time.
func BenchmarkRemoveMember(b *testing.B) {
	for _, db := range []string{"sqlite", "postgres"} {
		b.Run(db, func(b *testing.B) {
			c := store.Config{Dir: b.TempDir(), MasterKey: store.NewMasterKey()}
			if db == "postgres" {
				c.URL = testenv.Postgres(b)
			}
			s, err := store.Open(b.Context(), c)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			d, stop := run(s)
			defer stop()
			var orgs [2]string
			for i := range orgs {
				o, err := d.CreateOrganization(b.Context(), env, directory.NewOrganization{DisplayName: "One"})
				if err != nil {
					b.Fatal(err)
				}
				orgs[i] = o.ID
			}
			people := make([]directory.Imported, b.N)
			for i := range people {
				people[i] = directory.Imported{ID: fmt.Sprintf("usr_%018d", i+1), Email: fmt.Sprintf("u%d@example.com", i)}
			}
			for i := 0; i < b.N; i += 500 {
				for _, org := range orgs {
					if _, err := d.Import(b.Context(), env, org, people[i:min(i+500, b.N)]); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ResetTimer()
			next := make(chan int, b.N)
			for i := range b.N {
				next <- i
			}
			close(next)
			var all sync.WaitGroup
			for range 64 {
				all.Go(func() {
					for i := range next {
						if _, err := d.RemoveMember(context.Background(), env, orgs[0], directory.Ref{ID: people[i].ID}, directory.How{}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}
