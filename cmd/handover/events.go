package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

// maxBatch is the size of the largest batch that is read, in bytes.
const maxBatch = 64 << 20

func (c *cli) eventsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "events",
		Short: "Publish and look up events",
		Long:  "Events are what happened: facts that never change, sent to every endpoint that\nwants their type.",
		Example: `  handover events publish removal.json
  handover events list --since 2h
  handover events get evt_…`,
	}, c.eventsPublish(), c.eventsList(), c.eventsGet())
}

func (c *cli) eventsPublish() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "publish [FILE]",
		Short: "Publish events",
		Long: `Publish an event, or several in a JSON array, all or nothing, and print their
ids. Without FILE, or with -, they are read from stdin. They are recorded when
the command returns.

id, spec_version, occurred_at and environment_id are filled in when absent. An id
that was recorded before is a duplicate: nothing happens.`,
		Example: `  handover events publish removal.json
  echo '{"type":"document.shared","object":"Document","data":{"id":7}}' | handover events publish
  handover trigger user.deleted --print | jq '.data.reason="test"' | handover events publish`,
		Args: optional("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			body, err := c.read(append(args, "-")[0], maxBatch)
			if err != nil {
				return fmt.Errorf("read events: %w", err)
			}
			body = bytes.TrimSpace(body)
			if !json.Valid(body) {
				return hinted{fmt.Errorf("read events: not one JSON document"), "give one event, or several in an array: [{…},{…}]"}
			}
			var published []api.Published
			if body[0] == '[' {
				batch, err := c.client().PublishEvents(cmd.Context(), body, key)
				if err != nil {
					return err
				}
				published = batch.Data
			} else {
				one, err := c.client().PublishEvent(cmd.Context(), body, key)
				if err != nil {
					return err
				}
				published = append(published, one)
			}
			for _, p := range published {
				line := p.ID
				if p.Duplicate {
					line += "  duplicate: recorded before, nothing done"
				}
				if err := c.changed(nil, p, line); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&key, "idempotency-key", "", "the same call with the same key has one effect")
	typedOnly(cmd.Flags())
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) eventsList() *cobra.Command {
	var f api.EventFilter
	var since, until moment
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events",
		Long:  "List events, newest first. Bodies are shown by: handover events get",
		Example: `  handover events list --since 2h
  handover events list --type user.deleted --organization org_… --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.Since, f.Until = since.Time, until.Time
			l := lister[api.Event]{
				head: []string{"ID", "TYPE", "ORGANIZATION", "USER", "RECORDED"},
				row: func(e api.Event, _ style) []string {
					return []string{clean(e.ID), clean(e.Type), orDash(clean(e.OrganizationID)), orDash(clean(e.UserID)), c.when(e.RecordedAt)}
				},
				empty: "No such events. Publish an example: handover trigger user.organization_membership_deleted",
				limit: limit,
			}
			return l.print(c, c.client().Events(cmd.Context(), f))
		},
	}
	cmd.Flags().StringVar(&f.Type, "type", "", "only of this type")
	cmd.Flags().StringVar(&f.OrganizationID, "organization", "", "only of this organization: org_…")
	cmd.Flags().StringVar(&f.UserID, "user", "", "only about this user: usr_…")
	c.span(cmd, &since, &until, "recorded")
	limitFlag(cmd, &limit)
	completeTypes(cmd, "type")
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) eventsGet() *cobra.Command {
	var environment string
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show an event and its deliveries",
		Long:  "Show an event with its body, as it is sent, and where it went.",
		Example: `  handover events get evt_…
  handover events get evt_… --json | jq .body`,
		Args: args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().Event(cmd.Context(), args[0], environment)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(e)
			}
			s := c.style(c.out)
			t := table{}
			t.add("id", s.strong(clean(e.ID)))
			t.add("type", clean(e.Type))
			t.add("environment", clean(e.EnvironmentID))
			t.add("organization", orDash(clean(e.OrganizationID)))
			t.add("user", orDash(clean(e.UserID)))
			t.add("occurred", c.when(e.OccurredAt))
			t.add("recorded", c.when(e.RecordedAt))
			t.print(c.out, s)
			var body bytes.Buffer
			if json.Indent(&body, e.Body, "", "  ") == nil {
				fmt.Fprintf(c.out, "\n%s\n", cleanLines(body.String()))
			}
			fmt.Fprintln(c.out)
			l := c.deliveryLister(0)
			l.empty = "No deliveries: no endpoint wanted it. See: handover endpoints list"
			return l.print(c, c.client().Deliveries(cmd.Context(), api.DeliveryFilter{EventID: e.ID}))
		},
	}
	cmd.Flags().StringVar(&environment, "environment", "", "where several environments have an event of this id: env_…")
	c.clientFlags(cmd)
	return cmd
}
