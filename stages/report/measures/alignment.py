"""Measure whether features and captions agree before anything is trained, and what the simplest head makes of it."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from stages.components.metrics.retrieval import chance_recall, retrieval_metrics
from stages.components.metrics.space_comparison import MIN_ROWS, debiased_cka, neighbour_overlap
from stages.components.metrics.spectrum import effective_ranks
from stages.components.metrics.unit_rows import exact_scores
from stages.report.measures.ridge import fit_ridge

KS = (1, 5, 10)
_MOST_HELD_OUT = 1000


class Baseline(NamedTuple):
    """What ridge regression reaches.

    Args:
        measures: Recall on held-out pairs, chance, mean cosines, and the effective rank of the features fitted on.
        cosines: Cosine of each pair's caption with its prediction, (pairs,), float32.
    """

    measures: dict[str, Any]
    cosines: Tensor


@exact_scores()
def compare_spaces(features: Tensor, captions: Tensor, *, num_neighbours: int) -> dict[str, Any]:
    """Compare which images and which captions are alike, over one sample of pairs (arXiv:2405.07987).

    Args:
        features: Standardised features as unit rows.
        captions: Captions as unit rows.
        num_neighbours: Neighbours that are compared.

    Returns:
        ``mutual_knn`` and ``chance``: percentage of the nearest neighbours that both spaces share, and of those that
        unrelated ones would; ``cka``: debiased linear CKA; each left out where there are too few pairs.

    Shapes:
        features: (pairs, feature_dim), float32; captions: (pairs, dim), float32.
    """
    num = len(features)
    measures: dict[str, Any] = {"num_pairs": num, "num_neighbours": num_neighbours}
    if num > num_neighbours:
        measures["mutual_knn"] = neighbour_overlap(features, captions, k=num_neighbours)
        measures["chance"] = 100 * num_neighbours / (num - 1)
    if num >= MIN_ROWS:
        first, second = features.double(), captions.double()
        measures["cka"] = debiased_cka(first @ first.T, second @ second.T)
    return measures


@exact_scores()
def measure_baseline(features: Tensor, captions: Tensor, *, seed: int) -> Baseline:
    """Fit a ridge regression on most pairs, and retrieve with it on the others.

    A tenth of the pairs, at most a thousand, is held out.

    Args:
        features: Standardised features, one pair of each image.
        captions: Captions as unit rows.
        seed: Seed of the pairs that are held out.

    Shapes:
        features: (pairs, feature_dim), float32, of 2 pairs or more; captions: (pairs, dim), float32.
    """
    num = len(features)
    order = torch.randperm(num, generator=torch.Generator().manual_seed(seed))
    num_held_out = max(1, min(num // 10, _MOST_HELD_OUT))
    held_out, fitted = order[:num_held_out], order[num_held_out:]
    ridge = fit_ridge(features[fitted], captions[fitted])
    predicted = normalize(ridge.predict(features), dim=1)
    cosines = (predicted * captions).sum(dim=1).clamp(-1, 1)
    own = torch.arange(num_held_out)
    metrics = retrieval_metrics(
        image_embeddings=predicted[held_out], caption_embeddings=captions[held_out], caption_image=own, ks=KS
    )
    chance = chance_recall(caption_image=own, num_images=num_held_out, ks=KS)
    return Baseline(
        {
            "num_fitted": len(fitted),
            "num_held_out": num_held_out,
            "penalty": ridge.penalty,
            "effective_rank": float(effective_ranks(ridge.spectrum[None])),
            "metrics": metrics,
            "chance": chance,
            "held_out_cosine": _mean(cosines[held_out]),
            "fitted_cosine": _mean(cosines[fitted]),
        },
        cosines,
    )


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
