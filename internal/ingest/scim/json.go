package scim

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxDepth  = 64
	maxValues = 100_000 // in one body: what it takes in memory is bounded by it
	maxNumber = 64      // bytes of a number
)

// value is a JSON value. Names of attributes mean the same in any letter case, so
// no object has two that differ in nothing else.
type value struct {
	kind  kind
	text  string // of a string; a number or boolean as it is written
	items []item // of an array or object
}

// item is a member of an object, or without a key an element of an array.
type item struct {
	key string
	value
}

type kind uint8

const (
	absent kind = iota
	null
	boolean
	number
	text
	array
	object
)

func textValue(s string) value { return value{kind: text, text: s} }

func boolValue(b bool) value { return value{kind: boolean, text: strconv.FormatBool(b)} }

// get returns the member of an object with a name, in any letter case.
func (v value) get(name string) value {
	if i := indexOf(v.items, name); i >= 0 {
		return v.items[i].value
	}
	return value{}
}

func indexOf(items []item, name string) int {
	for i := range items {
		if same(items[i].key, name) {
			return i
		}
	}
	return -1
}

// same compares names. Only ASCII letters have cases here: in Unicode the long s
// is a letter s too, and two names could be taken for one or one for two.
func same(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

func fold(s string) string {
	for i := range len(s) {
		if lower(s[i]) != s[i] {
			b := []byte(s)
			for i, c := range b {
				b[i] = lower(c)
			}
			return string(b)
		}
	}
	return s
}

// parser reads one JSON text strictly.
type parser struct {
	s      string
	i      int
	values int
}

// parseJSON reads a text that is one JSON object.
func parseJSON(s string) (value, error) {
	if !utf8.ValidString(s) {
		return value{}, refuse(invalidSyntax, "the body is not UTF-8")
	}
	p := parser{s: s}
	p.skip()
	if p.peek() != '{' {
		return value{}, refuse(invalidSyntax, "the body has to be a JSON object")
	}
	v, err := p.value(1)
	if err != nil {
		return value{}, err
	}
	p.skip()
	if p.i < len(p.s) {
		return value{}, p.fail("there is something after the object")
	}
	return v, nil
}

func (p *parser) fail(what string) error {
	return refuse(invalidSyntax, what+", at byte "+strconv.Itoa(p.i)+" of the body")
}

// peek returns the next byte, or 0 at the end: no token begins with NUL.
func (p *parser) peek() byte {
	if p.i < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *parser) skip() {
	for p.i < len(p.s) {
		switch p.s[p.i] {
		case ' ', '\t', '\r', '\n':
			p.i++
		default:
			return
		}
	}
}

func (p *parser) value(depth int) (value, error) {
	if p.values++; p.values > maxValues {
		return value{}, refuse(tooMany, "the body has more values than "+strconv.Itoa(maxValues))
	}
	switch c := p.peek(); c {
	case '{', '[':
		if depth > maxDepth {
			return value{}, p.fail("it is nested deeper than " + strconv.Itoa(maxDepth))
		}
		p.i++
		if c == '{' {
			return p.object(depth)
		}
		return p.array(depth)
	case '"':
		s, err := p.str()
		return textValue(s), err
	case 't':
		return p.word("true", boolean)
	case 'f':
		return p.word("false", boolean)
	case 'n':
		return p.word("null", null)
	}
	return p.number()
}

func (p *parser) word(w string, k kind) (value, error) {
	if !strings.HasPrefix(p.s[p.i:], w) {
		return value{}, p.fail("it is not JSON")
	}
	p.i += len(w)
	return value{kind: k, text: w}, nil
}

func (p *parser) array(depth int) (value, error) {
	v := value{kind: array}
	p.skip()
	if p.peek() == ']' {
		p.i++
		return v, nil
	}
	for {
		p.skip()
		e, err := p.value(depth + 1)
		if err != nil {
			return value{}, err
		}
		v.items = append(v.items, item{value: e})
		p.skip()
		switch p.peek() {
		case ',':
			p.i++
		case ']':
			p.i++
			return v, nil
		default:
			return value{}, p.fail("it is not JSON")
		}
	}
}

func (p *parser) object(depth int) (value, error) {
	v := value{kind: object}
	var keys keySet
	p.skip()
	if p.peek() == '}' {
		p.i++
		return v, nil
	}
	for {
		p.skip()
		if p.peek() != '"' {
			return value{}, p.fail("it is not JSON")
		}
		key, err := p.str()
		if err != nil {
			return value{}, err
		}
		if !keys.add(v.items, key) {
			return value{}, p.fail("an object has a key twice")
		}
		p.skip()
		if p.peek() != ':' {
			return value{}, p.fail("it is not JSON")
		}
		p.i++
		p.skip()
		e, err := p.value(depth + 1)
		if err != nil {
			return value{}, err
		}
		v.items = append(v.items, item{key, e})
		p.skip()
		switch p.peek() {
		case ',':
			p.i++
		case '}':
			p.i++
			return v, nil
		default:
			return value{}, p.fail("it is not JSON")
		}
	}
}

// keySet knows the keys of an object; of a large one in a map.
type keySet map[string]struct{}

// add tells whether a key is new among those of items.
func (s *keySet) add(items []item, key string) bool {
	if len(items) < 16 {
		return indexOf(items, key) < 0
	}
	if *s == nil {
		*s = make(keySet)
		for i := range items {
			(*s)[fold(items[i].key)] = struct{}{}
		}
	}
	key = fold(key)
	if _, ok := (*s)[key]; ok {
		return false
	}
	(*s)[key] = struct{}{}
	return true
}

// number keeps a number as it is written, if a database can hold it too.
func (p *parser) number() (value, error) {
	start := p.i
	if p.peek() == '-' {
		p.i++
	}
	zero := p.peek() == '0'
	n := p.digits()
	if n == 0 || zero && n > 1 {
		return value{}, p.fail("it is not JSON")
	}
	if p.peek() == '.' {
		p.i++
		if p.digits() == 0 {
			return value{}, p.fail("it is not JSON")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.i++
		if c := p.peek(); c == '+' || c == '-' {
			p.i++
		}
		n := p.digits()
		if n == 0 {
			return value{}, p.fail("it is not JSON")
		}
		if n > 3 {
			return value{}, refuse(invalidValue, "a number is too large or too small")
		}
	}
	if p.i-start > maxNumber {
		return value{}, refuse(invalidValue, "a number is too long")
	}
	return value{kind: number, text: p.s[start:p.i]}, nil
}

func (p *parser) digits() (n int) {
	for '0' <= p.peek() && p.peek() <= '9' {
		p.i++
		n++
	}
	return n
}

// str reads a string from its quote on. A NUL, which PostgreSQL cannot hold, and
// halves of surrogate pairs, which are no text, are refused.
func (p *parser) str() (string, error) {
	p.i++
	start := p.i
	for p.i < len(p.s) {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return p.s[start : p.i-1], nil
		case c == '\\':
			return p.escaped(append(make([]byte, 0, p.i-start+32), p.s[start:p.i]...))
		case c < ' ':
			return "", p.fail("a string has a control character")
		}
		p.i++
	}
	return "", p.fail("a string does not end")
}

func (p *parser) escaped(b []byte) (string, error) {
	for p.i < len(p.s) {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			return string(b), nil
		case c < ' ':
			return "", p.fail("a string has a control character")
		case c != '\\':
			b = append(b, c)
			continue
		}
		c = p.peek()
		p.i++
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r, err := p.unicode()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
		default:
			return "", p.fail("a string has an unknown escape")
		}
	}
	return "", p.fail("a string does not end")
}

func (p *parser) unicode() (rune, error) {
	r, ok := p.hex4()
	if !ok {
		return 0, p.fail("a string has an unknown escape")
	}
	if utf16.IsSurrogate(r) {
		var low rune
		if strings.HasPrefix(p.s[p.i:], `\u`) {
			p.i += 2
			low, _ = p.hex4()
		}
		if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
			return 0, p.fail("a string has half of a surrogate pair")
		}
	}
	if r == 0 {
		return 0, refuse(invalidValue, "a string has a NUL character")
	}
	return r, nil
}

func (p *parser) hex4() (rune, bool) {
	if len(p.s)-p.i < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(p.s[p.i:p.i+4], 16, 16)
	if err != nil {
		return 0, false
	}
	p.i += 4
	return rune(n), true
}

// appendJSON appends the text of a value.
func appendJSON(b []byte, v value) []byte {
	switch v.kind {
	case text:
		return appendText(b, v.text)
	case array:
		b = append(b, '[')
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendJSON(b, v.items[i].value)
		}
		return append(b, ']')
	case object:
		b = append(b, '{')
		for i := range v.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendText(b, v.items[i].key)
			b = append(b, ':')
			b = appendJSON(b, v.items[i].value)
		}
		return append(b, '}')
	case boolean, number:
		return append(b, v.text...)
	default:
		return append(b, "null"...)
	}
}

// appendText appends a JSON string. What is not UTF-8 becomes U+FFFD.
func appendText(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	b = append(b, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
		} else {
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

// size is about how long the text of a value is.
func size(v value) int {
	n := len(v.text) + 4
	for i := range v.items {
		n += len(v.items[i].key) + size(v.items[i].value)
	}
	return n
}
