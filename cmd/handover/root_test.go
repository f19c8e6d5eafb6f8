package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestVariables tells for each command that writes into the service which flags
// the environment may fill, and for the others that it may fill all.
func TestVariables(t *testing.T) {
	t.Parallel()
	connection := []string{"HANDOVER_JSON", "HANDOVER_URL"}
	listing := []string{"HANDOVER_JSON", "HANDOVER_LIMIT", "HANDOVER_URL"}
	want := map[string][]string{
		"handover organizations create": connection,
		"handover organizations list":   listing,
		"handover organizations get":    connection,
		"handover organizations delete": connection,
		"handover members list":         listing,
		"handover members add":          connection,
		"handover members get":          connection,
		"handover members remove":       connection,
		"handover sessions create":      connection,
		"handover sessions list":        {"HANDOVER_JSON", "HANDOVER_LIMIT", "HANDOVER_STATUS", "HANDOVER_URL"},
		"handover sessions revoke":      connection,
		"handover directories create":   connection,
		"handover directories list":     listing,
		"handover directories rotate":   connection,
		"handover clients create":       connection,
		"handover import":               connection,
		"handover reconcile":            connection,

		"handover endpoints create": connection,
		"handover endpoints update": connection,
		"handover endpoints rotate": connection,
		"handover sources create":   connection,
		"handover sources rotate":   connection,
		"handover sources update":   connection,
		"handover events publish":   connection,
		"handover trigger":          {"HANDOVER_JSON", "HANDOVER_LIST", "HANDOVER_PRINT", "HANDOVER_URL"},
		"handover replay":           {"HANDOVER_DETACH", "HANDOVER_DRY_RUN", "HANDOVER_JSON", "HANDOVER_RATE", "HANDOVER_URL"},
		"handover listen":           {"HANDOVER_BODY", "HANDOVER_FORWARD", "HANDOVER_JSON", "HANDOVER_URL"},
	}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		var all, bound []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			all = append(all, envName(f.Name))
			bound = append(bound, f.Annotations[variable]...)
			if shown := strings.Contains(f.Usage, "[$"); shown != (len(f.Annotations[variable]) > 0) {
				t.Errorf("%s: --%s and its help disagree about its variable", cmd.CommandPath(), f.Name)
			}
		})
		slices.Sort(all)
		slices.Sort(bound)
		wanted, ok := want[cmd.CommandPath()]
		if !ok {
			wanted = all
		}
		delete(want, cmd.CommandPath())
		if diff := cmp.Diff(wanted, bound); diff != "" {
			t.Errorf("%s: variables (-want +got):\n%s", cmd.CommandPath(), diff)
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk((&cli{}).root())
	if len(want) > 0 {
		t.Errorf("no such commands: %v", want)
	}
}
