package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/internal/app"
)

type triggerCommand struct {
	*cli
	organization, user string
	set                []string
	list, print        bool
}

func (c *cli) triggerCommand() *cobra.Command {
	t := triggerCommand{cli: c}
	cmd := &cobra.Command{
		Use:   "trigger TYPE",
		Short: "Publish an example event",
		Long: `Publish an example of an event, with a fresh id and the present time, and print
its id. --list shows the types. The service names the environment.

--set changes what is in it: a dotted path into the JSON, and a value that is
JSON or else a string. Missing objects are made; a number counts in an array.`,
		Example: `  handover trigger user.organization_membership_deleted
  handover trigger user.deleted --user usr_118200000000001002
  handover trigger user.organization_membership_deleted \
    --set data.successor.user_id=usr_118200000000001007 --set data.reason=scim`,
		Args: func(cmd *cobra.Command, given []string) error {
			if t.list {
				return noArgs(cmd, given)
			}
			return args("TYPE (--list shows them)")(cmd, given)
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return exampleTypes(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if t.list {
				return t.types()
			}
			return t.run(cmd, args[0])
		},
	}
	f := cmd.Flags()
	f.StringVar(&t.organization, "organization", "", "organization it happens in: org_…")
	f.StringVar(&t.user, "user", "", "user it is about: usr_…")
	f.StringArrayVar(&t.set, "set", nil, "path=value, such as data.reason=scim (repeatable)")
	typedOnly(f)
	f.BoolVar(&t.list, "list", false, "list the types and publish nothing")
	f.BoolVar(&t.print, "print", false, "print the event and publish nothing")
	c.clientFlags(cmd)
	return cmd
}

// exampleTypes are the types that there are examples of, without those that no
// identity provider sends: one that is made up, and one that has another name
// by now. They can be triggered all the same.
func exampleTypes() []string {
	return slices.DeleteFunc(events.FixtureTypes(), func(name string) bool {
		return name == "user.some_future_event" || name == "scalekit.dir.user.delete"
	})
}

func (t *triggerCommand) types() error {
	rows := table{head: []string{"TYPE", "OBJECT", "ORGANIZATION", "USER"}}
	for _, name := range exampleTypes() {
		body, _ := events.Fixture(name)
		e, err := events.Parse(body)
		if err != nil {
			return fmt.Errorf("read fixture %s: %w", name, err)
		}
		if t.json {
			if err := t.printJSON(map[string]string{"type": e.Type, "object": e.Object, "organization_id": e.OrganizationID, "user_id": e.UserID()}); err != nil {
				return err
			}
		}
		rows.add(e.Type, e.Object, orDash(e.OrganizationID), orDash(e.UserID()))
	}
	if !t.json {
		rows.print(t.out, t.style(t.out))
	}
	return nil
}

func (t *triggerCommand) run(cmd *cobra.Command, name string) error {
	body, ok := events.Fixture(name)
	if !ok {
		return hinted{usagef("no example of %q", name), "`handover trigger --list` shows the types; `handover events publish` takes any event"}
	}
	body, err := t.fill(body)
	if err != nil {
		return err
	}
	// The example is good, so that what is wrong now was asked for.
	if _, err := events.Complete(body, events.Defaults{EnvironmentID: app.DefaultEnvironmentID}); err != nil {
		return usagef("build event: %w", err)
	}
	if t.print {
		_, err := fmt.Fprintf(t.out, "%s\n", body)
		return err
	}
	published, err := t.client().PublishEvent(cmd.Context(), body, "")
	if err != nil {
		return err
	}
	if t.json {
		return t.printJSON(published)
	}
	_, err = fmt.Fprintln(t.out, published.ID)
	return err
}

// fill makes a new event of an example.
func (t *triggerCommand) fill(body []byte) ([]byte, error) {
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil {
		return nil, fmt.Errorf("read fixture: %w", err)
	}
	doc["id"] = events.NewID()
	delete(doc, "environment_id") // of the example; the service has its own
	doc["occurred_at"] = t.now().UTC().Format(time.RFC3339Nano)
	data, _ := doc["data"].(map[string]any)
	if t.organization != "" {
		doc["organization_id"] = t.organization
		if organization, ok := data["organization"].(map[string]any); ok {
			organization["id"] = t.organization
		}
		if _, ok := data["organization_id"]; ok {
			data["organization_id"] = t.organization
		}
		if doc["object"] == "Organization" {
			data["id"] = t.organization
		}
	}
	if t.user != "" {
		user, ok := data["user"].(map[string]any)
		if !ok {
			return nil, usagef("%v is about no user; change it with --set", doc["type"])
		}
		user["id"] = t.user
	}
	for _, s := range t.set {
		path, text, ok := strings.Cut(s, "=")
		if !ok || path == "" {
			return nil, usagef("--set %s: must be path=value", s)
		}
		if err := setPath(doc, strings.Split(path, "."), parseValue(text)); err != nil {
			return nil, usagef("--set %s: %w", s, err)
		}
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(doc); err != nil {
		return nil, fmt.Errorf("encode event: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}

// parseValue takes JSON for what it is and anything else for a string.
func parseValue(text string) any {
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil || dec.More() {
		return text
	}
	return v
}

func setPath(at any, path []string, value any) error {
	key, rest := path[0], path[1:]
	switch at := at.(type) {
	case map[string]any:
		if len(rest) == 0 {
			at[key] = value
			return nil
		}
		if at[key] == nil {
			at[key] = map[string]any{}
		}
		return setPath(at[key], rest, value)
	case []any:
		i, err := strconv.Atoi(key)
		if err != nil || i < 0 || i >= len(at) {
			return fmt.Errorf("%q is no place in an array of %d", key, len(at))
		}
		if len(rest) == 0 {
			at[i] = value
			return nil
		}
		return setPath(at[i], rest, value)
	}
	return errors.New("the path goes through something that is neither object nor array")
}
