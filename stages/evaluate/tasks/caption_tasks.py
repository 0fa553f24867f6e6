"""Tasks that need captions: retrieval with the student, and textual similarity (sts) with the teacher."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_schemas.evaluation_report import RETRIEVAL
from data_schemas.per_query_results import RANK, QueryResults
from stages.components.metrics.retrieval import RetrievalStandings, Standing, chance_recall, retrieval_standings
from stages.evaluate.embeddings.cached_embeddings import ImageEmbeddings
from stages.evaluate.metrics.sts import correlations, pair_cosines
from stages.evaluate.sets.evaluation_sets import RetrievalSet
from stages.evaluate.sets.scored_pairs import ScoredPairs
from stages.evaluate.statistics.bootstrap import NUM_RESAMPLES, Interval, Places, bootstrap_measures
from stages.evaluate.statistics.summary import mean_interval, statistics, summarise
from stages.evaluate.tasks.task_result import TaskResult, as_json, rejected

_CUT_OFFS = (1, 5, 10)
EmbedCaptions = Callable[[tuple[str, ...]], Tensor]


class CaptionedRows(NamedTuple):
    """Embeddings of the images of a set that could be read, and of their captions.

    Args:
        paths: Path of each image, as its set writes it.
        texts: The captions.

    Shapes:
        images: (images, dim); captions: (captions, dim).
        caption_image: (captions,), int64, the row of the image that each caption describes.
    """

    images: Tensor
    captions: Tensor
    caption_image: Tensor
    paths: Sequence[str]
    texts: Sequence[str]

    def take(self, rows: Places) -> dict[str, Tensor]:
        """Take the embeddings of some images, in ascending order, and of their captions, as keywords of a measure."""
        kept = torch.from_numpy(rows)
        place = torch.full((len(self.images),), -1)
        place[kept] = torch.arange(len(kept))
        caption_image = place[self.caption_image]
        is_kept = caption_image >= 0
        return {
            "image_embeddings": self.images[kept],
            "caption_embeddings": self.captions[is_kept],
            "caption_image": caption_image[is_kept],
        }

    def all(self) -> dict[str, Tensor]:
        """Take the embeddings of all images and captions, as keywords of a measure."""
        return {
            "image_embeddings": self.images,
            "caption_embeddings": self.captions,
            "caption_image": self.caption_image,
        }


def captioned_rows(
    retrieval_set: RetrievalSet, images: ImageEmbeddings, embed_captions: EmbedCaptions
) -> CaptionedRows:
    """Match images with their captions; captions of images that could not be read are left out."""
    place = {row: index for index, row in enumerate(images.rows.tolist())}
    kept = [index for index, image in enumerate(retrieval_set.caption_image) if image in place]
    return CaptionedRows(
        images=images.embeddings,
        captions=embed_captions(retrieval_set.captions)[kept],
        caption_image=torch.tensor([place[retrieval_set.caption_image[index]] for index in kept]),
        paths=[retrieval_set.images.value.paths[row] for row in place],
        texts=[retrieval_set.captions[index] for index in kept],
    )


def retrieval(
    retrieval_set: RetrievalSet,
    images: ImageEmbeddings,
    embed_captions: EmbedCaptions,
    *,
    embed_queries: EmbedCaptions | None = None,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> TaskResult:
    """Measure how well captions retrieve their images, and images their captions.

    Args:
        retrieval_set: The set to measure on.
        images: Embeddings of the set's images.
        embed_captions: Gives one embedding per caption, in order.
        embed_queries: Gives one embedding per caption that looks for its image; None where captions are embedded
            alike both ways.
        seed: Seed of the resamples.
        num_resamples: Number of resamples for the intervals, the same for both directions and their mean.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    rows = captioned_rows(retrieval_set, images, embed_captions)
    standings = _standings(rows)
    if embed_queries is not None:
        queries = captioned_rows(retrieval_set, images, embed_queries)
        standings = standings._replace(text_to_image=_standings(queries).text_to_image)
    return report_standings(
        retrieval_set, images, rows, standings, task=RETRIEVAL, seed=seed, num_resamples=num_resamples
    )


def report_standings(
    retrieval_set: RetrievalSet,
    images: ImageEmbeddings,
    rows: CaptionedRows,
    standings: RetrievalStandings,
    *,
    task: str,
    seed: int,
    num_resamples: int,
) -> TaskResult:
    """Make the entry and the outcomes of a comparison of all captions with all images.

    Args:
        retrieval_set: Set that was measured.
        images: Embeddings of its images.
        rows: The images and captions that were compared.
        standings: Outcome of the comparison.
        task: Name of the task in the report.
        seed: Seed of the resamples.
        num_resamples: Number of resamples for the intervals.
    """
    of_captions = [rows.paths[image] for image in rows.caption_image.tolist()]
    prefix = "" if task == RETRIEVAL else f"{task}/"
    to_image, to_text = f"{prefix}text_to_image", f"{prefix}image_to_text"
    outcomes = (
        _retrieved(retrieval_set, to_image, standings.text_to_image, images=of_captions, queries=rows.texts),
        _retrieved(retrieval_set, to_text, standings.image_to_text, images=rows.paths),
    )
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for each in outcomes:
        own = summarise(each, seed=seed, num_resamples=num_resamples)
        direction = each.task.removeprefix(prefix)
        metrics |= {f"{direction}/{name}": value for name, value in own.metrics.items()}
        intervals |= {f"{direction}/{name}": interval for name, interval in own.intervals.items()}
    recalls = [each for direction in outcomes for each in statistics(direction) if each.kind == "mean"]
    metrics["mean_recall"] = sum(each.estimate() for each in recalls) / len(recalls)
    intervals["mean_recall"] = mean_interval(recalls, seed=seed, num_resamples=num_resamples)
    chance = chance_recall(caption_image=rows.caption_image, num_images=len(rows.images), ks=_CUT_OFFS)
    entry = captioned_entry(retrieval_set, images, rows, task=task) | {
        "metrics": {name: metrics[name] for name in chance},
        "intervals": as_json({name: intervals[name] for name in chance}),
        "chance": chance,
    }
    return TaskResult(entry, outcomes)


def sts(
    name: str,
    pairs: ScoredPairs,
    embed_captions: EmbedCaptions,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> TaskResult:
    """Measure whether the teacher rates pairs of captions as similar as people do.

    Args:
        name: Name of the set.
        pairs: Pairs of captions, with people's scores.
        embed_captions: Gives one embedding per caption, in order.
        seed: Seed of the resamples.
        num_resamples: Number of resamples for the intervals, which are over pairs.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    cosines, scores = pair_cosines(pairs, embed_captions)
    intervals = bootstrap_measures(
        lambda rows: correlations(cosines[rows], scores[rows]),
        num_pictures=len(scores),
        seed=seed,
        num_resamples=num_resamples,
    )
    entry = {
        "name": name,
        "task": "sts",
        "num_pairs": len(scores),
        **rejected(),
        "metrics": correlations(cosines, scores),
        "intervals": {
            measure: {"low": interval.low, "high": interval.high, "num_pairs": interval.num_pictures}
            for measure, interval in intervals.items()
        },
        "chance": {"spearman": 0.0, "pearson": 0.0},
    }
    return TaskResult(entry)


def _standings(rows: CaptionedRows) -> RetrievalStandings:
    return retrieval_standings(
        image_embeddings=rows.images, caption_embeddings=rows.captions, caption_image=rows.caption_image
    )


def _retrieved(
    retrieval_set: RetrievalSet,
    direction: str,
    standing: Standing,
    *,
    images: Sequence[str],
    queries: Sequence[str] = (),
) -> QueryResults:
    measures = {f"recall@{k}": standing.hits(k=k).numpy() for k in _CUT_OFFS} | {RANK: standing.ranks().numpy()}
    return QueryResults(set_name=retrieval_set.name, task=direction, images=images, queries=queries, measures=measures)


def captioned_entry(
    retrieval_set: RetrievalSet, images: ImageEmbeddings, rows: CaptionedRows, *, task: str
) -> dict[str, Any]:
    """Begin a report's entry: the set's name, the task, and the set's sizes."""
    sizes = {"num_images": len(rows.images), "num_captions": len(rows.texts)}
    return {
        "name": retrieval_set.name,
        "task": task,
        **sizes,
        **rejected(*retrieval_set.rejections, *images.rejections),
    }
