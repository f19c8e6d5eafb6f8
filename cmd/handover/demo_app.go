package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/signing"
)

// errUpgrading is why the demo's app fails the first time.
var errUpgrading = errors.New("the document store is being upgraded")

// demoApp is a small app as anybody would write it: documents in its own
// database, owned by people, and a receiver for the event that one of them left.
type demoApp struct {
	db       *sql.DB
	listener net.Listener
	server   *http.Server
	calls    atomic.Int64 // how often handOver was called
}

func newDemoApp(ctx context.Context, dir string) (*demoApp, error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "documents.db")+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return nil, fmt.Errorf("open documents: %w", err)
	}
	a := &demoApp{db: db}
	_, err = db.ExecContext(ctx, handlers.Schema+`
CREATE TABLE documents (id integer PRIMARY KEY, title text NOT NULL, owner text NOT NULL, organization text NOT NULL);`)
	if err == nil {
		a.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start app: %w", err), db.Close())
	}
	return a, nil
}

func (a *demoApp) url() string { return "http://" + a.listener.Addr().String() + "/handover" }

// serve starts to receive what is signed with the key.
func (a *demoApp) serve(key signing.Key) {
	receiver := &handlers.Receiver{
		Verifier: signing.Verifier{Keys: []signing.Key{key}},
		Seen:     &handlers.Table{DB: a.db}, // deduplicates in the transaction of the work
	}
	handlers.OnTx(receiver, events.MembershipRemoved, a.handOver)
	mux := http.NewServeMux()
	mux.Handle("POST /handover", receiver)
	a.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go a.server.Serve(a.listener) //nolint:errcheck // it ends with close
}

// handOver gives the documents of who left to the successor. It fails the first
// time, which is not the app's merit but the story's.
func (a *demoApp) handOver(ctx context.Context, tx *sql.Tx, ev events.Event, m events.Membership) (handlers.Outcome, error) {
	if a.calls.Add(1) == 1 {
		return handlers.Outcome{}, errUpgrading
	}
	if m.Successor == nil {
		return handlers.Blocked("who gets the documents?"), nil
	}
	res, err := tx.ExecContext(ctx, `UPDATE documents SET owner = $1 WHERE owner = $2 AND organization = $3`,
		m.Successor.UserID, ev.UserID(), ev.OrganizationID)
	if err != nil {
		return handlers.Outcome{}, fmt.Errorf("hand over documents: %w", err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return handlers.Outcome{}, fmt.Errorf("count documents: %w", err)
	}
	return handlers.Transferred("document", n, m.Successor.UserID), nil
}

// write adds documents of one owner.
func (a *demoApp) write(ctx context.Context, organization, owner string, titles ...string) error {
	for _, title := range titles {
		if _, err := a.db.ExecContext(ctx, `INSERT INTO documents (title, owner, organization) VALUES ($1, $2, $3)`, title, owner, organization); err != nil {
			return fmt.Errorf("write document: %w", err)
		}
	}
	return nil
}

type document struct{ title, owner string }

func (a *demoApp) documents(ctx context.Context) ([]document, error) {
	rows, err := a.db.QueryContext(ctx, `SELECT title, owner FROM documents ORDER BY id`)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	defer rows.Close()
	var all []document
	for rows.Next() {
		var d document
		if err := rows.Scan(&d.title, &d.owner); err != nil {
			return nil, fmt.Errorf("read documents: %w", err)
		}
		all = append(all, d)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	return all, nil
}

func (a *demoApp) close() {
	if a.server != nil {
		_ = a.server.Close()
	}
	_ = a.listener.Close()
	_ = a.db.Close()
}
