package dispatch

import (
	"testing"
	"time"
)

// An endpoint that asks us to slow down gets half as many attempts at a time,
// down to one, and all of them back success by success.
func TestSlowDown(t *testing.T) {
	t.Parallel()
	d := &Dispatcher{PerEndpoint: 8, Now: func() time.Time { return time.Unix(1750000000, 0) }}
	d.init()
	l := d.lane("ep")
	for _, want := range []int{4, 2, 1, 1} {
		d.adapt(l, pace{slower: true})
		if got := d.limit(l); got != want {
			t.Errorf("limit %d, want %d", got, want)
		}
	}
	successes := 0
	for ; d.limit(l) < 8 && successes < 100; successes++ {
		d.adapt(l, pace{faster: true})
	}
	if successes < 8 || successes == 100 {
		t.Errorf("all of it was back after %d successes", successes)
	}
	d.adapt(l, pace{slower: true, wait: time.Minute})
	if d.Reserve("ep") {
		t.Error("it takes deliveries while it asked for a pause")
	}
}
