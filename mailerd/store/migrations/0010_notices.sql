-- Who wants to hear of events, and what each has yet to hear. One trigger on `event` feeds both tables below, in the
-- transaction that writes the events: no writer can forget it, and an event that commits late is not passed over, as it
-- would be by whoever reads on from an id or a time.

-- `webhook:NAME`, `tail:TOKEN`, `log`. NULL: all types, all streams. Past `until` it gets nothing more.
CREATE TABLE mailerd.subscriber (
  name text COLLATE "C" PRIMARY KEY,
  types text[],
  streams text[],
  until timestamptz NOT NULL DEFAULT 'infinity'
) WITH (fillfactor = 50);

-- Events that a subscriber has yet to hear of: those of one statement.
CREATE TABLE mailerd.notice (
  subscriber text COLLATE "C" NOT NULL,
  id bigint GENERATED ALWAYS AS IDENTITY,
  first_at timestamptz NOT NULL,           -- between these two `event` is looked into
  last_at timestamptz NOT NULL,
  events bigint[] NOT NULL,
  messages bigint[] NOT NULL,              -- of each event its message: the index that finds it
  PRIMARY KEY (subscriber, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What the statements wrote, to be added up into `event_rate`: stream, provider, recipient's domain, type, class.
CREATE TABLE mailerd.event_count (
  at timestamptz NOT NULL,
  kinds text[] NOT NULL,                   -- these, and whether it came back as a report, separated by U+001F
  counts int[] NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE FUNCTION mailerd.event_written() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO mailerd.event_count (at, kinds, counts)
  SELECT now(), array_agg(k.kind), array_agg(k.n) FROM (
    SELECT concat(w.stream, E'\x1f', w.provider, E'\x1f', split_part(w.recipient, '@', -1), E'\x1f', w.type, E'\x1f',
      CASE WHEN w.metadata ->> 'bot' = 'true' THEN 'bot' ELSE w.class END, E'\x1f',
      CASE WHEN w.attempt IS NULL THEN 'report' END) AS kind, count(*)::int AS n
    FROM written w GROUP BY 1) k
  HAVING count(*) > 0;
  IF EXISTS (SELECT FROM mailerd.subscriber s WHERE s.until > now()) THEN
    INSERT INTO mailerd.notice (subscriber, first_at, last_at, events, messages)
    SELECT s.name, min(w.at), max(w.at), array_agg(w.id), array_agg(w.message_id)
    FROM mailerd.subscriber s CROSS JOIN written w
    WHERE s.until > now() AND (s.types IS NULL OR w.type = ANY (s.types)) AND (s.streams IS NULL OR w.stream = ANY (s.streams))
    GROUP BY s.name;
  END IF;
  RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION mailerd.event_written() FROM PUBLIC;

CREATE TRIGGER event_written AFTER INSERT ON mailerd.event
  REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION mailerd.event_written();

-- Outgoing webhooks: the configuration publishes them, deliveries tell how they fare.
CREATE TABLE mailerd.webhook (
  name text COLLATE "C" PRIMARY KEY,
  url text NOT NULL,
  types text[],
  streams text[],
  configured boolean NOT NULL DEFAULT true,
  disabled_at timestamptz,
  reason text,                             -- why it is disabled
  failing_since timestamptz,               -- of the failures without a success in between, the first
  failures int NOT NULL DEFAULT 0,
  retry_at timestamptz NOT NULL DEFAULT '-infinity',
  succeeded_at timestamptz,
  last_answer text
) WITH (fillfactor = 50);

-- One request: its id and its events stay the same at every attempt.
CREATE TABLE mailerd.webhook_delivery (
  webhook text COLLATE "C" NOT NULL,
  id uuid NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now(),
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  events bigint[] NOT NULL,
  messages bigint[] NOT NULL,
  attempts int NOT NULL DEFAULT 0,
  run_at timestamptz NOT NULL DEFAULT now(),   -- not before; while it is leased, the lease's end
  token bigint NOT NULL DEFAULT 0,
  last_answer text,
  PRIMARY KEY (webhook, id)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX webhook_delivery_due ON mailerd.webhook_delivery (webhook, run_at);

-- What `event_count` adds up to, in spans of ten minutes by the time of writing.
CREATE TABLE mailerd.event_rate (
  span timestamptz NOT NULL,
  stream text COLLATE "C" NOT NULL,
  provider text COLLATE "C" NOT NULL,
  domain_group text COLLATE "C" NOT NULL,  -- '': domains without one
  type text COLLATE "C" NOT NULL,
  class text COLLATE "C" NOT NULL,
  events bigint NOT NULL,
  PRIMARY KEY (span, stream, provider, domain_group, type, class)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The sums over an hour, a day and a week, taken by one instance for all: what a scrape shows.
CREATE TABLE mailerd.rate_gauge (
  hours int NOT NULL,
  stream text COLLATE "C" NOT NULL,
  provider text COLLATE "C" NOT NULL,
  domain_group text COLLATE "C" NOT NULL,
  type text COLLATE "C" NOT NULL,
  class text COLLATE "C" NOT NULL,
  events bigint NOT NULL
);

-- Alerts that stand.
CREATE TABLE mailerd.alert (
  stream text COLLATE "C" NOT NULL,
  kind text COLLATE "C" NOT NULL,          -- complaints, bounces
  level text NOT NULL,                     -- warn, pause
  since timestamptz NOT NULL DEFAULT now(),
  share double precision NOT NULL,
  events bigint NOT NULL,
  sent bigint NOT NULL,
  PRIMARY KEY (stream, kind)
);

-- Events of a span of time, for replays and the end of the log; BRIN costs an insert nothing.
CREATE INDEX event_at ON mailerd.event USING brin (at) WITH (pages_per_range = 32, autosummarize = on);

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.webhook, mailerd.webhook_delivery, mailerd.event_rate, mailerd.rate_gauge, mailerd.alert TO mailerd_read;
  END IF;
END $$;
