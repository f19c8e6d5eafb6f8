package main

import (
	"strings"
	"testing"

	"github.com/handover-dev/handover/internal/api"
	"github.com/handover-dev/handover/internal/ingest/webhook/mapping"
)

// TestTheMappingInTheHelpWorks maps the event in the help by the mapping there.
func TestTheMappingInTheHelpWorks(t *testing.T) {
	t.Parallel()
	_, rest, ok := strings.Cut(mappingHelp, "For a sender of\n")
	event, rest, ok2 := strings.Cut(rest, "the mapping is\n")
	text, _, ok3 := strings.Cut(rest, "\"external_id\" may")
	if !ok || !ok2 || !ok3 {
		t.Fatal("the help has another form")
	}
	m, err := api.ReadSourceMapping([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Compile()
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Map([]byte(event), mapping.Origin{SourceID: "src_1", WebhookID: "msg_1", EnvironmentID: "env_1"})
	if err != nil || r.Meaning != mapping.Removal || r.Event.UserID() != "usr_7" || r.Event.OrganizationID != "org_northwind" {
		t.Errorf("%+v: %v", r, err)
	}
	for _, name := range []string{"external_id", "id"} {
		if !strings.Contains(mappingHelp, `"`+name+`"`) {
			t.Errorf("%s is not explained", name)
		}
	}
}
