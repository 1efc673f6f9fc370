from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.compose.text import html_to_text


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello <b>Ann</b>,</p><p>welcome &amp; good  day</p>", "Hello Ann,\n\nwelcome & good day"),
        ("one<br>two<br/><br>three", "one\ntwo\n\nthree"),
        ('see <a href="https://x.example/?a=1&amp;b=2">this page</a>.', "see this page <https://x.example/?a=1&b=2>."),
        ('<a href="https://x.example">https://x.example</a>', "https://x.example"),
        ('<a href="https://x.example">x.example</a>', "x.example"),
        ('<a href="mailto:a@x.example">a@x.example</a>', "a@x.example"),
        ('<a href="mailto:a@x.example">write</a>', "write <a@x.example>"),
        ("<a href='https://x.example'><img src=i.png alt='Our shop'></a>", "Our shop <https://x.example>"),
        ('<a href="https://x.example"><img src="i.png"></a>', "<https://x.example>"),
        ('<a href="#top">top</a> <a href="javascript:x()">js</a> <a name="x">n</a>', "top js n"),
        ("<a href=https://x.example>unclosed", "unclosed <https://x.example>"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("<ol><li>one<li>two</ol>end", "1. one\n2. two\n\nend"),
        ("<ul><li>a<ol><li>b</li></ol></li><li><p>c</p></li></ul>", "- a\n  1. b\n- c"),
        ("<table><tr><td>A</td><td>1</td></tr><tr><td>B</td><td>2</td></tr></table>", "A 1\nB 2"),
        ("<h1>Title</h1>text<hr>more", "Title\n\ntext\n\n---\n\nmore"),
        ("<pre>a\n  b</pre>c", "a\n  b\n\nc"),
        ("<head><title>no</title><style>p{}</style></head><body>yes<script>no('<p>')</script></body>", "yes"),
        ("<script>if (a<b) x = '</script><p>after</p>", "after"),
        ("<SCRIPT>no</Script >yes", "yes"),
        ("a<!-- no > -->b<!doctype x>c<?php no ?>d", "abcd"),
        ("a <3 b > c & d", "a <3 b > c & d"),
        ('<p title="a > b">x</p><p it\'s>y</p>', "x\n\ny"),
        ("a&nbsp;&nbsp;b &lt;c&gt; &euro; &#8364; &bogus;", "a b <c> € € &bogus;"),
        ("&zwnj;&nbsp;&zwnj;&nbsp;&zwnj;&nbsp;<p>text</p>", "text"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        ("<div>\n  <div>a</div>\n  <div>b</div>\n</div>", "a\nb"),
        ("\n <p>\n a\n b </p> \n", "a b"),
        ("", ""),
        ("<p unclosed", ""),
        ("<script>", ""),
        ("plain", "plain"),
    ],
)
def test_what_a_reader_gets(html: str, text: str) -> None:
    assert html_to_text(html) == text


def test_a_huge_document_gives_its_beginning() -> None:
    for html in ("<p>word</p>" * 200_000, "x" * 2_000_000, "<p>" + "x" * 2_000_000):
        text = html_to_text(html)
        assert text.endswith("\n\n[…]")
        assert len(text) < 1_100_000


N = 50_000


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * N, "<p " + " ".join(f"a{i}=1" for i in range(N)) + ">", '<a "' * N, "<a =" * N, '<a x="' * N, "<" * N,
        "<!--" * N, "<script>" * N, "<script></scrip" * N, "<a href=x>y" * N, "<a href" + " " * N + ">", "<a =" + " " * N,
        "<p>" + "".join(f"<b a={i}>" for i in range(N)) + "</p>" + "<p>x" * N, "\u200b " * N + "x", "&" * N, "&#" * N,
        "<ul><li>" * N, "<a " + "href " * N + ">", "</" * N, "<!" * N, "<pre>" * N, "<a href='" + "x" * N,
        "<svg>" * N, "<li></li>" * N,
    ],
)  # fmt: skip
def test_hostile_html_costs_no_more_than_its_size(html: str) -> None:
    start = time.thread_time()
    html_to_text(html)
    assert time.thread_time() - start < 2.0  # about 0.1 s; anything quadratic takes minutes


@given(st.text("<>/!-\"'= aphrefliscriptbr&;#x1\n", max_size=200))
@settings(deadline=None, max_examples=300)
def test_never_raises_and_never_leaves_edges(html: str) -> None:
    text = html_to_text(html)
    assert text == text.strip()


@given(st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=10), min_size=1, max_size=10))
@settings(deadline=None)
def test_every_word_arrives_in_order(words: list[str]) -> None:
    html = "".join(f"<p><i>{word}</i></p>" if i % 2 else f"<td>{word}</td>" for i, word in enumerate(words))
    assert html_to_text(html).split() == words
