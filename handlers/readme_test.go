package handlers_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/signing"
)

// serveReadme is the receiving app of the README, word for word.
func serveReadme(db *sql.DB, http *http.ServeMux) {
	key, err := signing.ParseKey(os.Getenv("HANDOVER_SECRET"))
	if err != nil {
		log.Fatal(err)
	}
	receiver := &handlers.Receiver{
		Verifier: signing.Verifier{Keys: []signing.Key{key}},
		Seen:     &handlers.Table{DB: db}, // handlers.Schema creates it
	}
	handlers.OnTx(receiver, events.MembershipRemoved,
		func(ctx context.Context, tx *sql.Tx, _ events.Event, m events.Membership) (handlers.Outcome, error) {
			heir := "usr_118200000000001007" // yours to choose, when the event names nobody
			if m.Successor != nil && m.Successor.UserID != "" {
				heir = m.Successor.UserID
			}
			res, err := tx.ExecContext(ctx, `UPDATE document SET owner = $1 WHERE owner = $2 AND organization = $3`,
				heir, m.User.ID, m.Organization.ID)
			if err != nil {
				return handlers.Outcome{}, err // it is sent again
			}
			n, err := res.RowsAffected()
			return handlers.Transferred("document", n, heir), err
		})
	http.Handle("POST /handover", receiver)
}

// The README's app does what the README says, and leaves alone what the person
// owns elsewhere.
func TestReadmeApp(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, code, _ := strings.Cut(string(source), "http *http.ServeMux) {\n")
	code, _, _ = strings.Cut(code, "\n}\n")
	code = strings.ReplaceAll("\n"+code, "\n\t", "\n")
	if !strings.Contains(string(readme), "```go"+code+"\n```") {
		t.Errorf("the README shows another app than this one:\n%s", code)
	}

	key := signing.NewKey()
	t.Setenv("HANDOVER_SECRET", key.Secret())
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), handlers.Schema+`
CREATE TABLE document (title TEXT, owner TEXT, organization TEXT);
INSERT INTO document VALUES ('Budget', 'usr_118200000000001001', 'org_118200000000000101'),
  ('Elsewhere', 'usr_118200000000001001', 'org_118200000000000202');`); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	serveReadme(db, mux)
	app := httptest.NewServer(mux)
	defer app.Close()
	body, _ := events.Fixture("user.organization_membership_deleted")
	got := send(app.URL+"/handover", key, "msg_01", body)
	if want := `200 {"type":"receipt","status":"completed","resources":[{"type":"document","found":1,"transferred":1,"to":"usr_118200000000001007"}]}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	var owners string
	if err := db.QueryRowContext(t.Context(), `SELECT group_concat(owner, ' ') FROM document`).Scan(&owners); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprint("usr_118200000000001007", " ", "usr_118200000000001001"); owners != want {
		t.Errorf("owners %s, want %s", owners, want)
	}
}
