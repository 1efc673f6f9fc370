"""Links of HTML: read by pieces or in one pass, the same links come out, and the text is that of the pieces."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailerd.compose import anchors
from mailerd.compose.anchors import Anchor, Mark, cut

_PARTS = [
    '<a href="https://a.example/?x=1&amp;y">', "<a href=x>", "<A HREF='y'", " data-no-track>", '<area alt="<a href=z>" href=b>',
    "<td title='a>b'>", '<td title="', '">', "<!--", "-->", "-", "<![endif]-->", "<style>", "</style>", "<title/>", "</TITLE >",
    "<script", ">", "<", "/", "</body>", "</body", "text", "\n", " ", "=", "'", '"', "<!doctype html>", "<?x?>", "<svg><a href=q></svg>",
]  # fmt: skip
_HTML = st.lists(st.sampled_from(_PARTS), max_size=25).map("".join)


def _links(read: tuple[list[str], anchors.Found]) -> list[tuple[int, str, bool]]:
    """Of each link and end of the body: where it stands, its target, whether it is spared."""
    pieces, found = read
    at, places = 0, []
    for piece in pieces:
        places.append(at)
        at += len(piece) + 1
    return [(places[i], *((k.url, k.spared) if isinstance(k, Anchor) else ("body", False))) for i, k in found]


@given(_HTML)
@example("<a title='<' href=b><!--<a href=c>--><a href=d></body>")
@example("<title><a href=b></title ><a href=c>")
@settings(max_examples=500, deadline=None)
def test_pieces_and_one_pass_find_the_same(html: str) -> None:
    whole = anchors._scan(html)
    for _ in range(3):  # never seen, seen once, kept
        read = cut(html)
        assert "<".join(read[0]) == html
        assert _links(read) == _links(whole)
    assert "<".join(whole[0]) == html


@given(_HTML, st.text("<>&\"'x", max_size=3))
@settings(max_examples=300, deadline=None)
def test_another_target_stands_where_the_old_one_stood(html: str, new: str) -> None:
    changed = []
    for pieces, found in (cut(html), anchors._scan(html)):
        for i, kind in found:
            if isinstance(kind, Anchor):
                pieces[i] = kind.before if kind.spared else f'{kind.before}"{new.count("x")}"{kind.after}'
        changed.append("<".join(pieces))
    assert changed[0] == changed[1]


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ("<a href=b>", [(1, Anchor("b", "a href=", ">"))]),
        ("x<a id=1>", []),
        ("<a data-no-track href=b>", [(1, Anchor("b", "a href=b>", spared=True))]),
        ("<!-- <a href=b> <a href=c>--><a href=d>", [(4, Anchor("d", "a href=", ">"))]),
        ("<!--[if mso]><a href=b><![endif]--><a href=d></body>", [(4, Anchor("d", "a href=", ">")), (5, Mark.BODY)]),
        ("<style>a<b</style><a href=d>", [(4, Anchor("d", "a href=", ">"))]),
        ("<style><a href=b>", []),
        ("<a href=b", []),
    ],
)  # fmt: skip
def test_what_is_found(html: str, found: anchors.Found) -> None:
    assert cut(html)[1] == found
