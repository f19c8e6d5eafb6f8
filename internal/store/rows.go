package store

import (
	"encoding/json"
	"time"

	"github.com/handover-dev/handover/signing"
)

// Endpoint states.
const (
	EndpointEnabled  = "enabled"
	EndpointDisabled = "disabled"
	EndpointDeleted  = "deleted"
)

// An Endpoint is where an app receives.
type Endpoint struct {
	ID              string
	Name            string
	URL             string
	EventTypes      []string // "*" for all
	OrganizationIDs []string // empty for all
	State           string
	DisabledReason  string
	Paused          bool            // its deliveries wait
	Schedule        []time.Duration // before each attempt; nil for the default
	Timeout         time.Duration   // 0 for the default
	Concurrency     int             // 0 for the default
	Keys            []EndpointKey   // newest first; those that have not expired
	CreatedAt       time.Time
	UpdatedAt       time.Time
}

// An EndpointKey signs what goes to an endpoint.
type EndpointKey struct {
	ID        string
	Key       signing.Key
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// Wants tells whether the endpoint subscribed to such an event.
func (e *Endpoint) Wants(eventType, organizationID string) bool {
	return e.State == EndpointEnabled && has(e.EventTypes, eventType, "*") &&
		(len(e.OrganizationIDs) == 0 || has(e.OrganizationIDs, organizationID, organizationID))
}

func has(list []string, a, b string) bool {
	for _, v := range list {
		if v == a || v == b {
			return true
		}
	}
	return false
}

// State is where a delivery stands.
type State int8

// The states of a delivery. The first three are open, the others final.
const (
	Pending    State = iota // waits for its due time
	Sending                 // in the hands of its owner
	Held                    // waits for an earlier delivery about the same person
	Succeeded               // answered 2xx
	Failed                  // retries exhausted: a dead letter
	Superseded              // the person came back
	Canceled                // by an operator, or with its endpoint
)

var stateWords = [...]string{"pending", "sending", "held", "succeeded", "failed", "superseded", "canceled"}

func (s State) String() string { return stateWords[s] }

// ParseState reads a state's word.
func ParseState(word string) (State, bool) {
	for i, w := range stateWords {
		if w == word {
			return State(i), true
		}
	}
	return 0, false
}

// A Delivery is one event on its way to one endpoint. Its id is the webhook-id.
type Delivery struct {
	ID             string
	EventID        string
	EventSeq       int64
	EventType      string
	EndpointID     string
	OrganizationID string
	UserID         string
	State          State
	DueAt          time.Time // meaningful when pending
	Attempts       int       // in all
	Tries          int       // in the present round of the schedule
	LastStatus     int
	LastError      string // class
	Outcome        string
	Receipt        json.RawMessage
	ReceiptError   string
	CreatedAt      time.Time
	UpdatedAt      time.Time
}

// An Attempt is one request of a delivery and what came of it.
type Attempt struct {
	DeliveryID string
	Number     int
	StartedAt  time.Time
	Duration   time.Duration
	Status     int // 0: no answer
	Class      string
	Error      string
	Answer     []byte
	Address    string
}

// An Event is a recorded event.
type Event struct {
	Seq            int64
	ID             string
	EnvironmentID  string
	Type           string
	OrganizationID string
	UserID         string
	Subject        string
	OccurredAt     time.Time
	RecordedAt     time.Time
	Body           []byte
}

// A Source is an identity provider that sends us signed webhooks.
type Source struct {
	ID            string
	Name          string
	Kind          string
	EnvironmentID string
	State         string
	Mapping       string         // JSON; "" for kinds that need none
	Secrets       []SourceSecret // newest first; those that have not expired
	CreatedAt     time.Time
	UpdatedAt     time.Time

	// What was counted, to a few seconds. SourceNamed leaves it out.
	Received    int64 // webhooks that were taken, repeated ones included
	LastEventAt time.Time
	Rejections  []SourceCount // most frequent first
	Unmapped    []SourceCount // likewise
}

// A SourceSecret is one of the secrets a source may sign with.
type SourceSecret struct {
	ID        string
	Key       signing.Key
	CreatedAt time.Time
	ExpiresAt time.Time // zero: never
}

// An APIKey lets a program or person use the API. Only a hash of it is kept.
type APIKey struct {
	ID         string
	Name       string
	Prefix     string // its first characters, to recognize it by
	CreatedAt  time.Time
	LastUsedAt time.Time
	RevokedAt  time.Time
}

// A Replay sends a selection of deliveries again, in the background.
type Replay struct {
	ID        string
	Selection Selection
	State     string // running, done, canceled, failed
	Error     string
	Total     int64
	Done      int64
	Skipped   int64
	Rate      int // deliveries a second, 0: unlimited
	CreatedAt time.Time
	UpdatedAt time.Time
}

// A Selection says which deliveries; what is empty does not restrict.
type Selection struct {
	DeliveryIDs    []string  `json:"delivery_ids,omitempty"`
	EventIDs       []string  `json:"event_ids,omitempty"`
	EndpointID     string    `json:"endpoint_id,omitempty"`
	EventType      string    `json:"event_type,omitempty"`
	OrganizationID string    `json:"organization_id,omitempty"`
	UserID         string    `json:"user_id,omitempty"`
	State          string    `json:"state,omitempty"`
	Since          time.Time `json:"since,omitzero"`
	Until          time.Time `json:"until,omitzero"`
	// Missing selects events that the endpoint never got, because it was added
	// later, instead of deliveries. It needs EndpointID.
	Missing bool `json:"missing,omitempty"`
}
