CREATE TABLE IF NOT EXISTS handover_events (
  seq             integer PRIMARY KEY AUTOINCREMENT,
  id              text    NOT NULL,
  environment_id  text    NOT NULL,
  type            text    NOT NULL,
  organization_id text    NOT NULL,
  user_id         text    NOT NULL,
  subject         text    NOT NULL,
  occurred_at     integer NOT NULL, -- Unix nanoseconds
  recorded_at     integer NOT NULL, -- Unix microseconds
  body            blob    NOT NULL,
  UNIQUE (id, environment_id)
);

CREATE TABLE IF NOT EXISTS handover_outbox (
  event_seq integer PRIMARY KEY,
  subject   text    NOT NULL,
  state     integer NOT NULL DEFAULT 0 CHECK (state IN (0, 1)), -- 0 pending, 1 relayed
  attempts  integer NOT NULL DEFAULT 0,
  due_at    integer NOT NULL, -- Unix microseconds: when to relay it, or to relay it again
  owner     text    NOT NULL DEFAULT ''
);

CREATE INDEX IF NOT EXISTS handover_outbox_due ON handover_outbox (due_at, event_seq);
CREATE INDEX IF NOT EXISTS handover_outbox_subject ON handover_outbox (subject, event_seq) WHERE subject <> '';
