package events

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner goes over a body once: it checks that it is JSON of the kind that is
// asked for and notes where the fields lie that an event is made of.
type scanner struct {
	b     []byte
	i     int
	loose bool // there is white space between tokens

	// What is wrong, and for a fault in what the JSON says, with which field.
	fault, faulty string

	f [fields]value
}

// value is where a JSON value lies in the body.
type value struct {
	kind       kind
	escaped    bool // a string with a backslash in it
	start, end int
}

type kind uint8

const (
	kindNone kind = iota // the field is absent
	kindNull
	kindBool
	kindNumber
	kindString
	kindArray
	kindObject
)

// field is a place in the event whose value is looked at.
type field uint8

const (
	ignored field = iota
	fSpecVersion
	fID
	fType
	fObject
	fOccurredAt
	fEnvironmentID
	fOrganizationID
	fDisplayName
	fData
	fDataID
	fDataName
	fDataDisplayName
	fDataDeletedAt
	fDataOrganizationID
	fDataReason
	fDataSession
	fDataOrganization
	fDataOrganizationDotID
	fDataUser
	fDataUserID
	fDataSuccessor
	fSuccessorUserID
	fSuccessorEmail
	envelope
	fields
)

// fieldOf returns the field that a key is in an object, the object being a
// field itself.
func fieldOf(object field, key []byte) field {
	switch object {
	case envelope:
		switch string(key) {
		case "spec_version":
			return fSpecVersion
		case "id":
			return fID
		case "type":
			return fType
		case "object":
			return fObject
		case "occurred_at":
			return fOccurredAt
		case "environment_id":
			return fEnvironmentID
		case "organization_id":
			return fOrganizationID
		case "display_name":
			return fDisplayName
		case "data":
			return fData
		}
	case fData:
		switch string(key) {
		case "id":
			return fDataID
		case "name":
			return fDataName
		case "display_name":
			return fDataDisplayName
		case "deleted_at":
			return fDataDeletedAt
		case "organization_id":
			return fDataOrganizationID
		case "reason":
			return fDataReason
		case "user_session":
			return fDataSession
		case "organization":
			return fDataOrganization
		case "user":
			return fDataUser
		case "successor":
			return fDataSuccessor
		}
	case fDataOrganization:
		if string(key) == "id" {
			return fDataOrganizationDotID
		}
	case fDataUser:
		if string(key) == "id" {
			return fDataUserID
		}
	case fDataSuccessor:
		switch string(key) {
		case "user_id":
			return fSuccessorUserID
		case "email":
			return fSuccessorEmail
		}
	default:
	}
	return ignored
}

// scan checks the whole body. It returns a *SyntaxError.
func (s *scanner) scan() error {
	if s.document() {
		return nil
	}
	return &SyntaxError{Offset: s.i, Reason: s.fault}
}

func (s *scanner) fail(reason string) bool {
	s.fault = reason
	return false
}

func (s *scanner) document() bool {
	if len(s.b) > MaxSize {
		return s.fail("the body is longer than " + strconv.Itoa(MaxSize) + " bytes")
	}
	s.skip()
	if s.peek() != '{' {
		return s.fail("the body has to be a JSON object")
	}
	if !s.object(envelope, 1) {
		return false
	}
	s.skip()
	if s.i < len(s.b) {
		return s.fail("there is something after the object")
	}
	return true
}

// peek returns the next byte, or 0 at the end: no token begins with NUL.
func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) skip() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\r', '\n':
			s.loose = true
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) value(f field, depth int) bool {
	v := value{start: s.i}
	ok := false
	switch c := s.peek(); c {
	case '{':
		v.kind = kindObject
		ok = s.object(f, depth)
	case '[':
		v.kind = kindArray
		ok = s.array(depth)
	case '"':
		v.kind = kindString
		v.escaped, ok = s.str()
	case 't':
		v.kind = kindBool
		ok = s.literal("true")
	case 'f':
		v.kind = kindBool
		ok = s.literal("false")
	case 'n':
		v.kind = kindNull
		ok = s.literal("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		v.kind = kindNumber
		ok = s.number()
	default:
		return s.fail("a value is expected")
	}
	if ok && f != ignored {
		v.end = s.i
		s.f[f] = v
	}
	return ok
}

func (s *scanner) object(f field, depth int) bool {
	if depth > MaxDepth {
		return s.fail("it is nested too deeply")
	}
	s.i++
	s.skip()
	if s.peek() == '}' {
		s.i++
		return true
	}
	var known keySet
	for {
		if s.peek() != '"' {
			return s.fail("a key is expected")
		}
		start := s.i
		escaped, ok := s.str()
		if !ok {
			return false
		}
		key := s.b[start+1 : s.i-1]
		if escaped {
			key = unescape(key)
		}
		if !known.add(key) {
			s.i = start
			return s.fail("a key is there twice")
		}
		s.skip()
		if s.peek() != ':' {
			return s.fail("a colon is expected")
		}
		s.i++
		s.skip()
		if !s.value(fieldOf(f, key), depth+1) {
			return false
		}
		s.skip()
		switch s.peek() {
		case ',':
			s.i++
			s.skip()
		case '}':
			s.i++
			return true
		default:
			return s.fail("a comma or the end of the object is expected")
		}
	}
}

// keySet are the keys of one object: a list as long as they are few, so that an
// ordinary event costs no allocation, and a map when going through the list
// would take long.
type keySet struct {
	few  [16][]byte
	n    int
	many map[string]struct{}
}

func (k *keySet) add(key []byte) bool {
	if k.many == nil {
		for _, other := range k.few[:k.n] {
			if bytes.Equal(other, key) {
				return false
			}
		}
		if k.n < len(k.few) {
			k.few[k.n] = key
			k.n++
			return true
		}
		k.many = make(map[string]struct{}, 4*len(k.few))
		for _, other := range k.few[:k.n] {
			k.many[string(other)] = struct{}{}
		}
	}
	if _, dup := k.many[string(key)]; dup {
		return false
	}
	k.many[string(key)] = struct{}{}
	return true
}

func (s *scanner) array(depth int) bool {
	if depth > MaxDepth {
		return s.fail("it is nested too deeply")
	}
	s.i++
	s.skip()
	if s.peek() == ']' {
		s.i++
		return true
	}
	for {
		if !s.value(ignored, depth+1) {
			return false
		}
		s.skip()
		switch s.peek() {
		case ',':
			s.i++
			s.skip()
		case ']':
			s.i++
			return true
		default:
			return s.fail("a comma or the end of the array is expected")
		}
	}
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail("a value is expected")
	}
	s.i += len(word)
	return true
}

func (s *scanner) number() bool {
	if s.peek() == '-' {
		s.i++
	}
	if s.peek() == '0' {
		s.i++
	} else if !s.digits() {
		return false
	}
	if s.peek() == '.' {
		s.i++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		return s.digits()
	}
	return true
}

func (s *scanner) digits() bool {
	start := s.i
	for c := s.peek(); '0' <= c && c <= '9'; c = s.peek() {
		s.i++
	}
	if s.i == start {
		return s.fail("a digit is expected")
	}
	return true
}

// plain are the bytes that stand for themselves in a string.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

func (s *scanner) str() (escaped, ok bool) {
	b, i := s.b, s.i+1
	for {
		for i < len(b) && plain[b[i]] {
			i++
		}
		s.i = i
		if i == len(b) {
			return escaped, s.fail("a string has no end")
		}
		switch c := b[i]; {
		case c == '"':
			s.i++
			return escaped, true
		case c == '\\':
			escaped = true
			if !s.escape() {
				return escaped, false
			}
			i = s.i
		case c < ' ':
			return escaped, s.fail("a control character stands in a string")
		default:
			r, n := utf8.DecodeRune(b[i:])
			if r == utf8.RuneError && n == 1 {
				return escaped, s.fail("it is not UTF-8")
			}
			i += n
		}
	}
}

// escape steps over an escape sequence; half a surrogate pair is none.
func (s *scanner) escape() bool {
	if s.i+1 >= len(s.b) {
		return s.fail("a string has no end")
	}
	switch s.b[s.i+1] {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case '/':
		s.loose = true
		s.i += 2
		return true
	case 'u':
		r, ok := hex4(s.b[s.i+2:])
		if !ok {
			break
		}
		s.loose = s.loose || needless(r)
		if !utf16.IsSurrogate(r) {
			s.i += 6
			return true
		}
		rest := s.b[s.i+6:]
		if len(rest) > 2 && rest[0] == '\\' && rest[1] == 'u' {
			low, ok := hex4(rest[2:])
			if ok && utf16.DecodeRune(r, low) != utf8.RuneError {
				s.i += 12
				return true
			}
		}
		return s.fail("half a surrogate pair is escaped")
	}
	return s.fail("it is no escape sequence")
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape returns what a string stands for that the scanner has accepted.
func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		i++
		switch c := b[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(b[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := hex4(b[i+3:])
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
	}
	return out
}

// bytes returns what a string stands for.
func (s *scanner) bytes(v value) []byte {
	b := s.b[v.start+1 : v.end-1]
	if v.escaped {
		return unescape(b)
	}
	return b
}

// text is bytes as a string of its own.
func (s *scanner) text(v value) string { return string(s.bytes(v)) }
