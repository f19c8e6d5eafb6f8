package handlers_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/handover-dev/handover/handlers"
)

func TestOutcomes(t *testing.T) {
	t.Parallel()
	june := time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)
	july := june.AddDate(0, 1, 0)
	receipt := func(status, message string, resources ...handlers.Resource) handlers.Receipt {
		return handlers.Receipt{Type: "receipt", Status: status, Resources: resources, Message: message}
	}
	for _, c := range []struct {
		name    string
		outcome handlers.Outcome
		want    handlers.Receipt
	}{
		{"zero", handlers.Outcome{}, handlers.Receipt{}},
		{"nothing combined", handlers.Done(), handlers.Receipt{}},
		{"transferred", handlers.Transferred("a", 2, "usr_1"), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Transferred: 2, To: "usr_1"})},
		{"none transferred", handlers.Transferred("a", 0, "usr_1"), receipt("completed", "", handlers.Resource{Type: "a"})},
		{"deleted", handlers.Deleted("a", 2), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Deleted: 2})},
		{"anonymized", handlers.Anonymized("a", 2), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Anonymized: 2})},
		{"revoked", handlers.Revoked("a", 2), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Revoked: 2})},
		{"skipped", handlers.Skipped("a", 2), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Skipped: 2})},
		{"retained", handlers.Retained("a", 2, "hold", june), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Retained: 2, RetainBasis: "hold", RetainUntil: &june})},
		{"retained without end", handlers.Retained("a", 2, "hold", time.Time{}), receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Retained: 2, RetainBasis: "hold"})},
		{"none retained", handlers.Retained("a", 0, "hold", june), receipt("completed", "", handlers.Resource{Type: "a"})},
		{"nothing to do", handlers.NothingToDo(), receipt("completed", "")},
		{"in progress", handlers.InProgress(), receipt("in_progress", "")},
		{"blocked", handlers.Blocked("who?"), receipt("blocked", "who?")},
		{"report", handlers.Report(receipt("failed", "no", handlers.Resource{Type: "a", Found: 1, Failed: 1})), receipt("failed", "no", handlers.Resource{Type: "a", Found: 1, Failed: 1})},
		{
			"types stay apart", handlers.Done(handlers.Transferred("a", 2, "usr_1"), handlers.Deleted("b", 1)),
			receipt("completed", "", handlers.Resource{Type: "a", Found: 2, Transferred: 2, To: "usr_1"}, handlers.Resource{Type: "b", Found: 1, Deleted: 1}),
		},
		{
			"one type is added up", handlers.Done(handlers.Transferred("a", 2, "usr_1"), handlers.Transferred("a", 3, "usr_2"), handlers.Transferred("a", 1, "usr_1"), handlers.Deleted("a", 1), handlers.Anonymized("a", 1), handlers.Revoked("a", 1), handlers.Skipped("a", 1)),
			receipt("completed", "", handlers.Resource{Type: "a", Found: 10, Transferred: 6, Deleted: 1, Anonymized: 1, Revoked: 1, Skipped: 1, To: "usr_1,usr_2"}),
		},
		{
			"later retention counts", handlers.Done(handlers.Deleted("a", 1), handlers.Retained("a", 1, "hold", june), handlers.Retained("a", 1, "tax", july), handlers.Retained("a", 1, "hold", june)),
			receipt("completed", "", handlers.Resource{Type: "a", Found: 4, Deleted: 1, Retained: 3, RetainBasis: "hold; tax", RetainUntil: &july}),
		},
		{
			"unknown retention is the latest", handlers.Done(handlers.Retained("a", 1, "hold", june), handlers.Retained("a", 1, "tax", time.Time{}), handlers.Retained("a", 1, "hold", july), handlers.Deleted("a", 1)),
			receipt("completed", "", handlers.Resource{Type: "a", Found: 4, Deleted: 1, Retained: 3, RetainBasis: "hold; tax"}),
		},
		{"nothing and something", handlers.Done(handlers.NothingToDo(), handlers.Outcome{}, handlers.Deleted("a", 1)), receipt("completed", "", handlers.Resource{Type: "a", Found: 1, Deleted: 1})},
		{"more to come", handlers.Done(handlers.InProgress(), handlers.Deleted("a", 1)), receipt("in_progress", "", handlers.Resource{Type: "a", Found: 1, Deleted: 1})},
		{"blocked in part", handlers.Done(handlers.Blocked("who?"), handlers.InProgress(), handlers.Blocked("which?")), receipt("blocked", "who?; which?")},
		{"failed over blocked", handlers.Done(handlers.Report(handlers.Receipt{Status: "failed"}), handlers.Blocked("who?")), receipt("failed", "who?")},
		{"unknown status is not hidden", handlers.Done(handlers.Report(handlers.Receipt{Status: "fine"}), handlers.Deleted("a", 1)), receipt("fine", "", handlers.Resource{Type: "a", Found: 1, Deleted: 1})},
	} {
		if diff := cmp.Diff(c.want, c.outcome.Receipt()); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

func TestDoneLeavesItsArgumentsAlone(t *testing.T) {
	t.Parallel()
	a := handlers.Done(handlers.Deleted("a", 1), handlers.Deleted("b", 1))
	_ = handlers.Done(a, handlers.Deleted("a", 5), handlers.Deleted("c", 1))
	if diff := cmp.Diff([]handlers.Resource{{Type: "a", Found: 1, Deleted: 1}, {Type: "b", Found: 1, Deleted: 1}}, a.Receipt().Resources); diff != "" {
		t.Error(diff)
	}
}
