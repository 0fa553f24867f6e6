"""Every form, written for real and read: the same pairs and the same images, whichever it is."""

from pathlib import Path

import pytest
from pair_forms import FORMS, Imaged, json_lines, tsv, webdataset_shards, write_form

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Manifest
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.kinds import find_image_root, find_source
from pipeline.store.file_digests import FileDigests
from stages.components.images.opening import open_images

PAIRS = [Imaged(f"{row:09}", b"\xff\xd8\xff image %d" % row, f"caption {row}, of 12") for row in range(12)]


def read(path: Path, columns: Columns | None = None, limit: int = 0) -> Manifest:
    return find_source(path).read(columns or Columns(), limit=limit)


def captions_of(manifest: Manifest) -> list[str]:
    captions: list[str] = manifest.table["caption"].to_pylist()
    return captions


@pytest.mark.parametrize("form", sorted(FORMS))
def test_form__gives_the_same_captions_and_the_same_bytes_of_images(form: str, tmp_path: Path) -> None:
    path = write_form(form, tmp_path / "form", PAIRS)
    manifest = read(path)
    assert captions_of(manifest) == [pair.caption for pair in PAIRS]
    images = manifest.table["image"].to_pylist()
    opened = open_images(find_image_root(path, images), images, FileDigests(None))
    expected = open_images(tmp_path, write_files(tmp_path, PAIRS), FileDigests(None))
    numbers = range(len(PAIRS))
    assert opened.digests(numbers, FileDigests(None)) == expected.digests(numbers, FileDigests(None))


def write_files(root: Path, pairs: list[Imaged]) -> list[str]:
    for pair in pairs:
        (root / pair.key).write_bytes(pair.data)
    return [pair.key for pair in pairs]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_form__is_cut_after_so_many_pairs(form: str, tmp_path: Path) -> None:
    path = write_form(form, tmp_path / "form", PAIRS)
    whole, part = read(path), read(path, limit=8)
    assert part.table.equals(whole.table.slice(0, 8))


ROWS = {
    "tsv": (range(2, 14), "images/000000000.jpg"),
    "csv_quoted": (range(2, 14), "000000000.jpg"),
    "json_lines": (range(1, 13), "000000000.jpg"),
    "coco": (range(12), "000000000.jpg"),
    "parquet_bytes": (range(12), "pairs.parquet/0/jpg"),
    "parquet_shards": (range(12), "train-00000-of-00002.parquet/0/image"),
    "saved_dataset": (range(12), "data-00000-of-00002.arrow/0/image"),
    "webdataset": (range(12), "00000.tar/000000000.jpg"),
    "webdataset_shards": (range(12), "00000.tar/000000000.jpg"),
    "img2dataset_files": ([0, *range(2, 8), *range(9, 14)], "00000/000000000.jpg"),
    "img2dataset_webdataset": ([0, *range(2, 8), *range(9, 14)], "00000.tar/000000000.jpg"),
    "img2dataset_parquet": ([0, *range(2, 8), *range(9, 14)], "00000.parquet/0/jpg"),
}


@pytest.mark.parametrize("form", sorted(ROWS))
def test_form__names_rows_and_images_as_documented(form: str, tmp_path: Path) -> None:
    manifest = read(write_form(form, tmp_path / "form", PAIRS))
    rows, first = ROWS[form]
    assert manifest.table["row"].to_pylist() == list(rows)
    assert manifest.table["image"][0].as_py() == first


@pytest.mark.parametrize("form", ["img2dataset_files", "img2dataset_webdataset", "img2dataset_parquet"])
def test_img2dataset__rejects_what_was_not_fetched_without_counting_it_as_bad(form: str, tmp_path: Path) -> None:
    source = find_source(write_form(form, tmp_path / "form", PAIRS))
    assert source.kind == "img2dataset"
    manifest = source.read(Columns(), max_bad_fraction=0.0)
    assert [(each.row, each.reason, each.value) for each in manifest.rejections] == [
        (1, "failed_to_download", "099999999"),
        (8, "failed_to_download", "199999999"),
    ]


def test_well_known_columns__are_taken_and_named(tmp_path: Path) -> None:
    manifest = read(write_form("json_lines", tmp_path / "form", PAIRS))
    assert manifest.notes == ("captions are taken from 'text'", "images are taken from 'file_name'")


def test_columns__must_be_there_or_have_one_other_of_a_known_name(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"image": "a", "text": "b", "caption": "c"}\n')
    with pytest.raises(ProtoRKDError, match=r"Each of 'caption', 'text' might be meant\. Name the right one"):
        read(path)
    assert captions_of(read(path, Columns(caption="text"))) == ["b"]
    with pytest.raises(ProtoRKDError, match=r"must have a column 'words' \(--caption-key\); got columns 'image'"):
        read(path, Columns(caption="words"))
    with pytest.raises(ProtoRKDError, match="must name two columns; got 'image' for both"):
        read(path, Columns(caption="image"))


def test_unknown_form__is_an_error_that_lists_what_is_taken(tmp_path: Path) -> None:
    (tmp_path / "pairs.xlsx").write_bytes(b"PK")
    with pytest.raises(ProtoRKDError, match=r"must be a table \(.tsv, .csv, .txt\).*got pairs.xlsx") as caught:
        find_source(tmp_path / "pairs.xlsx")
    for name in (".jsonl", "captions_*.json", ".parquet", ".tar", "img2dataset", "saved to disk", ".gz"):
        assert name in str(caught.value)
    with pytest.raises(ProtoRKDError, match="got a folder of none of them"):
        find_source(tmp_path)
    with pytest.raises(ProtoRKDError, match=r"got 0\.tar\.gz"):
        find_source(tmp_path / "0.tar.gz")


def test_pattern__must_name_files_of_one_form_that_are_there(tmp_path: Path) -> None:
    webdataset_shards(tmp_path, PAIRS)
    folder = tmp_path / "shards"
    assert len(find_source(folder / "*.tar").files) == 2
    assert find_source(folder).files == find_source(folder / "0000{0,1}.tar").files
    with pytest.raises(ProtoRKDError, match=r"got no .*00002\.tar"):
        find_source(folder / "{00000..00002}.tar")
    with pytest.raises(ProtoRKDError, match=r"got none\. Mend the pattern, and quote it"):
        find_source(folder / "*.parquet")
    (folder / "a.tsv").write_text("")
    with pytest.raises(ProtoRKDError, match=r"got a\.tsv|got 00000\.tar"):
        find_source(folder / "*")
    with pytest.raises(ProtoRKDError, match="at most 1,000,000"):
        find_source(folder / "{0..9999999999}.tar")
    with pytest.raises(ProtoRKDError, match="at most 1,000,000 files"):
        find_source(folder / "{0..9999}{0..9999}.tar")


def test_several_texts__must_be_joined_but_for_json_lines(tmp_path: Path) -> None:
    for name in ("a", "b"):
        json_lines(tmp_path / name, PAIRS[:3])
        tsv(tmp_path / name, PAIRS[:3])
    manifest = read(tmp_path / "{a,b}" / "metadata.jsonl")
    assert manifest.table["row"].to_pylist() == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ProtoRKDError, match="must name one file of this form; got 2"):
        find_source(tmp_path / "{a,b}" / "pairs.tsv")


def test_parts_of_a_dataset__are_named_one_by_one(tmp_path: Path) -> None:
    import datasets

    part = datasets.Dataset.from_dict({"image": ["a.jpg"], "caption": [["a", "b"]]})
    datasets.DatasetDict({"train": part, "test": part}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ProtoRKDError, match=f"Name one of them: {tmp_path}/saved/test, {tmp_path}/saved/train"):
        find_source(tmp_path / "saved")
    manifest = read(tmp_path / "saved" / "train")
    assert manifest.table.to_pydict() == {"row": [0, 0], "image": ["a.jpg"] * 2, "caption": ["a", "b"]}


def test_coco_folder__asks_for_one_of_its_files(tmp_path: Path) -> None:
    path = write_form("coco", tmp_path / "coco", PAIRS)
    with pytest.raises(ProtoRKDError, match=rf"name one of {path}"):
        find_source(tmp_path / "coco")
