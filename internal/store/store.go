// Package store keeps the one truth: what was recorded, what is to be delivered
// and what came of it, in SQLite or PostgreSQL. It holds rows and the
// transactions over them, one file per noun; what they mean is decided in the
// rooms that call it.
//
// Times are stored as Unix microseconds. One text of SQL serves both databases,
// save where lists and locks differ; see dialect.go.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/handover-dev/handover/outbox"
)

// Errors that callers match.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("conflict")
	ErrNewerSchema = errors.New("the database was written by a newer version of handover")
	ErrWrongKey    = errors.New("the secrets in the database were encrypted with another master key")
	// ErrUnsure is matched by the error of a commit: it may have been made.
	ErrUnsure = errors.New("it is not known whether it was committed")
)

//go:embed migrations
var migrations embed.FS

// Config says which database to open.
type Config struct {
	// URL is postgres://…; empty means the SQLite file handover.db in Dir.
	URL string
	Dir string
	// MasterKey encrypts the secrets; 32 bytes.
	MasterKey []byte
	// MaxConns bounds the connections to PostgreSQL; default 16.
	MaxConns int
	Now      func() time.Time
}

// Store is an open database. It is safe for concurrent use.
type Store struct {
	write *sql.DB // SQLite: one connection; PostgreSQL: the same pool as read
	read  *sql.DB
	dialect
	box box
	ids *ids
	now func() time.Time

	endpointsSeen atomic.Int64 // the version that a transaction saw last
	prepared      prepared
	shared        shared
	checkpoints   func() error // ends them
}

// Open opens the database, brings its schema up to date under a lock, and
// checks that the master key fits it.
func Open(ctx context.Context, c Config) (*Store, error) {
	s := &Store{now: c.Now, ids: newIDs()}
	s.prepared.byText = make(map[string]*sql.Stmt)
	s.shared.turn = make(chan struct{}, 1)
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.connect(c); err != nil {
		return nil, err
	}
	err := s.migrate(ctx)
	if err == nil {
		s.box, err = newBox(c.MasterKey)
	}
	if err == nil {
		err = s.checkKey(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) connect(c Config) error {
	if c.URL == "" {
		return s.connectSQLite(c.Dir)
	}
	cfg, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return fmt.Errorf("read database URL: %w", redactURL(err, c.URL))
	}
	db := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(preferIndexes))
	limit := c.MaxConns
	if limit == 0 {
		limit = 16
	}
	db.SetMaxOpenConns(limit)
	db.SetMaxIdleConns(limit)
	db.SetConnMaxIdleTime(5 * time.Minute)
	s.write, s.read, s.dialect = db, db, dialect{outbox.Postgres}
	return nil
}

// preferIndexes is because a plan is kept for as long as a connection, or until the
// table is analyzed: one that was made when a table held a page of rows, of which
// a scan is as good as a look into an index, reads all of it a minute later.
func preferIndexes(ctx context.Context, c *pgx.Conn) error {
	if _, err := c.Exec(ctx, `SET enable_seqscan = off`); err != nil {
		return fmt.Errorf("prefer indexes: %w", err)
	}
	return nil
}

// redactURL keeps a password in the URL out of an error that quotes it.
func redactURL(err error, url string) error {
	if strings.Contains(err.Error(), url) {
		return errors.New("it is not a valid postgres:// URL")
	}
	return err
}

func (s *Store) connectSQLite(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	path := filepath.Join(dir, "handover.db")
	// FULL: a commit is on the disk before anybody is answered.
	const pragmas = "_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=wal_autocheckpoint(8000)&_pragma=journal_size_limit(67108864)&_pragma=cache_size(-16000)&_pragma=temp_store(2)"
	w, err := sql.Open("sqlite", "file:"+path+"?"+pragmas)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	w.SetMaxOpenConns(1) // SQLite has one writer; waiting here is cheaper than SQLITE_BUSY
	r, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)&_pragma=query_only(1)&_pragma=cache_size(-2000)")
	if err != nil {
		return errors.Join(fmt.Errorf("open %s: %w", path, err), w.Close())
	}
	r.SetMaxOpenConns(4)
	r.SetMaxIdleConns(4)
	c, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(1000)&_pragma=synchronous(FULL)&_pragma=cache_size(-1000)")
	if err != nil {
		return errors.Join(fmt.Errorf("open %s: %w", path, err), w.Close(), r.Close())
	}
	c.SetMaxOpenConns(1)
	s.write, s.read, s.dialect = w, r, dialect{outbox.SQLite}
	s.checkpoints = s.checkpoint(c)
	return nil
}

// checkpoint carries what was committed from SQLite's log into its file, beside
// the writer, who would otherwise stop to do so in the middle of the line. It
// returns what ends it.
func (s *Store) checkpoint(db *sql.DB) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if !s.shared.written.Swap(false) {
					continue
				}
				// What cannot be done now is done next time, or by the writer.
				_, _ = db.ExecContext(ctx, `PRAGMA wal_checkpoint(PASSIVE)`)
			}
		}
	}()
	return func() error {
		cancel()
		<-ended
		return db.Close()
	}
}

// Close closes the database.
func (s *Store) Close() error {
	if s.read == s.write {
		return s.write.Close()
	}
	return errors.Join(s.checkpoints(), s.closePrepared(), s.read.Close(), s.write.Close())
}

// DB is the pool that may write, for the outbox's relay.
func (s *Store) DB() *sql.DB { return s.write }

// Dialect names the database.
func (s *Store) Dialect() outbox.Dialect { return s.name }

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.read.QueryRowContext(ctx, `SELECT id FROM control WHERE id = 1`).Scan(&one); err != nil {
		return fmt.Errorf("ask database: %w", err)
	}
	return nil
}

// Tx runs f in a transaction, and again when the database says that it only
// collided with another one.
func (s *Store) Tx(ctx context.Context, f func(tx *sql.Tx) error) error {
	if !s.postgres() {
		return s.share(ctx, f)
	}
	return s.again(ctx, func() error { return s.tryTx(ctx, f) })
}

// again repeats what only collided with another transaction.
func (s *Store) again(ctx context.Context, f func() error) error {
	for try := 1; ; try++ {
		err := f()
		if err == nil || try == 5 || !s.collided(err) || ctx.Err() != nil {
			return err
		}
	}
}

func (s *Store) tryTx(ctx context.Context, f func(tx *sql.Tx) error) (err error) {
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback() // the first error counts
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	p, err := s.migrator()
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if current > target {
		return fmt.Errorf("%w: its schema is %d, this program knows %d; run the newer version", ErrNewerSchema, current, target)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate database: %w", err)
	}
	return nil
}

// SchemaVersions tells the version of the schema in the database and the one
// that this program brings.
func (s *Store) SchemaVersions(ctx context.Context) (current, target int64, err error) {
	p, err := s.migrator()
	if err != nil {
		return 0, 0, err
	}
	if current, target, err = p.GetVersions(ctx); err != nil {
		return 0, 0, fmt.Errorf("read schema version: %w", err)
	}
	return current, target, nil
}

func (s *Store) migrator() (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations/"+string(s.name))
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	first := goose.NewGoMigration(1, &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		return outbox.MigrateTx(ctx, tx, s.name)
	}}, nil)
	options := []goose.ProviderOption{goose.WithGoMigrations(first), goose.WithDisableGlobalRegistry(true)}
	d := goose.DialectSQLite3
	if s.name == outbox.Postgres {
		d = goose.DialectPostgres
		locker, err := lock.NewPostgresSessionLocker()
		if err != nil {
			return nil, fmt.Errorf("prepare migration lock: %w", err)
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	p, err := goose.NewProvider(d, s.write, files, options...)
	if err != nil {
		return nil, fmt.Errorf("prepare migrations: %w", err)
	}
	return p, nil
}
