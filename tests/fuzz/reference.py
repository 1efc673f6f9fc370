"""What a server's octets mean, said a second time: the judge of SMTP sessions that were fed with anything.

`read` splits octets into replies (RFC 5321 §4.2) without a regular expression or a word of the reader that it judges.
`judge` reads what the session said as a server would, gives each command the reply that came in its turn, and compares
what the session concluded with what the two sides said. It knows nothing of the session's states.

Hazard: a reply that began before its command was said answers nothing. Any number of sessions get this wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

from mailerd.message import Outcome, OutcomeKind, Outgoing, Phase

__all__ = ["LINE", "REPLY", "Reply", "Transcript", "judge", "read", "stuffed"]

LINE, REPLY = 2048, 32768  # octets of a line without its end; of a reply with all its ends, two octets each

SENT, DEFERRED, REJECTED, UNSENT, IN_DOUBT, FAILED = (
    OutcomeKind.SENT,
    OutcomeKind.DEFERRED,
    OutcomeKind.REJECTED,
    OutcomeKind.UNSENT,
    OutcomeKind.IN_DOUBT,
    OutcomeKind.FAILED,
)

Reply = tuple[int, int, int, bytes]
"""Where a reply begins and ends in the octets, its code, the text of its first line."""


def read(octets: bytes) -> tuple[list[Reply], int, bool]:
    """The complete replies; where the unfinished or impossible rest begins; whether it is impossible."""
    replies: list[Reply] = []
    begin = at = size = 0
    code, first = b"", b""
    impossible = True
    while (end := octets.find(b"\n", at)) >= 0:
        line = octets[at : end - 1] if octets[end - 1 : end] == b"\r" and end > at else octets[at:end]
        digits, separator = line[:3], line[3:4]
        if (
            len(digits) < 3
            or digits[0] not in b"2345"
            or digits[1] not in b"0123456789"
            or digits[2] not in b"0123456789"
        ):
            break
        if separator not in (b"", b" ", b"-") or len(line) > LINE:
            break
        if not code:
            begin, size, code, first = at, 0, digits, line[4:]
        elif code != digits:
            break
        size += len(line) + 2
        if size > REPLY:
            break
        at = end + 1
        if separator != b"-":
            replies.append((begin, at, int(code), first))
            code = b""
    else:
        rest = len(octets) - at
        impossible = rest > LINE + 1 or (rest == LINE + 1 and octets[-1:] != b"\r")
    return replies, begin if code else at, impossible


def stuffed(content: bytes) -> bytes:
    """The content as a server must get it (RFC 5321 §4.5.2), without the final dot."""
    return b"".join(b"." + line if line[:1] == b"." else line for line in content.splitlines(keepends=True))


class Transcript:
    """Both sides of one session. `said` holds (octets heard before it, what was said); `ended` the messages in the order
    in which they were taken, with their outcomes; `broken`: its source ended it from within."""

    __slots__ = ("broken", "disturbed", "ended", "heard", "said", "surprised", "words")

    def __init__(self) -> None:
        self.said: list[tuple[int, bytes]] = []
        self.heard = b""
        self.ended: list[tuple[Outgoing, frozenset[int], bytes, Sequence[Outcome]]] = []
        """(message, indices of recipients that cannot be said, stuffed content, outcomes)"""
        self.broken = False
        self.disturbed = False  # something happened that was not heard
        self.surprised = False  # it ended for what it found, not for what it was told
        self.words: set[object] = set()  # what was seen, for those who look for something new


class _Said:
    """The said octets with a place in them, and how much had been heard when what stands there was said."""

    __slots__ = ("_ends", "at", "heard", "octets")

    def __init__(self, said: list[tuple[int, bytes]]) -> None:
        self.octets = b"".join([octets for _, octets in said])
        self.at = 0
        self._ends: list[tuple[int, int]] = []
        end = 0
        for heard, octets in said:
            end += len(octets)
            self._ends.append((end, heard))
        self._ends.reverse()

    def heard_before(self) -> int:
        """Octets heard when what stands at `at` was said."""
        while self._ends[-1][0] <= self.at:
            self._ends.pop()
        return self._ends[-1][1]

    def line(self) -> bytes:
        end = self.octets.index(b"\r\n", self.at)
        line = self.octets[self.at : end]
        self.at = end + 2
        return line


class _Replies:
    """The replies, each given to the command whose turn it is; none once one has come before its command."""

    __slots__ = ("_next", "_replies", "_rest")

    def __init__(self, octets: bytes) -> None:
        self._replies, end, _ = read(octets)
        self._rest = end < len(octets)
        self._next = 0

    def to(self, heard: int) -> Reply | None:
        """The reply to what was said when `heard` octets had been heard."""
        if self._next >= len(self._replies):
            return None
        reply = self._replies[self._next]
        self._next += 1
        if reply[0] < heard:
            self._next = 1 << 60
            return None
        return reply

    def odd(self) -> bool:
        """Whether something was heard that is no reply, or that nothing had asked for."""
        return self._rest or self._next != len(self._replies)


class _Message:
    """One message as the server saw it."""

    __slots__ = ("data", "dot", "dotted", "mail", "rcpt")

    def __init__(self, mail: Reply | None) -> None:
        self.mail = mail
        self.rcpt: dict[int, Reply | None] = {}
        self.data: Reply | None = None
        self.dotted = False
        self.dot: Reply | None = None  # or, before the dot, what came in the middle of the content


def judge(script: Transcript) -> None:
    """Raises AssertionError where the session's conclusions and the two sides of the conversation disagree."""
    odd = False  # a reason to be surprised
    said = _Said(script.said)
    replies = _Replies(script.heard)
    waiting = iter(script.ended)
    words = script.words
    seen: dict[int, _Message] = {}  # by the message's id
    opened = False  # a transaction is open at the server
    before = b""
    while said.at < len(said.octets):
        heard = said.heard_before()
        line = said.line()
        verb = line[:4]
        reply = replies.to(heard)
        words.add((before, verb, reply and reply[2]))
        before = verb
        positive = reply is not None and reply[2] < 300
        if reply is not None:
            odd = (
                odd
                or (reply[2] < 400 and (reply[2] != 354 if verb == b"DATA" else reply[2] >= 300))
                or (verb == b"RSET" and not positive)
            )
        if verb == b"MAIL":
            assert not opened, "a nested MAIL"
            opened = positive
            for message, bad, content, outcomes in waiting:  # noqa: B007
                if len(bad) == len(message.recipients) or all(o.kind is FAILED for o in outcomes):
                    continue  # could not be said
                to = iter([index for index in range(len(message.recipients)) if index not in bad])
                break
            else:
                raise AssertionError("MAIL for a message that nobody gave")
            assert line.startswith(b"MAIL FROM:<%b>" % message.sender.encode()), line
            this = seen[message.job.id] = _Message(reply)
        elif verb == b"RCPT":
            index = next(to)
            assert line == b"RCPT TO:<%b>" % message.recipients[index].address.encode(), line
            this.rcpt[index] = reply
        elif verb == b"DATA":
            this.data = reply
            if reply is not None and reply[2] == 354:
                if not any(r is not None and r[2] < 300 for r in this.rcpt.values()):
                    if said.at < len(said.octets):
                        heard = said.heard_before()
                        assert heard >= reply[1], "a dot before 354"
                        assert said.line() == b"."
                        replies.to(heard)
                        opened = False
                else:
                    assert said.at == len(said.octets) or said.heard_before() >= reply[1], "content before 354"
                    assert content, "an empty message"
                    odd = odd or this.mail is None or this.mail[2] >= 300  # accepted without a sender
                    whole = content + b".\r\n"
                    if said.octets.startswith(whole, said.at):
                        said.at += len(content)
                        heard = said.heard_before()
                        said.at += 3
                        this.dotted = True
                        opened = False
                    else:
                        assert whole.startswith(said.octets[said.at :]), "content that is not that of the message"
                        said.at = len(said.octets)
                        heard = reply[1]
                    this.dot = replies.to(heard)
                    odd = odd or (this.dot is not None and (this.dot[2] // 100 == 3 or not this.dotted))
                    words.add((b"dot", this.dotted, this.dot and this.dot[2]))
        elif verb == b"RSET":
            opened = False  # or the server is beyond understanding
        else:
            assert line[:4] in (b"EHLO", b"HELO", b"QUIT"), line
    if script.surprised and not (odd or script.disturbed or script.broken):
        assert replies.odd(), "surprised by nothing"
    for message, bad, _, outcomes in script.ended:
        _conclusions(script, seen.get(message.job.id), bad, outcomes)


def _conclusions(script: Transcript, this: _Message | None, bad: frozenset[int], outcomes: Sequence[Outcome]) -> None:
    for index, outcome in enumerate(outcomes):
        kind = outcome.kind
        script.words.add((kind, outcome.phase, outcome.code))
        if index in bad or this is None:
            # Never said: an address that cannot be, a message that does not fit, or no time for it.
            assert kind is FAILED or (kind is UNSENT and this is None), outcome
            continue
        assert kind is not FAILED, outcome
        own = this.rcpt.get(index)
        if not this.dotted:
            assert kind in (UNSENT, REJECTED, DEFERRED), (outcome, "without a dot")
            if kind is not UNSENT:
                codes = [r[2] for r in (this.mail, own, this.data, this.dot) if r is not None]
                assert outcome.code in codes, (outcome, codes)
                assert (kind is REJECTED) == (outcome.code >= 500) or outcome.code == 552, outcome
            continue
        assert own is not None, "content before all was answered"
        code = own[2]
        if code >= 300:  # refused by itself
            assert kind in (REJECTED, DEFERRED, UNSENT), (outcome, code)
            assert outcome.code == code, (outcome, code)
            assert outcome.phase is Phase.RCPT
            assert kind is not UNSENT or code in (452, 552), outcome
            assert kind is not REJECTED or code >= 500, outcome
            continue
        dot = this.dot
        if dot is None or dot[2] // 100 == 3 or (script.broken and kind is IN_DOUBT):
            assert kind is IN_DOUBT, (outcome, "nobody knows")
            assert outcome.code == 0
        else:
            want = SENT if dot[2] < 300 else UNSENT if dot[2] == 421 else DEFERRED if dot[2] < 500 else REJECTED
            assert kind is want, (outcome, dot)
            assert outcome.code == dot[2], (outcome, dot)
            assert outcome.phase is Phase.DOT
