-- Warm-up: what each day of a schedule saw, counted by those who send. A schedule knows from it which of its days count.

CREATE TABLE mailerd.warmup_day (
  schedule text COLLATE "C" NOT NULL,              -- pool:NAME or provider:NAME
  day date NOT NULL,                               -- in the schedule's zone
  domain text COLLATE "C" NOT NULL,                -- a domain group; '*': all domains without one; '': all mail
  sent bigint NOT NULL DEFAULT 0,
  bounced bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  complained bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (schedule, day, domain)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailerd_read') THEN
    GRANT SELECT ON mailerd.warmup_day TO mailerd_read;
  END IF;
END $$;
