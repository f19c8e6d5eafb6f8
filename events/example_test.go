package events_test

import (
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/handover-dev/handover/events"
)

func ExampleParse() {
	body := []byte(`{"spec_version":"1","id":"evt_118200000000009002","type":"user.organization_membership_deleted","object":"OrgMembership",` +
		`"occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_118200000000000001",` +
		`"data":{"organization":{"id":"org_118200000000000202"},"user":{"id":"usr_118200000000001002"},"successor":{"email":"dana.rivers@example.com"}}}`)
	ev, err := events.Parse(body)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(ev.Type, ev.OccurredAt)
	fmt.Println(ev.Subject(), "left", ev.OrganizationID)

	removed, err := events.MembershipRemoved.Decode(ev)
	if err != nil {
		log.Fatal(err)
	}
	if removed.Successor != nil {
		fmt.Println("hand over to", removed.Successor.Email)
	}
	// Output:
	// user.organization_membership_deleted 2026-06-12 09:30:01 +0000 UTC
	// usr_118200000000001002 left org_118200000000000202
	// hand over to dana.rivers@example.com
}

func ExampleFieldError() {
	_, err := events.Parse([]byte(`{"spec_version":"1","id":"118200000000009002","type":"user.deleted","object":"User",` +
		`"occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_118200000000000001","data":{"user":{"id":"usr_118200000000001002"}}}`))
	fmt.Println(err)
	var field *events.FieldError
	if errors.As(err, &field) {
		fmt.Println(field.Field)
	}

	_, err = events.Parse([]byte(`{"id":"evt_1","id":"evt_2"}`))
	fmt.Println(err)
	fmt.Println(errors.Is(err, events.ErrInvalid))
	// Output:
	// invalid event: id has to begin with evt_
	// id
	// invalid event: at byte 14: a key is there twice
	// true
}

func ExampleNew() {
	ev, err := events.New(events.MembershipRemoved, events.Membership{
		Organization: events.Organization{ID: "org_118200000000000202"},
		User:         events.User{ID: "usr_118200000000001002"},
		Reason:       "api",
		Successor:    &events.Successor{UserID: "usr_118200000000001001"},
	}, events.Defaults{
		EnvironmentID: "env_118200000000000001",
		Now:           func() time.Time { return time.Date(2026, 6, 12, 9, 30, 1, 0, time.UTC) }, // leave these
		NewID:         func() string { return "evt_118200000000009002" },                         // two out
	}, "org_118200000000000202")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", ev.Body())
	// Output:
	// {"spec_version":"1","id":"evt_118200000000009002","type":"user.organization_membership_deleted","object":"OrgMembership","occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_118200000000000001","organization_id":"org_118200000000000202","data":{"organization":{"id":"org_118200000000000202"},"user":{"id":"usr_118200000000001002"},"reason":"api","successor":{"user_id":"usr_118200000000001001"}},"display_name":"User Organization Membership Deleted"}
}

func ExampleComplete() {
	ev, err := events.Complete([]byte(`{
		"id":   "evt_118200000000009100",
		"type": "document.archived",
		"object": "Document",
		"data": {"title": "Q&A"}
	}`), events.Defaults{
		EnvironmentID: "env_118200000000000001",
		Now:           func() time.Time { return time.Date(2026, 6, 12, 9, 30, 1, 0, time.UTC) },
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", ev.Body())
	// Output:
	// {"spec_version":"1","occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_118200000000000001","id":"evt_118200000000009100","type":"document.archived","object":"Document","data":{"title":"Q&A"}}
}

// Types without Go data of their own are read as they were sent, or into a type
// of yours.
func ExampleType() {
	type document struct {
		Title string `json:"title"`
	}
	archived := events.Type[document]{Name: "document.archived", Object: "Document"}
	ev, err := events.New(archived, document{Title: "Q&A"}, events.Defaults{EnvironmentID: "env_118200000000000001"}, "")
	if err != nil {
		log.Fatal(err)
	}
	doc, err := archived.Decode(ev)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(doc.Title)

	raw, err := events.Type[events.Raw]{Name: "document.archived"}.Decode(ev)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", raw)
	// Output:
	// Q&A
	// {"title":"Q&A"}
}

func ExampleFixture() {
	body, _ := events.Fixture("user.organization_membership_deleted.minimal")
	fmt.Printf("%s\n", body)
	// Output:
	// {"spec_version":"1","id":"evt_118200000000009002","type":"user.organization_membership_deleted","object":"OrgMembership","occurred_at":"2026-06-12T09:30:01Z","environment_id":"env_118200000000000001","data":{"organization":{"id":"org_118200000000000202"},"user":{"id":"usr_118200000000001002"}}}
}
