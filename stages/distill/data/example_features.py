"""The cached features of examples, batch by batch: no image, no process that reads."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stages.components.compute.keyed_random import keyed_numbers
from stages.components.embeddings.feature_images import FeatureImages
from stages.components.loading.batch import Batch
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.feature_noise import FeatureMixup
from stages.distill.data.targets import EmbeddingTable

_VIEW = 2  # purpose of an image's random number, beside crop and augmentation


class ExampleFeatures:
    """Features by epoch and example, the same on every run.

    Args:
        table: Features; row ``image_row * views + view`` belongs to a view of an image.
        images: Image of each pair.
        pairs: Pair whose image each example shows.
        views: Views of each image, of which one is drawn in every epoch.
        mixup: Mixes a batch; None leaves it.
        seed: Seed of the draw of a view.

    Shapes:
        pairs: (examples,), int64.
    """

    def __init__(
        self,
        table: EmbeddingTable,
        images: FeatureImages,
        pairs: NDArray[np.int64],
        *,
        views: int,
        mixup: FeatureMixup | None,
        seed: int,
    ) -> None:
        self._table, self._images, self._pairs = table, images, pairs
        self._first_rows = images.rows[pairs] * views
        self._views, self._mixup, self._seed = views, mixup, seed

    def path_of(self, example: int) -> str:
        """Look up the path of an example's image, as its manifest writes it."""
        return self._images.paths[int(self._pairs[example])]

    def batches(self, requests: BatchRequests, *, workers: int, pin_memory: bool) -> Iterator[Batch]:  # noqa: ARG002 - of images
        """Gather the requested micro-batches, in order, as they are asked for."""
        for epoch, examples in requests.parts():
            yield self.batch(examples, epoch)

    def batch(self, examples: NDArray[np.int64], epoch: int) -> Batch:
        """Gather the features of examples in an epoch, on the training device.

        Shapes:
            examples: (batch,), int64.
        """
        rows = torch.from_numpy(examples)
        features = self._table.gather(torch.from_numpy(self.rows(examples, epoch)))
        if self._mixup is not None:
            features = self._mixup(features, rows, epoch)
        return Batch(images=features, rows=rows, rejected={})

    def rows(self, examples: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """Choose the row of each example's features in an epoch: a function of the seed, the epoch and the pair.

        Shapes:
            examples: (batch,), int64.
            returns: the same.
        """
        first = self._first_rows[examples]
        if self._views == 1:
            return first
        return first + keyed_numbers([self._seed, epoch, _VIEW], self._pairs[examples]) % self._views


def all_rows(images: FeatureImages, pairs: NDArray[np.int64], *, views: int) -> NDArray[np.int64]:
    """List the rows of all views of the pairs' images, each once, ascending: (rows,), int64."""
    return (np.unique(images.rows[pairs])[:, None] * views + np.arange(views)).reshape(-1)


class HeldOutFeatures:
    """Features of held-out images, of the plain view, for validation.

    Args:
        table: Features.
        images: Held-out images.
        views: Views of each image.
        batch_size: Images at a time.
    """

    def __init__(self, table: EmbeddingTable, images: FeatureImages, *, views: int, batch_size: int) -> None:
        self._table, self._batch_size = table, batch_size
        self._rows = torch.from_numpy(images.rows * views)

    def __call__(self, own: Sequence[int], *, pin_memory: bool) -> Iterator[Batch]:  # noqa: ARG002 - of images
        """Gather the features of some images, by their numbers, in batches."""
        for numbers in torch.split(torch.tensor(own, dtype=torch.int64), self._batch_size):
            yield Batch(images=self._table.gather(self._rows[numbers]), rows=numbers, rejected={})
