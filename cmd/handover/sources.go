package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) sourcesCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "sources",
		Short: "Manage identity providers that send us webhooks",
		Long: `A source is an identity provider that sends signed webhooks (Scalekit's format) to
/webhooks/NAME of this service. Where a NAME is asked for, its id does too.`,
		Example: `  handover sources create scalekit --environment env_… --secret whsec_…
  handover sources list`,
	}, c.sourcesCreate(), c.sourcesList(), c.sourcesGet(),
		c.sourcesDisable(), c.sourcesEnable(), c.sourcesRotate(), c.sourcesDelete())
}

func (c *cli) sourcesCreate() *cobra.Command {
	n := api.NewSource{}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Add a source",
		Long: `Add a source. NAME becomes the last part of the path it sends to. Only events of
its environment are taken.

Give the secret that the identity provider shows, or each of them when it signs
with any of several; without one, a new one is generated and shown this once.`,
		Example: `  handover sources create scalekit --environment env_118200000000000001 --secret whsec_…
  handover sources create scalekit --environment env_… --secret - < secret.txt`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			for i, text := range n.Secrets {
				secret, err := c.readSecret(text)
				if err != nil {
					return err
				}
				n.Secrets[i] = secret
			}
			created, err := c.client().CreateSource(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.printSource(created)
		},
	}
	cmd.Flags().StringVar(&n.EnvironmentID, "environment", "", "environment of its events: env_…")
	cmd.Flags().StringArrayVar(&n.Secrets, "secret", nil, "secret it signs with, whsec_…; - reads it from stdin (repeatable; default a new one)")
	typedOnly(cmd.Flags())
	c.clientFlags(cmd)
	_ = cmd.MarkFlagRequired("environment") // the only error is a flag that does not exist
	return cmd
}

func (c *cli) sourcesList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List sources",
		Long:    "List sources, newest first.",
		Example: "  handover sources list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := lister[api.Source]{
				head: []string{"ID", "NAME", "STATE", "SENDS TO", "ENVIRONMENT", "CREATED"},
				row: func(s api.Source, st style) []string {
					return []string{s.ID, clean(s.Name), st.state(s.State), c.webhookURL(s), clean(s.EnvironmentID), c.when(s.CreatedAt)}
				},
				empty: "No sources. Add one: handover sources create scalekit --environment env_… --secret whsec_…",
				limit: limit,
			}
			return l.print(c, c.client().Sources(cmd.Context()))
		},
	}
	limitFlag(cmd, &limit)
	c.clientFlags(cmd)
	return cmd
}

// webhookURL is where a source sends to, seen from here.
func (c *cli) webhookURL(s api.Source) string {
	return strings.TrimRight(c.url, "/") + clean(s.Path)
}

// source finds a source by its id or its name.
func (c *cli) source(ctx context.Context, key string) (api.Source, error) {
	for s, err := range c.client().Sources(ctx) {
		if err != nil || s.ID == key || s.Name == key {
			return s, err
		}
	}
	return api.Source{}, hinted{fmt.Errorf("there is no source %q", key), "`handover sources list` shows them"}
}

func (c *cli) sourcesGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get NAME",
		Short:   "Show a source",
		Long:    "Show a source, by its name or its id. Its secrets are not shown again.",
		Example: "  handover sources get scalekit\n  handover sources get src_…",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.source(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printSource(s)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) sourcesDisable() *cobra.Command {
	return c.sourcesChange("disabled", &cobra.Command{
		Use:   "disable NAME",
		Short: "Take nothing more from a source",
		Long: `Take nothing more from a source: what it sends is turned away, as if there were no
such source. An identity provider repeats what it could not send only for a while.`,
		Example: "  handover sources disable scalekit",
	})
}

func (c *cli) sourcesEnable() *cobra.Command {
	return c.sourcesChange("enabled", &cobra.Command{
		Use:     "enable NAME",
		Short:   "Take events from a source again",
		Long:    "Take events from a source again, from the next one on.",
		Example: "  handover sources enable scalekit",
	})
}

// sourcesChange brings a source into a state.
func (c *cli) sourcesChange(state string, cmd *cobra.Command) *cobra.Command {
	cmd.Args = args("NAME")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := c.source(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		s, err = c.client().UpdateSource(cmd.Context(), s.ID, api.SourceChange{State: &state})
		return c.changed(err, s, clean(s.Name)+" is "+s.State)
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) sourcesRotate() *cobra.Command {
	var r rotation
	cmd := &cobra.Command{
		Use:   "rotate NAME",
		Short: "Give a source a new secret",
		Long: `Give a source a new secret: the one that the identity provider shows now, or else
a new one, shown this once. The old one is accepted until the overlap is over.`,
		Example: "  handover sources rotate scalekit --secret whsec_…",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := r.request(c)
			if err != nil {
				return err
			}
			s, err := c.source(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			s, err = c.client().RotateSource(cmd.Context(), s.ID, request)
			if err != nil {
				return err
			}
			return c.printSource(s)
		},
	}
	r.add(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) sourcesDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete NAME",
		Short:   "Remove a source",
		Long:    "Remove a source. Nothing more is taken from it; its events stay.",
		Example: "  handover sources delete scalekit",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.source(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			err = c.client().DeleteSource(cmd.Context(), s.ID)
			return c.changed(err, map[string]string{"id": s.ID, "state": "deleted"}, s.ID+" is deleted")
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) printSource(s api.Source) error {
	if c.json {
		return c.printJSON(s)
	}
	st := c.style(c.out)
	t := table{}
	t.add("id", st.strong(s.ID))
	t.add("name", clean(s.Name))
	t.add("kind", clean(s.Kind))
	t.add("sends to", c.webhookURL(s))
	t.add("environment", clean(s.EnvironmentID))
	t.add("state", st.state(s.State))
	for _, secret := range s.Secrets {
		t.add("secret", c.validity(secret.CreatedAt, secret.ExpiresAt))
	}
	t.add("created", c.when(s.CreatedAt))
	t.print(c.out, st)
	c.printSecret(s.Secret)
	return nil
}
