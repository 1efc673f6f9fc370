"""Amazon SES through SNS: docs.aws.amazon.com/ses ("contents of event data that SES publishes to SNS", "notification contents").

Both forms: events of a configuration set (`eventType`, with tags, so with our id) and the older notifications of an identity
(`notificationType`, without). One of either tells of several recipients: each becomes a report. Who posts is judged in
`webhook.sns`.

Hazards: where both forms are switched on, both report one bounce: `feedbackId` is the same, and makes them one. A
complaint of a large receiver lists everybody of the message at that domain. Opens and clicks do not say who.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mailerd.config.provider import Provider
from mailerd.feedback import Feedback
from mailerd.http.dialect import ID_KEY, mapping
from mailerd.webhook import sns
from mailerd.webhook.dialect import Malformed, Post, Verdict
from mailerd.webhook.event import Failed, Reporter, bot, digest, entries, failed, load, text

__all__ = ["Ses"]

RECIPIENTS: Final = 1000  # of one event that are looked at; SES takes 50 a message
_LISTED: Final = frozenset(("Suppressed", "OnAccountSuppressionList"))
_UNSUBSCRIBED: Final = "UnsubscribedRecipient"  # from a contact list of SES: the address lives
_CLAIMS: Final = {"Permanent": True, "Transient": False}


class Ses:
    """`kind = "ses"`."""

    keep: tuple[str, ...] = ()

    def __init__(self, provider: Provider) -> None:
        self._topics = provider.webhook_topics
        self._reporter = Reporter(provider.name)

    def judge(self, post: Post, now: float, certificates: Mapping[str, bytes] = {}) -> Verdict:
        return sns.judge(sns.envelope(post.body), self._topics, now, certificates)

    def read(self, body: bytes, headers: Mapping[str, str]) -> list[Feedback]:
        found = sns.envelope(body)
        if found is None:
            raise Malformed("no message of SNS")
        if found.type != "Notification":
            return []
        try:
            event = load(found.message.encode("utf-8", "replace"))
        except Malformed:
            event = None
        if not isinstance(event, dict):  # "Successfully validated SNS topic …", or what somebody else publishes there
            said = found.message.startswith("Successfully validated SNS topic")
            return [] if said else [self._reporter.unknown(found.message, "text", found.message_id)]
        return _Event(self._reporter, event, found.message_id).read()


class _Event:
    """One event of SES, on its way to reports."""

    def __init__(self, reporter: Reporter, event: dict[str, Any], id_: str) -> None:
        self._reporter = reporter
        self._event = event
        self._id = id_
        self._mail = mapping(event.get("mail"))
        tags = entries(mapping(self._mail.get("tags")).get(ID_KEY))
        self._ours = tags[0] if tags else None
        self._message = text(self._mail.get("messageId"))
        self._header = text(mapping(self._mail.get("commonHeaders")).get("messageId"))

    def read(self) -> list[Feedback]:
        kind = text(self._event.get("eventType")) or text(self._event.get("notificationType"))
        match kind:
            case "Send" | "AmazonSnsSubscriptionSucceeded":
                return []
            case "Delivery":
                said = mapping(self._event.get("delivery"))
                to = entries(said.get("recipients"))
                return self._each("delivered", said, [(one, None, said.get("smtpResponse")) for one in to])
            case "Bounce":
                return self._bounced(mapping(self._event.get("bounce")))
            case "Complaint":
                return self._complained(mapping(self._event.get("complaint")))
            case "DeliveryDelay":
                said = mapping(self._event.get("deliveryDelay"))
                delayed: list[tuple[Any, Failed | None, Any]] = []
                for one in entries(said.get("delayedRecipients"))[:RECIPIENTS]:
                    words = text(mapping(one).get("diagnosticCode"))
                    means = failed(words, enhanced=mapping(one).get("status"), temporary=True)
                    delayed.append((mapping(one).get("emailAddress"), means, words))
                return self._each("deferred", said, delayed, {"reason": said.get("delayType")})
            case "Reject":
                said = mapping(self._event.get("reject"))
                reason = text(said.get("reason"))
                means = Failed(category="content")
                return self._each("rejected", said, [(one, means, reason) for one in self._destination()])
            case "Rendering Failure":
                said = mapping(self._event.get("failure"))
                return self._each(
                    "failed", said, [(one, None, said.get("errorMessage")) for one in self._destination()]
                )
            case "Open" | "Click":
                said = mapping(self._event.get(kind.lower()))
                agent = said.get("userAgent")
                more = {"url": said.get("link"), "user_agent": agent}
                type_ = "opened" if kind == "Open" else "clicked"
                return self._each(type_, said, [(self._sole(), None, "")], more, bot=bot(agent))
            case "Subscription":
                said = mapping(self._event.get("subscription"))
                if mapping(said.get("newTopicPreferences")).get("unsubscribeAll") is True:
                    more = {"list": said.get("contactList"), "origin": said.get("source")}
                    return self._each("unsubscribed", said, [(self._sole(), None, "")], more)
        return [self._reporter.unknown(self._event, kind, self._id, ours=self._ours, message=self._message)]

    def _bounced(self, said: dict[str, Any]) -> list[Feedback]:
        kind, sub = text(said.get("bounceType")), text(said.get("bounceSubType"))
        listed, left = sub in _LISTED, sub == _UNSUBSCRIBED
        found: list[tuple[Any, Failed | None, Any]] = []
        for one in entries(said.get("bouncedRecipients"))[:RECIPIENTS]:
            each = mapping(one)
            words = text(each.get("diagnosticCode")) or sub
            claim = False if left else _CLAIMS.get(kind)
            means = failed("" if listed else words, hard=claim, enhanced=each.get("status"))
            found.append((each.get("emailAddress"), means, words))
        return self._each("rejected" if listed or left else "bounced", said, found, {"bounce": kind, "reason": sub})

    def _complained(self, said: dict[str, Any]) -> list[Feedback]:
        kind = text(said.get("complaintFeedbackType"))
        if kind == "not-spam":
            return [self._reporter.unknown(self._event, "not-spam", self._id, ours=self._ours, message=self._message)]
        listed = said.get("complaintSubType") == "OnAccountSuppressionList"
        to = [mapping(one).get("emailAddress") for one in entries(said.get("complainedRecipients"))]
        more = {"complaint": kind, "reason": said.get("complaintSubType")}
        return self._each("rejected" if listed else "complained", said, [(one, None, "") for one in to], more)

    def _destination(self) -> list[Any]:
        return entries(self._mail.get("destination")) or [""]

    def _sole(self) -> Any:
        to = entries(self._mail.get("destination"))
        return to[0] if len(to) == 1 else ""

    def _each(
        self,
        type_: str,
        said: dict[str, Any],
        recipients: list[tuple[Any, Failed | None, Any]],
        more: Mapping[str, Any] | None = None,
        *,
        bot: bool = False,
    ) -> list[Feedback]:
        if not recipients:  # of a kind that we know, and about nobody
            return [self._reporter.unknown(self._event, type_, self._id, ours=self._ours, message=self._message)]
        feedback = text(said.get("feedbackId"), 100)
        alone = len(recipients) == 1 == len(self._destination())
        at = said.get("timestamp") or self._mail.get("timestamp")
        name = feedback or (digest(type_, self._message, at, said.get("link"), said.get("ipAddress")))
        return [
            self._reporter.report(
                type_,
                name if alone else f"{name}-{digest(to)[:16]}",
                ours=self._ours,
                recipient=to,
                message=self._message,
                header=self._header,
                at=at,
                detail=words,
                means=means,
                bot=bot,
                more=more,
            )
            for to, means, words in recipients[:RECIPIENTS]
        ]
