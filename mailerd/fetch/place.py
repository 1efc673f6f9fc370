"""Where a reference leads, if the configuration allows it: the one judge for rows and for redirects. Pure.

A reference has a place before anything is looked up, the cache included: who may not name a place gets nothing of what
others have fetched from it. What is not allowed is permanent, and says which key would allow it.
"""

from __future__ import annotations

import os
import re
from fnmatch import fnmatchcase

import msgspec

from mailerd.compose.mime import Reference
from mailerd.config import url
from mailerd.config.attachments import Attachments, Store
from mailerd.config.url import Url
from mailerd.fetch.trouble import Stopped
from mailerd.http.sigv4 import signable

__all__ = ["Local", "Place", "Places", "Remote"]

LONGEST = 4096
_control = re.compile(r"[\x00-\x1f\x7f]").search


class Local(msgspec.Struct, frozen=True):
    """A file below the first of these folders that has it. `path` is relative, without `.` and `..`."""

    folders: tuple[str, ...]
    path: str

    @property
    def name(self) -> str:
        """Of where it is, apart from the file: what slows down or fails together has the same one."""
        return " or ".join(self.folders)

    @property
    def key(self) -> str:
        """Of this very file."""
        return f"{self.name}\0{self.path}"


class Remote(msgspec.Struct, frozen=True):
    """What to ask for: `text` goes to the wire as it is; `store` signs."""

    url: Url
    text: str
    store: Store | None = None

    @property
    def name(self) -> str:
        return self.url.origin

    @property
    def key(self) -> str:
        return self.text


Place = Local | Remote


class Places:
    """What [attachments] allows."""

    def __init__(self, config: Attachments) -> None:
        self._folders = tuple(os.path.normpath(folder) for folder in config.directories)
        self._origins = [url.parse(text) for text in config.origins]
        self._stores = [(url.parse(store.url), store) for store in config.store]
        self._digests = config.digests
        self._types = [pattern.lower() for pattern in config.types]

    def of(self, reference: Reference) -> Place:
        """Raises `Stopped` for what is not allowed."""
        self.allow_type(reference.type)
        if reference.path:
            return self._local(reference.path)
        if reference.url:
            return self.remote(reference.url)
        if self._digests is None:
            raise Stopped("sha256 alone is not allowed: there are no attachments.digests")
        if os.path.isabs(self._digests):
            return Local((os.path.normpath(self._digests),), reference.sha256)
        found = url.parse(f"{self._digests.rstrip('/')}/{reference.sha256}")
        return self._stored(found) or Remote(found, found.text)

    def allow_type(self, kind: str) -> None:
        bare = kind.partition(";")[0].strip().lower()
        if self._types and not any(fnmatchcase(bare, pattern) for pattern in self._types):
            raise Stopped(f"{bare[:80]} is not among attachments.types")

    def remote(self, text: str) -> Remote:
        try:
            found = url.parse(text)
        except ValueError as wrong:
            raise Stopped(f"url {wrong}") from None
        if (stored := self._stored(found)) is not None:
            return stored
        if not any(found.within(place) for place in self._origins):
            raise Stopped(f"url is not allowed: attachments.origins have nothing of {found.origin} that it begins with")
        return Remote(found, found.text)

    def _stored(self, found: Url) -> Remote | None:
        """As an object of the store that has it; None: there is none."""
        for place, store in self._stores:
            if found.within(place):
                return _signed(found, place, store)
        return None

    def _local(self, path: str) -> Local:
        if not self._folders:
            raise Stopped("path is not allowed: there are no attachments.directories")
        if len(path) > LONGEST or _control(path):
            raise Stopped("path is not a path")
        folders = self._folders
        if path.startswith("/"):
            # The longest, should one folder lie in another.
            inside = [folder for folder in folders if path.startswith(folder.rstrip("/") + "/")]
            if not inside:
                raise Stopped("path is not allowed: it is below none of attachments.directories")
            folders = (max(inside, key=len),)
            path = path[len(folders[0].rstrip("/")) + 1 :]
        if any(part in ("", ".", "..") for part in path.split("/")):
            raise Stopped("path must have no `.`, no `..` and no empty part")
        return Local(folders, path)


def _signed(found: Url, place: Url, store: Store) -> Remote:
    """An object of the bucket and nothing else: with our keys, no listing of it and no other call of the API."""
    pairs = [pair.partition("=")[0] for pair in found.query.split("&") if pair]
    if any(name != "versionId" for name in pairs) or len(pairs) > 1:
        raise Stopped(f"url of the store {store.name} may have no query but versionId")
    if not found.segments[-1] or len(found.segments) < len(place.segments):
        raise Stopped(f"url names no object of the store {store.name}")
    return Remote(found, signable(found.origin, found.segments, found.query), store)
