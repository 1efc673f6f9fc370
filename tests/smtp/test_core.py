"""The session's state machine on bytes alone: what it says, what each reply means, and that nothing can confuse it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.config.provider import Provider
from mailerd.message import Outcome, OutcomeKind, Outgoing, Phase
from mailerd.smtp.core import PIECE, Core, Wait
from mailerd.smtp.timing import Timings
from tests.smtp.rig import CONTENT, Messages, outgoing

EHLO = b"250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
PLAIN_EHLO = EHLO.replace(b"250-PIPELINING\r\n", b"")
ENVELOPE = b"250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n354 go on\r\n"


class Session:
    """A core, what it has said, and its source."""

    def __init__(self, *messages: Outgoing, ehlo: bytes = EHLO, start: bool = True, **options: object) -> None:
        self.source = Messages(*messages)
        self.core = Core(Provider(name="relay", **options), self.source, Timings(), "me.example")  # type: ignore[arg-type]
        self.said = self.core.hello(0.0)
        self.now = 0.0
        if start:
            self.hear(ehlo)
            self.say(self.core.begin(0.0))

    def say(self, out: bytes) -> bytes:
        self.said += out
        while self.core.sending:
            piece = self.core.pump(self.now)
            self.said += piece
            out += piece
        return out

    def hear(self, *chunks: bytes) -> bytes:
        return b"".join(self.say(self.core.receive(chunk, self.now)) for chunk in chunks)

    @property
    def wait(self) -> int:
        return self.core.wait


def test_envelope_goes_out_at_once() -> None:
    message = outgoing("a@example.net", "b@example.net")
    session = Session(message)
    assert session.said.split(b"\r\n") == [
        b"EHLO me.example",
        b"MAIL FROM:<from@example.org> SIZE=%d" % len(CONTENT),
        b"RCPT TO:<a@example.net>",
        b"RCPT TO:<b@example.net>",
        b"DATA",
        b"",
    ]


def test_next_envelope_goes_behind_the_dot() -> None:
    first, second, third = outgoing(), outgoing("two@example.net"), outgoing("three@example.net")
    session = Session(first, second, third)
    out = session.hear(ENVELOPE)
    assert out.startswith(CONTENT + b".\r\nMAIL FROM:")
    assert out.endswith(b"RCPT TO:<two@example.net>\r\nDATA\r\n")
    assert not session.source.results
    out = session.hear(b"250 2.0.0 Ok: queued as ABC\r\n", ENVELOPE)
    sent = session.source.outcome(first)
    assert (sent.kind, sent.code, sent.enhanced, sent.provider_message_id) == ("sent", 250, "2.0.0", "ABC")
    assert out.startswith(CONTENT + b".\r\nMAIL FROM:")
    assert session.hear(b"250 Ok\r\n", ENVELOPE) == CONTENT + b".\r\n"
    session.hear(b"250 Ok\r\n")
    assert session.source.kinds(third) == ["sent"]
    assert session.wait == Wait.IDLE


def test_step_by_step_where_nothing_is_offered() -> None:
    message = outgoing("a@example.net", "b@example.net")
    session = Session(message, ehlo=b"250 mx.example\r\n")
    assert session.said.endswith(b"MAIL FROM:<from@example.org>\r\n")
    assert session.hear(b"250 ok\r\n") == b"RCPT TO:<a@example.net>\r\n"
    assert session.hear(b"250 ok\r\n") == b"RCPT TO:<b@example.net>\r\n"
    assert session.hear(b"550 5.1.1 who?\r\n") == b"DATA\r\n"
    assert session.hear(b"354 go\r\n") == CONTENT + b".\r\n"
    assert session.hear(b"250 ok\r\n") == b""
    assert session.source.kinds(message) == ["sent", "rejected"]


def test_pipeline_off_is_step_by_step() -> None:
    session = Session(outgoing("a@example.net"), pipeline=False)
    assert session.said.endswith(b"MAIL FROM:<from@example.org> SIZE=%d\r\n" % len(CONTENT))


def test_helo_where_ehlo_is_unknown() -> None:
    session = Session(outgoing(), start=False)
    assert session.hear(b"500 5.5.1 what?\r\n") == b"HELO me.example\r\n"
    session.hear(b"250-mx.example\r\n250 PIPELINING\r\n")
    assert session.wait == Wait.IDLE
    assert not session.core.pipelining


@pytest.mark.parametrize("reply", [b"550 5.7.1 not you\r\n", b"421 busy\r\n", b"354 go\r\n", b"hello\r\n", b"25\r\n"])
def test_ehlo_refused(reply: bytes) -> None:
    session = Session(outgoing(), start=False)
    session.hear(reply)
    assert session.wait == Wait.CLOSED
    assert session.core.trouble is not None
    assert session.core.trouble.phase is Phase.EHLO


# -- refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pipelining", [True, False])
def test_mail_refused_then_next(pipelining: bool) -> None:
    first, second = outgoing("a@example.net", "b@example.net"), outgoing()
    session = Session(first, second, ehlo=EHLO if pipelining else PLAIN_EHLO)
    if pipelining:
        out = session.hear(b"451 4.3.0 later\r\n503 no\r\n503 no\r\n503 no\r\n")
    else:
        out = session.hear(b"451 4.3.0 later\r\n")
    assert session.source.kinds(first) == ["deferred", "deferred"]
    outcome = session.source.results[first.job.id][1]
    assert (outcome.phase, outcome.code, outcome.enhanced, outcome.text) == ("mail", 451, "4.3.0", "later")
    assert out.startswith(b"MAIL FROM:")  # no RSET: MAIL was refused, so no transaction is open


def test_mail_refused_and_354_gets_a_lone_dot() -> None:
    first, second = outgoing(), outgoing()
    session = Session(first, second)
    assert session.hear(b"550 5.7.1 no\r\n503 no\r\n354 go\r\n") == b".\r\n"
    assert not session.source.results
    assert session.hear(b"554 nothing to do\r\n").startswith(b"MAIL FROM:")
    assert session.source.kinds(first) == ["rejected"]
    assert session.source.outcome(first).phase is Phase.MAIL


def test_mail_refused_but_rcpt_accepted_and_354_closes() -> None:
    first = outgoing()
    session = Session(first)
    assert session.hear(b"550 5.7.1 no\r\n250 ok\r\n354 go\r\n") == b""
    assert session.wait == Wait.CLOSED
    assert session.source.kinds(first) == ["rejected"]


@pytest.mark.parametrize("reply", [b"503 5.5.1 nested MAIL\r\n", b"530 5.7.0 authenticate first\r\n"])
def test_mail_refused_for_the_session_is_no_fault_of_the_message(reply: bytes) -> None:
    first = outgoing()
    session = Session(first)
    session.hear(reply)
    assert session.source.kinds(first) == ["unsent"]
    assert session.wait == Wait.CLOSED


def test_every_recipient_its_own_outcome() -> None:
    message = outgoing("a@x.example", "b@x.example", "c@x.example", "d@x.example")
    session = Session(message)
    out = session.hear(b"250 ok\r\n250 ok\r\n550 5.1.1 who\r\n451 4.2.1 greylisted\r\n251 forwarding\r\n354 go\r\n")
    assert out == CONTENT + b".\r\n"
    session.hear(b"250 Ok\r\n")
    assert session.source.kinds(message) == ["sent", "rejected", "deferred", "sent"]
    assert [o.phase for o in session.source.results[message.job.id]] == ["dot", "rcpt", "rcpt", "dot"]


@pytest.mark.parametrize("pipelining", [True, False])
def test_all_refused_resets_before_the_next(pipelining: bool) -> None:
    first, second = outgoing("a@x.example", "b@x.example"), outgoing()
    session = Session(first, second, ehlo=EHLO if pipelining else PLAIN_EHLO)
    if pipelining:
        out = session.hear(b"250 ok\r\n550 no\r\n550 no\r\n554 no valid recipients\r\n")
        assert out.startswith(b"RSET\r\nMAIL FROM:")
        assert session.hear(b"250 reset\r\n", ENVELOPE) == CONTENT + b".\r\n"
    else:
        assert session.hear(b"250 ok\r\n", b"550 no\r\n", b"550 no\r\n").endswith(b"RSET\r\n")
        assert session.hear(b"250 reset\r\n").startswith(b"MAIL FROM:")
        session.hear(b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")
    assert session.source.kinds(first) == ["rejected", "rejected"]
    session.hear(b"250 ok\r\n")
    assert session.source.kinds(second) == ["sent"]


def test_all_refused_and_354_gets_a_lone_dot() -> None:
    first, second = outgoing("a@x.example"), outgoing()
    session = Session(first, second)
    assert session.hear(b"250 ok\r\n550 5.1.1 no\r\n354 go\r\n") == b".\r\n"
    out = session.hear(b"250 2.0.0 Ok: queued as 0\r\n")  # ignored
    assert session.source.kinds(first) == ["rejected"]
    assert out.startswith(b"MAIL FROM:")  # the dot has ended that transaction


def test_data_refused() -> None:
    first, second = outgoing("a@x.example", "b@x.example"), outgoing()
    session = Session(first, second)
    out = session.hear(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n451 4.3.0 disk full\r\n")
    assert session.source.kinds(first) == ["deferred", "rejected"]
    assert [o.phase for o in session.source.results[first.job.id]] == ["data", "rcpt"]
    assert out.startswith(b"RSET\r\nMAIL FROM:")


@pytest.mark.parametrize(("reply", "kind"), [(b"451 4.3.0 later\r\n", "deferred"), (b"554 5.7.1 spam\r\n", "rejected")])
def test_dot_refused(reply: bytes, kind: str) -> None:
    first, second = outgoing(), outgoing()
    session = Session(first, second)
    session.hear(ENVELOPE)
    session.hear(reply)
    assert session.source.kinds(first) == [kind]
    assert session.source.outcome(first).phase is Phase.DOT
    session.hear(ENVELOPE, b"250 ok\r\n")
    assert session.source.kinds(second) == ["sent"]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"452 4.5.3 too many recipients", "unsent"),
        (b"452 too many recipients", "unsent"),
        (b"552 5.5.3 too many recipients", "unsent"),
        (b"552 too much mail data", "unsent"),
        (b"452 4.2.2 mailbox full", "deferred"),
        (b"552 5.2.2 mailbox full", "rejected"),
        (b"451 4.5.3 too many recipients", "deferred"),
    ],
)
def test_too_many_recipients(reply: bytes, kind: str) -> None:
    message = outgoing("a@x.example", "b@x.example")
    session = Session(message)
    session.hear(b"250 ok\r\n250 ok\r\n" + reply + b"\r\n354 go\r\n", b"250 ok\r\n")
    assert session.source.kinds(message) == ["sent", kind]


def test_too_many_recipients_with_nobody_through_is_charged() -> None:
    message = outgoing("a@x.example", "b@x.example")
    session = Session(message)
    session.hear(b"250 ok\r\n552 5.5.3 too many\r\n452 4.5.3 too many\r\n503 no\r\n")
    assert session.source.kinds(message) == ["deferred", "deferred"]


# -- what cannot be sent here ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "ehlo", "category"),
    [
        (outgoing("ünï@example.net", utf8=True), b"250 mx\r\n", "address"),
        (outgoing(utf8=True), b"250-mx\r\n250 8BITMIME\r\n", "address"),
        (outgoing(eight_bit=True), b"250 mx\r\n", "content"),
        (outgoing(content=b"x" * 100), b"250-mx\r\n250 SIZE 99\r\n", "size"),
        (outgoing("ünï@example.net"), EHLO, "address"),
        (outgoing(""), EHLO, "address"),
        (outgoing("a@x.example>\r\nRSET"), EHLO, "address"),
        (outgoing("a@x.example> NOTIFY=NEVER"), EHLO, "address"),
        (outgoing("a b@x.example"), EHLO, "address"),
        (outgoing("a\x00@x.example"), EHLO, "address"),
        (outgoing("a\x7f@x.example"), EHLO, "address"),
        (outgoing("a\x85@x.example", utf8=True), EHLO, "address"),
        (outgoing("a\ud800@x.example", utf8=True), EHLO, "address"),
        (outgoing("a" * 400 + "@x.example"), EHLO, "address"),
        (outgoing(sender="x@y.example>\nDATA"), EHLO, "address"),
        (outgoing("a@x.example\r\n", "b@x.example\n"), EHLO, "address"),
    ],
)
def test_unfit_is_failed_and_nothing_is_sent_for_it(message: Outgoing, ehlo: bytes, category: str) -> None:
    after = outgoing("ok@example.net")
    session = Session(message, after, ehlo=ehlo)
    outcomes = session.source.results[message.job.id]
    assert {(o.kind, o.category) for o in outcomes} == {(OutcomeKind.FAILED, category)}
    assert outcomes[0].text
    assert session.said.count(b"MAIL FROM") == 1  # the next message's
    session.hear(*(line + b"\r\n" for line in (b"250 ok", b"250 ok", b"354 go", b"250 ok")))
    assert session.source.kinds(after) == ["sent"]


def test_one_recipient_that_cannot_be_said_does_not_harm_the_others() -> None:
    message = outgoing("a@x.example", "b\r\n@x.example", "c@x.example")
    session = Session(message)
    assert b"b\r\n@" not in session.said
    session.hear(b"250 ok\r\n250 ok\r\n550 5.1.1 who\r\n354 go\r\n", b"250 ok\r\n")
    assert session.source.kinds(message) == ["sent", "failed", "rejected"]


@pytest.mark.parametrize(
    "address", ['"a b"@x.example', '"<>"@x.example', '"a\\"b"@x.example', "a@[192.0.2.1]", "postmaster"]
)
def test_unusual_but_legal_addresses(address: str) -> None:
    session = Session(outgoing(address))
    assert b"RCPT TO:<%s>\r\n" % address.encode() in session.said


def test_parameters_of_mail() -> None:
    message = outgoing("ünï@example.net", sender="", utf8=True, eight_bit=True)
    session = Session(message)
    assert b"MAIL FROM:<> SIZE=%d BODY=8BITMIME SMTPUTF8\r\n" % len(CONTENT) in session.said
    assert "RCPT TO:<ünï@example.net>\r\n".encode() in session.said


# -- the end of a session -------------------------------------------------------------------------------------------------


def told(session: Session, step: int) -> None:
    """Everything up to the reply of this step: 0 MAIL, 1 RCPT, 2 DATA, 3 dot."""
    replies = [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"][:step]
    session.hear(*replies)


ENDS = {
    "421": lambda s: s.hear(b"421 4.3.2 going down\r\n"),
    "lost": lambda s: s.core.lost("connection lost", 0.0),
    "silent": lambda s: s.core.expire(1e9),
    "garbage": lambda s: s.hear(b"\x00\xff what\r\n"),
    "changed code": lambda s: s.hear(b"250-ok\r\n550 no\r\n"),
    "long line": lambda s: s.hear(b"250 " + b"x" * 3000),
    "endless": lambda s: s.hear(*[b"250-more\r\n"] * 10_000),
    "intermediate": lambda s: s.hear(b"334 what?\r\n"),
}


@pytest.mark.parametrize("pipelining", [True, False])
@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("end", ENDS)
def test_end_at_every_step(end: str, step: int, pipelining: bool) -> None:
    first, second = outgoing(), outgoing()
    session = Session(first, second, ehlo=EHLO if pipelining else PLAIN_EHLO)
    told(session, step)
    ENDS[end](session)
    assert session.wait == Wait.CLOSED
    assert session.core.trouble is not None
    assert session.source.kinds(first) == ["in_doubt" if step == 3 and end != "421" else "unsent"]
    assert session.source.outcome(first).phase == ("mail", "rcpt", "data", "dot")[step]
    assert session.source.outcome(first).text
    if step == 3 and pipelining:
        assert session.source.kinds(second) == ["unsent"]
    else:
        assert second.job.id not in session.source.flying
    said = session.said
    session.hear(b"250 ok\r\n354 go\r\n")
    assert session.core.begin(0.0) == b""
    assert session.said == said


def test_refused_recipients_keep_their_refusal_when_the_session_ends() -> None:
    message = outgoing("a@x.example", "b@x.example")
    session = Session(message)
    session.hear(b"250 ok\r\n550 5.1.1 who\r\n421 bye\r\n")
    assert session.source.kinds(message) == ["rejected", "unsent"]


def test_refused_recipients_are_never_in_doubt() -> None:
    message = outgoing("a@x.example", "b@x.example")
    session = Session(message)
    session.hear(b"250 ok\r\n550 5.1.1 who\r\n250 ok\r\n354 go\r\n")
    session.core.lost("reset", 0.0)
    assert session.source.kinds(message) == ["rejected", "in_doubt"]


def test_421_to_the_lone_dot() -> None:
    first = outgoing()
    session = Session(first)
    session.hear(b"250 ok\r\n550 5.1.1 no\r\n354 go\r\n", b"421 bye\r\n")
    assert session.source.kinds(first) == ["rejected"]
    assert session.wait == Wait.CLOSED


@pytest.mark.parametrize("extra", [b"250 again\r\n", b"25", b"421-bye\r\n", b"junk\r\n"])
def test_octets_between_messages_end_the_session(extra: bytes) -> None:
    first, second = outgoing(), outgoing()
    session = Session(first)
    session.hear(ENVELOPE)
    session.source.queue.append(second)  # too late to go behind the dot
    assert session.hear(b"250 ok\r\n" + extra) == b""
    assert session.source.kinds(first) == ["sent"]
    assert session.wait == Wait.CLOSED
    assert list(session.source.queue) == [second]  # never taken


def test_421_while_idle_is_nobodys_trouble() -> None:
    session = Session()
    session.hear(b"421 4.4.2 idle too long\r\n")
    assert session.wait == Wait.CLOSED
    assert session.core.trouble is None


@pytest.mark.parametrize("behind", [b"250 ok\r\n", b"354 go\r\n", b"2", b"550 no\r\n", b"55", b"450 later\r\n"])
def test_a_reply_before_the_content_is_no_reply_to_it(behind: bytes) -> None:
    message = outgoing()
    session = Session(message)
    assert session.hear(b"250 ok\r\n250 ok\r\n354 go\r\n" + behind) == b""
    assert session.source.kinds(message) == ["unsent"]
    assert session.wait == Wait.CLOSED


@pytest.mark.parametrize("behind", [b"250 ok\r\n", b"2"])
def test_a_reply_before_its_command_step_by_step(behind: bytes) -> None:
    message = outgoing()
    session = Session(message, ehlo=PLAIN_EHLO)
    assert session.hear(b"250 ok\r\n" + behind) == b""
    assert session.source.kinds(message) == ["unsent"]


@pytest.mark.parametrize(
    ("reply", "kind"), [(b"421 bye\r\n", "unsent"), (b"552 5.3.4 too big\r\n", "rejected"), (b"250 ok\r\n", "unsent")]
)
def test_reply_in_the_middle_of_the_content(reply: bytes, kind: str) -> None:
    message = outgoing(content=b"x" * 70 + b"\r\n" + b"y\r\n" * PIECE)
    session = Session(message)
    assert len(session.core.receive(ENVELOPE, 0.0)) == PIECE
    assert session.core.sending
    session.core.receive(reply, 0.0)
    assert session.wait == Wait.CLOSED
    assert not session.core.sending
    assert session.source.kinds(message) == [kind]


def test_lease_that_ran_out_starts_no_data() -> None:
    message = outgoing(lease_until=10.0)
    session = Session(message)
    session.hear(b"250 ok\r\n250 ok\r\n")
    session.now = 10.0
    assert session.hear(b"354 go\r\n") == b""
    assert session.source.kinds(message) == ["unsent"]


def test_what_expired_meanwhile_starts_no_content() -> None:
    message = outgoing()
    message.job.expires = 10.0
    session = Session(message)
    session.hear(b"250 ok\r\n250 ok\r\n")
    session.now = 10.0
    assert session.hear(b"354 go\r\n") == b""
    assert session.source.kinds(message) == ["unsent"]


def test_a_lease_that_ends_within_the_content_keeps_its_dot_back() -> None:
    """A process that was stopped in the middle of a large message and goes on when somebody else has it."""
    message = outgoing(content=b"y\r\n" * PIECE, lease_until=10.0)
    session = Session(message)
    assert len(session.core.receive(ENVELOPE, 0.0)) == PIECE
    assert session.core.pump(9.0)
    assert session.core.pump(10.0) == b""
    assert session.wait == Wait.CLOSED
    assert session.source.kinds(message) == ["unsent"]


def test_a_dot_that_was_never_written_is_in_no_doubt() -> None:
    first, second = outgoing(), outgoing()
    session = Session(first, second)
    assert session.hear(ENVELOPE).startswith(CONTENT + b".\r\nMAIL")
    session.core.withheld("stood still", 0.0)
    assert session.source.kinds(first) == session.source.kinds(second) == ["unsent"]
    assert session.wait == Wait.CLOSED
    lost = Session(outgoing())
    lost.hear(ENVELOPE)
    lost.core.lost("reset", 0.0)  # written, and not answered: another matter
    assert [o.kind for _, outcomes in lost.source.log for o in outcomes] == ["in_doubt"]


def test_limit_is_kept_and_nothing_goes_behind_the_last_dot() -> None:
    messages = [outgoing() for _ in range(3)]
    session = Session(*messages, messages_per_connection=2)
    session.hear(ENVELOPE)
    assert session.hear(b"250 ok\r\n", ENVELOPE) == CONTENT + b".\r\n"
    assert session.hear(b"250 ok\r\n") == b""
    assert session.wait == Wait.IDLE
    assert session.core.quit(0.0) == b"QUIT\r\n"
    assert list(session.source.queue) == [messages[2]]
    session.hear(b"221 bye\r\n")
    assert session.wait == Wait.CLOSED
    assert session.core.trouble is None


def test_a_dribble_buys_no_time() -> None:
    session = Session(outgoing())
    due = session.core.deadline
    for octet in b"250-still thinking\r\n250-":
        session.now += 1.0
        session.hear(bytes((octet,)))
    assert session.core.deadline == due
    session.hear(b"done\r\n250 yes\r\n")
    assert session.core.deadline > due


def test_source_that_ends_the_session_from_within() -> None:
    first, second = outgoing(), outgoing()
    session = Session(first, second)
    session.hear(ENVELOPE)
    done = session.source.done

    def ending(*args: object) -> None:
        done(*args)  # type: ignore[arg-type]
        session.core.lost("shutting down", 0.0)

    session.source.done = ending  # type: ignore[method-assign]
    assert session.hear(b"250 ok\r\n" + ENVELOPE) == b""
    assert session.source.kinds(first) == ["sent"]
    assert session.source.kinds(second) == ["unsent"]


# -- any bytes ------------------------------------------------------------------------------------------------------------


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(edges)]


CODES = (
    "250",
    "250",
    "250",
    "250",
    "251",
    "354",
    "421",
    "450",
    "452",
    "500",
    "503",
    "550",
    "552",
    "220",
    "334",
    "199",
    "xyz",
)
TEXTS = st.sampled_from(
    [
        "",
        " ",
        " ok",
        " 2.0.0 Ok: queued as A1",
        " 5.1.1 no",
        "-more\r\n{} end",
        "-\r\n{}-\r\n{}",
        " \x00\x1b[31m",
        " ünï",
        " " + "x" * 2100,
    ]
)
REPLY = st.builds(lambda code, text: (code + text.format(code, code) + "\r\n").encode(), st.sampled_from(CODES), TEXTS)


class Peer:
    """A server that answers each command when it has come, as told; it knows what it accepted."""

    def __init__(self, replies: list[bytes], pipelining: bool) -> None:
        self.replies = iter(replies)
        self.buffer = b""
        self.data = False
        self.mail = False
        self.rcpt: list[bytes] = []
        self.accepted: set[bytes] = set()
        self.contents: list[bytes] = []
        self.pipelining = pipelining

    def hear(self, data: bytes) -> bytes:
        self.buffer += data
        out = b""
        while True:
            if self.data:
                content, found, rest = self.buffer.partition(b"\r\n.\r\n")
                if self.buffer.startswith(b".\r\n"):
                    content, found, rest = b"", b"x", self.buffer[3:]
                if not found:
                    return out
                self.buffer = rest
                self.data = False
                reply = next(self.replies, b"250 ok\r\n")
                if self.rcpt:
                    assert content, "an empty message to an accepted recipient"
                    self.contents.append(content)
                if re.fullmatch(rb"2\d\d[ \r].*\n", reply, re.DOTALL):
                    self.accepted |= set(self.rcpt)
                self.mail, self.rcpt = False, []
                out += reply
                continue
            line, found, rest = self.buffer.partition(b"\r\n")
            if not found:
                return out
            self.buffer = rest
            reply = next(self.replies, b"250 ok\r\n" if line != b"DATA" else b"354 go\r\n")
            positive = re.match(rb"2\d\d", reply) is not None
            if line.startswith(b"MAIL"):
                assert not self.mail, "nested MAIL"
                self.mail = positive
            elif line == b"RSET":
                self.mail, self.rcpt = False, []
            elif line.startswith(b"RCPT"):
                if positive:
                    self.rcpt.append(line[len(b"RCPT TO:<") : -1])
            elif line == b"DATA":
                self.data = re.match(rb"354", reply) is not None
            out += reply
            if not self.pipelining:
                assert not self.buffer, "a group without PIPELINING"


@settings(max_examples=400, deadline=None)
@given(
    replies=st.lists(REPLY, max_size=25),
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    pipelining=st.booleans(),
    lose_at=st.integers(0, 30),
)
@example(replies=[b"450\r\n", b"250\r\n", b"450\r\n"], sizes=[1, 1], cuts=[], pipelining=True, lose_at=2)
def test_any_server_and_any_chunking(
    replies: list[bytes], sizes: list[int], cuts: list[int], pipelining: bool, lose_at: int
) -> None:
    """Whatever is answered: one outcome per recipient, SENT only what was accepted, accepted only SENT or IN_DOUBT,
    no empty message, no nested MAIL; and the chunks that the replies come in make no difference."""
    results = []
    for pieces in (cuts, [], range(1000)):
        messages = [outgoing(*(f"u{n}.{m}@x.example" for m in range(size))) for n, size in enumerate(sizes)]
        session = Session(*messages, start=False)
        peer = Peer(list(replies), pipelining)
        session.hear(EHLO if pipelining else PLAIN_EHLO)
        out = session.say(session.core.begin(0.0))
        for turn in range(200):
            if not out or session.wait == Wait.CLOSED:
                break
            answer = peer.hear(out)
            if turn == lose_at:
                break  # heard, and the answer is lost
            out = session.hear(*split(answer, list(pieces)))
        session.core.lost("the end", 0.0)
        assert session.wait == Wait.CLOSED
        assert not session.source.flying
        outcomes = {}
        for message in messages:
            for recipient, outcome in zip(
                message.recipients,
                session.source.results.get(message.job.id, ()),
                strict=message.job.id in session.source.results,
            ):
                address = recipient.address.encode()
                assert (outcome.kind is not OutcomeKind.SENT) or address in peer.accepted
                if address in peer.accepted:
                    assert outcome.kind in (OutcomeKind.SENT, OutcomeKind.IN_DOUBT)
                assert "\0" not in outcome.text
                assert outcome.provider == "relay"
                outcomes[address] = (outcome.kind, outcome.code, outcome.enhanced, outcome.text)
        assert all(content + b"\r\n" == CONTENT for content in peer.contents)
        results.append((outcomes, session.said))
    assert results[0] == results[1] == results[2]


@settings(max_examples=300, deadline=None)
@given(chunks=st.lists(st.binary(max_size=60) | REPLY, max_size=20), pipelining=st.booleans())
def test_noise_never_raises(chunks: list[bytes], pipelining: bool) -> None:
    messages = [outgoing("a@x.example", "b@x.example") for _ in range(3)]
    session = Session(*messages, ehlo=EHLO if pipelining else PLAIN_EHLO)
    session.hear(*chunks)
    session.core.lost("the end", 0.0)
    assert not session.source.flying


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([b".", b"..", b"a", b"\r\n", b"\n", b"\r\n.\r\n", b"." * 70, b"x" * 1000]), max_size=40)
)
def test_dots_round_trip(parts: list[bytes]) -> None:
    """What a server makes of DATA (RFC 5321 §4.5.2) is the content."""
    content = b"".join(parts).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"end\r\n"
    session = Session(outgoing(content=content))
    wire = session.hear(ENVELOPE)
    assert wire.endswith(b"\r\n.\r\n")
    lines = wire[:-3].split(b"\r\n")[:-1]
    assert b"." not in lines
    assert b"".join(line.removeprefix(b".") + b"\r\n" for line in lines) == content


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_content_can_end_early(left: bytes, right: bytes) -> None:
    """Even content that is against the rules (bare LF) holds no end of data, however lenient a server reads it."""
    session = Session(outgoing(content=left + b"\n.\n" + right))
    wire = session.hear(ENVELOPE)
    assert re.search(rb"\n\.\r?\n", wire[:-5]) is None


def test_a_message_whose_answer_asks_for_it_is_the_last_of_its_session() -> None:
    first, second = outgoing(), outgoing("two@example.net")
    session = Session(first, second, pipeline=False)
    end = session.source.done

    def done(outgoing: Outgoing, outcomes: Sequence[Outcome]) -> None:
        end(outgoing, outcomes)
        outgoing.job.hang_up = True

    session.source.done = done  # type: ignore[method-assign]
    session.hear(b"250 2.1.0 ok\r\n", b"450 4.2.1 busy\r\n")
    assert session.core.settled == 1
    assert session.core.spent
    assert session.wait == Wait.IDLE
    assert list(session.source.queue) == [second]
    assert b"two@example.net" not in session.said
