"""Measure features alone: equal files, nearly equal images, rank, features that do not vary."""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from stages.report.corpus import ImageCorpus, Standardisation
from stages.report.measures.scan import scan

NEAR_DUPLICATE = 0.95  # cosine of standardised features


class NearImages(NamedTuple):
    """Sampled images, and the nearest other image of each.

    Shapes:
        numbers, nearest: (sampled,), int64, numbers among the corpus's pairs; cosines: (sampled,), float32.
    """

    numbers: NDArray[np.int64]
    nearest: NDArray[np.int64]
    cosines: NDArray[np.float32]


def count_images(corpus: ImageCorpus) -> dict[str, Any]:
    """Count images, those without features, and those whose file is the same as that of another path.

    ``num_equal`` is None where no file is known, as of vectors that another tool computed.
    """
    named = corpus.images.rows
    paths: dict[int, set[str]] = {}
    for path, row in zip(corpus.images.paths, named.tolist(), strict=True):
        if row >= 0:
            paths.setdefault(row, set()).add(path)
    sizes = np.array([len(of_row) for of_row in paths.values()])
    return {
        "num_images": int(sizes.sum()),
        "num_distinct": len(sizes),
        "num_equal": int(sizes[sizes > 1].sum()) if corpus.digests else None,
        "pairs_without": len(corpus.images.missing),
        "num_compared": len(corpus.pairs),
    }


def find_near(
    corpus: ImageCorpus, numbers: NDArray[np.int64], standardise: Standardisation, *, device: torch.device
) -> NearImages:
    """Find the nearest other image of each sampled image, by the cosine of standardised features."""
    queries = standardise.unit(corpus.take(numbers)).to(device)
    blocks = (standardise.unit(block) for block in corpus.blocks())
    found = scan(queries, blocks, levels=(), own=torch.from_numpy(numbers))
    return NearImages(numbers, found.rows.numpy(), found.cosines.numpy())
