package dispatch_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/internal/dispatch"
)

func TestDefaultScheduleOutlastsAWeekend(t *testing.T) {
	t.Parallel()
	exact := dispatch.Policy{Jitter: -1}
	var sum time.Duration
	attempts := 0
	for {
		d, ok := exact.Delay("d", attempts+1)
		if !ok {
			break
		}
		attempts++
		sum += d
	}
	if want := 75*time.Hour + 35*time.Minute + 5*time.Second; attempts != 10 || sum != want {
		t.Errorf("%d attempts over %v, want 10 over %v", attempts, sum, want)
	}
	if got := exact.Attempts(); got != 10 {
		t.Errorf("Attempts() = %d, want 10", got)
	}
	if d, ok := (dispatch.Policy{}).Delay("d", 1); !ok || d != 0 {
		t.Errorf("first attempt waits %v, %v; want 0, true", d, ok)
	}
	for _, attempt := range []int{-1, 0, 11, 33, math.MaxInt} {
		if d, ok := exact.Delay("d", attempt); ok || d != 0 {
			t.Errorf("attempt %d: %v, %v; want 0, false", attempt, d, ok)
		}
	}
}

func TestDelayIsReproducibleAndSpread(t *testing.T) {
	t.Parallel()
	var p dispatch.Policy
	base := dispatch.DefaultSchedule()
	for attempt := 2; attempt <= 10; attempt++ {
		low, high, sum := math.Inf(1), 0.0, 0.0
		const keys = 2000
		for i := range keys {
			key := fmt.Sprintf("dlv_%d", i)
			d, ok := p.Delay(key, attempt)
			again, _ := p.Delay(key, attempt)
			if !ok || d != again {
				t.Fatalf("delay of %s attempt %d: %v then %v", key, attempt, d, again)
			}
			share := float64(d) / float64(base[attempt-1])
			low, high, sum = min(low, share), max(high, share), sum+share
		}
		if low < 0.8 || low > 0.81 || high > 1.2 || high < 1.19 || math.Abs(sum/keys-1) > 0.02 {
			t.Errorf("attempt %d: shares from %.3f to %.3f, mean %.3f; want 0.8 to 1.2 around 1", attempt, low, high, sum/keys)
		}
	}
	// Pinned, so that two versions of the program side by side agree.
	if d, _ := p.Delay("dlv_1", 2); d.Round(time.Millisecond) != 5591*time.Millisecond {
		t.Errorf("delay of dlv_1 before attempt 2 = %v", d)
	}
}

func TestExponentialPolicy(t *testing.T) {
	t.Parallel()
	delays := func(e dispatch.Exponential) (s dispatch.Schedule) {
		p := dispatch.Policy{Exponential: &e, Jitter: -1}
		for attempt := 1; ; attempt++ {
			d, ok := p.Delay("d", attempt)
			if !ok {
				if got := p.Attempts(); got != len(s) {
					t.Errorf("Attempts() = %d, want %d", got, len(s))
				}
				return s
			}
			s = append(s, d)
		}
	}
	want := dispatch.Schedule{
		0, 5 * time.Second, 20 * time.Second, 80 * time.Second, 320 * time.Second,
		1280 * time.Second, 5120 * time.Second, 20480 * time.Second, 12 * time.Hour, 12 * time.Hour,
	}
	if diff := cmp.Diff(want, delays(dispatch.Exponential{})); diff != "" {
		t.Errorf("default (-want +got):\n%s", diff)
	}
	want = dispatch.Schedule{0, time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}
	if diff := cmp.Diff(want, delays(dispatch.Exponential{Initial: time.Second, Multiplier: 2, Max: 3 * time.Second, Attempts: 5})); diff != "" {
		t.Errorf("own (-want +got):\n%s", diff)
	}
	if got := len(delays(dispatch.Exponential{Attempts: 1000, Max: time.Hour * 1e5})); got != dispatch.MaxAttempts {
		t.Errorf("%d attempts, want the bound %d", got, dispatch.MaxAttempts)
	}
}

func TestScheduleJSON(t *testing.T) {
	t.Parallel()
	s, err := dispatch.ParseSchedule([]byte(`[0, 2.5, "5m", "1h30m", 7200, "168h"]`))
	if err != nil {
		t.Fatal(err)
	}
	want := dispatch.Schedule{0, 2500 * time.Millisecond, 5 * time.Minute, 90 * time.Minute, 2 * time.Hour, 168 * time.Hour}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(text), `["0s","2.5s","5m","1h30m","2h","168h"]`; got != want {
		t.Errorf("marshaled %s, want %s", got, want)
	}
	var back dispatch.Schedule
	if err := json.Unmarshal(text, &back); err != nil || !cmp.Equal(s, back) {
		t.Errorf("read back %v, %v", back, err)
	}
	if got, want := s.String(), "0s, 2.5s, 5m, 1h30m, 2h, 168h"; got != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
	p := dispatch.Policy{Schedule: s, Jitter: -1}
	if d, ok := p.Delay("d", 3); !ok || d != 5*time.Minute || p.Attempts() != 6 {
		t.Errorf("override: %v, %v, %d attempts", d, ok, p.Attempts())
	}
}

func TestScheduleRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		``, `null`, `{}`, `"5m"`, `[]`, `[-1]`, `["-5s"]`, `["169h"]`, `[604801]`, `[1e300]`, `[-1e300]`, `["five"]`, `[null]`,
		`[true]`, `[[1]]`, `[""]`, `[1] x`, `[` + strings.Repeat("1,", 32) + `1]`, `[` + strings.Repeat(" ", 5000) + `1]`,
	} {
		if s, err := dispatch.ParseSchedule([]byte(text)); !errors.Is(err, dispatch.ErrInvalidSchedule) {
			t.Errorf("%.40s: %v, %v; want an error", text, s, err)
		}
	}
}

func TestNextTakesTheLongerWait(t *testing.T) {
	t.Parallel()
	p := dispatch.Policy{Jitter: -1}
	for _, test := range []struct {
		attempt    int
		retryAfter time.Duration
		want       time.Duration
		ok         bool
	}{
		{2, 0, 5 * time.Second, true},
		{2, time.Minute, time.Minute, true},
		{3, time.Minute, 5 * time.Minute, true},
		{11, time.Minute, 0, false},
	} {
		if d, ok := dispatch.Next(p, "d", test.attempt, test.retryAfter); d != test.want || ok != test.ok {
			t.Errorf("attempt %d after %v: %v, %v; want %v, %v", test.attempt, test.retryAfter, d, ok, test.want, test.ok)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		text string
		want time.Duration
		ok   bool
	}{
		{"120", 2 * time.Minute, true},
		{" 7 ", 7 * time.Second, true},
		{"99999999999999999999999", dispatch.MaxDelay, true},
		{"9223372036854775807", dispatch.MaxDelay, true},
		{"Sun, 01 Mar 2026 12:05:00 GMT", 5 * time.Minute, true},
		{"Sunday, 01-Mar-26 12:05:00 GMT", 5 * time.Minute, true},
		{"Sun Mar  1 12:05:00 2026", 5 * time.Minute, true},
		{"Fri, 31 Dec 9999 23:59:59 GMT", dispatch.MaxDelay, true},
		{"Sun, 01 Mar 2026 11:59:00 GMT", 0, false},
		{"0", 0, false},
		{"-5", 0, false},
		{"1.5", 0, false},
		{"soon", 0, false},
		{"", 0, false},
		{"१२", 0, false},
	} {
		got, ok := dispatch.RetryAfter(http.Header{"Retry-After": {test.text}}, now)
		if ok != test.ok || (ok && got != test.want) {
			t.Errorf("%q: %v, %v; want %v, %v", test.text, got, ok, test.want, test.ok)
		}
	}
	if _, ok := dispatch.RetryAfter(http.Header{}, now); ok {
		t.Error("a wish without the field")
	}
}
