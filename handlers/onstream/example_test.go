package onstream_test

import (
	"context"
	"fmt"
	"log"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/handlers/onstream"
)

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	// The same functions as for webhooks.
	receiver := &handlers.Receiver{}
	handlers.On(receiver, events.MembershipRemoved, func(_ context.Context, _ events.Event, m events.Membership) (handlers.Outcome, error) {
		fmt.Println(m.User.ID, "has left", m.Organization.ID)
		cancel() // that is all this example waits for
		return handlers.NothingToDo(), nil
	})

	pubsub := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		log.Fatal(err)
	}
	router.AddConsumerHandler("handover", "events", pubsub, onstream.Handler{Receiver: receiver}.Handle)

	go func() {
		<-router.Running()
		body, _ := events.Fixture("user.organization_membership_deleted")
		if err := pubsub.Publish("events", message.NewMessage(watermill.NewUUID(), body)); err != nil {
			log.Fatal(err)
		}
	}()
	if err := router.Run(ctx); err != nil {
		log.Fatal(err)
	}
	// Output:
	// usr_118200000000001001 has left org_118200000000000101
}
