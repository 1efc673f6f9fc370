"""Addresses of visitors, and how much each may ask for.

`Proxies` finds the client behind trusted proxies: X-Forwarded-For is read from its end, for as long as what stands there
is trusted; anything else in it is a stranger's claim. `Allowance` is a token bucket an address (IPv6: a /64, which one
subscriber has), in bounded memory: nothing of it is stored or logged.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

__all__ = ["Allowance", "Proxies"]

_KNOWN: Final = 65_536  # addresses that are remembered
_HOPS: Final = 16


class Proxies:
    """`networks`: addresses or networks whose X-Forwarded-For is believed."""

    def __init__(self, networks: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in networks]
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks if network.version == parsed.version)

    def client(self, peer: str, forwarded: str) -> str:
        """The address of the client: `peer`, or what trusted proxies say of theirs."""
        if not forwarded or not self._networks:
            return peer
        address = peer
        for hop in forwarded.split(",")[: -_HOPS - 1 : -1]:
            if not self.trusts(address):
                break
            found = _address(hop)
            if found is None:
                break
            address = found
        return address


def _address(text: str) -> str | None:
    """An address as proxies write it: with a port, in brackets; IPv4 in IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


class Allowance:
    """`rate` units a second an address, `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._full_at: dict[str, float] = {}  # when the address's bucket will be full again, by its clock

    def take(self, address: str, cost: float, now: float) -> bool:
        """`now` is monotonic. What is refused costs nothing."""
        then = self._then(address, now) + cost / self._rate
        if then - now > self._burst / self._rate:
            return False
        self._set(address, then, now)
        return True

    def charge(self, address: str, cost: float, now: float) -> None:
        """Takes it whether or not there is as much."""
        self._set(address, min(self._then(address, now) + cost / self._rate, now + self._burst / self._rate), now)

    def spent(self, address: str, now: float) -> bool:
        """Whether it may ask for nothing at all."""
        return self._then(address, now) - now > (self._burst - 1.0) / self._rate

    def _then(self, address: str, now: float) -> float:
        return max(self._full_at.get(_subscriber(address), 0.0), now)

    def _set(self, address: str, then: float, now: float) -> None:
        key = _subscriber(address)
        if key not in self._full_at and len(self._full_at) >= _KNOWN:
            self._forget(now)
        self._full_at[key] = then

    def _forget(self, now: float) -> None:
        """Those whose bucket is full anyhow; if that is too few, the ones that came first."""
        self._full_at = {key: then for key, then in self._full_at.items() if then > now}
        for key in list(self._full_at)[: max(0, len(self._full_at) - _KNOWN * 3 // 4)]:
            del self._full_at[key]


@lru_cache(maxsize=4096)
def _subscriber(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address
