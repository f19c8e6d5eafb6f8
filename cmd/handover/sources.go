package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) sourcesCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "sources",
		Short: "Manage identity providers that send us webhooks",
		Long: `A source is an identity provider that sends signed webhooks (Scalekit's format) to
/webhooks/NAME of this service.`,
		Example: `  handover sources create scalekit --environment env_… --secret whsec_…
  handover sources list`,
	}, c.sourcesCreate(), c.sourcesList(), c.sourcesGet(), c.sourcesRotate(), c.sourcesDelete())
}

func (c *cli) sourcesCreate() *cobra.Command {
	n := api.NewSource{}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Add a source",
		Long: `Add a source. NAME becomes the last part of the path it sends to. Only events of
its environment are taken.

Give the secret that the identity provider shows; without one, a new one is
generated and shown this once.`,
		Example: `  handover sources create scalekit --environment env_118200000000000001 --secret whsec_…
  handover sources create scalekit --environment env_… --secret - < secret.txt`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			var err error
			if n.Secret, err = c.readSecret(n.Secret); err != nil {
				return err
			}
			created, err := c.client().CreateSource(cmd.Context(), n)
			if err != nil {
				return err
			}
			return c.printSource(created)
		},
	}
	cmd.Flags().StringVar(&n.EnvironmentID, "environment", "", "environment of its events: env_…")
	cmd.Flags().StringVar(&n.Secret, "secret", "", "secret it signs with, whsec_…; - reads it from stdin (default a new one)")
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

func (c *cli) sourcesGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ID",
		Short:   "Show a source",
		Long:    "Show a source. Its secrets are not shown again.",
		Example: "  handover sources get src_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.client().Source(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printSource(s)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) sourcesRotate() *cobra.Command {
	var r rotation
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Give a source a new secret",
		Long: `Give a source a new secret: the one that the identity provider shows now, or else
a new one, shown this once. The old one is accepted until the overlap is over.`,
		Example: "  handover sources rotate src_… --secret whsec_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := r.request(c)
			if err != nil {
				return err
			}
			s, err := c.client().RotateSource(cmd.Context(), args[0], request)
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
		Use:     "delete ID",
		Short:   "Remove a source",
		Long:    "Remove a source. Nothing more is taken from it; its events stay.",
		Example: "  handover sources delete src_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := c.client().DeleteSource(cmd.Context(), args[0])
			return c.changed(err, map[string]string{"id": args[0], "state": "deleted"}, args[0]+" is deleted")
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
