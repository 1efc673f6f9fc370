"""The fields of report parts: delivery status (RFC 3464, RFC 6533) and feedback (RFC 5965). Pure; unknown fields pass.

Addresses come as `type; text`: of `rfc822` as they are, or as xtext (RFC 3461 §4) where a host passed ORCPT on undecoded,
of `utf-8` with `\\x{…}` escapes (RFC 6533 §3). Hazard: `Status` is often a mere 5.0.0 where the diagnostic says more;
then the diagnostic is believed.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

from mailerd.inbound.meaning import meaning, reply_in
from mailerd.inbound.mime import Fields, fields_of, words
from mailerd.inbound.phrases import ADDRESS
from mailerd.inbound.report import Result
from mailerd.message import clean

__all__ = ["ACTIONS", "address_of", "delivery_status", "groups_of", "result"]

ACTIONS: Final = ("failed", "delayed", "delivered", "relayed", "expanded")
_RECIPIENTS: Final = 1000  # results of one mail
_ADDRESS: Final = re.compile(ADDRESS)
_STATUS: Final = re.compile(r"(?<![\d.])[245]\.\d{1,3}\.\d{1,3}(?![\d.])")
_XTEXT: Final = re.compile(r"\+([0-9A-F]{2})")
_UTF8_ESCAPE: Final = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")
_ROUTE: Final = re.compile(r"^@[^:]{1,255}:")  # RFC 5321 appendix C
_VAGUE: Final = re.compile(r"[245]\.0\.\d{1,3}")


def address_of(value: str) -> str:
    """The address in a field `address-type; address`, '' if there is none. A missing type is taken for rfc822."""
    kind, separator, text = value.partition(";")
    kind = kind.strip().lower() if separator else "rfc822"
    text = (text if separator else value).split(" (")[0].strip().strip("<>").strip()
    if kind == "utf-8":
        text = _UTF8_ESCAPE.sub(lambda found: _character(int(found[1], 16), found[0]), text)
    text = _ROUTE.sub("", text)
    if any(c.isspace() for c in text):  # a command or a file that the address was expanded to
        found = _ADDRESS.search(text[:1000])
        text = found[0] if found else ""
    if "+" in text and "@" not in text and "+40" in text:
        text = _XTEXT.sub(lambda found: chr(int(found[1], 16)), text)
    return clean(text, 320) if "@" in text[1:] else ""


def _character(point: int, otherwise: str) -> str:
    return chr(point) if point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF else otherwise


def groups_of(body: bytes) -> list[Fields]:
    """The groups of fields in a delivery-status body: of the message first, then one for each recipient.

    Blank lines separate them (RFC 3464 §2.1), but where they are lost a second Final-Recipient begins a new one.
    """
    groups = []
    for block in re.split(rb"\n[ \t]*\n", body.strip(b"\n"))[: _RECIPIENTS + 1]:
        starts = [found.start() for found in re.finditer(rb"(?im)^final-recipient[ \t]*:", block)]
        cuts = [0, *starts[1:], len(block)] if len(starts) > 1 else [0, len(block)]
        groups += [fields_of(block[a:b]) for a, b in pairwise(cuts)]
    return [group for group in groups if group.all][: _RECIPIENTS + 1]


def delivery_status(groups: list[Fields], prose: str) -> list[Result]:
    """One result a group that names a recipient. `prose`: the text beside, asked where a group gives no reason."""
    results, prose = [], prose[:4000]
    for group in groups:
        final = address_of(group.get("final-recipient"))
        original = address_of(group.get("original-recipient"))
        if not (final or original or group.get("final-recipient") or group.get("original-recipient")):
            continue
        actual = address_of(group.get("x-actual-recipient"))
        action = group.get("action").lower().strip().split(" ")[0].rstrip(";,")
        found = _STATUS.search(group.get("status"))
        if action not in ACTIONS:  # `deliverable`: what Postfix reports of an address that it only tried
            action = "delivered" if action == "deliverable" or (found and found[0][0] == "2") else "failed"
        diagnostic = words(group.get("diagnostic-code"))
        results.append(
            result(
                final or original or actual,
                action,
                found[0] if found else "",
                diagnostic.partition(";")[2].strip() if ";" in diagnostic[:20] else diagnostic,
                prose,
                original=original if final else "",
                remote=_host(group.get("remote-mta")),
            )
        )
    return results


def result(
    recipient: str, action: str, status: str, diagnostic: str, prose: str = "", *, original: str = "", remote: str = ""
) -> Result:
    """What became of one recipient; `status` is the report's own word, '' where it has none."""
    code, said, reply = reply_in(diagnostic)
    if not status or (_VAGUE.fullmatch(status) and said and not _VAGUE.fullmatch(said)):
        status = said or status
    text = diagnostic
    if not code and len(diagnostic) < 4 and prose:
        code, said, reply = reply_in(prose)
        text = prose
        if said and (not status or _VAGUE.fullmatch(status)):
            status = said
    if action in ("failed", "delayed") and status.startswith("2"):
        status = ""  # of something else, or the number of a version
    category, hardness = meaning(action, code, status, reply if code or said else text, text)
    return Result(
        recipient=clean(recipient, 320),
        original_recipient=original,
        action=action,
        status=status,
        code=code if action not in ("delivered", "relayed", "expanded") else 0,
        category=category,
        hardness=hardness,
        reason=clean(" ".join(text.split()), 512),
        remote_mta=clean(remote, 255),
    )


def _host(value: str) -> str:
    return value.partition(";")[2].strip() if ";" in value else value.strip()
