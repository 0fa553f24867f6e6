"""The server that tests of gather-cc ask."""

from collections.abc import Iterator

import pytest
from misbehaving import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("served")) as found:
        yield found
