from pathlib import Path

import pytest
from workbench import COLOURS, SHAPES, Pairs, draw_image

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.runner import context_of
from pipeline.store.store import Store
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.sets.evaluation_sets import ClassSet, UnreadSet
from stages.evaluate.sets.requested_sets import RequestedSets, read_requested_sets


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Folders of two colours, each split with two images of each."""
    for split in ("train", "test"):
        for colour in COLOURS[:2]:
            for shape in SHAPES[:2]:
                path = tmp_path / "shapes" / split / colour / f"{shape}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(path, colour, shape, 40)
    return tmp_path / "shapes"


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """Three pairs of captions with scores."""
    path = tmp_path / "alike.csv"
    path.write_text("red square,red circle,3.5\nred square,blue star,0.5\ngreen ring,green disc,4.5\n")
    return path


def read(tmp_path: Path, *, task: tuple[str, ...] = (), **inputs: object) -> RequestedSets:
    context = context_of(Store(tmp_path / "store"))
    return read_requested_sets(EvaluateInputs(**inputs), EvaluateParams(task=task), context)


def test_read_requested_sets__names_each_by_its_kind(
    encoded_session: tuple[Path, Pairs], classes: Path, scored: Path, tmp_path: Path
) -> None:
    manifest = encoded_session[1].manifest
    found = read(
        tmp_path, retrieval=(f"held={manifest}",), knn=(str(classes),), linear_probe=(str(classes),), sts=(str(scored),)
    )
    assert list(found.readable) == ["retrieval held", "classes shapes", "sts alike"]
    assert {"knn", "linear_probe"} < set(found.readable["classes shapes"].tasks)
    assert (found.unread, found.absent) == ({}, ())


def test_read_requested_sets__gives_the_unread_apart_in_the_order_of_the_kinds(scored: Path, tmp_path: Path) -> None:
    gone = {"sts": "none.csv", "linear_probe": "probe", "knn": "near", "zero_shot": "shot", "retrieval": "pairs.tsv"}
    inputs = {kind: (str(tmp_path / name),) for kind, name in gone.items()}
    inputs["sts"] = (str(scored), *inputs["sts"])
    found = read(tmp_path, **inputs)
    assert list(found.readable) == ["sts alike"]
    assert list(found.unread) == [f"unread {tmp_path / gone[kind]}" for kind in reversed(gone)]
    assert [f"unread {each.name}" for each in found.unread.values()] == list(found.unread)
    assert all(str(tmp_path) in each.reason for each in found.unread.values())


def test_read_requested_sets__counts_a_named_set_that_is_not_there_as_unread(classes: Path, tmp_path: Path) -> None:
    found = read(tmp_path, eval_data_dir=classes.parent, dataset=("shapes", "cifar10"))
    assert list(found.readable) == ["classes shapes"]
    assert list(found.unread) == ["unread cifar10"]
    assert "Looked at" in found.unread["unread cifar10"].reason
    assert found.absent == ()


def test_read_requested_sets__gives_known_sets_that_are_not_there_as_absent(classes: Path, tmp_path: Path) -> None:
    found = read(tmp_path, eval_data_dir=classes.parent)
    assert list(found.readable) == ["classes shapes"]
    assert found.unread == {}
    assert {"cifar10", "imagenet"} <= {each.name for each in found.absent}


def test_read_requested_sets__refuses_sets_that_allow_no_task_unless_one_could_not_be_read(
    scored: Path, tmp_path: Path
) -> None:
    with pytest.raises(ProtoRKDError, match="The sets must allow a task; got none for --task knn"):
        read(tmp_path, sts=(str(scored),), task=("knn",))
    found = read(tmp_path, sts=(str(scored), str(tmp_path / "none.csv")), task=("knn",))
    assert (len(found.readable), len(found.unread)) == (0, 1)


def test_unread_set__is_identified_by_why_it_could_not_be_read() -> None:
    found = UnreadSet("pets", "It is gone.").identified()
    assert found.digest == hash_json([hash_json(["not read", "It is gone."]), [], []])
    assert found.digest == "8eda486e17e37f53ce37006b770d0add8eae14c776d218fa9d3f3c2ddebbf93a"
    assert found.digest == UnreadSet("dogs", "It is gone.").identified().digest
    assert (found.location, found.value) == ("pets", UnreadSet("pets", "It is gone."))


def draw_classes(root: Path, *names: str) -> str:
    for name in names:
        (root / name).mkdir(parents=True)
        draw_image(root / name / "a.jpg", "red", "circle", 40)
    return str(root)


def names_of(requested: RequestedSets, name: str = "shapes") -> tuple[str, ...]:
    class_set = requested.readable[f"classes {name}"].evaluation_set
    assert isinstance(class_set, ClassSet)
    return class_set.class_names


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (("n00000001", "n02084071"), "'a photo of a n00000001'"),
        (("001.Black_footed_Albatross", "002.Laysan_Albatross", "cat"), "'a photo of a 001.Black footed Albatross'"),
        (("n00000001", "n01440764", "n01443537", "n01484850"), "1 of 4 classes"),
        (("00", "01"), "'a photo of a 00'"),
        (("sea_lion", "sea lion"), "2 classes are called 'sea lion'"),
        (("red", "blue"), ""),
        (("747-400", "9"), ""),
    ],
)
def test_read_requested_sets__warns_of_prompts_for_codes(
    names: tuple[str, ...], asked: str, tmp_path: Path, quiet_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    draw_classes(tmp_path / "shapes", *names)
    for task in ("zero-shot", "analysis"):
        with caplog.at_level("WARNING", logger="protorkd"):
            read(tmp_path, zero_shot=(str(tmp_path / "shapes"),), task=(task,))
    assert [asked in message for message in caplog.messages] == ([True] if asked else [])


@pytest.mark.parametrize(
    ("folders", "names", "origin"),
    [
        (
            ("n01440764", "n01443537"),
            ("tench", "goldfish"),
            "the names that ImageNet's WordNet ids have, such as 'tench'",
        ),
        (("1.Crow", "2.Black_Tern"), ("Crow", "Black Tern"), "the names without the numbers before them"),
        (("red", "hot%20dog"), ("hot dog", "red"), ""),
    ],
)
def test_read_requested_sets__names_classes_after_their_folders(
    folders: tuple[str, ...],
    names: tuple[str, ...],
    origin: str,
    tmp_path: Path,
    quiet_log: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shapes = draw_classes(tmp_path / "shapes", *folders)
    with caplog.at_level("INFO", logger="protorkd"):
        assert names_of(read(tmp_path, zero_shot=(shapes,), knn=())) == names
    assert [origin in message for message in caplog.messages] == ([True] if origin else [])


def test_read_requested_sets__takes_a_file_that_lies_beside_coded_folders(tmp_path: Path) -> None:
    draw_classes(tmp_path / "tiny/val", "n01443537", "n99999999")
    (tmp_path / "tiny/words.txt").write_text("n00001740\tentity\nn01443537\tgoldfish, Carassius\nn99999999\tgizmo\n")
    assert names_of(read(tmp_path, zero_shot=(str(tmp_path / "tiny/val"),)), "tiny") == ("goldfish", "gizmo")
    (tmp_path / "tiny/val/classnames.txt").write_text("red fish\na thing\n")
    assert names_of(read(tmp_path, zero_shot=(str(tmp_path / "tiny"),)), "tiny") == ("red fish", "a thing")


def test_read_requested_sets__takes_a_file_that_lies_beside_numbered_folders(tmp_path: Path) -> None:
    shapes = draw_classes(tmp_path / "shapes", "0", "1")
    assert names_of(read(tmp_path, zero_shot=(shapes,))) == ("0", "1")
    (tmp_path / "shapes/classnames.txt").write_text("red fish\na thing\n")
    assert names_of(read(tmp_path, zero_shot=(shapes,))) == ("red fish", "a thing")


def test_read_requested_sets__says_that_a_file_beside_names_other_classes(
    tmp_path: Path, quiet_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = draw_classes(tmp_path / "shapes", "n01440764", "n01443537")
    (tmp_path / "shapes/words.txt").write_text("n01440764\tfish\n")
    with caplog.at_level("WARNING", logger="protorkd"):
        assert names_of(read(tmp_path, zero_shot=(shapes,))) == ("tench", "goldfish")
    assert ["words.txt names no classes" in message for message in caplog.messages] == [True]


def test_read_requested_sets__leaves_names_in_words_to_no_file_that_lies_beside(tmp_path: Path) -> None:
    shapes = draw_classes(tmp_path / "shapes", "red", "blue")
    plain = read(tmp_path, zero_shot=(shapes,)).readable["classes shapes"].identified()
    (tmp_path / "shapes/classnames.txt").write_text("azure\ncrimson\n")
    assert read(tmp_path, zero_shot=(shapes,)).readable["classes shapes"].identified().digest == plain.digest
    named = read(tmp_path, zero_shot=(shapes,), class_names=(str(tmp_path / "shapes/classnames.txt"),))
    assert names_of(named) == ("azure", "crimson")
    assert named.readable["classes shapes"].identified().digest != plain.digest


def test_class_names__go_to_the_set_that_they_name(classes: Path, tmp_path: Path) -> None:
    other = draw_classes(tmp_path / "other", "a", "b")
    (tmp_path / "names.json").write_text('{"a": "dog", "b": "cat"}')
    (tmp_path / "colours.txt").write_text("azure\ncrimson\n")
    files = (f"other={tmp_path / 'names.json'}", str(tmp_path / "colours.txt"))
    found = read(tmp_path, zero_shot=(other, str(classes)), class_names=files)
    assert (names_of(found, "other"), names_of(found)) == (("dog", "cat"), ("azure", "crimson"))


def test_class_names__refuse_what_names_no_set(classes: Path, scored: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("azure\ncrimson\n")
    names = str(tmp_path / "names.txt")
    with pytest.raises(ProtoRKDError, match=r"must name a set of class folders .* got 'shape'\. Sets: shapes"):
        read(tmp_path, zero_shot=(str(classes),), class_names=(f"shape={names}",))
    with pytest.raises(ProtoRKDError, match="--class-names FILE must go with --zero-shot"):
        read(tmp_path, sts=(str(scored),), class_names=(names,))
    with pytest.raises(ProtoRKDError, match="got two of shapes"):
        read(tmp_path, zero_shot=(str(classes),), class_names=(f"shapes={names}", f"shapes={names}"))
    found = read(tmp_path, zero_shot=(str(classes),), class_names=(str(tmp_path / "none.txt"),))
    assert "none.txt must be a file" in found.unread[f"unread {classes}"].reason


def test_read_requested_sets__warns_of_a_set_of_one_class(
    tmp_path: Path, quiet_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    draw_classes(tmp_path / "tiny-imagenet-200/test", "images")
    with caplog.at_level("WARNING", logger="protorkd"):
        read(tmp_path, knn=(), zero_shot=(str(tmp_path / "tiny-imagenet-200"),))
    assert ["tiny-imagenet-200 has one class, 'images'" in message for message in caplog.messages] == [True]
