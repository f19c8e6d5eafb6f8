package main

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A moment is a flag that holds a time: how long ago, or when.
type moment struct {
	time.Time
	now func() time.Time
}

func (m *moment) Type() string { return "time" }

func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return m.Format(time.RFC3339)
}

func (m *moment) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			m.Time = m.now().AddDate(0, 0, -n)
			return nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		m.Time = m.now().Add(-d)
		return nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			m.Time = t
			return nil
		}
	}
	return errors.New("must be how long ago (30m, 2h, 7d) or a time (2026-06-12T09:30:00Z)")
}

// span adds --since and --until.
func (c *cli) span(cmd *cobra.Command, since, until *moment, what string) {
	since.now, until.now = c.now, c.now
	cmd.Flags().Var(since, "since", what+" since then: 2h, 7d or 2026-06-12T09:30:00Z")
	cmd.Flags().Var(until, "until", what+" before then")
}
