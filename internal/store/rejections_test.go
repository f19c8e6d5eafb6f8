package store

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/signing"
)

func TestSourceCountsAddUp(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx, c := t.Context(), withClock(s)
		src := must(s.CreateSource(ctx, Source{Name: "idp", Kind: "standard", EnvironmentID: "env_1", Mapping: `{"a":1}`}, signing.NewKey()))(t)
		other := must(s.CreateSource(ctx, Source{Name: "other", Kind: "scalekit", EnvironmentID: "env_1"}, signing.NewKey()))(t)
		if src.Mapping != `{"a":1}` || other.Mapping != "" || src.Received != 0 || !src.LastEventAt.IsZero() || src.Rejections != nil {
			t.Errorf("created %+v, %+v", src, other)
		}
		if got := must(s.UpdateSource(ctx, src.ID, "", "", `{"a":2}`))(t); got.Mapping != `{"a":2}` || got.EnvironmentID != "env_1" {
			t.Errorf("updated %+v", got)
		}

		// Several processes count at the same time, and the later time stays.
		early, late := c.now(), c.now().Add(time.Minute)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				at := early
				if i == 3 {
					at = late
				}
				counts := []SourceCount{
					{src.ID, CountReceived, "", 2, at},
					{src.ID, CountRejected, "signature", 1, at},
					{src.ID, CountUnmapped, "user.seen", 1, at},
					{other.ID, CountRejected, "size", 3, at},
					{"src_gone", CountReceived, "", 1, at},
				}
				if i%2 == 0 {
					counts = append(counts[2:], counts[:2]...)
				}
				if err := s.AddSourceCounts(ctx, counts); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if err := s.AddSourceCounts(ctx, []SourceCount{{src.ID, CountRejected, "time", 1, early}, {src.ID, CountRejected, "event", 99, early}}); err != nil {
			t.Fatal(err)
		}
		page, _, err := s.ListSources(ctx, Page{Limit: 10})
		if err != nil || len(page) != 2 {
			t.Fatalf("%+v: %v", page, err)
		}
		for _, got := range []Source{page[1], must(s.Source(ctx, src.ID))(t)} {
			if got.Received != 16 || !got.LastEventAt.Equal(late) || len(got.Rejections) != 3 || len(got.Unmapped) != 1 || got.Unmapped[0].N != 8 {
				t.Fatalf("counted %+v", got)
			}
			if a, b := got.Rejections[0], got.Rejections[1]; a.What != "event" || a.N != 99 || !a.LastAt.Equal(early) || b.What != "signature" || b.N != 8 || !b.LastAt.Equal(late) {
				t.Errorf("rejections %+v", got.Rejections)
			}
		}
		if got := page[0]; got.Received != 0 || len(got.Rejections) != 1 || got.Rejections[0].N != 24 {
			t.Errorf("the other %+v", got)
		}

		if err := s.DeleteSource(ctx, src.ID); err != nil {
			t.Fatal(err)
		}
		if err := s.AddSourceCounts(ctx, []SourceCount{{src.ID, CountReceived, "", 1, late}, {other.ID, CountReceived, "", 1, late}}); err != nil {
			t.Errorf("counting for a source that was deleted: %v", err)
		}
		var rows int
		if err := s.read.QueryRowContext(ctx, `SELECT count(*) FROM source_counts WHERE source_id <> $1`, other.ID).Scan(&rows); err != nil || rows != 0 {
			t.Errorf("%d rows are left of what is gone: %v", rows, err)
		}
	})
}

func TestUnmappedTypesAreBounded(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, s *Store) {
		ctx := t.Context()
		src := must(s.CreateSource(ctx, Source{Name: "idp", Kind: "standard", EnvironmentID: "env_1"}, signing.NewKey()))(t)
		second := must(s.CreateSource(ctx, Source{Name: "second", Kind: "standard", EnvironmentID: "env_1"}, signing.NewKey()))(t)
		at := time.Now()
		for round := range 3 {
			counts := []SourceCount{{second.ID, CountUnmapped, "b", 1, at}, {src.ID, CountUnmapped, "first", 1, at}}
			for i := range 40 {
				counts = append(counts, SourceCount{src.ID, CountUnmapped, fmt.Sprintf("t%d.%d", round, i), 1, at})
			}
			if err := s.AddSourceCounts(ctx, counts); err != nil {
				t.Fatal(err)
			}
		}
		got := must(s.Source(ctx, src.ID))(t)
		if len(got.Unmapped) != MaxUnmappedTypes+1 {
			t.Errorf("%d types are told apart", len(got.Unmapped))
		}
		if first := got.Unmapped[0]; first.What != OtherTypes || first.N != 71 { // 120 of which 49 have their own row
			t.Errorf("the rest is %+v", first)
		}
		if second := got.Unmapped[1]; second.What != "first" || second.N != 3 {
			t.Errorf("a type that is known is not counted on: %+v", second)
		}
		if got := must(s.Source(ctx, second.ID))(t); len(got.Unmapped) != 1 || got.Unmapped[0].N != 3 {
			t.Errorf("the second source %+v", got.Unmapped)
		}
	})
}
