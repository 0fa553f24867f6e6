"""Files of class names are read in every form that the field writes them in, and refused where they fit no folders."""

import os
from pathlib import Path

import pytest

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.datasets.name_files import find_name_file, name_files, names_by_file

FISH = {"n01440764": "tench", "n01443537": "goldfish"}
INDEX = '{"0": ["n01440764", "tench"], "1": ["n01443537", "great_white_shark"]}'


@pytest.mark.parametrize(
    ("file", "text", "names"),
    [
        ("names.json", '{"n01440764": "tench", "n01443537": "goldfish", "n9": "rest"}', FISH),
        ("imagenet_class_index.json", INDEX, {"n01440764": "tench", "n01443537": "great white shark"}),
        ("imagenet_class_index.json", INDEX, {"0": "tench", "1": "great white shark"}),
        ("simple_labels.json", '["tench", "goldfish"]', FISH),
        ("labels.json", '{"1": "goldfish", "0": "tench, Tinca tinca"}', FISH),
        ("words.txt", "n00001740\tentity\nn01443537\tgoldfish, Carassius\nn01440764\ttench\n", FISH),
        ("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\r\nn01443537 goldfish, Carassius auratus\r\n", FISH),
        ("map_clsloc.txt", "n01440764 449 tench\nn01443537 450 goldfish\n", FISH),
        ("names.csv", 'wnid,name\nn01440764,"tench, Tinca"\nn01443537,goldfish\n', FISH),
        ("names.txt", "\N{BOM}tench\n\n goldfish \n".replace("\N{BOM}", "\ufeff"), FISH),
        ("names.txt", "1 goldfish\n0 tench\n", FISH),
        ("names.txt", "tench\ngoldfish\nstingray", {"0": "tench", "2": "stingray"}),
        ("names.txt", "tench\ngoldfish\n", {"001": "tench", "002": "goldfish"}),
        ("names.txt", "tench\ngoldfish\n", {"Goldfish": "goldfish", "tench": "tench"}),
        ("names.txt", "red square\nblue circle\n", {"blue": "red square", "red": "blue circle"}),
        (
            "names.tsv",
            "DC\tWashington, District of Columbia\nNY\tNew York\n",
            {"DC": "Washington, District of Columbia"},
        ),
    ],
)
def test_names_by_file__reads_the_forms_of_the_field(
    file: str, text: str, names: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / file).write_text(text, encoding="utf-8")
    assert names_by_file(sorted(names), tmp_path / file) == names


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("names.json", '{"n01440764": "tench"}', r"got 1 names, none for 'n01443537'"),
        ("names.json", '{"n01440764": 3}', r"must give a name for 'n01440764'; got 3"),
        ("names.json", "7", "must be an object or a list of names; got 7"),
        ("names.json", "tench", "must be JSON, as its suffix says"),
        ("names.json", '{"n01440764": "tench", "n01443537": "_"}', r"got an empty name for 'n01443537'"),
        ("names.txt", "tench\n", "one name for each class folder; got 1 for 2"),
        ("names.txt", "tench\ngoldfish\nstingray\n", "got 3 for 2"),
        ("names.txt", "n01440764\ttench\ngoldfish\n", r"a folder and a name in every line; got 'goldfish'"),
        ("names.txt", "n01440764\ttench\nn01443537\ta\nn01443537\tb\n", r"got several for 'n01443537'"),
        ("names.txt", "", "got an empty file"),
    ],
)
def test_names_by_file__says_what_is_wrong(file: str, text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ProtoRKDError, match=reason) as caught:
        names_by_file(list(FISH), tmp_path / file)
    assert str(tmp_path / file) in str(caught.value)


def test_names_by_file__opens_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "names.txt")
    with pytest.raises(ProtoRKDError, match="must be a file; got no regular file"):
        names_by_file(list(FISH), tmp_path / "names.txt")
    assert find_name_file(tmp_path) is None


def test_find_name_file__looks_beside_the_folders_and_above_a_split(tmp_path: Path) -> None:
    (tmp_path / "words.txt").touch()
    assert find_name_file(tmp_path / "val") == tmp_path / "words.txt"
    assert find_name_file(tmp_path / "pets") is None
    (tmp_path / "classnames.txt").touch()
    assert find_name_file(tmp_path) == tmp_path / "classnames.txt"


def test_name_files__are_taken_by_set() -> None:
    assert name_files(("pets=a.txt", "b.txt")) == {"pets": Path("a.txt"), "": Path("b.txt")}
    with pytest.raises(ProtoRKDError, match="got two without a set's name"):
        name_files(("a.txt", "b.txt"))
