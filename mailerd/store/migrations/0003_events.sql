-- What happened. `event` is insert-only, one row per thing that happened to a recipient; the outbox row itself says
-- "queued". The other tables hold what waits for a person, and what must not be sent.

CREATE SEQUENCE mailerd.event_serial CACHE 100;

CREATE TABLE mailerd.event (
  id bigint NOT NULL DEFAULT nextval('mailerd.event_serial'),
  at timestamptz NOT NULL DEFAULT now(),
  message_id bigint NOT NULL,
  type text NOT NULL,
  rcpt smallint NOT NULL DEFAULT 0,     -- 0 the row's recipient, then cc, then bcc
  recipient text,
  stream text,
  provider text,
  provider_message_id text,
  attempt smallint,
  code smallint,
  enhanced_code text,
  class text,
  detail text,
  metadata jsonb
) PARTITION BY RANGE (at);
CREATE INDEX event_message ON mailerd.event (message_id, at);

CREATE TABLE mailerd.dead_letter (
  message_id bigint PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  stream text COLLATE "C" NOT NULL,
  priority smallint NOT NULL,
  domain text COLLATE "C" NOT NULL,
  campaign text COLLATE "C" NOT NULL DEFAULT '',
  rcpt bigint NOT NULL DEFAULT -1,
  size int NOT NULL DEFAULT 0,
  attempts smallint NOT NULL DEFAULT 0,
  recipient text,
  reason text NOT NULL,
  class text,
  provider text,
  detail text
);
CREATE INDEX dead_letter_at ON mailerd.dead_letter (at);

CREATE TABLE mailerd.in_doubt (
  message_id bigint PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  stream text COLLATE "C" NOT NULL,
  priority smallint NOT NULL,
  domain text COLLATE "C" NOT NULL,
  campaign text COLLATE "C" NOT NULL DEFAULT '',
  rcpt bigint NOT NULL DEFAULT -1,
  size int NOT NULL DEFAULT 0,
  attempts smallint NOT NULL DEFAULT 0,
  expires_at timestamptz,
  provider text,
  detail text
);

-- `stream` '' is every stream. Addresses are stored as `lower(local)@lower(A-label domain)`.
CREATE TABLE mailerd.suppression (
  address text COLLATE "C" NOT NULL,
  stream text COLLATE "C" NOT NULL DEFAULT '',
  reason text NOT NULL DEFAULT 'manual',
  source text,
  at timestamptz NOT NULL DEFAULT now(),
  until timestamptz,
  PRIMARY KEY (address, stream)
);
