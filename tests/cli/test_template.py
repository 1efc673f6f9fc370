"""`mailerd template`, as its users run it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailerd.cli import main
from mailerd.cli.preview import RECIPIENT, compose
from mailerd.compose.bundle import Edition, Library, Share, Version
from mailerd.compose.composer import Composer
from mailerd.config.load import parse
from tests.cli.commands import Commands
from tests.compose.jobs import job


async def test_from_init_to_rollback(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    await commands("template", "init", folder)
    await commands("template", "init", folder, code=1)
    done = json.loads((await commands("template", "push", "--from", folder, "--json")).stdout)
    assert {(d["name"], d["version"], d["new"]) for d in done} == {
        (name, 1, True) for name in ("digest", "newsletter", "password-reset", "receipt", "welcome")
    }
    assert "no fault" in (await commands("template", "push", "welcome", "--from", folder, "--check")).stdout
    (folder / "welcome/subject.j2").write_text("Hello, {{ name }}")
    assert "+Hello, {{ name }}" in (await commands("template", "diff", "welcome", "--from", folder, code=1)).stdout
    await commands("template", "push", "welcome", "--from", folder, "--percent", 10, "--variant", "b")
    shown = json.loads((await commands("template", "list", "welcome", "--json")).stdout)
    assert [(v["version"], v["shares"][0]["percent"]) for v in shown] == [(2, 10.0), (1, 90.0)]
    await commands("template", "share", "welcome", "1=50:a", "2=50:b")
    await commands("template", "share", "welcome", "1=50", code=2)
    assert "Hello" in (await commands("template", "show", "welcome@2")).stdout
    assert "welcome@1" in (await commands("template", "rollback", "welcome")).stdout
    await commands("template", "rollback", "welcome", 9, code=1)


async def test_a_fault_stores_nothing(commands: Commands, tmp_path: Path) -> None:
    home = tmp_path / "t" / "bad"
    home.mkdir(parents=True)
    (home / "html.j2").write_text("<p>{{ name </p>")
    refused = await commands("template", "push", "--from", tmp_path / "t", code=1)
    assert "bad/html.j2, line 1, column" in refused.stderr
    assert json.loads((await commands("template", "list", "--json")).stdout) == []


async def test_preview_writes_files_and_a_page(commands: Commands, tmp_path: Path) -> None:
    folder, out = tmp_path / "templates", tmp_path / "out"
    await commands("template", "init", folder)
    await commands("template", "preview", "receipt", "--from", folder, "--to", out)
    assert "A-10234" in (out / "receipt.html").read_text()
    assert "A-10234" in (out / "receipt.txt").read_text()
    page = (out / "receipt.preview.html").read_text()
    assert page.count("<iframe sandbox") == 2
    assert "Phone, 375 px" in page
    assert "no identity is configured" in page
    assert "<th>Auto-Submitted<td>auto-generated" in page
    assert (out / "receipt.eml").read_bytes().startswith(b"From: ")


CONFIG = """
[public]
base_url = "https://mail.shop.example"
secret = "0123456789abcdef0123456789abcdef"
[[identity]]
name = "main"
from = "Exämple Shop <shop@shop.example>"
return_path = "bounces@shop.example"
verp = true
[[stream]]
name = "orders"
[[stream]]
name = "news"
kind = "marketing"
one_click = true
list_id = "news.shop.example"
feedback_id = "exampleshop"
tracking = { opens = true, clicks = true }
"""


async def test_preview_shows_the_header_that_the_daemon_writes(database: str, tmp_path: Path) -> None:
    folder, out = tmp_path / "templates", tmp_path / "out"
    commands = Commands(database, tmp_path, CONFIG)
    await commands("template", "init", folder)
    await commands("template", "preview", "newsletter", "--from", folder, "--to", out)
    page = (out / "newsletter.preview.html").read_text()
    for field in ("List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Feedback-ID", "Precedence", "Message-ID"):
        assert f"<th>{field}<td>" in page
    assert "stream news (marketing)" in page
    assert "MAIL FROM<td>&lt;b-" in page
    assert "https://mail.shop.example/c/" in (out / "newsletter.txt").read_text()
    assert "https://mail.shop.example/u/" in (out / "newsletter.txt").read_text()

    # The same fields as the daemon's own composer, and none of its secrets.
    config = parse(CONFIG, None, {}).config
    version = Version("n", 1, {"": Edition(subject="S", html="<p>h <a href='{{ unsubscribe_url }}'>x</a></p>")})
    shown = compose(config, config.stream[1], version, {}, None)
    library = Library()
    library.put([version], {"n": (Share(1, 100.0),)})
    real = Composer(config, library).compose(job(stream="news", template="n", recipient=RECIPIENT))
    names = [line.partition(b":")[0] for line in real.content.partition(b"\r\n\r\n")[0].split(b"\r\n")]
    assert [name.encode() for name, _ in shown.fields] == [n for n in names if not n.startswith(b" ")]
    assert shown.content.partition(b"Date: ")[0] == real.content.partition(b"Date: ")[0]
    token = real.content.partition(b"List-Unsubscribe: <")[2].partition(b">")[0]
    assert token
    assert token not in shown.content
    assert real.sender != shown.envelope


async def test_preview_shows_faults_warnings_and_amp(commands: Commands, tmp_path: Path) -> None:
    home = tmp_path / "t" / "x"
    home.mkdir(parents=True)
    (home / "html.j2").write_text("<p>Hello</p><img src='https://e.example/a.png'>")
    (home / "amp.html").write_text("<p>AMP & more</p>")
    await commands("template", "preview", "x", "--from", tmp_path / "t", "--to", tmp_path / "out")
    page = (tmp_path / "out" / "x.preview.html").read_text()
    assert "<li class=fault>x: img without alt" in page
    assert "<li class=warning>x: no subject.j2" in page
    assert "AMP &amp; more" in page
    assert "each row brings its own" in page


async def test_marketing_is_judged_by_the_stream_too(database: str, tmp_path: Path) -> None:
    commands = Commands(database, tmp_path, CONFIG)
    home = tmp_path / "t" / "x"
    home.mkdir(parents=True)
    for name, text in {"html.j2": "<p>Hello</p>", "text.j2": "Hello", "subject.j2": "Hi"}.items():
        (home / name).write_text(text)
    check = ("template", "push", "x", "--from", tmp_path / "t", "--check")
    await commands(*check)
    refused = await commands(*check, "--stream", "news", code=1)
    assert "no unsubscribe link in the html, and stream news is for marketing" in refused.stderr
    assert "no unsubscribe link in the text" in refused.stderr
    assert "no stream 'other'" in (await commands(*check, "--stream", "other", code=2)).stderr
    (home / "meta.toml").write_text('streams = ["news"]')
    assert "stream news is for marketing" in (await commands(*check, code=1)).stderr
    (home / "meta.toml").write_text('streams = ["other"]')
    assert "other: not in the configuration" in (await commands(*check, code=1)).stderr
    # The link that the stream brings needs no param; one without one-click brings none.
    (home / "meta.toml").write_text("")
    (home / "schema.json").write_text('{"properties": {"a": {}}, "additionalProperties": false}')
    (home / "html.j2").write_text('<p><a href="{{ unsubscribe_url }}">Leave</a></p>')
    (home / "text.j2").write_text("Leave: {{ unsubscribe_url }}")
    await commands(*check, "--stream", "news")
    refused = await commands(*check, "--stream", "orders", code=1)
    assert "unsubscribe_url is not in schema.json" in refused.stderr


async def test_streams_without_a_configuration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "t" / "x"
    home.mkdir(parents=True)
    for name, text in {"html.j2": "<p>Hello</p>", "text.j2": "Hello", "meta.toml": 'streams = ["news"]'}.items():
        (home / name).write_text(text)
    env = {name: None for name in os.environ if name.startswith(("MAILERD_", "PG"))}
    check = ["template", "push", "--from", str(tmp_path / "t"), "--check"]
    assert CliRunner().invoke(main, check, env=env).exit_code == 0
    assert CliRunner().invoke(main, [*check, "--stream", "news"], env=env).exit_code == 2
