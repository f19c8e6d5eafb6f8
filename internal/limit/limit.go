// Package limit slows down those who fail: guessers of keys and senders of
// signatures that match nothing. It remembers so many of them and no more.
package limit

import (
	"cmp"
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// A Limiter has a bucket of tokens for each key. It is safe for concurrent use.
type Limiter struct {
	Rate  float64          // tokens that a bucket gains in a second; 0: 10
	Burst int              // tokens that it holds at most, and first; 0: 100
	Max   int              // keys that are remembered, the last used; 0: 10,000
	Now   func() time.Time // nil: time.Now

	mu      sync.Mutex
	buckets map[string]*list.Element
	used    list.List // of *bucket, the last used first
}

type bucket struct {
	key    string
	tokens float64
	at     time.Time // when it had so many
}

// Allow takes a token. Without one it takes none, and tells how long it is until
// there is one.
func (l *Limiter) Allow(key string) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key)
	if wait := l.wait(b); wait > 0 {
		return wait, false
	}
	b.tokens--
	return 0, true
}

// Blocked tells whether there is no token, and how long it is until there is
// one. It takes none.
func (l *Limiter) Blocked(key string) (wait time.Duration, blocked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buckets[key] == nil {
		return 0, false // asking makes nobody known
	}
	wait = l.wait(l.bucket(key))
	return wait, wait > 0
}

// Spend takes a token even where there is none. What is owed is at most what a
// bucket holds.
func (l *Limiter) Spend(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(key)
	b.tokens = max(b.tokens-1, -l.burst())
}

func (l *Limiter) rate() float64  { return cmp.Or(l.Rate, 10) }
func (l *Limiter) burst() float64 { return float64(cmp.Or(l.Burst, 100)) }

func (l *Limiter) wait(b *bucket) time.Duration {
	if b.tokens >= 1 {
		return 0
	}
	return max(time.Duration((1-b.tokens)/l.rate()*float64(time.Second)), 1)
}

// bucket returns the bucket of a key as it is now.
func (l *Limiter) bucket(key string) *bucket {
	now := time.Now
	if l.Now != nil {
		now = l.Now
	}
	at := now()
	e := l.buckets[key]
	if e == nil {
		if l.buckets == nil {
			l.buckets = make(map[string]*list.Element)
		}
		if len(l.buckets) >= cmp.Or(l.Max, 10_000) {
			last := l.used.Back()
			delete(l.buckets, last.Value.(*bucket).key)
			l.used.Remove(last)
		}
		e = l.used.PushFront(&bucket{key, l.burst(), at})
		l.buckets[key] = e
	}
	l.used.MoveToFront(e)
	b := e.Value.(*bucket)
	if gone := at.Sub(b.at); gone > 0 {
		b.tokens, b.at = min(b.tokens+gone.Seconds()*l.rate(), l.burst()), at
	}
	return b
}

// Address is what to know the sender of a request by, of its RemoteAddr: an IPv4
// address, or the /64 of an IPv6 address, in which one sender has all of them.
// It is "" for what is no address.
func Address(remoteAddr string) string {
	ap, err := netip.ParseAddrPort(remoteAddr)
	a := ap.Addr()
	if err != nil {
		if a, err = netip.ParseAddr(remoteAddr); err != nil {
			return ""
		}
	}
	a = a.Unmap().WithZone("")
	if a.Is4() {
		return a.String()
	}
	p, _ := a.Prefix(64) // every IPv6 address has one
	return p.String()
}
