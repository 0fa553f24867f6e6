import pytest
from toy_stage import Toy


@pytest.fixture
def toy(tmp_path):
    """Two stages, a store and a source."""
    return Toy(tmp_path)
