import colorsys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_schemas.errors import ProtoRKDError
from stages.draw_scenes.captions import COLOURS
from stages.draw_scenes.scenes import Scene, draw_scenes, write_colour_folders, write_scenes
from stages.draw_scenes.word_vectors import split_words

HUES = {"red": 0, "orange": 29, "yellow": 52, "green": 125, "turquoise": 178, "blue": 226, "purple": 274, "pink": 330}


def _scenes(num_scenes: int, **changes: object) -> list[Scene]:
    options: dict[str, object] = {"split": "train", "image_size": 48, "seed": 0, **changes}
    return list(draw_scenes(num_scenes=num_scenes, **options))  # type: ignore[arg-type]


def _same(left: Scene, right: Scene) -> bool:
    return left.caption == right.caption and np.array_equal(left.image, right.image)


def test_scene__depends_on_its_index_and_not_on_how_many_are_drawn() -> None:
    few, many = _scenes(5), _scenes(40)
    assert len(many) == 40
    assert all(_same(left, right) for left, right in zip(few, many, strict=False))


def test_scene__changes_with_seed_and_split() -> None:
    (base,) = _scenes(1)
    assert not _same(base, _scenes(1, seed=1)[0])
    assert not _same(base, _scenes(1, split="test")[0])


def test_scene__says_the_same_at_every_image_size() -> None:
    assert [s.caption for s in _scenes(20, image_size=32)] == [s.caption for s in _scenes(20, image_size=96)]


@pytest.mark.parametrize("image_size", [32, 48, 64, 101])
def test_scene__is_a_square_rgb_image(image_size: int) -> None:
    for scene in _scenes(80, image_size=image_size):
        assert scene.image.shape == (image_size, image_size, 3)
        assert scene.image.dtype == np.uint8


def test_scenes__are_drawn_lazily() -> None:
    scenes = draw_scenes(split="train", num_scenes=10**9, image_size=32, seed=0)
    assert isinstance(scenes, Iterator)
    assert len(list(islice(scenes, 3))) == 3


def test_scenes__refuse_images_too_small_to_read() -> None:
    with pytest.raises(ProtoRKDError, match="image size must be at least 32 pixels; got 16"):
        draw_scenes(split="train", num_scenes=1, image_size=16, seed=0)


def test_scenes__have_mostly_distinct_test_captions() -> None:
    captions = [scene.caption for scene in _scenes(1000, split="test", image_size=32)]
    assert len(set(captions)) > 990


def test_scenes__show_the_colours_that_captions_say() -> None:
    for scene in _scenes(150, split="test", image_size=64):
        said = {word for word in split_words(scene.caption) if word in COLOURS}
        assert _shown_colours(scene.image) == said, scene.caption


def test_scenes__draw_big_digits_bigger_and_more_digits_wider() -> None:
    ink: dict[tuple[bool, int], list[float]] = {}
    for scene in _scenes(400, image_size=64):
        words = set(split_words(scene.caption))
        if " and " not in scene.caption:
            count = 3 if words & {"triple", "thrice"} else 2 if words & {"double", "twice"} else 1
            ink.setdefault((bool(words & {"big", "large"}), count), []).append(float(_is_ink(scene.image).sum()))
    mean = {key: np.mean(values) for key, values in ink.items()}
    for count in (1, 2, 3):
        assert mean[True, count] > 1.4 * mean[False, count]
    for is_big in (True, False):
        assert mean[is_big, 1] < mean[is_big, 2] < mean[is_big, 3]


def test_scenes__draw_each_lone_group_where_its_caption_says() -> None:
    for scene in _scenes(200, image_size=64):
        if " and " in scene.caption:
            continue
        rows, columns = np.nonzero(_is_ink(scene.image))
        words = set(split_words(scene.caption))
        x, y = columns.mean() / 63, rows.mean() / 63
        if words & {"centre", "middle"}:
            assert 0.35 < x < 0.65
            assert 0.35 < y < 0.65
        else:
            assert (x < 0.5) == ("left" in words)
            assert (y < 0.5) == ("upper" in words)


def test_written_scenes__are_images_and_a_manifest_of_relative_paths(tmp_path: Path) -> None:
    scenes = _scenes(3, split="test")
    assert write_scenes(scenes, tmp_path, split="test") == 3
    lines = (tmp_path / "test.tsv").read_bytes().decode().split("\n")
    assert lines[0] == "filepath\ttitle"
    assert lines[1:] == [*(f"images/test/{k:05d}.jpg\t{scene.caption}" for k, scene in enumerate(scenes)), ""]
    for k, scene in enumerate(scenes):
        with Image.open(tmp_path / f"images/test/{k:05d}.jpg") as image:
            assert image.format == "JPEG"
            assert image.size == (48, 48)
            assert np.abs(np.asarray(image).astype(int) - scene.image).mean() < 8


def test_colour_folders__hold_each_colour_in_both_splits(tmp_path: Path) -> None:
    write_colour_folders(tmp_path, image_size=32, seed=0, num_per_class=2)
    paths = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    assert paths == [
        f"colours/{split}/{colour}/{k:04d}.jpg"
        for split in ("test", "train")
        for colour in sorted(HUES)
        for k in range(2)
    ]
    assert len({(tmp_path / path).read_bytes() for path in paths}) == 32


def _is_ink(image: np.ndarray) -> np.ndarray:
    """Tell the saturated pixels: backgrounds are pale or nearly black."""
    pixels = image.astype(int)
    return np.ptp(pixels, axis=2) > 60


def _shown_colours(image: np.ndarray) -> set[str]:
    """Name every colour that enough strongly coloured pixels are nearest to."""
    pixels = image.reshape(-1, 3) / 255
    strong = pixels[np.ptp(pixels, axis=1) > 0.45]
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] * 360 for pixel in strong])
    distances = np.abs((hues[:, np.newaxis] - np.array(list(HUES.values())) + 180) % 360 - 180)
    counts = np.bincount(distances.argmin(axis=1), minlength=len(HUES))
    return {name for name, count in zip(HUES, counts, strict=True) if count >= max(8, 0.1 * counts.max())}
