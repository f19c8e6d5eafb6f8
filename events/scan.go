package events

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner checks a JSON text (RFC 8259) more strictly than encoding/json: valid
// UTF-8, no name twice in an object, bounded depth. One pass, and no
// allocation for ordinary texts.
type scanner struct {
	b     []byte
	pos   int
	depth int
	names [][]byte // of the objects being read, raw, innermost last
	// top are the members of the outermost object.
	top []member
	// loose tells that the text is not in the compact form of JSON.stringify:
	// white space, or escapes that need not be.
	loose bool
}

// member is one name and value of an object; both raw.
type member struct{ name, value []byte }

// manyNames is where looking for a name twice changes from comparing to a map.
const manyNames = 32

func (s *scanner) document() error {
	s.space()
	if s.pos == len(s.b) || s.b[s.pos] != '{' {
		return fault("", "it is not a JSON object")
	}
	if err := s.object(); err != nil {
		return err
	}
	s.space()
	if s.pos != len(s.b) {
		return fault("", "something follows the JSON object")
	}
	return nil
}

func (s *scanner) space() {
	for s.pos < len(s.b) {
		switch s.b[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
			s.loose = true
		default:
			return
		}
	}
}

func (s *scanner) value() error {
	if s.pos == len(s.b) {
		return fault("", "it ends too early")
	}
	switch c := s.b[s.pos]; {
	case c == '{':
		return s.object()
	case c == '[':
		return s.array()
	case c == '"':
		_, err := s.text()
		return err
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	}
	return fault("", "it is not JSON")
}

func (s *scanner) word(w string) error {
	if !bytes.HasPrefix(s.b[s.pos:], []byte(w)) {
		return fault("", "it is not JSON")
	}
	s.pos += len(w)
	return nil
}

func (s *scanner) enter() error {
	s.pos++
	if s.depth++; s.depth > MaxDepth {
		return fault("", "it is nested too deeply")
	}
	s.space()
	return nil
}

func (s *scanner) array() error {
	if err := s.enter(); err != nil {
		return err
	}
	if s.pos < len(s.b) && s.b[s.pos] == ']' {
		s.pos++
		s.depth--
		return nil
	}
	for {
		s.space()
		if err := s.value(); err != nil {
			return err
		}
		s.space()
		if s.pos == len(s.b) {
			return fault("", "it ends too early")
		}
		s.pos++
		switch s.b[s.pos-1] {
		case ',':
		case ']':
			s.depth--
			return nil
		default:
			return fault("", "it is not JSON")
		}
	}
}

func (s *scanner) object() error {
	if err := s.enter(); err != nil {
		return err
	}
	base := len(s.names)
	defer func() { s.names = s.names[:base] }()
	var seen map[string]bool
	if s.pos < len(s.b) && s.b[s.pos] == '}' {
		s.pos++
		s.depth--
		return nil
	}
	for {
		s.space()
		if s.pos == len(s.b) || s.b[s.pos] != '"' {
			return fault("", "it is not JSON")
		}
		name, err := s.text()
		if err != nil {
			return err
		}
		if seen, err = s.once(base, name, seen); err != nil {
			return err
		}
		s.space()
		if s.pos == len(s.b) || s.b[s.pos] != ':' {
			return fault("", "it is not JSON")
		}
		s.pos++
		s.space()
		start := s.pos
		if err := s.value(); err != nil {
			return err
		}
		if s.depth == 1 {
			s.top = append(s.top, member{name, s.b[start:s.pos]})
		}
		s.space()
		if s.pos == len(s.b) {
			return fault("", "it ends too early")
		}
		s.pos++
		switch s.b[s.pos-1] {
		case ',':
		case '}':
			s.depth--
			return nil
		default:
			return fault("", "it is not JSON")
		}
	}
}

// once refuses a name that the object has already.
func (s *scanner) once(base int, name []byte, seen map[string]bool) (map[string]bool, error) {
	if bytes.IndexByte(name, '\\') >= 0 {
		name = unquote(name)
	}
	here := s.names[base:]
	switch {
	case seen != nil:
		if seen[string(name)] {
			return seen, duplicate(name)
		}
		seen[string(name)] = true
		return seen, nil
	case len(here) == manyNames:
		seen = make(map[string]bool, 2*manyNames)
		for _, n := range here {
			seen[string(n)] = true
		}
		if seen[string(name)] {
			return seen, duplicate(name)
		}
		seen[string(name)] = true
		return seen, nil
	}
	for _, n := range here {
		if bytes.Equal(n, name) {
			return seen, duplicate(name)
		}
	}
	s.names = append(s.names, name)
	return seen, nil
}

func duplicate(name []byte) error {
	return fault(printable(string(name)), "it stands twice in one object")
}

// text reads a string and returns what stands between the quotes, raw.
func (s *scanner) text() ([]byte, error) {
	s.pos++
	start := s.pos
	for s.pos < len(s.b) {
		c := s.b[s.pos]
		switch {
		case c == '"':
			s.pos++
			return s.b[start : s.pos-1], nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < ' ':
			return nil, fault("", "a string holds a control character")
		case c < utf8.RuneSelf:
			s.pos++
		default:
			r, size := utf8.DecodeRune(s.b[s.pos:])
			if r == utf8.RuneError && size == 1 {
				return nil, fault("", "it is not valid UTF-8")
			}
			s.pos += size
		}
	}
	return nil, fault("", "it ends too early")
}

func (s *scanner) escape() error {
	if s.pos+1 >= len(s.b) {
		return fault("", "it ends too early")
	}
	switch s.b[s.pos+1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		s.pos += 2
		return nil
	case '/':
		s.pos += 2
		s.loose = true
		return nil
	case 'u':
		if _, ok := hex4(s.b[s.pos+2:]); !ok {
			return fault("", "a string holds a bad escape")
		}
		s.pos += 6
		s.loose = true
		return nil
	}
	return fault("", "a string holds a bad escape")
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func (s *scanner) number() error {
	if s.b[s.pos] == '-' {
		s.pos++
	}
	if s.pos < len(s.b) && s.b[s.pos] == '0' {
		s.pos++
	} else if !s.digits() {
		return fault("", "a number is malformed")
	}
	if s.pos < len(s.b) && s.b[s.pos] == '.' {
		s.pos++
		if !s.digits() {
			return fault("", "a number is malformed")
		}
	}
	if s.pos < len(s.b) && (s.b[s.pos] == 'e' || s.b[s.pos] == 'E') {
		s.pos++
		if s.pos < len(s.b) && (s.b[s.pos] == '+' || s.b[s.pos] == '-') {
			s.pos++
		}
		if !s.digits() {
			return fault("", "a number is malformed")
		}
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.b) && s.b[s.pos] >= '0' && s.b[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// members reads the members of an object that was scanned before; nil when it
// is none.
func members(raw []byte) []member {
	s := scanner{b: raw}
	if s.document() != nil {
		return nil
	}
	return s.top
}

// lookup finds a member by its name.
func lookup(ms []member, name string) ([]byte, bool) {
	for _, m := range ms {
		if string(m.name) == name || bytes.IndexByte(m.name, '\\') >= 0 && string(unquote(m.name)) == name {
			return m.value, true
		}
	}
	return nil, false
}

// unquote decodes the inside of a scanned string. A surrogate without its other
// half becomes U+FFFD.
func unquote(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		if raw[i+1] != 'u' {
			out = append(out, unescaped(raw[i+1]))
			i += 2
			continue
		}
		r, size := rune16(raw[i:])
		out = utf8.AppendRune(out, r)
		i += size
	}
	return out
}

func unescaped(c byte) byte {
	switch c {
	case 'b':
		return '\b'
	case 'f':
		return '\f'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	}
	return c
}

// rune16 reads \uXXXX or a pair of them. Half a pair comes back as itself.
func rune16(raw []byte) (r rune, size int) {
	r, _ = hex4(raw[2:])
	if utf16.IsSurrogate(r) && len(raw) >= 12 && raw[6] == '\\' && raw[7] == 'u' {
		if low, ok := hex4(raw[8:]); ok {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return pair, 12
			}
		}
	}
	return r, 6
}

// compact appends a scanned text without white space and with only the escapes
// that JSON needs, as JSON.stringify writes it.
func compact(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		switch c := raw[i]; c {
		case ' ', '\t', '\n', '\r':
			i++
		case '"':
			end := i + 1
			for raw[end] != '"' {
				if raw[end] == '\\' {
					end++
				}
				end++
			}
			dst = append(dst, '"')
			dst = compactString(dst, raw[i+1:end])
			dst = append(dst, '"')
			i = end + 1
		default:
			dst = append(dst, c)
			i++
		}
	}
	return dst
}

func compactString(dst, raw []byte) []byte {
	for i := 0; i < len(raw); {
		switch {
		case raw[i] != '\\':
			dst = append(dst, raw[i])
			i++
		case raw[i+1] == '/':
			dst = append(dst, '/')
			i += 2
		case raw[i+1] != 'u':
			dst = append(dst, raw[i], raw[i+1])
			i += 2
		default:
			r, size := rune16(raw[i:])
			dst = appendRune(dst, r)
			i += size
		}
	}
	return dst
}

func appendRune(dst []byte, r rune) []byte {
	const digits = "0123456789abcdef"
	switch {
	case r == '"' || r == '\\':
		return append(dst, '\\', byte(r))
	case r == '\b':
		return append(dst, `\b`...)
	case r == '\f':
		return append(dst, `\f`...)
	case r == '\n':
		return append(dst, `\n`...)
	case r == '\r':
		return append(dst, `\r`...)
	case r == '\t':
		return append(dst, `\t`...)
	case r < ' ' || utf16.IsSurrogate(r):
		return append(dst, '\\', 'u', digits[r>>12&15], digits[r>>8&15], digits[r>>4&15], digits[r&15])
	}
	return utf8.AppendRune(dst, r)
}
