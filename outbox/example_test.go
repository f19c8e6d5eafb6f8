package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"os"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/outbox"
)

// remove is the README's use of the outbox, word for word.
func remove(ctx context.Context, db *sql.DB, organization, person string, removed events.Event) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after a commit it does nothing
	if _, err := tx.ExecContext(ctx, `DELETE FROM member WHERE organization = $1 AND person = $2`, organization, person); err != nil {
		return err
	}
	if _, err := outbox.Append(ctx, tx, removed); err != nil {
		return err
	}
	return tx.Commit()
}

// A program removes a member and says so, both or neither; a relay takes the
// event to a Watermill publisher.
func Example() {
	ctx := context.Background()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // each connection to :memory: is a database of its own
	if err := outbox.Migrate(ctx, db, outbox.SQLite); err != nil {
		log.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, `CREATE TABLE member (organization TEXT, person TEXT);
INSERT INTO member VALUES ('org_118200000000000101', 'usr_118200000000001001')`); err != nil {
		log.Fatal(err)
	}

	removed, err := events.New(events.MembershipRemoved, events.Membership{
		Organization: events.Organization{ID: "org_118200000000000101"},
		User:         events.User{ID: "usr_118200000000001001"},
		Reason:       "api",
	}, events.Defaults{EnvironmentID: "env_118200000000000001"}, "org_118200000000000101")
	if err != nil {
		log.Fatal(err)
	}
	if err := remove(ctx, db, "org_118200000000000101", "usr_118200000000001001", removed); err != nil {
		log.Fatal(err)
	}

	relay := outbox.Relay{DB: db, Dialect: outbox.SQLite, Publisher: printer{}} // in life: go relay.Run(ctx)
	if _, err := relay.Flush(ctx); err != nil {
		log.Fatal(err)
	}
	n, err := relay.Flush(ctx)
	fmt.Println(n, "left", err)
	// Output:
	// handover.events: user.organization_membership_deleted about usr_118200000000001001
	// 0 left <nil>
}

// printer is a Watermill publisher that prints.
type printer struct{}

func (printer) Publish(topic string, msgs ...*message.Message) error {
	for _, m := range msgs {
		fmt.Printf("%s: %s about %s\n", topic, m.Metadata.Get(outbox.MetadataType), m.Metadata.Get(outbox.MetadataSubject))
	}
	return nil
}

func (printer) Close() error { return nil }

func TestReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(source), "removed events.Event) error {\n")
	code, _, _ = strings.Cut(code, "\n}\n")
	code = strings.ReplaceAll(code, " //nolint:errcheck // after a commit it does nothing", "")
	if code = strings.ReplaceAll("\n"+code, "\n\t", "\n"); !strings.Contains(string(readme), "```go"+code+"\n```") {
		t.Errorf("the README shows something else than this:\n%s", code)
	}
}
