"""The catalogue of sets that are known by name, the layouts that each may have, and the search for them."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.commands.listing import NameGroup
from stages.evaluate.sets.datasets import torchvision_layouts as layouts
from stages.evaluate.sets.datasets.class_folders import (
    by_imagenet_names,
    by_known_names,
    has_splits,
    read_any,
    split_reader,
    whole_reader,
)
from stages.evaluate.sets.datasets.description import SPLITS, Absent, Contents, FoundSet, Reader, Wanted
from stages.evaluate.sets.datasets.names import imagenet_names as read_imagenet_names


@dataclass(frozen=True)
class KnownSet:
    """A set of the catalogue.

    Args:
        folders: Reader of ``<name>/`` with splits of class folders.
        layouts: Readers of other layouts, each with the path below the data folder that shows that it is there; that
            path may also start from a folder with the set's name.
        mean_per_class: Whether accuracy on this set is by convention the mean over its classes.
    """

    folders: Reader = split_reader()
    layouts: tuple[tuple[str, Reader], ...] = ()
    mean_per_class: bool = False


KNOWN_SETS: dict[str, KnownSet] = {
    "imagenet": KnownSet(split_reader(by_imagenet_names)),
    "birdsnap": KnownSet(split_reader(by_known_names, may_be_empty=True)),  # many of its images are gone from the web
    "country211": KnownSet(split_reader(by_known_names, train=("train", "valid"))),
    "flowers102": KnownSet(split_reader(by_known_names), (("flowers-102", layouts.flowers102),), mean_per_class=True),
    "gtsrb": KnownSet(split_reader(by_known_names), (("gtsrb", layouts.gtsrb),)),
    "stanford_cars": KnownSet(split_reader(by_known_names), (("stanford_cars", layouts.stanford_cars),)),
    "ucf101": KnownSet(
        split_reader(by_known_names, train=("train", "trainlist01"), test=("test", "testlist01")),
        (("UCF-101", layouts.ucf101_videos),),
    ),
    "cifar10": KnownSet(layouts=(("cifar-10-batches-py", layouts.cifar10),)),
    "cifar100": KnownSet(layouts=(("cifar-100-python", layouts.cifar100),)),
    "stl10": KnownSet(layouts=(("stl10_binary", layouts.stl10),)),
    "dtd": KnownSet(layouts=(("dtd/dtd", layouts.dtd),)),
    "eurosat": KnownSet(split_reader(by_known_names), (("eurosat/2750", whole_reader(by_known_names)),)),
    "fgvc_aircraft": KnownSet(layouts=(("fgvc-aircraft-2013b", layouts.fgvc_aircraft),), mean_per_class=True),
    "food101": KnownSet(layouts=(("food-101", layouts.food101),)),
    "mnist": KnownSet(layouts=(("MNIST/raw", layouts.mnist),)),
    "oxford_iiit_pet": KnownSet(layouts=(("oxford-iiit-pet", layouts.oxford_iiit_pet),), mean_per_class=True),
    "rendered_sst2": KnownSet(layouts=(("rendered-sst2", split_reader(train=("train", "valid"))),)),
    "caltech101": KnownSet(
        split_reader(by_known_names),
        (("caltech101/101_ObjectCategories", whole_reader(by_known_names, left_out={"BACKGROUND_Google"})),),
        mean_per_class=True,
    ),
    "sun397": KnownSet(layouts=(("SUN397", layouts.sun397),)),
}


def set_groups() -> list[NameGroup]:
    """List the sets that evaluate finds by name."""
    classes = {name: "mean over classes" if known.mean_per_class else "" for name, known in KNOWN_SETS.items()}
    return [
        NameGroup("images in classes", "--zero-shot, --knn and --linear-probe NAME below --eval-data-dir", classes),
        NameGroup(
            "images with captions",
            "--retrieval [NAME=]PATH[@SPLIT]",
            {
                "manifest": "TSV, CSV, JSON lines, parquet, tars, as for encode-teacher",
                "coco": "a folder with annotations/ and images, or its captions_*.json",
                "karpathy": "dataset_coco.json, dataset_flickr8k.json, dataset_flickr30k.json",
                "flickr8k": "Flickr8k.token.txt beside its lists of images",
                "flickr30k": "results.csv or results_20130124.token",
            },
        ),
    ]


def find_sets(
    root: Path,
    *,
    names: tuple[str, ...] = (),
    splits: tuple[str, ...] = SPLITS,
    imagenet_names: str = "auto",
    names_files: Mapping[str, Path] = {},
) -> tuple[list[FoundSet], list[Absent]]:
    """Find sets below a folder, each as class folders under its name or in the layout of torchvision's dataset class.

    Nothing is downloaded or written, and no image is opened.

    Args:
        root: Data folder.
        names: Names of the catalogue, or of any folder below the root with class folders, with or without splits. By
            default all of the catalogue, and every other folder that has test images in class folders.
        splits: Splits to list; training images that no task asks for, such as ImageNet's million, cost time.
        imagenet_names: Source of ImageNet's class names, as `names.imagenet_names` takes it.
        names_files: File that names the class folders of a set, by the set's name.

    Returns:
        The sets that are there, and those that are absent or incomplete, with the reason.

    Raises:
        ProtoRKDError: the root is no folder, a name is neither in the catalogue nor a folder below it, ImageNet's
            names cannot be read from the chosen source, or a file of names fits no class folders of its set.
    """
    if not root.is_dir():
        raise ProtoRKDError(f"--eval-data-dir must be a folder; got {root}, which is none. Check the path.")
    if imagenet_names != "auto":
        read_imagenet_names(imagenet_names)  # raises here: below, a wrong choice would only make the set absent
    present: list[FoundSet] = []
    absent: list[Absent] = []
    for name in dict.fromkeys(names or (*KNOWN_SETS, *_other_sets(root))):
        known = KNOWN_SETS.get(name) or _named_folder(root, name)
        wanted = Wanted(name, splits=splits, imagenet_names=imagenet_names, names_file=names_files.get(name))
        result = _find(root, known, wanted)
        if wanted.names_file is not None:
            _check_named(result, wanted.names_file)
        if isinstance(result, FoundSet):
            present.append(result)
        else:
            absent.append(result)
    return present, absent


def _find(root: Path, known: KnownSet, wanted: Wanted) -> FoundSet | Absent:
    own = root / wanted.name
    tries = [(own, known.folders)]
    tries += [(base / anchor, reader) for anchor, reader in known.layouts for base in (root, own)]
    reasons: dict[Path, str] = {}
    for place, reader in tries:
        if place.is_dir():
            try:
                contents = _read(place, reader, wanted)
            except ProtoRKDError as error:
                reasons.setdefault(place, str(error))
                continue
            if contents is not None and contents.splits:
                return FoundSet(
                    name=wanted.name,
                    place=place,
                    class_names=contents.class_names,
                    mean_per_class=known.mean_per_class,
                    train=contents.splits.get("train"),
                    test=contents.splits.get("test"),
                    names_origin=contents.names_origin,
                )
    if not reasons and own.is_dir():
        reasons[own] = f"{own} must hold {' or '.join(wanted.splits)} images in class folders; got none."
    places = tuple(dict.fromkeys(place for place, _ in tries))
    return Absent(name=wanted.name, places=places, reason=" ".join(reasons.values()) or "Nothing is there.")


def _read(place: Path, reader: Reader, wanted: Wanted) -> Contents | None:
    try:
        return reader(place, wanted)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:  # files of an unexpected form
        raise ProtoRKDError(
            f"{place} must lie as the authors of {wanted.name} or torchvision lay it out; got {error!r} in reading it. "
            "Extract its archive again."
        ) from error


def _check_named(result: FoundSet | Absent, names_file: Path) -> None:
    """Refuse a file of names that names nothing."""
    if isinstance(result, Absent):
        if not any(place.is_dir() for place in result.places):
            return  # another option may have a set of this name
        raise ProtoRKDError(
            f"--class-names must name the classes of a set that is there. {result.name}: {result.reason}"
        )
    if not result.names_origin:
        raise ProtoRKDError(
            f"--class-names must go with class folders; got {names_file} for {result.name}, which lies at "
            f"{result.place} in a format that names its classes. Leave it out."
        )


def _other_sets(root: Path) -> list[str]:
    taken = {anchor.split("/")[0] for known in KNOWN_SETS.values() for anchor, _ in known.layouts} | set(KNOWN_SETS)
    folders = (path for path in root.iterdir() if not path.name.startswith(".") and path.name not in taken)
    return sorted(path.name for path in folders if has_splits(path))


def _named_folder(root: Path, name: str) -> KnownSet:
    if not (root / name).is_dir():
        nearest = difflib.get_close_matches(name, KNOWN_SETS, n=3) or list(KNOWN_SETS)
        raise ProtoRKDError(
            f"A set must be one of the catalogue or a folder in {root}; got {name!r}. Nearest: {', '.join(nearest)}."
        )
    return KnownSet(read_any)
