"""What status and tables of results say of students: objective, seed, pairs, and what validation ended with."""

from collections.abc import Callable, Mapping

from data_schemas.training_log import TRAINING_LOG, curve_of, read_training_log
from pipeline.results.figure import Figure
from pipeline.stage import Overview
from pipeline.store.store import Artifact

LOSS, VALIDATION = "training/loss", "validation/mean_recall"
_MEASURES = (
    "validation/mean_recall",
    *(f"validation/{way}/recall@{k}" for way in ("text_to_image", "image_to_text") for k in (1, 5, 10)),
)


def figures(artifact: Artifact, read: Callable[[str], bytes]) -> Mapping[str, Figure]:
    """Return the last measures on held-out images, and the last mean loss; none of a training without a log."""
    if not any(file.path == TRAINING_LOG for file in artifact.record.files):
        return {}
    lines = read_training_log(read(TRAINING_LOG))
    found = {}
    for name in _MEASURES:
        if curve := curve_of(lines, name):
            found[name] = Figure(curve[-1][1], better="higher", is_headline=name == VALIDATION)
    if curve := curve_of(lines, "loss"):
        found[LOSS] = Figure(curve[-1][1], better="lower")
    return found


OVERVIEW = Overview(options=("loss", "seed"), count="pairs", figures=figures)
