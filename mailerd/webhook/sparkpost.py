"""SparkPost: developers.sparkpost.com (webhooks, event reference), and "bounce classification codes" of its support pages.

Many events a request: an array of `{"msys": {CLASS: EVENT}}`; an empty `msys` is a ping. Our id is in `rcpt_meta`. It signs
nothing (`webhook.shared`); each event has an `event_id`.

Hazard: the `message_id` of events is not the id that its API answered; that is `transmission_id`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY, mapping
from mailerd.webhook.dialect import Malformed
from mailerd.webhook.event import Failed, batch, bot, digest, failed, instant, text
from mailerd.webhook.shared import Shared

__all__ = ["Sparkpost"]

_HARD: Final = frozenset(("10", "30"))  # invalid recipient, generic without recipient
_SOFT: Final = frozenset(("20", "21", "22", "23", "24", "40", "70"))
_NO_BOUNCE: Final = frozenset(("60", "80", "100"))  # an automatic reply, a request to subscribe, a challenge
_UNSUBSCRIBED: Final = "90"  # a mail that asks for it
_OPENED: Final = frozenset(("open", "initial_open", "amp_open", "amp_initial_open"))
_LISTED: Final = "25"  # admin failure: mostly its own suppression list


class Sparkpost(Shared):
    """`kind = "sparkpost"`."""

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        found = batch(body)
        if not all(isinstance(one.get("msys"), dict) for one in found):
            raise Malformed("no events: an array of objects with `msys` is due")
        return [
            feedback
            for one in found
            for event in one["msys"].values()
            if (feedback := self._read(mapping(event), event)) is not None
        ]

    def _read(self, event: dict[str, Any], raw: Any) -> Feedback | None:
        kind = text(event.get("type"))
        if kind == "injection":
            return None
        message, to, at = text(event.get("transmission_id")), event.get("raw_rcpt_to"), instant(event.get("timestamp"))
        to = to or event.get("rcpt_to")
        id_ = text(event.get("event_id"), 100) or digest(kind, message, to, event.get("timestamp"))
        ours = mapping(event.get("rcpt_meta")).get(ID_KEY)
        common: dict[str, Any] = {
            "ours": ours,
            "message": message,
            "recipient": to,
            "at": event.get("timestamp") if at else None,
        }
        report = self._reporter.report
        words = text(event.get("raw_reason")) or text(event.get("reason"))
        if kind in _OPENED or kind in ("click", "amp_click"):
            agent, parsed = event.get("user_agent"), mapping(event.get("user_agent_parsed"))
            machine = bot(agent) or parsed.get("is_prefetched") is True
            more = {"url": event.get("target_link_url"), "user_agent": agent}
            return report("opened" if kind in _OPENED else "clicked", id_, **common, bot=machine, more=more)
        match kind:
            case "delivery":
                return report("delivered", id_, **common)
            case "delay":
                means = failed(words, code=event.get("error_code"), temporary=True)
                return report("deferred", id_, **common, detail=words, means=means)
            case "bounce" | "out_of_band" if text(event.get("bounce_class")) not in _NO_BOUNCE:
                return self._bounced(event, id_, common, words)
            case "spam_complaint":
                if text(event.get("fbtype")) != "not-spam":
                    return report("complained", id_, **common, more={"complaint": event.get("fbtype")})
            case "list_unsubscribe" | "link_unsubscribe":
                return report("unsubscribed", id_, **common)
            case "policy_rejection" | "generation_rejection":
                means = failed(words, code=event.get("error_code"))
                return report("rejected", id_, **common, detail=words, means=means)
            case "generation_failure":
                return report("failed", id_, **common, detail=words)
        return self._reporter.unknown(raw, kind, id_, ours=ours, message=message)

    def _bounced(self, event: dict[str, Any], id_: str, common: dict[str, Any], words: str) -> Feedback:
        given = text(event.get("bounce_class"))
        claim = True if given in _HARD else False if given in _SOFT else None
        more = {"bounce": given}
        if given == _UNSUBSCRIBED:
            return self._reporter.report("unsubscribed", id_, **common, detail=words, more=more)
        if given == _LISTED:
            return self._reporter.report("rejected", id_, **common, detail=words, means=failed(words), more=more)
        means = failed(words, hard=claim, code=event.get("error_code"))
        if claim is None and means.hard and given.startswith("5"):  # blocked, spam, relaying: about us
            means = Failed(means.code, means.enhanced, means.category, False)
        return self._reporter.report("bounced", id_, **common, detail=words, means=means, more=more)
