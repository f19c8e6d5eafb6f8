-- +goose Up
-- The doors of SCIM clients, each into one organization.
CREATE TABLE scim_directories (
  id              text   COLLATE "C" PRIMARY KEY,
  environment_id  text   NOT NULL,
  organization_id text   COLLATE "C" NOT NULL,
  name            text   NOT NULL,
  state           text   NOT NULL CHECK (state IN ('enabled', 'disabled')),
  created_at      bigint NOT NULL,
  updated_at      bigint NOT NULL
);
CREATE INDEX scim_directories_organization ON scim_directories (organization_id, id);

CREATE TABLE scim_tokens (
  id           text   COLLATE "C" PRIMARY KEY,
  directory_id text   COLLATE "C" NOT NULL REFERENCES scim_directories (id) ON DELETE CASCADE,
  prefix       text   NOT NULL,
  hash         bytea  NOT NULL UNIQUE,
  created_at   bigint NOT NULL,
  expires_at   bigint NOT NULL DEFAULT 0, -- 0: never
  last_used_at bigint NOT NULL DEFAULT 0
);
CREATE INDEX scim_tokens_directory ON scim_tokens (directory_id);
