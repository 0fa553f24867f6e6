from pathlib import Path

import pytest
from photos import hash_folder, photo, write_images
from PIL import Image

from pipeline.runner import context_of
from pipeline.store.store import Store
from stages.components.images.image_set import ImageSet
from stages.evaluate.overlap import perceptual_hash as image_hashes
from stages.evaluate.overlap.perceptual_hash import look_at


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "pictures")


def test_image_hashes__are_made_once_for_a_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(Store(tmp_path / "store"))
    first = hash_folder(folder, ["0.png", "1.png"], context)
    monkeypatch.setattr("stages.evaluate.overlap.perceptual_hash._look", None)
    again = hash_folder(folder, ["0.png", "1.png"], context)
    assert again.digest == first.digest
    assert again.hashes.tolist() == first.hashes.tolist() == [look_at(photo(seed)).hash for seed in range(2)]


def test_image_hashes__have_one_row_for_an_image_that_comes_twice(folder: Path, tmp_path: Path) -> None:
    context = context_of(Store(tmp_path / "store"))
    twice = hash_folder(folder, ["0.png", "0.png", "1.png"], context)
    copied = hash_folder(folder, ["0.png", "copy.png", "1.png"], context)  # the same bytes in the same order
    assert (twice.paths, len(twice.hashes)) == (("0.png", "1.png"), 2)
    assert (copied.paths, len(copied.hashes)) == (("0.png", "copy.png", "1.png"), 3)


def test_image_hashes__go_on_from_the_last_whole_shard(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, look, looked = context_of(Store(tmp_path / "store")), image_hashes._look, []
    monkeypatch.setattr(image_hashes, "_SHARD_ROWS", 1)

    def look_twice(images: ImageSet, number: int) -> object:
        looked.append(images.paths[number])
        if len(looked) == 3:
            raise RuntimeError("power cut")
        return look(images, number)

    monkeypatch.setattr(image_hashes, "_look", look_twice)
    paths = ["0.png", "1.png", "2.png"]
    with pytest.raises(RuntimeError, match="power cut"):
        hash_folder(folder, paths, context)
    assert len(hash_folder(folder, paths, context).hashes) == 3
    assert looked == ["0.png", "1.png", "2.png", "2.png"]


def test_image_hashes__count_what_cannot_be_compared(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(folder / "flat.png")
    store = Store(tmp_path / "store")
    hash_folder(folder, ["0.png", "flat.png", "broken.png", "missing.png"], context_of(store))
    [artifact] = store.artifacts("picture-hashes")
    assert artifact.record.counts == {"images": 4, "unreadable_images": 2, "featureless_images": 1}
