package dispatch

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Bounds of a retry policy: attempts in all, and the longest delay before one of them.
const (
	MaxAttempts = 32
	MaxDelay    = 7 * 24 * time.Hour
)

// ErrInvalidSchedule is matched by every error about a retry schedule.
var ErrInvalidSchedule = errors.New("invalid retry schedule")

// A Schedule lists the delays before attempt 1, 2, …, n, each counted from the
// end of the attempt before it (the first from the event).
// Its JSON form is a list of durations ("5m", "1h30m") or of seconds (300).
type Schedule []time.Duration

// DefaultSchedule is ten attempts over 75 h 35 min: a receiver that is down from
// Friday evening to Monday morning still gets its events.
func DefaultSchedule() Schedule {
	return Schedule{
		0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour,
		5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

// ParseSchedule reads the JSON form of a schedule and checks its bounds.
func ParseSchedule(text []byte) (Schedule, error) {
	var s Schedule
	if err := s.UnmarshalJSON(text); err != nil {
		return nil, err
	}
	return s, nil
}

// Validate reports whether s has 1 to [MaxAttempts] delays of 0 to [MaxDelay] each.
func (s Schedule) Validate() error {
	if len(s) < 1 || len(s) > MaxAttempts {
		return fmt.Errorf("%w: has %d delays, not 1 to %d", ErrInvalidSchedule, len(s), MaxAttempts)
	}
	for i, d := range s {
		if d < 0 || d > MaxDelay {
			return fmt.Errorf("%w: delay %d is not between 0 and 7 days", ErrInvalidSchedule, i+1)
		}
	}
	return nil
}

// UnmarshalJSON reads a list of durations or seconds. It refuses what [Schedule.Validate] refuses.
func (s *Schedule) UnmarshalJSON(text []byte) error {
	if len(text) > 4<<10 {
		return fmt.Errorf("%w: longer than 4 KiB", ErrInvalidSchedule)
	}
	var items []json.RawMessage
	if err := json.Unmarshal(text, &items); err != nil {
		return fmt.Errorf("%w: not a JSON list", ErrInvalidSchedule)
	}
	parsed := make(Schedule, len(items))
	for i, item := range items {
		d, err := parseDelay(item)
		if err != nil {
			return fmt.Errorf(`%w: delay %d is neither a duration like "5m" nor a number of seconds`, ErrInvalidSchedule, i+1)
		}
		parsed[i] = d
	}
	if err := parsed.Validate(); err != nil {
		return err
	}
	*s = parsed
	return nil
}

func parseDelay(item json.RawMessage) (time.Duration, error) {
	if bytes.HasPrefix(item, []byte(`"`)) {
		var text string
		if err := json.Unmarshal(item, &text); err != nil {
			return 0, err
		}
		return time.ParseDuration(text)
	}
	seconds, err := strconv.ParseFloat(string(item), 64)
	if err != nil {
		return 0, err
	}
	// The conversion to an integer is only defined within its range.
	if math.Abs(seconds) > 2*MaxDelay.Seconds() {
		return 2 * MaxDelay, nil
	}
	return time.Duration(seconds * float64(time.Second)), nil
}

// MarshalJSON writes a list of durations, ["0s","5s","5m"].
func (s Schedule) MarshalJSON() ([]byte, error) {
	items := make([]string, len(s))
	for i, d := range s {
		items[i] = formatDelay(d)
	}
	return json.Marshal(items)
}

// String returns the delays separated by commas.
func (s Schedule) String() string {
	items := make([]string, len(s))
	for i, d := range s {
		items[i] = formatDelay(d)
	}
	return strings.Join(items, ", ")
}

// formatDelay is Duration.String without the zero units at its end.
func formatDelay(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// backOff walks the schedule as a [backoff.BackOff].
func (s Schedule) backOff() backoff.BackOff { return &listBackOff{delays: s} }

type listBackOff struct {
	delays Schedule
	next   int
}

func (b *listBackOff) NextBackOff() time.Duration {
	if b.next >= len(b.delays) {
		return backoff.Stop
	}
	b.next++
	return b.delays[b.next-1]
}

func (b *listBackOff) Reset() { b.next = 0 }

// Exponential is a policy whose delays grow by a factor: attempt 1 at once,
// attempt 2 after Initial, then each time Multiplier as long, up to Max.
type Exponential struct {
	Initial    time.Duration // 0 = 5 s
	Multiplier float64       // 0 = 4
	Max        time.Duration // 0 = 12 h
	Attempts   int           // in all; 0 = 10, at most MaxAttempts
}

// backOff is the policy's sequence without the library's own randomness and
// without its limit of elapsed time, both of which would make it depend on
// when and in which process it is asked.
func (e Exponential) backOff() backoff.BackOff {
	b := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(cmp.Or(e.Initial, 5*time.Second)),
		backoff.WithMultiplier(cmp.Or(e.Multiplier, 4)),
		backoff.WithMaxInterval(min(cmp.Or(e.Max, 12*time.Hour), MaxDelay)),
		backoff.WithRandomizationFactor(0),
		backoff.WithMaxElapsedTime(0),
	)
	return &firstAtOnce{rest: b, attempts: min(cmp.Or(e.Attempts, 10), MaxAttempts)}
}

type firstAtOnce struct {
	rest     backoff.BackOff
	attempts int
	made     int
}

func (b *firstAtOnce) NextBackOff() time.Duration {
	b.made++
	switch {
	case b.made > b.attempts:
		return backoff.Stop
	case b.made == 1:
		return 0
	default:
		return b.rest.NextBackOff()
	}
}

func (b *firstAtOnce) Reset() { b.made = 0; b.rest.Reset() }

// A Policy says when to try again. Its zero value is [DefaultSchedule] with a jitter of 20 %.
type Policy struct {
	Schedule    Schedule     // empty = Exponential when that is set, else DefaultSchedule
	Exponential *Exponential // used when Schedule is empty
	Jitter      float64      // share of a delay by which it may be shorter or longer; 0 = 0.2, negative = none
}

// Delay returns how long to wait before the given attempt (1 is the first) of
// the delivery named by key, and false when there is no such attempt any more.
// It is a pure function: the jitter comes from a hash of key and attempt, so
// every process computes the same delay.
func (p Policy) Delay(key string, attempt int) (time.Duration, bool) {
	if attempt < 1 || attempt > MaxAttempts {
		return 0, false
	}
	b := p.backOff()
	var d time.Duration
	for range attempt {
		if d = b.NextBackOff(); d == backoff.Stop {
			return 0, false
		}
	}
	if d <= 0 {
		return 0, true
	}
	share := min(max(cmp.Or(p.Jitter, 0.2), 0), 1)
	return min(time.Duration(float64(d)*(1+share*(2*fraction(key, attempt)-1))), 2*MaxDelay), true
}

// Attempts returns how many attempts the policy allows in all.
func (p Policy) Attempts() int {
	b := p.backOff()
	n := 0
	for n < MaxAttempts && b.NextBackOff() != backoff.Stop {
		n++
	}
	return n
}

func (p Policy) backOff() backoff.BackOff {
	switch {
	case len(p.Schedule) > 0:
		return p.Schedule.backOff()
	case p.Exponential != nil:
		return p.Exponential.backOff()
	default:
		return DefaultSchedule().backOff()
	}
}

// fraction maps key and attempt evenly onto [0, 1).
func fraction(key string, attempt int) float64 {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s#%d", key, attempt))
	return float64(binary.BigEndian.Uint64(sum[:8])>>11) / (1 << 53)
}

// Next returns how long to wait before the given attempt when the receiver
// asked for retryAfter: whichever is longer.
func Next(p Policy, key string, attempt int, retryAfter time.Duration) (time.Duration, bool) {
	d, ok := p.Delay(key, attempt)
	if !ok {
		return 0, false
	}
	return max(d, retryAfter), true
}

// RetryAfter reads the Retry-After field of an answer (RFC 9110, section
// 10.2.3): a number of seconds or an HTTP date, as a wait from now. A negative
// wait, a date in the past or anything malformed is no wish at all (false).
// What is longer than [MaxDelay] is cut to it; [Client] cuts further.
func RetryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	text := strings.TrimSpace(h.Get("Retry-After"))
	if text == "" || len(text) > 64 {
		return 0, false
	}
	var d time.Duration
	if isDigits(text) {
		seconds, err := strconv.ParseInt(text, 10, 64)
		if err != nil || seconds > int64(MaxDelay/time.Second) {
			return MaxDelay, true
		}
		d = time.Duration(seconds) * time.Second
	} else {
		at, err := http.ParseTime(text)
		if err != nil {
			return 0, false
		}
		d = min(at.Sub(now), MaxDelay)
	}
	return d, d > 0
}

func isDigits(text string) bool {
	return strings.Trim(text, "0123456789") == ""
}
