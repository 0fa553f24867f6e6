"""A set of images that is embedded, to be searched."""

import shutil
from pathlib import Path

import pytest
from searching import EMBED, Embedded
from workbench import Cli, Pairs, Trained


@pytest.fixture(scope="session")
def embedded_session(
    undisturbed: Trained, encoded_session: tuple[Path, Pairs], tmp_path_factory: pytest.TempPathFactory
) -> Embedded:
    store = shutil.copytree(undisturbed.store, tmp_path_factory.mktemp("embedded") / "store")
    images = encoded_session[1]
    return Embedded(store, images, Cli(store)(*EMBED, "--manifest", images.manifest))


@pytest.fixture
def embedded(embedded_session: Embedded, store: Path) -> Embedded:
    """Return the same, in this test's own store."""
    shutil.copytree(embedded_session.store, store)
    return Embedded(store, embedded_session.images, embedded_session.outcome)


@pytest.fixture(scope="module")
def own_store(embedded_session: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the embedded images for a module whose searches leave an index beside them."""
    return Path(shutil.copytree(embedded_session.store, tmp_path_factory.mktemp("searched") / "store"))
