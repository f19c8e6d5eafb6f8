package handlers

import (
	"container/list"
	"context"
	"crypto/sha256"
	"database/sql"
	"sync"
)

// A Seen remembers what was answered, so that a message that comes again gets
// the same answer and has no second effect. [Memory] and [Table] are such;
// implement it to keep the answers elsewhere.
type Seen interface {
	// Do returns the answer that is recorded under id, or else calls run, once,
	// and records the answer that it returns. An error of run is returned and
	// nothing is recorded.
	//
	// body is the SHA-256 of the message's body: another one than that recorded
	// is ErrConflict. When a copy of the message is being handled, Do waits for
	// its answer or returns ErrBusy. Do is called concurrently.
	Do(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context) ([]byte, error)) ([]byte, error)
}

// A TxSeen is a Seen that lies in a database and can record the answer in one
// transaction with what the app does there.
type TxSeen interface {
	Seen
	// DoTx is Do, with run in a transaction that commits together with the
	// record of its answer, and is rolled back when anything fails.
	DoTx(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context, *sql.Tx) ([]byte, error)) ([]byte, error)
}

// Memory is a [Seen] of this process: it is gone with it. Copies that come at
// the same time wait for the first one's answer. The zero value is ready to use;
// it must not be copied after that.
type Memory struct {
	// Size is how many answers are kept, the most recently used ones. 0 = 10,000.
	Size int

	mu      sync.Mutex
	entries map[string]*entry
	recent  list.List // of *entry, those with an answer, the most recently used first
}

type entry struct {
	id   string
	body [sha256.Size]byte
	done chan struct{} // closed when run has ended

	// Written before done is closed.
	answer []byte
	ok     bool
	at     *list.Element
}

// Do implements [Seen].
func (m *Memory) Do(ctx context.Context, id string, body [sha256.Size]byte, run func(context.Context) ([]byte, error)) ([]byte, error) {
	e, first := m.enter(id, body)
	if first {
		defer m.leave(e) // also when run panics
		var err error
		e.answer, err = run(ctx)
		e.ok = err == nil
		return e.answer, err
	}
	if e.body != body {
		return nil, ErrConflict
	}
	select {
	case <-e.done:
	case <-ctx.Done():
		return nil, ErrBusy
	}
	if !e.ok {
		return nil, ErrBusy
	}
	return e.answer, nil
}

func (m *Memory) enter(id string, body [sha256.Size]byte) (e *entry, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.entries[id]; ok {
		if e.at != nil {
			m.recent.MoveToFront(e.at)
		}
		return e, false
	}
	if m.entries == nil {
		m.entries = make(map[string]*entry)
	}
	e = &entry{id: id, body: body, done: make(chan struct{})}
	m.entries[id] = e
	return e, true
}

func (m *Memory) leave(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(e.done)
	if !e.ok {
		delete(m.entries, e.id)
		return
	}
	e.at = m.recent.PushFront(e)
	size := m.Size
	if size <= 0 {
		size = 10_000
	}
	for m.recent.Len() > size {
		oldest := m.recent.Remove(m.recent.Back()).(*entry)
		delete(m.entries, oldest.id)
	}
}
