package limit

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// still is a limiter whose clock a test moves.
func still(l *Limiter) (move func(time.Duration)) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	l.Now = func() time.Time { return at }
	return func(d time.Duration) { at = at.Add(d) }
}

func TestABucketHoldsItsBurstAndRefills(t *testing.T) {
	t.Parallel()
	l := &Limiter{Rate: 2, Burst: 3}
	move := still(l)
	for i := range 3 {
		if wait, ok := l.Allow("a"); !ok || wait != 0 {
			t.Errorf("%d: %v, %v", i, wait, ok)
		}
	}
	if wait, ok := l.Allow("a"); ok || wait != 500*time.Millisecond {
		t.Errorf("the fourth: %v, %v", wait, ok)
	}
	if _, ok := l.Allow("b"); !ok {
		t.Error("another key is stopped")
	}
	move(499 * time.Millisecond)
	if wait, ok := l.Allow("a"); ok || wait != time.Millisecond {
		t.Errorf("too early: %v, %v", wait, ok)
	}
	move(time.Millisecond)
	if _, ok := l.Allow("a"); !ok {
		t.Error("its token did not come")
	}
	move(time.Hour)
	n := 0
	for range 10 {
		if _, ok := l.Allow("a"); ok {
			n++
		}
	}
	if n != 3 {
		t.Errorf("after an hour there are %d", n)
	}
	move(-time.Minute)
	if _, ok := l.Allow("a"); ok {
		t.Error("a clock that goes back gives tokens")
	}
}

func TestOnlySpendingBlocks(t *testing.T) {
	t.Parallel()
	l := &Limiter{Rate: 1, Burst: 2}
	move := still(l)
	for range 10 {
		if _, blocked := l.Blocked("a"); blocked {
			t.Fatal("asking blocks")
		}
	}
	if len(l.buckets) != 0 {
		t.Errorf("asking made %d known", len(l.buckets))
	}
	l.Spend("a")
	if _, blocked := l.Blocked("a"); blocked {
		t.Error("blocked too early")
	}
	l.Spend("a")
	if wait, blocked := l.Blocked("a"); !blocked || wait != time.Second {
		t.Errorf("%v, %v", wait, blocked)
	}
	for range 100 {
		l.Spend("a")
	}
	if wait, blocked := l.Blocked("a"); !blocked || wait != 3*time.Second {
		t.Errorf("what is owed is not bounded: %v, %v", wait, blocked)
	}
	move(3 * time.Second)
	if wait, blocked := l.Blocked("a"); blocked {
		t.Errorf("still blocked: %v", wait)
	}
}

func TestTheZeroLimiterIsGenerous(t *testing.T) {
	t.Parallel()
	l := &Limiter{}
	still(l)
	n := 0
	for range 1000 {
		if _, ok := l.Allow("a"); ok {
			n++
		}
	}
	if wait, _ := l.Allow("a"); n != 100 || wait != 100*time.Millisecond {
		t.Errorf("%d, then %v", n, wait)
	}
}

func TestTheLeastLatelyUsedIsForgotten(t *testing.T) {
	t.Parallel()
	l := &Limiter{Rate: 1, Burst: 1, Max: 3}
	still(l)
	for _, key := range []string{"a", "b", "c"} {
		l.Spend(key)
	}
	l.Blocked("a") // is used, so b is the one
	l.Spend("d")
	for key, want := range map[string]bool{"a": true, "b": false, "c": true, "d": true} {
		if _, blocked := l.Blocked(key); blocked != want {
			t.Errorf("%s: %v", key, blocked)
		}
	}
	for i := range 1000 {
		l.Spend(fmt.Sprint(i))
	}
	if len(l.buckets) != 3 || l.used.Len() != 3 {
		t.Errorf("%d and %d are remembered", len(l.buckets), l.used.Len())
	}
}

func TestConcurrentTakersShareTheTokens(t *testing.T) {
	t.Parallel()
	l := &Limiter{Rate: 1, Burst: 50, Max: 2}
	still(l)
	var taken atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				if _, ok := l.Allow("a"); ok {
					taken.Add(1)
				}
				l.Blocked("a")
			}
		})
	}
	all.Wait()
	if taken.Load() != 50 {
		t.Errorf("%d", taken.Load())
	}
}

func TestAddress(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"192.0.2.7:1234":                  "192.0.2.7",
		"192.0.2.7":                       "192.0.2.7",
		"[::ffff:192.0.2.7]:1":            "192.0.2.7",
		"[2001:db8:1:2:3:4:5:6]:":         "",
		"[2001:db8:1:2:3:4:5:6]:80":       "2001:db8:1:2::/64",
		"[2001:db8:1:2:ffff::1]:80":       "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":               "fe80::/64",
		"::1":                             "::/64",
		"":                                "",
		"@":                               "",
		"a very strange name, not a host": "",
	} {
		if got := Address(in); got != want {
			t.Errorf("%q is %q, not %q", in, got, want)
		}
	}
}
