package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

func (c *cli) sessionsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "sessions",
		Short: "Manage people's sessions",
		Long: `Sessions are people's sign-ins, as an app or an identity provider tells of them.
A removal ends those that reach the organization, and its event lists them, so
that apps can drop them at once.`,
		Example: `  handover sessions create acme-1 ines@acme.example
  handover sessions list usr_…
  handover sessions revoke ses_…`,
	}, c.sessionsCreate(), c.sessionsList(), c.sessionsRevoke())
}

func (c *cli) sessionsCreate() *cobra.Command {
	var n api.NewSession
	cmd := &cobra.Command{
		Use:   "create ORGANIZATION PERSON",
		Short: "Tell of a session",
		Long:  "Tell of a session of a member that began elsewhere.",
		Example: `  handover sessions create acme-1 ines@acme.example
  handover sessions create org_… usr_… --id ses_118200000000007001 --reaches org_…`,
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
			n.OrganizationID, n.UserID = o.ID, m.UserID
			created, err := c.people().CreateSession(cmd.Context(), n)
			return c.changed(err, created, created.ID)
		},
	}
	f := cmd.Flags()
	f.StringVar(&n.ID, "id", "", "its id, where it is known already: ses_… (default a new one)")
	f.StringSliceVar(&n.Organizations, "reaches", nil, "other organizations that it reaches: org_… (repeatable)")
	typedOnly(f)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

// user finds an account by its id or its external id.
func (c *cli) user(ctx context.Context, key string) (api.User, error) {
	if strings.HasPrefix(key, "usr_") {
		return c.people().User(ctx, key)
	}
	for u, err := range c.people().Users(ctx, key) {
		return u, err
	}
	return api.User{}, fmt.Errorf("there is no account with the external id %q", key)
}

func (c *cli) sessionsList() *cobra.Command {
	var f api.SessionFilter
	var limit int
	cmd := &cobra.Command{
		Use:     "list PERSON",
		Short:   "List the sessions of a person",
		Long:    "List the sessions of a person, by their id (usr_…) or external id.",
		Example: "  handover sessions list usr_…\n  handover sessions list usr_… --status active",
		Args:    args("PERSON"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := c.user(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			l := lister[api.Session]{
				head: []string{"ID", "STATUS", "ORGANIZATION", "REACHES", "CREATED"},
				row: func(v api.Session, s style) []string {
					status := s.dim(v.Status)
					if v.Status == "active" {
						status = s.good(v.Status)
					}
					return []string{v.ID, status, orDash(clean(v.OrganizationID)), clean(strings.Join(v.Organizations, ",")), c.when(v.CreatedAt)}
				},
				empty: "No such sessions. Tell of one: handover sessions create -h",
				limit: limit,
			}
			return l.print(c, c.people().UserSessions(cmd.Context(), u.ID, f))
		},
	}
	oneOf(cmd, &f.Status, "status", "", []string{"active", "expired", "revoked", "logout"}, "only those in this state")
	limitFlag(cmd, &limit)
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}

func (c *cli) sessionsRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "revoke ID",
		Short:   "End a session",
		Long:    "End a session. One that has ended already stays as it is.",
		Example: "  handover sessions revoke ses_…",
		Args:    args("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.people().RevokeSession(cmd.Context(), args[0])
			return c.changed(err, s, s.ID+" is "+s.Status)
		},
	}
	c.environmentFlag(cmd)
	c.clientFlags(cmd)
	return cmd
}
