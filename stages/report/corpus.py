"""Read what the report is about: the captions of pairs, and the features of their images."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from data_schemas.embedding_array import ARRAY_NAME, FEATURE_KIND, FEATURES_NAME
from data_schemas.errors import ProtoRKDError
from data_schemas.images.embedded_images import IMAGES_NAME, read_images
from data_schemas.images.image_features import CONFIG_NAME, FeaturesConfig
from data_schemas.pair_index import CAPTIONS_NAME, PAIRS_NAME, read_captions, read_pairs
from pipeline.store.store import Artifact
from stages.components.embeddings.embedding_rows import EmbeddingRows
from stages.components.embeddings.feature_images import FeatureImages, check_matched, find_features
from stages.components.embeddings.searchable import read_rows

_BLOCK_NUMBERS = 1 << 24  # of float32 in a block: 64 MB


@dataclass(frozen=True, eq=False)
class CaptionCorpus:
    """The pairs and distinct captions of an artifact of encode-teacher.

    Args:
        texts: Distinct captions, by row.
        num_images: Number of distinct image paths.

    Shapes:
        pair_captions: (pairs,), int64: caption row of each pair.
        vectors: (known captions,), float32, of unit length: those that the teacher knows.
        numbers: (known captions,), int64, ascending: their caption rows.
        places: (captions,), int64: place of each caption among the known ones; -1 for the zero vector.
    """

    texts: pa.Array
    num_images: int
    pair_captions: NDArray[np.int64]
    vectors: Tensor
    numbers: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def read(cls, embeddings: Artifact) -> "CaptionCorpus":
        """Read an artifact of encode-teacher, and compare it with its record.

        Raises:
            ProtoRKDError: it is damaged, or the teacher knows fewer than two of its captions.
        """
        embeddings.require_whole((f"{ARRAY_NAME}/zarr.json", CAPTIONS_NAME, PAIRS_NAME), read=True)
        known, texts, pairs = read_rows(embeddings), read_captions(embeddings.path), read_pairs(embeddings.path)
        if len(known.numbers) < 2:
            raise ProtoRKDError(
                f"--embeddings must hold two captions or more that the teacher knows words of; {embeddings.path} has "
                f"{len(known.numbers)} of {len(texts)}. Encode the captions with another teacher."
            )
        places = np.full(len(texts), -1)
        places[known.numbers] = np.arange(len(known.numbers))
        return cls(
            texts=texts,
            num_images=len(pairs["image"].unique()),
            pair_captions=pairs["caption_row"].to_numpy(),
            vectors=torch.from_numpy(known.values),
            numbers=known.numbers,
            places=places,
        )

    @property
    def pair_places(self) -> NDArray[np.int64]:
        """Place of each pair's caption among the known ones, -1 where it is not: (pairs,)."""
        return self.places[self.pair_captions]

    def blocks(self) -> Iterator[Tensor]:
        """Yield the vectors of all known captions in order, block by block."""
        yield from torch.split(self.vectors, max(1, _BLOCK_NUMBERS // self.vectors.shape[1]))

    def text(self, place: int) -> str:
        """Return a known caption by its place."""
        text: str = self.texts[int(self.numbers[place])].as_py()
        return text


@dataclass(frozen=True, eq=False)
class ImageCorpus:
    """Features of the images of pairs: one pair of each image that has features, and a caption that is known.

    Args:
        images: Image of each pair, with the row of its features.
        digests: SHA-256 of each image row's file, or None.
        dim: Width of the features.

    Shapes:
        pairs: (images,), int64, ascending: the first pair of each image row.
        rows: (images,), int64: image row of each of these pairs.
        captions: (images,), int64: place of its caption among the known ones.
    """

    images: FeatureImages
    digests: dict[int, str]
    dim: int
    pairs: NDArray[np.int64]
    rows: NDArray[np.int64]
    captions: NDArray[np.int64]
    _array: EmbeddingRows
    _views: int

    @classmethod
    def read(
        cls, features: Artifact, embeddings: Artifact, captions: CaptionCorpus, *, max_bad_fraction: float
    ) -> "ImageCorpus":
        """Read an artifact of encode-images, compare it with its record, and join it to the pairs.

        Raises:
            ProtoRKDError: it is damaged, or holds features of other images than the pairs name.
        """
        features.require_whole((f"{FEATURES_NAME}/zarr.json", IMAGES_NAME, CONFIG_NAME), read=True)
        images = find_features(features, embeddings)
        most_missing = int(max_bad_fraction * len(images.paths))
        check_matched(images, features=features, embeddings=embeddings, most_missing=most_missing)
        places = captions.pair_places
        usable = np.flatnonzero((images.rows >= 0) & (places >= 0))
        pairs = np.sort(usable[np.unique(images.rows[usable], return_index=True)[1]])
        if len(pairs) < 2:
            raise ProtoRKDError(
                f"--features must hold two images or more whose captions the teacher knows; {features.path} has "
                f"{len(pairs)}. Run encode-images on the manifest of the embeddings."
            )
        views = FeaturesConfig.read(features.path).views
        array = EmbeddingRows(features, kind=FEATURE_KIND)
        table = read_images(features.path)
        known = table.filter(table["sha256"].is_valid())
        return cls(
            images=images,
            digests=dict(zip(known["image_row"].to_pylist(), known["sha256"].to_pylist(), strict=True)),
            dim=array.shape[1],
            pairs=pairs,
            rows=images.rows[pairs],
            captions=places[pairs],
            _array=array,
            _views=views,
        )

    def take(self, numbers: NDArray[np.int64]) -> Tensor:
        """Read the plain features of images by their numbers among ``pairs``: (numbers, dim), float32."""
        rows = self.rows[numbers] * self._views
        return torch.from_numpy(self._array[rows].astype(np.float32))

    def blocks(self) -> Iterator[Tensor]:
        """Read the features of all images of ``pairs`` in order, block by block."""
        for numbers in np.array_split(np.arange(len(self.rows)), -(-len(self.rows) * self.dim // _BLOCK_NUMBERS)):
            yield self.take(numbers)


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of each feature, as a head standardises its inputs.

    Shapes:
        mean, std: (dim,), float32; std is 0 where a feature does not vary.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def over(cls, features: Tensor) -> "Standardisation":
        """Measure the features of a sample: (rows, dim), float32."""
        mean = features.mean(dim=0, dtype=torch.float64)
        std = features.double().sub_(mean).square_().mean(dim=0).sqrt_()
        std[std <= 2.0**-20 * mean.abs()] = 0  # rounding
        return cls(mean.float(), std.float())

    def __call__(self, features: Tensor) -> Tensor:
        """Standardise features; those that do not vary become 0."""
        return torch.where(self.std > 0, (features - self.mean) / self.std, 0.0)

    def unit(self, features: Tensor) -> Tensor:
        """Standardise features, and scale each row to unit length."""
        return normalize(self(features), dim=1)
