package scim

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/handover-dev/handover/internal/store"
)

// edit is one change of a user. What can be judged without the user, was.
type edit struct {
	field  field
	remove bool
	add    bool // to the values that are there
	text   string
	truth  bool

	// Of an attribute that is kept as it is sent:
	at         int // in userAttributes
	sub        *attribute
	filtered   bool
	conditions []condition
	value      value
}

// field is what an edit changes.
type field uint8

const (
	ignored field = iota
	userNameField
	externalIDField
	activeField
	managerField
	attributeField
)

// person is a user while it is being changed.
type person struct {
	store.SCIMUser
	attrs   [len(userAttributes)]value
	loaded  bool
	touched bool // attrs were changed
	mailed  bool // what the address is made of was set
}

// load takes the attributes apart.
func (p *person) load() error {
	if p.loaded || len(p.Attributes) == 0 {
		p.loaded = true
		return nil
	}
	o, err := parseJSON(string(p.Attributes))
	if err != nil {
		return fmt.Errorf("read the attributes of %s: %w", p.ID, errStored)
	}
	for i := range o.items {
		at := find(userAttributes[:], o.items[i].key)
		if at < 0 {
			continue
		}
		v, err := userAttributes[at].shape(o.items[i].value)
		if err != nil {
			return fmt.Errorf("read %s of %s: %w", userAttributes[at].name, p.ID, errStored)
		}
		if v.kind == object {
			v = merged(value{}, v)
		}
		p.attrs[at] = v
	}
	p.loaded = true
	return nil
}

// change returns a function that makes all edits of a user, or none.
func change(edits []edit) func(store.SCIMUser) (store.SCIMUser, error) {
	return func(u store.SCIMUser) (store.SCIMUser, error) {
		p := person{SCIMUser: u}
		return p.change(edits)
	}
}

// replace is change for a user of whom all that is not told is to go, but for
// whether they are active.
func replace(edits []edit) func(store.SCIMUser) (store.SCIMUser, error) {
	return func(u store.SCIMUser) (store.SCIMUser, error) {
		u.UserName, u.ExternalID, u.Email, u.ManagerID, u.Attributes = "", "", "", "", nil
		p := person{SCIMUser: u, touched: true, mailed: true}
		return p.change(edits)
	}
}

func (p *person) change(edits []edit) (store.SCIMUser, error) {
	for i := range edits {
		if err := p.make(&edits[i]); err != nil {
			return store.SCIMUser{}, err
		}
	}
	if p.UserName == "" {
		return store.SCIMUser{}, refuse(invalidValue, "userName is required")
	}
	if p.mailed {
		if err := p.load(); err != nil {
			return store.SCIMUser{}, err
		}
		p.Email = p.email()
	}
	if p.touched {
		attributes, err := p.attributes()
		if err != nil {
			return store.SCIMUser{}, err
		}
		p.Attributes = attributes
	}
	return p.SCIMUser, nil
}

func (p *person) make(e *edit) error {
	switch e.field {
	case ignored:
	case userNameField:
		p.UserName, p.mailed = e.text, true
	case externalIDField:
		p.ExternalID = e.text
	case activeField:
		p.Active = e.truth
	case managerField:
		p.ManagerID = e.text
	case attributeField:
		if err := p.load(); err != nil {
			return err
		}
		p.touched, p.mailed = true, p.mailed || e.at == emailsAt
		a := &userAttributes[e.at]
		switch {
		case a.many:
			return p.makeMany(a, e)
		case e.remove && e.sub == nil:
			p.attrs[e.at] = value{}
		case e.sub != nil:
			p.attrs[e.at] = with(p.attrs[e.at], e.sub.name, e.value)
		case a.subs != nil && e.value.kind != absent:
			p.attrs[e.at] = merged(p.attrs[e.at], e.value)
		default:
			p.attrs[e.at] = e.value
		}
	}
	return nil
}

// makeMany changes a multi-valued attribute. The values of the edit are shared
// with the next time that it is made, so nothing in them is written to.
func (p *person) makeMany(a *attribute, e *edit) error {
	now := p.attrs[e.at].items
	var then []item
	primary := -1 // the last one that was made primary
	switch {
	case e.filtered || e.sub != nil:
		var err error
		if then, primary, err = e.each(now); err != nil {
			return err
		}
	case e.remove:
		then = without(now, e.value)
	default:
		if e.add {
			then = now
		}
		for i := range e.value.items {
			v := e.value.items[i]
			at := slices.IndexFunc(then, func(have item) bool { return equal(have.value, v.value) })
			if at < 0 {
				at = len(then)
				then = append(then, v)
			}
			if isPrimary(v.value) {
				primary = at
			}
			if len(then) > maxElements {
				break
			}
		}
	}
	if len(then) > maxElements {
		return tooManyElements(a)
	}
	for i := range then {
		if primary >= 0 && i != primary && isPrimary(then[i].value) {
			then[i].value = with(then[i].value, "primary", boolValue(false))
		}
	}
	p.attrs[e.at] = value{}
	if len(then) > 0 {
		p.attrs[e.at] = value{kind: array, items: then}
	}
	return nil
}

// without returns the elements that have none of some others' values; without
// others, none.
func without(now []item, others value) (then []item) {
	if others.kind == absent {
		return nil
	}
	for i := range now {
		v := now[i].get("value")
		if !slices.ContainsFunc(others.items, func(o item) bool { return equal(v, o.get("value")) }) {
			then = append(then, now[i])
		}
	}
	return then
}

// each changes the elements that an edit is about, and tells which it made
// primary. One that is to be set and is not there is made, as Entra ID expects it:
// a departure that is told in the same request is not to fail because somebody had
// no address.
func (e *edit) each(now []item) (then []item, primary int, err error) {
	found, primary := false, -1
	for i := range now {
		o := now[i].value
		matches := e.matches(o)
		if matches {
			found = true
			switch {
			case e.sub != nil:
				o = with(o, e.sub.name, e.value)
			case e.remove:
				continue
			default:
				o = merged(o, e.value)
			}
		}
		if o.kind == absent {
			continue
		}
		if matches && isPrimary(o) && !isPrimary(now[i].value) {
			primary = len(then)
		}
		then = append(then, item{value: o})
	}
	if found || e.remove || e.value.kind == absent {
		return then, primary, nil
	}
	o, err := e.element()
	if err != nil || o.kind == absent {
		return then, primary, err
	}
	if isPrimary(o) {
		primary = len(then)
	}
	return append(then, item{value: o}), primary, nil
}

// element makes the element that an edit is about.
func (e *edit) element() (o value, err error) {
	subs := userAttributes[e.at].subs
	for _, c := range e.conditions {
		at := find(subs, c.sub)
		if at < 0 || e.sub != nil && e.sub.name == subs[at].name {
			return value{}, refuse(noTarget, "no value is as the path wants it")
		}
		v, err := subs[at].shape(c.value)
		if err != nil {
			return value{}, err
		}
		o = with(o, subs[at].name, v)
	}
	if e.sub != nil {
		return with(o, e.sub.name, e.value), nil
	}
	return merged(o, e.value), nil
}

func (e *edit) matches(o value) bool {
	for _, c := range e.conditions {
		v := o.get(c.sub)
		switch v.kind {
		case boolean:
			if b, ok := truth(c.value); !ok || strconv.FormatBool(b) != v.text {
				return false
			}
		case text:
			if c.value.kind != text || !strings.EqualFold(v.text, c.value.text) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

func isPrimary(o value) bool { return o.get("primary").text == "true" }

// email is the primary address or the first one; without one the userName, if it
// can be one.
func (p *person) email() string {
	first := ""
	for _, e := range p.attrs[emailsAt].items {
		if v := e.get("value").text; isAddress(v) {
			if isPrimary(e.value) {
				return v
			}
			if first == "" {
				first = v
			}
		}
	}
	if first == "" && isAddress(p.UserName) {
		first = p.UserName
	}
	return first
}

func isAddress(s string) bool {
	at := strings.LastIndexByte(s, '@')
	return at > 0 && at < len(s)-1 && len(s) <= maxEmail && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// attributes puts the attributes together.
func (p *person) attributes() (json.RawMessage, error) {
	large := refuse(invalidValue, "the attributes of the user are larger than 64 KiB")
	n := 0
	for i := range p.attrs {
		if p.attrs[i].kind != absent {
			n += size(p.attrs[i])
		}
	}
	if n > maxAttributes {
		return nil, large
	}
	b := append(make([]byte, 0, n+64), '{')
	for i := range p.attrs {
		if p.attrs[i].kind != absent {
			b = appendMember(b, userAttributes[i].name, p.attrs[i])
		}
	}
	if b = append(b, '}'); len(b) > maxAttributes {
		return nil, large
	}
	return b, nil
}

func appendMember(b []byte, name string, v value) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(appendText(b, name), ':')
	return appendJSON(b, v)
}

// appendUser appends a user as clients see it. base is the URL of the directory.
func appendUser(b []byte, base string, u store.SCIMUser) ([]byte, error) {
	p := person{SCIMUser: u}
	if err := p.load(); err != nil {
		return nil, err
	}
	if u.ManagerID != "" {
		manager := value{kind: object, items: []item{{"value", textValue(u.ManagerID)}}}
		p.attrs[enterpriseAt] = with(p.attrs[enterpriseAt], "manager", manager)
	}
	b = append(b, `{"schemas":["`+userSchema...)
	if p.attrs[enterpriseAt].kind != absent {
		b = append(b, `","`+enterpriseSchema...)
	}
	b = append(b, `"],"id":`...)
	b = appendText(b, u.ID)
	if u.ExternalID != "" {
		b = appendText(append(b, `,"externalId":`...), u.ExternalID)
	}
	b = appendText(append(b, `,"userName":`...), u.UserName)
	b = strconv.AppendBool(append(b, `,"active":`...), u.Active)
	for i := range p.attrs {
		if p.attrs[i].kind != absent {
			b = appendMember(b, userAttributes[i].name, p.attrs[i])
		}
	}
	return appendMeta(b, base, "User", u.ID, u.CreatedAt, u.UpdatedAt), nil
}
