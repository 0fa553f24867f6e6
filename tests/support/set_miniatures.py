"""Write miniatures of the named sets, as their authors and torchvision lay them out, and list their images."""

import csv
import json
import pickle
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.store.file_digests import FileDigests
from stages.evaluate.sets.datasets import Absent, FoundSet, find_sets, unpack
from stages.evaluate.sets.image_folder import ImageFolder


def draw(path: Path, label: int, number: int = 0) -> None:
    """Write an image of one colour, without loss whatever its suffix: both readers go by the content."""
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


def folder_of(known_set: FoundSet, split: str, cache: Path) -> ImageFolder:
    images = getattr(known_set, split)
    return unpack(images, cache, file_digests=FileDigests(None))


def sightings(folder: ImageFolder) -> list[tuple[bytes, int]]:
    """List bytes and label of every image, sorted."""
    return sorted(
        (Image.open(folder.root / path).convert("RGB").tobytes(), label)
        for path, label in zip(folder.images, folder.labels, strict=True)
    )
