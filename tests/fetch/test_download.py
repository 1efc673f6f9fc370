"""GET, redirects, signatures and limits, against a real server."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from mailerd.config.attachments import Attachments, Store
from mailerd.config.url import parse
from mailerd.fetch.download import Downloads
from mailerd.fetch.place import Places
from mailerd.fetch.trouble import Stopped, Trouble
from mailerd.http.sigv4 import signable
from tests.fetch.rig import ACCESS, REGION, SECRET, Shop, redirect, s3, shop, status


async def get(config: Attachments, url: str, limit: int = 1000) -> bytes | Trouble:
    places = Places(config)
    downloads = Downloads(places, limit)
    try:
        return await downloads.get(places.remote(url))
    except Stopped as stopped:
        return stopped.trouble
    finally:
        await downloads.close()


def allowing(*origins: str) -> Attachments:
    return Attachments(origins=origins)


async def test_octets_come_as_they_are_stored() -> None:
    async with shop() as store:
        store.answers["/a%20b.pdf"] = b"\x1f\x8b\x00octets\r\n"
        url = f"{store.origin}/a%20b.pdf?X-Amz-Signature=a%2Fb&x="
        assert await get(allowing(store.origin), url) == b"\x1f\x8b\x00octets\r\n"
        assert store.queries == ["X-Amz-Signature=a%2Fb&x="]
        assert store.headers[0]["Accept-Encoding"] == "identity"
        assert not {"Authorization", "Cookie"} & store.headers[0].keys()


async def test_redirects_stay_where_rows_may_go() -> None:
    async with shop() as store, shop() as other:
        other.answers["/files/there"] = b"there"
        store.answers |= {
            "/files/near": redirect("x/../far"),
            "/files/far": redirect(f"{other.origin}/files/there"),
            "/files/out": redirect(f"{other.origin}/private"),
            "/files/up": redirect("../private"),
            "/files/encoded": redirect("/files/%2e%2e/private"),
            "/files/scheme": redirect("file:///etc/passwd"),
            "/files/user": redirect(f"{other.origin.replace('://', '://u@')}/files/there"),
            "/files/metadata": redirect("http://169.254.169.254/latest/"),
            "/files/loop": redirect("/files/loop"),
            "/files/bad": redirect("http://[x"),
            "/files/none": status(302),
        }
        config = allowing(f"{store.origin}/files", f"{other.origin}/files/")
        assert await get(config, f"{store.origin}/files/near") == b"there"
        for name, words in {
            "out": f"is redirected, and the new url is not allowed: attachments.origins have nothing of {other.origin}",
            "up": "is redirected, and the new url is not allowed",
            "encoded": "is redirected, and the new url must have no",
            "scheme": "is redirected, and the new url must begin with https://",
            "user": "is redirected, and the new url must have no user",
            "metadata": "nothing of http://169.254.169.254",
            "loop": "is redirected more than 5 times",
            "bad": "is redirected",
            "none": f"{store.origin} answers 302",
        }.items():
            found = await get(config, f"{store.origin}/files/{name}")
            assert isinstance(found, Trouble)
            assert words in found.reason
            assert not found.temporary
        assert other.asked == {"/files/there": 1}
        assert "/private" not in store.asked


@pytest.mark.parametrize(
    ("code", "temporary"),
    [
        (code, code in (408, 425, 429) or code >= 500)
        for code in (204, 206, 400, 401, 403, 404, 408, 410, 425, 429, 500, 503)
    ],
)
async def test_what_an_answer_means(code: int, temporary: bool) -> None:
    async with shop() as store:
        store.answers["/x"] = status(code, Retry_After="17")
        found = await get(allowing(store.origin), f"{store.origin}/x")
        assert found == Trouble(f"{store.origin} answers {code}", temporary, 17.0 if temporary else 0.0)


async def test_a_status_needs_no_body() -> None:
    async def unfinished(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=404, headers={"Content-Length": "10"})
        await answer.prepare(request)
        await asyncio.Event().wait()
        return answer

    async with shop() as store:
        store.answers["/x"] = unfinished
        found = await asyncio.wait_for(get(allowing(store.origin), f"{store.origin}/x"), 5)
        assert found == Trouble(f"{store.origin} answers 404")


async def test_the_limit_holds_whatever_the_server_says() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b"x" * 10_000)

    async with shop() as store:
        store.answers |= {"/endless": endless, "/said": b"x" * 1001, "/fits": b"x" * 1000}
        config = allowing(store.origin)
        for name in ("endless", "said"):
            found = await get(config, f"{store.origin}/{name}")
            assert found == Trouble("is larger than 1000 octets (attachments.size)")
        assert await get(config, f"{store.origin}/fits") == b"x" * 1000


async def test_the_server_may_not_say_another_type() -> None:
    async with shop() as store:
        store.answers |= {"/login": status(200, b"<html>", Content_Type="text/html"), "/x": b"octets"}
        config = Attachments(origins=(store.origin,), types=("application/pdf",))
        found = await get(config, f"{store.origin}/login")
        assert found == Trouble("text/html is not among attachments.types")
        assert await get(config, f"{store.origin}/x") == b"octets"
        store.answers["/x"] = status(200, b"?", Content_Encoding="gzip")
        packed = await get(config, f"{store.origin}/x")
        assert isinstance(packed, Trouble)
        assert "Content-Encoding" in packed.reason


def signing(store: Shop, secret: str = SECRET, path: str = "/bucket/") -> Attachments:
    url = store.origin + path
    return Attachments(
        store=(Store(name="s", url=url, region=REGION, access_key=ACCESS, secret_key=secret),), origins=(store.origin,)
    )


@pytest.mark.parametrize("key", ["a.pdf", "2026/11/Rechnung Nr. 5.pdf", "ü+&=~*'()!$,;:@.pdf", "a%b", "x//y"])
async def test_s3_believes_the_signature(key: str) -> None:
    async with shop() as store:
        wire = signable(store.origin, [b"bucket", *(part.encode() for part in key.split("/"))], "")
        store.answers[wire.removeprefix(store.origin)] = s3(b"object")
        written = f"{store.origin}/bucket/{quote(key, safe='/+~*()!$,;:@')}"
        assert await get(signing(store), written) == b"object"
        assert await get(signing(store), f"{written}?versionId=3%2FL4kqtJ") == b"object"
        assert store.queries[-1] == "versionId=3%2FL4kqtJ"
        assert "Authorization" in store.headers[-1]


async def test_our_own_keys_being_wrong_is_not_the_rows_fault() -> None:
    async with shop() as store:
        store.answers["/bucket/a"] = s3(b"object")
        assert await get(signing(store, "other"), f"{store.origin}/bucket/a") == Trouble(
            f"{store.origin} answers 403 SignatureDoesNotMatch", temporary=True
        )
        store.answers["/bucket/a"] = status(403, b"<Error><Code>AccessDenied</Code></Error>")
        assert await get(signing(store), f"{store.origin}/bucket/a") == Trouble(
            f"{store.origin} answers 403 AccessDenied"
        )


async def test_only_the_store_gets_a_signature() -> None:
    async with shop() as store:
        store.answers |= {"/bucket/a": redirect("/elsewhere/a"), "/elsewhere/a": b"octets", "/bucket-2/a": b"other"}
        assert await get(signing(store), f"{store.origin}/bucket/a") == b"octets"
        assert await get(signing(store), f"{store.origin}/bucket-2/a") == b"other"
        assert ["Authorization" in headers for headers in store.headers] == [True, False, False]


@given(
    st.lists(
        st.binary(min_size=1, max_size=9).filter(
            lambda s: not set(s) & set(b"/\\%;.") and min(s) > 31 and 127 not in s
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None, max_examples=40)
def test_what_is_signed_is_what_was_judged(key: list[bytes]) -> None:
    assert parse(signable("https://b.example", key, "")).segments == tuple(key)
