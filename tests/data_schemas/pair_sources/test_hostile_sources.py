"""What damages and enemies make of each form: a rejection that is counted, or an error that names file and row."""

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_forms import FORMS, IMAGE, Imaged, write_form, write_tar

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Manifest
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.kinds import find_source
from data_schemas.records.tar import list_members
from pipeline.store.file_digests import FileDigests
from stages.components.images.decoding import ImageRejected
from stages.components.images.opening import open_images

PAIRS = [Imaged(f"{row:09}", b"image %d" % row, f"caption {row}") for row in range(12)]


def read(path: Path, **options: Any) -> Manifest:
    return find_source(path).read(Columns(**options), max_bad_fraction=1.0)


def rejected(manifest: Manifest) -> list[tuple[int, str]]:
    return [(each.row, each.reason) for each in manifest.rejections]


def test_json_lines__passes_over_first_lines_without_a_key(tmp_path: Path) -> None:
    lines = ['{"filepath": "a.jpg"}', "{}", '{"filepath": "b.jpg", "title": "a dog"}']
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(lines))
    manifest = read(path)
    assert manifest.table["image"].to_pylist() == ["b.jpg"]
    assert rejected(manifest) == [(row, "no key of an image or of a caption") for row in (1, 2)]
    path.write_text("\n".join(lines[:2]))
    with pytest.raises(ProtoRKDError, match=r"must have a column 'title' \(--caption-key\)"):
        read(path)


def test_json_lines__rejects_every_line_that_is_no_pair(tmp_path: Path) -> None:
    lines = {
        '{"filepath": "a.jpg", "title": "a cat"}': None,
        "": None,
        '{"filepath": "a.jpg", "title": "a cat"': "no JSON",
        '["a.jpg", "a cat"]': "no JSON object",
        '{"filepath": "a.jpg"}': "empty caption",
        '{"filepath": "a.jpg", "title": null}': "empty caption",
        '{"filepath": "a.jpg", "title": []}': "empty caption",
        '{"filepath": "a.jpg", "title": "  "}': "empty caption",
        '{"filepath": "a.jpg", "title": NaN}': "caption is no text",
        '{"filepath": "a.jpg", "title": 12}': "caption is no text",
        '{"filepath": "a.jpg", "title": [{"a": 1}]}': "caption is no text",
        '{"filepath": "a.jpg", "title": "\\ud800"}': "text that is no Unicode",
        '{"filepath": "\\udfff", "title": "a"}': "text that is no Unicode",
        '{"filepath": "a.jpg", "title": "a\\u0000b"}': "NUL character",
        '{"filepath": "a\\u0000.jpg", "title": "a"}': "NUL character",
        '{"filepath": "", "title": "a"}': "empty image path",
        '{"title": "a"}': "empty image path",
        '{"filepath": {"path": "a.jpg"}, "title": "a"}': "image path is no text",
        '{"filepath": "a.jpg", "title": "b", "kind": [1]}': "label is no text",
        "[" * 100_000: "no JSON",
        '{"filepath": "a.jpg", "title": ' + "9" * 5000 + "}": "no JSON",
        '{"filepath": "' + "x" * (1 << 24) + '", "title": "a"}': "a line of more than 16 MiB",
        '{"filepath": "b.jpg", "title": ["a dog", "dogs"], "kind": 3}': None,
    }
    path = tmp_path / "pairs.jsonl"
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    first = {**json.loads(next(iter(lines))), "kind": None}
    text = path.read_text(encoding="utf-8-sig").split("\n", 1)[1]
    path.write_text(f"\ufeff{json.dumps(first)}\n{text}", encoding="utf-8")
    manifest = read(path, label="kind")
    assert rejected(manifest) == [(row, reason) for row, reason in enumerate(lines.values(), 1) if reason]
    assert manifest.table.to_pydict() == {
        "row": [1, 23, 23],
        "image": ["a.jpg", "b.jpg", "b.jpg"],
        "caption": ["a cat", "a dog", "dogs"],
        "label": [None, "3", "3"],
    }
    assert all(len(each.value) <= 200 for each in manifest.rejections)


def test_json_lines__must_be_text(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b'{"filepath": "a.jpg", "title": "a"}\n{"filepath": "a\0.jpg", "title": "a"}\n')
    with pytest.raises(ProtoRKDError, match="got a NUL byte at line 2"):
        read(path)
    path.write_bytes(b'{"filepath": "a.jpg", "title": "\xe9"}\n')
    with pytest.raises(ProtoRKDError, match="must be UTF-8 text; got byte 0xe9 at line 1"):
        read(path)
    path.write_bytes(b"\n\n")
    with pytest.raises(ProtoRKDError, match="must hold an object a line; got none"):
        read(path)


def test_max_bad_fraction__stops_with_file_row_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"filepath": "a.jpg", "title": "a"}\n{"filepath": "b.jpg"}\n')
    with pytest.raises(ProtoRKDError, match=r"at most a share of 0\.01; got 1 of 2 \(1 empty caption\)") as caught:
        find_source(path).read(Columns())
    assert f"{path}:2: empty caption: 'b.jpg'" in str(caught.value)


@pytest.mark.parametrize("packed", [".gz", ".zst", ".bz2"])
def test_packed_text__must_be_whole_and_no_bomb(packed: str, tmp_path: Path) -> None:
    path = tmp_path / f"pairs.tsv{packed}"
    codec = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[packed]
    rows = "".join(f"{random.Random(row).random()}.jpg\tcaption {row}\n" for row in range(4000))
    with pa.CompressedOutputStream(str(path), codec) as out:
        out.write(f"filepath\ttitle\n{rows}".encode())
    assert read(path).table.num_rows == 4000
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ProtoRKDError, match="must"):
        read(path)
    with pa.CompressedOutputStream(str(path), codec) as out:
        for _ in range(80):
            out.write(b"a" * (1 << 20))
    with pytest.raises(ProtoRKDError, match="must unpack to at most 200 times its size"):
        read(path)
    path.write_bytes(b"not packed")
    with pytest.raises(ProtoRKDError, match="must"):
        read(path)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, size
    return found


def write_members(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
    return path


@pytest.mark.parametrize(
    ("members", "reason", "value", "advice"),
    [
        (
            {"a.cls": b"3", "a.jpg": b"x"},
            "no caption in a sample",
            "a has cls, jpg",
            "JSON key of captions with --caption-key",
        ),
        ({"a.jpg": b"x", "a.json": b'{"alt": "a"}'}, "no caption in a sample", "a.json has alt", "with --caption-key"),
        (
            {"a.jpg": b"x", "a.json": b'{"caption": "a", "text": "b"}'},
            "several keys of a caption",
            "a.json has caption, text",
            "Name the captions' key with --caption-key.",
        ),
        ({"a.jpg": b"x", "b.jpg": b"x", "a.txt": b"a"}, "a key that comes twice", "a", "tar --sort=name"),
    ],
)
def test_tar__says_what_keeps_captions_from_being_found(
    tmp_path: Path, members: dict[str, bytes], reason: str, value: str, advice: str
) -> None:
    path = write_members(tmp_path / "0.tar", members)
    with pytest.raises(ProtoRKDError) as caught:
        read(path)
    assert f"{reason}: {value!r}" in str(caught.value)
    assert advice in str(caught.value)


def test_tar__takes_the_caption_key_that_is_named(tmp_path: Path) -> None:
    path = write_members(tmp_path / "0.tar", {"a.jpg": b"x", "a.json": b'{"caption": "one", "text": "two"}'})
    assert read(path, caption="text").table["caption"].to_pylist() == ["two"]


def test_tar__rejects_what_is_no_sound_sample(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    plain = [("../a.jpg", b"x"), ("../a.txt", b"up"), ("/etc/b.jpg", b"x"), ("/etc/b.txt", b"absolute")]
    with tarfile.open(path, "w") as tar:
        for name, data in [("good.jpg", b"x"), ("good.txt", b"a good one"), *plain]:
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        for name, kind in (
            ("c", tarfile.SYMTYPE),
            ("d", tarfile.LNKTYPE),
            ("e", tarfile.CHRTYPE),
            ("f", tarfile.FIFOTYPE),
        ):
            tar.addfile(member(f"{name}.jpg", kind, "/etc/passwd"))
            tar.addfile(member(f"{name}.txt", size=1), io.BytesIO(b"x"))
        tar.addfile(member("folder.jpg/", tarfile.DIRTYPE))
        for name, data in [
            *[("g.jpg", b"x"), ("g.png", b"x"), ("g.txt", b"two images")],
            *[("h.txt", b"no image")],
            *[("i.jpg", b"no caption")],
            *[("j.jpg", b"x"), ("j.txt", b"\xff\xfe")],
            *[("k.jpg", b"x"), ("k.json", b"{")],
            *[("l.jpg", b"x"), ("l.json", b"[1]")],
            *[("m.jpg", b"x"), ("m.json", b'{"caption": 3}')],
            *[("good.jpg", b"y"), ("good.txt", b"again")],
            *[("no ending", b"x"), (".hidden.jpg", b"x")],
            *[("./sub/n.seg.0.JPG", b"x"), ("./sub/n.seg.txt", b"odd"), ("./sub/n.txt", b"odd keys\r\n")],
            *[("o.jpg", b"x"), ("o.json", b'{"text": ["one", "two"]}')],
        ]:
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
    manifest = read(path)
    assert rejected(manifest) == [
        (1, "a name that leads out of its tar"),
        (2, "a name that leads out of its tar"),
        (3, "a link in a tar"),
        (4, "a link in a tar"),
        (5, "no plain file in a tar"),
        (6, "no plain file in a tar"),
        (7, "several pictures in a sample"),
        (8, "no picture in a sample"),
        (9, "no caption in a sample"),
        (10, "text that is no Unicode"),
        (11, "no JSON"),
        (12, "no JSON object"),
        (13, "caption is no text"),
        (14, "a key that comes twice"),
    ]
    assert manifest.table.to_pydict() == {
        "row": [0, 15, 16, 16],
        "image": ["0.tar/good.jpg", "0.tar/sub/n.seg.0.JPG", "0.tar/o.jpg", "0.tar/o.jpg"],
        "caption": ["a good one", "odd keys", "one", "two"],
    }
    images = open_images(tmp_path, ["0.tar/../a.jpg", "0.tar/c.jpg", "0.tar//etc/b.jpg"], FileDigests(None))
    for number in range(3):
        with pytest.raises(ImageRejected, match="missing in its container"):
            images.open(number)


def test_tar__takes_the_members_that_are_asked_for(tmp_path: Path) -> None:
    members = [("a.left.jpg", b"l"), ("a.right.jpg", b"r"), ("a.json", b'{"alt": "an a", "kind": 7}'), ("a.cls", b"8")]
    path = write_tar(tmp_path / "0.tar", members)
    manifest = read(path, image="right.jpg", caption="alt", label="kind")
    assert manifest.table.to_pylist() == [{"row": 0, "image": "0.tar/a.right.jpg", "caption": "an a", "label": "7"}]
    assert read(path, image="left.jpg", caption="alt", label="cls").table["label"][0].as_py() == "8"


@pytest.mark.parametrize("size", [700, 1200, 1536, 2100, 5000])
def test_tar__must_be_whole(size: int, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [("a.jpg", b"x" * 1000), ("a.txt", b"a"), ("b.jpg", b"y" * 9000)])
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ProtoRKDError, match=rf"{path} must be a whole tar that is not compressed"):
        read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tar: tar[:1536], "no mark at its end, so it may be cut; .*, after a.jpg"),
        (lambda tar: tar[:1536] + b"x" + tar[1537:], "a header that is damaged, after a.jpg"),
        (lambda tar: tar[:1660] + b"zzzz" + tar[1664:], "a header that is damaged, after a.jpg"),
        (lambda tar: tar + tar, "more behind the mark of its end"),
    ],
    ids=["cut between members", "another name", "a size that is none", "two tars"],
)
def test_tar__is_read_to_its_last_member(change: Any, said: str, tmp_path: Path) -> None:
    """Of such a tar the library gives the members before, as if there were no others."""
    path = write_tar(tmp_path / "0.tar", [("a.jpg", b"x" * 1000), ("a.txt", b"a"), ("b.jpg", b"y"), ("b.txt", b"b")])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ProtoRKDError, match=said):
        read(path)


def test_tar__of_huge_claims_is_refused_without_reading_them(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    header = member("a.jpg", size=1 << 40).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header + bytes(1024))
    with pytest.raises(ProtoRKDError, match="must be a whole tar"):
        read(path)
    path.write_bytes(member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=1 << 40).tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(ProtoRKDError, match="must be a whole tar"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(ProtoRKDError, match="must be a whole tar"):
        read(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member("a.jpg"))
    with pytest.raises(ProtoRKDError, match="not compressed"):
        read(path)


def test_large_records__are_refused_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    size = (1 << 28) + 1
    with path.open("wb") as file:  # sparse: it takes no room
        file.write(member("a.jpg", size=size).tobuf(tarfile.GNU_FORMAT))
        file.seek(size + 512 - size % 512 - 1, io.SEEK_CUR)
        file.write(bytes(1))
        file.write(member("a.txt", size=1).tobuf(tarfile.GNU_FORMAT) + b"a" + bytes(511))
        file.write(member("b.jpg").tobuf(tarfile.GNU_FORMAT))
        file.write(member("b.txt", size=1 << 25).tobuf(tarfile.GNU_FORMAT))
        file.seek((1 << 25) - 1, io.SEEK_CUR)
        file.write(bytes(1025))
    assert rejected(read(path)) == [(1, "a text of more than 16 MiB")]
    with pytest.raises(ImageRejected, match="a record of more than 256 MiB"):
        open_images(tmp_path, ["0.tar/a.jpg"], FileDigests(None)).open(0)


def test_parquet__with_a_footer_that_lies_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"filepath": ["a.jpg"], "title": ["a cat"]}), path)
    path.write_bytes(path.read_bytes()[:-8] + bytes(4) + b"PAR1")
    with pytest.raises(ProtoRKDError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path} must be a whole parquet file; ")
    assert "\n" not in str(caught.value)


def test_parquet__rejects_rows_and_refuses_columns_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    images = [{"bytes": b"x", "path": None}, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None]
    captions = [["a", "b", None, " "], ["c"], ["d"], ["e"]]
    table = {"image": pa.array(images, IMAGE), "caption": captions, "kind": [1, 2, 3, 4], "nested": [{"a": 1}] * 4}
    pq.write_table(pa.table(table), path)
    manifest = read(path, label="kind")
    assert rejected(manifest) == [
        *[(0, "empty caption"), (0, "empty caption")],
        *[(2, "empty image path"), (3, "empty image path")],
    ]
    assert manifest.table.to_pydict() == {
        "row": [0, 0, 1],
        "image": ["pairs.parquet/0/image", "pairs.parquet/0/image", "a.jpg"],
        "caption": ["a", "b", "c"],
        "label": ["1", "1", "2"],
    }
    with pytest.raises(ProtoRKDError, match=r"Column 'nested' of .* must hold text or lists of texts; got struct"):
        read(path, caption="nested")
    with pytest.raises(ProtoRKDError, match=r"Column 'kind' of .* must hold paths, bytes, or structures with bytes"):
        read(path, image="kind")


def test_parquet__rejects_text_that_is_no_unicode(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    broken = pa.StringArray.from_buffers(3, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffb"))
    pq.write_table(pa.table({"image": ["a.jpg", "b.jpg", "c.jpg"], "caption": broken}), path)
    manifest = read(path)
    assert rejected(manifest) == [(1, "text that is no Unicode")]
    assert manifest.table["row"].to_pylist() == [0, 2]


def test_img2dataset__rejects_odd_keys_and_statuses(tmp_path: Path) -> None:
    keys = ["../../etc/passwd", "000000001", "000000002", None]
    statuses = ["success", "success", None, "success"]
    facts = {"key": keys, "status": statuses, "caption": ["a", "b", "c", "d"], "url": ["u"] * 4}
    pq.write_table(pa.table(facts), tmp_path / "00000.parquet")
    manifest = read(tmp_path)
    assert rejected(manifest) == [(0, "no key of img2dataset"), (2, "no status"), (3, "no key of img2dataset")]
    assert manifest.table["image"].to_pylist() == ["00000/000000001.jpg"]


def test_dataset__must_name_files_beside_it(tmp_path: Path) -> None:
    folder = write_form("saved_dataset", tmp_path / "form", PAIRS)
    state = json.loads((folder / "state.json").read_text())
    for name in ("../../other.arrow", "/etc/passwd", 3):
        (folder / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
        with pytest.raises(ProtoRKDError, match="must name arrow files beside it"):
            find_source(folder)
    (folder / "state.json").write_text(json.dumps({**state, "_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(ProtoRKDError, match="a list of chosen rows"):
        find_source(folder)
    (folder / "state.json").write_text("[")
    with pytest.raises(ProtoRKDError, match=r"must be written by Dataset\.save_to_disk"):
        find_source(folder)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_damage__never_does_more_than_reject(form: str, tmp_path: Path) -> None:
    """Cut each file, or turn some of its bytes, many times: what comes is a table, a rejection or an error of ours."""
    draw = random.Random(form)
    path = write_form(form, tmp_path / "form", PAIRS)
    source = find_source(path)
    file = source.files[0]
    whole = file.read_bytes()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        file.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            manifest = find_source(path).read(Columns(), max_bad_fraction=1.0)
            images = open_images(source.root, manifest.table["image"].to_pylist(), FileDigests(None))
            images.digests(range(len(images.paths)), FileDigests(None))
        except ProtoRKDError as error:
            assert str(error)  # noqa: PT017 - either way will do


def test_members__are_listed_without_reading_what_is_in_them(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [(f"{'long/' * 40}{row}.jpg", b"x" * 100_000) for row in range(9)])
    members = list_members(path)
    data = path.read_bytes()
    for name, offset, size in zip(*(members[column].to_pylist() for column in ("name", "offset", "size")), strict=True):
        assert name.endswith(".jpg")
        assert data[offset : offset + size] == b"x" * 100_000
