package dispatch

import (
	"time"

	"github.com/handover-dev/handover/internal/store"
)

// waiting is a delivery in memory.
type waiting struct {
	store.Claimed
	since time.Time
}

// fifo is a queue that reuses its memory and gives it back when it was large.
type fifo struct {
	items []waiting
	head  int
}

func (f *fifo) len() int { return len(f.items) - f.head }

func (f *fifo) push(c waiting) { f.items = append(f.items, c) }

func (f *fifo) pop() waiting {
	c := f.items[f.head]
	f.items[f.head] = waiting{}
	f.head++
	switch {
	case f.head == len(f.items) && cap(f.items) > 1024:
		f.items, f.head = nil, 0
	case f.head == len(f.items):
		f.items, f.head = f.items[:0], 0
	case f.head >= 512 && f.head*2 >= len(f.items):
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return c
}
