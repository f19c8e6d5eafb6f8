package webhook

import (
	"context"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/handover-dev/handover/internal/store"
)

const (
	// tallyEvery is how often counts are written: so old is what an operator sees.
	tallyEvery = 2 * time.Second
	// maxWord bounds what is kept of a type that means nothing.
	maxWord = 100
)

// tally counts between two writes. What strangers send is not kept but for the
// types that a source's mapping does not have, so many of them.
type tally struct {
	mu       sync.Mutex
	counts   map[tallied]store.SourceCount
	unmapped map[string]int // types told apart, by source
}

type tallied struct{ sourceID, kind, what string }

func (t *tally) add(sourceID, kind, what string, at time.Time) {
	t.merge(store.SourceCount{SourceID: sourceID, Kind: kind, What: what, N: 1, LastAt: at})
}

func (t *tally) merge(counts ...store.SourceCount) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts, t.unmapped = make(map[tallied]store.SourceCount), make(map[string]int)
	}
	for _, c := range counts {
		key := tallied{c.SourceID, c.Kind, c.What}
		sum, known := t.counts[key]
		if !known && c.Kind == store.CountUnmapped && c.What != store.OtherTypes {
			if t.unmapped[c.SourceID] >= store.MaxUnmappedTypes {
				c.What, key.what = store.OtherTypes, store.OtherTypes
				sum = t.counts[key]
			} else {
				t.unmapped[c.SourceID]++
			}
		}
		c.N += sum.N
		if sum.LastAt.After(c.LastAt) {
			c.LastAt = sum.LastAt
		}
		t.counts[key] = c
	}
}

// take empties the tally.
func (t *tally) take() []store.SourceCount {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]store.SourceCount, 0, len(t.counts))
	for _, c := range t.counts {
		all = append(all, c)
	}
	clear(t.counts)
	clear(t.unmapped)
	return all
}

// Flush writes what was counted since the last time. What cannot be written is
// kept for the next.
func (h *Handler) Flush(ctx context.Context) error {
	counts := h.tally.take()
	err := h.Store.AddSourceCounts(ctx, counts)
	if err != nil {
		h.tally.merge(counts...)
	}
	return err
}

// Run writes what is counted every few seconds, and at the end, when no more
// requests should come.
func (h *Handler) Run(ctx context.Context) error {
	h.init()
	tick := time.NewTicker(tallyEvery)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			last = true
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if err := h.Flush(ctx); err != nil {
			h.Log.WarnContext(ctx, "webhooks could not be counted", "error", err)
		}
		cancel()
	}
	return nil
}

// word makes a stranger's type fit for a list.
func word(text string) string {
	if text == "" {
		return "(empty)"
	}
	cut := text[:min(len(text), maxWord)]
	clean := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(cut, ""))
	if len(cut) < len(text) {
		clean += "…"
	}
	return clean
}
