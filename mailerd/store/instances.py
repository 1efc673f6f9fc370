"""Who is running, and what operators said: the heartbeat, the streams we publish, and what is paused.

One call a second writes our own row and reads back what all instances share: how many are alive (connection caps are
divided by it) and what is paused. An instance that was not seen for 15 seconds counts as gone; nothing depends on
that but the division of caps and what people are shown, since leases expire by themselves. It also says that our
streams are listed: only an hour without such a word fails the messages of a stream (`store.upkeep`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from mailerd import __version__
from mailerd.config.model import Stream
from mailerd.store.database import Session

__all__ = ["ALIVE_SECONDS", "Paused", "Shared", "beat", "leave", "publish_streams"]

ALIVE_SECONDS: Final = 15


class Paused(msgspec.Struct, frozen=True):
    """What an operator paused, by kind."""

    stream: frozenset[str] = frozenset()
    provider: frozenset[str] = frozenset()
    domain: frozenset[str] = frozenset()
    campaign: frozenset[str] = frozenset()


class Shared(NamedTuple):
    """What the last heartbeat read."""

    instances: int
    paused: Paused
    others: Mapping[str, int] = {}  # connections of the other instances, by provider
    strangers: int = 0  # others that have had no heartbeat since our first: they do not know of us


class ProviderState(NamedTuple):
    """What this instance knows of a provider, for people to see."""

    provider: str
    state: str
    open_for: float | None
    reason: str
    connections: int


BEAT: Final = """
WITH me AS (
  INSERT INTO mailerd.instance AS i (id, name, pid, version, streams, providers, state) VALUES ($1, $2, $3, $4, $5, $6, $7)
  ON CONFLICT (id) DO UPDATE SET seen_at = now(), state = excluded.state, streams = excluded.streams, providers = excluded.providers),
p AS (
  INSERT INTO mailerd.provider_state (instance, provider, state, until, reason, connections)
  SELECT $1, x.provider, x.state, now() + make_interval(secs => x.open_for), x.reason, x.connections
  FROM unnest($8::text[], $9::text[], $10::float8[], $11::text[], $12::int[]) AS x(provider, state, open_for, reason, connections)
  ON CONFLICT (instance, provider) DO UPDATE SET state = excluded.state, until = excluded.until, reason = excluded.reason,
    connections = excluded.connections, updated_at = now()),
listed AS (
  DELETE FROM mailerd.unlisted WHERE ctid = ANY (ARRAY(
    SELECT u.ctid FROM mailerd.unlisted u WHERE u.stream = ANY ($5) FOR UPDATE SKIP LOCKED)))
SELECT (SELECT count(*) FROM mailerd.instance i WHERE i.id <> $1 AND i.state = 'running' AND i.seen_at > now() - make_interval(secs => 15)) + 1,
  ARRAY(SELECT kind || ':' || name FROM mailerd.lane_control),
  ARRAY(SELECT s.provider || ':' || sum(s.connections) FROM mailerd.provider_state s
    WHERE s.instance <> $1 AND s.updated_at > now() - make_interval(secs => 15) GROUP BY s.provider),
  (SELECT count(*) FROM mailerd.instance i WHERE i.id <> $1 AND i.seen_at > now() - make_interval(secs => 15)
    AND i.seen_at < coalesce((SELECT m.started_at FROM mailerd.instance m WHERE m.id = $1), now()) + make_interval(secs => 0.5))
"""

PUBLISH: Final = """
INSERT INTO mailerd.stream AS s (name, dedup_window, expires, marketing)
SELECT x.name, make_interval(secs => x.dedup), make_interval(secs => x.expires), x.marketing
FROM unnest($1::text[], $2::float8[], $3::float8[], $4::bool[]) AS x(name, dedup, expires, marketing) ORDER BY x.name
ON CONFLICT (name) DO UPDATE SET dedup_window = excluded.dedup_window, expires = excluded.expires,
  marketing = excluded.marketing, updated_at = now()
WHERE (s.dedup_window, s.expires, s.marketing) IS DISTINCT FROM (excluded.dedup_window, excluded.expires, excluded.marketing)
"""


async def beat(
    session: Session,
    instance: int,
    name: str,
    streams: Sequence[str],
    state: str,
    providers: Sequence[ProviderState],
) -> Shared:
    """Writes our row and reads what is shared."""
    rows = await session.fetch(
        BEAT,
        instance,
        name,
        os.getpid(),
        __version__,
        list(streams),
        [p.provider for p in providers],
        state,
        [p.provider for p in providers],
        [p.state for p in providers],
        [p.open_for for p in providers],
        [p.reason for p in providers],
        [p.connections for p in providers],
    )
    alive, controls, others, strangers = rows[0]
    found: Mapping[str, set[str]] = {"stream": set(), "provider": set(), "domain": set(), "campaign": set()}
    for control in controls:
        kind, _, target = control.partition(":")
        found.get(kind, set()).add(target)
    held = {provider: int(count) for provider, _, count in (other.rpartition(":") for other in others)}
    return Shared(alive, Paused(**{kind: frozenset(names) for kind, names in found.items()}), held, strangers)


async def publish_streams(session: Session, streams: Sequence[Stream]) -> None:
    """Tells the triggers and the other instances which streams are configured."""
    await session.execute(
        PUBLISH,
        [s.name for s in streams],
        [float(s.dedup_window) for s in streams],
        [float(s.expires) for s in streams],
        [s.marketing for s in streams],
    )


async def leave(session: Session, instance: int) -> None:
    """Takes our row away at a clean stop."""
    await session.execute("DELETE FROM mailerd.provider_state WHERE instance = $1", instance)
    await session.execute("DELETE FROM mailerd.instance WHERE id = $1", instance)
