package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// printJSON prints v on one line, with <, > and & as they are.
func (c *cli) printJSON(v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode JSON: %w", err)
	}
	_, err := c.out.Write(buf.Bytes())
	return err
}

// A table is printed with its columns aligned. Its cells may be styled.
type table struct {
	head []string
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) print(w io.Writer, s style) {
	rows := t.rows
	if t.head != nil {
		head := make([]string, len(t.head))
		for i, h := range t.head {
			head[i] = s.dim(h)
		}
		rows = append([][]string{head}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-width(cell)+2))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
}

// width counts what is seen of a cell: no escape sequences.
func width(cell string) int {
	n := 0
	for {
		before, after, found := strings.Cut(cell, "\x1b[")
		n += utf8.RuneCountInString(before)
		if !found {
			return n
		}
		_, cell, _ = strings.Cut(after, "m")
	}
}

// style colours text on a terminal and leaves it alone anywhere else.
type style bool

func (c *cli) style(w io.Writer) style {
	return style(isTerminal(w) && c.env("NO_COLOR") == "" && c.env("TERM") != "dumb")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func (s style) paint(code, text string) string {
	if !s || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) strong(text string) string { return s.paint("1", text) }
func (s style) dim(text string) string    { return s.paint("2", text) }
func (s style) good(text string) string   { return s.paint("32", text) }
func (s style) warn(text string) string   { return s.paint("33", text) }
func (s style) bad(text string) string    { return s.paint("31", text) }

// when shows a time as people read it: local, and how long ago.
func (c *cli) when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05") + " (" + relative(t, c.now()) + ")"
}

func relative(t, now time.Time) string {
	if d := t.Sub(now); d > 0 {
		return "in " + round(d)
	}
	return round(now.Sub(t)) + " ago"
}

// round gives a duration in its largest unit.
func round(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// took gives a short duration with two digits that matter.
func took(d time.Duration) string {
	switch {
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/1e6)
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}

// clean makes a stranger's text safe to print: one line, no control characters.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case !unicode.IsPrint(r):
			return '\uFFFD'
		}
		return r
	}, text)
}

// orDash keeps an empty cell visible.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// plural counts things in words: 1 event, 2 events.
func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// shorten cuts a text that is too long for a line.
func shorten(text string, limit int) string {
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit-1]) + "…"
	}
	return text
}

// cleanLines is clean for a text of several lines.
func cleanLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = clean(line)
	}
	return strings.Join(lines, "\n")
}

// state colours a state by whether it needs attention.
func (s style) state(state string) string {
	switch state {
	case "succeeded", "enabled", "done":
		return s.good(state)
	case "failed":
		return s.bad(state)
	case "pending", "sending", "held", "running", "disabled":
		return s.warn(state)
	}
	return s.dim(state)
}

// validity says how long a secret holds.
func (c *cli) validity(from, until time.Time) string {
	line := "since " + c.when(from)
	if !until.IsZero() {
		line += ", until " + c.when(until)
	}
	return line
}
