package main

import (
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/spf13/cobra"
)

// A lister prints a list as a table, or as JSON lines.
type lister[T any] struct {
	head  []string
	row   func(T, style) []string
	empty string // what to do next when there is nothing
	limit int    // 0: none
}

func (l lister[T]) print(c *cli, items iter.Seq2[T, error]) error {
	s := c.style(c.out)
	t := table{head: l.head}
	n, more := 0, false
	for item, err := range items {
		if err != nil {
			return err
		}
		if more = n > 0 && n == l.limit; more {
			break
		}
		n++
		if !c.json {
			t.add(l.row(item, s)...)
		} else if err := c.printJSON(item); err != nil {
			return err
		}
	}
	switch {
	case c.json:
	case n == 0:
		fmt.Fprintln(c.err, l.empty)
	default:
		t.print(c.out, s)
	}
	if more {
		fmt.Fprintf(c.err, "There are more than these %d: --limit all shows them.\n", n)
	}
	return nil
}

// limitFlag adds --limit.
func limitFlag(cmd *cobra.Command, limit *int) {
	*limit = 50
	cmd.Flags().Var((*atMost)(limit), "limit", "show at most so many, or all")
}

// atMost is a flag that holds a number of things, or 0 for all.
type atMost int

func (n *atMost) Type() string { return "number" }

func (n *atMost) String() string {
	if *n == 0 {
		return "all"
	}
	return strconv.Itoa(int(*n))
}

func (n *atMost) Set(text string) error {
	if text == "all" {
		*n = 0
		return nil
	}
	i, err := strconv.Atoi(text)
	if err != nil || i < 1 {
		return errors.New("must be 1 or more, or all")
	}
	*n = atMost(i)
	return nil
}

// changed says what a command did: the line, or the thing in JSON.
func (c *cli) changed(err error, thing any, line string) error {
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(thing)
	}
	_, err = fmt.Fprintln(c.out, line)
	return err
}
