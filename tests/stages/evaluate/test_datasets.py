"""Every set is read from a miniature in each of its layouts; torchvision's dataset classes are the second opinion."""

import csv
import importlib
import json
import pickle
import re
import struct
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json
from pipeline.memo import FileDigests
from stages.evaluate.datasets import KNOWN_SETS, Absent, FoundSet, PackedPictures, download, find_sets, unpack
from stages.evaluate.datasets.downloading import DATASET_CLASSES, ELSEWHERE
from stages.evaluate.datasets.formats import read_cifar, read_idx, read_pickle
from stages.evaluate.datasets.names import imagenet_names, known_names, name_folders
from stages.evaluate.image_folder import ImageFolder
from stages.evaluate.prompts import SET_TEMPLATES, TEMPLATES, fill, templates_for


def draw(path: Path, label: int, number: int = 0) -> None:
    """Write a picture of one colour, without loss whatever its suffix: both readers go by the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (2, 2), (label, number, 9)).save(path, format="PNG")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_mat(path: Path, **values: Any) -> None:
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, values)


def class_folders(root: Path, **classes: int) -> None:
    for name, label in classes.items():
        draw(root / name / "a.jpg", label)


def random_bytes(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def make_flowers102(root: Path) -> None:
    labels = [3, 1, 102, 1, 3, 2, 4]
    for number, label in enumerate(labels, 1):
        draw(root / f"flowers-102/jpg/image_{number:05d}.jpg", label - 1, number)
    write_mat(root / "flowers-102/imagelabels.mat", labels=np.array([labels]))
    write_mat(root / "flowers-102/setid.mat", trnid=[[5, 2]], valid=[[7, 3]], tstid=[[6, 4, 1]])


def make_gtsrb(root: Path) -> None:
    for label in range(43):  # torchvision numbers the folders that it sees
        draw(root / f"gtsrb/GTSRB/Training/{label:05d}/00000_00000.ppm", label)
    rows = [("00000.ppm", 16), ("00001.ppm", 1)]
    with (root / "gtsrb/GT-final_test.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerows([("Filename", "Width", "ClassId"), *((name, 2, label) for name, label in rows)])
    for number, (name, label) in enumerate(rows):
        draw(root / "gtsrb/GTSRB/Final_Test/Images" / name, label, number)


def make_stanford_cars(root: Path) -> None:
    form = [("class", "u1"), ("fname", object)]
    place = root / "stanford_cars"
    write_mat(place / "devkit/cars_meta.mat", class_names=np.array([["Audi TT", "Ram C/V", "Geo Metro"]], object))
    for split, table in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = [(3, "00001.jpg"), (1, "00002.jpg"), (2, "00003.jpg")]
        write_mat(place / table, annotations=np.array([rows], form))
        for label, name in rows:
            draw(place / f"cars_{split}" / name, label - 1)


def make_dtd(root: Path) -> None:
    place = root / "dtd/dtd"
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        names = [f"{name}/{name}_{number}.jpg" for name in ("zigzagged", "polka-dotted")]
        write_lines(place / f"labels/{split}1.txt", names)
        for label, name in zip((1, 0), names, strict=True):
            draw(place / "images" / name, label, number)


def make_fgvc_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    write_lines(data / "variants.txt", ["707-320", "BAE 146-200"])
    for split, number in (("trainval", 1), ("test", 2)):
        write_lines(data / f"images_variant_{split}.txt", [f"{number}1 BAE 146-200", f"{number}0 707-320"])
        draw(data / f"images/{number}1.jpg", 1, number)
        draw(data / f"images/{number}0.jpg", 0, number)


def make_food101(root: Path) -> None:
    place = root / "food-101"
    for split, number in (("train", 0), ("test", 1)):
        table = {"waffles": [f"waffles/{number}"], "apple_pie": [f"apple_pie/{number}"]}
        write_lines(place / f"meta/{split}.json", [json.dumps(table)])
        draw(place / f"images/waffles/{number}.jpg", 1, number)
        draw(place / f"images/apple_pie/{number}.jpg", 0, number)


def make_oxford_iiit_pet(root: Path) -> None:
    place = root / "oxford-iiit-pet"
    for split, number in (("trainval", 0), ("test", 1)):
        names = [("shiba_inu", 2, 2), ("Abyssinian", 1, 1)]
        write_lines(place / f"annotations/{split}.txt", [f"{n}_{number} {label} {kind} 1" for n, label, kind in names])
        for name, label, _ in names:
            draw(place / f"images/{name}_{number}.jpg", label - 1, number)


def make_sun397(root: Path) -> None:
    place = root / "SUN397"
    write_lines(place / "ClassName.txt", ["/a/abbey", "/c/church/outdoor", "/s/swimming_pool/indoor"])
    for label, folder in enumerate(("a/abbey", "c/church/outdoor", "s/swimming_pool/indoor")):
        draw(place / folder / f"sun_{label}.jpg", label)


def make_eurosat(root: Path) -> None:
    class_folders(root / "eurosat/2750", AnnualCrop=0, Forest=1, SeaLake=2)


def make_caltech101(root: Path) -> None:
    for label, name in enumerate(("Faces", "accordion", "ceiling_fan")):
        draw(root / f"caltech101/101_ObjectCategories/{name}/image_0001.jpg", label)
    draw(root / "caltech101/101_ObjectCategories/BACKGROUND_Google/image_0001.jpg", 99)


def make_country211(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        for label, name in enumerate(("AD", "DE", "ZW")):
            draw(root / f"country211/{split}/{name}/a.jpg", label, number)


def make_rendered_sst2(root: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        for label, name in enumerate(("negative", "positive")):
            draw(root / f"rendered-sst2/{split}/{name}/a.png", label, number)


def write_cifar(place: Path, batches: dict[str, int], meta: str, names: dict[str, list[str]], key: str) -> None:
    place.mkdir(parents=True)
    for batch, seed in batches.items():
        content = {"data": random_bytes(2, 3072, seed=seed), key: [1, seed % 3]}
        (place / batch).write_bytes(pickle.dumps(content, protocol=2))
    (place / meta).write_bytes(pickle.dumps(names, protocol=2))


def make_cifar10(root: Path) -> None:
    batches = {**{f"data_batch_{number}": number for number in range(1, 6)}, "test_batch": 6}
    names = {"label_names": ["airplane", "automobile", "bird"]}
    write_cifar(root / "cifar-10-batches-py", batches, "batches.meta", names, "labels")


def make_cifar100(root: Path) -> None:
    names = {"fine_label_names": ["apple", "aquarium_fish", "baby"], "coarse_label_names": ["fish"]}
    write_cifar(root / "cifar-100-python", {"train": 1, "test": 2}, "meta", names, "fine_labels")


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes())


def make_mnist(root: Path) -> None:
    for stem, seed in (("train", 1), ("t10k", 2)):
        write_idx(root / f"MNIST/raw/{stem}-images-idx3-ubyte", random_bytes(3, 28, 28, seed=seed))
        write_idx(root / f"MNIST/raw/{stem}-labels-idx1-ubyte", np.array([7, 0, seed], np.uint8))


def make_stl10(root: Path) -> None:
    place = root / "stl10_binary"
    write_lines(place / "class_names.txt", ["airplane", "bird", "car"])
    for split, seed in (("train", 1), ("test", 2)):
        (place / f"{split}_X.bin").write_bytes(random_bytes(2, 3, 96, 96, seed=seed).tobytes())
        (place / f"{split}_y.bin").write_bytes(bytes([3, seed]))


# For each set in torchvision's layout: what writes it, its class there, and the options that make up each split.
TORCHVISION: dict[str, tuple[Callable[[Path], None], str, dict[str, list[dict[str, Any]]]]] = {
    "country211": (
        make_country211,
        "Country211",
        {"train": [{"split": "train"}, {"split": "valid"}], "test": [{"split": "test"}]},
    ),
    "flowers102": (
        make_flowers102,
        "Flowers102",
        {"train": [{"split": "train"}, {"split": "val"}], "test": [{"split": "test"}]},
    ),
    "gtsrb": (make_gtsrb, "GTSRB", {"train": [{"split": "train"}], "test": [{"split": "test"}]}),
    "stanford_cars": (make_stanford_cars, "StanfordCars", {"train": [{"split": "train"}], "test": [{"split": "test"}]}),
    "cifar10": (make_cifar10, "CIFAR10", {"train": [{"train": True}], "test": [{"train": False}]}),
    "cifar100": (make_cifar100, "CIFAR100", {"train": [{"train": True}], "test": [{"train": False}]}),
    "stl10": (make_stl10, "STL10", {"train": [{"split": "train"}], "test": [{"split": "test"}]}),
    "dtd": (make_dtd, "DTD", {"train": [{"split": "train"}, {"split": "val"}], "test": [{"split": "test"}]}),
    "eurosat": (make_eurosat, "EuroSAT", {"test": [{}]}),
    "fgvc_aircraft": (
        make_fgvc_aircraft,
        "FGVCAircraft",
        {"train": [{"split": "trainval"}], "test": [{"split": "test"}]},
    ),
    "food101": (make_food101, "Food101", {"train": [{"split": "train"}], "test": [{"split": "test"}]}),
    "mnist": (make_mnist, "MNIST", {"train": [{"train": True}], "test": [{"train": False}]}),
    "oxford_iiit_pet": (
        make_oxford_iiit_pet,
        "OxfordIIITPet",
        {"train": [{"split": "trainval"}], "test": [{"split": "test"}]},
    ),
    "rendered_sst2": (
        make_rendered_sst2,
        "RenderedSST2",
        {"train": [{"split": "train"}, {"split": "val"}], "test": [{"split": "test"}]},
    ),
    "caltech101": (make_caltech101, "Caltech101", {"test": [{}]}),
    "sun397": (make_sun397, "SUN397", {"test": [{}]}),
}
PACKED = ("cifar10", "cifar100", "mnist", "stl10")
CLASS_NAMES = {
    "country211": ("Andorra", "Germany", "Zimbabwe"),
    "stanford_cars": ("Audi TT", "Ram C/V", "Geo Metro"),
    "cifar10": ("airplane", "automobile", "bird"),
    "cifar100": ("apple", "aquarium fish", "baby"),
    "stl10": ("airplane", "bird", "car"),
    "dtd": ("polka-dotted", "zigzagged"),
    "eurosat": ("annual crop land", "forest", "sea or lake"),
    "fgvc_aircraft": ("707-320", "BAE 146-200"),
    "food101": ("apple pie", "waffles"),
    "mnist": tuple("0123456789"),
    "oxford_iiit_pet": ("Abyssinian", "shiba inu"),
    "rendered_sst2": ("negative", "positive"),
    "caltech101": ("face with its surroundings", "accordion", "ceiling fan"),
    "sun397": ("abbey", "outdoor church", "indoor swimming pool"),
}


def find_one(root: Path, name: str, **options: Any) -> FoundSet:
    found, absent = find_sets(root, names=(name,), **options)
    assert absent == []
    return found[0]


def find_none(root: Path, name: str) -> Absent:
    found, absent = find_sets(root, names=(name,))
    assert found == []
    return absent[0]


def folder_of(found: FoundSet, split: str, cache: Path) -> ImageFolder:
    pictures = getattr(found, split)
    return unpack(pictures, cache, file_digests=FileDigests(None))


def sightings(folder: ImageFolder) -> list[tuple[bytes, int]]:
    """Bytes and label of every picture, sorted."""
    return sorted(
        (Image.open(folder.root / path).convert("RGB").tobytes(), label)
        for path, label in zip(folder.images, folder.labels, strict=True)
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_find_sets__sees_what_torchvision_sees(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, class_name, splits = TORCHVISION[name]
    make(tmp_path)
    dataset_class = getattr(importlib.import_module("torchvision.datasets"), class_name)
    module = importlib.import_module(dataset_class.__module__)
    if hasattr(module, "check_integrity"):
        monkeypatch.setattr(module, "check_integrity", lambda *_: True)  # a miniature has hashes of its own
    found = find_one(tmp_path, name)
    assert found.splits == tuple(splits)
    for split, calls in splits.items():
        folder = folder_of(found, split, tmp_path / "cache")
        datasets = [dataset_class(root=str(tmp_path), **options) for options in calls]
        theirs = [(image.convert("RGB").tobytes(), int(label)) for dataset in datasets for image, label in dataset]
        assert sightings(folder) == sorted(theirs)
        assert folder.name == name
        assert folder.classes == found.class_names
        assert list(folder.labels) == sorted(folder.labels)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_find_sets__names_classes_in_label_order(name: str, tmp_path: Path) -> None:
    TORCHVISION[name][0](tmp_path)
    assert find_one(tmp_path, name).class_names == CLASS_NAMES[name]


def test_find_sets__numbers_flowers_and_signs_as_their_authors_do(tmp_path: Path) -> None:
    make_flowers102(tmp_path)
    make_gtsrb(tmp_path)
    flowers, signs = find_one(tmp_path, "flowers102"), find_one(tmp_path, "gtsrb")
    assert (len(flowers.class_names), len(signs.class_names)) == (102, 43)
    assert isinstance(flowers.test, ImageFolder)
    assert flowers.test.images == ("jpg/image_00004.jpg", "jpg/image_00006.jpg", "jpg/image_00001.jpg")
    assert [flowers.class_names[label] for label in flowers.test.labels] == [
        "pink primrose",
        "hard-leaved pocket orchid",
        "canterbury bells",
    ]
    assert isinstance(signs.test, ImageFolder)
    assert [signs.class_names[label] for label in signs.test.labels] == ["30 km/h speed limit", "no trucks"]


@pytest.mark.parametrize("name", sorted({*TORCHVISION} - {"country211"}))
def test_find_sets__looks_into_a_folder_with_the_sets_name_too(name: str, tmp_path: Path) -> None:
    TORCHVISION[name][0](tmp_path / name)
    assert find_one(tmp_path, name).splits == tuple(TORCHVISION[name][2])


@pytest.mark.parametrize("name", [name for name in KNOWN_SETS if name != "imagenet"])
def test_find_sets__reads_class_folders_under_every_name(name: str, tmp_path: Path) -> None:
    classes = {"country211": ("AD", "ZW"), "mnist": ("0", "9"), "eurosat": ("Forest", "River")}.get(name, ("a_b", "c"))
    for split in ("train", "test"):
        for label, folder in enumerate(classes):
            draw(tmp_path / name / split / folder / f"{split}.jpg", label)
    found = find_one(tmp_path, name)
    assert found.place == tmp_path / name
    assert isinstance(found.train, ImageFolder)
    assert isinstance(found.test, ImageFolder)
    assert found.train.images == tuple(f"train/{folder}/train.jpg" for folder in classes)
    assert found.test.images == tuple(f"test/{folder}/test.jpg" for folder in classes)
    assert found.test.labels == (0, 1)
    expected = {"country211": ("Andorra", "Zimbabwe"), "mnist": ("0", "9"), "eurosat": ("forest", "river")}
    assert found.class_names == expected.get(name, ("a b", "c"))


def test_find_sets__reads_numbered_birds_without_the_empty_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, quiet_log: None
) -> None:
    for number in (0, 1, 499):
        draw(tmp_path / f"birdsnap/test/{number:03d}/a.jpg", number % 256)
    (tmp_path / "birdsnap/test/046").mkdir()
    with caplog.at_level("INFO", logger="protorkd"):
        found = find_one(tmp_path, "birdsnap")
    assert found.class_names == ("Coopers Hawk", "Northern Goshawk", "Blue headed Vireo")
    assert "1 of 4 classes have no pictures and are left out" in caplog.text


def test_find_sets__reads_the_first_test_list_of_ucf101(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        class_folders(tmp_path / f"ucf101/testlist0{number}", YoYo=1, ApplyEyeMakeup=0)
    found = find_one(tmp_path, "ucf101")
    assert found.splits == ("test",)
    assert found.class_names == ("Apply Eye Makeup", "Yo Yo")
    assert isinstance(found.test, ImageFolder)
    assert found.test.images == ("testlist01/ApplyEyeMakeup/a.jpg", "testlist01/YoYo/a.jpg")


def test_find_sets__says_that_videos_must_become_pictures(tmp_path: Path) -> None:
    (tmp_path / "UCF-101/YoYo").mkdir(parents=True)
    assert "UCF101 must be there as pictures; got videos" in find_none(tmp_path, "ucf101").reason


@pytest.fixture(scope="session")
def synsets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet with an empty picture in each of 1,000 classes; to be read only."""
    root = tmp_path_factory.mktemp("synsets")
    for number in range(1000):
        folder = root / f"imagenet/val/n{number:08d}"
        folder.mkdir(parents=True)
        (folder / "a.JPEG").touch()
    return root


def test_imagenet__is_named_in_the_order_of_its_synsets(synsets: Path) -> None:
    found = find_one(synsets, "imagenet", imagenet_names="torchvision")
    assert isinstance(found.test, ImageFolder)
    assert found.class_names[:2] == ("tench", "goldfish")
    assert found.test.images[999] == "val/n00000999/a.JPEG"
    assert found.test.labels == tuple(range(1000))


def test_imagenet__prefers_test_to_val_and_passes_over_loose_files(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenet/val", goldfish=1, tench=0)
    draw(tmp_path / "imagenet/test/loose.jpg", 0)
    found = find_one(tmp_path, "imagenet", imagenet_names="torchvision")
    assert found.class_names == ("tench", "goldfish")
    class_folders(tmp_path / "imagenet/test", goldfish=1)
    assert find_one(tmp_path, "imagenet", imagenet_names="torchvision").class_names == ("goldfish",)


def test_imagenet__tells_a_part_of_its_classes_apart_by_kaggles_list(tmp_path: Path) -> None:
    class_folders(tmp_path / "imagenet/val", n00000001=1, n00000003=3)
    assert "must hold all 1000 class folders of ImageNet" in find_none(tmp_path, "imagenet").reason
    write_lines(tmp_path / "imagenet/LOC_synset_mapping.txt", [f"n{number:08d} some, words" for number in range(1000)])
    found = find_one(tmp_path, "imagenet", imagenet_names="torchvision")
    assert found.class_names == ("goldfish", "tiger shark")


def test_imagenet_names__are_those_of_torchvisions_weights() -> None:
    from torchvision.models import ResNet50_Weights

    assert list(imagenet_names("torchvision")) == ResNet50_Weights.DEFAULT.meta["categories"]


@pytest.fixture
def open_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An open_clip that must not be imported, with what is read of it."""
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
    import stages.evaluate.datasets

    files = sorted((Path(stages.evaluate.datasets.__file__).parent / "class_names").iterdir())
    assert len(files) == 8
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


def test_find_sets__goes_through_the_catalogue_and_other_sets_with_test_pictures(tmp_path: Path) -> None:
    class_folders(tmp_path / "holidays/test", sea=0, hills=1)
    class_folders(tmp_path / "no splits", cat=0)
    class_folders(tmp_path / "coco2017", val2017=0)
    make_dtd(tmp_path)
    found, absent = find_sets(tmp_path)
    assert [each.name for each in found] == ["dtd", "holidays"]
    assert {each.name for each in absent} == set(KNOWN_SETS) - {"dtd"}
    assert {each.reason for each in absent} == {"Nothing is there."}
    places = next(each.places for each in absent if each.name == "cifar10")
    assert places == (
        tmp_path / "cifar10",
        tmp_path / "cifar-10-batches-py",
        tmp_path / "cifar10/cifar-10-batches-py",
    )


def test_find_sets__takes_any_folder_that_is_named(tmp_path: Path) -> None:
    class_folders(tmp_path / "pets", cat=0, dog=1)
    found = find_one(tmp_path, "pets")
    assert (found.splits, found.class_names, found.mean_per_class) == (("test",), ("cat", "dog"), False)
    class_folders(tmp_path / "pets" / "train", cat=0, dog=1)
    class_folders(tmp_path / "pets" / "test", cat=0)
    assert "got no test pictures of 'dog'" in find_none(tmp_path, "pets").reason
    assert find_one(tmp_path, "pets", splits=("test",)).class_names == ("cat",)


def test_find_sets__refuses_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"got 'cifar-10'\. Nearest: cifar10"):
        find_sets(tmp_path, names=("cifar-10",))


def test_find_sets__refuses_what_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="--eval-data-dir must be a folder"):
        find_sets(tmp_path / "absent")


def test_find_sets__knows_which_figures_are_means_over_classes() -> None:
    names = {name for name, known in KNOWN_SETS.items() if known.mean_per_class}
    assert names == {"caltech101", "flowers102", "fgvc_aircraft", "oxford_iiit_pet"}


def test_find_sets__lists_only_the_splits_that_are_wanted(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    make_mnist(tmp_path)
    for name in ("dtd", "mnist"):
        assert find_one(tmp_path, name, splits=("test",)).splits == ("test",)
        assert find_one(tmp_path, name, splits=("train",)).splits == ("train",)


def test_sun397__divides_as_its_authors_lists_say(tmp_path: Path) -> None:
    make_sun397(tmp_path)
    write_lines(tmp_path / "SUN397/Training_01.txt", ["/c/church/outdoor/sun_1.jpg"])
    write_lines(tmp_path / "SUN397/Testing_01.txt", ["/s/swimming_pool/indoor/sun_2.jpg", "/a/abbey/sun_0.jpg"])
    found = find_one(tmp_path, "sun397")
    assert isinstance(found.train, ImageFolder)
    assert isinstance(found.test, ImageFolder)
    assert (found.train.images, found.train.labels) == (("c/church/outdoor/sun_1.jpg",), (1,))
    assert found.test.labels == (0, 2)


# What is taken away from a whole set, and the words that say so.
HALVES = [
    ("flowers102", "flowers-102/setid.mat", r"setid\.mat must be there"),
    ("flowers102", "flowers-102/jpg/image_00004.jpg", "got 1 missing, first jpg/image_00004.jpg"),
    ("gtsrb", "gtsrb/GT-final_test.csv", r"GT-final_test\.csv must be there"),
    ("stanford_cars", "stanford_cars/devkit/cars_meta.mat", r"cars_meta\.mat must be there"),
    ("stanford_cars", "stanford_cars/cars_test/00001.jpg", "got 1 missing, first cars_test/00001.jpg"),
    ("cifar10", "cifar-10-batches-py/data_batch_3", "data_batch_3 must be there"),
    ("cifar100", "cifar-100-python/meta", "meta must be there"),
    ("stl10", "stl10_binary/train_y.bin", r"train_y\.bin must be there"),
    ("dtd", "dtd/dtd/labels/val1.txt", r"val1\.txt must be there"),
    ("eurosat", "eurosat/2750/Forest/a.jpg", "2750/Forest must hold pictures; got none"),
    ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images/21.jpg", "got 1 missing"),
    ("food101", "food-101/meta/test.json", r"test\.json must be there"),
    ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte must be there"),
    ("oxford_iiit_pet", "oxford-iiit-pet/annotations/trainval.txt", r"trainval\.txt must be there"),
    ("rendered_sst2", "rendered-sst2/test/positive/a.png", "test/positive must hold pictures"),
    ("caltech101", "caltech101/101_ObjectCategories/accordion/image_0001.jpg", "accordion must hold pictures"),
    ("sun397", "SUN397/ClassName.txt", r"ClassName\.txt must be there"),
    ("country211", "country211/test/DE/a.jpg", "test/DE must hold pictures"),
]


@pytest.mark.parametrize(("name", "lost", "reason"), HALVES)
def test_find_sets__says_what_half_a_set_lacks(name: str, lost: str, reason: str, tmp_path: Path) -> None:
    TORCHVISION[name][0](tmp_path)
    (tmp_path / lost).unlink()
    absent = find_none(tmp_path, name)
    assert any((tmp_path / lost).is_relative_to(place) for place in absent.places)
    assert re.search(reason, absent.reason)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("flowers102", "flowers-102/setid.mat", b"no matrix"),
        ("food101", "food-101/meta/test.json", b"[1, 2]"),
        ("oxford_iiit_pet", "oxford-iiit-pet/annotations/test.txt", b"a line of other words\n"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", b"11 Zeppelin\n"),
        ("gtsrb", "gtsrb/GT-final_test.csv", b"Filename;ClassId\n00000.ppm;43\n"),
        ("cifar10", "cifar-10-batches-py/batches.meta", b"no pickle"),
        ("sun397", "SUN397/ClassName.txt", b"/a/abbey\n"),
    ],
)
def test_find_sets__says_that_a_list_is_of_another_form(name: str, file: str, content: bytes, tmp_path: Path) -> None:
    TORCHVISION[name][0](tmp_path)
    (tmp_path / file).write_bytes(content)
    reason = find_none(tmp_path, name).reason
    assert " must " in reason
    assert "got" in reason


def test_find_sets__falls_back_on_a_layout_that_is_whole(tmp_path: Path) -> None:
    make_cifar10(tmp_path)
    (tmp_path / "cifar10/test/cat").mkdir(parents=True)
    assert isinstance(find_one(tmp_path, "cifar10").test, PackedPictures)


def test_unpack__leaves_pictures_that_are_files(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    found = find_one(tmp_path, "dtd")
    assert folder_of(found, "test", tmp_path / "cache") is found.test
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", PACKED)
def test_unpack__does_its_work_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TORCHVISION[name][0](tmp_path)
    found = find_one(tmp_path, name)
    first = folder_of(found, "test", tmp_path / "cache")
    assert first.root.parent == tmp_path / "cache"
    monkeypatch.setattr("stages.evaluate.datasets.unpacking.write_unsynced", None)
    assert folder_of(found, "test", tmp_path / "cache") == first


def test_unpack__takes_up_what_was_not_whole(tmp_path: Path) -> None:
    make_mnist(tmp_path)
    found = find_one(tmp_path, "mnist")
    first = folder_of(found, "test", tmp_path / "cache")
    expected = sightings(first)
    (first.root / "labels.json").unlink()
    (first.root / first.images[1]).write_bytes(b"half")
    assert sightings(folder_of(found, "test", tmp_path / "cache")) == expected


def test_unpack__goes_by_content_and_not_by_place(tmp_path: Path) -> None:
    roots = [tmp_path / "here", tmp_path / "there"]
    for root in roots:
        make_stl10(root)
    folders = [folder_of(find_one(root, "stl10"), "test", tmp_path / "cache") for root in roots]
    assert folders[0].root == folders[1].root
    (roots[1] / "stl10_binary/test_y.bin").write_bytes(bytes([1, 1]))
    assert folder_of(find_one(roots[1], "stl10"), "test", tmp_path / "cache").root != folders[0].root


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x03\1\2", "must be an idx file of bytes"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x02\1\2", "must be the labels of"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x03\1\2\x0a", "must have labels of 10"),
        ("stl10", "stl10_binary/test_X.bin", b"few", "must be the pictures of test_y.bin"),
        ("stl10", "stl10_binary/test_y.bin", b"\0\1", "must have labels of 3 classes"),
        ("cifar10", "cifar-10-batches-py/test_batch", b"no pickle", "must be a pickle of plain arrays"),
        ("cifar10", "cifar-10-batches-py/test_batch", pickle.dumps({"data": []}), "must be a batch of CIFAR"),
    ],
)
def test_unpack__refuses_damaged_files(name: str, file: str, content: bytes, message: str, tmp_path: Path) -> None:
    TORCHVISION[name][0](tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ProtoRKDError, match=message):
        folder_of(find_one(tmp_path, name), "test", tmp_path / "cache")


def test_read_pickle__runs_no_programs(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "batch").write_bytes(pickle.dumps(Program()))
    with pytest.raises(ProtoRKDError, match="is not allowed"):
        read_pickle(tmp_path / "batch")
    assert not (tmp_path / "ran").exists()


def test_read_cifar__takes_what_python_2_wrote(tmp_path: Path) -> None:
    pixels = random_bytes(2, 3072, seed=0)
    shape = b"".join(b"J" + struct.pack("<i", length) for length in pixels.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(" + shape + b"t"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", pixels.nbytes) + pixels.tobytes() + b"tb"
    )
    (tmp_path / "batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x05K\x07eu.")
    pictures, labels = read_cifar((tmp_path / "batch",))
    assert pictures.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(pictures[1, 3, 4], pixels[1].reshape(3, 32, 32)[:, 3, 4])
    assert labels.tolist() == [5, 7]


def test_read_idx__gives_the_shape_that_the_file_says(tmp_path: Path) -> None:
    values = random_bytes(2, 3, 4, seed=0)
    write_idx(tmp_path / "values", values)
    np.testing.assert_array_equal(read_idx(tmp_path / "values"), values)


def test_download__asks_torchvision_for_all_of_a_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    module = ModuleType("torchvision.datasets")
    module.GTSRB = lambda **options: calls.append(options)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    download("gtsrb", tmp_path / "data")
    common = {"root": str(tmp_path / "data"), "download": True}
    assert calls == [{**common, "split": "train"}, {**common, "split": "test"}]


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("File not found or corrupted.")])
def test_download__says_what_went_wrong(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**options: Any) -> None:
        raise error

    module = ModuleType("torchvision.datasets")
    module.DTD = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module)
    with pytest.raises(ProtoRKDError, match=f"dtd must be within reach .*; {error}"):
        download("dtd", tmp_path)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_download__says_where_other_sets_are_to_be_had(name: str, tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=f"got '{name}'.* https?://|torchvision has its videos alone"):
        download(name, tmp_path)


def test_download__covers_the_catalogue() -> None:
    datasets = importlib.import_module("torchvision.datasets")
    assert {*DATASET_CLASSES, *ELSEWHERE} == set(KNOWN_SETS)
    assert all(hasattr(datasets, class_name) for class_name, _ in DATASET_CLASSES.values())
