package events_test

import (
	"strings"
	"testing"

	"github.com/handover-dev/handover/events"
)

func TestFixturesParse(t *testing.T) {
	t.Parallel()
	for _, name := range events.FixtureTypes() {
		body, ok := events.Fixture(name)
		if !ok {
			t.Fatalf("no fixture %s", name)
		}
		ev, err := events.Parse(body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, ".minimal"), ".proposed"), ".inactive"); !strings.HasPrefix(base, ev.Type) && name != "unknown_future_type" && !strings.HasPrefix(name, "legacy") && !strings.HasPrefix(name, ev.Type) {
			t.Errorf("%s has type %s", name, ev.Type)
		}
		t.Log(name, ev.ID, ev.OrganizationID, ev.UserID(), ev.Subject())
	}
}
