// Command bench measures how fast events get from their publisher to the apps,
// what that costs, and whether any are lost. It starts the service, a receiver
// and a load generator as processes of their own, and measures in the same run
// what a bare client reaches against the same receiver: the ceiling. Rates are
// best compared as ratios to it.
//
//	bench                                 the embedded database
//	bench -store postgres                 PostgreSQL and Redis, started for the occasion, fsync on
//	bench -database-url … -redis-url …    your own servers
//	bench -only flood,light -runs 3 -json
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	Store       string
	DatabaseURL string
	RedisURL    string
	Only        []string
	Runs        int
	Events      int
	History     int
	Members     int
	Rate        float64
	For         time.Duration
	JSON        bool
	Results     string
	SVG         string
	Binary      string
	Profile     string
	Verbose     bool
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "receiver":
			return receive(ctx)
		case "generator":
			return generate(ctx)
		}
	}
	var o options
	var only string
	f := flag.NewFlagSet("bench", flag.ExitOnError)
	f.StringVar(&o.Store, "store", "sqlite", "sqlite, or postgres: with Redis, both started here")
	f.StringVar(&o.DatabaseURL, "database-url", "", "a PostgreSQL of your own; its tables are dropped between scenarios")
	f.StringVar(&o.RedisURL, "redis-url", "", "a Redis of your own")
	f.StringVar(&only, "only", "", "scenarios, separated by commas: "+strings.Join(scenarioNames(), ", "))
	f.IntVar(&o.Runs, "runs", 1, "how often to run each; medians are shown")
	f.IntVar(&o.Events, "events", 20000, "events in a flood")
	f.IntVar(&o.History, "history", 1000000, "delivered events in the database before the long-history flood; a fifth of them before the retention flood")
	f.IntVar(&o.Members, "members", 1000000, "memberships in the database before people leave, 100 in an organization")
	f.Float64Var(&o.Rate, "rate", 2000, "events a second of the soak, which runs only when named with -only")
	f.DurationVar(&o.For, "for", 30*time.Minute, "how long to soak")
	f.BoolVar(&o.JSON, "json", false, "print JSON")
	f.StringVar(&o.Results, "results", "", "write the table as Markdown to this file, appending a section")
	f.StringVar(&o.SVG, "svg", "", "write pictures of the first run to this directory")
	f.StringVar(&o.Binary, "binary", "", "the handover program to measure; default: built from this checkout")
	f.StringVar(&o.Profile, "profile", "", "write the service's CPU profile of each scenario to this directory")
	f.BoolVar(&o.Verbose, "v", false, "show what the service says")
	if err := f.Parse(args); err != nil {
		return err
	}
	if only != "" {
		o.Only = strings.Split(only, ",")
		for _, name := range o.Only {
			if !slices.Contains(scenarioNames(), name) {
				return fmt.Errorf("there is no scenario %s; there are %s", name, strings.Join(scenarioNames(), ", "))
			}
		}
	}
	if o.DatabaseURL != "" {
		o.Store = "postgres"
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer b.close()
	var all []result
	for i := range o.Runs {
		results, err := b.runAll(ctx, i)
		all = append(all, results...)
		if err != nil {
			return err
		}
	}
	report := summarize(b.about(ctx), all)
	if o.JSON {
		enc := json.NewEncoder(os.Stdout)
		enc.SetIndent("", "  ")
		if err := enc.Encode(report); err != nil {
			return err
		}
	} else {
		fmt.Print(report.table())
	}
	if o.Results != "" {
		if err := report.write(o.Results); err != nil {
			return err
		}
	}
	if o.SVG != "" {
		if err := report.draw(o.SVG, all); err != nil {
			return err
		}
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
