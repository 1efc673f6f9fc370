"""SMTP sessions that hear anything: the corpus, some mutations of it, and whatever hypothesis thinks of."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz.reference import read
from tests.fuzz.sessions import CORPUS, END, PIPELINING, check, check_reader, hear, main, mutations, seeds

LONG = "MAILERD_FUZZ_EXAMPLES" in os.environ  # what is new is for the long run to find, not for every run of the tests
FILES = sorted(CORPUS.iterdir())


def test_the_corpus_and_its_mutations() -> None:
    corpus = [path.read_bytes() for path in FILES] + seeds()
    assert len(FILES) > 20
    seen: set[object] = set()
    for data in corpus:
        for second in (data[1], 0, 1, 2):  # whole, whole and in pieces, in pieces
            seen |= check(data[:1] + bytes((second,)) + data[2:])
    mutate = mutations(random.Random(7))
    for number in range(4000):
        seen |= check(mutate(corpus[number % len(corpus)], corpus[number * 7 % len(corpus)]))
    # Every way in which a message can end was there, or the inputs are no good.
    kinds = {word[0] for word in seen if isinstance(word, tuple)}
    assert {"sent", "deferred", "rejected", "unsent", "in_doubt", "failed"} <= kinds


_LINE = st.one_of(
    st.sampled_from([b"250 ok", b"250 ok", b"354 go", b"421 bye", b"451 4.3.0 later", b"452 4.5.3 many", b"550 5.1.1 no", b"250-a", b"354-a", b"503 bad"]),
    st.builds(lambda code, rest: b"%d%b" % (code, rest), st.integers(99, 700), st.binary(max_size=30)),
    st.binary(max_size=40),
)  # fmt: skip
_CHUNK = st.lists(_LINE, min_size=1, max_size=6).map(lambda lines: b"\r\n".join(lines) + b"\r\n")


@settings(max_examples=int(os.environ.get("MAILERD_FUZZ_EXAMPLES", "500")), deadline=None, derandomize=not LONG)
@given(st.integers(0, 255), st.integers(0, 255), st.lists(_CHUNK | st.binary(max_size=30), max_size=12))
@example(2, 1, [b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n550 no\r\n"])
def test_whatever_is_heard(flags: int, cuts: int, chunks: list[bytes]) -> None:
    data = bytes((flags, cuts)) + END.join(chunks)
    check(data)
    check_reader(data)


def test_an_endless_reply_ends() -> None:
    for endless in (b"x", b"250-more\r\n", b"250-" + b"x" * 1000 + b"\r\n", b"250 " + b"x" * 5000):
        script, _ = hear(b"\3\0" + END.join([endless * (8192 // len(endless) + 1)] * 100))
        assert len(script.heard) < 60_000


@pytest.mark.parametrize(
    ("octets", "replies", "rest", "impossible"),
    [
        (b"", [], 0, False),
        (b"250 ok\r\n354\n", [(0, 8, 250, b"ok"), (8, 12, 354, b"")], 12, False),
        (b"250-a\r\n250 b\r\n2", [(0, 14, 250, b"a")], 14, False),
        (b"250-a\r\n550 b\r\n", [], 0, True),
        (b"250 a\r\n\r\n", [(0, 7, 250, b"a")], 7, True),
        (b"\r\n", [], 0, True),
        (b"\n", [], 0, True),
        (b"2x0 a\r\n", [], 0, True),
        (b"250 " + b"x" * 2044 + b"\r\n", [(0, 2050, 250, b"x" * 2044)], 2050, False),
        (b"250 " + b"x" * 2045 + b"\r\n", [], 0, True),
        (b"x" * 2048 + b"\r", [], 0, False),
        (b"x" * 2049, [], 0, True),
    ],
)
def test_the_reference(octets: bytes, replies: list[object], rest: int, impossible: bool) -> None:
    assert read(octets) == (replies, rest, impossible)


def test_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--inputs", "500", "--seed", "3"]) == 0
    assert "500 inputs" in capsys.readouterr().out
    assert check(b"\0\0" + b"250 ok\r\n250 ok\r\n354 go\r\n" + END + b"250 ok\r\n")
    assert PIPELINING.endswith(b"\r\n")
