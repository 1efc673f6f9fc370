"""[public], and what needs it: every mistake is one line that says what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailerd.config.load import ConfigError, parse

SECRET = 'secret = "0123456789abcdef"\n'
BASE = 'base_url = "https://mail.example.org"\n'
ONE_CLICK = '[[stream]]\nname = "news"\none_click = true\n'
VERP = '[[identity]]\nname = "main"\nfrom = "a@example.org"\nverp = true\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[public]\nlisten = '127.0.0.1:8080'\n" + SECRET, "base_url: must be given with `listen`"),
        ("[public]\n" + BASE, "secret: must be given"),
        ("[public]\nlisten = 'here'\n" + BASE + SECRET, "listen: "),
        ("[public]\nsecret = 'short'\n" + BASE, "secret: must have at least 16 characters"),
        (
            "[public]\nbase_url = 'https://mail.example.org/'\n" + SECRET,
            "base_url: must be a URL without `/` at its end",
        ),
        ("[public]\nbase_url = 'mail.example.org'\n" + SECRET, "base_url: must be a URL"),
        ("[public]\ntrusted_proxies = ['proxy']\n", "trusted_proxies: names `proxy`, which is no address"),
        (ONE_CLICK, "one_click: needs [public] `base_url` and `secret`"),
        (ONE_CLICK + "[public]\n" + SECRET, "one_click: needs [public] `base_url` and `secret`"),
        (VERP, "verp: needs [public] `secret`"),
        ("[[stream]]\nname = 'news'\nlist_id = 'news'\n", "list_id: must be a name as in news.example.org"),
        ("[[stream]]\nname = 'news'\nfeedback_id = 'a:bcde'\n", "feedback_id: must be 5 to 15 letters"),
    ],
)
def test_one_mistake(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, Path("/etc/m.toml"), {})
    (line,) = caught.value.lines()
    assert expected in line
    assert "short" not in line


def test_what_is_needed_is_enough() -> None:
    public = f"[public]\nlisten = '127.0.0.1:0'\n{BASE}secret = ['{'n' * 16}', '{'o' * 16}']\n"
    config = parse(public + ONE_CLICK + VERP, None, {}).config
    assert config.public.secret == ("n" * 16, "o" * 16)
    assert config.stream[0].one_click
    assert config.identity[0].verp


@pytest.mark.parametrize(("stream", "marketing"), [("name='marketing'", True), ("name='x'", False)])
def test_the_kind_of_a_stream_follows_its_name(stream: str, marketing: bool) -> None:
    assert parse(f"[[stream]]\n{stream}\n", None, {}).config.stream[0].marketing is marketing
    other = "transactional" if marketing else "marketing"
    assert parse(f"[[stream]]\n{stream}\nkind='{other}'\n", None, {}).config.stream[0].marketing is not marketing
