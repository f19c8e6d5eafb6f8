package events

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// The digits of an id: seconds since idEpoch (9), the process (7), a count
// within the second (5).
const (
	idEpoch   = 1_704_067_200 // 2024
	idSeconds = 1_000_000_000
	idNodes   = 10_000_000
	idCounts  = 100_000
)

var (
	lastID atomic.Int64                     // seconds and count of the last id
	idNode = sync.OnceValue(func() uint64 { // drawn anew in every process
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		return binary.BigEndian.Uint64(b[:]) % idNodes
	})
)

// NewID returns an id for an event: "evt_" and 21 digits.
//
// Ids of one process never repeat and each sorts after the one before it. Ids
// of different processes sort by the second they were made in; they can meet
// only when two processes drew the same of ten million numbers.
func NewID() string {
	for {
		last := lastID.Load()
		// Past the last count of a second the next one is borrowed from, and a
		// clock that is set back is not followed.
		next := max(last+1, (time.Now().Unix()-idEpoch)*idCounts)
		if lastID.CompareAndSwap(last, next) {
			return fmt.Sprintf("evt_%09d%07d%05d", next/idCounts%idSeconds, idNode(), next%idCounts)
		}
	}
}
