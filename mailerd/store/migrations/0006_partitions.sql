-- Daily partitions, made ahead and dropped whole. No DEFAULT partition: attaching beside one would scan and lock it.

CREATE FUNCTION mailerd.partition_name(parent text, day date) RETURNS text
  LANGUAGE sql IMMUTABLE AS $$ SELECT parent || '_' || to_char(day, 'YYYYMMDD') $$;

-- Makes the partition of one UTC day unless it exists; true when it made one. CREATE … LIKE and ATTACH take no lock
-- that an inserting transaction conflicts with (SHARE UPDATE EXCLUSIVE on the parent); CREATE … PARTITION OF would.
-- The table is empty, so ATTACH has nothing to scan and needs no CHECK beside the bounds.
CREATE FUNCTION mailerd.create_partition(parent text, day date) RETURNS boolean
  LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  child text := mailerd.partition_name(parent, day);
  low text;
  high text;
BEGIN
  PERFORM set_config('lock_timeout', '50ms', true);
  IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = format('mailerd.%I', parent)::regclass
             AND i.inhrelid = to_regclass(format('mailerd.%I', child))) THEN
    RETURN false;
  END IF;
  IF parent = 'outbox' THEN
    low := mailerd.id_at(day::timestamp AT TIME ZONE 'UTC')::text;
    high := mailerd.id_at((day + 1)::timestamp AT TIME ZONE 'UTC')::text;
  ELSE
    low := quote_literal(day::text || ' 00:00:00+00');
    high := quote_literal((day + 1)::text || ' 00:00:00+00');
  END IF;
  EXECUTE format('CREATE TABLE IF NOT EXISTS mailerd.%I (LIKE mailerd.%I INCLUDING ALL)', child, parent);
  EXECUTE format('ALTER TABLE mailerd.%I ATTACH PARTITION mailerd.%I FOR VALUES FROM (%s) TO (%s)', parent, child, low, high);
  RETURN true;
END $$;

DO $$
DECLARE
  today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
  FOR d IN -1 .. 35 LOOP
    PERFORM mailerd.create_partition('outbox', today + d);
    PERFORM mailerd.create_partition('event', today + d);
  END LOOP;
END $$;
