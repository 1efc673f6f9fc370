"""Files below a folder, and everything else that a path may lead to."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from mailerd.fetch import folder
from mailerd.fetch.folder import THREADS, Folder, read
from mailerd.fetch.trouble import Trouble


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    (root / "deep").mkdir(parents=True)
    (root / "deep" / "a.bin").write_bytes(b"octets")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def reason(found: bytes | Trouble | None) -> str:
    assert isinstance(found, Trouble)
    assert not found.temporary
    return found.reason


def test_a_file(root: Path) -> None:
    assert read(str(root), "deep/a.bin", 6) == b"octets"
    assert read(str(root), "deep/b.bin", 6) is None
    assert read(str(root), "deep/a.bin/c", 6) is None
    assert reason(read(str(root), "deep/a.bin", 5)) == "is larger than 5 octets (attachments.size)"


def test_links_count_where_they_lead(root: Path) -> None:
    (root / "inside").symlink_to("deep")
    (root / "whole").symlink_to(root / "deep" / "a.bin")
    (root / "outside").symlink_to(root.parent)
    (root / "secret").symlink_to("../secret")
    (root / "loop").symlink_to("loop")
    (root.parent / "files-private").mkdir()
    (root.parent / "files-private" / "x").write_bytes(b"secret")
    (root / "sibling").symlink_to("../files-private/x")
    assert read(str(root), "inside/a.bin", 9) == read(str(root), "whole", 9) == b"octets"
    for path in ("outside/secret", "secret", "sibling"):
        assert "leads out of its folder" in reason(read(str(root), path, 9))
    assert "cannot be read" in reason(read(str(root), "loop", 9))
    (root.parent / "alias").symlink_to(root)
    assert read(str(root.parent / "alias"), "deep/a.bin", 9) == b"octets"


def test_a_link_that_comes_in_between_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.path.realpath

    def exchanged(path: str, *, strict: bool = False) -> str:
        found = real(path, strict=strict)
        if found.endswith("a.bin"):
            (root / "deep" / "a.bin").unlink()
            (root / "deep" / "a.bin").symlink_to(root.parent / "secret")
        return found

    monkeypatch.setattr(os.path, "realpath", exchanged)
    assert reason(read(str(root), "deep/a.bin", 9)) == "is not a regular file"


def test_only_regular_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    assert reason(read(str(root), "pipe", 9)) == "is not a regular file"
    assert reason(read(str(root), "deep", 9)) == "is not a regular file"
    (root / "null").symlink_to("/dev/null")
    assert "leads out" in reason(read(str(root), "null", 9))
    assert reason(read("/dev", "null", 9)) == "is not a regular file"


def test_a_folder_that_is_away_is_temporary(tmp_path: Path) -> None:
    found = read(str(tmp_path / "unmounted"), "a", 9)
    assert isinstance(found, Trouble)
    assert found.temporary
    assert "No such file" in found.reason


@pytest.mark.parametrize(
    ("number", "temporary"), [(errno.EIO, True), (errno.ESTALE, True), (errno.EMFILE, True), (errno.EACCES, False)]
)
def test_what_may_pass(root: Path, number: int, temporary: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder.os, "open", broken)
    assert read(str(root), "deep/a.bin", 9) == Trouble(f"cannot be read: {os.strerror(number)}", temporary)


async def test_a_file_system_that_hangs_holds_up_its_own_readers_alone(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, release = str(root / "stuck"), threading.Event()
    inside: list[str] = []

    def slow(at: str, path: str, limit: int) -> bytes:
        if at == stuck:
            inside.append(path)
            release.wait(20)
        return b"there"

    monkeypatch.setattr(folder, "read", slow)
    hanging, other = Folder(stuck), Folder(str(root))
    waiting = [asyncio.create_task(hanging.read("a", 9)) for _ in range(3 * THREADS)]
    assert await asyncio.wait_for(other.read("a", 9), 2) == b"there"
    for task in waiting[:6]:
        task.cancel()  # their threads stay: no more are made for others
    await asyncio.sleep(0)
    assert len(inside) == THREADS
    release.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(r) for r in results[:6]] == [asyncio.CancelledError] * 6
    assert results[6:] == [b"there"] * 6
