"""How a manifest is written: the options that encoding and evaluation share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.quoting import QUOTINGS
from pipeline.options import option

if TYPE_CHECKING:
    from data_schemas.manifest import Manifest

SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";"}


@dataclass(frozen=True)
class ManifestFormat:
    """Columns and punctuation of a manifest."""

    image_key: str = option("filepath", help="Column of image paths.")
    caption_key: str = option("title", help="Column of captions.")
    separator: str = option("tab", help="Between columns.", choices=tuple(SEPARATORS))
    quoting: str = option(
        "auto", help="Whether fields are quoted as csv does it; auto looks at the whole file.", choices=QUOTINGS
    )

    def read(self, path: Path, *, label_column: str = "", limit: int = 0, max_bad_fraction: float) -> "Manifest":
        """Read a manifest that is written so.

        Args:
            path: the file.
            label_column: column of labels; "" reads none.
            limit: take the first so many pairs; 0 takes all.
            max_bad_fraction: rejected rows beyond this share of the file are an error.

        Raises:
            ProtoRKDError: as `read_manifest`.
        """
        from data_schemas.manifest import read_manifest  # keeps pyarrow out of --help

        return read_manifest(
            path,
            image_key=self.image_key,
            caption_key=self.caption_key,
            label_column=label_column,
            separator=SEPARATORS[self.separator],
            quoting=self.quoting,
            limit=limit,
            max_bad_fraction=max_bad_fraction,
        )
