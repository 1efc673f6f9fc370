"""A disk that is soon full: a tmpfs of a given size on a folder, unmounted afterwards.

Needs root on Linux, as only root mounts. It fills nothing by itself but with `fill`, and `free` gives that back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

from mailerd.bench.chaos.nothere import NotHere

__all__ = ["SmallDisk"]


class SmallDisk:
    """`mount`, then `fill` and `free` as often as wanted, then `unmount`; or `with`. Sizes in octets."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self._size = size
        self._ballast = folder / "ballast"

    def mount(self) -> None:
        """Raises `NotHere` where we may not."""
        if os.geteuid() != 0:
            raise NotHere("a small disk needs root: its tmpfs has to be mounted")
        if shutil.which("mount") is None:
            raise NotHere("a small disk needs mount(8): on Debian, apt-get install mount")
        self.folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={self._size},mode=0755", "mailerd-chaos", str(self.folder)],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
        if done.returncode:
            raise NotHere(f"a small disk cannot be mounted here: {done.stderr.strip()}")

    def fill(self) -> None:
        """Until nothing is left. Raises `NotHere` when it is not mounted: the disk below is not ours to fill."""
        if not self.folder.is_mount():
            raise NotHere(f"there is no small disk on {self.folder} now")
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65_536))

    def free(self) -> None:
        """Takes back what `fill` took."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        # Lazily: a server that is still writing must not keep us.
        subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False, timeout=10)

    def __enter__(self) -> SmallDisk:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()
