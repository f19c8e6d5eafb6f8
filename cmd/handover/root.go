package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A cli is one run of the program: what its commands read from and write to.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string // "" when unset
	now      func() time.Time

	started bool // the command line was understood and the command began

	// Flags that several commands share.
	url         string
	environment string
	json        bool
}

// run executes one command line and returns its exit code: 0, 1 when it failed,
// 2 when the command line made no sense.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env func(string) string) int {
	c := &cli{in: stdin, out: stdout, err: stderr, env: env, now: time.Now}
	root := c.root()
	root.SetArgs(args)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	if !c.started {
		err = usageError{err}
	}
	return c.report(cmd.CommandPath(), err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "handover",
		Short: "Make sure that what a leaver leaves behind is handed over",
		Long: `Handover makes sure that, when a person leaves an organization, every
application that holds something of theirs transfers it or deletes it.

  handover demo     shows the whole of it in a few seconds, nothing else needed
  handover serve    runs the service
  everything else   talks to a running service

Commands find the service at HANDOVER_URL (default http://127.0.0.1:8080) and
authenticate with HANDOVER_API_KEY. A flag that shows a variable behind it can
also be given in the environment; flags whose values a command writes into the
service, such as --secret or --name, have none. With --json, commands print JSON
lines: one object per line for each thing that is listed or shown.

Exit codes: 0 done, 1 failed, 2 the command line made no sense.`,
		Example: `  handover demo
  handover serve --allow-network 127.0.0.0/8
  handover trigger user.organization_membership_deleted`,
		Version:           thisBuild().String(),
		Args:              noArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return c.bindEnv(cmd.Flags()) },
	}
	root.Annotations = map[string]string{"group": "yes"}
	root.SetVersionTemplate("{{.Version}}\n")
	root.SetHelpCommand(helpCommand())
	// A command that only holds others is not shown as one to run.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "group"))}}`, 1))
	root.AddGroup(
		&cobra.Group{ID: "start", Title: "Start here:"},
		&cobra.Group{ID: "service", Title: "Run the service:"},
		&cobra.Group{ID: "develop", Title: "Develop an app that receives:"},
		&cobra.Group{ID: "people", Title: "Manage who is a member, and who may say so:"},
		&cobra.Group{ID: "operate", Title: "Operate:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
		}
		root.AddCommand(commands...)
	}
	add("start", c.demoCommand())
	add("service", c.serveCommand(), c.migrateCommand())
	add("develop", c.triggerCommand(), c.listenCommand(), c.verifyCommand())
	add("people", c.organizationsCommand(), c.membersCommand(), c.sessionsCommand(), c.directoriesCommand(), c.clientsCommand(), c.importCommand(), c.reconcileCommand())
	add("operate", c.endpointsCommand(), c.eventsCommand(), c.deliveriesCommand(), c.replayCommand(), c.sourcesCommand(), c.keysCommand())
	root.AddCommand(c.versionCommand())
	root.SetOut(c.out) // the completion commands keep what they write to
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		if cmd.Name() == "completion" {
			group(cmd)
		}
	}
	c.prepare(root)
	return root
}

// prepare does to every command what all of them need: its flags name their
// variables, and an error that comes before the command ran is a usage error.
func (c *cli) prepare(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Flags().SortFlags = false
	cmd.PersistentFlags().SortFlags = false
	cmd.DisableFlagsInUseLine = !cmd.HasFlags()
	cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if _, marked := f.Annotations[variable]; !marked {
			annotate(f, envName(f.Name))
			f.Usage += " [$" + envName(f.Name) + "]"
		}
	})
	if runE := cmd.RunE; runE != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			c.started = true
			return runE(cmd, args)
		}
	}
	for _, sub := range cmd.Commands() {
		c.prepare(sub)
	}
}

// jsonFlag adds --json.
func (c *cli) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON, one object per line")
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Explain a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err == nil {
				err = noArgs(found, rest)
			}
			if err != nil {
				return usageError{err}
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}

// variable annotates a flag with the variable that stands for it, or with none.
const variable = "variable"

func annotate(f *pflag.Flag, names ...string) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[variable] = names
}

// typedOnly keeps the environment away from the flags that there are so far. It
// is for those that say what to write into the service: a variable that is set
// for something else must not end up there.
func typedOnly(flags *pflag.FlagSet) {
	flags.VisitAll(func(f *pflag.Flag) { annotate(f) })
}

// envName is the variable that stands for a flag: --data-dir is HANDOVER_DATA_DIR.
func envName(flag string) string {
	return "HANDOVER_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// bindEnv sets each flag that was not given from its variable, where it has
// one. A list is separated by commas.
func (c *cli) bindEnv(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		for _, name := range f.Annotations[variable] {
			value := c.env(name)
			if f.Changed || value == "" {
				continue
			}
			if err := flags.Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, errors.Unwrap(err)))
			}
		}
	})
	return errors.Join(errs...)
}

// group makes a command that only holds others.
func group(cmd *cobra.Command, subs ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(subs...)
	cmd.Args = noArgs
	cmd.Annotations = map[string]string{"group": "yes"}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		return usageError{fmt.Errorf("%s needs a command: %s", cmd.CommandPath(), strings.Join(names, ", "))}
	}
	return cmd
}

// noArgs refuses arguments; where there are commands below, it takes one for a
// command that does not exist.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if !cmd.HasAvailableSubCommands() {
		return fmt.Errorf("unexpected argument %q", args[0])
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return fmt.Errorf("unknown command %q; did you mean %s?", args[0], strings.Join(near, " or "))
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// args requires exactly the named arguments.
func args(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, given []string) error {
		if len(given) < len(names) {
			return fmt.Errorf("missing %s", strings.Join(names[len(given):], " and "))
		}
		if len(given) > len(names) {
			return fmt.Errorf("unexpected argument %q", given[len(names)])
		}
		return nil
	}
}

// optional takes the named argument or none.
func optional(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if len(given) == 0 {
			return nil
		}
		return args(name)(cmd, given)
	}
}

// oneOf completes a flag and refuses any other value.
func oneOf(cmd *cobra.Command, target *string, name, value string, choices []string, usage string) {
	*target = value
	cmd.Flags().Var(&choice{target, choices}, name, usage+": "+strings.Join(choices, ", "))
	// The only error is a flag registered twice.
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp))
}

type choice struct {
	value   *string
	choices []string
}

func (f *choice) String() string { return *f.value }
func (f *choice) Type() string   { return "word" }

func (f *choice) Set(s string) error {
	if !slices.Contains(f.choices, s) {
		return fmt.Errorf("must be one of %s", strings.Join(f.choices, ", "))
	}
	*f.value = s
	return nil
}
