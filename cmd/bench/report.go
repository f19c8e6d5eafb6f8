package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// result is what one scenario showed in one run.
type result struct {
	Scenario    string  `json:"scenario"`
	What        string  `json:"what"`
	Store       string  `json:"store"`
	Run         int     `json:"run"`
	Ceiling     float64 `json:"ceiling_per_s"`
	Accepted    int     `json:"accepted"`
	Delivered   int     `json:"delivered"`
	Lost        int     `json:"lost"`
	Duplicates  int     `json:"duplicates"`
	Seconds     float64 `json:"seconds"`
	Rate        float64 `json:"deliveries_per_s"`
	Ratio       float64 `json:"ratio_to_ceiling"`
	P50         float64 `json:"p50_ms"`
	P99         float64 `json:"p99_ms"`
	Max         float64 `json:"max_ms"`
	CPUService  float64 `json:"cpu_service_us"`
	CPUDatabase float64 `json:"cpu_database_us"`
	CPURedis    float64 `json:"cpu_redis_us"`
	CPUReceiver float64 `json:"cpu_receiver_us"`
	PeakRSS     float64 `json:"peak_rss_mib"`
	Note        string  `json:"note,omitempty"`

	samples []sample
	begin   time.Time
}

func (r *result) percentiles(string) {
	if len(r.samples) == 0 {
		return
	}
	all := make([]float64, len(r.samples))
	for i, s := range r.samples {
		all[i] = float64(s.Latency)
	}
	slices.Sort(all)
	r.P50, r.P99, r.Max = quantile(all, 0.5), quantile(all, 0.99), all[len(all)-1]
}

// quantile reads sorted values.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func (r *result) line() string {
	return fmt.Sprintf("%-15s %6.0f/s  %.3f of the ceiling  p50 %.1f p99 %.1f max %.0f ms  CPU %.0f + %.0f + %.0f µs  %.0f MiB  lost %d, twice %d  %s",
		r.Scenario, r.Rate, r.Ratio, r.P50, r.P99, r.Max, r.CPUService, r.CPUDatabase, r.CPURedis, r.PeakRSS, r.Lost, r.Duplicates, r.Note)
}

// report is the medians of all runs.
type report struct {
	About   about    `json:"about"`
	Results []result `json:"results"`
}

// about says on what it was measured.
type about struct {
	Date     string `json:"date"`
	Commit   string `json:"commit"`
	Machine  string `json:"machine"`
	Versions string `json:"versions"`
	Durable  string `json:"durability"`
	Store    string `json:"store"`
	Runs     int    `json:"runs"`
}

func (b *bench) about(ctx context.Context) about {
	a := about{
		Date: time.Now().UTC().Format("2006-01-02"), Store: b.Store, Runs: b.Runs, Commit: commit(ctx),
		Machine: fmt.Sprintf("%d cores (%s), %s", runtime.NumCPU(), cpuModel(), memory()),
	}
	a.Versions = runtime.Version()
	switch b.Store {
	case "postgres":
		a.Versions += ", " + b.postgresSays(ctx, `SHOW server_version`, "PostgreSQL ") + ", " + redisVersion(ctx)
		a.Durable = b.postgresSays(ctx, `SHOW fsync`, "PostgreSQL fsync ") + b.postgresSays(ctx, `SHOW synchronous_commit`, ", synchronous_commit ") +
			b.postgresSays(ctx, `SHOW full_page_writes`, ", full_page_writes ") + "; Redis without AOF: it is transport only"
	default:
		a.Versions += ", SQLite " + moduleVersion("modernc.org/sqlite")
		a.Durable = "SQLite WAL, synchronous FULL"
	}
	return a
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

func cpuModel() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	raw, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return "memory unknown"
	}
	var kb float64
	if _, err := fmt.Sscanf(string(raw), "MemTotal: %f kB", &kb); err != nil {
		return "memory unknown"
	}
	return fmt.Sprintf("%.0f GiB", kb/1024/1024)
}

func moduleVersion(path string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, d := range info.Deps {
		if d.Path == path {
			return "(" + path + " " + d.Version + ")"
		}
	}
	return ""
}

func (b *bench) postgresSays(ctx context.Context, query, label string) string {
	db, err := sql.Open("pgx", b.DatabaseURL)
	if err != nil {
		return ""
	}
	defer db.Close()
	var answer string
	if err := db.QueryRowContext(ctx, query).Scan(&answer); err != nil {
		return ""
	}
	return label + answer
}

func redisVersion(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "redis-server", "--version").Output()
	if err != nil {
		return "Redis"
	}
	for f := range strings.FieldsSeq(string(out)) {
		if v, ok := strings.CutPrefix(f, "v="); ok {
			return "Redis " + v
		}
	}
	return "Redis"
}

// summarize takes the median of each figure over the runs; of what was lost or
// came twice, the most.
func summarize(a about, all []result) report {
	r := report{About: a}
	for _, name := range scenarioNames() {
		var runs []result
		for _, one := range all {
			if one.Scenario == name {
				runs = append(runs, one)
			}
		}
		if len(runs) == 0 {
			continue
		}
		m := runs[0]
		median := func(field func(*result) *float64) {
			values := make([]float64, len(runs))
			for i := range runs {
				values[i] = *field(&runs[i])
			}
			slices.Sort(values)
			*field(&m) = values[len(values)/2]
		}
		for _, field := range []func(*result) *float64{
			func(r *result) *float64 { return &r.Ceiling }, func(r *result) *float64 { return &r.Rate }, func(r *result) *float64 { return &r.Ratio },
			func(r *result) *float64 { return &r.Seconds }, func(r *result) *float64 { return &r.P50 }, func(r *result) *float64 { return &r.P99 },
			func(r *result) *float64 { return &r.Max }, func(r *result) *float64 { return &r.CPUService }, func(r *result) *float64 { return &r.CPUDatabase },
			func(r *result) *float64 { return &r.CPURedis }, func(r *result) *float64 { return &r.CPUReceiver }, func(r *result) *float64 { return &r.PeakRSS },
		} {
			median(field)
		}
		m.Lost = slices.MaxFunc(runs, func(x, y result) int { return cmp.Compare(x.Lost, y.Lost) }).Lost
		m.Duplicates = slices.MaxFunc(runs, func(x, y result) int { return cmp.Compare(x.Duplicates, y.Duplicates) }).Duplicates
		r.Results = append(r.Results, m)
	}
	return r
}

var columns = []string{
	"scenario", "deliveries/s", "of the ceiling", "p50 ms", "p99 ms", "max ms", "lost", "twice",
	"CPU µs: service", "database", "redis", "receiver", "peak MiB",
}

func (r result) cells() []string {
	f := func(format string, v float64) string { return fmt.Sprintf(format, v) }
	ratio := f("%.3f", r.Ratio)
	if r.Delivered == 0 {
		ratio = "–"
	}
	return []string{
		r.Scenario, f("%.0f", r.Rate), ratio, f("%.1f", r.P50), f("%.1f", r.P99), f("%.0f", r.Max),
		fmt.Sprint(r.Lost), fmt.Sprint(r.Duplicates), f("%.0f", r.CPUService), f("%.0f", r.CPUDatabase), f("%.0f", r.CPURedis), f("%.0f", r.CPUReceiver),
		f("%.0f", r.PeakRSS),
	}
}

func (r report) table() string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s, commit %s, %s, %s; %s; medians of %d\n", r.About.Store, r.About.Commit, r.About.Machine, r.About.Versions, r.About.Durable, r.About.Runs)
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, strings.Join(columns, "\t")+"\t")
	for _, one := range r.Results {
		fmt.Fprintln(w, strings.Join(one.cells(), "\t")+"\t")
	}
	_ = w.Flush()
	for _, one := range r.Results {
		if one.Note != "" {
			fmt.Fprintf(&b, "%s: %s\n", one.Scenario, one.Note)
		}
	}
	return b.String()
}

// write appends the table to a file, as Markdown.
func (r report) write(path string) error {
	var b bytes.Buffer
	if _, err := os.Stat(path); err != nil {
		b.WriteString("# Results\n\nWritten by `make bench`. The ceiling is what a bare signing client reaches against the same receiver in the same run;\n" +
			"everything shares the machine. What each scenario does stands in `scenarios.go`, where the time goes in `NOTES.md`.\n")
	}
	ceiling := 0.0
	if len(r.Results) > 0 {
		ceiling = r.Results[0].Ceiling
	}
	fmt.Fprintf(&b, "\n## %s\n\n%s · commit %s · %s · %s · %s · medians of %d runs · ceiling %.0f/s\n\n",
		map[string]string{"sqlite": "Embedded: SQLite, stream inside the process", "postgres": "PostgreSQL and Redis"}[r.About.Store],
		r.About.Date, r.About.Commit, r.About.Machine, r.About.Versions, r.About.Durable, r.About.Runs, ceiling)
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
	for _, one := range r.Results {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(one.cells(), " | "))
	}
	b.WriteString("\n")
	for _, one := range r.Results {
		if one.Note != "" {
			fmt.Fprintf(&b, "%s: %s.\n", one.Scenario, one.Note)
		}
	}
	f, err := os.OpenFile(filepath.Clean(path), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b.Bytes()); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
