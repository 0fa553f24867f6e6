"""What every set of images keeps, whatever they lie in: a set says how it is made of files, and what it stores."""

import dataclasses
import hashlib
import os
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests
from stages.components.images.decoding import ImageRejected, open_image
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import identify_images

READABLE = ("plain.jpg", "deeper/turned.jpg", "clear.png", "grey.jpg")
ABSENT, DAMAGED = "deeper/absent.jpg", "damaged.jpg"
NAMES = (*READABLE, ABSENT, DAMAGED)


def draw(seed: int, size: tuple[int, int] = (40, 30)) -> Image.Image:
    samples = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(samples)


class ImageSetContract:
    """Tests of the set that ``build`` makes of ``NAMES``, two of which are no readable images.

    A set has a fixture ``build``: a function that makes it of images of ``folder``, by their names; when it is called
    again, of what is there by then.
    """

    absent = "missing"
    """Stands in the reason for which an image that is not there is rejected."""

    def stored(self, path: Path) -> bytes | None:
        """Return the bytes that the set stores of an image, or none."""
        return path.read_bytes() if path.exists() else None

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        root = tmp_path / "images"
        (root / "deeper").mkdir(parents=True)
        turned = Image.Exif()
        turned[ExifTags.Base.Orientation] = 6
        draw(0).save(root / "plain.jpg")
        draw(1).save(root / "deeper/turned.jpg", exif=turned)
        clear = draw(2).convert("RGBA")
        clear.putalpha(100)
        clear.save(root / "clear.png")
        draw(3, (9, 70)).convert("L").save(root / "grey.jpg")
        (root / DAMAGED).write_bytes(b"no image")
        return root

    @pytest.fixture
    def images(self, build: Callable[..., ImageSet]) -> ImageSet:
        return build(NAMES)

    @pytest.fixture
    def opens(self, folder: Path) -> Callable[..., None]:
        """Hold a set to what the files of some names give."""

        def check(images: ImageSet, names: tuple[str, ...] = NAMES) -> None:
            assert [path.endswith(name) for path, name in zip(images.paths, names, strict=True)] == [True] * len(names)
            for number, name in enumerate(names):
                if name in READABLE:
                    expected = np.asarray(open_image(folder / name))
                    image = images.open(number)
                    assert image.size == expected.shape[:2]
                    assert np.array_equal(image.pixels(), expected)
                else:
                    with pytest.raises(ImageRejected, match=self.absent if name == ABSENT else "not a readable image"):
                        images.open(number)

        return check

    def test_open__gives_the_pixels_of_the_file_or_says_why_there_are_none(
        self, images: ImageSet, opens: Callable[..., None]
    ) -> None:
        opens(images)
        opens(images)  # once more

    def test_missing__names_images_that_are_rejected_for_the_same_reason(self, images: ImageSet) -> None:
        assert set(images.missing) <= {NAMES.index(ABSENT), NAMES.index(DAMAGED)}
        for number, reason in images.missing.items():
            with pytest.raises(ImageRejected) as caught:
                images.open(number)
            assert caught.value.reason == str(caught.value) == reason

    def test_select__numbers_images_anew(self, images: ImageSet, opens: Callable[..., None]) -> None:
        opens(images.select([5, 2, 4, 2]), (DAMAGED, "clear.png", ABSENT, "clear.png"))
        opens(images.select([5, 2, 4]).select([2, 1]), (ABSENT, "clear.png"))
        assert len(images.select([]).paths) == 0
        opens(images)

    def test_select__keeps_the_reasons_of_what_is_missing(self, images: ImageSet) -> None:
        reasons = {ABSENT: "not there", DAMAGED: "no image"} if not images.missing else {}
        known = {**images.missing, **{NAMES.index(name): reason for name, reason in reasons.items()}}
        chosen = dataclasses.replace(images, missing=known).select([5, 2, 4, 5])
        assert dict(chosen.missing) == {new: known[old] for new, old in ((0, 5), (2, 4), (3, 5)) if old in known}
        assert dict(chosen.select([1, 2]).missing) == {1: known[4]}

    def test_set__opens_the_same_in_a_process_that_it_is_handed_to(
        self, images: ImageSet, opens: Callable[..., None]
    ) -> None:
        opens(pickle.loads(pickle.dumps(images)))
        opens(pickle.loads(pickle.dumps(images.select([0, 4]))), (READABLE[0], ABSENT))
        opens(pickle.loads(bytes(ForkingPickler.dumps(images.shared()))))

    def test_shared__opens_the_same(self, images: ImageSet, opens: Callable[..., None]) -> None:
        opens(images.shared())
        opens(images.shared().select([3, 1]), (READABLE[3], READABLE[1]))

    def test_read_ahead__changes_nothing_that_is_opened(self, images: ImageSet, opens: Callable[..., None]) -> None:
        images.read_ahead([])
        images.read_ahead([2, 4, 2, 5, 0])
        opens(images)
        opens(images)

    def test_digests__are_those_of_the_bytes_that_are_stored(self, images: ImageSet, folder: Path) -> None:
        numbers = [3, 0, 5, 4, 1, 2, 0]
        stored = [self.stored(folder / NAMES[number]) for number in numbers]
        expected = [None if data is None else hashlib.sha256(data).hexdigest() for data in stored]
        assert expected[3] is None
        assert images.digests(numbers, FileDigests(None)) == expected
        assert images.select([4, 0]).digests([1, 0], FileDigests(None)) == [expected[1], None]
        assert images.digests([], FileDigests(None)) == []

    def test_stored_bytes__are_the_size_of_what_is_stored(self, images: ImageSet, folder: Path) -> None:
        for number, name in enumerate(NAMES):
            stored = self.stored(folder / name)
            if stored is None:
                with pytest.raises(OSError, match=r".+"):
                    images.stored_bytes(number)
            else:
                assert images.stored_bytes(number) == len(stored)


class IdentityContract(ImageSetContract):
    """Tests of sets that `identify_images` knows by their images' bytes, or by their paths."""

    @pytest.fixture
    def identify(self, build: Callable[..., ImageSet]) -> Callable[..., str]:
        """Make a set of names anew; the digest of its identity, and no worse a set than was made."""

        def run(names: tuple[str, ...] = NAMES, identity: str = "content") -> str:
            images = build(names)
            found = identify_images(images.root, list(images.paths), identity=identity, file_digests=FileDigests(None))
            assert type(found.value) is type(images)
            assert list(found.value.paths) == list(images.paths)
            return found.digest

        return run

    def test_identity__of_the_same_images_in_the_same_order_is_the_same(self, identify: Callable[..., str]) -> None:
        for identity in ("content", "path"):
            found = identify(identity=identity)
            assert found == identify(identity=identity)
            assert found != identify(NAMES[::-1], identity)
            assert found != identify(NAMES[:-1], identity)
        assert identify(identity="content") != identify(identity="path")

    def test_identity__by_content_changes_with_the_bytes_and_by_path_does_not(
        self, identify: Callable[..., str], folder: Path
    ) -> None:
        content, path = identify(), identify(identity="path")
        draw(4).save(folder / "plain.jpg")
        assert identify() != content
        assert identify(identity="path") == path

    def test_identity__by_path_changes_with_the_folder(self, folder: Path, tmp_path: Path) -> None:
        moved = tmp_path / "v2"
        moved.mkdir()
        by_path, by_content = (
            {
                identify_images(root, list(NAMES), identity=identity, file_digests=FileDigests(None)).digest
                for root in (folder, moved, folder / ".." / folder.name)
            }
            for identity in ("path", "content")
        )
        assert len(by_path) == 2
        assert len(by_content) == 2  # nothing is there

    def test_identity__by_content_tells_an_image_that_is_gone(self, identify: Callable[..., str], folder: Path) -> None:
        content = identify()
        (folder / DAMAGED).unlink()
        assert identify() != content

    def test_digests__refuse_what_has_changed_since_it_was_hashed(
        self, build: Callable[..., ImageSet], folder: Path
    ) -> None:
        images = build(NAMES)
        for path in folder.rglob("*.*"):
            os.utime(path, ns=(10**18, 10**18))
        hashed = identify_images(
            images.root, list(images.paths), identity="content", file_digests=FileDigests(None)
        ).value
        numbers = range(len(NAMES))
        assert hashed.digests(numbers, FileDigests(None)) == images.digests(numbers, FileDigests(None))
        draw(7).save(folder / "clear.png")
        build(NAMES)
        with pytest.raises(ProtoRKDError, match="it has changed"):
            hashed.digests([2], FileDigests(None))


class LocalContract(IdentityContract):
    """Tests of sets that lie in files of this machine: one that changes after it was hashed is refused."""

    @pytest.fixture
    def hashed(self, build: Callable[..., ImageSet], folder: Path) -> ImageSet:
        """Return the set once it is identified by content; every file is old, so that a change moves its time."""
        images = build(NAMES)
        for path in folder.rglob("*.*"):
            os.utime(path, ns=(10**18, 10**18))
        return identify_images(
            images.root, list(images.paths), identity="content", file_digests=FileDigests(None)
        ).value

    def test_open__takes_what_is_as_it_was_hashed(self, hashed: ImageSet, opens: Callable[..., None]) -> None:
        opens(hashed)
        opens(hashed.shared())
        opens(hashed.select([2, 4]), ("clear.png", ABSENT))
        opens(pickle.loads(pickle.dumps(hashed)))

    @pytest.mark.parametrize("name", ["plain.jpg", "clear.png", ABSENT, DAMAGED])
    def test_open__refuses_what_has_changed_since_it_was_hashed(
        self, hashed: ImageSet, build: Callable[..., ImageSet], folder: Path, name: str
    ) -> None:
        draw(7).save(folder / name)
        build(NAMES)
        number = NAMES.index(name)
        for images, place in ((hashed, number), (hashed.shared(), number), (hashed.select([0, number]), 1)):
            with pytest.raises(ProtoRKDError, match=r"/images/\S+ must be as it was when its bytes were hashed"):
                images.open(place)

    def test_open__refuses_what_is_gone_since_it_was_hashed(
        self, hashed: ImageSet, build: Callable[..., ImageSet], folder: Path
    ) -> None:
        (folder / "clear.png").unlink()
        build(NAMES)
        with pytest.raises(ProtoRKDError, match="it has changed"):
            hashed.open(NAMES.index("clear.png"))

    def test_open__of_images_known_by_their_paths_asks_for_no_more(
        self, build: Callable[..., ImageSet], folder: Path
    ) -> None:
        images = build(NAMES)
        found = identify_images(images.root, list(images.paths), identity="path", file_digests=FileDigests(None)).value
        draw(7).save(folder / "clear.png")
        build(NAMES)
        assert np.array_equal(found.open(2).pixels(), np.asarray(draw(7)))
