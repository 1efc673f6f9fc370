from __future__ import annotations

from tests.daemon.conftest import server

__all__ = ["server"]
