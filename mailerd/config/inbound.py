"""Mail that comes back as configuration: where it is received, for which addresses, and how long it is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from mailerd.config import values
from mailerd.config.base import D, Duration, Name, Section, Size
from mailerd.config.kinds import is_loopback

__all__ = ["PROTOCOLS", "Imap", "Inbound", "Maildir", "endpoint", "problems"]

PROTOCOLS: Final = ("lmtp", "smtp")
_DOMAIN: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]").fullmatch


class Maildir(Section, frozen=True, kw_only=True):
    """A Maildir that is watched: what is in its `new` is read."""

    path: Annotated[
        str,
        Meta(
            description="The folder that holds `new` and `cur`.", examples=["/var/mail/bounces"], extra={"path": True}
        ),
    ]
    after: Annotated[
        Literal["keep", "remove"],
        Meta(description="What becomes of a mail that is stored: moved to `cur`, or deleted."),
    ] = "keep"


class Imap(Section, frozen=True, kw_only=True):
    """A mailbox that is asked for new mail over IMAP."""

    name: Annotated[Name, Meta(description="Shown in logs and as the source of its mails.", examples=["bounces"])]
    host: Annotated[str, Meta(description="Name or address of the server.", examples=["imap.example.org"])]
    port: Annotated[int, Meta(ge=1, le=65535, description="Its port.")] = 993
    tls: Annotated[
        Literal["implicit", "none"], Meta(description="`none` only to this machine: the password goes over it.")
    ] = "implicit"
    tls_ca: Annotated[
        str | None,
        Meta(
            description="PEM file of the authorities to believe. Default: the system's.",
            examples=["ca.pem"],
            extra={"path": True},
        ),
    ] = None
    username: Annotated[str, Meta(description="Login.", examples=["bounces@example.org"])]
    password: Annotated[
        str,
        Meta(
            description="Its password. Better: a secret file or credential.",
            examples=["secret"],
            extra={"secret": True},
        ),
    ]
    folder: Annotated[str, Meta(description="The mailbox to read.", min_length=1)] = "INBOX"
    move_to: Annotated[
        str | None,
        Meta(
            description="Where mails go that are stored. Default: they stay, and are marked with the keyword $Mailerd "
            "(where the server keeps none: as seen).",
            examples=["Processed"],
        ),
    ] = None
    poll: Annotated[Duration, Meta(description="Time between looks.")] = D(60)
    timeout: Annotated[Duration, Meta(description="Longest wait for one answer.")] = D(30)


class Inbound(Section, frozen=True, kw_only=True):
    """Bounces, complaints and automatic replies: where they are received. Nothing is passed on to anybody."""

    listen: Annotated[
        tuple[str, ...],
        Meta(
            description="Where mail is taken: `lmtp:HOST:PORT`, `smtp:HOST:PORT`, or `lmtp:/PATH` of a socket. Empty: nowhere.",
            examples=[["lmtp:127.0.0.1:8024"]],
            extra={"one": True},
        ),
    ] = ()
    return_path_domain: Annotated[
        str | None,
        Meta(
            description="Domain of signed return paths: of its addresses, those that [public] secret signed are taken, and postmaster.",
            examples=["bounces.example.org"],
        ),
    ] = None
    mailboxes: Annotated[
        tuple[str, ...],
        Meta(
            description="Other addresses for which mail is taken, such as `return_path` of an identity. All else is refused (550).",
            examples=[["bounces@example.org"]],
        ),
    ] = ()
    message_size: Annotated[
        Size, Meta(description="Largest mail that is taken. Of each, the first megabyte is read and stored.")
    ] = Size(52_428_800)
    connections: Annotated[int, Meta(ge=1, le=10_000, description="Most connections at a time.")] = 100
    tls_cert: Annotated[
        str | None,
        Meta(
            description="PEM file of the chain with which STARTTLS is offered.",
            examples=["fullchain.pem"],
            extra={"path": True},
        ),
    ] = None
    tls_key: Annotated[
        str | None, Meta(description="PEM file of its private key.", examples=["privkey.pem"], extra={"path": True})
    ] = None
    retention: Annotated[Duration, Meta(description="How long mails are kept in `inbound_mail`.")] = D(30 * 86400)
    maildir: Annotated[tuple[Maildir, ...], Meta(description="Maildirs that are watched: `[[inbound.maildir]]`.")] = ()
    imap: Annotated[tuple[Imap, ...], Meta(description="Mailboxes over IMAP: `[[inbound.imap]]`.")] = ()

    @property
    def active(self) -> bool:
        """Is mail received anywhere?"""
        return bool(self.listen or self.maildir or self.imap)


def endpoint(text: str) -> tuple[str, str, int]:
    """(protocol, host or path, port) of an element of `listen`; a path is absolute and has port -1. Raises ValueError."""
    protocol, colon, where = text.partition(":")
    if not colon or protocol not in PROTOCOLS:
        raise ValueError("must say how: `lmtp:127.0.0.1:8024`, `smtp:0.0.0.0:25` or `lmtp:/run/mailerd/lmtp.sock`")
    if where.startswith("/"):
        if len(os.fsencode(where)) > 100:
            raise ValueError("has a path of more than 100 octets, which no socket may have")
        return protocol, where, -1
    found = values.listen(where)
    if found is None:
        raise ValueError("must be host:port or a path; leave `listen` empty for none")
    if protocol == "lmtp" and found[1] == 25:
        raise ValueError("must not be port 25: LMTP is not spoken there (RFC 2033 §5)")
    return protocol, *found


def problems(inbound: Inbound, secret: bool) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """(key path below [inbound], what is wrong) for what concerns several keys, or the meaning of a text."""
    for text in inbound.listen:
        try:
            endpoint(text)
        except ValueError as wrong:
            yield ("listen",), f"`{text}` {wrong}"
    if inbound.listen and not inbound.mailboxes and inbound.return_path_domain is None:
        yield ("listen",), "is of no use without `return_path_domain` or `mailboxes`: every address would be refused"
    domain = inbound.return_path_domain
    if domain is not None:
        if not _DOMAIN(domain.lower()) or len(domain) > 190:
            yield ("return_path_domain",), f"`{domain}` is no domain such as bounces.example.org"
        if not secret:
            yield ("return_path_domain",), "needs [public] secret, which signs return paths"
    for address in inbound.mailboxes:
        try:
            values.mailbox(address, bare=True)
        except ValueError as wrong:
            yield ("mailboxes",), f"`{address}` {wrong}"
    if (inbound.tls_cert is None) != (inbound.tls_key is None):
        yield ("tls_cert" if inbound.tls_cert is None else "tls_key",), "must be given: certificate and key go together"
    for name in ("tls_cert", "tls_key"):
        path = getattr(inbound, name)
        if path is not None and not os.path.isfile(path):
            yield (name,), f"there is no file {path}"
    for index, imap in enumerate(inbound.imap):
        try:
            values.host(imap.host)
        except ValueError as wrong:
            yield ("imap", index, "host"), str(wrong)
        if imap.tls == "none" and not is_loopback(imap.host):
            yield ("imap", index, "tls"), "must be `implicit`: a password goes in the clear only to this machine"
        for name in ("folder", "move_to"):
            if not (getattr(imap, name) or "").isascii():
                yield ("imap", index, name), "must be ASCII: write it as the server does (RFC 3501 §5.1.3)"
        if imap.tls_ca is not None and not os.path.isfile(imap.tls_ca):
            yield ("imap", index, "tls_ca"), f"there is no file {imap.tls_ca}"
        if imap.name in {other.name for other in inbound.imap[:index]}:
            yield ("imap", index, "name"), "there is another [[inbound.imap]] of this name"
