package scim

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/handover-dev/handover/internal/store"
)

const (
	maxMembers = 25_000 // of a group
	maxID      = 128    // bytes
)

// groupEdit is all that is to be changed of a group at once.
type groupEdit struct {
	displayName, externalID *string
	emptied                 bool
	members                 map[string]bool // whether they are to be one
}

// groupEdits compiles the operations of a PATCH of a group.
func groupEdits(body value) (*groupEdit, error) {
	ops, err := operations(body)
	if err != nil {
		return nil, err
	}
	e := new(groupEdit)
	for _, op := range ops {
		if op.whole {
			err = e.whole(op.verb, op.value)
		} else {
			err = e.at(op.verb, op.path, op.value, true)
		}
		if err != nil {
			return nil, err
		}
	}
	return e, nil
}

// groupContent compiles a group as POST and PUT send it.
func groupContent(body value) (*groupEdit, error) {
	none := ""
	e := &groupEdit{externalID: &none, emptied: true}
	if err := e.whole(replaceWith, body); err != nil {
		return nil, err
	}
	if e.displayName == nil {
		return nil, refuse(invalidValue, "displayName is required")
	}
	return e, nil
}

func (e *groupEdit) whole(verb verb, v value) error {
	if v.kind != object {
		return refuse(invalidValue, "without a path the value has to be an object")
	}
	for i := range v.items {
		p, err := keyPath(v.items[i].key)
		if err == nil {
			err = e.at(verb, p, v.items[i].value, false)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (e *groupEdit) at(verb verb, p path, v value, explicit bool) error {
	switch {
	case p.schema != "" && p.schema != groupSchema:
		return nil
	case p.name == "" && verb == remove:
		return refuse(mutability, "a group cannot be removed by PATCH")
	case p.name == "":
		return e.whole(verb, v)
	case same(p.name, "members"):
		return e.memberList(verb, p, v)
	case same(p.name, "displayName"), same(p.name, "externalId"):
		if p.filtered || p.sub != "" {
			return refuse(invalidPath, "a path goes into an attribute that has no parts")
		}
		return e.name(verb, p, v)
	case explicit && (same(p.name, "id") || same(p.name, "meta")):
		return refuse(mutability, "the attribute cannot be changed")
	}
	return nil
}

func (e *groupEdit) name(verb verb, p path, v value) error {
	name := v.text
	required := same(p.name, "displayName")
	switch {
	case verb == remove && required:
		return refuse(mutability, "displayName cannot be removed")
	case verb == remove, v.kind == null && !required:
		name = ""
	case v.kind != text, len(name) > maxName, required && strings.TrimSpace(name) == "":
		return refuse(invalidValue, "displayName and externalId have to be strings of at most "+strconv.Itoa(maxName)+" bytes")
	}
	if required {
		e.displayName = &name
	} else {
		e.externalID = &name
	}
	return nil
}

func (e *groupEdit) memberList(verb verb, p path, v value) error {
	if p.sub != "" {
		return refuse(invalidPath, "members can be added and removed, not changed")
	}
	if p.filtered {
		if verb != remove || len(p.conditions) != 1 || !same(p.conditions[0].sub, "value") || p.conditions[0].value.kind != text {
			return refuse(invalidPath, `a member is removed with members[value eq "…"]`)
		}
		e.set(p.conditions[0].value.text, false)
		return nil
	}
	if verb == replaceWith || verb == remove && (v.kind == absent || v.kind == null) {
		e.emptied = true
		clear(e.members)
		if verb == remove {
			return nil
		}
	}
	list := v.items
	switch v.kind {
	case array, null:
	case object, text:
		list = []item{{value: v}}
	default:
		return refuse(invalidValue, "members has to be an array")
	}
	for i := range list {
		id := list[i].value
		if id.kind == object {
			id = id.get("value")
		}
		if id.kind != text || id.text == "" || len(id.text) > maxID {
			return refuse(invalidValue, "a member has to have the id of a user as its value")
		}
		e.set(id.text, verb != remove)
	}
	return nil
}

func (e *groupEdit) set(id string, member bool) {
	if e.members == nil {
		e.members = make(map[string]bool)
	}
	e.members[id] = member
}

// change makes the changes of a group.
func (e *groupEdit) change(g store.SCIMGroup) (store.SCIMGroup, error) {
	if e.displayName != nil {
		g.DisplayName = *e.displayName
	}
	if e.externalID != nil {
		g.ExternalID = *e.externalID
	}
	if !e.emptied && len(e.members) == 0 {
		return g, nil
	}
	var members []string
	if !e.emptied {
		for _, id := range g.Members {
			if _, told := e.members[id]; !told {
				members = append(members, id)
			}
		}
	}
	for id, member := range maps.All(e.members) {
		if member {
			members = append(members, id)
		}
	}
	if len(members) > maxMembers {
		return store.SCIMGroup{}, refuse(tooMany, "the group has more members than "+strconv.Itoa(maxMembers))
	}
	slices.Sort(members)
	g.Members = members
	return g, nil
}

// appendGroup appends a group as clients see it. base is the URL of the directory.
func appendGroup(b []byte, base string, g store.SCIMGroup, members bool) []byte {
	b = append(b, `{"schemas":["`+groupSchema+`"],"id":`...)
	b = appendText(b, g.ID)
	if g.ExternalID != "" {
		b = appendText(append(b, `,"externalId":`...), g.ExternalID)
	}
	b = appendText(append(b, `,"displayName":`...), g.DisplayName)
	if members {
		b = append(b, `,"members":[`...)
		for i, id := range g.Members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendText(append(b, `{"value":`...), id), `,"type":"User"}`...)
		}
		b = append(b, ']')
	}
	return appendMeta(b, base, "Group", g.ID, g.CreatedAt, g.UpdatedAt)
}
