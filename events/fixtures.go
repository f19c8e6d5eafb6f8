package events

import (
	"embed"
	"slices"
	"strings"
)

//go:embed testdata/*.json
var fixtures embed.FS

// Fixture returns the body of an example event in compact JSON, by its type or,
// where there are several of a type, by their names as [FixtureTypes] lists
// them.
func Fixture(name string) ([]byte, bool) {
	raw, err := fixtures.ReadFile("testdata/" + name + ".json")
	if err != nil {
		return nil, false
	}
	return compact(make([]byte, 0, len(raw)), raw), true
}

// FixtureTypes lists the names that [Fixture] knows.
func FixtureTypes() []string {
	entries, err := fixtures.ReadDir("testdata")
	if err != nil {
		return nil // cannot be: they are part of the program
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".json"))
	}
	slices.Sort(names)
	return names
}
