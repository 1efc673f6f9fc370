"""Which topic a row is of: the one that it names, else that of its campaign; and the links by which a topic is confirmed.

A row whose topic is not configured, or belongs to another stream, cannot be sent: whether its recipient wants it could
not be known. Pure. Hazard: a link to confirm is its holder's, so only a message to one address has any.
"""

from __future__ import annotations

from typing import Final

from mailerd.config.model import Config
from mailerd.config.topic import Topic
from mailerd.message import Failure, Job, clean

from .tokens import Subscriber, Tokens

__all__ = ["CONFIRM", "Confirmations", "Topics"]

CONFIRM: Final = "confirm_url"  # how templates name the links: {{ confirm_url.offers }}


class Topics:
    """The topics of one configuration."""

    def __init__(self, config: Config) -> None:
        self._known = {topic.name: topic for topic in config.topic}
        self._campaigns = {c.name: c.topic for c in config.campaign if c.topic is not None}
        public = config.public
        self._tokens = Tokens(public.secret) if public.secret and public.base_url and config.topic else None
        self._link = f"{public.base_url}/s/"

    def __bool__(self) -> bool:
        return bool(self._known)

    def find(self, job: Job) -> Topic | None:
        """The topic that a row's recipients must be looked up for. A wrong one is `compose`'s to complain about."""
        return self._known.get(job.topic if job.topic is not None else self._campaigns.get(job.campaign, ""))

    def of(self, job: Job) -> Topic | None:
        """The topic of a row; None if it has none. Raises `Failure` for one that it cannot be of."""
        name = job.topic
        if name is None and (not self._campaigns or (name := self._campaigns.get(job.campaign)) is None):
            return None
        topic = self._known.get(name)
        if topic is None:
            known = ", ".join(sorted(self._known)) or "none"
            raise Failure(f"topic: no [[topic]] {clean(name, 80)!a} is configured (there are: {known})", "content")
        if topic.stream != job.stream:
            raise Failure(f"topic: {name} is of stream {topic.stream}, and the row of {job.stream}", "content")
        return topic

    def confirmations(self, job: Job, address: str) -> Confirmations | None:
        """The links with which `address` (in normal form) confirms a topic; None where there can be none."""
        if self._tokens is None or job.cc or job.bcc:
            return None
        return Confirmations(self._tokens, self._link, self._known, job.id, address)


class Confirmations(dict[str, str]):
    """Links by topic, made when a template asks for one. An unknown topic is a missing key, as of any object."""

    def __init__(self, tokens: Tokens, link: str, known: dict[str, Topic], message: int, address: str) -> None:
        super().__init__()
        self._tokens, self._link, self._known = tokens, link, known
        self._message, self._address = message, address

    def __missing__(self, name: str) -> str:
        topic = self._known[name]
        subscriber = Subscriber(self._message, 0, self._address, topic.stream, topic.name)
        link = self[name] = self._link + self._tokens.confirmation(subscriber)
        return link
