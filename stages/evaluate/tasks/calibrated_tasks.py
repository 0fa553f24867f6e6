"""Retrieval with calibrated scores: by a query bank, and in one index of images and captions."""

from collections.abc import Callable

import torch
from torch import Tensor

from data_schemas.calibration import MIXED, QUERY_BANK, MixedScores, QueryBank, ScoreMap
from data_schemas.per_query_results import QueryResults
from stages.components.calibration.extended_vectors import TEXT, extend_images
from stages.components.metrics.retrieval import RetrievalStandings, score_standings
from stages.components.metrics.unit_rows import STUDENT_REMEDY, TEACHER_REMEDY, unit_rows
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.metrics.mixed_index import MixedStandings, mixed_standings
from stages.evaluate.sets.evaluation_sets import RetrievalSet
from stages.evaluate.statistics.summary import summarise
from stages.evaluate.tasks.caption_tasks import (
    CaptionedRows,
    EmbedCaptions,
    captioned_entry,
    captioned_rows,
    report_standings,
)
from stages.evaluate.tasks.task_result import TaskResult, as_json

_CUT_OFFS = (1, 5, 10)
_FIRST = 10
_RAW = ScoreMap()


def query_bank(
    retrieval_set: RetrievalSet,
    images: ImageEmbeddings,
    embed_captions: EmbedCaptions,
    *,
    embed_queries: EmbedCaptions | None,
    calibration: QueryBank,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    """Measure retrieval as `caption_tasks.retrieval` does, where images near to every caption of the bank stand back.

    From an image's place nothing changes: what is taken off is the same for all captions.

    Args:
        retrieval_set: The set to measure on.
        images: Embeddings of the set's images.
        embed_captions: Gives one embedding per caption, in order.
        embed_queries: Gives one embedding per caption that looks for its image; None where captions are embedded
            alike both ways.
        calibration: The bank.
        seed: Seed of the resamples.
        num_resamples: Number of resamples for the intervals.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    rows = captioned_rows(retrieval_set, images, embed_captions)
    extended = torch.from_numpy(extend_images(_unit_images(rows).numpy(), calibration))

    def compare(captions: CaptionedRows) -> RetrievalStandings:
        queries = torch.nn.functional.pad(_unit_captions(captions), (0, 1), value=1.0)
        return score_standings(images=extended, captions=queries, caption_image=rows.caption_image)

    standings = compare(rows)
    if embed_queries is not None:
        queries = captioned_rows(retrieval_set, images, embed_queries)
        standings = standings._replace(text_to_image=compare(queries).text_to_image)
    measured = report_standings(
        retrieval_set,
        images,
        rows,
        standings,
        task="query_bank",
        seed=seed,
        num_resamples=num_resamples,
    )
    measured.entry.update(num_bank_captions=len(calibration.captions), bank_temperature=calibration.temperature)
    return measured


def mixed(
    retrieval_set: RetrievalSet,
    images: ImageEmbeddings,
    embed_captions: EmbedCaptions,
    *,
    embed_queries: EmbedCaptions | None,
    calibration: MixedScores,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    """Measure one index of all images and all captions of a set, raw and with standardised scores.

    ``own_image@k`` is the share of captions whose own image is among the first k, where the caption itself is in the
    index; ``image_share@10`` the share of images among the first ten. The first can be bought by putting all images
    before all captions: the second tells. Arguments as of `query_bank`.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    rows = captioned_rows(retrieval_set, images, embed_captions)
    queries = rows if embed_queries is None else captioned_rows(retrieval_set, images, embed_queries)
    entry = captioned_entry(retrieval_set, images, rows, task="mixed")
    entry |= {"headline": f"calibrated/own_image@{_FIRST}", "metrics": {}, "intervals": {}, "chance": {}}
    outcomes = []
    for name, scores in (("raw", _RAW), ("calibrated", calibration.map_images(TEXT))):
        standings = mixed_standings(
            queries=_unit_captions(queries),
            images=_unit_images(rows),
            captions=_unit_captions(rows),
            caption_image=rows.caption_image,
            scores=scores,
            k=_FIRST,
        )
        outcomes.append(_outcomes(retrieval_set, rows, standings, name))
        own = summarise(outcomes[-1], seed=seed, num_resamples=num_resamples)
        entry["metrics"] |= {f"{name}/{measure}": value for measure, value in own.metrics.items()}
        entry["intervals"] |= as_json({f"{name}/{measure}": ends for measure, ends in own.intervals.items()})
        entry["chance"] |= {f"{name}/{measure}": value for measure, value in _chance(rows).items()}
    return TaskResult(entry, tuple(outcomes))


MEASURES: dict[str, Callable[..., TaskResult]] = {QUERY_BANK: query_bank, MIXED: mixed}


def _outcomes(retrieval_set: RetrievalSet, rows: CaptionedRows, standings: MixedStandings, name: str) -> QueryResults:
    measures = {f"own_image@{k}": standings.own_image.hits(k=k).numpy() for k in _CUT_OFFS}
    return QueryResults(
        set_name=retrieval_set.name,
        task=f"mixed/{name}",
        images=[rows.paths[image] for image in rows.caption_image.tolist()],
        queries=rows.texts,
        measures=measures | {f"image_share@{_FIRST}": standings.image_share.numpy()},
    )


def _chance(rows: CaptionedRows) -> dict[str, float]:
    total = len(rows.images) + len(rows.captions)
    chance = {f"own_image@{k}": 100 * min(1.0, k / total) for k in _CUT_OFFS}
    return chance | {f"image_share@{_FIRST}": 100 * len(rows.images) / total}


def _unit_images(rows: CaptionedRows) -> Tensor:
    return unit_rows(rows.images, name="Image embeddings", remedy=STUDENT_REMEDY)


def _unit_captions(rows: CaptionedRows) -> Tensor:
    return unit_rows(rows.captions, name="Caption embeddings", remedy=TEACHER_REMEDY)
