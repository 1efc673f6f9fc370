-- What a bare name means is said by its shares, also to a row that pins it: after a rollback the newest version is nobody's.
-- The share of a recipient is that of `compose.bundle`: 48 bits of SHA-256 over the name and the address, as so many
-- percent; both read the address in the same way, and tests/store/test_pinned.py holds them against each other.

CREATE FUNCTION mailerd.pinned(template text, recipient text) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((
    SELECT t.name || '@' || s.version
    FROM mailerd.template t
    CROSS JOIN LATERAL (
      SELECT (x.share->>'version')::int AS version, x.place,
        sum((x.share->>'percent')::float8) OVER (ORDER BY x.place) AS upto
      FROM jsonb_array_elements(t.shares) WITH ORDINALITY AS x(share, place)) s
    CROSS JOIN LATERAL (
      SELECT ('x' || left(encode(sha256(convert_to(t.name || E'\n' || lower(btrim(
        coalesce(substring(pinned.recipient FROM '<([^<>]*)>[ \t\r\n]*$'), pinned.recipient),
        E' \t\r\n') COLLATE "C"), 'UTF8')), 'hex'), 12))::bit(48)::bigint::float8 / 281474976710656 * 100 AS point) p
    WHERE t.name = pinned.template
    ORDER BY s.upto <= p.point, CASE WHEN s.upto <= p.point THEN -s.place ELSE s.place END
    LIMIT 1), pinned.template)
$$;
REVOKE ALL ON FUNCTION mailerd.pinned(text, text) FROM PUBLIC;

-- Without a recipient: the version that most of them get, the newest of several.
CREATE OR REPLACE FUNCTION mailerd.pinned(template text) RETURNS text
  LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((
    SELECT t.name || '@' || (x.share->>'version')
    FROM mailerd.template t CROSS JOIN LATERAL jsonb_array_elements(t.shares) AS x(share)
    WHERE t.name = pinned.template
    ORDER BY (x.share->>'percent')::float8 DESC, (x.share->>'version')::int DESC
    LIMIT 1), pinned.template)
$$;
