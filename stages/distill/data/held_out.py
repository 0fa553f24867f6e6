"""The images of held-out pairs, each once, and the captions that should find them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError
from pipeline.log import log
from stages.components.images.image_set import ImageSet

MAX_IMAGES = 5000
"""Images that are looked at by default: recall is a mean over them, known to within a percent."""


@dataclass(frozen=True)
class HeldOutImages:
    """Images to measure a student on, each once, with the captions that should find them; made by `of`.

    Args:
        images: Images, in the order of `paths`.
        paths: Files of the images, for messages.
        caption_rows: Caption rows, one image's after the other's.
        caption_image: Place of the image that each of these captions belongs to.

    Shapes:
        caption_rows, caption_image: (captions,), int64.
    """

    images: ImageSet
    paths: Sequence[Path]
    caption_rows: Tensor
    caption_image: Tensor

    @property
    def num(self) -> int:
        """Number of images."""
        return len(self.paths)

    @classmethod
    def of(
        cls, images: ImageSet, pairs: Tensor, *, caption_rows: Tensor, max_images: int = MAX_IMAGES
    ) -> "HeldOutImages":
        """Collect the captions of each image of the held-out pairs.

        Args:
            images: Image of each pair; pairs with the same path are captions of the same image.
            pairs: Pairs that are held out.
            caption_rows: Caption row of each pair.
            max_images: Most images to look at; of more, so many are drawn, always the same ones.

        Raises:
            ProtoRKDError: the pairs have fewer than 2 images.

        Shapes:
            pairs: (validation pairs,), int64.
            caption_rows: (all pairs,), int64.
        """
        captions_of: dict[str, dict[int, None]] = {}
        first: dict[str, int] = {}
        for pair, row in zip(pairs.tolist(), caption_rows[pairs].tolist(), strict=True):
            path = images.paths[pair]
            first.setdefault(path, pair)
            captions_of.setdefault(path, {})[row] = None
        if len(captions_of) < 2:
            raise ProtoRKDError(
                f"Validation must have 2 images or more; got {len(captions_of)}. Raise --validation-fraction, or leave "
                "it out."
            )
        names = _draw(list(captions_of), max_images)
        rows = torch.tensor([row for name in names for row in captions_of[name]], dtype=torch.int64)
        num_captions = torch.tensor([len(captions_of[name]) for name in names])
        held_out = f", of {len(captions_of)} held out" if len(names) < len(captions_of) else ""
        log.info("distill: validating on %d images with %d captions%s", len(names), len(rows), held_out)
        return cls(
            images=images.select([first[name] for name in names]),
            paths=[images.root / name for name in names],
            caption_rows=rows,
            caption_image=torch.arange(len(names)).repeat_interleave(num_captions),
        )


def _draw(names: list[str], most: int) -> list[str]:
    if len(names) <= most:
        return names
    drawn = np.random.default_rng(0).choice(len(names), size=most, replace=False)
    return [names[index] for index in sorted(drawn)]
