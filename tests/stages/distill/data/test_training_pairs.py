"""The pairs that are trained on, and what is known of them."""

from pathlib import Path

import numpy as np

from stages.components.images.image_set import ImageSet
from stages.distill.data.examples import Examples
from stages.distill.data.training_pairs import TrainingPairs


def test_training_pairs__number_the_images_of_examples_by_their_paths() -> None:
    rows = np.arange(5)
    examples = Examples(pairs=np.array([4, 0, 2, 3]), caption_rows=rows[:4], offsets=rows, labels=rows[:4])
    pairs = TrainingPairs(
        images=ImageSet(Path(), ["a.jpg", "b.jpg", "a.jpg", "c.jpg", "c.jpg"]),
        manifest_rows=rows,
        caption_rows=rows,
        examples=examples,
        held_out=rows[:0],
        num_zero=0,
        num_labels=0,
    )
    assert pairs.image_numbers().tolist() == [0, 1, 1, 0]
