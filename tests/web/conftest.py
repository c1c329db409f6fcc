from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that do not end it."""
    running = Server(tmp_path_factory.mktemp("served") / "home")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory, astronaut: Any) -> Path:
    """The astronaut as a file."""
    path = tmp_path_factory.mktemp("photo") / "astronaut.png"
    Image.fromarray(astronaut).save(path)
    return path


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Servers of a test's own, ended with it."""
    started = list[Server]()

    def start(*flags: str, home: Path | None = None) -> Server:
        started.append(Server(home or tmp_path / "user" / "home", *flags))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.stop()
