"""Files that messages refer to, read from allowed folders and fetched from allowed origins, and kept within a bound.

One `Files` an instance's engine, shared by all streams: messages of one campaign share one download, and only one is
under way for each reference. What cannot be had is a value (`Trouble`), temporary or not, and is remembered for some
seconds, so that a campaign does not ask a hundred thousand times.

Only what the configuration names is reached: a path is opened component by component without following symbolic
links, a URL and each redirect must begin with an allowed origin. Octets are taken as they are stored: nothing is unpacked.
Everything ends within `attachments.timeout`. Hazard: at most `AT_ONCE` files per origin are in memory beyond the cache.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections import OrderedDict
from fnmatch import fnmatchcase
from hashlib import sha256

import aiohttp
import msgspec
from yarl import URL

from mailerd.compose.mime import Reference
from mailerd.config.attachments import Attachments
from mailerd.message import clean

__all__ = ["AT_ONCE", "Files", "Trouble"]

AT_ONCE = 4  # files fetched at a time from one origin, or read from the folders
REDIRECTS = 5
REMEMBERED = 5.0  # seconds that trouble is remembered
MOST_TROUBLES = 1000
CHUNK = 65_536
_TEMPORARY = frozenset((408, 425, 429))
_LOCAL = frozenset((errno.EMFILE, errno.ENFILE, errno.EIO, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT))


class Trouble(msgspec.Struct, frozen=True):
    """Why a file is not there; `temporary`: it may be, later."""

    reason: str
    temporary: bool = False


class _Stop(Exception):
    def __init__(self, reason: str, temporary: bool = False) -> None:
        super().__init__(reason)
        self.trouble = Trouble(clean(reason, 300), temporary)


class Files:
    """Use within a running loop; `close` ends what is under way."""

    def __init__(self, config: Attachments) -> None:
        self._config = config
        self._origins = [URL(text) for text in config.origins]
        self._session: aiohttp.ClientSession | None = None
        self._doors: dict[str, asyncio.Semaphore] = {}
        self._running: dict[tuple[str, str], asyncio.Task[bytes | Trouble]] = {}
        self._kept: OrderedDict[str, tuple[float, bytes]] = OrderedDict()  # by hash or place: until when, octets
        self._troubles: OrderedDict[tuple[str, str], tuple[float, Trouble]] = OrderedDict()
        self.octets = 0  # that are kept

    def place(self, reference: Reference) -> str:
        """The allowed origin that it is at; '' for the folders, and for what is not allowed."""
        try:
            return "" if reference.path is not None else str(self._allowed_url(reference.url or "").origin())
        except _Stop:
            return ""

    async def get(self, reference: Reference) -> bytes | Trouble:
        """The octets, or why there are none. Raises nothing."""
        try:
            self._allow_type(reference.type)
            place = f"path:{self._allowed_path(reference.path)}" if reference.path is not None else ""
            url = self._allowed_url(reference.url or "") if not place else None
        except _Stop as stop:
            return stop.trouble
        key = (place or str(url), reference.sha256)
        now = time.monotonic()
        kept = self._kept.get(reference.sha256 or key[0])
        if kept and kept[0] > now:
            self._kept.move_to_end(reference.sha256 or key[0])
            return kept[1]
        trouble = self._troubles.get(key)
        if trouble and trouble[0] > now:
            return trouble[1]
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key, reference, url))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        for task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _fetch(self, key: tuple[str, str], reference: Reference, url: URL | None) -> bytes | Trouble:
        found = await self._try(reference, url)
        now = time.monotonic()
        if isinstance(found, Trouble):
            self._troubles[key] = (now + REMEMBERED, found)
            while len(self._troubles) > MOST_TROUBLES:
                self._troubles.popitem(last=False)
            return found
        self._keep(key, found, now)
        return found

    async def _try(self, reference: Reference, url: URL | None) -> bytes | Trouble:
        timeout = float(self._config.timeout)
        door = self._doors.setdefault(str(url.origin()) if url else "", asyncio.Semaphore(AT_ONCE))
        try:
            async with asyncio.timeout(timeout), door:
                if url is not None:
                    found = await self._download(url)
                else:
                    found = await asyncio.to_thread(self._read, reference.path or "")
                if reference.sha256:
                    digest = await asyncio.to_thread(lambda: sha256(found).hexdigest())
                    if digest != reference.sha256:
                        raise _Stop(f"has the sha256 {digest}, not {reference.sha256}")
                return found
        except _Stop as stop:
            return stop.trouble
        except TimeoutError:
            return Trouble(f"was not there within {timeout:g} s", True)
        except (aiohttp.ClientError, OSError) as error:
            return Trouble(clean(f"cannot be fetched: {error or type(error).__name__}", 300), True)
        except Exception as error:  # whatever a peer brought about: it concerns this file alone
            return Trouble(clean(f"cannot be fetched: {error!r}", 300), True)

    def _keep(self, key: tuple[str, str], octets: bytes, now: float) -> None:
        cap, name = int(self._config.cache), key[1] or key[0]
        if len(octets) > cap:
            return
        if old := self._kept.pop(name, None):
            self.octets -= len(old[1])
        self._kept[name] = (float("inf") if key[1] else now + float(self._config.fresh), octets)
        self.octets += len(octets)
        while self.octets > cap:
            self.octets -= len(self._kept.popitem(last=False)[1][1])

    def _allow_type(self, kind: str) -> None:
        bare = kind.partition(";")[0].strip().lower()
        if self._config.types and not any(fnmatchcase(bare, pattern.lower()) for pattern in self._config.types):
            raise _Stop(f"{bare} is not among attachments.types")

    # -- folders ---------------------------------------------------------------------------------------------------------

    def _allowed_path(self, path: str) -> str:
        if not self._config.directories:
            raise _Stop("path is not allowed: there are no attachments.directories")
        if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
            raise _Stop("path must be relative, without `.` and `..`")
        if "\0" in path or len(path) > 4096 or not path.isprintable():
            raise _Stop("path is not a path")
        return path

    def _read(self, path: str) -> bytes:
        """In a thread. The first folder that has it."""
        for directory in self._config.directories:
            try:
                file = _open(directory, path)
            except (FileNotFoundError, NotADirectoryError) as error:
                if error.errno == errno.ENOTDIR and _is_link(directory, path):
                    raise _Stop("path leads through a symbolic link") from None
                continue
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise _Stop("path leads through a symbolic link") from None
                raise _Stop(f"cannot be read: {error.strerror}", error.errno in _LOCAL) from None
            with open(file, "rb") as opened:
                if not stat.S_ISREG(os.fstat(file).st_mode):
                    raise _Stop("is not a regular file")
                octets = opened.read(int(self._config.size) + 1)
            if len(octets) > self._config.size:
                raise _Stop(self._too_large())
            return octets
        raise _Stop("there is no such file")

    def _too_large(self) -> str:
        return f"is larger than {int(self._config.size)} octets (attachments.size)"

    # -- origins ---------------------------------------------------------------------------------------------------------

    def _allowed_url(self, text: str | URL) -> URL:
        try:
            url = URL(text)
            host, port = url.host, url.port
        except (ValueError, TypeError):
            raise _Stop("url is not a URL") from None
        if not host or url.user is not None or url.password is not None:
            raise _Stop("url must have a host and no user")
        if ".." in url.path.split("/") or "\\" in url.path or not url.path.isprintable():
            raise _Stop("url must not have `..` or `\\` in its path")
        for origin in self._origins:
            if (url.scheme, host, port) == (origin.scheme, origin.host, origin.port) and url.path.startswith(
                origin.path
            ):
                return url.with_fragment(None)
        raise _Stop(f"{url.scheme}://{host} is not allowed there (attachments.origins)")

    async def _download(self, url: URL) -> bytes:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), headers={"Accept-Encoding": "identity"}
            )
        for _ in range(REDIRECTS + 1):
            async with self._session.get(url, allow_redirects=False) as answer:
                if answer.status in (301, 302, 303, 307, 308):
                    try:
                        url = self._allowed_url(url.join(URL(answer.headers.get("Location", ""))))
                    except ValueError:
                        raise _Stop("is redirected to what is no URL") from None
                    except _Stop as stop:
                        raise _Stop(f"is redirected: {stop.trouble.reason}") from None
                    continue
                return await self._body(answer)
        raise _Stop(f"is redirected more than {REDIRECTS} times")

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        if answer.status != 200:
            raise _Stop(f"the server answers {answer.status}", answer.status >= 500 or answer.status in _TEMPORARY)
        if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _Stop("the server answers with a Content-Encoding that was not asked for")
        if answer.content_type not in ("application/octet-stream", "binary/octet-stream"):
            self._allow_type(answer.content_type)
        if (answer.content_length or 0) > self._config.size:
            raise _Stop(self._too_large())
        octets = bytearray()
        async for chunk in answer.content.iter_chunked(CHUNK):
            octets += chunk
            if len(octets) > self._config.size:
                raise _Stop(self._too_large())
        return bytes(octets)


def _open(directory: str, path: str) -> int:
    """Component by component, none of them a symbolic link, and without waiting for a pipe's other end."""
    *folders, name = path.split("/")
    at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _is_link(directory: str, path: str) -> bool:
    """Only for the words: a folder that is a link is refused as no folder (open(2), O_DIRECTORY with O_NOFOLLOW)."""
    parts = path.split("/")
    return any(os.path.islink(os.path.join(directory, *parts[:n])) for n in range(1, len(parts)))
