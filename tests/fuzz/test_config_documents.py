"""Configuration files and environments with anything in them: a Config that can be used, or lines that each say where.

The documents are the sample file's keys with other values, wrong types, unknown names, broken TOML and variables.
MAILERD_FUZZ_EXAMPLES sets the number of examples.
"""

# ruff: noqa: PT017  (either way of ending is fine, and each has its own marks)
from __future__ import annotations

import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose.composer import Composer
from mailerd.config import values
from mailerd.config.load import Loaded, load, parse
from mailerd.config.problem import ConfigError
from mailerd.message import Failure
from tests.fuzz.rows import text

LONG = "MAILERD_FUZZ_EXAMPLES" in os.environ  # what is new is for the long run to find, not for every run of the tests
SAMPLE = (Path(__file__).parents[2] / "config.example.toml").read_text("utf-8")
LINES = [line.removeprefix("#") for line in SAMPLE.splitlines() if re.match(r"#?(\[|[a-z_.]+ = )", line)]
HEADERS = [line for line in LINES if line.startswith("[")]
PAIRS = [line for line in LINES if " = " in line]
KEYS = sorted({line.partition(" = ")[0] for line in PAIRS})
SECRET = "hunter2-in-the-sky"

_VALUES = [
    "0", "1", "-1", "65536", str(2**80), "-" + "9" * 400, "1.5", "nan", "inf", "-inf", "1e999", "true", "false", "1979-05-27", "1979-05-27T07:32:00Z", "07:32:00", "0x7f", "[]", "{}",
    '[""]', '["a", "a"]', '["a\\nb"]', '["a", 1]', "[[]]", "[{}]", '{ name = "x" }', '""', '" "', '"x"', '"a\\nb"', '"\\u001b[2J"', '"\\u0000"', '"\\U0010ffff"', "'''\n'''", '"""a\n"""', '"é"',
    '"60"', '"10s"', '"0s"', '"-1s"', '"1e3s"', '"99999999999d"', '"1.5h"', '"٣s"', '"25MB"', '"0kB"', '"9999999GB"', '"100/s"', '"on"', '"off"', '"None"',
    '"127.0.0.1:0"', '":65536"', '":0000009999999"', '"[::1]:80"', '"[::1"', '"::1"', '"a:b:c"', '"http://x"', '"host:"', '"' + "0" * 5000 + '"', '":' + "0" * 5000 + '"',
    '"postgresql://u:' + SECRET + '@h:99999/d"', '"postgresql://u:' + SECRET + '@[::1/d"', '"postgresql://h,h2:1/d?x"', '"postgresql://h:0000019999999/d"', '"postgresql://\\u2100/d"', '"postgresql:///"',
    '"mysql://u:' + SECRET + '@h/d"', '"u:' + SECRET + '@h"', '"..\\u002f..\\u002fetc"', '"/"', '"/dev/null"', '"/etc/passwd"', '"' + "x" * 5000 + '"', '"' + " " * 3000 + '"', '"' + " " * 1500 + '<a@b.example>"',
    '"' + "<" * 3000 + '"', '"' + '\\"' * 3000 + '"', '"Ann <ann@example.org>"', '"ann@example.org"', '"<>"', '"ann@[IPv6:::1]"', '"ann@' + "a." * 130 + 'b"', '"ü@bücher.example"', '"Ann <ann@example.org"', '"a@b@c"',
]  # fmt: skip
_quoted = text.map(
    lambda t: '"' + "".join(c if c not in '"\\' and c.isprintable() else f"\\U{ord(c):08x}" for c in t) + '"'
)
_value = st.one_of(
    st.sampled_from(_VALUES), st.sampled_from(_VALUES), _quoted, st.integers().map(str), st.floats().map(str)
)
_key = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(KEYS),
    st.sampled_from(["nmae", "hots", "rate", "name", "retry", "timeouts", "retry.first.x", "a.b.c", '"a\\nb"', '"\\u001b[31m"', '""', "quota", "dkim", "'x y'", ".".join("k" * 300)]),
    _quoted,
)  # fmt: skip
_header = st.one_of(
    st.sampled_from(HEADERS),
    st.sampled_from(["[provider]", "[[database]]", "[public]", "[[domain]]", "[[webhook]]", "[databse]", "[provider.x]", "[stream.retry]", "[[stream.retry]]", "[database.url]", '["a\\nb"]', "[[]]", "[x", "[[pool]]"]),
)  # fmt: skip
_line = st.one_of(
    st.sampled_from(PAIRS),
    st.builds("{} = {}".format, _key, _value),
    st.builds("{} = {}".format, _key, _value),
    st.builds("name = {}".format, st.sampled_from(['"relay"', '"main"', '"x"', '"a.b"', '"a-b"', '"A_B"'])),
    st.builds("{}={}{}".format, _key, st.sampled_from(["[", "{", "'''", '"""', ""]), text),
    text,
)
_table = st.builds(lambda header, lines: [header, *lines], _header, st.lists(_line, max_size=5))
_document = st.one_of(
    st.lists(_table, max_size=6).map(lambda tables: "\n".join(line for table in tables for line in table)),
    st.tuples(st.sampled_from(PAIRS), _value).map(lambda t: "\n".join(f"{t[0].partition(' = ')[0]} = {t[1]}" if line == t[0] else line for line in LINES)),
    st.tuples(st.integers(0, len(SAMPLE)), text, st.integers(0, 60)).map(lambda t: SAMPLE[: t[0]] + t[1] + SAMPLE[t[0] + t[2] :]),
)  # fmt: skip
_VARIABLES = [
    "MAILERD_DATABASE__URL", "MAILERD_DATABASE__URL_FILE", "MAILERD_LEASE__TTL", "MAILERD_LEASE__MAX_UNSETTLED", "MAILERD_LIMITS__MEMORY", "MAILERD_TEMPLATES__PATH", "MAILERD_PROVIDER__RELAY__PASSWORD",
    "MAILERD_PROVIDER__RELAY__PASSWORD_FILE", "MAILERD_PROVIDER__RELAY__PORT", "MAILERD_PROVIDER__RELAY__TIMEOUTS__DOT", "MAILERD_STREAM__TRANSACTIONAL__RETRY__FIRST", "MAILERD_STREAM__TRANSACTIONAL__POOLS",
    "MAILERD_IDENTITY__MAIN__FROM", "MAILERD_NO__SUCH", "MAILERD___", "MAILERD_DATABASE__", "MAILERD_PUBLIC__LISTEN", "MAILERD_A\nB__C", "MAILERD_\udcff__X", "DATABASE_URL", "PGHOST", "PGDATABASE", "CREDENTIALS_DIRECTORY",
]  # fmt: skip
_environment = st.dictionaries(
    st.sampled_from(_VARIABLES),
    st.one_of(st.sampled_from(["", "5", "true", "a,b", "\udcff", "/", "/dev/null", "/etc/passwd", "postgresql://u:" + SECRET + "@h:x/d", "x" * 5000]), text).map(lambda t: t.replace("\0", "")),
    max_size=3,
)  # fmt: skip


def judge(load_it: Any) -> str:
    """Calls it; how it ended. Raises AssertionError where the end says too little, or takes too long."""
    begin = time.process_time()
    try:
        loaded = load_it()
    except ConfigError as error:
        end = "refused"
        lines = error.lines()
        assert lines
        assert len(lines) == len(error.problems)
        for line, problem in zip(lines, error.problems, strict=True):
            assert problem.message
            assert problem.path or problem.line or problem.message == "no TOML: nested too deeply", problem
            assert line.isprintable(), line
            assert SECRET not in line or not re.search("(?i)(url|password)$", problem.path), line
            assert problem.path in line or not problem.path.isprintable()
            assert problem.line is None or f":{problem.line}: " in line
    else:
        end = "taken"
        _usable(loaded)
    assert time.process_time() - begin < 1
    return end


def _usable(loaded: Loaded) -> None:
    config = loaded.config
    assert loaded.resolved is not None
    assert loaded.origins
    listen = values.listen(config.ops.listen)
    assert listen is None or 0 <= listen[1] < 65536
    assert config.lease.ttl >= 5
    assert config.limits.memory >= config.limits.message_size
    assert all(0 < provider.port < 65536 for provider in config.provider)
    try:
        Composer(config)
    except Failure as failure:
        assert failure.reason


@settings(max_examples=int(os.environ.get("MAILERD_FUZZ_EXAMPLES", "600")), deadline=None, derandomize=not LONG)
@given(_document, _environment)
def _every_document(ends: Counter[str], document: str, env: dict[str, str]) -> None:
    ends[judge(lambda: parse(document, Path("/etc/mailerd.toml"), env))] += 1


def test_every_document_is_taken_or_explained() -> None:
    ends: Counter[str] = Counter()
    _every_document(ends)
    print(f"\n{ends.total()} documents: {dict(ends)}")
    assert ends["taken"] > ends.total() / 100
    assert ends["refused"] > ends.total() / 10


@settings(max_examples=int(os.environ.get("MAILERD_FUZZ_EXAMPLES", "150")), deadline=None, derandomize=not LONG)
@given(
    st.one_of(
        st.binary(max_size=200),
        _document.map(lambda t: t.encode("utf-8", "surrogatepass")),
        _document.map(lambda t: t.encode("utf-16", "surrogatepass")),
    )
)
def _every_file(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    judge(lambda: load(path, {}))


def test_every_file_is_taken_or_explained(tmp_path: Path) -> None:
    _every_file(tmp_path / "mailerd.toml")


@pytest.mark.parametrize("opening", ["[", "{a=", "[{a=", '{"\\n"='])
@pytest.mark.parametrize("depth", [3, 60, 90, *range(100, 520, 20), 900, 20_000])
def test_nesting_ends(opening: str, depth: int) -> None:
    closing = opening.replace("{", "}").replace("[", "]").replace('"\\n"', "").replace("a", "").replace("=", "")[::-1]
    judge(lambda: parse(f"x = {opening * depth}1{closing * depth}", Path("/etc/mailerd.toml"), {}))


@pytest.mark.parametrize(
    "document",
    [
        "lease.max_unsettled = " + "9" * 5000,
        "[lease]\nttl = " + "1" * 5000,
        ".".join(["a"] * 5_000) + " = 1",
        "[" + ".".join(["a"] * 5_000) + "]",
        "\n".join(f"[[stream]]\nname = 's{n}'" for n in range(2000)),
        "\n".join(f"unknown_{n} = 1" for n in range(3000)),
        "[[stream]]\nname = 's'\npools = [" + ", ".join(f"'p{n}'" for n in range(2000)) + "]",
        "x = " + '"' * 4000,
        "# " + "x" * 100_000 + "\n" * 100_000,
    ],
    ids=["integer", "duration", "dotted key", "dotted table", "streams", "unknown", "pools", "quotes", "comment"],
)
def test_large_documents_end(document: str) -> None:
    judge(lambda: parse(document, Path("/etc/mailerd.toml"), {}))


# -- what was found ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "env", "line"),
    [
        ("\n[lease]\nttl = " + "1" * 5000, {}, "/m.toml:3: no TOML: a number of thousands of digits"),
        ('"a\\nb" = 1', {}, r"/m.toml:1: a\nb: unknown table"),
        ("[[stream]]\nname = 's'\npools = [\"\\u001b[31m\"]", {}, r"/m.toml:3: stream.s.pools: there is no [[pool]] `\x1b[31m`; there is `default`"),
        ("ops.listen = ':0000009999999'", {}, "/m.toml:1: ops.listen: must be host:port, as in `127.0.0.1:8025`, or `off`"),
        ("database.url = 'postgresql://h:0000019999999/d'", {}, "/m.toml:1: database.url: has no number from 1 to 65535 as its port (in a password, write `/` as `%2F`, `@` as `%40`)"),
        ("[[provider]]\nname = 'r'\nusername = 'u'", {"MAILERD_PROVIDER__R__PASSWORD_FILE": SECRET}, "provider.r.password: the file that is named: No such file or directory (from env MAILERD_PROVIDER__R__PASSWORD_FILE)"),
        ("", {"MAILERD_A\nB__C": "x"}, r"MAILERD_A\nB__C: unknown variable; did you mean `MAILERD_LEASE__TTL`?"),
    ],
)  # fmt: skip
def test_one_line_that_says_where(document: str, env: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(document, Path("/m.toml"), env)
    assert line in refused.value.lines()


@pytest.mark.parametrize(
    "words", [" " * 20_000, "x" * 20_000, '"' * 20_000, '"' + " " * 20_000, " " * 20_000 + "<", '\\"' * 9_000]
)
def test_a_long_mailbox_is_refused_at_once(words: str) -> None:
    begin = time.process_time()
    with pytest.raises(ValueError, match="mailbox"):
        values.mailbox(words)
    assert time.process_time() - begin < 0.5


@pytest.mark.parametrize(
    "words",
    [
        "Ann <a@b.example>",
        ' "Bee, \\"Ann\\"" <a@b.example> ',
        "<a@b.example>",
        "  Ann   Bee  <a@b.example>",
        "a@b.example",
    ],
)
def test_named_mailboxes_are_what_they_were(words: str) -> None:
    assert values.mailbox(words) == "a@b.example"
