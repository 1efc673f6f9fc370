"""Loading: every mistake at once, each with its key path and line; defaults, references, and the file that is found."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailerd.config import load as loading
from mailerd.config.later import LATER, LATER_CHOICES
from mailerd.config.load import ConfigError, Loaded, load, parse
from mailerd.config.model import Config, Identity, Pool, Stream
from mailerd.config.provider import Provider
from mailerd.config.resolved import Resolved, complete
from mailerd.config.schema import keys

RELAY = '[[provider]]\nname = "relay"\n'


def problems(text: str, env: Mapping[str, str] | None = None, *, require_provider: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, Path("/etc/m.toml"), env or {}, require_provider=require_provider)
    return [line.removeprefix("/etc/m.toml:") for line in caught.value.lines()]


def good(text: str, env: Mapping[str, str] | None = None) -> Loaded:
    return parse(text, None, env or {})


def test_three_mistakes_are_three_lines() -> None:
    text = f'[lease]\nttl = "1 week"\n\n{RELAY}hots = "x"\n[[stream]]\nname = "s"\non_uncertain = "resnd"\n'
    assert problems(text) == [
        "2: lease.ttl: is no duration: write `250ms`, `30s`, `5m`, `2h`, `2d`, or a number of seconds",
        "6: provider.relay.hots: unknown key; did you mean `host`?",
        "9: stream.s.on_uncertain: must be one of `resend`, `hold`, not `resnd`; did you mean `resend`?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[databse]\n", "1: databse: unknown table; did you mean `database`?"),
        ("[[database]]\n", "1: database: there is only one: write [database], with single brackets"),
        ("database = 3\n", "1: database: must be a table, as in [database]"),
        ("[provider]\nname='x'\n", "1: provider: there may be several: write [[provider]], with double brackets"),
        ("[[stream]]\nname='s'\nretry = 3", "3: stream.s.retry: must be a table, as in [stream.s.retry]"),
        ("[lease]\nmax_unsettled = '5'", "2: lease.max_unsettled: must be a whole number"),
        ("[lease]\nmax_unsettled = true", "2: lease.max_unsettled: must be a whole number"),
        ("[lease]\nmax_unsettled = 0", "2: lease.max_unsettled: must be at least 1"),
        ("[lease]\nmax_unsettled = 100001", "2: lease.max_unsettled: must be at most 100000"),
        ("[database]\nschema = 'Mail-er'", "2: database.schema: must be small letters, digits and `_`, first no digit, at most 41"),
        ("[database]\nschema = 5", "2: database.schema: must be text in quotes"),
        ("[database]\nurl = ''", "2: database.url: must not be empty"),
        ('[database]\nurl = "a\\nb"', "2: database.url: must not hold control characters"),
        ("[database]\nurl = 'mailerd'", "2: database.url: is no URL: write `postgresql://user@host/database`"),
        ("[database]\nurl = 'mysql://h/d'", "2: database.url: must begin with `postgresql://`, not `mysql://`"),
        ("[database]\nurl = 'postgresql://h:0/d'", "2: database.url: has no number from 1 to 65535 as its port (in a password, write `/` as `%2F`, `@` as `%40`)"),
        ("[database]\nurl = 'postgresql://u:p#q@h/d'", "2: database.url: holds a `#`: write `%23` in a user name or password"),
        ("[database]\nlisten_url = 'host=x'", "2: database.listen_url: is no URL: write `postgresql://user@host/database`"),
        ("[lease]\nttl = 0", "2: lease.ttl: must not be zero"),
        ("[lease]\nttl = -1", "2: lease.ttl: must not be negative"),
        ("[ops]\nlisten = '8025'", "2: ops.listen: must be host:port, as in `127.0.0.1:8025`, or `off`"),
        ("[limits]\nmemory = '1MB'", "2: limits.memory: must not be less than `message_size` (25MB)"),
        ("[templates]\npath = 'nowhere'", "2: templates.path: there is no folder /etc/nowhere"),
        ("[[stream]]\nname='s'\nretry.first='1h'\nretry.max='1m'", "4: stream.s.retry.max: must not be shorter than `first` (1h)"),
        ("[[stream]]\nname='s'\nretry.jitter=1.5", "3: stream.s.retry.jitter: must be at most 1"),
        ("[[stream]]\nname='s'\nretry.factor='2'", "3: stream.s.retry.factor: must be a number"),
        ("[[stream]]\nname=' s'", "2: stream. s.name: must be letters, digits, `_`, `.` and `-`, first a letter or digit, at most 63"),
        ("[[stream]]\n", "1: stream[0].name: must be given"),
        ("[[stream]]\nname='s'\n[[stream]]\nname='s'", "4: stream.s.name: there is another [[stream]] of this name in line 2"),
        ("[[stream]]\nname='s'\npools='x'", '3: stream.s.pools: must be a list of names, as in ["relay"]'),
        ("[[stream]]\nname='s'\npools=['x']", "3: stream.s.pools: there is no [[pool]] `x`; there is `default`"),
        ("[[stream]]\nname='s'\nidentity='x'", "3: stream.s.identity: there is no [[identity]] `x`"),
        (f"{RELAY}[[pool]]\nname='p'\nproviders=[]", "5: pool.p.providers: must name at least one"),
        (f"{RELAY}[[pool]]\nname='p'\nproviders=['relay','relay']", "5: pool.p.providers: names `relay` twice"),
        (f"{RELAY}[[pool]]\nname='p'\nproviders=[\n'rely']", "6: pool.p.providers: there is no [[provider]] `rely`; did you mean `relay`?"),
        (f"{RELAY}[[pool]]\nname='p'", "3: pool.p.providers: must be given"),
        (f"{RELAY}port = 0", "3: provider.relay.port: must be at least 1"),
        (f"{RELAY}host = 'smtp://x'", "3: provider.relay.host: must be a name or address without `…://`"),
        (f"{RELAY}host = 'x:25'", "3: provider.relay.host: must be a name or address; the port has its own key"),
        (f"{RELAY}helo = 'x y'", "3: provider.relay.helo: is no host name or address"),
        (f"{RELAY}helo = '[1.2.3]'", "3: provider.relay.helo: is no IP address"),
        (f"{RELAY}source = 'eth0'", "3: provider.relay.source: is no IP address"),
        (f"{RELAY}source = ['192.0.2.1', 'eth0']", "3: provider.relay.source: is no IP address"),
        (f"{RELAY}rate = '0/s'", "3: provider.relay.rate: must not be zero: `mailerd pause` stops a stream, provider, domain or campaign"),
        (f"{RELAY}rate = '-5/s'", "3: provider.relay.rate: must not be negative"),
        (f"{RELAY}rate = 5", "3: provider.relay.rate: is no rate: write `100/s`, `20/m`, `5000/h` or `50000/d`"),
        (f"{RELAY}rate = '5/week'", "3: provider.relay.rate: is no rate: write `100/s`, `20/m`, `5000/h` or `50000/d`"),
        (f"{RELAY}rate = '2000000/s'", "3: provider.relay.rate: is more than 1000000/s"),
        (f"{RELAY}quota = '0.5/d'", "3: provider.relay.quota: can never be met: it is less than one message"),
        (f"{RELAY}quota = '5/h'", "3: provider.relay.quota: is no quota: write `50000/d` or `1000000/month`"),
        (f"{RELAY}quota_zone = 'Mars/Olympus'", "3: provider.relay.quota_zone: is no time zone"),
        (f"{RELAY}weight = 0", "3: provider.relay.weight: must be at least 1"),
        (f"{RELAY}[[pool]]\nname='p'\nproviders=['relay']\n[[pool.domain]]\nname='gmail'", "6: pool.p.domain[0].rate: must be given"),
        ("[[stream]]\nname='s'\nper_recipient='0/h'", "3: stream.s.per_recipient: can never be met: it is less than one message"),
        ("[[stream]]\nname='s'\nper_recipient='5'", "3: stream.s.per_recipient: is no limit: write `5/h` for five in any hour, or `/m`, `/d`"),
        ("[[domain]]\nname='d'\nconnections=0", "3: domain.d.connections: must be at least 1"),
        ("[[campaign]]\nname='c'\nweight=2000", "3: campaign.c.weight: must be at most 1000"),
        ("[feedback]\nrules='nope.toml'", "2: feedback.rules: /etc/nope.toml: No such file or directory"),
        (f"{RELAY}pipeline = 'yes'", "3: provider.relay.pipeline: must be true or false"),
        (f"{RELAY}password = 'x'", "3: provider.relay.password: is given without `username`"),
        (f"{RELAY}username = 'x'", "3: provider.relay.username: is given without `password`"),
        (f"{RELAY}tls_ca = 'nope.pem'", "3: provider.relay.tls_ca: /etc/nope.pem: No such file or directory"),
        (f"{RELAY}tls_ca = 'hostname'", "3: provider.relay.tls_ca: /etc/hostname holds no PEM certificate"),
        ("[[identity]]\nname='i'\nfrom='shop'", "3: identity.i.from: is no mailbox: write `shop@example.org` or `Shop <shop@example.org>`"),
        ("[[identity]]\nname='i'\nfrom='a@b'\nreturn_path='A <a@b>'", "4: identity.i.return_path: is no mailbox: write `shop@example.org`"),
        ("x = [", "1: no TOML: Invalid value (at end of document)"),
        ("a = 1\nb = = 2", "2: no TOML: column 5: Invalid value"),
    ],
)  # fmt: skip
def test_one_mistake(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_an_unfinished_table_is_checked_all_the_same() -> None:
    assert problems("[[provider]]\nhost = 'a b'\n") == [
        "1: provider[0].name: must be given",
        "2: provider[0].host: is no host name or address",
    ]


def test_a_wrong_value_is_not_complained_about_twice() -> None:
    text = f"{RELAY}[[pool]]\nname='a'\nproviders=['relay']\n[[pool]]\nname='b'\nproviders=['relay']\n"
    assert problems(text + "[[stream]]\nname='s'\npools=3") == [
        '11: stream.s.pools: must be a list of names, as in ["relay"]'
    ]
    assert problems(text + "[[stream]]\nname='s'") == [
        "9: stream.s.pools: must be given: there is more than one [[pool]]; there is `a`, `b`"
    ]


def test_a_key_of_a_later_version_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LATER, "spool", "a spool")
    assert any("not available in this version (a spool)" in line for line in problems(f"{RELAY}[spool]\n"))


KINDS = ", ".join(f"`{kind}`" for kind in keys(Provider)["kind"].choices)


@pytest.mark.parametrize("kind", LATER_CHOICES["provider.kind"])
def test_a_provider_of_a_later_version_is_refused_by_name(kind: str) -> None:
    (line,) = problems(f"{RELAY}kind = '{kind}'")
    assert line == f"3: provider.relay.kind: `{kind}` is not available in this version; there is {KINDS}"


def test_what_is_refused_as_later_is_not_in_the_model() -> None:
    from mailerd.config.reference import rows

    present = {row["key"].replace(".NAME", "") for row in rows()}
    assert not present & set(LATER)


def test_a_provider_is_required_of_those_who_send() -> None:
    assert problems("", require_provider=True) == [
        "provider: there is no [[provider]]: name at least one to send through"
    ]
    assert good("").config.provider == ()


def test_secrets_are_not_repeated() -> None:
    text = "[database]\nurl = 'mysql://u:tops3cret@h/d'\nlisten_url='postgresql://u:tops3cret@h:x/d'\n"
    text += "[[provider]]\nname='r'\npassword=['tops3cret']\n"
    assert "tops3cret" not in "".join(problems(text))


def test_small_files_get_two_streams_one_pool_and_the_first_identity() -> None:
    loaded = good(RELAY + "[[identity]]\nname='shop'\nfrom='shop@example.org'\n")
    assert [stream.name for stream in loaded.config.stream] == ["transactional", "marketing"]
    assert loaded.config.pool == (Pool(name="default", providers=("relay",)),)
    assert {stream.pools for stream in loaded.config.stream} == {("default",)}
    resolved = loaded.resolved
    assert resolved.providers_of("marketing") == loaded.config.provider
    assert resolved.identity_of("marketing") == Identity(name="shop", sender="shop@example.org")


def test_the_only_pool_serves_every_stream() -> None:
    loaded = good(f"{RELAY}[[pool]]\nname='p'\nproviders=['relay']\n[[stream]]\nname='s'\n")
    assert loaded.config.stream == (Stream(name="s", pools=("p",)),)


def test_a_single_pool_need_not_exist_to_be_named() -> None:
    assert good(f"{RELAY}[[stream]]\nname='s'\npools=['default']").config.stream[0].pools == ("default",)


def test_resolved_orders_providers_by_pool_each_once() -> None:
    config = Config(
        provider=tuple(Provider(name=name) for name in "abc"),
        pool=(Pool(name="x", providers=("b", "a")), Pool(name="y", providers=("a", "c"))),
        stream=(Stream(name="s", pools=("x", "y")),),
    )
    resolved = Resolved(config)
    assert [provider.name for provider in resolved.providers_of("s")] == ["b", "a", "c"]
    assert [resolved.pool_of("s", name) for name in "abcd"] == ["x", "x", "y", None]
    assert resolved.identity_of("s") is None
    assert complete(resolved.config) == resolved.config


@pytest.mark.parametrize(
    ("text", "port"), [("", 587), ("tls='none'", 587), ("tls='implicit'", 465), ("tls='implicit'\nport=587", 587)]
)
def test_the_port_follows_the_kind_of_tls(text: str, port: int) -> None:
    assert good(RELAY + text).config.provider[0].port == port


def test_origins_name_file_and_line_or_default(tmp_path: Path) -> None:
    file = tmp_path / "m.toml"
    file.write_text(f"{RELAY}\n[provider.timeouts]\ndot='5m'\n[[stream]]\nname='s'\nretry={{\tmax='4h'}}\n")
    loaded = load(file, {})
    assert loaded.path == file
    assert loaded.origins["provider.relay.name"] == f"{file}:2"
    assert loaded.origins["provider.relay.timeouts.dot"] == f"{file}:5"
    assert loaded.origins["provider.relay.timeouts.connect"] == "default"
    assert loaded.origins["stream.s.retry.max"] == f"{file}:8"
    assert loaded.origins["pool.default.providers"] == "default"
    assert loaded.config.stream[0].retry.max == 4 * 3600


def test_relative_paths_start_at_the_file(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "m.toml").write_text("[templates]\npath='./t'\n")
    assert load(tmp_path / "m.toml", {}).config.templates.path == str(tmp_path / "t")


def test_the_flag_goes_before_the_variable_before_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {}
    for name in ("flag", "variable", "here", "etc"):
        names[name] = tmp_path / f"{name}.toml"
        names[name].write_text(f"[instance]\nname='{name}'\n")
    monkeypatch.setattr(loading, "SEARCH", (str(names["here"]), str(names["etc"])))
    env = {"MAILERD_CONFIG": str(names["variable"])}
    assert load(names["flag"], env).config.instance.name == "flag"
    assert load(None, env).config.instance.name == "variable"
    assert load(None, {}).config.instance.name == "here"
    names["here"].unlink()
    assert load(None, {}).config.instance.name == "etc"
    names["etc"].unlink()
    assert load(None, {}).path is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory; `mailerd init` writes one"),
        (b"a = 1\nb = '\xff'", ":2: is not UTF-8"),
        (b"x = " + b"[" * 5000, "no TOML"),
        (b"#" * (5 << 20), "larger than 4 MB"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "m.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    (line,) = caught.value.lines()
    assert line.startswith(str(file))
    assert words in line


def test_bounds_are_part_of_the_range() -> None:
    config = good(
        f"{RELAY}port = 65535\n[[stream]]\nname='s'\nretry.jitter=0\nretry.factor=1\nretry.attempts=1000"
    ).config
    assert config.provider[0].port == 65_535
    assert (config.stream[0].retry.jitter, config.stream[0].retry.attempts) == (0.0, 1000)
    assert good("[lease]\nmax_unsettled = 2").config.lease.max_unsettled == 2
    assert good("[database]\nurl = 'postgresql://h:65535/d'").config.database.url.endswith("/d")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_bytes(b"\xef\xbb\xbf[instance]\nname='x'\n")
    assert load(tmp_path / "m.toml", {}).config.instance.name == "x"


JUNK = st.recursive(
    st.one_of(st.text("ab='\"\n#", max_size=4), st.integers(), st.floats(), st.booleans()),
    lambda below: st.one_of(st.lists(below, max_size=2), st.dictionaries(st.sampled_from(["name", "retry", "url"]), below, max_size=2)),
    max_leaves=6,
)  # fmt: skip


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\u{ord(c):04x}" for c in value) + '"'
    return repr(value)


@given(
    st.dictionaries(
        st.sampled_from(["database", "stream", "pool", "provider", "identity", "ops", "x"]), JUNK, max_size=4
    )
)
def test_junk_gives_problems_and_no_traceback(data: dict[str, object]) -> None:
    text = "".join(f"{key} = {_toml(value)}\n" for key, value in data.items())
    env = {"MAILERD_STREAM__MARKETING__RETRY__FIRST": "1s", "MAILERD_DATABASE__URL": "postgresql://"}
    with suppress(ConfigError):
        assert parse(text, None, env).config.database.url == "postgresql://"


def test_limits_as_they_are_written() -> None:
    loaded = parse(
        f"{RELAY}rate='90/m'\nquota='50000/d'\nsource='192.0.2.1'\n"
        "[[pool]]\nname='p'\nproviders=['relay']\nrate='5000/h'\n[[pool.domain]]\nname='gmail'\nrate='20/s'\n"
        "[[stream]]\nname='s'\nper_recipient='5/h'\n[[domain]]\nname='gmail'\nrate='1/m'\n",
        None,
        {},
    ).config
    provider, pool = loaded.provider[0], loaded.pool[0]
    assert provider.rate == 1.5
    assert provider.quota is not None
    assert (provider.quota.messages, provider.quota.period) == (50_000, "day")
    assert provider.source == ("192.0.2.1",)
    assert pool.rate == pytest.approx(5000 / 3600)
    assert (pool.domain[0].name, pool.domain[0].rate) == ("gmail", 20.0)
    assert loaded.stream[0].per_recipient == "5/h"
    assert loaded.domain[0].rate == pytest.approx(1 / 60)


def test_several_source_addresses_are_several_providers() -> None:
    config = parse(
        f"{RELAY}source=['192.0.2.1', '2001:db8::1']\nrate='5/s'\n[[provider]]\nname='other'\n"
        "[[pool]]\nname='p'\nproviders=['relay', 'other']\n",
        None,
        {},
    ).config
    assert [p.name for p in config.provider] == ["relay@192.0.2.1", "relay@2001:db8::1", "other"]
    assert [p.rate for p in config.provider] == [5.0, 5.0, None]
    assert config.pool[0].providers == ("relay@192.0.2.1", "relay@2001:db8::1", "other")
