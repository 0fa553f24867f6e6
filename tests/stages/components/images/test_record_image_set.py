"""Images that lie in tars and tables, beside images that are files."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_set_contract import NAMES, LocalContract
from pair_forms import write_tar

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests
from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import identify_images, open_images
from stages.components.images.record_image_set import RecordImageSet, files_behind


class TestTarImages(LocalContract):
    """Members of a tar, and a file beside it."""

    BESIDE = "clear.png"

    @pytest.fixture
    def build(self, folder: Path) -> Callable[..., ImageSet]:
        def make(names: tuple[str, ...]) -> ImageSet:
            there = [name for name in NAMES if (folder / name).exists() and name != self.BESIDE]
            write_tar(folder / "0.tar", [(name, (folder / name).read_bytes()) for name in there])
            locators = [name if name == self.BESIDE else f"0.tar/{name}" for name in names]
            return open_images(folder, locators, FileDigests(None))

        return make

    def test_stored_bytes__are_those_of_the_record_or_the_file(self, images: ImageSet, folder: Path) -> None:
        assert isinstance(images, RecordImageSet)
        for number in (0, 2):
            assert images.stored_bytes(number) == (folder / NAMES[number]).stat().st_size
        with pytest.raises(OSError, match="missing in its container"):
            images.stored_bytes(4)

    def test_files_behind__are_the_container_or_the_file_itself(self, images: ImageSet, folder: Path) -> None:
        assert files_behind(folder, images.paths) == ["0.tar", "0.tar", "clear.png", "0.tar", "0.tar", "0.tar"]


class TestTableImages(LocalContract):
    """Records of a parquet file's second row, each in a column that is called as its image."""

    absent = "in its record"

    @pytest.fixture
    def build(self, folder: Path) -> Callable[..., ImageSet]:
        def make(names: tuple[str, ...]) -> ImageSet:
            data = {name: (folder / name).read_bytes() if (folder / name).exists() else None for name in NAMES}
            columns = {name: pa.array([None, data[name]], pa.binary()) for name in NAMES}
            pq.write_table(pa.table(columns), folder / "0.parquet")
            return open_images(folder, [f"0.parquet/1/{name}" for name in names], FileDigests(None))

        return make


def test_set__is_small_when_pickled(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [(f"{number:03}.jpg", b"x" * 9) for number in range(24)])
    images = open_images(tmp_path, [f"0.tar/{number:03}.jpg" for number in range(24)], FileDigests(None))
    assert len(pickle.dumps(images)) < 4000


def test_tar_beside_a_folder_of_such_a_name__serves_both(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.jpg", b"in the tar")])
    (tmp_path / "b.tar").mkdir()
    (tmp_path / "b.tar" / "c.jpg").write_bytes(b"in a folder")
    images = open_images(tmp_path, ["0.tar/a.jpg", "b.tar/c.jpg", "0.tar/absent.jpg"], FileDigests(None))
    expected = [hashlib.sha256(data).hexdigest() for data in (b"in the tar", b"in a folder")]
    assert images.digests(range(3), FileDigests(None)) == [*expected, None]


def test_container__that_ends_too_early_rejects_its_images(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "0.tar", [(f"{number}.jpg", bytes(2000)) for number in range(4)])
    images = open_images(tmp_path, ["0.tar/3.jpg", "0.tar/no.jpg"], FileDigests(None))
    with pytest.raises(ImageRejected, match="missing in its container"):
        images.open(1)
    with tar.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ImageRejected, match="a container that ends too early"):
        images.open(0)


def test_container__that_is_damaged_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ProtoRKDError, match=r"0\.parquet must be a whole parquet file"):
        open_images(tmp_path, ["0.parquet/0/image"], FileDigests(None)).open(0)


def test_identity__of_a_missing_container_is_that_of_missing_files(tmp_path: Path) -> None:
    found = identify_images(tmp_path, ["0.tar/a.jpg"], identity="content", file_digests=FileDigests(None))
    assert dict(found.value.missing) == {0: "missing file"}


def test_arrow__must_not_be_compressed_where_it_holds_images(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x" * 1000], "caption": ["a"]})
    for name, compression in (("a", None), ("b", "zstd")):
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(tmp_path / f"{name}.arrow", table.schema, options=options) as writer:
            writer.write_table(table)
    images = open_images(tmp_path, ["a.arrow/0/image", "a.arrow/1/image", "a.arrow/x"], FileDigests(None))
    expected = hashlib.sha256(b"x" * 1000).hexdigest()
    assert images.digests(range(3), FileDigests(None)) == [expected, None, None]
    with pytest.raises(ProtoRKDError, match="must be an arrow file without compression"):
        open_images(tmp_path, ["b.arrow/0/image"], FileDigests(None)).open(0)
