package main

import (
	"testing"
	"time"
)

func TestRetentionFlag(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]time.Duration{
		"90d": 90 * day, "1d": day, "24h": day, "2160h": 90 * day, "36h30m": 36*time.Hour + 30*time.Minute, "106751d": 106751 * day, "forever": -1,
		"": 0, "0": 0, "0d": 0, "23h59m": 0, "-1": 0, "-24h": 0, "-3d": 0, "-213500d": 0, "106752d": 0, "99999999999999999999d": 0, "90": 0, "d": 0, "1.5d": 0, "always": 0,
	} {
		var r retention
		if err := r.Set(text); (err != nil) != (want == 0) || time.Duration(r) != want {
			t.Errorf("%q is %s, %v; want %s", text, time.Duration(r), err, want)
		}
		if want == 0 {
			continue
		}
		var again retention
		if err := again.Set(r.String()); err != nil || again != r {
			t.Errorf("%q is shown as %q, which is %s, %v", text, r.String(), time.Duration(again), err)
		}
	}
}
