package handlers

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/signing"
)

// A Receiver takes the events that are sent to an app and runs the functions
// that [On] and [OnTx] have registered for their types. It is an
// [http.Handler]; what comes by another way is given to [Receiver.Handle].
//
// Set the fields, then register, then serve: neither may change after that, and
// a Receiver must not be copied. Methods may be called concurrently.
type Receiver struct {
	// Verifier holds the keys of the endpoint, several during a rotation. Without
	// keys every request is refused.
	Verifier signing.Verifier

	// Keys, if set, is asked for the keys at each request, in the place of
	// Verifier.Keys: for keys that change while the program runs. It must be
	// quick and safe for concurrent use.
	Keys func() []signing.Key

	// Seen remembers the answers. nil = a [Memory] of its own. OnTx needs a
	// [TxSeen], such as [Table].
	Seen Seen

	// Timeout bounds the work on one message. 0 = one minute. The sender hanging
	// up does not end the work: the answer is then there when it asks again.
	Timeout time.Duration

	// ReadTimeout bounds the time in which a body has to arrive. 0 = 30 s.
	ReadTimeout time.Duration

	// Log gets one line per message, and the reason of each refusal: never a body
	// or header, but the text of your functions' errors. nil = nothing.
	Log *slog.Logger

	functions map[string]function
	memory    Memory
}

// function is what is registered for a type; one of the two is set.
type function struct {
	run   func(context.Context, events.Event) (Outcome, error)
	runTx func(context.Context, *sql.Tx, events.Event) (Outcome, error)
}

// On registers the functions for a type of event. They run one after the other
// until one fails, and their outcomes are combined as by [Done]. When one fails,
// those before it run again with it when the event comes again: each must be
// able to find its work done already.
//
// On panics if the type has a function.
func On[T any](r *Receiver, typ events.Type[T], functions ...func(ctx context.Context, ev events.Event, data T) (Outcome, error)) {
	r.register(typ.Name, function{run: func(ctx context.Context, ev events.Event) (Outcome, error) {
		data, err := decode(typ, ev)
		if err != nil {
			return Outcome{}, err
		}
		return inOrder(functions, func(f func(context.Context, events.Event, T) (Outcome, error)) (Outcome, error) {
			return f(ctx, ev, data)
		})
	}})
}

// OnTx is [On] for functions that do their work in one transaction of the
// app's database, which also records that the event was handled: the work of an
// event is done exactly once. The functions must not end the transaction. It is
// rolled back if one of them fails or the outcome is blocked or failed.
//
// OnTx panics if the type has a function, or if r.Seen is not a [TxSeen].
func OnTx[T any](r *Receiver, typ events.Type[T], functions ...func(ctx context.Context, tx *sql.Tx, ev events.Event, data T) (Outcome, error)) {
	if _, ok := r.Seen.(TxSeen); !ok {
		panic("handlers: OnTx needs a Receiver whose Seen is set to a TxSeen, such as a Table")
	}
	r.register(typ.Name, function{runTx: func(ctx context.Context, tx *sql.Tx, ev events.Event) (Outcome, error) {
		data, err := decode(typ, ev)
		if err != nil {
			return Outcome{}, err
		}
		return inOrder(functions, func(f func(context.Context, *sql.Tx, events.Event, T) (Outcome, error)) (Outcome, error) {
			return f(ctx, tx, ev, data)
		})
	}})
}

func inOrder[F any](functions []F, call func(F) (Outcome, error)) (Outcome, error) {
	var all Outcome
	for _, f := range functions {
		o, err := call(f)
		if err != nil {
			return Outcome{}, err
		}
		all = Done(all, o)
	}
	return all, nil
}

func decode[T any](typ events.Type[T], ev events.Event) (T, error) {
	data, err := typ.Decode(ev)
	if err != nil {
		return data, Permanent(fmt.Errorf("decode data: %w", err)) // names the field, repeats nothing of it
	}
	return data, nil
}

func (r *Receiver) register(typ string, f function) {
	if _, ok := r.functions[typ]; ok {
		panic("handlers: two registrations for events of type " + typ)
	}
	if r.functions == nil {
		r.functions = make(map[string]function)
	}
	r.functions[typ] = f
}

// answer is the body of an answer with what it says.
type answer struct {
	receipt Receipt // the zero Receipt when the body is none
	body    []byte
}

// received is the answer that says no more than that.
var received = answer{body: []byte(`{"received":true}`)}

// errNotDone keeps an answer that is not about work done from being recorded.
var errNotDone = errors.New("blocked or failed")

// Handle handles an event whose origin is beyond doubt, once per id: that of the
// message that brought it, or "" for the event's own environment and id. It
// returns what was done: with status blocked or failed when an operator has to
// see to it, and the zero [Receipt] when there is no function for the type, or
// when it had nothing to say.
//
// The error is a [*PermanentError], a [*RetryError], [ErrConflict], [ErrBusy],
// or anything else that went wrong, and may go right the next time.
func (r *Receiver) Handle(ctx context.Context, id string, ev events.Event) (Receipt, error) {
	a, err := r.handle(ctx, id, ev)
	return a.receipt, err
}

func (r *Receiver) handle(ctx context.Context, id string, ev events.Event) (a answer, err error) {
	f, ok := r.functions[ev.Type]
	if !ok {
		r.log().LogAttrs(ctx, slog.LevelDebug, "no function for the event", slog.String("message_id", id), slog.String("type", ev.Type))
		return received, nil
	}
	if id == "" {
		id = ev.EnvironmentID + "/" + ev.ID
	}
	timeout := r.Timeout
	if timeout <= 0 {
		timeout = time.Minute
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()

	start, ran := time.Now(), false
	// settle makes the answer of what a function returned.
	settle := func(o Outcome, failed error) ([]byte, error) {
		if failed == nil {
			a, failed = newAnswer(o)
		}
		err = failed
		if err == nil && (a.receipt.Status == StatusBlocked || a.receipt.Status == StatusFailed) {
			return nil, errNotDone
		}
		return a.body, err
	}
	var seen error
	var recorded []byte
	body := sha256.Sum256(ev.Body())
	if f.run != nil {
		recorded, seen = r.seen().Do(ctx, id, body, func(ctx context.Context) ([]byte, error) {
			ran = true
			return settle(r.guard(ctx, func() (Outcome, error) { return f.run(ctx, ev) }))
		})
	} else {
		recorded, seen = r.Seen.(TxSeen).DoTx(ctx, id, body, func(ctx context.Context, tx *sql.Tx) ([]byte, error) {
			ran = true
			return settle(r.guard(ctx, func() (Outcome, error) { return f.runTx(ctx, tx, ev) }))
		})
	}
	switch {
	case err != nil || errors.Is(seen, errNotDone):
	case seen != nil:
		a, err = answer{}, seen
	default:
		a = answer{body: recorded}
		a.receipt, _ = ParseReceipt(recorded) // or it was that of an outcome that says nothing
	}
	r.report(ctx, id, ev, a, err, ran, time.Since(start))
	return a, err
}

func newAnswer(o Outcome) (answer, error) {
	receipt := o.Receipt()
	if receipt.Type == "" {
		return received, nil
	}
	if err := receipt.Validate(); err != nil {
		return answer{}, fmt.Errorf("answer with the outcome: %w", err)
	}
	body, err := json.Marshal(receipt)
	if err != nil {
		return answer{}, fmt.Errorf("encode receipt: %w", err)
	}
	if len(body) > MaxReceipt {
		return answer{}, fmt.Errorf("answer with the outcome: it is larger than %d KiB", MaxReceipt>>10)
	}
	return answer{receipt, body}, nil
}

// guard calls a function and makes an error of its panic. What was panicked
// with may hold what the event holds, so only its type is told.
func (r *Receiver) guard(ctx context.Context, call func() (Outcome, error)) (o Outcome, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		what := fmt.Sprintf("%T", p)
		if e, ok := p.(runtime.Error); ok {
			what = e.Error()
		}
		r.log().LogAttrs(ctx, slog.LevelError, "function panicked", slog.String("panic", what), slog.String("stack", string(debug.Stack())))
		err = errors.New("function panicked: " + what)
	}()
	return call()
}

func (r *Receiver) report(ctx context.Context, id string, ev events.Event, a answer, err error, ran bool, took time.Duration) {
	level, outcome := slog.LevelInfo, "unattested"
	attrs := []slog.Attr{
		slog.String("message_id", id), slog.String("event_id", ev.ID), slog.String("type", ev.Type),
		slog.String("organization_id", ev.OrganizationID), slog.Bool("repeated", !ran), slog.Duration("took", took),
	}
	switch {
	case err != nil:
		level, outcome = slog.LevelError, "error"
		attrs = append(attrs, slog.String("error", err.Error()))
	case a.receipt.Type != "":
		outcome = a.receipt.Outcome()
	}
	if outcome == StatusBlocked || outcome == StatusFailed {
		level = slog.LevelWarn
	}
	r.log().LogAttrs(ctx, level, "event handled", append(attrs, slog.String("outcome", outcome))...)
}

func (r *Receiver) seen() Seen {
	if r.Seen != nil {
		return r.Seen
	}
	return &r.memory
}

func (r *Receiver) log() *slog.Logger {
	if r.Log != nil {
		return r.Log
	}
	return slog.New(slog.DiscardHandler)
}
