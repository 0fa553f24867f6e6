"""What the evaluate stage does, put together: features, tasks, report, page."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import Tensor

from data_schemas.errors import ProtoRKDError
from data_schemas.evaluation_report import PAGE_NAME, write_report
from data_schemas.files import write_atomic
from pipeline.draft import Draft
from pipeline.log import log
from pipeline.stage import Context, Input, Result
from stages.evaluate.checkpoints import LoadedStudent
from stages.evaluate.features import FeatureRuntime, ImageEmbeddings, embed_captions, embed_images
from stages.evaluate.inputs import teacher_name
from stages.evaluate.page import render_page
from stages.evaluate.sets import LabelledSet, RetrievalSet, Splits
from stages.evaluate.tasks import SetReport, knn, retrieval, zero_shot
from stages.recipe import Recipe

if TYPE_CHECKING:
    from stages.evaluate.stage import EvaluateParams, EvaluateRuntime


def measure(
    params: "EvaluateParams", inputs: Mapping[str, Input], out: Draft, runtime: "EvaluateRuntime", context: Context
) -> Result:
    """Measure a student on every set among the inputs.

    Raises:
        ProtoRKDError: a set has no readable picture, or student or teacher cannot be loaded.
    """
    student: LoadedStudent = inputs["student"].value
    embedder = _Embedder(student, inputs.get("teacher"), runtime, context)
    reports = [_measure_set(entry.value, embedder, params) for entry in inputs.values() if entry.value is not None]
    done = [report for report in reports if report is not None]
    for each in done:
        _check_rejected(each.entry, runtime.max_bad_fraction)
    metrics = {name: value for report in done for name, value in report.flat().items()}
    report = _report(student, done, metrics, teacher_name=teacher_name(student, inputs.get("teacher"), context))
    write_report(out.path, report)
    page = render_page(report, [each.gallery for each in done if each.gallery is not None])
    write_atomic(out.path / PAGE_NAME, page.encode())
    counts = {"sets": len(done), "images": sum(each.entry["num_images"] for each in done)}
    return Result(counts=counts, metrics=metrics, uses=tuple(sorted(set(embedder.used))))


def _measure_set(found: object, embedder: "_Embedder", params: "EvaluateParams") -> SetReport | None:
    match found:
        case RetrievalSet():
            return retrieval(found, embedder.images(found.images), embedder.captions)
        case LabelledSet():
            return zero_shot(found, embedder.images(found.images), embedder.captions, templates=params.template)
        case Splits():
            train, test = embedder.images(found.train.images), embedder.images(found.test.images)
            return knn(found, train, test, k=params.knn_k, temperature=params.knn_temperature)
    return None


def _check_rejected(entry: Mapping[str, Any], max_bad_fraction: float) -> None:
    """A set that is measured on its readable part alone is another, easier set."""
    rejected, total = entry["rejected"], entry["rejected"] + entry["num_images"]
    if rejected:
        log.info("evaluate: %s: %d rows or pictures are left out", entry["name"], rejected)
    if rejected > max_bad_fraction * total:
        raise ProtoRKDError(
            f"At most {max_bad_fraction:.1%} of a set may be rejected (--max-bad-fraction); {entry['name']} has "
            f"{rejected} of {total}, first {entry['first_rejected']}. Mend them, or raise --max-bad-fraction."
        )


class _Embedder:
    """Embeds pictures and captions through artifacts, and notes which."""

    def __init__(
        self, student: LoadedStudent, teacher: Input | None, runtime: "EvaluateRuntime", context: Context
    ) -> None:
        self._student = student
        self._teacher = teacher
        self._context = context
        self._runtime = FeatureRuntime(
            device=runtime.device,
            workers=runtime.workers,
            batch_size=runtime.batch_size,
            batch_tokens=runtime.batch_tokens,
        )
        self._images: dict[str, ImageEmbeddings] = {}
        self.used: list[str] = []

    def images(self, images: Input) -> ImageEmbeddings:
        """One row a readable picture; the same pictures are embedded once, whatever task asks for them."""
        if images.digest not in self._images:
            found = embed_images(self._student, images, runtime=self._runtime, context=self._context)
            self._images[images.digest] = found
            self.used.append(found.digest)
        return self._images[images.digest]

    def captions(self, captions: tuple[str, ...]) -> Tensor:
        """One row a caption: (captions, dim), float32."""
        assert self._teacher is not None
        recipe = Recipe.of(self._student.config.teacher.recipe)
        embeddings, digest = embed_captions(
            captions, teacher=self._teacher, recipe=recipe, runtime=self._runtime, context=self._context
        )
        self.used.append(digest)
        return embeddings


def _report(
    student: LoadedStudent, reports: list[SetReport], metrics: dict[str, float], *, teacher_name: str
) -> dict[str, Any]:
    config = student.config
    return {
        "student": {
            "fingerprint": student.fingerprint,
            "backbone": config.backbone,
            "image_size": config.preprocessing.image_size,
            "embedding_dim": config.embedding_dim,
            "losses": [f"{name}={weight:g}" for name, weight in config.losses.items()],
        },
        "teacher": {"name": teacher_name, **asdict(config.teacher)},
        "sets": [report.entry for report in reports],
        "metrics": metrics,
    }
