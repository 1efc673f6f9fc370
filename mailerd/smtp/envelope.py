"""What we say: the server's capabilities, the envelope commands, the content with its dots doubled. Pure.

It refuses an envelope that cannot be said to this server or safely at all (`Unfit`), before one octet of it is sent.
It never changes a message: content is sent as composed, but for dot-stuffing.

Hazard: whatever reaches `MAIL` and `RCPT` here is on the wire verbatim. `_path` is the only gate against command
injection, so nothing else may render an address.
"""

from __future__ import annotations

import re

import msgspec

from mailerd.message import Outgoing

__all__ = ["Capabilities", "Envelope", "Unfit", "capabilities", "render", "stuff"]

PATH_LIMIT = 320  # octets: local part 64, @, domain 255 (RFC 5321 §4.5.3.1); keeps a command line sane

# RFC 5321 §4.1.2: a dot-string local part and a domain have no space, bracket, quote or control character …
_PLAIN = re.compile(r"[^\x00-\x20<>\"\\\x7f-\xa0\u2028\u2029]+")
# … a quoted string may have the first three. An address literal ([192.0.2.1]) is plain.
_QUOTED = re.compile(
    r"\"(?:[^\x00-\x1f\"\\\x7f-\x9f\u2028\u2029]|\\[\x20-\x7e])*\"@[^\x00-\x20<>\"\\\x7f-\xa0\u2028\u2029]+"
)

_DOT = re.compile(rb"\n\.")  # a third of the time that `b"\n." in content` takes


class Capabilities(msgspec.Struct, frozen=True):
    """What the server announced in reply to EHLO. `size` is octets, 0: no limit announced, None: no SIZE at all."""

    pipelining: bool = False
    size: int | None = None
    eight_bit: bool = False
    utf8: bool = False
    enhanced: bool = False
    starttls: bool = False
    auth: tuple[str, ...] = ()


class Unfit(Exception):
    """This message cannot be sent over this connection; `category` as in `Outcome`. It never leaves `core`."""

    def __init__(self, reason: str, category: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.category = category


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """The commands of one transaction. `bad` has the recipients (by index) that cannot be said, with the reason."""

    commands: bytes  # MAIL, RCPT …, DATA, each with its CRLF
    bad: dict[int, str] | None = None


def capabilities(texts: list[bytes]) -> Capabilities:
    """Reads the lines of an EHLO reply (RFC 5321 §4.1.1.1): a greeting, then one keyword and its parameters a line."""
    found: dict[str, str] = {}
    for raw in texts[1:]:
        keyword, _, parameters = raw.decode("ascii", "replace").strip().partition(" ")
        if keyword.upper().startswith("AUTH="):  # the form of old servers
            keyword, parameters = "AUTH", f"{keyword[5:]} {parameters}"
        found[keyword.upper()] = f"{found.get('AUTH', '')} {parameters}" if keyword.upper() == "AUTH" else parameters
    size: int | None = None
    if "SIZE" in found:
        # RFC 1870 §3: without a parameter, or with 0, no fixed maximum is announced.
        number = found["SIZE"].strip()
        size = int(number) if number.isascii() and number.isdecimal() and len(number) < 20 else 0
    return Capabilities(
        pipelining="PIPELINING" in found,
        size=size,
        eight_bit="8BITMIME" in found,
        utf8="SMTPUTF8" in found,
        enhanced="ENHANCEDSTATUSCODES" in found,
        starttls="STARTTLS" in found,
        auth=tuple(dict.fromkeys(found.get("AUTH", "").upper().split())),
    )


def _path(address: str, utf8: bool) -> str | None:
    """Why `address` cannot stand between < and >, or None if it can."""
    if _PLAIN.fullmatch(address) is None and _QUOTED.fullmatch(address) is None:
        return "empty address" if not address else "address has a character that SMTP cannot carry"
    if not address.isascii():
        if not utf8:
            return "address is not ASCII and the message does not ask for SMTPUTF8"
        try:
            address.encode()
        except UnicodeEncodeError:
            return "address is not valid Unicode"
    if len(address) > PATH_LIMIT:
        return f"address longer than {PATH_LIMIT} characters"
    return None


def render(outgoing: Outgoing, can: Capabilities) -> Envelope:
    """The envelope of `outgoing` for a server with these capabilities. Raises `Unfit`."""
    content = outgoing.content
    sender = outgoing.sender
    mail = f"MAIL FROM:<{sender}>"
    if can.size is not None:
        if len(content) > can.size > 0:
            raise Unfit(f"message of {len(content)} octets exceeds the server's SIZE {can.size}", "size")
        mail += f" SIZE={len(content)}"
    utf8 = outgoing.utf8
    if utf8 and not can.utf8:
        raise Unfit("message needs SMTPUTF8 (RFC 6531), which the server does not offer", "address")
    if outgoing.eight_bit or utf8:
        if can.eight_bit:
            mail += " BODY=8BITMIME"
        elif outgoing.eight_bit:
            # RFC 6152 §3: 8-bit content "MUST NOT" be sent to a server that does not offer 8BITMIME.
            raise Unfit("message has 8-bit content and the server does not offer 8BITMIME (RFC 6152)", "content")
        if utf8:
            mail += " SMTPUTF8"
    # RFC 5321 §4.5.5: the null reverse-path is legal.
    problem = _path(sender, utf8) if sender else None
    if problem is not None:
        raise Unfit(f"sender: {problem}", "address")
    recipients = outgoing.recipients
    if len(recipients) == 1:
        address = recipients[0].address
        problem = _path(address, utf8)
        if problem is not None:
            raise Unfit(problem, "address")
        return Envelope(f"{mail}\r\nRCPT TO:<{address}>\r\nDATA\r\n".encode())
    bad: dict[int, str] = {}
    lines = [mail]
    for index, recipient in enumerate(recipients):
        problem = _path(recipient.address, utf8)
        if problem is None:
            lines.append(f"RCPT TO:<{recipient.address}>")
        else:
            bad[index] = problem
    if len(lines) == 1:
        raise Unfit(next(iter(bad.values()), "no recipient"), "address")
    lines.append("DATA\r\n")
    return Envelope("\r\n".join(lines).encode(), bad or None)


def stuff(content: bytes) -> bytes:
    """The content as DATA carries it: dots at line starts doubled (RFC 5321 §4.5.2), a CRLF at the end.

    A dot after a bare LF is doubled too: should one ever get here, a peer that takes LF for a line end still sees no
    end of data in it.
    """
    if _DOT.search(content) is not None:
        content = content.replace(b"\n.", b"\n..")
    if content.startswith(b"."):
        content = b"." + content
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    return content
