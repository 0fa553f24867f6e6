"""Measure semantic textual similarity: does a teacher rate pairs of captions as similar as people do?"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.components.metrics.embedding_space import pearson, spearman
from stages.components.metrics.unit_rows import TEACHER_REMEDY, exact_scores, unit_rows
from stages.evaluate.sets.scored_pairs import ScoredPairs


@exact_scores()
def pair_cosines(
    pairs: ScoredPairs, embed_captions: Callable[[tuple[str, ...]], Tensor]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the cosine of the embeddings of each pair of captions.

    Args:
        pairs: Scored pairs of captions, from `read_scored_pairs`.
        embed_captions: Gives one embedding per caption, in order.

    Returns:
        The cosine of every pair, and the score that people gave it.

    Raises:
        ProtoRKDError: an embedding is NaN or infinite.

    Shapes:
        returns: (pairs,), float64, twice.
    """
    embeddings = embed_captions(pairs.first + pairs.second)
    rows = unit_rows(embeddings, name="Caption embeddings", remedy=TEACHER_REMEDY).cpu().double()
    first, second = torch.split(rows, len(pairs.scores))
    return (first * second).sum(dim=1).numpy(), np.array(pairs.scores)


def correlations(cosines: NDArray[np.float64], scores: NDArray[np.float64]) -> dict[str, float]:
    """Correlate the cosines of pairs of captions with the scores that people gave them.

    Cer et al., SemEval-2017 Task 1, arXiv:1708.00055.

    Returns:
        ``spearman`` and ``pearson``, from -1 to 1; 0 for a teacher that rates all pairs as equally similar.

    Shapes:
        cosines: (pairs,), float64; scores: (pairs,), float64.
    """
    return {"spearman": spearman(cosines, scores), "pearson": pearson(cosines, scores)}
