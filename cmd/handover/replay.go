package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

type replayCommand struct {
	*cli
	replay       api.NewReplay
	since, until moment
	detach       bool
}

func (c *cli) replayCommand() *cobra.Command {
	r := replayCommand{cli: c}
	cmd := group(&cobra.Command{
		Use:   "replay",
		Short: "Send deliveries again, many at once",
		Long: `Send deliveries again: those that fit all the flags given, at least one. Each goes
out with the webhook-id and body it had, so an app that handled it answers as it
did before, and has nothing to do twice. --dry-run counts first.

With --missing, what an endpoint never got is sent: events it is subscribed to,
from before it was added or while it was disabled.

The replay runs in the service, also when this command ends. It waits and shows
how far it came; with --detach it does not.`,
		Example: `  handover replay --state failed --since 7d --dry-run
  handover replay --endpoint ep_… --since 2h --rate 50
  handover replay --endpoint ep_… --missing --since 30d
  handover replay --deliveries msg_…,msg_…`,
	}, c.replayList(), c.replayGet(), c.replayCancel())
	cmd.Annotations = nil // it can be run itself
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return r.run(cmd.Context()) }
	f := cmd.Flags()
	f.StringSliceVar(&r.replay.DeliveryIDs, "deliveries", nil, "these deliveries: msg_…,msg_…")
	f.StringSliceVar(&r.replay.EventIDs, "events", nil, "those of these events: evt_…,evt_…")
	f.StringVar(&r.replay.EndpointID, "endpoint", "", "those to this endpoint: ep_…")
	f.StringVar(&r.replay.EventType, "type", "", "those of events of this type")
	f.StringVar(&r.replay.OrganizationID, "organization", "", "those of this organization: org_…")
	f.StringVar(&r.replay.UserID, "user", "", "those about this user: usr_…")
	oneOf(cmd, &r.replay.State, "state", "", []string{"pending", "held", "succeeded", "failed", "canceled"}, "those in this state")
	c.span(cmd, &r.since, &r.until, "those created")
	f.BoolVar(&r.replay.Missing, "missing", false, "events that --endpoint never got")
	typedOnly(f)
	f.BoolVar(&r.replay.DryRun, "dry-run", false, "only count")
	f.IntVar(&r.replay.Rate, "rate", 0, "at most so many a second (0: as fast as they go)")
	f.BoolVar(&r.detach, "detach", false, "do not wait")
	completeTypes(cmd, "type")
	c.clientFlags(cmd)
	return cmd
}

func (r *replayCommand) run(ctx context.Context) error {
	s := &r.replay.Selection
	s.Since, s.Until = r.since.Time, r.until.Time
	switch {
	case s.Missing && s.EndpointID == "":
		return usagef("--missing needs --endpoint")
	case len(s.DeliveryIDs)+len(s.EventIDs) == 0 && s.Since.IsZero() && s.Until.IsZero() &&
		s.EndpointID+s.EventType+s.OrganizationID+s.UserID+s.State == "":
		return usagef("say what to send again, such as --state failed --since 2h")
	}
	created, err := r.client().CreateReplay(ctx, r.replay)
	if err != nil {
		return err
	}
	if r.replay.DryRun {
		return r.changed(nil, created, counted(created))
	}
	if r.detach {
		return r.changed(nil, created, created.ID+" is "+created.State+"; follow it: handover replay get "+created.ID)
	}
	done, err := r.follow(ctx, created)
	if err != nil {
		if ctx.Err() != nil {
			return hinted{err, "the replay goes on; stop it: handover replay cancel " + created.ID}
		}
		return err
	}
	if err := r.changed(nil, done, done.ID+" is "+done.State+": "+progress(done)); err != nil {
		return err
	}
	if done.State != "done" {
		return errQuiet
	}
	return nil
}

// counted says what a dry run found.
func counted(r api.Replay) string {
	what := plural(r.Total-r.Skipped, "delivery", "deliveries")
	if r.Selection.Missing {
		what = plural(r.Total-r.Skipped, "missing event", "missing events")
	}
	line := what + " would be sent; nothing was"
	if r.Skipped > 0 {
		line += fmt.Sprintf("\n%d cannot be sent again (superseded, or their endpoint is disabled or deleted)", r.Skipped)
	}
	return line
}

// progress says how far a replay came.
func progress(r api.Replay) string {
	line := fmt.Sprintf("%d of %s on the way again", r.Done, plural(r.Total, "delivery", "deliveries"))
	if r.Skipped > 0 {
		line += fmt.Sprintf(", %d skipped: the person came back (superseded), or the endpoint is disabled or deleted", r.Skipped)
	}
	if r.Error != "" {
		line += ": " + clean(r.Error)
	}
	return line
}

// follow waits for the end of a replay: with a bar on a terminal, with a line
// now and then elsewhere.
func (r *replayCommand) follow(ctx context.Context, now api.Replay) (api.Replay, error) {
	show := r.lines()
	if isTerminal(r.err) {
		bar := progressbar.NewOptions64(now.Total, progressbar.OptionSetWriter(r.err), progressbar.OptionShowCount(),
			progressbar.OptionSetDescription(now.ID), progressbar.OptionClearOnFinish(), progressbar.OptionShowIts(),
			progressbar.OptionSetItsString("deliveries"), progressbar.OptionThrottle(100*time.Millisecond))
		defer bar.Close()
		show = func(now api.Replay) { _ = bar.Set64(now.Done + now.Skipped) }
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for now.State == "running" {
		show(now)
		select {
		case <-ctx.Done():
			return now, ctx.Err()
		case <-tick.C:
		}
		var err error
		if now, err = r.client().Replay(ctx, now.ID); err != nil {
			return now, err
		}
	}
	return now, nil
}

func (r *replayCommand) lines() func(api.Replay) {
	var shown time.Time
	return func(now api.Replay) {
		if r.now().Sub(shown) >= 5*time.Second {
			shown = r.now()
			fmt.Fprintf(r.err, "%s: %s\n", now.ID, progress(now))
		}
	}
}

func (c *cli) replayList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List replays",
		Long:    "List replays, newest first.",
		Example: "  handover replay list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := lister[api.Replay]{
				head: []string{"ID", "STATE", "DONE", "SKIPPED", "TOTAL", "SELECTION", "CREATED"},
				row: func(r api.Replay, s style) []string {
					return []string{
						r.ID, s.state(r.State), fmt.Sprint(r.Done), fmt.Sprint(r.Skipped), fmt.Sprint(r.Total),
						c.selection(r.Selection), c.when(r.CreatedAt),
					}
				},
				empty: "No replays. Start one: handover replay --state failed --since 2h",
				limit: limit,
			}
			return l.print(c, c.client().Replays(cmd.Context()))
		},
	}
	limitFlag(cmd, &limit)
	c.clientFlags(cmd)
	return cmd
}

// selection shows what a replay was asked for, as flags.
func (c *cli) selection(s api.Selection) string {
	var words []string
	add := func(flag, value string) {
		if value != "" {
			words = append(words, "--"+flag+" "+clean(value))
		}
	}
	add("deliveries", shorten(strings.Join(s.DeliveryIDs, ","), 60))
	add("events", shorten(strings.Join(s.EventIDs, ","), 60))
	add("endpoint", s.EndpointID)
	add("type", s.EventType)
	add("organization", s.OrganizationID)
	add("user", s.UserID)
	add("state", s.State)
	if !s.Since.IsZero() {
		add("since", s.Since.Local().Format(time.RFC3339))
	}
	if !s.Until.IsZero() {
		add("until", s.Until.Local().Format(time.RFC3339))
	}
	if s.Missing {
		words = append(words, "--missing")
	}
	return strings.Join(words, " ")
}

func (c *cli) replayGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ID",
		Short:   "Show how far a replay came",
		Long:    "Show what a replay was asked for and how far it came.",
		Example: "  handover replay get rpl_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.client().Replay(cmd.Context(), args[0])
			if err != nil || c.json {
				return c.changed(err, r, "")
			}
			s := c.style(c.out)
			t := table{}
			t.add("id", s.strong(r.ID))
			t.add("state", s.state(r.State))
			t.add("selection", c.selection(r.Selection))
			t.add("progress", progress(r))
			if r.Rate > 0 {
				t.add("rate", fmt.Sprintf("%d a second", r.Rate))
			}
			t.add("created", c.when(r.CreatedAt))
			t.print(c.out, s)
			return nil
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) replayCancel() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "cancel ID",
		Short:   "Stop a replay",
		Long:    "Stop a replay. What is on its way again stays so.",
		Example: "  handover replay cancel rpl_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := c.client().CancelReplay(cmd.Context(), args[0])
			return c.changed(err, r, r.ID+" is "+r.State+": "+progress(r))
		},
	}
	c.clientFlags(cmd)
	return cmd
}
