from pathlib import Path

import pytest
from evaluations import make_measured, make_student, retrieval_outcomes

from pipeline.store.store import Artifact


def log_of(place: int) -> list[dict[str, float]]:
    return [
        {"step": 10 * epoch, "epoch": float(epoch), "loss": 5.0 / epoch + place, "validation/mean_recall": 5.0 * epoch}
        for epoch in (1, 2, 3)
    ]


@pytest.fixture(scope="session")
def students_session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Artifact]]:
    """Make a store with four students of two learning rates and seeds, the better ones later, and one unmeasured."""
    store = tmp_path_factory.mktemp("students") / "store"
    made = []
    for place, (lr, seed) in enumerate(((1e-3, 0), (1e-3, 1), (1e-2, 0), (1e-2, 1))):
        outcomes = retrieval_outcomes(place, ease=place)
        made.append(make_measured(store, "same", outcomes, lr=lr, seed=seed, log=log_of(place))[0])
    return store, [*made, make_student(store, "same", lr=3e-2, seed=0)]


@pytest.fixture
def store(students_session: tuple[Path, list[Artifact]]) -> Path:
    """Name the store of all tests here, which none of them writes to."""
    return students_session[0]


@pytest.fixture
def students(students_session: tuple[Path, list[Artifact]]) -> list[Artifact]:
    return students_session[1]
