package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

var deliveryStates = []string{"pending", "sending", "held", "succeeded", "failed", "superseded", "canceled"}

// open tells whether a delivery in this state still goes on.
func open(state string) bool {
	return state == "pending" || state == "sending" || state == "held"
}

func (c *cli) deliveriesCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "deliveries",
		Short: "Follow, retry and cancel deliveries",
		Long: `A delivery is one event on its way to one endpoint.

  pending     waits for its next attempt
  sending     an attempt is under way
  held        waits for an earlier delivery about the same person
  succeeded   the app answered 2xx
  failed      retries are exhausted, or the app said that it cannot be done
  superseded  the person came back before it was sent
  canceled    by an operator, or with its endpoint`,
		Example: `  handover deliveries list --state failed
  handover deliveries get msg_…
  handover deliveries retry msg_…`,
	}, c.deliveriesList(), c.deliveriesGet(), c.deliveriesRetry(), c.deliveriesCancel())
}

func (c *cli) deliveryLister(limit int) lister[api.Delivery] {
	return lister[api.Delivery]{
		head: []string{"ID", "STATE", "EVENT", "ENDPOINT", "ATTEMPTS", "LAST", "OUTCOME", "CREATED"},
		row: func(d api.Delivery, s style) []string {
			return []string{
				d.ID, s.state(d.State), clean(d.EventType), d.EndpointID, strconv.Itoa(d.AttemptCount),
				orDash(last(d.LastStatus, d.LastError)), orDash(clean(d.Outcome)), c.when(d.CreatedAt),
			}
		},
		empty: "No such deliveries. Publish an example: handover trigger user.organization_membership_deleted",
		limit: limit,
	}
}

// last sums up an attempt: the status, or why there was none.
func last(status int, class string) string {
	if status != 0 {
		return strconv.Itoa(status)
	}
	return clean(class)
}

func (c *cli) deliveriesList() *cobra.Command {
	var f api.DeliveryFilter
	var since, until moment
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deliveries",
		Long:  "List deliveries, newest first.",
		Example: `  handover deliveries list --state failed --since 7d
  handover deliveries list --endpoint ep_… --user usr_…
  handover deliveries list --limit all --json | jq -r 'select(.outcome=="unattested").id'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Since, f.Until = since.Time, until.Time
			return c.deliveryLister(limit).print(c, c.client().Deliveries(cmd.Context(), f))
		},
	}
	oneOf(cmd, &f.State, "state", "", deliveryStates, "only those in this state")
	cmd.Flags().StringVar(&f.EndpointID, "endpoint", "", "only to this endpoint: ep_…")
	cmd.Flags().StringVar(&f.EventID, "event", "", "only of this event: evt_…")
	cmd.Flags().StringVar(&f.OrganizationID, "organization", "", "only of this organization: org_…")
	cmd.Flags().StringVar(&f.UserID, "user", "", "only about this user: usr_…")
	c.span(cmd, &since, &until, "created")
	limitFlag(cmd, &limit)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) deliveriesGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ID",
		Short:   "Show a delivery and its attempts",
		Long:    "Show a delivery with the app's receipt and each attempt: when, what the app\nanswered, and how long it took.",
		Example: "  handover deliveries get msg_…\n  handover deliveries get msg_… --json | jq .attempts",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.client().Delivery(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printDelivery(d)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) printDelivery(d api.Delivery) error {
	if c.json {
		return c.printJSON(d)
	}
	s := c.style(c.out)
	state := s.state(d.State)
	switch {
	case d.State == "pending":
		state += ", next attempt " + c.when(d.NextAttemptAt)
	case d.LastError != "" && d.State != "succeeded":
		state += ": " + clean(d.LastError)
	}
	t := table{}
	t.add("id", s.strong(d.ID))
	t.add("state", state)
	t.add("event", clean(d.EventID)+"  "+clean(d.EventType))
	t.add("endpoint", d.EndpointID)
	t.add("organization", orDash(clean(d.OrganizationID)))
	t.add("user", orDash(clean(d.UserID)))
	if d.Outcome != "" {
		t.add("outcome", clean(d.Outcome))
	}
	if d.ReceiptError != "" {
		t.add("receipt", s.bad("invalid: "+clean(d.ReceiptError)))
	} else if len(d.Receipt) > 0 {
		t.add("receipt", clean(compact(d.Receipt)))
	}
	t.add("created", c.when(d.CreatedAt))
	t.print(c.out, s)
	if len(d.Attempts) == 0 {
		return nil
	}
	fmt.Fprintln(c.out)
	t = table{head: []string{"ATTEMPT", "STARTED", "TOOK", "RESULT", "ANSWER"}}
	for _, a := range d.Attempts {
		result := clean(a.Class)
		if a.Status != 0 {
			result = strconv.Itoa(a.Status) + " " + result
		}
		answer := clean(a.Answer)
		if a.Error != "" {
			answer = clean(a.Error)
		}
		if a.Status >= 200 && a.Status < 300 {
			result = s.good(result)
		} else {
			result = s.bad(result)
		}
		t.add(strconv.Itoa(a.Number), c.when(a.StartedAt), took(millis(a.DurationMS)), result, shorten(answer, 100))
	}
	t.print(c.out, s)
	return nil
}

func compact(doc []byte) string {
	var buf bytes.Buffer
	if json.Compact(&buf, doc) != nil {
		return string(doc)
	}
	return buf.String()
}

func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

func (c *cli) deliveriesRetry() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retry ID",
		Short: "Send a delivery again now",
		Long: `Send a delivery again now, whatever became of it, with the same webhook-id and
body; the schedule starts anew. An app that handled it answers as it did before.`,
		Example: "  handover deliveries retry msg_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.client().RetryDelivery(cmd.Context(), args[0])
			return c.changed(err, d, d.ID+" is "+d.State)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) deliveriesCancel() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cancel ID",
		Short:   "Give a delivery up",
		Long:    "Give a delivery up. The next one about the same person at this endpoint goes.",
		Example: "  handover deliveries cancel msg_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.client().CancelDelivery(cmd.Context(), args[0])
			return c.changed(err, d, d.ID+" is "+d.State)
		},
	}
	c.clientFlags(cmd)
	return cmd
}
