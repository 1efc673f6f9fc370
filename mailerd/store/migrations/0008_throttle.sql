-- Flow control: what all instances share of the limits. A row of `throttle` is one bucket's state; an instance takes a
-- block of tokens from it with one update, never one for each message.

CREATE TABLE mailerd.throttle (
  key text COLLATE "C" PRIMARY KEY,                -- provider:NAME, quota:NAME, pool:NAME, stream:NAME, domain:NAME, pool:NAME/domain:NAME
  tat double precision NOT NULL DEFAULT 0,         -- rates: the instant (epoch seconds) up to which slots are given away
  used bigint NOT NULL DEFAULT 0,                  -- quotas: messages of this window
  ends timestamptz NOT NULL DEFAULT '-infinity'    -- and when it ends
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Rates that hold instead of, or besides, the configuration's. `operator` replaces it; the others can only lower it.
CREATE TABLE mailerd.throttle_rate (
  key text COLLATE "C" NOT NULL,
  source text NOT NULL CHECK (source IN ('operator', 'reply', 'learned')),
  rate double precision CHECK (rate >= 0),         -- messages a second; 0: none at all; NULL: nothing is limited yet
  until timestamptz,
  reason text,
  state jsonb,                                     -- what the one who learns remembers
  actor text NOT NULL DEFAULT session_user,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (key, source)
) WITH (fillfactor = 50);

-- How often an address was written to, for streams with a limit on that: the messages of the window and when each was
-- counted. By message, so that one that is leased twice counts once.
CREATE TABLE mailerd.recipient_count (
  stream text COLLATE "C" NOT NULL,
  address text COLLATE "C" NOT NULL,
  ids bigint[] NOT NULL DEFAULT '{}',
  ats timestamptz[] NOT NULL DEFAULT '{}',
  last timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, address)
) WITH (fillfactor = 70);
CREATE INDEX recipient_count_last ON mailerd.recipient_count (last);

-- Counts messages against the limit of their address: those that exceed it come back, with the seconds until they would
-- not. One row lock for each address, in the order of addresses, so that no two instances wait for each other.
CREATE FUNCTION mailerd.count_recipients(p_stream text, p_ids bigint[], p_addresses text[], p_most int, p_window double precision)
  RETURNS TABLE (id bigint, address text, wait double precision)
  LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  w record;
  r record;
  v_ids bigint[];
  v_ats timestamptz[];
  v_now timestamptz;
BEGIN
  FOR w IN SELECT x.id, x.address FROM unnest(p_ids, p_addresses) AS x(id, address) ORDER BY x.address COLLATE "C", x.id LOOP
    INSERT INTO mailerd.recipient_count AS c (stream, address) VALUES (p_stream, w.address) ON CONFLICT DO NOTHING;
    SELECT c.ids, c.ats INTO r FROM mailerd.recipient_count c WHERE c.stream = p_stream AND c.address = w.address LIMIT 1 FOR UPDATE;
    v_now := clock_timestamp();   -- after the lock
    SELECT coalesce(array_agg(k.i ORDER BY k.a), '{}'), coalesce(array_agg(k.a ORDER BY k.a), '{}') INTO v_ids, v_ats
      FROM unnest(r.ids, r.ats) AS k(i, a) WHERE k.a > v_now - make_interval(secs => p_window);
    IF w.id = ANY (v_ids) THEN
      CONTINUE;
    END IF;
    IF cardinality(v_ids) >= p_most THEN
      id := w.id;
      address := w.address;
      wait := greatest(extract(epoch FROM v_ats[1 + cardinality(v_ats) - p_most] - v_now) + p_window, 0);
      RETURN NEXT;
      CONTINUE;
    END IF;
    UPDATE mailerd.recipient_count c SET ids = v_ids || w.id, ats = v_ats || v_now, last = v_now
      WHERE c.stream = p_stream AND c.address = w.address;
  END LOOP;
END $$;
REVOKE ALL ON FUNCTION mailerd.count_recipients(text, bigint[], text[], int, double precision) FROM PUBLIC;

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.throttle, mailerd.throttle_rate TO mailerd_read;
  END IF;
END $$;
