"""Compute a calibration: a bank of captions, or the levels of cosines among captions and images."""

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.calibration import MixedScores, ScoreLevels
from data_schemas.embedding_array import FEATURE_KIND
from data_schemas.errors import ProtoRKDError
from data_schemas.images.embedded_images import read_images
from data_schemas.images.image_features import FeaturesConfig
from pipeline.store.store import Artifact, Store
from stages.components.compute.device import choose_device
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.embedding_rows import EmbeddingRows
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import EvalTransform
from stages.components.loading.batch import EvalImages
from stages.components.loading.image_loader import ImageLoader, batches_of
from stages.components.loading.num_workers import num_workers
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.embedder import ImageEmbedder
from stages.components.student.head_on_features import embed_features

Vectors = NDArray[np.float32]

_BATCH = 64
_ROWS = 1024  # compared at a time
_NEAREST_SHARE = 1 / 400  # of the candidates: the first ten of 4,000
_SMALLEST = 1e-6  # distance of the nearest from the mean, where scores differ


def sample_rows(num_rows: int, most: int, *, seed: int) -> NDArray[np.int64]:
    """Draw rows, ascending and always the same; all of them where there are no more."""
    if num_rows <= most:
        return np.arange(num_rows)
    drawn = np.random.default_rng(seed).choice(num_rows, size=most, replace=False, shuffle=False)
    return np.sort(drawn).astype(np.int64)


def unit_vectors(vectors: NDArray[np.floating]) -> Vectors:
    """Scale rows to unit length, and leave out rows of zeros."""
    rows = vectors.astype(np.float32)
    rows = rows[rows.any(axis=1)]
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def sample_captions(embeddings: Artifact, most: int, *, seed: int) -> Vectors:
    """Read a sample of the captions that were embedded, without those that the teacher does not know.

    Raises:
        ProtoRKDError: a shard is missing or damaged, or the teacher knows fewer than 2 of the captions.

    Shapes:
        returns: (sample, dim), float32, of unit length.
    """
    table = EmbeddingRows(embeddings)
    captions = unit_vectors(table[sample_rows(len(table), most, seed=seed)])
    if len(captions) < 2:
        raise ProtoRKDError(f"A calibration must have 2 captions or more; {embeddings.name} has {len(captions)}.")
    return captions


def embed_sampled_features(student: StudentWeights, features: Artifact, most: int, *, seed: int) -> Vectors:
    """Embed a sample of the images that a head was trained on, from their features; no image is opened.

    Raises:
        ProtoRKDError: a shard is missing or damaged.

    Shapes:
        returns: (sample, dim), float32, of unit length.
    """
    config = FeaturesConfig.read(features.path)
    known = np.unique(read_images(features.path)["image_row"].to_numpy())
    plain = known[sample_rows(len(known), most, seed=seed)] * config.views  # view 0: the image as in evaluation
    rows = torch.from_numpy(EmbeddingRows(features, kind=FEATURE_KIND)[plain].astype(np.float32))
    return unit_vectors(embed_features(student, rows, device=torch.device("cpu")).numpy())


def embed_sampled_images(
    student: StudentWeights, images: ImageSet, most: int, *, seed: int, device: str, workers: int, store: Store
) -> Vectors:
    """Embed a sample of the images that a student was trained on; those that cannot be read are left out.

    Raises:
        ProtoRKDError: the weights or the backbone are gone.

    Shapes:
        returns: (sample, dim), float32, of unit length.
    """
    where = choose_device(device)
    embedder = ImageEmbedder.load(student, device=where, precision=choose_precision("auto", where), store=store)
    firsts = list({path: number for number, path in reversed(list(enumerate(images.paths)))}.values())
    numbers = np.sort(firsts)[sample_rows(len(firsts), most, seed=seed)].tolist()
    batches = batches_of(numbers, _BATCH)
    opened = EvalImages(images, EvalTransform(embedder.preprocessing))
    loader = ImageLoader(
        opened,
        workers=min(num_workers(workers), len(batches)),
        pin_memory=where.type == "cuda",
        batches=batches,
        batch_bytes=min(_BATCH, len(numbers)) * opened.image_bytes,
    )
    return unit_vectors(np.concatenate([embeddings.numpy() for _, _, embeddings in embedder.over(loader)]))


def mixed_scores(captions: Vectors, images: Vectors) -> MixedScores:
    """Compute the levels of cosines among captions and images, a vector with itself left out.

    As many captions as images are compared, for the nearest of more candidates lie nearer.

    Raises:
        ProtoRKDError: there are fewer than 2 of a kind, or all are alike, so that their scores have no scale.

    Shapes:
        captions: (captions, dim); images: (images, dim), float32, of unit length.
    """
    num = min(len(captions), len(images))
    captions, images = (rows[np.linspace(0, len(rows) - 1, num).astype(np.int64)] for rows in (captions, images))
    return MixedScores(
        caption_to_image=_levels(captions, images, "captions and images"),
        caption_to_caption=_levels(captions, captions, "captions"),
        image_to_image=_levels(images, images, "images"),
        image_to_caption=_levels(images, captions, "images and captions"),
    )


def _levels(queries: Vectors, candidates: Vectors, what: str) -> ScoreLevels:
    """Measure mean and nearest cosines of queries with candidates."""
    own = candidates is queries  # each query is a candidate, too
    num = len(candidates) - own
    k = max(1, round(len(candidates) * _NEAREST_SHARE))
    totals, nearest = 0.0, 0.0
    for start in range(0, len(queries) if num > 0 else 0, _ROWS):
        scores = queries[start : start + _ROWS] @ candidates.T  # (block, candidates)
        rows = np.arange(len(scores))
        if own:
            scores[rows, start + rows] = -np.inf
        nearest += float(np.partition(scores, -k, axis=1)[:, -k:].astype(np.float64).sum()) / k
        totals += float(np.where(np.isneginf(scores), 0, scores).astype(np.float64).sum())
    levels = ScoreLevels(totals / max(1, num * len(queries)), nearest / max(1, len(queries)))
    if not levels.nearest - levels.mean > _SMALLEST:
        raise ProtoRKDError(
            f"Scores between {what} must differ to be calibrated; got {len(queries)} vectors that are all alike. Look "
            "at the training: the student may have collapsed."
        )
    return levels
