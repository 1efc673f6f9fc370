"""A configuration made whole, and looked up by name.

Small files leave out what is obvious: `complete` puts it in (two streams, one pool, the only pool, the first identity),
for a Config from a file and for one made in code alike; and it makes several providers of one with several addresses. `Resolved` answers by name what the daemon asks all the time.
Both are pure; neither checks anything.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from mailerd.config.model import Config, Identity, Pool, Stream
from mailerd.config.provider import Provider

__all__ = ["DEFAULT_POOL", "DEFAULT_STREAMS", "Resolved", "base_of", "complete"]

DEFAULT_STREAMS = ("transactional", "marketing")
DEFAULT_POOL = "default"


def base_of(provider: str) -> str:
    """The name in the file of a provider, which may be one of several source addresses: `relay` for `relay@192.0.2.1`."""
    return provider.partition("@")[0]


def _by_address(provider: Provider) -> tuple[Provider, ...]:
    """A provider with several source addresses as one for each: its own connections, its own limits."""
    if len(provider.source) < 2:
        return (provider,)
    return tuple(replace(provider, name=f"{provider.name}@{address}", source=(address,)) for address in provider.source)


def complete(config: Config) -> Config:
    """`config` with the streams, the pool and the references that it leaves to us. Idempotent."""
    ways = {provider.name: _by_address(provider) for provider in config.provider}
    if any(len(several) > 1 for several in ways.values()):
        config = replace(
            config,
            provider=tuple(one for several in ways.values() for one in several),
            pool=tuple(
                replace(pool, providers=tuple(one.name for name in pool.providers for one in ways[name]))
                for pool in config.pool
            ),
        )
    streams = config.stream or tuple(Stream(name=name) for name in DEFAULT_STREAMS)
    pools = config.pool
    if not pools and config.provider:
        pools = (Pool(name=DEFAULT_POOL, providers=tuple(provider.name for provider in config.provider)),)
    only = (pools[0].name,) if len(pools) == 1 else ()
    first = config.identity[0].name if config.identity else None
    return replace(
        config,
        pool=pools,
        stream=tuple(
            replace(stream, pools=stream.pools or only, identity=stream.identity or first) for stream in streams
        ),
    )


class Resolved:
    """A complete Config by names. Unknown names raise KeyError: `rules` has seen to it that there are none."""

    __slots__ = ("config", "identities", "pools", "providers", "streams")

    def __init__(self, config: Config) -> None:
        self.config = complete(config)
        self.streams: Mapping[str, Stream] = {stream.name: stream for stream in self.config.stream}
        self.pools: Mapping[str, Pool] = {pool.name: pool for pool in self.config.pool}
        self.providers: Mapping[str, Provider] = {provider.name: provider for provider in self.config.provider}
        self.identities: Mapping[str, Identity] = {identity.name: identity for identity in self.config.identity}

    def identity_of(self, stream: str) -> Identity | None:
        """The identity for rows of this stream that name no sender; None when there is no identity at all."""
        name = self.streams[stream].identity
        return None if name is None else self.identities[name]

    def providers_of(self, stream: str) -> tuple[Provider, ...]:
        """The stream's providers, pool after pool in the order they are tried, each once; then those that these pools'
        warm-ups overflow to."""
        pools = self.streams[stream].pools
        more = [name for pool in pools for name in self.overflow_of(pool)]
        names = dict.fromkeys(name for pool in (*pools, *more) for name in self.pools[pool].providers)
        return tuple(self.providers[name] for name in names)

    def overflow_of(self, pool: str) -> tuple[str, ...]:
        """The pools that take what exceeds the warm-up of this one, or of its providers."""
        tables = (self.pools[pool].warmup, *(self.providers[name].warmup for name in self.pools[pool].providers))
        return tuple(dict.fromkeys(name for table in tables if table is not None for name in table.overflow))

    def pool_of(self, stream: str, provider: str) -> str | None:
        """The first of the stream's pools that has this provider."""
        pools = self.streams[stream].pools
        return next((pool for pool in pools if provider in self.pools[pool].providers), None)
