package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/handover-dev/handover/internal/api"
)

// memberFormat explains the lists that import and reconcile read.
const memberFormat = `
The list is CSV with a header, or JSON lines with the same keys, of these:
  id           usr_…, where it is known   } one of the two
  email                                   } in each line
  external_id  what the app calls the person
  name         what people call the person
  roles        what the person may do; in CSV several are separated by ;
  status       ACTIVE (default), INACTIVE, PENDING_INVITE or INVITE_EXPIRED
  joined_at    2026-06-12 or 2026-06-12T09:30:00Z`

var memberColumns = []string{"id", "email", "external_id", "name", "roles", "status", "joined_at"}

const (
	maxLine      = 64 << 10 // bytes of one line
	maxBadLines  = 20       // that are shown
	formatCSV    = "csv"
	formatLines  = "jsonl"
	windowsStart = "\xEF\xBB\xBF" // that Excel puts before UTF-8
)

// A memberList is a list of members in a file, which can be read several times.
type memberList struct {
	name   string // as people know it
	format string
	file   *os.File
	temp   bool // the file is a copy of what came through a pipe
}

// formatFlag adds --format.
func formatFlag(cmd *cobra.Command, format *string) {
	oneOf(cmd, format, "format", "", []string{formatCSV, formatLines}, "of the list; the default is what its name ends in")
}

// openList opens a list; - is stdin. What comes through a pipe is copied to a
// file first, because a list is read to its end before anything is done.
func (c *cli) openList(path, format string) (_ *memberList, err error) {
	l := &memberList{name: path, format: format}
	if path == "-" {
		l.name = "stdin"
	}
	if l.format == "" {
		switch strings.ToLower(filepath.Ext(path)) {
		case ".csv":
			l.format = formatCSV
		case ".jsonl", ".ndjson":
			l.format = formatLines
		default:
			return nil, usagef("say in which format %s is: --format csv or --format jsonl", l.name)
		}
	}
	from := c.in
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		info, err := file.Stat()
		if err == nil && info.Mode().IsRegular() {
			l.file = file
			return l, nil
		}
		defer file.Close()
		from = file
	}
	if l.file, err = os.CreateTemp("", "handover-members-"); err != nil {
		return nil, fmt.Errorf("keep what comes from %s: %w", l.name, err)
	}
	l.temp = true
	if _, err := io.Copy(l.file, from); err != nil {
		l.close()
		return nil, fmt.Errorf("read %s: %w", l.name, err)
	}
	return l, nil
}

func (l *memberList) close() {
	_ = l.file.Close() // it was only read, or is a copy
	if l.temp {
		_ = os.Remove(l.file.Name()) // in a directory that is emptied anyway
	}
}

// rows reads the list from its beginning.
func (l *memberList) rows() iter.Seq2[row, error] {
	if _, err := l.file.Seek(0, io.SeekStart); err != nil {
		return func(yield func(row, error) bool) { yield(row{}, err) }
	}
	return readRows(l.file, l.format)
}

// whole tells whether the last line is whole.
func (l *memberList) whole() (bool, error) {
	end, err := l.file.Seek(0, io.SeekEnd)
	if err != nil || end == 0 {
		return false, err
	}
	var last [1]byte
	_, err = l.file.ReadAt(last[:], end-1)
	return last[0] == '\n', err
}

// check reads the list to its end and counts its members. Lines that are wrong
// are shown.
func (l *memberList) check(w io.Writer) (members int, err error) {
	bad := 0
	for _, err := range l.rows() {
		var line *lineError
		switch {
		case errors.As(err, &line):
			if bad++; bad <= maxBadLines {
				fmt.Fprintf(w, "%s:%d: %s\n", l.name, line.line, clean(line.Error()))
			}
		case err != nil:
			return 0, fmt.Errorf("read %s: %w", l.name, err)
		default:
			members++
		}
	}
	switch {
	case bad == 1:
		return 0, errors.New("a line is wrong; nothing was done")
	case bad > 1:
		return 0, fmt.Errorf("%d lines are wrong; nothing was done", bad)
	case members == 0:
		return 0, fmt.Errorf("%s has no members in it", l.name)
	}
	return members, nil
}

// A row is a member and the line that they are in.
type row struct {
	api.ImportMember
	line int
}

// A lineError says what is wrong with one line. The lines after it can be read.
type lineError struct {
	error
	line int
}

func (e *lineError) Unwrap() error { return e.error }

// readRows reads members, one a line, and says of each what is wrong with it. An
// error that is no *lineError is the last.
func readRows(r io.Reader, format string) iter.Seq2[row, error] {
	return func(yield func(row, error) bool) {
		parse := parseObject
		if format == formatCSV {
			parse = nil // until the header was read
		}
		for line, n := range lines(r) {
			text, err := line.text, line.err
			if n == 1 {
				text = bytes.TrimPrefix(text, []byte(windowsStart))
			}
			switch {
			case err != nil:
			case len(bytes.TrimSpace(text)) == 0:
				continue
			case !utf8.Valid(text):
				err = &lineError{errors.New("is not UTF-8"), n}
			}
			out := row{line: n}
			var bad *lineError
			switch {
			case parse == nil && errors.As(err, &bad):
				err = fmt.Errorf("the header %w", bad.error)
			case parse == nil && err == nil:
				if parse, err = csvParser(text); err == nil {
					continue
				}
			case err == nil:
				if out.ImportMember, err = parseMember(parse, text); err != nil {
					err = &lineError{err, n}
				}
			}
			if !yield(out, err) || err != nil && !errors.As(err, &bad) {
				return
			}
		}
	}
}

// parseMember reads a line and judges what is in it.
func parseMember(parse func([]byte) (api.ImportMember, error), text []byte) (api.ImportMember, error) {
	m, err := parse(text)
	if err != nil {
		return m, err
	}
	if faults := m.Check(); len(faults) > 0 {
		return m, fmt.Errorf("%s %s", faults[0].Field, faults[0].Message)
	}
	return m, nil
}

type textLine struct {
	text []byte // good until the next one
	err  error
}

// lines reads lines without what ends them, and counts from 1. One that is too
// long is passed over.
func lines(r io.Reader) iter.Seq2[textLine, int] {
	return func(yield func(textLine, int) bool) {
		buf := bufio.NewReaderSize(r, maxLine)
		for n := 1; ; n++ {
			text, err := buf.ReadSlice('\n')
			var l textLine
			if errors.Is(err, bufio.ErrBufferFull) {
				l.err = &lineError{fmt.Errorf("is longer than %d bytes", maxLine), n}
				for errors.Is(err, bufio.ErrBufferFull) {
					_, err = buf.ReadSlice('\n')
				}
			} else {
				l.text = bytes.TrimRight(text, "\r\n")
			}
			if err != nil && !errors.Is(err, io.EOF) {
				yield(textLine{err: err}, n)
				return
			}
			if (err == nil || len(text) > 0) && !yield(l, n) || err != nil {
				return
			}
		}
	}
}

// csvParser reads the header of a CSV list.
func csvParser(header []byte) (func([]byte) (api.ImportMember, error), error) {
	var from bytes.Reader
	buf := bufio.NewReader(&from)
	fields := func(line []byte) ([]string, error) {
		from.Reset(line)
		buf.Reset(&from)
		record, err := csv.NewReader(buf).Read()
		if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
			return nil, fmt.Errorf("at byte %d: %w", parse.Column, parse.Err)
		}
		return record, err
	}
	columns, err := fields(header)
	if err != nil {
		return nil, fmt.Errorf("the header: %w", err)
	}
	var unknown []string
	for i, name := range columns {
		columns[i] = strings.ToLower(strings.TrimSpace(name))
		if !slices.Contains(memberColumns, columns[i]) {
			unknown = append(unknown, fmt.Sprintf("%q", shorten(clean(name), 60)))
		}
		if slices.Contains(columns[:i], columns[i]) {
			return nil, fmt.Errorf("the header has the column %s twice", columns[i])
		}
	}
	switch {
	case len(unknown) > 0:
		return nil, fmt.Errorf("the header has columns that are not known: %s; there are: %s", strings.Join(unknown[:min(len(unknown), 10)], ", "), strings.Join(memberColumns, ", "))
	case !slices.Contains(columns, "id") && !slices.Contains(columns, "email"):
		return nil, errors.New("the header has neither id nor email")
	}
	return func(line []byte) (m api.ImportMember, err error) {
		record, err := fields(line)
		if err != nil {
			return m, err
		}
		if len(record) != len(columns) {
			return m, fmt.Errorf("has %s, not %d as the header", plural(int64(len(record)), "column", "columns"), len(columns))
		}
		for i, name := range columns {
			value := strings.TrimSpace(record[i])
			if name != "roles" {
				if err := setMember(&m, name, value); err != nil {
					return m, err
				}
				continue
			}
			for role := range strings.SplitSeq(value, ";") {
				if role = strings.TrimSpace(role); role != "" {
					m.Roles = append(m.Roles, role)
				}
			}
		}
		return m, nil
	}, nil
}

// setMember sets what a column or key that is no list says.
func setMember(m *api.ImportMember, name, value string) (err error) {
	switch name {
	case "id":
		m.ID = value
	case "email":
		m.Email = value
	case "external_id":
		m.ExternalID = value
	case "name":
		m.Name = value
	case "status":
		m.Status = strings.ToUpper(value)
	case "joined_at":
		if value == "" {
			return nil
		}
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if m.JoinedAt, err = time.Parse(layout, value); err == nil {
				return nil
			}
		}
		return errors.New("joined_at has to be like 2026-06-12 or 2026-06-12T09:30:00Z")
	}
	return nil
}

// parseObject reads a member from a JSON object.
func parseObject(line []byte) (m api.ImportMember, err error) {
	notOne := errors.New("is not one JSON object")
	dec := json.NewDecoder(bytes.NewReader(line))
	if start, err := dec.Token(); err != nil || start != json.Delim('{') {
		return m, notOne
	}
	seen := map[string]bool{}
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return m, notOne
		}
		key, _ := token.(string)
		switch {
		case !slices.Contains(memberColumns, key):
			return m, fmt.Errorf("has a key that is not known: %q; there are: %s", shorten(clean(key), 60), strings.Join(memberColumns, ", "))
		case seen[key]:
			return m, fmt.Errorf("has the key %q twice", key)
		}
		seen[key] = true
		var value *string
		if key == "roles" {
			err = dec.Decode(&m.Roles)
		} else if err = dec.Decode(&value); err == nil && value != nil {
			if err := setMember(&m, key, *value); err != nil {
				return m, err
			}
		}
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return m, fmt.Errorf("%s is %s, not %s", key, cmp.Or(kind.Value, "something else"), map[bool]string{true: "a list of texts", false: "a text"}[key == "roles"])
		}
		if err != nil {
			return m, notOne
		}
	}
	if _, err := dec.Token(); err != nil { // the end of the object
		return m, notOne
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return m, notOne
	}
	return m, nil
}
