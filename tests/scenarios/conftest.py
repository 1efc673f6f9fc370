from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.daemon.harness import Server


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()
