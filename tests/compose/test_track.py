"""Tracked links: which are rewritten, that nothing else changes, and what hostile HTML costs."""

from __future__ import annotations

import re
import time
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose.composer import Composer
from mailerd.compose.tokens import Claim, Tokens
from mailerd.compose.track import URL_LIMIT, Tracker, trackers, with_parameters
from mailerd.config.model import Config, Stream
from mailerd.config.public import Public
from mailerd.config.tracking import Tracking
from mailerd.message import Failure

from .jobs import NEWS, SHOP, check_wire, job, parse, text_of

BASE = "https://m.example/mail"
TOKENS = Tokens(["a secret of the tests"])
ID = 456_640_300_056_577
CLICKS = Tracker(BASE, TOKENS, opens=False, clicks=True, source="")
OPENS = Tracker(BASE, TOKENS, opens=True, clicks=False, source="")
UTM = Tracker(None, None, opens=False, clicks=False, source="news")


def through(url: str) -> str:
    return f"{BASE}/c/{TOKENS.click(ID, url)}"


def html(source: str, tracker: Tracker = CLICKS, campaign: str = "") -> str:
    return tracker.html(source, ID, campaign)[0]


@pytest.mark.parametrize(
    ("before", "after", "url"),
    [
        ('<a href="https://a.example/">x</a>', '<a href="%s">x</a>', "https://a.example/"),
        ("<a href='https://a.example/'>x</a>", '<a href="%s">x</a>', "https://a.example/"),
        ("<A\nclass=b HREF = https://a.example/ id=c>", '<A\nclass=b HREF="%s" id=c>', "https://a.example/"),
        ("<area shape=rect href=http://a.example>", '<area shape=rect href="%s">', "http://a.example"),
        ('<a href="https://a.example/?a=1&amp;b=2&c=&quot;">', '<a href="%s">', 'https://a.example/?a=1&b=2&c="'),
        ('<a href=" https://a.example/\nx ">', '<a href="%s">', "https://a.example/x"),
        ('<a href="https://é.example/ü#ö">', '<a href="%s">', "https://é.example/ü#ö"),
        ('<a title="href=https://b.example >" href="https://a.example">', '<a title="href=https://b.example >" href="%s">', "https://a.example"),
        ('<a href="https://a.example"href="https://b.example">', '<a href="%s"href="https://b.example">', "https://a.example"),
        ('<p it\'s><a href="https://a.example">', '<p it\'s><a href="%s">', "https://a.example"),
        ('<![if !mso]><a href="https://a.example">', '<![if !mso]><a href="%s">', "https://a.example"),
        ('2 < 3 <a href="HTTPS://A.example">', '2 < 3 <a href="%s">', "HTTPS://A.example"),
    ],
)  # fmt: skip
def test_links_lead_through_us(before: str, after: str, url: str) -> None:
    made = html(before)
    assert made == after % through(url)
    token, target = made.split("/c/")[1].split('"')[0].split("/")
    assert TOKENS.read_click(token, target) == (Claim(ID, 0), url)


@pytest.mark.parametrize(
    "source",
    [
        '<a href="mailto:a@b.example">',
        '<a href="tel:+431">',
        '<a href="#top">',
        '<a href="/orders">',
        '<a href="javascript:x()">',
        '<a href="">',
        "<a name=https://a.example>",
        f'<a href="{BASE}/u/token">',
        f'<a href="{BASE.upper()}/u/token">',
        f'<a href="{BASE}/c/token/url">',
        f'<a href="https://a.example/{"x" * URL_LIMIT}">',
        '<a href="https://a.example/x y">',
        '<link href="https://a.example/x.css">',
        '<abbr href="https://a.example">',
        '<img alt="<a href=https://a.example>">',
        '<!-- <a href="https://a.example"> -->',
        '<!--[if mso]><a href="https://a.example"><![endif]-->',
        '<style>/*<a href="https://a.example">*/</style>',
        '<script>"<a href=https://a.example>"</script>',
        '<a href="https://a.example',
        "<a href=https://a.example",
        '<a href="https://a.example"',
    ],
)
def test_what_stays_as_it_is(source: str) -> None:
    assert html(source) == source


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<a data-no-track href="https://a.example">', '<a href="https://a.example">'),
        ('<a href="https://a.example" DATA-No-Track="yes" id=b>', '<a href="https://a.example" id=b>'),
        ('<a href="https://a.example" data-unsubscribe>', '<a href="https://a.example">'),
        ("<a data-no-track='1'data-unsubscribe href=x>", "<a href=x>"),
    ],
)
def test_marked_links_lose_the_mark_alone(before: str, after: str) -> None:
    assert html(before) == after


def test_a_link_marked_in_the_html_is_spared_in_the_text() -> None:
    text = "Go: https://a.example/?a&b or https://b.example."
    source = '<a data-no-track href="https://a.example/?a&amp;b">x</a>'
    assert CLICKS.texts(text, source, ID, "")[0] == f"Go: https://a.example/?a&b or {through('https://b.example')}."


@pytest.mark.parametrize(
    ("before", "url", "after"),
    [
        ("see https://a.example/x, now", "https://a.example/x", "see %s, now"),
        ("(https://a.example/x)", "https://a.example/x", "(%s)"),
        ("(https://a.example/x).\n", "https://a.example/x", "(%s).\n"),
        ("https://a.example/x_(y)", "https://a.example/x_(y)", "%s"),
        ("<https://a.example/?a=1&b=2>", "https://a.example/?a=1&b=2", "<%s>"),
    ],
)
def test_urls_of_the_text(before: str, url: str, after: str) -> None:
    assert CLICKS.text(before, ID, "") == after % through(url)


@pytest.mark.parametrize("text", [f"{BASE}/u/token", "xhttps://a.example", "mailto:a@b.example", "https://", "http:/x"])
def test_text_that_stays_as_it_is(text: str) -> None:
    assert CLICKS.text(text, ID, "") == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("https://a.example", "https://a.example?utm_source=news&utm_medium=email&utm_campaign=May%20%26%20June"),
        ("https://a.example/#x?y", "https://a.example/?utm_source=news&utm_medium=email&utm_campaign=May%20%26%20June#x?y"),
        ("https://a.example/?", "https://a.example/?utm_source=news&utm_medium=email&utm_campaign=May%20%26%20June"),
        ("https://a.example/?a=%20&UTM_Source=b&utm_medium=", "https://a.example/?a=%20&UTM_Source=b&utm_medium=&utm_campaign=May%20%26%20June"),
        ("https://a.example/?X-Amz-Signature=ab#f", "https://a.example/?X-Amz-Signature=ab#f"),
    ],
)  # fmt: skip
def test_utm_parameters(before: str, after: str) -> None:
    parameters = {"utm_source": "news", "utm_medium": "email", "utm_campaign": "May & June"}
    assert with_parameters(before, parameters) == after
    assert html(f'<a href="{before}">', UTM, "May & June") == f'<a href="{after.replace("&", "&amp;")}">'
    assert html(f'<a href="{before}">', UTM) == f'<a href="{before}">'  # without a campaign
    assert html(f'<a data-no-track href="{before}">', UTM, "May & June") == f'<a href="{before}">'


@pytest.mark.parametrize(
    ("before", "at"),
    [
        ("<body>x</body></html>", 7),
        ("<body>x<!--</body>--></BODY\n></html>", 21),
        ("<p>x", 4),
        ("", 0),
        ("</body>x</body>", 8),
    ],
)
def test_the_picture_ends_the_body(before: str, at: int) -> None:
    made = html(before, OPENS)
    assert made.startswith(before[:at] + "\n<img ")
    assert made.endswith(">\n" + before[at:])
    token = re.search(rf'src="{BASE}/o/([\w-]+)\.gif"', made)
    assert token is not None
    assert TOKENS.read_open(token[1]) == Claim(ID, 0)


class _Links(HTMLParser):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))


_ATTRIBUTE = st.sampled_from(
    [' href="https://a.example/?x=1&amp;y"', " href='mailto:x'", ' title="<a href=>"', " id=b", ' class="c>"', " alt", ' href="#a"']
)  # fmt: skip
_TAG = st.builds(
    lambda name, attributes: f"<{name}{''.join(attributes)}>",
    st.sampled_from(["a", "area", "A", "img", "td"]),
    st.lists(_ATTRIBUTE, max_size=3, unique_by=lambda a: a[:6]),
)
_HTML = st.lists(_TAG | st.sampled_from(["</a>", "text ", "&amp;", "<!-- <a href=https://x.example> -->", "\n"])).map(
    "".join
)


@given(_HTML)
@settings(max_examples=150, deadline=None)
def test_nothing_but_the_targets_changes(source: str) -> None:
    def back(value: str | None) -> str | None:
        if not value or not value.startswith(f"{BASE}/c/"):
            assert not value or not value.startswith("https://a.example")
            return value
        claim = TOKENS.read_click(*value.removeprefix(f"{BASE}/c/").split("/"))
        assert claim is not None
        return claim[1]

    made = _Links(html(source)).found
    for tag, attributes in made:
        if tag in ("a", "area"):
            attributes[:] = [(name, back(value) if name == "href" else value) for name, value in attributes]
    assert made == _Links(source).found


@given(st.text(st.sampled_from("<>a/ ='\"!-bodyhref:\n&;")) | st.text())
@example("<a href")
@settings(max_examples=300, deadline=None)
def test_any_text_is_taken(source: str) -> None:
    assert html(source) == source or "/c/" in html(source) or "data-" in source
    assert CLICKS.text(source, ID, "") == source or "/c/" in CLICKS.text(source, ID, "")
    assert UTM.texts(source, source, ID, "") == (source, source)


@pytest.mark.parametrize(
    "piece",
    ["<", "<a ", "<a href=", '<a href="', "<!--", "<!-", "<style>", "</body", "<a href=x ", "x=1 ", "https://", "<p a=", "=\n", "&#", "<td"],
)  # fmt: skip
def test_hostile_html_costs_linear_time(piece: str) -> None:
    source = "<a " * (piece in ("x=1 ", "=\n")) + piece * (200_000 // len(piece))
    begin = time.thread_time()
    CLICKS.texts(source, source, ID, "")
    assert time.thread_time() - begin < 2  # a square of it would be minutes


def tracked(**tracking: bool) -> Composer:
    return Composer(
        Config(
            public=Public(base_url=BASE, secret=("a secret of the tests",)),
            identity=(SHOP, NEWS),
            stream=(Stream(name="transactional"), Stream(name="marketing", tracking=Tracking(**tracking))),
        )
    )


ROW = {
    "id": ID,
    "stream": "marketing",
    "campaign": "may",
    "text_body": "{{ url }} https://a.example/t",
    "html_body": '<p><a href="{{ url }}">x</a> <a href="https://a.example/é">×</a></p>',
    "params": '{"url": "https://b.example/?q=1&r=2"}',
}


def test_a_message_is_tracked_and_its_attempts_are_alike() -> None:
    composer = tracked(opens=True, clicks=True, utm=True)
    outgoing = composer.compose(job(**ROW))
    check_wire(outgoing)
    plain, rich = parse(outgoing).get_payload()
    urls = [unescape(url) for url in re.findall(rf"{BASE}/c/([\w-]+/[\w-]+)", text_of(plain) + text_of(rich))]
    assert [TOKENS.read_click(*url.split("/")) for url in urls] == [
        (Claim(ID, 0), f"{url}utm_source=marketing&utm_medium=email&utm_campaign=may")
        for url in (
            "https://b.example/?q=1&r=2&",
            "https://a.example/t?",
            "https://b.example/?q=1&r=2&",
            "https://a.example/é?",
        )
    ]
    assert text_of(rich).count("<img ") == 1
    assert composer.compose(job(**ROW, attempt=3)).content == outgoing.content


def test_a_text_made_of_the_html_has_its_links() -> None:
    row = ROW | {"text_body": None}
    plain, rich = parse(tracked(opens=True, clicks=True).compose(job(**row))).get_payload()
    assert re.findall(r"/c/[\w/-]+", text_of(plain)) == re.findall(r"/c/[\w/-]+", text_of(rich))


@pytest.mark.parametrize("row", [{"cc": ["b@b.example"]}, {"bcc": ["b@b.example"]}, {"stream": "transactional"}])
def test_messages_that_are_not_tracked(row: dict[str, object]) -> None:
    fields = ROW | row
    content = tracked(opens=True, clicks=True, utm=True).compose(job(**fields)).content
    assert content == tracked().compose(job(**fields)).content


def test_a_raw_message_is_never_tracked() -> None:
    raw = b"From: news@news.example\r\nContent-Type: text/html\r\n\r\n<a href='https://a.example'>x</a>\r\n"
    assert tracked(opens=True, clicks=True).compose(job(stream="marketing", raw=raw)).content == raw


def test_tracking_without_public_is_refused() -> None:
    with pytest.raises(Failure, match="stream news: tracking needs"):
        trackers(Config(stream=(Stream(name="news", tracking=Tracking(opens=True)),)))
    assert trackers(Config(stream=(Stream(name="news", tracking=Tracking(utm=True)),)))
