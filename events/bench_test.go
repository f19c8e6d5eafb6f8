package events_test

import (
	"testing"

	"github.com/handover-dev/handover/events"
)

func BenchmarkParse(b *testing.B) {
	for _, name := range []string{"organization.deleted", "user.organization_membership_deleted", "user.organization_membership_deleted.minimal"} {
		body, ok := events.Fixture(name)
		if !ok {
			b.Fatal("no fixture", name)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := events.Parse(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkComplete(b *testing.B) {
	body := []byte(`{"type":"user.organization_membership_deleted","data":{"organization":{"id":"org_118200000000000202"},"user":{"id":"usr_118200000000001002"}}}`)
	d := events.Defaults{EnvironmentID: "env_118200000000000001"}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.Complete(body, d); err != nil {
			b.Fatal(err)
		}
	}
}
