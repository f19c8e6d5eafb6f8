package handlers_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/handlers"
	"github.com/handover-dev/handover/internal/testenv"
	"github.com/handover-dev/handover/signing"
)

func TestLinksNeitherWatermillNorRedis(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps",
		"github.com/handover-dev/handover/events", "github.com/handover-dev/handover/signing", "github.com/handover-dev/handover/handlers").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "github.com/handover-dev/handover/handlers\n") {
		t.Fatalf("go list says %q", out)
	}
	for pkg := range strings.Lines(string(out)) {
		for _, word := range []string{"watermill", "redis", "pgx", "sqlite", "prometheus", "handover/internal"} {
			if strings.Contains(strings.ToLower(pkg), word) {
				t.Errorf("links %s", strings.TrimSpace(pkg))
			}
		}
	}
}

const removed = "user.organization_membership_deleted"

func fixture(tb testing.TB, typ string) []byte {
	tb.Helper()
	body, ok := events.Fixture(typ)
	if !ok {
		tb.Fatalf("no fixture of type %s", typ)
	}
	return body
}

func event(tb testing.TB, body []byte) events.Event {
	tb.Helper()
	ev, err := events.Parse(body)
	if err != nil {
		tb.Fatal(err)
	}
	return ev
}

// message is one request to a receiver, of a correct message unless changed.
type message struct {
	id     string
	body   []byte
	key    signing.Key
	change func(*http.Request) // after signing
}

func (m message) request(tb testing.TB, ctx context.Context, url string) *http.Request {
	tb.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(m.body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if err := (signing.Signer{Keys: []signing.Key{m.key}}).SetHeaders(req.Header, m.id, time.Now(), m.body); err != nil {
		tb.Fatal(err)
	}
	if m.change != nil {
		m.change(req)
	}
	return req
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (m message) post(tb testing.TB, url string) reply {
	tb.Helper()
	res, err := http.DefaultClient.Do(m.request(tb, context.Background(), url))
	if err != nil {
		tb.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return reply{res.StatusCode, res.Header, string(body)}
}

func serve(tb testing.TB, r *handlers.Receiver) string {
	tb.Helper()
	s := httptest.NewServer(r)
	tb.Cleanup(s.Close)
	return s.URL
}

// record is a log that can be read while it is written.
type record struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.buf.String()
}

func (r *record) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(r, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func mustJSON(tb testing.TB, v any) []byte {
	tb.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func mustExec(tb testing.TB, db *sql.DB, query string, args ...any) {
	tb.Helper()
	if _, err := db.ExecContext(context.Background(), query, args...); err != nil {
		tb.Fatal(err)
	}
}

func count(tb testing.TB, db *sql.DB, query string, args ...any) (n int) {
	tb.Helper()
	if err := db.QueryRowContext(context.Background(), query, args...).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

func open(tb testing.TB, driver, url string) *sql.DB {
	tb.Helper()
	db, err := sql.Open(driver, url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = db.Close() })
	return db
}

func sqliteURL(path string) string {
	return "file:" + path + "?_pragma=journal_mode(WAL)&_pragma=busy_timeout(20000)"
}

// databases are the ones a Table works in; each call opens one more pool of
// connections, as another process would.
var databases = []struct {
	name string
	make func(tb testing.TB) (connect func() *sql.DB)
}{
	{"sqlite", func(tb testing.TB) func() *sql.DB {
		path := filepath.Join(tb.TempDir(), "app.db")
		return func() *sql.DB { return open(tb, "sqlite", sqliteURL(path)) }
	}},
	{"postgres", func(tb testing.TB) func() *sql.DB {
		url := testenv.Postgres(tb)
		return func() *sql.DB { return open(tb, "pgx", url) }
	}},
}

// app creates the tables of a small app: documents, each with an owner, and a
// journal with a row for every effect.
func app(tb testing.TB, db *sql.DB) {
	tb.Helper()
	mustExec(tb, db, handlers.Schema)
	mustExec(tb, db, `CREATE TABLE document (id integer PRIMARY KEY, owner text NOT NULL)`)
	mustExec(tb, db, `CREATE TABLE journal (note text NOT NULL)`)
	for i := range 3 {
		mustExec(tb, db, `INSERT INTO document VALUES ($1, $2)`, i, "usr_118200000000001001")
	}
}

// transfer gives the person's documents away and writes that down.
func transfer(ctx context.Context, tx *sql.Tx, ev events.Event) (handlers.Outcome, error) {
	res, err := tx.ExecContext(ctx, `UPDATE document SET owner = 'usr_2' WHERE owner = $1`, ev.UserID())
	if err != nil {
		return handlers.Outcome{}, err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return handlers.Outcome{}, err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO journal VALUES ($1)`, ev.ID); err != nil {
		return handlers.Outcome{}, err
	}
	return handlers.Transferred("document", n, "usr_2"), nil
}

var (
	errBoom = errors.New("boom")
	bodyOne = sha256.Sum256([]byte("one"))
	bodyTwo = sha256.Sum256([]byte("two"))
)
