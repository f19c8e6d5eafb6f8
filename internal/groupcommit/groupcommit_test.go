package groupcommit_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/groupcommit"
)

var errBad = errors.New("bad item")

// committer records batches; while held it keeps Commit waiting.
type committer struct {
	mu      sync.Mutex
	batches [][]int
	hold    chan struct{} // nil: do not wait
	fail    func(items []int) error
}

func (c *committer) commit(_ context.Context, items []int) error {
	if c.hold != nil {
		<-c.hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.batches = append(c.batches, slices.Clone(items))
	if c.fail != nil {
		return c.fail(items)
	}
	return nil
}

// start runs g and n calls of Do, queued in order behind a batch that holds
// item 0 alone, and returns a function that gives their results.
func start(ctx context.Context, g *groupcommit.Group[int], n int) (results func() []error) {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = g.Do(ctx, i) })
		synctest.Wait()
	}
	return func() []error {
		wg.Wait()
		return errs
	}
}

func run(t *testing.T, g *groupcommit.Group[int]) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func TestBatchesGrowWhileACommitRuns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		g := &groupcommit.Group[int]{Commit: c.commit, Max: 3}
		defer run(t, g)()
		results := start(t.Context(), g, 6)
		close(c.hold)
		for i, err := range results() {
			if err != nil {
				t.Errorf("item %d: %v", i, err)
			}
		}
		if diff := cmp.Diff([][]int{{0}, {1, 2, 3}, {4, 5}}, c.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOneBadItemDoesNotFailItsNeighbours(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{}), fail: func(items []int) error {
			if slices.Contains(items, 2) {
				return errBad
			}
			return nil
		}}
		g := &groupcommit.Group[int]{Commit: c.commit}
		defer run(t, g)()
		results := start(t.Context(), g, 4)
		close(c.hold)
		for i, err := range results() {
			if want := i == 2; errors.Is(err, errBad) != want || (err != nil) != want {
				t.Errorf("item %d: %v", i, err)
			}
		}
		if diff := cmp.Diff([][]int{{0}, {1, 2, 3}, {1}, {2}, {3}}, c.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestTransientErrorsGoToTheWholeBatch(t *testing.T) {
	t.Parallel()
	errLost := errors.New("connection lost")
	for name, test := range map[string]struct {
		fail func(items []int) error
		want [][]int
	}{
		"batch":   {func([]int) error { return errLost }, [][]int{{0}, {1, 2, 3}}},
		"context": {func([]int) error { return context.DeadlineExceeded }, [][]int{{0}, {1, 2, 3}}},
		"while splitting": {func(items []int) error {
			if len(items) > 1 {
				return errBad
			}
			return errLost
		}, [][]int{{0}, {1, 2, 3}, {1}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := &committer{hold: make(chan struct{}), fail: test.fail}
				g := &groupcommit.Group[int]{Commit: c.commit, Transient: func(err error) bool { return errors.Is(err, errLost) }}
				defer run(t, g)()
				results := start(t.Context(), g, 4)
				close(c.hold)
				for i, err := range results() {
					if err == nil || errors.Is(err, errBad) {
						t.Errorf("item %d: %v", i, err)
					}
				}
				if diff := cmp.Diff(test.want, c.batches); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestContextWithdrawsOnlyWhatIsQueued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		g := &groupcommit.Group[int]{Commit: c.commit, Queue: 2}
		defer run(t, g)()
		cause := errors.New("caller left")
		ctx, cancel := context.WithCancelCause(t.Context())
		results := start(ctx, g, 4) // 0 taken, 1 and 2 queued, 3 waits for the queue
		cancel(cause)
		synctest.Wait()
		close(c.hold)
		errs := results()
		if errs[0] != nil {
			t.Errorf("taken item: %v, want its outcome", errs[0])
		}
		for _, err := range errs[1:] {
			if !errors.Is(err, groupcommit.ErrWithdrawn) || !errors.Is(err, cause) {
				t.Errorf("queued item: %v", err)
			}
		}
		if err := g.Do(ctx, 9); !errors.Is(err, groupcommit.ErrWithdrawn) {
			t.Errorf("with an ended context: %v", err)
		}
		if err := g.Do(t.Context(), 5); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		if diff := cmp.Diff([][]int{{0}, {5}}, c.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestEndOfRunFinishesTheBatchInHand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		g := &groupcommit.Group[int]{Commit: func(ctx context.Context, items []int) error {
			if err := c.commit(ctx, items); err != nil {
				return err
			}
			return ctx.Err()
		}, Queue: 1}
		stop := run(t, g)
		results := start(t.Context(), g, 3)
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("Run returned with a batch in hand")
		default:
		}
		close(c.hold)
		<-stopped
		errs := results()
		if errs[0] != nil || !errors.Is(errs[1], groupcommit.ErrClosed) || !errors.Is(errs[2], groupcommit.ErrClosed) {
			t.Errorf("results %v, want the first committed, the others closed", errs)
		}
		if err := g.Do(t.Context(), 7); !errors.Is(err, groupcommit.ErrClosed) {
			t.Errorf("Do after Run: %v", err)
		}
		if err := g.Run(t.Context()); err == nil {
			t.Error("a second Run succeeds")
		}
		if diff := cmp.Diff([][]int{{0}}, c.batches); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWorkersCommitAtTheSameTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := &committer{hold: make(chan struct{})}
		g := &groupcommit.Group[int]{Commit: c.commit, Workers: 2}
		defer run(t, g)()
		results := start(t.Context(), g, 4)
		close(c.hold)
		results()
		slices.SortFunc(c.batches, func(a, b []int) int { return a[0] - b[0] })
		if len(c.batches) < 3 || len(c.batches[0]) != 1 || len(c.batches[1]) != 1 {
			t.Errorf("batches %v, want the first two alone", c.batches)
		}
	})
}

// Every item gets exactly one outcome, and it is the true one, whatever the
// callers' contexts do.
func TestOutcomesAreTrueUnderLoad(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	committed := map[int]int{}
	g := &groupcommit.Group[int]{Max: 16, Workers: 2, Queue: 8, Commit: func(_ context.Context, items []int) error {
		mu.Lock()
		defer mu.Unlock()
		for _, i := range items {
			if i%97 == 0 {
				return errBad
			}
		}
		for _, i := range items {
			committed[i]++
		}
		return nil
	}}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var runner, callers sync.WaitGroup
	runner.Go(func() { _ = g.Run(ctx) })
	const each = 2000
	results := make([]error, 16*each)
	for c := range 16 {
		callers.Go(func() {
			for i := range each {
				ctx, cancel := context.WithCancel(t.Context())
				if i%5 == 0 {
					go cancel()
				}
				item := c*each + i
				results[item] = g.Do(ctx, item)
				cancel()
				if c == 0 && i == each/2 {
					stop()
				}
			}
		})
	}
	callers.Wait()
	runner.Wait()
	counts := map[string]int{}
	for item, err := range results {
		if committed[item] > 1 || (committed[item] == 1) != (err == nil) {
			t.Fatalf("item %d: committed %d times, Do said %v", item, committed[item], err)
		}
		switch {
		case err == nil:
			counts["committed"]++
		case errors.Is(err, groupcommit.ErrClosed):
			counts["closed"]++
		case !errors.Is(err, groupcommit.ErrWithdrawn) && !errors.Is(err, errBad):
			t.Fatalf("item %d: %v", item, err)
		}
	}
	if counts["committed"] == 0 || counts["closed"] == 0 {
		t.Errorf("outcomes %v prove little", counts)
	}
}

func BenchmarkDo(b *testing.B) {
	g := &groupcommit.Group[int]{Commit: func(context.Context, []int) error { return nil }}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = g.Run(ctx) }()
	b.SetParallelism(64)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := g.Do(ctx, 1); err != nil {
				b.Error(err)
			}
		}
	})
}
