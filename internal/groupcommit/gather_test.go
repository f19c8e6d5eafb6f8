package groupcommit

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Callers that come back at once after a large batch are one batch again, with
// those that had to wait; a caller by itself does not wait.
func TestGather(t *testing.T) {
	t.Parallel()
	for gather, want := range map[time.Duration][]int{0: {20, 4}, 5 * time.Millisecond: {20, 20}} {
		synctest.Test(t, func(t *testing.T) {
			var sizes []int
			release := make(chan struct{})
			g := &Group[int]{Gather: gather, Commit: func(_ context.Context, items []int) error {
				<-release
				sizes = append(sizes, len(items))
				return nil
			}}
			ctx, cancel := context.WithCancel(t.Context())
			var callers, running sync.WaitGroup
			do := func() {
				if err := g.Do(t.Context(), 1); err != nil {
					t.Error(err)
				}
			}
			g.init()
			for range 20 { // queued before it runs: one batch
				callers.Go(func() {
					do()
					time.Sleep(time.Millisecond) // what a caller does in between
					do()
				})
			}
			synctest.Wait()
			running.Go(func() { _ = g.Run(ctx) })
			synctest.Wait()
			for range 4 {
				callers.Go(do)
			}
			synctest.Wait()
			close(release)
			callers.Wait()
			do() // may wait for others that do not come, once
			begin := time.Now()
			do()
			if time.Since(begin) > 0 { // of the bubble's own clock
				t.Error("a caller by itself had to wait")
			}
			cancel()
			running.Wait()
			if !slices.Equal(sizes[:len(want)], want) {
				t.Errorf("gathering for %v: batches of %v, want %v", gather, sizes, want)
			}
		})
	}
}
