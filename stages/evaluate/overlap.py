"""Overlap of training and evaluation pictures: which pictures of a set has a student seen, as they are or nearly?

Exact copies have the same bytes. Near-duplicates have perceptual hashes a few bits apart and look alike as thumbnails:
the same picture resized, compressed again, a little brighter or cut by a percent or two; no mirror images, no crops.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from data_schemas.files import write_atomic
from pipeline.draft import Draft
from pipeline.fingerprint import hash_json
from pipeline.progress import progress
from pipeline.runner import run_stage
from pipeline.stage import Context, Input, Result, Stage
from stages.image_set import ImageSet
from stages.images import ImageRejected, open_image
from stages.workers import num_workers

UNREADABLE, FEATURELESS, HASHED = range(3)
MAX_DISTANCE = 6
MIN_SIMILARITY = 0.9  # of two thumbnails

_SIDE, _THUMBNAIL_SIDE = 32, 8
_NUM_BITS, _NUM_BANDS = 64, 4
_NOISE = 2.0  # grey levels: a weaker wave comes and goes with compression
_MIN_WAVES = 12
_LITTLE_CONTRAST = (0.03 * 255) ** 2
_MAX_PAIRS_PER_PICTURE = 10
_SHARD_ROWS = 8192
_MAX_CANDIDATES = 2**18  # compared at once

Rows = NDArray[np.int64]


class Look(NamedTuple):
    """What of a picture its copies share.

    Args:
        hash: 64 bits; None for a picture without features, such as one colour or stripes all one way: its few waves
            would match any other such picture, and the rest of its bits would be noise.
        thumbnail: its colours.

    Shapes:
        thumbnail: (8, 8, 3), uint8.
    """

    hash: int | None
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class PictureHashes:
    """What the pictures of a set are compared by.

    Args:
        paths: the distinct ones, in order of first appearance.
        digest: of the artifact that it lies in.

    Shapes:
        kinds: (pictures,), uint8: UNREADABLE, FEATURELESS or HASHED.
        sha256: (pictures, 32), uint8, of the file's bytes; zero where the file is missing.
        hashes: (pictures,), uint64; zero but for HASHED.
        thumbnails: (pictures, 8, 8, 3), uint8; zero for UNREADABLE.
    """

    paths: tuple[str, ...]
    kinds: NDArray[np.uint8]
    sha256: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    digest: str = ""


@dataclass(frozen=True)
class OverlapPair:
    """An evaluation picture and a training picture that is its copy.

    Args:
        evaluation: path as its set writes it.
        training: path as its set writes it.
        exact: whether the bytes are the same.
        distance: bits in which the hashes differ; 0 for exact copies.
    """

    evaluation: str
    training: str
    exact: bool
    distance: int


@dataclass(frozen=True)
class Overlap:
    """What two sets have in common.

    Args:
        num_evaluation: distinct evaluation pictures that can be read.
        num_training: distinct training pictures that can be read.
        num_exact: evaluation pictures with an exact copy among the training pictures.
        num_near: evaluation pictures with a near-duplicate there, and no exact copy.
        num_featureless: evaluation pictures without a hash, of which only exact copies are found.
        pairs: by evaluation picture and then the nearest first, at most 10 an evaluation picture.
    """

    num_evaluation: int
    num_training: int
    num_exact: int
    num_near: int
    num_featureless: int
    pairs: tuple[OverlapPair, ...]


def hash_pictures(images: Input, *, workers: int, context: Context) -> PictureHashes:
    """Hash the pictures of a set, or find them hashed.

    Args:
        images: from `identify_images`; a picture that comes several times is looked at once.
        workers: threads that read pictures; -1 chooses.
        context: the store.
    """
    given: ImageSet = images.value
    first = {path: place for place, path in reversed(list(enumerate(given.paths)))}
    places = np.array(sorted(first.values()), dtype=np.int64)
    paths = tuple(given.paths[place] for place in places)
    # The set's digest does not tell a picture that comes twice from two that are equal: its places do.
    digest = hash_json([images.digest, hashlib.sha256(places.tobytes()).hexdigest()])
    distinct = Input(digest, images.location, value=ImageSet(root=given.root, paths=paths))
    outcome = run_stage(
        PICTURE_HASHES,
        params=_NoParams(),
        inputs=_Inputs({"images": distinct}),
        runtime=HashRuntime(workers),
        context=context,
    )
    outcome.artifact.require_whole(read=True)
    return PictureHashes(paths=paths, **_read(outcome.artifact.path), digest=outcome.artifact.record.digest)


def find_overlap(*, evaluation: PictureHashes, training: PictureHashes, max_distance: int = MAX_DISTANCE) -> Overlap:
    """Find the evaluation pictures that are among the training pictures.

    Every pair of hashes within the distance is found, by multi-index hashing (Norouzi et al., Fast Search in Hamming
    Space with Multi-Index Hashing, 2012): of four bands of 16 bits, one differs in a quarter of the distance at most.
    Each is compared as thumbnails before it counts.

    Args:
        evaluation: pictures of a set that a student is measured on.
        training: pictures that it was distilled from.
        max_distance: bits, 0 to 15, in which the hashes of near-duplicates differ at most; from 8 it takes much longer.

    Raises:
        ValueError: the distance is out of range.
    """
    if not 0 <= max_distance <= 15:
        raise ValueError(f"max_distance must lie from 0 to 15; got {max_distance}.")
    exact, near = _exact_pairs(evaluation, training), _near_pairs(evaluation, training, max_distance)
    pairs = np.concatenate([exact, near[~_contains(exact, near)]])
    distances = np.bitwise_count(evaluation.hashes[pairs[:, 0]] ^ training.hashes[pairs[:, 1]])
    is_near = np.arange(len(pairs)) >= len(exact)
    order = np.lexsort((pairs[:, 1], distances, is_near, pairs[:, 0]))
    place = np.arange(len(pairs)) - np.searchsorted(pairs[order, 0], pairs[order, 0])
    listed = order[place < _MAX_PAIRS_PER_PICTURE]
    num_exact = len(np.unique(exact[:, 0]))
    return Overlap(
        num_evaluation=int(np.count_nonzero(evaluation.kinds != UNREADABLE)),
        num_training=int(np.count_nonzero(training.kinds != UNREADABLE)),
        num_exact=num_exact,
        num_near=len(np.unique(pairs[:, 0])) - num_exact,
        num_featureless=int(np.count_nonzero(evaluation.kinds == FEATURELESS)),
        pairs=tuple(
            OverlapPair(
                evaluation=evaluation.paths[pairs[row, 0]],
                training=training.paths[pairs[row, 1]],
                exact=not is_near[row],
                distance=int(distances[row]),
            )
            for row in listed
        ),
    )


def look_at(image: Image.Image) -> Look:
    """Shrink a picture to 32 x 32 pixels, and take the signs of its 64 longest waves but for the constant one.

    After pHash (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), which takes a square
    of waves and their median; the 64 longest lie in a quarter circle and change less when the picture's edge is cut. A
    bit is set where the wave is more than noise.
    """
    pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    grey = pixels @ (0.299, 0.587, 0.114)
    waves = (_COSINES @ grey @ _COSINES.T)[_WAVES]  # (64,), in grey levels
    factor = _SIDE // _THUMBNAIL_SIDE
    blocks = pixels.reshape(_THUMBNAIL_SIDE, factor, _THUMBNAIL_SIDE, factor, 3)
    bits = np.packbits(waves > _NOISE).view(np.uint64)
    has_features = np.count_nonzero(np.abs(waves) > _NOISE) >= _MIN_WAVES
    return Look(
        hash=int(bits[0]) if has_features else None,
        thumbnail=np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8),
    )


def _exact_pairs(evaluation: PictureHashes, training: PictureHashes) -> Rows:
    """Return (pairs, 2): rows of pictures that can be read and have the same bytes."""
    ours, theirs = (np.flatnonzero(found.kinds != UNREADABLE) for found in (evaluation, training))
    asked, known = evaluation.sha256[ours], training.sha256[theirs]
    index = _Index(known[:, :8].copy().view(np.uint64)[:, 0])
    found = [np.empty((0, 2), np.int64)]
    for one, other in index.equal(asked[:, :8].copy().view(np.uint64)[:, 0]):
        same = (asked[one] == known[other]).all(axis=1)
        found.append(np.stack([ours[one[same]], theirs[other[same]]], axis=1))
    return np.concatenate(found)


def _near_pairs(evaluation: PictureHashes, training: PictureHashes, max_distance: int) -> Rows:
    """Return (pairs, 2), distinct: rows of pictures whose hashes are near and whose thumbnails are alike."""
    ours, theirs = (np.flatnonzero(found.kinds == HASHED) for found in (evaluation, training))
    asked, known = evaluation.hashes[ours], training.hashes[theirs]
    asked_bands, known_bands = (hashes.view(np.uint16).reshape(-1, _NUM_BANDS) for hashes in (asked, known))
    flips = np.arange(2**16, dtype=np.uint16)
    flips = flips[np.bitwise_count(flips) <= max_distance // _NUM_BANDS]
    found = [np.empty((0, 2), np.int64)]
    for band in range(_NUM_BANDS):
        index = _Index(known_bands[:, band])
        for flip in flips:
            for one, other in index.equal(asked_bands[:, band] ^ flip):
                near = np.bitwise_count(asked[one] ^ known[other]) <= max_distance
                pairs = np.stack([ours[one[near]], theirs[other[near]]], axis=1)
                alike = _similarity(evaluation.thumbnails[pairs[:, 0]], training.thumbnails[pairs[:, 1]])
                found.append(pairs[alike >= MIN_SIMILARITY])
    return np.unique(np.concatenate(found), axis=0)


class _Index:
    """Finds the rows that have a key."""

    def __init__(self, keys: NDArray[Any]) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def equal(self, asked: NDArray[Any]) -> Iterator[tuple[Rows, Rows]]:
        """Yield, in blocks, places among ``asked`` and rows of the index with the same key."""
        first = np.searchsorted(self._keys, asked, side="left")
        counts = np.searchsorted(self._keys, asked, side="right") - first
        ends = np.cumsum(counts)
        start, done = 0, 0
        while start < len(asked):
            stop = max(start + 1, int(np.searchsorted(ends, done + _MAX_CANDIDATES, side="right")))
            places = np.repeat(np.arange(start, stop), counts[start:stop])
            if len(places):
                nth = np.arange(done, ends[stop - 1]) - (ends - counts)[places]
                yield places, self._order[first[places] + nth]
            start, done = stop, int(ends[stop - 1])


def _similarity(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compare thumbnails in contrast and structure, not in brightness; of red, green and blue the least alike counts.

    As in SSIM (Wang et al., Image Quality Assessment, 2004), with its constant for what has hardly any contrast.

    Shapes:
        first, second: (pairs, 8, 8, 3), uint8.
        returns: (pairs,), float32, from -1 to 1, which equal ones have.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    one -= one.mean(axis=(1, 2), keepdims=True)
    other -= other.mean(axis=(1, 2), keepdims=True)
    energy = (np.square(one) + np.square(other)).mean(axis=(1, 2)) + _LITTLE_CONTRAST  # (pairs, 3)
    similarity: NDArray[np.float32] = (2 * (one * other).mean(axis=(1, 2)) + _LITTLE_CONTRAST) / energy
    least: NDArray[np.float32] = similarity.min(axis=1)
    return least


def _contains(pairs: Rows, asked: Rows) -> NDArray[np.bool_]:
    width = 1 + max((int(found[:, 1].max()) for found in (pairs, asked) if len(found)), default=0)
    is_known: NDArray[np.bool_] = np.isin(asked @ (width, 1), pairs @ (width, 1))
    return is_known


def _cosines() -> NDArray[np.float64]:
    """Orthonormal cosine transform (DCT-II): (32 waves, 32 pixels)."""
    waves, pixels = np.arange(_SIDE)[:, None], np.arange(_SIDE)
    table: NDArray[np.float64] = np.cos(np.pi * waves * (pixels + 0.5) / _SIDE) * np.sqrt(2 / _SIDE)
    table[0] /= np.sqrt(2)
    return table


def _longest_waves() -> tuple[Rows, Rows]:
    down, across = np.divmod(np.arange(_SIDE**2), _SIDE)
    order = np.lexsort((down, down**2 + across**2))[1 : _NUM_BITS + 1]
    return down[order], across[order]


_COSINES, _WAVES = _cosines(), _longest_waves()


@dataclass(frozen=True)
class _Inputs:
    """Already identified by the stage that asks."""

    found: Mapping[str, Input]


@dataclass(frozen=True)
class _NoParams:
    """There is one way to hash."""


@dataclass(frozen=True)
class HashRuntime:
    """How many threads read pictures."""

    workers: int


def _given(inputs: _Inputs, _params: object, _context: Context) -> Mapping[str, Input]:
    return inputs.found


def _hash_pictures(
    params: _NoParams, inputs: Mapping[str, Input], out: Draft, runtime: HashRuntime, context: Context
) -> Result:
    """Write shards of 8,192 pictures, each whole: a killed run goes on from its last."""
    images: ImageSet = inputs["images"].value
    total = len(images.paths)
    threads = max(1, num_workers(runtime.workers))
    with ThreadPoolExecutor(threads) as pool, progress("hashing pictures", total=total, unit="pictures") as advance:
        for start in range(0, total, _SHARD_ROWS):
            paths = [images.full_path(row) for row in range(start, min(start + _SHARD_ROWS, total))]
            name = f"shard-{start // _SHARD_ROWS:06}.safetensors"
            if not out.is_whole(name):
                tensors = _tensors(list(pool.map(_look, paths)), context.file_digests.digests(paths))
                write_atomic(out.path / name, safetensors.numpy.save(tensors))
                out.adopt(name)
            advance(len(paths))
    kinds = _read(out.path)["kinds"]
    names = {"unreadable_images": UNREADABLE, "featureless_images": FEATURELESS}
    return Result(counts={"images": total, **{name: int((kinds == kind).sum()) for name, kind in names.items()}})


def _look(path: Path) -> Look | None:
    try:
        return look_at(open_image(path))
    except ImageRejected:
        return None


def _tensors(looks: list[Look | None], digests: list[str | None]) -> dict[str, NDArray[Any]]:
    nothing = np.zeros((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE, 3), np.uint8)
    kinds = [UNREADABLE if look is None else FEATURELESS if look.hash is None else HASHED for look in looks]
    digest_bytes = b"".join(bytes.fromhex(digest) if digest else bytes(32) for digest in digests)
    return {
        "kinds": np.array(kinds, np.uint8),
        "sha256": np.frombuffer(digest_bytes, np.uint8).reshape(-1, 32),
        "hashes": np.array([look.hash or 0 if look else 0 for look in looks], np.uint64),
        "thumbnails": np.stack([look.thumbnail if look else nothing for look in looks]),
    }


def _read(root: Path) -> dict[str, NDArray[Any]]:
    shards = [safetensors.numpy.load_file(path) for path in sorted(root.glob("shard-*.safetensors"))]
    return {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}


PICTURE_HASHES = Stage(
    name="picture-hashes",
    version=1,
    summary="Hash the pictures of a set, to find those that another set has, too.",
    params=_NoParams,
    inputs=_Inputs,
    runtime=HashRuntime,
    identify=_given,
    run=_hash_pictures,
)
