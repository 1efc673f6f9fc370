"""One SMTP session as a state machine: reply bytes in, command bytes out. No socket, no clock, no event loop.

It takes messages from a `Source`, says their envelopes and contents, reads the replies in order, and hands one outcome
per recipient back, exactly once a message. With PIPELINING (RFC 2920) the whole envelope goes out at once, and the
envelope of the next message behind the final dot of this one. Otherwise it goes step by step.

Where a transaction stands is its `step`, and nothing else; the replies come in the order of the steps:

    RSET ▸ MAIL ▸ RCPT × n ▸ data ▸ content ▸ dot        (or, with nobody accepted and 354 all the same: data ▸ lone)

What a step means when the session ends there: before `dot` nothing was accepted, so UNSENT; at `dot` the message may
have been accepted, so IN_DOUBT for its accepted recipients; what a recipient was told before stands.

It never reuses a session after a surprise: an unexpected, malformed or extra reply, a timeout, a lost connection end
it (`wait` is CLOSED), and whoever drives it closes the socket. It never raises.

Hazards: after 354 with an accepted recipient only the full content may follow, since a lone dot would deliver an empty
message. `Source.done` may call back into the pool, and so end this very session: `wait` is looked at again after it.
"""

from __future__ import annotations

from mailerd.config.provider import Provider
from mailerd.message import DETAIL_LIMIT, Outcome, OutcomeKind, Phase, Reply, Source, Trouble
from mailerd.smtp.envelope import Capabilities, Unfit, capabilities, render, stuff
from mailerd.smtp.reply import LINE_LIMIT, Answer, Malformed, ReplyReader, split_enhanced, text_of, tidy
from mailerd.smtp.timing import Timings
from mailerd.smtp.transaction import CONTENT, DOT, LONE, MAIL, RCPT, RSET, Transaction, queue_id, refusal

__all__ = ["PIECE", "Core", "Wait"]

PIECE = 65_536  # octets of content that are written at a time, and that `timeouts.content` is meant for

NEVER = float("inf")
# What is to be said once all that was read has been understood (`_due`). A reply that comes before is a surprise.
NOTHING, CONTENT_DUE, TAKE_DUE, COMMAND_DUE, LONE_DUE, HELO_DUE = range(6)
TAKES = 100  # messages in a row that do not fit this server, after which the event loop is to turn
# The server wants something of the session (to begin, to be encrypted, to be logged in), not of the message.
SESSION_REFUSED = frozenset((503, 530, 534, 535, 538))


class Wait:
    """What a session is waiting for (`Core.wait`); decides its deadline. Plain integers, read several times a message."""

    HELLO = 0
    IDLE = 1
    COMMAND = 2
    CONTENT = 3  # for the peer to take the content
    DOT = 4
    QUIT = 5
    CLOSED = 6


class Core:
    """One session. Every method that returns bytes returns what is to be written now; `now` is monotonic seconds.

    `wait` is the state, `deadline` the instant at which `expire` is due, `trouble` why it closed (None: politely, or
    by an idle peer). `settled` counts messages that the server judged. `speculate`, `limit` and `retire_at` may be set
    at any time: the next envelope behind the dot, how many messages may still be taken, and until when.
    """

    def __init__(self, provider: Provider, source: Source, timings: Timings, helo: str = "localhost") -> None:
        self._name = provider.name
        self._source = source
        self._helo = helo
        self._timings = timings
        times = provider.timeouts
        # For recipients without an answer of their own, where each has one.
        self._nobody = Outcome(OutcomeKind.UNSENT, Phase.RCPT, 0, "", "no answer for this recipient", provider.name)
        self._patience = (times.greeting, NEVER, times.command, times.content, times.dot, min(5.0, times.command), 0.0)
        self._reader = ReplyReader()
        self._rest = b""
        self._tx: Transaction | None = None
        self._next: Transaction | None = None  # its envelope is behind the final dot of `_tx`
        self._reset = False  # a failed transaction is still open at the server: RSET before MAIL
        self._due = NOTHING
        self._piece: memoryview | None = None  # content still to be handed out by `pump`
        self._allow_pipelining = provider.pipeline
        self._said_helo = False
        self.can = Capabilities()
        self.pipelining = False
        self.speculate = True
        self.limit = provider.messages_per_connection or (1 << 62)
        self.retire_at = NEVER
        self.wait = Wait.HELLO
        self.deadline = NEVER
        self.settled = 0
        self.trouble: Trouble | None = None

    # -- what the driver calls ---------------------------------------------------------------------------------------

    @property
    def sending(self) -> bool:
        """Content is left for `pump`."""
        return self._piece is not None

    @property
    def spent(self) -> bool:
        """No further message may be taken."""
        return self.limit <= 0

    def hello(self, now: float) -> bytes:
        """The first command. It also proves that the reply stream is aligned after a hand-over."""
        self.deadline = now + self._patience[Wait.HELLO]
        return b"EHLO %s\r\n" % self._helo.encode("ascii", "replace")

    def begin(self, now: float) -> bytes:
        """From IDLE, takes the next message from the source. Still IDLE afterwards: there was none."""
        if self.wait != Wait.IDLE:
            return b""
        if self._rest or self._reader.pending:
            self._surprise("octets that nothing asked for", now)
            return b""
        tx, out = self._take(now)
        if tx is not None:
            self._tx = tx
            self.wait = Wait.COMMAND
            self.deadline = now + self._patience[Wait.COMMAND]
        return out

    def quit(self, now: float) -> bytes:
        """Leaves politely. Only from IDLE."""
        if self.wait != Wait.IDLE:
            return b""
        self.wait = Wait.QUIT
        self.deadline = now + self._patience[Wait.QUIT]
        return b"QUIT\r\n"

    def pump(self, now: float) -> bytes:
        """The next piece of content; the last one carries the final dot, and from then on it is in doubt."""
        piece, tx = self._piece, self._tx
        if piece is None or tx is None:
            return b""
        self.deadline = now + self._patience[Wait.CONTENT]
        late = tx.late(now)
        if late:
            self._surprise(late, now)
            return b""
        if len(piece) > PIECE:
            self._piece = piece[PIECE:]
            return bytes(piece[:PIECE])
        self._piece = None
        if self._rest or self._reader.pending:
            self._surprise("octets that nothing asked for", now)
            return b""
        return self._dot(tx, bytes(piece), now)

    def expire(self, now: float) -> None:
        """Ends the session if its deadline has passed."""
        if now >= self.deadline:
            self.lost(f"no reply within {self._patience[self.wait]:g} s", now)

    def lost(self, why: str, now: float) -> None:
        """The connection is gone, or given up. A peer that leaves an idle session is nobody's trouble."""
        if self.wait in (Wait.IDLE, Wait.QUIT):
            self.wait = Wait.CLOSED
        else:
            self._surprise(why, now)

    def withheld(self, why: str, now: float) -> None:
        """Ends the session; what it said since the last write was never written, so a dot among it is in no doubt."""
        if self.wait != Wait.CLOSED:
            self._end(Reply(0, "", why), now, written=False)

    def receive(self, data: bytes, now: float) -> bytes:
        """The peer's bytes, in any chunks. Calls `Source.done` and `Source.take` on the way."""
        if self.wait == Wait.CLOSED:
            return b""
        if self._rest:
            data = self._rest + data
        lines = data.split(b"\n")
        self._rest = lines.pop()
        reader = self._reader
        plain = len(data) <= LINE_LIMIT and self.pipelining  # else the length of each line is to be looked at
        try:
            for line in lines:
                tx = self._tx
                # The way of almost every reply, without making a Reply of it. `_answer` would do the same.
                if plain and tx is not None and not reader.pending and tx.refused is None:
                    head = line[:4]
                    if head == b"250 ":
                        step = tx.step - tx.data
                        if step < 0:
                            if tx.step >= RCPT:
                                tx.accepted += 1
                            tx.step += 1
                            continue
                        if step == DOT:
                            self._sent(tx, 250, line[4:-1] if line.endswith(b"\r") else line[4:], now)
                            continue
                    elif head == b"354 " and tx.step == tx.data and tx.accepted:
                        tx.step += CONTENT
                        self._due = CONTENT_DUE
                        continue
                if self.wait == Wait.CLOSED:
                    return b""
                answer = reader.line(line)
                if answer is not None:
                    self._answer(answer, now)
            reader.check_rest(self._rest)
        except Malformed as problem:
            self._surprise(str(problem), now)
        if self.wait == Wait.CLOSED:
            return b""
        if lines and not reader.pending:  # a dribble of octets or of lines is no reply, and buys no time
            self.deadline = now + self._patience[self.wait]
        return self._speak(now) if self._due else b""

    def _speak(self, now: float) -> bytes:
        """What is due, now that everything read has been understood."""
        due, self._due = self._due, NOTHING
        tx = self._tx
        if due == TAKE_DUE:
            return self.begin(now)
        if self._rest or self._reader.pending:
            self._surprise("octets that nothing asked for", now)
        elif due == HELO_DUE:
            return b"HELO %s\r\n" % self._helo.encode("ascii", "replace")
        elif tx is None:
            pass
        elif due == CONTENT_DUE:
            return self._content(tx, now)
        elif due == LONE_DUE:
            return b".\r\n"
        elif tx.commands:
            return tx.commands.pop()
        return b""

    # -- taking and saying -------------------------------------------------------------------------------------------

    def _take(self, now: float) -> tuple[Transaction | None, bytes]:
        """The next message that can be sent here, and what to say for it. What cannot be is given back as FAILED."""
        for _ in range(TAKES):
            if self.limit <= 0 or now >= self.retire_at:
                break
            outgoing = self._source.take(self._name)
            if outgoing is None:
                break
            if self.wait == Wait.CLOSED:  # the source ended us meanwhile
                gone = Outcome(OutcomeKind.UNSENT, Phase.MAIL, 0, "", "the connection was closed", self._name)
                self._source.done(outgoing, [gone] * len(outgoing.recipients))
                break
            try:
                envelope = render(outgoing, self.can)
            except Unfit as unfit:
                failed = self._failed(unfit.reason, unfit.category)
                self._source.done(outgoing, [failed] * len(outgoing.recipients))
                if self.wait == Wait.CLOSED:
                    break
                continue
            self.limit -= 1
            tx = Transaction(outgoing, now)
            out = envelope.commands
            if envelope.bad is not None:
                tx.omit({index: self._failed(reason, "address") for index, reason in envelope.bad.items()})
            if self._reset:
                self._reset = False
                tx.step = RSET
                out = b"RSET\r\n" + out
            if not self.pipelining:
                tx.commands = out.splitlines(keepends=True)
                tx.commands.reverse()
                out = tx.commands.pop()
            return tx, out
        return None, b""

    def _content(self, tx: Transaction, now: float) -> bytes:
        """354 with an accepted recipient: the content, its dot and perhaps the next envelope."""
        late = tx.late(now)
        if late:  # after 354 there is only the content or the end
            self._surprise(late, now)
            return b""
        self._timings.mail.observe(now - tx.began)
        tx.began = now
        content = stuff(tx.outgoing.content)
        if len(content) > PIECE:
            self._piece = memoryview(content)
            self.wait = Wait.CONTENT
            return self.pump(now)
        return self._dot(tx, content, now)

    def _dot(self, tx: Transaction, content: bytes, now: float) -> bytes:
        tx.step = tx.data + DOT
        self.wait = Wait.DOT
        self.deadline = now + self._patience[Wait.DOT]
        if self.pipelining and self.speculate:
            # RFC 2920 §3.1: DATA must be the last of a group because of its 354; what follows the dot is a new group.
            self._next, envelope = self._take(now)
            return b"%b.\r\n%b" % (content, envelope)
        return content + b".\r\n"

    # -- replies -----------------------------------------------------------------------------------------------------

    def _answer(self, answer: Answer, now: float) -> None:
        """Any reply, in any state."""
        tx = self._tx
        code = answer[0]
        if tx is None:
            self._session(answer, now)
        elif code == 421:
            # RFC 5321 §3.8: the service is closing the channel, whatever the command was; later replies never come.
            self._end(text_of(answer), now)
        elif self._due:
            # Also a refusal behind 354: nothing of the content is said yet, so it is no judgement of it, and what it
            # means must not depend on the packets it comes in.
            self._unexpected(answer, now)
        elif tx.step < tx.data:
            self._command(tx, answer, now)
        elif tx.step == tx.data:
            self._data(tx, answer, now)
        elif tx.step == tx.data + LONE:
            # RFC 2920 §3.1: whatever it says, nobody was accepted and there was no content.
            self._finish(tx, tx.refused or self._nobody)
        elif tx.step == tx.data + DOT:
            if 200 <= code < 300:
                self._sent(tx, code, answer[1][-1], now)
            elif code >= 400:
                self._finish(tx, refusal(text_of(answer), Phase.DOT, self._name))
            else:
                self._unexpected(answer, now)
        elif code >= 400:
            # A server that cannot wait for the dot. It judged the message; the session is beyond repair.
            reply = text_of(answer)
            tx.refused = refusal(reply, Phase.CONTENT, self._name)
            self._end(reply, now)
        else:
            self._unexpected(answer, now)

    def _command(self, tx: Transaction, answer: Answer, now: float) -> None:
        """The reply to RSET, MAIL or a RCPT."""
        code, step = answer[0], tx.step
        positive = 200 <= code < 300
        if 300 <= code < 400 or (step == RSET and not positive):
            self._unexpected(answer, now)
            return
        if step == MAIL and not positive:
            reply = text_of(answer)
            if code in SESSION_REFUSED:
                self._end(reply, now)
                return
            tx.refused = refusal(reply, Phase.MAIL, self._name)
            if not self.pipelining:
                self._finish(tx, tx.refused)
                return
        elif step >= RCPT:
            if positive:
                tx.accepted += 1
            elif tx.refused is None:
                tx.refuse(refusal(text_of(answer), Phase.RCPT, self._name))
        tx.step = step + 1
        if tx.commands is not None:
            if tx.step == tx.data and not tx.accepted:
                self._reset = True
                self._finish(tx, self._nobody)
            else:
                self._due = COMMAND_DUE

    def _data(self, tx: Transaction, answer: Answer, now: float) -> None:
        """The reply to DATA."""
        code = answer[0]
        if code == 354:
            if not tx.accepted:
                # RFC 2920 §3.1: with no recipient and 354 all the same, "the client SHOULD send a single dot".
                tx.step += LONE
                self._due = LONE_DUE
            elif tx.refused is None:
                tx.step += CONTENT
                self._due = CONTENT_DUE
            else:
                # MAIL refused and yet a recipient accepted: a dot might deliver an empty message to it.
                self._surprise("DATA accepted after MAIL was refused", now)
        elif code < 400:
            self._unexpected(answer, now)
        else:
            # If MAIL was accepted, its transaction is still open: the next MAIL would be nested (RFC 5321 §4.1.4). If it
            # was not and a recipient was all the same, that one must not be left over for the next message.
            self._reset = tx.refused is None or tx.accepted > 0
            if tx.refused is None and tx.accepted:
                self._finish(tx, refusal(text_of(answer), Phase.DATA, self._name))
            else:
                self._finish(tx, tx.refused or self._nobody)  # 503 or 554, as it must be

    def _session(self, answer: Answer, now: float) -> None:
        """A reply while no message is on its way."""
        code = answer[0]
        if self.wait == Wait.QUIT:
            self.wait = Wait.CLOSED
        elif self.wait == Wait.IDLE:
            # Nothing was asked. 421 is a peer that tidies up (RFC 5321 §3.8), and nobody's trouble.
            if code == 421:
                self.wait = Wait.CLOSED
            else:
                self._unexpected(answer, now)
        elif 200 <= code < 300 and not self._due:
            self.can = Capabilities() if self._said_helo else capabilities(answer[1])
            self.pipelining = self._allow_pipelining and self.can.pipelining
            self.wait = Wait.IDLE
        elif code in (500, 501, 502, 504) and not self._said_helo:
            # RFC 5321 §3.2: a server that does not know EHLO is greeted with HELO, and then offers nothing.
            self._said_helo = True
            self._due = HELO_DUE
        else:
            self._end(text_of(answer), now)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def _failed(self, reason: str, category: str) -> Outcome:
        return Outcome(OutcomeKind.FAILED, Phase.MAIL, 0, "", reason, self._name, category=category)

    def _sent(self, tx: Transaction, code: int, line: bytes, now: float) -> None:
        """The server took responsibility (RFC 5321 §6.1)."""
        enhanced, text = split_enhanced(code, tidy(line))
        self._timings.dot.observe(now - tx.began)
        sent = Outcome(OutcomeKind.SENT, Phase.DOT, code, enhanced, text, self._name, queue_id(text))
        following = self._next
        if following is not None:
            following.began = now
        self._finish(tx, sent)

    def _finish(self, tx: Transaction, rest: Outcome) -> None:
        """The end of a transaction; the next one is current, or due. `rest` is for whoever has no outcome yet."""
        self.settled += 1
        self._tx, self._next = self._next, None
        if self._tx is not None:
            self.wait = Wait.COMMAND
        else:
            self.wait = Wait.IDLE
            self._due = TAKE_DUE
        self._source.done(tx.outgoing, tx.outcomes(rest))
        if tx.outgoing.job.hang_up:
            self.limit = 0  # it takes no further one, and is retired once it is idle

    def _unexpected(self, answer: Answer, now: float) -> None:
        self._surprise(f"unexpected reply: {text_of(answer)}", now)

    def _surprise(self, why: str, now: float) -> None:
        """Ends the session for what we found, in place of a reply."""
        if self.wait != Wait.CLOSED:
            self._end(Reply(0, "", why[:DETAIL_LIMIT]), now)

    def _end(self, reply: Reply, now: float, *, written: bool = True) -> None:
        """Ends the session. A code: the server said so, and has judged nothing it did not say. 0: it did not say."""
        tx, following = self._tx, self._next
        phase = Phase.EHLO if self.wait == Wait.HELLO else Phase.MAIL if tx is None else tx.phase()
        self.wait = Wait.CLOSED
        self.deadline = NEVER
        self._tx = self._next = self._piece = None
        self._due = NOTHING
        self.trouble = Trouble(phase, reply.code, reply.enhanced, reply.text)
        if tx is not None:
            # 421 in reply to the dot means not accepted; no (valid) reply to it means that nobody knows.
            doubt = tx.step == tx.data + DOT and not reply.code and written
            kind = OutcomeKind.IN_DOUBT if doubt else OutcomeKind.UNSENT
            self.settled += tx.refused is not None
            rest = tx.refused or Outcome(kind, phase, reply.code, reply.enhanced, reply.text, self._name)
            self._source.done(tx.outgoing, tx.outcomes(rest))
        if following is not None:
            text = f"the connection ended during the message before: {reply.text}"[:DETAIL_LIMIT]
            unsent = Outcome(OutcomeKind.UNSENT, Phase.MAIL, reply.code, reply.enhanced, text, self._name)
            self._source.done(following.outgoing, following.outcomes(unsent))
