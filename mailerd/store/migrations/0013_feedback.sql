-- What comes back: which reports were seen, soft bounces by day, what each address did last.

-- A report counts once. Three generations of five days: `store.feedback` writes to one, looks into two, and empties the
-- one that comes next.
CREATE TABLE mailerd.feedback_seen_0 (key uuid PRIMARY KEY);
CREATE TABLE mailerd.feedback_seen_1 (key uuid PRIMARY KEY);
CREATE TABLE mailerd.feedback_seen_2 (key uuid PRIMARY KEY);

CREATE TABLE mailerd.soft_bounce (
  address text COLLATE "C" NOT NULL,
  day date NOT NULL,
  times int NOT NULL,
  PRIMARY KEY (address, day)
);

-- Opens and clicks by people; those of machines are in `event` alone.
CREATE TABLE mailerd.engagement (
  address text COLLATE "C" PRIMARY KEY,
  opens int NOT NULL DEFAULT 0,
  clicks int NOT NULL DEFAULT 0,
  last_open timestamptz,
  last_click timestamptz
) WITH (fillfactor = 80);

ALTER TABLE mailerd.stream ADD COLUMN marketing boolean NOT NULL DEFAULT false;

-- Only HTTP APIs name an id of theirs: SMTP's events are not in it and pay nothing.
CREATE INDEX event_provider_message_id ON mailerd.event (provider_message_id) WHERE provider_message_id <> '';

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.engagement, mailerd.soft_bounce TO mailerd_read;
  END IF;
END $$;
