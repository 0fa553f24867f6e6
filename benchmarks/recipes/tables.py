"""What recipes reached, as Markdown: means over seeds, and differences over the same test images with intervals."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.store.store import Store
from stages.evaluate.compare.find_evaluation import read_evaluation
from stages.evaluate.statistics.bootstrap import bootstrap_mean

_DIRECTIONS = ("text_to_image", "image_to_text")
_MEASURES = ("recall@1", "recall@5", "recall@10")


@dataclass(frozen=True)
class Trained:
    """A student of a recipe, and what it reached.

    Args:
        seed: Seed of its training.
        seconds: Duration of its training.
        metrics: Measures by name.
        recalls: Mean of R@1, 5 and 10 both ways of each test image, in percent; empty where it was not tested.
    """

    seed: int
    seconds: float
    metrics: Mapping[str, float]
    recalls: NDArray[np.float64] = field(default_factory=lambda: np.empty(0), repr=False)

    def as_json(self) -> dict[str, Any]:
        """Return what is kept of it in a file of figures."""
        return {name: value for name, value in asdict(self).items() if name != "recalls"}


def image_recalls(evaluation: str, *, store: Store) -> NDArray[np.float64]:
    """Read an evaluation on a set with one caption an image: the mean recall of each image, in percent: (images,)."""
    found = {each.task: each for each in read_evaluation(evaluation, store=store, argument="EVALUATION").outcomes}
    parts = []
    for task in _DIRECTIONS:
        order = np.argsort(np.array(found[task].images), kind="stable")
        parts += [np.asarray(found[task].measures[measure])[order] for measure in _MEASURES]
    recalls: NDArray[np.float64] = 100 * np.mean(parts, axis=0)
    return recalls


def table(results: Mapping[str, Sequence[Trained]], *, headline: str, columns: Mapping[str, str]) -> str:
    """Write a line per recipe; the first is what the others are compared with.

    Args:
        results: Students by recipe.
        headline: Metric in the first column, with the value of each seed.
        columns: Further metrics, by their titles.
    """
    titles = ["recipe", "mean recall", "of each seed", "against the first (95 % interval)", *columns, "seconds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    baseline = next(iter(results.values()))
    for name, students in results.items():
        recalls = [each.metrics[headline] for each in students]
        cells = [
            f"{statistics.fmean(recalls):.2f}",
            ", ".join(f"{recall:.2f}" for recall in recalls),
            _difference(baseline, students),
            *(f"{statistics.fmean(each.metrics[metric] for each in students):.2f}" for metric in columns.values()),
            f"{statistics.median(each.seconds for each in students):.0f}",
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(baseline: Sequence[Trained], students: Sequence[Trained]) -> str:
    """Compare recipes on the same test images, each image's recall averaged over the seeds that both have."""
    of_seed = {each.seed: each for each in baseline}
    shared = [each for each in students if each.seed in of_seed and len(each.recalls)]
    if not shared or students is baseline:
        return ""
    gains = np.mean([each.recalls - of_seed[each.seed].recalls for each in shared], axis=0)  # (images,)
    interval = bootstrap_mean(gains, seed=0)
    return f"{gains.mean():+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"
