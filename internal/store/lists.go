package store

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/handover-dev/handover/events"
	"github.com/handover-dev/handover/outbox"
)

// ErrCursor says that a cursor is not one that the same list gave.
var ErrCursor = errors.New("it is not a cursor of this list")

// A Page asks for a part of a list. The cursor is empty for the first one.
type Page struct {
	Cursor string
	Limit  int
}

// cursor is where a page of the list of that kind ended.
func cursor(kind, key string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + key))
}

const maxCursor = 200

// key reads a cursor; it is "" for the first page.
func (p Page) key(kind string) (string, error) {
	if p.Cursor == "" {
		return "", nil
	}
	if len(p.Cursor) > maxCursor {
		return "", ErrCursor
	}
	text, err := base64.RawURLEncoding.Strict().DecodeString(p.Cursor)
	if err != nil {
		return "", ErrCursor
	}
	for _, c := range text {
		if c <= ' ' || c > '~' {
			return "", ErrCursor
		}
	}
	key, ok := strings.CutPrefix(string(text), kind+":")
	if !ok || key == "" {
		return "", ErrCursor
	}
	return key, nil
}

// number is key for lists that are ordered by a number; 0 for the first page.
func (p Page) number(kind string) (int64, error) {
	key, err := p.key(kind)
	if err != nil || key == "" {
		return 0, err
	}
	n, err := strconv.ParseInt(key, 10, 64)
	if err != nil || n <= 0 || strconv.FormatInt(n, 10) != key {
		return 0, ErrCursor
	}
	return n, nil
}

// cut takes the row off that was read to see whether there is another page, and
// gives that page's cursor.
func cut[T any](rows []T, limit int, kind string, key func(*T) string) ([]T, string) {
	if len(rows) <= limit {
		return rows, ""
	}
	return rows[:limit], cursor(kind, key(&rows[limit-1]))
}

// where collects conditions and their arguments.
type where struct {
	conds []string
	args  []any
}

// and adds a condition in which each ? stands for the next argument.
func (w *where) and(cond string, args ...any) {
	for _, a := range args {
		w.args = append(w.args, a)
		cond = strings.Replace(cond, "?", "$"+strconv.Itoa(len(w.args)), 1)
	}
	w.conds = append(w.conds, cond)
}

// with returns a copy to which more can be added.
func (w *where) with() *where {
	return &where{conds: w.conds[:len(w.conds):len(w.conds)], args: w.args[:len(w.args):len(w.args)]}
}

func (w *where) String() string {
	if len(w.conds) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(w.conds, " AND ")
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// query reads all rows; what names them in errors.
func query[T any](ctx context.Context, q querier, what string, scan func(*T, func(...any) error) error, text string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		var v T
		if err := scan(&v, rows.Scan); err != nil {
			return nil, fmt.Errorf("read %s: %w", what, err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	return out, nil
}

// listing says how a table's rows are listed: newest first, since ids sort by
// the time they were made.
type listing[T any] struct {
	table, columns, what string
	kind                 string // of its cursors
	scan                 func(*T, func(...any) error) error
	id                   func(*T) string
}

// page reads one page of those rows that w leaves.
func (l listing[T]) page(ctx context.Context, q querier, w where, p Page) ([]T, string, error) {
	key, err := p.key(l.kind)
	if err != nil {
		return nil, "", err
	}
	if key != "" {
		w.and(`id < ?`, key)
	}
	w.args = append(w.args, p.Limit+1)
	rows, err := query(ctx, q, l.what, l.scan,
		fmt.Sprintf(`SELECT %s FROM %s%s ORDER BY id DESC LIMIT $%d`, l.columns, l.table, &w, len(w.args)), w.args...)
	if err != nil {
		return nil, "", err
	}
	rows, next := cut(rows, p.Limit, l.kind, l.id)
	return rows, next, nil
}

// one is query for a single row.
func one[T any](ctx context.Context, q querier, what string, scan func(*T, func(...any) error) error, text string, args ...any) (v T, err error) {
	err = scan(&v, q.QueryRowContext(ctx, text, args...).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return v, ErrNotFound
	}
	if err != nil {
		return v, fmt.Errorf("read %s: %w", what, err)
	}
	return v, nil
}

// changed turns an update that met no row into ErrNotFound.
func changed(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return err
}

// A list whose filters no index serves is read in windows: so many rows are
// looked at for one page, however few of them match.
const (
	firstWindow = 500
	maxScanned  = 20000
)

// walk reads a list window by window until want rows are found. boundary tells
// the key of the n-th row after a key, ok false when there are fewer; read reads
// at most n matching rows after a key, up to a boundary if there is one. done is
// false when the list goes on after end.
func walk[K any](from K, want int, boundary func(from K, n int) (to K, ok bool, err error),
	read func(from K, to *K, n int) (found int, err error),
) (end K, done bool, err error) {
	found, size := 0, firstWindow
	for scanned := 0; ; scanned, size = scanned+size, size*4 {
		if scanned >= maxScanned {
			return from, false, nil
		}
		size = min(size, maxScanned-scanned)
		to, bounded, err := boundary(from, size)
		if err != nil {
			return from, false, err
		}
		limit := &to
		if !bounded {
			limit = nil
		}
		n, err := read(from, limit, want-found)
		if err != nil {
			return from, false, err
		}
		found += n
		if !bounded || found >= want {
			return to, !bounded, nil
		}
		from = to
	}
}

// A DeliveryFilter says which deliveries; what is empty does not restrict.
type DeliveryFilter struct {
	IDs            []string
	EventIDs       []string
	EndpointID     string
	EventType      string
	OrganizationID string
	UserID         string
	State          string    // its word
	Since, Until   time.Time // created at or after, and before
}

const deliveryColumns = `d.id, e.id, d.event_seq, e.type, d.endpoint_id, e.organization_id, e.user_id, d.state, d.due_at, d.attempts, d.tries,
  d.last_status, d.last_error, d.outcome, d.receipt, d.receipt_error, d.created_at, d.updated_at`

func scanDelivery(d *Delivery, scan func(...any) error) error {
	var due, created, updated int64
	var receipt string
	if err := scan(&d.ID, &d.EventID, &d.EventSeq, &d.EventType, &d.EndpointID, &d.OrganizationID, &d.UserID, &d.State, &due, &d.Attempts, &d.Tries,
		&d.LastStatus, &d.LastError, &d.Outcome, &receipt, &d.ReceiptError, &created, &updated); err != nil {
		return err
	}
	if receipt != "" {
		d.Receipt = json.RawMessage(receipt)
	}
	d.DueAt, d.CreatedAt, d.UpdatedAt = time.UnixMicro(due), time.UnixMicro(created), time.UnixMicro(updated)
	return nil
}

// Delivery returns a delivery.
func (s *Store) Delivery(ctx context.Context, id string) (Delivery, error) {
	return one(ctx, s.read, "delivery", scanDelivery, `SELECT `+deliveryColumns+`
FROM deliveries d JOIN handover_events e ON e.seq = d.event_seq WHERE d.id = $1`, id)
}

// Attempts returns the last attempts of a delivery, oldest first.
func (s *Store) Attempts(ctx context.Context, deliveryID string, limit int) ([]Attempt, error) {
	all, err := query(ctx, s.read, "attempts", func(a *Attempt, scan func(...any) error) error {
		var started, took int64
		if err := scan(&a.DeliveryID, &a.Number, &started, &took, &a.Status, &a.Class, &a.Error, &a.Answer, &a.Address); err != nil {
			return err
		}
		a.StartedAt, a.Duration = time.UnixMicro(started), time.Duration(took)*time.Microsecond
		return nil
	}, `SELECT delivery_id, number, started_at, duration_us, status, class, error, answer, address FROM attempts
WHERE delivery_id = $1 ORDER BY number DESC LIMIT $2`, deliveryID, limit)
	slices.Reverse(all)
	return all, err
}

// position is where a walk over deliveries stands. Those that go event by event
// use both parts, the others the id alone.
type position struct {
	seq int64
	id  string
}

func (p position) String() string { return strconv.FormatInt(p.seq, 10) + "." + p.id }

func parsePosition(text string) (position, bool) {
	seq, id, ok := strings.Cut(text, ".")
	n, err := strconv.ParseInt(seq, 10, 64)
	return position{n, id}, ok && err == nil && n >= 0 && strconv.FormatInt(n, 10) == seq
}

// beyond is greater than every delivery's id.
const beyond = "~"

// way is how the deliveries of a filter are found: which index is walked, and
// what is left to look at in each row.
type way struct {
	bySeq bool // along the events, else along the deliveries' ids
	// few is set when what the filter names is so little, or so short-lived, that
	// it is read as a whole and sorted.
	few  bool
	base *where // served by the index; for bySeq over events alone
	rest *where // base and all other conditions

	low, high int64 // bySeq: the events that can match, low <= seq < high
}

// way chooses an index. The order of the cases is that of what they narrow down
// to. Conditions that must not tempt a planner to another index are written so
// that none fits.
func (s *Store) way(ctx context.Context, f DeliveryFilter) (way, error) {
	w := way{base: new(where)}
	state, ok := ParseState(f.State)
	if f.State != "" && !ok {
		return way{}, fmt.Errorf("unknown state %q", f.State)
	}
	if !ok {
		state = -1
	}
	used := make(map[string]bool)
	switch {
	case len(f.IDs) > 0:
		used["ids"], w.few = true, true
		w.base.and(`d.id `+s.in("?", "text"), list(s.dialect, f.IDs))
	case len(f.EventIDs) > 0:
		used["events"], w.few = true, true
		w.base.and(`d.event_seq IN (SELECT seq FROM handover_events WHERE id `+s.in("?", "text")+`)`, list(s.dialect, f.EventIDs))
	case f.UserID != "":
		used["user"], w.bySeq = true, true
		w.base.and(`e.user_id <> '' AND e.user_id = ?`, f.UserID)
	case state == Failed:
		used["state"] = true
		w.base.and(`d.state = 4`)
	case state == Pending, state == Sending, state == Held:
		used["state"], w.few = true, true
		w.base.and(`d.state = ` + strconv.Itoa(int(state)))
		if f.EndpointID == "" || state == Sending {
			break
		}
		// The second condition holds for all. It lets SQLite see that the index of
		// the open ones fits better than the one of all the endpoint's.
		used["endpoint"] = true
		if state == Pending {
			w.base.and(`d.endpoint_id = ? AND d.due_at > -1`, f.EndpointID)
		} else {
			w.base.and(`d.endpoint_id = ? AND d.order_key > ''`, f.EndpointID)
		}
	case f.OrganizationID != "":
		used["organization"], w.bySeq = true, true
		w.base.and(`e.organization_id = ?`, f.OrganizationID)
	}
	if w.bySeq {
		// A delivery is created after its event was recorded, but however late.
		var err error
		if w.low, w.high, err = s.seqsBetween(ctx, time.Time{}, f.Until); err != nil {
			return way{}, err
		}
	} else if !w.few {
		if !f.Since.IsZero() {
			w.base.and(`d.id >= ?`, deliveryIDAt(f.Since.Add(-clockSlack)))
		}
		if !f.Until.IsZero() {
			w.base.and(`d.id < ?`, deliveryIDAt(f.Until.Add(clockSlack)))
		}
	}
	w.rest = w.base.with()
	add := func(name string, set bool, cond string, arg any) {
		if set && !used[name] {
			w.rest.and(cond, arg)
		}
	}
	add("events", len(f.EventIDs) > 0, `e.id || '' `+s.in("?", "text"), list(s.dialect, f.EventIDs))
	add("user", f.UserID != "", `e.user_id || '' = ?`, f.UserID)
	add("organization", f.OrganizationID != "", `e.organization_id || '' = ?`, f.OrganizationID)
	add("endpoint", f.EndpointID != "", `d.endpoint_id || '' = ?`, f.EndpointID)
	add("state", state >= 0, `d.state + 0 = ?`, int64(state))
	add("type", f.EventType != "", `e.type = ?`, f.EventType)
	add("since", !f.Since.IsZero(), `d.created_at >= ?`, f.Since.UnixMicro())
	add("until", !f.Until.IsZero(), `d.created_at < ?`, f.Until.UnixMicro())
	return w, nil
}

// deliveryIDAt is not greater than the ids made at or after a time.
func deliveryIDAt(t time.Time) string {
	var id ulid.ULID
	_ = id.SetTime(uint64(max(t.UnixMilli(), 0))) // zero where it does not fit
	return "msg_" + id.String()
}

// CROSS JOIN fixes which table comes first for SQLite, which without statistics
// may choose the wrong one; to PostgreSQL it is a join like any other.
const (
	deliveriesOfEvents = ` FROM handover_events e CROSS JOIN deliveries d`
	eventsOfDeliveries = ` FROM deliveries d CROSS JOIN handover_events e`
)

// walk reads at most want rows of a way after a position and up to a last one,
// downwards or upwards. done tells that there are no more; else it goes on after
// end.
func (s *Store) walk(ctx context.Context, q querier, w way, from, last position, down bool, want int) (found []Delivery, end position, done bool, err error) {
	after, upTo, order := ">", "<=", ""
	if down {
		after, upTo, order = "<", ">=", " DESC"
	}
	key := "d.id"
	if w.few {
		key = "(d.id || '')" // not for an index
	}
	var edge func(from position, n int) (position, bool, error)
	switch {
	case w.few:
		edge = func(position, int) (position, bool, error) { return position{}, false, nil }
	case w.bySeq:
		edge = func(from position, n int) (position, bool, error) {
			c := w.base.with()
			c.and(`e.seq `+after+` ?`, from.seq)
			seq, ok, err := boundary[int64](ctx, q, `SELECT e.seq FROM handover_events e`+c.String()+` ORDER BY e.seq`+order, n, c.args)
			if down {
				return position{seq: seq}, ok, err
			}
			return position{seq: seq, id: beyond}, ok, err
		}
	default:
		edge = func(from position, n int) (position, bool, error) {
			c := w.base.with()
			c.and(`d.id `+after+` ?`, from.id)
			id, ok, err := boundary[string](ctx, q, `SELECT d.id FROM deliveries d`+c.String()+` ORDER BY d.id`+order, n, c.args)
			return position{id: id}, ok, err
		}
	}
	read := func(from position, to *position, n int) (int, error) {
		c := w.rest.with()
		c.and(`e.seq = d.event_seq`)
		tables := eventsOfDeliveries
		if w.bySeq {
			tables = deliveriesOfEvents
			c.and(`e.seq `+after+`= ? AND (e.seq, d.id) `+after+` (?, ?)`, from.seq, from.seq, from.id)
			c.and(`(e.seq, d.id) `+upTo+` (?, ?)`, last.seq, last.id)
			if to != nil {
				c.and(`e.seq `+upTo+` ?`, to.seq)
			}
		} else {
			c.and(key+` `+after+` ?`, from.id)
			c.and(key+` `+upTo+` ?`, last.id)
			if to != nil {
				c.and(`d.id `+upTo+` ?`, to.id)
			}
		}
		by := key + order
		if w.bySeq {
			by = `e.seq` + order + `, d.id` + order
		}
		c.args = append(c.args, n)
		rows, err := query(ctx, q, "deliveries", scanDelivery,
			fmt.Sprintf(`SELECT %s%s%s ORDER BY %s LIMIT $%d`, deliveryColumns, tables, c, by, len(c.args)), c.args...)
		found = append(found, rows...)
		return len(rows), err
	}
	end, done, err = walk(from, want, edge, read)
	if err != nil {
		return nil, position{}, false, err
	}
	if len(found) >= want {
		d := found[len(found)-1]
		return found, position{d.EventSeq, d.ID}, false, nil
	}
	return found, end, done, nil
}

// start is where a walk along a way begins.
func (w way) start(down bool) position {
	switch {
	case w.bySeq && down:
		return position{w.high, ""}
	case w.bySeq:
		return position{w.low - 1, beyond}
	case down:
		return position{0, beyond}
	}
	return position{}
}

// ListDeliveries lists deliveries, newest first; those of a person or an
// organization by the age of their events. A page may be short and not be the
// last.
func (s *Store) ListDeliveries(ctx context.Context, f DeliveryFilter, p Page) ([]Delivery, string, error) {
	w, err := s.way(ctx, f)
	if err != nil {
		return nil, "", err
	}
	kind := "d"
	if w.bySeq {
		kind = "de"
	}
	key, err := p.key(kind)
	if err != nil {
		return nil, "", err
	}
	from := w.start(true)
	if key != "" {
		var ok bool
		if from, ok = parsePosition(key); !ok {
			return nil, "", ErrCursor
		}
	}
	found, end, done, err := s.walk(ctx, s.read, w, from, w.start(false), true, p.Limit+1)
	if err != nil {
		return nil, "", err
	}
	if len(found) > p.Limit || done {
		found, next := cut(found, p.Limit, kind, func(d *Delivery) string { return position{d.EventSeq, d.ID}.String() })
		return found, next, nil
	}
	return found, cursor(kind, end.String()), nil
}

// Errors of what an operator does to one delivery; all match ErrConflict.
var (
	ErrSuperseded       = fmt.Errorf("%w: the person came back, so it is not sent again", ErrConflict)
	ErrSending          = fmt.Errorf("%w: an attempt is under way", ErrConflict)
	ErrFinal            = fmt.Errorf("%w: it is not open any more", ErrConflict)
	ErrEndpointNotReady = fmt.Errorf("%w: its endpoint is not enabled", ErrConflict)
)

// RetryDelivery sends a delivery again, from the start of its schedule. It
// returns the endpoints at which something became due.
func (s *Store) RetryDelivery(ctx context.Context, id string) (endpointIDs []string, err error) {
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		var state State
		var endpoint string
		var back bool
		err := tx.QueryRowContext(ctx, `SELECT d.state, coalesce(p.state, 'deleted'), `+readded+`
FROM deliveries d JOIN handover_events e ON e.seq = d.event_seq LEFT JOIN endpoints p ON p.id = d.endpoint_id
WHERE d.id = $1`, id).Scan(&state, &endpoint, &back)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case state == Superseded, back:
			return ErrSuperseded
		case state == Sending:
			return ErrSending
		case endpoint != EndpointEnabled:
			return ErrEndpointNotReady
		}
		moved, _, due, err := s.requeue(ctx, tx, []string{id}, s.now())
		if err == nil && moved == 0 {
			err = ErrSending // since we looked
		}
		endpointIDs = due
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("retry delivery: %w", err)
	}
	return endpointIDs, nil
}

// CancelDelivery gives an open delivery up, so that the person's next one goes.
// It returns the endpoints at which something became due.
func (s *Store) CancelDelivery(ctx context.Context, id string) (endpointIDs []string, err error) {
	err = s.Tx(ctx, func(tx *sql.Tx) error {
		endpointIDs, err = s.cancelDelivery(ctx, tx, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cancel delivery: %w", err)
	}
	return endpointIDs, nil
}

func (s *Store) cancelDelivery(ctx context.Context, tx *sql.Tx, id string) (endpointIDs []string, err error) {
	var g group
	err = tx.QueryRowContext(ctx, `SELECT endpoint_id, order_key FROM deliveries WHERE id = $1`, id).Scan(&g.endpointID, &g.orderKey)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	// The active one is locked first, whichever this is: else it could end at the
	// same time and release the very one that is canceled here.
	if _, err := s.active(ctx, tx, []group{g}); err != nil {
		return nil, err
	}
	n, due, err := s.finish(ctx, tx, Canceled, CauseOperator, `id = $4`, id)
	if err == nil && n == 0 {
		err = ErrFinal
	}
	return due, err
}

// InsertTestDelivery records an event and one delivery of it, to one enabled
// endpoint and no other.
func (s *Store) InsertTestDelivery(ctx context.Context, endpointID string, ev events.Event) (Delivery, error) {
	id := s.NewID("msg_")
	err := s.Tx(ctx, func(tx *sql.Tx) error {
		var state string
		err := tx.QueryRowContext(ctx, `SELECT state FROM endpoints WHERE id = $1 AND state <> 'deleted'`+s.forUpdate("SHARE"), endpointID).Scan(&state)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return ErrNotFound
		case err != nil:
			return err
		case state != EndpointEnabled:
			return ErrEndpointNotReady
		}
		records, err := outbox.Append(ctx, tx, ev)
		if err != nil {
			return err
		}
		// Out of the outbox at once: the router never sees it.
		if err := outbox.Routed(ctx, tx, s.name, records[0].Seq); err != nil {
			return err
		}
		return s.insertDeliveries(ctx, tx, "", []NewDelivery{{ID: id, EventSeq: records[0].Seq, EndpointID: endpointID, OrderKey: id}})
	})
	if err != nil {
		return Delivery{}, fmt.Errorf("record test delivery: %w", err)
	}
	return s.Delivery(ctx, id)
}
