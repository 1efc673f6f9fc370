"""Variables, secret files, credentials and libpq's variables: precedence, origins, and no silent misspelling."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailerd.config.environment import variable
from mailerd.config.load import ConfigError, Loaded, parse

TEXT = """
[database]
url = "postgresql:///file"
[[provider]]
name = "my-relay.eu"
username = "u"
password = "file"
[[stream]]
name = "bulk"
"""


def good(env: dict[str, str], text: str = TEXT) -> Loaded:
    return parse(text, None, env)


def problems(env: dict[str, str], text: str = TEXT) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, None, env)
    return caught.value.lines()


def test_names_of_variables() -> None:
    assert variable("database", "url") == "MAILERD_DATABASE__URL"
    assert variable("provider", "my-relay.eu", "password") == "MAILERD_PROVIDER__MY_RELAY_EU__PASSWORD"


def test_a_variable_goes_before_the_file() -> None:
    loaded = good(
        {
            "MAILERD_DATABASE__URL": "postgresql:///env",
            "MAILERD_LEASE__MAX_UNSETTLED": "7",
            "MAILERD_LEASE__TTL": "2m",
            "MAILERD_LIMITS__MEMORY": "64MB",
            "MAILERD_PROVIDER__MY_RELAY_EU__PIPELINE": "off",
            "MAILERD_PROVIDER__MY_RELAY_EU__TIMEOUTS__DOT": "90",
            "MAILERD_STREAM__BULK__RETRY__FACTOR": "2.5",
            "MAILERD_STREAM__BULK__POOLS": "default",
            "MAILERD_STREAM__BULK__ON_UNCERTAIN": "hold",
        }
    )
    config = loaded.config
    assert config.database.url == "postgresql:///env"
    assert loaded.origins["database.url"] == "env MAILERD_DATABASE__URL"
    assert config.lease.max_unsettled == 7
    assert config.lease.ttl == 120
    assert config.limits.memory == 64 << 20
    assert config.provider[0].pipeline is False
    assert config.provider[0].timeouts.dot == 90
    assert loaded.origins["provider.my-relay.eu.timeouts.dot"] == "env MAILERD_PROVIDER__MY_RELAY_EU__TIMEOUTS__DOT"
    assert config.stream[0].retry.factor == 2.5
    assert config.stream[0].pools == ("default",)
    assert config.stream[0].on_uncertain == "hold"


def test_default_streams_can_be_set() -> None:
    loaded = good({"MAILERD_STREAM__MARKETING__CONCURRENCY": "3"}, "")
    assert {stream.name: stream.concurrency for stream in loaded.config.stream} == {"transactional": 20, "marketing": 3}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MAILERD_DATABASE__URLL", "x", "MAILERD_DATABASE__URLL: unknown variable; did you mean `MAILERD_DATABASE__URL`?"),
        ("MAILERD_PROVIDER__MY_RELAY__PASSWORD", "x", "MAILERD_PROVIDER__MY_RELAY__PASSWORD: unknown variable; did you mean `MAILERD_PROVIDER__MY_RELAY_EU__PASSWORD`?"),
        ("MAILERD_IDENTITY__X__FROM", "x", "MAILERD_IDENTITY__X__FROM: unknown variable: no [[identity]] with such a name"),
        ("MAILERD_WEBHOOK__A__URL", "x", "MAILERD_WEBHOOK__A__URL: unknown variable; did you mean `MAILERD_PUBLIC__BASE_URL`?"),
        ("MAILERD_LEASE__TTL", "soon", "lease.ttl: is no duration: write `250ms`, `30s`, `5m`, `2h`, `2d`, or a number of seconds (from env MAILERD_LEASE__TTL)"),
        ("MAILERD_LEASE__MAX_UNSETTLED", "1e3", "lease.max_unsettled: must be a whole number (from env MAILERD_LEASE__MAX_UNSETTLED)"),
        ("MAILERD_PROVIDER__MY_RELAY_EU__PIPELINE", "maybe", "provider.my-relay.eu.pipeline: must be true or false (from env MAILERD_PROVIDER__MY_RELAY_EU__PIPELINE)"),
        ("MAILERD_STREAM__BULK__POOLS", "default, nope", "stream.bulk.pools: there is no [[pool]] `nope`; there is `default` (from env MAILERD_STREAM__BULK__POOLS)"),
        ("MAILERD_OPS__LISTEN_FILE", "/x", "MAILERD_OPS__LISTEN_FILE: only secrets are read from files"),
        ("MAILERD_DATABASE__URL_FILE", "/no/such", "database.url: /no/such: No such file or directory (from env MAILERD_DATABASE__URL_FILE)"),
    ],
)  # fmt: skip
def test_a_wrong_variable(name: str, value: str, expected: str) -> None:
    assert problems({name: value}) == [expected]


def test_other_variables_are_none_of_our_business() -> None:
    env = {
        "MAILERD_DEBUG": "1",
        "MAILERD_TEST_DSN": "x",
        "MAILERD_SERVICE_PORT": "1",
        "MAIL__X": "1",
        "MAILERD_LEASE__TTL": "",
    }
    assert good(env).config == good({}).config


def test_two_names_with_the_same_variables() -> None:
    text = "[[provider]]\nname='a-b'\n[[provider]]\nname='a.b'\n"
    assert any("its variables would be those of provider.a-b: rename one" in line for line in problems({}, text))


def test_a_secret_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:p@h/d\n")
    loaded = good({"MAILERD_DATABASE__URL_FILE": str(tmp_path / "url")})
    assert loaded.config.database.url == "postgresql://u:p@h/d"
    assert loaded.origins["database.url"] == "env MAILERD_DATABASE__URL_FILE"


def test_a_secret_file_and_the_variable_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql:///x")
    env = {"MAILERD_DATABASE__URL_FILE": str(tmp_path / "url"), "MAILERD_DATABASE__URL": "postgresql:///y"}
    assert problems(env) == ["MAILERD_DATABASE__URL_FILE: MAILERD_DATABASE__URL is set as well: which one holds?"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xff", "is not UTF-8"), (b"x" * 70_000, "is larger than 64 kB"), (b"a\0b", "control"), (b"\n", "empty")],
)
def test_a_secret_file_that_holds_no_secret(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    (line,) = problems({"MAILERD_PROVIDER__MY_RELAY_EU__PASSWORD_FILE": str(tmp_path / "secret")})
    assert line.startswith("provider.my-relay.eu.password: ")
    assert words in line


def test_credentials(tmp_path: Path) -> None:
    (tmp_path / "database.url").write_text("postgresql:///credential")
    (tmp_path / "provider.my-relay.eu.password").write_text("pä ss\r\n")
    (tmp_path / "other.pem").write_text("not ours")
    env = {"CREDENTIALS_DIRECTORY": str(tmp_path), "MAILERD_DATABASE__URL": "postgresql:///env"}
    loaded = good(env)
    assert loaded.config.provider[0].password == "pä ss"
    assert loaded.origins["provider.my-relay.eu.password"] == "credential"
    assert loaded.config.database.url == "postgresql:///env"  # the variable goes first
    del env["MAILERD_DATABASE__URL"]
    assert good(env).config.database.url == "postgresql:///credential"


def test_a_credential_that_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "provider.my-relay.password").write_text("x")
    assert problems({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == [
        "credential provider.my-relay.password: belongs to no key; did you mean `provider.my-relay.eu.password`?"
    ]
    assert problems({"CREDENTIALS_DIRECTORY": str(tmp_path / "gone")}) == [
        "CREDENTIALS_DIRECTORY: cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize(
    ("env", "url", "origin"),
    [
        ({}, "postgresql:///mailerd", "default"),
        ({"DATABASE_URL": "postgres://h/d", "PGHOST": "x"}, "postgres://h/d", "env DATABASE_URL"),
        ({"PGHOST": "x", "PGUSER": "u"}, "postgresql:///mailerd", "default, with env PGHOST, PGUSER"),
        ({"PGHOST": "x", "PGDATABASE": "d"}, "postgresql://", "env PGHOST, PGDATABASE"),
        (
            {"MAILERD_DATABASE__URL": "postgresql:///m", "DATABASE_URL": "x"},
            "postgresql:///m",
            "env MAILERD_DATABASE__URL",
        ),
    ],
)
def test_libpq_variables_where_no_url_is_given(env: dict[str, str], url: str, origin: str) -> None:
    loaded = good(env, "")
    assert (loaded.config.database.url, loaded.origins["database.url"]) == (url, origin)
    if not any(name.startswith("MAILERD") for name in env):
        assert good(env).config.database.url == "postgresql:///file"


def test_relative_paths_of_variables_start_where_we_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path)
    loaded = parse("", Path("/etc/m.toml"), {"MAILERD_TEMPLATES__PATH": "t"})
    assert loaded.config.templates.path == os.path.join(tmp_path, "t")
