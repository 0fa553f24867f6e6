"""Rows of results without a store: a row of one artifact, with options and figures."""

from pathlib import Path
from typing import Any

from data_schemas.artifact_record import ArtifactRecord
from pipeline.results.figure import Figure
from pipeline.results.rows import ResultRow
from pipeline.store.store import Artifact


def some_artifact(name: str, *, created: str = "2026-01-01T00:00:00") -> Artifact:
    record = ArtifactRecord(
        stage="toy", version=1, fingerprint=f"{name:0<32}", digest=name, params={}, inputs={}, files=(), counts={},
        metrics={}, uses=(), created=created, environment={},
    )  # fmt: skip
    return Artifact(Path("store/toy") / record.fingerprint, record)


def recall(value: float, **more: Any) -> Figure:
    return Figure(value, better="higher", is_headline=True, **more)


def some_row(name: str, *, seconds: float | None = 12.5, pairs: int = 1200, **options: Any) -> ResultRow:
    """Make a row; figures are passed as ``figures``."""
    figures = options.pop("figures", {})
    return ResultRow(
        artifacts=(some_artifact(name),),
        options={key.replace("_", "-"): value for key, value in options.items()},
        figures=figures,
        facts={"seconds": seconds, "pairs": pairs},
        told=("seed",),
    )


def some_rows() -> list[ResultRow]:
    """Make four students of two learning rates and two seeds, the last without a figure."""

    def row(name: str, lr: float, seed: int, value: float) -> ResultRow:
        figures = {"test/mean_recall": recall(value, low=value - 2, high=value + 2)}
        return some_row(name, lr=lr, seed=seed, loss=["infonce=1"], figures=figures)

    measured = [row("a", 1e-3, 0, 30.0), row("b", 1e-3, 1, 31.0), row("c", 2e-3, 0, 35.0)]
    return [*measured, some_row("d", lr=2e-3, seed=1, loss=["infonce=1"], seconds=None)]
