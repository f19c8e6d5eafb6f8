-- +goose Up
-- Times are Unix microseconds throughout.

CREATE INDEX handover_events_organization ON handover_events (organization_id, seq);
CREATE INDEX handover_events_user ON handover_events (user_id, seq) WHERE user_id <> '';

-- One row: what a process must know before it routes or sends.
CREATE TABLE control (
  id                integer PRIMARY KEY CHECK (id = 1),
  endpoints_version integer NOT NULL DEFAULT 1,
  key_check         blob,
  created_at        integer NOT NULL
);

CREATE TABLE endpoints (
  id               text     PRIMARY KEY,
  name             text     NOT NULL,
  url              text     NOT NULL,
  event_types      text     NOT NULL, -- JSON array
  organization_ids text     NOT NULL, -- JSON array, empty: all
  state            text     NOT NULL CHECK (state IN ('enabled', 'disabled', 'deleted')),
  disabled_reason  text     NOT NULL DEFAULT '',
  paused           boolean  NOT NULL DEFAULT false, -- deliveries wait
  schedule         text     NOT NULL DEFAULT '', -- JSON array of seconds, empty: the default
  timeout_ms       integer  NOT NULL DEFAULT 0,
  concurrency      integer  NOT NULL DEFAULT 0,
  created_at       integer   NOT NULL,
  updated_at       integer   NOT NULL
);

CREATE TABLE endpoint_keys (
  id          text   PRIMARY KEY,
  endpoint_id text   NOT NULL REFERENCES endpoints (id),
  secret      blob  NOT NULL, -- encrypted
  created_at  integer NOT NULL,
  expires_at  integer NOT NULL DEFAULT 0 -- 0: never
);
CREATE INDEX endpoint_keys_endpoint ON endpoint_keys (endpoint_id);

CREATE TABLE deliveries (
  id            text     PRIMARY KEY,
  event_seq     integer   NOT NULL,
  endpoint_id   text     NOT NULL,
  order_key     text     NOT NULL, -- whom it is about; its own id when it is about nobody
  state         integer NOT NULL CHECK (state BETWEEN 0 AND 6),
  -- 0 pending, 1 sending, 2 held, 3 succeeded, 4 failed, 5 superseded, 6 canceled
  due_at        integer   NOT NULL,
  owner         text     NOT NULL DEFAULT '', -- who is sending it
  attempts      integer  NOT NULL DEFAULT 0,  -- in all
  tries         integer  NOT NULL DEFAULT 0,  -- of the present round of the schedule
  last_status   integer  NOT NULL DEFAULT 0,
  last_error    text     NOT NULL DEFAULT '', -- class
  outcome       text     NOT NULL DEFAULT '',
  receipt       text     NOT NULL DEFAULT '', -- JSON
  receipt_error text     NOT NULL DEFAULT '',
  created_at    integer   NOT NULL,
  updated_at    integer   NOT NULL,
  UNIQUE (event_seq, endpoint_id)
);

-- What is left to do, and nothing that is done.
CREATE INDEX deliveries_due ON deliveries (endpoint_id, due_at, id) WHERE state = 0;
CREATE INDEX deliveries_sending ON deliveries (owner) WHERE state = 1;
CREATE INDEX deliveries_held ON deliveries (endpoint_id, order_key, event_seq) WHERE state = 2;
-- One person's deliveries to one endpoint go one at a time.
CREATE UNIQUE INDEX deliveries_active ON deliveries (endpoint_id, order_key) WHERE state < 2;
-- The dead letters.
CREATE INDEX deliveries_failed ON deliveries (id) WHERE state = 4;

CREATE TABLE attempts (
  delivery_id text    NOT NULL,
  number      integer NOT NULL,
  started_at  integer  NOT NULL,
  duration_us integer  NOT NULL,
  status      integer NOT NULL, -- 0: no answer
  class       text    NOT NULL,
  error       text    NOT NULL,
  answer      blob   NOT NULL,
  address     text    NOT NULL,
  PRIMARY KEY (delivery_id, number)
);

CREATE TABLE workers (
  owner       text   PRIMARY KEY, -- one start of a process
  name        text   NOT NULL,    -- what keeps its name over restarts
  version     text   NOT NULL,
  started_at  integer NOT NULL,
  lease_until integer NOT NULL
);

CREATE TABLE sources (
  id             text   PRIMARY KEY,
  name           text   NOT NULL UNIQUE, -- the path segment
  kind           text   NOT NULL,
  environment_id text   NOT NULL,
  state          text   NOT NULL CHECK (state IN ('enabled', 'disabled')),
  created_at     integer NOT NULL,
  updated_at     integer NOT NULL
);

CREATE TABLE source_secrets (
  id         text   PRIMARY KEY,
  source_id  text   NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
  secret     blob  NOT NULL, -- encrypted
  created_at integer NOT NULL,
  expires_at integer NOT NULL DEFAULT 0
);
CREATE INDEX source_secrets_source ON source_secrets (source_id);

CREATE TABLE inbox (
  source_id   text   NOT NULL,
  webhook_id  text   NOT NULL,
  event_id    text   NOT NULL,
  body_hash   blob  NOT NULL,
  received_at integer NOT NULL,
  PRIMARY KEY (source_id, webhook_id)
);
CREATE INDEX inbox_age ON inbox (received_at);

CREATE TABLE api_keys (
  id           text   PRIMARY KEY,
  name         text   NOT NULL,
  prefix       text   NOT NULL,
  hash         blob  NOT NULL UNIQUE,
  created_at   integer NOT NULL,
  last_used_at integer NOT NULL DEFAULT 0,
  revoked_at   integer NOT NULL DEFAULT 0
);

CREATE TABLE idempotency_keys (
  api_key_id   text   NOT NULL,
  key          text   NOT NULL,
  request_hash blob  NOT NULL,
  response     text   NOT NULL, -- JSON
  created_at   integer NOT NULL,
  PRIMARY KEY (api_key_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE replays (
  id           text    PRIMARY KEY,
  selection    text    NOT NULL, -- JSON
  state        text    NOT NULL CHECK (state IN ('running', 'done', 'canceled', 'failed')),
  error        text    NOT NULL DEFAULT '',
  total        integer  NOT NULL,
  done         integer  NOT NULL DEFAULT 0,
  skipped      integer  NOT NULL DEFAULT 0,
  rate         integer NOT NULL DEFAULT 0, -- a second; 0: unlimited
  position     text    NOT NULL DEFAULT '', -- how far it came
  upper        text    NOT NULL DEFAULT '', -- where it ends
  owner        text    NOT NULL DEFAULT '',
  created_at   integer  NOT NULL,
  updated_at   integer  NOT NULL
);
CREATE INDEX replays_running ON replays (id) WHERE state = 'running';
