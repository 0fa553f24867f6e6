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
from stages.components.inputs.path_checks import check_inside
from stages.components.inputs.remote_manifest import local_copy
from stages.evaluate.sets.caption_sets import read_caption_set, split_argument
from stages.evaluate.sets.image_folder import ImageFolder
from stages.evaluate.sets.scored_pairs import ScoredPairs, read_scored_pairs


@dataclass(frozen=True)
class RetrievalSet:
    """Images and the captions that describe them; an image may have several.

    Args:
        name: what reports call it.
        images: distinct images, identified.
        captions: one an element, in the order of the file.
        caption_image: number of the image that each caption describes.
        rejections: rows or entries of the file that were left out.
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
        folder: images and labels.
        images: the same images, identified.
    """

    folder: ImageFolder
    images: Input[ImageSet]


@dataclass(frozen=True)
class ClassSet:
    """Images with classes, for every task that its splits allow.

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
class STSSet:
    """Pairs of captions whose likeness people have scored: what the teacher itself is measured on.

    Args:
        name: what reports call it.
        pairs: captions and scores.
    """

    name: str
    pairs: ScoredPairs


@dataclass(frozen=True)
class UnreadSet:
    """A set that could not be read, for the report; the other sets are measured all the same.

    Args:
        name: as it was given.
        reason: a sentence, with what to do.
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
    """A set and what is asked of it.

    Args:
        found: the set.
        tasks: names of the tasks that it is to serve, in the order of reports.
        templates: of prompts, for zero-shot classification.
    """

    found: AnySet
    tasks: tuple[str, ...]
    templates: tuple[str, ...] = field(default=(), kw_only=True)

    def images(self) -> tuple[Input[ImageSet], ...]:
        """The images of the set, each split by itself."""
        match self.found:
            case RetrievalSet():
                return (self.found.images,)
            case ClassSet():
                return tuple(split.images for split in (self.found.train, self.found.test) if split is not None)
            case STSSet():
                return ()

    def identified(self) -> "Input[RequestedSet]":
        """Hash all that the tasks look at."""
        match self.found:
            case RetrievalSet():
                digest, location = retrieval_digest(self.found), self.found.images.location
                parts = {}
            case ClassSet():
                splits = {"train": self.found.train, "test": self.found.test}
                parts = {name: labelled_digest(split) for name, split in splits.items() if split is not None}
                digest, location = hash_json([parts, list(self.found.class_names)]), _place(self.found)
            case STSSet():
                digest, location, parts = sts_digest(self.found), self.found.name, {}
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

    Without a name the set is called as the file without its suffix, with ``_SPLIT`` where the format has splits.

    Args:
        argument: what the user gives.
        form: how a manifest is written.
        file_digests: of images, as far as they are known.
        image_root: folder of the images; by default they are looked for near the file.
        image_identity: as `identify_images` takes it.
        allow_outside: let paths lead out of the folder of the images.
        packs: that the images are read from where one has all of them.

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
        check_inside(paths, root)
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
    """Read ``FILE`` or ``NAME=FILE`` of scored pairs of captions; without a name the set is called as the file.

    Raises:
        ProtoRKDError: as `read_scored_pairs`.
    """
    name, path, _ = split_argument(argument)
    return STSSet(name=name or path.stem, pairs=read_scored_pairs(path))


def retrieval_digest(found: RetrievalSet) -> str:
    """Hash images, captions and which goes with which."""
    captions = hash_json([list(found.captions), list(found.caption_image)])
    return hash_json([found.images.digest, captions])


def labelled_digest(found: LabelledSet) -> str:
    """Hash images, labels and class names."""
    labels = hash_json([list(found.folder.classes), list(found.folder.labels)])
    return hash_json([found.images.digest, labels])


def sts_digest(found: STSSet) -> str:
    """Hash captions and scores."""
    pairs = found.pairs
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
    """Hash a set with what is asked of it."""
    return hash_json([digest, list(tasks), list(templates)])


def _place(found: ClassSet) -> str:
    split = found.test or found.train
    return str(split.folder.root) if split else ""
