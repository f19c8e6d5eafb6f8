-- +goose Up
-- Who is a member of what. What ended stays, out of sight, so that late news of
-- it are understood. Texts in JSON where noted; times are Unix microseconds but
-- for changed_at. Keys begin with what is selective: a database that knows little
-- of its rows might else read all that an environment has.

CREATE TABLE organizations (
  environment_id text     COLLATE "C" NOT NULL,
  id             text     COLLATE "C" NOT NULL,
  display_name   text     NOT NULL,
  external_id    text     COLLATE "C" NOT NULL,
  region_code    text     NOT NULL,
  slug           text     COLLATE "C" NOT NULL,
  metadata       text     NOT NULL, -- JSON object
  state          bigint   NOT NULL, -- 0 active, 1 being deleted, 2 deleted
  created_at     bigint   NOT NULL,
  updated_at     bigint   NOT NULL,
  PRIMARY KEY (id, environment_id)
);
CREATE UNIQUE INDEX organizations_external ON organizations (external_id, environment_id) WHERE external_id <> '' AND state = 0;
CREATE UNIQUE INDEX organizations_slug ON organizations (slug, environment_id) WHERE slug <> '' AND state = 0;
CREATE INDEX organizations_listed ON organizations (environment_id, id) WHERE state = 0;
CREATE INDEX organizations_deleting ON organizations (id) WHERE state = 1;

CREATE TABLE users (
  environment_id text   COLLATE "C" NOT NULL,
  id             text   COLLATE "C" NOT NULL,
  email          text   NOT NULL,
  email_key      text   COLLATE "C" NOT NULL, -- in lower case
  external_id    text   COLLATE "C" NOT NULL,
  profile        text   NOT NULL, -- JSON object
  metadata       text   NOT NULL, -- JSON object
  provisional    bigint NOT NULL,
  created_at     bigint NOT NULL,
  updated_at     bigint NOT NULL,
  last_login_at  bigint NOT NULL,
  deleted_at     bigint NOT NULL,
  PRIMARY KEY (id, environment_id)
) WITH (fillfactor = 85);
CREATE UNIQUE INDEX users_email ON users (email_key, environment_id) WHERE email_key <> '' AND deleted_at = 0;
CREATE UNIQUE INDEX users_external ON users (external_id, environment_id) WHERE external_id <> '' AND deleted_at = 0;
CREATE INDEX users_listed ON users (environment_id, id) WHERE deleted_at = 0;
CREATE INDEX users_deleted_email ON users (email_key, environment_id) WHERE email_key <> '' AND deleted_at > 0;

CREATE TABLE memberships (
  environment_id      text   COLLATE "C" NOT NULL,
  organization_id     text   COLLATE "C" NOT NULL,
  user_id             text   COLLATE "C" NOT NULL,
  status              bigint NOT NULL, -- 0 removed, 1 ACTIVE, 2 INACTIVE, 3 PENDING_INVITE, 4 INVITE_EXPIRED
  epoch               bigint NOT NULL,
  roles               text   NOT NULL, -- JSON array
  metadata            text   NOT NULL, -- JSON object
  inviter_email       text   NOT NULL,
  provisioning_method text   NOT NULL,
  joined_at           bigint NOT NULL,
  created_at          bigint NOT NULL,
  accepted_at         bigint NOT NULL,
  expires_at          bigint NOT NULL,
  updated_at          bigint NOT NULL,
  changed_at          bigint NOT NULL, -- Unix nanoseconds
  reason              text   NOT NULL,
  successor           text   NOT NULL, -- JSON object or ''
  removal_seq         bigint NOT NULL,
  PRIMARY KEY (user_id, organization_id, environment_id)
) WITH (fillfactor = 85);
-- Of those that were removed too: a removal changes nothing in an index so.
CREATE INDEX memberships_members ON memberships (organization_id, environment_id, user_id);

CREATE TABLE sessions (
  environment_id      text   COLLATE "C" NOT NULL,
  id                  text   COLLATE "C" NOT NULL,
  user_id             text   COLLATE "C" NOT NULL,
  organization_id     text   COLLATE "C" NOT NULL,
  organizations       text   NOT NULL, -- JSON array
  status              text   NOT NULL, -- active, expired, revoked, logout
  created_at          bigint NOT NULL,
  updated_at          bigint NOT NULL,
  last_active_at      bigint NOT NULL,
  idle_expires_at     bigint NOT NULL,
  absolute_expires_at bigint NOT NULL,
  expired_at          bigint NOT NULL,
  logout_at           bigint NOT NULL,
  PRIMARY KEY (id, environment_id)
);
CREATE INDEX sessions_user ON sessions (user_id, environment_id, id);
CREATE INDEX sessions_active ON sessions (user_id, environment_id) WHERE status = 'active';

-- People as a SCIM client sees them; directory_id is the environment and the
-- organization, with a slash between, for those that webhooks of a directory told.
CREATE TABLE directory_users (
  environment_id text   COLLATE "C" NOT NULL,
  directory_id  text   COLLATE "C" NOT NULL,
  organization_id text   COLLATE "C" NOT NULL,
  id            text   COLLATE "C" NOT NULL,
  user_id       text   COLLATE "C" NOT NULL,
  user_name     text   NOT NULL,
  user_name_key text   COLLATE "C" NOT NULL, -- in lower case
  external_id   text   COLLATE "C" NOT NULL,
  email         text   NOT NULL,
  email_key     text   COLLATE "C" NOT NULL,
  active        bigint NOT NULL,
  manager_id    text   COLLATE "C" NOT NULL,
  attributes    text   NOT NULL, -- JSON object
  created_at    bigint NOT NULL,
  updated_at    bigint NOT NULL,
  PRIMARY KEY (id, directory_id)
) WITH (fillfactor = 85);
CREATE INDEX directory_users_listed ON directory_users (directory_id, id);
CREATE UNIQUE INDEX directory_users_name ON directory_users (user_name_key, directory_id) WHERE user_name_key <> '';
CREATE INDEX directory_users_external ON directory_users (external_id, directory_id) WHERE external_id <> '';
CREATE INDEX directory_users_user ON directory_users (user_id, environment_id);

CREATE TABLE directory_groups (
  directory_id text   COLLATE "C" NOT NULL,
  id           text   COLLATE "C" NOT NULL,
  display_name text   NOT NULL,
  external_id  text   COLLATE "C" NOT NULL,
  members      text   NOT NULL, -- JSON array of directory users' ids
  created_at   bigint NOT NULL,
  updated_at   bigint NOT NULL,
  PRIMARY KEY (directory_id, id)
);
CREATE INDEX directory_groups_name ON directory_groups (directory_id, display_name);

-- One event of an environment may come under several webhook-ids.
ALTER TABLE inbox ADD COLUMN environment_id text NOT NULL DEFAULT '';
CREATE INDEX inbox_event ON inbox (event_id);
