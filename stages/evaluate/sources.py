"""The inputs of evaluate once identified: the student's checkpoints, its teacher, the sets, and the training images."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.sources import hashed_as
from pipeline.stage import Input
from stages.components.inputs.vectors import VectorSource
from stages.components.teacher.identity import TeacherSource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.store.store import Artifact
    from stages.components.images.image_set import ImageSet
    from stages.components.inputs.training_images import AbsentImages
    from stages.components.student.checkpoints import StudentWeights
    from stages.evaluate.sets.datasets import Absent
    from stages.evaluate.sets.evaluation_sets import RequestedSet, UnreadSet


@dataclass(frozen=True)
class Checkpoints:
    """The student's checkpoints that are measured.

    Args:
        students: Their weights, in the order of their epochs; the report shows the last in full.
        artifact: Artifact of distill that holds them.
    """

    students: "tuple[StudentWeights, ...]"
    artifact: "Artifact"


@dataclass(frozen=True)
class EvaluateSources:
    """What the inputs name, identified by content.

    Args:
        student: The checkpoints that are measured.
        sets: The sets that could be read and allow a task, under keys such as ``retrieval NAME``.
        unread: The sets that could not be read, under keys such as ``unread NAME``.
        teacher: The student's teacher, or vectors of the texts by it; None where no task needs it.
        query_prompt: What is put before captions that look for their image; None for what all captions have.
        absent: The known sets that are not below ``--eval-data-dir``; None where none is absent.
        training: The images that the student was distilled from, or why they are not available; None without
            ``--overlap``.
        image_vectors: Features of the sets' images by another tool; None where the student embeds images.
        calibration: What the calibrations of all checkpoints are computed from; None without ``--calibrate``.
    """

    student: Input[Checkpoints]
    sets: "Mapping[str, Input[RequestedSet]]"
    unread: "Mapping[str, Input[UnreadSet]]"
    teacher: Input[TeacherSource | VectorSource] | None
    query_prompt: Input[str] | None = field(metadata=hashed_as("query prompt"))
    absent: "Input[tuple[Absent, ...]] | None" = field(metadata=hashed_as("absent sets"))
    training: "Input[ImageSet] | AbsentImages | None" = field(metadata=hashed_as("training pictures"))
    image_vectors: Input[VectorSource] | None = None
    calibration: Input[None] | None = None
