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
		Long: `A source is an identity provider that sends signed webhooks to /webhooks/NAME of
this service: events in Scalekit's format, or those of any sender that signs by
the Standard Webhooks, with a mapping that says what they mean. Where a NAME is
asked for, its id does too.`,
		Example: `  handover sources create scalekit --environment env_… --secret whsec_…
  handover sources create crm --kind standard --mapping crm.json --environment env_…
  handover sources list`,
	}, c.sourcesCreate(), c.sourcesList(), c.sourcesGet(), c.sourcesUpdate(),
		c.sourcesDisable(), c.sourcesEnable(), c.sourcesRotate(), c.sourcesDelete())
}

// mappingHelp explains a mapping, by an example that a test reads.
const mappingHelp = `A mapping says what the events of a sender of its own format mean: JSON Pointers
(RFC 6901) to what is in them, and the types that mean that somebody left or
joined. For a sender of
  {"type": "member.removed", "timestamp": "2026-06-12T09:30:00Z",
   "data": {"workspace": {"id": "northwind"}, "member": {"id": 7, "email": "dana@example.com"}}}
the mapping is
  {
    "type": "/type",
    "time": "/timestamp",
    "organization": "/data/workspace/id",
    "user": "/data/member/id",
    "email": "/data/member/email",
    "removals": ["member.removed"],
    "additions": ["member.added"]
  }
"external_id" may point to the person's id in the apps, and "id" to the event's id
if that is not the webhook-id. Times are RFC 3339, or whole seconds or
milliseconds since 1970. Ids get org_ and usr_ put in front where they are not:
the above is about usr_7 in org_northwind. Types that are not listed are counted,
and shown by: handover sources get NAME`

func (c *cli) sourcesCreate() *cobra.Command {
	n, file := api.NewSource{}, ""
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Add a source",
		Long: `Add a source. NAME becomes the last part of the path it sends to. Of the kind
scalekit, only events of its environment are taken; those of the kind standard
get its environment.

Give the secret that the identity provider shows, or each of them when it signs
with any of several; without one, a new one is generated and shown this once.

` + mappingHelp,
		Example: `  handover sources create scalekit --environment env_118200000000000001 --secret whsec_…
  handover sources create scalekit --environment env_… --secret - < secret.txt
  handover sources create crm --kind standard --mapping crm.json --environment env_… --secret whsec_…`,
		Args: args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n.Name = args[0]
			switch {
			case n.Kind == "standard" && file == "":
				return usagef("--kind standard needs a --mapping")
			case n.Kind != "standard" && file != "":
				return usagef("--mapping is for --kind standard")
			}
			var err error
			if n.Mapping, err = c.readMapping(file); err != nil {
				return err
			}
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
	oneOf(cmd, &n.Kind, "kind", "scalekit", []string{"scalekit", "standard"}, "format of its events")
	cmd.Flags().StringVar(&file, "mapping", "", "file with the mapping of the kind standard; - is stdin")
	cmd.Flags().StringArrayVar(&n.Secrets, "secret", nil, "secret it signs with, whsec_…; - reads it from stdin (repeatable; default a new one)")
	typedOnly(cmd.Flags())
	c.clientFlags(cmd)
	_ = cmd.MarkFlagRequired("environment") // the only error is a flag that does not exist
	return cmd
}

// maxMapping bounds what is read of a mapping's file.
const maxMapping = 64 << 10

// readMapping reads the file of --mapping, if there is one.
func (c *cli) readMapping(file string) (*api.SourceMapping, error) {
	if file == "" {
		return nil, nil
	}
	text, err := c.read(file, maxMapping)
	if err != nil {
		return nil, fmt.Errorf("read mapping: %w", err)
	}
	m, err := api.ReadSourceMapping(text)
	if err != nil {
		return nil, hinted{fmt.Errorf("read mapping: %w", err), "`handover sources create -h` shows one"}
	}
	return &m, nil
}

func (c *cli) sourcesUpdate() *cobra.Command {
	var environment, file string
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Change a source",
		Long: `Change what is given of a source and leave the rest, from the next event on.

` + mappingHelp,
		Example: "  handover sources update crm --mapping crm.json",
		Args:    args("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if environment == "" && file == "" {
				return usagef("give --environment or --mapping")
			}
			var change api.SourceChange
			var err error
			if change.Mapping, err = c.readMapping(file); err != nil {
				return err
			}
			if environment != "" {
				change.EnvironmentID = &environment
			}
			s, err := c.source(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if s, err = c.client().UpdateSource(cmd.Context(), s.ID, change); err != nil {
				return err
			}
			return c.printSource(s)
		},
	}
	cmd.Flags().StringVar(&environment, "environment", "", "environment of its events: env_…")
	cmd.Flags().StringVar(&file, "mapping", "", "file with the new mapping; - is stdin")
	typedOnly(cmd.Flags())
	c.clientFlags(cmd)
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
				head: []string{"ID", "NAME", "STATE", "SENDS TO", "ENVIRONMENT", "TAKEN", "REJECTED", "LAST TAKEN"},
				row: func(s api.Source, st style) []string {
					return []string{
						s.ID, clean(s.Name), st.state(s.State), c.webhookURL(s), clean(s.EnvironmentID),
						fmt.Sprint(s.Received), rejected(s, st), c.when(s.LastEventAt),
					}
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

// rejected counts what of a source was not taken.
func rejected(s api.Source, st style) string {
	var n int64
	for _, r := range s.Rejections {
		n += r.Count
	}
	if n == 0 {
		return "0"
	}
	return st.bad(fmt.Sprint(n))
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
		Use:   "get NAME",
		Short: "Show a source",
		Long: `Show a source, by its name or its id, and what became of its webhooks: how many
were taken, how many were not and why, and the types that mean nothing here.
Counts are a few seconds old. Its secrets are not shown again.`,
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
	if m := s.Mapping; m != nil {
		for _, p := range [][2]string{{"type", m.Type}, {"time", m.Time}, {"organization", m.Organization}, {"user", m.User}, {"email", m.Email}, {"external_id", m.ExternalID}, {"id", m.ID}} {
			if p[1] != "" {
				t.add("mapping", p[0]+" at "+clean(p[1]))
			}
		}
		for _, typ := range m.Removals {
			t.add("mapping", clean(typ)+" is a removal")
		}
		for _, typ := range m.Additions {
			t.add("mapping", clean(typ)+" is an addition")
		}
	}
	t.add("created", c.when(s.CreatedAt))
	t.add("taken", countOf(s.Received, c.when(s.LastEventAt)))
	for _, r := range s.Rejections {
		t.add("rejected", st.bad(clean(r.Reason))+" "+countOf(r.Count, c.when(r.LastAt)))
	}
	for _, u := range s.Unmapped {
		t.add("unmapped", st.warn(clean(u.Type))+" "+countOf(u.Count, c.when(u.LastAt)))
	}
	t.print(c.out, st)
	c.printSecret(s.Secret)
	return nil
}

// countOf says how often something happened, and when it did last.
func countOf(n int64, last string) string {
	if n == 0 {
		return "never"
	}
	return plural(n, "time", "times") + ", last " + last
}
