"""Mailboxes: from what a row holds (`Ann <ann@example.org>`, UTF-8) to what SMTP and a header field take.

`parse` accepts exactly one mailbox and answers with its parts, or raises `Failure` with a reason that names the field
and what is wrong with it. Internationalised domains become A-labels here and nowhere else (RFC 5891 §4.4), so an
address leaves as ASCII unless its local part is not ASCII, which needs SMTPUTF8 (RFC 6531). It looks nothing up: an
address that parses may still not exist.

Hazards: addresses come from sign-up forms. What is neither an atom nor plain UTF-8 is refused rather than repaired,
but for spaces around the whole; a repaired address is somebody else's. Local parts compare lower-cased (`normal`),
though RFC 5321 §2.4 lets a host tell `Ann` from `ann`: no known receiver does, and suppression must not miss one.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from functools import lru_cache
from typing import NoReturn

import idna
import msgspec

from mailerd.message import Failure

from .headers import WIDTH, encoded_words, fold

__all__ = ["Mailbox", "base", "field", "normal", "parse"]

# RFC 5321 §4.5.3.1: local part 64 octets, domain 255, path 256 with its brackets. A name that DNS can hold has 253.
LOCAL_LIMIT = 64
DOMAIN_LIMIT = 253
ADDRESS_LIMIT = 254
NAME_LIMIT = 320  # characters of a display name; ours, so that a header stays a header

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_plain = re.compile(rf"({_ATEXT}+(?:\.{_ATEXT}+)*)@((?:{_LABEL}\.)*(?!\d+$){_LABEL})").fullmatch
# The same with a name of atoms in front: what most rows hold.
_named = re.compile(
    rf"({_ATEXT}+(?: {_ATEXT}+)*) <(({_ATEXT}+(?:\.{_ATEXT}+)*)@((?:{_LABEL}\.)*(?!\d+>){_LABEL}))>"
).fullmatch
_domain = re.compile(rf"(?:{_LABEL}\.)*(?!\d+$){_LABEL}").fullmatch
_dot_atom = re.compile(r"[^\s\"(),:;<>@\[\\\].]+(?:\.[^\s\"(),:;<>@\[\\\].]+)*").fullmatch
# RFC 5321 Quoted-string, without what a careless relay may take for syntax: space, @, angle brackets, backslash.
_quoted_local = re.compile(r'"[!#-;=?A-\[\]-~]+"').fullmatch
_control = re.compile("[\x00-\x1f\x7f]").search
_atoms = re.compile(rf"{_ATEXT}+(?: {_ATEXT}+)*").fullmatch
_escaped = re.compile(r"\\(.)").sub
_tag = re.compile(r"^([^\"+@][^+@]*)\+[^@]*@").sub
_special = re.compile(r'(["\\])').sub


class Mailbox(msgspec.Struct, frozen=True, gc=False):
    """One mailbox: display name ('' if none), addr-spec with A-label domain, its domain, and whether it needs SMTPUTF8."""

    name: str
    address: str
    domain: str
    utf8: bool = False

    @property
    def normal(self) -> str:
        """See `normal`."""
        return self.address.lower()


def _refuse(field: str, problem: str, text: str) -> NoReturn:
    shown = ascii(text if len(text) <= 80 else text[:79] + "…")
    raise Failure(f"{field}: {problem}: {shown}", "address")


def parse(text: str, field: str = "address") -> Mailbox:
    """The one mailbox in `text`. `field` opens the reason of the `Failure` (category `address`) that bad input gets."""
    if len(text) <= ADDRESS_LIMIT:
        if plain := _plain(text):
            local, domain = plain.groups()
            if len(local) <= LOCAL_LIMIT and len(domain) <= DOMAIN_LIMIT:
                return Mailbox("", text, domain)
        elif named := _named(text):
            name, address, local, domain = named.groups()
            if len(local) <= LOCAL_LIMIT:
                return Mailbox(name, address, domain)
    return _parse(text, field)


def _parse(whole: str, field: str) -> Mailbox:
    text = whole.strip(" ")
    if not text:
        _refuse(field, "empty address", whole)
    if bad := _control(text):
        _refuse(field, f"control character U+{ord(bad[0]):04X} in the address", whole)
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        _refuse(field, "not valid Unicode", whole)
    name, address = "", text
    if text.endswith(">"):
        before, bracket, address = text[:-1].rpartition("<")
        if not bracket:
            _refuse(field, "a > without a <", whole)
        name = _display_name(before.strip(" "), field, whole)
        if "@" in address and (plain := _plain(address)) and len(address) <= ADDRESS_LIMIT:
            local, domain = plain.groups()
            if len(local) <= LOCAL_LIMIT:
                return Mailbox(name, address, domain)
    local, at, domain = address.rpartition("@")
    if not address:
        _refuse(field, "empty address", whole)
    if not at:
        _refuse(field, "no @ in the address", whole)
    if "@" in local:
        _refuse(field, "more than one @: one mailbox is wanted", whole)
    if not local:
        _refuse(field, "nothing before the @", whole)
    if not domain:
        _refuse(field, "nothing after the @", whole)
    local = _local(local, field, whole)
    domain = _a_domain(domain, field, whole)
    octets = len(local.encode())
    if octets > LOCAL_LIMIT:
        _refuse(field, f"local part of {octets} octets, at most {LOCAL_LIMIT} are allowed", whole)
    if octets + 1 + len(domain) > ADDRESS_LIMIT:
        _refuse(field, f"address of {octets + 1 + len(domain)} octets, at most {ADDRESS_LIMIT} are allowed", whole)
    return Mailbox(name, f"{local}@{domain}", domain, not local.isascii())


def _display_name(name: str, field: str, whole: str) -> str:
    if len(name) >= 2 and name[0] == name[-1] == '"':
        name = _escaped(r"\1", name[1:-1])
    elif "@" in name and ("," in name or ";" in name or "<" in name):
        _refuse(field, "looks like a list of addresses: one mailbox is wanted", whole)
    if len(name) > NAME_LIMIT:
        _refuse(field, f"display name of {len(name)} characters, at most {NAME_LIMIT} are allowed", whole)
    return name


def _local(local: str, field: str, whole: str) -> str:
    if local[0] == '"':
        if not _quoted_local(local):
            _refuse(field, "quoted local part that is not safe to send", whole)
        return local
    if not local.isascii():
        local = unicodedata.normalize("NFC", local)  # RFC 6532 §3.1
    for c in local:
        if c.isspace():
            _refuse(field, "space in the address", whole)
        if not c.isprintable():
            _refuse(field, f"invisible character U+{ord(c):04X} in the address", whole)
    if not _dot_atom(local):
        if local[0] == "." or local[-1] == "." or ".." in local:
            _refuse(field, "dots at the ends or in a row before the @", whole)
        _refuse(field, "character that is not allowed before the @", whole)
    return local


def _a_domain(domain: str, field: str, whole: str) -> str:
    if " " in domain:
        _refuse(field, "space in the address", whole)
    if domain[0] == "[":
        if not _literal(domain):
            _refuse(field, "not an address literal (RFC 5321 §4.1.3)", whole)
        return domain
    if len(domain) > DOMAIN_LIMIT:  # before idna, whose work grows with the square of the length
        _refuse(field, f"domain of {len(domain)} characters, at most {DOMAIN_LIMIT} are allowed", whole)
    if not domain.isascii():
        try:
            domain = _a_label(domain)
        except UnicodeError as e:  # idna.IDNAError among them
            _refuse(field, f"domain name that IDNA does not allow ({e})", whole)
        if len(domain) > DOMAIN_LIMIT:
            _refuse(field, f"domain of {len(domain)} octets, at most {DOMAIN_LIMIT} are allowed", whole)
    if not _domain(domain):
        if domain.rpartition(".")[2].isdigit():
            _refuse(field, "an IP address after the @ needs brackets", whole)
        _refuse(field, "not a domain name after the @", whole)
    return domain


@lru_cache(4096)
def _a_label(domain: str) -> str:
    return idna.encode(domain, uts46=True, std3_rules=True).decode("ascii")


def _literal(domain: str) -> bool:
    inner = domain[1:-1]
    if domain[-1] != "]":
        return False
    try:
        if inner[:5].lower() == "ipv6:":
            return "%" not in inner and bool(ipaddress.IPv6Address(inner[5:]))
        return bool(ipaddress.IPv4Address(inner))
    except ValueError:
        return False


def normal(address: str) -> str:
    """The form in which addresses are compared and suppressed: bare, lower-cased, A-label domain.

    Takes a mailbox with or without a name. Raises `Failure` as `parse` does. `mailerd.normal_address` in SQL says the same of
    bare ASCII addresses, and takes no others.
    """
    return parse(address).normal


def base(address: str) -> str:
    """An address in normal form without its tag (RFC 5233): ann+shop@example.org is ann@example.org. `mailerd.base_address`
    in SQL says the same."""
    return _tag(r"\1@", address)


def field(name: str, mailboxes: list[Mailbox] | tuple[Mailbox, ...]) -> str:
    """The header field `name` listing `mailboxes` (RFC 5322 §3.4), folded, with its CRLF.

    Display names are atoms, quoted strings or encoded-words; an addr-spec is never anything but itself (RFC 2047 §5).
    """
    if len(mailboxes) == 1:
        (mailbox,) = mailboxes
        phrase = "".join([f"{token} " for token in _phrase(mailbox.name)]) + "<" if mailbox.name else ""
        line = f"{name}: {phrase}{mailbox.address}{'>' if phrase else ''}"
        if not phrase or len(line) <= WIDTH:
            return line + "\r\n"
    tokens: list[str] = []
    for mailbox in mailboxes:
        if mailbox.name:
            tokens += _phrase(mailbox.name)
            tokens.append(f"<{mailbox.address}>,")
        else:
            tokens.append(f"{mailbox.address},")
    tokens[-1] = tokens[-1][:-1]
    return fold(name, tokens)


@lru_cache(1024)
def _phrase(name: str) -> tuple[str, ...]:
    """A display name as tokens between which a line may be folded."""
    if "=?" not in name and name.isascii():
        if _atoms(name):
            return tuple(name.split(" "))
        if len(name) <= 60:
            return ('"' + _special(r"\\\1", name) + '"',)
    # The first line holds the field's name as well, and RFC 2047 §2 stops it at 76; `fold` moves what does not fit.
    return tuple(encoded_words(name, 60))
