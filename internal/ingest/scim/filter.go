package scim

import (
	"strings"
	"unicode/utf8"

	"github.com/handover-dev/handover/internal/directory"
)

const (
	maxFilter     = 4 << 10 // bytes
	maxTerms      = 16
	maxPath       = 1 << 10 // bytes
	maxConditions = 8
)

// path names an attribute or a part of one, as RFC 7644, section 3.5.2 writes it:
// schema:name.sub, or schema:name[conditions].sub.
type path struct {
	schema     string // "" when it is not told; one of ours, or in lower case
	name       string // "" for the schema itself
	filtered   bool
	conditions []condition
	sub        string
}

// condition is `sub eq value`.
type condition struct {
	sub   string
	value value
}

// term is one comparison of a filter.
type term struct {
	path  path
	value value
}

// lexer reads paths and filters.
type lexer struct {
	s string
	i int
}

func (l *lexer) end() bool { return l.i >= len(l.s) }

func (l *lexer) accept(c byte) bool {
	if l.end() || l.s[l.i] != c {
		return false
	}
	l.i++
	return true
}

func (l *lexer) spaces() bool {
	start := l.i
	for l.accept(' ') {
	}
	return l.i > start
}

// word reads up to what cannot be in a name.
func (l *lexer) word() string {
	start := l.i
	for !l.end() && l.s[l.i] > ' ' && l.s[l.i] != 0x7f && !strings.ContainsRune(`[]()"`, rune(l.s[l.i])) {
		l.i++
	}
	return l.s[start:l.i]
}

// literal reads a JSON string, number, boolean or null.
func (l *lexer) literal() (value, bool) {
	if l.end() || l.s[l.i] == '{' || l.s[l.i] == '[' {
		return value{}, false
	}
	p := parser{s: l.s, i: l.i}
	v, err := p.value(1)
	l.i = p.i
	return v, err == nil
}

// eq reads ` eq value`.
func (l *lexer) eq() (value, bool) {
	if !l.spaces() || !same(l.word(), "eq") || !l.spaces() {
		return value{}, false
	}
	return l.literal()
}

// and reads ` and `; more tells whether it stood there, ok whether what stands
// there is that or nothing.
func (l *lexer) and() (more, ok bool) {
	start := l.i
	if l.spaces() && same(l.word(), "and") {
		return true, l.spaces()
	}
	l.i = start
	l.spaces()
	return false, true
}

func (l *lexer) path() (p path, ok bool) {
	p, ok = split(l.word())
	if !ok {
		return path{}, false
	}
	if !l.accept('[') {
		return p, true
	}
	if p.name == "" || p.sub != "" {
		return path{}, false
	}
	p.filtered = true
	l.spaces()
	for more := true; more; {
		c := condition{sub: l.word()}
		if c.sub == "" || len(p.conditions) == maxConditions || strings.ContainsAny(c.sub, ".:") {
			return path{}, false
		}
		if c.value, ok = l.eq(); !ok {
			return path{}, false
		}
		p.conditions = append(p.conditions, c)
		if more, ok = l.and(); !ok {
			return path{}, false
		}
	}
	if !l.accept(']') {
		return path{}, false
	}
	if l.accept('.') {
		p.sub = l.word()
		if p.sub == "" || strings.ContainsAny(p.sub, ".:") {
			return path{}, false
		}
	}
	return p, true
}

// split takes a name apart. URNs have dots themselves, so ours are known.
func split(word string) (path, bool) {
	var p path
	if i := strings.LastIndexByte(word, ':'); i >= 0 {
		for _, schema := range [...]string{userSchema, groupSchema, enterpriseSchema} {
			n := len(schema)
			if len(word) < n || !same(word[:n], schema) {
				continue
			}
			if len(word) == n {
				return path{schema: schema}, true
			}
			if word[n] == ':' {
				p.schema, i = schema, n
				break
			}
		}
		if p.schema == "" { // of a schema that is not known nothing is
			p.schema, p.name = fold(word[:i]), word[i+1:]
			return p, p.schema != "" && p.name != ""
		}
		word = word[i+1:]
	}
	name, sub, dotted := strings.Cut(word, ".")
	p.name, p.sub = name, sub
	return p, name != "" && (sub != "") == dotted && !strings.ContainsAny(sub, ".:") && !strings.Contains(name, ":")
}

// parsePath reads the path of a PATCH operation.
func parsePath(s string) (path, error) {
	if len(s) > maxPath {
		return path{}, refuse(invalidPath, "a path is too long")
	}
	l := lexer{s: s}
	p, ok := l.path()
	if !ok || !l.end() {
		return path{}, refuse(invalidPath, "a path is not well-formed, or more than this service understands")
	}
	return p, nil
}

// parseFilter reads comparisons that are joined by "and".
func parseFilter(s string) ([]term, error) {
	no := refuse(invalidFilter, "the filter is not well-formed, or more than this service understands")
	if len(s) > maxFilter || !utf8.ValidString(s) {
		return nil, no
	}
	var terms []term
	l := lexer{s: s}
	l.spaces()
	for more := true; more; {
		p, ok := l.path()
		if !ok || len(terms) == maxTerms {
			return nil, no
		}
		v, ok := l.eq()
		if !ok {
			return nil, no
		}
		terms = append(terms, term{p, v})
		if more, ok = l.and(); !ok {
			return nil, no
		}
	}
	if !l.end() {
		return nil, no
	}
	return terms, nil
}

// conjunction collects what is asked of attributes.
type conjunction struct {
	none bool // it cannot be true
	err  error
}

// want asks an attribute to have a value.
func (c *conjunction) want(have **string, v value, equal func(a, b string) bool) {
	switch {
	case v.kind != text:
		c.err = refuse(invalidFilter, "the filter compares an attribute with what is no string")
	case *have == nil:
		*have = &v.text
	case !equal(**have, v.text):
		c.none = true
	}
}

// wantOne is want for an attribute with several values, of which only one can be
// asked for.
func (c *conjunction) wantOne(have **string, v value, equal func(a, b string) bool) {
	other := conjunction{}
	other.want(have, v, equal)
	if other.none {
		other.err = refuse(invalidFilter, "the filter asks for two values of one attribute")
	}
	if other.err != nil {
		c.err = other.err
	}
}

func exactly(a, b string) bool { return a == b }

// userFilter reads a filter of users. none is true when no user can match it.
func userFilter(s string) (f directory.SCIMFilter, none bool, err error) {
	terms, err := parseFilter(s)
	if err != nil {
		return f, false, err
	}
	var c conjunction
	for _, t := range terms {
		switch name := t.path.in(userSchema); {
		case same(name, "userName"):
			c.want(&f.UserName, t.value, strings.EqualFold)
		case same(name, "externalId"):
			c.want(&f.ExternalID, t.value, exactly)
		case same(name, "id"):
			c.want(&f.ID, t.value, exactly)
		case same(name, "active"):
			b, ok := truth(t.value)
			if !ok {
				return f, false, refuse(invalidFilter, "the filter compares active with what is neither true nor false")
			}
			c.none = c.none || f.Active != nil && *f.Active != b
			f.Active = &b
		case t.path.workEmail():
			c.wantOne(&f.Email, t.value, strings.EqualFold)
		default:
			return f, false, refuse(invalidFilter, "the filter asks for an attribute that cannot be asked for")
		}
	}
	return f, c.none, c.err
}

// in returns a path's name with its sub-attribute if it is one of a schema.
func (p path) in(schema string) string {
	switch {
	case p.filtered || p.schema != "" && p.schema != schema:
		return ""
	case p.sub != "":
		return p.name + "." + p.sub
	}
	return p.name
}

// workEmail recognizes emails[type eq "work"].value.
func (p path) workEmail() bool {
	return (p.schema == "" || p.schema == userSchema) && same(p.name, "emails") && same(p.sub, "value") &&
		len(p.conditions) == 1 && same(p.conditions[0].sub, "type") &&
		p.conditions[0].value.kind == text && same(p.conditions[0].value.text, "work")
}

// groupFilter reads a filter of groups. none is true when no group can match it.
func groupFilter(s string) (f directory.SCIMGroupFilter, none bool, err error) {
	terms, err := parseFilter(s)
	if err != nil {
		return f, false, err
	}
	var c conjunction
	for _, t := range terms {
		switch name := t.path.in(groupSchema); {
		case same(name, "displayName"):
			c.want(&f.DisplayName, t.value, exactly)
		case same(name, "externalId"):
			c.want(&f.ExternalID, t.value, exactly)
		case same(name, "id"):
			c.want(&f.ID, t.value, exactly)
		case same(name, "members.value"):
			c.wantOne(&f.Member, t.value, exactly)
		default:
			return f, false, refuse(invalidFilter, "the filter asks for an attribute that cannot be asked for")
		}
	}
	return f, c.none, c.err
}

// truth reads a boolean, which some clients send as a string.
func truth(v value) (b, ok bool) {
	if v.kind != boolean && v.kind != text {
		return false, false
	}
	switch {
	case same(v.text, "true"):
		return true, true
	case same(v.text, "false"):
		return false, true
	}
	return false, false
}
