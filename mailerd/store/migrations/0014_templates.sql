-- Templates: each push adds a version that never changes again; `shares` says which versions a bare name means. The
-- clock's row lock puts changes in an order that readers can rely on: whoever has seen a serial has seen all before it.

CREATE TABLE mailerd.template_clock (one boolean PRIMARY KEY DEFAULT true CHECK (one), serial bigint NOT NULL DEFAULT 0);
INSERT INTO mailerd.template_clock DEFAULT VALUES;

CREATE TABLE mailerd.template (
  name text COLLATE "C" PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9_./-]*$' AND length(name) <= 180 AND name !~ '\.\.'),
  latest int NOT NULL,
  shares jsonb NOT NULL,                           -- [{"version": 4, "percent": 10, "variant": "b"}, …], 100 together
  serial bigint NOT NULL,                          -- of the clock, at the last change
  changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE mailerd.template_version (
  name text COLLATE "C" NOT NULL REFERENCES mailerd.template DEFERRABLE INITIALLY DEFERRED,
  version int NOT NULL CHECK (version > 0),
  content jsonb NOT NULL,                          -- what is rendered: layouts, styles and MJML are resolved in it
  source jsonb NOT NULL,                           -- file name → text, as it was pushed
  digest text NOT NULL,
  actor text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (name, version)
);

-- A row may pin a version: welcome@3. Whatever was allowed before still is, so old rows need no look.
ALTER TABLE mailerd.outbox DROP CONSTRAINT "template: not a plain name";
ALTER TABLE mailerd.outbox ADD CONSTRAINT "template: not a plain name" CHECK (
  template ~ '^[A-Za-z0-9][A-Za-z0-9_./-]*(@[1-9][0-9]{0,8})?$' AND length(template) <= 200 AND template !~ '\.\.') NOT VALID;

-- welcome → welcome@3: for a message that shall keep the version it was enqueued with.
CREATE FUNCTION mailerd.pinned(template text) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((SELECT t.name || '@' || t.latest FROM mailerd.template t WHERE t.name = pinned.template), pinned.template)
$$;
REVOKE ALL ON FUNCTION mailerd.pinned(text) FROM PUBLIC;

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_app') THEN
    GRANT EXECUTE ON FUNCTION mailerd.pinned(text) TO mailerd_app;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.template, mailerd.template_version TO mailerd_read;
  END IF;
END $$;
