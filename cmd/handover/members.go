package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) membersCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "members",
		Short: "Manage who is a member of an organization",
		Long: `Members are people in an organization. When one is removed, each app that is
subscribed is told, once, and hands over what it holds of theirs.

Where a PERSON is asked for, their id (usr_…), email or external id does.`,
		Example: `  handover members add acme-1 ines@acme.example --name 'Inès Fournier'
  handover members list acme-1
  handover members remove acme-1 ines@acme.example --successor bo@acme.example`,
	}, c.membersList(), c.membersAdd(), c.membersGet(), c.membersRemove())
}

// who is a person as people know them.
func who(name, email, id string) string {
	text := clean(name)
	if email != "" {
		text += " <" + clean(email) + ">"
	}
	return strings.TrimSpace(text + " (" + clean(id) + ")")
}

// membership colours a membership's status.
func (s style) membership(status string) string {
	switch status {
	case "ACTIVE":
		return s.good(status)
	case "INACTIVE":
		return s.warn(status)
	}
	return s.dim(status)
}

func (c *cli) membersList() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "list ORGANIZATION",
		Short:   "List the members of an organization",
		Long:    "List the members of an organization.",
		Example: "  handover members list org_…\n  handover members list acme-1 --limit all --json",
		Args:    args("ORGANIZATION"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			l := lister[api.Member]{
				head: []string{"ID", "EMAIL", "NAME", "STATUS", "ROLES", "JOINED"},
				row: func(m api.Member, s style) []string {
					return []string{
						m.UserID, orDash(clean(m.Email)), orDash(clean(m.Name)), s.membership(m.Status), orDash(clean(strings.Join(m.Roles, ","))), c.when(m.JoinedAt),
					}
				},
				empty: "No members. Add one: handover members add " + o.ID + " EMAIL; or many: handover import -h",
				limit: limit,
			}
			return l.print(c, c.people().Members(cmd.Context(), o.ID))
		},
	}
	limitFlag(cmd, &limit)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) membersAdd() *cobra.Command {
	var m api.NewMember
	cmd := &cobra.Command{
		Use:   "add ORGANIZATION PERSON",
		Short: "Make a person a member",
		Long: `Make a person a member: with an email, or with the id of their account. Somebody
who left comes back so: what was still to be handed over of theirs is not.

Whose last membership ended has no account any more: they get a new one, with a
new id, and what the old one left is handed over.`,
		Example: `  handover members add acme-1 ines@acme.example --name 'Inès Fournier' --role admin
  handover members add acme-1 usr_…`,
		Args: args("ORGANIZATION", "PERSON"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if strings.HasPrefix(args[1], "usr_") {
				m.UserID = args[1]
			} else {
				m.Email = args[1]
			}
			added, err := c.people().AddMember(cmd.Context(), o.ID, m)
			return c.changed(err, added, who(added.Name, added.Email, added.UserID)+" is a member of "+named(o))
		},
	}
	f := cmd.Flags()
	f.StringVar(&m.Name, "name", "", "what people call the person")
	f.StringVar(&m.ExternalID, "external-id", "", "what the app calls the person")
	f.StringSliceVar(&m.Roles, "role", nil, "what the person may do (repeatable)")
	typedOnly(f)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

// member finds a member by their id, email or external id.
func (c *cli) member(ctx context.Context, organizationID, key string) (api.Member, error) {
	if strings.HasPrefix(key, "usr_") {
		return c.people().Member(ctx, organizationID, key)
	}
	if !strings.Contains(key, "@") {
		for u, err := range c.people().Users(ctx, key) {
			if err != nil {
				return api.Member{}, err
			}
			return c.people().Member(ctx, organizationID, u.ID)
		}
	}
	for m, err := range c.people().Members(ctx, organizationID) {
		if err != nil || strings.EqualFold(m.Email, key) {
			return m, err
		}
	}
	return api.Member{}, hinted{fmt.Errorf("there is no member %q", key), "`handover members list " + organizationID + "` shows them"}
}

func (c *cli) membersGet() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "get ORGANIZATION PERSON",
		Short:   "Show a member",
		Long:    "Show a member of an organization.",
		Example: "  handover members get acme-1 ines@acme.example",
		Args:    args("ORGANIZATION", "PERSON"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			m, err := c.member(cmd.Context(), o.ID, args[1])
			if err != nil {
				return err
			}
			return c.printMember(m, o)
		},
	}
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) printMember(m api.Member, o api.Organization) error {
	if c.json {
		return c.printJSON(m)
	}
	s := c.style(c.out)
	t := table{}
	t.add("id", s.strong(m.UserID))
	t.add("name", orDash(clean(m.Name)))
	t.add("email", orDash(clean(m.Email)))
	if m.ExternalID != "" {
		t.add("external id", clean(m.ExternalID))
	}
	t.add("organization", named(o))
	t.add("status", s.membership(m.Status))
	t.add("roles", orDash(clean(strings.Join(m.Roles, ", "))))
	if m.ProvisioningMethod != "" {
		t.add("came by", clean(m.ProvisioningMethod))
	}
	t.add("joined", c.when(m.JoinedAt))
	t.print(c.out, s)
	return nil
}

func (c *cli) membersRemove() *cobra.Command {
	var l api.Leaving
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove ORGANIZATION PERSON",
		Short: "Remove a member and have the apps hand over",
		Long: `Remove a member: their sessions that reach the organization end, an account that
has no other organization goes, and the apps are told to hand over. The event
names the successor: --successor, or else the manager that the directory told.
It asks first, on a terminal.`,
		Example: `  handover members remove acme-1 ines@acme.example
  handover members remove org_… usr_… --successor bo@acme.example --yes`,
		Args: args("ORGANIZATION", "PERSON"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := c.organization(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			m, err := c.member(cmd.Context(), o.ID, args[1])
			if err != nil {
				return err
			}
			person := who(m.Name, m.Email, m.UserID)
			if err := c.confirm(yes, "Remove "+person+" from "+named(o)+"?"); err != nil {
				return err
			}
			r, err := c.people().RemoveMember(cmd.Context(), o.ID, m.UserID, l)
			if err != nil || c.json {
				return c.changed(err, r, "")
			}
			fmt.Fprintf(c.out, "%s is removed from %s\n", person, named(o))
			return c.printRemoval(r)
		},
	}
	cmd.Flags().StringVar(&l.Successor, "successor", "", "who takes over: usr_… or email of another active member")
	typedOnly(cmd.Flags())
	yesFlag(cmd, &yes)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) printRemoval(r api.Removal) error {
	t := table{}
	if r.EventID == "" {
		t.add("event", "none: the apps had been told before")
	} else {
		t.add("event", clean(r.EventID))
	}
	switch s := r.Successor; {
	case s == nil:
		t.add("successor", "none: the apps decide")
	case s.Source == "manager":
		t.add("successor", who("", s.Email, s.UserID)+", the manager")
	default:
		t.add("successor", who("", s.Email, s.UserID))
	}
	t.add("sessions", plural(int64(len(r.RevokedSessions)), "ended", "ended"))
	if r.UserDeleted {
		t.add("account", "deleted: it was the last membership")
	}
	t.print(c.out, c.style(c.out))
	return nil
}
