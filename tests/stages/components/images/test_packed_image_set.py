"""Images that lie in packs."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from image_set_contract import NAMES, READABLE, ImageSetContract, draw
from workbench import Cli

from data_schemas.errors import ProtoRKDError
from data_schemas.images.packed_images import PackedImages, write_config, write_shard
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Artifact, Store
from stages.components.images.decoding import ImageRejected, open_image
from stages.components.images.image_set import ImageSet
from stages.components.images.lazy_image import DecodedImage, JpegImage
from stages.components.images.packed_image_set import (
    PACK,
    Pack,
    PackedImageSet,
    are_raw,
    find_pack,
    find_packed,
    mean_bytes,
    take_all,
    take_packed,
)
from stages.pack.records import RecordMaker


def write_pack(root: Path, folder: Path, *, format_: str) -> PackedImages:
    """Pack the images as they are, in two shards."""
    make = RecordMaker(ImageSet(root=folder, paths=NAMES), short_side=0, format_=format_, quality=90)
    write_config(root, format_=format_)
    for shard, numbers in enumerate((range(2), range(2, len(NAMES)))):
        write_shard(root, shard, [NAMES[number] for number in numbers], map(make, numbers))
    return PackedImages(root)


class TestRawPack(ImageSetContract):
    """Records that are pixels."""

    @pytest.fixture
    def build(self, folder: Path, tmp_path: Path) -> Callable[..., ImageSet]:
        pack = write_pack(tmp_path / "pack", folder, format_="raw")
        return lambda names: PackedImageSet.of(pack, pack.find(names), list(names))

    def stored(self, path: Path) -> bytes | None:
        try:
            return open_image(path).tobytes()
        except ImageRejected:
            return None

    def test_missing__says_why_the_pack_has_no_image(self, images: ImageSet) -> None:
        assert images.missing[4] == "missing file"
        assert images.missing[5].startswith("not a readable image")
        assert dict(images.select([5, 0]).missing) == {0: images.missing[5]}

    def test_records__are_pixels_with_nothing_to_decode(self, images: ImageSet) -> None:
        assert isinstance(images.open(0), DecodedImage)
        assert are_raw(images)
        sizes = [images.open(number).pixels().size for number in range(len(READABLE))]
        assert mean_bytes(images.select(range(len(READABLE)))) == pytest.approx(np.mean(sizes))


def test_jpeg_pack__gives_the_file_itself_of_a_plain_jpeg(tmp_path: Path) -> None:
    for name in NAMES[:2]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        draw(0).save(tmp_path / name)
    pack = write_pack(tmp_path / "pack", tmp_path, format_="jpeg")
    images = PackedImageSet.of(pack, pack.find(NAMES[:2]), NAMES[:2])
    files = ImageSet(root=tmp_path, paths=NAMES[:2])
    assert not are_raw(images)
    assert isinstance(images.open(1), JpegImage)
    assert np.array_equal(images.open(1).pixels(), files.open(1).pixels())
    assert images.digests([1, 0], FileDigests(None)) == files.digests([1, 0], FileDigests(None))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artifact, Store]:
    """Return a folder of three images and a fourth that is none, and the artifact that packs them."""
    root = tmp_path_factory.mktemp("packed")
    (root / "images").mkdir()
    for number in range(3):
        draw(number).save(root / "images" / f"{number}.jpg")
    (root / "images" / "3.jpg").write_bytes(b"no image")
    cli = Cli(root / "store")
    cli("pack", "--images", root / "images", "--max-bad-fraction", 0.5)
    return root / "images", Store(root / "store").resolve(None, stage="pack", flag="--packed"), Store(root / "store")


def texts(*paths: str) -> pa.Array:
    return pa.array(paths, pa.large_string())


def test_take_packed__has_the_images_that_are_named_and_the_packs_identity(
    packed: tuple[Path, Artifact, Store],
) -> None:
    folder, artifact, _ = packed
    found = take_packed(artifact, texts("2.jpg", "3.jpg", "2.jpg"), manifest="")
    assert (found.digest, found.location) == (artifact.record.digest, str(artifact.path.resolve()))
    assert list(found.value.paths) == ["2.jpg", "3.jpg", "2.jpg"]
    assert list(found.value.missing) == [1]
    assert np.array_equal(found.value.open(2).pixels(), np.asarray(open_image(folder / "2.jpg")))


def test_take_packed__names_the_first_image_that_the_pack_lacks(packed: tuple[Path, Artifact, Store]) -> None:
    with pytest.raises(ProtoRKDError, match=r"which lacks 2 of 3, first no\.jpg\. Run: python cli\.py pack .* a\.tsv"):
        take_packed(packed[1], texts("0.jpg", "no.jpg", "other.jpg"), manifest="a.tsv")


def test_take_all__has_those_that_were_rejected_among_them(packed: tuple[Path, Artifact, Store]) -> None:
    found = take_all(Pack.open(packed[1]))
    assert found.digest == packed[1].record.digest
    assert list(found.value.paths) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    assert list(found.value.missing) == [3]


def test_paths__of_a_pack_are_looked_up_and_not_handed_on(packed: tuple[Path, Artifact, Store]) -> None:
    images = take_all(Pack.open(packed[1])).value
    handed = pickle.dumps(images)
    assert len(handed) < 2000
    assert b"2.jpg" not in handed
    paths = pickle.loads(handed).paths
    assert (len(paths), paths[2], paths.index("2.jpg")) == (4, "2.jpg", 2)


def test_find_packed__finds_images_by_their_places_however_they_are_written(
    packed: tuple[Path, Artifact, Store],
) -> None:
    folder, artifact, _ = packed
    packs = [Pack.open(artifact)]
    names = ["2.jpg", "0.jpg"]
    forms = [(folder, names), (folder.parent, [f"images/{name}" for name in names])]
    forms.append((Path("/"), [str(folder / name) for name in names]))
    for root, paths in forms:
        found = find_packed(packs, root, paths)
        assert found is not None
        assert (found.parts, found.location) == ({PACK: artifact.record.digest}, str(root))
        assert found.value.paths == paths
        assert np.array_equal(found.value.open(0).pixels(), np.asarray(open_image(folder / "2.jpg")))
    whole, turned = find_packed(packs, folder, names), find_packed(packs, folder, names[::-1])
    assert whole is not None
    assert turned is not None
    assert whole.digest != turned.digest


def test_find_packed__finds_nothing_in_packs_that_lack_an_image(
    packed: tuple[Path, Artifact, Store], caplog: pytest.LogCaptureFixture, quiet_log: None
) -> None:
    caplog.set_level("INFO", logger="protorkd")
    folder, artifact, _ = packed
    assert find_packed([Pack.open(artifact)], folder, ["0.jpg", "no.jpg"]) is None
    assert f"{artifact.name} lacks 1 of 2 images below {folder}, first no.jpg" in caplog.text
    caplog.clear()
    assert find_packed([Pack.open(artifact)], folder, ["no.jpg"]) is None
    assert not caplog.text  # a pack of other images


def test_find_pack__looks_where_it_was_and_in_the_store(packed: tuple[Path, Artifact, Store], tmp_path: Path) -> None:
    _, artifact, store = packed
    digest = artifact.record.digest
    for location, place in ((artifact.path, Store(tmp_path)), (tmp_path, store)):
        found = find_pack(digest, str(location), place)
        assert found is not None
        assert found.record == artifact.record
    assert find_pack(digest, str(tmp_path), Store(tmp_path)) is None
    assert find_pack("0" * 64, str(artifact.path), store) is None


def test_pack__is_refused_where_a_list_was_altered(packed: tuple[Path, Artifact, Store]) -> None:
    artifact = packed[1]
    [path] = artifact.path.glob("index/*.parquet")
    whole = path.read_bytes()
    middle = len(whole) // 2
    try:
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(ProtoRKDError, match="Run pack again with the same options and --force"):
            Pack.open(artifact)
    finally:
        path.write_bytes(whole)
    assert len(Pack.open(artifact).images) == 4
