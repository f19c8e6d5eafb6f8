package stream

import "sync"

// window bounds how many messages are unfinished: places are taken before
// messages come and given back when they are finished.
type window struct {
	mu   sync.Mutex
	free int
	wake chan struct{}
}

func newWindow(size int) *window {
	return &window{free: size, wake: make(chan struct{}, 1)}
}

// take waits for one free place and takes up to limit; 0 means that done was
// closed first.
func (w *window) take(limit int, done <-chan struct{}) int {
	for {
		w.mu.Lock()
		n := min(w.free, limit)
		w.free -= n
		left := w.free
		w.mu.Unlock()
		if n > 0 {
			if left > 0 {
				w.signal() // somebody else may wait for the rest
			}
			return n
		}
		select {
		case <-w.wake:
		case <-done:
			return 0
		}
	}
}

func (w *window) give(n int) {
	if n == 0 {
		return
	}
	w.mu.Lock()
	w.free += n
	w.mu.Unlock()
	w.signal()
}

func (w *window) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
