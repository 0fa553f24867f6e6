"""Classes are named in label order, and every list of names says where it comes from."""

import sys
from pathlib import Path

import pytest
from set_miniatures import class_folders, draw, find_one, make_cifar10, write_lines

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json
from stages.evaluate.sets.datasets import KNOWN_SETS, find_sets
from stages.evaluate.sets.datasets.names import imagenet_names, imagenet_synsets, known_names, name_folders
from stages.evaluate.sets.image_folder import ImageFolder
from stages.evaluate.sets.prompts import SET_TEMPLATES, TEMPLATES, fill, templates_for


@pytest.fixture(scope="session")
def synsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet with an empty image in each of its 1,000 classes; to be read only."""
    root = tmp_path_factory.mktemp("synsets")
    for synset in imagenet_synsets():
        folder = root / "imagenet/val" / synset
        folder.mkdir(parents=True)
        (folder / "a.JPEG").touch()
    return root


def test_imagenet__is_named_in_the_order_of_its_synsets(synsets: Path) -> None:
    found = find_one(synsets, "imagenet", imagenet_names="torchvision")
    assert isinstance(found.test, ImageFolder)
    assert found.class_names == imagenet_names("torchvision")
    assert found.test.images[999] == "val/n15075141/a.JPEG"
    assert found.test.labels == tuple(range(1000))


def test_imagenet__prefers_test_to_val_and_passes_over_loose_files(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenet/val", goldfish=1, tench=0)
    draw(tmp_path / "imagenet/test/loose.jpg", 0)
    found = find_one(tmp_path, "imagenet", imagenet_names="torchvision")
    assert found.class_names == ("tench", "goldfish")
    class_folders(tmp_path / "imagenet/test", goldfish=1)
    assert find_one(tmp_path, "imagenet", imagenet_names="torchvision").class_names == ("goldfish",)


@pytest.mark.parametrize("name", ["imagenet", "imagenet-part"])
def test_imagenet__tells_a_part_of_its_classes_apart_by_their_ids(name: str, tmp_path: Path) -> None:
    class_folders(tmp_path / name / "val", n01443537=1, n01491361=3, n00000001=0)
    found = find_one(tmp_path, name, imagenet_names="torchvision")
    assert found.class_names == ("n00000001", "goldfish", "tiger shark")


@pytest.mark.parametrize(
    ("synset", "name"),
    [
        ("n01440764", "tench"),
        ("n02123045", "tabby"),
        ("n02124075", "Egyptian cat"),
        ("n03710637", "maillot"),
        ("n03710721", "maillot tank suit"),
        ("n15075141", "toilet tissue"),
    ],
)
def test_imagenet_synsets__stand_in_the_order_of_the_names(synset: str, name: str) -> None:
    synsets = imagenet_synsets()
    assert synsets == sorted(set(synsets))
    assert len(synsets) == 1000
    assert imagenet_names("torchvision")[synsets.index(synset)] == name


def test_find_sets__names_class_folders_by_a_file(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenet/val", n01443537=1, n01491361=3)
    class_folders(tmp_path / "pets/test", a=0, b=1)
    write_lines(tmp_path / "names.tsv", ["n01491361\tshark", "n01443537\tgold fish", "a\tdog", "b\tcat"])
    files = {"imagenet": tmp_path / "names.tsv", "pets": tmp_path / "names.tsv"}
    assert find_one(tmp_path, "imagenet", names_files=files).class_names == ("gold fish", "shark")
    found = find_one(tmp_path, "pets", names_files=files)
    assert found.class_names == ("dog", "cat")
    assert isinstance(found.test, ImageFolder)
    assert found.test.classes == ("dog", "cat")
    assert found.names_origin == f"from {tmp_path / 'names.tsv'}"


def test_find_sets__refuses_a_file_that_names_nothing(tmp_path: Path) -> None:
    make_cifar10(tmp_path)
    class_folders(tmp_path / "pets/test", a=0, b=1)
    write_lines(tmp_path / "names.txt", ["dog"])
    with pytest.raises(ProtoRKDError, match=r"must go with class folders; got .*names\.txt for cifar10"):
        find_one(tmp_path, "cifar10", names_files={"cifar10": tmp_path / "names.txt"})
    with pytest.raises(ProtoRKDError, match=r"pets: .*names\.txt must have one name for each class folder; got 1"):
        find_sets(tmp_path, names_files={"pets": tmp_path / "names.txt"})


def test_imagenet_names__are_those_of_torchvisions_weights() -> None:
    from torchvision.models import ResNet50_Weights

    assert list(imagenet_names("torchvision")) == ResNet50_Weights.DEFAULT.meta["categories"]


@pytest.fixture
def open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install an open_clip that must not be imported, with what is read of it."""
    package = tmp_path / "site/open_clip"
    write_lines(package / "__init__.py", ["raise RuntimeError('imported')"])
    lines = [
        "OPENAI_IMAGENET_TEMPLATES = (lambda c: f'a bad photo of a {c}.', lambda c: f'itap of my {c}.')",
        "IMAGENET_CLASSNAMES = ('tench', 'kite (bird of prey)')",
    ]
    write_lines(package / "zero_shot_metadata.py", lines)
    monkeypatch.delitem(sys.modules, "open_clip", raising=False)
    monkeypatch.syspath_prepend(tmp_path / "site")


def test_open_clip__gives_names_and_prompts_without_being_imported(open_clip: None) -> None:
    assert imagenet_names() == imagenet_names("open-clip") == ("tench", "kite (bird of prey)")
    assert len(imagenet_names("torchvision")) == 1000
    assert templates_for("dtd", prompts="open-clip") == ("a bad photo of a {}.", "itap of my {}.")


def test_open_clip__is_asked_for_where_it_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProtoRKDError, match=r"must be installed to be used; got no open_clip\. Run pip install"):
        templates_for("dtd", prompts="open-clip")
    with pytest.raises(ProtoRKDError, match="must be installed"):
        find_sets(tmp_path, imagenet_names="open-clip")


@pytest.mark.parametrize("name", SET_TEMPLATES)
def test_templates__each_take_a_class_name(name: str) -> None:
    assert name in KNOWN_SETS
    prompts = [fill(template, "thing") for template in templates_for(name)]
    assert len(set(prompts)) == len(prompts) >= 4


def test_templates__are_the_common_ones_for_other_sets() -> None:
    assert templates_for("imagenet") == templates_for("holiday snaps") == TEMPLATES
    with pytest.raises(ProtoRKDError, match="--prompts must be one of own, open-clip; got 'clip'"):
        templates_for("imagenet", prompts="clip")


@pytest.mark.parametrize(
    ("name", "count", "place", "expected"),
    [
        ("birdsnap", 500, 46, "Harlequin Duck"),
        ("flowers102", 102, 76, "passion flower"),
        ("gtsrb", 43, 14, "stop"),
        ("stanford_cars", 196, 195, "smart fortwo Convertible 2012"),
        ("ucf101", 101, 100, "Yo Yo"),
    ],
)
def test_known_names__are_distinct_and_counted(name: str, count: int, place: int, expected: str) -> None:
    names = known_names(name)
    assert isinstance(names, tuple)
    assert len(set(names)) == len(names) == count
    assert names[place] == expected


@pytest.mark.parametrize(
    ("name", "count", "folder", "expected"),
    [
        ("country211", 211, "XK", "Kosovo"),
        ("eurosat", 10, "SeaLake", "sea or lake"),
        ("caltech101", 14, "Faces_easy", "face"),
    ],
)
def test_known_names__by_folder_are_distinct_and_counted(name: str, count: int, folder: str, expected: str) -> None:
    names = known_names(name)
    assert isinstance(names, dict)
    assert len(set(names.values())) == len(names) == count
    assert names[folder] == expected


def test_known_names__say_where_they_come_from() -> None:
    import stages.evaluate.sets.datasets

    files = sorted((Path(stages.evaluate.sets.datasets.__file__).parent / "class_names").iterdir())
    assert len(files) == 9
    for file in files:
        assert len(read_json(file)["origin"]) > 40
        assert file.stem in KNOWN_SETS


THREE = ("rose", "sea lily", "iris")


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["0", "2"], {"0": "rose", "2": "iris"}),
        (["3", "10", "1"], None),
        (["1", "3"], {"1": "rose", "3": "iris"}),
        (["iris", "Sea_Lily"], {"Sea_Lily": "sea lily", "iris": "iris"}),
        (["003.iris", "001.Rose"], {"001.Rose": "rose", "003.iris": "iris"}),
        (["tulip", "iris"], {"iris": "iris", "tulip": "tulip"}),
        (["1", "2"], None),
        (["1", "01", "3"], None),
    ],
)
def test_name_folders__go_by_number_or_by_name(folders: list[str], expected: dict[str, str] | None) -> None:
    if expected is None:
        with pytest.raises(ProtoRKDError, match="must count from 0, or from 1 to 3"):
            name_folders(folders, THREE)
    else:
        assert list(name_folders(folders, THREE).items()) == list(expected.items())
