package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/app"
)

// secretEnv explains the variables that are no flags, because secrets are not
// for command lines.
const secretEnv = `
Environment without a flag, for secrets:
  HANDOVER_MASTER_KEY  32 bytes in base64 that encrypt the secrets in the
                       database; default: master.key in the data directory,
                       created at the first start`

// minAPIKey is the length of the shortest API key that is not there to be
// guessed.
const minAPIKey = 24

type serveCommand struct {
	*cli
	config              app.Config
	logFormat, logLevel string
}

func (c *cli) serveCommand() *cobra.Command {
	s := serveCommand{cli: c}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the service",
		Long: `Run the service: take events, send them to the endpoints that want them, and
retry until they are handed over.

Without flags it keeps everything in a SQLite file and needs nothing else. With
--database-url and --redis-url several processes share the work. The first start
creates an API key and shows it once.

Events are sent to public addresses only; --allow-network adds others.
The first SIGINT or SIGTERM finishes what is in flight, a second one kills.
` + secretEnv + `
  HANDOVER_API_KEY     API key to accept, instead of creating one; at least 24
                       characters`,
		Example: `  handover serve
  handover serve --allow-network 127.0.0.0/8          # for apps on this machine
  handover serve --addr :8080 --log-format json \
    --database-url postgres://handover@db/handover --redis-url redis://redis:6379`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	f := cmd.Flags()
	f.StringVar(&s.config.Addr, "addr", "127.0.0.1:8080", "address to listen on")
	s.databaseFlags(cmd, &s.config)
	f.StringVar(&s.config.RedisURL, "redis-url", "", "redis://… or rediss://…: carry events through Redis Streams")
	f.Var((*prefixes)(&s.config.AllowNetworks), "allow-network", "network to send to besides public ones, such as 10.0.0.0/8 (repeatable)")
	f.StringVar(&s.config.EnvironmentID, "environment-id", app.DefaultEnvironmentID, "environment of published events that name none")
	f.StringVar(&s.config.DebugAddr, "debug-addr", "", "address for Go's profiler, for yourself alone (default off)")
	oneOf(cmd, &s.logFormat, "log-format", "text", []string{"text", "json"}, "how to log, on stderr")
	oneOf(cmd, &s.logLevel, "log-level", "info", []string{"debug", "info", "warn", "error"}, "what to log")
	f.Var((*prefixes)(&s.config.Proxies), "trusted-proxy", "network of proxies whose X-Forwarded-For is believed, such as 10.0.0.0/8 (repeatable)")
	f.StringVar(&s.config.PublicURL, "public-url", "", "https://… where clients reach this service, for links to itself (default where they ask)")
	f.StringVar(&s.config.TLSCert, "tls-cert", "", "file of the certificate chain to serve TLS with, in PEM (default no TLS)")
	f.StringVar(&s.config.TLSKey, "tls-key", "", "file of the certificate's key, in PEM")
	cmd.MarkFlagsRequiredTogether("tls-cert", "tls-key")
	f.Float64Var(&s.config.ClientRate, "client-rate", app.DefaultClientRate, "requests a second of one API client or directory")
	s.config.Retention = app.DefaultRetention
	f.Var((*retention)(&s.config.Retention), "retention", "how long to keep events that were handed over, such as 30d, at least 1d; or forever")
	f.DurationVar(&s.config.ShutdownGrace, "shutdown-grace", 20*time.Second, "time to finish what is in flight when asked to stop")
	return cmd
}

// databaseFlags adds the flags that say where the truth is kept.
func (c *cli) databaseFlags(cmd *cobra.Command, config *app.Config) {
	cmd.Flags().StringVar(&config.DataDir, "data-dir", "handover-data", "directory of the SQLite file and the master key")
	cmd.Flags().StringVar(&config.DatabaseURL, "database-url", "", "postgres://…: keep everything in PostgreSQL")
}

func (s *serveCommand) run(cmd *cobra.Command) error {
	database, err := where(s.config.DatabaseURL, "--database-url", "postgres", "postgresql")
	if err != nil {
		return err
	}
	redis, err := where(s.config.RedisURL, "--redis-url", "redis", "rediss")
	if err != nil {
		return err
	}
	if database == "" {
		database = "SQLite in " + s.config.DataDir
	}
	if redis == "" {
		redis = "in process"
	}
	s.config.APIKey = s.env("HANDOVER_API_KEY")
	if n := len(s.config.APIKey); n > 0 && n < minAPIKey {
		return hinted{usagef("HANDOVER_API_KEY is shorter than %d characters", minAPIKey), "make one: export HANDOVER_API_KEY=hk_$(openssl rand -hex 32)"}
	}
	s.config.MasterKey = s.env("HANDOVER_MASTER_KEY")
	s.config.Version = thisBuild().Version
	s.config.Log = logger(s.err, s.logFormat, s.logLevel)
	s.config.OnReady = func(r app.Ready) {
		st := s.style(s.out)
		if r.NewAPIKey != "" {
			fmt.Fprintf(s.out, "API key, shown this once; keep it:\n\n  export HANDOVER_API_KEY=%s\n\n", st.strong(r.NewAPIKey))
		}
		fmt.Fprintf(s.out, "handover listens on %s\n", st.strong(r.URL))
		t := table{}
		t.add("  database", database)
		t.add("  stream", redis)
		t.print(s.out, st)
	}
	if os.Getenv("GOGC") == "" {
		// Little is held and much passes through: collecting less often saves a
		// twentieth of the processor, as long as memory stays small.
		debug.SetGCPercent(400)
		if os.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(96 << 20)
		}
	}
	err = app.Run(cmd.Context(), s.config)
	if errors.Is(err, context.Canceled) {
		return nil // asked to stop before it had started
	}
	return err
}

// where names a server by its URL, without user, password and options. It is
// empty for an empty URL.
func where(text, flag string, schemes ...string) (string, error) {
	if text == "" {
		return "", nil
	}
	u, err := url.Parse(text)
	if err != nil || !slices.Contains(schemes, u.Scheme) {
		return "", usagef("%s: must be a URL that starts with %s://", flag, schemes[0])
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(), nil
}

func logger(w io.Writer, format, level string) *slog.Logger {
	var o slog.HandlerOptions
	var l slog.Level
	if l.UnmarshalText([]byte(level)) == nil {
		o.Level = l
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &o))
	}
	return slog.New(slog.NewTextHandler(w, &o))
}

// prefixes is a flag that holds networks, given several times or with commas.
type prefixes []netip.Prefix

func (p *prefixes) Type() string { return "CIDR" }

func (p *prefixes) String() string {
	words := make([]string, len(*p))
	for i, prefix := range *p {
		words[i] = prefix.String()
	}
	return strings.Join(words, ",")
}

func (p *prefixes) Set(text string) error {
	for word := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(word))
		if err != nil {
			return fmt.Errorf("%q is no network; write it like 10.0.0.0/8", word)
		}
		*p = append(*p, prefix.Masked())
	}
	return nil
}

// retention is a flag that holds an age in days or as a Go duration; negative is
// for ever.
type retention time.Duration

const day = 24 * time.Hour

func (r *retention) Type() string { return "age" }

func (r *retention) String() string {
	switch d := time.Duration(*r); {
	case d < 0:
		return "forever"
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	default:
		return d.String()
	}
}

func (r *retention) Set(text string) error {
	if text == "forever" {
		*r = -1
		return nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		if n < 0 || n > int(math.MaxInt64/day) {
			err = strconv.ErrRange
		}
		d = time.Duration(n) * day
	}
	if err != nil || d < day {
		return fmt.Errorf("%q is no age of at least 1d; write it like 90d or 2160h, or forever", text)
	}
	*r = retention(d)
	return nil
}
