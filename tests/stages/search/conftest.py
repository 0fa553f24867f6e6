"""A set of pictures that is embedded, to be searched."""

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
    pictures = encoded_session[1]
    return Embedded(store, pictures, Cli(store)(*EMBED, "--manifest", pictures.manifest))


@pytest.fixture
def embedded(embedded_session: Embedded, store: Path) -> Embedded:
    """The same, in this test's own store."""
    shutil.copytree(embedded_session.store, store)
    return Embedded(store, embedded_session.pictures, embedded_session.outcome)
