"""Topics in messages: whose unsubscribe link it is, the links that confirm, and rows that cannot be of their topic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mailerd.compose.bundle import Edition, Library, Share, Version
from mailerd.compose.composer import Composer
from mailerd.compose.tokens import Subscriber, Tokens
from mailerd.config.model import Campaign, Config, Stream, Templates
from mailerd.config.public import Public
from mailerd.config.topic import Topic
from mailerd.message import Failure
from tests.compose.jobs import NEWS, SHOP, job, parse, text_of

SECRET = "s" * 32
BASE = "https://mail.example.org/m"


def composer(templates: str | None = None, **public: Any) -> Composer:
    return Composer(
        Config(
            identity=(SHOP, NEWS),
            stream=(Stream(name="transactional"), Stream(name="marketing", identity="news", one_click=bool(public))),
            topic=(Topic(name="offers", stream="marketing"), Topic(name="weekly-news", stream="marketing")),
            campaign=(Campaign(name="spring", topic="offers"),),
            public=Public(**public),
            templates=Templates(path=templates),
        )
    )


COMPOSER = composer(base_url=BASE, secret=(SECRET,))


@pytest.mark.parametrize(
    ("fields", "topic"),
    [
        ({"topic": "offers"}, "offers"),
        ({"campaign": "spring"}, "offers"),
        ({"campaign": "spring", "topic": "weekly-news"}, "weekly-news"),
        ({"campaign": "summer"}, ""),
    ],
)
def test_the_link_to_unsubscribe_is_of_the_topic(fields: dict[str, str], topic: str) -> None:
    found = parse(COMPOSER.compose(job(stream="marketing", **fields)))
    token = found["list-unsubscribe"].rpartition("/")[2].removesuffix(">")
    assert Tokens([SECRET]).read_unsubscribe(token) == Subscriber(11_259_375, 0, "ann@example.org", "marketing", topic)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"topic": "offerz"}, "topic: no [[topic]] 'offerz' is configured (there are: offers, weekly-news)"),
        (
            {"topic": "offers", "stream": "transactional"},
            "topic: offers is of stream marketing, and the row of transact",
        ),
        ({"topic": "offerz", "raw": b"Subject: x\r\n\r\nx"}, "topic: no [[topic]]"),
    ],
)
def test_a_row_that_cannot_be_of_its_topic(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(Failure) as caught:
        COMPOSER.compose(job(**{"stream": "marketing", **fields}))
    assert words in caught.value.reason


def test_links_to_confirm(tmp_path: Path) -> None:
    made = composer(str(tmp_path), base_url=BASE, secret=(SECRET,))
    (tmp_path / "confirm").mkdir()
    (tmp_path / "confirm" / "text.j2").write_text("{{ confirm_url.offers }}\n{{ confirm_url['weekly-news'] }}\n")
    for fields in (
        {"template": "confirm"},
        {"text_body": "{{ confirm_url.offers }}\n{{ confirm_url['weekly-news'] }}\n", "params": "{}"},
    ):
        outgoing = made.compose(job(recipient="Ann <Ann@Example.org>", **fields))
        assert made.compose(job(recipient="Ann <Ann@Example.org>", **fields)).content == outgoing.content
        links = text_of(parse(outgoing)).split()
        assert [link.rpartition("/")[0] for link in links] == [f"{BASE}/s"] * 2
        said = [Tokens(["new" * 8, SECRET]).read_confirmation(link.rpartition("/")[2]) for link in links]
        assert said == [Subscriber(11_259_375, 0, "ann@example.org", "marketing", t) for t in ("offers", "weekly-news")]
        assert Tokens([SECRET]).read_unsubscribe(links[0].rpartition("/")[2]) is None, "one is not the other"


@pytest.mark.parametrize(
    ("made", "fields"),
    [
        (COMPOSER, {"text_body": "{{ confirm_url.offerz }}"}),
        (COMPOSER, {"text_body": "{{ confirm_url.offers }}", "cc": ["bob@example.org"]}),
        (composer(), {"text_body": "{{ confirm_url.offers }}"}),
    ],
)
def test_no_link_to_confirm(made: Composer, fields: dict[str, Any]) -> None:
    """An unknown topic; copies, whose readers are others; no [public]."""
    with pytest.raises(Failure) as caught:
        made.compose(job(params="{}", **fields))
    assert caught.value.category == "template"


def test_a_row_brings_its_own() -> None:
    found = parse(COMPOSER.compose(job(text_body="{{ confirm_url }}", params='{"confirm_url": "https://a.example"}')))
    assert text_of(found).strip() == "https://a.example"


def test_a_stored_template_confirms() -> None:
    schema = {
        "properties": {"confirm_url": {"type": "object"}},
        "required": ["confirm_url"],
        "additionalProperties": False,
    }
    library = Library()
    edition = Edition(subject="Confirm", text="{{ confirm_url.offers }}")
    library.put([Version("confirm", 1, {"": edition}, schema)], {"confirm": (Share(1, 100.0),)})
    public = Public(base_url=BASE, secret=(SECRET,))
    topic = (Topic(name="offers", stream="transactional"),)
    made = Composer(Config(identity=(SHOP,), topic=topic, public=public), library)
    assert text_of(parse(made.compose(job(template="confirm")))).startswith(f"{BASE}/s/")
