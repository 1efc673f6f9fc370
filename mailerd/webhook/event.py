"""A provider's event as `Feedback`: what all webhooks share in reading one. Pure.

Every value of a body is a stranger's: `text`, `instant`, `planted`, `entries` take anything and give something small and harmless.
What a failure means for the recipient is decided as it is for bounce mails (`inbound.meaning`), with what the provider claims
as a second witness: it can make a failure soft, and hard only where nothing that was said speaks of somebody else.

Hazards: Postgres takes no NUL; an identifier of Python's takes time for every digit; 2^53 is less than Mailjet's ids. A
planted id is only as true as the body that it came in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final

import msgspec

from mailerd.feedback import Feedback
from mailerd.inbound.meaning import meaning, reply_in
from mailerd.inbound.report import Hardness
from mailerd.message import DETAIL_LIMIT, clean
from mailerd.webhook.dialect import Malformed

__all__ = ["Failed", "Reporter", "batch", "bot", "digest", "entries", "failed", "instant", "load", "planted", "text"]

TEXT: Final = 2048  # characters of one value that are kept
EVENTS: Final = 20_000  # of one body: five times what fits into the largest batch of SendGrid's
RAW: Final = 8192  # characters of an event that was not understood
_ID: Final = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,5}))?").fullmatch
_ID_LIMIT: Final = 1 << 63
_EPOCH_MS: Final = 10**11  # more than this many seconds are milliseconds
_ENHANCED: Final = re.compile(r"[245]\.\d{1,3}\.\d{1,3}").fullmatch

_encode = msgspec.json.Encoder().encode


def load(body: bytes) -> Any:
    """The JSON in a body. Raises `Malformed`."""
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise Malformed("JSON that is nested too deep") from None
    except (msgspec.DecodeError, UnicodeError, ValueError) as error:
        raise Malformed(clean(f"no JSON: {error}", 200)) from None


def batch(body: bytes) -> list[dict[str, Any]]:
    """The JSON objects in a body: an array of them, or one by itself. Raises `Malformed`."""
    found = load(body)
    events = found if isinstance(found, list) else [found]
    if not all(isinstance(event, dict) for event in events):
        raise Malformed("no events: a JSON object is due, or an array of them")
    if len(events) > EVENTS:
        raise Malformed(f"more than {EVENTS} events")
    return events


def text(value: Any, limit: int = TEXT) -> str:
    """A string or whole number as one clean string; '' for anything else."""
    if isinstance(value, str):
        return clean(value, limit)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 64:
        return str(value)
    return ""


def entries(value: Any) -> list[Any]:
    """A JSON array, or an empty one for anything else."""
    return value if isinstance(value, list) else []


def instant(value: Any) -> datetime | None:
    """A time as a provider writes it: seconds or milliseconds since 1970, a number or text, or RFC 3339 (without an offset:
    UTC). None for what is none, or lies outside 2000 to 2100."""
    if isinstance(value, str):
        value = value.strip() if len(value) <= 40 else ""
        try:
            value = float(value)
        except ValueError:
            return _written(value)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    if not math.isfinite(seconds):
        return None
    return _bounded(seconds / 1000 if seconds > _EPOCH_MS else seconds)


def _bounded(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if 946_684_800 <= seconds < 4_102_444_800 else None


def _written(value: str) -> datetime | None:
    try:
        then = datetime.fromisoformat(value)
        return _bounded((then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return None


def planted(value: Any) -> tuple[int | None, int | None]:
    """(message id, recipient's bit) of what `http.dialect.ident` planted; None for what is not there."""
    found = _ID(text(value))
    if found is None or int(found[1]) >= _ID_LIMIT:
        return None, None
    return int(found[1]), int(found[2]) if found[2] else None


def digest(*parts: Any) -> str:
    """A name for an event that its provider gives none: the same parts, the same name."""
    said = [repr(part) if isinstance(part, float) else text(part) for part in parts]
    return blake2b(_encode(said), digest_size=16).hexdigest()


_BOTS: Final = re.compile(
    r"GoogleImageProxy|YahooMailProxy|ggpht\.com|bot\b|crawler|spider|scan(?:ner)?\b|barracuda|proofpoint|mimecast|safelinks"
    r"|python-requests|curl/|wget/|headless",
    re.IGNORECASE,
).search


def bot(agent: Any) -> bool:
    """Does a User-Agent say that no person is behind it?"""
    return _BOTS(text(agent)) is not None


class Failed(msgspec.Struct, frozen=True):
    """What a failure means. `code` is 0 and `enhanced` '' where nobody said them."""

    code: int = 0
    enhanced: str = ""
    category: str = ""
    hard: bool = False


def failed(
    words: str, *, hard: bool | None = None, code: Any = 0, enhanced: Any = "", temporary: bool = False
) -> Failed:
    """The meaning of a failure that a provider reports with these words. `hard`: whether it claims the address to be dead,
    None if it does not say; `code` and `enhanced` of RFC 5321 and 3463, if it names them apart from the words."""
    said_code, said_enhanced, reply = reply_in(words)
    number = int(found) if (found := text(code)).isascii() and found.isdecimal() and len(found) == 3 else 0
    reply_code = number if 400 <= number < 600 else said_code
    status = text(enhanced) if _ENHANCED(text(enhanced)) else said_enhanced
    category, hardness = meaning("delayed" if temporary else "failed", reply_code, status, reply or words)
    if temporary or hard is False:
        return Failed(reply_code, status, category, False)
    if hard and category in ("other", "protocol"):  # nothing that was said speaks against it
        return Failed(reply_code, status, "recipient", True)
    return Failed(reply_code, status, category, hardness is Hardness.HARD)


class Reporter:
    """Makes the `Feedback` of one provider."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._source = f"webhook:{provider}"

    def report(
        self,
        type_: str,
        event: str,
        *,
        ours: Any = None,
        recipient: Any = "",
        message: Any = "",
        header: Any = "",
        at: Any = None,
        detail: Any = "",
        means: Failed | None = None,
        bot: bool = False,
        more: Mapping[str, Any] | None = None,
    ) -> Feedback:
        """`event` is its `source_id`; `ours` what was planted; `message` the provider's id; `header` a Message-ID; `more`
        goes into the metadata as text, where it is anything."""
        id_, bit = planted(ours)
        means = means or Failed()
        message_id = text(header).strip().removeprefix("<").removesuffix(">")
        return Feedback(
            type=type_,
            message_id=id_,
            rcpt=bit,
            recipient=text(recipient, 320),
            provider=self._provider,
            provider_message_id=text(message, 200).strip().removeprefix("<").removesuffix(">"),
            header_ids=(message_id,) if message_id else (),
            source=self._source,
            source_id=clean(event, 200),
            at=instant(at),
            code=means.code,
            enhanced=means.enhanced,
            category=means.category,
            hard=means.hard,
            bot=bot,
            detail=text(detail, DETAIL_LIMIT),
            metadata={name: value for name, given in (more or {}).items() if (value := text(given))},
        )

    def unknown(
        self, event: Any, name: Any = "", source_id: str = "", *, ours: Any = None, message: Any = ""
    ) -> Feedback:
        """An event that is not understood, whole or as much of it as is kept, as the text of its JSON."""
        try:
            raw = _encode(event).decode("utf-8", "replace")
        except (RecursionError, ValueError):  # nested as deep as the decoder just let pass
            raw = ""
        name_ = source_id or blake2b(raw.encode(), digest_size=16).hexdigest()
        found = self.report("unknown", name_, ours=ours, message=message, detail=text(name, 100))
        return msgspec.structs.replace(found, metadata={"raw": clean(raw, RAW)})
