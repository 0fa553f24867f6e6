"""Find an evaluation of one checkpoint by what a user calls it, and read it if its files are unchanged."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.artifact_record import ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.evaluation_report import REPORT_NAME, read_report
from data_schemas.per_query_results import OUTCOMES_FOLDER, OUTCOMES_NAME, QueryResults, outcomes_folder, read_outcomes
from pipeline.log import log
from pipeline.store.store import Artifact, Store
from stages.components.student.checkpoints import split_checkpoint

_EVALUATE, _DISTILL = "evaluate", "distill"


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one checkpoint of a student.

    Args:
        artifact: Artifact of evaluate; it may hold other checkpoints, too.
        checkpoint: Name of the checkpoint, such as ``last`` or ``epoch_3``.
        report: Report of the whole artifact.
        outcomes: Outcomes of this checkpoint, image by image.
    """

    artifact: Artifact
    checkpoint: str
    report: dict[str, Any]
    outcomes: Sequence[QueryResults]

    @property
    def name(self) -> str:
        """Reference that a user may pass: fingerprint and checkpoint."""
        return f"{self.artifact.record.fingerprint[:12]}@{self.checkpoint}"

    @property
    def student(self) -> str:
        """Fingerprint of the student."""
        return str(self.report["student"]["fingerprint"])

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of this checkpoint, by their names in the report."""
        found = (each["metrics"] for each in self.report["checkpoints"] if each["name"] == self.checkpoint)
        return next(found, {})


def read_evaluation(reference: str, *, store: Store, argument: str) -> Evaluation:
    """Find and read an evaluation.

    Args:
        reference: An artifact of evaluate, by a path or by the beginning of its fingerprint, or one of distill, whose
            newest evaluation is taken; with ``@epoch_3`` for another checkpoint than the last or only one.
        store: Store to search.
        argument: Name of the command's argument, for messages.

    Raises:
        ProtoRKDError: none or more than one fits, it has no such checkpoint, or a file was changed.
    """
    name, checkpoint = split_checkpoint(reference)
    artifact = _find_artifact(name, store=store, argument=argument)
    if artifact.record.stage == _DISTILL:
        artifact = _newest_of(artifact, store=store, argument=argument)
    artifact = store.fetch(artifact)
    checkpoint = _choose(checkpoint, artifact, argument=argument)
    folder = outcomes_folder(checkpoint)
    artifact.require_whole((REPORT_NAME, f"{folder}/"), read=True)
    return Evaluation(artifact, checkpoint, read_report(artifact.path), read_outcomes(artifact.path / folder))


def _find_artifact(name: str, *, store: Store, argument: str) -> Artifact:
    if name and (path := Path(name)).is_dir():
        artifact = Artifact(path=path, record=ArtifactRecord.read(path))
        if artifact.record.stage not in (_EVALUATE, _DISTILL):
            raise ProtoRKDError(
                f"{argument} must name an artifact of {_EVALUATE} or {_DISTILL}; got one of {artifact.record.stage}: "
                f"{path}. Run python cli.py status to see them."
            )
        return artifact
    known = []
    for stage in (_EVALUATE, _DISTILL):
        for path, error in store.unreadable(stage).items():
            if name and path.name.startswith(name):
                raise error
        known += store.artifacts(stage)
    fitting = [artifact for artifact in known if name and artifact.record.fingerprint.startswith(name)]
    if len(fitting) != 1:
        listing = ", ".join(artifact.name for artifact in (fitting or known)) or "none"
        raise ProtoRKDError(
            f"{argument} must name exactly one evaluation or student in {store}, by fingerprint or path; got "
            f"{name!r}. Known: {listing}."
        )
    return fitting[0]


def _newest_of(student: Artifact, *, store: Store, argument: str) -> Artifact:
    evaluations = [
        artifact
        for artifact in store.artifacts(_EVALUATE)
        if "student" in artifact.record.inputs and artifact.record.inputs["student"].digest == student.record.digest
    ]
    if not evaluations:
        raise ProtoRKDError(
            f"{argument} must name an evaluation, or a student that has one in {store}; got {student.name}, "
            f"which has none. Run evaluate with --student {student.record.fingerprint[:12]} first."
        )
    which = f", the newest of {len(evaluations)}" if len(evaluations) > 1 else ""
    log.info("%s: using %s of %s%s", argument, evaluations[-1].name, student.name, which)
    return evaluations[-1]


def _choose(checkpoint: str | None, artifact: Artifact, *, argument: str) -> str:
    known = [
        parts[1]
        for file in artifact.record.files
        if len(parts := file.path.split("/")) == 3 and (parts[0], parts[2]) == (OUTCOMES_FOLDER, OUTCOMES_NAME)
    ]
    if not known:
        raise ProtoRKDError(
            f"{argument} must hold outcomes of single images to be compared; {artifact.name} has none, as those made "
            "by earlier versions. Run evaluate again with the same options."
        )
    if checkpoint is None:  # the checkpoint that the report shows in full, the last that was measured
        artifact.require_whole((REPORT_NAME,), read=True)
        checkpoint = known[0] if len(known) == 1 else str(read_report(artifact.path)["student"]["checkpoint"])
    if checkpoint not in known:
        raise ProtoRKDError(
            f"{argument} must name a checkpoint that {artifact.name} has; got {checkpoint!r}. Choose one of "
            f"{', '.join(known)}, as in {artifact.record.fingerprint[:12]}@{known[0]}."
        )
    return checkpoint
