"""Hash images to compare them: by their bytes, by a perceptual hash and by a thumbnail, once per set."""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from data_schemas.files import write_atomic
from pipeline.fingerprint import hash_json
from pipeline.progress import progress
from pipeline.runner import run_stage
from pipeline.sources import Identified, take_identified
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.lazy_image import to_image
from stages.components.loading.num_workers import num_workers

UNREADABLE, FEATURELESS, HASHED = range(3)

_SIDE, _THUMBNAIL_SIDE = 32, 8
_NUM_BITS = 64
_NOISE = 2.0  # grey levels: a weaker wave comes and goes with compression
_MIN_WAVES = 12
_SHARD_ROWS = 8192


class ImageSignature(NamedTuple):
    """What an image shares with its copies.

    Args:
        hash: 64 bits; None for an image without features, such as one colour or stripes all one way: its few waves
            would match any other such image, and the rest of its bits would be noise.
        thumbnail: Mean colours of 8 x 8 parts of the image.

    Shapes:
        thumbnail: (8, 8, 3), uint8.
    """

    hash: int | None
    thumbnail: NDArray[np.uint8]


@dataclass(frozen=True)
class ImageHashes:
    """Hashes and thumbnails by which the images of a set are compared.

    Args:
        paths: Distinct paths, in order of first appearance.
        digest: Digest of the artifact that the hashes come from.

    Shapes:
        kinds: (images,), uint8: UNREADABLE, FEATURELESS or HASHED.
        sha256: (images, 32), uint8, of the file's bytes; zero where the file is missing.
        hashes: (images,), uint64; zero unless HASHED.
        thumbnails: (images, 8, 8, 3), uint8; zero for UNREADABLE.
    """

    paths: tuple[str, ...]
    kinds: NDArray[np.uint8]
    sha256: NDArray[np.uint8]
    hashes: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    digest: str = ""


def hash_images(images: Input[ImageSet], *, workers: int, context: Context) -> ImageHashes:
    """Hash the images of a set, or read their hashes from the store.

    Args:
        images: Images from `identify_images`; an image that comes several times is hashed once.
        workers: Threads that read images; -1 chooses.
        context: Store of the hashes.
    """
    image_set = images.value
    first = {path: place for place, path in reversed(list(enumerate(image_set.paths)))}
    places = np.array(sorted(first.values()), dtype=np.int64)
    paths = tuple(image_set.paths[place] for place in places)
    # The set's digest does not tell an image that comes twice from two equal images; the places do.
    digest = hash_json([images.digest, hashlib.sha256(places.tobytes()).hexdigest()])
    distinct = Input(digest, images.location, value=image_set.select(places.tolist()))
    outcome = run_stage(
        IMAGE_HASHES,
        params=_NoParams(),
        inputs=Identified(_Sources(images=distinct)),
        runtime=HashRuntime(workers),
        context=context,
    )
    outcome.require_whole()
    return ImageHashes(paths=paths, **_read(outcome.artifact.path), digest=outcome.artifact.record.digest)


def look_at(image: Image.Image) -> ImageSignature:
    """Shrink an image to 32 x 32 pixels, and take the signs of its 64 longest waves except the constant one.

    After pHash (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), which takes a square
    of waves and their median; the 64 longest lie in a quarter circle and change less when the image's edge is cut. A
    bit is set where the wave is more than noise.
    """
    pixels = np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float64)
    grey = pixels @ (0.299, 0.587, 0.114)
    waves = (_COSINES @ grey @ _COSINES.T)[_WAVES]  # (64,), in grey levels
    factor = _SIDE // _THUMBNAIL_SIDE
    blocks = pixels.reshape(_THUMBNAIL_SIDE, factor, _THUMBNAIL_SIDE, factor, 3)
    bits = np.packbits(waves > _NOISE).view(np.uint64)
    has_features = np.count_nonzero(np.abs(waves) > _NOISE) >= _MIN_WAVES
    return ImageSignature(
        hash=int(bits[0]) if has_features else None,
        thumbnail=np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8),
    )


def _cosines() -> NDArray[np.float64]:
    """Return the orthonormal cosine transform (DCT-II): (32 waves, 32 pixels)."""
    waves, pixels = np.arange(_SIDE)[:, None], np.arange(_SIDE)
    table: NDArray[np.float64] = np.cos(np.pi * waves * (pixels + 0.5) / _SIDE) * np.sqrt(2 / _SIDE)
    table[0] /= np.sqrt(2)
    return table


def _longest_waves() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    down, across = np.divmod(np.arange(_SIDE**2), _SIDE)
    order = np.lexsort((down, down**2 + across**2))[1 : _NUM_BITS + 1]
    return down[order], across[order]


_COSINES, _WAVES = _cosines(), _longest_waves()


@dataclass(frozen=True)
class _Sources:
    """Images to hash."""

    images: Input[ImageSet]


@dataclass(frozen=True)
class _NoParams:
    """No parameters: there is one way to hash."""


@dataclass(frozen=True)
class HashRuntime:
    """How many threads read images."""

    workers: int


def _hash_images(params: _NoParams, sources: _Sources, out: Draft, runtime: HashRuntime, context: Context) -> Result:
    """Write whole shards of 8,192 images; a killed run goes on after its last."""
    images = sources.images.value
    total = len(images.paths)
    threads = max(1, num_workers(runtime.workers))
    look = functools.partial(_look, images)
    with ThreadPoolExecutor(threads) as pool, progress("hashing images", total=total, unit="images") as advance:
        for start in range(0, total, _SHARD_ROWS):
            rows = range(start, min(start + _SHARD_ROWS, total))
            name = f"shard-{start // _SHARD_ROWS:06}.safetensors"
            if not out.is_whole(name):
                tensors = _tensors([*pool.map(look, rows)], images.digests(rows, context.file_digests))
                write_atomic(out.path / name, safetensors.numpy.save(tensors))
                out.adopt(name)
            advance(len(rows))
    kinds = _read(out.path)["kinds"]
    names = {"unreadable_images": UNREADABLE, "featureless_images": FEATURELESS}
    return Result(counts={"images": total, **{name: int((kinds == kind).sum()) for name, kind in names.items()}})


def _look(images: ImageSet, row: int) -> ImageSignature | None:
    try:
        return look_at(to_image(images.open(row)))
    except ImageRejected:
        return None


def _tensors(looks: list[ImageSignature | None], digests: list[str | None]) -> dict[str, NDArray[Any]]:
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


IMAGE_HASHES = Stage(
    name="picture-hashes",
    version=1,
    summary="Hash the images of a set, to find those that another set has, too.",
    params=_NoParams,
    inputs=Identified,
    runtime=HashRuntime,
    identify=take_identified,
    run=_hash_images,
)
