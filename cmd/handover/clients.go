package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) clientsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "clients",
		Short: "Manage who may use the Scalekit-compatible API",
		Long: `A client lets an app use the Scalekit-compatible API with the official SDKs: an
environment URL, a client id and a client secret. The service keeps only a hash
of the secret.`,
		Example: `  handover clients create wiki
  handover clients list
  handover clients revoke skc_…`,
	}, c.clientsCreate(), c.clientsList(), c.clientsRevoke())
}

func (c *cli) clientsCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Let an app use the Scalekit-compatible API",
		Long:    "Let an app use the Scalekit-compatible API. The secret is shown this once.",
		Example: "  handover clients create wiki\n  handover clients create wiki --json | jq -r .secret",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			created, err := c.people().CreateClient(cmd.Context(), args[0])
			if err != nil || c.json {
				return c.changed(err, created, "")
			}
			s := c.style(c.out)
			_, err = fmt.Fprintf(c.out, `%s %s

Secret, shown this once; keep it:

  export SCALEKIT_ENVIRONMENT_URL=%s
  export SCALEKIT_CLIENT_ID=%s
  export SCALEKIT_CLIENT_SECRET=%s
`, created.ID, clean(created.Name), strings.TrimRight(c.url, "/"), created.ID, s.strong(created.Secret))
			return err
		},
	}
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) clientsList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List clients",
		Long:    "List clients, newest first, by the first characters of their secrets.",
		Example: "  handover clients list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := lister[api.APIClient]{
				head: []string{"ID", "NAME", "SECRET", "ENVIRONMENT", "CREATED", "LAST USED", "STATE"},
				row: func(v api.APIClient, s style) []string {
					state := s.good("valid")
					if !v.RevokedAt.IsZero() {
						state = "revoked " + c.when(v.RevokedAt)
					}
					return []string{v.ID, clean(v.Name), clean(v.Prefix) + "…", clean(v.EnvironmentID), c.when(v.CreatedAt), c.when(v.LastUsedAt), state}
				},
				empty: "No clients. Create one: handover clients create NAME",
				limit: limit,
			}
			return l.print(c, c.client().Clients(cmd.Context()))
		},
	}
	limitFlag(cmd, &limit)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) clientsRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Make a client worthless",
		Long:    "Make a client and the tokens that it holds worthless.",
		Example: "  handover clients revoke skc_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := c.client().RevokeClient(cmd.Context(), args[0])
			return c.changed(err, map[string]string{"id": args[0], "state": "revoked"}, args[0]+" is revoked")
		},
	}
	c.clientFlags(cmd)
	return cmd
}
