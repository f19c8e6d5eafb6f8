-- +goose Up
-- The doors of SCIM clients, each into one organization.
CREATE TABLE scim_directories (
  id              text    PRIMARY KEY,
  environment_id  text    NOT NULL,
  organization_id text    NOT NULL,
  name            text    NOT NULL,
  state           text    NOT NULL CHECK (state IN ('enabled', 'disabled')),
  created_at      integer NOT NULL,
  updated_at      integer NOT NULL
);
CREATE INDEX scim_directories_organization ON scim_directories (organization_id, id);

CREATE TABLE scim_tokens (
  id           text    PRIMARY KEY,
  directory_id text    NOT NULL REFERENCES scim_directories (id) ON DELETE CASCADE,
  prefix       text    NOT NULL,
  hash         blob    NOT NULL UNIQUE,
  created_at   integer NOT NULL,
  expires_at   integer NOT NULL DEFAULT 0, -- 0: never
  last_used_at integer NOT NULL DEFAULT 0
);
CREATE INDEX scim_tokens_directory ON scim_tokens (directory_id);
