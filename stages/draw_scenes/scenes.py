"""Draw captioned scenes from handwritten digits, and write their files."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic, write_unsynced
from stages.draw_scenes.captions import COLOURS, POSITIONS, Group, plan_groups, write_caption
from stages.draw_scenes.glyphs import Split, glyph, instance_rows
from stages.draw_scenes.portable_random import PortableRandom

_SCENE_STREAMS: dict[Split, int] = {"train": 0, "test": 1}
_COLOUR_STREAMS: dict[Split, int] = {"train": 2, "test": 3}
_SMALLEST_IMAGE = 32

# Both sets of inks have the same names; yellow that is clear on a dark background vanishes on a light one.
_INKS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "dark": (
        (238, 50, 45),
        (255, 145, 20),
        (255, 232, 50),
        (70, 205, 70),
        (60, 226, 218),
        (80, 130, 255),
        (165, 85, 235),
        (255, 130, 195),
    ),
    "light": (
        (215, 25, 30),
        (240, 115, 0),
        (222, 185, 0),
        (30, 150, 45),
        (0, 175, 175),
        (30, 75, 225),
        (115, 40, 175),
        (240, 85, 165),
    ),
}
_TINTS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "dark": ((24, 25, 30), (32, 24, 42), (18, 32, 44), (40, 30, 28), (22, 36, 30)),
    "light": ((246, 245, 240), (232, 240, 250), (250, 237, 233), (235, 246, 235), (243, 238, 250)),
}
_RAMPS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, 1))


@dataclass(frozen=True)
class Scene:
    """An image and the caption that tells what is drawn in it.

    Shapes:
        image: (size, size, 3), uint8, RGB.
    """

    image: NDArray[np.uint8]
    caption: str


def draw_scenes(*, split: Split, num_scenes: int, image_size: int, seed: int) -> Iterator[Scene]:
    """Draw scenes of one to three groups of digits.

    A scene depends on its index, the split, the seed and the image size, not on how many others are drawn. The two
    splits share no handwritten instance.

    Args:
        split: Split of the handwritten instances to draw from.
        num_scenes: Number of scenes.
        image_size: Side of a scene in pixels, at least 32.
        seed: Seed of the scenes.

    Raises:
        ProtoRKDError: the image size is under 32 pixels.
    """
    _check_image_size(image_size)
    rows = instance_rows(split)

    def scenes() -> Iterator[Scene]:
        for index in range(num_scenes):
            rng = PortableRandom(seed=seed, stream=_SCENE_STREAMS[split], index=index)
            yield _draw(plan_groups(rng), rows=rows, image_size=image_size, rng=rng)

    return scenes()


def write_scenes(scenes: Iterable[Scene], folder: Path, *, split: Split) -> int:
    """Write images to ``<folder>/images/<split>`` and their manifest to ``<folder>/<split>.tsv``.

    The manifest has the columns filepath and title, with paths relative to itself; it is written last.

    Returns:
        Number of scenes that were written.
    """
    lines = ["filepath\ttitle"]
    for index, scene in enumerate(scenes):
        path = f"images/{split}/{index:05d}.jpg"
        write_unsynced(folder / path, _encode_jpeg(scene.image))
        lines.append(f"{path}\t{scene.caption}")
    write_atomic(folder / f"{split}.tsv", ("\n".join(lines) + "\n").encode())
    return len(lines) - 1


def write_colour_folders(folder: Path, *, image_size: int, seed: int, num_per_class: int) -> None:
    """Write images of one digit each to ``<folder>/colours/<split>/<colour>``, for classification by colour.

    Folder names are the captions' words for the colours.

    Args:
        folder: Folder in which ``colours`` is made.
        image_size: Side of an image in pixels, at least 32.
        seed: Seed of the images.
        num_per_class: Number of images of each colour in each of the two splits.

    Raises:
        ProtoRKDError: the image size is under 32 pixels.
    """
    _check_image_size(image_size)
    for split, stream in _COLOUR_STREAMS.items():
        rows = instance_rows(split)
        for place, colour in enumerate(COLOURS):
            for index in range(num_per_class):
                rng = PortableRandom(seed=seed, stream=stream, index=index * len(COLOURS) + place)
                group = Group(
                    digit=rng.below(10),
                    colour=colour,
                    is_big=rng.pick((True, False)),
                    count=1,
                    position=rng.pick(tuple(POSITIONS)),
                )
                scene = _draw((group,), rows=rows, image_size=image_size, rng=rng)
                write_unsynced(folder / f"colours/{split}/{colour}/{index:04d}.jpg", _encode_jpeg(scene.image))


def _draw(groups: Sequence[Group], *, rows: Sequence[Sequence[int]], image_size: int, rng: PortableRandom) -> Scene:
    background = rng.pick(("dark", "light"))
    caption = write_caption(groups, background=background, rng=rng)
    canvas = _paper(rng.pick(_TINTS[background]), rng.pick(_RAMPS), image_size).copy()
    for group in groups:
        ink = np.array(_INKS[background][COLOURS.index(group.colour)], dtype=np.float32)
        _draw_group(canvas, group, ink=ink, rows=rows[group.digit], rng=rng)
    return Scene(image=canvas.round().astype(np.uint8), caption=caption)


def _draw_group(
    canvas: NDArray[np.float32], group: Group, *, ink: NDArray[np.float32], rows: Sequence[int], rng: PortableRandom
) -> None:
    size = canvas.shape[0]
    height, gap = _digit_height(group, size) + rng.below(1 + size // 48), max(1, size // 48)
    glyphs = [glyph(rng.pick(rows), height) for _ in range(group.count)]
    width = sum(mask.shape[1] for mask in glyphs) + gap * (group.count - 1)
    horizontal, vertical = POSITIONS[group.position]
    left, top = _offset(size, width, horizontal, rng), _offset(size, height, vertical, rng)
    for mask in glyphs:
        region = canvas[top : top + height, left : left + mask.shape[1]]
        region += mask * (ink - region)
        left += mask.shape[1] + gap


def _digit_height(group: Group, image_size: int) -> int:
    if not group.is_big:
        return round(image_size * 0.2)
    return round(image_size * (0.32 if group.count < 3 else 0.28))


def _offset(size: int, extent: int, alignment: float, rng: PortableRandom) -> int:
    """Return the offset of an extent near one side (0 or 1) or in the middle (0.5), moved a little at random."""
    margin = size // 32
    inward = margin + rng.below(1 + size // 24)
    if alignment == 0.5:
        return (size - extent) // 2 + rng.below(1 + 2 * margin) - margin
    return inward if alignment == 0 else size - extent - inward


@lru_cache(maxsize=256)
def _paper(tint: tuple[int, int, int], ramp: tuple[int, int], image_size: int) -> NDArray[np.float32]:
    """Make a background of one tint that grows a little lighter in the ramp's direction."""
    steps = np.linspace(-4, 4, image_size, dtype=np.float32)
    shade = ramp[0] * steps[np.newaxis, :, np.newaxis] + ramp[1] * steps[:, np.newaxis, np.newaxis]
    return np.asarray(np.clip(np.array(tint, dtype=np.float32) + shade, 0, 255), dtype=np.float32)


def _encode_jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _check_image_size(image_size: int) -> None:
    if image_size < _SMALLEST_IMAGE:
        raise ProtoRKDError(
            f"image size must be at least {_SMALLEST_IMAGE} pixels; got {image_size}. Smaller digits cannot be read."
        )
