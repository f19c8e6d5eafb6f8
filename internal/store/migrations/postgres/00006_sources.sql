-- +goose Up
-- Where a source of the kind standard has in its events what a removal is made of.
ALTER TABLE sources ADD COLUMN mapping text NOT NULL DEFAULT ''; -- JSON, empty: none

-- What came of the webhooks of each source: so many rows for each, whatever is sent.
CREATE TABLE source_counts (
  source_id text   NOT NULL REFERENCES sources (id) ON DELETE CASCADE,
  kind      text   NOT NULL CHECK (kind IN ('received', 'rejected', 'unmapped')),
  what      text   NOT NULL, -- the reason or the type
  n         bigint NOT NULL,
  last_at   bigint NOT NULL,
  PRIMARY KEY (source_id, kind, what)
);
