"""Follow a running distillation: measure each checkpoint as soon as it is whole."""

import dataclasses
import time
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from pipeline.peers import fail_together
from pipeline.stage import Context
from stages.components.compute.distributed import ranks_of
from stages.components.student.checkpoints import (
    ALL,
    DONE,
    RUNNING,
    DistillRun,
    StudentWeights,
    find_run,
    running_checkpoints,
)
from stages.evaluate.inputs import find_image_vectors, find_teacher, query_prompt_of
from stages.evaluate.jobs.job_runner import JobRunner, jobs_of
from stages.evaluate.sets.requested_sets import read_requested_sets

if TYPE_CHECKING:
    from stages.evaluate.options import EvaluateInputs, EvaluateParams, EvaluateRuntime

POLL_S = 2.0
_HEADLINES = ("mean_recall", "zero_shot/top1", "knn/top1", "linear_probe/top1")


def follow(
    inputs: "EvaluateInputs", params: "EvaluateParams", runtime: "EvaluateRuntime", context: Context
) -> "EvaluateInputs":
    """Measure the checkpoints of a distillation while it runs, and wait for its end.

    Measurements are artifacts of their own: an interrupted watch loses nothing, and the evaluation of all checkpoints
    that follows takes them from the store.

    Returns:
        Inputs that name the finished student.

    Raises:
        ProtoRKDError: there is no such distillation, it ended before it was done, or the inputs are wrong.
    """
    if params.checkpoints != ALL:
        raise ProtoRKDError(
            f"--watch must go with --checkpoints {ALL}, for it measures each; got {params.checkpoints!r}. Pass both."
        )
    if params.calibrate:
        raise ProtoRKDError(
            f"--watch must go without --calibrate, which needs a student that is finished; got {params.calibrate[0]}. "
            "Leave it out, and calibrate once the distillation has ended."
        )
    ranks = ranks_of(context.peers)
    seen: set[str] = set()
    run = _look(inputs.student, context)
    log.info("evaluate: watching distill %s, which is %s", run.fingerprint[:12], run.state)
    JobRunner(params, None, runtime, context).log_device()
    while run.state != DONE:
        found = [each for each in running_checkpoints(context.store, run.fingerprint) if each.name not in seen]
        fresh: list[StudentWeights] = ranks.broadcast(found if ranks.is_first else None)
        for student in fresh:
            _measure(student, inputs, params, runtime, context)
            seen.add(student.name)
        if not fresh and run.state != RUNNING:
            raise ProtoRKDError(
                f"distill {run.fingerprint[:12]} must run to its end to be evaluated whole; it was stopped, with "
                f"{len(seen)} checkpoints, which are measured and kept. Run the same distill again, and watch it."
            )
        if not fresh:
            time.sleep(POLL_S)
        # The state is read before the next round's checkpoints, so that the last ones are not missed.
        run = _look(run.fingerprint, context)
    return dataclasses.replace(inputs, student=run.fingerprint)


def _look(reference: str | None, context: Context) -> DistillRun:
    """Find the distillation in the first process, for all processes."""
    peers, run = context.peers, None
    with fail_together(peers):
        if peers.is_first:
            run = find_run(context.store, reference)
    found: DistillRun = peers.broadcast(run)
    return found


def _measure(
    student: StudentWeights,
    inputs: "EvaluateInputs",
    params: "EvaluateParams",
    runtime: "EvaluateRuntime",
    context: Context,
) -> None:
    """Measure one checkpoint at every task, and log its headline metrics."""
    sets = [*read_requested_sets(inputs, params, context).readable.values()]
    teacher = find_teacher(inputs, params, student, sets, context)
    image_vectors = find_image_vectors(inputs, params, student, context)
    measurer = JobRunner(params, teacher, runtime, context, image_vectors=image_vectors)
    jobs = jobs_of(student, sets, query_prompt_of(inputs, teacher, sets))
    measurer.embed(jobs, shown=None)
    if ranks_of(context.peers).is_first:
        measured = [done for job in jobs if (done := measurer.measure(job))]
        metrics = {name: value for each in measured for name, value in each.flat().items()}
        shown = [f"{name} {value:.2f}" for name, value in metrics.items() if name.endswith(_HEADLINES)]
        log.info("evaluate: %s: %s", student.name, ", ".join(shown) or "nothing measured")
