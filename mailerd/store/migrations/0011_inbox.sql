-- What providers told us by webhook, as it came: written before they get their 200, read later, kept for a while.

CREATE TABLE mailerd.inbox (
  id bigint GENERATED ALWAYS AS IDENTITY (CACHE 100) PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  provider text NOT NULL,                          -- whose webhook it is, by its name in the configuration
  headers text NOT NULL,                           -- a JSON object, without credentials
  body bytea NOT NULL,
  reason text                                      -- why it could not be read; NULL: it was, or will be
) WITH (autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 1000000);

CREATE INDEX inbox_refused ON mailerd.inbox (id) WHERE reason IS NOT NULL;

-- Those that nobody has read yet.
CREATE TABLE mailerd.inbox_unread (
  id bigint PRIMARY KEY
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.inbox_unread TO mailerd_read;
  END IF;
END $$;
