package scim

import (
	"strconv"
	"strings"
)

const maxOperations = 1000

// verb is what a PATCH operation does.
type verb uint8

const (
	add verb = iota
	replaceWith
	remove
)

// operation is one of a PATCH.
type operation struct {
	verb  verb
	path  path
	whole bool // there is no path: it is about the resource
	value value
}

// operations reads the body of a PATCH.
func operations(body value) ([]operation, error) {
	list := body.get("Operations")
	if list.kind != array || len(list.items) == 0 {
		return nil, refuse(invalidSyntax, "Operations has to be an array with at least one operation")
	}
	if len(list.items) > maxOperations {
		return nil, refuse(tooMany, "there are more operations than "+strconv.Itoa(maxOperations))
	}
	ops := make([]operation, len(list.items))
	for i := range list.items {
		if err := ops[i].read(list.items[i].value); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

func (o *operation) read(v value) error {
	if v.kind != object {
		return refuse(invalidSyntax, "an operation has to be an object")
	}
	op := v.get("op")
	switch {
	case op.kind == text && same(op.text, "add"):
		o.verb = add
	case op.kind == text && same(op.text, "replace"):
		o.verb = replaceWith
	case op.kind == text && same(op.text, "remove"):
		o.verb = remove
	default:
		return refuse(invalidSyntax, "op has to be add, replace or remove")
	}
	o.value = v.get("value")
	switch at := v.get("path"); {
	case at.kind == absent, at.kind == null, at.kind == text && at.text == "":
		o.whole = true
	case at.kind != text:
		return refuse(invalidPath, "a path has to be a string")
	default:
		var err error
		if o.path, err = parsePath(at.text); err != nil {
			return err
		}
	}
	if o.verb == remove && o.whole {
		return refuse(noTarget, "remove needs a path")
	}
	return nil
}

// userEdits compiles the operations of a PATCH of a user.
func userEdits(body value) ([]edit, error) {
	ops, err := operations(body)
	if err != nil {
		return nil, err
	}
	var c compiler
	for _, op := range ops {
		c.verb, c.explicit = op.verb, !op.whole
		if op.whole {
			err = c.whole(op.value)
		} else {
			err = c.at(op.path, op.value)
		}
		if err != nil {
			return nil, err
		}
	}
	return c.edits, nil
}

// userContent compiles a user as POST and PUT send it.
func userContent(body value) ([]edit, error) {
	c := compiler{verb: add}
	err := c.whole(body)
	return c.edits, err
}

// compiler makes edits of what is sent.
type compiler struct {
	verb     verb
	explicit bool // the path was told: what cannot be changed is refused, not passed over
	edits    []edit
}

// whole compiles an object whose keys are attributes. What decides about a
// person's departure has to mean one thing, however its name is written.
func (c *compiler) whole(v value) error {
	if v.kind != object {
		return refuse(invalidValue, "without a path the value has to be an object")
	}
	start := len(c.edits)
	for i := range v.items {
		p, err := keyPath(v.items[i].key)
		if err == nil {
			err = c.at(p, v.items[i].value)
		}
		if err != nil {
			return err
		}
	}
	var seen [attributeField]bool
	for _, e := range c.edits[start:] {
		if e.field == attributeField {
			continue
		}
		if seen[e.field] {
			return refuse(invalidSyntax, "an attribute is told twice")
		}
		seen[e.field] = true
	}
	return nil
}

// keyPath reads the key of an object as a path, as Entra ID sends them. A key that
// is neither a path nor begins like one with conditions is an attribute of which
// nothing is known.
func keyPath(key string) (path, error) {
	p, err := parsePath(key)
	if err != nil && !strings.Contains(key, "[") {
		return path{schema: "unknown", name: key}, nil
	}
	return p, err
}

func (c *compiler) put(e edit) error {
	c.edits = append(c.edits, e)
	return nil
}

// at compiles a value for a path.
func (c *compiler) at(p path, v value) error {
	switch {
	case p.schema == enterpriseSchema:
		return c.enterprise(p, v)
	case p.schema != "" && p.schema != userSchema:
		return nil
	case p.name == "" && c.verb == remove:
		return refuse(mutability, "a user cannot be removed by PATCH")
	case p.name == "":
		return c.whole(v)
	case same(p.name, "userName"), same(p.name, "externalId"), same(p.name, "active"):
		if p.filtered || p.sub != "" {
			return refuse(invalidPath, "a path goes into an attribute that has no parts")
		}
		return c.own(p, v)
	case same(p.name, "id"), same(p.name, "meta"), same(p.name, "groups"):
		if c.explicit {
			return refuse(mutability, "the attribute cannot be changed")
		}
		return nil
	}
	return c.attribute(p, v)
}

// own compiles an attribute that has a field of its own.
func (c *compiler) own(p path, v value) error {
	switch {
	case same(p.name, "active"):
		if c.verb == remove {
			return refuse(mutability, "active cannot be removed: replace it with false")
		}
		b, ok := truth(v)
		if !ok {
			return refuse(invalidValue, "active has to be true or false")
		}
		return c.put(edit{field: activeField, truth: b})
	case same(p.name, "userName"):
		if c.verb == remove {
			return refuse(mutability, "userName cannot be removed")
		}
		if v.kind != text || strings.TrimSpace(v.text) == "" || len(v.text) > maxName {
			return refuse(invalidValue, "userName has to be a string of at most "+strconv.Itoa(maxName)+" bytes, and not empty")
		}
		return c.put(edit{field: userNameField, text: v.text})
	}
	id, err := c.name("externalId", v)
	if err != nil {
		return err
	}
	return c.put(edit{field: externalIDField, text: id})
}

// name reads a short string; "" is none.
func (c *compiler) name(what string, v value) (string, error) {
	switch {
	case c.verb == remove || v.kind == null:
		return "", nil
	case v.kind != text && v.kind != number || len(v.text) > maxName:
		return "", refuse(invalidValue, what+" has to be a string of at most "+strconv.Itoa(maxName)+" bytes")
	}
	return v.text, nil
}

// enterprise compiles what belongs to the enterprise extension.
func (c *compiler) enterprise(p path, v value) error {
	switch {
	case p.name == "" && c.verb == remove, p.name == "" && v.kind == null:
		c.edits = append(c.edits, edit{field: attributeField, at: enterpriseAt, remove: true})
		return c.put(edit{field: managerField})
	case p.name == "":
		if v.kind != object {
			return refuse(invalidValue, "an extension has to be an object")
		}
		for i := range v.items {
			p, err := keyPath(v.items[i].key)
			if err != nil {
				return err
			}
			if p.schema == "" && p.name != "" {
				p.schema = enterpriseSchema
			}
			if p.schema != enterpriseSchema || p.name == "" {
				continue
			}
			if err := c.enterprise(p, v.items[i].value); err != nil {
				return err
			}
		}
		return nil
	case same(p.name, "manager"):
		if p.filtered {
			return refuse(invalidPath, "manager has one value only")
		}
		if p.sub != "" && !same(p.sub, "value") {
			return nil
		}
		return c.manager(v)
	}
	at := find(userAttributes[enterpriseAt].subs, p.name)
	if at < 0 {
		return nil
	}
	if p.filtered || p.sub != "" {
		return refuse(invalidPath, "a path goes into an attribute that has no parts")
	}
	return c.attribute(path{name: enterpriseSchema, sub: userAttributes[enterpriseAt].subs[at].name}, v)
}

// manager compiles the manager, who is sent as an id, as an object with one, or
// as an array of one of these.
func (c *compiler) manager(v value) error {
	if c.verb == remove {
		return c.put(edit{field: managerField})
	}
	if v.kind == array {
		switch len(v.items) {
		case 0:
			return c.put(edit{field: managerField})
		case 1:
			v = v.items[0].value
		}
	}
	if v.kind == object {
		if v = v.get("value"); v.kind == absent {
			return nil
		}
	}
	id, err := c.name("manager", v)
	if err != nil {
		return err
	}
	return c.put(edit{field: managerField, text: id})
}

// attribute compiles an attribute that is kept as it is sent.
func (c *compiler) attribute(p path, v value) error {
	e := edit{field: attributeField, at: find(userAttributes[:], p.name), remove: c.verb == remove, add: c.verb == add}
	if e.at < 0 {
		return nil
	}
	a := &userAttributes[e.at]
	if p.filtered && !a.many || p.sub != "" && a.subs == nil {
		return refuse(invalidPath, "a path goes into an attribute that has no parts")
	}
	e.filtered, e.conditions = p.filtered, p.conditions
	if p.sub != "" {
		at := find(a.subs, p.sub)
		if at < 0 {
			return nil
		}
		e.sub = &a.subs[at]
	}
	var err error
	switch {
	case e.remove && (e.sub != nil || e.filtered || !a.many || v.kind == null):
	case e.sub != nil:
		e.value, err = e.sub.shape(v)
	case e.filtered:
		if v.kind == array && len(v.items) == 1 {
			v = v.items[0].value
		}
		e.value, err = a.shapeComplex(v)
	case e.remove && v.kind == absent:
	default:
		e.value, err = a.shape(v)
	}
	if err != nil {
		return err
	}
	return c.put(e)
}
