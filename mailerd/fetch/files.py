"""Files that messages refer to: read or downloaded from where the configuration allows, and kept within a bound.

One `Files` an instance's engine, shared by all streams: messages of one campaign share one fetch, and each reference has at
most one under way; who stops waiting ends nobody else's. What cannot be had is a value (`Trouble`), remembered for a moment,
so that a campaign does not ask a hundred thousand times. A place that does not answer several times in a row rests:
who asks for it meanwhile hears so at once, and one after the other tries whether it is back.

Everything ends within `attachments.timeout`, counted from when a fetch begins; at most `AT_ONCE` of a place are under way.
A digest that is given is always computed. Hazard: what is under way is in memory beyond the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from hashlib import sha256

import aiohttp

from mailerd.compose.mime import Reference
from mailerd.config.attachments import Attachments
from mailerd.fetch.download import Downloads
from mailerd.fetch.folder import Folder
from mailerd.fetch.place import Local, Place, Places
from mailerd.fetch.trouble import Stopped, Trouble
from mailerd.message import clean

__all__ = ["AT_ONCE", "Files"]

AT_ONCE = 8  # files of one place that are under way
REMEMBERED = 2.0  # seconds that trouble with a file is
MOST_TROUBLES = 1000
STRIKES = 3  # failures in a row until a place rests
REST = 5.0  # seconds
_LARGE = 65_536  # octets that are hashed in a thread

_Key = tuple[str, str]  # the place's, and the digest


class Files:
    """Use within one running loop; `close` ends what is under way."""

    def __init__(self, config: Attachments) -> None:
        self._config = config
        self._places = Places(config)
        self._folders: dict[str, Folder] = {}
        self._downloads = Downloads(self._places, int(config.size))
        self._doors: dict[str, asyncio.Semaphore] = {}
        self._running: dict[_Key, asyncio.Task[bytes | Trouble]] = {}
        self._kept: OrderedDict[_Key, tuple[float, bytes]] = OrderedDict()  # until when, octets
        self._troubles: OrderedDict[_Key, tuple[float, Trouble]] = OrderedDict()
        self._strikes: dict[str, int] = {}
        self._rests: dict[str, tuple[float, Trouble]] = {}  # places that do not answer: until when, why
        self.octets = 0  # that are kept

    def place(self, reference: Reference) -> str:
        """The name of where it is; '' for what is not allowed. What has another one neither slows nor stops it."""
        try:
            return self._places.of(reference).name
        except Stopped:
            return ""

    def known(self, reference: Reference) -> bytes | Trouble | None:
        """What can be said at once; None: it has to be fetched."""
        try:
            place = self._places.of(reference)
        except Stopped as stopped:
            return stopped.trouble
        return self._known((place.key, reference.sha256))

    async def get(self, reference: Reference) -> bytes | Trouble:
        """The octets, or why there are none. Raises nothing but CancelledError."""
        try:
            place = self._places.of(reference)
        except Stopped as stopped:
            return stopped.trouble
        key = (place.key, reference.sha256)
        if (known := self._known(key)) is not None:
            return known
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._fetch(key, place, reference.sha256))
            self._running[key] = task
            task.add_done_callback(lambda _: self._running.pop(key, None))
        return await asyncio.shield(task)

    async def close(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await self._downloads.close()

    def _known(self, key: _Key) -> bytes | Trouble | None:
        now = time.monotonic()
        if (kept := self._kept.get(key)) is not None and kept[0] > now:
            self._kept.move_to_end(key)
            return kept[1]
        if (trouble := self._troubles.get(key)) is not None and trouble[0] > now:
            return trouble[1]
        return None

    async def _fetch(self, key: _Key, place: Place, digest: str) -> bytes | Trouble:
        async with self._doors.setdefault(place.name, asyncio.Semaphore(AT_ONCE)):
            if (resting := self._resting(place.name)) is not None:
                return resting
            found = await self._try(place, digest)
        now = time.monotonic()
        self._heard(place.name, found, now)
        if isinstance(found, Trouble):
            self._troubles[key] = (now + REMEMBERED, found)
            while len(self._troubles) > MOST_TROUBLES:
                self._troubles.popitem(last=False)
        else:
            self._keep(key, found, now)
        return found

    async def _try(self, place: Place, digest: str) -> bytes | Trouble:
        try:
            async with asyncio.timeout(float(self._config.timeout)):
                found = await (self._local(place) if isinstance(place, Local) else self._downloads.get(place))
                if isinstance(found, Trouble) or not digest:
                    return found
                large = len(found) > _LARGE
                real = await asyncio.to_thread(_hash, found) if large else _hash(found)
                return found if real == digest else Trouble(f"has the sha256 {real}, not {digest}")
        except Stopped as stopped:
            return stopped.trouble
        except TimeoutError:  # aiohttp's for connecting, too
            return Trouble(clean(f"{place.name} does not answer in time", 300), temporary=True, away=True)
        except (aiohttp.ClientConnectionError, OSError) as error:
            reason = clean(f"{place.name} does not answer: {error or type(error).__name__}", 300)
            return Trouble(reason, temporary=True, away=True)
        except Exception as error:  # whatever a peer brought about: it concerns this file alone
            # By its name alone: its words may repeat the URL, and that a signature.
            return Trouble(f"cannot be fetched from {place.name[:200]}: {type(error).__name__}", temporary=True)

    async def _local(self, place: Local) -> bytes | Trouble:
        for path in place.folders:
            folder = self._folders.setdefault(path, Folder(path))
            if (found := await folder.read(place.path, int(self._config.size))) is not None:
                return found
        return Trouble("there is no such file")

    def _resting(self, name: str) -> Trouble | None:
        """Why nobody asks this place now. When its rest is over, the first who asks tries it, and the others wait for that."""
        rest = self._rests.get(name)
        if rest is None:
            return None
        now = time.monotonic()
        if now < rest[0]:
            return rest[1]
        self._rests[name] = (now + float(self._config.timeout), rest[1])
        return None

    def _heard(self, name: str, found: bytes | Trouble, now: float) -> None:
        if not isinstance(found, Trouble) or not found.away:
            self._strikes.pop(name, None)
            self._rests.pop(name, None)
            return
        self._strikes[name] = self._strikes.get(name, 0) + 1
        if self._strikes[name] >= STRIKES:
            self._rests[name] = (now + REST, found)

    def _keep(self, key: _Key, octets: bytes, now: float) -> None:
        cap, fresh = int(self._config.cache), float(self._config.fresh)
        if old := self._kept.pop(key, None):
            self.octets -= len(old[1])
        if len(octets) > cap or not (key[1] or fresh):
            return
        self._kept[key] = (float("inf") if key[1] else now + fresh, octets)
        self.octets += len(octets)
        while self.octets > cap:
            self.octets -= len(self._kept.popitem(last=False)[1][1])


def _hash(octets: bytes) -> str:
    return sha256(octets).hexdigest()
