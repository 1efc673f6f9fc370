"""AMP for Email: where its part stands, what it is made of, and what a push refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose.amp import AMP_LIMIT, CSS_LIMIT, faults
from mailerd.compose.bundle import Edition, Library, Share, Version
from mailerd.compose.composer import Composer
from mailerd.compose.mime import attachments, entity
from mailerd.compose.press import press
from mailerd.config.base import Size
from mailerd.config.model import Config, Limits
from mailerd.config.provider import Provider
from mailerd.config.public import Public
from mailerd.config.tracking import Tracking
from mailerd.http.fields import fields
from mailerd.http.sendgrid import Sendgrid

from .jobs import SHOP, check_wire, job, parse, text_of
from .test_mime import attach, lf, read

GOOD = """<!doctype html>
<html ⚡4email data-css-strict>
<head>
<meta charset="utf-8">
<script async src="https://cdn.ampproject.org/v0.js"></script>
<script async custom-element="amp-carousel" src="https://cdn.ampproject.org/v0/amp-carousel-0.2.js"></script>
<style amp4email-boilerplate>body{visibility:hidden}</style>
<style amp-custom>p { color: #333 }</style>
</head>
<body><p>Hello {{ name }}</p><amp-img src="https://shop.example/a.png" alt="" width="1" height="1"></amp-img></body>
</html>
"""


def composer(amp: str | None = GOOD, **config: object) -> Composer:
    library = Library()
    edition = Edition(
        subject="Hi", html="<p>Hello <a href='https://shop.example/'>{{ name }}</a></p>", text="T", amp=amp
    )
    library.put([Version("t", 1, {"": edition})], {"t": (Share(1, 100.0),)})
    return Composer(Config(identity=(SHOP,), **config), library)  # type: ignore[arg-type]


def test_it_stands_between_text_and_html() -> None:
    outgoing = composer().compose(job(template="t", params=json.dumps({"name": "<Ann>"})))
    check_wire(outgoing)
    message = parse(outgoing)
    assert message.get_content_type() == "multipart/alternative"
    plain, amp, html = message.iter_parts()
    assert [p.get_content_type() for p in (plain, amp, html)] == ["text/plain", "text/x-amp-html", "text/html"]
    assert "Hello &lt;Ann&gt;</p>" in text_of(amp)
    assert amp.get_content_charset() == "utf-8"


def test_without_amp_nothing_changes() -> None:
    one = job(template="t", params='{"name": "Ann"}')
    assert b"x-amp" not in composer(None).compose(one).content


def test_tracking_leaves_it_alone() -> None:
    from mailerd.config.model import Stream

    stream = Stream(name="transactional", tracking=Tracking(opens=True, clicks=True))
    public = Public(base_url="https://mail.shop.example", secret=("s" * 40,))
    amp = GOOD.replace("<p>", '<p><a href="https://shop.example/x">x</a>')
    outgoing = composer(amp, stream=(stream,), public=public).compose(job(template="t", params='{"name": "Ann"}'))
    _, part, html = parse(outgoing).iter_parts()
    assert "https://mail.shop.example/c/" in text_of(html)
    assert 'href="https://shop.example/x"' in text_of(part)
    assert "mail.shop.example" not in text_of(part)


def test_it_counts_towards_the_size() -> None:
    from mailerd.message import Failure

    small = composer(GOOD.replace("{{ name }}", "x" * 30_000), limits=Limits(message_size=Size(20_000)))
    with pytest.raises(Failure, match="characters of output"):
        small.compose(job(template="t", params='{"name": "Ann"}'))


def test_a_file_template_has_one_too(tmp_path: Path) -> None:
    from mailerd.config.model import Templates

    for name, text in {"html.j2": "<p>h</p>", "text.j2": "t", "subject.j2": "s", "amp.html": GOOD}.items():
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_text(text)
    made = Composer(Config(identity=(SHOP,), templates=Templates(path=str(tmp_path))))
    assert b"text/x-amp-html" in made.compose(job(template="t", params='{"name": "Ann"}')).content


_parts = st.text("ab .=_-\n\r\tü<>", max_size=200)


@given(text=st.none() | _parts, amp=_parts, html=_parts, inline=st.booleans(), file=st.booleans())
@settings(deadline=None, max_examples=100)
def test_it_comes_back_to_the_character(text: str | None, amp: str, html: str, inline: bool, file: bool) -> None:
    items = [attach(filename="l.png", cid="l")] * inline + [attach(filename="b.pdf")] * file
    octets = entity("abc.def", text, html, attachments(json.dumps(items), "abc.def"), amp)
    leaves = [p for p in read(octets).walk() if not p.is_multipart()]
    kinds = ["text/plain"] * (text is not None) + ["text/x-amp-html", "text/html"]
    assert [p.get_content_type() for p in leaves][: len(kinds)] == kinds
    found = [lf(text_of(p)) for p in leaves[: len(kinds)]]
    assert found[-2:] == [lf(amp), lf(html)]
    # Without it, the very same octets as ever.
    assert entity("abc.def", text, html, [], None) == entity("abc.def", text, html)


@pytest.mark.parametrize("extra", [{}, {"attachments": json.dumps([attach()])}])
def test_apis_with_fields_get_it_where_they_have_one(extra: dict[str, str]) -> None:
    outgoing = composer().compose(job(template="t", params='{"name": "Ann"}', **extra))
    found = fields(outgoing)
    assert found.amp is not None
    assert "Hello Ann" in found.amp
    assert (found.text, len(found.files)) == ("T", len(extra))
    sendgrid = Sendgrid(Provider(name="s", kind="sendgrid", api_key="k"))
    content = json.loads(sendgrid.entry(outgoing).octets)["content"]
    assert [c["type"] for c in content] == ["text/plain", "text/x-amp-html", "text/html"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<!doctype html>", "", "<!doctype html> is missing"),
        ("⚡4email", "", "<html ⚡4email>"),
        ("⚡4email", "amp4email", ""),
        ('<meta charset="utf-8">', "", "charset"),
        ('<script async src="https://cdn.ampproject.org/v0.js"></script>', "", "v0.js"),
        ("body{visibility:hidden}", "", "is not body{visibility:hidden}"),
        ("<style amp4email-boilerplate>body{visibility:hidden}</style>", "", "boilerplate> is not|boilerplate"),
        ("<amp-img", "<img", "<img> is not allowed, amp-img"),
        (' alt=""', "", "amp-img without alt"),
        ("<p>", '<p onclick="x()">', "no scripts in attributes"),
        ("<p>", '<script src="https://e.example/x.js" async></script><p>', "AMP's own scripts only"),
        ("<p>", "<script>alert(1)</script><p>", "AMP's own scripts only"),
        ("<p>", '<script type="application/json">{}</script><p>', ""),
        ("<script async custom", "<script custom", "without async"),
        ("#333", "#333 !important", "!important"),
        ("#333", "#333" + " " * CSS_LIMIT, "octets of CSS"),
        ("<style amp-custom>", "<style>", "<style> without amp-custom"),
        ("<p>", "<p>" + "x" * AMP_LIMIT, "at most 200000"),
        ("<p>", '<iframe src="x"></iframe><p>', "<iframe> is not allowed"),
        ("<p>", '<link rel="stylesheet" href="x"><p>', "<style amp-custom> stands in"),
    ],
)
def test_its_form(old: str, new: str, words: str) -> None:
    assert faults(GOOD) == []
    assert old in GOOD
    found = [text for text, _ in faults(GOOD.replace(old, new, 1))]
    assert (any(word in text for word in words.split("|") for text in found)) if words else (found == [])


def test_a_push_judges_it(tmp_path: Path) -> None:
    def faults_of(**files: str) -> list[str]:
        base = {"subject.j2": "Hi", "html.j2": "<p>x</p>", "text.j2": "x", "meta.toml": '[sample]\nname = "Ann"'}
        home = tmp_path / "t"
        home.mkdir(exist_ok=True)
        for name, text in (base | files).items():
            (home / name).write_text(text)
        return [p.text for p in press(tmp_path, "t").problems]

    assert faults_of(**{"amp.html": GOOD}) == []
    assert any("amp.html: <html" in f for f in faults_of(**{"amp.html": GOOD.replace("⚡4email", "")}))
    assert any("broken link" in f for f in faults_of(**{"amp.html": GOOD.replace("<p>", '<p><a href="x">x</a>')}))
    # Its own braces are kept by `raw`.
    assert faults_of(**{"amp.html": GOOD.replace("{{ name }}", "{% raw %}{{ price }}{% endraw %}")}) == []
    (tmp_path / "t/html.j2").unlink()
    assert any("amp.html without HTML" in p.text for p in press(tmp_path, "t").problems)
