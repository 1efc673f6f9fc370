-- What mailerd_app (applications) and mailerd_read (people, dashboards) may do, all of it: `mailerd migrate` runs this each
-- time, after the migrations. Roles belong to the cluster: one may be made later than the schema, or the schema may come
-- back from a dump into a cluster that has none. Only what is lacking is granted, so a second run changes nothing.

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_app') THEN CREATE ROLE mailerd_app NOLOGIN; END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN CREATE ROLE mailerd_read NOLOGIN; END IF;
EXCEPTION
  WHEN insufficient_privilege THEN NULL;                 -- `mailerd migrate` says what to run
  WHEN duplicate_object OR unique_violation THEN NULL;   -- another database's migration was faster
END $$;

CREATE OR REPLACE FUNCTION mailerd.grant_roles() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  who text;
  what text;
  columns text;
BEGIN
  FOREACH who IN ARRAY ARRAY['mailerd_app', 'mailerd_read'] LOOP
    CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles WHERE rolname = who);
    what := rtrim('mailerd.', '.');
    IF NOT has_schema_privilege(who, what, 'USAGE') THEN
      EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', what, who);
    END IF;
  END LOOP;

  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_app') THEN
    SELECT string_agg(quote_ident(a.attname), ', ') INTO columns FROM pg_attribute a
    WHERE a.attrelid = 'mailerd.outbox'::regclass AND NOT has_column_privilege('mailerd_app', a.attrelid, a.attnum, 'INSERT')
      AND a.attname IN ('stream', 'priority', 'send_at', 'expires_at', 'dedup_key', 'sender', 'recipient', 'cc', 'bcc', 'reply_to',
        'subject', 'text_body', 'html_body', 'template', 'params', 'locale', 'raw', 'headers', 'attachments', 'thread_key',
        'campaign', 'tags', 'metadata', 'topic');
    IF columns IS NOT NULL THEN
      EXECUTE format('GRANT INSERT (%s) ON mailerd.outbox TO mailerd_app', columns);
    END IF;
    IF NOT has_column_privilege('mailerd_app', 'mailerd.outbox', 'id', 'SELECT') THEN
      GRANT SELECT (id) ON mailerd.outbox TO mailerd_app;
    END IF;
    FOREACH what IN ARRAY ARRAY[
      'mailerd.new_id()', 'mailerd.are_mailboxes(text[])', 'mailerd.cancel(bigint)', 'mailerd.status(bigint)', 'mailerd.pinned(text)',
      'mailerd.pinned(text, text)', 'mailerd.subscribe(text, text, text, jsonb, boolean)',
      'mailerd.unsubscribe(text, text, text, jsonb)', 'mailerd.subscription_state(text, text)', 'mailerd.subscribers(text)',
      'mailerd.enqueue(text, text, int, timestamptz, timestamptz, text, text, text[], text[], text, text, text, text, text,
        jsonb, text, bytea, jsonb, jsonb, text, text, text[], jsonb, text)'
    ] LOOP
      IF NOT has_function_privilege('mailerd_app', what, 'EXECUTE') THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO mailerd_app', what);
      END IF;
    END LOOP;
  END IF;

  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    FOREACH what IN ARRAY ARRAY[
      'mailerd.message_status', 'mailerd.event', 'mailerd.dead_letter', 'mailerd.in_doubt', 'mailerd.suppression', 'mailerd.stream',
      'mailerd.instance', 'mailerd.provider_state', 'mailerd.lane_control', 'mailerd.queue_gauge', 'mailerd.audit',
      'mailerd.throttle', 'mailerd.throttle_rate', 'mailerd.warmup_day', 'mailerd.webhook', 'mailerd.webhook_delivery',
      'mailerd.event_rate', 'mailerd.rate_gauge', 'mailerd.alert', 'mailerd.inbox_unread', 'mailerd.inbound_mail',
      'mailerd.engagement', 'mailerd.soft_bounce', 'mailerd.template', 'mailerd.template_version', 'mailerd.topic',
      'mailerd.subscription'
    ] LOOP
      IF NOT has_table_privilege('mailerd_read', what, 'SELECT') THEN
        EXECUTE format('GRANT SELECT ON %s TO mailerd_read', what);
      END IF;
    END LOOP;
    FOREACH what IN ARRAY ARRAY['mailerd.status(bigint)', 'mailerd.id_at(timestamptz)', 'mailerd.id_time(bigint)'] LOOP
      IF NOT has_function_privilege('mailerd_read', what, 'EXECUTE') THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO mailerd_read', what);
      END IF;
    END LOOP;
  END IF;
END $$;
REVOKE ALL ON FUNCTION mailerd.grant_roles() FROM PUBLIC;
SELECT mailerd.grant_roles();
