"""Views of images: the image as in evaluation, and augmented ones that the same seed always makes alike."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import EvalTransform, TrainCrop
from stages.components.loading.worker_trace import no_line

PLAIN = -1
"""In place of a seed: the image as in evaluation."""

View = tuple[int, int, int]
"""Row of a view, number of its image, and the seed of its augmentation or `PLAIN`."""


class ViewImages(Dataset[tuple[int, Tensor | str]]):
    """A dataset of views by `View`; one of an unreadable image yields the reason.

    Args:
        images: Set of images.
        preprocessing: Preprocessing of the network that the views are for.
        augmentation: Name of the augmentation of views that have a seed.
    """

    def __init__(self, images: ImageSet, preprocessing: Preprocessing, *, augmentation: str = "none") -> None:
        self._images = images
        self._plain = EvalTransform(preprocessing)
        changes = AUGMENTATIONS[augmentation]
        size, interpolation = preprocessing.image_size, preprocessing.interpolation
        self._crop = TrainCrop(image_size=size, min_scale=changes.crop_min_scale, interpolation=interpolation)
        self._augment = Augment(changes)
        self.image_bytes = self._plain.image_bytes
        self.line = no_line()

    def path_of(self, number: int) -> str:
        """Return an image's path, as its set writes it."""
        return self._images.paths[number]

    def __getitems__(self, views: Sequence[View]) -> list[tuple[int, Tensor | str]]:
        """Read several views, as `__getitem__` reads one."""
        self._images.read_ahead(list(dict.fromkeys(number for _, number, _ in views)))
        return [self[view] for view in views]

    def __getitem__(self, view: View) -> tuple[int, Tensor | str]:
        """Read one view: return its row, and the image as (3, size, size), uint8, or the reason."""
        row, number, seed = view
        self.line[-1] = number
        try:
            image = self._images.open(number)
            if seed == PLAIN:
                return row, self._plain(image)
            return row, self._augment(self._crop(image, seed=seed)[None], torch.tensor([seed]))[0]
        except ImageRejected as error:
            return row, error.reason
