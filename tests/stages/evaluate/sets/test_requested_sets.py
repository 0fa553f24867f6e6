from pathlib import Path

import pytest
from workbench import COLOURS, SHAPES, Pairs, draw_image

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.runner import context_of
from pipeline.store.store import Store
from stages.evaluate.options import EvaluateInputs, EvaluateParams
from stages.evaluate.sets.evaluation_sets import UnreadSet
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


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (("n01440764", "n02084071"), "'a photo of a n01440764'"),
        (("001.Black_footed_Albatross", "002.Laysan_Albatross"), "'a photo of a 001.Black footed Albatross'"),
        (("red", "blue"), ""),
        (("747-400", "9"), ""),
    ],
)
def test_read_requested_sets__warns_of_prompts_for_codes(
    names: tuple[str, ...], asked: str, tmp_path: Path, quiet_log: None, caplog: pytest.LogCaptureFixture
) -> None:
    for name in names:
        (tmp_path / "shapes" / name).mkdir(parents=True)
        draw_image(tmp_path / "shapes" / name / "a.jpg", "red", "circle", 40)
    for task in ("zero-shot", "analysis"):
        with caplog.at_level("WARNING", logger="protorkd"):
            read(tmp_path, zero_shot=(str(tmp_path / "shapes"),), task=(task,))
    assert [asked in message for message in caplog.messages] == ([True] if asked else [])
