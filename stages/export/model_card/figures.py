"""Find the figures for a model card, in an evaluation of the same weights that are exported."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.evaluation_report import REPORT_NAME, interval_size, read_report
from data_schemas.images.student_checkpoint import WEIGHTS_NAME, checkpoint_path
from pipeline.log import log
from pipeline.store.store import Artifact, Store
from stages.components.student.checkpoints import LAST, StudentWeights

NONE = "none"

_STAGE = "evaluate"
_TASKS = {
    "retrieval": "image-text retrieval",
    "zero_shot": "zero-shot classification",
    "knn": "nearest neighbours",
    "knn_backbone": "nearest neighbours, before the projection head",
    "linear_probe": "linear probe",
    "linear_probe_backbone": "linear probe, before the projection head",
}


@dataclass(frozen=True)
class Figure:
    """A value of a measure on a set of images.

    Args:
        set: Name of the set.
        task: Name of the task for people.
        task_name: Name of the task in the report.
        measure: Name of the measure, such as ``text_to_image/recall@10``.
        value: Value in percent, or a rank for ``median_rank``.
        interval: Ends of the 95 % interval, or None.
        chance: Value of guessing, or None if it is not known.
        num_images: Number of images that were measured.
    """

    set: str
    task: str
    task_name: str
    measure: str
    value: float
    interval: tuple[float, float] | None
    chance: float | None
    num_images: int


@dataclass(frozen=True)
class ChosenEvaluation:
    """An evaluation of the weights that are exported.

    Args:
        artifact: Artifact of evaluate.
        report: Report as it was written.
        is_shown: Whether the report shows these weights in full, with intervals, or only has their metrics.
        checkpoint: Name of the weights in the report.
    """

    artifact: Artifact
    report: dict[str, Any]
    is_shown: bool
    checkpoint: str

    def figures(self) -> list[Figure]:
        """Return the figures of common tasks; the analysis of the space stays in the report."""
        return list(self._figures())

    def overlaps(self) -> list[dict[str, Any]]:
        """Return the entries of sets of which images, or near copies, were trained on."""
        return [entry for entry in self.report["overlap"] if entry["num_exact"] or entry["num_near"]]

    def _figures(self) -> Iterator[Figure]:
        flat = next(each["metrics"] for each in self.report["checkpoints"] if each["name"] == self.checkpoint)
        for entry in self.report["sets"]:
            task = entry["task"]
            if task not in _TASKS:
                continue
            prefix = entry["name"] if task == "retrieval" else f"{entry['name']}/{task}"
            for measure in sorted(entry["metrics"], key=_natural):
                value = flat.get(f"{prefix}/{measure}")
                if value is None:  # a task that failed for these weights
                    continue
                ends = entry["intervals"].get(measure) if self.is_shown else None
                yield Figure(
                    set=entry["name"],
                    task=_TASKS[task],
                    task_name=task,
                    measure=measure,
                    value=value,
                    interval=(ends["low"], ends["high"]) if ends else None,
                    chance=entry["chance"].get(measure),
                    num_images=interval_size(ends) if ends else int(entry.get("num_images", 0)),
                )


def find_evaluation(reference: str | None, *, student: StudentWeights, store: Store) -> ChosenEvaluation | None:
    """Find the evaluation whose figures the card shows.

    Args:
        reference: Value of ``--evaluation``: an artifact of evaluate, ``none``, or None for the newest.
        student: Weights that are exported.
        store: Store with the evaluations.

    Raises:
        ProtoRKDError: the named evaluation is of other weights, or has changed.
    """
    if reference == NONE:
        return None
    assert student.artifact is not None
    digest, names = student.artifact.record.digest, _names(student)
    if reference is not None:
        artifact = store.resolve(reference, stage=_STAGE, flag="--evaluation")
        chosen = _read(artifact, names) if artifact.record.inputs["student"].digest == digest else None
        if chosen is None:
            raise ProtoRKDError(
                f"--evaluation must have measured {student.artifact.name}, {student.name}; {artifact.name} has not. "
                f"Run evaluate with --student {student.fingerprint[:12]} and --checkpoints, or pass {NONE} here."
            )
        return chosen
    return store.chosen(f"{_STAGE} of {digest} {student.name}", lambda: _newest(digest, names, store))


def _newest(digest: str, names: set[str], store: Store) -> ChosenEvaluation | None:
    for artifact in reversed(store.artifacts(_STAGE)):
        if artifact.record.inputs["student"].digest == digest and (chosen := _read(store.fetch(artifact), names)):
            log.info("export: figures of %s, the newest evaluation of these weights", artifact.name)
            return chosen
    return None


def _natural(measure: str) -> tuple[str, int]:
    """Order recall@5 before recall@10."""
    name, _, number = measure.partition("@")
    return name, int(number) if number.isdecimal() else 0


def _read(artifact: Artifact, names: set[str]) -> ChosenEvaluation | None:
    artifact.require_whole((REPORT_NAME,), read=True)
    report = read_report(artifact.path)
    shown = str(report["student"]["checkpoint"])
    measured = {each["name"] for each in report["checkpoints"]} & names
    if not measured:
        return None
    checkpoint = shown if shown in measured else min(measured)
    return ChosenEvaluation(artifact, report, is_shown=checkpoint == shown, checkpoint=checkpoint)


def _names(student: StudentWeights) -> set[str]:
    """Return the names that an evaluation may use for these weights: the last ones may also be those of an epoch."""
    assert student.artifact is not None
    same = {file.path for file in student.artifact.record.files if file.sha256 == student.sha256}
    epochs = student.artifact.record.params.get("epochs", 0)
    known = {checkpoint_path(epoch): f"epoch_{epoch}" for epoch in range(1, epochs + 1)} | {WEIGHTS_NAME: LAST}
    return {student.name} | {name for path, name in known.items() if path in same}
