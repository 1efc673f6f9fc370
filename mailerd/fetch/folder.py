"""Files below one folder, read in threads of their own, so that a file system that hangs stops nobody but who asks for it.

A path is resolved first, symbolic links included, and must then still lie below the folder; what is opened is the resolved
path, component by component, none of them a link: exchanging one in between leads nowhere else. Regular files only, and
looked at before they are opened, so that no pipe and no device is ever waited for.

Hazard: a read that hangs cannot be ended; its thread keeps its place of `THREADS`, and is left behind at the end of the
process. That is why these are no threads of an executor, which the interpreter would wait for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading

from mailerd.fetch.trouble import Stopped, Trouble

__all__ = ["Folder", "read"]

THREADS = 4
# What another attempt would only meet again. All else may pass: EIO, ESTALE, ETIMEDOUT, EMFILE, …
_PERMANENT = frozenset(
    getattr(errno, name)
    for name in (
        [
            "ENOENT",
            "ENOTDIR",
            "EISDIR",
            "EACCES",
            "EPERM",
            "ELOOP",
            "ENAMETOOLONG",
            "EINVAL",
            "ENXIO",
            "ENODEV",
            "EOVERFLOW",
        ]
    )
)


class Folder:
    """Use within one running loop."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._free = asyncio.Semaphore(THREADS)

    async def read(self, path: str, limit: int) -> bytes | Trouble | None:
        """The octets, at most `limit`, or why there are none; None: there is no such file. May be cancelled; the thread goes
        on then, without anybody to hear of it."""
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        result: asyncio.Future[bytes | Trouble | None] = loop.create_future()

        def done(found: bytes | Trouble | None) -> None:
            self._free.release()
            if not result.done():
                result.set_result(found)

        def work() -> None:
            found = read(self.path, path, limit)
            if not loop.is_closed():
                loop.call_soon_threadsafe(done, found)

        try:
            threading.Thread(target=work, name="attachment", daemon=True).start()
        except RuntimeError as error:
            done(Trouble(f"cannot be read: {error}", temporary=True))
        return await result


def read(folder: str, path: str, limit: int) -> bytes | Trouble | None:
    """The file `path` (relative, without `..`) below `folder`. Blocks; raises nothing."""
    try:
        return _read(folder, path, limit)
    except Stopped as stopped:
        return stopped.trouble
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        return Trouble(f"cannot be read: {error.strerror or error}", temporary=error.errno not in _PERMANENT)
    except Exception as error:  # such as UnicodeEncodeError: it concerns this file alone
        return Trouble(f"cannot be read: {error!r}"[:300])


def _read(folder: str, path: str, limit: int) -> bytes:
    try:
        root = os.path.realpath(folder, strict=True)
    except OSError as error:
        # Not the row's fault: a share that is not mounted, perhaps.
        raise Stopped(f"{folder} cannot be entered: {error.strerror or error}", temporary=True) from None
    real = os.path.realpath(os.path.join(root, path), strict=True)
    if os.path.commonpath((root, real)) != root or real == root:
        raise Stopped("path leads out of its folder by a symbolic link")
    with open(_open(root, os.path.relpath(real, root).split("/")), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Stopped("is not a regular file")
        octets = file.read(limit + 1)
    if len(octets) > limit:
        raise Stopped(f"is larger than {limit} octets (attachments.size)")
    return octets


def _open(root: str, parts: list[str]) -> int:
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        if not stat.S_ISREG(os.stat(parts[-1], dir_fd=at, follow_symlinks=False).st_mode):
            raise Stopped("is not a regular file")
        return os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)
