"""Run the jobs of an evaluation one after another; a job that fails does not stop the others."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.peers import SingleProcess, fail_together
from pipeline.stage import Context, Input
from stages.components.compute.device import choose_device, describe_work
from stages.components.compute.distributed import ranks_of
from stages.components.compute.precision import choose_precision
from stages.components.inputs.vectors import VectorSource
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.identity import TeacherSource
from stages.evaluate.embeddings.cached_embeddings import FeatureRuntime, ImageEmbeddings, embed_images, identify_pass
from stages.evaluate.embeddings.checkpoint_embeddings import CheckpointEmbeddings
from stages.evaluate.jobs.job_artifact import Job, find_measurement, make_measurement
from stages.evaluate.sets.evaluation_sets import RequestedSet

if TYPE_CHECKING:
    from stages.evaluate.options import EvaluateParams, EvaluateRuntime
    from stages.evaluate.tasks.task_result import TaskResult


_HEADLINES = {
    "retrieval": "mean_recall",
    "query_bank": "mean_recall",
    "geometry": "modality_gap",
    "neighbourhoods": "neighbour_overlap@10",
    "clustering": "ari",
    "sts": "spearman",
}


@dataclass(frozen=True)
class Failure:
    """A task that failed, as the report lists it.

    Args:
        name: Name of the set.
        task: Name of the task.
        checkpoint: Name of the checkpoint.
        reason: A sentence that says why, and what to do.
    """

    name: str
    task: str
    checkpoint: str
    reason: str


class JobRunner:
    """Measures jobs, or takes their artifacts from the store, and collects those that fail.

    Args:
        params: Settings of the tasks.
        teacher: The student's teacher, or vectors of the texts; None where no task needs it.
        runtime: Device, batch sizes and workers, and the share of rejected images that a set may have.
        context: The run's context: its store, and the processes that embed images together.
        image_vectors: Features of images by another tool; None where the student embeds them.
    """

    def __init__(
        self,
        params: "EvaluateParams",
        teacher: Input[TeacherSource | VectorSource] | None,
        runtime: "EvaluateRuntime",
        context: Context,
        *,
        image_vectors: Input[VectorSource] | None = None,
    ) -> None:
        self._params, self._context = params, context
        self._teacher, self._image_vectors = teacher, image_vectors
        self._max_bad_fraction = runtime.max_bad_fraction
        self._runtime = FeatureRuntime(
            device=runtime.device,
            workers=runtime.workers,
            batch_size=runtime.batch_size,
            batch_tokens=runtime.batch_tokens,
        )
        self.alone = dataclasses.replace(context, peers=SingleProcess())
        self._embeddings: tuple[StudentWeights, CheckpointEmbeddings] | None = None
        self._embedded: dict[str, dict[str, ImageEmbeddings]] = {}  # by pass and set; mapped from their files
        self.failures: list[Failure] = []
        self.used: set[str] = set()

    def log_device(self) -> None:
        """Log the device and the precision that images are embedded with.

        Raises:
            ProtoRKDError: a process lacks the device; raised in all processes alike.
        """
        with fail_together(self._context.peers):
            device = choose_device(self._runtime.device)
            precision = choose_precision(self._params.precision, device)
        if self._context.peers.is_first:
            log.info("evaluate: on %s", describe_work(device, precision=precision))

    def embed(self, jobs: Sequence[Job], *, shown: StudentWeights | None) -> None:
        """Embed the images that jobs need, shared among the processes.

        Args:
            jobs: Jobs to prepare; those with an artifact need no embeddings.
            shown: Checkpoint whose images the page shows; they are embedded in any case. None for none.
        """
        ranks = ranks_of(self._context.peers)
        is_missing = ranks.broadcast([self._is_missing(job) for job in jobs] if ranks.is_first else None)
        passes = {
            (student.digest, images.digest): (student, images)
            for job, missing in zip(jobs, is_missing, strict=True)
            if missing or job.student is shown
            for student in [identify_pass(job.student, self._image_vectors)]
            for images in job.images
        }
        for student, images in passes.values():
            try:
                self._embedded.setdefault(student.digest, {})[images.digest] = embed_images(
                    student,
                    images,
                    precision=self._params.precision,
                    runtime=self._runtime,
                    context=self._context,
                )
            except ProtoRKDError as error:  # the same on all processes; the jobs will raise it again
                log.info("evaluate: %s", error)

    def measure(self, job: Job) -> "TaskResult | None":
        """Measure a job, or take its artifact; None where it fails."""
        try:
            measured, digest = make_measurement(
                job,
                self._params,
                self._teacher,
                image_vectors=self._image_vectors,
                embeddings=self.embeddings_of(job.student),
                context=self.alone,
            )
            self.used.add(digest)
            check_rejected(measured.entry, self._max_bad_fraction)
        except ProtoRKDError as error:
            self.fail(Failure(job.entry.evaluation_set.name, job.task, job.student.name, str(error)))
            return None
        log.info("evaluate: %s: %s%s", job.name, _in_short(measured.entry), _rejected_in_short(measured.entry))
        return measured

    def fail(self, failure: Failure) -> None:
        """Record and log a failure."""
        self.failures.append(failure)
        task = failure.task.replace("_", " ")
        log.info("evaluate: %s, %s of %s, failed: %s", failure.name, task, failure.checkpoint, failure.reason)

    def embeddings_of(self, student: StudentWeights) -> CheckpointEmbeddings:
        """Return the embeddings of a checkpoint; they are kept until another checkpoint is asked for."""
        if self._embeddings is None or self._embeddings[0] is not student:
            self._embeddings = (
                student,
                CheckpointEmbeddings(
                    student,
                    self._teacher,
                    image_vectors=self._image_vectors,
                    known=self._embedded.get(identify_pass(student, self._image_vectors).digest, {}),
                    precision=self._params.precision,
                    runtime=self._runtime,
                    context=self.alone,
                ),
            )
        return self._embeddings[1]

    def _is_missing(self, job: Job) -> bool:
        known = find_measurement(
            job, self._params, self._teacher, image_vectors=self._image_vectors, context=self.alone
        )
        return self._context.force or known is None


def _in_short(entry: Mapping[str, Any]) -> str:
    """Describe an entry by its headline measure, for the log."""
    metrics = entry["metrics"]
    measure = entry.get("headline") or _HEADLINES.get(entry["task"], "")
    if not metrics:
        return "nothing to measure on so few images"
    if measure not in metrics:
        measure = next(iter(metrics))
    return f"{measure} {metrics[measure]:.2f}"


def _rejected_in_short(entry: Mapping[str, Any]) -> str:
    """Say how many rows and images an entry is without, and why it is without the first."""
    return f" ({entry['rejected']} rejected, first {entry['first_rejected']})" if entry.get("rejected") else ""


def jobs_of(student: StudentWeights, entries: Sequence[RequestedSet], query_prompt: Input[str] | None) -> list[Job]:
    """List the jobs of a checkpoint, in the order of reports."""
    text = None if query_prompt is None else query_prompt.value
    return [Job(student, entry, task, text) for entry in entries for task in entry.tasks]


def check_rejected(entry: Mapping[str, Any], max_bad_fraction: float) -> None:
    """Refuse a set with too many rejections: its readable part alone is another, perhaps easier set.

    Raises:
        ProtoRKDError: more than that share of its rows and images were rejected.
    """
    if "num_images" not in entry:  # scored pairs of captions are all there
        return
    rejected, total = entry["rejected"], entry["rejected"] + entry["num_images"]
    if rejected > max_bad_fraction * total:
        raise ProtoRKDError(
            f"At most {max_bad_fraction:.1%} of a set may be rejected (--max-bad-fraction); {entry['name']} has "
            f"{rejected} of {total}, first {entry['first_rejected']}. Mend them, or raise --max-bad-fraction."
        )
