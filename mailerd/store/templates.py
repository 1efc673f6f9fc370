"""Stored templates: pushed once, read by every instance. A version is never changed; what a bare name means may be.

`refresh` costs one index lookup while nothing has changed, so instances ask several times a second; `fill` loads what
a row names and memory lacks, before the row is composed. Writers take the clock's row first, so serials become visible
in their order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from mailerd.compose.bundle import Edition, Library, Share, Version, split_pin
from mailerd.store.database import Run, Session

__all__ = ["Pushed", "Stored", "fill", "listed", "push", "refresh", "share", "source"]

log = logging.getLogger("mailerd.templates")

_TICK: Final = "UPDATE mailerd.template_clock SET serial = serial + 1 RETURNING serial"
_CHANGED: Final = """
SELECT t.name, t.shares::text, t.serial FROM mailerd.template t WHERE t.serial > $1 OR t.name = ANY ($2::text[])
"""
_VERSIONS: Final = """
SELECT v.name, v.version, v.content::text FROM unnest($1::text[], $2::int[]) AS x(name, version)
JOIN mailerd.template_version v ON v.name = x.name AND v.version = x.version
"""
_AUDIT: Final = "INSERT INTO mailerd.audit (actor, action, target, detail) VALUES ($1, $2, $3, $4)"
_shares = msgspec.json.Decoder(tuple[Share, ...]).decode


class _Content(msgspec.Struct, frozen=True):
    editions: dict[str, Edition]
    schema: dict[str, Any] | None = None


_content = msgspec.json.Decoder(_Content).decode


class Pushed(msgspec.Struct, frozen=True):
    """What a push came to; not `new` if the version that is there says the same."""

    name: str
    version: int
    new: bool


class Stored(msgspec.Struct, frozen=True):
    """A version as `mailerd template list` shows it."""

    name: str
    version: int
    at: datetime
    actor: str
    shares: tuple[Share, ...]


async def refresh(session: Session, library: Library) -> list[str]:
    """Loads what has changed since the last time; the names. Raises `Unavailable`."""
    serial = await session.value("SELECT serial FROM mailerd.template_clock")
    if serial is None or serial == library.serial:
        return []
    rows = await session.fetch(_CHANGED, library.serial, [])
    names = await _load(session, library, [(row[0], _shares(row[1])) for row in rows], [])
    library.serial = max([serial, *(row[2] for row in rows)])
    return names


async def fill(session: Session, library: Library, templates: Iterable[str]) -> None:
    """Loads what these names need and memory lacks; what is not stored stays unknown. Raises what Postgres raises."""
    wanted = [split_pin(t) for t in set(templates) if not library.knows(t)]
    if not wanted:
        return
    bare = [name for name, pin in wanted if not pin]
    rows = await session.fetch(_CHANGED, 1 << 62, bare) if bare else []
    await _load(session, library, [(row[0], _shares(row[1])) for row in rows], [(n, p) for n, p in wanted if p])


async def _load(
    session: Session, library: Library, names: Sequence[tuple[str, tuple[Share, ...]]], pins: Sequence[tuple[str, int]]
) -> list[str]:
    keys = {*pins, *((name, s.version) for name, shares in names for s in shares)}
    keys = {(name, pin) for name, pin in keys if not library.knows(f"{name}@{pin}")}
    versions: list[Version] = []
    if keys:
        for name, number, content in await session.fetch(_VERSIONS, [k[0] for k in keys], [k[1] for k in keys]):
            try:
                read = _content(content)
            except msgspec.MsgspecError as error:  # of a later release: it stays unknown, and others go on
                log.error("template %s@%d cannot be read: %s", name, number, error)
                continue
            versions.append(Version(name, number, read.editions, read.schema))
    library.put(versions, dict(names))
    return [name for name, _ in names]


async def push(
    session: Session, version: Version, files: dict[str, str], digest: str, actor: str, percent: float, variant: str
) -> Pushed:
    """Stores the next version of `version.name`, for so many percent of its recipients; the others keep what they have.
    The same content as the latest one is not stored again."""
    made: list[Pushed] = []
    content = msgspec.json.encode(_Content(version.editions, version.schema)).decode()

    async def work(run: Run) -> None:
        (tick,) = await run(_TICK)
        found = await run(
            "SELECT t.latest, t.shares::text, v.digest FROM mailerd.template t JOIN mailerd.template_version v"
            " ON v.name = t.name AND v.version = t.latest WHERE t.name = $1",
            version.name,
        )
        latest, before, known = (found[0][0], _shares(found[0][1]), found[0][2]) if found else (0, (), "")
        number = latest if known == digest else latest + 1
        share = Share(number, percent if before else 100.0, variant)
        others = tuple(s for s in before if s.version != number)
        left = sum(s.percent for s in others)
        shares: list[Share] = [share]
        if share.percent < 100 and left:
            shares += [Share(s.version, s.percent * (100 - share.percent) / left, s.variant) for s in others]
        await run(
            "INSERT INTO mailerd.template AS t (name, latest, shares, serial) VALUES ($1, $2, $3::jsonb, $4)"
            " ON CONFLICT (name) DO UPDATE SET latest = $2, shares = $3::jsonb, serial = $4, changed_at = now()",
            version.name,
            number,
            msgspec.json.encode(shares).decode(),
            tick[0],
        )
        if known != digest:
            await run(
                "INSERT INTO mailerd.template_version (name, version, content, source, digest, actor)"
                " VALUES ($1, $2, $3::jsonb, $4::jsonb, $5, $6)",
                version.name,
                number,
                content,
                msgspec.json.encode(files).decode(),
                digest,
                actor,
            )
        await run(_AUDIT, actor, "template push", f"template:{version.name}@{number}", f"{share.percent:g} %")
        made.append(Pushed(version.name, number, known != digest))

    await session.together(work)
    return made[0]


async def share(session: Session, name: str, shares: Sequence[Share], actor: str) -> bool:
    """Sets what a bare name means; False if one of the versions does not exist."""
    done: list[bool] = []

    async def work(run: Run) -> None:
        (tick,) = await run(_TICK)
        numbers = sorted({s.version for s in shares})
        found = await run(
            "SELECT version FROM mailerd.template_version WHERE name = $1 AND version = ANY ($2::int[])", name, numbers
        )
        done.append(len(found) == len(numbers))
        if done[0]:
            await run(
                "UPDATE mailerd.template SET shares = $2::jsonb, serial = $3, changed_at = now() WHERE name = $1",
                name,
                msgspec.json.encode(shares).decode(),
                tick[0],
            )
            words = ", ".join(f"@{s.version} {s.percent:g} % {s.variant}".rstrip() for s in shares)
            await run(_AUDIT, actor, "template share", f"template:{name}", words)

    await session.together(work)
    return done[0]


async def listed(session: Session, name: str | None = None) -> list[Stored]:
    """Every version, or those of one template; the newest of each first."""
    rows = await session.fetch(
        "SELECT v.name, v.version, v.at, v.actor, t.shares::text FROM mailerd.template_version v"
        " JOIN mailerd.template t ON t.name = v.name WHERE $1::text IS NULL OR v.name = $1"
        " ORDER BY v.name, v.version DESC",
        name,
    )
    return [Stored(r[0], r[1], r[2], r[3], tuple(s for s in _shares(r[4]) if s.version == r[1])) for r in rows]


async def source(session: Session, template: str) -> tuple[int, dict[str, str]] | None:
    """The version and files of `welcome@3`, or of the latest; None if there is no such version."""
    name, pin = split_pin(template)
    rows = await session.fetch(
        "SELECT v.version, v.source::text FROM mailerd.template_version v JOIN mailerd.template t ON t.name = v.name"
        " WHERE v.name = $1 AND v.version = CASE WHEN $2::int = 0 THEN t.latest ELSE $2 END",
        name,
        pin,
    )
    return (rows[0][0], msgspec.json.decode(rows[0][1], type=dict[str, str])) if rows else None
