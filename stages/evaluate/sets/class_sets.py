"""Read class sets: from folders that are given one by one, and from a data folder of sets that are known by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests
from stages.components.images.opening import identify_images
from stages.components.images.packed_image_set import Pack, find_packed
from stages.evaluate.sets.datasets import Absent, FoundSet, PackedImages, find_sets, unpack
from stages.evaluate.sets.datasets.names import name_class_folders
from stages.evaluate.sets.evaluation_sets import ClassSet, LabelledSet, labelled_digest
from stages.evaluate.sets.image_folder import ImageFolder, read_image_folder, read_splits, split_name
from stages.evaluate.task_names import CLASS_TASKS, NEED_TRAIN


@dataclass(frozen=True)
class ClassSetReader:
    """Reads class sets and identifies their images.

    Args:
        file_digests: Remembered digests of files.
        image_identity: How images are identified, as `identify_images` takes it.
        cache: Folder for the unpacked images of sets that come in a file format of their own.
        packs: Packs to read images from; each split is read from the first that has all of its images.
        names_files: File that names the class folders of a set, by the set's name; that of any other set under "".
        imagenet_names: Source of ImageNet's class names.
    """

    file_digests: FileDigests
    image_identity: str
    cache: Path
    packs: Sequence[Pack] = ()
    names_files: Mapping[str, Path] = field(default_factory=dict)
    imagenet_names: str = "auto"

    def test_folder(self, argument: str) -> ClassSet:
        """Read ``FOLDER`` or ``NAME=FOLDER`` with one sub-folder per class.

        Raises:
            ProtoRKDError: as `read_image_folder` and `name_class_folders`.
        """
        name, folder = split_name(argument)
        return self._class_set(test=read_image_folder(folder, name=name))

    def splits_folder(self, argument: str) -> ClassSet:
        """Read ``FOLDER`` or ``NAME=FOLDER`` with train/ and test/ (or val/).

        Raises:
            ProtoRKDError: as `read_splits` and `name_class_folders`.
        """
        name, folder = split_name(argument)
        train, test = read_splits(folder, name=name)
        return self._class_set(train=train, test=test)

    def named_set(self, found_set: FoundSet) -> ClassSet:
        """Identify the images of a set that was found by name, and unpack packed ones first.

        Raises:
            ProtoRKDError: as `unpack`.
        """
        return ClassSet(
            name=found_set.name,
            class_names=found_set.class_names,
            mean_per_class=found_set.mean_per_class,
            train=self._split(found_set.train),
            test=self._split(found_set.test),
            names_origin=found_set.names_origin,
        )

    def _class_set(self, *, test: ImageFolder, train: ImageFolder | None = None) -> ClassSet:
        file = self.names_files.get(test.name, self.names_files.get(""))
        named = name_class_folders(test.classes, test.root, file=file, imagenet_names=self.imagenet_names)
        return ClassSet(
            name=test.name,
            class_names=tuple(named.by_folder[folder] for folder in test.classes),
            names_origin=named.origin,
            train=self._split(train),
            test=self._split(test),
        )

    def _split(self, split: ImageFolder | PackedImages | None) -> LabelledSet | None:
        if split is None:
            return None
        folder = unpack(split, self.cache, file_digests=self.file_digests)
        images = find_packed(self.packs, Path(folder.root), folder.images) or identify_images(
            Path(folder.root), folder.images, identity=self.image_identity, file_digests=self.file_digests
        )
        return LabelledSet(folder=folder, images=images)


def find_named_sets(
    root: Path,
    *,
    names: tuple[str, ...],
    tasks: tuple[str, ...],
    imagenet_names: str,
    names_files: Mapping[str, Path],
) -> tuple[list[FoundSet], list[Absent]]:
    """Find the known sets, and other folders of class folders, below a folder.

    Args:
        root: Data folder to search.
        names: Names of the sets; none means all that are there.
        tasks: Tasks that are to be done; training images are listed only for those that need them.
        imagenet_names: Source of ImageNet's class names.
        names_files: File that names the class folders of a set, by the set's name.

    Raises:
        ProtoRKDError: as `find_sets`.
    """
    splits = ("train", "test") if NEED_TRAIN & set(tasks) else ("test",)
    return find_sets(root, names=names, splits=splits, imagenet_names=imagenet_names, names_files=names_files)


def possible_tasks(class_set: ClassSet, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Choose the tasks that the splits of a set with test images allow."""
    return tuple(task for task in wanted if class_set.train is not None or task not in NEED_TRAIN)


def merge_class_sets(requests: list[tuple[ClassSet, tuple[str, ...]]]) -> list[tuple[ClassSet, tuple[str, ...]]]:
    """Merge the requests of several options for one set, so that its images are read once for all tasks.

    Args:
        requests: Sets, each with the tasks that an option requests for it.

    Returns:
        One element per name, with its tasks in the order of `CLASS_TASKS`.

    Raises:
        ProtoRKDError: two sets of one name differ in their test images, or two options ask for the same task.
    """
    merged: dict[str, tuple[ClassSet, tuple[str, ...]]] = {}
    for class_set, tasks in requests:
        known, known_tasks = merged.get(class_set.name, (class_set, ()))
        both = set(known_tasks) & set(tasks) - {"clustering"}
        if both or _test_digest(known) != _test_digest(class_set):
            raise ProtoRKDError(f"Every set must have its own name; got {class_set.name} twice. Write NAME=PATH.")
        train = known.train or class_set.train
        ordered = tuple(task for task in CLASS_TASKS if task in {*known_tasks, *tasks})
        merged[class_set.name] = (replace(known, train=train), ordered)
    return list(merged.values())


def _test_digest(class_set: ClassSet) -> str:
    return labelled_digest(class_set.test) if class_set.test else ""
