"""Options of a manifest of image-caption pairs in any format: how it is written, found and identified."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.text.quoting import QUOTINGS
from pipeline.fingerprint import hash_json
from pipeline.log import log
from pipeline.options.declaration import option
from pipeline.remote.object_store import url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.images.opening import may_lie_in_containers
from stages.components.inputs.remote_manifest import local_copy

if TYPE_CHECKING:
    from data_schemas.manifest import Manifest
    from data_schemas.pair_sources.columns import Columns
    from data_schemas.pair_sources.kinds import PairSource

SEPARATORS = {"auto": "auto", "tab": "\t", "comma": ",", "semicolon": ";"}
_PLAIN = ("table", "json-lines", "coco")  # single files whose name does not change their pairs


@dataclass(frozen=True)
class ManifestFormat:
    """Columns and punctuation of a manifest."""

    image_key: str = option(
        "filepath", help="Column or key of images. Where it is left out and absent: image, image_path or file_name."
    )
    caption_key: str = option(
        "title", help="Column or key of captions. Where it is left out and absent: caption, text, TEXT or sentence."
    )
    separator: str = option(
        "auto", help="Separator of the columns of a table; auto looks at its header.", choices=tuple(SEPARATORS)
    )
    quoting: str = option(
        "auto", help="Whether fields are quoted as csv does it; auto looks at the whole file.", choices=QUOTINGS
    )

    def read(
        self,
        source: "PairSource",
        *,
        label_column: str = "",
        limit: int = 0,
        max_bad_fraction: float,
        file_digests: FileDigests,
    ) -> "Manifest":
        """Read pairs in this format.

        Args:
            source: Source of the pairs.
            label_column: Column of labels; "" reads none.
            limit: Number of pairs to take, from the first on; 0 takes all.
            max_bad_fraction: Share of rejected records above which there is an error.
            file_digests: Remembered members of tars.

        Raises:
            ProtoRKDError: as `PairSource.read`.
        """
        manifest = source.read(
            self.columns(label_column),
            separator=SEPARATORS[self.separator],
            quoting=self.quoting,
            limit=limit,
            max_bad_fraction=max_bad_fraction,
            list_members=file_digests.members,
        )
        for note in manifest.notes:
            log.info("%s: %s", source.path, note)
        return manifest

    def columns(self, label_column: str = "") -> "Columns":
        """Return the names of the columns."""
        from data_schemas.pair_sources.columns import Columns

        return Columns(self.image_key, self.caption_key, label_column)

    def identify(self, source: "PairSource", *, file_digests: FileDigests) -> "Input[PairSource]":
        """Hash the files that pairs are read from.

        Names of shards, a separator that follows from the header and quotes that a whole column tells decide what is
        read, and are hashed, too.

        Raises:
            ProtoRKDError: one of them is absent.
        """
        digests = file_digests.digests(source.files)
        for file, digest in zip(source.files, digests, strict=True):
            if digest is None:
                raise ProtoRKDError(
                    f"{file} must be a readable file; it is missing, closed to you, or no regular file."
                )
        if source.kind in _PLAIN and len(digests) == 1:
            decided = self._decided(source)
            whole = hash_json([*decided, digests[0]]) if decided else str(digests[0])
        else:
            names = [source.name_of(file) for file in source.files]
            whole = hash_json([source.kind, source.encoding, names, digests])
        return Input(digest=whole, location=str(source.path.resolve()), value=source)

    def _decided(self, source: "PairSource") -> list[str]:
        """Return what is found out about a table: its separator, unless it is a tab; and quotes told by a column."""
        if source.kind != "table":
            return []
        from data_schemas.pair_sources.text.manifest_table import is_told_by_a_column, separator_of

        [file], columns, decided = source.files, self.columns(), []
        if self.separator == "auto" and (found := separator_of(file, columns, quoting=self.quoting)) != "\t":
            decided.append(found)
        if self.quoting == "auto" and is_told_by_a_column(file, columns, separator=SEPARATORS[self.separator]):
            decided.append("a column in quotes")
        return decided


def find_pairs(manifest: Path) -> "PairSource":
    """Find the pairs that ``--manifest`` names.

    Raises:
        ProtoRKDError: nothing is there, or its format is unknown.
    """
    from data_schemas.pair_sources.kinds import find_source  # keeps pyarrow out of --help
    from data_schemas.pair_sources.patterns import is_pattern

    manifest = local_copy(manifest)
    if not manifest.exists() and not is_pattern(manifest):
        raise ProtoRKDError(f"--manifest must name a file; got {manifest}.")
    return find_source(manifest)


def find_image_root(manifest: Path, images: Sequence[str]) -> Path:
    """Find the folder that the image paths of a manifest start from, even if the manifest itself is gone.

    Raises:
        ProtoRKDError: it is a file of COCO's captions, and none of its images is found near it.
    """
    from data_schemas.pair_sources.kinds import find_image_root  # keeps pyarrow out of --help

    if url_of(manifest) is None:
        return find_image_root(manifest, images)
    return local_copy(manifest).parent if may_lie_in_containers(images) else manifest.parent
