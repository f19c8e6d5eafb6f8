-- +goose Up
-- Who is a member of what. What ended stays, out of sight, so that late news of
-- it are understood. Texts in JSON where noted; times are Unix microseconds but
-- for changed_at. Keys begin with what is selective: a database that knows little
-- of its rows might else read all that an environment has.

CREATE TABLE organizations (
  environment_id text NOT NULL,
  id             text NOT NULL,
  display_name   text NOT NULL,
  external_id    text NOT NULL,
  region_code    text NOT NULL,
  slug           text NOT NULL,
  metadata       text NOT NULL, -- JSON object
  state          integer NOT NULL, -- 0 active, 1 being deleted, 2 deleted
  created_at     integer NOT NULL,
  updated_at     integer NOT NULL,
  PRIMARY KEY (id, environment_id)
);
CREATE UNIQUE INDEX organizations_external ON organizations (external_id, environment_id) WHERE external_id <> '' AND state = 0;
CREATE UNIQUE INDEX organizations_slug ON organizations (slug, environment_id) WHERE slug <> '' AND state = 0;
CREATE INDEX organizations_listed ON organizations (environment_id, id) WHERE state = 0;
CREATE INDEX organizations_deleting ON organizations (id) WHERE state = 1;

CREATE TABLE users (
  environment_id text NOT NULL,
  id             text NOT NULL,
  email          text NOT NULL,
  email_key      text NOT NULL, -- in lower case
  external_id    text NOT NULL,
  profile        text NOT NULL, -- JSON object
  metadata       text NOT NULL, -- JSON object
  provisional    integer NOT NULL,
  created_at     integer NOT NULL,
  updated_at     integer NOT NULL,
  last_login_at  integer NOT NULL,
  deleted_at     integer NOT NULL,
  PRIMARY KEY (id, environment_id)
);
CREATE UNIQUE INDEX users_email ON users (email_key, environment_id) WHERE email_key <> '' AND deleted_at = 0;
CREATE UNIQUE INDEX users_external ON users (external_id, environment_id) WHERE external_id <> '' AND deleted_at = 0;
CREATE INDEX users_listed ON users (environment_id, id) WHERE deleted_at = 0;
CREATE INDEX users_deleted_email ON users (email_key, environment_id) WHERE email_key <> '' AND deleted_at > 0;

CREATE TABLE memberships (
  environment_id      text NOT NULL,
  organization_id     text NOT NULL,
  user_id             text NOT NULL,
  status              integer NOT NULL, -- 0 removed, 1 ACTIVE, 2 INACTIVE, 3 PENDING_INVITE, 4 INVITE_EXPIRED
  epoch               integer NOT NULL,
  roles               text NOT NULL, -- JSON array
  metadata            text NOT NULL, -- JSON object
  inviter_email       text NOT NULL,
  provisioning_method text NOT NULL,
  joined_at           integer NOT NULL,
  created_at          integer NOT NULL,
  accepted_at         integer NOT NULL,
  expires_at          integer NOT NULL,
  updated_at          integer NOT NULL,
  changed_at          integer NOT NULL, -- Unix nanoseconds
  reason              text NOT NULL,
  successor           text NOT NULL, -- JSON object or ''
  removal_seq         integer NOT NULL,
  PRIMARY KEY (user_id, organization_id, environment_id)
);
-- Of those that were removed too: a removal changes nothing in an index so.
CREATE INDEX memberships_members ON memberships (organization_id, environment_id, user_id);

CREATE TABLE sessions (
  environment_id      text NOT NULL,
  id                  text NOT NULL,
  user_id             text NOT NULL,
  organization_id     text NOT NULL,
  organizations       text NOT NULL, -- JSON array
  status              text NOT NULL, -- active, expired, revoked, logout
  created_at          integer NOT NULL,
  updated_at          integer NOT NULL,
  last_active_at      integer NOT NULL,
  idle_expires_at     integer NOT NULL,
  absolute_expires_at integer NOT NULL,
  expired_at          integer NOT NULL,
  logout_at           integer NOT NULL,
  PRIMARY KEY (id, environment_id)
);
CREATE INDEX sessions_user ON sessions (user_id, environment_id, id);
CREATE INDEX sessions_active ON sessions (user_id, environment_id) WHERE status = 'active';

-- People as a SCIM client sees them; directory_id is the environment and the
-- organization, with a slash between, for those that webhooks of a directory told.
CREATE TABLE directory_users (
  environment_id text NOT NULL,
  directory_id  text NOT NULL,
  organization_id text NOT NULL,
  id            text NOT NULL,
  user_id       text NOT NULL,
  user_name     text NOT NULL,
  user_name_key text NOT NULL, -- in lower case
  external_id   text NOT NULL,
  email         text NOT NULL,
  email_key     text NOT NULL,
  active        integer NOT NULL,
  manager_id    text NOT NULL,
  attributes    text NOT NULL, -- JSON object
  created_at    integer NOT NULL,
  updated_at    integer NOT NULL,
  PRIMARY KEY (id, directory_id)
);
CREATE INDEX directory_users_listed ON directory_users (directory_id, id);
CREATE UNIQUE INDEX directory_users_name ON directory_users (user_name_key, directory_id) WHERE user_name_key <> '';
CREATE INDEX directory_users_external ON directory_users (external_id, directory_id) WHERE external_id <> '';
CREATE INDEX directory_users_user ON directory_users (user_id, environment_id);

CREATE TABLE directory_groups (
  directory_id text NOT NULL,
  id           text NOT NULL,
  display_name text NOT NULL,
  external_id  text NOT NULL,
  members      text NOT NULL, -- JSON array of directory users' ids
  created_at   integer NOT NULL,
  updated_at   integer NOT NULL,
  PRIMARY KEY (directory_id, id)
);
CREATE INDEX directory_groups_name ON directory_groups (directory_id, display_name);

-- One event of an environment may come under several webhook-ids.
ALTER TABLE inbox ADD COLUMN environment_id text NOT NULL DEFAULT '';
CREATE INDEX inbox_event ON inbox (event_id);
