"""Run the evaluate stage: embeddings, measurements, report, page, tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from data_schemas.artifact_record import PAGE_NAME, ArtifactRecord
from data_schemas.errors import PartialError, ProtoRKDError
from data_schemas.evaluation_report import REPORT_NAME, write_report
from data_schemas.files import write_atomic
from data_schemas.images.student_checkpoint import StudentConfig
from data_schemas.per_query_results import outcomes_folder, write_outcomes
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from stages.components.compute.distributed import ranks_of
from stages.components.images.packed_image_set import PACK
from stages.components.inputs.vectors import VectorSource
from stages.evaluate.inputs import teacher_name
from stages.evaluate.jobs.job_runner import Failure, JobRunner, jobs_of
from stages.evaluate.overlap.report import OverlapReport, measure_overlap
from stages.evaluate.page.draw import draw_page
from stages.evaluate.result_tables import METRICS_TABLE_NAME, RESULTS_NAME, metrics_table, result_lines
from stages.evaluate.tasks.task_result import TaskResult

if TYPE_CHECKING:
    from stages.evaluate.options import EvaluateParams, EvaluateRuntime
    from stages.evaluate.sources import EvaluateSources

_EVERY_CHECKPOINT = "every checkpoint"
_NAMED_FAILURES = 5
_FEATURE_CHANGES = ("feature_noise", "feature_mixup")  # of distill, recorded where they are not the defaults

Results = Mapping[str, Sequence[TaskResult]]
"""Results of the tasks that did not fail, by name of the checkpoint."""


def measure(
    params: "EvaluateParams", sources: "EvaluateSources", out: Draft, runtime: "EvaluateRuntime", context: Context
) -> Result:
    """Measure every checkpoint on every set, and write the results; the first of several processes writes.

    Raises:
        PartialError: a task failed; the results of the others lie in the draft.
        ProtoRKDError: all of them failed.
    """
    checkpoints = sources.student.value
    shown = checkpoints.students[-1]
    sets = [each.value for each in sources.sets.values()]
    packs = {images.parts[PACK] for each in sets for images in each.images() if PACK in images.parts}
    for digest in packs:
        context.use(digest)
    runner = JobRunner(params, sources.teacher, runtime, context, image_vectors=sources.image_vectors)
    runner.log_device()
    jobs = {student.name: jobs_of(student, sets, sources.query_prompt) for student in checkpoints.students}
    runner.embed([job for each in jobs.values() for job in each], shown=shown)
    if not ranks_of(context.peers).is_first:
        return Result(counts={})

    for unread in sources.unread.values():
        runner.fail(Failure(unread.value.name, "reading", _EVERY_CHECKPOINT, unread.value.reason))
    results = {name: [done for job in each if (done := runner.measure(job))] for name, each in jobs.items()}
    if not any(results.values()):
        raise ProtoRKDError(" ".join(dict.fromkeys(failure.reason for failure in runner.failures)))

    overlap = OverlapReport([], set())
    try:
        overlap = measure_overlap(
            [each.evaluation_set for each in sets],
            training=sources.training,
            workers=runtime.workers,
            context=runner.alone,
        )
    except ProtoRKDError as error:
        runner.fail(Failure("training pictures", "overlap", _EVERY_CHECKPOINT, str(error)))
    precision = "/".join(runner.embeddings_of(shown).precisions)
    report = _describe(sources, context, precision=precision) | {
        "sets": [measured.entry for measured in results[shown.name]],
        "metrics": _flat(results[shown.name]),
        "checkpoints": [
            {"name": student.name, "epoch": student.epoch, "metrics": _flat(results[student.name])}
            for student in checkpoints.students
        ],
        "failures": [asdict(failure) for failure in runner.failures],
        "overlap": overlap.entries,
    }
    page = draw_page(
        report,
        sets,
        checkpoints=checkpoints,
        embeddings=runner.embeddings_of(shown),
        query_prompt=sources.query_prompt,
        training=sources.training,
        map_method=params.map,
        seed=params.seed,
        context=runner.alone,
    )
    _write(out, report, results, page=page)
    if runner.failures:
        raise _partial(out, report)
    counts = {
        "checkpoints": len(checkpoints.students),
        "sets": len(sets),
        "measurements": sum(map(len, results.values())),
    }
    uses = packs | runner.used | overlap.used | set(runner.embeddings_of(shown).take_used())
    return Result(counts=counts, metrics=report["metrics"], uses=tuple(sorted(uses)))


def _describe(sources: "EvaluateSources", context: Context, *, precision: str) -> dict[str, Any]:
    """Describe for the report the student, its teacher and the sets that are absent."""
    checkpoints = sources.student.value
    shown, config = checkpoints.students[-1], checkpoints.students[-1].config
    given = {"caption_vectors": sources.teacher, "image_vectors": sources.image_vectors}
    vectors = {name: each for name, each in given.items() if each and isinstance(each.value, VectorSource)}
    absent = () if sources.absent is None else sources.absent.value
    return {
        "student": {
            "fingerprint": shown.fingerprint,
            "checkpoint": shown.name,
            "backbone": config.backbone,
            "image_size": config.preprocessing.image_size,
            "embedding_dim": config.embedding_dim,
            "precision": precision,
            "losses": [f"{name}={weight:g}" for name, weight in config.losses.items()],
            **_describe_head(config, checkpoints.artifact.record),
        },
        "teacher": {
            "name": teacher_name(config.teacher.identity, sources.teacher, context),
            **asdict(config.teacher),
        },
        **{name: each.location for name, each in vectors.items()},
        **{f"{name}_digest": each.digest for name, each in vectors.items()},
        "absent": [
            {"name": each.name, "places": [str(place) for place in each.places], "reason": each.reason}
            for each in absent
        ],
    }


def _describe_head(config: StudentConfig, distilled: ArtifactRecord) -> dict[str, Any]:
    """Describe the head of a student of features, and what it was trained on; nothing of other students."""
    if config.head is None:
        return {}
    trained = {name: distilled.params[name] for name in _FEATURE_CHANGES if name in distilled.params}
    features = distilled.inputs.get("features")
    return {
        "head": asdict(config.head) | trained,
        "backbone_digest": config.backbone_digest,
        "features_digest": "" if features is None else features.digest,
    }


def _write(out: Draft, report: dict[str, Any], results: Results, *, page: str) -> None:
    """Write report, page, tables and outcomes; adopted files stay in the draft where a task has failed."""
    entries = {name: [measured.entry for measured in each] for name, each in results.items()}
    write_report(out.path, report)
    write_atomic(out.path / PAGE_NAME, page.encode())
    write_atomic(out.path / METRICS_TABLE_NAME, metrics_table(report, entries))
    write_atomic(out.path / RESULTS_NAME, result_lines(report, entries))
    for name, each in results.items():
        outcomes = [outcome for measured in each for outcome in measured.outcomes]
        if outcomes:
            write_outcomes(out.path / outcomes_folder(name), outcomes)
    for path in (REPORT_NAME, PAGE_NAME, METRICS_TABLE_NAME, RESULTS_NAME):
        out.adopt(path)


def _partial(out: Draft, report: Mapping[str, Any]) -> PartialError:
    failures = report["failures"]
    named = [
        f"{failure['name']}, {failure['task'].replace('_', ' ')} of {failure['checkpoint']}: {failure['reason']}"
        for failure in failures[:_NAMED_FAILURES]
    ]
    more = f" And {len(failures) - len(named)} more." if len(failures) > len(named) else ""
    message = (
        f"Every task must be done for an evaluation to be whole; {len(failures)} failed. {' '.join(named)}{more} What "
        f"the others found lies in {out.path / PAGE_NAME}; once these are mended, the same command does them alone."
    )
    return PartialError(message, {"path": str(out.path), "metrics": report["metrics"], "failures": failures})


def _flat(measured: Sequence[TaskResult]) -> dict[str, float]:
    return {name: value for each in measured for name, value in each.flat().items()}
