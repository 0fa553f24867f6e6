from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from image_set_contract import NAMES, LocalContract

from pipeline.store.file_digests import FileDigests
from stages.components.compute.shared_memory import SharedStrings
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import identify_images


class TestImageSet(LocalContract):
    """Files below a folder."""

    @pytest.fixture
    def build(self, folder: Path) -> Callable[..., ImageSet]:
        return lambda names: ImageSet(root=folder, paths=list(names))

    def test_stored_bytes__are_those_of_the_file(self, images: ImageSet, folder: Path) -> None:
        assert images.stored_bytes(0) == (folder / NAMES[0]).stat().st_size
        with pytest.raises(OSError, match="No such file"):
            images.stored_bytes(4)

    def test_paths__may_be_absolute(
        self, build: Callable[..., ImageSet], folder: Path, opens: Callable[..., None]
    ) -> None:
        opens(build([str(folder / name) for name in NAMES]))

    def test_set__equals_itself_alone(self, build: Callable[..., ImageSet], images: ImageSet) -> None:
        assert images != build(NAMES)


@pytest.mark.parametrize(("num", "kind"), [(999, list), (1000, SharedStrings)])
def test_shared__has_many_paths_in_memory_that_processes_share(num: int, kind: type[Sequence[str]]) -> None:
    images = ImageSet(root=Path(), paths=[f"{number}.jpg" for number in range(num)])
    shared = images.shared()
    assert type(shared.paths) is kind
    assert list(shared.paths) == images.paths


def test_identity__by_content_says_which_images_are_missing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    names = ["none.jpg", "a.jpg", "no/folder.jpg"]
    found = identify_images(tmp_path, names, identity="content", file_digests=FileDigests(None))
    assert (found.location, dict(found.value.missing)) == (str(tmp_path), {0: "missing file", 2: "missing file"})
    by_path = identify_images(tmp_path, names, identity="path", file_digests=FileDigests(None))
    assert dict(by_path.value.missing) == {}  # nobody has looked
