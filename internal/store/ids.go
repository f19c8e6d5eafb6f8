package store

import (
	crand "crypto/rand"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// ids makes names that sort by the time they were made and never meet, also not
// those of other processes.
type ids struct {
	mu      sync.Mutex
	entropy *ulid.MonotonicEntropy
}

func newIDs() *ids {
	var seed [32]byte
	_, _ = crand.Read(seed[:]) // never fails
	return &ids{entropy: ulid.Monotonic(rand.NewChaCha8(seed), 0)}
}

// NewID returns prefix and a ULID.
func (s *Store) NewID(prefix string) string {
	s.ids.mu.Lock()
	defer s.ids.mu.Unlock()
	for {
		// It fails once in 2^80 ids of one millisecond.
		if id, err := ulid.New(uint64(time.Now().UnixMilli()), s.ids.entropy); err == nil {
			return prefix + id.String()
		}
	}
}
