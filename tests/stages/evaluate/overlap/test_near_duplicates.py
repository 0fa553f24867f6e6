from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from photos import SIZE, hash_folder, photo, write_images
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from pipeline.runner import context_of
from pipeline.store.store import Store
from stages.evaluate.overlap.near_duplicates import OverlapPair, find_overlap
from stages.evaluate.overlap.perceptual_hash import FEATURELESS, HASHED, UNREADABLE, ImageHashes, look_at


def drawing(seed: int) -> Image.Image:
    """Return a few shapes in strong colours on white."""
    generator = np.random.default_rng(seed)
    image = Image.new("RGB", SIZE, "white")
    for _ in range(4):
        x, y = (int(generator.integers(0, side - 30)) for side in SIZE)
        colour = tuple(int(level) for level in generator.integers(0, 200, 3))
        width, height = (int(length) for length in generator.integers(15, 45, 2))
        ImageDraw.Draw(image).rectangle((x, y, x + width, y + height), fill=colour)
    return image


def recoded(image: Image.Image, tmp_path: Path) -> Image.Image:
    image.save(tmp_path / "recoded.jpg", quality=40)
    return Image.open(tmp_path / "recoded.jpg").convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "halved": lambda image: image.resize((SIZE[0] // 2, SIZE[1] // 2), Image.Resampling.BICUBIC),
    "squared": lambda image: image.resize((256, 256), Image.Resampling.BILINEAR),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.75),
    "sharper": lambda image: image.filter(ImageFilter.SHARPEN),
    "cropped": lambda image: image.crop((1, 1, SIZE[0] - 1, SIZE[1] - 1)),
}


def hashes_of(images: list[Image.Image], *, digests: int = 0) -> ImageHashes:
    """Return what the stage makes of images, each in a file with bytes of its own."""
    looks = [look_at(image) for image in images]
    return ImageHashes(
        paths=tuple(f"{digests}/{number}.png" for number in range(len(images))),
        kinds=np.array([FEATURELESS if look.hash is None else HASHED for look in looks], np.uint8),
        sha256=np.random.default_rng(digests).integers(0, 256, (len(images), 32), dtype=np.uint8),
        hashes=np.array([look.hash or 0 for look in looks], np.uint64),
        thumbnails=np.stack([look.thumbnail for look in looks]),
    )


def hashed(hashes: NDArray[np.uint64], *, digests: int) -> ImageHashes:
    """Images with these hashes and one thumbnail."""
    num = len(hashes)
    return ImageHashes(
        paths=tuple(f"{digests}/{number}" for number in range(num)),
        kinds=np.full(num, HASHED, np.uint8),
        sha256=np.random.default_rng(digests).integers(0, 256, (num, 32), dtype=np.uint8),
        hashes=hashes,
        thumbnails=np.zeros((num, 8, 8, 3), np.uint8),
    )


def found_places(evaluation: ImageHashes, training: ImageHashes) -> set[tuple[int, int]]:
    pairs = find_overlap(evaluation=evaluation, training=training).pairs
    return {(evaluation.paths.index(pair.evaluation), training.paths.index(pair.training)) for pair in pairs}


@pytest.mark.parametrize("draw", [photo, drawing])
@pytest.mark.parametrize("copy", COPIES)
def test_overlap__finds_changed_copies_and_nothing_else(draw: Callable[[int], Image.Image], copy: str) -> None:
    originals = [draw(seed) for seed in range(20)]
    copies = [COPIES[copy](image) for image in originals]
    found = found_places(hashes_of(copies, digests=1), hashes_of(originals))
    assert all(one == other for one, other in found)
    assert len(found) >= 18


def test_overlap__finds_copies_that_were_compressed_again(tmp_path: Path) -> None:
    originals = [photo(seed) for seed in range(20)]
    copies = [recoded(image, tmp_path) for image in originals]
    assert found_places(hashes_of(copies, digests=1), hashes_of(originals)) == {(place, place) for place in range(20)}


def test_overlap__finds_nothing_among_different_photos() -> None:
    images = hashes_of([photo(seed) for seed in range(300)])
    assert found_places(images, images) == {(place, place) for place in range(300)}  # of 90,000 pairs


def test_overlap__tells_a_drawing_from_the_same_in_another_colour() -> None:
    def squares(colour: str) -> Image.Image:
        image = Image.new("RGB", SIZE, "white")
        ImageDraw.Draw(image).rectangle((10, 20, 60, 70), fill=colour)
        return image

    colours = ("red", "green", "blue", "yellow", "orange", "purple", "black")
    images = hashes_of([squares(colour) for colour in colours])
    assert (images.kinds == HASHED).all()
    others = hashes_of([squares(colour) for colour in colours], digests=1)
    assert found_places(images, others) == {(place, place) for place in range(len(colours))}


def test_overlap__compares_images_without_features_by_their_bytes_alone() -> None:
    noise = np.random.default_rng(0).normal(128, 1, (64, 64, 3)).astype(np.uint8)
    gradient = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 64, axis=0).repeat(3, axis=2)
    stripes = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(stripes).rectangle((0, 20, 64, 40), fill="black")
    flat = [Image.new("RGB", (64, 64), colour) for colour in ("white", "black", "red", "grey")]
    images = hashes_of([*flat, Image.fromarray(noise), Image.fromarray(gradient), stripes])
    others = hashes_of([*flat, Image.fromarray(noise), Image.fromarray(gradient), stripes], digests=1)
    found = find_overlap(evaluation=images, training=others)
    assert (found.num_near, found.num_featureless, found.pairs) == (0, 7, ())
    same_bytes = find_overlap(evaluation=images, training=images)
    assert (same_bytes.num_exact, same_bytes.num_near, len(same_bytes.pairs)) == (7, 0, 7)


@pytest.mark.parametrize("max_distance", [0, 3, 6, 9])
def test_overlap__finds_the_hashes_that_a_loop_finds(max_distance: int) -> None:
    generator = np.random.default_rng(max_distance)
    known = generator.integers(0, 2**64, 300, dtype=np.uint64)
    flips = np.zeros(200, np.uint64)
    for place in range(200):
        for bit in generator.choice(64, size=place % 12, replace=False):
            flips[place] |= np.uint64(1) << np.uint64(bit)
    asked = known[:200] ^ flips
    expected = {
        (one, other)
        for one in range(200)
        for other in range(300)
        if (int(asked[one]) ^ int(known[other])).bit_count() <= max_distance
    }
    evaluation, training = hashed(asked, digests=1), hashed(known, digests=2)
    pairs = find_overlap(evaluation=evaluation, training=training, max_distance=max_distance).pairs
    assert {(int(pair.evaluation[2:]), int(pair.training[2:])) for pair in pairs} == expected
    assert len(pairs) == len(expected)


def test_overlap__does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.repeat(np.random.default_rng(0).integers(0, 2**64, 20, dtype=np.uint64), 3)
    evaluation, training = hashed(hashes, digests=1), hashed(hashes, digests=2)
    expected = find_overlap(evaluation=evaluation, training=training)
    assert (expected.num_near, len(expected.pairs)) == (60, 180)
    monkeypatch.setattr("stages.evaluate.overlap.near_duplicates._MAX_CANDIDATES", 1)
    assert find_overlap(evaluation=evaluation, training=training) == expected


def test_overlap__finds_few_pairs_by_chance_among_many_hashes() -> None:
    generator = np.random.default_rng(0)
    training = hashed(generator.integers(0, 2**64, 100_000, dtype=np.uint64), digests=1)
    evaluation = hashed(generator.integers(0, 2**64, 2_000, dtype=np.uint64), digests=2)
    assert find_overlap(evaluation=evaluation, training=training).num_near == 0


def test_overlap__lists_the_ten_nearest_of_many_copies() -> None:
    known = np.uint64(0b1) << np.arange(1, 41, dtype=np.uint64)
    training, evaluation = hashed(np.append(known, np.uint64(0)), digests=1), hashed(np.zeros(1, np.uint64), digests=2)
    training.sha256[7] = evaluation.sha256[0]
    found = find_overlap(evaluation=evaluation, training=training)
    assert (found.num_exact, found.num_near, len(found.pairs)) == (1, 0, 10)
    assert [(pair.training, pair.exact) for pair in found.pairs[:3]] == [("1/7", True), ("1/40", False), ("1/0", False)]


def test_overlap__stands_sets_without_hashes() -> None:
    nothing = hashed(np.empty(0, np.uint64), digests=1)
    something = hashed(np.zeros(2, np.uint64), digests=2)
    for evaluation, training in ((nothing, something), (something, nothing)):
        assert find_overlap(evaluation=evaluation, training=training).pairs == ()


@pytest.mark.parametrize("max_distance", [-1, 16])
def test_overlap__refuses_a_distance_out_of_range(max_distance: int) -> None:
    hashes = hashed(np.zeros(2, np.uint64), digests=2)
    with pytest.raises(ValueError, match=f"from 0 to 15; got {max_distance}"):
        find_overlap(evaluation=hashes, training=hashes, max_distance=max_distance)


def test_overlap__tells_exact_copies_from_near_ones(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "pictures")
    context = context_of(Store(tmp_path / "store"))
    evaluation = hash_folder(folder, ["2.png", "copy.png", "broken.png"], context)
    training = hash_folder(folder, ["1.png", "0.jpg", "0.png", "missing.png", "other.png"], context)
    found = find_overlap(evaluation=evaluation, training=training)
    assert found.pairs == (
        OverlapPair("copy.png", "0.png", exact=True, distance=0),
        OverlapPair("copy.png", "0.jpg", exact=False, distance=found.pairs[1].distance),
    )
    assert (found.num_evaluation, found.num_training, found.num_exact, found.num_near) == (2, 3, 1, 0)
    assert training.kinds.tolist() == [HASHED, HASHED, HASHED, UNREADABLE, UNREADABLE]
