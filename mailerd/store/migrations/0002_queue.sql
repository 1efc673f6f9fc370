-- The working set: `ready` is the only hot table, narrow, with one index. Everything that waits for a time is in
-- `scheduled`, because rows that are not due at the head of an index are what slows every lease.

CREATE TABLE mailerd.ready (
  stream text COLLATE "C" NOT NULL,
  priority smallint NOT NULL,
  domain text COLLATE "C" NOT NULL,
  campaign text COLLATE "C" NOT NULL DEFAULT '',
  id bigint NOT NULL,
  attempt smallint NOT NULL DEFAULT 0,
  leases smallint NOT NULL DEFAULT 0,
  rcpt bigint NOT NULL DEFAULT -1,
  size int NOT NULL DEFAULT 0,
  expires_at timestamptz,
  intent boolean NOT NULL DEFAULT false,
  lease_until timestamptz NOT NULL DEFAULT '-infinity',
  lease_token bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (stream, priority, domain, campaign, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_vacuum_insert_scale_factor = 0, autovacuum_vacuum_insert_threshold = 200000,
        autovacuum_vacuum_cost_delay = 1);

CREATE TABLE mailerd.scheduled (
  stream text COLLATE "C" NOT NULL,
  priority smallint NOT NULL,
  run_at timestamptz NOT NULL,
  id bigint NOT NULL,
  domain text COLLATE "C" NOT NULL,
  campaign text COLLATE "C" NOT NULL DEFAULT '',
  attempt smallint NOT NULL DEFAULT 0,
  rcpt bigint NOT NULL DEFAULT -1,
  size int NOT NULL DEFAULT 0,
  expires_at timestamptz,
  deferred boolean NOT NULL DEFAULT false,   -- a retry, not a send-later
  PRIMARY KEY (stream, priority, run_at, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
CREATE INDEX scheduled_id ON mailerd.scheduled (id);

-- What each stream is configured to be, published by the daemons so that triggers know its windows.
CREATE TABLE mailerd.stream (
  name text COLLATE "C" PRIMARY KEY,
  dedup_window interval NOT NULL DEFAULT '24 hours',
  expires interval NOT NULL DEFAULT '3 days',
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- Two generations of keys, so that old ones go by TRUNCATE. `dedup_generation` says which one is written. In a
-- generation's first hour a key is written to both, so that a transaction that began before the turn is still seen.
CREATE TABLE mailerd.dedup_0 (
  stream text COLLATE "C" NOT NULL, key text COLLATE "C" NOT NULL, id bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (stream, key));
CREATE TABLE mailerd.dedup_1 (LIKE mailerd.dedup_0 INCLUDING ALL);
CREATE TABLE mailerd.dedup_generation (
  one boolean PRIMARY KEY DEFAULT true CHECK (one), current smallint NOT NULL DEFAULT 0, since timestamptz NOT NULL DEFAULT now());
INSERT INTO mailerd.dedup_generation (since) VALUES (now() - interval '1 hour');   -- nothing came before: not young
CREATE VIEW mailerd.dedup AS
  SELECT stream, key, id, at FROM mailerd.dedup_0 UNION ALL SELECT stream, key, id, at FROM mailerd.dedup_1;

-- Empties the older generation and writes there from now on, once the longest window has passed; true when it did.
-- The check is repeated under the lock: a second caller must not empty the generation that the first has just begun.
CREATE FUNCTION mailerd.turn_dedup() RETURNS boolean
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gen mailerd.dedup_generation%ROWTYPE;
BEGIN
  PERFORM set_config('lock_timeout', '50ms', true);
  SELECT * INTO gen FROM mailerd.dedup_generation FOR UPDATE;
  IF gen.since > now() - (SELECT greatest(coalesce(max(dedup_window), '0'), interval '24 hours') FROM mailerd.stream) THEN
    RETURN false;
  END IF;
  IF gen.current = 0 THEN TRUNCATE mailerd.dedup_1; ELSE TRUNCATE mailerd.dedup_0; END IF;
  UPDATE mailerd.dedup_generation SET current = 1 - gen.current, since = now();
  RETURN true;
END $$;

-- NULL in a column that has a default means the default (ORMs send NULLs); a known dedup_key skips the row. Two
-- transactions with one key wait for each other (the unique index), as they must: only the first one's commit decides.
CREATE FUNCTION mailerd.outbox_before() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gen smallint;
  young boolean;
  fresh timestamptz;   -- a key that is older may be used again
BEGIN
  NEW.stream := coalesce(NEW.stream, 'transactional');
  NEW.priority := coalesce(NEW.priority, 5);
  NEW.send_at := coalesce(NEW.send_at, now());
  IF NEW.dedup_key IS NULL THEN
    RETURN NEW;
  END IF;
  SELECT g.current, g.since > now() - interval '1 hour', now() - coalesce(
    (SELECT s.dedup_window FROM mailerd.stream s WHERE s.name = NEW.stream), interval '24 hours')
    INTO gen, young, fresh FROM mailerd.dedup_generation g;
  IF young THEN
    INSERT INTO mailerd.dedup_0 AS d (stream, key, id) VALUES (NEW.stream, NEW.dedup_key, NEW.id)
      ON CONFLICT (stream, key) DO UPDATE SET id = excluded.id, at = excluded.at WHERE d.at <= fresh;
    IF NOT FOUND THEN RETURN NULL; END IF;
    INSERT INTO mailerd.dedup_1 AS d (stream, key, id) VALUES (NEW.stream, NEW.dedup_key, NEW.id)
      ON CONFLICT (stream, key) DO UPDATE SET id = excluded.id, at = excluded.at WHERE d.at <= fresh;
    IF NOT FOUND THEN
      -- The other generation has it: take back what was written a moment ago, or it would point at a skipped row.
      DELETE FROM mailerd.dedup_0 d WHERE d.stream = NEW.stream AND d.key = NEW.dedup_key AND d.id = NEW.id;
      RETURN NULL;
    END IF;
    RETURN NEW;
  END IF;
  IF gen = 0 THEN
    INSERT INTO mailerd.dedup_0 AS d (stream, key, id) SELECT NEW.stream, NEW.dedup_key, NEW.id
      WHERE NOT EXISTS (SELECT FROM mailerd.dedup_1 o WHERE o.stream = NEW.stream AND o.key = NEW.dedup_key AND o.at > fresh)
      ON CONFLICT (stream, key) DO UPDATE SET id = excluded.id, at = excluded.at WHERE d.at <= fresh;
  ELSE
    INSERT INTO mailerd.dedup_1 AS d (stream, key, id) SELECT NEW.stream, NEW.dedup_key, NEW.id
      WHERE NOT EXISTS (SELECT FROM mailerd.dedup_0 o WHERE o.stream = NEW.stream AND o.key = NEW.dedup_key AND o.at > fresh)
      ON CONFLICT (stream, key) DO UPDATE SET id = excluded.id, at = excluded.at WHERE d.at <= fresh;
  END IF;
  IF NOT FOUND THEN RETURN NULL; END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER outbox_before BEFORE INSERT ON mailerd.outbox FOR EACH ROW
  WHEN (NEW.dedup_key IS NOT NULL OR NEW.stream IS NULL OR NEW.priority IS NULL OR NEW.send_at IS NULL)
  EXECUTE FUNCTION mailerd.outbox_before();

-- A row trigger, not a statement trigger: the latter spools whole payloads and does not fire for a partition.
CREATE FUNCTION mailerd.outbox_after() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NEW.send_at <= now() THEN
    INSERT INTO mailerd.ready (stream, priority, domain, campaign, id, size, expires_at)
    VALUES (NEW.stream, NEW.priority, NEW.domain, coalesce(NEW.campaign, ''), NEW.id,
      coalesce(octet_length(NEW.text_body), 0) + coalesce(octet_length(NEW.html_body), 0) + coalesce(octet_length(NEW.raw), 0)
      + coalesce(pg_column_size(NEW.params), 0) + coalesce(pg_column_size(NEW.attachments), 0), NEW.expires_at);
  ELSE
    INSERT INTO mailerd.scheduled (stream, priority, run_at, domain, campaign, id, size, expires_at)
    VALUES (NEW.stream, NEW.priority, NEW.send_at, NEW.domain, coalesce(NEW.campaign, ''), NEW.id,
      coalesce(octet_length(NEW.text_body), 0) + coalesce(octet_length(NEW.html_body), 0) + coalesce(octet_length(NEW.raw), 0)
      + coalesce(pg_column_size(NEW.params), 0) + coalesce(pg_column_size(NEW.attachments), 0), NEW.expires_at);
  END IF;
  RETURN NULL;
END $$;

CREATE TRIGGER outbox_after AFTER INSERT ON mailerd.outbox FOR EACH ROW EXECUTE FUNCTION mailerd.outbox_after();
