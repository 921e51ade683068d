from __future__ import annotations

from collections.abc import Iterator

import pytest

from object_discovery.download import fetch as fetching

from .server import Server, serve


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve() as running:
        yield running
