"""What is fetched once, kept, remembered, and left alone for a while."""

from __future__ import annotations

import asyncio
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from mailerd.bench.port import free_port
from mailerd.config.attachments import Attachments
from mailerd.config.base import Duration, Size
from mailerd.fetch import files as module
from mailerd.fetch import folder
from mailerd.fetch.files import AT_ONCE, STRIKES, Files
from mailerd.fetch.trouble import Trouble
from tests.daemon.harness import until
from tests.fetch.rig import by_path, by_url, shop, slow, status

DIGEST = sha256(b"octets").hexdigest()


async def test_the_same_file_is_fetched_once_at_a_time() -> None:
    gate = asyncio.Event()
    async with shop() as store:
        files = Files(Attachments(origins=(store.origin,), fresh=Duration(0)))
        store.answers["/x"] = slow(gate, b"octets")
        reference = by_url(f"{store.origin}/x")
        waiters = [asyncio.create_task(files.get(reference)) for _ in range(20)]
        await until(lambda: store.asked["/x"], "asked")
        waiters[0].cancel()  # it began the fetch; the others are not concerned
        gate.set()
        results = await asyncio.gather(*waiters, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert results[1:] == [b"octets"] * 19
        assert store.asked["/x"] == 1
        assert files.known(reference) is None  # `fresh` is zero
        assert await files.get(reference) == b"octets"
        assert store.asked["/x"] == 2
        await files.close()


async def test_the_digest_decides_and_makes_it_last(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"octets")
    files = Files(Attachments(directories=(str(tmp_path),), fresh=Duration(0)))
    assert await files.get(by_path("a", DIGEST)) == b"octets"
    wrong = await files.get(by_path("a", "0" * 64))
    assert wrong == Trouble(f"has the sha256 {DIGEST}, not {'0' * 64}")
    (tmp_path / "a").write_bytes(b"other")
    assert files.known(by_path("a", DIGEST)) == await files.get(by_path("a", DIGEST)) == b"octets"
    assert await files.get(by_path("a")) == b"other"
    large = b"x" * 200_000
    (tmp_path / "large").write_bytes(large)
    assert await files.get(by_path("large", sha256(large).hexdigest())) == large
    await files.close()


async def test_knowing_a_digest_opens_no_other_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"octets")
    async with shop() as store:
        files = Files(Attachments(directories=(str(tmp_path),), origins=(store.origin,), types=("application/pdf",)))
        assert await files.get(by_path("a", DIGEST)) == b"octets"
        for reference, words in (
            (by_path("", DIGEST), "sha256 alone is not allowed"),
            (by_path("../a", DIGEST), "path must have no `.`"),
            (by_path("b", DIGEST), "there is no such file"),
            (by_url("https://elsewhere.example/a", DIGEST), "url is not allowed"),
            (by_url(f"{store.origin}/a", DIGEST), "answers 404"),
            (by_path("a", DIGEST, "text/html"), "not among attachments.types"),
        ):
            found = await files.get(reference)
            assert isinstance(found, Trouble)
            assert words in found.reason
        await files.close()


async def test_the_cache_is_bounded_in_octets(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / name).write_bytes(name.encode() * 400)
    files = Files(Attachments(directories=(str(tmp_path),), cache=Size(1000)))
    for name in "abac":  # a was used after b
        await files.get(by_path(name))
        assert files.octets <= 1000
    assert [files.known(by_path(name)) is not None for name in "abc"] == [True, False, True]
    (tmp_path / "d").write_bytes(b"d" * 1001)
    assert await files.get(by_path("d")) == b"d" * 1001
    assert files.known(by_path("d")) is None
    assert files.octets == 800
    await files.close()


async def test_trouble_is_remembered_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with shop() as store:
        files = Files(Attachments(origins=(store.origin,)))
        reference = by_url(f"{store.origin}/x")
        first = await files.get(reference)
        store.answers["/x"] = b"octets"
        assert files.known(reference) == await files.get(reference) == first == Trouble(f"{store.origin} answers 404")
        assert store.asked["/x"] == 1
        monkeypatch.setattr(module, "REMEMBERED", 0.0)
        other = by_url(f"{store.origin}/y")
        assert isinstance(await files.get(other), Trouble)
        store.answers["/y"] = b"octets"
        assert await files.get(other) == b"octets"
        await files.close()


async def test_so_many_of_a_place_at_a_time_and_others_pass() -> None:
    gate = asyncio.Event()
    async with shop() as store, shop() as other:
        files = Files(Attachments(origins=(store.origin, other.origin)))
        for i in range(3 * AT_ONCE):
            store.answers[f"/{i}"] = slow(gate)
        other.answers["/x"] = b"octets"
        tasks = [asyncio.create_task(files.get(by_url(f"{store.origin}/{i}"))) for i in range(3 * AT_ONCE)]
        await until(lambda: store.at_once == AT_ONCE, "as many as may")
        assert await files.get(by_url(f"{other.origin}/x")) == b"octets"
        gate.set()
        assert await asyncio.gather(*tasks) == [b"late"] * 3 * AT_ONCE
        assert store.most == AT_ONCE
        await files.close()


async def test_a_silent_server_costs_a_deadline_and_then_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST", 0.3)
    gate = asyncio.Event()
    async with shop() as store:
        files = Files(Attachments(origins=(store.origin,), timeout=Duration(0.2)))
        for i in range(9):
            store.answers[f"/{i}"] = slow(gate)
        for i in range(STRIKES):
            silent = await files.get(by_url(f"{store.origin}/{i}"))
            assert silent == Trouble(f"{store.origin} does not answer in time", temporary=True, away=True)
        asked = store.asked.total()
        assert (await files.get(by_url(f"{store.origin}/7"))) == silent
        assert store.asked.total() == asked  # it rests
        gate.set()

        async def back() -> bool:
            return await files.get(by_url(f"{store.origin}/8")) == b"late"

        await until(back, "asked again")
        await files.close()


async def test_who_tries_whether_a_place_is_back_is_one() -> None:
    port = free_port()
    files = Files(Attachments(origins=(f"http://127.0.0.1:{port}",), timeout=Duration(5)))
    references = [by_url(f"http://127.0.0.1:{port}/{i}") for i in range(20)]
    for reference in references[:STRIKES]:
        away = await files.get(reference)
        assert isinstance(away, Trouble)
        assert (away.temporary, away.away) == (True, True)
        assert "does not answer: Cannot connect" in away.reason
    gate = asyncio.Event()
    async with shop(port) as store:
        for i in range(20):
            store.answers[f"/{i}"] = slow(gate)
        (name, (_, why)) = next(iter(files._rests.items()))
        files._rests[name] = (0.0, why)  # its rest is over
        tasks = [asyncio.create_task(files.get(reference)) for reference in references[5:]]
        await until(lambda: store.asked.total() == 1, "one tries")
        done, pending = await asyncio.wait(tasks, timeout=0.2, return_when=asyncio.ALL_COMPLETED)
        assert (len(done), len(pending)) == (14, 1)
        gate.set()
        assert [await task for task in pending] == [b"late"]
        assert await files.get(references[4]) == b"late"
        await files.close()


async def test_a_folder_that_hangs_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    good, stuck = tmp_path / "good", tmp_path / "stuck"
    good.mkdir()
    (good / "a").write_bytes(b"octets")
    real = folder.read
    monkeypatch.setattr(
        folder, "read", lambda at, path, limit: release.wait(20) and None if at == str(stuck) else real(at, path, limit)
    )
    files = Files(Attachments(directories=(str(good), str(stuck)), timeout=Duration(0.2)))
    found = await files.get(by_path(f"{stuck}/a"))
    assert found == Trouble(f"{stuck} does not answer in time", temporary=True, away=True)
    assert await files.get(by_path(f"{good}/a")) == await files.get(by_path("a")) == b"octets"
    release.set()
    await files.close()


async def test_a_query_is_told_to_nobody() -> None:
    async with shop() as store:
        store.answers["/x"] = status(403)
        files = Files(Attachments(origins=(store.origin,)))
        for url in (f"{store.origin}/x?X-Amz-Signature=s3cret", "https://no.example/s3cret?s3cret", "http://a/s3cret%"):
            found = await files.get(by_url(url))
            assert isinstance(found, Trouble)
            assert "s3cret" not in found.reason
        await files.close()
