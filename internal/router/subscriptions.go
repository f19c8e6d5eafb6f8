package router

import (
	"context"
	"slices"

	"github.com/handover-dev/handover/internal/store"
)

// subscriptions are the endpoints as of one version, by the event types they
// ask for. One goroutine uses them.
type subscriptions struct {
	version int64
	byType  map[string][]*store.Endpoint
	forAll  []*store.Endpoint
}

// refresh reads the endpoints again unless they are of that version or a later
// one.
func (s *subscriptions) refresh(ctx context.Context, from *store.Store, version int64) error {
	if s.byType != nil && s.version >= version {
		return nil
	}
	version, all, err := from.Endpoints(ctx)
	if err != nil {
		return err
	}
	s.version, s.byType, s.forAll = version, make(map[string][]*store.Endpoint), nil
	for i := range all {
		e := &all[i]
		if e.State != store.EndpointEnabled {
			continue
		}
		if slices.Contains(e.EventTypes, "*") {
			s.forAll = append(s.forAll, e)
			continue
		}
		types := slices.Clone(e.EventTypes)
		slices.Sort(types)
		for _, t := range slices.Compact(types) {
			s.byType[t] = append(s.byType[t], e)
		}
	}
	return nil
}

// of returns the endpoints that may want events of a type.
func (s *subscriptions) of(eventType string) []*store.Endpoint {
	if len(s.byType[eventType]) == 0 {
		return s.forAll
	}
	return append(s.forAll[:len(s.forAll):len(s.forAll)], s.byType[eventType]...)
}
