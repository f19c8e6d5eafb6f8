// Package router turns events that come off the stream into deliveries, one for
// each endpoint that subscribed. Watermill's Router brings the messages; what
// arrives at the same time is routed in one transaction, and only then
// acknowledged. A message that comes twice finds its event routed and does
// nothing.
package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/handover-dev/handover/internal/groupcommit"
	"github.com/handover-dev/handover/internal/store"
	"github.com/handover-dev/handover/outbox"
)

// A Sender takes deliveries in hand as they are created, so that the first
// attempt waits for nobody. It is safe for concurrent use.
type Sender interface {
	// Reserve asks for room to send one delivery to the endpoint now. Every
	// reservation ends in Send or Release.
	Reserve(endpointID string) bool
	Release(endpointID string)
	// Send takes over committed deliveries that room was reserved for.
	Send(deliveries []store.Claimed)
	// Wake says that deliveries of these endpoints are due in the database.
	Wake(endpointIDs ...string)
}

// A Router routes until its context ends.
type Router struct {
	Store      *store.Store
	Subscriber message.Subscriber
	Topic      string
	Owner      string
	Sender     Sender
	Log        *slog.Logger
	// OnLeft is told that events were left for the relay to bring again; required.
	OnLeft func()
	// OnRoute is told how many events were routed into how many deliveries.
	OnRoute func(events, deliveries int)

	group     groupcommit.Group[*arrival]
	endpoints subscriptions
}

// deliveriesAtOnce is how many deliveries end a transaction; the last event's
// are still in it.
const deliveriesAtOnce = 4096

// arrival is a message on its way through a transaction.
type arrival struct {
	store.Arrival
	eventID    string
	recordedAt time.Time
	body       []byte
}

// Run routes until ctx ends and returns nil then; messages in hand are finished
// first. It returns an error when it can no longer receive.
func (r *Router) Run(ctx context.Context) error {
	log := r.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	// Watermill's Info is our Debug: it speaks of plumbing.
	logger := watermill.NewSlogLoggerWithLevelMapping(log, map[slog.Level]slog.Level{slog.LevelInfo: slog.LevelDebug})
	wm, err := message.NewRouter(message.RouterConfig{CloseTimeout: 10 * time.Second}, logger)
	if err != nil {
		return fmt.Errorf("create router: %w", err)
	}
	wm.AddMiddleware(middleware.Recoverer)
	wm.AddConsumerHandler("route", r.Topic, r.Subscriber, r.handle)

	r.group.Commit = r.commit
	r.group.Max = 256
	r.group.Queue = 2048
	r.group.Transient = r.Store.Transient
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	finished := make(chan error, 1)
	go func() { finished <- r.group.Run(work) }()
	err = wm.Run(ctx)
	stop()
	err = errors.Join(err, <-finished)
	if err == nil && ctx.Err() == nil {
		err = errors.New("the subscription ended by itself")
	}
	if err != nil {
		return fmt.Errorf("run router: %w", err)
	}
	return nil
}

func (r *Router) handle(msg *message.Message) error {
	a, err := read(msg)
	if err != nil {
		return err
	}
	// The message's context ends with the subscription; what is being routed is
	// finished.
	return r.group.Do(context.WithoutCancel(msg.Context()), a)
}

func read(msg *message.Message) (*arrival, error) {
	seq, err := strconv.ParseInt(msg.Metadata.Get(outbox.MetadataSeq), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read message %s: its %s is not a number", msg.UUID, outbox.MetadataSeq)
	}
	at, err := strconv.ParseInt(msg.Metadata.Get(outbox.MetadataRecordedAt), 10, 64)
	if err != nil {
		return nil, fmt.Errorf("read message %s: its %s is not a number", msg.UUID, outbox.MetadataRecordedAt)
	}
	return &arrival{
		Arrival: store.Arrival{
			Seq: seq, Subject: msg.Metadata.Get(outbox.MetadataSubject), Type: msg.Metadata.Get(outbox.MetadataType),
			OrganizationID: msg.Metadata.Get(outbox.MetadataOrganization),
		},
		eventID:    msg.UUID,
		recordedAt: time.UnixMicro(at), body: msg.Payload,
	}, nil
}

func (r *Router) commit(ctx context.Context, as []*arrival) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	bySeq := make(map[int64]*arrival, len(as))
	arrivals := make([]store.Arrival, len(as))
	for i, a := range as {
		bySeq[a.Seq], arrivals[i] = a, a.Arrival
	}
	var planned []store.NewDelivery
	release := func(ds []store.NewDelivery) {
		for _, d := range ds {
			if d.Claim {
				r.Sender.Release(d.EndpointID)
			}
		}
	}
	events := 0
	made, left, err := r.Store.Route(ctx, r.Owner, arrivals, func(version int64, evs []store.Unrouted) (store.Plan, error) {
		release(planned)
		planned, events = nil, 0
		if err := r.endpoints.refresh(ctx, r.Store, version); err != nil {
			return store.Plan{}, err
		}
		for _, ev := range evs {
			if len(planned) >= deliveriesAtOnce {
				break
			}
			events++
			for _, e := range r.endpoints.of(ev.Type) {
				if !e.Wants(ev.Type, ev.OrganizationID) {
					continue
				}
				d := store.NewDelivery{ID: r.Store.NewID("msg_"), EventSeq: ev.Seq, EndpointID: e.ID, OrderKey: ev.Subject}
				if d.OrderKey == "" {
					d.OrderKey = d.ID
				}
				// One that is routed along has no body at hand; the dispatcher fetches it.
				d.Claim = bySeq[ev.Seq] != nil && r.Sender.Reserve(e.ID)
				planned = append(planned, d)
			}
		}
		return store.Plan{Deliveries: planned, Events: events}, nil
	})
	if err != nil {
		release(planned)
		return err
	}
	var send []store.Claimed
	wake := make(map[string]bool)
	deliveries := 0
	for _, d := range made {
		switch d.State {
		case store.Sending:
			a := bySeq[d.EventSeq]
			send = append(send, store.Claimed{
				ID: d.ID, EventSeq: d.EventSeq, EventID: a.eventID, EventType: a.Type,
				EndpointID: d.EndpointID, OrderKey: d.OrderKey, RecordedAt: a.recordedAt, Body: a.body,
			})
			deliveries++
			continue
		case store.Pending:
			wake[d.EndpointID] = true
			deliveries++
		case store.Held:
			deliveries++
		default: // it was there already
		}
		if d.Claim {
			r.Sender.Release(d.EndpointID)
		}
	}
	if len(send) > 0 {
		r.Sender.Send(send)
	}
	for id := range wake {
		r.Sender.Wake(id)
	}
	if left {
		r.OnLeft()
	}
	if r.OnRoute != nil {
		r.OnRoute(events, deliveries)
	}
	return nil
}
