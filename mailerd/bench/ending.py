"""Signals around a test that starts processes: they end it like Ctrl-C, and never its clean-up.

`ended_by_signals` turns TERM and HUP into the KeyboardInterrupt of a Ctrl-C, so that every `finally` runs.
`undisturbed` is for those `finally`s: what arrives meanwhile is dropped, as an interrupted clean-up leaves processes
and folders behind. Whatever runs inside it must end by deadlines of its own.

Hazard: signal handlers are the main thread's; both must be called there.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

__all__ = ["ended_by_signals", "undisturbed"]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def _handled(handlers: dict[signal.Signals, Callable[[int, FrameType | None], object]]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """TERM and a closed terminal end us as Ctrl-C does, so that what we started is cleaned up.

    asyncio turns the first SIGINT into a cancellation, hence the detour. Also a shell's background job, which starts
    with SIGINT ignored, can be ended. Whatever fails after the signal, such as a connection that was being made, fails for
    it: that is an interruption, too.
    """
    told = False

    def interrupt(*_: object) -> None:
        nonlocal told
        told = True
        signal.raise_signal(signal.SIGINT)

    with _handled({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}):
        try:
            yield
        except Exception:
            if told:
                raise KeyboardInterrupt from None
            raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that would end us are dropped until the block is done."""
    with _handled({number: lambda *_: None for number in _ENDING}):
        yield
