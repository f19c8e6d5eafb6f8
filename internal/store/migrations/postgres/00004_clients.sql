-- +goose Up
-- Who may use the Scalekit-compatible API.
CREATE TABLE clients (
  id             text   COLLATE "C" PRIMARY KEY,
  name           text   NOT NULL,
  environment_id text   NOT NULL,
  prefix         text   NOT NULL, -- of the secret
  hash           bytea  NOT NULL, -- of the secret
  created_at     bigint NOT NULL,
  last_used_at   bigint NOT NULL DEFAULT 0,
  revoked_at     bigint NOT NULL DEFAULT 0
);
