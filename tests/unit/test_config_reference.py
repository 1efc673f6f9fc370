"""The sample, the first file and the reference say what the model says; config.example.toml is the sample."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mailerd.config.kinds import HTTP, users
from mailerd.config.load import flatten, parse
from mailerd.config.model import Config
from mailerd.config.provider import Call, Provider
from mailerd.config.reference import minimal, reference, rows, sample, show
from mailerd.config.resolved import complete
from mailerd.config.schema import documented, keys
from tests.compose.signing import key_file, rsa_key

ROOT = Path(__file__).parents[2]
COMMENTED = re.compile(r"^#(?=\[|[a-z_.]+ = )", re.MULTILINE)
OF_APIS = {name for name in keys(Provider) if users(name)}  # the sample's provider is an SMTP relay


def without_apis(text: str) -> str:
    """The sample without the keys that an SMTP relay does not have."""
    before, table, provider = text.partition("\n[[provider]]\n")  # [[attachments.store]] has keys of these names, too
    return before + table + re.sub(rf"^#?(?:{'|'.join(OF_APIS)})(?:\.\w+)? = .*\n", "", provider, flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the examples name."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "replies.toml").write_text("")
    (tmp_path / "api.json.j2").write_text("{}")
    for name in ("ca.pem", "fullchain.pem", "privkey.pem"):
        (tmp_path / name).write_text("-----BEGIN CERTIFICATE-----\n")
    key_file(tmp_path, rsa_key(), "dkim.pem")
    return tmp_path / "mailerd.toml"


def test_the_example_file_is_generated() -> None:
    example = (ROOT / "config.example.toml").read_text()
    assert example == sample(), "run: mailerd init --full --force config.example.toml"


@pytest.mark.parametrize("text", [sample(), minimal()], ids=["sample", "minimal"])
def test_it_works_as_it_is(text: str, folder: Path) -> None:
    config = parse(text, folder, {}, require_provider=True).config
    assert config.provider[0].name == "relay"
    assert config.identity[0].name == "main"
    assert [stream.name for stream in config.stream] == ["transactional", "marketing"]


@pytest.mark.parametrize("text", [sample(), minimal()], ids=["sample", "minimal"])
def test_it_works_with_everything_uncommented(text: str, folder: Path) -> None:
    open_text, keys_found = COMMENTED.subn("", without_apis(text))
    assert keys_found > 10
    parse(open_text, folder, {}, require_provider=True)


def test_the_sample_has_every_key_at_its_default(folder: Path) -> None:
    loaded = parse(COMMENTED.sub("", without_apis(sample())), folder, {})
    unset = {path for path, origin in loaded.origins.items() if origin == "default"}
    of_calls = {f"call.{name}" for name in keys(Call)}
    apis = {f"provider.relay.{name}" for name in OF_APIS - {"call"} | of_calls}
    assert unset == apis | {"identity.main.dkim[0].domain"}  # the domain of `from`
    assert all(f"\n#{name} = " in sample() for name in OF_APIS - {"call"} | of_calls)
    defaults: dict[str, Any] = {}
    for table, section, several in documented():
        made = {key.name: key.default for key in keys(section).values()}
        defaults |= {f"{table}{'.*' if several else ''}.{name}": value for name, value in made.items()}
    for words, path, key, value in flatten(loaded.config):
        several = isinstance(path[1], int)
        default = (
            defaults.get(f"{path[0]}{'.*' if several else ''}.{key.name}") if len(path) == 2 + several else key.default
        )
        shown_by_example = key.required or default in (None, ())
        working = words == "provider.relay.host"
        assert value == default or shown_by_example or working, words


@pytest.mark.parametrize("kind", HTTP)
def test_the_examples_of_an_api_work(kind: str, folder: Path) -> None:
    lines = ["[[provider]]", 'name = "esp"', f'kind = "{kind}"']
    lines += [
        f"{name} = {show(key, key.example)}"
        for name, key in keys(Provider).items()
        if kind in users(name) and name != "call"
    ]
    if kind == "sendgrid":  # alone in having a public key for a secret
        lines = [line for line in lines if not line.startswith("webhook_secret")]
    if kind == "http":
        lines += [
            f"call.{name} = {show(key, key.example if key.default in (None, ()) else key.default)}"
            for name, key in keys(Call).items()
        ]
    (provider,) = parse("\n".join(lines), folder, {}, require_provider=True).config.provider
    assert provider.kind == kind


def test_a_file_of_defaults_changes_nothing(folder: Path) -> None:
    # What the sample writes for a default, reads back as that default.
    text = ""
    for words, _, key, value in flatten(Config()):
        if value is not None:
            table, _, name = words.partition(".")
            text += f"{table}.{name} = {show(key, value)}\n"
    assert parse(text, None, {}).config == complete(Config())


def test_the_reference_names_every_key_with_its_meaning() -> None:
    text = " ".join(reference().split())
    for row in rows():
        assert row["meaning"], row["key"]
        assert " ".join(row["meaning"].split()) in text
    for table, section, several in documented():
        assert f"## [{'[' * several}{table}]{']' * several}" in text
        for key in keys(section).values():
            if key.kind == "tables":
                continue  # a section of its own
            assert f"- `{key.name}{'.' if key.kind == 'table' else '`'}" in text


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_reference_fits_the_terminal(width: int) -> None:
    for line in reference(width).splitlines():
        assert len(line) <= width or " " not in line.strip(" -")


def test_every_variable_of_the_reference_is_taken() -> None:
    env = {}
    for row in rows():
        if row["variable"] and ".NAME." not in row["key"] and (row["default"] or "").strip('"[]'):
            env[row["variable"]] = row["default"].strip('"')
    assert len(env) > 10
    loaded = parse("", None, env)
    assert all(loaded.origins[row["key"]] == f"env {row['variable']}" for row in rows() if row["variable"] in env)
