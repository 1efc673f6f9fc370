-- Mail that came back. Whoever receives it inserts and answers; whoever reads it says what it was, once, later.

CREATE TABLE mailerd.inbound_mail (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  source text NOT NULL,                            -- listen, maildir:PATH, imap:NAME
  peer text,                                       -- who handed it over
  sender text,                                     -- of the envelope; NULL where there was none
  recipients text[] NOT NULL DEFAULT '{}',         -- of the envelope
  digest bytea NOT NULL UNIQUE,                    -- of content and recipients: the same mail handed over again is one
  size bigint NOT NULL,                            -- octets that came; `raw` has the first megabyte of them
  raw bytea NOT NULL,
  next_at timestamptz DEFAULT now(),               -- when it is to be read; NULL: it has been, or never will be
  attempts smallint NOT NULL DEFAULT 0,
  read_at timestamptz,
  kind text,                                       -- bounce, delivered, complaint, auto_reply, challenge, other; unreadable
  report jsonb,                                    -- what was read
  message_id bigint,                               -- the message that it is about
  matched_by text,                                 -- return_path, message_id, header, provider_id, recipient
  applied int,                                     -- events that were new
  error text
);
-- Mail does not compress twice: what is large is mostly base64 of somebody's attachment.
ALTER TABLE mailerd.inbound_mail ALTER COLUMN raw SET STORAGE EXTERNAL;
CREATE INDEX inbound_mail_next ON mailerd.inbound_mail (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX inbound_mail_at ON mailerd.inbound_mail (at);
CREATE INDEX inbound_mail_message ON mailerd.inbound_mail (message_id) WHERE message_id IS NOT NULL;

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.inbound_mail TO mailerd_read;
  END IF;
END $$;
