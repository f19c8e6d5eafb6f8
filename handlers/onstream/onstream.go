// Package onstream runs the functions of a [handlers.Receiver] as a Watermill
// handler, for an app that reads the stream of events itself in the place of
// getting webhooks. An app that only receives webhooks does not import it, and
// so links no Watermill.
//
//	h := onstream.Handler{Receiver: receiver}
//	router.AddConsumerHandler("handover", topic, subscriber, h.Handle)
//
// A message's payload is the body of an event. Nothing is verified: whoever can
// write to the stream is believed.
//
// # Guarantees
//
// What is handled is remembered by the receiver's Seen under the event's
// environment and id, so a message that is delivered again has no second
// effect, as handlers says for On and OnTx; the webhook of the same event counts
// as another message. It is acked when the functions have done their work, when
// there is none for its type, or when trying again would not help and Dead has
// taken it; in all other cases, it is nacked.
//
// The delay of [handlers.RetryAfter] is not kept: how soon a nacked message
// comes again is up to the subscriber, and some send it again at once. Put
// Watermill's Retry middleware with its back-off around the handler.
package onstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
)

// Handler runs a Receiver's functions on messages.
type Handler struct {
	Receiver *handlers.Receiver

	// Dead takes a message for which trying again would not help: it is not an
	// event, or a function's error is permanent or its outcome blocked or failed.
	// The message is acked when Dead returns nil. The error it gets is a
	// [*handlers.PermanentError], matches [handlers.ErrConflict] or
	// [events.ErrInvalid], or is an [*UndoneError].
	//
	// nil: a line in the receiver's log, and the message is gone.
	Dead func(ctx context.Context, msg *message.Message, reason error) error
}

// An UndoneError is the reason of an outcome that is blocked or failed.
type UndoneError struct{ Receipt handlers.Receipt }

func (e *UndoneError) Error() string {
	return fmt.Sprintf("%s: %s", e.Receipt.Status, e.Receipt.Message)
}

// Handle is a [message.NoPublishHandlerFunc].
func (h Handler) Handle(msg *message.Message) error {
	ev, err := events.Parse(msg.Payload)
	if err != nil {
		return h.dead(msg, err)
	}
	receipt, err := h.Receiver.Handle(msg.Context(), "", ev)
	var permanent *handlers.PermanentError
	switch {
	case errors.As(err, &permanent), errors.Is(err, handlers.ErrConflict):
		return h.dead(msg, err)
	case err != nil:
		return err
	case receipt.Status == handlers.StatusBlocked || receipt.Status == handlers.StatusFailed:
		return h.dead(msg, &UndoneError{receipt})
	}
	return nil
}

func (h Handler) dead(msg *message.Message, reason error) error {
	if h.Dead != nil {
		return h.Dead(msg.Context(), msg, reason)
	}
	if h.Receiver.Log != nil {
		h.Receiver.Log.LogAttrs(msg.Context(), slog.LevelError, "message given up", slog.String("message_uuid", msg.UUID), slog.String("error", reason.Error()))
	}
	return nil
}
