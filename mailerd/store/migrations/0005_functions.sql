-- What applications call and what people read.

CREATE VIEW mailerd.message_status AS
SELECT o.id, o.stream, o.recipient,
  CASE
    WHEN r.id IS NOT NULL AND r.lease_until > now() THEN 'leased'
    WHEN r.id IS NOT NULL THEN 'ready'
    WHEN s.id IS NOT NULL AND s.deferred THEN 'deferred'
    WHEN s.id IS NOT NULL THEN 'scheduled'
    WHEN d.message_id IS NOT NULL THEN 'in_doubt'
    ELSE coalesce(e.type, 'ready')
  END AS status,
  coalesce(r.attempt, s.attempt, d.attempts, e.attempt, 0)::int AS attempts,
  s.run_at AS next_attempt_at,
  e.provider,
  e.provider_message_id,
  CASE WHEN e.code > 0 THEN concat_ws(' ', e.code, nullif(e.enhanced_code, ''), e.detail) ELSE e.detail END AS last_reply,
  e.at AS last_event_at
FROM (SELECT id, stream, priority, domain, campaign, recipient FROM mailerd.outbox
      UNION ALL SELECT id, stream, priority, domain, campaign, recipient FROM mailerd.outbox_kept) o
-- LIMIT 1 keeps each look-up an index probe whatever the statistics say.
LEFT JOIN LATERAL (SELECT r.id, r.attempt, r.lease_until FROM mailerd.ready r
  WHERE r.stream = o.stream AND r.priority = o.priority AND r.domain = o.domain
    AND r.campaign = coalesce(o.campaign, '') AND r.id = o.id LIMIT 1) r ON true
LEFT JOIN LATERAL (SELECT s.id, s.attempt, s.run_at, s.deferred FROM mailerd.scheduled s WHERE s.id = o.id LIMIT 1) s ON true
LEFT JOIN LATERAL (SELECT d.message_id, d.attempts FROM mailerd.in_doubt d WHERE d.message_id = o.id LIMIT 1) d ON true
LEFT JOIN LATERAL (SELECT e.* FROM mailerd.event e
  WHERE e.message_id = o.id AND e.rcpt = 0
    AND e.at >= to_timestamp((o.id >> 21) + 1577836800) - interval '1 minute' AND e.at < now() + interval '1 hour'
    AND e.type IN ('sent', 'deferred', 'delivered', 'bounced', 'rejected', 'failed', 'suppressed', 'expired', 'cancelled', 'in_doubt')
  ORDER BY e.at DESC, e.id DESC LIMIT 1) e ON true;

CREATE FUNCTION mailerd.status(id bigint) RETURNS mailerd.message_status
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT s.* FROM mailerd.message_status s WHERE s.id = status.id LIMIT 1 $$;

-- The id of the new message, or of the one that already has this dedup_key. Wakes the daemons: at most one notifying
-- commit at a time (NOTIFY serialises commits cluster-wide), the others are found by polling within 50 ms.
CREATE FUNCTION mailerd.enqueue(
  recipient text, stream text DEFAULT NULL, priority int DEFAULT NULL, send_at timestamptz DEFAULT NULL,
  expires_at timestamptz DEFAULT NULL, dedup_key text DEFAULT NULL, sender text DEFAULT NULL, cc text[] DEFAULT NULL,
  bcc text[] DEFAULT NULL, reply_to text DEFAULT NULL, subject text DEFAULT NULL, text_body text DEFAULT NULL,
  html_body text DEFAULT NULL, template text DEFAULT NULL, params jsonb DEFAULT NULL, locale text DEFAULT NULL,
  raw bytea DEFAULT NULL, headers jsonb DEFAULT NULL, attachments jsonb DEFAULT NULL, thread_key text DEFAULT NULL,
  campaign text DEFAULT NULL, tags text[] DEFAULT NULL, metadata jsonb DEFAULT NULL
) RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  v_id bigint;
  v_stream text := coalesce(enqueue.stream, 'transactional');
  v_domain text;
BEGIN
  INSERT INTO mailerd.outbox AS o (recipient, stream, priority, send_at, expires_at, dedup_key, sender, cc, bcc, reply_to, subject,
    text_body, html_body, template, params, locale, raw, headers, attachments, thread_key, campaign, tags, metadata)
  VALUES (enqueue.recipient, v_stream, enqueue.priority, enqueue.send_at, enqueue.expires_at, enqueue.dedup_key,
    enqueue.sender, enqueue.cc, enqueue.bcc, enqueue.reply_to, enqueue.subject, enqueue.text_body, enqueue.html_body,
    enqueue.template, enqueue.params, enqueue.locale, enqueue.raw, enqueue.headers, enqueue.attachments,
    enqueue.thread_key, enqueue.campaign, enqueue.tags, enqueue.metadata)
  RETURNING o.id, o.domain INTO v_id, v_domain;
  IF v_id IS NULL THEN
    SELECT d.id INTO v_id FROM mailerd.dedup d WHERE d.stream = v_stream AND d.key = enqueue.dedup_key ORDER BY d.at DESC LIMIT 1;
  ELSIF coalesce(enqueue.send_at, now()) <= now() AND pg_try_advisory_xact_lock(hashtextextended('mailerd.wake', 0)) THEN
    PERFORM pg_notify('mailerd.wake', concat_ws(E'\t', v_stream, coalesce(enqueue.priority, 5), v_domain, coalesce(enqueue.campaign, '')));
  END IF;
  RETURN v_id;
END $$;

-- True when the message will never be sent; false once it is leased or settled.
CREATE FUNCTION mailerd.cancel(id bigint) RETURNS boolean
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  o record;
  v_attempt smallint;
BEGIN
  SELECT x.stream, x.priority, x.domain, coalesce(x.campaign, '') AS campaign, x.recipient INTO o FROM mailerd.outbox x WHERE x.id = cancel.id;
  IF NOT FOUND THEN
    SELECT x.stream, x.priority, x.domain, coalesce(x.campaign, '') AS campaign, x.recipient INTO o FROM mailerd.outbox_kept x WHERE x.id = cancel.id;
    IF NOT FOUND THEN RETURN false; END IF;
  END IF;
  -- SKIP LOCKED: a row that a lease is taking at this moment counts as leased; the caller never waits for it. So does
  -- one whose lease ran out (leases > 0): the instance that died with it may have sent it, and true means never sent.
  DELETE FROM mailerd.ready WHERE ctid = ANY (ARRAY(
    SELECT r.ctid FROM mailerd.ready r
    WHERE r.stream = o.stream AND r.priority = o.priority AND r.domain = o.domain AND r.campaign = o.campaign
      AND r.id = cancel.id AND r.lease_until < now() AND r.leases = 0 LIMIT 1 FOR UPDATE SKIP LOCKED))
    RETURNING attempt INTO v_attempt;
  IF NOT FOUND THEN
    DELETE FROM mailerd.scheduled WHERE ctid = ANY (ARRAY(
      SELECT s.ctid FROM mailerd.scheduled s WHERE s.id = cancel.id LIMIT 1 FOR UPDATE SKIP LOCKED))
      RETURNING attempt INTO v_attempt;
    IF NOT FOUND THEN RETURN false; END IF;
  END IF;
  INSERT INTO mailerd.event (message_id, type, recipient, stream, attempt, detail)
  VALUES (cancel.id, 'cancelled', o.recipient, o.stream, v_attempt, 'cancelled by ' || session_user);
  RETURN true;
END $$;
