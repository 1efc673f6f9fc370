"""Which addresses we connect to on somebody's word: public ones only, judged at the moment of connecting.

A name is checked where its address is used, not where it is looked up, so no second answer of the DNS can slip in
between (rebinding). Addresses that carry another one inside (IPv4-mapped, NAT64, 6to4) are judged by that, too.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any, Final

__all__ = ["NotPublic", "is_public", "public_socket"]

_NAT64: Final = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
_SHARED: Final = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598: neither private nor global


class NotPublic(OSError):
    """The address is private, loopback, link-local, multicast or reserved."""


def is_public(address: str) -> bool:
    """Is this address, with or without a zone, one of the public internet?"""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found.sixtofour is not None:
            return is_public(str(found.sixtofour))
        if any(found in network for network in _NAT64):
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.teredo is not None or found.is_site_local:
            return False
    elif found in _SHARED:
        return False
    return found.is_global and not found.is_multicast and not found.is_reserved


def public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for this answer of `getaddrinfo`. Raises `NotPublic`."""
    family, kind, protocol, _, where = info
    if not is_public(str(where[0])):
        raise NotPublic(
            errno.EACCES, f"{where[0]} is no public address; `allow_private` of the webhook would permit it"
        )
    return socket.socket(family=family, type=kind, proto=protocol)
