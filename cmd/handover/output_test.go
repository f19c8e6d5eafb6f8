package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestRelative(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 12, 9, 30, 0, 0, time.UTC)
	for _, tt := range []struct {
		at   time.Time
		want string
	}{
		{now, "0s ago"},
		{now.Add(-59 * time.Second), "59s ago"},
		{now.Add(-90 * time.Second), "1m ago"},
		{now.Add(-47 * time.Hour), "47h ago"},
		{now.AddDate(0, 0, -3), "3d ago"},
		{now.Add(5 * time.Minute), "in 5m"},
	} {
		if got := relative(tt.at, now); got != tt.want {
			t.Errorf("relative(%v) = %q, not %q", tt.at, got, tt.want)
		}
	}
}

func TestTableAlignsWhatIsSeen(t *testing.T) {
	t.Parallel()
	tab := table{head: []string{"NAME", "STATE", "NOTE"}}
	tab.add("Inès", style(true).bad("failed"), "")
	tab.add("Bartholomew", style(true).good("ok"), "x")
	var out bytes.Buffer
	tab.print(&out, false)
	want := "NAME         STATE   NOTE\nInès         \x1b[31mfailed\x1b[0m\nBartholomew  \x1b[32mok\x1b[0m      x\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}

// What a stranger wrote must not move the cursor or end the line.
func TestClean(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Inès\t<b>":        "Inès <b>",
		"a\r\nb":           "a  b",
		"\x1b[2Jgone":      "\uFFFD[2Jgone",
		"\u202Eright":      "\uFFFDright",
		"broken \xff utf8": "broken \uFFFD utf8",
	} {
		if got := clean(text); got != want {
			t.Errorf("clean(%q) = %q, not %q", text, got, want)
		}
	}
}

func TestMoment(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 6, 12, 9, 30, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2h":                        now.Add(-2 * time.Hour),
		"7d":                        now.AddDate(0, 0, -7),
		"2026-06-01T10:00:00+02:00": time.Date(2026, 6, 1, 8, 0, 0, 0, time.UTC),
		"2026-06-01":                time.Date(2026, 6, 1, 0, 0, 0, 0, time.Local),
	} {
		m := moment{now: func() time.Time { return now }}
		if err := m.Set(text); err != nil || !m.Equal(want) {
			t.Errorf("Set(%q) gives %v, %v, not %v", text, m.Time, err, want)
		}
	}
	for _, text := range []string{"", "-2h", "-1d", "soon", "2026-13-01"} {
		m := moment{now: func() time.Time { return now }}
		if err := m.Set(text); err == nil {
			t.Errorf("Set(%q) gives %v and no error", text, m.Time)
		}
	}
}

func TestSetPath(t *testing.T) {
	t.Parallel()
	doc := map[string]any{"list": []any{map[string]any{"a": 1}, 2}, "null": nil}
	for _, step := range []struct {
		path  []string
		value any
		ok    bool
	}{
		{[]string{"list", "0", "a"}, "changed", true},
		{[]string{"list", "1"}, "changed", true},
		{[]string{"null", "b"}, "made", true},
		{[]string{"list", "2"}, "beyond", false},
		{[]string{"list", "x"}, "no number", false},
		{[]string{"list", "1", "a"}, "through a string", false},
	} {
		if err := setPath(doc, step.path, step.value); (err == nil) != step.ok {
			t.Errorf("setPath(%v): error is %v", step.path, err)
		}
	}
	want := map[string]any{"list": []any{map[string]any{"a": "changed"}, "changed"}, "null": map[string]any{"b": "made"}}
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
}

// Where a server is told with nothing of its URL that may be a secret.
func TestWhere(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"": "",
		"postgres://bob:hunter2@db:5432/handover?sslpassword=hunter2#hunter2": "postgres://db:5432/handover",
		"postgresql://hunter2@db/x": "postgresql://db/x",
	} {
		if got, err := where(text, "--database-url", "postgres", "postgresql"); err != nil || got != want {
			t.Errorf("where(%q) = %q, %v, not %q", text, got, err, want)
		}
	}
	for _, text := range []string{"host=db password=hunter2", "redis://:hunter2@redis", "postgres://bob:hunter%2@db"} {
		got, err := where(text, "--database-url", "postgres", "postgresql")
		if err == nil || strings.Contains(got+err.Error(), "hunter") {
			t.Errorf("where(%q) = %q, %v", text, got, err)
		}
	}
}
