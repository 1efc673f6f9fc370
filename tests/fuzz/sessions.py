"""SMTP sessions that hear anything, each judged by `tests.fuzz.reference`; as a program, millions of them.

    python -m tests.fuzz.sessions --inputs 10000000 --seed 1 [--reader] [--keep FOLDER]

An input is two octets (who sends what to which kind of server; whether and how chunks are cut) and what is heard, in chunks that
end with 0x1e. A chunk that begins with 0x1c happens instead of being heard: T the deadline passes, L the connection is
lost, W what was said last was never written, Q quit. Half of the inputs are heard again, in other pieces, and where no answer fell between the pieces both must end alike.

The program mutates its corpus: what shows something new (a command after a command and its reply, an outcome, a way to
end) is kept and mutated further. Needs nothing but the package; one process, as fast as it goes.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mailerd.config.provider import Provider
from mailerd.message import Job, Lease, Outcome, Outgoing, Recipient
from mailerd.smtp import core as session
from mailerd.smtp.core import Core, Wait
from mailerd.smtp.reply import Malformed, ReplyReader, text_of
from mailerd.smtp.timing import Timings
from tests.fuzz.reference import LINE, REPLY, Transcript, judge, read, stuffed

__all__ = ["CORPUS", "check", "check_reader", "hear", "main", "mutations", "seeds"]

CORPUS = Path(__file__).with_name("sessions")
END, EVENT = b"\x1e", b"\x1c"
PIPELINING = b"250-mx\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 1000000\r\n"
PLAIN = b"250-mx\r\n250 SIZE 500\r\n"

_BORN = datetime(2026, 1, 1, tzinfo=UTC)
_IDS = iter(range(1, 1000))
_PROVIDERS = [
    Provider(name="relay", pipeline=pipeline, messages_per_connection=limit)
    for limit in (0, 2)
    for pipeline in (True, False)
]
_LARGE = b"Subject: large\r\n\r\n" + b"\r\n".join([b".x" * 30] * 1100) + b"\r\n"
assert len(_LARGE) > session.PIECE


def _message(
    *recipients: str, content: bytes = b"Subject: x\r\n\r\n", sender: str = "a@b.example", eight: bool = False
) -> Outgoing:
    number = next(_IDS)
    job = Job(id=number, stream="s", priority=5, domain="d", campaign="", lease=Lease(1, 1e12), created_at=_BORN)
    to = tuple(Recipient(bit, address) for bit, address in enumerate(recipients))
    return Outgoing(job, sender, to, content + b".\r\n%d\r\n" % number, "", False, eight)


Given = tuple[Outgoing, frozenset[int], bytes]
_SETS: list[list[Given]] = [
    [
        (message, frozenset(i for i, r in enumerate(message.recipients) if ">" in r.address), stuffed(message.content))
        for message in messages
    ]
    for messages in (
        [_message(f"u{n}@d.example") for n in range(4)],
        [_message("a@d.example", "b@d.example", "c@d.example"), _message("d@d.example"), _message("e@d.example", "f@d.example", sender="")],
        [_message("a@d.example", "b>@d.example"), _message("x>"), _message("e@d.example", eight=True), _message("b>", "f@d.example", "g@d.example")],
        [_message("a@d.example", content=_LARGE), _message("b@d.example")],
    )
]  # fmt: skip
_MESSAGE_LIMIT = max(len(given) for given in _SETS)


class _Source:
    """Gives messages, and keeps what becomes of them in the order in which it gave them."""

    __slots__ = ("core", "ends", "flying", "script", "waiting_", "where")

    def __init__(self, given: list[Given], script: Transcript, ends: bool) -> None:
        self.waiting_ = iter(given)
        self.flying: dict[int, int] = {}
        self.script = script
        self.ends = ends  # ends the session from within the second `done`
        self.core: Core | None = None

    def take(self, provider: str) -> Outgoing | None:
        assert self.core is not None
        assert self.core.wait != Wait.CLOSED, "a closed session takes a message"
        given = next(self.waiting_, None)
        if given is None:
            return None
        assert len(self.flying) < 2, "more than one message behind the other"
        self.flying[id(given[0])] = len(self.script.ended)
        self.script.ended.append((*given, ()))
        return given[0]

    def waiting(self) -> int:
        return 0

    def done(self, outgoing: Outgoing, outcomes: Sequence[Outcome]) -> None:
        place = self.flying.pop(id(outgoing), None)
        assert place is not None, "given back twice, or never given"
        assert len(outcomes) == len(outgoing.recipients), "one outcome for each recipient"
        for outcome in outcomes:
            text = outcome.text
            assert len(text) <= 1024
            assert "\0" not in text
            assert outcome.provider == "relay"
        self.script.ended[place] = (*self.script.ended[place][:3], outcomes)
        if self.ends and place == 1:
            self.script.broken = True
            assert self.core is not None
            self.core.lost("the source ends it", 1.0)


def hear(data: bytes, cuts: int = 0) -> tuple[Transcript, bool]:
    """One session; and whether no answer fell between the pieces that `cuts` (a seed; 0: none) made."""
    flags = data[0]
    script = Transcript()
    source = _Source(_SETS[flags >> 2 & 3], script, bool(flags & 64))
    core = source.core = Core(_PROVIDERS[(flags >> 4 & 1) | (flags >> 6 & 2)], source, Timings())
    reader = core._reader
    said, now = script.said, 0.0
    causal, unwritten = True, False
    heard: list[bytes] = []
    octets = taken = 0
    said.append((0, core.hello(now)))
    chunks = data[2:].split(END)
    if prelude := (PIPELINING, PIPELINING, PLAIN, b"")[flags & 3]:
        chunks.insert(0, prelude)
    for chunk in chunks:
        if core.wait == Wait.CLOSED:
            out = core.receive(chunk, now) + core.begin(now) + core.pump(now) + core.quit(now)
            assert not out, "a closed session speaks"
            break
        now += 1.0
        waits, unwritten = unwritten, False  # only what was said last can still wait to be written
        if core.wait == Wait.IDLE and (out := core.begin(now)):
            said.append((octets, out))
            waits = True
        if chunk[:1] == EVENT:
            event = chunk[1:2]
            script.disturbed = True
            if event == b"T":
                due = core.deadline
                core.expire(now + 1e9)
                assert core.wait == Wait.CLOSED or due > now + 1e9, "a session that waits for ever"
            elif event == b"W":
                if waits:
                    said.pop()
                    core.withheld("stood still", now)
            elif event == b"Q":
                if out := core.quit(now):
                    said.append((octets, out))
            else:
                core.lost("reset", now)
            continue
        pieces = _pieces(chunk, cuts) if cuts else [chunk]
        last = len(pieces) - 1
        for index, piece in enumerate(pieces):
            octets += len(piece)
            heard.append(piece)
            unwritten = False
            if out := core.receive(piece, now):
                said.append((octets, out))
                unwritten = core.wait != Wait.CONTENT
                causal = causal and index == last
            if len(script.ended) != taken:
                taken, causal = len(script.ended), causal and index == last
            if core.wait == Wait.CLOSED:
                break
            assert len(core._rest) <= LINE + 1, "an endless line"
            assert reader._octets <= REPLY, "an endless reply"
        # A slow peer takes one piece of a large content at a time, and something may be heard between two.
        while core.sending and not (flags & 32 and out):
            if out := core.pump(now):
                said.append((octets, out))
    trouble = core.trouble
    script.surprised = trouble is not None and not trouble.code
    core.lost("the end", now)
    assert core.wait == Wait.CLOSED
    assert not core.sending
    assert not source.flying, "taken, and never given back"
    script.heard = b"".join(heard)
    script.words.add(trouble and (trouble.phase, trouble.code or trouble.text[:12]))
    return script, causal


def _pieces(chunk: bytes, cuts: int) -> list[bytes]:
    """The chunk in up to four pieces; now and then octet by octet."""
    size = len(chunk)
    if size < 2:
        return [chunk]
    if not cuts % 61 and size < 300:
        return [chunk[at : at + 1] for at in range(size)]
    edges = sorted({cuts * 7919 % size, cuts * 104729 % size, cuts % size, 0, size})
    return [chunk[a:b] for a, b in itertools.pairwise(edges)]


def check(data: bytes) -> set[object]:
    """Judges one input; what was seen of new kinds. Raises AssertionError (or whatever the session raises)."""
    if len(data) < 2:
        return set()
    cuts = 1 + data[1] + 256 * len(data)
    first, _ = hear(data, cuts if data[1] & 3 == 2 else 0)
    judge(first)
    if not data[1] & 1:
        return first.words
    second, causal = hear(data, cuts)
    if not causal:
        judge(second)
    else:
        # Why a session ended may be said in other words: an unfinished reply is not yet called unexpected, or 421.
        kinds = [
            [[(o.kind, o.phase, o.code * (o.kind != "unsent")) for o in given[3]] for given in script.ended]
            for script in (first, second)
        ]
        assert kinds[0] == kinds[1], "chunks make a difference"
        assert b"".join(out for _, out in first.said) == b"".join(out for _, out in second.said)
    return first.words


def check_reader(data: bytes) -> set[object]:
    """The reader of replies alone: what it understands in pieces is what the reference reads in the whole."""
    octets, cuts = data[2:], 1 + data[1] + 256 * len(data)
    reader = ReplyReader()
    replies: list[tuple[int, bytes]] = []
    rest, refused, words = b"", False, ""
    try:
        for piece in _pieces(octets, cuts):
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            for line in lines:
                if (answer := reader.line(line)) is not None:
                    replies.append((answer[0], answer[1][0]))
                    text = text_of(answer)
                    assert len(text.text) <= 1024
                    assert "\0" not in text.text
            reader.check_rest(rest)
    except Malformed as problem:
        refused = True
        reader.pending, words = False, str(problem)
    wanted, at, impossible = read(octets)
    assert replies == [reply[2:] for reply in wanted]
    assert refused is impossible
    assert "\n" not in words
    assert "\x1b" not in words
    assert refused or reader.pending is (at < len(octets) - len(rest))
    return {(min(len(wanted), 9), refused, reader.pending, bool(rest)), *[reply[2] for reply in wanted]}


_OK, _GO = b"250 2.1.0 ok\r\n", b"354 go\r\n"
_REPLIES = [
    _OK, _GO, b"250 ok\r\n", b"250 2.0.0 Ok: queued as A1\r\n", b"251 fwd\r\n", b"220 x\r\n", b"250-a\r\n250 b\r\n", b"250-\r\n", b"354-a\r\n354 b\r\n",
    b"250\r\n", b"354\n", b"421 bye\r\n", b"421-a\r\n421 b\r\n", b"450 4.2.0 no\r\n", b"451 later\r\n", b"452 4.5.3 many\r\n", b"500 what\r\n",
    b"503 bad\r\n", b"530 5.7.0 auth\r\n", b"550 5.1.1 who\r\n", b"550-5.1.1 a\r\n550 5.1.1 b\r\n", b"552 many\r\n", b"552 5.2.2 full\r\n", b"554 5.7.1 spam\r\n",
    b"334 x\r\n", b"199 x\r\n", b"600 x\r\n", b"\r\n", b"\n", b"\r", b"2", b"25", b"250", b"250-", b" ", b"-", b"\0", b"\xff\xfe", b"5.1.1 ", b"x" * 300,
    PIPELINING, PLAIN, b"\x1e\x1cT\x1e", b"\x1e\x1cL\x1e", b"\x1e\x1cW\x1e", b"\x1e\x1cQ\x1e", END, END,
]  # fmt: skip


def seeds() -> list[bytes]:
    """Conversations as they should be, for every set of messages, with and without pipelining."""
    found = []
    for flags in range(0, 128, 2):
        recipients = [[r for i, r in enumerate(m.recipients) if i not in bad] for m, bad, _ in _SETS[flags >> 2 & 3]]
        for between in (b"", END):
            talk = b"".join(
                between.join([_OK] * (1 + len(said)) + [_GO]) + END + _OK + between for said in recipients if said
            )
            found.append(bytes((flags, 1)) + talk)
    for code in (b"250", b"550"):
        for width, lines in ((LINE - 6, 40), (LINE - 4, 10), (LINE - 3, 1), (1, 6000), (100, 300)):
            long = (code + b"-" + b"x" * width + b"\r\n") * lines
            found += [b"\3\7" + long, b"\0\7" + long, b"\0\7" + _OK + _OK + _GO + END + long]
    return found


def mutations(chance: random.Random) -> Callable[[bytes, bytes], bytes]:
    """A function that makes an input of two others."""
    bits, below = chance.getrandbits, chance.random

    def mutate(one: bytes, two: bytes) -> bytes:
        data = bytearray(one)
        for _ in range(1 + (bits(2) & bits(2))):
            size = len(data)
            at = 2 + int(below() * (size - 1)) if size > 2 else 2
            kind = bits(4)
            if kind < 5:
                data[at:at] = _REPLIES[int(below() * len(_REPLIES))]
            elif kind < 7:  # one line in place of another
                begin = data.rfind(b"\n", 2, at) + 1 or 2
                end = data.find(b"\n", at) + 1 or size
                data[begin:end] = _REPLIES[int(below() * len(_REPLIES))]
            elif kind == 7 and size > 2:
                data[min(at, size - 1)] = bits(8)
            elif kind == 8 and size > 2:
                data[min(at, size - 1)] ^= 1 << bits(3)
            elif kind == 9:
                del data[at : at + 1 + bits(5)]
            elif kind == 10:
                data[at:at] = two[2 + int(below() * len(two)) :][:64]
            elif kind == 11:
                data[at:] = two[2 + int(below() * len(two)) :][:500]
            elif kind == 12:
                data[0] = bits(8)
            elif kind == 13:
                data[1] = bits(8)
            elif kind == 14:
                data[at:at] = data[at : at + bits(6)]
            elif not bits(5):
                data[at:at] = bytes(data[at : at + 1 + bits(4)]) * bits(13)  # without end, nearly
            else:
                data[at:at] = END
        return bytes(data[: 70_000 if not bits(6) else 2000])

    return mutate


def main(arguments: Sequence[str]) -> int:
    """Fuzzes; the exit code. Prints what was run and found; a failing input is written out and named."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.sessions", description="SMTP sessions that hear anything"
    )
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--reader", action="store_true", help="the reader of replies alone: several times as fast")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that showed something new, and for failures")
    options = parser.parse_args(arguments)
    judged = check_reader if options.reader else check
    chance = random.Random(options.seed)
    mutate = mutations(chance)
    corpus: list[bytes] = []
    seen: set[object] = set()
    failures: dict[str, bytes] = {}
    first = iter([*seeds(), *(path.read_bytes() for path in sorted(CORPUS.glob("*")))])
    gc.set_threshold(200_000)  # a session and its source hold each other
    began, cpu = time.perf_counter(), time.process_time()
    count = octets = 0
    for count in range(1, options.inputs + 1):
        data = next(first, None)
        if data is None:
            # The newest are the least known: half of the time one of the last fifty.
            pool = len(corpus)
            index = int(chance.random() * pool) if count & 1 or pool < 50 else pool - 1 - int(chance.random() * 50)
            one = corpus[index]
            if len(one) > 2000 and count & 63:
                one = corpus[count % min(32, pool)]  # the long ones cost as much as all others
            data = mutate(one, corpus[int(chance.random() * pool)])
        octets += len(data)
        try:
            words = judged(data)
        except Exception as wrong:
            failures.setdefault(f"{type(wrong).__name__}: {str(wrong)[:60]}", data)
            continue
        if not words <= seen:
            seen |= words
            corpus.append(data)
        if not count % 500_000:
            _report(count, time.perf_counter() - began, octets, len(seen), len(corpus), len(failures))
    _report(count, time.perf_counter() - began, octets, len(seen), len(corpus), len(failures))
    print(f"{time.process_time() - cpu:.0f} s of CPU")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate([*corpus, *failures.values()]):
            (options.keep / f"{number:05}").write_bytes(data)
    for why, data in failures.items():
        print(f"FAILED: {why}\n  {data[:400]!r}")
    return 1 if failures else 0


def _report(count: int, seconds: float, octets: int, seen: int, corpus: int, failures: int) -> None:
    print(
        f"{count:,} inputs, {octets / 1e6:,.0f} MB, {seconds:.0f} s, {count / seconds:,.0f}/s; "
        f"{seen:,} kinds of step, outcome and end seen, {corpus:,} inputs kept; {failures} failures",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
