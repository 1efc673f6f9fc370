"""Which limits a message falls under: from the configuration, and from what operators and feedback say at the moment.

A lane falls under its stream's rate, its pool's, its domain group's, and that of the group in the pool; what a provider
takes is limited by its own rate and quota. A limit that is nowhere configured costs nothing: there is no bucket. One
that somebody sets at run time (`hold`) makes a bucket, or moves the rate of the one that is there.

Pure. `version` changes whenever a lane's permits may have: lanes keep theirs until then. Hazard: buckets are shared by
all streams of the process, so they are made once, here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from mailerd.config.provider import Provider
from mailerd.config.resolved import Resolved, base_of
from mailerd.flow.bucket import Bucket, Limit, Permit, Slots
from mailerd.flow.domains import Group, Groups
from mailerd.flow.warming import Warming

__all__ = ["Held", "Limits", "key_of"]


def key_of(kind: str, name: str, domain: str = "") -> str:
    """The name of a bucket: `provider:ses`, `pool:bulk`, `pool:bulk/domain:gmail`."""
    return f"{kind}:{name}/domain:{domain}" if domain else f"{kind}:{name}"


class Held(msgspec.Struct, frozen=True):
    """A rate that holds for now. `operator` replaces the configured one, all others can only lower it."""

    key: str
    source: str
    rate: float


class Limits:
    """The buckets of one engine."""

    def __init__(self, resolved: Resolved) -> None:
        config = resolved.config
        self.version = 0
        self.groups = Groups([Group(d.name, d.match, d.mx) for d in config.domain])
        self.warming = Warming(resolved, self.groups)
        self._buckets: dict[str, Bucket] = {}
        self._configured: dict[str, Limit] = {}
        self._held: dict[str, list[Held]] = {}
        self._slots: dict[str, tuple[Slots, int]] = {}
        self._streams = list(resolved.streams)
        self._users: dict[str, set[str]] = {}  # provider or pool -> streams
        for stream in config.stream:
            for pool in stream.pools:
                self._users.setdefault(f"pool:{pool}", set()).add(stream.name)
                for provider in resolved.pools[pool].providers:
                    self._users.setdefault(f"provider:{provider}", set()).add(stream.name)
                    self._users.setdefault(f"quota:{provider}", set()).add(stream.name)
            if stream.rate:
                self._configure(Limit(key=key_of("stream", stream.name), rate=stream.rate))
        for pool_ in config.pool:
            if pool_.rate:
                self._configure(Limit(key=key_of("pool", pool_.name), rate=pool_.rate))
            for domain in pool_.domain:
                self._configure(Limit(key=key_of("pool", pool_.name, domain.name), rate=domain.rate))
        for group in config.domain:
            if group.rate:
                self._configure(Limit(key=key_of("domain", group.name), rate=group.rate))
            if group.connections:
                self._slots[group.name] = (Slots(key_of("domain", group.name), group.connections), group.connections)
        for provider_ in config.provider:
            self._configure_provider(provider_)

    def _configure_provider(self, provider: Provider) -> None:
        if provider.rate:
            self._configure(Limit(key=key_of("provider", provider.name), rate=provider.rate))
        if provider.quota:
            self._configure(
                Limit(
                    key=key_of("quota", provider.name),
                    quota=provider.quota.messages,
                    period=provider.quota.period,
                    zone=provider.quota_zone,
                )
            )

    def _configure(self, limit: Limit) -> None:
        self._configured[limit.key] = limit
        self._buckets[limit.key] = Bucket(limit, shared=self._shared(limit.key))

    def _shared(self, key: str) -> bool:
        """Do streams of different urgency use it?"""
        if key.startswith("domain:"):
            return len(self._streams) > 1
        return len(self._users.get(key.partition("/")[0], ())) > 1

    # -- what a message falls under --------------------------------------------------------------------------------------

    def of_lane(self, stream: str, pool: str, domain: str) -> tuple[Permit, ...]:
        """The permits that a message of this lane needs before it is leased."""
        name = self.groups.of(domain) or domain
        buckets = self._buckets
        keys = (f"stream:{stream}", f"pool:{pool}", f"domain:{name}", f"pool:{pool}/domain:{name}")
        found: list[Permit] = [buckets[key] for key in keys if key in buckets]
        if self._slots and name in self._slots:
            found.append(self._slots[name][0])
        if self.warming and (gate := self.warming.gate(pool, domain)) is not None:
            found.append(gate)
        return tuple(found)

    def of_provider(self, provider: str, pool: str = "") -> tuple[Bucket, ...]:
        """What a message needs of the provider that takes it; and of the `pool`, where it is not leased for that one."""
        keys = dict.fromkeys((f"provider:{provider}", f"quota:{provider}", f"provider:{base_of(provider)}"))
        if pool:
            keys[f"pool:{pool}"] = None
        return tuple(bucket for key in keys if (bucket := self._buckets.get(key)) is not None)

    def of_message(self, stream: str, pool: str, domain: str, providers: Iterable[str]) -> list[Limit]:
        """Every limit between a message of this lane and its sending; of the providers only if all of them have one."""
        found = [permit.limit for permit in self.of_lane(stream, pool, domain) if isinstance(permit, Bucket)]
        found += self.warming.limits(pool, domain)
        buckets = [self.of_provider(provider) for provider in providers]
        if all(buckets):
            found += [bucket.limit for several in buckets for bucket in several]
        return found

    def differ(self, pool: str, other: str) -> bool:
        """Has either pool a limit of its own?"""
        if self.warming.concerns(pool) or self.warming.concerns(other):
            return True
        names = (f"pool:{pool}", f"pool:{other}")
        return any(key.partition("/")[0] in names for key in self._buckets)

    def urgent(self, stream: str) -> bool:
        """Is it the most urgent stream, for which a part of what is shared is kept?"""
        return stream == self._streams[0]

    # -- what holds now ------------------------------------------------------------------------------------------------

    def hold(self, held: Iterable[Held]) -> bool:
        """All rates that hold now besides the configuration; True when one has changed."""
        found: dict[str, list[Held]] = {}
        for one in held:
            found.setdefault(one.key, []).append(one)
        if found == self._held:
            return False
        changed = {key for key in found.keys() | self._held.keys() if found.get(key) != self._held.get(key)}
        self._held = found
        for key in changed:
            self._adjust(key)
        self.version += 1
        return True

    def put(self, held: Held) -> None:
        """One more rate that holds, before the store says so: until `hold` is called again."""
        others = [one for one in self._held.get(held.key, ()) if one.source != held.source]
        self._held[held.key] = [*others, held]
        self._adjust(held.key)
        self.version += 1

    def stopped(self) -> frozenset[str]:
        """Providers that are not to be used for now: their rate is set to none."""
        prefix = "provider:"
        return frozenset(
            key.removeprefix(prefix) for key in self._held if key.startswith(prefix) and self.rate(key) == 0.0
        )

    def _adjust(self, key: str) -> None:
        if key.startswith("quota:"):
            return
        rate = self.rate(key)
        bucket = self._buckets.get(key)
        if rate is None:
            self._buckets.pop(key, None)  # what was taken from it is given back to nobody
        elif bucket is None:
            self._buckets[key] = Bucket(Limit(key=key, rate=rate), shared=self._shared(key))
        else:
            bucket.change(rate)

    def rate(self, key: str) -> float | None:
        """Messages a second that hold for this bucket now; None: no limit."""
        configured = self._configured.get(key)
        rate = configured.rate if configured is not None and not configured.quota else None
        held = self._held.get(key, ())
        for one in held:
            if one.source == "operator":
                rate = one.rate
        for one in held:
            if one.source != "operator":
                rate = one.rate if rate is None else min(rate, one.rate)
        return rate

    def share(self, instances: int) -> None:
        """How many instances there are: what counts heads is divided."""
        for slots, cap in self._slots.values():
            slots.cap = max(1, cap // instances)

    def buckets(self) -> Iterator[Bucket]:
        yield from self._buckets.values()
        if self.warming:
            yield from self.warming.buckets()

    def keys(self) -> list[str]:
        return list(self._buckets)
