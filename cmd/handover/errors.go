package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

// A usageError says that the command line made no sense. Exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// A hinted error knows what to do about it.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }
func (e hinted) Hint() string  { return e.hint }

// errQuiet fails a command that has already said why.
var errQuiet = errors.New("failed")

// report tells the user what went wrong and what to do about it, and returns
// the exit code.
func (c *cli) report(command string, err error) int {
	if errors.Is(err, errQuiet) {
		return 1
	}
	code := 1
	if errors.As(err, new(usageError)) {
		code = 2
	}
	hint := c.hint(command, err)
	switch {
	case errors.Is(err, context.Canceled):
		err = errors.New("interrupted")
	case unauthorized(err) && c.env("HANDOVER_API_KEY") == "":
		err = errors.New("HANDOVER_API_KEY is not set")
	}
	s := c.style(c.err)
	fmt.Fprintf(c.err, "handover: %s %v\n", s.bad("error:"), err)
	if hint != "" {
		fmt.Fprintf(c.err, "handover: %s %s\n", s.strong("hint:"), hint)
	}
	return code
}

// hint says what to do about an error, where there is something.
func (c *cli) hint(command string, err error) string {
	var own interface{ Hint() string }
	var connect *api.ConnectError
	switch {
	case errors.As(err, &own):
		return own.Hint()
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, new(usageError)):
		return fmt.Sprintf("see `%s -h`", command)
	case errors.As(err, &connect):
		return fmt.Sprintf("is `handover serve` running at %s? set HANDOVER_URL", connect.URL)
	case unauthorized(err):
		return "set HANDOVER_API_KEY to the key that `handover serve` showed at its first start"
	}
	return ""
}

func unauthorized(err error) bool {
	var answer *api.Error
	return errors.As(err, &answer) && answer.Status == http.StatusUnauthorized
}

// client talks to the service that the flags and the environment name.
func (c *cli) client() *api.Client {
	return &api.Client{BaseURL: c.url, Key: c.env("HANDOVER_API_KEY")}
}

// clientFlags adds what every command has that talks to a service.
func (c *cli) clientFlags(cmd *cobra.Command) {
	c.jsonFlag(cmd)
	cmd.Flags().StringVar(&c.url, "url", api.DefaultURL, "where the service is")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if u, err := url.Parse(c.url); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return errors.New("--url and HANDOVER_URL must look like " + api.DefaultURL)
		}
		return nil
	}
}
