package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) directoriesCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "directories",
		Short: "Manage SCIM directories that tell who leaves",
		Long: `A directory lets a SCIM 2.0 client, such as Okta or Entra ID, manage the members
of one organization. It has a base URL and a token; the token opens nothing else.`,
		Example: `  handover directories create acme-1 Okta
  handover directories list
  handover directories rotate dir_…`,
	}, c.directoriesCreate(), c.directoriesList(), c.directoriesGet(), c.directoriesRotate(),
		c.directoriesDisable(), c.directoriesEnable(), c.directoriesDelete())
}

// scimURL is the base URL of a directory, seen from here.
func (c *cli) scimURL(d api.SCIMDirectory) string {
	return strings.TrimRight(c.url, "/") + clean(d.Path)
}

func (c *cli) directoriesCreate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create ORGANIZATION NAME",
		Short: "Let a SCIM client manage an organization's members",
		Long: `Let a SCIM client manage an organization's members. Give it the base URL and the
token, which is shown this once. Who it deactivates or deletes is removed.

Somebody who has an account already is found by email: whoever holds the token can
make them a member of the organization, and remove them again.`,
		Example: "  handover directories create acme-1 Okta",
		Args:    args("ORGANIZATION", "NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			d, err := c.people().CreateDirectory(cmd.Context(), api.NewSCIMDirectory{OrganizationID: o.ID, Name: args[1]})
			if err != nil {
				return err
			}
			return c.printDirectory(d)
		},
	}
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) directoriesList() *cobra.Command {
	var limit int
	var organization string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List directories",
		Long:    "List directories, newest first.",
		Example: "  handover directories list\n  handover directories list --organization acme-1",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if organization != "" {
				o, err := c.organization(cmd.Context(), organization)
				if err != nil {
					return err
				}
				organization = o.ID
			}
			l := lister[api.SCIMDirectory]{
				head: []string{"ID", "NAME", "STATE", "ORGANIZATION", "LAST USED", "CREATED"},
				row: func(d api.SCIMDirectory, s style) []string {
					var used time.Time
					for _, t := range d.Tokens {
						if t.LastUsedAt.After(used) {
							used = t.LastUsedAt
						}
					}
					return []string{d.ID, clean(d.Name), s.state(d.State), clean(d.OrganizationID), c.when(used), c.when(d.CreatedAt)}
				},
				empty: "No directories. Add one: handover directories create ORGANIZATION NAME",
				limit: limit,
			}
			return l.print(c, c.client().Directories(cmd.Context(), organization))
		},
	}
	cmd.Flags().StringVar(&organization, "organization", "", "only those of this organization")
	typedOnly(cmd.Flags())
	limitFlag(cmd, &limit)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) directoriesGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ID",
		Short:   "Show a directory",
		Long:    "Show a directory. Its token is not shown again; see: handover directories rotate",
		Example: "  handover directories get dir_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := c.client().Directory(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printDirectory(d)
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) directoriesRotate() *cobra.Command {
	var overlap time.Duration
	cmd := &cobra.Command{
		Use:   "rotate ID",
		Short: "Give a directory a new token",
		Long: `Give a directory a new token, which is shown this once. The old one opens it until
the overlap is over.`,
		Example: `  handover directories rotate dir_…
  handover directories rotate dir_… --overlap 0s   # the old one leaked`,
		Args: args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			seconds := overlap.Seconds()
			d, err := c.client().RotateDirectory(cmd.Context(), args[0], api.TokenRotation{OverlapSeconds: &seconds})
			if err != nil {
				return err
			}
			return c.printDirectory(d)
		},
	}
	cmd.Flags().DurationVar(&overlap, "overlap", 24*time.Hour, "how long the old one stays valid")
	typedOnly(cmd.Flags())
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) directoriesDisable() *cobra.Command {
	return c.directoriesChange("disabled", &cobra.Command{
		Use:     "disable ID",
		Short:   "Take nothing more from a directory",
		Long:    "Take nothing more from a directory: its tokens open nothing. Its people stay\nmembers.",
		Example: "  handover directories disable dir_…",
	})
}

func (c *cli) directoriesEnable() *cobra.Command {
	return c.directoriesChange("enabled", &cobra.Command{
		Use:     "enable ID",
		Short:   "Let a directory in again",
		Long:    "Let a directory in again, with the tokens that it has.",
		Example: "  handover directories enable dir_…",
	})
}

// directoriesChange brings a directory into a state.
func (c *cli) directoriesChange(state string, cmd *cobra.Command) *cobra.Command {
	cmd.Args = args("ID")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := c.client().UpdateDirectory(cmd.Context(), args[0], api.SCIMDirectoryChange{State: &state})
		return c.changed(err, d, d.ID+" is "+d.State)
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) directoriesDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "delete ID",
		Short:   "Remove a directory",
		Long:    "Remove a directory and its tokens. Its people stay members.",
		Example: "  handover directories delete dir_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := c.client().DeleteDirectory(cmd.Context(), args[0])
			return c.changed(err, map[string]string{"id": args[0], "state": "deleted"}, args[0]+" is deleted")
		},
	}
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) printDirectory(d api.SCIMDirectory) error {
	if c.json {
		return c.printJSON(d)
	}
	s := c.style(c.out)
	t := table{}
	t.add("id", s.strong(d.ID))
	t.add("name", clean(d.Name))
	t.add("SCIM base URL", c.scimURL(d))
	t.add("organization", clean(d.OrganizationID))
	t.add("environment", clean(d.EnvironmentID))
	t.add("state", s.state(d.State))
	for _, token := range d.Tokens {
		t.add("token", clean(token.Prefix)+"…, "+c.validity(token.CreatedAt, token.ExpiresAt)+", last used "+c.when(token.LastUsedAt))
	}
	t.add("created", c.when(d.CreatedAt))
	t.print(c.out, s)
	if d.Token != "" {
		fmt.Fprintf(c.out, "\ntoken, shown this once; keep it:\n\n  %s\n", s.strong(d.Token))
	}
	return nil
}
