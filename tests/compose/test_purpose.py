"""What a stream is for, in its messages: one-click, List-Id, Feedback-ID, Auto-Submitted, Precedence, return paths."""

from __future__ import annotations

from email.message import EmailMessage
from typing import Any

import pytest

from mailerd.compose.composer import Composer
from mailerd.compose.tokens import Subscriber, Tokens, derive
from mailerd.compose.verp import ReturnPaths
from mailerd.config.model import Config, Identity, Stream
from mailerd.config.public import Public
from mailerd.message import Outgoing
from tests.compose.jobs import SHOP, job, parse

SECRET = "s" * 32
BASE = "https://mail.example.org/m"
NEWS = Identity(name="news", sender="news@news.example", return_path="b@bounces.news.example", verp=True)
MARKETING = Stream(
    name="marketing", identity="news", one_click=True, list_id="offers.news.example", feedback_id="exampleshop"
)
COMPOSER = Composer(
    Config(
        identity=(SHOP, NEWS),
        stream=(Stream(name="transactional"), MARKETING),
        public=Public(base_url=BASE, secret=(SECRET,)),
    )
)


def compose(**fields: Any) -> Outgoing:
    return COMPOSER.compose(job(stream="marketing", **fields))


def message(**fields: Any) -> EmailMessage:
    return parse(compose(**fields))


def test_one_click() -> None:
    found = message(recipient="Ann <Ann@Example.org>")
    link = found["list-unsubscribe"]
    assert link.startswith(f"<{BASE}/u/")
    assert link.endswith(">")
    token = link.rpartition("/")[2].removesuffix(">")
    assert Tokens([SECRET]).read_unsubscribe(token) == Subscriber(11_259_375, 0, "ann@example.org", "marketing")
    assert found["list-unsubscribe-post"] == "List-Unsubscribe=One-Click"
    assert compose().content == compose().content


def test_the_field_is_one_line() -> None:
    # Encoded or folded it would be a dead link for some receivers.
    lines = [line for line in compose().content.split(b"\r\n") if line.startswith(b"List-Unsubscribe:")]
    assert len(lines) == 1
    assert lines[0].endswith(b">")


def test_templates_have_the_link() -> None:
    found = message(text_body="Bye: {{ unsubscribe_url }}", params='{"a": 1}')
    assert f"<{found.get_content().split()[1]}>" == found["list-unsubscribe"]


def test_a_row_with_its_own_link_keeps_it() -> None:
    found = message(headers='{"List-Unsubscribe": "<https://example.org/x>"}')
    assert found.get_all("list-unsubscribe") == ["<https://example.org/x>"]
    assert found["list-unsubscribe-post"] is None


@pytest.mark.parametrize("copies", [{"cc": ["bob@example.org"]}, {"bcc": ["bob@example.org"]}])
def test_nobody_gets_the_link_of_another(copies: dict[str, list[str]]) -> None:
    assert message(**copies)["list-unsubscribe"] is None


def test_feedback_id() -> None:
    assert message(campaign="spring sale: 1")["feedback-id"] == "spring_sale__1::marketing:exampleshop"
    assert message(campaign="é" * 200)["feedback-id"] == f"{'_' * 64}::marketing:exampleshop"


def test_list_id() -> None:
    assert message()["list-id"] == "<offers.news.example>"


def test_what_marketing_is() -> None:
    found = message()
    assert found["precedence"] == "bulk"
    assert found["auto-submitted"] is None
    assert message(headers='{"Precedence": "list"}').get_all("precedence") == ["list"]


def test_what_transactional_is() -> None:
    def sent(**fields: Any) -> EmailMessage:
        return parse(COMPOSER.compose(job(**fields)))

    assert sent()["auto-submitted"] == "auto-generated"
    for name in ("precedence", "list-unsubscribe", "list-id", "feedback-id"):
        assert sent()[name] is None
    assert sent(headers='{"Auto-Submitted": "no"}').get_all("auto-submitted") == ["no"]
    # An absent reader's answer belongs to the conversation.
    assert sent(thread_key="order-1")["auto-submitted"] is None


def test_a_return_path_names_its_message() -> None:
    paths = ReturnPaths("bounces.news.example", [derive(SECRET, "verp")])
    assert paths.decode(compose().sender) == 11_259_375
    assert paths.decode(COMPOSER.compose(job(sender="news@news.example")).sender) == 11_259_375
    raw = COMPOSER.compose(job(stream="marketing", raw=b"From: news@news.example\n\nHello\n"))
    assert paths.decode(raw.sender) == 11_259_375
    assert COMPOSER.compose(job()).sender == "shop@shop.example"
