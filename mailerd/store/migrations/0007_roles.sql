-- mailerd_app for applications, mailerd_read for people and dashboards. Roles belong to the cluster: they may exist
-- already, or this user may not be allowed to make them; then a notice says what to run.

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA mailerd FROM PUBLIC;

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_app') THEN CREATE ROLE mailerd_app NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN CREATE ROLE mailerd_read NOLOGIN; END IF;
EXCEPTION
  WHEN insufficient_privilege THEN
    RAISE NOTICE 'this user may not create roles: run CREATE ROLE mailerd_app NOLOGIN; CREATE ROLE mailerd_read NOLOGIN; as an administrator, then SELECT mailerd.grant_roles()';
  WHEN duplicate_object OR unique_violation THEN NULL;   -- another database's migration was faster
END $$;

CREATE FUNCTION mailerd.grant_roles() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_app') THEN
    GRANT USAGE ON SCHEMA mailerd TO mailerd_app;
    GRANT INSERT (stream, priority, send_at, expires_at, dedup_key, sender, recipient, cc, bcc, reply_to, subject, text_body,
      html_body, template, params, locale, raw, headers, attachments, thread_key, campaign, tags, metadata),
      SELECT (id) ON mailerd.outbox TO mailerd_app;
    GRANT EXECUTE ON FUNCTION mailerd.new_id(), mailerd.are_mailboxes(text[]), mailerd.cancel(bigint), mailerd.status(bigint),
      mailerd.enqueue(text, text, int, timestamptz, timestamptz, text, text, text[], text[], text, text, text, text, text,
        jsonb, text, bytea, jsonb, jsonb, text, text, text[], jsonb) TO mailerd_app;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT USAGE ON SCHEMA mailerd TO mailerd_read;
    GRANT SELECT ON mailerd.message_status, mailerd.event, mailerd.dead_letter, mailerd.in_doubt, mailerd.suppression,
      mailerd.stream, mailerd.instance, mailerd.provider_state, mailerd.lane_control, mailerd.queue_gauge, mailerd.audit TO mailerd_read;
    GRANT EXECUTE ON FUNCTION mailerd.status(bigint), mailerd.id_at(timestamptz), mailerd.id_time(bigint) TO mailerd_read;
  END IF;
END $$;
REVOKE ALL ON FUNCTION mailerd.grant_roles() FROM PUBLIC;
SELECT mailerd.grant_roles();
