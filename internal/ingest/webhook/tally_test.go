package webhook

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/handover-dev/handover/internal/store"
)

func TestATallyIsBounded(t *testing.T) {
	t.Parallel()
	var counted tally
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range 2 {
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for n := range 100 {
					counted.add("src_1", store.CountUnmapped, strconv.Itoa(100*i+n), at.Add(time.Duration(n)))
					counted.add("src_2", store.CountRejected, ReasonSize, at)
				}
			})
		}
		all.Wait()
		var types, sum, rejected int64
		for _, c := range counted.take() {
			switch c.Kind {
			case store.CountUnmapped:
				types++
				sum += c.N
				if c.What == store.OtherTypes && !c.LastAt.Equal(at.Add(99)) {
					t.Errorf("the others came last at %v", c.LastAt)
				}
			default:
				rejected += c.N
			}
		}
		if types != store.MaxUnmappedTypes+1 || sum != 800 || rejected != 800 {
			t.Errorf("%d types, %d events, %d rejected", types, sum, rejected)
		}
	}
}
