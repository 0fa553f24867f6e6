import os

import pytest
from toy_stage import Toy


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Two stages, a store and a source; without the wait for the disk, which no test can see."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Toy(tmp_path)
