"""The tasks that ask for captions: retrieval, and likeness as the teacher sees it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from data_schemas.per_query_results import RANK, QueryResults
from stages.components.metrics.retrieval import Standing, chance_recall, retrieval_standings
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
    """The images of a set that could be read, and the captions of these.

    Args:
        paths: of each image, as its set writes it.
        texts: the captions.

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
        """The embeddings of some images, in ascending order, and of their captions, as measures take them."""
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
        """The embeddings of all images and captions, as measures take them."""
        return {
            "image_embeddings": self.images,
            "caption_embeddings": self.captions,
            "caption_image": self.caption_image,
        }


def captioned_rows(found: RetrievalSet, images: ImageEmbeddings, embed_captions: EmbedCaptions) -> CaptionedRows:
    """Bring images and captions together; captions of images that cannot be read are left out with them."""
    place = {row: index for index, row in enumerate(images.rows.tolist())}
    kept = [index for index, image in enumerate(found.caption_image) if image in place]
    return CaptionedRows(
        images=images.embeddings,
        captions=embed_captions(found.captions)[kept],
        caption_image=torch.tensor([place[found.caption_image[index]] for index in kept]),
        paths=[found.images.value.paths[row] for row in place],
        texts=[found.captions[index] for index in kept],
    )


def retrieval(
    found: RetrievalSet,
    images: ImageEmbeddings,
    embed_captions: EmbedCaptions,
    *,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> TaskResult:
    """Look for the image of each caption, and for the captions of each image.

    Args:
        found: the set.
        images: of its images.
        embed_captions: gives one row a caption, in order.
        seed: of the resamples.
        num_resamples: for the intervals; both directions and their mean are measured on the same resamples.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.
    """
    rows = captioned_rows(found, images, embed_captions)
    standings = retrieval_standings(
        image_embeddings=rows.images, caption_embeddings=rows.captions, caption_image=rows.caption_image
    )
    of_captions = [rows.paths[image] for image in rows.caption_image.tolist()]
    outcomes = (
        _retrieved(found, "text_to_image", standings.text_to_image, images=of_captions, queries=rows.texts),
        _retrieved(found, "image_to_text", standings.image_to_text, images=rows.paths),
    )
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    for each in outcomes:
        own = summarise(each, seed=seed, num_resamples=num_resamples)
        metrics |= {f"{each.task}/{name}": value for name, value in own.metrics.items()}
        intervals |= {f"{each.task}/{name}": interval for name, interval in own.intervals.items()}
    recalls = [each for found in outcomes for each in statistics(found) if each.kind == "mean"]
    metrics["mean_recall"] = sum(each.estimate() for each in recalls) / len(recalls)
    intervals["mean_recall"] = mean_interval(recalls, seed=seed, num_resamples=num_resamples)
    chance = chance_recall(caption_image=rows.caption_image, num_images=len(rows.images), ks=_CUT_OFFS)
    entry = captioned_entry(found, images, rows, task="retrieval") | {
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
    """Measure whether the teacher finds those captions alike that people do.

    Args:
        name: of the set.
        pairs: captions and people's scores.
        embed_captions: gives one row a caption, in order.
        seed: of the resamples.
        num_resamples: for the intervals, over pairs.

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
            measure: {"low": found.low, "high": found.high, "num_pairs": found.num_pictures}
            for measure, found in intervals.items()
        },
        "chance": {"spearman": 0.0, "pearson": 0.0},
    }
    return TaskResult(entry)


def _retrieved(
    found: RetrievalSet, direction: str, standing: Standing, *, images: Sequence[str], queries: Sequence[str] = ()
) -> QueryResults:
    measures = {f"recall@{k}": standing.hits(k=k).numpy() for k in _CUT_OFFS} | {RANK: standing.ranks().numpy()}
    return QueryResults(set_name=found.name, task=direction, images=images, queries=queries, measures=measures)


def captioned_entry(found: RetrievalSet, images: ImageEmbeddings, rows: CaptionedRows, *, task: str) -> dict[str, Any]:
    """Name the task and the set, and say how large it is."""
    sizes = {"num_images": len(rows.images), "num_captions": len(rows.texts)}
    return {"name": found.name, "task": task, **sizes, **rejected(*found.rejections, *images.rejections)}
