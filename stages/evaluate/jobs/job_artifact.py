"""Keep measurements as artifacts: one task on one set with one checkpoint's weights, measured once."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_schemas.files import read_json, write_json
from data_schemas.per_query_results import OUTCOMES_NAME, read_outcomes, write_outcomes
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.plan import plan_stage
from pipeline.runner import run_stage
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.calibration.calibration import CalibrationSource, identify_calibration
from stages.components.images.image_set import ImageSet
from stages.components.inputs.vectors import VectorSource
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.identity import TeacherSource
from stages.evaluate.sets.evaluation_sets import (
    ClassSet,
    RequestedSet,
    RetrievalSet,
    STSSet,
    labelled_digest,
    retrieval_digest,
    sts_digest,
)
from stages.evaluate.task_names import CALIBRATED_TASKS, NEED_TEACHER, NEED_TRAIN

if TYPE_CHECKING:
    from stages.evaluate.embeddings.checkpoint_embeddings import CheckpointEmbeddings
    from stages.evaluate.options import EvaluateParams
    from stages.evaluate.tasks.task_result import TaskResult

_ENTRY_NAME = "entry.json"


@dataclass(frozen=True)
class Job:
    """A task on a set with the weights of a checkpoint.

    Args:
        student: The weights. The task sts measures the teacher instead, and ignores them.
        entry: The set to measure on.
        task: Name of the task.
        query_prompt: What is put before captions that look for their image; None for what all captions have.
    """

    student: StudentWeights
    entry: RequestedSet
    task: str
    query_prompt: str | None = None

    @property
    def name(self) -> str:
        """Name for messages: set, task and checkpoint."""
        return f"{self.entry.evaluation_set.name}, {self.task.replace('_', ' ')} of {self.student.name}"

    @property
    def images(self) -> list[Input[ImageSet]]:
        """Images that the job needs embedded."""
        match self.entry.evaluation_set:
            case RetrievalSet(images=images):
                return [images]
            case ClassSet(train=train, test=test):
                splits = (train, test) if self.task in NEED_TRAIN else (test,)
                return [split.images for split in splits if split is not None]
        return []


@dataclass(frozen=True)
class _Params:
    """What changes the output."""

    task: str = option(help="What is measured.")
    settings: Mapping[str, Any] = option(help="Of the task.")
    precision: str = option(help="That images are embedded in.")


@dataclass(frozen=True)
class _Runtime:
    """The embeddings know where they are computed."""


@dataclass(frozen=True)
class _Inputs:
    """Inputs that evaluate has identified already; finding an artifact needs no embeddings, only measuring does."""

    job: Job
    teacher: Input[TeacherSource | VectorSource] | None
    image_vectors: Input[VectorSource] | None
    embeddings: "CheckpointEmbeddings | None" = None


@dataclass(frozen=True)
class _Sources:
    """What is measured, and with which models.

    Args:
        set: The set, identified by the splits that the task uses; its value is the whole job.
        student: The weights; None where the teacher itself is measured.
        teacher: The student's teacher, or vectors of the texts; None where the task needs none.
        image_vectors: Features of the images by another tool; None where the student embeds them, or there are none.
        calibration: Calibration of the student's scores; None where the task measures them as they are.
    """

    set: Input[_Inputs]
    student: Input[None] | None
    teacher: Input[TeacherSource | VectorSource] | None
    image_vectors: Input[VectorSource] | None
    calibration: Input[CalibrationSource] | None = None


def find_measurement(
    job: Job,
    params: "EvaluateParams",
    teacher: Input[TeacherSource | VectorSource] | None,
    *,
    image_vectors: Input[VectorSource] | None,
    context: Context,
) -> Artifact | None:
    """Find the whole artifact that answers a job; None if there is none."""
    asked = {"params": _params(job, params), "inputs": _Inputs(job, teacher, image_vectors), "runtime": _Runtime()}
    return plan_stage(MEASUREMENTS, **asked, context=context).artifact


def make_measurement(
    job: Job,
    params: "EvaluateParams",
    teacher: Input[TeacherSource | VectorSource] | None,
    *,
    image_vectors: Input[VectorSource] | None,
    embeddings: "CheckpointEmbeddings",
    context: Context,
) -> tuple["TaskResult", str]:
    """Measure a job, or take its artifact where it was measured before.

    Args:
        job: The job to measure.
        params: Settings of the tasks.
        teacher: The student's teacher, or vectors of the texts; None where no task needs it.
        image_vectors: Features of the images by another tool; None where the student embeds them.
        embeddings: Embeddings by the job's checkpoint.
        context: The run's context; its store keeps the artifact.

    Returns:
        The measurement, and the digest of its artifact.

    Raises:
        ProtoRKDError: the set or the weights do not allow the task.
    """
    from stages.evaluate.tasks.task_result import TaskResult

    inputs = _Inputs(job, teacher, image_vectors, embeddings)
    outcome = run_stage(MEASUREMENTS, params=_params(job, params), inputs=inputs, runtime=_Runtime(), context=context)
    outcome.require_whole()
    artifact = outcome.artifact
    outcomes = read_outcomes(artifact.path) if (artifact.path / OUTCOMES_NAME).exists() else []
    return TaskResult(entry=read_json(artifact.path / _ENTRY_NAME), outcomes=tuple(outcomes)), artifact.record.digest


def _params(job: Job, params: "EvaluateParams") -> _Params:
    settings: dict[str, Any] = {"num_resamples": params.num_resamples, "seed": params.seed}
    if job.task in ("retrieval", *CALIBRATED_TASKS.values()) and job.query_prompt is not None:
        settings |= {"query_prompt": job.query_prompt}
    elif job.task == "zero_shot":
        settings |= {"templates": job.entry.templates}
    elif job.task in ("knn", "knn_backbone"):
        settings |= {"k": params.knn_k, "temperature": params.knn_temperature}
    elif job.task in ("linear_probe", "linear_probe_backbone"):
        settings |= {"solver": params.probe_solver, "max_iterations": params.probe_iterations}
    return _Params(task=job.task, settings=settings, precision="" if job.task == "sts" else params.precision)


def _identify(inputs: _Inputs, _params: object, _context: Context) -> _Sources:
    job, requested = inputs.job, inputs.job.entry.evaluation_set
    match requested:
        case RetrievalSet():
            digest = retrieval_digest(requested)
        case ClassSet():
            splits = (requested.train, requested.test) if job.task in NEED_TRAIN else (requested.test,)
            parts = [labelled_digest(split) for split in splits if split is not None]
            digest = hash_json([parts, list(requested.class_names), requested.mean_per_class])
        case STSSet():
            digest = sts_digest(requested)
    # The name is part of what is written: in the entry, and in the outcomes.
    needs_teacher = job.task in NEED_TEACHER
    assert inputs.teacher is not None or not needs_teacher
    return _Sources(
        set=Input(digest=hash_json([requested.name, digest]), value=inputs),
        student=None if job.task == "sts" else Input(job.student.identity, str(job.student.folder), value=None),
        teacher=inputs.teacher if needs_teacher else None,
        image_vectors=None if job.task == "sts" else inputs.image_vectors,
        calibration=next(
            (identify_calibration(job.student, kind) for kind, task in CALIBRATED_TASKS.items() if task == job.task),
            None,
        ),
    )


def _measure(params: _Params, sources: _Sources, out: Draft, runtime: _Runtime, context: Context) -> Result:
    from stages.evaluate.tasks.registry import TASKS

    job, embeddings = sources.set.value.job, sources.set.value.embeddings
    assert embeddings is not None
    embeddings.take_used()
    measured = TASKS[params.task](job.entry.evaluation_set, embeddings, **params.settings)
    write_json(out.path / _ENTRY_NAME, measured.entry)
    if measured.outcomes:
        write_outcomes(out.path, measured.outcomes)
    return Result(counts={}, metrics=measured.flat(), uses=embeddings.take_used())


MEASUREMENTS = Stage(
    name="measurements",
    version=2,
    summary="Measure a student at one task on one set.",
    params=_Params,
    inputs=_Inputs,
    runtime=_Runtime,
    identify=_identify,
    run=_measure,
    quiet=True,
)
