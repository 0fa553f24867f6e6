"""How pairs are written, found, and known again."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from pair_forms import Imaged, webdataset, webdataset_shards, write_form

from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file
from data_schemas.manifest import Manifest
from data_schemas.pair_sources.columns import Columns
from pipeline.fingerprint import hash_json
from pipeline.store.file_digests import FileDigests
from stages.components.inputs.manifest_options import ManifestFormat, find_image_root, find_pairs

PAIRS = [Imaged(f"{row:09}", b"\xff\xd8\xff image %d" % row, f"caption {row}") for row in range(6)]


def read(path: Path, form: ManifestFormat | None = None, **options: object) -> Manifest:
    words = {"max_bad_fraction": 0.0, "file_digests": FileDigests(None), **options}
    return (form or ManifestFormat()).read(find_pairs(path), **words)  # type: ignore[arg-type]


def identity(path: Path, form: ManifestFormat | None = None) -> str:
    return (form or ManifestFormat()).identify(find_pairs(path), file_digests=FileDigests(None)).digest


@pytest.fixture
def table(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def notes(quiet_log: None, caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level("INFO", logger="protorkd")
    return lambda: [record.message for record in caplog.records]


def test_columns__are_those_that_are_named() -> None:
    form = ManifestFormat(image_key="a", caption_key="b")
    assert form.columns() == Columns("a", "b", "")
    assert form.columns("c") == Columns("a", "b", "c")


def test_read__takes_columns_separator_quoting_labels_and_limit_as_they_are_given(
    table: Callable[[str, str], Path],
) -> None:
    path = table("pairs.txt", 'file;words;kind\na.jpg;"one; two";x\nb.jpg;three;y\n')
    form = ManifestFormat(image_key="file", caption_key="words", separator="semicolon", quoting="csv")
    found = read(path, form, label_column="kind", limit=1).table
    assert found.select(["image", "caption", "label"]).to_pylist() == [
        {"image": "a.jpg", "caption": "one; two", "label": "x"}
    ]


def test_read__says_what_it_chose_by_itself(table: Callable[[str, str], Path], notes: Callable[[], list[str]]) -> None:
    path = table("pairs.jsonl", '{"file_name": "a.jpg", "text": "one"}\n')
    assert read(path).table["caption"].to_pylist() == ["one"]
    assert notes() == [f"{path}: captions are taken from 'text'", f"{path}: images are taken from 'file_name'"]


def test_read__refuses_more_bad_records_than_it_may(table: Callable[[str, str], Path]) -> None:
    path = table("pairs.tsv", "filepath\ttitle\na.jpg\tone\nb.jpg\t\n")
    assert len(read(path, max_bad_fraction=0.5).rejections) == 1
    with pytest.raises(ProtoRKDError, match="--max-bad-fraction"):
        read(path, max_bad_fraction=0.4)


def test_identify__of_one_file_is_that_of_its_bytes_wherever_it_lies(
    table: Callable[[str, str], Path], tmp_path: Path
) -> None:
    path = table("pairs.tsv", "filepath\ttitle\na.jpg\tone\n")
    found = ManifestFormat().identify(find_pairs(path), file_digests=FileDigests(None))
    assert found.digest == FileDigests(None).digest(path)
    assert found.location == str(path)
    assert found.value.path == path
    assert identity(path.rename(tmp_path / "renamed.tsv")) == found.digest
    assert identity(table("pairs.tsv", "filepath\ttitle\na.jpg\ttwo\n")) != found.digest


def test_identify__knows_the_separator_that_the_header_decides(table: Callable[[str, str], Path]) -> None:
    path = table("pairs.csv", "filepath,title\na.jpg,red\nb.jpg,blue\n")
    named = ManifestFormat(separator="comma")
    assert identity(path) != identity(path, named)
    assert identity(path, named) == FileDigests(None).digest(path)
    assert read(path).table.equals(read(path, named).table)
    assert len(read(path).table) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('filepath,title\n"a.jpg","red"\n"b.jpg","blue"\n', True),
        ('filepath,title\na.jpg,"red"\nb.jpg,"blue"\n', True),
        ('filepath\ttitle\na.jpg\t"red"\n', True),
        ('"filepath","title"\n"a.jpg","red"\n', False),  # the header says so
        ('filepath,title\na.jpg,"red, or so"\nb.jpg,"blue"\n', False),  # a field needs them
        ('filepath,title\na.jpg,"red"\nb.jpg,blue\n', False),  # they are text
        ('filepath,title\na.jpg,red\nb.jpg,"blue"\n', False),
        ("filepath,title\na.jpg,red\n", False),
    ],
)
def test_identify__tells_a_table_whose_quotes_a_whole_column_tells(
    table: Callable[[str, str], Path], text: str, told: bool
) -> None:
    """Such tables were read with their quotes once: what was made of them then is another's."""
    path = table("pairs.tsv", text)
    found = hash_file(path)
    separator = [","] if "," in text.splitlines()[0] else []
    plain = hash_json([*separator, found]) if separator else found
    assert identity(path) == (hash_json([*separator, "a column in quotes", found]) if told else plain)
    assert identity(path, ManifestFormat(quoting="csv")) == plain
    packed = path.with_name("packed.tsv.gz")
    packed.write_bytes(gzip.compress(text.encode()))
    assert (
        identity(packed) != (hash_json([*separator, hash_file(packed)]) if separator else hash_file(packed))
    ) == told


def test_identify__looks_beyond_the_head_of_a_table(table: Callable[[str, str], Path]) -> None:
    rows = "".join(f'{number}.jpg,"caption {number}"\n' for number in range(60_000))
    assert len(rows) > 1 << 20
    path = table("pairs.csv", f"filepath,title\n{rows}")
    assert identity(path) == hash_json([",", "a column in quotes", hash_file(path)])
    path = table("pairs.csv", f"filepath,title\n{rows}z.jpg,plain\n")
    assert identity(path) == hash_json([",", hash_file(path)])


def test_identify__knows_the_names_of_shards_for_they_name_the_images(tmp_path: Path) -> None:
    tar = webdataset(tmp_path / "form", PAIRS)
    found = identity(tar)
    moved = tar.rename(tmp_path / tar.name)
    assert identity(moved) == found
    renamed = moved.rename(tmp_path / "other.tar")
    assert identity(renamed) != found
    assert read(renamed).table["image"][0].as_py() == "other.tar/000000000.jpg"


def test_identify__refuses_what_is_not_there(table: Callable[[str, str], Path]) -> None:
    path = table("pairs.tsv", "filepath\ttitle\n")
    source = find_pairs(path)
    path.unlink()
    with pytest.raises(ProtoRKDError, match=rf"{path} must be a readable file; it is missing, closed to you, or no"):
        ManifestFormat().identify(source, file_digests=FileDigests(None))


def test_find_pairs__takes_a_file_a_folder_or_a_pattern(tmp_path: Path) -> None:
    pattern = webdataset_shards(tmp_path, PAIRS)
    assert find_pairs(pattern).files == find_pairs(tmp_path / "shards").files
    assert find_pairs(tmp_path / "shards" / "00000.tar").files == find_pairs(pattern).files[:1]


def test_find_pairs__names_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=rf"--manifest must name a file; got {tmp_path / 'none.tsv'}\."):
        find_pairs(tmp_path / "none.tsv")


def test_find_image_root__is_the_manifests_folder_also_when_it_is_gone(table: Callable[[str, str], Path]) -> None:
    path = table("pairs.tsv", "filepath\ttitle\na.jpg\tone\n")
    assert find_image_root(path, ["a.jpg"]) == path.parent
    path.unlink()
    assert find_image_root(path, ["a.jpg"]) == path.parent


def test_find_image_root__of_coco_is_where_its_images_are_found(tmp_path: Path) -> None:
    manifest = write_form("coco", tmp_path / "coco", PAIRS)
    assert find_image_root(manifest, [f"{PAIRS[0].key}.jpg"]) == tmp_path / "coco" / "train2017"
    with pytest.raises(ProtoRKDError, match="--image-root"):
        find_image_root(manifest, ["none.jpg"])


def test_find_image_root__of_a_url_is_the_folder_above_it() -> None:
    assert find_image_root(Path("s3://bucket/set/pairs.tsv"), ["a.jpg"]) == Path("s3://bucket/set")
