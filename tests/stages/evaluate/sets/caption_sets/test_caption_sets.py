"""Miniatures of each layout, as their makers lay them out."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests
from stages.components.inputs.manifest_options import ManifestFormat
from stages.evaluate.sets.caption_sets import CaptionSet, read_caption_set, split_argument
from stages.evaluate.sets.evaluation_sets import RetrievalSet, read_retrieval_set, retrieval_digest

FORM = ManifestFormat()
COCO: dict[str, Any] = {
    "info": {"year": 2017},
    "images": [{"id": 9, "file_name": "009.jpg"}, {"id": 5, "file_name": "005.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 5, "caption": "a cat"},
        {"id": 2, "image_id": 9, "caption": "a dog "},
        {"id": 3, "image_id": 5, "caption": "a grey cat"},
    ],
}
COCO_PAIRS = [("005.jpg", "a cat"), ("009.jpg", "a dog "), ("005.jpg", "a grey cat")]
KARPATHY: dict[str, Any] = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": f"{split}.jpg", "split": split, "sentences": [{"raw": c} for c in captions]}
        for split, captions in (
            ("test", ["a cat", "cats"]),
            ("val", ["a dog"]),
            ("restval", ["a hen"]),
            ("train", ["a cow"]),
        )
    ],
}
TOKEN = "a.jpg#0\ta cat .\na.jpg#1\tone\ttab\nb.jpg#0\ta dog .\n"
TABLE = "image_name| comment_number| comment\na.jpg| 0| a cat .\na.jpg| 1| this | that\nb.jpg| 4   a dog runs .\n"


def write(path: Path, content: str | dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def read(path: Path, split: str | None = None, image_root: Path | None = None) -> CaptionSet:
    return read_caption_set(path, split=split, image_root=image_root, form=FORM, file_digests=FileDigests(None))


def pairs_of(found: CaptionSet) -> list[tuple[str, str]]:
    return list(zip(found.images, found.captions, strict=True))


def rejected(found: CaptionSet) -> list[tuple[int, str, str]]:
    return [(each.row, each.reason, each.value) for each in found.rejections]


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Return the folder coco2017/ with a train and a val split."""
    root = tmp_path / "coco2017"
    train = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "caption": "a hen"}]}
    write(root / "annotations" / "captions_train2017.json", train)
    write(root / "annotations" / "captions_val2017.json", COCO)
    write(root / "annotations" / "instances_val2017.json", {})
    touch(root / "train2017", "1.jpg")
    touch(root / "val2017", "005.jpg", "009.jpg")
    return root


def test_coco_folder__gives_the_val_split(coco: Path) -> None:
    found = read(coco)
    assert found.name == "coco2017_val2017"
    assert found.root == coco / "val2017"
    assert pairs_of(found) == COCO_PAIRS
    assert not found.rejections


def test_coco_folder__gives_a_chosen_split(coco: Path) -> None:
    found = read(coco, "train2017")
    assert (found.name, found.root) == ("coco2017_train2017", coco / "train2017")
    assert pairs_of(found) == [("1.jpg", "a hen")]


def test_coco_folder__asks_which_where_several_val_splits_lie(coco: Path) -> None:
    write(coco / "annotations" / "captions_val2014.json", COCO)
    with pytest.raises(ProtoRKDError, match="one of train2017, val2014, val2017; got none") as caught:
        read(coco)
    assert f"{coco}#train2017" in str(caught.value)
    with pytest.raises(ProtoRKDError, match="got 'test2017'"):
        read(coco, "test2017")
    touch(coco / "val2014", "005.jpg")
    assert read(coco, "val2014").root == coco / "val2014"


def test_coco_folder__must_hold_annotations(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"COCO's captions \(annotations/captions_\*\.json\)"):
        read(tmp_path)


@pytest.mark.parametrize("place", ["val2017", "", "images", "images/val2017", "../val2017", "../images/val2017"])
def test_coco_file__finds_its_images(tmp_path: Path, place: str) -> None:
    path = write(tmp_path / "annotations" / "captions_val2017.json", COCO)
    touch(path.parent / place, "005.jpg", "009.jpg")
    found = read(path)
    assert found.name == "captions_val2017"
    assert found.root == (path.parent / place).resolve()
    assert pairs_of(found) == COCO_PAIRS


def test_coco_file__finds_its_images_by_a_relative_path(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(coco / "annotations")
    assert read(Path("captions_val2017.json")).root == coco / "val2017"
    assert read(Path("..")).name == "coco2017_val2017"


@pytest.mark.parametrize("place", ["", "val2017"])
def test_coco_file__takes_images_from_the_image_root(coco: Path, tmp_path: Path, place: str) -> None:
    touch(tmp_path / "pictures" / place, "005.jpg")
    found = read(coco / "annotations" / "captions_val2017.json", image_root=tmp_path / "pictures")
    assert found.root == tmp_path / "pictures" / place


def test_coco_file__rejects_what_does_not_fit_together(tmp_path: Path) -> None:
    content = {
        "images": [*COCO["images"], {"id": "x", "file_name": "x.jpg"}],
        "annotations": [
            *COCO["annotations"],
            {"image_id": 5, "caption": " \n"},
            {"image_id": 77, "caption": "lost"},
        ],
    }
    path = write(touch(tmp_path, "005.jpg") / "captions.json", content)
    found = read(path)
    assert pairs_of(found) == COCO_PAIRS
    assert rejected(found) == [
        (3, "empty caption", "annotations[3]"),
        (4, "image_id of no image", "annotations[4], 77"),
        (2, "no caption", "images[2], x.jpg"),
    ]


def test_coco_file__rejects_records_that_are_none_and_goes_on(tmp_path: Path) -> None:
    content = {
        "images": [
            *COCO["images"],
            COCO["images"][0],
            {"id": 30, "file_name": "a.jpg"},
            {"id": 30, "file_name": "b.jpg"},
            {"id": 31},
            None,
        ],
        "annotations": [
            *COCO["annotations"],
            {"image_id": 5, "caption": None},
            {"image_id": 5, "bbox": [0, 0, 1, 1]},
            {"image_id": 5, "caption": 3},
            {"image_id": True, "caption": "yes"},
            {"image_id": 5, "caption": "\ud800"},
            {"image_id": 30, "caption": "whose?"},
            "a caption",
        ],
    }
    path = tmp_path / "captions.json"
    touch(tmp_path, "005.jpg")
    path.write_text(json.dumps(content))
    found = read(path)
    assert pairs_of(found) == COCO_PAIRS
    assert rejected(found) == [
        (2, "an id that comes twice", "images[2], 9"),
        (4, "an id that comes twice", "images[4], 30"),
        (5, "empty file_name", "images[5]"),
        (6, "no JSON object", "images[6]"),
        (3, "empty caption", "annotations[3]"),
        (4, "empty caption", "annotations[4]"),
        (5, "caption is no text", "annotations[5]"),
        (6, "image_id is no number or text", "annotations[6]"),
        (7, "text that is no Unicode", "annotations[7]"),
        (8, "image_id of several images", "annotations[8], 30"),
        (9, "no JSON object", "annotations[9]"),
    ]


def test_coco_file__finds_images_by_ids_in_text(tmp_path: Path) -> None:
    annotations = [{**each, "image_id": str(each["image_id"])} for each in COCO["annotations"]]
    found = read(write(touch(tmp_path, "005.jpg") / "captions.json", {**COCO, "annotations": annotations}))
    assert (pairs_of(found), rejected(found)) == (COCO_PAIRS, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"images": [\n  {"id": 1,}]}', "must be JSON; got .* at line 2, column 1"),
        ("[1, 2]", r"the whole must be an object; got \[1, 2\]"),
        ({"annotations": []}, "images must be a list; got nothing"),
        ({"annotations": [], "images": [3]}, r"images\[0\] must be an object; got 3"),
        ({"annotations": [], "images": [{"id": 1}]}, r"images\[0\]\.file_name must be a string; got nothing"),
        ({"annotations": [], "images": [{"file_name": "a"}]}, r"images\[0\]\.id must be a number or a string"),
        ({**COCO, "annotations": {"1": "a"}}, "annotations must be a list"),
        ({**COCO, "annotations": [{"image_id": 5, "bbox": []}]}, r"annotations\[0\]\.caption must be a string"),
        ({**COCO, "annotations": [{"caption": "a"}]}, r"annotations\[0\]\.image_id must be a number"),
        ({**COCO, "annotations": [{"image_id": 5, "caption": " "}]}, r"must hold captions.*'annotations\[0\]': empty"),
        ({"images": [{"id": 1, "file_name": "a"}]}, r"images\[0\]\.split must be a string; got nothing"),
        ({"images": [3]}, r"images\[0\] must be an object; got 3"),
        ({"images": [{"split": "test", "filename": 4}]}, r"1 rejected .*'images\[0\]': filename is no text"),
        ({"images": [{"split": "test", "filename": "a"}]}, r"1 rejected .*'images\[0\]': empty sentences"),
        (
            {"images": [{"split": "test", "filename": "a", "sentences": [{"tokens": ["a"]}]}]},
            r"1 rejected .*'images\[0\].sentences\[0\]': empty raw",
        ),
    ],
)
def test_json__names_file_and_place_of_what_is_malformed(
    tmp_path: Path, content: str | dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "some.json", content)
    with pytest.raises(ProtoRKDError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_caption_set__must_be_there_and_text(tmp_path: Path) -> None:
    for name in ("absent.json", "absent.token", "absent.csv", "absent.tsv"):
        with pytest.raises(ProtoRKDError, match=f"{name} must be a file; got nothing there"):
            read(tmp_path / name)
    (tmp_path / "latin.json").write_bytes(b'{"images": "\xe9"}')
    with pytest.raises(ProtoRKDError, match="must be UTF-8 text; got byte 0xe9 at line 1"):
        read(tmp_path / "latin.json")


def test_karpathy__gives_the_test_split(tmp_path: Path) -> None:
    path = write(touch(tmp_path, "val2014/test.jpg") / "dataset_coco.json", KARPATHY)
    found = read(path)
    assert (found.name, found.root) == ("dataset_coco_test", tmp_path)
    assert pairs_of(found) == [("val2014/test.jpg", "a cat"), ("val2014/test.jpg", "cats")]


def test_karpathy__gives_a_chosen_split_or_all(tmp_path: Path) -> None:
    path = write(touch(tmp_path, *(f"val2014/{split}.jpg" for split in ("restval", "test"))) / "d.json", KARPATHY)
    assert pairs_of(read(path, "restval")) == [("val2014/restval.jpg", "a hen")]
    assert len(read(path, "all").captions) == 5
    with pytest.raises(ProtoRKDError, match="one of restval, test, train, val, all; got 'dev'"):
        read(path, "dev")
    with pytest.raises(ProtoRKDError, match="got ''"):
        read(path, "")


@pytest.mark.parametrize("place", ["Flicker8k_Dataset", "flickr30k-images", "../images"])
def test_karpathy__needs_no_filepath(tmp_path: Path, place: str) -> None:
    image = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a cat", "tokens": ["a", "cat"]}]}
    path = write(tmp_path / "captions" / "dataset_flickr8k.json", {"images": [image]})
    touch(path.parent / place, "1.jpg")
    found = read(path)
    assert found.root == (path.parent / place).resolve()
    assert found.images == ("1.jpg",)


def test_karpathy__rejects_an_image_without_captions(tmp_path: Path) -> None:
    bare = {"filename": "bare.jpg", "split": "test", "sentences": []}
    blank = {"filename": "blank.jpg", "split": "test", "sentences": [{"raw": ""}]}
    path = write(touch(tmp_path, "val2014/test.jpg") / "d.json", {"images": [bare, *KARPATHY["images"], blank]})
    assert rejected(read(path)) == [
        (0, "no caption", "images[0], bare.jpg"),
        (5, "empty caption", "images[5].sentences[0]"),
    ]


def test_karpathy__rejects_a_bad_record_and_goes_on(tmp_path: Path) -> None:
    """An image whose split cannot be read might belong to any."""
    sentences = [{"raw": None}, "a cat", {"tokens": ["a"]}, {"raw": "a hat"}, {"raw": "\ud800"}]
    images = [
        {"filename": "1.jpg", "split": "test", "sentences": sentences},
        {"filename": "2.jpg", "split": "test", "sentences": "a cat"},
        {"filename": None, "split": "test", "sentences": [{"raw": "a cat"}]},
        {"filename": "4.jpg", "filepath": 3, "split": "test", "sentences": [{"raw": "a cat"}]},
        {"filename": "5.jpg", "sentences": [{"raw": "a cat"}]},
        "6.jpg",
        {"filename": "7.jpg", "split": "val", "sentences": None},
    ]
    found = read(write(touch(tmp_path, "1.jpg") / "d.json", {"images": images}))
    assert pairs_of(found) == [("1.jpg", "a hat")]
    assert rejected(found) == [
        (0, "empty raw", "images[0].sentences[0]"),
        (0, "no JSON object", "images[0].sentences[1]"),
        (0, "empty raw", "images[0].sentences[2]"),
        (0, "text that is no Unicode", "images[0].sentences[4]"),
        (1, "sentences is no list", "images[1]"),
        (2, "empty filename", "images[2]"),
        (3, "filepath is no text", "images[3]"),
        (4, "empty split", "images[4]"),
        (5, "no JSON object", "images[5]"),
    ]


def test_flickr8k__gives_the_images_of_the_test_list(tmp_path: Path) -> None:
    path = write(touch(tmp_path, "Flicker8k_Dataset/b.jpg") / "Flickr8k.token.txt", TOKEN)
    write(tmp_path / "Flickr_8k.testImages.txt", "b.jpg\r\nc.jpg\n\n")
    write(tmp_path / "Flickr_8k.devImages.txt", "a.jpg\n")
    found = read(path)
    assert (found.name, found.root) == ("Flickr8k_test", tmp_path / "Flicker8k_Dataset")
    assert pairs_of(found) == [("b.jpg", "a dog .")]
    assert rejected(found) == [(2, "no caption", "Flickr_8k.testImages.txt, c.jpg")]
    touch(tmp_path, "Flicker8k_Dataset/a.jpg")
    assert read(path, "dev").images == ("a.jpg", "a.jpg")
    assert read(path, "all").images == ("a.jpg", "a.jpg", "b.jpg")


def test_flickr8k__asks_for_its_list(tmp_path: Path) -> None:
    path = write(touch(tmp_path, "a.jpg") / "Flickr8k.token.txt", TOKEN)
    with pytest.raises(ProtoRKDError, match=r"must have Flickr_8k\.testImages\.txt beside it") as caught:
        read(path)
    assert f"{path}#all" in str(caught.value)
    with pytest.raises(ProtoRKDError, match="one of train, dev, test, all; got 'val'"):
        read(path, "val")


def test_flickr30k_token__gives_all_images(tmp_path: Path) -> None:
    path = write(touch(tmp_path, "flickr30k-images/a.jpg") / "results_20130124.token", "\ufeff" + TOKEN)
    found = read(path)
    assert (found.name, found.root) == ("results_20130124", tmp_path / "flickr30k-images")
    assert pairs_of(found) == [("a.jpg", "a cat ."), ("a.jpg", "one\ttab"), ("b.jpg", "a dog .")]
    with pytest.raises(ProtoRKDError, match="must be one of all; got 'test'"):
        read(path, "test")


def test_token__rejects_lines_that_are_no_pairs(tmp_path: Path) -> None:
    lines = TOKEN + "\nb.jpg\tno number\nb.jpg#1 no tab\nb.jpg#2\t \n#3\tno image\n"
    path = write(touch(tmp_path, "a.jpg") / "x.token", lines)
    assert rejected(read(path)) == [
        (5, "not picture#number<TAB>caption", "b.jpg\tno number"),
        (6, "not picture#number<TAB>caption", "b.jpg#1 no tab"),
        (7, "empty caption", "b.jpg#2\t "),
        (8, "empty image path", "#3\tno image"),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_flickr30k_table__gives_all_images_and_rejects_the_line_without_a_bar(tmp_path: Path, newline: str) -> None:
    path = touch(tmp_path, "flickr30k_images/a.jpg") / "results.csv"
    path.write_bytes(TABLE.replace("\n", newline).encode())
    found = read(path)
    assert (found.name, found.root) == ("results", tmp_path / "flickr30k_images")
    assert pairs_of(found) == [("a.jpg", "a cat ."), ("a.jpg", "this | that")]
    assert rejected(found) == [(4, "too few fields", "b.jpg| 4   a dog runs .")]


def test_manifest__is_what_is_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "filepath\ttitle\nb.jpg\ta dog\na.jpg\ta cat\nb.jpg\tdogs\na.jpg\t\n")
    found = read(path)
    assert (found.name, found.root) == ("pairs", tmp_path)
    assert pairs_of(found) == [("b.jpg", "a dog"), ("a.jpg", "a cat"), ("b.jpg", "dogs")]
    assert rejected(found) == [(5, "empty caption", "a.jpg\t")]
    assert read(path, image_root=tmp_path / "pictures").root == tmp_path / "pictures"
    with pytest.raises(ProtoRKDError, match="one of all; got 'test'"):
        read(path, "test")


def test_caption_set__must_have_an_image_somewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "annotations" / "captions_val2017.json", COCO)
    with pytest.raises(ProtoRKDError, match=r"got none of 2 there, for instance no 005\.jpg\. Pass --image-root") as e:
        read(path)
    assert f"{path.parent} or {tmp_path}" in str(e.value)
    with pytest.raises(ProtoRKDError, match=f"must lie below {tmp_path / 'absent'}; got none"):
        read(path, image_root=tmp_path / "absent")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("/data/d.json", (None, "/data/d.json", None)),
        ("/data/d.json#val", (None, "/data/d.json", "val")),
        ("coco=/data/d.json#val", ("coco", "/data/d.json", "val")),
        ("coco2017/#val2017", (None, "coco2017", "val2017")),
        ("/data#1/d.json", (None, "/data#1/d.json", None)),
        ("/data/d.json#", (None, "/data/d.json", "")),
    ],
)
def test_split_argument__takes_name_path_and_split_apart(
    argument: str, expected: tuple[str | None, str, str | None]
) -> None:
    name, path, split = split_argument(argument)
    assert (name, str(path), split) == expected


def test_split_argument__takes_a_file_that_exists_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a#b.tsv", "size=3.json")
    assert split_argument("a#b.tsv") == (None, Path("a#b.tsv"), None)
    assert split_argument("a#b.tsv#all") == (None, Path("a#b.tsv"), "all")
    assert split_argument("size=3.json#val") == (None, Path("size=3.json"), "val")


def retrieval_set(argument: object) -> RetrievalSet:
    return read_retrieval_set(str(argument), form=FORM, file_digests=FileDigests(None))


def test_retrieval_set__groups_the_captions_of_an_image_and_counts_missing_images(coco: Path, tmp_path: Path) -> None:
    (coco / "val2017" / "009.jpg").unlink()
    found = retrieval_set(coco)
    assert found.name == "coco2017_val2017"
    assert found.images.value.paths == ["005.jpg", "009.jpg"]
    assert found.images.value.missing == {1: "missing file"}
    assert found.captions == ("a cat", "a dog ", "a grey cat")
    assert found.caption_image == (0, 1, 0)


def test_retrieval_set__has_one_identity_in_every_format(coco: Path) -> None:
    images = coco / "val2017"
    flickr = write(images / "x.token", "".join(f"{image}#0\t{caption}\n" for image, caption in COCO_PAIRS))
    rows = "".join(f"{image}\t{caption}\n" for image, caption in COCO_PAIRS)
    manifest = write(images / "pairs.tsv", f"filepath\ttitle\n{rows}")
    arguments = (coco, f"own={coco}#val2017", flickr, f"{flickr}#all", manifest)
    digests = {retrieval_digest(retrieval_set(argument)) for argument in arguments}
    assert len(digests) == 1
    assert retrieval_set(f"own={coco}#val2017").name == "own"
