"""What values must be together: references, unique names, and the meaning of texts (addresses, hosts, files).

Runs on a decoded tree and adds to its problems. It looks at the file system only to see that files which are named
exist, and connects to nothing. A value that is already known to be wrong is not complained about twice.
"""

from __future__ import annotations

import ipaddress
import os
import zoneinfo
from collections.abc import Callable, Sequence
from urllib.parse import parse_qs, urlsplit

from mailerd.config import attachments, kinds, suppression, values, webhook
from mailerd.config import inbound as returning
from mailerd.config.attachments import Attachments
from mailerd.config.decode import Tree, table_name
from mailerd.config.inbound import Inbound
from mailerd.config.lines import Path
from mailerd.config.model import (
    Campaign,
    Database,
    Feedback,
    GroupsSection,
    Identity,
    LeaseSection,
    Limits,
    Ops,
    Pool,
    RetryPolicy,
    Stream,
    Templates,
)
from mailerd.config.outgoing import Webhook, trouble
from mailerd.config.privacy import Privacy
from mailerd.config.problem import suggestion
from mailerd.config.provider import Provider, Warmup
from mailerd.config.public import SECRET_OCTETS, Public
from mailerd.config.suppression import Suppression
from mailerd.config.topic import Topic
from mailerd.config.tracking import missing

__all__ = ["check"]


def check(tree: Tree, *, require_provider: bool) -> None:
    """Adds every problem that concerns more than one value, or the outside world."""
    for table in ("stream", "pool", "provider", "domain", "campaign", "topic", "identity", "webhook"):
        _unique(tree, table)
    _references(tree)
    for path, database in tree.tables(Database):
        _text(tree, (*path, "url"), database.url, _database_url)
        if database.listen_url != "off":
            _text(tree, (*path, "listen_url"), database.listen_url, _database_url)
    for path, ops in tree.tables(Ops):
        _text(tree, (*path, "listen"), ops.listen, values.listen)
    for path, privacy in tree.tables(Privacy):
        _long_enough(tree, (*path, "key"), privacy.key)
    # A table that is not in the file counts, too: streams may want what it does not say.
    _public(tree, *next(iter(tree.tables(Public)), (("public",), Public())))
    for path, inbound in tree.tables(Inbound):
        for key, wrong in returning.problems(inbound, any(public.secret for _, public in tree.tables(Public))):
            if (*path, *key) not in tree.wrong:
                tree.problem((*path, *key), wrong)
    for path, section in tree.tables(Suppression):
        for name, words in suppression.problems(section):
            if (*path, name) not in tree.wrong:
                tree.problem((*path, name), words)
    for path, hook in tree.tables(Webhook):
        for name, words in trouble(hook, frozenset(tree.names("stream"))):
            if (*path, name) not in tree.wrong:
                tree.problem((*path, name), words)
    served = next((public for _, public in tree.tables(Public)), Public())
    for path, stream in tree.tables(Stream):
        if not any(key[0] == "public" for key in tree.wrong) and (lack := missing(stream.tracking, served)):
            tree.problem((*path, "tracking"), lack)
    for path, templates in tree.tables(Templates):
        _text(tree, (*path, "path"), templates.path, _folder)
    for path, files in tree.tables(Attachments):
        for key, wrong in attachments.problems(files):
            if (*path, *key) not in tree.wrong:
                tree.problem((*path, *key), wrong)
    for path, feedback in tree.tables(Feedback):
        _text(tree, (*path, "rules"), feedback.rules, _readable)
    for path, groups in tree.tables(GroupsSection):
        for address in groups.nameservers:
            _text(tree, (*path, "nameservers"), address, _address)
    for path, provider in tree.tables(Provider):
        _provider(tree, path, provider)
    for path, warmup in tree.tables(Warmup):
        _warmup(tree, path, warmup)
    for path, identity in tree.tables(Identity):
        _text(tree, (*path, "from"), identity.sender, values.mailbox)
        _text(tree, (*path, "reply_to"), identity.reply_to, values.mailbox)
        _text(tree, (*path, "return_path"), identity.return_path, lambda text: values.mailbox(text, bare=True))
        if identity.dkim:
            _dkim(tree, path, identity)
    _signed_streams(tree)
    _proportions(tree)
    if require_provider and not tree.data.get("provider"):
        tree.problem(("provider",), "there is no [[provider]]: name at least one to send through")


def _public(tree: Tree, path: Path, public: Public) -> None:
    raw = tree.data.get("public")
    given = set(raw) if isinstance(raw, dict) else set()  # what is wrong was complained about
    if public.listen != "off":
        _text(tree, (*path, "listen"), public.listen, values.listen)
    if public.listen != "off" or public.base_url is not None:
        if "base_url" not in given:
            tree.problem((*path, "base_url"), "must be given with `listen`: links in messages begin with it")
        if "secret" not in given:
            tree.problem((*path, "secret"), "must be given: it signs the links (`openssl rand -hex 32` makes one)")
    _long_enough(tree, (*path, "secret"), public.secret)
    for network in public.trusted_proxies:
        _text(tree, (*path, "trusted_proxies"), network, _network)
    for at, stream in tree.tables(Stream):
        if stream.one_click and not {"base_url", "secret"} <= given:
            words = "needs [public] `base_url` and `secret`: its links begin with the one and are signed by the other"
            tree.problem((*at, "one_click"), words)
    for at, topic in tree.tables(Topic):
        if topic.double_opt_in and not {"base_url", "secret"} <= given:
            words = "needs [public] `base_url` and `secret`: links to confirm begin with the one and are signed by the other"
            tree.problem((*at, "double_opt_in"), words)
    for at, identity in tree.tables(Identity):
        if identity.verp and "secret" not in given:
            tree.problem((*at, "verp"), "needs [public] `secret`: return paths are signed")


def _long_enough(tree: Tree, path: Path, secrets: tuple[str, ...]) -> None:
    if any(len(secret.encode()) < SECRET_OCTETS for secret in secrets):
        tree.problem(path, f"must have at least {SECRET_OCTETS} characters")


def _network(text: str) -> None:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"names `{text}`, which is no address and no network (like 10.0.0.0/8)") from None


def _unique(tree: Tree, table: str) -> None:
    first = tree.names(table)
    raw = tree.data.get(table)
    for index in range(len(raw) if isinstance(raw, list) else 0):
        name = table_name(tree.data, table, index)
        if name and first[name] != (table, index):
            line = tree.line((*first[name], "name"))
            where = f" in line {line}" if line else ""
            tree.problem((table, index, "name"), f"there is another [[{table}]] of this name{where}")


def _references(tree: Tree) -> None:
    pools = tree.names("pool") or {"default": ()}
    providers, identities = tree.names("provider"), tree.names("identity")
    for path, stream in tree.tables(Stream):
        _known(tree, (*path, "pools"), stream.pools, "pool", pools)
        if not stream.pools and len(pools) > 1 and (*path, "pools") not in tree.wrong:
            tree.problem((*path, "pools"), f"must be given: there is more than one [[pool]]{suggestion('', pools)}")
        if stream.identity is not None:
            _known(tree, (*path, "identity"), (stream.identity,), "identity", identities)
    for path, pool in tree.tables(Pool):
        _known(tree, (*path, "providers"), pool.providers, "provider", providers)
    for path, topic in tree.tables(Topic):
        _known(tree, (*path, "stream"), (topic.stream,), "stream", tree.names("stream"))
    for path, campaign in tree.tables(Campaign):
        if campaign.topic is not None:
            _known(tree, (*path, "topic"), (campaign.topic,), "topic", tree.names("topic"))


def _known(tree: Tree, path: Path, wanted: Sequence[str], table: str, known: dict[str, Path]) -> None:
    for index, name in enumerate(wanted):
        if name not in known:
            tree.problem(path, f"there is no [[{table}]] `{name}`{suggestion(name, known)}", (index,))


def _text(tree: Tree, path: Path, text: str | None, check: Callable[[str], object]) -> None:
    if text is None or path in tree.wrong:
        return
    try:
        check(text)
    except ValueError as wrong:
        tree.problem(path, str(wrong))


def _provider(tree: Tree, path: Path, provider: Provider) -> None:
    _text(tree, (*path, "host"), provider.host, values.host)
    _text(tree, (*path, "tls_name"), provider.tls_name, values.host)
    _text(tree, (*path, "tls_ca"), provider.tls_ca, _file)
    _text(tree, (*path, "helo"), provider.helo, _helo)
    for address in provider.source:
        _text(tree, (*path, "source"), address, _address)
    _text(tree, (*path, "quota_zone"), provider.quota_zone, _zone)
    _kind(tree, path, provider)
    if provider.password is not None and provider.username is None:
        tree.problem((*path, "password"), "is given without `username`")
    if provider.username is not None and provider.password is None and (*path, "password") not in tree.wrong:
        tree.problem((*path, "username"), "is given without `password`")


def _warmup(tree: Tree, path: Path, table: Warmup) -> None:
    _text(tree, (*path, "begin"), table.begin, values.day)
    _text(tree, (*path, "zone"), table.zone, _zone)
    if table.days and (*path, "days") not in tree.wrong:
        try:
            values.days(table.days)
        except ValueError as wrong:
            tree.problem((*path, "days"), str(wrong))
    pools = tree.names("pool")
    _known(tree, (*path, "overflow"), table.overflow, "pool", pools)
    warming = {name for name, (_, index) in pools.items() if _warms(tree, index)}
    for index, name in enumerate(table.overflow):
        if name in warming:
            tree.problem((*path, "overflow"), f"`{name}` has a warm-up itself, or a provider that has one", (index,))


def _warms(tree: Tree, index: object) -> bool:
    """Is a part of this pool in a warm-up?"""
    cold = {p.name for _, p in tree.tables(Provider) if p.warmup is not None}
    return any(
        pool.warmup is not None or not cold.isdisjoint(pool.providers)
        for path, pool in tree.tables(Pool)
        if path == ("pool", index)
    )


def _dkim(tree: Tree, path: Path, identity: Identity) -> None:
    from mailerd.config import dkim  # only where there are keys: reading them costs an import of 50 ms

    try:
        sender = dkim.signing_domain(values.mailbox(identity.sender).rpartition("@")[2])
    except ValueError:
        sender = ""
    domains: list[str] = []
    seen: dict[tuple[str, str], Path] = {}
    for index, one in enumerate(identity.dkim):
        at = (*path, "dkim", index)
        domain = ""
        try:
            domain = dkim.signing_domain(sender if one.domain is None else one.domain)
        except ValueError as wrong:
            if not {(*at, "domain"), (*path, "from")} & tree.wrong:
                tree.problem(
                    (*at, "domain"), str(wrong) if one.domain else "must be given: `from` has none that could be"
                )
        domains.append(domain)
        if (*at, "key") in tree.wrong:
            continue
        if one.key is None:
            credential = f"identity.{identity.name}.dkim.{one.selector}.key"
            tree.problem((*at, "key"), f"must be given, or be the systemd credential {credential}")
            continue
        try:
            kind = domain, dkim.algorithm(dkim.read_key(one.key))
        except ValueError as wrong:
            tree.problem((*at, "key"), str(wrong))
            continue
        if domain and kind in seen:
            line = tree.line(seen[kind])
            where = f" (line {line})" if line else ""
            tree.problem(at, f"there is another {kind[1]} key for {domain}{where}: one may sign")
        seen.setdefault(kind, at)
    if sender and all(domains) and not any(dkim.aligned(domain, sender) for domain in domains):
        tree.problem((*path, "dkim"), f"no key is of {sender}, the domain of `from`, or of one above it")


def _signed_streams(tree: Tree) -> None:
    identities = {identity.name: identity for _, identity in tree.tables(Identity)}
    for path, stream in tree.tables(Stream):
        if stream.require_dkim and (*path, "identity") not in tree.wrong:
            identity = identities[stream.identity] if stream.identity else next(iter(identities.values()), None)
            if identity is None or not identity.dkim:
                words = f"identity `{identity.name}` has no" if identity else "there is no identity with a"
                tree.problem((*path, "require_dkim"), f"{words} [[identity.dkim]] key: its mail could not be sent")


def _kind(tree: Tree, path: Path, provider: Provider) -> None:
    """The keys that its kind has, and no others."""
    if (*path, "kind") in tree.wrong:
        return
    raw = tree.data["provider"][path[1]]
    for key, wrong in kinds.misplaced(provider.kind, raw):
        if (*path, key) not in tree.wrong:
            tree.problem((*path, key), wrong)
    _text(tree, (*path, "endpoint"), provider.endpoint, lambda text: kinds.endpoint(text, plain=provider.tls == "none"))
    _text(tree, (*path, "domain"), provider.domain, values.host)
    if provider.kind == "http":
        call, at = provider.call, (*path, "call")
        if call.body is None and (*at, "body") not in tree.wrong and "call" in raw:
            tree.problem((*at, "body"), "must be given")
        _text(tree, (*at, "body"), call.body, _readable)
        for key, check in (("headers", kinds.header), ("accepted", kinds.status), ("faults", kinds.fault)):
            for text in getattr(call, key):
                _text(tree, (*at, key), text, check)
        _text(tree, (*at, "idempotency"), call.idempotency, lambda name: kinds.header(f"{name}: x"))
    if api := kinds.HTTP.get(provider.kind):
        if provider.region is not None and api.regions and provider.region not in api.regions:
            tree.problem((*path, "region"), f"must be one of {', '.join(f'`{region}`' for region in api.regions)}")
        if "tls" in raw and provider.tls not in ("none", "implicit"):
            tree.problem((*path, "tls"), f'of kind = "{provider.kind}" is "implicit" or "none"')
        for key in ("api_key", "access_key", "secret_key"):
            value = getattr(provider, key)
            if value is not None and not value.isascii():
                tree.problem((*path, key), "must be ASCII: it goes into a header")
        for text in provider.webhook_secret:
            _text(tree, (*path, "webhook_secret"), text, lambda text: webhook.secret(provider.kind, text))
        for text in provider.webhook_topics:
            _text(tree, (*path, "webhook_topics"), text, webhook.topic)


LEAST_TTL = 5.0


def _proportions(tree: Tree) -> None:
    for path, lease in tree.tables(LeaseSection):
        if lease.ttl < LEAST_TTL and (*path, "ttl") not in tree.wrong:
            # It is renewed at a third of its time: less leaves no room for a slow statement.
            tree.problem((*path, "ttl"), f"must be at least {values.show_duration(LEAST_TTL)}")
    for path, retry in tree.tables(RetryPolicy):
        if retry.max < retry.first and not {(*path, "max"), (*path, "first")} & tree.wrong:
            tree.problem((*path, "max"), f"must not be shorter than `first` ({values.show_duration(retry.first)})")
    for path, limits in tree.tables(Limits):
        if limits.memory < limits.message_size and not {(*path, "memory"), (*path, "message_size")} & tree.wrong:
            words = f"must not be less than `message_size` ({values.show_size(limits.message_size)})"
            tree.problem((*path, "memory"), words)


def _database_url(text: str) -> None:
    """Raises ValueError; never repeats the URL, which may hold a password."""
    try:
        url = urlsplit(text)
    except ValueError:
        raise ValueError("is no URL: write `postgresql://user@host/database`") from None
    if "://" not in text or not url.scheme:
        raise ValueError("is no URL: write `postgresql://user@host/database`")
    if url.scheme not in ("postgresql", "postgres"):
        raise ValueError(f"must begin with `postgresql://`, not `{url.scheme}://`")
    if url.fragment:
        raise ValueError("holds a `#`: write `%23` in a user name or password")
    for part in url.netloc.rpartition("@")[2].split(","):
        port = part.rpartition(":")[2] if ":" in part and not part.endswith("]") else ""
        if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
            raise ValueError(
                "has no number from 1 to 65535 as its port (in a password, write `/` as `%2F`, `@` as `%40`)"
            )
    if url.query:
        try:
            parse_qs(url.query, strict_parsing=True)
        except ValueError:
            raise ValueError("must have `name=value` pairs, joined by `&`, after the `?`") from None


def _folder(path: str) -> None:
    if not os.path.isdir(path):
        raise ValueError(f"there is no folder {path}")


def _file(path: str) -> None:
    try:
        with open(path, "rb") as file:
            pem = b"-----BEGIN " in file.read(1 << 20)
    except OSError as wrong:
        raise ValueError(f"{path}: {wrong.strerror}") from None
    if not pem:
        raise ValueError(f"{path} holds no PEM certificate")


def _readable(path: str) -> None:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as wrong:
        raise ValueError(f"{path}: {wrong.strerror}") from None


def _helo(text: str) -> None:
    """RFC 5321 §4.1.1.1: a domain, or an address literal where there is none."""
    if text.startswith("[") and text.endswith("]"):
        _address(text[1:-1].removeprefix("IPv6:"))
    else:
        values.host(text)


def _zone(text: str) -> None:
    """Names that both Python and Postgres know: no `right/…` and no POSIX rule."""
    if text not in zoneinfo.available_timezones():
        raise ValueError(f"is no time zone{suggestion(text, zoneinfo.available_timezones())}")


def _address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise ValueError("is no IP address") from None
