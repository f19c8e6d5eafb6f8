package handlers_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	_ "modernc.org/sqlite"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/signing"
)

// A whole receiving app: when somebody leaves the organization, their documents
// go to their successor and their drafts are deleted.
func ExampleReceiver() {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1) // each connection to :memory: is a database of its own
	if _, err := db.Exec(handlers.Schema + `
		CREATE TABLE document (title TEXT, owner TEXT);
		CREATE TABLE draft (title TEXT, owner TEXT);
		INSERT INTO document VALUES ('Budget', 'usr_118200000000001001'), ('Roadmap', 'usr_118200000000001001');
		INSERT INTO draft VALUES ('Untitled', 'usr_118200000000001001');`); err != nil {
		log.Fatal(err)
	}

	transferDocuments := func(ctx context.Context, tx *sql.Tx, ev events.Event, m events.Membership) (handlers.Outcome, error) {
		heir := "usr_118200000000001007" // the organization's owner, unless the event names somebody
		if m.Successor != nil {
			heir = m.Successor.UserID
		}
		res, err := tx.ExecContext(ctx, `UPDATE document SET owner = $1 WHERE owner = $2`, heir, m.User.ID)
		if err != nil {
			return handlers.Outcome{}, err // it will be sent again
		}
		n, err := res.RowsAffected()
		return handlers.Transferred("document", n, heir), err
	}
	deleteDrafts := func(ctx context.Context, tx *sql.Tx, ev events.Event, m events.Membership) (handlers.Outcome, error) {
		res, err := tx.ExecContext(ctx, `DELETE FROM draft WHERE owner = $1`, m.User.ID)
		if err != nil {
			return handlers.Outcome{}, err
		}
		n, err := res.RowsAffected()
		return handlers.Deleted("draft", n), err
	}

	key := signing.NewKey() // in life: signing.ParseKey(os.Getenv("HANDOVER_SECRET"))
	receiver := &handlers.Receiver{
		Verifier: signing.Verifier{Keys: []signing.Key{key}},
		Seen:     &handlers.Table{DB: db},
	}
	handlers.OnTx(receiver, events.MembershipRemoved, transferDocuments, deleteDrafts)

	app := httptest.NewServer(receiver) // in life: http.Handle("POST /handover", receiver)
	defer app.Close()

	// Handover sends the event, and again, as it does when an answer got lost.
	body, _ := events.Fixture("user.organization_membership_deleted")
	for range 2 {
		fmt.Println(send(app.URL, key, "msg_01", body))
	}
	rows := 0
	if err := db.QueryRow(`SELECT count(*) FROM document WHERE owner = 'usr_118200000000001007'`).Scan(&rows); err != nil {
		log.Fatal(err)
	}
	fmt.Println(rows, "documents have a new owner")
	// Output:
	// 200 {"type":"receipt","status":"completed","resources":[{"type":"document","found":2,"transferred":2,"to":"usr_118200000000001007"},{"type":"draft","found":1,"deleted":1}]}
	// 200 {"type":"receipt","status":"completed","resources":[{"type":"document","found":2,"transferred":2,"to":"usr_118200000000001007"},{"type":"draft","found":1,"deleted":1}]}
	// 2 documents have a new owner
}

// send is what the sender does.
func send(url string, key signing.Key, id string, body []byte) string {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		log.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{key}}).SetHeaders(req.Header, id, time.Now(), body); err != nil {
		log.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	return fmt.Sprint(res.StatusCode, " ", string(answer))
}

// Work that does not lie in a database of one's own: tokens at another service.
func ExampleOn() {
	tokens := map[string]int64{"usr_118200000000001001": 4}

	receiver := &handlers.Receiver{} // with a Verifier, when it serves HTTP
	handlers.On(receiver, events.MembershipRemoved, func(ctx context.Context, ev events.Event, m events.Membership) (handlers.Outcome, error) {
		n := tokens[m.User.ID]
		delete(tokens, m.User.ID)
		return handlers.Revoked("api_token", n), nil
	})

	body, _ := events.Fixture("user.organization_membership_deleted")
	ev, err := events.Parse(body)
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := receiver.Handle(context.Background(), "msg_01", ev)
	fmt.Println(receipt.Resources[0].Revoked, "tokens revoked,", err)
	// Output:
	// 4 tokens revoked, <nil>
}

// The work and the record that it was done are one transaction: what fails
// leaves nothing behind, and is done when the event comes again.
func ExampleOnTx() {
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.Exec(handlers.Schema + `
		CREATE TABLE draft (owner TEXT);
		INSERT INTO draft VALUES ('usr_118200000000001001'), ('usr_118200000000001001');`); err != nil {
		log.Fatal(err)
	}
	deleteDrafts := func(ctx context.Context, tx *sql.Tx, ev events.Event, m events.Membership) (handlers.Outcome, error) {
		res, err := tx.ExecContext(ctx, `DELETE FROM draft WHERE owner = $1`, m.User.ID)
		if err != nil {
			return handlers.Outcome{}, err
		}
		n, err := res.RowsAffected()
		return handlers.Deleted("draft", n), err
	}
	attempts := 0
	failAtFirst := func(context.Context, *sql.Tx, events.Event, events.Membership) (handlers.Outcome, error) {
		if attempts++; attempts == 1 {
			return handlers.Outcome{}, errors.New("no connection to the archive")
		}
		return handlers.NothingToDo(), nil
	}

	receiver := &handlers.Receiver{Seen: &handlers.Table{DB: db}}
	handlers.OnTx(receiver, events.MembershipRemoved, deleteDrafts, failAtFirst)

	body, _ := events.Fixture("user.organization_membership_deleted")
	ev, err := events.Parse(body)
	if err != nil {
		log.Fatal(err)
	}
	for range 3 {
		receipt, err := receiver.Handle(context.Background(), "msg_01", ev)
		left := 0
		if err := db.QueryRow(`SELECT count(*) FROM draft`).Scan(&left); err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%q, error: %v, drafts left: %d\n", receipt.Status, err, left)
	}
	fmt.Println(attempts, "attempts")
	// Output:
	// "", error: no connection to the archive, drafts left: 2
	// "completed", error: <nil>, drafts left: 0
	// "completed", error: <nil>, drafts left: 0
	// 2 attempts
}

// Another type of event than the package events names.
func ExampleOn_otherType() {
	type organization struct {
		ID string `json:"id"`
	}
	organizationDeleted := events.Type[organization]{Name: "organization.deleted", Object: "Organization"}

	receiver := &handlers.Receiver{}
	handlers.On(receiver, organizationDeleted, func(_ context.Context, _ events.Event, o organization) (handlers.Outcome, error) {
		fmt.Println("close the workspace of", o.ID)
		return handlers.InProgress(), nil
	})

	body, _ := events.Fixture("organization.deleted")
	ev, err := events.Parse(body)
	if err != nil {
		log.Fatal(err)
	}
	receipt, err := receiver.Handle(context.Background(), "msg_01", ev)
	fmt.Println(receipt.Outcome(), err)
	// Output:
	// close the workspace of org_118200000000000202
	// in_progress <nil>
}

// One function may do several things.
func ExampleDone() {
	outcome := handlers.Done(
		handlers.Transferred("document", 35, "usr_118200000000001007"),
		handlers.Retained("document", 2, "litigation hold", time.Date(2027, 6, 1, 0, 0, 0, 0, time.UTC)),
		handlers.Deleted("draft", 5),
	)
	for _, r := range outcome.Receipt().Resources {
		fmt.Println(r.Type, "found", r.Found, "transferred", r.Transferred, "retained", r.Retained, "deleted", r.Deleted)
	}
	// Output:
	// document found 37 transferred 35 retained 2 deleted 0
	// draft found 5 transferred 0 retained 0 deleted 5
}

// The other end: what did the app say?
func ExampleParseReceipt() {
	for _, answer := range []string{
		`{"type":"receipt","status":"completed","resources":[{"type":"draft","found":5,"deleted":5}]}`,
		`{"type":"receipt","status":"completed","resources":[{"type":"draft","found":5,"deleted":4}]}`,
		`{"received":true}`,
	} {
		receipt, err := handlers.ParseReceipt([]byte(answer))
		switch {
		case errors.Is(err, handlers.ErrNoReceipt):
			fmt.Println("unattested")
		case err != nil:
			fmt.Println("unattested,", err)
		default:
			fmt.Println(receipt.Outcome())
		}
	}
	// Output:
	// deleted
	// unattested, invalid receipt: resources[0].found is 5 but the counts add up to 4
	// unattested
}

// How to say that something did not work.
func ExamplePermanent() {
	receiver := &handlers.Receiver{}
	handlers.On(receiver, events.MembershipRemoved, func(_ context.Context, ev events.Event, _ events.Membership) (handlers.Outcome, error) {
		switch ev.OrganizationID {
		case "org_118200000000000101":
			return handlers.Outcome{}, handlers.Permanent(errors.New("this organization is not on this installation"))
		case "org_118200000000000202":
			return handlers.Outcome{}, handlers.RetryAfter(errors.New("backup is running"), time.Hour)
		default:
			return handlers.Outcome{}, errors.New("it comes again as scheduled")
		}
	})

	body, _ := events.Fixture("user.organization_membership_deleted")
	ev, err := events.Parse(body)
	if err != nil {
		log.Fatal(err)
	}
	_, err = receiver.Handle(context.Background(), "msg_01", ev)
	var permanent *handlers.PermanentError
	fmt.Println(errors.As(err, &permanent), err)
	// Output:
	// true this organization is not on this installation
}
