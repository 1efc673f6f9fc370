"""The configuration as types: every key, its default and its meaning, declared once.

`mailerd config reference`, the sample file and the loader's errors all derive from these Structs and the text under
each field's `Meta`. It reads no file and checks nothing across sections (`config.load` does both).

`Meta.extra` marks what a type cannot say: `secret` (masked, also read from files and credentials), `zero` (a duration
that may be 0), `one` (a list that may be written as its only element), `date` (a text that TOML may write as a date), `path` (relative to the configuration file), `words` (what a pattern means, for people). `Meta.examples`
holds the sample's value where there is no default to show.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from mailerd.config.alerts import Alerts
from mailerd.config.attachments import Attachments
from mailerd.config.base import Cap, D, Duration, Name, Rate, Section, Size
from mailerd.config.inbound import Inbound
from mailerd.config.outgoing import Webhook
from mailerd.config.privacy import Privacy
from mailerd.config.provider import Provider, Warmup
from mailerd.config.public import Public
from mailerd.config.suppression import Suppression
from mailerd.config.topic import Topic
from mailerd.config.tracking import Tracking


class Database(Section, frozen=True, kw_only=True):
    """Where the outbox is."""

    url: Annotated[
        str,
        Meta(
            description="libpq URL of the database; also PGHOST and friends, DATABASE_URL. Several hosts may be given.",
            extra={"secret": True},
        ),
    ] = "postgresql:///mailerd"
    listen_url: Annotated[
        str | None,
        Meta(
            description="A direct URL for LISTEN when `url` goes through PgBouncer. "
            "Absent with PgBouncer: polling serves. `off` never listens.",
            examples=["postgresql:///mailerd"],
            extra={"secret": True},
        ),
    ] = None
    schema: Annotated[
        str,
        Meta(
            pattern="^[a-z_][a-z0-9_]{0,40}$",
            description="Schema that holds every table and function.",
            extra={"words": "small letters, digits and `_`, first no digit, at most 41"},
        ),
    ] = "mailerd"
    prepare: Annotated[
        Literal["auto", "off"],
        Meta(description="`off` for PgBouncer older than 1.21 in transaction mode: no prepared statements."),
    ] = "auto"
    connect_timeout: Annotated[Duration, Meta(description="Longest wait for a connection.")] = D(5)
    statement_timeout: Annotated[
        Duration, Meta(description="Longest wait for one statement; the instance then drops the connection.")
    ] = D(30)


class Instance(Section, frozen=True, kw_only=True):
    """This process among its fellows."""

    name: Annotated[str, Meta(description="Shown by `status`; empty: the host name.")] = ""


class LeaseSection(Section, frozen=True, kw_only=True):
    """How messages are claimed, and what a crash may cost."""

    ttl: Annotated[
        Duration, Meta(description="How long a lease holds without renewal. A dead instance's messages go on after it.")
    ] = D(60)
    max_unsettled: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Accepted but not yet settled messages at which no new one is started: "
            "with the connections, the bound on duplicates per crash.",
        ),
    ] = 512
    poll: Annotated[Duration, Meta(description="Longest idle wait before looking for new rows.")] = D(0.05)


class Shutdown(Section, frozen=True, kw_only=True):
    """How the process ends."""

    grace: Annotated[
        Duration, Meta(description="Time to finish what is in flight after TERM.", extra={"zero": True})
    ] = D(30)


class Ops(Section, frozen=True, kw_only=True):
    """Health and metrics over HTTP."""

    listen: Annotated[
        str, Meta(description="host:port of health and metrics; port 0 picks a free one, `off` none.")
    ] = "127.0.0.1:8025"


class Log(Section, frozen=True, kw_only=True):
    """The log on stderr."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="Least level that is logged.")] = (
        "info"
    )
    format: Annotated[Literal["text", "json"], Meta(description="One line per record, to stderr.")] = "text"
    events: Annotated[
        Literal["off", "stdout"],
        Meta(description="`stdout`: a JSON line for every event, each by one of the instances that say so."),
    ] = "off"


class Templates(Section, frozen=True, kw_only=True):
    """Templates that rows name."""

    path: Annotated[
        str | None,
        Meta(
            description="Folder of file templates: NAME/subject.j2, NAME/html.j2, NAME/text.j2.",
            examples=["templates"],
            extra={"path": True},
        ),
    ] = None


class Limits(Section, frozen=True, kw_only=True):
    """What one instance takes on."""

    message_size: Annotated[Size, Meta(description="Largest composed message.")] = Size(26_214_400)
    memory: Annotated[Size, Meta(description="Octets of leased payload an instance holds at a time, per stream.")] = (
        Size(33_554_432)
    )


class Feedback(Section, frozen=True, kw_only=True):
    """What replies teach about the rate and the state of lanes and providers."""

    rules: Annotated[
        str | None,
        Meta(
            description="File with [[rule]] tables of your own; they go before the shipped ones.",
            examples=["replies.toml"],
            extra={"path": True},
        ),
    ] = None
    adapt: Annotated[
        bool,
        Meta(
            description="Where replies say `too fast` and no rule speaks, learn the rate of the pool and domain group."
        ),
    ] = True


class GroupsSection(Section, frozen=True, kw_only=True):
    """How recipient domains are grouped, besides [[domain]]."""

    mx: Annotated[
        bool,
        Meta(
            description="Also by their MX: what Google, Microsoft and others host for a domain is limited with the rest."
        ),
    ] = False
    nameservers: Annotated[
        tuple[str, ...], Meta(description="Addresses of DNS servers. Empty: the system's.", examples=[["127.0.0.1"]])
    ] = ()


class RetryPolicy(Section, frozen=True, kw_only=True):
    """When a message that was temporarily refused is tried again."""

    first: Annotated[Duration, Meta(description="Wait after the first failed attempt.")] = D(30)
    factor: Annotated[float, Meta(ge=1, le=100, description="Each further wait is this many times longer.")] = 3.0
    max: Annotated[Duration, Meta(description="Longest wait.")] = D(3 * 3600)
    jitter: Annotated[
        float, Meta(ge=0, le=1, description="1: anywhere between 0 and the wait (full jitter); 0: exactly the wait.")
    ] = 1.0
    attempts: Annotated[
        int, Meta(ge=1, le=1000, description="Charged attempts before the message is dead-lettered.")
    ] = 12


class Stream(Section, frozen=True, kw_only=True):
    """A pipeline of its own, with its own workers: what waits in one never delays another. Without any, there are
    `transactional` and `marketing`."""

    name: Annotated[Name, Meta(description="What rows say in `stream`.", examples=["transactional"])]
    kind: Annotated[
        Literal["transactional", "marketing"] | None,
        Meta(
            description="What receivers expect of it. Default: `marketing` for the stream of that name, else `transactional`.",
            examples=["marketing"],
        ),
    ] = None
    pools: Annotated[
        tuple[str, ...],
        Meta(description="Pools in the order they are tried. Default: the only pool.", examples=[["default"]]),
    ] = ()
    identity: Annotated[
        str | None,
        Meta(description="Identity used when a row names no sender. Default: the first one.", examples=["main"]),
    ] = None
    retry: RetryPolicy = RetryPolicy()
    expires: Annotated[Duration, Meta(description="Age at which a message that could not be sent is given up.")] = D(
        3 * 86400
    )
    on_uncertain: Annotated[
        Literal["resend", "hold"],
        Meta(description="What to do when a message may have been accepted: send again, or wait for an operator."),
    ] = "resend"
    concurrency: Annotated[
        int, Meta(ge=1, le=10_000, description="Most connections this stream uses at one provider.")
    ] = 20
    dedup_window: Annotated[Duration, Meta(description="How long a dedup_key is remembered.")] = D(86400)
    require_dkim: Annotated[
        bool, Meta(description="Send nothing of this stream that no DKIM key of its sender can sign.")
    ] = False
    ageing: Annotated[
        Duration,
        Meta(
            description="A waiting lane gains one priority each time this long has passed; 0: never.",
            extra={"zero": True},
        ),
    ] = D(60)
    rate: Annotated[
        Rate | None, Meta(description="Most messages of this stream, over all instances.", examples=["100/s"])
    ] = None
    per_recipient: Annotated[
        Cap | None,
        Meta(description="Most messages of this stream to one address: `5/h`, five in any hour.", examples=["5/h"]),
    ] = None
    per_recipient_excess: Annotated[
        Literal["defer", "drop"],
        Meta(description="What exceeds `per_recipient` waits until it fits, or ends as `suppressed`."),
    ] = "defer"
    one_click: Annotated[
        bool,
        Meta(
            description="Everybody can leave it with one click (RFC 8058): List-Unsubscribe in each message, "
            "`{{ unsubscribe_url }}` in its templates. Needs [public]."
        ),
    ] = False
    list_id: Annotated[
        str | None,
        Meta(
            description="List-Id of its messages (RFC 2919), a name below a domain of yours.",
            pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)+$",
            examples=["news.example.org"],
            extra={"words": "a name as in news.example.org"},
        ),
    ] = None
    feedback_id: Annotated[
        str | None,
        Meta(
            description="The sender's part of Feedback-ID, 5 to 15 characters: Gmail then reports complaints by campaign, template and stream.",
            pattern="^[A-Za-z0-9_.-]{5,15}$",
            examples=["exampleshop"],
            extra={"words": "5 to 15 letters, digits, `_`, `.` and `-`"},
        ),
    ] = None
    shared: Annotated[
        bool, Meta(description="It is meant to share identity, pool or return path with streams of the other kind.")
    ] = False
    tracking: Tracking = Tracking()

    @property
    def marketing(self) -> bool:
        """Is it mail that nobody waits for, and that everybody must be able to stop?"""
        return self.kind == "marketing" or (self.kind is None and self.name == "marketing")


class PoolDomain(Section, frozen=True, kw_only=True):
    """A limit for one domain group in one pool."""

    name: Annotated[
        str, Meta(description="A domain group: of a [[domain]], a shipped one, or a domain.", examples=["gmail"])
    ]
    rate: Annotated[Rate, Meta(description="Most messages to it through this pool.", examples=["20/s"])]


class Pool(Section, frozen=True, kw_only=True):
    """Providers that stand in for each other. Without any, `default` has them all."""

    name: Annotated[Name, Meta(description="What `stream.pools` says.", examples=["default"])]
    providers: Annotated[
        tuple[str, ...],
        Meta(min_length=1, description="Providers that share this pool's mail, by their weight.", examples=[["relay"]]),
    ]
    rate: Annotated[
        Rate | None, Meta(description="Most messages through this pool, over all instances.", examples=["500/s"])
    ] = None
    sticky: Annotated[
        bool,
        Meta(description="A recipient domain keeps to one provider of the pool, chosen by weight, while that works."),
    ] = False
    domain: Annotated[
        tuple[PoolDomain, ...], Meta(description="Limits of this pool for single domain groups: `[[pool.domain]]`.")
    ] = ()
    warmup: Warmup | None = None


class Domain(Section, frozen=True, kw_only=True):
    """A domain group: recipient domains that share limits, since one receiver has them. Goes before the shipped ones."""

    name: Annotated[
        Name, Meta(description="A shipped group (`mailerd domains`) or one of your own.", examples=["gmail"])
    ]
    match: Annotated[
        tuple[str, ...],
        Meta(
            description="Domains: `example.org`, `*.example.org`, `example.*`. Empty: those of the shipped group.",
            examples=[["example.org"]],
        ),
    ] = ()
    mx: Annotated[
        tuple[str, ...],
        Meta(description="Also the domains whose MX ends like this.", examples=[[".mail.example.org"]]),
    ] = ()
    rate: Annotated[
        Rate | None, Meta(description="Most messages to it, over all pools and instances.", examples=["20/s"])
    ] = None
    connections: Annotated[
        int | None, Meta(ge=1, le=10_000, description="Most messages in hand for it at a time.", examples=[10])
    ] = None


class Campaign(Section, frozen=True, kw_only=True):
    """Campaigns share what a domain group or a provider takes: all alike, but for those that are listed here."""

    name: Annotated[str, Meta(description="What rows say in `campaign`.", examples=["newsletter"])]
    weight: Annotated[int, Meta(ge=1, le=1000, description="Its share against the 1 of the others.")] = 1
    topic: Annotated[
        str | None, Meta(description="The [[topic]] of its rows, where they name none.", examples=["offers"])
    ] = None


class Dkim(Section, frozen=True, kw_only=True):
    """A key that signs the mail of the identity above it (DKIM): RSA, and an Ed25519 key beside it if you like. The domain
    of a message's From chooses among several. `mailerd dkim new` makes a key and prints its DNS record."""

    domain: Annotated[
        str | None,
        Meta(
            description="`d=`: the domain of `from`, which is the default, or one above it.",
            examples=["example.org"],
        ),
    ] = None
    selector: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$",
            description="`s=`: the record is SELECTOR._domainkey.DOMAIN.",
            examples=["mailerd1"],
            extra={"words": "letters, digits, `-` and `.`, as in a host name"},
        ),
    ]
    key: Annotated[
        str | None,
        Meta(
            description="PEM file of the private key: RSA of 2048 bits or more, or Ed25519. "
            "A systemd credential identity.NAME.dkim.SELECTOR.key serves, too.",
            examples=["dkim.pem"],
            extra={"path": True},
        ),
    ] = None


class Identity(Section, frozen=True, kw_only=True):
    """In whose name mail is sent. Rows may name one, or give a mailbox, in `sender`."""

    name: Annotated[Name, Meta(description="What rows say in `sender`.", examples=["main"])]
    sender: Annotated[
        str,
        Meta(
            description="The From header: a mailbox, with or without a name.",
            examples=["Example Shop <shop@example.org>"],
        ),
    ] = msgspec.field(name="from")
    reply_to: Annotated[
        str | None, Meta(description="Reply-To, where the row gives none.", examples=["help@example.org"])
    ] = None
    return_path: Annotated[
        str | None,
        Meta(description="Envelope sender; default: the address of `from`.", examples=["bounces@example.org"]),
    ] = None
    verp: Annotated[
        bool,
        Meta(
            description="Each message has a signed return path of its own at the domain of `return_path`, "
            "so that its bounces name it. Needs [public] secret, and mail for that domain must come to [inbound]."
        ),
    ] = False
    dkim: Annotated[tuple[Dkim, ...], Meta(description="Keys that sign its mail: `[[identity.dkim]]`.")] = ()


class Config(Section, frozen=True, kw_only=True):
    """The whole file."""

    database: Database = Database()
    instance: Instance = Instance()
    lease: LeaseSection = LeaseSection()
    shutdown: Shutdown = Shutdown()
    ops: Ops = Ops()
    public: Public = Public()
    privacy: Privacy = Privacy()
    inbound: Inbound = Inbound()
    log: Log = Log()
    templates: Templates = Templates()
    limits: Limits = Limits()
    attachments: Attachments = Attachments()
    feedback: Feedback = Feedback()
    groups: GroupsSection = GroupsSection()
    alerts: Alerts = Alerts()
    suppression: Suppression = Suppression()
    stream: tuple[Stream, ...] = ()
    pool: tuple[Pool, ...] = ()
    provider: tuple[Provider, ...] = ()
    domain: tuple[Domain, ...] = ()
    campaign: tuple[Campaign, ...] = ()
    topic: tuple[Topic, ...] = ()
    identity: tuple[Identity, ...] = ()
    webhook: tuple[Webhook, ...] = ()
