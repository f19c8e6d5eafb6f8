-- +goose Up
-- Who may use the Scalekit-compatible API.
CREATE TABLE clients (
  id             text    PRIMARY KEY,
  name           text    NOT NULL,
  environment_id text    NOT NULL,
  prefix         text    NOT NULL, -- of the secret
  hash           blob    NOT NULL, -- of the secret
  created_at     integer NOT NULL,
  last_used_at   integer NOT NULL DEFAULT 0,
  revoked_at     integer NOT NULL DEFAULT 0
);
