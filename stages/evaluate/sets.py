"""The sets that a student is measured on: read, checked and identified by content, before torch is imported."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from pipeline.fingerprint import hash_json
from pipeline.memo import FileDigests
from pipeline.stage import Input
from stages.evaluate.caption_sets import read_caption_set, split_argument
from stages.evaluate.image_folder import ImageFolder, read_image_folder, read_splits, split_name
from stages.image_set import identify_images
from stages.manifest_format import ManifestFormat


@dataclass(frozen=True)
class RetrievalSet:
    """Pictures and the captions that describe them; a picture may have several.

    Args:
        name: what reports call it.
        images: distinct pictures, identified.
        captions: one an element, in the order of the file.
        caption_image: number of the picture that each caption describes.
        rejections: rows or entries of the file that were left out.
    """

    name: str
    images: Input
    captions: tuple[str, ...]
    caption_image: tuple[int, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True)
class LabelledSet:
    """Pictures with classes.

    Args:
        folder: pictures and labels.
        images: the same pictures, identified.
    """

    folder: ImageFolder
    images: Input


@dataclass(frozen=True)
class ClassSet:
    """Pictures with classes, for every task that its splits allow.

    Args:
        name: what reports call it.
        class_names: as people say them, in label order.
        mean_per_class: whether its figures are by convention the mean of the accuracies of its classes.
        train: for probes and nearest neighbours, or None.
        test: what is measured, or None.
    """

    name: str
    class_names: tuple[str, ...]
    mean_per_class: bool = False
    train: LabelledSet | None = None
    test: LabelledSet | None = None


@dataclass(frozen=True)
class Splits:
    """Training and test pictures with the same classes."""

    train: LabelledSet
    test: LabelledSet


def read_retrieval_set(
    argument: str, *, form: ManifestFormat, file_digests: FileDigests, image_root: Path | None = None
) -> RetrievalSet:
    """Read ``PATH``, ``NAME=PATH``, ``PATH#SPLIT`` or ``NAME=PATH#SPLIT``, in any format of `read_caption_set`.

    Without a name the set is called as the file without its suffix, with ``_SPLIT`` where the format has splits.

    Args:
        argument: what the user gives.
        form: how a manifest is written.
        file_digests: of pictures, as far as they are known.
        image_root: folder of the pictures; by default they are looked for near the file.

    Raises:
        ProtoRKDError: as `read_caption_set`.
    """
    name, path, split = split_argument(argument)
    pairs = read_caption_set(path, split=split, image_root=image_root, form=form)
    encoded = pa.array(pairs.images, pa.large_string()).dictionary_encode()
    images = identify_images(pairs.root, encoded.dictionary.to_pylist(), identity="content", file_digests=file_digests)
    return RetrievalSet(
        name=name or pairs.name,
        images=images,
        captions=pairs.captions,
        caption_image=tuple(encoded.indices.to_pylist()),
        rejections=pairs.rejections,
    )


def read_labelled_set(argument: str, *, file_digests: FileDigests) -> LabelledSet:
    """Read ``FOLDER`` or ``NAME=FOLDER`` with one sub-folder a class.

    Raises:
        ProtoRKDError: as `read_image_folder`.
    """
    name, folder = split_name(argument)
    return _identified(read_image_folder(folder, name=name), file_digests)


def read_labelled_splits(argument: str, *, file_digests: FileDigests) -> Splits:
    """Read ``FOLDER`` or ``NAME=FOLDER`` with train/ and test/ (or val/).

    Raises:
        ProtoRKDError: as `read_splits`.
    """
    name, folder = split_name(argument)
    train, test = read_splits(folder, name=name)
    return Splits(train=_identified(train, file_digests), test=_identified(test, file_digests))


def identify_retrieval(found: RetrievalSet) -> Input:
    """Hash pictures, captions and which goes with which."""
    captions = hash_json([list(found.captions), list(found.caption_image)])
    return Input(digest=hash_json([found.images.digest, captions]), location=found.images.location, value=found)


def identify_labelled(found: LabelledSet) -> Input:
    """Hash pictures, labels and class names."""
    labels = hash_json([list(found.folder.classes), list(found.folder.labels)])
    return Input(digest=hash_json([found.images.digest, labels]), location=str(found.folder.root), value=found)


def identify_splits(found: Splits) -> Input:
    """Hash both splits."""
    parts = {"train": identify_labelled(found.train).digest, "test": identify_labelled(found.test).digest}
    return Input(digest=hash_json(parts), location=str(found.test.folder.root), parts=parts, value=found)


def distinct_captions(captions: tuple[str, ...]) -> tuple[pa.Array, pa.Array]:
    """Distinct captions in order of first appearance, and for each caption its place among them."""
    encoded = pa.array(captions, pa.large_string()).dictionary_encode()
    return encoded.dictionary, encoded.indices


def check_names(names: list[str]) -> None:
    """Refuse two sets of one task with one name.

    Raises:
        ProtoRKDError: a name comes twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise ProtoRKDError(f"Every set of a task must have its own name; got {name} twice. Write NAME=PATH.")


def _identified(folder: ImageFolder, file_digests: FileDigests) -> LabelledSet:
    images = identify_images(Path(folder.root), folder.images, identity="content", file_digests=file_digests)
    return LabelledSet(folder=folder, images=images)
