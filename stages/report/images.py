"""Find the images that the page shows, and make thumbnails of them; a page is made without those that are gone."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.log import log
from pipeline.stage import Context, Input
from pipeline.store.store import Artifact
from stages.components.images.opening import has_objects, may_lie_in_containers, open_images
from stages.components.inputs.manifest_options import find_image_root
from stages.components.inputs.path_checks import check_inside, is_own

if TYPE_CHECKING:
    from stages.report.corpus import ImageCorpus

_LOOKED_AT = 8  # images by which the folder of all is told


@dataclass(frozen=True)
class ImageFolder:
    """The folder that relative image paths start from.

    Args:
        path: Folder; None where the images are gone.
        allow_outside: Whether paths may lead out of it.
        absolute: Whether absolute paths may name any place, as `check_inside` says.
    """

    path: Path | None
    allow_outside: bool
    absolute: bool


def find_folder(image_root: Path | None, embeddings: Artifact, *, allow_outside: bool) -> Input[ImageFolder]:
    """Find the folder of the pairs' images.

    The page depends on whether they are there, so that is hashed; their bytes are compared with the features' list.

    Raises:
        ProtoRKDError: the pair index is damaged, or ``--image-root`` names no place with these images.
    """
    from data_schemas.pair_index import PAIRS_NAME, read_pairs

    embeddings.require_whole((PAIRS_NAME,), read=True)
    paths = read_pairs(embeddings.path)["image"].slice(0, _LOOKED_AT).to_pylist()
    manifest = Path(embeddings.record.inputs["manifest"].location)
    try:
        folder = image_root or find_image_root(manifest, paths)
        is_there = _is_there(folder, paths)
    except ProtoRKDError:  # no image of COCO's captions is found near them
        folder, is_there = manifest.parent, False
    if image_root is not None and not is_there:
        raise ProtoRKDError(
            f"--image-root must be the folder that the pairs' image paths start from; {image_root} has no "
            f"{paths[0] if paths else 'image'}. Name another, or leave it out: the report does without images."
        )
    return Input(
        digest=hash_json(["shown" if is_there else "gone"]),
        location=str(folder),
        value=ImageFolder(folder if is_there else None, allow_outside, absolute=is_own(manifest)),
    )


def make_thumbnails(
    pairs: Iterable[int], corpus: "ImageCorpus", folder: ImageFolder, *, context: Context
) -> dict[int, str]:
    """Make a thumbnail of the image of each of some pairs, as a data URI.

    Args:
        pairs: Numbers of pairs.
        corpus: Images of the pairs, with the digests that their features were computed from.
        folder: Folder that paths start from.
        context: Holds the remembered digests.

    Returns:
        The thumbnails by pair; an image that is gone, or no longer the one that the features are of, has a grey square.
    """
    from stages.components.report.thumbnails import stand_in, thumbnail_or_stand_in

    numbers = sorted(set(pairs))
    if folder.path is None or not numbers:
        return dict.fromkeys(numbers, stand_in())
    paths = [corpus.images.paths[number] for number in numbers]
    try:
        if not folder.allow_outside:
            check_inside(paths, folder.path, absolute=folder.absolute)
        images = open_images(folder.path, paths, context.file_digests)
        seen = images.digests(range(len(paths)), context.file_digests)
        wanted = [corpus.digests.get(int(corpus.images.rows[number])) for number in numbers]
        is_same = [digest is None or digest == found for digest, found in zip(wanted, seen, strict=True)]
        return {
            number: thumbnail_or_stand_in(images, place) if is_same[place] else stand_in()
            for place, number in enumerate(numbers)
        }
    except ProtoRKDError as error:
        log.info("report: images are not shown: %s", error)
        return dict.fromkeys(numbers, stand_in())


def _is_there(folder: Path, paths: list[str]) -> bool:
    if not paths or has_objects(folder, paths):
        return bool(paths)
    if may_lie_in_containers(paths):
        return folder.is_dir()
    return any((folder / path).is_file() for path in paths)
