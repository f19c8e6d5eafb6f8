package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) endpointsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "endpoints",
		Short: "Manage where events are sent",
		Long: `Endpoints are where events are sent: the URL of an app, the types of events it
wants, and a secret that signs what it gets.`,
		Example: `  handover endpoints create https://wiki.example.com/handover --name wiki
  handover endpoints list
  handover endpoints test ep_…`,
	},
		c.endpointsCreate(), c.endpointsList(), c.endpointsGet(), c.endpointsUpdate(),
		c.endpointsDisable(), c.endpointsEnable(), c.endpointsPause(), c.endpointsResume(), c.endpointsRotate(), c.endpointsDelete(), c.endpointsTest())
}

// endpointFlags are those that create and update share.
type endpointFlags struct {
	name          string
	types         []string
	organizations []string
	schedule      []string
	timeout       time.Duration
	concurrency   int
}

func (e *endpointFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&e.name, "name", "", "what people call it")
	f.StringSliceVar(&e.types, "events", []string{"*"}, "types it wants")
	f.StringSliceVar(&e.organizations, "organizations", nil, "organizations whose events it gets (default all)")
	f.StringSliceVar(&e.schedule, "schedule", nil, "waits before each attempt, such as 0s,5s,5m (default 10 attempts over 75 h)")
	f.DurationVar(&e.timeout, "timeout", 0, "time for one attempt (default 15s)")
	f.IntVar(&e.concurrency, "concurrency", 0, "attempts at a time (default the service's)")
	typedOnly(f)
	completeTypes(cmd, "events")
}

func (e *endpointFlags) seconds() ([]float64, error) {
	var all []float64
	for _, word := range e.schedule {
		d, err := time.ParseDuration(strings.TrimSpace(word))
		if err != nil {
			return nil, usagef("--schedule: %q is no duration; write it like 5s or 30m", word)
		}
		all = append(all, d.Seconds())
	}
	return all, nil
}

// completeTypes completes a flag with the types that there are examples of.
func completeTypes(cmd *cobra.Command, flag string) {
	// The only error is a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(exampleTypes(), cobra.ShellCompDirectiveNoFileComp))
}

func (c *cli) endpointsCreate() *cobra.Command {
	var e endpointFlags
	var secret string
	cmd := &cobra.Command{
		Use:   "create URL",
		Short: "Add an endpoint",
		Long: `Add an endpoint. From now on it gets each event of the types it wants. What it
missed before is sent by: handover replay --endpoint ep_… --missing

The secret that signs is shown this once.`,
		Example: `  handover endpoints create https://wiki.example.com/handover
  handover endpoints create https://crm.example.com/hooks --name crm \
    --events user.organization_membership_deleted,user.deleted --schedule 0s,10s,1m,10m`,
		Args: args("URL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			schedule, err := e.seconds()
			if err != nil {
				return err
			}
			if secret, err = c.readSecret(secret); err != nil {
				return err
			}
			if u, err := url.Parse(args[0]); err == nil && e.name == "" {
				e.name = u.Host
			}
			created, err := c.client().CreateEndpoint(cmd.Context(), api.NewEndpoint{
				Name: e.name, URL: args[0], EventTypes: e.types, OrganizationIDs: e.organizations, Secret: secret,
				RetrySchedule: schedule, TimeoutSeconds: e.timeout.Seconds(), Concurrency: e.concurrency,
			})
			if err != nil {
				return err
			}
			return c.printEndpoint(created)
		},
	}
	e.add(cmd)
	cmd.Flags().StringVar(&secret, "secret", "", "own signing secret, whsec_… or whsk_…; - reads it from stdin (default a new one)")
	typedOnly(cmd.Flags())
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsUpdate() *cobra.Command {
	var e endpointFlags
	var to string
	cmd := &cobra.Command{
		Use:   "update ID",
		Short: "Change an endpoint",
		Long: `Change what is given of an endpoint and leave the rest. What is pending goes
where the endpoint points by then.

An empty --organizations or --schedule, and a --timeout or --concurrency of 0,
goes back to the default.`,
		Example: `  handover endpoints update ep_… --to https://wiki.example.com/v2/handover
  handover endpoints update ep_… --events '*' --organizations ''`,
		Args: args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			schedule, err := e.seconds()
			if err != nil {
				return err
			}
			timeout := e.timeout.Seconds()
			change := api.EndpointChange{
				Name: given(cmd, "name", &e.name), URL: given(cmd, "to", &to), EventTypes: given(cmd, "events", &e.types),
				OrganizationIDs: given(cmd, "organizations", list(e.organizations)), RetrySchedule: given(cmd, "schedule", list(schedule)),
				TimeoutSeconds: given(cmd, "timeout", &timeout), Concurrency: given(cmd, "concurrency", &e.concurrency),
			}
			if change == (api.EndpointChange{}) {
				return usagef("nothing to change")
			}
			changed, err := c.client().UpdateEndpoint(cmd.Context(), args[0], change)
			if err != nil {
				return err
			}
			return c.printEndpoint(changed)
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "URL to send to")
	e.add(cmd)
	c.clientFlags(cmd)
	return cmd
}

// given returns the value of a flag that was given.
func given[T any](cmd *cobra.Command, flag string, value *T) *T {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	return value
}

// list makes an empty list of none, which JSON tells apart.
func list[T any](values []T) *[]T {
	if values == nil {
		values = []T{}
	}
	return &values
}

func (c *cli) endpointsList() *cobra.Command {
	var state string
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List endpoints",
		Long:  "List endpoints, newest first.",
		Example: `  handover endpoints list
  handover endpoints list --state disabled --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := lister[api.Endpoint]{
				head: []string{"ID", "NAME", "STATE", "URL", "EVENTS", "CREATED"},
				row: func(e api.Endpoint, s style) []string {
					return []string{e.ID, clean(e.Name), s.state(e.State), clean(e.URL), strings.Join(e.EventTypes, ","), c.when(e.CreatedAt)}
				},
				empty: "No endpoints. Add one: handover endpoints create https://wiki.example.com/handover",
				limit: limit,
			}
			return l.print(c, c.client().Endpoints(cmd.Context(), state))
		},
	}
	oneOf(cmd, &state, "state", "", []string{"enabled", "disabled", "deleted"}, "only those in this state")
	limitFlag(cmd, &limit)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ID",
		Short:   "Show an endpoint",
		Long:    "Show an endpoint. Its secret is not shown again; see: handover endpoints rotate",
		Example: "  handover endpoints get ep_…\n  handover endpoints get ep_… --json",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().Endpoint(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printEndpoint(e)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsDisable() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "disable ID",
		Short: "Send nothing more to an endpoint",
		Long: `Send nothing more to an endpoint. Its open deliveries are canceled; they can be
replayed when it is enabled again.`,
		Example: "  handover endpoints disable ep_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().DisableEndpoint(cmd.Context(), args[0])
			return c.changed(err, e, e.ID+" is "+e.State)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsEnable() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enable ID",
		Short: "Send to an endpoint again",
		Long: `Send to an endpoint again, from the next event on. What it missed meanwhile is
sent by: handover replay --endpoint ep_… --missing
What was canceled, by: handover replay --endpoint ep_… --state canceled`,
		Example: "  handover endpoints enable ep_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().EnableEndpoint(cmd.Context(), args[0])
			return c.changed(err, e, e.ID+" is "+e.State)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsPause() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pause ID",
		Short: "Make an endpoint's deliveries wait",
		Long: `Make an endpoint's deliveries wait, for example while its app is being upgraded.
None is canceled and none loses an attempt; events go on being recorded for it.`,
		Example: "  handover endpoints pause ep_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().PauseEndpoint(cmd.Context(), args[0])
			return c.changed(err, e, e.ID+" is paused")
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsResume() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "resume ID",
		Short:   "Send what waits for a paused endpoint",
		Long:    "Send what waits for a paused endpoint, and what comes.",
		Example: "  handover endpoints resume ep_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := c.client().ResumeEndpoint(cmd.Context(), args[0])
			return c.changed(err, e, e.ID+" is "+e.State)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsRotate() *cobra.Command {
	var r rotation
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Give an endpoint a new secret",
		Long: `Give an endpoint a new secret, which is shown this once. Requests are signed with
the old and the new one until the overlap is over.`,
		Example: `  handover endpoints rotate ep_…
  handover endpoints rotate ep_… --overlap 0s   # the old one leaked`,
		Args: args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := r.request(c)
			if err != nil {
				return err
			}
			e, err := c.client().RotateEndpoint(cmd.Context(), args[0], request)
			if err != nil {
				return err
			}
			return c.printEndpoint(e)
		},
	}
	r.add(cmd)
	c.clientFlags(cmd)
	return cmd
}

// rotation holds the flags that replace a secret.
type rotation struct {
	secret  string
	overlap time.Duration
}

func (r *rotation) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&r.secret, "secret", "", "the new secret; - reads it from stdin (default one is generated)")
	cmd.Flags().DurationVar(&r.overlap, "overlap", 24*time.Hour, "how long the old one stays valid")
	typedOnly(cmd.Flags())
}

func (r *rotation) request(c *cli) (api.Rotation, error) {
	secret, err := c.readSecret(r.secret)
	seconds := r.overlap.Seconds()
	return api.Rotation{Secret: secret, OverlapSeconds: &seconds}, err
}

// readSecret is the value of --secret, or what stdin holds where that is -: a
// command line is seen by others.
func (c *cli) readSecret(text string) (string, error) {
	if text != "-" {
		return text, nil
	}
	read, err := c.read("-", 4096)
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	if text = strings.TrimSpace(string(read)); text == "" {
		return "", errors.New("read secret: stdin is empty")
	}
	return text, nil
}

func (c *cli) endpointsDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete ID",
		Short:   "Remove an endpoint",
		Long:    "Remove an endpoint. Its open deliveries are canceled; what was sent stays on\nrecord.",
		Example: "  handover endpoints delete ep_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := c.client().DeleteEndpoint(cmd.Context(), args[0])
			return c.changed(err, map[string]string{"id": args[0], "state": "deleted"}, args[0]+" is deleted")
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) endpointsTest() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test ID",
		Short: "Send an endpoint a test event",
		Long: `Send an endpoint an event of type handover.test, whatever it is subscribed to,
wait for the first attempt and say what came of it. Exit code 1 when it failed.`,
		Example: "  handover endpoints test ep_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.client().TestEndpoint(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if d, err = c.attempted(cmd.Context(), d.ID); err != nil {
				return err
			}
			if err := c.printDelivery(d); err != nil {
				return err
			}
			if d.State != "succeeded" {
				return errQuiet
			}
			return nil
		},
	}
	c.clientFlags(cmd)
	return cmd
}

// attempted waits until a delivery has had an attempt.
func (c *cli) attempted(ctx context.Context, id string) (d api.Delivery, err error) {
	err = waitFor(ctx, 90*time.Second, "an attempt of "+id, func(ctx context.Context) (done bool, err error) {
		d, err = c.client().Delivery(ctx, id)
		return d.AttemptCount > 0 && d.State != "sending" || !open(d.State), err
	})
	return d, err
}

// waitFor asks again and again until the answer is yes.
func waitFor(ctx context.Context, patience time.Duration, what string, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New(what+" did not come in time"))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := ask(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil || yes:
			return err
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (c *cli) printEndpoint(e api.Endpoint) error {
	if c.json {
		return c.printJSON(e)
	}
	s := c.style(c.out)
	state := s.state(e.State)
	if e.DisabledReason != "" {
		state += ": " + clean(e.DisabledReason)
	}
	t := table{}
	if e.Paused {
		state += ", paused"
	}
	t.add("id", s.strong(e.ID))
	t.add("name", clean(e.Name))
	t.add("url", clean(e.URL))
	t.add("state", state)
	t.add("events", strings.Join(e.EventTypes, ", "))
	if len(e.OrganizationIDs) > 0 {
		t.add("organizations", strings.Join(e.OrganizationIDs, ", "))
	}
	if len(e.RetrySchedule) > 0 {
		var waits []string
		for _, seconds := range e.RetrySchedule {
			waits = append(waits, fromSeconds(seconds).String())
		}
		t.add("schedule", strings.Join(waits, ", "))
	}
	if e.TimeoutSeconds > 0 {
		t.add("timeout", fromSeconds(e.TimeoutSeconds).String())
	}
	if e.Concurrency > 0 {
		t.add("concurrency", fmt.Sprint(e.Concurrency))
	}
	for _, k := range e.Keys {
		t.add("key", c.validity(k.CreatedAt, k.ExpiresAt))
	}
	t.add("created", c.when(e.CreatedAt))
	t.print(c.out, s)
	c.printSecret(e.Secret)
	return nil
}

// printSecret shows a secret that is never shown again.
func (c *cli) printSecret(secret string) {
	if secret != "" {
		fmt.Fprintf(c.out, "\nsecret, shown this once; keep it:\n\n  %s\n", c.style(c.out).strong(secret))
	}
}

func fromSeconds(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second))
}
