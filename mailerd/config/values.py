"""The spellings of the file: durations, sizes, rates, quotas, `host:port`, mailboxes. Text to value and back, nothing else.

Every parser raises ValueError with words that can stand behind a key path.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import date

__all__ = [
    "cap",
    "day",
    "days",
    "duration",
    "host",
    "listen",
    "mailbox",
    "quota",
    "rate",
    "show_duration",
    "show_rate",
    "show_size",
    "size",
]

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # in milliseconds, to stay exact
_SIZES = {"B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}  # powers of 1024, as in PostgreSQL's settings
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) ?(ms|s|m|h|d)?", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}) ?(B|kB|MB|GB)?", re.ASCII)
_NO_DURATION = "is no duration: write `250ms`, `30s`, `5m`, `2h`, `2d`, or a number of seconds"
_LONGEST = 3650 * 86400  # ten years: more is a slip, and Postgres's interval has an end
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?) ?/ ?(s|m|h|d)", re.ASCII)
_NO_RATE = "is no rate: write `100/s`, `20/m`, `5000/h` or `50000/d`"
_FASTEST = 1_000_000.0
_CAP = re.compile(r"(\d{1,4}) ?/ ?(m|h|d)", re.ASCII)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_YEARS = range(2000, 3000)
_MOST_DAYS = 365
_MOST_MESSAGES = 1_000_000_000  # a day: more is a slip
_QUOTA = re.compile(r"(\d{1,15}(?:\.\d{1,6})?) ?/ ?(d|day|month)", re.ASCII)


def duration(value: object, *, zero: bool = False) -> float:
    """Seconds from `250ms`, `30s`, `5m`, `2h`, `2d` or a number of seconds. 0 only where `zero` says so."""
    seconds: float
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None and value.strip().startswith("-"):
            raise ValueError("must not be negative")
        if match is None:
            raise ValueError(_NO_DURATION)
        seconds = float(match[1]) * _UNITS[match[2] or "s"] / 1000
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise ValueError(_NO_DURATION)
    if not seconds <= _LONGEST:  # not a number, too
        raise ValueError("is longer than ten years")
    if seconds < 0:
        raise ValueError("must not be negative")
    if seconds == 0 and not zero:
        raise ValueError("must not be zero")
    return float(seconds)


def show_duration(seconds: float) -> str:
    """The shortest exact spelling: 86400.0 is `1d`, 0.05 is `50ms`, 90.0 is `90s`."""
    milliseconds = round(seconds * 1000)
    for unit in ("d", "h", "m", "s"):
        if milliseconds and milliseconds % _UNITS[unit] == 0:
            return f"{milliseconds // _UNITS[unit]}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def rate(value: object) -> float:
    """Messages a second from `100/s`, `20/m`, `5000/h` or `50000/d`; more than none, at most a million a second."""
    if not isinstance(value, str):
        raise ValueError(_NO_RATE)
    text = value.strip()
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError("must not be negative" if text.startswith("-") else _NO_RATE)
    count = float(match[1])
    if not count:
        raise ValueError("must not be zero: `mailerd pause` stops a stream, provider, domain or campaign")
    found = count / _SPANS[match[2]]
    if found > _FASTEST:
        raise ValueError("is more than 1000000/s")
    if found < 1 / _LONGEST:
        raise ValueError("is less than one message in ten years")
    return found


def show_rate(per_second: float) -> str:
    """The shortest exact spelling: 1.5 is `90/m`, 1/60 is `1/m`, 100.0 is `100/s`."""
    for unit, seconds in _SPANS.items():
        count = per_second * seconds
        if count >= 1 and abs(count - round(count)) < 1e-6 * count:
            return f"{round(count)}/{unit}"
    unit = next((unit for unit, seconds in _SPANS.items() if per_second * seconds >= 1), "d")
    return f"{per_second * _SPANS[unit]:.6g}/{unit}"


def quota(value: object) -> str:
    """`50000/d` or `1000000/month`, as such; at least one message."""
    match = _QUOTA.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is no quota: write `50000/d` or `1000000/month`")
    count = float(match[1])
    if count < 1:
        raise ValueError("can never be met: it is less than one message")
    if count != int(count):
        raise ValueError("must be a whole number of messages")
    return f"{int(count)}/{'month' if match[2] == 'month' else 'd'}"


def cap(value: object) -> tuple[int, float]:
    """(messages, seconds) from `5/h`: so many in any hour."""
    match = _CAP.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is no limit: write `5/h` for five in any hour, or `/m`, `/d`")
    count = int(match[1])
    if not count:
        raise ValueError("can never be met: it is less than one message")
    return count, float(_SPANS[match[2]])


def day(text: str) -> date:
    """A calendar day from `2026-11-01`."""
    if not _DATE.fullmatch(text):
        raise ValueError("is no date: write `2026-11-01`")
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"is no date: there is no {text}") from None
    if found.year not in _YEARS:
        raise ValueError(f"must lie between {_YEARS[0]} and {_YEARS[-1]}")
    return found


def days(messages: Sequence[int]) -> None:
    """Messages of each day of a warm-up; they need not rise."""
    if len(messages) > _MOST_DAYS:
        raise ValueError(f"must have at most {_MOST_DAYS} days, not {len(messages)}")
    for number, most in enumerate(messages, 1):
        if most < 0:
            raise ValueError(f"day {number}: must not be negative")
        if not most:
            raise ValueError(f"day {number}: must not be zero; to send nothing, `mailerd pause`")
        if most > _MOST_MESSAGES:
            raise ValueError(f"day {number}: is more than {_MOST_MESSAGES} messages")


def size(value: object) -> int:
    """Octets from `64kB`, `25MB`, `1GB` (powers of 1024) or a number of octets; at least 1."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        octets = int(match[1]) * _SIZES[match[2] or "B"]
    elif isinstance(value, int) and not isinstance(value, bool):
        octets = value
    else:
        raise ValueError("is no size: write `64kB`, `25MB`, `1GB`, or a number of octets")
    if octets < 1:
        raise ValueError("must be at least 1 octet")
    if octets > 1 << 40:
        raise ValueError("is more than 1024GB")
    return octets


def show_size(octets: int) -> str:
    """The shortest exact spelling: 26214400 is `25MB`."""
    for unit in ("GB", "MB", "kB"):
        if octets and octets % _SIZES[unit] == 0:
            return f"{octets // _SIZES[unit]}{unit}"
    return str(octets)


def listen(text: str) -> tuple[str, int] | None:
    """(host, port) from `127.0.0.1:8025`, `[::1]:8025`, `:8025` (every address) or `localhost:0`; None for `off`."""
    if text == "off":
        return None
    name, colon, digits = text.rpartition(":")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
        if not _is_ip(name, 6):
            raise ValueError("has no IPv6 address between the brackets")
    elif ":" in name:
        raise ValueError("must have an IPv6 address in brackets: `[::1]:8025`")
    elif name:
        host(name)
    if not colon or not digits.isascii() or not digits.isdigit() or len(digits) > 5 or int(digits) > 65535:
        raise ValueError("must be host:port, as in `127.0.0.1:8025`, or `off`")
    return name, int(digits)


def host(text: str) -> str:
    """A host name or IP address, without scheme and port."""
    if "://" in text:
        raise ValueError("must be a name or address without `…://`")
    if ":" in text and not _is_ip(text, 6):
        raise ValueError("must be a name or address; the port has its own key")
    labels = text.rstrip(".").split(".")
    if (":" not in text and not all(_LABEL.fullmatch(label) for label in labels)) or len(text) > 253:
        raise ValueError("is no host name or address")
    return text


_LABEL = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?|_[\w-]{1,62}")
_LOCAL = re.compile(r"""(?:[\w!#$%&'*+/=?^`{|}~-]+(?:\.[\w!#$%&'*+/=?^`{|}~-]+)*|"(?:[^"\\\r\n]|\\.)+")""")
_NAMED = re.compile(r"""(?:\s*"(?:[^"\\]|\\.)*"\s*|[^"<>]*)<([^<>]*)>\s*""")


def mailbox(text: str, *, bare: bool = False) -> str:
    """The address of a mailbox (RFC 5322 §3.4: `ann@example.org`, or `Ann <ann@example.org>` unless `bare`).

    Octet limits of RFC 5321 §4.5.3.1. UTF-8 in local part and domain is legal (RFC 6531).
    """
    address = text.strip()
    if not bare and (match := _NAMED.fullmatch(text)):
        address = match[1]
    local, at, domain = address.rpartition("@")
    form = "`shop@example.org`" if bare else "`shop@example.org` or `Shop <shop@example.org>`"
    if not at or not _LOCAL.fullmatch(local):
        raise ValueError(f"is no mailbox: write {form}")
    literal = domain.startswith("[") and domain.endswith("]") and _is_ip(domain[1:-1].removeprefix("IPv6:"))
    if not literal:
        try:
            host(domain)
        except ValueError:
            raise ValueError(f"has no legal domain behind the @: write {form}") from None
    if len(local.encode()) > 64 or len(address.encode()) > 254:
        raise ValueError("is longer than an address may be (64 octets before the @, 254 in all)")
    return address


def _is_ip(text: str, version: int | None = None) -> bool:
    try:
        return version in (None, ipaddress.ip_address(text).version)
    except ValueError:
        return False
