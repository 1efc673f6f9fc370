-- Consent: who gets which topic, and how that is known. A topic is a part of one stream's mail that people can stop, or
-- have to ask for, by itself. Topics are configured; the daemons publish them, so that the functions below know them.

ALTER TABLE mailerd.outbox ADD COLUMN topic text COLLATE "C";
ALTER TABLE mailerd.outbox_kept ADD COLUMN topic text COLLATE "C";
-- Old rows have none, so none has to be looked at.
ALTER TABLE mailerd.outbox ADD CONSTRAINT "topic: not a plain name" CHECK (
  topic ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' AND length(topic) <= 63) NOT VALID;

CREATE TABLE mailerd.topic (
  name text COLLATE "C" PRIMARY KEY,
  stream text COLLATE "C" NOT NULL,
  title text NOT NULL,
  double_opt_in boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT now()
);

-- What an address said last. The history is in `audit`.
CREATE TABLE mailerd.subscription (
  address text COLLATE "C" NOT NULL,               -- in normal form, as in `suppression`
  topic text COLLATE "C" NOT NULL,
  state text COLLATE "C" NOT NULL CHECK (state IN ('pending', 'subscribed', 'unsubscribed')),
  source text,
  at timestamptz NOT NULL DEFAULT now(),
  proof jsonb CONSTRAINT "proof: not a JSON object" CHECK (jsonb_typeof(proof) = 'object'),
  PRIMARY KEY (address, topic)
);
CREATE INDEX subscription_topic ON mailerd.subscription (topic, state, address);

-- The form in which addresses are compared. Bare ASCII addresses only, of which `compose.address.normal` makes the same:
-- what IDNA makes of other letters is not for a database to say. Raises what the application reads.
CREATE FUNCTION mailerd.normal_address(address text) RETURNS text
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  bare text := btrim(normal_address.address, ' ');
  domain text := substring(bare FROM '[^@]*$');
BEGIN
  IF bare IS NULL THEN
    RAISE EXCEPTION 'address: is NULL' USING ERRCODE = 'null_value_not_allowed';
  ELSIF bare ~ '[^\x01-\x7f]' THEN
    RAISE EXCEPTION 'address: has letters beyond ASCII: write its domain as IDNA does (xn--...): %', left(bare, 80)
      USING ERRCODE = 'invalid_parameter_value';
  ELSIF length(bare) > 254 OR length(domain) > 253 OR bare !~ ('^(?=[^@]{1,64}@)[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&''*+/=?^_`{|}~-]+)*'
      || '@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*(?![0-9]+$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$') THEN
    RAISE EXCEPTION 'address: not an address such as ann@example.org: %', left(bare, 80) USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN lower(bare COLLATE "C");
END $$;

-- ann+shop@example.org is ann@example.org without its tag: what `[suppression] plus_tags` compares.
CREATE FUNCTION mailerd.base_address(address text) RETURNS text
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$ SELECT regexp_replace(address, '^([^"+@][^+@]*)\+[^@]*@', '\1@') $$;
CREATE INDEX suppression_base ON mailerd.suppression (mailerd.base_address(address), stream);
CREATE INDEX subscription_base ON mailerd.subscription (mailerd.base_address(address), topic);

-- No writer can forget it. What a recipient does himself comes from these sources alone.
CREATE FUNCTION mailerd.subscription_written() RETURNS trigger
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    INSERT INTO mailerd.audit (action, target, detail) VALUES ('subscription deleted', OLD.address, concat_ws(', ', OLD.topic, OLD.state));
  ELSIF TG_OP = 'INSERT' OR (OLD.state, OLD.at) IS DISTINCT FROM (NEW.state, NEW.at) THEN
    INSERT INTO mailerd.audit (actor, action, target, detail)
    VALUES (CASE WHEN NEW.source IN ('page', 'one-click', 'confirmation') THEN 'recipient' ELSE session_user END,
      'subscription ' || NEW.state, NEW.address, concat_ws(', ', NEW.topic, NEW.source));
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER subscription_written AFTER INSERT OR UPDATE OR DELETE ON mailerd.subscription
  FOR EACH ROW EXECUTE FUNCTION mailerd.subscription_written();

-- An address asks for a topic; the state it has now. With double opt-in it is `pending`, until the link of a message is
-- confirmed, or unless `confirmed` says that the application has the proof already. Who is subscribed stays as he is.
CREATE FUNCTION mailerd.subscribe(
  address text, topic text, source text DEFAULT 'application', proof jsonb DEFAULT NULL, confirmed boolean DEFAULT false
) RETURNS text
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_address text := mailerd.normal_address(subscribe.address);
  t mailerd.topic%ROWTYPE;
  v_state text;
BEGIN
  SELECT * INTO t FROM mailerd.topic x WHERE x.name = subscribe.topic;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'topic: there is no [[topic]] "%"', left(subscribe.topic, 80) USING ERRCODE = 'invalid_parameter_value',
      HINT = 'Topics are known once a daemon with them in its configuration has started.';
  END IF;
  v_state := CASE WHEN t.double_opt_in AND NOT coalesce(confirmed, false) THEN 'pending' ELSE 'subscribed' END;
  INSERT INTO mailerd.subscription AS s (address, topic, state, source, proof)
  VALUES (v_address, t.name, v_state, left(coalesce(subscribe.source, 'application'), 200), subscribe.proof)
  ON CONFLICT ON CONSTRAINT subscription_pkey DO UPDATE SET state = excluded.state, source = excluded.source, at = now(), proof = excluded.proof
  -- Leaving the whole stream later than that counts for its topics, too.
  WHERE s.state <> 'subscribed' OR EXISTS (SELECT FROM mailerd.suppression x
    WHERE x.address = v_address AND x.stream = t.stream AND x.reason LIKE 'unsubscribe%' AND x.at >= s.at)
  RETURNING s.state INTO v_state;
  RETURN coalesce(v_state, 'subscribed');
END $$;

-- An address wants no more of a topic.
CREATE FUNCTION mailerd.unsubscribe(address text, topic text, source text DEFAULT 'application', proof jsonb DEFAULT NULL) RETURNS void
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_address text := mailerd.normal_address(unsubscribe.address);
BEGIN
  IF NOT EXISTS (SELECT FROM mailerd.topic x WHERE x.name = unsubscribe.topic) THEN
    RAISE EXCEPTION 'topic: there is no [[topic]] "%"', left(unsubscribe.topic, 80) USING ERRCODE = 'invalid_parameter_value',
      HINT = 'Topics are known once a daemon with them in its configuration has started.';
  END IF;
  INSERT INTO mailerd.subscription AS s (address, topic, state, source, proof)
  VALUES (v_address, unsubscribe.topic, 'unsubscribed', left(coalesce(unsubscribe.source, 'application'), 200), unsubscribe.proof)
  ON CONFLICT ON CONSTRAINT subscription_pkey DO UPDATE SET state = excluded.state, source = excluded.source, at = now(), proof = excluded.proof
  WHERE s.state <> 'unsubscribed';
END $$;

-- `pending`, `subscribed`, `unsubscribed`, or NULL for who never said anything.
CREATE FUNCTION mailerd.subscription_state(address text, topic text) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.state FROM mailerd.subscription s
  WHERE s.address = mailerd.normal_address(subscription_state.address) AND s.topic = subscription_state.topic $$;

-- Whom to write to: INSERT INTO mailerd.outbox (recipient, …) SELECT address, … FROM mailerd.subscribers('offers') AS address.
CREATE FUNCTION mailerd.subscribers(topic text) RETURNS SETOF text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.address FROM mailerd.subscription s WHERE s.topic = subscribers.topic AND s.state = 'subscribed' $$;

REVOKE ALL ON FUNCTION mailerd.normal_address(text), mailerd.base_address(text), mailerd.subscription_written(),
  mailerd.subscribe(text, text, text, jsonb, boolean), mailerd.unsubscribe(text, text, text, jsonb),
  mailerd.subscription_state(text, text), mailerd.subscribers(text) FROM PUBLIC;

-- The same as before, and `topic`. Another list of arguments is another function, and two of the name would be ambiguous.
DROP FUNCTION mailerd.enqueue(text, text, int, timestamptz, timestamptz, text, text, text[], text[], text, text, text, text, text,
  jsonb, text, bytea, jsonb, jsonb, text, text, text[], jsonb);
CREATE FUNCTION mailerd.enqueue(
  recipient text, stream text DEFAULT NULL, priority int DEFAULT NULL, send_at timestamptz DEFAULT NULL,
  expires_at timestamptz DEFAULT NULL, dedup_key text DEFAULT NULL, sender text DEFAULT NULL, cc text[] DEFAULT NULL,
  bcc text[] DEFAULT NULL, reply_to text DEFAULT NULL, subject text DEFAULT NULL, text_body text DEFAULT NULL,
  html_body text DEFAULT NULL, template text DEFAULT NULL, params jsonb DEFAULT NULL, locale text DEFAULT NULL,
  raw bytea DEFAULT NULL, headers jsonb DEFAULT NULL, attachments jsonb DEFAULT NULL, thread_key text DEFAULT NULL,
  campaign text DEFAULT NULL, tags text[] DEFAULT NULL, metadata jsonb DEFAULT NULL, topic text DEFAULT NULL
) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_id bigint;
  v_stream text := coalesce(enqueue.stream, 'transactional');
  v_domain text;
BEGIN
  INSERT INTO mailerd.outbox AS o (recipient, stream, priority, send_at, expires_at, dedup_key, sender, cc, bcc, reply_to, subject,
    text_body, html_body, template, params, locale, raw, headers, attachments, thread_key, campaign, tags, metadata, topic)
  VALUES (enqueue.recipient, v_stream, enqueue.priority, enqueue.send_at, enqueue.expires_at, enqueue.dedup_key,
    enqueue.sender, enqueue.cc, enqueue.bcc, enqueue.reply_to, enqueue.subject, enqueue.text_body, enqueue.html_body,
    enqueue.template, enqueue.params, enqueue.locale, enqueue.raw, enqueue.headers, enqueue.attachments,
    enqueue.thread_key, enqueue.campaign, enqueue.tags, enqueue.metadata, enqueue.topic)
  RETURNING o.id, o.domain INTO v_id, v_domain;
  IF v_id IS NULL THEN
    SELECT d.id INTO v_id FROM mailerd.dedup d WHERE d.stream = v_stream AND d.key = enqueue.dedup_key ORDER BY d.at DESC LIMIT 1;
  ELSIF coalesce(enqueue.send_at, now()) <= now() AND pg_try_advisory_xact_lock(hashtextextended('mailerd.wake', 0)) THEN
    PERFORM pg_notify('mailerd.wake', concat_ws(E'\t', v_stream, coalesce(enqueue.priority, 5), v_domain, coalesce(enqueue.campaign, '')));
  END IF;
  RETURN v_id;
END $$;
REVOKE ALL ON FUNCTION mailerd.enqueue(text, text, int, timestamptz, timestamptz, text, text, text[], text[], text, text, text, text, text,
  jsonb, text, bytea, jsonb, jsonb, text, text, text[], jsonb, text) FROM PUBLIC;
