package scim

// The schemas of RFC 7643 and 7644 that are spoken here.
const (
	userSchema       = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupSchema      = "urn:ietf:params:scim:schemas:core:2.0:Group"
	enterpriseSchema = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	listSchema       = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	errorSchema      = "urn:ietf:params:scim:api:messages:2.0:Error"
)

const (
	maxAttributes = 64 << 10 // bytes of what is kept of a user
	maxText       = 4 << 10  // bytes of one attribute
	maxElements   = 100      // of a multi-valued attribute
	maxName       = 512      // bytes of a userName, externalId, displayName of a group or manager
	maxEmail      = 254      // bytes, which is what events have room for
)

// attribute is one that is kept as it is sent, or a part of one.
type attribute struct {
	name   string
	truth, // a boolean; else, without subs, a string
	many bool
	subs []attribute
}

// What is kept of a user beside its own fields. Passwords, pictures and
// certificates are not: nothing here has a use for them.
var userAttributes = [...]attribute{
	{name: "name", subs: texts("formatted", "familyName", "givenName", "middleName", "honorificPrefix", "honorificSuffix")},
	{name: "displayName"},
	{name: "nickName"},
	{name: "profileUrl"},
	{name: "title"},
	{name: "userType"},
	{name: "preferredLanguage"},
	{name: "locale"},
	{name: "timezone"},
	{name: "emails", many: true, subs: elements("value", "display", "type")},
	{name: "phoneNumbers", many: true, subs: elements("value", "display", "type")},
	{name: "addresses", many: true, subs: elements("formatted", "streetAddress", "locality", "region", "postalCode", "country", "type")},
	{name: "entitlements", many: true, subs: elements("value", "display", "type")},
	{name: "roles", many: true, subs: elements("value", "display", "type")},
	{name: enterpriseSchema, subs: texts("employeeNumber", "costCenter", "organization", "division", "department")},
}

const (
	emailsAt     = 9
	enterpriseAt = len(userAttributes) - 1
)

func texts(names ...string) []attribute {
	as := make([]attribute, len(names))
	for i, name := range names {
		as[i].name = name
	}
	return as
}

func elements(names ...string) []attribute {
	return append(texts(names...), attribute{name: "primary", truth: true})
}

// find returns the place of an attribute, or -1.
func find(as []attribute, name string) int {
	for i := range as {
		if same(as[i].name, name) {
			return i
		}
	}
	return -1
}

// shape returns a value as an attribute holds it: with names as the schema
// writes them and without what it does not know. null and "" are no value.
func (a *attribute) shape(v value) (value, error) {
	switch {
	case a.many:
		return a.shapeMany(v)
	case v.kind == null:
		return value{}, nil
	case a.subs != nil:
		return a.shapeComplex(v)
	case a.truth:
		b, ok := truth(v)
		if !ok {
			return value{}, refuse(invalidValue, a.name+" has to be true or false")
		}
		return boolValue(b), nil
	case v.kind == text && v.text == "":
		return value{}, nil
	case v.kind != text && v.kind != number:
		return value{}, refuse(invalidValue, a.name+" has to be a string")
	case len(v.text) > maxText:
		return value{}, refuse(invalidValue, a.name+" is too long")
	}
	return textValue(v.text), nil
}

func (a *attribute) shapeComplex(v value) (value, error) {
	if v.kind != object {
		return value{}, refuse(invalidValue, a.name+" has to be an object")
	}
	c := value{kind: object}
	for i := range a.subs {
		given := v.get(a.subs[i].name)
		if given.kind == absent {
			continue
		}
		s, err := a.subs[i].shape(given)
		if err != nil {
			return value{}, err
		}
		// What is told to be no value is kept: merged into an object, it takes one away.
		c.items = append(c.items, item{a.subs[i].name, s})
	}
	return c, nil
}

func (a *attribute) shapeMany(v value) (value, error) {
	many := value{kind: array}
	given := v.items
	switch v.kind {
	case null:
		return value{}, nil
	case array:
	case object, text:
		given = []item{{value: v}}
	default:
		return value{}, refuse(invalidValue, a.name+" has to be an array")
	}
	if len(given) > maxElements {
		return value{}, tooManyElements(a)
	}
	for i := range given {
		e := given[i].value
		if e.kind == text { // just its value
			e = value{kind: object, items: []item{{"value", e}}}
		}
		e, err := a.shapeComplex(e)
		if err != nil {
			return value{}, err
		}
		if e = merged(value{}, e); e.kind != absent {
			many.items = append(many.items, item{value: e})
		}
	}
	return many, nil
}

func tooManyElements(a *attribute) error {
	return refuse(tooMany, a.name+" has too many values")
}

// with returns a copy of an object in which a member has a value, or without it.
func with(o value, name string, v value) value {
	c := value{kind: object, items: make([]item, 0, len(o.items)+1)}
	put := v.kind == absent
	for i := range o.items {
		switch {
		case o.items[i].key != name:
			c.items = append(c.items, o.items[i])
		case !put:
			c.items = append(c.items, item{name, v})
			put = true
		}
	}
	if !put {
		c.items = append(c.items, item{name, v})
	}
	if len(c.items) == 0 {
		return value{}
	}
	return c
}

// merged returns a copy of an object with the members of another put into it.
func merged(o, more value) value {
	for i := range more.items {
		o = with(o, more.items[i].key, more.items[i].value)
	}
	return o
}

// equal compares values of the same shape.
func equal(a, b value) bool {
	if a.kind != b.kind || a.text != b.text || len(a.items) != len(b.items) {
		return false
	}
	for i := range a.items {
		if j := indexOf(b.items, a.items[i].key); a.kind == object && (j < 0 || !equal(a.items[i].value, b.items[j].value)) ||
			a.kind == array && !equal(a.items[i].value, b.items[i].value) {
			return false
		}
	}
	return true
}
