package stream

import (
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Field names of an entry.
const (
	fieldUUID     = "u"
	fieldPayload  = "p"
	fieldMetadata = "m:" // followed by the metadata key
)

// encode gives the fields of m, metadata in the order of its keys.
func encode(m *message.Message) []any {
	fields := make([]any, 0, 4+2*len(m.Metadata))
	fields = append(fields, fieldUUID, m.UUID, fieldPayload, []byte(m.Payload))
	for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
		fields = append(fields, fieldMetadata+k, m.Metadata[k])
	}
	return fields
}

// entry is what a stream entry says. Fields that we do not know are left alone.
type entry map[string]any

var errNoMessage = errors.New("entry is not a message: field u or p is missing")

func (e entry) check() error {
	_, u := e[fieldUUID].(string)
	_, p := e[fieldPayload].(string)
	if !u || !p {
		return errNoMessage
	}
	return nil
}

// message makes a new message of an entry that passed check.
func (e entry) message() *message.Message {
	uuid, _ := e[fieldUUID].(string)
	payload, _ := e[fieldPayload].(string)
	m := message.NewMessage(uuid, message.Payload(payload))
	for k, v := range e {
		if key, ok := strings.CutPrefix(k, fieldMetadata); ok {
			m.Metadata[key], _ = v.(string)
		}
	}
	return m
}

// fields gives the entry back as XADD wants it.
func (e entry) fields() []any {
	fields := make([]any, 0, 2*len(e))
	for _, k := range slices.Sorted(maps.Keys(e)) {
		fields = append(fields, k, e[k])
	}
	return fields
}
