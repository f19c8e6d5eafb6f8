package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) keysCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "keys",
		Short: "Manage API keys",
		Long:  "API keys let programs and people use the API. The service keeps only a hash of\nthem.",
		Example: `  handover keys create ci
  handover keys list
  handover keys revoke key_…`,
	}, c.keysCreate(), c.keysList(), c.keysRevoke())
}

func (c *cli) keysCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Create an API key",
		Long:    "Create an API key. It is shown this once.",
		Example: "  handover keys create ci\n  export HANDOVER_API_KEY=$(handover keys create ci --json | jq -r .key)",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := c.client().CreateAPIKey(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(k)
			}
			_, err = fmt.Fprintf(c.out, "%s %s\n\nAPI key, shown this once; keep it:\n\n  export HANDOVER_API_KEY=%s\n",
				k.ID, clean(k.Name), c.style(c.out).strong(k.Key))
			return err
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) keysList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List API keys",
		Long:    "List API keys, newest first, by their first characters.",
		Example: "  handover keys list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := lister[api.APIKey]{
				head: []string{"ID", "NAME", "KEY", "CREATED", "LAST USED", "STATE"},
				row: func(k api.APIKey, s style) []string {
					state := s.good("valid")
					if !k.RevokedAt.IsZero() {
						state = "revoked " + c.when(k.RevokedAt)
					}
					return []string{k.ID, clean(k.Name), clean(k.Prefix) + "…", c.when(k.CreatedAt), c.when(k.LastUsedAt), state}
				},
				empty: "No API keys but the one in the service's configuration. Create one: handover keys create NAME",
				limit: limit,
			}
			return l.print(c, c.client().APIKeys(cmd.Context()))
		},
	}
	limitFlag(cmd, &limit)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) keysRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "Make an API key worthless",
		Long:    "Make an API key worthless at once. The one in use cannot revoke itself.",
		Example: "  handover keys revoke key_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := c.client().RevokeAPIKey(cmd.Context(), args[0])
			return c.changed(err, map[string]string{"id": args[0], "state": "revoked"}, args[0]+" is revoked")
		},
	}
	c.clientFlags(cmd)
	return cmd
}
