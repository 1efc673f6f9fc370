-- The outbox: what applications write. Insert-only, never updated, dropped by whole partitions.
-- `mailerd.` is the schema; the migrator replaces it when `database.schema` says another name.

CREATE SEQUENCE mailerd.message_serial;

-- Seconds since 2020 << 21 | serial: ordered by time, below 2^53, so that JSON and JavaScript clients keep it whole.
CREATE FUNCTION mailerd.new_id() RETURNS bigint
  LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN (floor(extract(epoch FROM clock_timestamp()))::bigint - 1577836800) << 21
       | (nextval('mailerd.message_serial') & 2097151);
END $$;

-- The smallest id that a message of this instant can have, and back.
CREATE FUNCTION mailerd.id_at(t timestamptz) RETURNS bigint
  LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT (floor(extract(epoch FROM t))::bigint - 1577836800) << 21 $$;
CREATE FUNCTION mailerd.id_time(id bigint) RETURNS timestamptz
  LANGUAGE sql STABLE PARALLEL SAFE AS $$ SELECT to_timestamp((id >> 21) + 1577836800) $$;

-- Every element is one mailbox without control characters; used for cc and bcc.
CREATE FUNCTION mailerd.are_mailboxes(list text[]) RETURNS boolean
  LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
  SELECT coalesce(bool_and(m IS NOT NULL AND length(m) <= 998 AND m !~ '[[:cntrl:]]'
    AND (m ~ '^[^][@<>(),:;"\\[:space:]]+@([^][@<>(),:;"\\[:space:]]+|\[[0-9A-Za-z.:]+\])$'
      OR m ~ '^[^<>]*<[^][@<>(),:;"\\[:space:]]+@([^][@<>(),:;"\\[:space:]]+|\[[0-9A-Za-z.:]+\])>$')), true)
  FROM unnest(list) AS m $$;

-- A constraint's name is the message that the application reads, so each says which column and what is wrong with it.
CREATE TABLE mailerd.outbox (
  id bigint NOT NULL DEFAULT mailerd.new_id(),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  stream text COLLATE "C" DEFAULT 'transactional',
  priority smallint DEFAULT 5,
  send_at timestamptz DEFAULT now(),
  expires_at timestamptz,
  dedup_key text,
  sender text,
  recipient text NOT NULL,
  cc text[],
  bcc text[],
  reply_to text,
  subject text,
  text_body text,
  html_body text,
  template text,
  params jsonb,
  locale text,
  raw bytea,
  headers jsonb,
  attachments jsonb,
  thread_key text,
  campaign text COLLATE "C",
  tags text[],
  metadata jsonb,
  domain text COLLATE "C" GENERATED ALWAYS AS (rtrim(lower(substring(recipient FROM '@([^@>]+)>?$')), '.')) STORED,
  CONSTRAINT "recipient: not a mailbox such as ann@example.org" CHECK (
    recipient ~ '^[^][@<>(),:;"\\[:space:]]+@([^][@<>(),:;"\\[:space:]]+|\[[0-9A-Za-z.:]+\])$'
    OR recipient ~ '^[^<>]*<[^][@<>(),:;"\\[:space:]]+@([^][@<>(),:;"\\[:space:]]+|\[[0-9A-Za-z.:]+\])>$'),
  CONSTRAINT "recipient: has a control character (CR, LF, tab, ...)" CHECK (recipient !~ '[[:cntrl:]]'),
  CONSTRAINT "recipient: longer than 998, or its domain than 253 octets" CHECK (
    octet_length(recipient) <= 998 AND octet_length(domain) <= 253),
  CONSTRAINT "cc: an element is not a mailbox such as ann@example.org" CHECK (cc IS NULL OR mailerd.are_mailboxes(cc)),
  CONSTRAINT "bcc: an element is not a mailbox such as ann@example.org" CHECK (bcc IS NULL OR mailerd.are_mailboxes(bcc)),
  CONSTRAINT "cc, bcc: more than 63 recipients in all" CHECK (coalesce(cardinality(cc), 0) + coalesce(cardinality(bcc), 0) <= 62),
  CONSTRAINT "reply_to: has a control character, or longer than 998" CHECK (reply_to !~ '[[:cntrl:]]' AND length(reply_to) <= 998),
  CONSTRAINT "sender: has a control character, or longer than 998" CHECK (sender !~ '[[:cntrl:]]' AND length(sender) <= 998),
  CONSTRAINT "subject: has a line break, or longer than 4000" CHECK (subject !~ '[\r\n]' AND length(subject) <= 4000),
  CONSTRAINT "stream: empty, too long, or not a plain name" CHECK (stream ~ '^[A-Za-z0-9][A-Za-z0-9_.-]*$' AND length(stream) <= 63),
  CONSTRAINT "campaign: has a control character, or longer than 200" CHECK (campaign !~ '[[:cntrl:]]' AND octet_length(campaign) <= 200),
  CONSTRAINT "priority: not between 0 (most urgent) and 9" CHECK (priority BETWEEN 0 AND 9),
  -- Outside these years a client library cannot read the value back, and one such row would stop a whole lease.
  CONSTRAINT "send_at: not between the years 2000 and 9999" CHECK (send_at >= '2000-01-01 00:00+00' AND send_at < '9999-12-31 00:00+00'),
  CONSTRAINT "expires_at: not between the years 2000 and 9999" CHECK (expires_at >= '2000-01-01 00:00+00' AND expires_at < '9999-12-31 00:00+00'),
  CONSTRAINT "cc, bcc, tags: not a plain list" CHECK (
    coalesce(array_ndims(cc), 1) = 1 AND coalesce(array_ndims(bcc), 1) = 1 AND coalesce(array_ndims(tags), 1) = 1),
  CONSTRAINT "dedup_key: empty or longer than 500 octets" CHECK (octet_length(dedup_key) BETWEEN 1 AND 500),
  CONSTRAINT "thread_key: longer than 500 octets" CHECK (octet_length(thread_key) <= 500),
  CONSTRAINT "template: not a plain name" CHECK (template ~ '^[A-Za-z0-9][A-Za-z0-9_./-]*$' AND length(template) <= 200 AND template !~ '\.\.'),
  CONSTRAINT "locale: not a language tag such as pt-BR" CHECK (locale ~ '^[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*$' AND length(locale) <= 35),
  CONSTRAINT "params: not a JSON object" CHECK (jsonb_typeof(params) = 'object'),
  CONSTRAINT "headers: not a JSON object" CHECK (jsonb_typeof(headers) = 'object'),
  CONSTRAINT "metadata: not a JSON object" CHECK (jsonb_typeof(metadata) = 'object'),
  CONSTRAINT "attachments: not a JSON array" CHECK (jsonb_typeof(attachments) = 'array'),
  CONSTRAINT "content: none of template, raw, text_body, html_body" CHECK (
    num_nonnulls(template, raw, text_body, html_body) > 0),
  CONSTRAINT "content: raw is a whole message; drop the other content" CHECK (
    raw IS NULL OR num_nonnulls(template, text_body, html_body, subject, attachments) = 0),
  CONSTRAINT "content: template or text_body/html_body, not both" CHECK (
    template IS NULL OR num_nonnulls(text_body, html_body) = 0),
  CONSTRAINT "size: the row's content is over 25 MB" CHECK (
    coalesce(octet_length(text_body), 0) + coalesce(octet_length(html_body), 0) + coalesce(octet_length(raw), 0)
    + coalesce(pg_column_size(params), 0) + coalesce(pg_column_size(attachments), 0)
    + coalesce(pg_column_size(headers), 0) + coalesce(pg_column_size(metadata), 0) <= 26214400),
  PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX outbox_recipient ON mailerd.outbox (lower(recipient));

COMMENT ON TABLE mailerd.outbox IS 'INSERT here to send a message. Never updated; partitions are dropped after 30 days.';

-- Payloads that are still needed when their partition goes.
CREATE TABLE mailerd.outbox_kept (LIKE mailerd.outbox INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE, PRIMARY KEY (id));
