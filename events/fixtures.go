package events

import (
	"bytes"
	"embed"
	"encoding/json"
	"slices"
	"strings"
)

//go:embed fixtures/*.json
var fixtures embed.FS

// Fixture returns the body of an example event in compact JSON.
//
// The name is a type, "user.deleted", or one of [FixtureNames], which tells
// several examples of a type apart:
// "user.organization_membership_deleted.minimal". A type that has several and
// none of its very name gives the first of them. All examples are about the
// same invented people and organizations.
func Fixture(typ string) ([]byte, bool) {
	if body, ok := fixture(typ); ok {
		return body, true
	}
	for _, name := range FixtureNames() {
		body, _ := fixture(name)
		if e, err := Parse(body); err == nil && e.Type == typ {
			return body, true
		}
	}
	return nil, false
}

func fixture(name string) ([]byte, bool) {
	file, err := fixtures.ReadFile("fixtures/" + name + ".json")
	if err != nil {
		return nil, false
	}
	var out bytes.Buffer
	if json.Compact(&out, file) != nil {
		return nil, false
	}
	return out.Bytes(), true
}

// FixtureNames returns the names of all fixtures, sorted.
func FixtureNames() []string {
	files, _ := fixtures.ReadDir("fixtures") // embedded: it cannot fail
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = strings.TrimSuffix(f.Name(), ".json")
	}
	slices.Sort(names)
	return names
}

// FixtureTypes returns the types that have a fixture, sorted.
func FixtureTypes() []string {
	var types []string
	for _, name := range FixtureNames() {
		body, _ := fixture(name)
		if e, err := Parse(body); err == nil {
			types = append(types, e.Type)
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}
