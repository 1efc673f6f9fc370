-- Who is running, what an operator said, and the figures that one instance takes for all.

CREATE TABLE mailerd.instance (
  id bigint PRIMARY KEY,                 -- random at each start; the upper half of its lease tokens
  name text NOT NULL,
  pid int NOT NULL,
  version text NOT NULL,
  streams text[] NOT NULL DEFAULT '{}',
  providers text[] NOT NULL DEFAULT '{}',
  state text NOT NULL DEFAULT 'running',
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

-- Streams that have messages and that no live instance lists: since when, and when that was last seen to be so.
CREATE TABLE mailerd.unlisted (
  stream text COLLATE "C" PRIMARY KEY,
  since timestamptz NOT NULL DEFAULT now(),
  seen timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE mailerd.provider_state (
  instance bigint NOT NULL,
  provider text NOT NULL,
  state text NOT NULL,                   -- closed, open, half_open
  until timestamptz,
  reason text,
  connections int NOT NULL DEFAULT 0,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (instance, provider)
) WITH (fillfactor = 50);

-- A row means paused. kind: stream, provider, domain, campaign.
CREATE TABLE mailerd.lane_control (
  kind text NOT NULL CHECK (kind IN ('stream', 'provider', 'domain', 'campaign')),
  name text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL DEFAULT session_user,
  reason text,
  PRIMARY KEY (kind, name)
);

CREATE TABLE mailerd.audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  actor text NOT NULL DEFAULT session_user,
  action text NOT NULL,
  target text NOT NULL,
  detail text
);

CREATE INDEX audit_target ON mailerd.audit (target, at);

CREATE TABLE mailerd.queue_gauge (
  stream text COLLATE "C" NOT NULL,
  state text NOT NULL,                   -- ready, leased, scheduled, deferred, dead, in_doubt
  messages bigint NOT NULL,
  oldest_seconds double precision NOT NULL DEFAULT 0,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, state)
) WITH (fillfactor = 50);
