"""`template push --links`, against a web server that answers in all the ways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from mailerd.bench.port import free_port
from mailerd.cli.linkcheck import ask
from mailerd.compose.links import Link, find, origin, reserved
from mailerd.compose.template import Content
from tests.cli.commands import Commands


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
async def site() -> AsyncIterator[tuple[str, list[str]]]:
    """The server's address, and what it was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.method} {request.path_qs}")
        name = request.path.strip("/")
        if name == "slow":
            await asyncio.sleep(5)
        if name == "nohead":
            return web.Response(status=405 if request.method == "HEAD" else 200)
        if name == "liar":
            return web.Response(status=404 if request.method == "HEAD" else 200)
        if name == "closes" and request.method == "HEAD":
            assert request.transport is not None
            request.transport.close()
        if name.startswith("round"):
            return web.Response(status=302, headers={"Location": f"/{name}x"})
        if name == "moved":
            return web.Response(status=301, headers={"Location": "/ok"})
        if name == "lost":
            return web.Response(status=302, headers={"Location": "/404"})
        return web.Response(status=int(name) if name.isdigit() else 200)

    application = web.Application()
    application.router.add_route("*", "/{tail:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    server = web.TCPSite(runner, "127.0.0.1", 0)
    await server.start()
    port = runner.addresses[0][1]
    yield f"http://127.0.0.1:{port}", asked
    await runner.cleanup()


async def test_answers(site: tuple[str, list[str]]) -> None:
    base, asked = site
    good = ["ok", "nohead", "liar", "closes", "moved", "ok?a=1&b=2"]
    bad = ["404", "410", "500", "lost", "round"]
    answers = await ask([f"{base}/{name}" for name in (*good, *bad, "403", "429", "ok")])
    assert [name for name in good if answers[f"{base}/{name}"].text] == []
    assert [name for name in bad if not answers[f"{base}/{name}"].broken] == []
    assert answers[f"{base}/round"].text == "more than 5 redirects"
    assert answers[f"{base}/404"].text == "answers 404"
    assert [answers[f"{base}/{n}"].broken for n in ("403", "429")] == [False, False]
    assert answers[f"{base}/403"].text.startswith("answers 403")
    assert asked.count("HEAD /ok") <= 2  # once for itself, once for what moved there
    assert "GET /ok?a=1&b=2" not in asked


async def test_what_never_answers(site: tuple[str, list[str]]) -> None:
    base, _ = site
    closed = f"http://127.0.0.1:{free_port()}/"
    answers = await ask([f"{base}/slow", closed, "http://[::1", "http://name.invalid/"], deadline=0.2)
    assert answers[f"{base}/slow"].text == "no answer within 0.2 s"
    assert all(answer.broken and answer.text for answer in answers.values())


def test_which_links() -> None:
    content = Content(
        "s",
        "See https://a.shop/t, (https://a.shop/p).\nLeave: https://mail.shop/u/1",
        '<a href="https://a.shop/x?a=1&amp;b=2#top">x</a>\n<img src="https://a.shop/i.png" alt="">'
        '<a data-unsubscribe href="https://a.shop/leave">x</a><a href="mailto:a@b.c">m</a><a href="#x">y</a>'
        "<!-- <a href='https://a.shop/comment'> --><a href='https://mail.shop/c/abc'>t</a>",
    )
    assert find(content, ["https://mail.shop/u/", "https://mail.shop/c/"]) == [
        Link("https://a.shop/x?a=1&b=2", "html", 1),
        Link("https://a.shop/i.png", "html", 2),
        Link("https://a.shop/t", "text", 1),
        Link("https://a.shop/p", "text", 1),
    ]
    files = {"t/html.j2": "\n<a href='https://a.shop/x?a=1&amp;b=2'>"}
    assert origin(Link("https://a.shop/x?a=1&b=2", "html", 9), files) == "t/html.j2, line 2"
    assert origin(Link("https://a.shop/made", "html", 9), files) == "line 9 of the rendered html"


@pytest.mark.parametrize(
    ("url", "is_reserved"),
    [
        ("https://shop.example.org/x", True),
        ("https://example.com", True),
        ("https://shop.example/", True),
        ("http://a.test", True),
        ("https://myexample.com", False),
        ("https://example.shop/", False),
        ("https://[", False),
    ],
)
def test_names_for_examples(url: str, is_reserved: bool) -> None:
    assert reserved(url) is is_reserved


async def test_push_refuses_what_is_broken(commands: Commands, tmp_path: Path, site: tuple[str, list[str]]) -> None:
    base, asked = site
    home = tmp_path / "t" / "x"
    home.mkdir(parents=True)
    (home / "meta.toml").write_text(f'[sample]\nurl = "{base}/410"\nunsubscribe_url = "{base}/404?leave"')
    (home / "subject.j2").write_text("Hi")
    (home / "text.j2").write_text("Hi")
    (home / "html.j2").write_text(
        f'<p>\n<a href="{base}/ok">a</a>\n<a href="{base}/404">b</a><a href="{base}/403">c</a>\n'
        '<a href="{{ url }}">d</a><a href="{{ unsubscribe_url }}">e</a><a href="https://shop.example.org/">f</a>'
    )
    await commands("template", "push", "--from", tmp_path / "t", "--check")
    assert asked == []
    refused = await commands("template", "push", "--from", tmp_path / "t", "--links", code=1)
    assert f"x: x/html.j2, line 3: {base}/404: answers 404" in refused.stderr
    assert f"x: line 4 of the rendered html: {base}/410: answers 410" in refused.stderr or "meta.toml" in refused.stderr
    assert f"warning: x: x/html.j2, line 3: {base}/403: answers 403" in refused.stderr
    assert "4 links asked after, 1 lead to names for examples" in refused.stderr
    assert not any("leave" in one for one in asked)
    (home / "html.j2").write_text(f'<p><a href="{base}/ok">a</a>')
    assert "x@1: pushed" in (await commands("template", "push", "--from", tmp_path / "t", "--links")).stdout
