"""Images that look like photos, and a folder of them with copies."""

from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.stage import Context
from pipeline.store.file_digests import FileDigests
from stages.components.images.opening import identify_images
from stages.evaluate.overlap.perceptual_hash import ImageHashes, hash_images

SIZE = (120, 90)


def photo(seed: int) -> Image.Image:
    """Draw something like a photo: smooth patches of many sizes and colours."""
    generator = np.random.default_rng(seed)
    pixels = np.full((SIZE[1], SIZE[0], 3), 128.0)
    for cells in (3, 6, 12, 24):
        patches = Image.fromarray(generator.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        pixels += (np.asarray(patches.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float64) - 128) / (cells / 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_images(root: Path) -> Path:
    """Write three photos, the first twice in the same bytes and once as a JPEG, and two files that are no images."""
    root.mkdir()
    for seed in range(3):
        photo(seed).save(root / f"{seed}.png")
    (root / "copy.png").write_bytes((root / "0.png").read_bytes())
    photo(0).save(root / "0.jpg", quality=70)
    (root / "broken.png").write_bytes(b"no image")
    (root / "other.png").write_bytes(b"no image")
    return root


def hash_folder(root: Path, paths: list[str], context: Context) -> ImageHashes:
    images = identify_images(root, paths, identity="content", file_digests=FileDigests(None))
    return hash_images(images, workers=0, context=context)
