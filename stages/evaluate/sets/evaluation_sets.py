"""The sets that a student is measured on: read, checked and identified by content, before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from pipeline.fingerprint import hash_json
from pipeline.remote.object_store import url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import identify_images
from stages.components.images.packed_image_set import Pack, find_packed
from stages.components.inputs.manifest_options import ManifestFormat, find_image_root
from stages.components.inputs.path_checks import check_inside, is_own
from stages.components.inputs.remote_manifest import local_copy
from stages.evaluate.sets.caption_sets import read_caption_set, split_argument
from stages.evaluate.sets.image_folder import ImageFolder
from stages.evaluate.sets.scored_pairs import ScoredPairs, read_scored_pairs


@dataclass(frozen=True)
class RetrievalSet:
    """Images and the captions that describe them; an image may have several.

    Args:
        name: Name in reports.
        images: Distinct images, identified.
        captions: Captions, in the order of the file.
        caption_image: For each caption, the index of the image that it describes.
        rejections: Rows or entries of the file that were left out.
    """

    name: str
    images: Input[ImageSet]
    captions: tuple[str, ...]
    caption_image: tuple[int, ...]
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True)
class LabelledSet:
    """Images with classes.

    Args:
        folder: Paths and labels of the images.
        images: The same images, identified.
    """

    folder: ImageFolder
    images: Input[ImageSet]


@dataclass(frozen=True)
class ClassSet:
    """Images with classes, for every task that its splits allow.

    Args:
        name: Name in reports.
        class_names: Names of the classes as people say them, in label order.
        mean_per_class: Whether accuracy on this set is by convention the mean over its classes.
        train: Training images for probes and nearest neighbours, or None.
        test: Images to measure on, or None.
        names_origin: Words that say where the names of the classes come from, or "".
    """

    name: str
    class_names: tuple[str, ...]
    mean_per_class: bool = False
    train: LabelledSet | None = None
    test: LabelledSet | None = None
    names_origin: str = ""


@dataclass(frozen=True)
class STSSet:
    """Pairs of captions with similarity scores by people, to measure the teacher itself on.

    Args:
        name: Name in reports.
        pairs: Captions and scores.
    """

    name: str
    pairs: ScoredPairs


@dataclass(frozen=True)
class UnreadSet:
    """A set that could not be read, for the report; the other sets are still measured.

    Args:
        name: Argument or name by which it was requested.
        reason: Sentence that says why it could not be read and what to do.
    """

    name: str
    reason: str

    def identified(self) -> "Input[UnreadSet]":
        """Hash why it could not be read."""
        digest = hash_json(["not read", self.reason])
        return Input(digest=_requested_digest(digest), location=self.name, value=self)


AnySet = RetrievalSet | ClassSet | STSSet


@dataclass(frozen=True)
class RequestedSet:
    """A set to measure on, and the tasks that are requested for it.

    Args:
        evaluation_set: The set, as it was read.
        tasks: Names of the requested tasks, in the order of reports.
        templates: Prompt templates for zero-shot classification.
    """

    evaluation_set: AnySet
    tasks: tuple[str, ...]
    templates: tuple[str, ...] = field(default=(), kw_only=True)

    def images(self) -> tuple[Input[ImageSet], ...]:
        """Return the images of the set, one element per split."""
        match self.evaluation_set:
            case RetrievalSet(images=images):
                return (images,)
            case ClassSet(train=train, test=test):
                return tuple(split.images for split in (train, test) if split is not None)
            case STSSet():
                return ()

    def identified(self) -> "Input[RequestedSet]":
        """Hash all that the tasks depend on."""
        match self.evaluation_set:
            case RetrievalSet() as retrieval_set:
                digest, location = retrieval_digest(retrieval_set), retrieval_set.images.location
                parts = {}
            case ClassSet() as class_set:
                splits = {"train": class_set.train, "test": class_set.test}
                parts = {name: labelled_digest(split) for name, split in splits.items() if split is not None}
                digest, location = hash_json([parts, list(class_set.class_names)]), _place(class_set)
            case STSSet() as sts_set:
                digest, location, parts = sts_digest(sts_set), sts_set.name, {}
        whole = _requested_digest(digest, tasks=self.tasks, templates=self.templates)
        return Input(digest=whole, location=location, parts=parts, value=self)


def read_retrieval_set(
    argument: str,
    *,
    form: ManifestFormat,
    file_digests: FileDigests,
    image_root: Path | None = None,
    image_identity: str = "content",
    allow_outside: bool = False,
    packs: Sequence[Pack] = (),
) -> RetrievalSet:
    """Read ``PATH``, ``NAME=PATH``, ``PATH#SPLIT`` or ``NAME=PATH#SPLIT``, in any format of `read_caption_set`.

    Without a name the set is named after the file without its suffix, with ``_SPLIT`` where the format has splits.

    Args:
        argument: Path with or without name and split, as the user writes it.
        form: How a manifest is written.
        file_digests: Remembered digests of files.
        image_root: Folder of the images; by default they are looked for near the file.
        image_identity: How images are identified, as `identify_images` takes it.
        allow_outside: Let paths lead out of the folder of the images.
        packs: Packs to read images from; the first that has all of them is used.

    Raises:
        ProtoRKDError: as `read_caption_set`; or a path leads out of its folder.
    """
    name, path, split = split_argument(argument)
    place, path = path, local_copy(path)
    pairs = read_caption_set(path, split=split, image_root=image_root, form=form, file_digests=file_digests)
    encoded = pa.array(pairs.images, pa.large_string()).dictionary_encode()
    paths = encoded.dictionary.to_pylist()
    root = find_image_root(place, paths) if url_of(place) and image_root is None else pairs.root
    if not allow_outside:
        check_inside(paths, root, absolute=is_own(place))
    images = find_packed(packs, root, paths) or identify_images(
        root, paths, identity=image_identity, file_digests=file_digests
    )
    return RetrievalSet(
        name=name or pairs.name,
        images=images,
        captions=pairs.captions,
        caption_image=tuple(encoded.indices.to_pylist()),
        rejections=pairs.rejections,
    )


def read_sts_set(argument: str) -> STSSet:
    """Read ``FILE`` or ``NAME=FILE`` of scored pairs of captions; without a name the set is named after the file.

    Raises:
        ProtoRKDError: as `read_scored_pairs`.
    """
    name, path, _ = split_argument(argument)
    return STSSet(name=name or path.stem, pairs=read_scored_pairs(path))


def retrieval_digest(retrieval_set: RetrievalSet) -> str:
    """Hash images, captions and which image each caption describes."""
    captions = hash_json([list(retrieval_set.captions), list(retrieval_set.caption_image)])
    return hash_json([retrieval_set.images.digest, captions])


def labelled_digest(labelled_set: LabelledSet) -> str:
    """Hash images, labels and class names."""
    labels = hash_json([list(labelled_set.folder.classes), list(labelled_set.folder.labels)])
    return hash_json([labelled_set.images.digest, labels])


def sts_digest(sts_set: STSSet) -> str:
    """Hash captions and scores."""
    pairs = sts_set.pairs
    return hash_json([list(pairs.first), list(pairs.second), list(pairs.scores)])


def check_names(names: list[str]) -> None:
    """Refuse two sets with one name.

    Raises:
        ProtoRKDError: a name comes twice.
    """
    for name in names:
        if names.count(name) > 1:
            raise ProtoRKDError(f"Every set must have its own name; got {name} twice. Write NAME=PATH.")


def _requested_digest(digest: str, *, tasks: Sequence[str] = (), templates: Sequence[str] = ()) -> str:
    """Hash a set with what is requested for it."""
    return hash_json([digest, list(tasks), list(templates)])


def _place(class_set: ClassSet) -> str:
    split = class_set.test or class_set.train
    return str(split.folder.root) if split else ""
