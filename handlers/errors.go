package handlers

import (
	"errors"
	"time"
)

// ErrConflict says that a message of the same id was handled before, with
// another body.
var ErrConflict = errors.New("a message with this id and another body was handled before")

// ErrBusy says that a copy of the message is being handled elsewhere, or was
// and failed: ask again later.
var ErrBusy = errors.New("a copy of this message is being handled")

// A PermanentError is a failure that will not go away by trying again.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent marks an error as one that will not go away by trying again: the
// sender gets 422 and a receipt of status failed, does not try again, and shows
// err's text to its operator. So write it for them, without what is yours alone.
//
// It never returns nil, so that a nil err does not become a success.
func Permanent(err error) error {
	if err == nil {
		err = errors.New("it cannot be done")
	}
	return &PermanentError{err}
}

// A RetryError is a failure after which the sender shall wait.
type RetryError struct {
	Err   error
	After time.Duration
}

func (e *RetryError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RetryError) Unwrap() error { return e.Err }

// RetryAfter marks an error as one after which the sender shall not try again
// before d has passed: 503 with Retry-After, in whole seconds, at least one.
// The sender may have a limit of its own.
//
// It never returns nil, so that a nil err does not become a success.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		err = errors.New("not now")
	}
	return &RetryError{err, d}
}
