"""[attachments]: what is refused, how it is told, and where a store's secret may come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailerd.config.load import parse
from mailerd.config.problem import ConfigError

STORE = '[[attachments.store]]\nname = "s"\nregion = "r"\naccess_key = "A"\nsecret_key = "S"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[attachments]\ndirectories = ["files"]', "directories: must name absolute folders, not files"),
        ('[attachments]\norigins = ["files.example.org"]', "files.example.org must begin with https:// or http://"),
        ('[attachments]\norigins = ["https://u@x.example"]', "https://u@x.example must have no user"),
        ('[attachments]\norigins = ["https://x.example/a/../b"]', "must have no `.`"),
        ('[attachments]\norigins = ["https://x.example/?a=b"]', "must have no query"),
        ('[attachments]\ndigests = "digests"', "digests: must be an absolute folder or a URL"),
        ('[attachments]\ntypes = ["pdf"]', "types: must be like application/pdf or image/*, not pdf"),
        ('[attachments]\ntimeout = "1h"', "timeout: must be between 100ms and 10m"),
        (STORE + 'url = "s3://bucket/"', "store[0].url: must begin with https:// or http://"),
        (STORE, "store[0].url: must be given"),
        (STORE + 'url = "https://x/"\n' + STORE + 'url = "https://y/"', "another [[attachments.store]] of this name"),
    ],
)
def test_what_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text, tmp_path / "mailerd.toml", {})
    assert any(words in line for line in refused.value.lines()), refused.value.lines()


def test_what_is_taken(tmp_path: Path) -> None:
    text = '[attachments]\ndirectories = ["/srv"]\norigins = ["https://x.example", "http://[::1]:9000/a/"]\ndigests = "https://d/"\n'
    found = parse(text + STORE + 'url = "https://b.s3.example/k"', tmp_path / "mailerd.toml", {}).config.attachments
    assert (found.digests, found.size, found.store[0].name) == ("https://d/", 15 << 20, "s")


def test_the_secret_of_a_store_may_come_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret\n")
    text = STORE.replace('secret_key = "S"\n', "") + 'url = "https://b.s3.example/"'
    env = {"MAILERD_ATTACHMENTS__STORE__S__SECRET_KEY_FILE": str(tmp_path / "secret")}
    (store,) = parse(text, tmp_path / "mailerd.toml", env).config.attachments.store
    assert store.secret_key == "s3cret"
