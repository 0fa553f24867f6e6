"""Measure cached captions alone: repeated and near-duplicate ones, lengths, rank, false negatives, balance."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from data_schemas.neighbours import Neighbours
from data_schemas.prototypes import Prototypes
from stages.components.metrics.embedding_space import draw_rows
from stages.components.metrics.spectrum import covariance_of, effective_ranks
from stages.components.report.even_sample import choose_queries
from stages.report.corpus import CaptionCorpus
from stages.report.measures.false_negatives import false_negative_rates
from stages.report.measures.scan import scan

_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
_NUM_REPEATED = _NUM_NAMED = 8
_RANK_ROWS = 50_000  # that the effective rank is measured on, at most
_WORD_STEP, _MOST_WORDS = 4, 40


def count_captions(corpus: CaptionCorpus, counts: Mapping[str, Any]) -> dict[str, Any]:
    """Count pairs and captions, and name the captions that are repeated most.

    Args:
        corpus: Captions.
        counts: Counts of the record of encode-teacher, which cut captions that were too long.

    Returns:
        ``repeated_pairs``: pairs whose caption, word for word, other pairs have as well. ``same_words``: distinct
        captions that differ from another in case, spaces and punctuation alone. ``cut``: captions cut off by the
        teacher among the ``encoded`` of its last run; None where it did not run.
    """
    pairs_of = np.bincount(corpus.pair_captions, minlength=len(corpus.texts))
    order = np.argsort(-pairs_of, kind="stable")[:_NUM_REPEATED]
    encoded = counts.get("encoded_captions", 0)
    return {
        "num_pairs": len(corpus.pair_captions),
        "num_captions": len(corpus.texts),
        "num_images": corpus.num_images,
        "num_zero": len(corpus.texts) - len(corpus.numbers),
        "repeated_pairs": int(pairs_of[pairs_of > 1].sum()),
        "repeated": [
            {"caption": corpus.texts[int(row)].as_py(), "num_pairs": int(pairs_of[row])}
            for row in order
            if pairs_of[row] > 1
        ],
        "same_words": _same_words(corpus.texts),
        "cut": counts.get("cut_captions") if encoded else None,
        "encoded": encoded,
    }


def measure_lengths(texts: pa.Array) -> dict[str, Any]:
    """Measure how long captions are, in characters and in words, and how many have how many words."""
    words = pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(texts))).to_numpy()
    chars = pc.utf8_length(texts).to_numpy()
    edges = np.arange(0, _MOST_WORDS + _WORD_STEP, _WORD_STEP)
    bins = np.bincount(np.searchsorted(edges, words, side="left"), minlength=len(edges) + 1)[1:]
    labels = [f"{low + 1} to {low + _WORD_STEP}" for low in edges[:-1]] + [f"over {_MOST_WORDS}"]
    return {
        "words": _summary(words),
        "chars": _summary(chars),
        "bins": [{"label": label, "num_captions": int(num)} for label, num in zip(labels, bins, strict=True)],
    }


def measure_space(corpus: CaptionCorpus, *, seed: int) -> dict[str, Any]:
    """Measure how the captions fill the teacher's space: effective rank, and the mean cosine of two of them."""
    sample = corpus.vectors[draw_rows(len(corpus.vectors), limit=_RANK_ROWS, seed=seed)]
    num, total = len(sample), sample.sum(dim=0, dtype=torch.float64)
    own = float(sample.double().square().sum())
    return {
        "dim": sample.shape[1],
        "effective_rank": float(effective_ranks(torch.linalg.eigvalsh(covariance_of(sample))[None])),
        "mean_cosine": (float(total.square().sum()) - own) / (num * (num - 1)),
    }


def measure_nearness(
    corpus: CaptionCorpus,
    *,
    levels: Sequence[float],
    near_duplicate_cosine: float,
    sample_size: int,
    seed: int,
    device: torch.device,
) -> dict[str, Any]:
    """Compare the captions of sampled pairs with all: false negatives by cosine, and an estimate of near-duplicates.

    Args:
        corpus: Captions.
        levels: Cosines from which another caption is a false negative.
        near_duplicate_cosine: Cosine from which another caption is a near-duplicate.
        sample_size: Most pairs that are compared.
        seed: Seed of their choice.
        device: Device of the computation.

    Returns:
        ``false_negatives``: what `false_negative_rates` gives at each level. ``near_duplicates``: share of the sampled
        distinct captions that have a near-duplicate.
    """
    pairs = corpus.pair_places[corpus.pair_places >= 0]
    weights = np.bincount(pairs, minlength=len(corpus.vectors))
    sampled = pairs[draw_rows(len(pairs), limit=sample_size, seed=seed).numpy()]
    places, of_sample = np.unique(sampled, return_inverse=True)
    near = scan(
        corpus.vectors[torch.from_numpy(places)].to(device),
        corpus.blocks(),
        levels=levels,
        weights=torch.from_numpy(weights).double(),
        own=torch.from_numpy(places),
    )
    counts = near.counts.numpy()[of_sample] + (weights[sampled] - 1)[:, None]  # other images of the same caption
    return {
        "num_sampled": len(sampled),
        "false_negatives": [
            {"cosine": level, **false_negative_rates(counts[:, place], num_pairs=len(pairs))}
            for place, level in enumerate(levels)
        ]
        if len(pairs) > 1
        else [],
        "near_duplicates": float((near.cosines >= near_duplicate_cosine).double().mean()),
    }


def count_near_duplicates(neighbours: Neighbours, *, cosine: float) -> dict[str, Any]:
    """Count captions that have another one at a cosine or above, and list these pairs of captions, the nearest first.

    Shapes:
        pairs: (found, 2), int64, caption rows, the lower first; each pair once.
        cosines: (found,), float32.
    """
    rows, places = np.nonzero(neighbours.cosines >= cosine)
    is_there = neighbours.rows[rows, places] >= 0
    rows, places = rows[is_there], places[is_there]
    pairs = np.sort(np.stack([rows, neighbours.rows[rows, places]], axis=1), axis=1)
    pairs, firsts = np.unique(pairs, axis=0, return_index=True)
    cosines = neighbours.cosines[rows, places][firsts]
    order = np.argsort(-cosines, kind="stable")
    return {"num": len(np.unique(rows)), "pairs": pairs[order], "cosines": cosines[order]}


def levels_with(cosine: float) -> list[float]:
    """List the cosines that false negatives are counted from, among them the one that was asked for."""
    return sorted({*_LEVELS, cosine})


def name_pairs(near: Mapping[str, Any], corpus: CaptionCorpus) -> list[dict[str, Any]]:
    """Name some pairs of near-duplicate captions, spread evenly from the nearest to the least near."""
    return [
        {
            "captions": [corpus.texts[int(row)].as_py() for row in near["pairs"][place]],
            "cosine": float(near["cosines"][place]),
        }
        for place in choose_queries(_NUM_NAMED, len(near["pairs"]))
    ]


def measure_balance(prototypes: Prototypes) -> dict[str, Any]:
    """Measure how evenly captions spread over prototypes.

    Returns:
        ``effective_share``: exp of the entropy of their sizes, over their number: 1 where all are as large.
        ``largest_share``: share of the captions that the largest tenth of the prototypes has.
    """
    sizes = np.sort(prototypes.sizes)[::-1].astype(np.float64)
    shares = sizes / max(sizes.sum(), 1)
    filled = shares[shares > 0]
    return {
        "num_prototypes": len(sizes),
        "num_empty": int((sizes == 0).sum()),
        "smallest": int(sizes[-1]),
        "median": float(np.median(sizes)),
        "largest": int(sizes[0]),
        "effective_share": float(np.exp(-(filled * np.log(filled)).sum()) / len(sizes)),
        "largest_share": float(shares[: max(1, len(sizes) // 10)].sum()),
    }


def _same_words(texts: pa.Array) -> int:
    bare = pc.replace_substring_regex(pc.utf8_lower(texts), r"[\pP\s]+", " ")
    counts = pc.value_counts(pc.utf8_trim_whitespace(bare)).field("counts").to_numpy()
    return int(counts[counts > 1].sum())


def _summary(values: NDArray[Any]) -> dict[str, float]:
    shares = {"shortest": 0, "median": 50, "longest": 100, "p95": 95}
    return {name: float(np.percentile(values, share)) for name, share in shares.items()}
