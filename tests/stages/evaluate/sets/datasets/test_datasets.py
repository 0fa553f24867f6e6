"""Every set is read from a miniature in each of its layouts; torchvision's dataset classes are the second opinion."""

import importlib
import re
from pathlib import Path

import pytest
from set_miniatures import (
    CLASS_NAMES,
    TORCHVISION,
    class_folders,
    draw,
    find_none,
    find_one,
    folder_of,
    make_cifar10,
    make_dtd,
    make_flowers102,
    make_gtsrb,
    make_mnist,
    make_sun397,
    sightings,
    write_lines,
)

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.datasets import KNOWN_SETS, PackedImages, find_sets
from stages.evaluate.sets.image_folder import ImageFolder


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
    assert "1 of 4 classes have no images and are left out" in caplog.text


def test_find_sets__reads_the_first_test_list_of_ucf101(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        class_folders(tmp_path / f"ucf101/testlist0{number}", YoYo=1, ApplyEyeMakeup=0)
    found = find_one(tmp_path, "ucf101")
    assert found.splits == ("test",)
    assert found.class_names == ("Apply Eye Makeup", "Yo Yo")
    assert isinstance(found.test, ImageFolder)
    assert found.test.images == ("testlist01/ApplyEyeMakeup/a.jpg", "testlist01/YoYo/a.jpg")


def test_find_sets__says_that_videos_must_become_images(tmp_path: Path) -> None:
    (tmp_path / "UCF-101/YoYo").mkdir(parents=True)
    assert "UCF101 must be there as images; got videos" in find_none(tmp_path, "ucf101").reason


def test_find_sets__goes_through_the_catalogue_and_other_sets_with_test_images(tmp_path: Path) -> None:
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
    assert "got no test images of 'dog'" in find_none(tmp_path, "pets").reason
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
    ("eurosat", "eurosat/2750/Forest/a.jpg", "2750/Forest must hold images; got none"),
    ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images/21.jpg", "got 1 missing"),
    ("food101", "food-101/meta/test.json", r"test\.json must be there"),
    ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte must be there"),
    ("oxford_iiit_pet", "oxford-iiit-pet/annotations/trainval.txt", r"trainval\.txt must be there"),
    ("rendered_sst2", "rendered-sst2/test/positive/a.png", "test/positive must hold images"),
    ("caltech101", "caltech101/101_ObjectCategories/accordion/image_0001.jpg", "accordion must hold images"),
    ("sun397", "SUN397/ClassName.txt", r"ClassName\.txt must be there"),
    ("country211", "country211/test/DE/a.jpg", "test/DE must hold images"),
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
    assert isinstance(find_one(tmp_path, "cifar10").test, PackedImages)
