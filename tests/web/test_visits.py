"""Pixels, links and the unsubscribe page: what they answer, what they report, and what nobody can make them do."""

from __future__ import annotations

import re
import time
from collections.abc import Coroutine
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailerd.compose.tokens import Subscriber, Tokens
from mailerd.feedback import Feedback
from mailerd.store.database import Unavailable
from mailerd.store.inbox import Raw
from mailerd.web import desk
from mailerd.web import unsubscribe as page
from mailerd.web.desk import Desk, target
from mailerd.web.group import GroupCommit
from mailerd.web.receiver import Receiver
from mailerd.web.robots import HASTE, judge, recognise
from mailerd.web.server import Answer, Request, Response
from mailerd.web.traffic import Traffic
from mailerd.web.visitor import Allowance, Proxies
from tests.daemon.harness import until
from tests.web.rig import TOKENS, Applied, Signed, ask, listener

MESSAGE = 456640300056577  # written years ago
LEAVER = Subscriber(MESSAGE, 2, "ann@example.org", "marketing")
URL = "https://shop.example/a?b=c&d=ü#e"
FOREIGN = Tokens(["another secret of sixteen octets"])


async def test_an_open(database: str) -> None:
    applied = Applied()
    async with listener(database, applied) as server:
        reply = await ask(server, "GET", f"/o/{TOKENS.open(MESSAGE, 3)}.gif")
        assert (reply.status, reply.headers["content-type"], len(reply.body)) == (200, "image/gif", 43)
        assert reply.headers["cache-control"] == "no-store"
        await until(lambda: applied.reports, "applied")
        (report,) = applied.reports
        assert (report.type, report.message_id, report.rcpt, report.bot) == ("opened", MESSAGE, 3, False)
        assert report.at is not None
        assert not report.metadata


async def test_a_click(database: str) -> None:
    applied = Applied()
    async with listener(database, applied) as server:
        reply = await ask(server, "GET", f"/c/{TOKENS.click(MESSAGE, URL)}", {"User-Agent": "Barracuda Sentinel"})
        assert (reply.status, reply.headers["location"]) == (302, "https://shop.example/a?b=c&d=%C3%BC#e")
        await until(lambda: applied.reports, "applied")
        (report,) = applied.reports
        assert (report.type, report.bot) == ("clicked", True)
        assert report.metadata == {"url": URL, "agent": "barracuda"}


async def test_what_waits_is_written_at_the_end(database: str) -> None:
    applied = Applied()
    applied.failures = [Unavailable("for a moment")]
    async with listener(database, applied) as server:
        for _ in range(5):
            await ask(server, "HEAD", f"/o/{TOKENS.open(MESSAGE)}.gif")
        await until(lambda: not applied.failures, "tried")
    assert len(applied.reports) == 5
    assert all(report.bot for report in applied.reports)


async def test_foreign_tokens_change_nothing(database: str) -> None:
    applied = Applied()
    async with listener(database, applied) as server:
        pixel = await ask(server, "GET", f"/o/{FOREIGN.open(MESSAGE)}.gif")
        assert (pixel.status, len(pixel.body)) == (200, 43), "no hint"
        pages = [
            await ask(server, "GET", f"/c/{FOREIGN.click(MESSAGE, URL)}"),
            await ask(server, "GET", f"/c/{TOKENS.click(MESSAGE, URL)[:-2]}AA"),
            await ask(server, "GET", f"/c/{TOKENS.click(MESSAGE, 'javascript:alert(1)')}"),
            await ask(server, "GET", f"/u/{FOREIGN.unsubscribe(LEAVER)}"),
            await ask(server, "POST", f"/u/{FOREIGN.unsubscribe(LEAVER)}", FORM, b"List-Unsubscribe=One-Click"),
            await ask(server, "GET", "/"),
        ]
        assert {(reply.status, reply.body) for reply in pages} == {(404, page.invalid())}
        assert not any("location" in reply.headers for reply in pages)
    assert not applied.reports


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def test_one_click(database: str) -> None:
    applied = Applied()
    async with listener(database, applied) as server:
        path = f"/u/{TOKENS.unsubscribe(LEAVER)}"
        assert (await ask(server, "POST", path, FORM, b"List-Unsubscribe=One-Click")).status == 200
        body = b'--x\r\nContent-Disposition: form-data; name="List-Unsubscribe"\r\n\r\nOne-Click\r\n--x--\r\n'
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        assert (await ask(server, "POST", path, kind, body)).status == 200
        assert [(r.type, r.recipient, r.stream, r.topic, r.source) for r in applied.reports] == [
            ("unsubscribed", "ann@example.org", "marketing", "", "one-click")
        ] * 2


async def test_the_page(database: str) -> None:
    applied = Applied()
    async with listener(database, applied) as server:
        path = f"/u/{TOKENS.unsubscribe(LEAVER)}"
        for method, body in (
            ("GET", b""),
            ("HEAD", b""),
            ("POST", b""),
            ("POST", b"action=else"),
            ("POST", b"\xff=%00"),
        ):
            reply = await ask(server, method, path, FORM, body)
            assert reply.status == 200
            assert method == "HEAD" or (b"a\xe2\x80\xa2" in reply.body and b"ann@" not in reply.body)
        assert b"The Shop &amp; Co" in reply.body
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]
        assert (reply.headers["referrer-policy"], reply.headers["x-content-type-options"]) == ("no-referrer", "nosniff")
        assert not applied.reports, "looking changes nothing"
        done = await ask(server, "POST", path, FORM, b"action=unsubscribe")
        assert b"You are unsubscribed" in done.body
        assert b"undo" in done.body
        assert [r.source for r in applied.reports] == ["page"]


async def test_an_unsubscribe_that_is_not_durable_is_no_success(database: str) -> None:
    applied = Applied()
    applied.failures = [Unavailable("gone")]
    async with listener(database, applied) as server:
        path = f"/u/{TOKENS.unsubscribe(LEAVER)}"
        assert (await ask(server, "POST", path, FORM, b"List-Unsubscribe=One-Click")).status == 503
        assert (await ask(server, "POST", path, FORM, b"List-Unsubscribe=One-Click")).status == 200


async def test_undo(database: str, connection: object) -> None:
    execute, value = connection.execute, connection.fetchval  # type: ignore[attr-defined]
    await execute(
        "INSERT INTO mailerd.suppression (address, stream, reason) VALUES ('ann@example.org', 'marketing', 'unsubscribed'), "
        "('ann@example.org', '', 'bounced')"
    )
    async with listener(database) as server:
        reply = await ask(server, "POST", f"/u/{TOKENS.unsubscribe(LEAVER)}", FORM, b"action=resubscribe")
        assert b"Welcome back" in reply.body
        assert await value("SELECT array_agg(reason) FROM mailerd.suppression") == ["bounced"]
        assert await value("SELECT target FROM mailerd.audit WHERE action = 'resubscribe'") == "ann@example.org"


async def test_a_path_before_ours(database: str) -> None:
    async with listener(database, base_url="https://example.org/mail") as server:
        token = TOKENS.click(MESSAGE, URL)
        assert (await ask(server, "GET", f"/mail/c/{token}")).status == 302
        assert (await ask(server, "GET", f"/c/{token}")).status == 302


async def test_a_full_queue_drops_the_figure_and_not_the_link(database: str) -> None:
    async with listener(database) as server:
        server._seen._most = 0
        assert (await ask(server, "GET", f"/c/{TOKENS.click(MESSAGE, URL)}")).status == 302
        assert server.traffic.visits == {("c", "dropped"): 1}


async def test_guessing_is_slowed_down_by_address(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The desk's clock stands: on a slow machine the allowance would grow back as fast as the guesses use it.
    monkeypatch.setattr(desk, "time", SimpleNamespace(monotonic=lambda: 1000.0, time=time.time))
    async with listener(database, trusted_proxies=("127.0.0.1",)) as server:
        statuses = [
            (
                await ask(server, "GET", f"/c/{FOREIGN.click(MESSAGE, URL)}", {"X-Forwarded-For": "1.2.3.4, 5.6.7.8"})
            ).status
            for _ in range(130)
        ]
        assert statuses == [404] * statuses.index(429) + [429] * (130 - statuses.index(429))
        assert 90 < statuses.index(429) < 100
        good = f"/c/{TOKENS.click(MESSAGE, URL)}"
        assert (await ask(server, "GET", good, {"X-Forwarded-For": "1.2.3.4"})).status == 302, "another address"


class Counter:
    """A desk without a server: what it was asked to do is counted, what must be awaited is not done."""

    def __init__(self) -> None:
        async def write(batch: list[object]) -> None: ...

        self.engagement: GroupCommit[Feedback] = GroupCommit("e", write, most=10, batch=10)
        self.leaving: GroupCommit[Feedback] = GroupCommit("l", write, most=10, batch=10)
        self.inbox: GroupCommit[Raw] = GroupCommit("i", write, most=10, batch=10)
        self.awaited = 0
        traffic = Traffic()
        self.desk = Desk(
            base_url="https://example.org/mail",
            tokens=TOKENS,
            proxies=Proxies([]),
            senders={},
            receiver=Receiver({"relay": Signed()}, self.inbox, traffic),
            engagement=self.engagement,
            leaving=self.leaving,
            preferences=None,  # type: ignore[arg-type]
            traffic=traffic,
            later=self.later,
        )

    def later(self, work: Coroutine[object, object, None], answer: Answer) -> None:
        work.close()
        self.awaited += 1

    def ask(self, method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> list[Response]:
        answers: list[Response] = []
        self.desk.handle(Request(method, path, query, headers, body, "1.2.3.4"), answers.append)
        return answers

    @property
    def done(self) -> int:
        return len(self.engagement) + len(self.leaving) + len(self.inbox) + self.awaited


PATHS = st.one_of(
    st.binary(max_size=200).map(quote),
    st.text("/.%oucgif?#-_=ABab\x00é", max_size=80),
    st.builds(
        "/{}/{}{}".format,
        st.sampled_from(["o", "c", "u", "webhooks", "mail/u", "mail/c"]),
        st.one_of(
            st.text(max_size=40), st.sampled_from([TOKENS.open(1), TOKENS.click(1, URL).partition("/")[0], "relay"])
        ),
        st.sampled_from(["", ".gif.gif", "/", "//x", "=", "/%00", "/../u"]),
    ),
)
WORDS = st.one_of(
    st.text(max_size=40), st.sampled_from(["One-Click", "multipart/form-data; boundary=x", "1.1.1.1, 2.2.2.2"])
)
NAMES = st.sampled_from(["user-agent", "content-type", "x-forwarded-for", "x-signature", "purpose"])
BODIES = st.one_of(st.binary(max_size=100), st.sampled_from([b"List-Unsubscribe=One-Click", b"--x\r\n\r\n\r\n--x--"]))


@given(st.sampled_from(["GET", "POST", "HEAD", "PUT", "X"]), PATHS, WORDS, st.dictionaries(NAMES, WORDS), BODIES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_strangers_can_do_nothing(method: str, path: str, query: str, headers: dict[str, str], body: bytes) -> None:
    counter = Counter()
    answers = counter.ask(method, path, query, headers, body)
    allowed = path.startswith(f"/o/{TOKENS.open(1)}") and method in ("GET", "HEAD")  # a pixel's token is in it: ours
    assert len(answers) == 1
    assert b"Location" not in answers[0].head
    assert counter.done == 0 or (allowed and counter.done == len(counter.engagement) == 1)


@given(st.sampled_from(["o", "c", "u"]), st.data())
@settings(max_examples=100, deadline=None)
def test_one_character_that_was_changed(route: str, data: st.DataObject) -> None:
    token = {"o": TOKENS.open(MESSAGE, 1), "c": TOKENS.click(MESSAGE, URL), "u": TOKENS.unsubscribe(LEAVER)}[route]
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABCxyz019-_/.%=+").filter(lambda c: c != token[at]))
    counter = Counter()
    good = counter.ask("GET", f"/{route}/{token}", "", {}, b"")
    assert counter.done == 1
    bad = counter.ask("GET", f"/{route}/{token[:at]}{other}{token[at + 1 :]}", "", {}, b"")
    assert counter.done == 1
    assert bad[0].body == (good[0].body if route == "o" else page.invalid())


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://", "https://a.example/", "//", "http:/\\"]))
@settings(max_examples=100, deadline=None)
def test_a_redirect_is_one_line_and_leads_to_http(rest: str, start: str) -> None:
    where = target(start + rest)
    assert where is None or re.fullmatch(r"https?://[!-~]+", where), where


@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_word_becomes_markup(sender: str, address: str, topic: str) -> None:
    plain = page.asked("", "a@b.example", "", [page.Choice("t", True)])
    text = page.asked(sender + "<script>'\"", f"<i>{address}@x<b>", topic, [page.Choice(f"'>{topic}<", True)])
    assert b"<script" not in text
    assert b"<i>" not in text
    assert text.count(b"<input") == plain.count(b"<input") == 1


@pytest.mark.parametrize(
    ("agent", "bot", "name"),
    [
        ("Mozilla/5.0", True, "apple-mail-privacy"),
        (
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            False,
            "google-image-proxy",
        ),
        ("", True, "no-agent"),
        ("Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0", False, ""),
        ("python-requests/2.32", True, "library"),
        ("Mozilla/5.0 (compatible; Somebot/1.0)", True, "crawler"),
    ],
)
def test_robots(agent: str, bot: bool, name: str) -> None:
    visitor = recognise(agent)
    assert (visitor.bot, visitor.name) == (bot, name)


def test_haste() -> None:
    written = 1_790_000_000
    message = (written - 1577836800) << 21
    agent = {"user-agent": "Firefox"}
    assert judge("GET", agent, message, written + HASTE / 2).name == "haste"
    assert not judge("GET", agent, message, written + HASTE).bot
    assert judge("GET", {**agent, "sec-purpose": "prefetch;prerender"}, 0, time.time()).name == "prefetch"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("9.9.9.9", "1.1.1.1", "9.9.9.9"),
        ("10.0.0.1", "1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "6.6.6.6, 1.1.1.1:443, 10.0.0.2", "1.1.1.1"),
        ("10.0.0.1", "[2001:db8::1]:80", "2001:db8::1"),
        ("10.0.0.1", "::ffff:1.1.1.1", "1.1.1.1"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("", "1.1.1.1", ""),
    ],
)
def test_proxies(peer: str, forwarded: str, client: str) -> None:
    assert Proxies(["10.0.0.0/8"]).client(peer, forwarded) == client


def test_allowance() -> None:
    allowance = Allowance(10, 20.5)
    assert all(allowance.take("1.1.1.1", 1, 0) for _ in range(20))
    assert not allowance.take("1.1.1.1", 1, 0)
    assert allowance.spent("1.1.1.1", 0)
    assert allowance.take("1.1.1.1", 1, 0.21)
    assert allowance.take("2001:db8::1", 20, 0)
    assert not allowance.take("2001:db8::ffff", 1, 0), "the same subscriber's network"
    for n in range(70_000):
        allowance.charge(str(n), 1, 0)
    assert len(allowance._full_at) <= 65_536
