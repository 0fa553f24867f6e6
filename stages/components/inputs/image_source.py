"""Options of a source of images without captions: a manifest, a folder, or a pack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.stage import Context, Input
from pipeline.store.file_digests import FileDigests
from stages.components.images.image_set import IDENTITIES, ImageSet
from stages.components.images.listing import list_images, tell_of_others
from stages.components.images.opening import identify_images
from stages.components.inputs.manifest_options import ManifestFormat, find_image_root, find_pairs
from stages.components.inputs.path_checks import check_inside, is_own


@dataclass(frozen=True)
class ImageSource:
    """A source of images, and what identifies an image."""

    manifest: Path | None = option(
        None,
        help="Image-caption pairs, in any form that encode-teacher takes, whose images are taken.",
        metavar="PATH",
    )
    images: Path | None = option(None, help="Folder whose images are taken, however deep they lie.", metavar="FOLDER")
    image_root: Path | None = option(
        None, help="Folder that the manifest's relative image paths start from. Default: the manifest's."
    )
    allow_outside: bool = option(False, help="Let image paths lead out of their folder: the manifest is trusted.")
    image_identity: str = option(
        "content",
        help="What makes an image the same: its bytes (read once, remembered), or its path alone.",
        choices=IDENTITIES,
    )

    def find(self, manifest_format: ManifestFormat, file_digests: FileDigests) -> tuple[Path, list[str]]:
        """List the images, each path once: return the folder that the paths start from, and the paths.

        Args:
            manifest_format: Format of the manifest.
            file_digests: Remembered members of tars.

        Raises:
            ProtoRKDError: there are none, none or both of the two are given, or a path leads out of the folder.
        """
        if (self.manifest is None) == (self.images is None):
            got = "neither" if self.manifest is None else "both"
            raise ProtoRKDError(
                f"One of --manifest and --images must be given; got {got}. Pass a manifest or a folder."
            )
        if self.manifest is not None:
            return self._of_manifest(self.manifest, manifest_format, file_digests)
        assert self.images is not None
        return self._of_folder(self.images)

    def list_paths(self, manifest_format: ManifestFormat, file_digests: FileDigests) -> tuple[Path, list[str]]:
        """List the paths of a manifest, each once, whose images need not be there; and the manifest's folder.

        Args:
            manifest_format: Format of the manifest.
            file_digests: Remembered members of tars.

        Raises:
            ProtoRKDError: there is no manifest, or it names no images.
        """
        if self.manifest is None or self.images is not None:
            raise ProtoRKDError("--vectors must go with --manifest, whose image paths are their keys. Pass it alone.")
        root = self.image_root or self.manifest.parent
        return root, _paths_in(self.manifest, manifest_format, file_digests)

    def _of_manifest(
        self, manifest: Path, manifest_format: ManifestFormat, file_digests: FileDigests
    ) -> tuple[Path, list[str]]:
        paths = _paths_in(manifest, manifest_format, file_digests)
        root = self.image_root or find_image_root(manifest, paths)
        if not self.allow_outside:
            check_inside(paths, root, absolute=is_own(manifest))
        return root, paths

    def _of_folder(self, folder: Path) -> tuple[Path, list[str]]:
        if not folder.is_dir():
            raise ProtoRKDError(f"--images must name a folder; got {folder}.")
        if self.image_root is not None:
            raise ProtoRKDError(f"--image-root must go with --manifest; got {self.image_root}. Leave it out.")
        found = list_images(folder, root=folder)
        tell_of_others(folder, found.others)
        if not found.images:
            raise ProtoRKDError(f"--images must hold images; got none below {folder}. Check the path.")
        return folder, found.images


def _paths_in(manifest: Path, manifest_format: ManifestFormat, file_digests: FileDigests) -> list[str]:
    # Broken records are no error here; encode-teacher judges them.
    pairs = manifest_format.read(find_pairs(manifest), max_bad_fraction=1.0, file_digests=file_digests)
    paths: list[str] = pairs.table["image"].unique().to_pylist()
    return paths


@dataclass(frozen=True)
class Images:
    """Images of a source.

    Args:
        images: The images, each path once.
        by_content: Whether images are the same if the digests of their files are.
    """

    images: ImageSet
    by_content: bool

    def digests(self, file_digests: FileDigests) -> Sequence[str | None]:
        """Return the digest of each image's file; None where it does not tell which images are the same."""
        numbers = range(len(self.images.paths))
        return self.images.digests(numbers, file_digests) if self.by_content else [None] * len(numbers)


@dataclass(frozen=True)
class PackableImageSource(ImageSource):
    """A source of images that may lie in a pack."""

    packed: str | None = option(
        None,
        help="Artifact of pack, by fingerprint or path, whose images are taken; with --manifest or --images, those "
        "of them that it has all of.",
        metavar="REF",
        artifact="pack",
    )

    def identify(self, manifest_format: ManifestFormat, context: Context) -> tuple[Input[Images], Input[None]]:
        """Find and hash the images, and their paths below the root that they start from.

        Raises:
            ProtoRKDError: as `find`, or the pack is none or damaged.
        """
        from stages.components.images.packed_image_set import (  # keeps numpy and pyarrow out of --help
            Pack,
            find_packed,
            take_all,
        )

        pack = None
        if self.packed is not None:
            pack = Pack.open(context.store.resolve(self.packed, stage="pack", flag="--packed"))
        if pack is not None and self.manifest is None and self.images is None:
            root, found = Path(pack.artifact.record.inputs["paths"].location), take_all(pack)
            by_content = False
        else:
            root, paths = self.find(manifest_format, context.file_digests)
            packed = find_packed([pack], root, paths) if pack is not None else None
            found = packed or identify_images(
                root, paths, identity=self.image_identity, file_digests=context.file_digests
            )
            by_content = packed is None and self.image_identity == "content"
        images = Images(found.value, by_content=by_content)
        return (
            Input(digest=found.digest, location=found.location, parts=found.parts, value=images),
            Input(digest=hash_json(list(found.value.paths)), location=str(root.resolve()), value=None),
        )
