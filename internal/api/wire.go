package api

import (
	"encoding/json"
	"time"

	"github.com/handover-dev/handover/internal/ingest/webhook/mapping"
)

// The routes, but for those of who is a member of what (see wire_directory.go),
// all under the service's URL and with "Authorization: Bearer KEY":
//
//	GET    /v1/endpoints               → Page[Endpoint]    ?state&cursor&limit
//	POST   /v1/endpoints               → 201 Endpoint      NewEndpoint; Secret set this once
//	GET    /v1/endpoints/{id}          → Endpoint
//	PATCH  /v1/endpoints/{id}          → Endpoint          EndpointChange
//	DELETE /v1/endpoints/{id}          → 204
//	POST   /v1/endpoints/{id}/disable  → Endpoint          open deliveries are canceled
//	POST   /v1/endpoints/{id}/enable   → Endpoint
//	POST   /v1/endpoints/{id}/pause    → Endpoint          deliveries wait
//	POST   /v1/endpoints/{id}/resume   → Endpoint
//	POST   /v1/endpoints/{id}/rotate   → Endpoint          Rotation or nothing; Secret set this once
//	POST   /v1/endpoints/{id}/test     → 202 Delivery      of an event handover.test
//
//	POST   /v1/events                  → 202 Published     an event; header Idempotency-Key
//	POST   /v1/events/batch            → 202 PublishedBatch  an array of events; header Idempotency-Key
//	GET    /v1/events                  → Page[Event]       ?type&organization_id&user_id&since&until&cursor&limit
//	GET    /v1/events/{id}             → Event             ?environment_id; with its Body
//
//	GET    /v1/deliveries              → Page[Delivery]    ?state&endpoint_id&event_id&organization_id&user_id&since&until&cursor&limit
//	GET    /v1/deliveries/{id}         → Delivery          with its Attempts
//	POST   /v1/deliveries/{id}/retry   → Delivery          due now, from the start of the schedule
//	POST   /v1/deliveries/{id}/cancel  → Delivery          lets the person's next one go
//
//	GET    /v1/replays                 → Page[Replay]      ?cursor&limit
//	POST   /v1/replays                 → 202 Replay        NewReplay; 200 with DryRun set: counts only
//	GET    /v1/replays/{id}            → Replay
//	POST   /v1/replays/{id}/cancel     → Replay
//
//	GET    /v1/sources                 → Page[Source]      ?cursor&limit
//	POST   /v1/sources                 → 201 Source        NewSource; Secret set this once when it was generated
//	GET    /v1/sources/{id}            → Source
//	PATCH  /v1/sources/{id}            → Source            SourceChange
//	DELETE /v1/sources/{id}            → 204
//	POST   /v1/sources/{id}/rotate     → Source            Rotation or nothing; Secret set this once when it was generated
//
//	GET    /v1/api-keys                → Page[APIKey]      ?cursor&limit
//	POST   /v1/api-keys                → 201 APIKey        NewAPIKey; Key set this once
//	DELETE /v1/api-keys/{id}           → 204               revoked; not the one that asks
//
//	GET    /openapi.json               no key needed
//
// Times are RFC 3339. Lists come newest first, a page at a time: NextCursor is
// the cursor of the next page, empty on the last one. A page may be shorter than
// its limit, even empty, and not be the last.
//
// What is refused is answered with application/problem+json (RFC 9457), whose
// errors[] name the fields as body.url, query.cursor, path.id, header.Idempotency-Key.

// A Page is a part of a list.
type Page[T any] struct {
	Data       []T    `json:"data" nullable:"false"`
	NextCursor string `json:"next_cursor" doc:"Cursor of the next page; empty on the last one."`
}

// An Endpoint is where an app receives.
type Endpoint struct {
	ID              string        `json:"id" example:"ep_01JDE8H0S4W5X6Y7Z8A9B0C1D2"`
	Name            string        `json:"name"`
	URL             string        `json:"url"`
	EventTypes      []string      `json:"event_types" nullable:"false" doc:"What it is subscribed to; * is every type."`
	OrganizationIDs []string      `json:"organization_ids" nullable:"false" doc:"Whose events it gets; empty: all organizations'."`
	State           string        `json:"state" enum:"enabled,disabled,deleted"`
	DisabledReason  string        `json:"disabled_reason,omitempty"`
	Paused          bool          `json:"paused,omitempty" doc:"Its deliveries wait."`
	RetrySchedule   []float64     `json:"retry_schedule,omitempty" nullable:"false" doc:"Seconds before each attempt; absent: the default."`
	TimeoutSeconds  float64       `json:"timeout_seconds,omitempty" doc:"Of one attempt; absent: the default."`
	Concurrency     int           `json:"concurrency,omitempty" doc:"Attempts at a time; absent: the default."`
	Keys            []EndpointKey `json:"keys" nullable:"false" doc:"What signs, newest first. Secrets are not shown."`
	Secret          string        `json:"secret,omitempty" doc:"The new signing secret. It is shown this once."`
	CreatedAt       time.Time     `json:"created_at"`
	UpdatedAt       time.Time     `json:"updated_at"`
}

// An EndpointKey signs what goes to an endpoint.
type EndpointKey struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero" required:"false" doc:"Absent: never."`
}

// NewEndpoint asks for an endpoint.
type NewEndpoint struct {
	Name            string    `json:"name" minLength:"1" maxLength:"200"`
	URL             string    `json:"url" minLength:"1" maxLength:"2048" doc:"Where to deliver to."`
	EventTypes      []string  `json:"event_types" nullable:"false" minItems:"1" maxItems:"100" doc:"Event types, or * for all." example:"[\"user.organization_membership_deleted\"]"`
	OrganizationIDs []string  `json:"organization_ids,omitempty" nullable:"false" maxItems:"1000" doc:"Only events of these organizations; absent or empty: all."`
	Secret          string    `json:"secret,omitempty" maxLength:"200" doc:"An own signing secret, whsec_ or whsk_; absent: one is generated."`
	RetrySchedule   []float64 `json:"retry_schedule,omitempty" nullable:"false" minItems:"1" maxItems:"32" doc:"Seconds before each attempt, the first one included."`
	TimeoutSeconds  float64   `json:"timeout_seconds,omitempty" minimum:"0.1" maximum:"60"`
	Concurrency     int       `json:"concurrency,omitempty" minimum:"1" maximum:"1000"`
}

// An EndpointChange changes what is set in it.
type EndpointChange struct {
	Name            *string    `json:"name,omitempty" minLength:"1" maxLength:"200"`
	URL             *string    `json:"url,omitempty" minLength:"1" maxLength:"2048"`
	EventTypes      *[]string  `json:"event_types,omitempty" nullable:"false" minItems:"1" maxItems:"100"`
	OrganizationIDs *[]string  `json:"organization_ids,omitempty" nullable:"false" maxItems:"1000" doc:"Empty: all organizations."`
	RetrySchedule   *[]float64 `json:"retry_schedule,omitempty" nullable:"false" maxItems:"32" doc:"Empty: the default."`
	TimeoutSeconds  *float64   `json:"timeout_seconds,omitempty" minimum:"0" maximum:"60" doc:"0: the default."`
	Concurrency     *int       `json:"concurrency,omitempty" minimum:"0" maximum:"1000" doc:"0: the default."`
}

// A Rotation replaces a secret. The older ones remain valid for a while.
type Rotation struct {
	Secret         string   `json:"secret,omitempty" maxLength:"200" doc:"The new secret; absent: one is generated."`
	OverlapSeconds *float64 `json:"overlap_seconds,omitempty" minimum:"0" maximum:"2592000" doc:"How long the older ones remain valid; absent: 24 hours."`
}

// A Published tells what became of an event that was published.
type Published struct {
	ID        string `json:"id" example:"evt_118200000000003001"`
	Duplicate bool   `json:"duplicate" doc:"It had been recorded before; nothing was done."`
}

// A PublishedBatch is in the order of the events that were sent.
type PublishedBatch struct {
	Data []Published `json:"data" nullable:"false"`
}

// An Event is a recorded event.
type Event struct {
	ID             string          `json:"id"`
	Type           string          `json:"type"`
	EnvironmentID  string          `json:"environment_id"`
	OrganizationID string          `json:"organization_id,omitempty"`
	UserID         string          `json:"user_id,omitempty"`
	OccurredAt     time.Time       `json:"occurred_at"`
	RecordedAt     time.Time       `json:"recorded_at"`
	Body           json.RawMessage `json:"body,omitempty" doc:"The event as it is sent; not in lists."`
}

// A Delivery is one event on its way to one endpoint.
type Delivery struct {
	ID             string          `json:"id" doc:"The webhook-id of every attempt." example:"msg_01JDE8H0S4W5X6Y7Z8A9B0C1D2"`
	EventID        string          `json:"event_id"`
	EventType      string          `json:"event_type"`
	EndpointID     string          `json:"endpoint_id"`
	OrganizationID string          `json:"organization_id,omitempty"`
	UserID         string          `json:"user_id,omitempty"`
	State          string          `json:"state" enum:"pending,sending,held,succeeded,failed,superseded,canceled"`
	NextAttemptAt  time.Time       `json:"next_attempt_at,omitzero" required:"false" doc:"When it is pending."`
	AttemptCount   int             `json:"attempt_count"`
	LastStatus     int             `json:"last_status,omitempty" doc:"HTTP status of the last attempt; absent: no answer."`
	LastError      string          `json:"last_error,omitempty" doc:"What kind of failure, or why it was canceled."`
	Outcome        string          `json:"outcome,omitempty" doc:"What the app says it did."`
	Receipt        json.RawMessage `json:"receipt,omitempty" doc:"The app's receipt."`
	ReceiptError   string          `json:"receipt_error,omitempty" doc:"What is wrong with the app's receipt."`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	Attempts       []Attempt       `json:"attempts,omitempty" nullable:"false" doc:"Oldest first, at most the last 100; not in lists."`
}

// An Attempt is one request of a delivery and what came of it.
type Attempt struct {
	Number     int       `json:"number"`
	StartedAt  time.Time `json:"started_at"`
	DurationMS float64   `json:"duration_ms"`
	Status     int       `json:"status,omitempty" doc:"HTTP status; absent: no answer."`
	Class      string    `json:"class" doc:"What kind of success or failure."`
	Error      string    `json:"error,omitempty"`
	Answer     string    `json:"answer,omitempty" doc:"The first bytes of the answer's body."`
	Address    string    `json:"address,omitempty" doc:"The address that was dialled."`
}

// A Selection says which deliveries; what is absent does not restrict.
type Selection struct {
	DeliveryIDs    []string  `json:"delivery_ids,omitempty" nullable:"false" maxItems:"1000"`
	EventIDs       []string  `json:"event_ids,omitempty" nullable:"false" maxItems:"1000"`
	EndpointID     string    `json:"endpoint_id,omitempty" maxLength:"255"`
	EventType      string    `json:"event_type,omitempty" maxLength:"255"`
	OrganizationID string    `json:"organization_id,omitempty" maxLength:"255"`
	UserID         string    `json:"user_id,omitempty" maxLength:"255"`
	State          string    `json:"state,omitempty" enum:"pending,held,succeeded,failed,canceled"`
	Since          time.Time `json:"since,omitzero" required:"false" doc:"Created at or after; of missing ones, the event recorded at or after."`
	Until          time.Time `json:"until,omitzero" required:"false" doc:"Created before; of missing ones, the event recorded before."`
	Missing        bool      `json:"missing,omitempty" doc:"Select events that the endpoint never got although it is subscribed to them, because it was added or changed later. Needs endpoint_id."`
}

// NewReplay asks for deliveries to be sent again. It must restrict them in at
// least one way.
type NewReplay struct {
	Selection
	Rate   int  `json:"rate,omitempty" minimum:"1" maximum:"100000" doc:"Deliveries a second at most; absent: unlimited."`
	DryRun bool `json:"dry_run,omitempty" doc:"Only count."`
}

// A Replay sends a selection of deliveries again, in the background.
type Replay struct {
	ID        string    `json:"id,omitempty" doc:"Absent in the answer to a dry run."`
	DryRun    bool      `json:"dry_run,omitempty"`
	Selection Selection `json:"selection"`
	State     string    `json:"state" enum:"running,done,canceled,failed,dry_run"`
	Error     string    `json:"error,omitempty"`
	Total     int64     `json:"total" doc:"How many were selected when it was created."`
	Done      int64     `json:"done" doc:"How many are on their way again."`
	Skipped   int64     `json:"skipped" doc:"How many were not sent again: superseded, under way just then, of a disabled endpoint, or gone."`
	Rate      int       `json:"rate,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero" required:"false"`
	UpdatedAt time.Time `json:"updated_at,omitzero" required:"false"`
}

// A Source is an identity provider that sends us signed webhooks.
type Source struct {
	ID            string         `json:"id"`
	Name          string         `json:"name" doc:"The last part of its path."`
	Path          string         `json:"path" doc:"Where it sends to." example:"/webhooks/scalekit"`
	Kind          string         `json:"kind" enum:"scalekit,standard"`
	EnvironmentID string         `json:"environment_id"`
	State         string         `json:"state" enum:"enabled,disabled"`
	Mapping       *SourceMapping `json:"mapping,omitempty" doc:"What its events mean; of the kind standard."`
	Secrets       []SourceSecret `json:"secrets" nullable:"false" doc:"What it may sign with, newest first. They are not shown."`
	Secret        string         `json:"secret,omitempty" doc:"The new secret. It is shown this once, and only when it was generated."`
	Received      int64          `json:"received" doc:"Webhooks that were taken, repeated ones included. Counts are a few seconds old."`
	LastEventAt   time.Time      `json:"last_event_at,omitzero" required:"false" doc:"When the last one was taken; absent: none was."`
	Rejections    []Rejection    `json:"rejections" nullable:"false" doc:"Webhooks that were not taken, by reason, the most frequent first."`
	Unmapped      []Unmapped     `json:"unmapped" nullable:"false" doc:"Webhooks whose type means nothing here, the most frequent first. Those of a source of the kind scalekit are events all the same."`
	CreatedAt     time.Time      `json:"created_at"`
	UpdatedAt     time.Time      `json:"updated_at"`
}

// A SourceMapping says what the events of a source of the kind standard mean.
type SourceMapping = mapping.Mapping

// ReadSourceMapping reads a mapping strictly, and says what is wrong with it.
func ReadSourceMapping(text []byte) (SourceMapping, error) {
	m, err := mapping.Parse(text)
	if err == nil {
		_, err = m.Compile()
	}
	return m, err
}

// A Rejection is why webhooks of a source were not taken.
type Rejection struct {
	Reason string    `json:"reason" doc:"method, size, body, media, header, time, signature, blocked, event, environment, conflict, source (it was disabled) or unavailable." example:"signature"`
	Count  int64     `json:"count"`
	LastAt time.Time `json:"last_at"`
}

// An Unmapped is a type of a source's events that means nothing here.
type Unmapped struct {
	Type   string    `json:"type" doc:"The type as it was sent, in printable characters; other: the types after the first 50."`
	Count  int64     `json:"count"`
	LastAt time.Time `json:"last_at"`
}

// A SourceSecret is one of the secrets a source may sign with.
type SourceSecret struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero" required:"false" doc:"Absent: never."`
}

// NewSource asks for a source.
type NewSource struct {
	Name          string         `json:"name" minLength:"1" maxLength:"63" pattern:"^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$" patternDescription:"lower case letters, digits, - and _" doc:"The last part of its path, /webhooks/{name}."`
	Kind          string         `json:"kind,omitempty" enum:"scalekit,standard" default:"scalekit" doc:"scalekit: events in the form of Scalekit's; standard: any Standard Webhooks, with a mapping."`
	EnvironmentID string         `json:"environment_id" minLength:"5" maxLength:"64" pattern:"^env_[A-Za-z0-9_-]+$" patternDescription:"env_ and an id" doc:"The environment of its events; of the kind scalekit, the only one whose events are taken."`
	Mapping       *SourceMapping `json:"mapping,omitempty" doc:"What its events mean; required of the kind standard."`
	Secret        string         `json:"secret,omitempty" maxLength:"200" doc:"The secret it signs with, whsec_…; absent: one is generated."`
	Secrets       []string       `json:"secrets,omitempty" nullable:"false" maxItems:"10" doc:"Several secrets, if it signs with any of them."`
}

// A SourceChange changes what is set in it.
type SourceChange struct {
	EnvironmentID *string        `json:"environment_id,omitempty" minLength:"5" maxLength:"64" pattern:"^env_[A-Za-z0-9_-]+$" patternDescription:"env_ and an id"`
	State         *string        `json:"state,omitempty" enum:"enabled,disabled"`
	Mapping       *SourceMapping `json:"mapping,omitempty" doc:"In place of the mapping that it has; of the kind standard."`
}

// An APIKey lets a program or person use this API.
type APIKey struct { //nolint:revive // it is a key of the API, not of a thing that the API has
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	Prefix     string    `json:"prefix" doc:"Its first characters, to recognize it by."`
	Key        string    `json:"key,omitempty" doc:"The key. It is shown this once."`
	CreatedAt  time.Time `json:"created_at"`
	LastUsedAt time.Time `json:"last_used_at,omitzero" required:"false" doc:"To the minute; absent: never."`
	RevokedAt  time.Time `json:"revoked_at,omitzero" required:"false" doc:"Absent: it is valid."`
}

// NewAPIKey asks for an API key.
type NewAPIKey struct {
	Name string `json:"name" minLength:"1" maxLength:"200"`
}
