"""Readers of sets as torchvision's dataset classes lay them out on disk, where that is not one folder per class."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.datasets.description import Contents, PackedImages, PackedReader, Wanted, listed, need
from stages.evaluate.sets.datasets.folder_names import class_name_from_folder
from stages.evaluate.sets.datasets.formats import read_cifar, read_mat, read_mnist, read_pickle, read_stl10
from stages.evaluate.sets.datasets.names import known_names

_DIGITS = tuple("0123456789")


def flowers102(place: Path, wanted: Wanted) -> Contents:
    """Read ``flowers-102``: images by number, labels and splits in MATLAB files."""
    need(place / "jpg")
    labels = np.atleast_1d(read_mat(need(place / "imagelabels.mat"))["labels"])
    ids = read_mat(need(place / "setid.mat"))

    def images(*keys: str) -> Iterator[tuple[str, int]]:
        numbers = np.concatenate([np.atleast_1d(ids[key]) for key in keys])
        return ((f"jpg/image_{number:05d}.jpg", int(labels[number - 1]) - 1) for number in numbers)

    splits = {"train": images("trnid", "valid"), "test": images("tstid")}
    return listed(place, wanted, tuple(known_names("flowers102")), splits)


def gtsrb(place: Path, wanted: Wanted) -> Contents:
    """Read ``gtsrb``: training signs in numbered folders, test signs in one folder with a table; one may be missing."""
    training, final = place / "GTSRB" / "Training", place / "GTSRB" / "Final_Test" / "Images"
    splits = {}
    if training.is_dir():
        paths = sorted(training.glob("*/*.ppm"))
        splits["train"] = [(path.relative_to(place).as_posix(), int(path.parent.name)) for path in paths]
    if final.is_dir():
        with need(place / "GT-final_test.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=";", skipinitialspace=True))
        splits["test"] = [(f"GTSRB/Final_Test/Images/{row['Filename']}", int(row["ClassId"])) for row in rows]
    if not splits:
        need(final)
    return listed(place, wanted, tuple(known_names("gtsrb")), splits)


def stanford_cars(place: Path, wanted: Wanted) -> Contents:
    """Read ``stanford_cars``: two folders of images, labels and names in MATLAB files; one split may be missing."""
    names = read_mat(need(place / "devkit" / "cars_meta.mat"))["class_names"]
    tables = {
        "train": (place / "cars_train", place / "devkit" / "cars_train_annos.mat"),
        "test": (place / "cars_test", place / "cars_test_annos_withlabels.mat"),
    }
    present = {split: table for split, table in tables.items() if table[0].is_dir()}
    if not present:
        need(tables["test"][0])
    splits = {
        split: [
            (f"{folder.name}/{row['fname']}", int(row["class"]) - 1)
            for row in np.atleast_1d(read_mat(need(table))["annotations"])
        ]
        for split, (folder, table) in present.items()
    }
    return listed(place, wanted, tuple(str(name) for name in np.atleast_1d(names)), splits)


def dtd(place: Path, wanted: Wanted) -> Contents:
    """Read ``dtd/dtd``: class folders, and ten divisions into splits, of which the first is read."""
    lists = {name: _lines(place / "labels" / f"{name}1.txt") for name in ("train", "val", "test")}
    classes = sorted({line.split("/")[0] for lines in lists.values() for line in lines})
    labels = {name: label for label, name in enumerate(classes)}

    def images(*names: str) -> Iterator[tuple[str, int]]:
        return ((f"images/{line}", labels[line.split("/")[0]]) for name in names for line in lists[name])

    class_names = tuple(class_name_from_folder(name) for name in classes)
    return listed(place, wanted, class_names, {"train": images("train", "val"), "test": images("test")})


def fgvc_aircraft(place: Path, wanted: Wanted) -> Contents:
    """Read ``fgvc-aircraft-2013b``: images in one folder, lists of them with their variants."""
    data = place / "data"
    variants = _lines(data / "variants.txt")
    labels = {variant: label for label, variant in enumerate(variants)}

    def images(split: str) -> Iterator[tuple[str, int]]:
        rows = (line.split(" ", 1) for line in _lines(data / f"images_variant_{split}.txt"))
        return ((f"data/images/{number}.jpg", labels[variant]) for number, variant in rows)

    return listed(place, wanted, tuple(variants), {"train": images("trainval"), "test": images("test")})


def food101(place: Path, wanted: Wanted) -> Contents:
    """Read ``food-101``: class folders, and the splits as JSON."""
    tables = {split: json.loads(need(place / "meta" / f"{split}.json").read_bytes()) for split in ("train", "test")}
    classes = sorted({*tables["train"], *tables["test"]})
    splits = {
        split: [(f"images/{path}.jpg", classes.index(name)) for name, paths in table.items() for path in paths]
        for split, table in tables.items()
    }
    return listed(place, wanted, tuple(class_name_from_folder(name) for name in classes), splits)


def oxford_iiit_pet(place: Path, wanted: Wanted) -> Contents:
    """Read ``oxford-iiit-pet``: images named after their breeds, and lists of them with labels."""
    tables = {
        split: [line.split() for line in _lines(place / "annotations" / f"{file}.txt")]
        for split, file in (("train", "trainval"), ("test", "test"))
    }
    breeds = {int(row[1]): row[0].rpartition("_")[0] for rows in tables.values() for row in rows}
    labels = {number: label for label, number in enumerate(sorted(breeds))}
    splits = {split: [(f"images/{row[0]}.jpg", labels[int(row[1])]) for row in rows] for split, rows in tables.items()}
    return listed(place, wanted, tuple(class_name_from_folder(breeds[number]) for number in labels), splits)


def sun397(place: Path, wanted: Wanted) -> Contents:
    """Read ``SUN397``: nested class folders; with the first of the authors' ten divisions, or all as test images."""
    folders = [line.lstrip("/") for line in _lines(place / "ClassName.txt")]
    labels = {folder: label for label, folder in enumerate(folders)}
    # The narrower word comes first in English: church/outdoor is an outdoor church.
    names = tuple(class_name_from_folder(" ".join(reversed(folder.split("/")[1:]))) for folder in folders)
    lists = {"train": place / "Training_01.txt", "test": place / "Testing_01.txt"}
    if all(path.is_file() for path in lists.values()):
        paths = {split: [line.lstrip("/") for line in _lines(path)] for split, path in lists.items()}
    else:
        paths = {"test": [path.relative_to(place).as_posix() for path in place.rglob("sun_*.jpg")]}
    splits = {split: [(path, labels[path.rpartition("/")[0]]) for path in found] for split, found in paths.items()}
    return listed(place, wanted, names, splits)


def cifar10(place: Path, wanted: Wanted) -> Contents:
    """Read ``cifar-10-batches-py``: pickles."""
    splits = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
    return _cifar(place, wanted, meta="batches.meta", key="label_names", splits=splits)


def cifar100(place: Path, wanted: Wanted) -> Contents:
    """Read ``cifar-100-python``: pickles."""
    return _cifar(place, wanted, meta="meta", key="fine_label_names", splits={"train": ["train"], "test": ["test"]})


def mnist(place: Path, wanted: Wanted) -> Contents:
    """Read ``MNIST/raw``: idx files."""
    splits = {
        split: (place / f"{stem}-images-idx3-ubyte", place / f"{stem}-labels-idx1-ubyte")
        for split, stem in (("train", "train"), ("test", "t10k"))
    }
    return _packed(wanted, _DIGITS, splits, read_mnist)


def stl10(place: Path, wanted: Wanted) -> Contents:
    """Read ``stl10_binary``: raw bytes."""
    splits = {split: (place / f"{split}_X.bin", place / f"{split}_y.bin") for split in ("train", "test")}
    return _packed(wanted, tuple(_lines(place / "class_names.txt")), splits, read_stl10)


def ucf101_videos(place: Path, wanted: Wanted) -> Contents:
    """Refuse ``UCF-101``: videos, which nothing here reads.

    Raises:
        ProtoRKDError: always.
    """
    raise ProtoRKDError(
        f"UCF101 must be there as images; got videos in {place}. Write the middle frame of each test video to "
        "ucf101/testlist01/<class>/."
    )


def _cifar(place: Path, wanted: Wanted, *, meta: str, key: str, splits: dict[str, list[str]]) -> Contents:
    names = tuple(class_name_from_folder(name) for name in read_pickle(need(place / meta))[key])
    files = {split: tuple(place / name for name in found) for split, found in splits.items()}
    return _packed(wanted, names, files, read_cifar)


def _packed(
    wanted: Wanted, names: tuple[str, ...], splits: Mapping[str, tuple[Path, ...]], read: PackedReader
) -> Contents:
    for files in splits.values():
        for file in files:
            need(file)
    return Contents(
        class_names=names,
        splits={
            split: PackedImages(name=wanted.name, classes=names, files=files, read=read)
            for split, files in splits.items()
            if split in wanted.splits
        },
    )


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in need(path).read_text(encoding="utf-8").splitlines() if line.strip()]
