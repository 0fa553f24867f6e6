"""A pair report with everything that one can hold, for tests of its page and its advice."""

from typing import Any

HOSTILE = "<b>bold</b> & \"quoted\" 'caption'"


def full_report(**changes: Any) -> dict[str, Any]:
    """Make a report, with some of its parts replaced."""
    report: dict[str, Any] = {
        "schema_version": 1,
        "inputs": {"embeddings": "e" * 64, "features": "f" * 64, "prototypes": "a" * 64},
        "models": {"teacher": "all-MiniLM-L6-v2", "backbone": "timm:tf_efficientnet_lite0"},
        "settings": {
            "false_negative_cosine": 0.7,
            "near_duplicate_cosine": 0.95,
            "coverage_cosine": 0.5,
            "image_cosine": 0.95,
        },
        "captions": _captions(),
        "images": {
            "num_images": 20_000,
            "num_distinct": 19_900,
            "num_equal": 180,
            "pairs_without": 12,
            "num_compared": 19_900,
            "space": {"dim": 1280, "num_constant": 3, "effective_rank": 478.8},
            "near_duplicates": 0.011,
            "num_sampled": 2000,
        },
        "together": {"num_pairs": 2000, "num_neighbours": 10, "mutual_knn": 13.75, "chance": 0.5, "cka": 0.361},
        "baseline": {
            "num_fitted": 19_000,
            "num_held_out": 1000,
            "penalty": 1.0,
            "metrics": _retrieval(36.2, 6.0),
            "chance": _retrieval(0.533, 500.5),
            "held_out_cosine": 0.557,
            "fitted_cosine": 0.596,
        },
        "examples": {
            "farthest": [{**_pair(number), "cosine": 0.02 + number / 100} for number in range(12)],
            "nearest": [{**_pair(number), "cosine": 0.93} for number in range(12, 24)],
            "differing_images": [_two(number) for number in range(24, 40, 2)],
            "differing_captions": [_two(number) for number in range(40, 56, 2)],
        },
        "coverage": [
            {"query": HOSTILE, "num_captions": 120, "nearest": "a zebra on a hill", "cosine": 0.81},
            {"query": "unheard", "num_captions": 0, "nearest": None, "cosine": 0.0},
        ],
        "advice": [
            {"kind": kind, "title": f"A title, {kind}", "text": "A sentence that says what to do. " * 4}
            for kind in ("act", "look", "good")
        ],
    }
    return report | changes


def _captions() -> dict[str, Any]:
    rates = [
        {
            "cosine": cosine,
            "share": share,
            "batches": [
                {"batch_size": 512, "mean": 0.52, "affected": 0.247},
                {"batch_size": 20_000, "mean": 20.46, "affected": 0.77},
            ],
        }
        for cosine, share in ((0.5, 0.009), (0.7, 0.001), (0.9, 0.00005))
    ]
    return {
        "num_pairs": 20_000,
        "num_captions": 19_567,
        "num_images": 20_000,
        "num_zero": 2,
        "repeated_pairs": 642,
        "repeated": [{"caption": HOSTILE, "num_pairs": 22}],
        "same_words": 45,
        "cut": 3,
        "encoded": 19_567,
        "lengths": {
            "words": {"shortest": 7.0, "median": 10.0, "longest": 49.0, "p95": 14.0},
            "chars": {"shortest": 23.0, "median": 50.0, "longest": 243.0, "p95": 72.0},
            "bins": [{"label": "1 to 4", "num_captions": 0}, {"label": "5 to 8", "num_captions": 2995}],
        },
        "space": {"dim": 384, "effective_rank": 119.7, "mean_cosine": 0.086},
        "nearness": {"num_sampled": 2000, "false_negatives": rates},
        "near_duplicates": {"share": 0.054, "is_estimate": True},
        "near_duplicate_examples": [{"captions": ["a man on a wave", "A man on a wave."], "cosine": 0.994}],
        "balance": {
            "num_prototypes": 1024,
            "num_empty": 0,
            "smallest": 2,
            "median": 17.0,
            "largest": 98,
            "effective_share": 0.86,
            "largest_share": 0.24,
        },
    }


def _retrieval(mean_recall: float, median_rank: float) -> dict[str, float]:
    ways = ("text_to_image", "image_to_text")
    recalls = {f"{way}/recall@{k}": mean_recall * share for way in ways for k, share in ((1, 0.5), (5, 1), (10, 1.5))}
    return {**recalls, "mean_recall": mean_recall, **{f"{way}/median_rank": median_rank for way in ways}}


def _pair(number: int) -> dict[str, Any]:
    caption = HOSTILE if number % 5 == 0 else f"a caption of some length, that of pair {number}"
    return {"pair": number, "image": f"train2017/{number:012}.jpg", "caption": caption}


def _two(number: int) -> dict[str, Any]:
    return {"pairs": [_pair(number), _pair(number + 1)], "caption_cosine": 0.97, "image_cosine": -0.06}
