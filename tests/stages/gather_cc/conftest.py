"""The server that tests of gather-cc ask, and a disk that they need not wait for."""

import os
from collections.abc import Iterator

import pytest
from misbehaving import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found


@pytest.fixture(autouse=True, scope="module")
def quick_disk() -> Iterator[None]:
    """Leave out the wait for the disk, which no test can see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(os, "sync", lambda: None)
        yield
