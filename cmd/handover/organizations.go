package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) organizationsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "organizations",
		Short: "Manage organizations",
		Long: `An organization is a customer, a company or a team: people are its members, and
leave it. Where an ORGANIZATION is asked for, its external id does too.`,
		Example: `  handover organizations create Acme --external-id acme-1
  handover organizations list
  handover members list acme-1`,
	}, c.organizationsCreate(), c.organizationsList(), c.organizationsGet(), c.organizationsDelete())
}

// environmentFlag adds --environment. No variable stands for it: commands that
// only read and commands that remove people have to mean the same one.
func (c *cli) environmentFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.environment, "environment", "", "environment: env_… (default the service's own)")
	annotate(cmd.Flags().Lookup("environment"))
}

// people asks about the environment that the flags name.
func (c *cli) people() *api.EnvironmentClient { return c.client().InEnvironment(c.environment) }

func (c *cli) organizationsCreate() *cobra.Command {
	var o api.NewOrganization
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Add an organization",
		Long: `Add an organization. --id keeps the id that it has in an identity provider whose
webhooks are taken here too; without it, one is made.`,
		Example: `  handover organizations create Acme
  handover organizations create Acme --id org_118200000000000077 --external-id acme-1`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.DisplayName = args[0]
			created, err := c.people().CreateOrganization(cmd.Context(), o)
			if err != nil {
				return err
			}
			return c.printOrganization(created)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.ID, "id", "", "its id, where it is known already: org_… (default a new one)")
	f.StringVar(&o.ExternalID, "external-id", "", "what the app calls it")
	f.StringVar(&o.Slug, "slug", "", "its name in URLs")
	oneOf(cmd, &o.RegionCode, "region", "", []string{"US", "EU"}, "where its data are")
	f.StringToStringVar(&o.Metadata, "metadata", nil, "more about it: plan=gold (repeatable)")
	typedOnly(f)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) organizationsList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List organizations",
		Long:    "List organizations.",
		Example: "  handover organizations list",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := lister[api.Organization]{
				head: []string{"ID", "NAME", "EXTERNAL ID", "CREATED"},
				row: func(o api.Organization, s style) []string {
					return []string{o.ID, clean(o.DisplayName), orDash(clean(o.ExternalID)), c.when(o.CreatedAt)}
				},
				empty: "No organizations. Add one: handover organizations create NAME",
				limit: limit,
			}
			return l.print(c, c.people().Organizations(cmd.Context(), ""))
		},
	}
	limitFlag(cmd, &limit)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

// organization finds an organization by its id or its external id.
func (c *cli) organization(ctx context.Context, key string) (api.Organization, error) {
	if strings.HasPrefix(key, "org_") {
		return c.people().Organization(ctx, key)
	}
	for o, err := range c.people().Organizations(ctx, key) {
		return o, err
	}
	return api.Organization{}, hinted{fmt.Errorf("there is no organization with the external id %q", key), "`handover organizations list` shows them"}
}

func (c *cli) organizationsGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ORGANIZATION",
		Short:   "Show an organization",
		Long:    "Show an organization, by its id or its external id.",
		Example: "  handover organizations get org_…\n  handover organizations get acme-1",
		Args:    args("ORGANIZATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.printOrganization(o)
		},
	}
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) organizationsDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete ORGANIZATION",
		Short: "Remove all members of an organization, then the organization",
		Long: `Remove all members of an organization, then the organization. Each of them is
told to the apps as a removal; accounts that have no other organization go too.
It asks first, on a terminal.`,
		Example: "  handover organizations delete org_…",
		Args:    args("ORGANIZATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := c.confirm(yes, "Remove all members of "+named(o)+", and the organization?"); err != nil {
				return err
			}
			err = c.people().DeleteOrganization(cmd.Context(), o.ID)
			return c.changed(err, map[string]string{"id": o.ID, "state": "deleted"}, named(o)+" is deleted")
		},
	}
	yesFlag(cmd, &yes)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

// named is an organization as people know it.
func named(o api.Organization) string { return clean(o.DisplayName) + " (" + o.ID + ")" }

func (c *cli) printOrganization(o api.Organization) error {
	if c.json {
		return c.printJSON(o)
	}
	s := c.style(c.out)
	t := table{}
	t.add("id", s.strong(o.ID))
	t.add("name", clean(o.DisplayName))
	for _, optional := range [][]string{{"external id", o.ExternalID}, {"slug", o.Slug}, {"region", o.RegionCode}} {
		if optional[1] != "" {
			t.add(optional[0], clean(optional[1]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(o.Metadata)) {
		t.add(clean(key), clean(o.Metadata[key]))
	}
	t.add("environment", clean(o.EnvironmentID))
	if o.State != "active" {
		t.add("state", s.warn(o.State))
	}
	t.add("created", c.when(o.CreatedAt))
	t.print(c.out, s)
	return nil
}

// yesFlag adds --yes, which no variable stands for.
func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
	annotate(cmd.Flags().Lookup("yes"))
}

// confirm asks before something that cannot be taken back. Where nobody can be
// asked, --yes has to be there.
func (c *cli) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	in, ok := c.in.(*os.File)
	if !ok || !isTerminal(in) {
		return hinted{usagef("nobody can be asked here: stdin is no terminal"), "--yes does it without asking"}
	}
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		if err == nil {
			return nil
		}
	}
	return errors.New("nothing was changed")
}
